//! HAProxy (2.2 and newer) through its runtime API: HAProxy Management Guide §9.3, "Unix Socket commands".
//!
//! One session per call, all commands of it sent at once. What is set here lives in the process and is lost at a reload: the facts
//! carry the process's age for that reason, and where a `state_file` is configured, every change is followed by writing it. The
//! control channel must be a `stats socket` of `level admin`.

mod client;
mod convert;
mod saved;
mod settings;

pub use settings::{check, schema};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use self::client::Session;
use self::saved::StateFiles;
use crate::journal::Permit;
use crate::model::{
    Action, BackendServers, Backends, CLOSE_FRONTENDS, Condition, Facts, ForeignName, FromTo, Observed, ProxyFacts,
    SAVE_STATE, Saved, Scope, ServerSetting, Target, Unreachable,
};
use crate::provider::{Outcome, Provider, poll};
use crate::transport::Transport;

/// Time between two questions about settings and health: each is a session and a walk through the backend's servers.
const POLL: Duration = Duration::from_millis(20);
/// Time between two questions about sessions, which end in seconds or minutes.
const POLL_SESSIONS: Duration = Duration::from_millis(100);

/// How long one question of a `verify` waits for its answer: a process that hangs while another one takes over is asked again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Proxies that run HAProxy.
#[derive(Debug)]
pub struct HaProxy {
    files: StateFiles,
}

impl HaProxy {
    /// Proxies whose state files are reached through `transport`.
    pub fn new(transport: Arc<Transport>) -> Self {
        Self { files: StateFiles::new(transport) }
    }

    /// Reads a proxy and, beside it, its state file.
    async fn look(
        &self,
        target: &Target,
        backends: &BTreeSet<ForeignName>,
        fresh: bool,
        deadline: Instant,
    ) -> Result<ProxyFacts, Unreachable> {
        let (facts, seen) = tokio::join!(read(target, backends, deadline), self.files.look(target, fresh, deadline));
        let mut facts = facts?;
        facts.saved = self.files.judge(target, seen, &facts);
        Ok(facts)
    }

    /// Saves the state of a proxy where that is configured. That it cannot be saved is remembered and told by every reading.
    async fn save(&self, target: &Target, session: &mut Session, deadline: Instant) -> Saved {
        if saved::place(target).is_none() {
            return Saved::No;
        }
        let state = session.ask(&["show servers state".to_owned()], deadline).await;
        self.files.save(target, state.map(|mut replies| replies.pop().unwrap_or_default()), deadline).await
    }

    async fn only_save(&self, target: &Target, deadline: Instant) -> Result<(), Outcome> {
        let mut session = open(target, deadline).await.map_err(Outcome::NotApplied)?;
        match self.save(target, &mut session, deadline).await {
            Saved::Yes => Ok(()),
            Saved::Unknown(why) => Err(Outcome::NotApplied(why)),
            Saved::No | Saved::Outdated(_) => {
                let why =
                    Unreachable::new("no `state_file` is configured", format!("saving the state of {}", target.id));
                Err(Outcome::NotApplied(why))
            }
        }
    }
}

/// The backends that a saving is about.
fn saved_backends(args: &BTreeMap<String, Vec<String>>) -> BTreeSet<ForeignName> {
    args.get("backends").into_iter().flatten().map(ForeignName::new).collect()
}

#[async_trait]
impl Provider for HaProxy {
    async fn observe(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        let facts = match scope {
            Scope::Backends(backends) => self.look(target, backends, false, deadline).await,
            _ => Err(Unreachable::new("a proxy has backends only", format!("observing {}", target.id))),
        };
        match facts {
            Ok(facts) => Observed::Known { value: Facts::Proxy(facts), took: began.elapsed() },
            Err(why) => Observed::Unreachable(why),
        }
    }

