//! The candidate: catch up and promote.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;

use super::client::{Client, Failure, explain};
use super::convert::literal;
use crate::model::{Lineage, Position, Target, TargetId, Unreachable};
use crate::provider::pgwire::{Session, WireError, column};

/// How often an open session is asked.
const POLL: Duration = Duration::from_millis(1);

/// After this long without effect the promotion is asked for again: a request that arrives right after the old primary's end is
/// sometimes noticed only after `wal_retrieve_retry_interval`.
const AGAIN: Duration = Duration::from_millis(200);

/// A snapshot that lives as long as a waiting statement would could itself hold the replay back (recovery conflicts): every
/// question is a short statement of its own.
fn applied_beyond(position: Position) -> String {
    format!("SELECT pg_last_wal_replay_lsn() > {}::pg_lsn", literal(&position.to_string()))
}

/// The control file shows the old timeline for a while; the name of the log segment does not.
fn risen_above(timeline: u32) -> String {
    format!(
        "SELECT CASE WHEN pg_is_in_recovery() THEN false \
         ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int > {timeline} END"
    )
}

fn is_true(rows: &[SimpleQueryRow]) -> bool {
    rows.first().and_then(|row| row.get(0)) == Some("t")
}

async fn poll(client: &Client, target: &Target, sql: &str, deadline: Instant) -> Result<bool, WireError> {
    let session = client.session(target, deadline).await?;
    let held = session.poll(sql, POLL, deadline, is_true).await?;
    client.keep(target, session);
    Ok(held)
}

/// Waits until `position` is applied, or the deadline.
pub(super) async fn wait_applied(
    client: &Client,
    target: &Target,
    position: Position,
    deadline: Instant,
) -> Result<bool, WireError> {
    poll(client, target, &applied_beyond(position), deadline).await
}

/// Waits until it is primary of a timeline above `timeline`, or the deadline.
pub(super) async fn wait_promoted(
    client: &Client,
    target: &Target,
    timeline: u32,
    deadline: Instant,
) -> Result<bool, WireError> {
    poll(client, target, &risen_above(timeline), deadline).await
}

/// Waits until the old primary's final position is applied. It only reads, so that a failure is certain.
pub(super) async fn catch_up(
    client: &Client,
    target: &Target,
    behind: &TargetId,
    position: Option<Position>,
    deadline: Instant,
) -> Result<(), Failure> {
    let tried = || format!("waiting until {} has applied all of {}", target.name(), behind.name());
    let Some(position) = position else {
        return Err(Failure::untouched(Unreachable::new("the final position is not known", tried())));
    };
    match wait_applied(client, target, position, deadline).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::untouched(
            Unreachable::new(format!("{position} was not applied before the deadline"), tried())
                .advice("a paused replay or a long query on the replica holds it back"),
        )),
        Err(error) => Err(Failure::untouched(explain(target, &error))),
    }
}

/// Makes a replica of `lineage` the primary of a new timeline.
pub(super) async fn promote(
    client: &Client,
    target: &Target,
    lineage: &Lineage,
    deadline: Instant,
) -> Result<(), Failure> {
    let tried = || format!("promotion of {} ({})", target.name(), target.address);
    let session = client
        .session(target, deadline)
        .await
        .map_err(|error| Failure { certain: error.certain(), why: explain(target, &error) })?;
    // One round trip: the request and, right behind it, the questions after its effect. Only a replica of this system is promoted.
    let request = format!(
        "SELECT replica, system, CASE WHEN replica AND system = {} THEN pg_promote(false) END AS sent \
         FROM (SELECT pg_is_in_recovery() AS replica, system_identifier::text AS system FROM pg_control_system() OFFSET 0) AS here",
        literal(&lineage.system)
    );
    let risen = risen_above(lineage.timeline);
    let (sent, mut done) = tokio::join!(
        session.query(&request, deadline),
        session.poll(&risen, POLL, deadline.min(Instant::now() + AGAIN), is_true)
    );
    let rows = sent.map_err(|error| Failure { certain: error.certain(), why: explain(target, &error) })?;
    let row = rows.first();
    let asked = |name| row.and_then(|row| column(row, name));
    if asked("system") != Some(lineage.system.as_str()) {
        let why = format!("it is of system {}, not of {}", asked("system").unwrap_or("unknown"), lineage.system);
        return Err(Failure::untouched(Unreachable::new(why, tried())));
    }
    if asked("replica") == Some("f") && !matches!(done, Ok(true)) {
        let why = format!("it is a primary already, of timeline {} or an earlier one", lineage.timeline);
        return Err(Failure::untouched(Unreachable::new(why, tried())));
    }
    loop {
        match done {
            Ok(true) => {
                client.keep(target, session);
                return Ok(());
            }
            Ok(false) if Instant::now() < deadline => {}
            Ok(false) => {
                return Err(Failure::unknown(
                    Unreachable::new("it was told to become primary and had not done so by the deadline", tried())
                        .advice("it may still do so: the old primary must not come back before this one is fenced"),
                ));
            }
            Err(error) => return Err(Failure::unknown(explain(target, &error))),
        }
        done = ask_again(&session, &risen, deadline).await;
    }
}

async fn ask_again(session: &Session, risen: &str, deadline: Instant) -> Result<bool, WireError> {
    match session.query("SELECT pg_promote(false)", deadline).await {
        // Refused: it is no longer in recovery. Whether the timeline has risen is asked in any case.
        Ok(_) | Err(WireError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    session.poll(risen, POLL, deadline.min(Instant::now() + AGAIN), is_true).await
}
