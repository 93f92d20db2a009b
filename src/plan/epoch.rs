//! Raising the epoch: what is published of who is in charge, and the steps that publish it everywhere (`docs/admit.md`).

use std::collections::{BTreeMap, BTreeSet};

use super::build::step;
use super::live;
use super::step::{Step, Work};
use crate::model::{
    Action, Charge, Condition, Database, DatabaseName, Epoch, FacilityName, FromTo, Lineage, Live, NameServer,
    NameServerFacts, Role, Span, TargetId, Zone, text,
};
use crate::topology::Topology;

/// How long one name server may take to publish an epoch.
const DEADLINE: Span = Span::secs(10);

/// What a run changes about who is in charge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raise {
    /// Facilities that are declared lost.
    pub lost: BTreeSet<FacilityName>,
    /// Single targets likewise.
    pub lost_targets: BTreeSet<TargetId>,
    /// Facilities that may start their servers again. Who is in charge stays: their old primaries do not start as such.
    pub returned: BTreeSet<FacilityName>,
    /// Single targets likewise.
    pub returned_targets: BTreeSet<TargetId>,
    /// Who is in charge from now on.
    pub in_charge: BTreeMap<DatabaseName, Charge>,
}

impl Raise {
    /// A promotion that is about to happen, or has happened: `member` leaves the history `left` behind.
    #[must_use]
    pub fn promoting(mut self, database: &DatabaseName, member: &str, left: &Lineage) -> Self {
        let timeline = left.timeline.saturating_add(1);
        let charge = Charge { member: member.to_owned(), system: left.system.clone(), timeline };
        self.in_charge.insert(database.clone(), charge);
        self
    }
}

/// The newest epoch that any name server publishes.
pub fn newest<'a>(topology: &Topology, live: &'a Live) -> Option<&'a Epoch> {
    published(topology, live).max_by_key(|epoch| epoch.number)
}

/// Who is in charge by what members say of themselves: the only primary of each database, where there is exactly one. For the first epoch.
pub fn in_charge(topology: &Topology, live: &Live) -> BTreeMap<DatabaseName, Charge> {
    let primary = |database: &Database| {
        let primaries = database.members.iter().filter_map(|(name, member)| {
            let facts = live::member(live, &member.target.id)?;
            (facts.role == Role::Primary).then_some((name, &facts.lineage))
        });
        match primaries.collect::<Vec<_>>().as_slice() {
            [(name, lineage)] => {
                Some(Charge { member: (*name).clone(), system: lineage.system.clone(), timeline: lineage.timeline })
            }
            _ => None,
        }
    };
    topology.databases.iter().filter_map(|(name, database)| Some((name.clone(), primary(database)?))).collect()
}

/// The epoch in which `raise` holds: the next one, or the newest where it holds there already. None where nothing is published and
/// nothing is to be. Whatever comes back is still to be [`publish`]ed where it is missing.
pub fn next(topology: &Topology, live: &Live, raise: &Raise) -> Option<Epoch> {
    let newest = newest(topology, live);
    if newest.is_none() && *raise == Raise::default() {
        return None;
    }
    let mut next = newest.cloned().unwrap_or_else(|| Epoch {
        number: 0,
        lost: BTreeSet::new(),
        lost_targets: BTreeSet::new(),
        databases: BTreeMap::new(),
    });
    next.lost.extend(raise.lost.iter().cloned());
    next.lost.retain(|facility| !raise.returned.contains(facility));
    next.lost_targets.extend(raise.lost_targets.iter().cloned());
    next.lost_targets.retain(|target| !raise.returned_targets.contains(target));
    next.databases.extend(raise.in_charge.iter().map(|(database, charge)| (database.clone(), charge.clone())));
    // Two that differ under one number are settled by the next number only.
    let contradicted = published(topology, live).any(|other| newest.is_some_and(|newest| contradicts(other, newest)));
    Some(if newest == Some(&next) && !contradicted { next } else { next.raised() })
}

