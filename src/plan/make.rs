//! Making a plan: desired, diff, preflight, order, document. Pure: moments and names come in.

use jiff::Timestamp;

use super::desired::{Refusal, desired};
use super::diff::{Changes, diff};
use super::document::{FORMAT, Plan, TopologyRef};
use super::intent::{HoldKind, Intent};
use super::order::order;
use super::preflight;
use super::step::{Assumption, longest_chain};
use super::{gate, live, power, ttl};
use crate::model::{Condition, FacilityName, Live, Span};
use crate::topology::Topology;

/// What planning found.
#[derive(Clone, Debug, PartialEq)]
pub enum Planned {
    /// Nothing differs; what an operator should know all the same.
    Nothing(Vec<String>),
    /// A plan.
    Plan(Box<Plan>),
    /// No plan, and why: everything at once.
    Refused(Vec<Refusal>),
}

/// Makes a plan. The same input gives the same steps in the same order.
pub fn make(topology: &Topology, intent: &Intent, holds: &[HoldKind], live: &Live, now: Timestamp) -> Planned {
    let powered_on = powered_on_first(intent, power::off(intent, holds));
    let intent = powered_on.as_ref().unwrap_or(intent);
    let mut desired = match desired(topology, intent, holds, live) {
        Ok(desired) => desired,
        Err(refusals) => return Planned::Refused(refusals),
    };
    let (changes, mut refusals) = diff(topology, &desired, live);
    let mut notes = desired.notes.clone();
    notes.extend(changes.silent.iter().cloned());
    for change in &changes.primaries {
        let Some(database) = topology.databases.get(&change.database) else { continue };
        for objection in preflight::objections(topology, database, &change.from.member, &change.to.member, live) {
            if objection.may_pass {
                notes.push(format!("{}: apply will hold until it has passed: {}", objection.what, objection.advice));
            } else {
                refusals.push(Refusal::new(objection.what, objection.advice));
            }
        }
    }
    if !changes.shares.is_empty() {
        for service in topology.services.values() {
            let Some(shares) = desired.shares.get(&service.name) else { continue };
            let verdict = gate::judge_capacity(service, shares, &topology.policy, live);
            if let gate::Verdict::Hold(why) = verdict {
                refusals.push(Refusal::new(
                    format!("too little would remain: {why}"),
                    "bring servers up, or correct capacity, peak or headroom in the topology",
                ));
            }
        }
    }
    notes.extend(pooler_notes(topology, &changes, live));
    refusals.sort();
    refusals.dedup();
    if !refusals.is_empty() {
        return Planned::Refused(refusals);
    }
    desired.holds.extend(power::holds(topology, &desired, &changes, live));
    let powers = !desired.power_down.is_empty() || !desired.power_up.is_empty();
    let quiet = desired.holds.is_empty() && desired.releases.is_empty() && desired.old_ttl.is_none();
    if changes.is_empty() && quiet && !powers {
        notes.extend(ttl::notes(topology, intent, &desired, &changes));
        return Planned::Nothing(notes);
    }
    notes.extend(power::notes(topology, &desired, &changes, live));
    desired.remember(ttl::remembered(topology, &changes));
    notes.extend(ttl::notes(topology, intent, &desired, &changes));
    persistence_notes(topology, &changes, live, &mut notes);
    notes.sort();
    notes.dedup();
    let ordered = order(topology, &desired, &changes, live);
    Planned::Plan(Box::new(Plan {
        format: FORMAT,
        id: identity(intent, now),
        intent: intent.clone(),
        topology: TopologyRef { name: topology.name.clone(), digest: topology.digest.clone() },
        created: now,
        expires: now.checked_add(topology.policy.plan_expiry.0).unwrap_or(Timestamp::MAX),
        notes,
        expected: longest_chain(&ordered.steps, |_| true),
        primaries: ordered.primaries,
        holds: desired.holds,
        releases: desired.releases,
        facts: facts(topology, &changes, live),
        stages: ordered.stages,
        steps: ordered.steps,
    }))
}

