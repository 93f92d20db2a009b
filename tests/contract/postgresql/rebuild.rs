//! Members whose history is not the primary's, or that did not end cleanly, become replicas again; what only they have is kept first.

use std::path::{Path, PathBuf};

use handover::model::{Diverged, Setting, SettingValue};

use super::*;
use crate::servers::give;

/// Rows that only the old primary has.
const LOST: &str = "SELECT count(*) FROM ledger WHERE id BETWEEN 1000 AND 1999";

impl Pair {
    /// `b-pg1` is cut off and becomes primary; `a-pg1` goes on writing, and loses its power.
    fn diverge(&self) {
        self.part(true);
        self.lose_power();
    }

    /// What a power cut leaves: nothing is cleaned up, `postmaster.pid` says what it said, of a process that is no more.
    fn lose_power(&self) {
        let file = self.a.data.join("postmaster.pid");
        let said = std::fs::read_to_string(&file).unwrap();
        self.a.kill();
        // Not its own number: where nobody buries the dead, as in a container, it would go on to block a start.
        let (_, rest) = said.split_once('\n').unwrap();
        std::fs::write(&file, format!("{}\n{rest}", u32::MAX >> 10)).unwrap();
        give(&file);
    }

    fn part(&self, diverge: bool) {
        self.a.sql("INSERT INTO ledger (id) SELECT generate_series(1, 100)");
        let end = self.a.sql("SELECT pg_current_wal_flush_lsn()");
        self.b.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");
        self.b.sql("ALTER SYSTEM SET primary_conninfo = ''");
        self.b.sql("SELECT pg_reload_conf()");
        self.b.until("SELECT count(*) FROM pg_stat_wal_receiver", "0");
        if diverge {
            for id in 0..5 {
                self.a.sql(&format!("INSERT INTO ledger (id) VALUES ({})", 1000 + id));
            }
            self.a.sql("CREATE TABLE only_here (id int); INSERT INTO only_here VALUES (1)");
        }
        self.b.sql("SELECT pg_promote()");
        self.b.until("SELECT pg_is_in_recovery()", "f");
        self.b.sql("INSERT INTO ledger (id) SELECT generate_series(101, 200)");
    }

    fn rebuild(&self) -> Action {
        Action::Rebuild { primary: self.b.peer(), chosen: false }
    }

    /// It follows, has what the primary has and nothing else, listens where it did, and goes on following.
    async fn is_whole_again(&self) {
        assert!(self.holds(&self.a, &Condition::Follows { primary: self.b.peer() }).await, "{}", self.a.log());
        self.b.sql("INSERT INTO ledger (id) SELECT coalesce(max(id), 0) + 1 FROM ledger");
        let rows = self.b.sql("SELECT count(*) FROM ledger");
        self.a.until("SELECT count(*) FROM ledger", &rows);
        assert_eq!(self.a.sql(LOST), "0");
        assert_eq!(self.a.sql("SHOW cluster_name"), "theirs", "its own configuration");
        assert_eq!(self.a.sql("SHOW primary_slot_name"), "a_pg1");
        for left in ["rebuild", "rebuild.new", "rebuilt", "discarded"] {
            assert!(!beside(&self.a, left).exists(), "{left}");
        }
        assert!(!self.a.data.join("handover.fenced").exists());
    }
}

fn beside(member: &Member, extension: &str) -> PathBuf {
    PathBuf::from(format!("{}.{extension}", member.data.display()))
}

async fn pair() -> Pair {
    let pair = Pair::start().await;
    let mut conf = std::fs::OpenOptions::new().append(true).open(pair.a.data.join("postgresql.conf")).unwrap();
    writeln!(conf, "cluster_name = theirs").unwrap();
    pair.a.stop();
    pair.a.start();
    pair.a.until("SELECT state FROM pg_stat_replication", "streaming");
    pair
}

fn with(member: &Member, key: &str, value: &str) -> Target {
    let mut target = member.target();
    let place = target.settings.place;
    let value = SettingValue::Text(value.to_owned());
    target.settings.entries.insert(key.to_owned(), (place, Setting { value, place }));
    target
}

fn diverged(outcome: Outcome) -> Option<Diverged> {
    match outcome {
        Outcome::Seen(facts) => facts.member().unwrap().diverged.clone(),
        other => panic!("{other:?}"),
    }
}

