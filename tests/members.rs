//! Databases with several members, planned and applied by the real `handover` on real servers, under write load.
#![allow(clippy::disallowed_methods, reason = "tests start servers and write their files")]

#[path = "common/postgres.rs"]
mod servers;
#[path = "common/writers.rs"]
mod writers;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use servers::{Member, Pooler, Site};
use writers::Load;

/// A database and its pooler; dropped in this order: the servers before their directory.
struct Cluster {
    members: BTreeMap<String, Member>,
    pooler: Pooler,
    site: Site,
    plans: std::cell::Cell<u32>,
}

/// What a command said.
struct Answer {
    code: i32,
    text: String,
}

impl Answer {
    #[track_caller]
    fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.text);
        self
    }

    #[track_caller]
    fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            // Lines are folded.
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words(&self.text).contains(&words(text)), "`{text}` is not in: {}", self.text);
        }
        self
    }
}

fn answer(mut command: Command) -> Answer {
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Answer { code: output.status.code().unwrap_or(-1), text }
}

impl Cluster {
    /// A primary and its replicas, each with whom it receives from.
    fn start(primary: &str, replicas: &[(&str, &str)], names: &str) -> Self {
        let site = Site::new();
        let first = Member::primary(&site, primary);
        let pooler = Pooler::start(&site, &first.address());
        let mut members = BTreeMap::from([(primary.to_owned(), first)]);
        for (name, upstream) in replicas {
            let member = Member::replica(&site, name, &members[*upstream]);
            members.insert((*name).to_owned(), member);
        }
        let cluster = Self { members, pooler, site, plans: std::cell::Cell::new(0) };
        cluster.at(primary).sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        cluster.at(primary).sql("SELECT pg_reload_conf()");
        cluster.at(primary).until("SHOW synchronous_standby_names", names);
        cluster
    }

    fn at(&self, name: &str) -> &Member {
        &self.members[name]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.path().join(name)
    }

    /// A topology that wants the primary at a member.
    fn topology(&self, primary: &str, policy: &str) -> PathBuf {
        let site = self.site.path().display();
        let mut text = format!(
            "topology: 1\nname: many\nfacilities: {{west: {{state: active}}, east: {{state: active}}}}\n\
             databases:\n  accounts:\n    provider: postgresql\n    settings:\n      user: handover\n      \
             password: {{file: {site}/postgresql}}\n      replication: user=replicator\n    primary: {primary}\n    members:\n"
        );
        for (name, member) in &self.members {
            let facility = if name.as_str() < "c" { "west" } else { "east" };
            // Replicas of replicas are declared, so that they come back to their place.
            let follows = CASCADE[2..].iter().find(|(below, _)| below == name);
            let follows = follows.map(|(_, upstream)| format!("follows: {upstream}, ")).unwrap_or_default();
            text += &format!(
                "      {name}: {{facility: {facility}, address: \"{}\", host: here, {follows}settings: {{data_directory: {}}}}}\n",
                member.address(),
                member.data.display()
            );
        }
        text += &format!(
            "    replication: {{mode: synchronous, max_lag: 1s}}\n    direct: [{{application_name: batch}}]\n    poolers: [pool]\n    route: {{pooler_database: accounts}}\n\
             poolers:\n  pool:\n    facility: west\n    provider: pgbouncer\n    address: \"{}\"\n    host: here\n    settings:\n      \
             admin: handover\n      password: {{file: {site}/pgbouncer}}\n      databases: {}\n      \
             probe: {{user: app, password: {{file: {site}/probe}}}}\n\
             hosts:\n  here: {{transport: local}}\npolicy: {{max_write_stall: 20s{policy}}}\n",
            self.pooler.address(),
            self.pooler.databases.display()
        );
        let path = self.path("topology.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, topology: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
        command.args(args).args(["--timeout", "5s"]).current_dir(self.site.path()).stdin(Stdio::null());
        command.env("HANDOVER_TOPOLOGY", topology).env("HANDOVER_STATE_DIR", self.path("state")).env("COLUMNS", "200");
        command
    }

    /// Plans the move of the primary to a member.
    fn plan(&self, primary: &str, policy: &str) -> (PathBuf, PathBuf, Answer) {
        self.plans.set(self.plans.get() + 1);
        let (topology, file) = (self.topology(primary, policy), self.path(&format!("plan-{}.yaml", self.plans.get())));
        let answer = answer(self.command(&topology, &["plan", "--out", &file.to_string_lossy()]));
        (topology, file, answer)
    }

    /// Plans and applies it; what the plan and the run said.
    #[track_caller]
    fn switch(&self, primary: &str) -> (Answer, Answer) {
        let (topology, file, planned) = self.plan(primary, "");
        let planned = planned.code(0);
        let applied = answer(self.command(&topology, &["apply", "--auto-approve", &file.to_string_lossy()]));
        (planned, applied.code(0))
    }

    /// Begins to apply a plan.
    fn begin(&self, topology: &Path, file: &Path) -> Running {
        let args = ["apply", "--auto-approve", "--format", "json", &file.to_string_lossy()];
        let mut child = self.command(topology, &args).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines, told: String::new() }
    }

