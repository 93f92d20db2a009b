//! How what was taken out of service comes back, as far as that can be told when it leaves: the plan skeleton that is saved beside each drain
//! and each loss. It is no plan: when the time comes, a new one is made of how things are then. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::desired::Refusal;
use super::document::{DocumentError, Plan, TopologyRef};
use super::intent::{HoldKind, Intent, LostThing};
use super::live::{self, backend_of};
use super::make::{Planned, make};
use super::synchronous;
use crate::model::{
    Database, FacilityName, Facts, JobFacts, Live, MemberFacts, NameServerFacts, Observed, PoolerFacts, ProxyFacts,
    ReplicaFacts, ReplicationMode, Role, Route, ServerFacts, SlotFacts, Span, Target, TargetKind,
};
use crate::topology::Topology;

/// The way back from a plan, as it is predicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skeleton {
    /// Always true: what tells it from a plan.
    pub skeleton: bool,
    /// The plan that it leads back from.
    pub after: String,
    /// The topology then.
    pub topology: TopologyRef,
    /// When it was predicted.
    pub predicted: Timestamp,
    /// The command that makes the plan when the time comes.
    pub command: String,
    /// What has to be true before.
    pub first: Vec<String>,
    /// What would stand against it as things are predicted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
    /// How long it should take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Span>,
    /// Its parts, each with the titles of its steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<SkeletonStage>,
}

/// A part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkeletonStage {
    /// Its heading.
    pub title: String,
    /// What is done in it.
    pub steps: Vec<String>,
}

impl Skeleton {
    /// The file's text.
    ///
    /// # Errors
    /// If a value has no YAML form; none of ours is without.
    pub fn to_yaml(&self) -> Result<String, DocumentError> {
        let head = format!(
            "# The way back after {}, as it was predicted then. This is no plan, and is not applied: when the time comes,\n\
             # `{}` makes one of how things are.\n",
            self.after, self.command
        );
        Ok(head + &serde_yaml::to_string(self)?)
    }
}

/// The way back from a plan that has been carried out and took facilities out of service; none from any other. `live` and `holds` are those
/// after it.
pub fn way_back(topology: &Topology, plan: &Plan, holds: &[HoldKind], live: &Live, now: Timestamp) -> Option<Skeleton> {
    let lost = &plan.intent.lost.facilities;
    let out: BTreeSet<FacilityName> = plan.intent.drain.union(lost).cloned().collect();
    if out.is_empty() {
        return None;
    }
    let failback = !plan.primaries.is_empty() || !plan.failovers.is_empty();
    let intent = Intent { restore: out.clone(), failback, ..Intent::default() };
    // Once what is owed is done, what was lost is drained.
    let then: Vec<HoldKind> = holds
        .iter()
        .map(|hold| match hold {
            HoldKind::Lost { what: LostThing::Facility(facility), .. } if lost.contains(facility) => {
                HoldKind::Drained { facility: facility.clone() }
            }
            other => other.clone(),
        })
        .collect();
    let flags: String = out.iter().map(|facility| format!(" --restore {facility}")).collect();
    let mut skeleton = Skeleton {
        skeleton: true,
        after: plan.id.clone(),
        topology: plan.topology.clone(),
        predicted: now,
        command: format!("handover plan{flags}{}", if failback { " --failback" } else { "" }),
        first: first(topology, lost),
        against: Vec::new(),
        expected: None,
        stages: Vec::new(),
    };
    match make(topology, &intent, &then, &returned(topology, live, lost), now) {
        Planned::Nothing(_) => {}
        Planned::Refused(refusals) => {
            let line = |refusal: Refusal| format!("{}: {}", refusal.what, refusal.advice);
            skeleton.against = refusals.into_iter().map(line).collect();
        }
        Planned::Plan(plan) => {
            skeleton.expected = Some(plan.expected);
            let stage = |(index, stage): (usize, &super::step::Stage)| {
                let steps = plan.steps.iter().filter(|step| step.stage == index).map(|step| step.title.clone());
                SkeletonStage { title: stage.title.clone(), steps: steps.collect() }
            };
            skeleton.stages = plan.stages.iter().enumerate().map(stage).collect();
        }
    }
    Some(skeleton)
}

fn first(topology: &Topology, lost: &BTreeSet<FacilityName>) -> Vec<String> {
    let mut first = Vec::new();
    for facility in lost {
        first.push(format!("everything of {facility} answers, and `handover plan` has done what is owed there"));
        first.push(format!(
            "its members follow and have caught up, redundancy is complete, and all of it has been well for {} (`policy.settle`)",
            topology.policy.settle
        ));
    }
    if first.is_empty() {
        first.push("everything answers".to_owned());
    }
    first
}

