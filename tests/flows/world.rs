//! A lab, the real `handover` in its operator's place, and ways to look at the servers that do not go through `handover`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use handover::event::Event;
use lab::{Lab, OPERATOR, Options};
use tempfile::TempDir;

/// Longer than anything that a test waits for may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Labs of this test program run one at a time: two cores are not enough for two.
static ALONE: Mutex<()> = Mutex::new(());

/// Name and address of every proxy.
const PROXIES: [(&str, &str); 4] =
    [("west-lb1", "10.10.0.80"), ("west-lb2", "10.10.0.81"), ("east-lb1", "10.20.0.80"), ("east-lb2", "10.20.0.81")];

/// Name and address of every name server.
const NAME_SERVERS: [(&str, &str); 4] =
    [("west-ns1", "10.10.0.53"), ("west-ns2", "10.10.0.54"), ("east-ns1", "10.20.0.53"), ("east-ns2", "10.20.0.54")];

/// Every database member: its name, its database, address and port.
const MEMBERS: [(&str, &str, &str, u16); 6] = [
    ("west-pg1", "accounts", "10.10.0.100", 5432),
    ("east-pg1", "accounts", "10.20.0.100", 5432),
    ("west-pg2", "products", "10.10.0.100", 5433),
    ("east-pg2", "products", "10.20.0.100", 5433),
    ("west-pg3", "prices", "10.10.0.100", 5434),
    ("east-pg3", "prices", "10.20.0.100", 5434),
];

/// Name and address of every pooler.
const POOLERS: [(&str, &str); 2] = [("west-pool1", "10.10.0.110"), ("east-pool1", "10.20.0.110")];

/// Polls until `holds`.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A lab and a folder for the operator's files.
pub struct World {
    pub lab: Lab,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
    command: String,
}

