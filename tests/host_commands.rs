//! Commands of hosts that fail, hang or lie: a precise word, nothing promoted, and the member serves again once the fence is undone.
#![allow(clippy::disallowed_methods, reason = "tests start servers and write their files")]

mod common;
#[path = "common/postgres.rs"]
mod servers;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::Permits;
use handover::model::{Action, Condition, Host, Lineage, Observed, Role, Scope, Target, TransportKind};
use handover::provider::postgresql::Postgresql;
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use servers::{Member, Site, as_postgres};
use tokio::time::Instant;

struct World {
    old: Member,
    new: Member,
    postgresql: Postgresql,
    permits: Permits,
    site: Site,
}

impl World {
    async fn start() -> Self {
        let site = Site::new();
        let old = Member::primary(&site, "a-pg1");
        let new = Member::replica(&site, "b-pg1", &old);
        let postgresql = Postgresql::new(site.secrets(), Arc::new(Transport::new()));
        Self { old, new, postgresql, permits: Permits::new().await, site }
    }

    /// The old primary with commands of its host, as shell text.
    fn with(&self, commands: &[(&str, &str)]) -> Target {
        let command = |text: &str| ["sh", "-c", text].map(str::to_owned).to_vec();
        let commands: BTreeMap<_, _> =
            commands.iter().map(|(name, text)| ((*name).to_owned(), command(text))).collect();
        let host = Host { name: "here".into(), transport: TransportKind::Local, commands };
        Target { host: Some(Arc::new(host)), ..self.old.target() }
    }

    async fn act(&self, target: &Target, action: &Action, seconds: u64) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        self.postgresql.apply(target, action, &self.permits.next().await, deadline).await
    }

    async fn lineage(&self) -> Lineage {
        match self
            .postgresql
            .observe(&self.old.target(), &Scope::Member, Instant::now() + Duration::from_secs(20))
            .await
        {
            Observed::Known { value, .. } => value.member().unwrap().lineage.clone(),
            Observed::Unreachable(why) => panic!("{why}"),
        }
    }

    async fn is_primary(&self, lineage: &Lineage) {
        let primary = Condition::Role { role: Role::Primary, lineage: Some(lineage.clone()) };
        let deadline = Instant::now() + Duration::from_secs(20);
        match self.postgresql.verify(&self.old.target(), &primary, deadline).await {
            Observed::Known { value, .. } => assert_eq!(primary.holds(&value), Ok(())),
            Observed::Unreachable(why) => panic!("{why}"),
        }
    }

    /// Undoes the fence and sees that clients are served.
    async fn serves_again(&self, target: &Target, lineage: &Lineage) {
        let unfence = Action::Unfence { lineage: lineage.clone() };
        common::taken(&self.act(target, &unfence, 30).await);
        self.is_primary(lineage).await;
        self.old.sql("INSERT INTO ledger (id) SELECT coalesce(max(id), 0) + 1 FROM ledger");
        assert!(!self.old.data.join("standby.signal").exists());
        assert!(!self.old.data.join("handover.fenced").exists());
    }
}

