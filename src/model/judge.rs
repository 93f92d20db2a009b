//! Judging facts: does a condition hold? Pure; the only place where observed and demanded are compared after planning.

use std::collections::{BTreeMap, BTreeSet};

use super::action::{Backends, Condition};
use super::facts::{Facts, KEPT, MemberFacts, Operational, ProxyFacts, Role};
use super::name::ForeignName;
use super::pooler::PoolFacts;
use super::saved::Saved;

/// Why a condition does not hold: what is there instead, as "found …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Mismatch(pub String);

fn found<T>(what: impl Into<String>) -> Result<T, Mismatch> {
    Err(Mismatch(what.into()))
}

impl Condition {
    /// Judges the condition by `facts`.
    ///
    /// # Errors
    /// What was found instead, fit for "expected X, but …".
    pub fn holds(&self, facts: &Facts) -> Result<(), Mismatch> {
        match (self, facts) {
            (Self::Answers, _) => Ok(()),
            (Self::Records { sets }, Facts::NameServer(facts)) => {
                for (key, expected) in sets {
                    let Some(actual) = facts.sets.get(key) else { return found(format!("{key} was not asked for")) };
                    if actual != expected {
                        return found(format!("{key} is {}", super::text::record_set(actual.as_ref())));
                    }
                }
                Ok(())
            }
            (Self::Epoch { epoch }, Facts::NameServer(facts)) => match (&facts.epoch_fault, &facts.epoch) {
                (Some(fault), _) => found(format!("the epoch cannot be read: {fault}")),
                (None, is) if is == epoch => Ok(()),
                (None, is) => found(super::text::epoch(is.as_ref())),
            },
            (Self::Servers { backends }, Facts::Proxy(facts)) => {
                for (backend, name, expected) in each(backends) {
                    let actual = server(facts, backend, name)?.setting;
                    if !actual.same_effect(*expected) {
                        return found(format!("{backend}/{name} has {actual}"));
                    }
                }
                Ok(())
            }
            (Self::ServersUp { backends }, Facts::Proxy(facts)) => {
                for (backend, servers) in backends {
                    for name in servers.iter() {
                        match server(facts, backend, name)?.operational {
                            Operational::Up => {}
                            Operational::Down => return found(format!("{backend}/{name} fails its health check")),
                            Operational::Starting => {
                                return found(format!("{backend}/{name} has not passed its health check yet"));
                            }
                            Operational::Unchecked => return found(format!("{backend}/{name} is not health-checked")),
                        }
                    }
                }
                Ok(())
            }
            (Self::SessionsAtMost { backends, limit }, Facts::Proxy(facts)) => {
                let mut sessions = 0;
                for (backend, servers) in backends {
                    for name in servers.iter() {
                        sessions += server(facts, backend, name)?.sessions;
                    }
                }
                if sessions > *limit { found(format!("{sessions} sessions remain")) } else { Ok(()) }
            }
            (Self::Native { done, .. }, Facts::Proxy(facts)) => match (&facts.saved, *done) {
                (Saved::Yes, true) | (Saved::Outdated(_), false) => Ok(()),
                (Saved::Yes, false) => found("its state is saved"),
                (Saved::Outdated(what), true) => found(what.clone()),
                (Saved::Unknown(why), _) => found(why.to_string()),
                (Saved::No, _) => found("no state file is configured"),
            },
            (Self::Healthy { .. }, Facts::Server(facts)) if facts.healthy => Ok(()),
            (Self::Healthy { .. }, Facts::Server(facts)) => found(format!("it answers {}", facts.status)),
            (_, Facts::Member(facts)) => self.holds_for_member(facts),
            (Self::Paused { database, paused }, Facts::Pooler(facts)) => {
                let pool = pool(&facts.databases, database)?;
                match (*paused, pool.paused, pool.pausing) {
                    (true, true, _) | (false, false, false) => Ok(()),
                    (true, ..) => found("it is not paused"),
                    (false, ..) => found("it is paused, or about to be"),
                }
            }
            (Self::Routed { database, to }, Facts::Pooler(facts)) => {
                let pool = pool(&facts.databases, database)?;
                if pool.route == *to { Ok(()) } else { found(format!("it leads to {}", pool.route)) }
            }
            (Self::RouteWritten { database, to }, Facts::Pooler(facts)) => {
                match &pool(&facts.databases, database)?.written_route {
                    Some(route) if route == to => Ok(()),
                    Some(route) => found(format!("its configuration says {route}")),
                    None => found("its configuration cannot be read"),
                }
            }
            (Self::Running { running }, Facts::Job(facts)) => {
                if facts.running == *running {
                    Ok(())
                } else {
                    found(if facts.running { "it runs" } else { "it does not run" })
                }
            }
            _ => found("another kind of target answered"),
        }
    }

