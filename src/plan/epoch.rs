//! Raising the epoch: what is published of who is in charge, when, and the steps that publish it everywhere (`docs/admit.md`). Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::build::{After, Builder, step};
use super::desired::Desired;
use super::diff::Changes;
use super::intent::Intent;
use super::live;
use super::lost::evidence::Lost;
use super::lost::owed;
use super::step::{Step, Work};
use crate::model::{
    Action, Charge, Condition, Database, DatabaseName, Epoch, FacilityName, FromTo, Lineage, Live, NameServer,
    NameServerFacts, Role, Span, Target, TargetId, Zone, ZoneName,
};
use crate::topology::Topology;

/// How long one name server may take to publish an epoch.
const DEADLINE: Span = Span::secs(10);

/// An epoch that is not published wherever it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochChange {
    /// What is to be published.
    pub epoch: Epoch,
    /// The newest that is published now. Where there is none, nobody asks for it yet, and nothing depends on it.
    pub newest: Option<Epoch>,
    /// Name servers that do not publish it, each with its zone and what it publishes now.
    pub at: BTreeMap<TargetId, (ZoneName, Option<Epoch>)>,
    /// Name servers that do not take it, and why. The epoch calls them lost: whoever hears nobody but them is not admitted.
    pub left_out: BTreeMap<TargetId, String>,
}

/// What is to be published with these changes. None where every name server publishes it already, and where nobody has published anything
/// so far, as long as nobody is promoted in the place of what is lost, and nobody asks for the first epoch.
pub fn change(
    topology: &Topology,
    intent: &Intent,
    desired: &Desired,
    changes: &Changes,
    live: &Live,
) -> Option<EpochChange> {
    let newest = newest(topology, live);
    let urgent = desired.urgent() || !changes.failovers.is_empty();
    if newest.is_none() && !intent.publish_epoch && changes.failovers.is_empty() {
        return None;
    }
    let mut epoch = newest.cloned().unwrap_or_default();
    for (database, charge) in in_charge(topology, &desired.lost, live) {
        let known = epoch.databases.get(&database);
        if known.is_none_or(|known| (&known.member, &known.system) != (&charge.member, &charge.system)) {
            epoch.databases.insert(database, charge);
        }
    }
    for (database, survivor) in &desired.survivors {
        let id = TargetId::member(database, survivor);
        if let Some(facts) = live::member(live, &id).filter(|facts| facts.role == Role::Primary) {
            let (system, timeline) = (facts.lineage.system.clone(), facts.lineage.timeline);
            epoch.databases.insert(database.clone(), Charge { member: survivor.clone(), system, timeline });
        }
    }
    let failovers = changes.failovers.iter().map(|it| (&it.database, &it.to.member, &it.lineage));
    let moves = changes.primaries.iter().map(|it| (&it.database, &it.to.member, &it.lineage));
    for (database, member, left) in failovers.chain(moves) {
        epoch.databases.insert(database.clone(), promoted(member, left));
    }
    epoch.lost_targets.retain(|target| !answers(topology, target, live));
    if urgent {
        epoch.lost.extend(desired.flagged.facilities.iter().cloned());
        epoch.lost_targets.extend(desired.flagged.targets.iter().cloned());
    } else {
        epoch.lost.retain(|facility| !returns(topology, facility, live));
    }
    let mut left_out = BTreeMap::new();
    // Two that differ under one number are settled by the next number only.
    let contradicted = published(topology, live).any(|other| newest.is_some_and(|newest| contradicts(other, newest)));
    if newest != Some(&epoch) || contradicted {
        epoch = epoch.raised();
        for (_, server) in written(topology, &epoch) {
            if let Err(why) = takes(live, &server.target.id) {
                left_out.insert(server.target.id.clone(), why);
            }
        }
        epoch.lost_targets.extend(left_out.keys().cloned());
    }
    let at: BTreeMap<TargetId, (ZoneName, Option<Epoch>)> = written(topology, &epoch)
        .filter_map(|(zone, server)| {
            let id = &server.target.id;
            let now = takes(live, id).ok()?.epoch.clone();
            (now.as_ref() != Some(&epoch)).then(|| (id.clone(), (zone.name.clone(), now)))
        })
        .collect();
    (!at.is_empty()).then(|| EpochChange { epoch, newest: newest.cloned(), at, left_out })
}

