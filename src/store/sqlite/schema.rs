//! The file: its place, its tables, and how older ones are brought up to date.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{BUSY, Cause};

pub(super) const FILE: &str = "handover.sqlite3";

/// `PRAGMA application_id`: "HNDO".
pub(super) const APPLICATION: i64 = 0x484e_444f;

/// `PRAGMA user_version` of the schema below, with all that was added to it.
pub(super) const VERSION: i64 = 3;

/// Times are RFC 3339 where they are only shown, milliseconds since the epoch where they are compared.
pub(super) const SCHEMA: &str = "
    CREATE TABLE runs (
        run TEXT PRIMARY KEY,
        topology TEXT NOT NULL,
        plan TEXT NOT NULL,
        plan_digest TEXT NOT NULL,
        operator TEXT NOT NULL,
        started TEXT NOT NULL,
        ended TEXT,
        UNIQUE (topology, plan_digest)
    ) STRICT;
    CREATE TABLE records (
        run TEXT NOT NULL REFERENCES runs (run),
        sequence INTEGER NOT NULL,
        at TEXT NOT NULL,
        elapsed_ms INTEGER NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (run, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE holds (
        topology TEXT NOT NULL,
        subject TEXT NOT NULL,
        kind TEXT NOT NULL,
        hold TEXT NOT NULL,
        PRIMARY KEY (topology, subject)
    ) STRICT;
    CREATE TABLE lease (
        topology TEXT PRIMARY KEY,
        token INTEGER NOT NULL,
        run TEXT,
        holder TEXT NOT NULL,
        since TEXT NOT NULL,
        expires_ms INTEGER NOT NULL
    ) STRICT;
";

/// What version 2 adds: for the list of runs, what a run was for, and that its records were pruned (the row of a pruned run stays, so
/// that its plan is never applied again); and the process that holds the lock, so that its death can be proven.
const VERSION_2: &str = "
    ALTER TABLE runs ADD COLUMN title TEXT NOT NULL DEFAULT '';
    ALTER TABLE runs ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE lease ADD COLUMN process TEXT NOT NULL DEFAULT 'null';
";

/// What version 3 adds: what was last seen of each target, and when it was looked at.
const VERSION_3: &str = "
    CREATE TABLE sightings (
        topology TEXT NOT NULL,
        target TEXT NOT NULL,
        looked_ms INTEGER NOT NULL,
        sighting TEXT NOT NULL,
        PRIMARY KEY (topology, target)
    ) STRICT, WITHOUT ROWID;
";

/// Opens the file, making it and its directory where they do not exist.
pub(super) fn connect(dir: &Path, path: &Path) -> Result<Connection, Cause> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Cause::Directory)?;
    // SQLite gives its -wal and -shm files the mode of the main file, so that one has to be right before SQLite sees it.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(Cause::Directory)?;
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // Looked at before anything is changed, the journal mode included.
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(Cause::Newer { found: version });
    }
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    // One that is as it should be is opened without writing: somebody else may be doing so for seconds.
    if (version, application) != (VERSION, APPLICATION) {
        migrate(&mut connection)?;
    }
    Ok(connection)
}

/// Makes the schema in an empty file, or brings an older one up to date; two processes may try at once.
fn migrate(connection: &mut Connection) -> Result<(), Cause> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i64 = transaction.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if version == 0 {
        let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            return Err(Cause::Foreign);
        }
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    } else if application != APPLICATION {
        return Err(Cause::Foreign);
    }
    if version < 2 {
        transaction.execute_batch(VERSION_2)?;
    }
    if version < 3 {
        transaction.execute_batch(VERSION_3)?;
    }
    if version < VERSION {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(transaction.commit()?)
}