/// What every rebuild of a diverged member must have found and kept.
fn is_told(diverged: &Diverged) {
    assert!(diverged.listed && diverged.bytes > 0 && diverged.records > 7, "{diverged:?}");
    assert_eq!(diverged.transactions, 6, "{diverged:?}");
    let has = |what: &str| diverged.relations.iter().any(|relation| relation.contains(what));
    assert!(has("postgres.public.ledger") && has("postgres: relfilenode "), "{diverged:?}");
    let kept = Path::new(&diverged.kept_in);
    let records = std::fs::read_to_string(kept.join("records")).unwrap();
    assert_eq!(records.lines().count() as u64, diverged.records);
    assert!(records.contains("COMMIT"));
    assert!(std::fs::read_dir(kept.join("wal")).unwrap().count() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_lost_its_power_and_wrote_alone_is_rewound_and_all_that_it_had_is_kept() {
    let pair = pair().await;
    pair.diverge();
    let stopped = pair.observe(&pair.a).await;
    assert_eq!((stopped.role, stopped.lineage.timeline), (Role::Stopped, 1));
    let told = diverged(pair.apply(&pair.a, &pair.rebuild(), 120.0).await).unwrap();
    is_told(&told);
    assert!(told.data_kept && told.by == "pg_rewind", "{told:?}");
    // Where the histories part, the new primary knows as well.
    assert_eq!(pair.observe(&pair.b).await.history, [(1, told.from)]);
    assert!(Path::new(&told.kept_in).join("data/PG_VERSION").exists());
    pair.is_whole_again().await;
    // Twice is once.
    assert_eq!(diverged(pair.apply(&pair.a, &pair.rebuild(), 60.0).await), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_rewind_is_possible_a_new_copy_takes_its_place() {
    let pair = pair().await;
    let mut conf = std::fs::OpenOptions::new().append(true).open(pair.a.data.join("postgresql.conf")).unwrap();
    writeln!(conf, "wal_log_hints = off").unwrap();
    pair.a.stop();
    pair.a.start();
    pair.a.until("SELECT state FROM pg_stat_replication", "streaming");
    pair.diverge();
    let told = diverged(pair.apply(&pair.a, &pair.rebuild(), 120.0).await).unwrap();
    is_told(&told);
    assert!(told.by.starts_with("a new copy (neither wal_log_hints"), "{told:?}");
    assert!(told.data_kept && Path::new(&told.kept_in).join("data/PG_VERSION").exists(), "{told:?}");
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_wrote_nothing_alone_simply_follows() {
    let pair = pair().await;
    pair.part(false);
    pair.lose_power();
    assert_eq!(diverged(pair.apply(&pair.a, &pair.rebuild(), 120.0).await), None);
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_timeline_gives_way_only_where_somebody_has_chosen_so() {
    let pair = pair().await;
    pair.part(true);
    let survivor = pair.a.peer();
    let fenced = pair.apply(&pair.b, &Action::Fence { successor: survivor.clone() }, 60.0).await;
    assert!(matches!(fenced, Outcome::Seen(_)), "{fenced:?}");
    let rebuild = |chosen| Action::Rebuild { primary: survivor.clone(), chosen };
    let refused = pair.apply(&pair.b, &rebuild(false), 60.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("older history")), "{refused:?}");
    assert_eq!(pair.observe(&pair.b).await.role, Role::Fenced);
    let told = diverged(pair.apply(&pair.b, &rebuild(true), 120.0).await).unwrap();
    assert!(told.listed && told.transactions == 1 && told.by == "pg_rewind", "{told:?}");
    assert!(pair.holds(&pair.b, &Condition::Follows { primary: survivor }).await, "{}", pair.b.log());
    assert_eq!(pair.observe(&pair.b).await.lineage.timeline, 1);
    // It has what the survivor has, nothing else, and goes on following.
    pair.a.sql("INSERT INTO ledger (id) VALUES (2000)");
    let rows = pair.a.sql("SELECT count(*) FROM ledger");
    pair.b.until("SELECT count(*) FROM ledger", &rows);
    assert_eq!(pair.b.sql("SELECT count(*) FROM ledger WHERE id BETWEEN 101 AND 200"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_is_not_discarded_and_a_primary_that_runs_is_not_touched() {
    let pair = pair().await;
    pair.part(true);
    let refused = pair.apply(&pair.a, &pair.rebuild(), 30.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("fence it first")), "{refused:?}");
    pair.a.sql("INSERT INTO ledger (id) VALUES (1998)");
    pair.lose_power();
    let crowded = with(&pair.a, "keep_free", "900000 GiB");
    let refused = pair.provider.apply(&crowded, &pair.rebuild(), &pair.permit, within(60.0)).await;
    let Outcome::NotApplied(why) = &refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("not enough space"), "{why}");
    assert!(!pair.a.data.join("standby.signal").exists() && !beside(&pair.a, "rebuild").exists());
    // Only the log is kept, where that is what was asked for.
    let sparing = with(&pair.a, "keep_old", "wal");
    let told = diverged(pair.provider.apply(&sparing, &pair.rebuild(), &pair.permit, within(120.0)).await).unwrap();
    assert!(!told.data_kept && told.transactions == 7, "{told:?}");
    assert!(!Path::new(&told.kept_in).join("data").exists());
    pair.is_whole_again().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_killed_the_next_call_goes_on_and_nothing_is_lost() {
    for rewindable in [true, false] {
        let pair = pair().await;
        if !rewindable {
            let mut conf = std::fs::OpenOptions::new().append(true).open(pair.a.data.join("postgresql.conf")).unwrap();
            writeln!(conf, "wal_log_hints = off").unwrap();
            pair.a.stop();
            pair.a.start();
            pair.a.until("SELECT state FROM pg_stat_replication", "streaming");
        }
        pair.diverge();
        let stages: &[&str] = match rewindable {
            true => &["keep", "recover", "rewind", "copy", "swap", "follow"],
            false => &["keep", "copy", "swap", "follow"],
        };
        let mut killed = Vec::new();
        for stage in stages {
            if !killed_at(&pair, stage).await {
                continue;
            }
            killed.push(*stage);
            // Between the two renames of a swap: too short a time to be met.
            if *stage == "swap" && !rewindable && beside(&pair.a, "rebuilt").exists() && pair.a.data.exists() {
                std::fs::rename(&pair.a.data, kept(&pair)[0].join("data")).unwrap();
            }
        }
        // A stage that takes no time may be over before it is seen.
        assert!(killed.contains(&"keep") && killed.contains(&"copy"), "{killed:?}");
        common::taken(&pair.apply(&pair.a, &pair.rebuild(), 120.0).await);
        let kept = kept(&pair);
        assert_eq!(kept.len(), 1, "{kept:?}");
        let summary = std::fs::read_to_string(kept[0].join("summary")).unwrap();
        assert!(summary.contains("transactions=6"), "{summary}");
        assert!(summary.contains("data=yes") && kept[0].join("data/PG_VERSION").exists(), "{summary}");
        pair.is_whole_again().await;
    }
}

/// What was kept aside, of all calls.
fn kept(pair: &Pair) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(pair.site.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.display().to_string().contains(".diverged-")).collect()
}

/// Rebuilds, and ends everything that works on it by SIGKILL as soon as it is at `stage`. False if it ended before.
async fn killed_at(pair: &Pair, stage: &str) -> bool {
    let (provider, target, action) = (Arc::clone(&pair.provider), pair.a.target(), pair.rebuild());
    let permit = common::permit().await;
    let work = tokio::spawn(async move { provider.apply(&target, &action, &permit, within(120.0)).await });
    let wanted = format!("stage={stage}\n");
    let state = beside(&pair.a, "rebuild");
    while !work.is_finished() {
        if std::fs::read_to_string(&state).is_ok_and(|text| text.starts_with(&wanted)) {
            kill_workers(&pair.a.data);
            let outcome = work.await.unwrap();
            assert!(std::fs::read_to_string(&state).is_err() || !outcome.taken(), "{outcome:?}");
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Whatever stands in its way is a failure of the rebuild, and not of the one that was killed.
    common::taken(&work.await.unwrap());
    false
}

/// Everything that has the data directory among its arguments but is no server of its own, again until nothing is left.
fn kill_workers(data: &Path) {
    let mark = data.to_str().unwrap();
    loop {
        let mut found = false;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            let server = line.split('\0').next().is_some_and(|program| program.ends_with("/postgres"));
            if pid != std::process::id() && line.contains(mark) && !server {
                found = true;
                let _ =
                    std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
        if !found {
            return;
        }
    }
}
