//! Facilities whose power goes and comes back: what is let go before, what is stopped, and what must be up before a restore. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::desired::{Desired, Refusal};
use super::diff::Changes;
use super::intent::{HoldKind, Intent, LetGo};
use super::live;
use super::synchronous;
use crate::model::{
    Database, DatabaseName, FacilityName, FromTo, Live, Peer, ReplicationMode, Target, TargetKind, Unit, text::list,
};
use crate::topology::Topology;

/// A primary that stays, and the members of facilities whose power goes or comes back.
pub(super) struct Parting<'a> {
    pub(super) database: &'a Database,
    pub(super) primary: Peer,
    /// The members that go or come.
    pub(super) members: Vec<&'a Target>,
    /// The names that commits wait for, now and then.
    pub(super) synchronous: FromTo<String>,
    /// The names that were there before the power went, if somebody has set others since: those stay.
    pub(super) overruled: Option<String>,
}

/// Where a database's primary is at the end of a plan.
fn final_primary(database: &Database, changes: &Changes, live: &Live) -> Option<Peer> {
    if let Some(change) = changes.primary_of(&database.name) {
        return Some(change.to.clone());
    }
    let id = live::primary(database, live)?;
    let address = database.members.get(id.name())?.target.address.clone();
    Some(Peer { member: id, address })
}

/// The names that commits wait for at the end of a plan.
fn final_names(database: &Database, changes: &Changes, live: &Live) -> String {
    let moved = changes.primary_of(&database.name);
    let at = moved.map(|change| change.from.member.clone()).or_else(|| live::primary(database, live));
    let names = at.and_then(|id| live::member(live, &id)).map(|facts| facts.synchronous_names.clone());
    let names = names.unwrap_or_default();
    match moved {
        Some(change) => synchronous::after(&names, change.to.member.name(), change.from.member.name()),
        None => names,
    }
}

fn members_in<'a>(database: &'a Database, facilities: &BTreeSet<FacilityName>) -> Vec<&'a Target> {
    let members = database.members.values().map(|member| member.target.as_ref());
    members.filter(|target| facilities.contains(&target.facility)).collect()
}

fn names<'a>(targets: &[&'a Target]) -> Vec<&'a str> {
    targets.iter().map(|target| target.name()).collect()
}

/// What the primaries that stay let go before the power of others goes.
pub(super) fn leaving<'a>(
    topology: &'a Topology,
    desired: &Desired,
    changes: &Changes,
    live: &Live,
) -> Vec<Parting<'a>> {
    let parting = |database: &'a Database| {
        let members = members_in(database, &desired.power_down);
        if members.is_empty() {
            return None;
        }
        let primary = final_primary(database, changes, live)?;
        let stays = members.iter().all(|target| target.id != primary.member);
        let from = final_names(database, changes, live);
        let to = synchronous::without(&from, &names(&members));
        let synchronous = FromTo { from, to };
        stays.then_some(Parting { database, primary, members, synchronous, overruled: None })
    };
    topology.databases.values().filter_map(parting).collect()
}

/// What primaries get back when the power of others is back. Names that are not what the power-off left are somebody's: they stay.
pub(super) fn coming<'a>(topology: &'a Topology, desired: &Desired, live: &Live) -> Vec<Parting<'a>> {
    let still_off: BTreeSet<FacilityName> =
        desired.powered_off.keys().filter(|facility| !desired.power_up.contains(*facility)).cloned().collect();
    let parting = |database: &'a Database| {
        let members = members_in(database, &desired.power_up);
        if members.is_empty() {
            return None;
        }
        let id = live::primary(database, live)?;
        let address = database.members.get(id.name())?.target.address.clone();
        let off = members_in(database, &still_off);
        let let_go =
            desired.power_up.iter().find_map(|facility| desired.powered_off.get(facility)?.get(&database.name));
        let now = final_names(database, &Changes::default(), live);
        let before = match let_go {
            Some(let_go) if let_go.primary == id.name() => let_go.synchronous.clone(),
            // Another primary by now: it has taken the place of the one that was.
            Some(let_go) => synchronous::after(&let_go.synchronous, id.name(), &let_go.primary),
            None => now.clone(),
        };
        let gone = members_in(database, &desired.powered_off.keys().cloned().collect());
        let left = synchronous::without(&before, &names(&gone));
        let back = synchronous::without(&before, &names(&off));
        let ours = let_go.is_none() || synchronous::alike(&now, &left) || synchronous::alike(&now, &back);
        let (to, overruled) = if ours { (back, None) } else { (now.clone(), Some(back)) };
        let synchronous = FromTo { from: now, to };
        let primary = Peer { member: id, address };
        Some(Parting { database, primary, members, synchronous, overruled })
    };
    topology.databases.values().filter_map(parting).collect()
}

