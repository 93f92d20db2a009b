//! Databases whose primary is lost: who takes over, what may be lost with it, and how the old primary is kept from taking writes. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::evidence::Attestation;
use super::known::Known;
use super::loss::{Loss, loss};
use crate::model::text::list;
use crate::model::{
    Database, DatabaseName, FromTo, Lineage, Live, Member, MemberFacts, Peer, Position, Role, TargetId,
};
use crate::plan::desired::{Desired, Refusal};
use crate::plan::intent::Intent;
use crate::plan::{live, synchronous};
use crate::topology::Topology;

/// A database whose primary is lost, and who takes over.
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    /// The database.
    pub database: DatabaseName,
    /// The primary that is lost.
    pub from: Peer,
    /// Who takes over.
    pub to: Peer,
    /// The history that is left behind.
    pub lineage: Lineage,
    /// Why it and no other, where there was a choice.
    pub why: Option<String>,
    /// Replicas that go on under the new primary.
    pub followers: BTreeSet<TargetId>,
    /// The names that commits wait for at the candidate now, and from the promotion on.
    pub synchronous: FromTo<String>,
    /// What may be lost.
    pub loss: Loss,
    /// How the old primary is kept from taking writes.
    pub fence: FenceBy,
}

impl Failover {
    /// How the old primary is kept from taking writes, in one line.
    pub fn fence_line(&self) -> String {
        let old = self.from.member.name();
        match &self.fence {
            FenceBy::Command { fence, survives_power_on } => {
                let stays = if *survives_power_on {
                    "it stays so when its power comes back".to_owned()
                } else {
                    format!(
                        "when its power comes back {old} may start as a primary, unless its service asks `handover admit` first"
                    )
                };
                format!("{old} is cut off by the fence of {}, checked by its command; {stays}", fence.name())
            }
            FenceBy::Host => format!("{old} does not run, says its machine, which keeps it so"),
            FenceBy::Attested(word) => format!(
                "nothing proves that {old} takes no writes: {} says so ({}); that is trust, not proof",
                word.by, word.reason
            ),
        }
    }
}

/// How an old primary that cannot be asked is kept from taking writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum FenceBy {
    /// By a command from outside, with a check.
    Command {
        /// What is cut off.
        fence: TargetId,
        /// True if it stays so when its power comes back.
        survives_power_on: bool,
    },
    /// By its own machine, which answers, says that it does not run, and lets it come back as a replica only.
    Host,
    /// Nobody does anything: somebody says that it takes none.
    Attested(Attestation),
}

/// Why nobody takes over.
pub(in crate::plan) enum NoFailover {
    /// Nobody can: no flag helps.
    Impossible(Refusal),
    /// An operator has to say something first.
    Undecided(Vec<Refusal>),
}

/// What follows for a database whose primary does not answer and is lost.
pub(in crate::plan) fn failover(
    topology: &Topology,
    desired: &Desired,
    intent: &Intent,
    database: &Database,
    live: &Live,
    known: &Known,
) -> Result<Failover, NoFailover> {
    let may = |member: &Member| member.priority > 0 && desired.is_in_service(member);
    let candidates = Candidates::of(database, may, live);
    if candidates.fit.is_empty() {
        let why =
            if candidates.reasons.is_empty() { "there is no replica".to_owned() } else { list(&candidates.reasons) };
        return Err(NoFailover::Impossible(Refusal::new(
            format!("no member of {} can take over: {why}", database.name),
            "bring a replica up, or give one a priority; until then the database cannot be written",
        )));
    }
    let from = old_primary(desired, database, live, known).map_err(|refusal| NoFailover::Undecided(vec![refusal]))?;
    let mut refusals = Vec::new();
    let fence = fence(topology, desired, intent, database, (from, live)).map_err(|refusal| refusals.push(refusal)).ok();
    let choice = candidates.choose(database, intent).map_err(|refusal| refusals.push(refusal)).ok();
    let (Some(fence), Some((first, why)), true) = (fence, choice, refusals.is_empty()) else {
        return Err(NoFailover::Undecided(refusals));
    };
    let followers: BTreeSet<TargetId> = candidates.followers(first).cloned().collect();
    let names: BTreeSet<String> = followers.iter().map(|id| id.name().to_owned()).collect();
    let now = first.facts.synchronous_names.clone();
    let synchronous = FromTo { to: synchronous::reachable(&now, &names), from: now };
    let peer = |member: &Member| Peer { member: member.target.id.clone(), address: member.target.address.clone() };
    Ok(Failover {
        database: database.name.clone(),
        from: peer(from),
        to: peer(first.member),
        lineage: first.facts.lineage.clone(),
        why,
        followers,
        synchronous,
        loss: loss(database, from, first.facts, live, known),
        fence,
    })
}