    fn holds_for_member(&self, facts: &MemberFacts) -> Result<(), Mismatch> {
        match self {
            Self::Role { role, lineage } => {
                if facts.role != *role {
                    return found(format!("it is {}", facts.role));
                }
                match lineage {
                    Some(lineage) if facts.lineage != *lineage => found(format!("it is of {}", facts.lineage)),
                    _ => Ok(()),
                }
            }
            Self::Kept => {
                let kept = facts.role == Role::Stopped && facts.settings.contains_key(KEPT);
                if kept || facts.role == Role::Fenced { Ok(()) } else { found(format!("it is {}", facts.role)) }
            }
            Self::Promoted { beyond } => {
                if facts.lineage.system != beyond.system {
                    found(format!("it is of {}", facts.lineage))
                } else if facts.role != Role::Primary {
                    found(format!("it is {}", facts.role))
                } else if facts.lineage.timeline <= beyond.timeline {
                    found(format!("its timeline is still {}", facts.lineage.timeline))
                } else {
                    Ok(())
                }
            }
            Self::AppliedBeyond { position: Some(position) } if facts.replayed > *position => Ok(()),
            Self::AppliedBeyond { position: Some(_) } => found(format!("it has applied up to {}", facts.replayed)),
            Self::AppliedBeyond { position: None } => found("the position to reach is not known yet"),
            Self::Follows { primary } => receives_from(facts, &primary.address),
            Self::KeepsUp { upstream } => {
                receives_from(facts, &upstream.address)?;
                match facts.held_back() {
                    Some(why) => found(why),
                    None => Ok(()),
                }
            }
            Self::FollowedBy { replicas } => streaming_to(facts, replicas),
            Self::Redundant { replicas, synchronous } => {
                if facts.role != Role::Primary {
                    return found(format!("it is {}", facts.role));
                }
                streaming_to(facts, replicas)?;
                if *synchronous && !facts.replicas.iter().any(|r| r.streaming && r.synchronous) {
                    return found("no replica is synchronous");
                }
                Ok(())
            }
            // Whether native work is in place only its provider can tell: it puts the answer among the settings.
            Self::Native { verb, done, .. } => {
                match facts.settings.get(&format!("native:{verb}")).map(String::as_str) {
                    Some("done") if *done => Ok(()),
                    Some("undone") if !*done => Ok(()),
                    Some(state) => found(format!("{verb} is {state}")),
                    None => found(format!("the state of {verb} was not reported")),
                }
            }
            _ => found("another kind of target answered"),
        }
    }
}

impl MemberFacts {
    /// Log that a replica may still have to replay if it is to follow a promotion at once: replayed in much less than a second.
    const MAX_BACKLOG: u64 = 16 << 20;

    /// Why a replica would follow a promotion late, if so: until it has replayed the old timeline it does not ask for the new one.
    pub fn held_back(&self) -> Option<String> {
        let delay = self.settings.get("recovery_min_apply_delay").filter(|delay| *delay != "0");
        let backlog = self.position.bytes_since(self.replayed);
        if self.replay_paused {
            Some("its replay is paused".to_owned())
        } else if let Some(delay) = delay {
            Some(format!("it replays with a delay (recovery_min_apply_delay = {delay})"))
        } else if backlog > Self::MAX_BACKLOG {
            Some(format!("it has {} MiB received and not yet replayed", backlog >> 20))
        } else {
            None
        }
    }
}

fn receives_from(facts: &MemberFacts, address: &str) -> Result<(), Mismatch> {
    match (&facts.role, &facts.receives_from) {
        (Role::Replica, Some(from)) if from == address => Ok(()),
        (Role::Replica, Some(from)) => found(format!("it receives from {from}")),
        (Role::Replica, None) => found("it receives from nobody"),
        (role, _) => found(format!("it is {role}")),
    }
}

fn streaming_to(facts: &MemberFacts, replicas: &BTreeSet<String>) -> Result<(), Mismatch> {
    let streaming = |name: &str| facts.replicas.iter().any(|r| super::text::same_member(&r.name, name) && r.streaming);
    match replicas.iter().find(|name| !streaming(name)) {
        Some(missing) => found(format!("{missing} does not stream from it")),
        None => Ok(()),
    }
}

fn each<T>(backends: &Backends<T>) -> impl Iterator<Item = (&ForeignName, &ForeignName, &T)> {
    backends.iter().flat_map(|(backend, servers)| servers.iter().map(move |(name, value)| (backend, name, value)))
}

fn server<'a>(
    facts: &'a ProxyFacts,
    backend: &ForeignName,
    name: &ForeignName,
) -> Result<&'a super::ProxyServerFacts, Mismatch> {
    match facts.backends.get(backend) {
        Some(Some(backend_facts)) => match backend_facts.servers.get(name) {
            Some(server) => Ok(server),
            None => found(format!("backend {backend} has no server {name}")),
        },
        _ => found(format!("there is no backend {backend}")),
    }
}

fn pool<'a>(
    databases: &'a BTreeMap<ForeignName, Option<PoolFacts>>,
    name: &ForeignName,
) -> Result<&'a PoolFacts, Mismatch> {
    match databases.get(name) {
        Some(Some(pool)) => Ok(pool),
        _ => found(format!("it has no database {name}")),
    }
}