/// What would be observed once what was lost is back and nothing is owed there: what does not answer now is as its like elsewhere.
fn returned(topology: &Topology, live: &Live, lost: &BTreeSet<FacilityName>) -> Live {
    let mut then = live.clone();
    let gone =
        topology.targets().filter(|target| lost.contains(&target.facility) && live::facts(live, &target.id).is_err());
    for target in gone {
        if let Some(value) = like(topology, target, live) {
            then.insert(target.id.clone(), Observed::Known { value, took: Duration::ZERO });
            if target.kind == TargetKind::Member {
                received(topology, target, &mut then);
            }
        }
    }
    then
}

fn like(topology: &Topology, target: &Target, live: &Live) -> Option<Facts> {
    match target.kind {
        TargetKind::NameServer => name_server(topology, target, live).map(Facts::NameServer),
        TargetKind::Proxy => proxy(topology, target, live).map(Facts::Proxy),
        TargetKind::Server => Some(Facts::Server(ServerFacts { healthy: true, status: 200, latency: Duration::ZERO })),
        TargetKind::Member => member(topology, target, live).map(|facts| Facts::Member(Box::new(facts))),
        TargetKind::Pooler => pooler(topology, target, live).map(Facts::Pooler),
        TargetKind::Job => Some(Facts::Job(JobFacts { running: false })),
        TargetKind::Unit | TargetKind::Fence | TargetKind::Vantage => None,
    }
}

fn name_server(topology: &Topology, target: &Target, live: &Live) -> Option<NameServerFacts> {
    let zone = topology.zones.get(target.id.scope()?)?;
    zone.servers.values().find_map(|server| live::name_server(live, &server.target.id)).cloned()
}

fn proxy(topology: &Topology, target: &Target, live: &Live) -> Option<ProxyFacts> {
    let own = topology.proxies.get(target.id.name())?;
    let (other, facts) =
        topology.proxies.values().find_map(|other| Some((other, live::proxy(live, &other.target.id)?)))?;
    let backend = |service| {
        let facts = facts.backends.get(backend_of(other, service)).cloned().flatten();
        (backend_of(own, service).clone(), facts)
    };
    let backends = topology.services.values().map(backend).collect();
    Some(ProxyFacts { backends, ..facts.clone() })
}

fn database<'a>(topology: &'a Topology, target: &Target) -> Option<&'a Database> {
    topology.databases.get(target.id.scope()?)
}

fn member(topology: &Topology, target: &Target, live: &Live) -> Option<MemberFacts> {
    let database = database(topology, target)?;
    let primary = live::primary(database, live)?;
    let address = database.members.get(primary.name())?.target.address.clone();
    let facts = live::member(live, &primary)?.clone();
    Some(MemberFacts {
        role: Role::Replica,
        replayed: facts.position,
        receives_from: Some(address.clone()),
        set_to_follow: Some(address),
        replicas: Vec::new(),
        slots: Vec::new(),
        synchronous_names: String::new(),
        clients: Vec::new(),
        long_transactions: Vec::new(),
        ..facts
    })
}

/// The primary sees a member that follows it.
fn received(topology: &Topology, target: &Target, live: &mut Live) {
    let Some(database) = database(topology, target) else { return };
    let Some(primary) = live::primary(database, live) else { return };
    let Some(Observed::Known { value: Facts::Member(facts), .. }) = live.get_mut(&primary) else { return };
    let name = target.name().to_owned();
    if !facts.slots.iter().any(|slot| slot.name == name) {
        facts.slots.push(SlotFacts { name: name.clone(), logical: false, active: true, retained_bytes: 0 });
    }
    let synchronous = database.mode == ReplicationMode::Synchronous;
    let (lag_bytes, lag, silence) = (0, None, None);
    facts.replicas.push(ReplicaFacts { name, address: None, streaming: true, synchronous, lag_bytes, lag, silence });
    // Commits had to go on without it.
    if synchronous && facts.synchronous_names.is_empty() {
        let able: Vec<String> = facts.replicas.iter().map(|replica| replica.name.clone()).collect();
        let demanded = database.confirmed_by.unwrap_or(1).min(able.len());
        facts.synchronous_names = synchronous::demanding("", demanded, &able);
    }
}

fn pooler(topology: &Topology, target: &Target, live: &Live) -> Option<PoolerFacts> {
    let name = target.id.name();
    let other = topology.poolers.values().find_map(|other| live::facts(live, &other.target.id).ok()?.pooler())?;
    let served = topology.databases.values().filter(|database| database.poolers.contains(name));
    let databases = served.filter_map(|database| {
        let Route::PoolerDatabase(entry) = &database.route else { return None };
        let primary = live::primary(database, live)?;
        let address = &database.members.get(primary.name())?.target.address;
        // Any pool of the other one: what matters is where it leads.
        let pool = other.databases.values().flatten().next()?.clone();
        let (route, written_route) = (address.clone(), Some(address.clone()));
        Some((entry.clone(), Some(crate::model::PoolFacts { route, written_route, ..pool })))
    });
    let databases = databases.collect();
    Some(PoolerFacts { databases, ..other.clone() })
}