/// The member that was primary: the one whom the replicas that answer follow; else the one that was last seen as primary; else the only
/// one that is lost.
fn old_primary<'a>(
    desired: &Desired,
    database: &'a Database,
    live: &Live,
    known: &Known,
) -> Result<&'a Member, Refusal> {
    let lost: Vec<&Member> = database.members.values().filter(|member| desired.lost.contains(&member.target)).collect();
    let followed = |member: &&Member| {
        let follows = |facts: &MemberFacts| {
            let set = facts.set_to_follow.as_deref().unwrap_or_default().split(',');
            facts.role == Role::Replica
                && set.chain(facts.receives_from.as_deref()).any(|it| it == member.target.address)
        };
        database.members.values().filter_map(|other| live::member(live, &other.target.id)).any(follows)
    };
    let seen = |member: &&Member| known.members.get(&member.target.id).is_some_and(|seen| seen.role == Role::Primary);
    let one = |wanted: &dyn Fn(&&Member) -> bool| {
        let mut found = lost.iter().copied().filter(wanted);
        found.next().filter(|_| found.next().is_none())
    };
    one(&|member| followed(member)).or_else(|| one(&|member| seen(member))).or_else(|| one(&|_| true)).ok_or_else(
        || {
            let names = list(lost.iter().map(|member| member.target.name()));
            Refusal::new(
                format!("it is not known which of {names} was primary of {}", database.name),
                "name the one that was with --lost MEMBER as well; `handover runs` and the replicas' settings tell",
            )
        },
    )
}

/// How the old primary is kept from taking writes: by its machine where that answers, or that is cut off, or its facility where all of that is lost, or somebody says
/// that it takes none.
fn fence(
    topology: &Topology,
    desired: &Desired,
    intent: &Intent,
    database: &Database,
    (old, live): (&Member, &Live),
) -> Result<FenceBy, Refusal> {
    let target = &old.target;
    let whole = desired.lost.facilities.contains(&target.facility);
    if !whole
        && live::member(live, &target.id).is_some_and(|facts| stands(facts) && facts.capabilities.no_control.is_none())
    {
        return Ok(FenceBy::Host);
    }
    let of_host = target.host.as_ref().and_then(|host| topology.host_fences.get(&host.name));
    let of_facility = topology.facilities.get(&target.facility).and_then(|it| it.fence.as_ref()).filter(|_| whole);
    if let Some(fence) = of_host.or(of_facility) {
        let survives_power_on = fence.survives_power_on;
        return Ok(FenceBy::Command { fence: fence.target.id.clone(), survives_power_on });
    }
    if let Some(attestation) = &intent.attested {
        return Ok(FenceBy::Attested(attestation.clone()));
    }
    let host = target.host.as_ref().map(|host| format!("hosts.{}.fence", host.name));
    let facility = whole.then(|| format!("facilities.{}.fence", target.facility));
    let keys: Vec<String> = host.into_iter().chain(facility).collect();
    Err(Refusal::new(
        format!("nothing proves that {}, the primary of {}, takes no more writes", target.name(), database.name),
        format!(
            "declare what cuts it off ({}), or, if you know that it is off and stays off: --attest-fenced --reason TEXT",
            if keys.is_empty() { "`fence` of its host".to_owned() } else { list(keys) }
        ),
    ))
}

/// It does not run, as its machine says.
pub(super) fn stands(facts: &MemberFacts) -> bool {
    matches!(facts.role, Role::Stopped | Role::Fenced)
}

/// The replicas that could take over.
struct Candidates<'a> {
    fit: Vec<Candidate<'a>>,
    /// Those that may never be primary.
    never: Vec<Candidate<'a>>,
    reasons: Vec<String>,
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    member: &'a Member,
    facts: &'a MemberFacts,
}

