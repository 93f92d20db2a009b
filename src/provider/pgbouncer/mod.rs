//! pgbouncer: its console, its configuration file on its machine, and a write through it the way clients write.
//!
//! May use `model`, `journal` (the permit), `provider`, `transport` and `secret`. Sources: pgbouncer's manual, "Admin console"
//! (PAUSE, RESUME, RELOAD, SHOW) and "Section `[databases]`".
//!
//! Two things decide how it is used. PAUSE waits for open transactions and never returns if somebody else resumes meanwhile: it
//! gets a session and a deadline of its own, and a second console frees the clients when it misses it. RELOAD long before RESUME
//! makes clients hang for `server_login_retry` if one of them asks in between (pgbouncer issue 498): [`Action::Redirect`] says both in
//! one go. [`Action::Route`] is for a database whose clients are not held back.

mod client;
mod convert;
mod settings;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use client::{Client, explain};
pub use settings::{check, schema};

use super::pgwire::{Answer, Session, WireError, column};
use super::{Outcome, Provider};
use crate::journal::Permit;
use crate::model::{Action, Condition, Facts, ForeignName, FromTo, Observed, Peer, Scope, Target, Unreachable};
use crate::secret::SecretReader;
use crate::transport::Transport;

/// How often an open console is asked.
const POLL: Duration = Duration::from_millis(1);
/// How often the configuration file is read.
const POLL_FILE: Duration = Duration::from_millis(20);

/// The provider `pgbouncer`.
pub struct Pgbouncer {
    client: Client,
}

impl Pgbouncer {
    /// A provider without open sessions.
    pub fn new(secrets: Arc<SecretReader>, transport: Arc<Transport>) -> Self {
        Self { client: Client::new(secrets, transport) }
    }

    fn failed(target: &Target, error: &WireError) -> Outcome {
        let why = explain(target, error);
        if error.certain() { Outcome::NotApplied(why) } else { Outcome::Unknown(why) }
    }

    /// Holds clients back; if their transactions do not end in time, lets them go on.
    async fn pause(&self, target: &Target, database: &ForeignName, deadline: Instant) -> Outcome {
        /// The most that is kept of the time for letting clients go on.
        const RESERVE: Duration = Duration::from_millis(500);
        let reserve = RESERVE.min(deadline.saturating_duration_since(Instant::now()) / 4);
        let pause = format!("PAUSE {}", convert::identifier(database.as_str()));
        let paused = loop {
            // The way back is open before it is needed.
            let (pausing, freeing) =
                match tokio::try_join!(self.client.console(target, deadline), self.client.console(target, deadline)) {
                    Ok(pair) => pair,
                    Err(error) => return Self::failed(target, &error),
                };
            self.client.keep(target, freeing);
            no_login(&pausing, database, Instant::now() + reserve).await;
            let paused = pausing.query(&pause, deadline - reserve).await;
            self.client.keep(target, pausing);
            match paused {
                // A kept session that had died. To ask twice is to ask once.
                Err(WireError::Broken(_)) if Instant::now() + reserve < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                paused => break paused,
            }
        };
        match paused {
            Ok(_) => Outcome::Applied,
            Err(WireError::Deadline) => {
                let tried = format!("PAUSE {database} at {}", target.name());
                match self.say_resume(target, database, deadline).await {
                    Ok(()) => Outcome::NotApplied(
                        Unreachable::new("open transactions did not end in time; clients go on", tried)
                            .advice("look for long transactions on the primary"),
                    ),
                    Err(error) => Outcome::Unknown(
                        Unreachable::new(format!("open transactions did not end in time, and RESUME: {error}"), tried)
                            .advice(format!("clients may be held back: RESUME {database} at the console")),
                    ),
                }
            }
            Err(error) => Self::failed(target, &error),
        }
    }

    async fn resume(&self, target: &Target, database: &ForeignName, deadline: Instant) -> Outcome {
        match self.say_resume(target, database, deadline).await {
            Ok(()) => Outcome::Applied,
            Err(error) => Self::failed(target, &error),
        }
    }

    async fn say_resume(&self, target: &Target, database: &ForeignName, deadline: Instant) -> Result<(), WireError> {
        let answers = self.client.say(target, &[&resume(database)], deadline).await?;
        answers.into_iter().try_for_each(resumed)
    }

    async fn write_route(
        &self,
        target: &Target,
        database: &ForeignName,
        route: &FromTo<String>,
        deadline: Instant,
    ) -> Outcome {
        // Several databases share the file.
        let mut known = self.client.alone_with_file(target).await;
        // What was read at the warm-up saves a question; a file that has changed since is read again.
        let mut fresh = known.is_none();
        loop {
            let old = match known.take().filter(|_| !fresh) {
                Some(text) => text,
                None => match self.client.read_file(target, deadline).await {
                    Ok(text) => text,
                    Err(why) => return Outcome::NotApplied(why),
                },
            };
            let new = match convert::with_route(&old, database.as_str(), &route.from, &route.to) {
                Ok(Some(new)) => new,
                Ok(None) if fresh => {
                    *known = Some(old);
                    return Outcome::Applied;
                }
                Err(error) if fresh => {
                    let tried = format!("writing the route of {database} at {}", target.name());
                    return Outcome::NotApplied(Unreachable::new(error.to_string(), tried));
                }
                _ => {
                    fresh = true;
                    continue;
                }
            };
            match self.client.write_file(target, &old, &new, deadline).await {
                Ok(()) => {
                    *known = Some(new);
                    return Outcome::Applied;
                }
                Err((true, why)) if fresh => return Outcome::NotApplied(why),
                Err((true, _)) => fresh = true,
                Err((false, why)) => return Outcome::Unknown(why),
            }
        }
    }