#[track_caller]
fn says(outcome: &Outcome, touched: bool, text: &str) {
    let why = match (outcome, touched) {
        (Outcome::NotApplied(why), false) | (Outcome::Unknown(why), true) => why.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(why.contains(text) && why.contains("a-pg1"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_hangs_or_lies_is_named_and_its_fence_undone() {
    let world = World::start().await;
    let lineage = world.lineage().await;
    let fence = Action::Fence { successor: world.new.peer() };
    let control = format!("exec /usr/lib/postgresql/15/bin/pg_controldata -D {}", world.old.data.display());
    let first_only =
        format!("test -e {0}/once && echo nonsense || {{ touch {0}/once; {control}; }}", world.site.path().display());
    for (commands, touched, text) in [
        // Nothing was touched before it is known that there is a way back.
        (vec![("inhibit", "exit 7")], false, "the command `inhibit` failed with status 7"),
        (vec![("inhibit", "exec sleep 60")], false, "the command `inhibit` did not end in time"),
        (vec![("control_data", "echo nonsense")], false, "holds no `Database system identifier:`"),
        (vec![("control_data", "exit 1")], false, "the control data cannot be read"),
        // Stopped or not: it may have acted.
        (vec![("stop", "exit 9")], true, "the command `stop` failed with status 9"),
        (vec![("stop", "exec sleep 60")], true, "the command `stop` did not end in time"),
        (vec![("stop", "true")], true, "still runs, some time after the command `stop` had ended with status 0"),
        (vec![("control_data", first_only.as_str())], true, "the control data have no `Database cluster state`"),
    ] {
        let target = world.with(&commands);
        says(&world.act(&target, &fence, 4).await, touched, text);
        // An operator corrects the command; what lies only in stopping does not hinder the undo.
        let mended = if commands[0].0 == "stop" { target } else { world.old.target() };
        world.serves_again(&mended, &lineage).await;
    }

    // What does not start it is named, and the next attempt works.
    common::taken(&world.act(&world.old.target(), &fence, 30).await);
    let unfence = Action::Unfence { lineage: lineage.clone() };
    for (start, text) in [
        ("true", "the command `start` ended with status 0, but nothing runs"),
        ("exit 3", "the command `start` failed with status 3"),
        ("exec sleep 60", "the command `start` did not end in time"),
    ] {
        says(&world.act(&world.with(&[("start", start)]), &unfence, 4).await, true, text);
    }
    says(
        &world.act(&world.with(&[("allow", "exit 5")]), &unfence, 4).await,
        true,
        "the command `allow` failed with status 5",
    );
    world.serves_again(&world.old.target(), &lineage).await;
    world.new.until("SELECT status FROM pg_stat_wal_receiver", "streaming");
}

/// `host.sh` as a session on the member's machine runs it, which lives on when its sender has died.
struct Script {
    member: String,
    stop: &'static str,
    path: String,
}

impl Script {
    fn of(world: &World) -> Self {
        let member = world.old.data.display().to_string();
        Self { member, stop: "", path: std::env::var("PATH").unwrap() }
    }

    fn start(&self, verb: &str, run: &str, number: &str, lineage: &Lineage) -> Child {
        const TEXT: &str = concat!(
            include_str!("../src/provider/postgresql/member.sh"),
            include_str!("../src/provider/postgresql/host.sh")
        );
        let mut script = as_postgres("sh");
        script.args(["-c", TEXT, "handover", verb, &self.member, "/usr/lib/postgresql/15/bin"]);
        script.args(["/dev/null", "2000", "host=127.0.0.1", "a_pg1", "", run, number]);
        script.args([&lineage.system, &lineage.timeline.to_string()]).arg("0");
        match self.stop {
            "" => script.arg("0"),
            stop => script.args(["3", "sh", "-c", stop]),
        };
        script.args(["0", "0", "0"]).env("PATH", &self.path);
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Its exit status and what it said.
    fn run(&self, verb: &str, number: &str, lineage: &Lineage) -> (i32, String) {
        end(self.start(verb, "contract", number, lineage))
    }
}

fn end(script: Child) -> (i32, String) {
    let output = script.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

const CALLED_OFF: &str = "the fence was called off before it began";
const TOO_LATE: &str = "the run has gone on without this word, which comes too late";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_that_comes_after_its_run_went_back_or_on_does_nothing() {
    let world = World::start().await;
    let (target, lineage, script) = (world.old.target(), world.lineage().await, Script::of(&world));
    let serves = || world.old.sql("INSERT INTO ledger (id) SELECT coalesce(max(id), 0) + 1 FROM ledger");
    // A fence waits for its word when the run goes back: nothing is there to be undone, and then the word comes.
    let mut armed = script.start("fence", "", "", &lineage);
    let mut first = String::new();
    std::io::BufReader::new(armed.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "armed\n");
    assert_eq!(script.run("unfence", "7", &lineage), (0, String::new()));
    armed.stdin.take().unwrap().write_all(b"go 0 2000 contract 7 \n").unwrap();
    assert_eq!(end(armed), (3, CALLED_OFF.to_owned()));
    assert_eq!(script.run("fence", "6", &lineage), (3, CALLED_OFF.to_owned()));
    serves();
    // A later attempt of the same run fences, and so does another run with its own numbers.
    assert_eq!(script.run("fence", "8", &lineage), (0, String::new()));
    assert_eq!(script.run("unfence", "6", &lineage), (3, TOO_LATE.to_owned()));
    assert_eq!(script.run("unfence", "8", &lineage), (0, String::new()));
    world.is_primary(&lineage).await;
    assert_eq!(end(script.start("fence", "other", "2", &lineage)), (0, String::new()));
    assert_eq!(end(script.start("unfence", "other", "2", &lineage)), (0, String::new()));
    world.is_primary(&lineage).await;

    // Whoever goes on with a run calls off what was said before: no verb of the one who died does anything from then on.
    let (deadline, permit) = (Instant::now() + Duration::from_secs(20), world.permits.next().await);
    common::taken(&world.postgresql.supersede(&target, &permit, deadline).await);
    let called_off = std::fs::read_to_string(world.old.data.join("handover.void")).unwrap();
    assert_eq!(called_off, format!("contract {}\n", permit.number()));
    let earlier = (permit.number() - 1).to_string();
    for verb in ["withdraw", "unfence", "unmark", "rejoin", "void"] {
        assert_eq!(script.run(verb, &earlier, &lineage), (3, TOO_LATE.to_owned()), "{verb}");
    }
    assert_eq!(script.run("fence", &earlier, &lineage), (3, CALLED_OFF.to_owned()));
    serves();
    // What one run has called off is forgotten with the next one that leads the member somewhere.
    assert_eq!(end(script.start("unmark", "third", "2", &lineage)), (0, String::new()));
    assert!(!world.old.data.join("handover.void").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_at_a_time_changes_a_member_and_its_death_lets_the_next_one_in() {
    let world = World::start().await;
    let lineage = world.lineage().await;
    let fence = Action::Fence { successor: world.new.peer() };
    let unfence = Action::Unfence { lineage: lineage.clone() };
    // A fence is about to stop it, and takes long.
    let held = world.site.path().join("held");
    let wait = format!("while ! test -e {}; do sleep 0.01; done; ", held.display());
    let stop = format!("{wait}exec kill -INT $(head -1 {}/postmaster.pid)", world.old.data.display());
    let slow = world.with(&[("stop", &stop)]);
    tokio::join!(async { common::taken(&world.act(&slow, &fence, 60).await) }, async {
        let marked = || world.old.data.join("handover.fenced").exists();
        while !marked() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Nobody takes it back under its hands, to be overtaken by its signal.
        says(&world.act(&slow, &unfence, 1).await, false, "another call of handover is at work");
        assert!(marked());
        std::fs::write(&held, "").unwrap();
    });
    world.serves_again(&world.old.target(), &lineage).await;
    // What it started does not hold the lock for ever.
    let free =
        || as_postgres("flock").args(["-n", world.old.data.to_str().unwrap(), "true"]).status().unwrap().success();
    assert!(free());

    // A script that is killed leaves what it had begun, and nobody waits for that.
    let mut killed = Script { stop: "exec sleep 60", ..Script::of(&world) }.start("fence", "contract", "900", &lineage);
    while free() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    while !world.old.data.join("standby.signal").exists() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    world.serves_again(&world.old.target(), &lineage).await;
    assert!(free());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lock_nothing_is_fenced_and_everything_is_taken_back() {
    let world = World::start().await;
    let lineage = world.lineage().await;
    let script = Script::of(&world);
    assert_eq!(script.run("fence", "0", &lineage), (0, String::new()));
    // A machine without flock(1).
    let tools = tempfile::tempdir().unwrap();
    std::fs::set_permissions(tools.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for tool in ["setpriv", "sh", "id", "sed", "grep", "sync", "mv", "rm", "sleep", "date", "dirname"] {
        let found = std::env::split_paths(&script.path).map(|folder| folder.join(tool)).find(|path| path.exists());
        std::os::unix::fs::symlink(found.unwrap(), tools.path().join(tool)).unwrap();
    }
    let bare = Script { path: tools.path().display().to_string(), ..Script::of(&world) };
    assert_eq!(bare.run("unfence", "0", &lineage), (0, String::new()));
    world.is_primary(&lineage).await;
    let (status, said) = bare.run("fence", "1", &lineage);
    assert!(status == 3 && said.contains("flock(1)") && said.contains("not found"), "{status} {said}");
    let (status, said) = end(bare.start("fence", "", "", &lineage));
    assert!(status == 3 && said.contains("no flock(1)"), "{status} {said}");
    assert!(!world.old.data.join("standby.signal").exists());
    world.serves_again(&world.old.target(), &lineage).await;
}

/// A machine with systemd, or what this member's provider sees of one.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$1" in
status) for pid; do :; done; printf '* postgresql@15-main.service - PostgreSQL\n   Loaded: %s\n' "$pid" ;;
show) printf 'Restart=%s\n' "$(cat "${0%/*}/restart")" ;;
esac
"#;

/// The programs that commands of this machine find come by the environment of the process that runs them: this test runs itself again
/// with one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_would_start_what_was_stopped_is_another_manager() {
    const FOLDER: &str = "HANDOVER_TEST_SYSTEMCTL";
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("systemctl");
        std::fs::write(&program, SYSTEMCTL).unwrap();
        for (path, mode) in [(folder.path(), 0o755), (&program, 0o755)] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "a_unit_that_would_start_what_was_stopped_is_another_manager", "--nocapture"]);
        let output = again.env("PATH", path).env(FOLDER, folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let world = World::start().await;
    let manager = async |restart: &str, target: &Target| {
        std::fs::write(folder.join("restart"), restart).unwrap();
        // A unit is asked for once in the life of a provider.
        let postgresql = Postgresql::new(world.site.secrets(), Arc::new(Transport::new()));
        let deadline = Instant::now() + Duration::from_secs(20);
        match postgresql.observe(target, &Scope::Member, deadline).await {
            Observed::Known { value, .. } => value.member().unwrap().settings.get("manager").cloned(),
            Observed::Unreachable(why) => panic!("{why}"),
        }
    };
    let plain = world.old.target();
    for (restart, seen) in [("no", false), ("on-failure", false), ("always", true), ("on-success", true)] {
        let expected = seen.then(|| format!("systemd (postgresql@15-main.service has Restart={restart})"));
        assert_eq!(manager(restart, &plain).await, expected, "{restart}");
    }
    // systemd keeps down what it was itself told to stop, and a host may have another way.
    assert_eq!(manager("always", &world.with(&[("stop", "true")])).await, None);
    assert_eq!(manager("always", &world.with(&[("inhibit", "true"), ("allow", "true")])).await, None);
    // A member that runs in no unit, as after `pg_ctl start` by hand.
    world.old.stop();
    world.old.start();
    std::fs::write(folder.join("systemctl"), "#!/bin/sh\necho Failed >&2; exit 4\n").unwrap();
    assert_eq!(manager("always", &plain).await, None);
}
