//! Making a plan: desired, diff, preflight, order, document. Pure: moments and names come in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::desired::{Desired, Refusal, desired};
use super::diff::{Changes, FollowChange, diff, shares_text};
use super::document::{FORMAT, Plan, TopologyRef};
use super::epoch::EpochChange;
use super::followers::Followers;
use super::intent::{HoldKind, Intent};
use super::lost::decide::decide;
use super::lost::known::Known;
use super::lost::{owed, settle};
use super::order::order;
use super::preflight;
use super::step::{Assumption, longest_chain};
use super::weights::weights;
use super::{GateName, epoch, gate, live, power, split, ttl, window};
use crate::model::{Condition, FacilityName, ForeignName, Live, Percent, Role, Saved, ServiceName, Span};
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
    make_knowing(topology, intent, holds, live, &Known::default(), now)
}

/// The same with what is known from before: where something is lost, that is all that is known of it.
pub fn make_knowing(
    topology: &Topology,
    intent: &Intent,
    holds: &[HoldKind],
    live: &Live,
    known: &Known,
    now: Timestamp,
) -> Planned {
    let powered_on = powered_on_first(intent, power::off(intent, holds));
    let intent = powered_on.as_ref().unwrap_or(intent);
    let mut desired = match desired(topology, intent, holds, live) {
        Ok(desired) => desired,
        Err(refusals) => return Planned::Refused(refusals),
    };
    let (mut changes, mut refusals) = diff(topology, &desired, live);
    let mut notes = desired.notes.clone();
    let urgent = desired.urgent();
    let repairs = split::repairs(topology, &desired, live);
    let repairing = !desired.survivors.is_empty();
    if repairing {
        notes.extend(split::alone(&mut desired, &mut changes, &mut refusals));
        notes.extend(split::notes(topology, &repairs, live));
    }
    refusals.extend(split::questions(topology, &desired, live, known));
    if urgent {
        // What is wrong elsewhere is no reason to leave users with what is lost.
        notes.extend(refusals.drain(..).map(|it| format!("left as it is: {} ({})", it.what, it.advice)));
    }
    if !repairing {
        let decided = decide(topology, intent, &mut desired, &mut changes, live, known);
        notes.extend(decided.notes);
        notes.extend(owed::settle(topology, holds, &mut desired, &changes, live));
        refusals.extend(decided.refusals);
        refusals.extend(settle::refusals(topology, intent, holds, live, known));
    }
    changes.epoch = epoch::change(topology, intent, &desired, &changes, live);
    notes.extend(changes.epoch.iter().flat_map(|change| change.notes(topology)));
    notes.extend(changes.silent.iter().cloned());
    notes.extend(unsaved_notes(topology, live));
    notes.extend(power::closed_notes(topology, live));
    for change in &changes.primaries {
        let Some(database) = topology.databases.get(&change.database) else { continue };
        let (from, to) = (&change.from.member, &change.to.member);
        notes.extend(Followers::of(database, from, to, live).notes(to));
        notes.extend(preflight::rewind_note(from, to, live));
        notes.extend(preflight::direct_notes(topology, database, from, live));
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
                let what = format!("too little would remain: {why}");
                match intent.overrides.get(&GateName::Capacity) {
                    _ if urgent => notes.push(shortage(topology, &what)),
                    Some(passed) => notes.push(format!("{what} ({passed})")),
                    None => refusals.push(Refusal::new(
                        what,
                        "bring servers up, or correct capacity, peak or headroom in the topology",
                    )),
                }
            }
        }
    }
    notes.extend(pooler_notes(topology, &changes, live));
    if !repairing {
        refusals.extend(power::closed_refusals(topology, intent, &desired, live));
        refusals.extend(power::refusals(topology, &desired, &changes, live));
    }
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
    if !urgent {
        // An urgent plan waits for no resolver.
        desired.remember(ttl::remembered(topology, &changes));
    }
    notes.extend(ttl::notes(topology, intent, &desired, &changes));
    persistence_notes(topology, &changes, live, &mut notes);
    notes.extend(share_notes(topology, &desired, &changes));
    notes.extend(intent.overrides.iter().map(|(gate, passed)| format!("gate {gate} is {passed}")));
    let ordered = order(topology, &desired, &changes, live);
    let mut plan = Plan {
        format: FORMAT,
        id: identity(intent, now),
        intent: intent.clone(),
        topology: TopologyRef { name: topology.name.clone(), digest: topology.digest.clone() },
        created: now,
        expires: now.checked_add(topology.policy.plan_expiry.0).unwrap_or(Timestamp::MAX),
        notes,
        expected: longest_chain(&ordered.steps, |_| true),
        primaries: ordered.primaries,
        failovers: ordered.failovers,
        splits: repairs,
        holds: desired.holds,
        releases: desired.releases,
        facts: facts(topology, changes, live),
        stages: ordered.stages,
        steps: ordered.steps,
    };
    plan.notes.extend(window::note(topology, &plan));
    plan.notes.sort();
    plan.notes.dedup();
    Planned::Plan(Box::new(plan))
}

