//! Members that are taken out: fence a primary, take that back, withdraw a candidate, and bring either back as a replica. Also: point
//! a running replica elsewhere.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;

use super::client::{Client, FENCE, Failure, HostArguments, explain};
use super::convert::{configuration_value, connection, literal, slot_name};
use super::files::HostState;
use super::settings::no_control;
use crate::journal::Permit;
use crate::model::text::same_member;
use crate::model::{Lineage, Peer, Target, Unreachable};
use crate::provider::pgwire::{WireError, column};

/// How long a fence waits on the member's machine for the word: longer than any critical section. The word says until when it holds.
const ARMED: Duration = Duration::from_secs(600);

fn tried(what: &str, target: &Target) -> String {
    format!("{what} of {}", target.name())
}

fn is_true(rows: &[SimpleQueryRow]) -> bool {
    rows.first().and_then(|row| row.get(0)) == Some("t")
}

fn follow(target: &Target, primary: &Peer) -> Result<(String, String), Failure> {
    let refused = |why| Failure::untouched(Unreachable::new(why, tried("preparing the connection", target)));
    let login = target.settings.text("replication").unwrap_or_default();
    let text = connection(primary, target.name(), login).map_err(refused)?;
    Ok((text, slot_name(target.name()).map_err(refused)?))
}

fn host_arguments(
    target: &Target,
    primary: &Peer,
    senders: Vec<String>,
    permit: &Permit,
) -> Result<HostArguments, Failure> {
    let (connection, slot) = follow(target, primary)?;
    Ok(HostArguments { connection: configuration_value(&connection), slot, senders, ..HostArguments::under(permit) })
}

/// What a member says of itself before it is taken out: whether it is a replica, and the walsenders of others than its successor.
async fn before(client: &Client, target: &Target, successor: &Peer, deadline: Instant) -> (bool, Vec<String>) {
    // A member that no longer answers is taken out all the same: the question has only a part of the time.
    let now = Instant::now();
    let quarter = now + deadline.saturating_duration_since(now) / 4;
    let sql = "SELECT pg_is_in_recovery() AS replica, pid, application_name AS name \
               FROM (SELECT) AS here LEFT JOIN pg_stat_replication ON true";
    let Ok(rows) = client.ask(target, sql, quarter).await else { return (false, Vec::new()) };
    let replica = rows.first().and_then(|row| column(row, "replica")) == Some("t");
    let is_successor =
        |row: &&SimpleQueryRow| column(row, "name").is_some_and(|name| same_member(name, successor.member.name()));
    // If the successor cannot be told from the others, nobody is cut off.
    if !rows.iter().any(|row| is_successor(&row)) {
        return (replica, Vec::new());
    }
    let others = rows.iter().filter(|row| !is_successor(row));
    (replica, others.filter_map(|row| column(row, "pid")).map(str::to_owned).collect())
}

/// Prepares what [`fence`] will do at the member's machine, so that it takes less time there: looks whose receivers need not confirm
/// the last of the log, and starts a script that waits for the word. Changes nothing.
pub(super) async fn arm(client: &Client, target: &Target, successor: &Peer, permit: &Permit, deadline: Instant) {
    let (replica, senders) = before(client, target, successor, deadline).await;
    if let Ok(arguments) = host_arguments(target, successor, senders, permit)
        && !replica
    {
        client.arm(target, arguments, Instant::now() + ARMED);
    }
}

/// Stops a primary cleanly so that it can only come back as a replica of `successor`. The state was read after the stop.
pub(super) async fn fence(
    client: &Client,
    target: &Target,
    successor: &Peer,
    permit: &Permit,
    deadline: Instant,
) -> Result<HostState, Failure> {
    let wanted = host_arguments(target, successor, Vec::new(), permit)?;
    let state = match client.give_the_word(target, &wanted, deadline).await {
        Some(ended) => ended?,
        None => {
            let (replica, senders) = before(client, target, successor, deadline).await;
            if replica {
                return Err(Failure::untouched(Unreachable::new("it is a replica", tried("fence", target))));
            }
            client.host(target, FENCE, HostArguments { senders, ..wanted }, deadline).await?
        }
    };
    if state.fenced() {
        return Ok(state);
    }
    Err(Failure::unknown(
        Unreachable::new(format!("it was stopped, but is not fenced: {}", state.describe()), tried("fence", target))
            .advice("undo the fence, or look at the member's log before anything is promoted"),
    ))
}

/// Stops a member, primary or replica, cleanly so that it can only come back as a replica of `successor`.
pub(super) async fn withdraw(
    client: &Client,
    target: &Target,
    successor: &Peer,
    permit: &Permit,
    deadline: Instant,
) -> Result<(), Failure> {
    let (_, senders) = before(client, target, successor, deadline).await;
    let arguments = host_arguments(target, successor, senders, permit)?;
    let state = client.host(target, "withdraw", arguments, deadline).await?;
    if state.withdrawn() {
        return Ok(());
    }
    let why = format!("it was stopped, but not cleanly: {}", state.describe());
    Err(Failure::unknown(
        Unreachable::new(why, tried("withdraw", target)).advice("it must not be started other than as a replica"),
    ))
}

/// Lets a member that does not run come back as a replica of `successor` only, however it ended.
pub(super) async fn keep(
    client: &Client,
    target: &Target,
    successor: &Peer,
    permit: &Permit,
    deadline: Instant,
) -> Result<(), Failure> {
    let arguments = host_arguments(target, successor, Vec::new(), permit)?;
    let state = client.host(target, "keep", arguments, deadline).await?;
    if state.kept() {
        return Ok(());
    }
    let why = format!("it can still come back as a primary: {}", state.describe());
    Err(Failure::unknown(Unreachable::new(why, tried("keep", target)).advice("see what has started it, and stop that")))
}

