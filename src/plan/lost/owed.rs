//! What is owed where something was lost: done once it answers again, before it is admitted. Pure.

use std::collections::BTreeSet;

use super::evidence::Lost;
use crate::model::text::list;
use crate::model::{Live, Role, TargetId, TargetKind};
use crate::plan::desired::{Desired, Refusal};
use crate::plan::diff::Changes;
use crate::plan::intent::{HoldKind, Intent, LostThing};
use crate::plan::live;
use crate::topology::Topology;

/// Whether something may be owed at targets of this kind. Of application servers nothing is: the proxies know whom they give requests.
pub(in crate::plan) fn owes(kind: TargetKind) -> bool {
    !matches!(kind, TargetKind::Server | TargetKind::Unit | TargetKind::Fence)
}

/// What is lost without the single servers that answer again: with the plan that ends its hold, each is what it was. A database member has
/// its history looked at first, and a facility is restored.
pub(in crate::plan) fn still_lost(mut lost: Lost, flagged: &Lost, live: &Live) -> Lost {
    let is_back = |id: &TargetId| live::facts(live, id).is_ok_and(|facts| facts.member().is_none());
    lost.targets.retain(|id| flagged.targets.contains(id) || !is_back(id));
    lost
}

/// What is lost cannot be restored before what is owed there was done.
pub(in crate::plan) fn refusals(intent: &Intent, holds: &[HoldKind]) -> Vec<Refusal> {
    let refusal = |hold: &HoldKind| match hold {
        HoldKind::Lost { what: LostThing::Facility(facility), owed } if intent.restore.contains(facility) => {
            Some(Refusal::new(
                format!("{facility} is lost, and work is owed there: at {}", names(owed)),
                "once all of it answers, `handover plan` does that work; then it can be restored",
            ))
        }
        _ => None,
    };
    holds.iter().filter_map(refusal).collect()
}

/// Ends the holds of what answers again, with the plan that does what is owed there, and says what is still missing. A facility stays
/// drained until it is restored.
pub(in crate::plan) fn settle(
    topology: &Topology,
    holds: &[HoldKind],
    desired: &mut Desired,
    changes: &Changes,
    live: &Live,
) -> Vec<String> {
    let mut notes = Vec::new();
    for hold in holds {
        let HoldKind::Lost { what, owed } = hold else { continue };
        if desired.releases.contains(hold) || desired.flagged_as(what) {
            continue;
        }
        let name = what.name();
        let silent: BTreeSet<TargetId> = owed.iter().filter(|id| live::facts(live, id).is_err()).cloned().collect();
        if silent.len() == owed.len() {
            notes.push(format!("{name} is lost; owed until it answers: {}", names(owed)));
            continue;
        }
        let aside: Vec<String> = owed.iter().filter_map(|id| aside(topology, changes, live, id)).collect();
        if !silent.is_empty() {
            notes.push(format!("{name} is coming back; still silent: {}", names(&silent)));
        } else if !aside.is_empty() {
            notes.push(format!("{name} answers again; it stays lost until {}", list(aside)));
        } else {
            desired.releases.push(hold.clone());
            match what {
                LostThing::Facility(facility) => _ = desired.regained.facilities.insert(facility.clone()),
                LostThing::Target(target) => _ = desired.regained.targets.insert(target.clone()),
            }
            if let LostThing::Facility(facility) = what {
                let drained = HoldKind::Drained { facility: facility.clone() };
                if !holds.contains(&drained) && !desired.holds.contains(&drained) {
                    desired.holds.push(drained);
                }
                desired.holds.push(HoldKind::Settling { facility: facility.clone() });
                notes.push(format!(
                    "{facility} answers again: this plan does what is owed there; then it stays drained until `handover plan --restore \
                     {facility}`, {} later at the earliest (`policy.settle`)",
                    topology.policy.settle
                ));
            }
        }
    }
    desired.releases.sort();
    notes
}

/// Why a member that is back is not yet a replica again, if nothing in this plan makes it one.
fn aside(topology: &Topology, changes: &Changes, live: &Live, id: &TargetId) -> Option<String> {
    let facts = live::member(live, id)?;
    let led = changes.follows.iter().any(|change| change.members.contains_key(id));
    let primary = topology.databases.get(id.scope()?).and_then(|database| live::primary(database, live));
    let follows = facts.role == Role::Replica && facts.receives_from.is_some();
    let well = led || follows || primary.as_ref() == Some(id);
    (!well).then(|| format!("{} follows its primary (it is {} now)", id.name(), facts.role))
}

fn names(targets: &BTreeSet<TargetId>) -> String {
    let names: BTreeSet<&str> = targets.iter().map(TargetId::name).collect();
    list(names)
}