    /// Waits until each replica streams from whom it should, on the primary's timeline, and the primary waits for these names.
    #[track_caller]
    fn stands(&self, primary: &str, upstreams: &[(&str, &str)], names: &str) {
        let home = self.at(primary);
        home.until("SELECT pg_is_in_recovery()", "f");
        home.until("SHOW synchronous_standby_names", names);
        for (name, upstream) in upstreams {
            let member = self.at(name);
            let port = self.at(upstream).port.to_string();
            member.until("SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'", &port);
            // It has what is written now.
            let here = home.sql("SELECT pg_current_wal_lsn()");
            member.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{here}'"), "t");
        }
        for member in self.members.values() {
            assert_eq!(member.sql("SHOW wal_retrieve_retry_interval"), "5s", "{}", member.name);
            // A slot that nobody uses would hold the log for ever.
            member.until(
                "SELECT coalesce(string_agg(slot_name, ','), '') FROM pg_replication_slots WHERE NOT active",
                "",
            );
        }
    }
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

    fn end(mut self) -> Answer {
        for line in self.lines.by_ref() {
            self.told += &format!("{}\n", line.unwrap());
        }
        Answer { code: self.child.wait().unwrap().code().unwrap_or(-1), text: self.told }
    }
}

/// Looks all the time whether a member that is primary has replicas to wait for.
struct Watch {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(usize, usize)>,
}

impl Watch {
    async fn start(member: &Member) -> Self {
        let login = format!("host=127.0.0.1 port={} user=app dbname=postgres", member.port);
        let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut primary, mut alone) = (0, 0);
            while !stopped.load(Ordering::Relaxed) {
                let sql = "SELECT pg_is_in_recovery(), current_setting('synchronous_standby_names') = ''";
                // The session ends with the member's time as primary.
                let Ok(rows) = client.query(sql, &[]).await else { break };
                if !rows[0].get::<_, bool>(0) {
                    primary += 1;
                    alone += usize::from(rows[0].get::<_, bool>(1));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (primary, alone)
        });
        Self { stop, task }
    }

    async fn never_alone(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (primary, alone) = self.task.await.unwrap();
        assert!(
            primary > 0 && alone == 0,
            "as primary it was seen {primary} times, {alone} times with nobody to wait for"
        );
    }
}

