//! The lock: one row, with a token that rises with every holder.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Cause, Failure, LEASE};
use crate::journal::{Holder, Lease, Lock, RunId, StoreError};

/// Takes the lock unless somebody's lease is still good, and returns the new token. The holder with the `dead` token holds nothing.
pub(super) fn take_lock(
    transaction: &Transaction<'_>,
    topology: &str,
    run: &RunId,
    holder: &Holder,
    dead: Option<u64>,
    now: Timestamp,
) -> Result<u64, Failure> {
    let token = next_token(transaction, topology, dead, now)?;
    transaction.execute(
        "INSERT OR REPLACE INTO lease (topology, token, run, holder, process, since, expires_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            topology,
            token,
            run.0,
            holder.name,
            serde_json::to_string(&holder.process)?,
            now.to_string(),
            expiry(now)
        ],
    )?;
    Ok(u64::try_from(token).map_err(|_| Cause::Range)?)
}

/// The token of the next lease; an error while somebody holds one that has not expired.
pub(super) fn next_token(
    transaction: &Transaction<'_>,
    topology: &str,
    dead: Option<u64>,
    now: Timestamp,
) -> Result<i64, Failure> {
    match held(transaction, topology)? {
        Some((_, Some(lock))) if now < lock.until && dead != Some(lock.token) => {
            Err(Failure::Known(StoreError::Locked(Box::new(lock))))
        }
        Some((token, _)) => Ok(token.checked_add(1).ok_or(Cause::Range)?),
        None => Ok(1),
    }
}

/// The last token, and the lock if it was not given back.
pub(super) fn held(transaction: &Transaction<'_>, topology: &str) -> Result<Option<(i64, Option<Lock>)>, Failure> {
    let query = "SELECT token, run, holder, process, since, expires_ms FROM lease WHERE topology = ?1";
    let row = transaction
        .query_row(query, params![topology], |row| {
            let texts: (Option<String>, String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            Ok((row.get::<_, i64>(0)?, texts, row.get::<_, i64>(5)?))
        })
        .optional()?;
    let Some((token, (run, name, process, since), expires_ms)) = row else { return Ok(None) };
    let Some(run) = run else { return Ok(Some((token, None))) };
    let lock = Lock {
        run: RunId(run),
        holder: Holder { name, process: serde_json::from_str(&process)? },
        token: u64::try_from(token).map_err(|_| Cause::Range)?,
        since: since.parse()?,
        until: Timestamp::from_millisecond(expires_ms)?,
    };
    Ok(Some((token, Some(lock))))
}

/// An error if the plan was used by a run.
pub(super) fn not_used(transaction: &Transaction<'_>, topology: &str, plan_digest: &str) -> Result<(), Failure> {
    let used = "SELECT run FROM runs WHERE topology = ?1 AND plan_digest = ?2";
    let used: Option<String> =
        transaction.query_row(used, params![topology, plan_digest], |row| row.get(0)).optional()?;
    match used {
        Some(run) => Err(Failure::Known(StoreError::PlanUsed { run: RunId(run) })),
        None => Ok(()),
    }
}

/// Prolongs the lease. One that ran out is still good as long as nobody took the lock: nothing can have happened in between.
pub(super) fn prolong(
    transaction: &Transaction<'_>,
    topology: &str,
    lease: &Lease,
    now: Timestamp,
) -> Result<(), Failure> {
    let token = i64::try_from(lease.token).map_err(|_| Cause::Range)?;
    let mut update = transaction.prepare_cached(
        "UPDATE lease SET expires_ms = max(expires_ms, ?4) WHERE topology = ?1 AND token = ?2 AND run = ?3",
    )?;
    match update.execute(params![topology, token, lease.run.0, expiry(now)])? {
        0 => Err(Failure::Known(StoreError::LeaseLost { run: lease.run.clone() })),
        _ => Ok(()),
    }
}

fn expiry(now: Timestamp) -> i64 {
    let lease = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
    now.as_millisecond().saturating_add(lease)
}
