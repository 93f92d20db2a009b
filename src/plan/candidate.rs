//! Which replica takes over, and why that one. Pure: facts in, a choice or the reason against each out.

use std::cmp::Reverse;

use super::{followers, live};
use crate::model::{Database, Lineage, Live, MemberFacts, Role, TargetId};

/// The replica that takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// It.
    pub member: TargetId,
    /// Why it and none of the others, where there was a choice: one sentence.
    pub why: Option<String>,
}

/// Chooses among `wish`: the highest priority first; of several, one that follows closely before one whose replay is held back, one
/// that streams from `primary` itself before one that must be led there first; then by name. All of the same history, and streaming.
///
/// # Errors
/// Why none of them can, one reason each.
pub fn choose(
    database: &Database,
    wish: &[TargetId],
    primary: &TargetId,
    lineage: &Lineage,
    live: &Live,
) -> Result<Choice, String> {
    let (mut fit, mut reasons) = (Vec::new(), Vec::new());
    for id in wish {
        let Some(member) = database.members.get(id.name()) else { continue };
        match live::facts(live, id) {
            Err(why) => reasons.push(format!("{} does not answer: {why}", id.name())),
            Ok(facts) => match facts.member().map(|facts| (facts, unfit(facts, lineage))) {
                Some((facts, None)) => {
                    let upstream = followers::upstream(database, facts).map(|peer| peer.member);
                    let cascading = upstream.filter(|upstream| upstream != primary);
                    fit.push(Rank { id, priority: member.priority, held_back: facts.held_back(), cascading });
                }
                Some((_, Some(reason))) => reasons.push(format!("{} {reason}", id.name())),
                None => reasons.push(format!("{} answered as something else", id.name())),
            },
        }
    }
    fit.sort_by_key(|rank| (Reverse(rank.priority), rank.held_back.is_some(), rank.cascading.is_some(), rank.id));
    let Some((first, others)) = fit.split_first() else {
        return Err(if reasons.is_empty() { "there is no replica".to_owned() } else { reasons.join("; ") });
    };
    let mut why = format!("why {}: {}", first.id.name(), first.describe(primary));
    let passed: Vec<String> =
        others.iter().map(|rank| format!("{} ({})", rank.id.name(), rank.describe(primary))).collect();
    if !passed.is_empty() {
        why += &format!("; after it would come {}", crate::model::text::list(passed));
    }
    if !reasons.is_empty() {
        why += &format!("; not: {}", reasons.join(", "));
    }
    let chosen = !(others.is_empty() && reasons.is_empty() && first.cascading.is_none());
    Ok(Choice { member: first.id.clone(), why: chosen.then_some(why) })
}

/// A replica that can take over.
struct Rank<'a> {
    id: &'a TargetId,
    priority: u32,
    held_back: Option<String>,
    cascading: Option<TargetId>,
}

impl Rank<'_> {
    fn describe(&self, primary: &TargetId) -> String {
        let sender = self.cascading.as_ref().unwrap_or(primary).name();
        let mut text = format!("priority {}, streams from {sender}", self.priority);
        if let Some(why) = &self.held_back {
            text += &format!(", but {why}");
        }
        text
    }
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
