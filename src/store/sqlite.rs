//! The embedded store: one SQLite file on the operator's machine. It covers that machine, and no other.
//!
//! Every write is one immediate transaction in WAL mode with `synchronous = FULL`: when a call returns, the record has been synced
//! to the disk. A killed process leaves a file that the next one opens as it is.

mod lease;
mod schema;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use self::lease::{held, next_token, not_used, prolong, take_lock};
use self::schema::{FILE, VERSION, connect};
use crate::journal::{
    Entry, Hold, Holder, Lease, Lock, Moment, Record, RunEnd, RunId, RunSummary, Sighting, Store, StoreError,
};

/// How long a lease lasts after its last renewal or append.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long a write waits for another process that is just writing.
const BUSY: Duration = Duration::from_secs(5);

/// How long a write waits that is not worth waiting for.
const BRIEFLY: Duration = Duration::from_millis(50);

/// Why the file could not be used, with what the operator can do.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("{0}; make sure that you own it and may write there, or name another directory with --state-dir")]
    Directory(#[source] io::Error),
    #[error("{0}; {1}")]
    Sqlite(#[source] rusqlite::Error, &'static str),
    #[error("it was written by a newer handover (schema {found}, this one knows {VERSION}); use that one")]
    Newer { found: i64 },
    #[error("it is an SQLite database, but not one of handover's; name another directory with --state-dir")]
    Foreign,
    #[error("a record in it cannot be read: {0}; it was damaged, or written by another version of handover")]
    Record(#[from] serde_json::Error),
    #[error("a time in it cannot be read: {0}; the file was damaged")]
    Time(#[from] jiff::Error),
    #[error("a number in it is out of range; the file was damaged")]
    Range,
    #[error("a run must begin with its `run_started` record and end with `run_ended`")]
    Order,
    #[error("the thread that was writing ended early: {0}")]
    Thread(#[source] tokio::task::JoinError),
}

impl From<rusqlite::Error> for Cause {
    fn from(error: rusqlite::Error) -> Self {
        let advice = match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                "the file is damaged: bring it back from a backup, or move it away (its runs and holds are forgotten then)"
            }
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                "make sure that you own it and may write there, or name another directory with --state-dir"
            }
            Some(ErrorCode::DiskFull) => "make room on its file system",
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "another process has been writing to it for seconds: see which one with `fuser`"
            }
            _ => "look at its file system and the system's log",
        };
        Self::Sqlite(error, advice)
    }
}

/// What a call can end with, before the place is known.
enum Failure {
    Cause(Cause),
    Known(StoreError),
}

impl<E: Into<Cause>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Cause(error.into())
    }
}

