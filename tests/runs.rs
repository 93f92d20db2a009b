//! `handover runs` on a store without any target: lists, shows, follows and prunes what a journal holds.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use handover::journal::{Entry, Hold, HoldKind, Lease, Record, RunEnd, RunId, Store};
use handover::plan::StepId;
use handover::store::SqliteStore;
use jiff::{SignedDuration, Timestamp};

const TOPOLOGY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cmd/small.yaml");

/// The name of that topology.
const NAME: &str = "shop";

fn command(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
    command.arg("runs").args(arguments).env("HANDOVER_TOPOLOGY", TOPOLOGY).env("HANDOVER_STATE_DIR", state);
    command.stdin(Stdio::null());
    command
}

/// Exit code, standard output, standard error.
fn runs(state: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(state, arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn entry(sequence: u64, at: Timestamp, record: Record) -> Entry {
    Entry { sequence, at, elapsed_ms: sequence * 10, record }
}

async fn begin(store: &SqliteStore, run: &str, at: Timestamp, holds: Vec<Hold>) -> Lease {
    let first = Record::RunStarted {
        plan: format!("plan-{run}"),
        plan_digest: format!("digest-{run}"),
        operator: "ada@ops pid 4711".to_owned(),
        holds,
        title: "drain west".to_owned(),
        document: None,
        overrides: handover::plan::Overrides::new(),
    };
    store.begin(&RunId(run.to_owned()), &"ada@ops pid 4711".into(), &entry(0, at, first)).await.unwrap()
}

fn done(step: usize) -> Record {
    Record::StepDone { step: StepId(format!("step.{step}")), verified: "read back".to_owned() }
}

fn ended(end: RunEnd) -> Record {
    Record::RunEnded { end, summary: format!("it ended: {end:?}"), released: Vec::new() }
}

async fn whole(store: &SqliteStore, run: &str, at: Timestamp, holds: Vec<Hold>, end: RunEnd) {
    let lease = begin(store, run, at, holds).await;
    store.end(&lease, &entry(1, at, ended(end))).await.unwrap();
}

fn ago(days: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24 * days)
}

#[tokio::test]
async fn runs_are_listed_shown_and_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    assert!(runs(&state, &[]).1.starts_with("No run yet."));
    assert_eq!(runs(&state, &["show"]).0, 1);

    let store = SqliteStore::open(&state, NAME).unwrap();
    let hold = |run: &str| Hold {
        kind: HoldKind::Drained { facility: "west".into() },
        by: "ada@ops".to_owned(),
        since: ago(120),
        reason: None,
        review_by: None,
        run: RunId(run.to_owned()),
    };
    whole(&store, "20260701-a", ago(140), Vec::new(), RunEnd::Done).await;
    whole(&store, "20260702-b", ago(130), Vec::new(), RunEnd::Stopped).await;
    whole(&store, "20260703-c", ago(120), vec![hold("20260703-c")], RunEnd::Done).await;
    whole(&store, "20260704-d", ago(110), Vec::new(), RunEnd::Undone).await;
    whole(&store, "20261101-e", ago(10), Vec::new(), RunEnd::Stuck).await;
    let lease = begin(&store, "20261123-f", Timestamp::now(), Vec::new()).await;

    let (code, text, _) = runs(&state, &[]);
    assert_eq!(code, 0);
    assert!(text.starts_with("In progress: drain west, by ada@ops pid 4711 since "), "{text}");
    let listed = json(&runs(&state, &["--format", "json"]).1);
    let told: Vec<(&str, &str, i64)> = (listed["runs"].as_array().unwrap().iter())
        .map(|run| {
            (run["run"].as_str().unwrap(), run["state"].as_str().unwrap(), run["exit_code"].as_i64().unwrap_or(-1))
        })
        .collect();
    let expected = [
        ("20261123-f", "running", -1),
        ("20261101-e", "stuck", 6),
        ("20260704-d", "undone", 3),
        ("20260703-c", "done", 0),
        ("20260702-b", "stopped", 4),
        ("20260701-a", "done", 0),
    ];
    assert_eq!(told, expected);

    let (code, text, _) = runs(&state, &["show", "20261101"]);
    assert!(code == 0 && text.starts_with("STUCK: it ended: Stuck") && text.contains("by hand"), "{text}");
    assert!(runs(&state, &["show"]).1.starts_with("RUNNING: drain west"), "the last one");
    let (code, _, why) = runs(&state, &["show", "202607"]);
    assert!(code == 1 && why.contains("may be 4 runs"), "{why}");
    assert_eq!(json(&runs(&state, &["show", "2027", "--format", "json"]).1)["result"], "error");

    // A report, to standard output or into a file whose name says how.
    let report = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
        command.arg("report").args(arguments).env("HANDOVER_TOPOLOGY", TOPOLOGY).env("HANDOVER_STATE_DIR", &state);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = report(&["20261101"]);
    assert!(code == 0 && text.starts_with("# drain west: stuck\n"), "{text}");
    let file = folder.path().join("report.html");
    assert_eq!(report(&["20261101", "--out", file.to_str().unwrap()]), (0, String::new()));
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg "), "{page}");
    assert_eq!(report(&["2027"]).0, 1);
    assert_eq!(report(&["last", "--out", "/nowhere/report.md"]).0, 1);

    // Asked for, but needed: it says so, and asks before it removes the others.
    assert_eq!(runs(&state, &["prune"]).0, 64);
    let (code, text, _) = runs(&state, &["prune", "--older-than", "90d", "--dry-run"]);
    assert_eq!(code, 0);
    assert!(text.contains("To be removed: 2 runs") && text.contains("20260702-b: it stopped midway"), "{text}");
    assert!(text.contains("20260703-c: a hold that it made is in force"), "{text}");
    let (code, _, why) = runs(&state, &["prune", "--older-than", "90d"]);
    assert!(code == 64 && why.contains("--yes"), "{why}");
    assert_eq!(store.runs().await.unwrap().len(), 6, "nothing was removed yet");
    let pruned = json(&runs(&state, &["prune", "--keep", "0", "--older-than", "90d", "--yes", "--format", "json"]).1);
    assert_eq!(pruned["removed"], serde_json::json!(["20260704-d", "20260701-a"]));
    assert_eq!(runs(&state, &["show", "20260701"]).0, 1);
    assert_eq!(store.runs().await.unwrap().len(), 4);
    store.end(&lease, &entry(1, Timestamp::now(), ended(RunEnd::Done))).await.unwrap();

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for file in std::fs::read_dir(&state).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_run_is_followed_until_it_ends() {
    for (end, code) in [(RunEnd::Done, 0), (RunEnd::Undone, 3), (RunEnd::Stopped, 4), (RunEnd::Stuck, 6)] {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), NAME).unwrap();
        let lease = begin(&store, "20261123-f", Timestamp::now(), Vec::new()).await;
        let mut child = command(folder.path(), &["follow", "last"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // Each record is heard before the next one is written.
        assert!(lines.next().unwrap().contains("begun by ada@ops pid 4711"));
        for step in 1..4 {
            store.append(&lease, &entry(step as u64, Timestamp::now(), done(step))).await.unwrap();
            let line = lines.next().unwrap();
            assert!(line.ends_with(&format!("done: step.{step}: read back")), "{line}");
        }
        store.end(&lease, &entry(4, Timestamp::now(), ended(end))).await.unwrap();
        assert!(lines.next().unwrap().contains("run ended"));
        assert_eq!(lines.next(), None);
        assert_eq!(child.wait().unwrap().code(), Some(code));

        // Once it is over, everything is told at once.
        let (again, text, _) = runs(folder.path(), &["follow", "--format", "json"]);
        let records: Vec<_> = text.lines().map(json).collect();
        assert_eq!((again, records.len()), (code, 5));
        assert_eq!(records[4]["record"]["record"], "run_ended");
    }
}

#[tokio::test]
async fn following_ends_when_nobody_carries_the_run_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path(), NAME).unwrap();
    begin(&store, "20261123-f", ago(1), Vec::new()).await;
    let (code, text, why) = runs(folder.path(), &["follow"]);
    assert_eq!((code, text.lines().count()), (4, 1));
    assert!(why.contains("nobody carries out run 20261123-f any more"), "{why}");
    assert!(runs(folder.path(), &["show"]).1.starts_with("DIED: drain west"));
}