/// The holds by which a later restore knows what to put back.
pub(super) fn holds(topology: &Topology, desired: &Desired, changes: &Changes, live: &Live) -> Vec<HoldKind> {
    let partings = leaving(topology, desired, changes, live);
    let of = |facility: &FacilityName| -> BTreeMap<DatabaseName, LetGo> {
        let here = partings.iter().filter(|parting| parting.members.iter().any(|target| target.facility == *facility));
        here.map(|parting| {
            let let_go = LetGo {
                primary: parting.primary.member.name().to_owned(),
                synchronous: parting.synchronous.from.clone(),
            };
            (parting.database.name.clone(), let_go)
        })
        .collect()
    };
    // A plan that is made a second time must not forget what was there before the first one.
    let new = desired.power_down.iter().filter(|facility| !desired.powered_off.contains_key(*facility));
    new.map(|facility| HoldKind::PoweredOff { facility: facility.clone(), let_go: of(facility) }).collect()
}

/// The units of a facility in the order in which they are stopped: users first, data and names last.
pub(super) fn units<'a>(topology: &'a Topology, facility: &FacilityName) -> Vec<&'a Unit> {
    let rank = |unit: &&Unit| match unit.kind {
        TargetKind::Proxy => 0,
        TargetKind::Server => 1,
        TargetKind::Pooler => 2,
        TargetKind::Member => 3,
        _ => 4,
    };
    let mut units: Vec<&Unit> = topology.units.values().filter(|unit| unit.target.facility == *facility).collect();
    units.sort_by_key(rank);
    units
}

/// The servers of a facility that nothing here can stop.
pub(super) fn by_hand(topology: &Topology, facility: &FacilityName) -> BTreeSet<String> {
    let stopped: BTreeSet<_> = topology.units.values().flat_map(|unit| &unit.of).collect();
    let here = topology.targets().filter(|target| target.facility == *facility && target.kind != TargetKind::Job);
    here.filter(|target| !stopped.contains(&target.id)).map(|target| target.name().to_owned()).collect()
}

/// The facilities that are to be restored and whose servers were stopped. They are powered on by a plan of its own: of what does not
/// answer nothing can be planned, and no primary moves to a replica that is not complete.
pub(super) fn off(intent: &Intent, holds: &[HoldKind]) -> BTreeSet<FacilityName> {
    let off = holds.iter().filter_map(|hold| match hold {
        HoldKind::PoweredOff { facility, .. } => Some(facility),
        _ => None,
    });
    off.filter(|facility| intent.restore.contains(*facility)).cloned().collect()
}

/// What our role may not do at the primaries that let members go, or get them back: found before anything is touched.
pub(super) fn refusals(topology: &Topology, desired: &Desired, changes: &Changes, live: &Live) -> Vec<Refusal> {
    let partings = leaving(topology, desired, changes, live).into_iter().chain(coming(topology, desired, live));
    let refusal = |parting: Parting<'_>| {
        let facts = live::member(live, &parting.primary.member)?;
        let missing = facts.settings.get("rights_to_release").filter(|rights| *rights != "complete")?;
        let name = parting.primary.member.name();
        let what = format!(
            "our role at {name} may not bound the log that {name} keeps for {}: {missing}",
            list(names(&parting.members))
        );
        Some(Refusal::new(what, "grant what docs/providers.md lists under postgresql"))
    };
    partings.filter_map(refusal).collect()
}