const CASCADE: [(&str, &str); 4] = [("b-pg1", "a-pg1"), ("c-pg1", "a-pg1"), ("d-pg1", "b-pg1"), ("e-pg1", "c-pg1")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_with_cascades_there_and_back_under_load() {
    let cluster = Cluster::start("a-pg1", &CASCADE, "FIRST 2 (\"b-pg1\", \"c-pg1\")");
    let (load, watch) = (Load::start(&cluster.pooler), Watch::start(cluster.at("b-pg1")).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (planned, _) = cluster.switch("b-pg1");
    planned.says(&[
        "c-pg1 receives from b-pg1 before the pause already",
        "e-pg1 goes on receiving from c-pg1",
        "commits wait for b-pg1 alone, not for 2 replicas, until it is promoted",
        "commits wait for 1 of 2 replicas from the promotion until a-pg1 follows b-pg1",
    ]);
    watch.never_alone().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = load.stop().await;
    seen.nothing_failed_or_lost(cluster.at("b-pg1"));
    println!("there: longest stall {:?}", seen.stall);
    let upstreams = [("a-pg1", "b-pg1"), ("c-pg1", "b-pg1"), ("d-pg1", "b-pg1"), ("e-pg1", "c-pg1")];
    cluster.stands("b-pg1", &upstreams, "FIRST 2 (\"a-pg1\", \"c-pg1\")");

    let (load, watch) = (Load::start(&cluster.pooler), Watch::start(cluster.at("a-pg1")).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.switch("a-pg1");
    watch.never_alone().await;
    let seen = load.stop().await;
    seen.nothing_failed_or_lost(cluster.at("a-pg1"));
    println!("back: longest stall {:?}", seen.stall);
    let upstreams = [("b-pg1", "a-pg1"), ("c-pg1", "a-pg1"), ("d-pg1", "b-pg1"), ("e-pg1", "c-pg1")];
    cluster.stands("a-pg1", &upstreams, "FIRST 2 (\"b-pg1\", \"c-pg1\")");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_with_any_1_and_a_cascading_candidate_there_and_back() {
    let replicas = [("b-pg1", "a-pg1"), ("c-pg1", "b-pg1")];
    let cluster = Cluster::start("a-pg1", &replicas, "ANY 1 (\"b-pg1\")");
    let (load, watch) = (Load::start(&cluster.pooler), Watch::start(cluster.at("c-pg1")).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (planned, _) = cluster.switch("c-pg1");
    planned.says(&["c-pg1 receives from a-pg1 itself, no longer from b-pg1"]);
    watch.never_alone().await;
    let seen = load.stop().await;
    seen.nothing_failed_or_lost(cluster.at("c-pg1"));
    cluster.stands("c-pg1", &[("a-pg1", "c-pg1"), ("b-pg1", "c-pg1")], "ANY 1 (\"b-pg1\")");

    // Both others may confirm.
    cluster.at("c-pg1").sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (\"a-pg1\", \"b-pg1\")'");
    cluster.at("c-pg1").sql("SELECT pg_reload_conf()");
    let (load, watch) = (Load::start(&cluster.pooler), Watch::start(cluster.at("a-pg1")).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.switch("a-pg1");
    watch.never_alone().await;
    load.stop().await.nothing_failed_or_lost(cluster.at("a-pg1"));
    cluster.stands("a-pg1", &[("b-pg1", "a-pg1"), ("c-pg1", "a-pg1")], "ANY 1 (\"c-pg1\", \"b-pg1\")");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_cannot_follow_are_named_and_hold_nobody_up() {
    let replicas = [("b-pg1", "a-pg1"), ("c-pg1", "a-pg1")];
    let cluster = Cluster::start("a-pg1", &replicas, "ANY 1 (\"b-pg1\", \"c-pg1\")");
    let load = Load::start(&cluster.pooler);
    // One whose replay is paused.
    let c = cluster.at("c-pg1");
    c.sql("SELECT pg_wal_replay_pause()");
    c.until("SELECT pg_get_wal_replay_pause_state()", "paused");
    let (planned, _) = cluster.switch("b-pg1");
    planned.says(&[
        "c-pg1 is not led to b-pg1 before the promotion: its replay is paused",
        "commits wait for nobody from the promotion",
    ]);
    c.sql("SELECT pg_wal_replay_resume()");
    cluster.stands("b-pg1", &[("a-pg1", "b-pg1"), ("c-pg1", "b-pg1")], "ANY 1 (\"a-pg1\", \"c-pg1\")");

    // One whose walreceiver hangs: a clean stop waits for it for a minute unless its walsender is ended.
    let receiver = c.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'");
    let signal = |signal: &str| assert!(Command::new("kill").args([signal, &receiver]).status().unwrap().success());
    signal("-STOP");
    let silent =
        "SELECT now() - reply_time > interval '6 seconds' FROM pg_stat_replication WHERE application_name = 'c-pg1'";
    cluster.at("b-pg1").until(silent, "t");
    let (planned, _) = cluster.switch("a-pg1");
    signal("-CONT");
    planned.says(&[
        "c-pg1 is not led to a-pg1 before the promotion: it has confirmed nothing for",
        "its walreceiver hangs",
    ]);
    cluster.stands("a-pg1", &[("b-pg1", "a-pg1"), ("c-pg1", "a-pg1")], "ANY 1 (\"b-pg1\", \"c-pg1\")");
    let seen = load.stop().await;
    seen.nothing_failed_or_lost(cluster.at("a-pg1"));
    assert!(seen.stall < Duration::from_secs(20), "{:?}", seen.stall);

    // One that does not stream.
    c.sql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'");
    c.sql("SELECT pg_reload_conf()");
    c.until("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "0");
    let (planned, _) = cluster.switch("b-pg1");
    planned.says(&["c-pg1 is not led to b-pg1 before the promotion: it does not stream"]);
    cluster.stands("b-pg1", &[("a-pg1", "b-pg1"), ("c-pg1", "b-pg1")], "ANY 1 (\"a-pg1\", \"c-pg1\")");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_before_the_promotion_leaves_everything_as_it_was() {
    let replicas = [("b-pg1", "a-pg1"), ("c-pg1", "a-pg1")];
    let names = "FIRST 2 (\"b-pg1\", \"c-pg1\")";
    let cluster = Cluster::start("a-pg1", &replicas, names);
    let (a, b, c) = (cluster.at("a-pg1"), cluster.at("b-pg1"), cluster.at("c-pg1"));
    let load = Load::start(&cluster.pooler);

    // A replica dies while it is led over: the candidate does not let it in, and then it is gone. Its supervisor starts it again.
    let hba = fs::read_to_string(b.data.join("pg_hba.conf")).unwrap();
    fs::write(b.data.join("pg_hba.conf"), hba.replace("host replication replicator 127.0.0.1/32 trust\n", "")).unwrap();
    b.sql("SELECT pg_reload_conf()");
    let (topology, file, planned) = cluster.plan("b-pg1", "");
    planned.code(0);
    let mut run = cluster.begin(&topology, &file);
    run.until(&["step_started", "db.accounts.lead.c-pg1"]);
    c.until("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "0");
    c.kill();
    run.until(&["step_failed", "db.accounts.lead.c-pg1"]);
    c.start();
    run.end().code(4).says(&["c-pg1", "stopped"]);
    fs::write(b.data.join("pg_hba.conf"), &hba).unwrap();
    b.sql("SELECT pg_reload_conf()");
    cluster.stands("a-pg1", &replicas, names);

    // The candidate dies while clients wait.
    let (topology, file, planned) = cluster.plan("b-pg1", "");
    planned.code(0);
    let mut run = cluster.begin(&topology, &file);
    run.until(&["step_started", "db.accounts.fence"]);
    b.kill();
    run.until(&["step_failed"]);
    b.start();
    run.end().code(4).says(&["the section was undone"]);
    cluster.stands("a-pg1", &replicas, names);
    load.stop().await.nothing_failed_or_lost(a);

    // With both alive it works.
    cluster.switch("b-pg1");
    cluster.stands("b-pg1", &[("a-pg1", "b-pg1"), ("c-pg1", "b-pg1")], "FIRST 2 (\"a-pg1\", \"c-pg1\")");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transaction_a_long_query_and_a_lag_hold_until_they_have_passed() {
    let cluster = Cluster::start("a-pg1", &[("b-pg1", "a-pg1"), ("c-pg1", "a-pg1")], "ANY 1 (\"b-pg1\", \"c-pg1\")");
    let (a, b) = (cluster.at("a-pg1"), cluster.at("b-pg1"));
    let connect = async |member: &Member, name: &str| {
        let login = format!("host=127.0.0.1 port={} user=app dbname=postgres application_name={name}", member.port);
        let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("BEGIN; SELECT count(*) FROM ledger").await.unwrap();
        client
    };
    let open = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'NAME' AND now() - xact_start > '2 seconds'";
    let (report, batch) = (connect(b, "report").await, connect(a, "batch").await);
    b.until(&open.replace("NAME", "report"), "t");
    a.until(&open.replace("NAME", "batch"), "t");
    // One that is late on purpose.
    b.sql("ALTER SYSTEM SET recovery_min_apply_delay = '1min'");
    b.sql("SELECT pg_reload_conf()");
    b.until("SHOW recovery_min_apply_delay", "1min");
    let policy = ", max_transaction_age: 1s";
    let (topology, file, planned) = cluster.plan("b-pg1", policy);
    planned.code(0).says(&[
        "a transaction of `report`",
        "at b-pg1 is open for",
        "a transaction of `batch`",
        "at a-pg1 is open for",
        "b-pg1 would take over late: it replays with a delay (recovery_min_apply_delay = 1min)",
        "apply will hold until it has passed",
    ]);
    let mut run = cluster.begin(&topology, &file);
    run.until(&["step_progress", "hold: "]);
    report.simple_query("COMMIT").await.unwrap();
    batch.simple_query("COMMIT").await.unwrap();
    b.sql("ALTER SYSTEM RESET recovery_min_apply_delay");
    b.sql("SELECT pg_reload_conf()");
    run.end().code(0);
    cluster.stands("b-pg1", &[("a-pg1", "b-pg1"), ("c-pg1", "b-pg1")], "ANY 1 (\"a-pg1\", \"c-pg1\")");
}