/// Opening and listing do not read the records: a thousand times as many cost next to nothing.
#[tokio::test]
async fn a_long_journal_is_listed_as_fast_as_a_short_one() {
    let fill = |records: i64| {
        let folder = tempfile::tempdir().unwrap();
        drop(SqliteStore::open(folder.path(), NAME).unwrap());
        let mut database = rusqlite::Connection::open(folder.path().join("handover.sqlite3")).unwrap();
        let transaction = database.transaction().unwrap();
        let record = serde_json::to_string(&done(1)).unwrap();
        for run in 0..20 {
            let sql = "INSERT INTO runs (run, topology, plan, plan_digest, operator, started, ended, title)
                       VALUES (?1, ?2, 'p', ?1, 'ada@ops', '2026-11-23T06:15:03Z', '\"done\"', 'drain west')";
            transaction.execute(sql, (format!("20261123-{run:02}"), NAME)).unwrap();
            for sequence in 0..records / 20 {
                let sql = "INSERT INTO records (run, sequence, at, elapsed_ms, record) VALUES (?1, ?2, ?3, 0, ?4)";
                let values = (format!("20261123-{run:02}"), sequence, "2026-11-23T06:15:03Z", &record);
                transaction.prepare_cached(sql).unwrap().execute(values).unwrap();
            }
        }
        transaction.commit().unwrap();
        folder
    };
    let (short, long) = (fill(100), fill(100_000));
    let mut best = [Duration::MAX; 2];
    for _ in 0..20 {
        for (folder, best) in [&short, &long].into_iter().zip(&mut best) {
            let began = Instant::now();
            let store = SqliteStore::open(folder.path(), NAME).unwrap();
            assert_eq!(store.runs().await.unwrap().len(), 20);
            *best = (*best).min(began.elapsed());
        }
    }
    println!("open and list: {best:?}");
    assert!(best[1] < best[0] * 10 + Duration::from_millis(5), "{best:?}");
}