impl EpochChange {
    /// One line for each name server, for `status`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.at.iter().map(|(server, (_, now))| {
            let number = |epoch: &Epoch| format!("epoch {}", epoch.number);
            let is = now.as_ref().map_or_else(|| "no epoch".to_owned(), number);
            format!("{} publishes {is} of who is in charge, should publish {}", server.name(), number(&self.epoch))
        })
    }

    /// What an operator should know of it.
    pub fn notes(&self, topology: &Topology) -> Vec<String> {
        let mut notes: Vec<String> = self
            .left_out
            .iter()
            .map(|(server, why)| {
                format!("{} is not told who is in charge, and counts as lost until it is: {why}", server.name())
            })
            .collect();
        notes.extend(unprotected(topology, self.newest.as_ref(), &self.epoch).iter().map(|facility| {
            format!(
                "nobody that {facility} must hear remembers who is in charge: when its power comes back, its old primaries admit \
                 themselves; keep it off, or cut off for good, until `handover plan` has brought it back"
            )
        }));
        notes
    }

    /// What it relies on.
    pub(super) fn facts(&self) -> impl Iterator<Item = (&TargetId, Condition)> {
        self.at.iter().map(|(server, (_, now))| (server, Condition::Epoch { epoch: now.clone() }))
    }

    /// The steps that publish it, one for each name server. Taking it back means to raise it again, to what was said before; the very first
    /// one stays.
    pub(super) fn add(&self, builder: &mut Builder, stage: usize, needs: &After) -> After {
        let back = self.newest.as_ref().map(|newest| Epoch { number: self.epoch.number, ..newest.clone() }.raised());
        let mut done = After::new();
        for (server, (zone, now)) in &self.at {
            let change = FromTo { from: now.clone(), to: Some(self.epoch.clone()) };
            done.insert(builder.push(one(zone, server, stage, change, back.clone()).needs(needs)));
        }
        done
    }
}

fn promoted(member: &TargetId, left: &Lineage) -> Charge {
    let timeline = left.timeline.saturating_add(1);
    Charge { member: member.name().to_owned(), system: left.system.clone(), timeline }
}

/// Who is in charge by what members say of themselves: the only primary of each database of which every member answers or is lost.
fn in_charge(topology: &Topology, lost: &Lost, live: &Live) -> BTreeMap<DatabaseName, Charge> {
    let primary = |database: &Database| {
        let silent = |target: &Target| live::member(live, &target.id).is_none() && !lost.contains(target);
        if database.members.values().any(|member| silent(&member.target)) {
            return None;
        }
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

/// Something there answers: its servers may start again. Who is in charge stays, so its old primaries do not start as such.
fn returns(topology: &Topology, facility: &FacilityName, live: &Live) -> bool {
    let mut there = topology.targets().filter(|target| target.facility == *facility && owed::owes(target.kind));
    there.any(|target| live::facts(live, &target.id).is_ok())
}

/// A single target that answers; a name server only if it would take an epoch.
fn answers(topology: &Topology, id: &TargetId, live: &Live) -> bool {
    let updated = |(_, server): (&Zone, &NameServer)| server.target.id == *id;
    match updatable(topology).any(updated) {
        true => takes(live, id).is_ok(),
        false => live::facts(live, id).is_ok(),
    }
}

/// The newest epoch that any name server publishes.
pub(super) fn newest<'a>(topology: &Topology, live: &'a Live) -> Option<&'a Epoch> {
    published(topology, live).max_by_key(|epoch| epoch.number)
}

/// Facilities whose old primaries would admit themselves all the same: `epoch` calls them lost, and all that are written to were lost
/// themselves until then. What such a facility remembers is that the others are gone and itself is in charge, and nobody whom it must hear
/// knows better. It has to be fenced for good, whatever its power does.
pub fn unprotected(topology: &Topology, newest: Option<&Epoch>, epoch: &Epoch) -> BTreeSet<FacilityName> {
    let Some(newest) = newest else { return BTreeSet::new() };
    if written(topology, epoch).any(|(_, server)| !is_lost(server, newest)) {
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
    updatable(topology).filter_map(|(_, server)| live::name_server(live, &server.target.id)?.epoch.as_ref())
}

/// The name servers where a zone is changed.
fn updatable(topology: &Topology) -> impl Iterator<Item = (&Zone, &NameServer)> {
    let zones = topology.zones.values();
    zones.flat_map(|zone| zone.servers.values().map(move |server| (zone, server))).filter(|(_, server)| server.updates)
}

/// Those where `epoch` must be published: nothing may be promoted as long as one of them confirms the old member.
fn written<'a>(topology: &'a Topology, epoch: &'a Epoch) -> impl Iterator<Item = (&'a Zone, &'a NameServer)> {
    updatable(topology).filter(|(_, server)| !is_lost(server, epoch))
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

fn one(zone: &ZoneName, id: &TargetId, stage: usize, change: FromTo<Option<Epoch>>, back: Option<Epoch>) -> Step {
    let publishes = |epoch: &Option<Epoch>| Condition::Epoch { epoch: epoch.clone() };
    let set = |change| Action::SetEpoch { zone: zone.clone(), epoch: Box::new(change) };
    let (before, after) = (publishes(&change.from), publishes(&change.to));
    let undo = back.map(|back| FromTo { from: change.to.clone(), to: Some(back) });
    let number = change.to.as_ref().map_or(0, |epoch| epoch.number);
    let title = format!("{}: tell who is in charge, as epoch {number}", id.name());
    let step = step(format!("epoch.{}.{}", zone, id.name()), stage, title, Work::on(id, set(change)))
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
