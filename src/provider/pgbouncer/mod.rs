//! pgbouncer: its console, its configuration file on its machine, and a write through it the way clients write.
//!
//! May use `model`, `journal` (the permit), `provider`, `transport` and `secret`. Sources: pgbouncer's manual, "Admin console"
//! (PAUSE, RESUME, RELOAD, SHOW) and "Section `[databases]`".
//!
//! Three things decide how it is used. PAUSE waits for open transactions and never returns if somebody else resumes meanwhile: it
//! gets a session and a deadline of its own, and a second console frees the clients when it misses it. PAUSE at a moment in which
//! pgbouncer logs in at a server makes it turn clients away later (`pause`). RELOAD long before RESUME makes clients hang for
//! `server_login_retry` if one of them logs in in between (pgbouncer issue 498): [`Action::Redirect`] says both in one go.
//! [`Action::Route`] is for a database whose clients are not held back.
//!
//! Everything is said at the console of every process of a pooler (`processes`).

mod client;
mod convert;
mod pause;
mod processes;
mod settings;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use client::{Client, Console, explain};
use futures_util::future::join_all;
use pause::Calm;
pub use settings::{check, schema};

use super::pgwire::{Answer, WireError, column};
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

    fn failed(console: &Console<'_>, error: &WireError) -> Outcome {
        let why = explain(console, error);
        if error.certain() { Outcome::NotApplied(why) } else { Outcome::Unknown(why) }
    }

    /// Does the same at every process, at the same time.
    async fn everywhere<'a, F>(target: &'a Target, act: impl Fn(Console<'a>) -> F) -> Outcome
    where
        F: Future<Output = Outcome>,
    {
        processes::all(join_all(Console::all(target).into_iter().map(act)).await)
    }

    /// Holds clients back at every process, or at none.
    async fn pause(&self, target: &Target, database: &ForeignName, deadline: Instant) -> Outcome {
        let consoles = Console::all(target);
        // With several processes, one that fails must leave time to free the others.
        let reserve = deadline.saturating_duration_since(Instant::now()) / 4;
        let limit = if consoles.len() > 1 { deadline - reserve } else { deadline };
        let pausing = consoles.iter().map(|console| async move {
            if !self.client.calmed(console).is_some_and(|calm| calm.is_ready())
                && let Err(outcome) = pause::calm(&self.client, console, database, limit).await
            {
                return outcome;
            }
            pause::pause(&self.client, console, database, limit).await
        });
        self.all_or_none(target, database, join_all(pausing).await, deadline).await
    }

    /// What became of something that only all processes together may do: where a part of them did it, it is taken back.
    async fn all_or_none(
        &self,
        target: &Target,
        database: &ForeignName,
        outcomes: Vec<Outcome>,
        deadline: Instant,
    ) -> Outcome {
        let applied = |outcome: &Outcome| *outcome == Outcome::Applied;
        if outcomes.iter().all(applied) || !outcomes.iter().any(applied) {
            return processes::all(outcomes);
        }
        let freed = Self::everywhere(target, |console| self.resume(console, database, deadline)).await;
        match (outcomes.into_iter().find(|outcome| matches!(outcome, Outcome::NotApplied(_))), freed) {
            (Some(refused), Outcome::Applied | Outcome::Seen(_)) => refused,
            (_, Outcome::NotApplied(why) | Outcome::Unknown(why)) => Outcome::Unknown(why),
            (None, Outcome::Applied | Outcome::Seen(_)) => {
                let why = format!("a part of its processes did not answer PAUSE {database}; clients go on");
                Outcome::NotApplied(Unreachable::new(why, target.name()))
            }
        }
    }

    async fn resume(&self, console: Console<'_>, database: &ForeignName, deadline: Instant) -> Outcome {
        let mut statements = vec![resume(database)];
        statements.extend(self.client.calmed(&console).iter().flat_map(Calm::taken_back));
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        let said = self.client.say(&console, &statements, deadline).await;
        match said.and_then(|answers| answers.into_iter().try_for_each(resumed)) {
            Ok(()) => {
                self.client.uncalm(&console);
                Outcome::Applied
            }
            Err(error) => Self::failed(&console, &error),
        }
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
        console: Console<'_>,
        database: &ForeignName,
        route: &FromTo<String>,
        deadline: Instant,
    ) -> Outcome {
        let tried = || format!("loading the route of {database}, {}", console.tried());
        let shown = self.client.say(&console, &["SHOW DATABASES"], deadline).await;
        let present = match shown.and_then(|answers| loaded_route(answers, database)) {
            Ok(present) => present,
            // It was only asked.
            Err(error) => return Outcome::NotApplied(explain(&console, &error)),
        };
        if present.as_deref() == Some(&route.to) {
            return Outcome::Applied;
        }
        if present.as_deref() != Some(&route.from) {
            let present = present.unwrap_or_else(|| "nowhere".to_owned());
            return Outcome::NotApplied(Unreachable::new(format!("it leads to {present}"), tried()));
        }
        let answers = self.client.say(&console, &["RELOAD", "SHOW DATABASES"], deadline).await;
        match answers.and_then(|answers| loaded_route(answers, database)) {
            Ok(Some(now)) if now == route.to => Outcome::Applied,
            Ok(now) => Outcome::Unknown(misled(now, route, tried())),
            // Also a refused RELOAD may have loaded a part.
            Err(error) => Outcome::Unknown(explain(&console, &error)),
        }
    }

    /// Loads the configuration and lets clients go on, in one go: no client can log in while the route is new and clients are still
    /// held back. It would make pgbouncer count a failed login, and keep everybody waiting for `server_login_retry`.
    async fn redirect(
        &self,
        console: Console<'_>,
        database: &ForeignName,
        route: &FromTo<String>,
        deadline: Instant,
    ) -> Outcome {
        let tried = || format!("loading the route of {database} and letting clients go on, {}", console.tried());
        let statements = ["RELOAD", "SHOW DATABASES", &resume(database)];
        let mut answers = match self.client.say(&console, &statements, deadline).await {
            Ok(answers) => answers,
            Err(error) => return Self::failed(&console, &error),
        };
        // RELOAD has brought back what the configuration says.
        self.client.uncalm(&console);
        let end = answers.pop().map_or(Ok(()), resumed);
        match (loaded_route(answers, database), end) {
            (Ok(Some(now)), Ok(())) if now == route.to => Outcome::Applied,
            (Ok(now), Ok(())) => Outcome::Unknown(misled(now, route, tried())),
            (_, Err(error)) | (Err(error), _) => Outcome::Unknown(explain(&console, &error)),
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
            Outcome::Applied => {
                Self::everywhere(target, |console| self.route(console, database, route, deadline)).await
            }
            other => other,
        }
    }

    /// Writes to the log of whatever primary clients reach, without needing a table.
    async fn marker(
        &self,
        console: Console<'_>,
        database: &ForeignName,
        primary: &Peer,
        run: &str,
        deadline: Instant,
    ) -> Outcome {
        let tried = || format!("a write through {} ({}) to {database}", console.target.name(), console.address);
        let session = match self.client.as_client(&console, database.as_str(), deadline).await {
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
            Action::Resume { database } => {
                Self::everywhere(target, |console| self.resume(console, database, deadline)).await
            }
            Action::WriteRoute { database, route } => self.write_route(target, database, route, deadline).await,
            Action::Route { database, route } => {
                Self::everywhere(target, |console| self.route(console, database, route, deadline)).await
            }
            Action::Redirect { database, route } => {
                Self::everywhere(target, |console| self.redirect(console, database, route, deadline)).await
            }
            Action::RestoreRoute { database, route } => self.restore_route(target, database, route, deadline).await,
            Action::Marker { database, primary } => {
                let run = &permit.run().0;
                Self::everywhere(target, |console| self.marker(console, database, primary, run, deadline)).await
            }
            other => Outcome::NotApplied(Unreachable::new(
                format!("the provider `pgbouncer` cannot {}", other.verb()),
                target.name(),
            )),
        }
    }

    async fn prepare(&self, target: &Target, action: &Action, _: &Permit, deadline: Instant) -> Option<Outcome> {
        let Action::Pause { database } = action else { return None };
        let limit = deadline - deadline.saturating_duration_since(Instant::now()) / 4;
        let consoles = Console::all(target);
        let calming = consoles.iter().map(|console| async move {
            match pause::calm(&self.client, console, database, limit).await {
                Ok(()) => Outcome::Applied,
                Err(outcome) => outcome,
            }
        });
        Some(self.all_or_none(target, database, join_all(calming).await, deadline).await)
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
        let consoles = join_all(Console::all(target).into_iter().map(|console| async move {
            let (one, other) =
                tokio::join!(self.client.console(&console, deadline), self.client.console(&console, deadline));
            one.into_iter().chain(other).for_each(|session| self.client.keep(&console, session));
        }));
        tokio::join!(file, consoles);
    }
}
