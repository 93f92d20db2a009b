//! From what was observed to [`Evidence`]: who of those outside says what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Attestation, Count, Evidence, Lost, Own, Says, Witness, WitnessKind};
use crate::model::{
    Database, Live, MemberFacts, Operational, Proxy, ProxyFacts, ProxyServerFacts, Role, Target, TargetId,
};
use crate::plan::live;
use crate::plan::lost::failover::stands;
use crate::plan::lost::reach::{self, Whose};
use crate::topology::Topology;

/// A receiver that has heard from its sender within so long receives: a loaded primary sends all the time.
const FRESH: Duration = Duration::from_secs(1);

/// What is known from earlier observations. Ages, not moments: nothing here has a clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// How long ago each target last answered.
    pub answered: BTreeMap<TargetId, Duration>,
    /// For how long each target has been found silent, without interruption, up to now.
    pub silent: BTreeMap<TargetId, Duration>,
    /// The address that each member received from when it last answered.
    pub received_from: BTreeMap<TargetId, String>,
}

/// Puts what was observed into plain values.
pub fn gather(
    topology: &Topology,
    lost: &Lost,
    live: &Live,
    before: &Before,
    attested: Option<Attestation>,
) -> Evidence {
    let here = topology.operator.as_ref().map(|operator| operator.runs_in.clone());
    let own = own(topology, lost, live, before);
    let found_silent = own.silent.iter().chain(&own.stopped).map(|id| before.silent.get(id).copied());
    let own_silence = found_silent.map(Option::unwrap_or_default).min().unwrap_or_default();
    let looking = Looking { topology, lost, live, before, own_silence };
    let (mut witnesses, mut heard) = (Vec::new(), None);
    for (witness, age) in looking.proxies().into_iter().chain(looking.receivers()) {
        heard = heard.into_iter().chain(age).min();
        witnesses.push(witness);
    }
    witnesses.extend(looking.vantages());
    witnesses.sort_by(|a, b| (a.kind, &a.place, &a.who).cmp(&(b.kind, &b.place, &b.who)));
    let told = witnesses.iter().filter(|witness| here.as_ref() != Some(&witness.place)).filter_map(|w| match w.says {
        Says::SeesNot { since, .. } => since,
        Says::Sees(_) | Says::CannotTell(_) => None,
    });
    // Longest of those who have watched; but nothing was silent while somebody still heard it.
    let watched = told.chain([own_silence]).max().unwrap_or_default();
    let silent_for = heard.into_iter().chain(own.last_answer).fold(watched, Duration::min);
    let hold_down = topology.policy.hold_down.0;
    Evidence { lost: lost.clone(), here, own, witnesses, attested, silent_for, hold_down }
}

/// What we have asked ourselves. A vantage that answers out of what is lost shows that it is not.
fn own(topology: &Topology, lost: &Lost, live: &Live, before: &Before) -> Own {
    let mut own = Own::default();
    let answers = |target: &&std::sync::Arc<Target>| live.get(&target.id).is_some_and(|seen| seen.known().is_some());
    let lost_vantages = topology.vantages.values().filter(|target| lost.contains(target)).filter(answers);
    own.answers.extend(lost_vantages.map(|target| target.id.clone()));
    for target in topology.targets() {
        let Some(observed) = live.get(&target.id) else { continue };
        let id = target.id.clone();
        if !lost.contains(target) {
            let count: &mut Count = own.survivors.entry(target.facility.clone()).or_default();
            count.asked += 1;
            count.answered += usize::from(observed.known().is_some());
            continue;
        }
        own.last_answer = own.last_answer.into_iter().chain(before.answered.get(&id).copied()).min();
        match observed.known() {
            None => own.silent.insert(id),
            // The machine of a database server that has died says so itself: then the machine is not lost, and so not its facility.
            Some(facts) if facts.member().is_some_and(stands) && !lost.facilities.contains(&target.facility) => {
                own.stopped.insert(id)
            }
            Some(_) => own.answers.insert(id),
        };
    }
    own
}

/// Asks those outside what they see.
struct Looking<'a> {
    topology: &'a Topology,
    lost: &'a Lost,
    live: &'a Live,
    before: &'a Before,
    /// For how long we have found everything silent.
    own_silence: Duration,
}