    /// Loads the configuration and sees where it leads.
    async fn route(
        &self,
        target: &Target,
        database: &ForeignName,
        route: &FromTo<String>,
        deadline: Instant,
    ) -> Outcome {
        let tried = || format!("loading the route of {database} at {}", target.name());
        let shown = self.client.say(target, &["SHOW DATABASES"], deadline).await;
        let present = match shown.and_then(|answers| loaded_route(answers, database)) {
            Ok(present) => present,
            // It was only asked.
            Err(error) => return Outcome::NotApplied(explain(target, &error)),
        };
        if present.as_deref() == Some(&route.to) {
            return Outcome::Applied;
        }
        if present.as_deref() != Some(&route.from) {
            let present = present.unwrap_or_else(|| "nowhere".to_owned());
            return Outcome::NotApplied(Unreachable::new(format!("it leads to {present}"), tried()));
        }
        let answers = self.client.say(target, &["RELOAD", "SHOW DATABASES"], deadline).await;
        match answers.and_then(|answers| loaded_route(answers, database)) {
            Ok(Some(now)) if now == route.to => Outcome::Applied,
            Ok(now) => Outcome::Unknown(misled(now, route, tried())),
            // Also a refused RELOAD may have loaded a part.
            Err(error) => Outcome::Unknown(explain(target, &error)),
        }
    }

    /// Loads the configuration and lets clients go on, in one go: no client can log in while the route is new and clients are still
    /// held back. It would make pgbouncer count a failed login, and keep everybody waiting for `server_login_retry`.
    async fn redirect(
        &self,
        target: &Target,
        database: &ForeignName,
        route: &FromTo<String>,
        deadline: Instant,
    ) -> Outcome {
        let tried = || format!("loading the route of {database} at {} and letting clients go on", target.name());
        let statements = ["RELOAD", "SHOW DATABASES", &resume(database)];
        let mut answers = match self.client.say(target, &statements, deadline).await {
            Ok(answers) => answers,
            Err(error) => return Self::failed(target, &error),
        };
        let end = answers.pop().map_or(Ok(()), resumed);
        match (loaded_route(answers, database), end) {
            (Ok(Some(now)), Ok(())) if now == route.to => Outcome::Applied,
            (Ok(now), Ok(())) => Outcome::Unknown(misled(now, route, tried())),
            (_, Err(error)) | (Err(error), _) => Outcome::Unknown(explain(target, &error)),
        }
    }

    /// Puts a route back, also where a reload for another database had loaded the other one.
    async fn restore_route(
        &self,
        target: &Target,
        database: &ForeignName,
        route: &FromTo<String>,
        deadline: Instant,
    ) -> Outcome {
        match self.write_route(target, database, route, deadline).await {
            Outcome::Applied => self.route(target, database, route, deadline).await,
            other => other,
        }
    }

    /// Writes to the log of whatever primary clients reach, without needing a table.
    async fn marker(
        &self,
        target: &Target,
        database: &ForeignName,
        primary: &Peer,
        run: &str,
        deadline: Instant,
    ) -> Outcome {
        let tried = || format!("a write through {} to {database}", target.name());
        let session = match self.client.as_client(target, database.as_str(), deadline).await {
            Ok(session) => session,
            Err(error) => return Outcome::NotApplied(error.unreachable(tried())),
        };
        let sql = format!(
            "SELECT host(inet_server_addr()) AS host, inet_server_port() AS port, \
             pg_logical_emit_message(true, 'handover', 'run {}') AS position",
            run.replace('\'', "''")
        );
        let rows = match session.query(&sql, deadline).await {
            Ok(rows) => rows,
            Err(error) if error.certain() => return Outcome::NotApplied(error.unreachable(tried())),
            Err(error) => return Outcome::Unknown(error.unreachable(tried())),
        };
        let row = rows.first();
        let part = |name| row.and_then(|row| column(row, name)).unwrap_or_default();
        let landed = convert::address(part("host"), part("port"));
        if landed == primary.address || resolves_to(&primary.address, &landed).await {
            return Outcome::Applied;
        }
        let why = format!("it was taken by {landed}, not by {} ({})", primary.member.name(), primary.address);
        Outcome::Unknown(Unreachable::new(why, tried()).advice("see which member clients are led to"))
    }
}

