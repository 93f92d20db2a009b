//! The process of a run dies or hangs while clients wait: its guard lets them go on, within seconds, and says so. Real servers, under
//! write load.
#![allow(clippy::disallowed_methods, reason = "tests start servers and write their files")]

#[path = "common/postgres.rs"]
mod servers;
#[path = "common/writers.rs"]
mod writers;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use servers::{Member, Pooler, Site};
use writers::{Load, Seen};

/// A database of two members and its pooler; dropped in this order: the servers before their directory.
struct World {
    a: Member,
    b: Member,
    pooler: Pooler,
    site: Site,
    plans: std::cell::Cell<u32>,
}

/// What a command said, and its exit status.
struct Answer(i32, String);

impl Answer {
    #[track_caller]
    fn says(self, code: i32, texts: &[&str]) -> String {
        let Self(found, text) = self;
        assert_eq!(found, code, "{text}");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in texts {
            assert!(words(&text).contains(wanted), "`{wanted}` is not in: {text}");
        }
        text
    }
}

/// Longer than anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl World {
    fn start() -> Self {
        let site = Site::new();
        let a = Member::primary(&site, "a-pg1");
        let b = Member::replica(&site, "b-pg1", &a);
        let pooler = Pooler::start(&site, &a.address());
        Self { a, b, pooler, site, plans: std::cell::Cell::new(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
        command.args(args).current_dir(self.site.path()).stdin(Stdio::null());
        command.env("HANDOVER_TOPOLOGY", "topology.yaml").env("HANDOVER_STATE_DIR", "state").env("COLUMNS", "200");
        command
    }

    fn handover(&self, args: &[&str]) -> Answer {
        let output = self.command(args).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Answer(output.status.code().unwrap_or(-1), text)
    }

    /// Writes the topology, with commands of the members' host.
    fn topology(&self, primary: &Member, commands: &str) {
        let site = self.site.path().display();
        let member = |member: &Member, facility: &str| {
            let (name, address, data) = (&member.name, member.address(), member.data.display());
            format!(
                "      {name}: {{facility: {facility}, address: \"{address}\", host: here, settings: {{data_directory: {data}}}}}\n"
            )
        };
        let text = format!(
            "topology: 1\nname: guarded\nfacilities: {{west: {{state: active}}, east: {{state: active}}}}\n\
             databases:\n  accounts:\n    provider: postgresql\n    settings:\n      user: handover\n      \
             password: {{file: {site}/postgresql}}\n      replication: user=replicator\n    primary: {}\n    members:\n{}{}\
             \x20   replication: {{mode: asynchronous, max_lag: 1s}}\n    poolers: [pool]\n    route: {{pooler_database: accounts}}\n\
             poolers:\n  pool:\n    facility: west\n    provider: pgbouncer\n    address: \"{}\"\n    host: here\n    settings:\n      \
             admin: handover\n      password: {{file: {site}/pgbouncer}}\n      databases: {}\n      \
             probe: {{user: app, password: {{file: {site}/probe}}}}\n\
             hosts:\n  here: {{transport: local{commands}}}\npolicy: {{max_write_stall: 20s}}\n",
            primary.name,
            member(&self.a, "west"),
            member(&self.b, "east"),
            self.pooler.address(),
            self.pooler.databases.display()
        );
        fs::write(self.path("topology.yaml"), text).unwrap();
    }

    /// Begins to move the primary, in a session of its own.
    fn begin(&self, to: &Member, commands: &str) -> Running {
        self.topology(to, commands);
        self.plans.set(self.plans.get() + 1);
        let file = format!("plan-{}.yaml", self.plans.get());
        self.handover(&["plan", "--timeout", "10s", "--out", &file]).says(0, &[]);
        let args = ["apply", "--auto-approve", "--format", "json", "--timeout", "10s", &file];
        let mut command = self.command(&args);
        let mut child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines, told: String::new() }
    }

    /// A command that makes a fence last for more than a second; `stopping` is there once it has begun.
    fn slow_stop(&self) -> String {
        let stop = "sleep 1; kill -INT $(head -1 {data_directory}/postmaster.pid)";
        format!(", commands: {{stop: [sh, -c, \"touch {}; {stop}\"]}}", self.path("stopping").display())
    }

    /// What the newest run has come to, as a program reads it; none while it has not ended.
    fn end(&self) -> Option<String> {
        let runs = self.handover(&["runs", "--format", "json"]).says(0, &[]);
        let runs: serde_json::Value = serde_json::from_str(runs.lines().next().unwrap()).unwrap();
        let state = runs["runs"][0]["state"].as_str().unwrap();
        (!["running", "died"].contains(&state)).then(|| state.to_owned())
    }

    /// Waits until the guard has ended the run; its story.
    #[track_caller]
    fn freed(&self) -> String {
        until("the guard ends the run", || self.end().is_some());
        for entry in fs::read_dir(self.path("state")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("guard-") {
                println!("{}", fs::read_to_string(entry.path()).unwrap());
            }
        }
        self.handover(&["runs", "show"]).says(0, &["(guard)", "nobody is left waiting"])
    }

    /// Writers go on: rows come.
    #[track_caller]
    fn writes_flow(&self, primary: &Member) {
        let count = || primary.sql("SELECT count(*) FROM ledger");
        let before = count();
        until("writes flow", || count() != before);
    }

    /// The one guard; a process that it is about to start looks like it for a moment.
    fn guard(&self) -> u32 {
        until("there is one guard", || self.guards().len() == 1);
        self.guards()[0]
    }

    fn guards(&self) -> Vec<u32> {
        guards(&self.path("state").display().to_string())
    }
}