impl Looking<'_> {
    /// The surviving proxies that have servers of what is lost; each with the age of the last moment at which it took one of them for up.
    fn proxies(&self) -> Vec<(Witness, Option<Duration>)> {
        let outside = self.topology.proxies.values().filter(|proxy| !self.lost.contains(&proxy.target));
        outside.filter_map(|proxy| self.proxy(proxy)).collect()
    }

    fn proxy(&self, proxy: &Proxy) -> Option<(Witness, Option<Duration>)> {
        let servers = self.topology.services.values().flat_map(|service| service.servers.values());
        if !servers.clone().any(|server| self.lost.contains(&server.target)) {
            return None;
        }
        let witness = |says, reaches, heard| {
            let (who, place) = (proxy.target.name().to_owned(), proxy.target.facility.clone());
            Some((Witness { who, kind: WitnessKind::Proxy, place, says, reaches }, heard))
        };
        let facts = match live::facts(self.live, &proxy.target.id) {
            Ok(facts) => facts.proxy()?,
            Err(why) => return witness(no_answer(&why.why), BTreeSet::new(), None),
        };
        let (of_lost, others): (Vec<_>, Vec<_>) =
            self.servers(proxy, facts).partition(|(target, _)| self.lost.contains(target));
        let up = |servers: &[(&Target, &ProxyServerFacts)]| -> BTreeSet<TargetId> {
            let up = servers.iter().filter(|(_, facts)| facts.operational == Operational::Up);
            up.map(|(target, _)| target.id.clone()).collect()
        };
        let reaches = up(&others).into_iter().filter(|id| self.silent_to_us(id)).collect();
        let found = up(&of_lost);
        let are = |found: Operational| of_lost.iter().filter(move |(_, facts)| facts.operational == found);
        let down = are(Operational::Down).count();
        // Since the last of them went down; unknown if one of them does not tell.
        let since = are(Operational::Down).map(|(_, facts)| facts.down_for).min().flatten();
        let mut heard = None;
        let says = if !found.is_empty() {
            let names: BTreeSet<&str> = found.iter().map(TargetId::name).collect();
            Says::Sees(format!("finds {} up", super::words::few(&names)))
        } else if down == 0 {
            Says::CannotTell("checks none of its servers".to_owned())
        } else if up(&others).is_empty() {
            Says::CannotTell("finds no server up at all: it may be cut off itself".to_owned())
        } else {
            // One that is between up and down was alive a check ago.
            let alive = are(Operational::Starting).next().map(|_| Duration::ZERO);
            heard = alive.or(since);
            Says::SeesNot { how: format!("finds none of its {down} servers up"), since: heard }
        };
        witness(says, reaches, heard)
    }

    /// The servers that a proxy checks, each with its target.
    fn servers<'b>(
        &'b self,
        proxy: &'b Proxy,
        facts: &'b ProxyFacts,
    ) -> impl Iterator<Item = (&'b Target, &'b ProxyServerFacts)> {
        self.topology.services.values().flat_map(move |service| {
            let backend = facts.backends.get(live::backend_of(proxy, service)).and_then(Option::as_ref);
            service
                .servers
                .iter()
                .filter_map(move |(name, server)| Some((server.target.as_ref(), backend?.servers.get(name.as_str())?)))
        })
    }

    /// The replicas outside that receive from what is lost, or did; each with the age of the last thing that it has heard from there.
    fn receivers(&self) -> Vec<(Witness, Option<Duration>)> {
        self.topology.databases.values().flat_map(|database| self.receivers_of(database)).collect()
    }

    fn receivers_of(&self, database: &Database) -> Vec<(Witness, Option<Duration>)> {
        let members = || database.members.values().map(|member| member.target.as_ref());
        let senders: Vec<&Target> = members().filter(|target| self.lost.contains(target)).collect();
        let sender = |from: &str| senders.iter().find(|target| target.address == from || target.name() == from);
        let mut found = Vec::new();
        for target in members().filter(|target| !self.lost.contains(target)) {
            let Some(facts) = live::member(self.live, &target.id).filter(|facts| facts.role == Role::Replica) else {
                continue;
            };
            let (says, age) = match receiver(facts) {
                Some((from, age)) => {
                    let Some(sender) = sender(from) else { continue };
                    (self.receives(sender.name(), age), age)
                }
                // It tries again and again; but only one that did receive from there shows anything by not doing so.
                None => {
                    let Some(sender) = self.before.received_from.get(&target.id).and_then(|from| sender(from)) else {
                        continue;
                    };
                    let how = format!("no longer gets a connection to {}", sender.name());
                    (Says::SeesNot { how, since: None }, None)
                }
            };
            let (who, place) = (target.name().to_owned(), target.facility.clone());
            let witness = Witness { who, kind: WitnessKind::Receiver, place, says, reaches: BTreeSet::new() };
            found.push((witness, age));
        }
        found
    }

    /// What it means that a replica has a connection to this member, from which it last heard so long ago.
    fn receives(&self, sender: &str, age: Option<Duration>) -> Says {
        match age {
            None => Says::Sees(format!("still receives from {sender}")),
            Some(age) if age <= FRESH || age < self.own_silence => {
                Says::Sees(format!("still receives from {sender}, the last time {} ago", super::words::span(age)))
            }
            Some(age) => Says::CannotTell(format!(
                "has heard nothing from {sender} for {}, which an idle primary does too",
                super::words::span(age)
            )),
        }
    }

    /// The hosts elsewhere that were asked.
    fn vantages(&self) -> Vec<Witness> {
        let outside = self.topology.vantages.values().filter(|target| !self.lost.contains(target));
        let mut outside = outside.filter(|target| self.live.contains_key(&target.id)).peekable();
        if outside.peek().is_none() {
            return Vec::new();
        }
        let addresses = reach::addresses(self.topology, self.lost);
        outside.filter_map(|target| self.vantage(target, &addresses)).collect()
    }

    fn vantage(&self, target: &Target, addresses: &BTreeMap<String, Whose>) -> Option<Witness> {
        let witness = |says, reaches| {
            let (who, place) = (target.name().to_owned(), target.facility.clone());
            Some(Witness { who, kind: WitnessKind::Vantage, place, says, reaches })
        };
        let facts = match live::facts(self.live, &target.id) {
            Ok(facts) => facts.vantage()?,
            Err(why) => return witness(no_answer(&why.why), BTreeSet::new()),
        };
        let asked = facts.reached.iter().filter_map(|(address, is)| Some((addresses.get(address)?, *is)));
        let (of_lost, others): (Vec<_>, Vec<_>) = asked.partition(|(whose, _)| whose.lost);
        if of_lost.is_empty() {
            return None;
        }
        fn reached<'a>(asked: &[(&'a Whose, bool)]) -> BTreeSet<&'a str> {
            asked.iter().filter(|(_, is)| *is).flat_map(|(whose, _)| &whose.names).map(String::as_str).collect()
        }
        let reached_others = others.iter().filter(|(_, is)| *is).flat_map(|(whose, _)| &whose.targets);
        let reaches = reached_others.filter(|id| self.silent_to_us(id)).cloned().collect();
        let found = reached(&of_lost);
        let says = if !found.is_empty() {
            Says::Sees(format!("reaches {}", super::words::few(&found)))
        } else if reached(&others).is_empty() {
            Says::CannotTell("reaches nothing at all: it may be cut off itself".to_owned())
        } else {
            Says::SeesNot { how: format!("reaches none of its {} addresses", of_lost.len()), since: None }
        };
        witness(says, reaches)
    }

    fn silent_to_us(&self, id: &TargetId) -> bool {
        self.live.get(id).is_some_and(|observed| observed.known().is_none())
    }
}

/// From where a replica receives, and how long ago it has heard anything from there, where it tells.
fn receiver(facts: &MemberFacts) -> Option<(&str, Option<Duration>)> {
    let heard = facts.receiver.as_ref().map(|receiver| (receiver.from.as_str(), Some(receiver.last_message)));
    heard.or_else(|| Some((facts.receives_from.as_deref()?, None)))
}

/// The word of a witness that does not answer.
fn no_answer(why: &str) -> Says {
    Says::CannotTell(format!("does not answer us: {why}"))
}
