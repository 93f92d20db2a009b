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
#[derive(Clone)]
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

    /// Looks again until no login is under way.
    async fn settle(
        &mut self,
        session: &Session,
        database: &ForeignName,
        calm_by: Instant,
        until: Instant,
    ) -> Result<(), Why> {
        while self.logging_in > 0 {
            if Instant::now() + POLL >= calm_by {
                return Err(Why::LoggingIn);
            }
            tokio::time::sleep(POLL).await;
            *self = Self::read(&session.query("SHOW POOLS", until).await?, database);
        }
        Ok(())
    }
}

/// Pools of a process that do not grow any more.
#[derive(Clone)]
pub(super) struct Calm {
    /// What the process had before.
    before: Before,
    /// Takes the brake off, where there is one, once no login is under way.
    lift: Option<Option<String>>,
}

impl Calm {
    /// What sets everything as it was, for clients that are to go on.
    pub(super) fn taken_back(&self) -> Vec<String> {
        BRAKES.iter().map(|(name, _)| *name).chain([FLOOR]).filter_map(|name| self.before.lift(name)).collect()
    }

    /// True once PAUSE may follow.
    pub(super) fn is_ready(&self) -> bool {
        self.lift.is_some()
    }
}

/// Keeps the pools from growing until no login is under way, which makes nobody wait; if that does not come to an end, takes it back.
pub(super) async fn calm(
    client: &Client,
    console: &Console<'_>,
    database: &ForeignName,
    deadline: Instant,
) -> Result<(), Outcome> {
    let until = deadline - reserve(deadline);
    let why = loop {
        let session = match client.console(console, deadline).await {
            Ok(session) => session,
            Err(error) => break Why::Wire(error),
        };
        let braked = brake(client, console, &session, database, until).await;
        client.keep(console, session);
        match braked {
            Ok(()) => return Ok(()),
            // A kept session that had died. To ask twice is to ask once.
            Err(Why::Wire(WireError::Broken(_))) if Instant::now() + POLL < until => tokio::time::sleep(POLL).await,
            Err(why) => break why,
        }
    };
    Err(given_up(client, console, database, why, deadline).await)
}

/// Holds clients back at a process whose pools do not grow; if their transactions do not end in time, lets them go on.
pub(super) async fn pause(
    client: &Client,
    console: &Console<'_>,
    database: &ForeignName,
    deadline: Instant,
) -> Outcome {
    let until = deadline - reserve(deadline);
    let calm_by = Instant::now() + until.saturating_duration_since(Instant::now()) / 2;
    let why = loop {
        // The way back is open before it is needed.
        let (pausing, freeing) =
            match tokio::try_join!(client.console(console, deadline), client.console(console, deadline)) {
                Ok(pair) => pair,
                Err(error) => break Why::Wire(error),
            };
        client.keep(console, freeing);
        let held = hold(client, console, &pausing, database, calm_by, until).await;
        client.keep(console, pausing);
        match held {
            Err(Why::Wire(WireError::Broken(_))) if Instant::now() + POLL < until => tokio::time::sleep(POLL).await,
            Err(why) => break why,
            Ok(()) => return Outcome::Applied,
        }
    };
    given_up(client, console, database, why, deadline).await
}

fn reserve(deadline: Instant) -> Duration {
    RESERVE.min(deadline.saturating_duration_since(Instant::now()) / 4)
}

/// Clients are not held back: everything is set as it was.
async fn given_up(
    client: &Client,
    console: &Console<'_>,
    database: &ForeignName,
    why: Why,
    deadline: Instant,
) -> Outcome {
    let refused = matches!(&why, Why::Wire(error) if no_rights(error));
    let why = explained(console, database, why);
    let Some(calm) = client.calmed(console).filter(|_| !refused) else {
        client.uncalm(console);
        return Outcome::NotApplied(why);
    };
    match free(client, console, database, &calm, deadline).await {
        Ok(()) => {
            client.uncalm(console);
            Outcome::NotApplied(why)
        }
        Err(error) => {
            let text = format!("{}, and RESUME: {error}", why.why);
            let advice = format!("clients may be held back: RESUME {database} and RELOAD at the console");
            Outcome::Unknown(Unreachable::new(text, why.tried).advice(advice))
        }
    }
}

/// Right after a look at which no login was under way: pools cannot grow, but a login can still begin, such as that of a pool's first client.
async fn hold(
    client: &Client,
    console: &Console<'_>,
    session: &Session,
    database: &ForeignName,
    calm_by: Instant,
    until: Instant,
) -> Result<(), Why> {
    let mut pools = Pools::read(&session.query("SHOW POOLS", until).await?, database);
    pools.settle(session, database, calm_by, until).await?;
    // PAUSE comes last: it may wait, and pgbouncer answers what follows before it.
    let calm = client.calmed(console);
    let mut statements: Vec<String> = calm.iter().filter_map(|calm| calm.lift.clone().flatten()).collect();
    statements.push(format!("PAUSE {}", convert::identifier(database.as_str())));
    good(session.together(&texts(&statements), until).await?)?;
    if let Some(Calm { before, .. }) = calm {
        // The brake is off again.
        client.calm(console, Calm { before, lift: None });
    }
    Ok(())
}

/// Waits for a moment without a login at a server, with pools that do not grow. What was there before anything is set is known to the
/// client as soon as it is read; without it nothing was touched.
async fn brake(
    client: &Client,
    console: &Console<'_>,
    session: &Session,
    database: &ForeignName,
    until: Instant,
) -> Result<(), Why> {
    let looked = good(session.together(&["SHOW CONFIG", "SHOW POOLS"], until).await?)?;
    let [config, pools] = looked.as_slice() else { return Err(incomplete().into()) };
    // A second attempt finds what the first one has set.
    let before = client.calmed(console).map_or_else(|| Before::read(config), |calm| calm.before);
    client.calm(console, Calm { before: before.clone(), lift: None });
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
    // The last question must be answered by then.
    let calm_by = until - until.saturating_duration_since(Instant::now()) / 8;
    pools.settle(session, database, calm_by, until).await?;
    client.calm(console, Calm { before, lift: Some(lift) });
    Ok(())
}

/// Lets clients go on, and sets what was set before.
async fn free(
    client: &Client,
    console: &Console<'_>,
    database: &ForeignName,
    calm: &Calm,
    deadline: Instant,
) -> Result<(), WireError> {
    let mut statements = vec![resume(database)];
    statements.extend(calm.taken_back());
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