/// The processes that are guards with this state directory.
fn guards(state: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let is_guard = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"guard"[..]) && words.contains(&state.as_bytes())
    };
    numbers.filter(is_guard).collect()
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// An `apply` under way.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    told: String,
}

impl Running {
    /// Waits for an event that mentions all of these.
    #[track_caller]
    fn until(&mut self, texts: &[&str]) {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            self.told += &format!("{line}\n");
            if texts.iter().all(|text| line.contains(text)) {
                return;
            }
        }
        panic!("{texts:?} was not told: {}", self.told);
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Writers that were there all the time.
async fn nothing_lost(load: Load, primary: &Member) {
    let seen: Seen = load.stop().await;
    seen.nothing_failed_or_lost(primary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_before_the_promotion_leaves_nobody_waiting() {
    let world = World::start();
    let load = Load::start(&world.pooler);
    // In the middle of the fence, which its script finishes all the same: the undo waits for that and finds it.
    let mut run = world.begin(&world.b, "");
    run.until(&["step_started", "fence"]);
    run.kill();
    assert!(world.freed().contains("taken back"));
    world.writes_flow(&world.a);
    until("its guard is gone", || world.guards().is_empty());
    let logs = fs::read_dir(world.path("state")).unwrap().flatten();
    let logs: Vec<_> = logs.filter(|entry| entry.file_name().to_string_lossy().starts_with("guard-")).collect();
    assert_eq!(logs.len(), 1);
    assert_eq!(logs[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);

    // One that hangs is ended first. Its fence hangs as well, until its own time is over; nobody stops the guard.
    let stop = world.slow_stop();
    let mut run = world.begin(&world.b, &stop);
    run.until(&["step_started", "fence"]);
    until("the fence stops it", || world.path("stopping").exists());
    let guard = world.guard();
    for kind in ["-INT", "-TERM", "-HUP"] {
        signal(guard, kind);
    }
    signal(run.child.id(), "-STOP");
    let killed = run.child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(9), "{killed}");
    world.freed();
    world.writes_flow(&world.a);
    assert_eq!(world.b.sql("SELECT pg_is_in_recovery()"), "t");
    nothing_lost(load, &world.a).await;
    world.handover(&["plan", "--detailed-exitcode"]).says(2, &["accounts"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_after_the_intent_to_promote_is_completed() {
    let world = World::start();
    let load = Load::start(&world.pooler);
    let mut members = [&world.a, &world.b];
    // The moment is short: a run that was quicker than its killer is no news, and the next one goes back.
    for _ in 0..5 {
        let [_, new] = members;
        let mut run = world.begin(new, "");
        run.until(&["step_started", "promote"]);
        run.kill();
        until("the run ends", || world.end().is_some());
        members.reverse();
        if world.end().as_deref() == Some("stopped") {
            break;
        }
    }
    let [new, old] = members;
    world.freed();
    world.writes_flow(new);
    // The old one follows: what has passed its point of no return is completed to its end.
    old.until("SELECT pg_is_in_recovery()", "t");
    new.until("SELECT state FROM pg_stat_replication", "streaming");
    nothing_lost(load, new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dies_with_its_guard_is_gone_on_with_and_a_quiet_guard_leaves_no_trace() {
    let world = World::start();
    let load = Load::start(&world.pooler);
    let mut run = world.begin(&world.b, &world.slow_stop());
    run.until(&["step_started", "fence"]);
    let guard = world.guard();
    signal(guard, "-KILL");
    run.kill();
    let resumed = world.handover(&["apply", "--resume", "--auto-approve", "--timeout", "10s"]);
    let text = resumed.says(0, &[]);
    assert!(!text.contains("(guard)"), "{text}");
    world.writes_flow(&world.b);
    until("its guard is gone", || world.guards().is_empty());
    // Whatever its end is: a run whose sections have ended has nothing to be guarded.
    let logs = fs::read_dir(world.path("state")).unwrap().flatten();
    assert!(!logs.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("guard-")));
    nothing_lost(load, &world.b).await;
}