/// Too little is left after a loss: what could be done without is offered, and nothing is refused.
fn shortage(topology: &Topology, what: &str) -> String {
    let shed = &topology.policy.shed;
    let offer = match shed.split_first() {
        None => "name what can be done without as `policy.shed`".to_owned(),
        Some((first, _)) => format!(
            "done without, in this order: {}; start with {first} (its own servers in maintenance at the proxies)",
            crate::model::text::list(shed)
        ),
    };
    format!("{what}; {offer}")
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
        Ok(desired) => {
            let notes = desired.notes.iter().cloned().chain(unsaved_notes(topology, live));
            let notes = notes.chain(power::closed_notes(topology, live)).collect();
            let (mut changes, _) = diff(topology, &desired, live);
            changes.epoch = epoch::change(topology, &Intent::default(), &desired, &changes, live);
            (changes.lines(), notes)
        }
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
    let volatile: BTreeSet<&str> = changes
        .shares
        .iter()
        .flat_map(|change| &change.at)
        .filter(|(proxy, _)| live::proxy(live, proxy).is_some_and(|facts| !facts.capabilities.persistent))
        .map(|(proxy, _)| proxy.name())
        .collect();
    if !volatile.is_empty() && !topology.proxies.is_empty() {
        notes.push(format!(
            "a reload makes {} forget weights and states: a run sets them again, later on `handover plan` shows the difference; \
             docs/providers.md says how to keep them",
            crate::model::text::list(volatile)
        ));
    }
}

/// Proxies of which nobody knows whether they come back from a reload as they are set.
fn unsaved_notes(topology: &Topology, live: &Live) -> Vec<String> {
    let unsaved = topology.proxies.values().filter_map(|proxy| match &live::proxy(live, &proxy.target.id)?.saved {
        Saved::Unknown(why) => {
            Some(format!("{}: it is not known what it would find after a reload: {why}", proxy.target.name()))
        }
        _ => None,
    });
    unsaved.collect()
}

