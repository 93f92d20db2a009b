//! Which replica takes over. Pure: facts in, a choice or the reason against each out.

use crate::model::{Database, Lineage, Live, MemberFacts, Role, TargetId};

use super::live;

/// Chooses among `wish`, in its order of preference (priority, then name): the first that has the same history and streams.
///
/// # Errors
/// Why none of them can, one reason each.
pub fn choose(database: &Database, wish: &[TargetId], lineage: &Lineage, live: &Live) -> Result<TargetId, String> {
    let mut reasons = Vec::new();
    for id in wish {
        match database.members.get(id.name()).map(|_| live::facts(live, id)) {
            None => {}
            Some(Err(why)) => reasons.push(format!("{} does not answer: {why}", id.name())),
            Some(Ok(facts)) => match facts.member().map(|facts| unfit(facts, lineage)) {
                Some(None) => return Ok(id.clone()),
                Some(Some(reason)) => reasons.push(format!("{} {reason}", id.name())),
                None => reasons.push(format!("{} answered as something else", id.name())),
            },
        }
    }
    Err(if reasons.is_empty() { "there is no replica".to_owned() } else { reasons.join("; ") })
}

/// Why a member cannot take over at all, if so; what may pass (lag, long queries) is a gate's matter.
fn unfit(facts: &MemberFacts, lineage: &Lineage) -> Option<String> {
    if facts.role != Role::Replica {
        Some(format!("is {}, not a replica", facts.role))
    } else if facts.lineage.system != lineage.system {
        Some(format!("is of another cluster ({})", facts.lineage))
    } else if facts.lineage.timeline != lineage.timeline {
        Some(format!("is on timeline {}, the primary on {}", facts.lineage.timeline, lineage.timeline))
    } else if facts.receives_from.is_none() {
        Some("does not stream".to_owned())
    } else {
        None
    }
}