impl Candidate<'_> {
    fn id(&self) -> &TargetId {
        &self.member.target.id
    }

    /// The end of what it has received: a promotion applies all of it.
    fn position(&self) -> Position {
        self.facts.position
    }

    fn describe(&self) -> String {
        format!(
            "{} (timeline {}, received up to {}, priority {})",
            self.id().name(),
            self.facts.lineage.timeline,
            self.position(),
            self.member.priority
        )
    }
}

impl<'a> Candidates<'a> {
    /// `may` tells those that may be primary, wherever the topology would rather have it.
    fn of(database: &'a Database, may: impl Fn(&Member) -> bool, live: &'a Live) -> Self {
        let mut candidates = Self { fit: Vec::new(), never: Vec::new(), reasons: Vec::new() };
        for member in database.members.values() {
            let name = member.target.name();
            match live::facts(live, &member.target.id).map(|facts| facts.member()) {
                Err(why) => candidates.reasons.push(format!("{name} does not answer: {why}")),
                Ok(None) => candidates.reasons.push(format!("{name} answered as something else")),
                Ok(Some(facts)) if facts.role != Role::Replica => {
                    candidates.reasons.push(format!("{name} is {}, not a replica", facts.role));
                }
                Ok(Some(facts)) => {
                    let candidate = Candidate { member, facts };
                    if may(member) { &mut candidates.fit } else { &mut candidates.never }.push(candidate);
                }
            }
        }
        // By name already; all positions of one database are of one kind.
        candidates.fit.sort_by(|a, b| {
            let position = b.position().partial_cmp(&a.position()).unwrap_or(Ordering::Equal);
            position.then_with(|| b.member.priority.cmp(&a.member.priority))
        });
        candidates
    }

    /// The replica with the most of the log; among equals by priority, then name. Histories that differ cannot be compared.
    fn choose(&self, database: &Database, intent: &Intent) -> Result<(&Candidate<'a>, Option<String>), Refusal> {
        let name = &database.name;
        let history = |it: &Candidate<'a>| (it.facts.lineage.system.clone(), it.facts.lineage.timeline);
        let histories: BTreeSet<_> = self.fit.iter().map(history).collect();
        let first = match intent.survivor.get(name) {
            Some(wanted) => self.fit.iter().find(|it| it.id().name() == wanted).ok_or_else(|| {
                let able = self.fit.iter().map(|it| it.id().name());
                Refusal::new(
                    format!("{wanted} cannot take over {name}: it is no replica that answers and may be primary"),
                    format!("those are {}", list(able)),
                )
            })?,
            None if histories.len() > 1 => {
                let all = list(self.fit.iter().map(Candidate::describe));
                return Err(Refusal::new(
                    format!("the replicas of {name} have different histories, and none of them holds all: {all}"),
                    format!(
                        "choose one with --survivor {name}=MEMBER; what only the others hold must be compared by hand"
                    ),
                ));
            }
            None => self.fit.first().ok_or_else(|| Refusal::new(format!("{name} has no replica"), "bring one up"))?,
        };
        let mut why = Vec::new();
        let others: Vec<String> = self.fit.iter().filter(|it| it.id() != first.id()).map(Candidate::describe).collect();
        if !others.is_empty() {
            why.push(format!("why {}: the most of the log; after it would come {}", first.describe(), list(others)));
        }
        for ahead in self.never.iter().filter(|it| it.position() > first.position()) {
            let more = ahead.position().bytes_since(first.position());
            why.push(format!("{} holds {more} bytes more and may not be primary", ahead.describe()));
        }
        Ok((first, (!why.is_empty()).then(|| why.join("; "))))
    }

    /// Those that can go on under the chosen one: of its history, and not ahead of it.
    fn followers(&self, first: &Candidate<'_>) -> impl Iterator<Item = &TargetId> {
        let (id, lineage, position) = (first.id().clone(), first.facts.lineage.clone(), first.position());
        let fit = move |it: &&Candidate<'_>| *it.id() != id && it.facts.lineage == lineage && it.position() <= position;
        self.fit.iter().chain(&self.never).filter(fit).map(Candidate::id)
    }
}

/// What is told of several failovers that one fence serves.
pub(in crate::plan) fn by_fence(failovers: &[Failover]) -> BTreeMap<&TargetId, Vec<&Failover>> {
    let mut fences: BTreeMap<&TargetId, Vec<&Failover>> = BTreeMap::new();
    for failover in failovers {
        if let FenceBy::Command { fence, .. } = &failover.fence {
            fences.entry(fence).or_default().push(failover);
        }
    }
    fences
}
