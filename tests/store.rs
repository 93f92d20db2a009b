//! What may happen to the embedded store: torn writes, flipped bits, a full disk, a file system that became read-only, clocks that jump,
//! two processes at once. The first tests need no server; the last one plays all of it with a real lab. (A journal of 100,000 entries is
//! in `tests/runs.rs`.)
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests read files, start programs and look at the clock"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use handover::journal::{Entry, Journal, Lease, Moment, Record, RunId, Store};
use handover::plan::{Overrides, StepId};
use handover::store::SqliteStore;
use jiff::Timestamp;
use lab::{Lab, Options};

const FILE: &str = "handover.sqlite3";

/// The size of what comes before the pages of a write-ahead log, and before each page in it (the SQLite file format, section 4.1).
const LOG_HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

fn entry(sequence: u64, record: Record) -> Entry {
    Entry { sequence, at: Timestamp::now(), elapsed_ms: sequence, record }
}

fn first() -> Record {
    Record::RunStarted {
        plan: "plan".to_owned(),
        plan_digest: "digest".to_owned(),
        operator: "ada@ops pid 4711".to_owned(),
        holds: Vec::new(),
        title: "drain west".to_owned(),
        document: None,
        overrides: Overrides::new(),
    }
}

fn done(step: u64) -> Record {
    Record::StepDone { step: StepId(format!("step.{step}")), verified: "read back".to_owned() }
}

/// A store with a run of some records, and the lengths of its log before and after the last one.
async fn store_with(dir: &Path, records: u64) -> (SqliteStore, Lease, [usize; 2]) {
    let store = SqliteStore::open(dir, "shop").unwrap();
    let lease = store.begin(&RunId("1".into()), &"ada@ops".into(), &entry(0, first())).await.unwrap();
    let log = dir.join(format!("{FILE}-wal"));
    let length = || usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    let mut before = length();
    for sequence in 1..records {
        before = length();
        store.append(&lease, &entry(sequence, done(sequence))).await.unwrap();
    }
    (store, lease, [before, length()])
}

/// What can be read from these bytes of a store, as another process finds them after a crash.
async fn found(scratch: &Path, main: &[u8], log: &[u8]) -> u64 {
    for (name, bytes) in [(FILE.to_owned(), main), (format!("{FILE}-wal"), log)] {
        fs::write(scratch.join(name), bytes).unwrap();
    }
    // The index is rebuilt from the log.
    let _ = fs::remove_file(scratch.join(format!("{FILE}-shm")));
    let store = SqliteStore::open(scratch, "shop").unwrap();
    let records = store.records(&RunId("1".into())).await.unwrap();
    let expected: Vec<u64> = (0..records.len() as u64).collect();
    assert_eq!(records.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), expected, "without a gap");
    expected.len() as u64
}

/// In memory: thousands of files are opened, and whether the disk is fast is not the question.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[tokio::test]
async fn a_torn_last_write_costs_that_record_and_no_other() {
    let (dir, copy) = (scratch(), scratch());
    let (store, _, [before, after]) = store_with(dir.path(), 6).await;
    let (main, log) =
        (fs::read(dir.path().join(FILE)).unwrap(), fs::read(dir.path().join(format!("{FILE}-wal"))).unwrap());
    drop(store);
    assert!(before > LOG_HEADER && (after - before).is_multiple_of(FRAME), "{before} {after}");
    // Every byte of the last frame; of those before it, their edges.
    let last = after - FRAME;
    let edges = (before..last).filter(|at| (at - LOG_HEADER) % FRAME < 30);
    for at in edges.chain(last..=after) {
        let records = found(copy.path(), &main, &log[..at]).await;
        assert_eq!(records, if at == after { 6 } else { 5 }, "cut at byte {at} of {after}");
    }
    // A disk that wrote something else in its place.
    for at in (before..after).step_by(37) {
        let mut damaged = log[..after].to_vec();
        damaged[at] ^= 0x40;
        assert_eq!(found(copy.path(), &main, &damaged).await, 5, "flipped at byte {at}");
    }
}

