//! Commands on hosts: on this machine, and through the real `ssh` to a real `sshd` on a loopback port with keys of its own.

#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use handover::model::{Host, TransportKind};
use handover::transport::{Command, Output, Transport, TransportError};
use tokio::time::Instant;

#[path = "common/ports.rs"]
mod ports;
#[path = "common/sshd.rs"]
mod sshd;

use ports::free_port;
use sshd::Sshd;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn argv<const N: usize>(words: [&str; N]) -> Command {
    Command::Argv(words.map(str::to_owned).to_vec())
}

fn script(text: &'static str, args: &[&str]) -> Command {
    Command::Script { text, args: args.iter().map(|arg| (*arg).to_owned()).collect() }
}

fn local() -> Host {
    Host { name: "here".into(), transport: TransportKind::Local, commands: BTreeMap::new() }
}

fn gone(pid: &str) -> bool {
    // A zombie has ended too.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).map_or(true, |stat| stat.contains(") Z "))
}

/// Waits until a process is gone; false if it is not after two seconds.
async fn ends(pid: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !gone(pid) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gone(pid)
}

/// What holds wherever a command runs.
async fn behaves(transport: &Transport, host: &Host) {
    let run = |command: Command, input: Option<&'static [u8]>| async move {
        transport.run(host, &command, input, soon()).await
    };
    let left = |status, stdout: &str, stderr: &str| {
        Ok(Output { status, stdout: stdout.to_owned(), stderr: stderr.to_owned() })
    };

    let hostile = [
        "",
        "a b",
        "'",
        "\"",
        "$(id)",
        "`id`",
        "$HOME",
        "-rf",
        "--",
        "\\",
        "a\nb\n",
        ";",
        "*",
        "é",
        "-oProxyCommand=id",
        "日本 語",
        "\u{1f600}",
        "\t",
        "\r\n",
        "~root",
        "%h %%",
        "!!",
        "\u{7f}",
        "a=b",
        "{a,b}",
    ];
    let mut words = vec!["printf".to_owned(), "<%s>".to_owned()];
    words.extend(hostile.map(str::to_owned));
    let expected: String = hostile.map(|word| format!("<{word}>")).concat();
    assert_eq!(run(Command::Argv(words), None).await, left(0, &expected, ""));
    assert_eq!(run(script("printf '<%s>' \"$@\"", &hostile), None).await, left(0, &expected, ""));

    // What a kernel takes as one argument (execve(2): 128 KiB) arrives; what is longer ran nothing and says so.
    let long = "é'".repeat(20_000);
    let count = run(script("printf %s \"$1\" | wc -c", &[&long]), None).await.unwrap();
    assert_eq!(count.stdout.trim(), "60000");
    let longer = run(argv(["true", &"x".repeat(300_000)]), None).await;
    let Err(TransportError::NotRun(why)) = longer else { panic!("{longer:?}") };
    assert!(why.why.contains("too long"), "{why}");

    assert_eq!(run(argv(["cat"]), Some(b"line\nno end")).await, left(0, "line\nno end", ""));
    assert_eq!(run(argv(["cat"]), None).await, left(0, "", ""), "without input there is nothing to read");
    assert_eq!(run(argv(["true"]), Some(&[b'x'; 300_000])).await, left(0, "", ""), "input need not be read");

    for status in [1, 2, 127, 255] {
        let text = status.to_string();
        let command = script("echo out; echo err >&2; exit \"$1\"", &[&text]);
        assert_eq!(run(command, None).await, left(status, "out\n", "err\n"));
    }
    assert_eq!(run(script("kill -9 $$", &[]), None).await.map(|output| output.status), Ok(137));

    // What goes on in the background does not keep a command from having ended, though it holds the outputs.
    let began = Instant::now();
    let output = run(script("sleep 30 & echo $!", &[]), None).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!gone(&output.stdout), "what was started is left alone");
    Process::new("kill").arg(output.stdout.trim()).status().unwrap();

    let much = run(script("yes | head -c 1048577", &[]), None).await;
    assert!(matches!(&much, Err(TransportError::Unknown(why)) if why.why.contains("1 MiB")), "{much:?}");
    let enough = run(script("yes | head -c 1048576 >&2", &[]), None).await.unwrap();
    assert_eq!(enough.stderr.len(), 1 << 20);

    let nul = run(argv(["echo", "a\0b"]), None).await;
    assert!(matches!(&nul, Err(TransportError::NotRun(why)) if why.why.contains("NUL")), "{nul:?}");
    let empty = run(Command::Argv(Vec::new()), None).await;
    assert!(matches!(empty, Err(TransportError::NotRun(_))), "{empty:?}");
}

