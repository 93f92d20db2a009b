//! PAUSE at one process, so that nobody is turned away afterwards.
//!
//! pgbouncer 1.18 counts a login at a server that is cut short as failed (`disconnect_server` in its `objects.c`), and PAUSE cuts the one
//! that is under way short (`per_loop_pause` in `janitor.c`). From RESUME until a login has succeeded it then turns away every query
//! that finds no open server ("server login has been failing", `check_fast_fail`), and before `server_login_retry` is over it does not
//! even try one. Nothing but a successful login takes that back, neither RELOAD nor RECONNECT. While a pool grows, one login follows the
//! other, so that PAUSE nearly always meets one.
//!
//! So pools are kept from growing for a moment: a limit of the process is set to what they have already (clients go on with the servers
//! that are open), the logins under way are waited for, and the limit is lifted in the same breath as PAUSE is said. A process that is
//! left with that limit, because this one died in between, serves on; its next RELOAD brings back what its configuration says.
//! `min_pool_size` opens servers during a pause too: it is 0 until RESUME.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;

use super::client::{Client, Console, explain, no_rights, number};
use super::{POLL, convert, resume, resumed};
use crate::model::{ForeignName, Unreachable};
use crate::provider::Outcome;
use crate::provider::pgwire::{Answer, Session, WireError, column};

/// The most that is kept of the time for letting clients go on.
const RESERVE: Duration = Duration::from_millis(500);

/// Limits that keep pools from growing, each with its column in SHOW DATABASES, which tells whether it holds for a database: one that
/// an entry of its own overrides does nothing there.
const BRAKES: [(&str, &str); 2] = [("default_pool_size", "pool_size"), ("max_db_connections", "max_connections")];

/// Keeps the server connections of idle pools from being opened while clients are held back.
const FLOOR: &str = "min_pool_size";

/// Why clients are not held back.
enum Why {
    Wire(WireError),
    /// A login at a server did not end.
    LoggingIn,
    /// Servers are opened while clients are held back, whatever is done.
    Floor(String),
}

impl From<WireError> for Why {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// What the process had before anything was set.
struct Before(BTreeMap<&'static str, String>);

impl Before {
    fn read(config: &[SimpleQueryRow]) -> Self {
        let of = |name| config.iter().find(|row| column(row, "key") == Some(name)).and_then(|row| column(row, "value"));
        let names = BRAKES.map(|(name, _)| name).into_iter().chain([FLOOR]);
        Self(names.filter_map(|name| Some((name, of(name)?.to_owned()))).collect())
    }

    fn has_floor(&self) -> bool {
        self.0.get(FLOOR).is_some_and(|floor| floor != "0")
    }

    /// Takes a brake off.
    fn lift(&self, name: &str) -> Option<String> {
        Some(format!("SET {name} = {}", self.0.get(name)?))
    }
}

/// The server connections of a database's pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pools {
    /// Of the smallest pool that has any; at least 1.
    smallest: u64,
    /// Of all; at least 1.
    all: u64,
    /// Not yet logged in.
    logging_in: u64,
}

impl Pools {
    fn read(rows: &[SimpleQueryRow], database: &ForeignName) -> Self {
        const STATES: [&str; 5] = ["sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login"];
        let pools = rows.iter().filter(|row| column(row, "database") == Some(database.as_str()));
        Self::sum(pools.map(|row| (STATES.iter().map(|state| number(row, state)).sum(), number(row, "sv_login"))))
    }