/// Takes a fence of ours back: the member runs as the primary that it was, whether it had stopped or not. A member that we did not
/// fence, or whose history is no longer `lineage`, is left as it is.
pub(super) async fn unfence(
    client: &Client,
    target: &Target,
    lineage: &Lineage,
    permit: &Permit,
    deadline: Instant,
) -> Result<(), Failure> {
    /// After this long without an answer it is looked at again whether it runs.
    const AGAIN: Duration = Duration::from_secs(1);
    let arguments = || HostArguments { lineage: Some(lineage.clone()), ..HostArguments::under(permit) };
    let state = client.host(target, "unfence", arguments(), deadline).await?;
    let mut asked = Instant::now();
    let mut last = "no answer".to_owned();
    while Instant::now() < deadline {
        match client.ask(target, "SELECT NOT pg_is_in_recovery()", deadline).await {
            Ok(rows) if is_true(&rows) => {
                if !state.mark.is_empty() {
                    // Only now: until it is a primary again, an unfence may have to be said again.
                    forget(client, target, permit, deadline).await;
                }
                return Ok(());
            }
            Ok(_) => last = "it is in recovery".to_owned(),
            Err(error) => last = error.to_string(),
        }
        if asked.elapsed() > AGAIN {
            // It had been told to stop and did so only now.
            client
                .host(target, "unfence", arguments(), deadline)
                .await
                .map_err(|failure| Failure::unknown(failure.why))?;
            asked = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let why = format!("it does not yet accept writes: {last}");
    Err(Failure::unknown(Unreachable::new(why, tried("unfence", target)).advice("look at the member's log")))
}

/// Removes the mark. One that stays is harmless as long as the member's history does not change, and is judged by that.
async fn forget(client: &Client, target: &Target, permit: &Permit, deadline: Instant) {
    drop(client.host(target, "unmark", HostArguments::under(permit), deadline).await);
}

/// Calls off at the member's machine what was said of this run under earlier permits, once nothing of it is under way there.
pub(super) async fn supersede(
    client: &Client,
    target: &Target,
    permit: &Permit,
    deadline: Instant,
) -> Result<(), Failure> {
    if no_control(target).is_some() {
        // Nothing was ever said there.
        return Ok(());
    }
    client.host(target, "void", HostArguments::under(permit), deadline).await.map(drop)
}

/// Makes a fenced member, or a running replica, follow `primary`.
pub(super) async fn rejoin(
    client: &Client,
    target: &Target,
    primary: &Peer,
    permit: &Permit,
    deadline: Instant,
) -> Result<(), Failure> {
    let (connection, slot) = follow(target, primary)?;
    match client.ask(target, "SELECT pg_is_in_recovery()", deadline).await {
        Ok(rows) if is_true(&rows) => {
            point(client, target, &connection, &slot, deadline).await?;
            // One that somebody started after a fence is a replica like any other from now on.
            if no_control(target).is_none() {
                let now = Instant::now();
                forget(client, target, permit, now + deadline.saturating_duration_since(now) / 2).await;
            }
            Ok(())
        }
        Ok(_) => Err(Failure::untouched(
            Unreachable::new("it is a primary", tried("rejoin", target)).advice("fence it first"),
        )),
        Err(WireError::NoSession { code: None, .. }) => {
            let state = client
                .host(target, "state", HostArguments::default(), deadline)
                .await
                .map_err(|failure| Failure::untouched(failure.why))?;
            if !state.may_follow() {
                return Err(Failure::untouched(
                    Unreachable::new(format!("it cannot simply follow: {}", state.describe()), tried("rejoin", target))
                        .advice("if it ended without a clean stop it needs pg_rewind or a new copy"),
                ));
            }
            client.host(target, "rejoin", host_arguments(target, primary, Vec::new(), permit)?, deadline).await?;
            follows_as_told(client, target, &connection, &slot, deadline).await
        }
        Err(error) => Err(Failure::untouched(explain(target, &error))),
    }
}

/// Somebody may have started it in the same moment, and it may have read its configuration before that was written: once it answers it
/// is told again. One that does not answer by the deadline is judged by whoever verifies.
async fn follows_as_told(
    client: &Client,
    target: &Target,
    connection: &str,
    slot: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let sql = format!("SELECT current_setting('primary_conninfo') = {}", literal(connection));
    while Instant::now() < deadline {
        match client.ask(target, &sql, deadline).await {
            Ok(rows) if is_true(&rows) => return Ok(()),
            Ok(_) => return point(client, target, connection, slot, deadline).await,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    Ok(())
}

/// Points a running replica elsewhere: since PostgreSQL 13 a reload is enough.
async fn point(
    client: &Client,
    target: &Target,
    connection: &str,
    slot: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let failure = |touched: bool| {
        move |error: WireError| Failure { certain: !touched && error.certain(), why: explain(target, &error) }
    };
    let session = client.session(target, deadline).await.map_err(failure(false))?;
    let (connection, slot) = (literal(connection), literal(slot));
    session
        .query(&format!("ALTER SYSTEM SET primary_conninfo = {connection}"), deadline)
        .await
        .map_err(failure(false))?;
    session.query(&format!("ALTER SYSTEM SET primary_slot_name = {slot}"), deadline).await.map_err(failure(true))?;
    session.query("SELECT pg_reload_conf()", deadline).await.map_err(failure(true))?;
    client.keep(target, session);
    Ok(())
}
