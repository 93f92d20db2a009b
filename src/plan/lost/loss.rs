//! What is lost with a primary that cannot be asked any more. Stated before it is accepted, never less than is known. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::known::{Known, Seen};
use crate::model::text::{list, same_member};
use crate::model::{Database, Live, Member, MemberFacts, Position, Role, Span};
use crate::plan::{live, synchronous};

/// What may be lost when a replica takes over from a primary that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The end of the old primary's log as far as anybody has heard of it.
    pub last_known: Option<LastKnown>,
    /// The end of what the candidate has received.
    pub candidate: Position,
    /// Bytes of log that are known to have been written and that the candidate does not have; none where nobody knows how far the old
    /// primary was.
    pub bytes: Option<u64>,
    /// For how long at most the old primary may have written what nobody else has heard of; none where that is not known.
    pub unheard: Option<Duration>,
    /// Why no acknowledged write is lost, where that is proven.
    pub nothing_because: Option<String>,
}

/// How far a primary was when it was last heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastKnown {
    /// The end of its log.
    pub position: Position,
    /// How long ago.
    pub age: Duration,
    /// Who has heard it: a member's name, or `handover`.
    pub by: String,
}

impl Loss {
    /// Accepts what cannot be counted as well.
    pub const UNKNOWN: u64 = u64::MAX;

    /// True if it is proven that no acknowledged write is lost.
    pub fn is_nothing(&self) -> bool {
        self.nothing_because.is_some()
    }

    /// Why so many accepted bytes do not cover this loss, if they do not. What cannot be counted is covered by no number.
    pub fn exceeds(&self, accepted: u64) -> Option<String> {
        if self.is_nothing() {
            return None;
        }
        uncovered(self.bytes, accepted, "nobody knows how far the old primary was: the loss cannot be counted")
    }
}

/// Why so many accepted bytes do not cover this many, if they do not; `uncounted` says why there is no number.
pub(in crate::plan) fn uncovered(bytes: Option<u64>, accepted: u64, uncounted: &str) -> Option<String> {
    match bytes {
        Some(bytes) if bytes <= accepted => None,
        Some(bytes) => Some(format!("{bytes} bytes would be lost, and {accepted} are accepted")),
        None if accepted == Loss::UNKNOWN => None,
        None => Some(uncounted.to_owned()),
    }
}

/// A time to the tenth of a second below ten seconds, else to the second.
fn span(time: Duration) -> Span {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let step = if millis < 10_000 { 100 } else { 1_000 };
    Span::millis(millis.div_ceil(step) * step)
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.nothing_because {
            return write!(f, "no acknowledged write is lost: {why}");
        }
        match (&self.last_known, self.bytes) {
            (Some(known), Some(bytes)) => write!(
                f,
                "at least {bytes} bytes are lost: the old primary was at {} {} ago (told by {}), the candidate has {}",
                known.position,
                span(known.age),
                known.by,
                self.candidate
            )?,
            _ => write!(
                f,
                "it is not known how much is lost: nobody has heard how far the old primary was; the candidate has {}",
                self.candidate
            )?,
        }
        match self.unheard {
            Some(time) => write!(f, "; what was written in its last {} at most is lost as well", span(time)),
            None => write!(f, "; for how long it has written since then is not known"),
        }
    }
}

/// What may be lost when the candidate takes over from `old`.
pub(super) fn loss(database: &Database, old: &Member, candidate: &MemberFacts, live: &Live, known: &Known) -> Loss {
    let seen = known.members.get(&old.target.id).filter(|seen| seen.lineage.system == candidate.lineage.system);
    let told = database.members.values().filter_map(|member| {
        let receiver = live::member(live, &member.target.id)?.receiver.as_ref()?;
        let of_old = receiver.from == old.target.address;
        let (position, age) = (receiver.told, receiver.last_message);
        of_old.then(|| LastKnown { position, age, by: member.target.name().to_owned() })
    });
    let seen_there = seen.filter(|seen| seen.role == Role::Primary).map(|seen| LastKnown {
        position: seen.position,
        age: seen.age,
        by: "handover".to_owned(),
    });
    let heard: Vec<LastKnown> = told.chain(seen_there).collect();
    let unheard = heard.iter().map(|known| known.age).min();
    let farthest = |a: LastKnown, b: LastKnown| {
        let further = b.position.bytes_since(a.position) > 0 || (b.position == a.position && b.age < a.age);
        if further { b } else { a }
    };
    let last_known = heard.into_iter().reduce(farthest);
    Loss {
        bytes: last_known.as_ref().map(|known| known.position.bytes_since(candidate.position)),
        unheard,
        nothing_because: seen.and_then(|seen| proof(database, old, seen, candidate, live)),
        last_known,
        candidate: candidate.position,
    }
}

/// Why the candidate has every write that was acknowledged, where the names that commits waited for prove it.
///
/// With `FIRST k` or `ANY k` of n names each commit was confirmed by k of them, one does not know which: of any n - k + 1 of them at least
/// one has it. If that many answer and the candidate is as far as the farthest of them, it has all (PostgreSQL manual, 27.2.8).
fn proof(database: &Database, old: &Member, seen: &Seen, candidate: &MemberFacts, live: &Live) -> Option<String> {
    let setting = seen.synchronous_names.trim();
    let asked = synchronous::demand(setting);
    if asked == 0 || seen.role != Role::Primary {
        return None;
    }
    let others: BTreeSet<String> = database
        .members
        .values()
        .map(|member| member.target.name().to_owned())
        .filter(|name| *name != old.target.name())
        .collect();
    let listed: Vec<&String> =
        others.iter().filter(|name| synchronous::counting(setting, &BTreeSet::from([(*name).clone()])) > 0).collect();
    // A name that is none of ours may have confirmed in the place of one of ours.
    if synchronous::listed(setting) != Some(listed.len()) {
        return None;
    }
    let needed = (listed.len() + 1).checked_sub(asked).filter(|needed| *needed > 0)?;
    let there: Vec<(&str, &MemberFacts)> = database
        .members
        .values()
        .filter(|member| listed.iter().any(|name| same_member(name, member.target.name())))
        .filter_map(|member| Some((member.target.name(), live::member(live, &member.target.id)?)))
        .filter(|(_, facts)| facts.role == Role::Replica && facts.lineage == seen.lineage)
        .collect();
    let farthest = there.iter().all(|(_, facts)| facts.position.bytes_since(candidate.position) == 0);
    (there.len() >= needed && farthest && candidate.lineage == seen.lineage).then(|| {
        format!(
            "commits waited for `{setting}` when {} was last seen as primary, {} ago; of the {} that it names {needed} must answer, and these do, \
             none of them ahead of the candidate: {}",
            old.target.name(),
            span(seen.age),
            listed.len(),
            list(there.iter().map(|(name, _)| *name)),
        )
    })
}