    /// From the connections of each pool, and those of them that are not yet logged in.
    fn sum(pools: impl Iterator<Item = (u64, u64)>) -> Self {
        let (mut smallest, mut all, mut logging_in) = (u64::MAX, 0, 0);
        for (servers, new) in pools {
            smallest = if servers > 0 { smallest.min(servers) } else { smallest };
            all += servers;
            logging_in += new;
        }
        Self { smallest: if smallest == u64::MAX { 1 } else { smallest }, all: all.max(1), logging_in }
    }
}

/// Pools of a process that do not grow any more.
pub(super) struct Calm {
    /// What the process had before.
    before: Before,
    /// Takes the brake off.
    lift: Option<String>,
}

impl Calm {
    /// What sets everything as it was, for clients that are to go on.
    pub(super) fn taken_back(&self) -> Vec<String> {
        BRAKES.iter().map(|(name, _)| *name).chain([FLOOR]).filter_map(|name| self.before.lift(name)).collect()
    }
}

/// Keeps the pools from growing until no login is under way, which makes nobody wait; if that does not come to an end, takes it back.
pub(super) async fn calm(
    client: &Client,
    console: &Console<'_>,
    database: &ForeignName,
    deadline: Instant,
) -> Result<Calm, Outcome> {
    let until = deadline - reserve(deadline);
    let mut before = None;
    let why = loop {
        let session = match client.console(console, deadline).await {
            Ok(session) => session,
            Err(error) => break Why::Wire(error),
        };
        let braked = brake(&session, database, &mut before, until).await;
        client.keep(console, session);
        match (braked, before.take()) {
            (Ok(lift), Some(before)) => return Ok(Calm { before, lift }),
            // A kept session that had died. To ask twice is to ask once.
            (Err(Why::Wire(WireError::Broken(_))), known) if Instant::now() + POLL < until => {
                before = known;
                tokio::time::sleep(POLL).await;
            }
            (Err(why), known) => {
                before = known;
                break why;
            }
            (Ok(_), None) => break Why::Wire(incomplete()),
        }
    };
    Err(given_up(client, console, database, before, why, deadline).await)
}

/// Holds clients back; if their transactions do not end in time, lets them go on.
pub(super) async fn pause(
    client: &Client,
    console: &Console<'_>,
    database: &ForeignName,
    calm: Calm,
    deadline: Instant,
) -> Outcome {
    let until = deadline - reserve(deadline);
    // PAUSE comes last: it may wait, and pgbouncer answers what follows before it.
    let mut statements: Vec<String> = calm.lift.clone().into_iter().collect();
    statements.push(format!("PAUSE {}", convert::identifier(database.as_str())));
    let why = loop {
        // The way back is open before it is needed.
        let (pausing, freeing) =
            match tokio::try_join!(client.console(console, deadline), client.console(console, deadline)) {
                Ok(pair) => pair,
                Err(error) => break Why::Wire(error),
            };
        client.keep(console, freeing);
        let held = pausing.together(&texts(&statements), until).await.and_then(good);
        client.keep(console, pausing);
        match held {
            Err(WireError::Broken(_)) if Instant::now() + POLL < until => tokio::time::sleep(POLL).await,
            Err(error) => break Why::Wire(error),
            Ok(_) => {
                if calm.before.has_floor() {
                    client.calmed(console, Some(calm));
                }
                return Outcome::Applied;
            }
        }
    };
    given_up(client, console, database, Some(calm.before), why, deadline).await
}

fn reserve(deadline: Instant) -> Duration {
    RESERVE.min(deadline.saturating_duration_since(Instant::now()) / 4)
}

/// Clients are not held back: everything is set as it was.
async fn given_up(
    client: &Client,
    console: &Console<'_>,
    database: &ForeignName,
    before: Option<Before>,
    why: Why,
    deadline: Instant,
) -> Outcome {
    let refused = matches!(&why, Why::Wire(error) if no_rights(error));
    let why = explained(console, database, why);
    let Some(before) = before.filter(|_| !refused) else { return Outcome::NotApplied(why) };
    match free(client, console, database, &before, deadline).await {
        Ok(()) => Outcome::NotApplied(why),
        Err(error) => {
            let text = format!("{}, and RESUME: {error}", why.why);
            let advice = format!("clients may be held back: RESUME {database} and RELOAD at the console");
            Outcome::Unknown(Unreachable::new(text, why.tried).advice(advice))
        }
    }
}

/// Waits for a moment without a login at a server, with pools that do not grow; what lifts that is returned. What was there before
/// anything was set is in `before` as soon as it is known; without it nothing was touched.
async fn brake(
    session: &Session,
    database: &ForeignName,
    before: &mut Option<Before>,
    until: Instant,
) -> Result<Option<String>, Why> {
    let looked = good(session.together(&["SHOW CONFIG", "SHOW POOLS"], until).await?)?;
    let [config, pools] = looked.as_slice() else { return Err(incomplete().into()) };
    // A second attempt finds what the first one has set.
    let before = &*before.get_or_insert_with(|| Before::read(config));
    let mut pools = Pools::read(pools, database);
    let mut lift: Option<String> = None;
    for (name, shown_as) in BRAKES {
        let limit = if name == BRAKES[0].0 { pools.smallest } else { pools.all };
        let mut statements: Vec<String> = lift.take().into_iter().collect();
        statements.push(format!("SET {name} = {limit}"));
        statements.extend(before.has_floor().then(|| format!("SET {FLOOR} = 0")));
        statements.extend(["SHOW DATABASES".to_owned(), "SHOW POOLS".to_owned()]);
        let answers = good(session.together(&texts(&statements), until).await?)?;
        let [.., databases, shown] = answers.as_slice() else { return Err(incomplete().into()) };
        pools = Pools::read(shown, database);
        lift = before.lift(name);
        let row = databases.iter().find(|row| column(row, "name") == Some(database.as_str()));
        if row.is_some_and(|row| number(row, FLOOR) > 0) {
            return Err(Why::Floor(format!(
                "the entry {database} keeps servers open (min_pool_size), also in a pause"
            )));
        }
        if row.is_some_and(|row| number(row, shown_as) == limit) {
            break;
        }
    }
    while pools.logging_in > 0 {
        if Instant::now() + POLL >= until {
            return Err(Why::LoggingIn);
        }
        tokio::time::sleep(POLL).await;
        pools = Pools::read(&session.query("SHOW POOLS", until).await?, database);
    }
    Ok(lift)
}

/// Lets clients go on, and sets what was set before.
async fn free(
    client: &Client,
    console: &Console<'_>,
    database: &ForeignName,
    before: &Before,
    deadline: Instant,
) -> Result<(), WireError> {
    let mut statements = vec![resume(database)];
    statements.extend(BRAKES.iter().filter_map(|(name, _)| before.lift(name)));
    statements.extend(before.lift(FLOOR));
    let mut answers = client.say(console, &texts(&statements), deadline).await?.into_iter();
    answers.next().map_or(Ok(()), resumed)?;
    answers.try_for_each(|answer| answer.map(drop))
}

fn texts(statements: &[String]) -> Vec<&str> {
    statements.iter().map(String::as_str).collect()
}

fn good(answers: Vec<Answer>) -> Result<Vec<Vec<SimpleQueryRow>>, WireError> {
    answers.into_iter().collect()
}

fn incomplete() -> WireError {
    WireError::Broken("an incomplete answer".to_owned())
}

fn explained(console: &Console<'_>, database: &ForeignName, why: Why) -> Unreachable {
    let tried = || format!("PAUSE {database} at {}", console.target.name());
    match why {
        Why::Wire(WireError::Deadline) => {
            Unreachable::new("open transactions did not end in time; clients go on", tried())
                .advice("look for long transactions on the primary")
        }
        Why::Wire(error) => explain(console, &error),
        Why::LoggingIn => Unreachable::new(
            "logins at the server did not end in time, and PAUSE would make them fail; clients go on",
            tried(),
        )
        .advice("see SHOW POOLS (sv_login): the primary is slow to accept connections, or pools grow without end"),
        Why::Floor(what) => Unreachable::new(what, tried()).advice("take min_pool_size out of the entry"),
    }
}

#[cfg(test)]
mod tests {
    use super::Pools;

    #[test]
    fn the_brake_is_what_the_smallest_pool_has() {
        let pools = Pools::sum([(5, 1), (0, 0), (3, 1)].into_iter());
        assert_eq!(pools, Pools { smallest: 3, all: 8, logging_in: 2 });
        // 0 would close what is idle everywhere.
        assert_eq!(Pools::sum(std::iter::empty()), Pools { smallest: 1, all: 1, logging_in: 0 });
    }
}