/// The embedded store of one topology.
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    topology: String,
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens `handover.sqlite3` in `dir` for the topology `name`, making both where they do not exist (directory 0700, file 0600).
    /// Blocks for a few milliseconds.
    ///
    /// # Errors
    /// If directory or file cannot be made or written, the file is damaged or not handover's, or a newer handover wrote it.
    pub fn open(dir: &Path, name: &str) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        match connect(dir, &path) {
            Ok(connection) => {
                let inner = Inner { topology: name.to_owned(), path, connection: Mutex::new(connection) };
                Ok(Self { inner: Arc::new(inner) })
            }
            Err(cause) => Err(failed(&path, "opening it", cause)),
        }
    }

    async fn transact<T: Send + 'static>(
        &self,
        doing: &'static str,
        behaviour: TransactionBehavior,
        work: impl FnOnce(&Transaction<'_>, &str) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.transact_within(BUSY, doing, behaviour, work).await
    }

    /// Runs `work` in one transaction on a thread that may block. Once begun it goes on to its end, even if the caller stops waiting.
    /// `patience` is how long it waits for another process that is writing.
    async fn transact_within<T: Send + 'static>(
        &self,
        patience: Duration,
        doing: &'static str,
        behaviour: TransactionBehavior,
        work: impl FnOnce(&Transaction<'_>, &str) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let blocking = move || {
            // A poisoned lock is usable: the transaction of the thread that panicked was rolled back.
            let mut connection = inner.connection.lock().unwrap_or_else(PoisonError::into_inner);
            connection.busy_timeout(patience)?;
            let transaction = connection.transaction_with_behavior(behaviour)?;
            let value = work(&transaction, &inner.topology)?;
            transaction.commit()?;
            Ok(value)
        };
        let done: Result<T, Failure> = match tokio::task::spawn_blocking(blocking).await {
            Ok(done) => done,
            Err(error) => Err(Failure::Cause(Cause::Thread(error))),
        };
        done.map_err(|failure| match failure {
            Failure::Known(error) => error,
            Failure::Cause(cause) => failed(&self.inner.path, doing, cause),
        })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn begin(&self, run: &RunId, holder: &Holder, entry: &Entry) -> Result<Lease, StoreError> {
        let (run, holder, entry) = (run.clone(), holder.clone(), entry.clone());
        self.transact("beginning a run", TransactionBehavior::Immediate, move |transaction, topology| {
            let Record::RunStarted { plan, plan_digest, operator, holds, title, .. } = &entry.record else {
                return Err(Cause::Order.into());
            };
            let token = take_lock(transaction, topology, &run, &holder, None, entry.at)?;
            not_used(transaction, topology, plan_digest)?;
            transaction.execute(
                "INSERT INTO runs (run, topology, plan, plan_digest, operator, started, title)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![run.0, topology, plan, plan_digest, operator, entry.at.to_string(), title],
            )?;
            insert(transaction, &run, &entry)?;
            make_holds(transaction, topology, holds)?;
            Ok(Lease { run, token })
        })
        .await
    }

    async fn resume(
        &self,
        run: &RunId,
        holder: &Holder,
        dead: Option<&Lock>,
        now: Moment,
        record: &Record,
    ) -> Result<(Lease, u64), StoreError> {
        let (run, holder, dead, record) = (run.clone(), holder.clone(), dead.map(|lock| lock.token), record.clone());
        self.transact("going on with a run", TransactionBehavior::Immediate, move |transaction, topology| {
            let Record::RunResumed { holds, .. } = &record else { return Err(Cause::Order.into()) };
            let token = take_lock(transaction, topology, &run, &holder, dead, now.at)?;
            let again = "UPDATE runs SET ended = NULL WHERE run = ?1 AND topology = ?2 AND pruned = 0";
            if transaction.execute(again, params![run.0, topology])? == 0 {
                return Err(Failure::Known(StoreError::NoRun { run }));
            }
            let last = "SELECT max(sequence) FROM records WHERE run = ?1";
            let last: i64 = transaction.query_row(last, params![run.0], |row| row.get(0))?;
            let sequence = u64::try_from(last).map_err(|_| Cause::Range)? + 1;
            insert(transaction, &run, &Entry::new(sequence, now, record.clone()))?;
            make_holds(transaction, topology, holds)?;
            Ok((Lease { run, token }, sequence))
        })
        .await
    }

    async fn lock(&self) -> Result<Option<Lock>, StoreError> {
        self.transact("looking at the lock", TransactionBehavior::Deferred, |transaction, topology| {
            Ok(held(transaction, topology)?.and_then(|(_, lock)| lock))
        })
        .await
    }

    async fn unlock(&self, lock: &Lock, by: &Holder, now: Timestamp) -> Result<bool, StoreError> {
        let (lock, by) = (lock.clone(), by.name.clone());
        self.transact("giving a lock back", TransactionBehavior::Immediate, move |transaction, topology| {
            let token = i64::try_from(lock.token).map_err(|_| Cause::Range)?;
            let update = "UPDATE lease SET run = NULL WHERE topology = ?1 AND token = ?2 AND run = ?3";
            if transaction.execute(update, params![topology, token, lock.run.0])? == 0 {
                return Ok(false);
            }
            let last = "SELECT sequence, elapsed_ms FROM records WHERE run = ?1 ORDER BY sequence DESC LIMIT 1";
            let last = transaction
                .query_row(last, params![lock.run.0], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
            let (sequence, elapsed_ms) = last?;
            let positive = |number: i64| u64::try_from(number).map_err(|_| Cause::Range);
            let (sequence, elapsed_ms) = (positive(sequence)? + 1, positive(elapsed_ms)?);
            insert(transaction, &lock.run, &Entry { sequence, at: now, elapsed_ms, record: Record::Unlocked { by } })?;
            Ok(true)
        })
        .await
    }

    async fn may_begin(&self, plan_digest: &str, now: Timestamp) -> Result<(), StoreError> {
        let digest = plan_digest.to_owned();
        self.transact("looking at the lock", TransactionBehavior::Deferred, move |transaction, topology| {
            next_token(transaction, topology, None, now)?;
            not_used(transaction, topology, &digest)
        })
        .await
    }

    async fn append(&self, lease: &Lease, entry: &Entry) -> Result<(), StoreError> {
        let (lease, entry) = (lease.clone(), entry.clone());
        self.transact("appending a record", TransactionBehavior::Immediate, move |transaction, topology| {
            prolong(transaction, topology, &lease, entry.at)?;
            Ok(insert(transaction, &lease.run, &entry)?)
        })
        .await
    }

    async fn renew(&self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.transact("prolonging the lock", TransactionBehavior::Immediate, move |transaction, topology| {
            prolong(transaction, topology, &lease, now)
        })
        .await
    }

    async fn end(&self, lease: &Lease, entry: &Entry) -> Result<(), StoreError> {
        let (lease, entry) = (lease.clone(), entry.clone());
        self.transact("ending a run", TransactionBehavior::Immediate, move |transaction, topology| {
            let Record::RunEnded { end, released, .. } = &entry.record else { return Err(Cause::Order.into()) };
            prolong(transaction, topology, &lease, entry.at)?;
            insert(transaction, &lease.run, &entry)?;
            let ended = "UPDATE runs SET ended = ?2 WHERE run = ?1";
            transaction.execute(ended, params![lease.run.0, serde_json::to_string(end)?])?;
            for kind in released {
                transaction.execute(
                    "DELETE FROM holds WHERE topology = ?1 AND kind = ?2",
                    params![topology, serde_json::to_string(kind)?],
                )?;
            }
            transaction.execute("UPDATE lease SET run = NULL WHERE topology = ?1", params![topology])?;
            Ok(())
        })
        .await
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.transact("reading the holds", TransactionBehavior::Deferred, |transaction, topology| {
            let mut query = transaction.prepare_cached("SELECT hold FROM holds WHERE topology = ?1 ORDER BY rowid")?;
            let rows = query.query_map(params![topology], |row| row.get::<_, String>(0))?;
            rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
        })
        .await
    }

    async fn runs(&self) -> Result<Vec<RunSummary>, StoreError> {
        self.transact("reading the runs", TransactionBehavior::Deferred, |transaction, topology| {
            // The last record is found by the primary key: nothing is read of those before it.
            let mut query = transaction.prepare_cached(
                "SELECT runs.run, plan, started, operator, title, ended, lease.expires_ms,
                     (SELECT at FROM records WHERE records.run = runs.run ORDER BY sequence DESC LIMIT 1)
                 FROM runs LEFT JOIN lease ON lease.topology = runs.topology AND lease.run = runs.run
                 WHERE runs.topology = ?1 AND pruned = 0 ORDER BY runs.rowid DESC",
            )?;
            let rows = query.query_map(params![topology], |row| {
                let texts: [String; 5] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
                let rest: (Option<String>, Option<i64>, Option<String>) = (row.get(5)?, row.get(6)?, row.get(7)?);
                Ok((texts, rest))
            })?;
            rows.map(|row| {
                let ([run, plan, started, operator, title], (ended, expires_ms, last)) = row?;
                let end: Option<RunEnd> = ended.map(|ended| serde_json::from_str(&ended)).transpose()?;
                let started: Timestamp = started.parse()?;
                let last = last.map(|last| last.parse()).transpose()?.unwrap_or(started);
                let leased_until = expires_ms.map(Timestamp::from_millisecond).transpose()?;
                Ok(RunSummary { run: RunId(run), plan, started, operator, end, title, last, leased_until })
            })
            .collect()
        })
        .await
    }

    async fn records(&self, run: &RunId) -> Result<Vec<Entry>, StoreError> {
        self.records_from(run, 0).await
    }

    async fn records_from(&self, run: &RunId, sequence: u64) -> Result<Vec<Entry>, StoreError> {
        let run = run.clone();
        self.transact("reading a run's records", TransactionBehavior::Deferred, move |transaction, _| {
            let mut query = transaction.prepare_cached(
                "SELECT sequence, at, elapsed_ms, record FROM records WHERE run = ?1 AND sequence >= ?2 ORDER BY sequence",
            )?;
            let first = i64::try_from(sequence).map_err(|_| Cause::Range)?;
            let rows = query.query_map(params![run.0, first], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get::<_, String>(3)?))
            })?;
            rows.map(|row| {
                let (sequence, at, elapsed_ms, record) = row?;
                let positive = |number: i64| u64::try_from(number).map_err(|_| Cause::Range);
                let (sequence, elapsed_ms) = (positive(sequence)?, positive(elapsed_ms)?);
                Ok(Entry { sequence, at: at.parse()?, elapsed_ms, record: serde_json::from_str(&record)? })
            })
            .collect()
        })
        .await
    }

    async fn prune(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        let runs = runs.to_vec();
        self.transact("pruning runs", TransactionBehavior::Immediate, move |transaction, topology| {
            let mut holds = transaction.prepare_cached("SELECT hold FROM holds WHERE topology = ?1")?;
            let rows = holds.query_map(params![topology], |row| row.get::<_, String>(0))?;
            let holding: Vec<RunId> =
                rows.map(|row| Ok(serde_json::from_str::<Hold>(&row?)?.run)).collect::<Result<_, Cause>>()?;
            let over = [RunEnd::Done, RunEnd::Undone, RunEnd::Refused].map(|end| serde_json::to_string(&end));
            let [done, undone, refused] = over;
            let over = [done?, undone?, refused?];
            let mut forget = transaction.prepare_cached(
                "UPDATE runs SET pruned = 1, operator = '', title = '' WHERE run = ?1 AND topology = ?2 AND pruned = 0
                     AND ended IN (?3, ?4, ?5)
                     AND NOT EXISTS (SELECT 1 FROM lease WHERE lease.topology = ?2 AND lease.run = ?1)",
            )?;
            let mut pruned = Vec::new();
            for run in runs.into_iter().filter(|run| !holding.contains(run)) {
                if forget.execute(params![run.0, topology, over[0], over[1], over[2]])? > 0 {
                    transaction.prepare_cached("DELETE FROM records WHERE run = ?1")?.execute(params![run.0])?;
                    pruned.push(run);
                }
            }
            Ok(pruned)
        })
        .await
    }

    async fn saw(&self, sightings: Vec<Sighting>) -> Result<(), StoreError> {
        let (doing, behaviour) = ("noting who answers", TransactionBehavior::Immediate);
        self.transact_within(BRIEFLY, doing, behaviour, move |transaction, topology| {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO sightings (topology, target, looked_ms, sighting) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (topology, target) DO UPDATE SET looked_ms = excluded.looked_ms, sighting = excluded.sighting
                     WHERE excluded.looked_ms >= sightings.looked_ms",
            )?;
            for sighting in &sightings {
                let (looked, text) = (sighting.looked().as_millisecond(), serde_json::to_string(sighting)?);
                insert.execute(params![topology, sighting.target.as_str(), looked, text])?;
            }
            Ok(())
        })
        .await
    }

    async fn sightings(&self) -> Result<Vec<Sighting>, StoreError> {
        self.transact("reading who answered", TransactionBehavior::Deferred, |transaction, topology| {
            let query = "SELECT sighting FROM sightings WHERE topology = ?1 ORDER BY target";
            let mut query = transaction.prepare_cached(query)?;
            let rows = query.query_map(params![topology], |row| row.get::<_, String>(0))?;
            rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
        })
        .await
    }
}