/// What shares cannot be: DNS says present or absent and nothing between, and small shares have fewer weights than servers.
fn share_notes(topology: &Topology, desired: &Desired, changes: &Changes) -> Vec<String> {
    let mut notes = Vec::new();
    let changed: BTreeSet<&ServiceName> = changes.shares.iter().map(|change| &change.service).collect();
    let mut texts: BTreeMap<String, Vec<&ServiceName>> = BTreeMap::new();
    for name in changed {
        let (Some(service), Some(shares)) = (topology.services.get(name), desired.shares.get(name)) else { continue };
        let published: BTreeMap<&FacilityName, u64> = service
            .addresses
            .iter()
            .filter(|(facility, _)| desired.serving.contains(*facility))
            .map(|(facility, addresses)| (facility, addresses.len() as u64))
            .collect();
        let all: u64 = published.values().sum();
        let by_dns = |facility| Percent::ratio(published.get(facility).copied().unwrap_or_default(), all);
        if shares.iter().any(|(facility, share)| by_dns(facility).distance(*share) > Percent::ONE) {
            let counts: Vec<String> =
                published.iter().map(|(facility, count)| format!("{count} of {facility}")).collect();
            let text = format!(
                "DNS can only say present or absent: it publishes {} alike; the share {} is made by the proxies, whichever of them \
                 users reach",
                crate::model::text::list(counts),
                shares_text(shares)
            );
            texts.entry(text).or_default().push(name);
        }
    }
    notes.extend(texts.into_iter().map(|(text, services)| format!("{}: {text}", crate::model::text::list(services))));
    for change in &changes.shares {
        let given = weights(&change.shares.to, &change.participants, change.max_weight);
        let share = |server: &ForeignName| change.shares.to.get(&change.participants.get(server)?.facility);
        let idle: Vec<&ForeignName> = given
            .iter()
            .filter(|(server, weight)| **weight == 0 && share(server).is_some_and(|share| *share > Percent::ZERO))
            .map(|(server, _)| server)
            .collect();
        if !idle.is_empty() {
            notes.push(format!(
                "{} of {} get no requests: the share of their facility is too small to be divided among all of its servers",
                crate::model::text::list(idle),
                change.service
            ));
        }
    }
    notes
}

/// The identity facts that the plan relies on: of every target that it changes or that must agree.
fn facts(topology: &Topology, changes: Changes, live: &Live) -> Vec<Assumption> {
    let mut facts = Vec::new();
    for change in &changes.records {
        let sets = change.sets.iter().map(|(key, set)| (key.clone(), set.from.clone())).collect();
        facts.push(Assumption::on(&change.server, Condition::Records { sets }));
    }
    let mut proxies = BTreeMap::new();
    for change in changes.shares {
        for (proxy, backend) in change.at {
            let backends: &mut BTreeMap<_, _> = proxies.entry(proxy).or_default();
            backends.insert(backend, Arc::clone(&change.settings));
        }
    }
    facts.extend(proxies.into_iter().map(|(proxy, backends)| Assumption::on(&proxy, Condition::Servers { backends })));
    let fences = |change: &&FollowChange| change.rebuild.values().any(|rebuild| rebuild.fence);
    let fenced = changes.follows.iter().filter(fences).map(|change| &change.database);
    for name in changes.primaries.iter().map(|change| &change.database).chain(fenced) {
        for member in topology.databases.get(name).into_iter().flat_map(|database| database.members.values()) {
            let id = &member.target.id;
            if let Some(found) = live::member(live, id) {
                let lineage = Some(found.lineage.clone());
                facts.push(Assumption::on(id, Condition::Role { role: found.role, lineage }));
            }
        }
    }
    for change in &changes.primaries {
        let Some(database) = topology.databases.get(&change.database) else { continue };
        if let crate::model::Route::PoolerDatabase(entry) = &database.route {
            for pooler in database.poolers.iter().filter_map(|name| topology.poolers.get(name)) {
                let routed = Condition::Routed { database: entry.clone(), to: change.from.address.clone() };
                facts.push(Assumption::on(&pooler.target.id, routed));
            }
        }
    }
    for failover in &changes.failovers {
        let role = Condition::Role { role: Role::Replica, lineage: Some(failover.lineage.clone()) };
        facts.push(Assumption::on(&failover.to.member, role));
    }
    let epochs = changes.epoch.iter().flat_map(EpochChange::facts);
    facts.extend(epochs.map(|(server, published)| Assumption::on(server, published)));
    facts.sort_by(|a, b| a.target.cmp(&b.target));
    facts
}