/// Of several that write at once, each finds all of its own records, in their order, whatever the others do.
#[tokio::test]
async fn two_processes_at_once_disturb_each_other_no_more_than_they_must() {
    let dir = scratch();
    let folder = dir.path().to_owned();
    let writers = (0..4).map(|number| {
        let folder = folder.clone();
        // Connections of their own, as processes have.
        tokio::spawn(async move {
            let store = SqliteStore::open(&folder, &format!("topology-{number}")).unwrap();
            let run = RunId(format!("run-{number}"));
            let lease = store.begin(&run, &"ada@ops".into(), &entry(0, first())).await.unwrap();
            for sequence in 1..50 {
                store.append(&lease, &entry(sequence, done(sequence))).await.unwrap();
            }
            store.records(&run).await.unwrap().len()
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        assert_eq!(writer.await.unwrap(), 50);
    }
}

/// The clock of the machine jumps back and forth: the lock stays with whoever has it, and records stay in their order.
#[tokio::test]
async fn a_clock_that_jumps_an_hour_takes_the_lock_from_nobody() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    let dir = scratch();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path(), "shop").unwrap());
    let jump = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&jump);
    let began = Instant::now();
    let now = move || Moment {
        at: Timestamp::now() + jiff::SignedDuration::from_secs(clock.load(Ordering::Relaxed)),
        elapsed: began.elapsed(),
    };
    let run = RunId("1".into());
    let journal = Journal::begin(Arc::clone(&store), run.clone(), &"ada@ops".into(), first(), now).await.unwrap();
    for (step, seconds) in [3600, -3600, 0, 3600, 0].into_iter().enumerate() {
        jump.store(seconds, Ordering::Relaxed);
        journal.record(done(step as u64)).await.unwrap();
        journal.renew().await.unwrap();
    }
    let entries = store.records(&run).await.unwrap();
    assert_eq!(entries.len(), 6);
    assert!(entries.is_sorted_by_key(|entry| entry.elapsed_ms), "elapsed times come from the monotonic clock");
    let other = store.begin(&RunId("2".into()), &"bob@ops".into(), &entry(0, first())).await;
    assert!(other.is_err(), "the first one still holds it");
    journal
        .end(Record::RunEnded { end: handover::journal::RunEnd::Done, summary: String::new(), released: vec![] })
        .await
        .unwrap();
}