/// Waits for a moment without a login at a server, until `limit`: PAUSE cuts such a login short, pgbouncer counts that as failed, and
/// after RESUME it turns clients away ("server login has been failing") until the next one has succeeded.
async fn no_login(session: &Session, database: &ForeignName, limit: Instant) {
    let in_login = |row: &tokio_postgres::SimpleQueryRow| {
        column(row, "database") == Some(database.as_str()) && column(row, "sv_login").is_some_and(|count| count != "0")
    };
    while Instant::now() < limit {
        match session.query("SHOW POOLS", limit).await {
            Ok(rows) if rows.iter().any(in_login) => tokio::time::sleep(POLL).await,
            // Whatever else is wrong shows at the PAUSE.
            _ => return,
        }
    }
}

fn resume(database: &ForeignName) -> String {
    format!("RESUME {}", convert::identifier(database.as_str()))
}

/// The answer to RESUME: a database that is not paused is as wished.
fn resumed(answer: Answer) -> Result<(), WireError> {
    match answer {
        Err(WireError::Refused { message, .. }) if message.contains("is not paused") => Ok(()),
        answer => answer.map(drop),
    }
}

/// The route that the last of the answers, to SHOW DATABASES, tells; any refusal is an error.
fn loaded_route(answers: Vec<Answer>, database: &ForeignName) -> Result<Option<String>, WireError> {
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut rows = answers.last().into_iter().flatten();
    Ok(rows.find(|row| column(row, "name") == Some(database.as_str())).map(client::route))
}

fn misled(now: Option<String>, route: &FromTo<String>, tried: String) -> Unreachable {
    let now = now.unwrap_or_else(|| "nowhere".to_owned());
    Unreachable::new(format!("after RELOAD it leads to {now}"), tried)
        .advice(format!("its [databases] section should lead to {}", route.to))
}

/// Whether a name in an address means the address that a server knows of itself.
async fn resolves_to(address: &str, landed: &str) -> bool {
    match tokio::net::lookup_host(address).await {
        Ok(mut addresses) => addresses.any(|found| found.to_string() == landed),
        Err(_) => false,
    }
}

#[async_trait]
impl Provider for Pgbouncer {
    async fn observe(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        let nothing = BTreeSet::new();
        let databases = match scope {
            Scope::PoolerDatabases(databases) => databases,
            _ => &nothing,
        };
        match self.client.facts(target, databases, true, deadline).await {
            Ok(facts) => Observed::Known { value: Facts::Pooler(facts), took: began.elapsed() },
            Err(why) => Observed::Unreachable(why),
        }
    }

    async fn apply(&self, target: &Target, action: &Action, permit: &Permit, deadline: Instant) -> Outcome {
        match action {
            Action::Pause { database } => self.pause(target, database, deadline).await,
            Action::Resume { database } => self.resume(target, database, deadline).await,
            Action::WriteRoute { database, route } => self.write_route(target, database, route, deadline).await,
            Action::Route { database, route } => self.route(target, database, route, deadline).await,
            Action::Redirect { database, route } => self.redirect(target, database, route, deadline).await,
            Action::RestoreRoute { database, route } => self.restore_route(target, database, route, deadline).await,
            Action::Marker { database, primary } => {
                self.marker(target, database, primary, &permit.run().0, deadline).await
            }
            other => Outcome::NotApplied(Unreachable::new(
                format!("the provider `pgbouncer` cannot {}", other.verb()),
                target.name(),
            )),
        }
    }

    async fn verify(&self, target: &Target, condition: &Condition, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        let (databases, file) = match condition {
            Condition::Paused { database, .. } | Condition::Routed { database, .. } => {
                (BTreeSet::from([database.clone()]), false)
            }
            Condition::RouteWritten { database, .. } => (BTreeSet::from([database.clone()]), true),
            _ => (BTreeSet::new(), false),
        };
        let mut last = None;
        loop {
            match self.client.facts(target, &databases, file, deadline).await {
                Ok(facts) => {
                    let facts = Facts::Pooler(facts);
                    let holds = condition.holds(&facts).is_ok();
                    last = Some(Observed::Known { value: facts, took: began.elapsed() });
                    if holds {
                        break;
                    }
                }
                Err(why) => {
                    if last.is_none() || Instant::now() < deadline {
                        last = Some(Observed::Unreachable(why));
                    }
                }
            }
            let pause = if file { POLL_FILE } else { POLL };
            if Instant::now() + pause >= deadline {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        last.unwrap_or_else(|| Observed::Unreachable(Unreachable::new("no time was left", target.name())))
    }

    async fn warm_up(&self, target: &Target, deadline: Instant) {
        // Two consoles, since one of them will wait in PAUSE; and the way to the file.
        let file = async {
            let mut known = self.client.alone_with_file(target).await;
            *known = self.client.read_file(target, deadline).await.ok();
        };
        let consoles = async {
            if let Ok((one, other)) =
                tokio::try_join!(self.client.console(target, deadline), self.client.console(target, deadline))
            {
                self.client.keep(target, one);
                self.client.keep(target, other);
            }
        };
        tokio::join!(file, consoles);
    }
}
