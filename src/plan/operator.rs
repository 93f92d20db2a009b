//! What a run needs must not live in the facility that it drains: it would saw off the branch that it sits on. Pure.

use super::desired::Refusal;
use super::intent::{Depth, Intent};
use super::overrides::GateName;
use crate::model::FacilityName;
use crate::topology::{StoreKind, Topology};

/// Something that the run needs and that lives in a facility to be drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Where the file says so: `operator/needs/bastion`.
    pub path: String,
    /// The sentence and the advice.
    pub refusal: Refusal,
}

/// What stands against draining these facilities.
pub fn needed(topology: &Topology, intent: &Intent) -> Vec<Needed> {
    let Some(operator) = &topology.operator else { return Vec::new() };
    // A facility without traffic still runs; one without power takes the run down with it.
    let overridden = intent.overrides.contains_key(&GateName::Operator) && intent.depth != Depth::Power;
    if overridden {
        return Vec::new();
    }
    let advice = |what: &str| {
        let pass = match intent.depth {
            Depth::Power => "its power will go: nothing overrides this".to_owned(),
            Depth::Traffic => format!("`--override {} --reason TEXT` if it stays reachable", GateName::Operator),
        };
        format!("{what}; {pass}")
    };
    let drained = |facility: &FacilityName| intent.drain.contains(facility);
    let mut found = Vec::new();
    if drained(&operator.runs_in) {
        let facility = &operator.runs_in;
        let StoreKind::Embedded { .. } = topology.store;
        found.push(Needed {
            path: "operator/runs_in".to_owned(),
            refusal: Refusal::new(
                format!("handover runs in {facility}, which is to be drained, and so do journal and lock"),
                advice("run it from another facility, and say so in the topology"),
            ),
        });
    }
    for (need, facility) in operator.needs.iter().filter(|(_, facility)| drained(facility)) {
        found.push(Needed {
            path: format!("operator/needs/{need}"),
            refusal: Refusal::new(
                format!("the run needs {need}, which lives in {facility}, and {facility} is to be drained"),
                advice(&format!("use a {need} elsewhere, and say so in the topology")),
            ),
        });
    }
    found
}