/// The intent for servers that must be started before their facilities can be restored: nothing can be planned about a target that
/// does not answer. None where there are none.
fn powered_on_first(intent: &Intent, off: std::collections::BTreeSet<FacilityName>) -> Option<Intent> {
    let restore = intent.restore.difference(&off).cloned().collect();
    (!off.is_empty()).then(|| Intent { restore, power_on: off, failback: false, ..intent.clone() })
}

/// What differs from the topology now, one line each, and what keeps it so: for `status`.
pub fn drift(topology: &Topology, holds: &[HoldKind], live: &Live) -> (Vec<String>, Vec<String>) {
    match desired(topology, &Intent::default(), holds, live) {
        Ok(desired) => (diff(topology, &desired, live).0.lines(), desired.notes),
        Err(refusals) => (refusals.into_iter().map(|refusal| refusal.what).collect(), Vec::new()),
    }
}

/// `20261123-061503-drain-west`.
fn identity(intent: &Intent, now: Timestamp) -> String {
    format!("{}-{}", now.strftime("%Y%m%d-%H%M%S"), intent.slug())
}

/// Poolers that make clients wait long after one failed login at a server.
fn pooler_notes(topology: &Topology, changes: &Changes, live: &Live) -> Vec<String> {
    const LONG: Span = Span::secs(1);
    let moved = changes.primaries.iter().filter_map(|change| topology.databases.get(&change.database));
    let poolers = moved.flat_map(|database| &database.poolers).filter_map(|name| topology.poolers.get(name));
    let slow = poolers.filter_map(|pooler| {
        let facts = live::facts(live, &pooler.target.id).ok()?.pooler()?;
        (facts.login_retry > LONG.0).then(|| {
            format!(
                "{} waits {} after a failed login at a server (server_login_retry): with {LONG} a failure during a switchover \
                 would cost clients less",
                pooler.target.id.name(),
                Span(facts.login_retry)
            )
        })
    });
    slow.collect()
}

fn persistence_notes(topology: &Topology, changes: &Changes, live: &Live, notes: &mut Vec<String>) {
    let volatile: std::collections::BTreeSet<&str> = changes
        .shares
        .iter()
        .filter(|change| live::proxy(live, &change.proxy).is_some_and(|facts| !facts.capabilities.persistent))
        .map(|change| change.proxy.name())
        .collect();
    if !volatile.is_empty() && !topology.proxies.is_empty() {
        notes.push(format!(
            "{} lose weights and states at a reload: do not reload them during this plan; `handover status` shows it as drift",
            crate::model::text::list(volatile)
        ));
    }
}

/// The identity facts that the plan relies on: of every target that it changes or that must agree.
fn facts(topology: &Topology, changes: &Changes, live: &Live) -> Vec<Assumption> {
    let mut facts = Vec::new();
    for change in &changes.records {
        let sets = change.sets.iter().map(|(key, set)| (key.clone(), set.from.clone())).collect();
        facts.push(Assumption::on(&change.server, Condition::Records { sets }));
    }
    let mut proxies = std::collections::BTreeMap::new();
    for change in &changes.shares {
        let backends: &mut std::collections::BTreeMap<_, _> = proxies.entry(&change.proxy).or_default();
        backends.insert(change.backend.clone(), change.settings.clone());
    }
    facts.extend(proxies.into_iter().map(|(proxy, backends)| Assumption::on(proxy, Condition::Servers { backends })));
    for change in &changes.primaries {
        let Some(database) = topology.databases.get(&change.database) else { continue };
        for member in database.members.values() {
            let id = &member.target.id;
            if let Some(found) = live::member(live, id) {
                let lineage = Some(found.lineage.clone());
                facts.push(Assumption::on(id, Condition::Role { role: found.role, lineage }));
            }
        }
        if let crate::model::Route::PoolerDatabase(entry) = &database.route {
            for pooler in database.poolers.iter().filter_map(|name| topology.poolers.get(name)) {
                let routed = Condition::Routed { database: entry.clone(), to: change.from.address.clone() };
                facts.push(Assumption::on(&pooler.target.id, routed));
            }
        }
    }
    facts.sort_by(|a, b| a.target.cmp(&b.target));
    facts
}
