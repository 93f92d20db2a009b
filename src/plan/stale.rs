//! Is a saved plan still about the world as it is? Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::document::Plan;
use super::live;
use crate::model::{Condition, Live, RecordKey, RecordSet, TargetId, text};

/// A fact that the plan relies on and that is different now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stale {
    /// The target.
    pub target: TargetId,
    /// What the plan relies on.
    pub planned: String,
    /// What was found.
    pub found: String,
}

/// The identity facts of a plan that differ now: if there is any, the plan must not be applied.
pub fn stale(plan: &Plan, live: &Live) -> Vec<Stale> {
    let mut stale = Vec::new();
    for fact in &plan.facts {
        let mut differs = |planned: &Condition, found: String| {
            stale.push(Stale { target: fact.target.clone(), planned: text::condition(planned), found });
        };
        match live::facts(live, &fact.target) {
            Err(why) => differs(&fact.condition, format!("no answer: {why}")),
            Ok(facts) => {
                for part in parts(&fact.condition) {
                    if let Err(found) = part.holds(facts) {
                        differs(&part, found.to_string());
                    }
                }
            }
        }
    }
    stale
}

/// A condition on many things of one target as conditions on one thing each, so that only what differs is named.
fn parts(condition: &Condition) -> Vec<Condition> {
    match condition {
        Condition::Records { sets } => {
            let one = |(key, set): (&RecordKey, &Option<RecordSet>)| Condition::Records {
                sets: BTreeMap::from([(key.clone(), set.clone())]),
            };
            sets.iter().map(one).collect()
        }
        Condition::Servers { backends } => {
            let all = backends
                .iter()
                .flat_map(|(backend, servers)| servers.iter().map(move |(server, setting)| (backend, server, setting)));
            all.map(|(backend, server, setting)| Condition::Servers {
                backends: BTreeMap::from([(backend.clone(), Arc::new(BTreeMap::from([(server.clone(), *setting)])))]),
            })
            .collect()
        }
        other => vec![other.clone()],
    }
}