fn make_holds(transaction: &Transaction<'_>, topology: &str, holds: &[Hold]) -> Result<(), Cause> {
    let insert = "INSERT OR REPLACE INTO holds (topology, subject, kind, hold) VALUES (?1, ?2, ?3, ?4)";
    for hold in holds {
        let (kind, text) = (serde_json::to_string(&hold.kind)?, serde_json::to_string(hold)?);
        transaction.execute(insert, params![topology, hold.kind.subject(), kind, text])?;
    }
    Ok(())
}

fn insert(transaction: &Transaction<'_>, run: &RunId, entry: &Entry) -> Result<(), Cause> {
    let number = |number: u64| i64::try_from(number).map_err(|_| Cause::Range);
    let mut insert = transaction
        .prepare_cached("INSERT INTO records (run, sequence, at, elapsed_ms, record) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    insert.execute(params![
        run.0,
        number(entry.sequence)?,
        entry.at.to_string(),
        number(entry.elapsed_ms)?,
        serde_json::to_string(&entry.record)?
    ])?;
    Ok(())
}

fn failed(path: &Path, doing: &'static str, cause: Cause) -> StoreError {
    StoreError::Failed { place: path.display().to_string(), doing, source: Box::new(cause) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::os::unix::fs::PermissionsExt;

    use super::super::contract::{Bench, first, store_contract};
    use super::schema::{APPLICATION, SCHEMA};
    use super::*;

    /// A directory that goes away with the test.
    struct Dir(tempfile::TempDir);

    impl Bench for Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn open(&self) -> Arc<dyn Store> {
            Arc::new(SqliteStore::open(self.0.path(), "clickbank").unwrap())
        }
    }

    store_contract!(Dir);

    fn refusal(dir: &Path) -> String {
        match SqliteStore::open(dir, "clickbank") {
            Ok(_) => panic!("opened"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn only_the_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("state/clickbank");
        let _store = SqliteStore::open(&inner, "clickbank").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        for file in [FILE, "handover.sqlite3-wal", "handover.sqlite3-shm"] {
            assert_eq!(mode(&inner.join(file)), 0o600, "{file}");
        }
    }

    #[test]
    fn commits_are_synced() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path(), "clickbank").unwrap();
        let connection = store.inner.connection.lock().unwrap();
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "this is no database, whatever its name says\n".repeat(100)).unwrap();
        let refusal = refusal(dir.path());
        assert!(refusal.contains("file is not a database") && refusal.contains("from a backup"), "{refusal}");
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(SqliteStore::open(dir.path(), "clickbank").unwrap());
        let path = dir.path().join(FILE);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(refusal(dir.path()).contains("newer handover (schema 7, this one knows 3)"));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[tokio::test]
    async fn a_file_of_the_first_version_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let old = Connection::open(dir.path().join(FILE)).unwrap();
        old.execute_batch(SCHEMA).unwrap();
        old.pragma_update(None, "application_id", APPLICATION).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        let begun = r#"{"record":"run_started","plan":"p","plan_digest":"d","operator":"ada@ops pid 1","holds":[]}"#;
        let rows = format!(
            "INSERT INTO runs VALUES ('1', 'clickbank', 'p', 'd', 'ada@ops pid 1', '2026-11-23T06:15:03Z', NULL);
             INSERT INTO records VALUES ('1', 0, '2026-11-23T06:15:03Z', 0, '{begun}');"
        );
        old.execute_batch(&rows).unwrap();
        drop(old);
        let store = SqliteStore::open(dir.path(), "clickbank").unwrap();
        assert_eq!(store.sightings().await.unwrap(), []);
        let [listed] = store.runs().await.unwrap().try_into().unwrap();
        assert_eq!((listed.run.0.as_str(), listed.title.as_str(), listed.last), ("1", "", listed.started));
        let records = store.records(&RunId("1".into())).await.unwrap();
        assert!(matches!(&records[0].record, Record::RunStarted { document: None, .. }), "{records:?}");
    }

    /// An observation never waits for somebody who writes, and is not kept from reading.
    #[tokio::test]
    async fn while_somebody_writes_the_file_is_opened_and_read_and_nothing_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path(), "clickbank").unwrap();
        let mut other = Connection::open(dir.path().join(FILE)).unwrap();
        let writing = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let began = std::time::Instant::now();
        let again = SqliteStore::open(dir.path(), "clickbank").unwrap();
        let seen = Sighting {
            target: crate::model::TargetId::proxy("west-lb1"),
            at: Some(Timestamp::UNIX_EPOCH),
            member: None,
            silence: None,
            quiet: None,
        };
        assert!(store.saw(vec![seen.clone()]).await.is_err());
        assert_eq!((again.sightings().await.unwrap(), again.holds().await.unwrap()), (vec![], vec![]));
        assert!(began.elapsed() < BUSY, "it waited for its turn: {:?}", began.elapsed());
        writing.rollback().unwrap();
        store.saw(vec![seen.clone()]).await.unwrap();
        assert_eq!(again.sightings().await.unwrap(), [seen]);
    }

    #[test]
    fn a_database_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = Connection::open(dir.path().join(FILE)).unwrap();
        other.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
        drop(other);
        assert!(refusal(dir.path()).contains("not one of handover's"));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("state"), "a file").unwrap();
        let refusal = refusal(&dir.path().join("state/clickbank"));
        assert!(refusal.contains("state/clickbank/handover.sqlite3") && refusal.contains("--state-dir"), "{refusal}");
    }

    #[tokio::test]
    async fn topologies_in_one_file_do_not_lock_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let one = SqliteStore::open(dir.path(), "one").unwrap();
        let two = SqliteStore::open(dir.path(), "two").unwrap();
        one.begin(&RunId("1".into()), &"ada@west".into(), &first(0, "a", &[])).await.unwrap();
        two.begin(&RunId("2".into()), &"ada@west".into(), &first(0, "a", &[])).await.unwrap();
        assert_eq!(one.runs().await.unwrap().len(), 1);
    }
}