impl Answer {
    /// Asserts the exit status.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}\n{}", self.command, self.out, self.err);
        self
    }

    /// Asserts that all of these are somewhere in the output, line breaks aside.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        let all = words(&format!("{}\n{}", self.out, self.err));
        for text in texts {
            assert!(all.contains(&words(text)), "{} does not say `{text}`:\n{}\n{}", self.command, self.out, self.err);
        }
        self
    }

    /// Whether this is somewhere in the output, line breaks aside.
    pub fn said(&self, text: &str) -> bool {
        words(&format!("{}\n{}", self.out, self.err)).contains(&words(text))
    }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl World {
    /// Starts the lab of the worked example, with short times.
    pub fn start() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("topology.yaml");
        let lab = Lab::up(&Options { fast: true, ..Options::new(example) }).unwrap();
        let folder = tempfile::Builder::new().prefix("handover-flow-").tempdir().unwrap();
        Self { lab, folder, _alone: alone }
    }

    /// Ends the lab, and asserts that it leaves nothing behind.
    pub fn end(self) {
        let directory = self.lab.directory();
        self.lab.down().unwrap();
        assert!(!directory.exists());
    }

    /// A file in the operator's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The topology that the lab runs, as the operator has it.
    pub fn topology(&self) -> PathBuf {
        self.lab.topology_path().to_owned()
    }

    /// The same topology after some edits, as another file. Every edit must apply.
    pub fn edited(&self, name: &str, edits: &[(&str, &str)]) -> PathBuf {
        let mut text = fs::read_to_string(self.lab.directory().join("topology.yaml")).unwrap();
        for (from, to) in edits {
            assert!(text.contains(from), "the topology has no `{from}`");
            text = text.replacen(from, to, 1);
        }
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, topology: &Path, args: &[&str]) -> Command {
        let mut command = self.lab.command("env").unwrap();
        // Whoever runs the tests may ignore it, as nohup does, and that is inherited.
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_handover")]).args(args);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        let asks = args.first().is_some_and(|command| ["plan", "status", "apply", "rollback"].contains(command));
        if asks && !args.contains(&"--timeout") {
            // A machine that is busy with other things takes seconds for a login over ssh.
            command.args(["--timeout", "15s"]);
        }
        command.env("HANDOVER_TOPOLOGY", topology).env("HANDOVER_STATE_DIR", self.path("state"));
        command.env_remove("SUDO_USER").env("USER", "flow");
        command
    }

    /// Runs `handover` on the lab's own topology.
    pub fn handover(&self, args: &[&str]) -> Answer {
        self.handover_on(&self.topology(), args)
    }

    /// Runs `handover` on a topology.
    pub fn handover_on(&self, topology: &Path, args: &[&str]) -> Answer {
        run(self.command(topology, args))
    }

    /// Makes a plan; returns its file.
    #[track_caller]
    pub fn plan(&self, topology: &Path, name: &str, args: &[&str]) -> PathBuf {
        let file = self.path(name);
        let path = file.to_string_lossy().into_owned();
        let args: Vec<&str> = ["plan", "--out", &path].into_iter().chain(args.iter().copied()).collect();
        self.handover_on(topology, &args).code(0);
        file
    }

    /// Applies a plan to its end.
    pub fn apply(&self, topology: &Path, plan: &Path) -> Answer {
        self.handover_on(topology, &["apply", "--auto-approve", &plan.to_string_lossy()])
    }

    /// Begins to apply a plan.
    pub fn begin(&self, topology: &Path, plan: &Path) -> Running {
        self.running(topology, &["apply", "--auto-approve", "--format", "json", &plan.to_string_lossy()])
    }

    /// Begins to go on with the last run.
    pub fn resume(&self) -> Running {
        self.running(&self.topology(), &["apply", "--resume", "--auto-approve", "--format", "json"])
    }

    fn running(&self, topology: &Path, args: &[&str]) -> Running {
        let mut command = self.command(topology, args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, events) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The listener may have gone: then the test has failed already.
                let event = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
                let _ = sender.send(Line { at: Instant::now(), event });
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Running { child, events, seen: Vec::new(), times: Vec::new(), errors: Some(errors) }
    }

    /// Follows the last run to its end.
    pub fn follow(&self) -> std::thread::JoinHandle<Answer> {
        let command = self.command(&self.topology(), &["runs", "follow"]);
        std::thread::spawn(move || run(command))
    }

    /// Runs a script in the operator's place and folder, with `$HANDOVER` as the program.
    pub fn script(&self, script: &str) -> Answer {
        let mut command = self.lab.command("sh").unwrap();
        command.args(["-c", script]).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("HANDOVER_TOPOLOGY", self.topology()).env("HANDOVER_STATE_DIR", self.path("state"));
        command.env("HANDOVER", env!("CARGO_BIN_EXE_handover"));
        run(command)
    }

    /// Runs a line of shell in a place; it must succeed.
    #[track_caller]
    pub fn shell(&self, place: &str, line: &str) -> String {
        let mut command = self.lab.command_in(place, "sh").unwrap();
        command.args(["-ec", line]).stdin(Stdio::null());
        let answer = run(command);
        assert_eq!(answer.code, 0, "{line}\n{}\n{}", answer.out, answer.err);
        answer.out.trim_end().to_owned()
    }

    /// Asks a database member, by its name.
    #[track_caller]
    pub fn sql(&self, member: &str, sql: &str) -> String {
        self.shell(OPERATOR, &psql_member(member, sql))
    }

    /// Tells a pooler's console something.
    #[track_caller]
    pub fn console(&self, pooler: &str, command: &str) -> String {
        self.shell(OPERATOR, &psql_console(pooler, command))
    }

    /// Tells a proxy something over its runtime API.
    pub fn proxy(&self, name: &str, command: &str) -> String {
        let (_, ip) = PROXIES.into_iter().find(|(proxy, _)| *proxy == name).unwrap();
        let address: SocketAddrV4 = format!("{ip}:9999").parse().unwrap();
        let mut stream = self.lab.connect(address, Duration::from_secs(5)).unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// `SERVER WEIGHT ADMIN_STATE` of each server of a backend at a proxy: the administrative state is HAProxy's number, 0 for ready,
    /// 8 for drain, 1 for maintenance.
    pub fn weights(&self, proxy: &str, backend: &str) -> Vec<String> {
        let state = self.proxy(proxy, &format!("show servers state {backend}"));
        let mut lines: Vec<String> = state
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let server = *fields.get(3)?;
                (fields.get(1) == Some(&backend)).then(|| format!("{server} {} {}", fields[7], fields[6]))
            })
            .collect();
        lines.sort();
        lines
    }

    /// Every address that a name server publishes for a hostname, with the TTL.
    pub fn published(&self, server: &str, hostname: &str) -> Vec<String> {
        let (_, ip) = NAME_SERVERS.into_iter().find(|(name, _)| *name == server).unwrap();
        let answer =
            self.shell(OPERATOR, &format!("dig @{ip} +norecurse +noall +answer {hostname}.clickbank.example A"));
        let mut lines: Vec<String> = answer
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                Some(format!("{} {}", fields.get(1)?, fields.get(4)?))
            })
            .collect();
        lines.sort();
        lines
    }

    /// True if the member takes writes.
    pub fn is_primary(&self, member: &str) -> bool {
        self.sql(member, "select not pg_is_in_recovery()") == "t"
    }

    /// Everything that `handover` could change, as the servers themselves say; for comparisons.
    pub fn facts(&self) -> String {
        let mut facts = String::new();
        for (proxy, _) in PROXIES {
            for backend in ["orderform", "hoplinks", "website"] {
                facts += &format!("{proxy} {backend}: {}\n", self.weights(proxy, backend).join(", "));
            }
        }
        let mut script = String::new();
        for (name, ip) in NAME_SERVERS {
            script += &format!(
                "for h in pay hop www; do echo {name} $h $(dig @{ip} +norecurse +noall +answer $h.clickbank.example A | awk '{{print $2, $5}}' | sort); done\n"
            );
        }
        for (name, ..) in MEMBERS {
            let sql = "select pg_is_in_recovery(), (select timeline_id from pg_control_checkpoint()), current_setting('synchronous_standby_names')";
            script += &format!("echo {name} $({})\n", psql_member(name, sql));
        }
        for (name, _) in POOLERS {
            let keep = "awk -F'|' '{print $1, $2, $3, $4, $13}'";
            script += &format!("echo {name} $({} | {keep})\n", psql_console(name, "show databases"));
        }
        script += "ssh postgres@10.10.0.120 /srv/west-job1/billing check && echo billing runs || echo billing rests\n";
        facts + &self.shell(OPERATOR, &script)
    }

    /// Asserts that nothing differs from earlier [`World::facts`].
    #[track_caller]
    pub fn unchanged(&self, before: &str) {
        let now = self.facts();
        let lines = before.lines().zip(now.lines());
        let differing: Vec<_> = lines.filter(|(before, now)| before != now).collect();
        assert!(differing.is_empty() && before.lines().count() == now.lines().count(), "{differing:#?}");
    }

    /// An open session of `psql` in a place, logged in and waiting for input.
    pub fn session(&self, place: &str, ip: &str, port: u16, user: &str, database: &str) -> Session {
        let password = if user == "app" { "app" } else { "postgresql" };
        let line = format!(
            "export PGPASSWORD=$(cat /srv/secrets/{password}); exec psql -XAtq -h {ip} -p {port} -U {user} -d {database}"
        );
        let mut command = self.lab.command_in(place, "sh").unwrap();
        let mut child = command.args(["-ec", &line]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut session = Session { child, input, output };
        assert_eq!(session.ask("select 'ready'"), "ready");
        session
    }
}