    async fn apply(&self, target: &Target, action: &Action, _permit: &Permit, deadline: Instant) -> Outcome {
        let outcome = match action {
            Action::SetShare { backends } => match set_share(target, backends, deadline).await {
                Ok(mut session) => {
                    // Set is set: whether it could be saved, the next reading tells.
                    self.save(target, &mut session, deadline).await;
                    Ok(())
                }
                Err(outcome) => Err(outcome),
            },
            Action::Native { verb, .. } if verb == SAVE_STATE => self.only_save(target, deadline).await,
            Action::Native { verb, .. } if verb == CLOSE_FRONTENDS => close_frontends(target, deadline).await,
            Action::CutSessions { backends } => cut_sessions(target, backends, deadline).await,
            _ => {
                let why = format!("a proxy cannot {}", action.verb());
                Err(Outcome::NotApplied(Unreachable::new(why, format!("acting on {}", target.id))))
            }
        };
        outcome.map_or_else(|other| other, |()| Outcome::Applied)
    }

    async fn verify(&self, target: &Target, condition: &Condition, deadline: Instant) -> Observed<Facts> {
        let (backends, pause): (BTreeSet<ForeignName>, _) = match condition {
            Condition::Servers { backends } => (backends.keys().cloned().collect(), POLL),
            Condition::ServersUp { backends } => (backends.keys().cloned().collect(), POLL),
            Condition::SessionsAtMost { backends, .. } => (backends.keys().cloned().collect(), POLL_SESSIONS),
            Condition::Native { verb, args, .. } if verb == SAVE_STATE => (saved_backends(args), POLL_SESSIONS),
            _ => {
                let tried = format!("verifying {}", target.id);
                return Observed::Unreachable(Unreachable::new("this is nothing that a proxy can tell", tried));
            }
        };
        let reading = || async {
            let patience = deadline.min(Instant::now() + PATIENCE);
            let facts = if matches!(condition, Condition::Native { .. }) {
                self.look(target, &backends, true, patience).await?
            } else {
                let mut facts = read(target, &backends, patience).await?;
                facts.saved = self.files.recall(target);
                facts
            };
            Ok(Facts::Proxy(facts))
        };
        poll::until(condition, pause, deadline, reading).await
    }
}

/// Reads the facts about some backends.
async fn read(target: &Target, backends: &BTreeSet<ForeignName>, deadline: Instant) -> Result<ProxyFacts, Unreachable> {
    read_in(&mut open(target, deadline).await?, target, backends, deadline).await
}

async fn open(target: &Target, deadline: Instant) -> Result<Session, Unreachable> {
    let control = settings::Control::of(&target.settings).map_err(|finding| {
        let advice = finding.help.unwrap_or_default();
        Unreachable::new(finding.message, format!("reading the settings of {}", target.id)).advice(advice)
    })?;
    Session::open(control, deadline).await
}

async fn read_in(
    session: &mut Session,
    target: &Target,
    backends: &BTreeSet<ForeignName>,
    deadline: Instant,
) -> Result<ProxyFacts, Unreachable> {
    if let Some(name) = backends.iter().find(|name| !convert::is_name(name)) {
        return Err(Unreachable::new(format!("`{name}` cannot be the name of a backend"), session.tried()));
    }
    let replies = session.ask(&convert::questions(backends), deadline).await?;
    convert::facts(backends, &replies, saved::place(target).is_some()).map_err(|why| {
        Unreachable::new(why, session.tried()).advice("check that this is a `stats socket` of HAProxy 2.2 or newer")
    })
}

/// Opens a session that may act and reads some backends in it; nothing has been touched if that fails.
async fn prepare<'a>(
    target: &Target,
    backends: impl Iterator<Item = &'a ForeignName>,
    deadline: Instant,
) -> Result<(Session, ProxyFacts), Unreachable> {
    let mut session = open(target, deadline).await?;
    let facts = read_in(&mut session, target, &backends.cloned().collect(), deadline).await?;
    if facts.writable {
        Ok((session, facts))
    } else {
        Err(Unreachable::new("the control channel allows no changes", session.tried())
            .advice("add `level admin` to its `stats socket` line and reload the proxy"))
    }
}

/// Settings of servers by backend.
type Settings = BTreeMap<ForeignName, BTreeMap<ForeignName, ServerSetting>>;

/// What leads from one setting to another, backend by backend.
fn orders(from: &Settings, to: &Settings) -> Vec<convert::Order> {
    to.iter()
        .filter_map(|(backend, wanted)| Some(convert::orders(backend, from.get(backend)?, wanted)))
        .flatten()
        .collect()
}

