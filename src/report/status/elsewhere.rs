//! What is silent, as others see it: the verdict on facilities of which nothing answers, and what hosts elsewhere reach though we do not.

use std::collections::BTreeSet;

use crate::model::{FacilityName, Live, Observed, TargetId, text::list};
use crate::plan::lost::evidence::{Before, Lost, gather, judge};
use crate::topology::Topology;

/// One line each; nothing where everything answers.
pub(super) fn notes(topology: &Topology, live: &Live, before: &Before) -> Vec<String> {
    let mut notes = Vec::new();
    for facility in topology.facilities.keys() {
        let here: Vec<&TargetId> =
            topology.targets().filter(|target| target.facility == *facility).map(|target| &target.id).collect();
        let silent = |id: &&&TargetId| live.get(**id).is_some_and(|observed| observed.known().is_none());
        match here.iter().filter(silent).count() {
            // Its vantage is silent with it: that is no news.
            count if count > 0 && count == here.len() => notes.extend(verdict(topology, live, before, facility)),
            count => {
                notes.extend(silent_vantages(topology, live, facility));
                if count > 0 {
                    notes.extend(reached(topology, live, &here));
                }
            }
        }
    }
    notes
}

/// Hosts in a facility that could say what they reach, and do not answer.
fn silent_vantages(topology: &Topology, live: &Live, facility: &FacilityName) -> Vec<String> {
    let here = topology.vantages.values().filter(|vantage| vantage.facility == *facility);
    let silent = here.filter_map(|vantage| match live.get(&vantage.id)? {
        Observed::Unreachable(why) => {
            Some(format!("vantage {} in {facility} does not answer: {}", vantage.name(), why.why))
        }
        Observed::Known { .. } => None,
    });
    silent.collect()
}

fn verdict(topology: &Topology, live: &Live, before: &Before, facility: &FacilityName) -> Vec<String> {
    let lost = Lost { facilities: BTreeSet::from([facility.clone()]), targets: BTreeSet::new() };
    let lines = judge(&gather(topology, &lost, live, before, None)).lines();
    let more = |(n, line): (usize, String)| if n == 0 { line } else { format!("{facility}: {line}") };
    lines.into_iter().enumerate().map(more).collect()
}

/// What of this does not answer us, and does answer a host elsewhere.
fn reached(topology: &Topology, live: &Live, here: &[&TargetId]) -> Vec<String> {
    let addresses = topology.targets().map(|target| (&target.id, &target.address));
    let silent: Vec<(&TargetId, &String)> = addresses
        .filter(|(id, _)| here.contains(id) && live.get(*id).is_some_and(|observed| observed.known().is_none()))
        .collect();
    let vantages = topology.vantages.values().filter_map(|target| {
        let facts = live.get(&target.id)?.known()?.vantage()?;
        let names: BTreeSet<&str> = silent
            .iter()
            .filter(|(_, address)| facts.reached.get(*address).copied().unwrap_or_default())
            .map(|(id, _)| id.name())
            .collect();
        (!names.is_empty()).then(|| format!("{} does not answer us, and {} reaches it", list(names), target.name()))
    });
    vantages.collect()
}