/// Proxies that let no new client in, with their closed frontends; only a new start of the process opens those again.
fn closed<'a>(topology: &'a Topology, live: &'a Live) -> impl Iterator<Item = (&'a Target, String)> {
    topology.proxies.values().filter_map(|proxy| {
        let closed = &live::proxy(live, &proxy.target.id)?.closed;
        let what = format!("{} takes no new client at {}", proxy.target.name(), list(closed));
        (!closed.is_empty()).then_some((proxy.target.as_ref(), what))
    })
}

/// Before traffic returns to a facility, its proxies must take clients: a run that stopped on its way to power off may have closed them.
pub(super) fn closed_refusals(topology: &Topology, intent: &Intent, desired: &Desired, live: &Live) -> Vec<Refusal> {
    let returns = |facility: &FacilityName| intent.restore.contains(facility) || desired.power_up.contains(facility);
    let refusal = |(target, what): (&Target, String)| {
        let why = format!("{what}: clients were sent away there before the power went");
        returns(&target.facility).then(|| Refusal::new(why, "restart the proxy (a reload will do), then plan again"))
    };
    closed(topology, live).filter_map(refusal).collect()
}

/// Closed proxies, for plan and status.
pub(super) fn closed_notes(topology: &Topology, live: &Live) -> Vec<String> {
    let note = |(_, what): (&Target, String)| format!("{what}: restart it before its users return (a reload will do)");
    closed(topology, live).map(note).collect()
}

/// What an operator should know before the power of a facility goes.
pub(super) fn notes(topology: &Topology, desired: &Desired, changes: &Changes, live: &Live) -> Vec<String> {
    let mut notes = Vec::new();
    for facility in &desired.power_down {
        let hand = by_hand(topology, facility);
        if !hand.is_empty() {
            notes.push(format!(
                "stop {} by hand before the power of {facility} goes: no host with `commands: {{stop_server, start_server, \
                 check_server}}` is named for them",
                list(hand)
            ));
        }
        for zone in topology.zones.values() {
            let outside = |name: &String| zone.servers.get(name).is_some_and(|it| it.target.facility != *facility);
            if !zone.servers.values().any(|server| server.updates && server.target.facility != *facility) {
                notes.push(format!(
                    "{} cannot be changed while {facility} is off: no other server takes updates",
                    zone.name
                ));
            }
            let cut: Vec<&String> = zone
                .servers
                .iter()
                .filter(|(name, server)| outside(name) && server.transfers_from.as_ref().is_some_and(|it| !outside(it)))
                .map(|(name, _)| name)
                .collect();
            if !cut.is_empty() {
                notes.push(format!("{} get {} from {facility}, which will be off", list(cut), zone.name));
            }
        }
        notes.push(format!(
            "sessions on servers of {facility}, and idle connections to its proxies, that have not ended by the drain deadline end \
             when those are stopped"
        ));
    }
    for parting in leaving(topology, desired, changes, live) {
        if parting.database.mode == ReplicationMode::Synchronous && parting.synchronous.to.is_empty() {
            notes.push(format!(
                "{} has no synchronous replica until {} is back: a loss of {} would lose commits",
                parting.database.name,
                list(names(&parting.members)),
                parting.primary.member.name()
            ));
        }
    }
    for parting in coming(topology, desired, live) {
        let Some(before) = &parting.overruled else { continue };
        let (now, primary) = (&parting.synchronous.from, parting.primary.member.name());
        let now = if now.is_empty() { "nobody" } else { now };
        notes.push(format!(
            "commits of {} wait for {now} at {primary}: somebody has set that since the power-off, so it stays; to have again what was \
             there before: ALTER SYSTEM SET synchronous_standby_names = '{}', once {} streams",
            parting.database.name,
            before.replace('\'', "''"),
            list(names(&parting.members))
        ));
    }
    for facility in &desired.power_up {
        notes.push(format!(
            "{facility} is only powered on by this plan; then `handover plan --restore {facility}` brings it back into service"
        ));
        let hand = by_hand(topology, facility);
        if !hand.is_empty() {
            notes.push(format!("start {} by hand: no host with the commands for it is named", list(hand)));
        }
    }
    notes
}