/// Sets weights and admissions, and returns the session; what is there already is left alone.
async fn set_share(
    target: &Target,
    backends: &Backends<FromTo<ServerSetting>>,
    deadline: Instant,
) -> Result<Session, Outcome> {
    let (mut session, facts) = prepare(target, backends.keys(), deadline).await.map_err(Outcome::NotApplied)?;
    let refuse = |why: String, session: &Session| Outcome::NotApplied(Unreachable::new(why, session.tried()));
    let (mut present, mut wanted) = (Settings::new(), Settings::new());
    for (backend, servers) in backends {
        let found = convert::present(backend, &facts, servers.keys()).map_err(|why| refuse(why, &session))?;
        for (name, share) in servers.iter() {
            if share.to.weight > convert::MAX_WEIGHT {
                let why = format!("weight {} for {name} is above HAProxy's {}", share.to.weight, convert::MAX_WEIGHT);
                return Err(refuse(why, &session));
            }
            let Some(is) = found.get(name) else { continue };
            if !is.same_effect(share.from) && !is.same_effect(share.to) {
                return Err(refuse(
                    format!("expected {backend}/{name} with {}, but it has {is}", share.from),
                    &session,
                ));
            }
        }
        wanted.insert(backend.clone(), servers.iter().map(|(name, share)| (name.clone(), share.to)).collect());
        present.insert(backend.clone(), found);
    }
    let there = orders(&present, &wanted);
    let texts: Vec<String> = there.iter().map(|order| order.text.clone()).collect();
    let replies = session.ask(&texts, deadline).await.map_err(Outcome::Unknown)?;
    let Some((order, reply)) = there.iter().zip(&replies).find(|(_, reply)| !reply.is_empty()) else {
        return Ok(session);
    };
    // Some may have been taken before one was refused: put all back as they were.
    let refused = Unreachable::new(format!("HAProxy refused `{}`: {reply}", order.text), session.tried());
    let texts: Vec<String> = orders(&wanted, &present).into_iter().map(|order| order.text).collect();
    match session.ask(&texts, deadline).await {
        Ok(replies) if replies.iter().all(String::is_empty) => {
            Err(Outcome::NotApplied(refused.advice("what had been set with it was put back")))
        }
        _ => {
            Err(Outcome::Unknown(refused.advice("what had been set with it could not be put back: look at the proxy")))
        }
    }
}

/// Ends the running sessions of servers.
async fn cut_sessions(target: &Target, backends: &BackendServers, deadline: Instant) -> Result<(), Outcome> {
    let (mut session, facts) = prepare(target, backends.keys(), deadline).await.map_err(Outcome::NotApplied)?;
    let mut texts = Vec::new();
    for (backend, servers) in backends {
        convert::present(backend, &facts, servers.iter())
            .map_err(|why| Outcome::NotApplied(Unreachable::new(why, session.tried())))?;
        texts.extend(servers.iter().map(|name| format!("shutdown sessions server {backend}/{name}")));
    }
    all_taken(&mut session, &texts, deadline).await
}

/// Takes no new client, and sends those that are there away: HAProxy's next answer to each says `Connection: close` (HTTP/2: GOAWAY), and
/// requests that run are finished. Only a new start of the process takes it back.
async fn close_frontends(target: &Target, deadline: Instant) -> Result<(), Outcome> {
    let (mut session, _) = prepare(target, std::iter::empty(), deadline).await.map_err(Outcome::NotApplied)?;
    let replies = session.ask(&[convert::FRONTENDS.to_owned()], deadline).await.map_err(Outcome::NotApplied)?;
    let frontends = convert::frontends(&replies.concat(), false)
        .map_err(|why| Outcome::NotApplied(Unreachable::new(why, session.tried())))?;
    let texts: Vec<String> = frontends.iter().map(|name| format!("shutdown frontend {name}")).collect();
    all_taken(&mut session, &texts, deadline).await
}

/// Says commands none of which may be refused.
async fn all_taken(session: &mut Session, texts: &[String], deadline: Instant) -> Result<(), Outcome> {
    let replies = session.ask(texts, deadline).await.map_err(Outcome::Unknown)?;
    match texts.iter().zip(&replies).find(|(_, reply)| !reply.is_empty()) {
        None => Ok(()),
        Some((text, reply)) => {
            Err(Outcome::Unknown(Unreachable::new(format!("HAProxy refused `{text}`: {reply}"), session.tried())))
        }
    }
}