/// At its deadline a command is ended together with its children.
async fn is_ended_at_its_deadline(transport: &Transport, host: &Host) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pids");
    let command = script("sleep 60 & echo $! $$ > \"$1\"; wait", &[file.to_str().unwrap()]);
    let began = Instant::now();
    let outcome = transport.run(host, &command, None, began + Duration::from_millis(900)).await;
    let took = began.elapsed();
    assert!(matches!(outcome, Err(TransportError::Unknown(_))), "{outcome:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let pids = std::fs::read_to_string(file).unwrap();
    for pid in pids.split_whitespace() {
        assert!(ends(pid).await, "process {pid} goes on after the deadline");
    }
    let late = transport.run(host, &argv(["true"]), None, Instant::now()).await;
    assert!(matches!(late, Err(TransportError::NotRun(_))), "{late:?}");
}

#[tokio::test]
async fn commands_run_on_this_machine() {
    behaves(&Transport::new(), &local()).await;
}

#[tokio::test]
async fn a_local_command_is_ended_at_its_deadline() {
    is_ended_at_its_deadline(&Transport::new(), &local()).await;
}

#[tokio::test]
async fn a_local_command_that_nobody_waits_for_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let command = script("echo $$ > \"$1\"; exec sleep 60", &[file.to_str().unwrap()]);
    let (transport, host) = (Transport::new(), local());
    let pid = tokio::select! {
        outcome = transport.run(&host, &command, None, soon()) => panic!("{outcome:?}"),
        pid = written(&file) => pid,
    };
    assert!(ends(&pid).await);
}