fn psql_member(member: &str, sql: &str) -> String {
    let (_, database, ip, port) = MEMBERS.into_iter().find(|(name, ..)| *name == member).unwrap();
    format!(
        "PGPASSWORD=$(cat /srv/secrets/postgresql) psql -XAtq -U handover -h {ip} -p {port} -d {database} -c \"{sql}\""
    )
}

fn psql_console(pooler: &str, command: &str) -> String {
    let (_, ip) = POOLERS.into_iter().find(|(name, _)| *name == pooler).unwrap();
    format!(
        "PGPASSWORD=$(cat /srv/secrets/pgbouncer) psql -XAtq -U handover -h {ip} -p 6432 -d pgbouncer -c \"{command}\""
    )
}

fn run(mut command: Command) -> Answer {
    let output = command.output().unwrap();
    Answer {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        command: format!("{command:?}"),
    }
}

/// One line of `--format json`, and when it was heard.
struct Line {
    at: Instant,
    event: Event,
}

/// A run of `handover apply` that is watched.
pub struct Running {
    child: Child,
    events: Receiver<Line>,
    pub seen: Vec<Event>,
    times: Vec<Instant>,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Running {
    /// Waits for an event.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) {
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.hear(line);
                    if self.seen.last().is_some_and(&wanted) {
                        return;
                    }
                }
                Err(why) => panic!("{what}: {why}; so far\n{}", self.story()),
            }
        }
    }

    /// Waits until a step begins.
    #[track_caller]
    pub fn until_begun(&mut self, id: &str) {
        self.until(id, |event| matches!(event, Event::StepStarted { step, .. } if step.0 == id));
    }

    /// What Ctrl-C does. SIGTERM is treated alike; SIGINT is ignored where tests run as a background job of a shell.
    pub fn interrupt(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// What the end of its terminal does.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it at once, as a power loss would, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end: exit status, and everything that was said on standard error.
    #[track_caller]
    pub fn end(&mut self, code: i32) -> String {
        while let Ok(line) = self.events.recv_timeout(PATIENCE) {
            self.hear(line);
        }
        let status = self.child.wait().unwrap();
        let errors = self.errors.take().unwrap().join().unwrap();
        assert_eq!(status.code(), Some(code), "{errors}\n{}", self.story());
        errors
    }

    /// Every event, with its seconds since the first one, for messages.
    pub fn story(&self) -> String {
        let first = self.times.first().copied().unwrap_or_else(Instant::now);
        let line = |(at, event): (&Instant, &Event)| {
            let json = serde_json::to_string(event).unwrap();
            format!("{:7.3} {}\n", at.duration_since(first).as_secs_f64(), json.chars().take(300).collect::<String>())
        };
        let shown = |event: &Event| !matches!(event, Event::StepProgress { .. });
        self.times.iter().zip(&self.seen).filter(|(_, event)| shown(event)).map(line).collect()
    }

    fn hear(&mut self, line: Line) {
        self.times.push(line.at);
        self.seen.push(line.event);
    }

    /// Why steps failed, in the order in which they did.
    pub fn failures(&self) -> Vec<(&str, &str)> {
        self.seen
            .iter()
            .filter_map(|event| match event {
                Event::StepFailed { step, why, .. } => Some((step.0.as_str(), why.as_str())),
                _ => None,
            })
            .collect()
    }

    /// Steps that were taken back.
    pub fn undone(&self) -> Vec<&str> {
        self.seen
            .iter()
            .filter_map(|event| match event {
                Event::UndoDone { step, .. } => Some(step.0.as_str()),
                _ => None,
            })
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// An open session.
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Session {
    /// Sends a statement; does not wait for its answer.
    pub fn send(&mut self, sql: &str) {
        self.input.write_all(format!("{sql};\n").as_bytes()).unwrap();
    }

    /// The next line of its output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a statement; returns the first line of its answer.
    pub fn ask(&mut self, sql: &str) -> String {
        self.send(sql);
        self.line()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