/// A lab, and an operator's folder.
struct World {
    lab: Lab,
    folder: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/layouts/torture.yaml");
        let lab = Lab::up(&Options { fast: true, delay: Duration::from_millis(4), ..Options::new(layout) }).unwrap();
        Self { lab, folder: tempfile::Builder::new().prefix("handover-store-").tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program in the operator's place, with a state directory of this name.
    fn command(&self, program: &str, state: &str) -> Command {
        let mut command = self.lab.command(program).unwrap();
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("HANDOVER_TOPOLOGY", self.lab.topology_path()).env("HANDOVER_STATE_DIR", self.path(state));
        command.env("HANDOVER", env!("CARGO_BIN_EXE_handover"));
        command
    }

    fn handover(&self, state: &str, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_handover"), state);
        command.args(args);
        if ["plan", "apply"].contains(&args[0]) {
            command.args(["--timeout", "15s"]);
        }
        command
    }

    /// A line of shell with mounts of its own, which end with it.
    fn script(&self, state: &str, script: &str) -> Answer {
        let mut command = self.command("unshare", state);
        run(command.args(["--mount", "--propagation", "private", "sh", "-ec", script]))
    }

    /// Makes a plan, which must be possible once health checks have passed.
    #[track_caller]
    fn plan(&self, state: &str, name: &str, args: &[&str]) -> String {
        let file = self.path(name).to_string_lossy().into_owned();
        let began = Instant::now();
        loop {
            let answer = run(self.handover(state, &["plan", "--out", &file]).args(args));
            if answer.code == 0 {
                return file;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{answer:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn apply(&self, state: &str, plan: &str) -> Command {
        self.handover(state, &["apply", "--auto-approve", plan])
    }

    /// What is live, as a plan for the drain would change it.
    #[track_caller]
    fn nothing_was_touched(&self) {
        run(&mut self.handover("untouched", &["plan", "--detailed-exitcode"])).code(0);
    }

    /// The verdict of `status`.
    #[track_caller]
    fn primary(&self) -> String {
        let answer = run(&mut self.handover("untouched", &["status", "--timeout", "15s", "--format", "json"]));
        let status: serde_json::Value =
            serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        status["databases"][0]["primary"].as_str().unwrap_or_default().to_owned()
    }
}

#[derive(Debug)]
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    #[track_caller]
    fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        let all = format!("{}\n{}", self.out, self.err).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(all.contains(text), "`{text}` is not said:\n{}\n{}", self.out, self.err);
        self
    }
}

fn answer(output: Output) -> Answer {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn run(command: &mut Command) -> Answer {
    answer(command.output().unwrap())
}

fn ended(child: Child) -> Answer {
    answer(child.wait_with_output().unwrap())
}

#[test]
fn a_store_that_fails_touches_nothing_and_leaves_nothing_half_done() {
    let world = World::start();
    let small = "mkdir -p \"$HANDOVER_STATE_DIR\" && mount -t tmpfs -o size=SIZE none \"$HANDOVER_STATE_DIR\"";

    // Proxies save their weights: from here on a bare plan is empty.
    let converge = world.plan("untouched", "converge.yaml", &[]);
    run(&mut world.apply("untouched", &converge)).code(0);

    // No room for a first record: nothing is touched.
    let drain = world.plan("untouched", "drain.yaml", &["--drain", "west"]);
    let full = format!(
        "{} && cat /dev/zero >\"$HANDOVER_STATE_DIR/other\" 2>/dev/null || exec \"$HANDOVER\" apply --auto-approve --timeout 15s {drain}",
        small.replace("SIZE", "256k")
    );
    world.script("full", &full).code(1).says("make room on its file system");
    world.nothing_was_touched();

    // A file system that is read-only.
    let read_only = format!(
        "mkdir -p \"$HANDOVER_STATE_DIR\" && mount --bind -o ro \"$HANDOVER_STATE_DIR\" \"$HANDOVER_STATE_DIR\" && mount -o remount,ro,bind \"$HANDOVER_STATE_DIR\" && exec \"$HANDOVER\" apply --auto-approve --timeout 15s {drain}"
    );
    world.script("read-only", &read_only).code(1).says("name another directory with --state-dir");
    world.nothing_was_touched();

    // Room that ends midway: it stops with its reason; nobody waits, and a new plan elsewhere does the rest.
    let ends =
        format!("{} && exec \"$HANDOVER\" apply --auto-approve --timeout 15s {drain}", small.replace("SIZE", "160k"));
    let answer = world.script("ends", &ends);
    assert!([1, 4].contains(&answer.code), "{answer:?}");
    answer.says("make room on its file system");
    assert!(["west-pg1", "east-pg1"].contains(&world.primary().as_str()), "exactly one");

    // Two at once: one applies it, the other says who does.
    let drain = world.plan("state", "drain-2.yaml", &["--drain", "west"]);
    let both = [0, 1].map(|_| world.apply("state", &drain).spawn().unwrap());
    let mut both = both.map(ended);
    both.sort_by_key(|answer| answer.code);
    assert!(both[0].code == 0 && [3, 5].contains(&both[1].code), "{both:?}");
    assert_eq!(world.primary(), "east-pg1");

    // The wall clock jumps an hour forwards and backwards while a database is switched over. (Not while DNS is changed: a signature
    // with a time that is an hour off is refused, and that is the truth.)
    let back = world.plan("state", "restore.yaml", &["--restore", "west"]);
    run(&mut world.apply("state", &back)).code(0);
    let back = world.plan("state", "back.yaml", &["--primary", "orders=west"]);
    let clock = world.path("clock");
    fs::write(&clock, "+0").unwrap();
    let mut jumping = world.apply("state", &back);
    jumping.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
    jumping.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut jumping = jumping.spawn().unwrap();
    let mut jumps = 0;
    while jumping.try_wait().unwrap().is_none() {
        let aside = world.path("clock.new");
        fs::write(&aside, ["+3600", "-3600"][jumps % 2]).unwrap();
        fs::rename(&aside, &clock).unwrap();
        jumps += 1;
        std::thread::sleep(Duration::from_millis(150));
    }
    ended(jumping).code(0);
    assert!(jumps > 2, "the clock jumped only {jumps} times");
    assert_eq!(world.primary(), "west-pg1");
    // The lock was given back, although its expiry lay in the future; and the journal tells the story.
    let there = world.plan("state", "there.yaml", &["--primary", "orders=east"]);
    run(&mut world.apply("state", &there)).code(0);
    run(&mut world.handover("state", &["runs", "show", "last"])).code(0);
    world.lab.down().unwrap();
}

fn faketime() -> &'static str {
    let libraries = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ];
    libraries.into_iter().find(|library| Path::new(library).exists()).expect("the package libfaketime: lab/install.sh")
}