/// The text of a file as soon as it has one.
async fn written(file: &Path) -> String {
    loop {
        match std::fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test]
async fn a_local_program_that_does_not_exist_was_not_run() {
    let outcome = Transport::new().run(&local(), &argv(["/nowhere/program"]), None, soon()).await;
    let Err(TransportError::NotRun(why)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(why.why, "there is no such program");
}

fn why(outcome: Result<Output, TransportError>) -> String {
    match outcome {
        Err(error @ TransportError::NotRun(_)) => error.to_string(),
        other => panic!("it should not have run: {other:?}"),
    }
}

#[tokio::test]
async fn commands_run_over_ssh() {
    let sshd = Sshd::start(free_port());
    behaves(&sshd.transport("login", "known_hosts"), &sshd.host()).await;
}

#[tokio::test]
async fn a_remote_command_is_ended_at_its_deadline() {
    let sshd = Sshd::start(free_port());
    let transport = sshd.transport("login", "known_hosts");
    transport.warm_up(&sshd.host(), soon()).await.unwrap();
    is_ended_at_its_deadline(&transport, &sshd.host()).await;
}

#[tokio::test]
async fn all_commands_share_one_connection_which_is_closed_at_the_end() {
    let sshd = Sshd::start(free_port());
    let (transport, host) = (sshd.transport("login", "known_hosts"), sshd.host());
    let (one, two, three) = (argv(["true"]), argv(["true"]), argv(["true"]));
    let (one, two, three) = tokio::join!(
        transport.run(&host, &one, None, soon()),
        transport.run(&host, &two, None, soon()),
        transport.run(&host, &three, None, soon()),
    );
    for outcome in [one, two, three] {
        assert_eq!(outcome.unwrap().status, 0);
    }
    for _ in 0..5 {
        assert_eq!(transport.run(&host, &argv(["true"]), None, soon()).await.unwrap().status, 0);
    }
    assert_eq!(sshd.logins(), 1, "{}", sshd.log());
    transport.close().await;
    let reopened = transport.run(&host, &argv(["true"]), None, soon()).await;
    assert_eq!(reopened.map(|output| output.status), Ok(0));
    assert_eq!(sshd.logins(), 2);
    drop(transport);
    // sshd writes its log after the connection is gone.
    let closed = || sshd.log().matches("Disconnected from").count();
    let deadline = Instant::now() + Duration::from_secs(10);
    while closed() < 2 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(closed(), 2, "{}", sshd.log());
}

/// Prints the process that serves this connection and no other: the nearest `sshd` above the command.
const SERVER: &str = "p=$$; while [ \"$(cat /proc/$p/comm)\" != sshd ]; do
    [ \"$p\" -gt 1 ] || exit 1; p=$(sed -n 's/^PPid:[^0-9]*//p' /proc/$p/status)
done; echo \"$p\"";

fn signal(signal: &str, pid: &str) {
    assert!(Process::new("kill").args([signal, pid.trim()]).status().unwrap().success());
}

#[tokio::test]
async fn a_broken_connection_is_unknown_and_opened_again() {
    let sshd = Sshd::start(free_port());
    let (transport, host) = (sshd.transport("login", "known_hosts"), sshd.host());
    let server = transport.run(&host, &script(SERVER, &[]), None, soon()).await.unwrap().stdout;
    let begun = sshd.path("begun");
    let command = script("echo begun > \"$1\"; sleep 5", &[begun.to_str().unwrap()]);
    let cut = async {
        written(&begun).await;
        signal("-KILL", &server);
    };
    let (outcome, ()) = tokio::join!(transport.run(&host, &command, None, soon()), cut);
    let Err(TransportError::Unknown(why)) = outcome else { panic!("{outcome:?}") };
    assert!(why.why.contains("the connection broke"), "{why}");
    let again = transport.run(&host, &argv(["true"]), None, soon()).await;
    assert_eq!(again.map(|output| output.status), Ok(0));
}

#[tokio::test]
async fn a_connection_that_hangs_costs_one_command_only() {
    let sshd = Sshd::start(free_port());
    let (transport, host) = (sshd.transport("login", "known_hosts"), sshd.host());
    let server = transport.run(&host, &script(SERVER, &[]), None, soon()).await.unwrap().stdout;
    signal("-STOP", &server);
    let hung = transport.run(&host, &argv(["true"]), None, Instant::now() + Duration::from_millis(500)).await;
    let again = transport.run(&host, &argv(["true"]), None, soon()).await;
    signal("-KILL", &server);
    assert!(matches!(hung, Err(TransportError::Unknown(_))), "{hung:?}");
    assert_eq!(again.map(|output| output.status), Ok(0));
    assert_eq!(sshd.logins(), 2);
}

#[tokio::test]
async fn whoever_is_not_let_in_ran_nothing_and_reads_why() {
    let sshd = Sshd::start(free_port());
    let (host, touch) = (sshd.host(), sshd.path("touched"));
    let command = argv(["touch", touch.to_str().unwrap()]);

    let wrong_key = why(sshd.transport("stranger", "known_hosts").run(&host, &command, None, soon()).await);
    assert!(wrong_key.contains("Permission denied (publickey)") && wrong_key.contains("ssh-add -l"), "{wrong_key}");

    let unknown = why(sshd.transport("login", "nothing_known").run(&host, &command, None, soon()).await);
    assert!(unknown.contains("Host key verification failed") && unknown.contains("by hand"), "{unknown}");
    assert!(!sshd.path("nothing_known").exists(), "an unknown key is never accepted");

    let other = std::fs::read_to_string(sshd.path("stranger.pub")).unwrap();
    std::fs::write(sshd.path("other_known"), format!("[127.0.0.1]:{} {other}", sshd.port)).unwrap();
    let changed = why(sshd.transport("login", "other_known").run(&host, &command, None, soon()).await);
    assert!(changed.contains("in between"), "{changed}");

    let port = free_port();
    let transport = TransportKind::Ssh { address: "127.0.0.1".to_owned(), user: None, port: Some(port) };
    let nobody = Host { transport, ..sshd.host() };
    let refused = why(sshd.transport("login", "known_hosts").run(&nobody, &command, None, soon()).await);
    assert!(refused.contains("Connection refused"), "{refused}");

    assert!(!touch.exists());
}

#[tokio::test]
async fn a_host_that_accepts_and_says_nothing_costs_the_deadline_only() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Some(silent.local_addr().unwrap().port());
    let transport = TransportKind::Ssh { address: "127.0.0.1".to_owned(), user: None, port };
    let host = Host { name: "silent".into(), transport, commands: BTreeMap::new() };
    let began = Instant::now();
    let options = vec!["-F".to_owned(), "none".to_owned()];
    let outcome =
        Transport::with_options(options).run(&host, &argv(["true"]), None, began + Duration::from_millis(500)).await;
    assert!(why(outcome).contains("no connection within"));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// A transport with this text as the operator's configuration.
fn configured(sshd: &Sshd, text: &str) -> Transport {
    let file = sshd.path("ssh_config");
    std::fs::write(&file, text).unwrap();
    Transport::with_options(vec!["-F".to_owned(), file.display().to_string()])
}

/// A host by the name that the operator's configuration has for it.
fn alias(name: &str) -> Host {
    let transport = TransportKind::Ssh { address: name.to_owned(), user: None, port: None };
    Host { name: name.into(), transport, commands: BTreeMap::new() }
}

/// What the operator's own configuration says of a host: its address, its key, its known hosts and the way to it.
#[tokio::test]
async fn the_operators_own_configuration_leads_through_a_jump_host() {
    let (jump, far) = (Sshd::start(free_port()), Sshd::start(free_port()));
    let section = |name: &str, sshd: &Sshd, more: &str| {
        format!(
            "Host {name}\n HostName 127.0.0.1\n Port {}\n IdentityFile {}\n UserKnownHostsFile {}\n{more}",
            sshd.port,
            sshd.path("login").display(),
            sshd.path("known_hosts").display(),
        )
    };
    let common = "Host *\n IdentitiesOnly yes\n IdentityAgent none\n GlobalKnownHostsFile /dev/null\n";
    let text = section("far", &far, " ProxyJump near\n") + &section("near", &jump, "") + common;
    let (transport, host) = (configured(&far, &text), alias("far"));
    for word in ["one", "$(two)"] {
        let output = transport.run(&host, &argv(["printf", "%s", word]), None, soon()).await.unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (0, word));
    }
    assert_eq!((jump.logins(), far.logins()), (1, 1), "{}\n{}", jump.log(), far.log());
    // The way there is the jump host's: the far one saw nobody else.
    assert!(jump.log().contains("Accepted publickey"), "{}", jump.log());

    // A jump host whose key is not known lets nobody through. `ssh` keeps the reason to itself: the message says where to look.
    let stranger = text.replace(&jump.path("known_hosts").display().to_string(), "/dev/null");
    let (touch, logins) = (far.path("touched"), jump.logins());
    let command = argv(["touch", touch.to_str().unwrap()]);
    let refused = why(configured(&far, &stranger).run(&host, &command, None, soon()).await);
    assert!(refused.contains("ProxyJump") && refused.contains("ssh -o BatchMode=yes far true"), "{refused}");
    assert_eq!((jump.logins(), touch.exists()), (logins, false));
    // So does one that is gone.
    drop(jump);
    let gone = why(configured(&far, &text).run(&host, &command, None, soon()).await);
    assert!(gone.contains("ProxyJump"), "{gone}");
}

/// A real ssh-agent.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_key_that_only_an_agent_has_is_enough() {
    let sshd = Sshd::start(free_port());
    let socket = sshd.path("agent");
    let agent = Process::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    let _agent = Agent(agent);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "no agent");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let text = format!(
        "Host *\n IdentityAgent {}\n IdentityFile none\n UserKnownHostsFile {}\n GlobalKnownHostsFile /dev/null\n",
        socket.display(),
        sshd.path("known_hosts").display()
    );
    let empty = why(configured(&sshd, &text).run(&sshd.host(), &argv(["true"]), None, soon()).await);
    assert!(empty.contains("Permission denied (publickey)") && empty.contains("ssh-add -l"), "{empty}");

    let added = Process::new("ssh-add").arg("-q").arg(sshd.path("login")).env("SSH_AUTH_SOCK", &socket).status();
    assert!(added.unwrap().success());
    std::fs::remove_file(sshd.path("login")).unwrap();
    let output = configured(&sshd, &text).run(&sshd.host(), &argv(["echo", "let in"]), None, soon()).await;
    assert_eq!(output.unwrap().stdout, "let in\n");
}