/// Facilities whose old primaries would admit themselves all the same: `epoch` calls them lost, and all that are written to were lost
/// themselves until then. What such a facility remembers is that the others are gone and itself is in charge, and nobody whom it must hear
/// knows better. It has to be fenced for good, whatever its power does.
pub fn unprotected(topology: &Topology, newest: Option<&Epoch>, epoch: &Epoch) -> BTreeSet<FacilityName> {
    let Some(newest) = newest else { return BTreeSet::new() };
    let servers = topology.zones.values().flat_map(|zone| zone.servers.values());
    let written = servers.filter(|server| server.updates && !is_lost(server, epoch));
    if written.into_iter().any(|server| !is_lost(server, newest)) {
        return BTreeSet::new();
    }
    epoch.lost.difference(&newest.lost).cloned().collect()
}

/// True for two that say different things under one number.
pub(super) fn contradicts(one: &Epoch, other: &Epoch) -> bool {
    one.number == other.number && one != other
}

/// Every epoch that a name server publishes.
fn published<'a>(topology: &Topology, live: &'a Live) -> impl Iterator<Item = &'a Epoch> {
    let servers = topology.zones.values().flat_map(|zone| zone.servers.values());
    servers.filter_map(|server| live::name_server(live, &server.target.id)?.epoch.as_ref())
}

/// The steps that publish an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Publishing {
    /// One for each name server where a zone is changed and which the epoch does not call lost. They need nothing and nobody else.
    pub steps: Vec<Step>,
    /// Those that do not answer, or would not take it, with the reason. Nothing may be promoted as long as there is one: it would confirm the
    /// old member. Either it is repaired, or the epoch calls it lost.
    pub unreached: Vec<(TargetId, String)>,
}

/// How `epoch` is published everywhere. Taking it back means to raise it again, to what was said before; the very first one stays.
pub fn publish(topology: &Topology, live: &Live, stage: usize, epoch: &Epoch) -> Publishing {
    let back = newest(topology, live).map(|before| Epoch { number: epoch.number, ..before.clone() }.raised());
    let mut publishing = Publishing { steps: Vec::new(), unreached: Vec::new() };
    for zone in topology.zones.values() {
        for server in zone.servers.values().filter(|server| server.updates && !is_lost(server, epoch)) {
            let id = &server.target.id;
            match takes(live, id) {
                Ok(facts) if facts.epoch.as_ref() == Some(epoch) => {}
                Ok(facts) => {
                    let change = FromTo { from: facts.epoch.clone(), to: Some(epoch.clone()) };
                    publishing.steps.push(one(zone, server, stage, change, back.clone()));
                }
                Err(why) => publishing.unreached.push((id.clone(), why)),
            }
        }
    }
    publishing
}

fn is_lost(server: &NameServer, epoch: &Epoch) -> bool {
    epoch.lost.contains(&server.target.facility) || epoch.lost_targets.contains(&server.target.id)
}

/// What a name server said that takes an epoch; or why it does not.
fn takes<'a>(live: &'a Live, id: &TargetId) -> Result<&'a NameServerFacts, String> {
    let facts = live::facts(live, id).map_err(|why| why.to_string())?;
    let facts = facts.name_server().ok_or("it is no name server")?;
    match (&facts.epoch_fault, &facts.rejects_key) {
        (Some(why), _) => Err(format!("what stands in the epoch's place cannot be read: {why}")),
        (None, Some(why)) => Err(format!("it does not accept our key: {}", why.why)),
        (None, None) => Ok(facts),
    }
}

fn one(zone: &Zone, server: &NameServer, stage: usize, change: FromTo<Option<Epoch>>, back: Option<Epoch>) -> Step {
    let id = &server.target.id;
    let publishes = |epoch: &Option<Epoch>| Condition::Epoch { epoch: epoch.clone() };
    let set = |change| Action::SetEpoch { zone: zone.name.clone(), epoch: Box::new(change) };
    let (before, after) = (publishes(&change.from), publishes(&change.to));
    let undo = back.map(|back| FromTo { from: change.to.clone(), to: Some(back) });
    let title = format!("{}: {}", server.target.name(), text::epoch(change.to.as_ref()));
    let step = step(format!("epoch.{}.{}", zone.name, server.target.name()), stage, title, Work::on(id, set(change)))
        .why("Whoever starts by itself asks for it: what is not in charge stays down.")
        .before(id, before)
        .after(id, after)
        .takes(Span::millis(100), DEADLINE);
    match undo {
        Some(undo) => {
            let back = publishes(&undo.to);
            step.undone_by(set(undo), back)
        }
        None => step,
    }
}
