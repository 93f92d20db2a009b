//! Where the histories of two members part. By timelines and where each ended (PostgreSQL manual, 26.3.6), as `pg_rewind` finds it. Pure.

use crate::model::{MemberFacts, Position, Role};

/// How two histories are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Related {
    /// One and the same, as far as timelines tell.
    Same,
    /// They have everything up to here in common, and nothing after it.
    Until(Position),
    /// They have nothing in common.
    Not,
    /// One of them is not told: the login may not read it.
    Unknown,
}

/// How the histories of two members are related; the same from either side.
pub fn related(one: &MemberFacts, other: &MemberFacts) -> Related {
    if one.lineage.system != other.lineage.system {
        return Related::Not;
    }
    let (Some(ours), Some(theirs)) = (timelines(one), timelines(other)) else { return by_number(one, other) };
    let mut common = None;
    for ((timeline, end), (their_timeline, their_end)) in ours.into_iter().zip(theirs) {
        if timeline != their_timeline {
            break;
        }
        common = Some(earlier(end, their_end));
        if end != their_end {
            // Whatever number comes next, it begins elsewhere.
            break;
        }
    }
    match common {
        None => Related::Not,
        Some(None) => Related::Same,
        Some(Some(end)) => Related::Until(end),
    }
}

/// The timelines of a history, oldest first, each with its end; its own has none. None where they are not told.
fn timelines(facts: &MemberFacts) -> Option<Vec<(u32, Option<Position>)>> {
    if facts.history.is_empty() && facts.lineage.timeline > 1 {
        return None;
    }
    let before = facts.history.iter().map(|(timeline, end)| (*timeline, Some(*end)));
    Some(before.chain([(facts.lineage.timeline, None)]).collect())
}

fn earlier(one: Option<Position>, other: Option<Position>) -> Option<Position> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other < one { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// Where one of them does not tell its history, the number of its timeline in the other's must do.
fn by_number(one: &MemberFacts, other: &MemberFacts) -> Related {
    let (own, theirs) = (one.lineage.timeline, other.lineage.timeline);
    if own == theirs {
        return Related::Same;
    }
    let end = |of: &MemberFacts, wanted: u32| {
        of.history.iter().find(|(timeline, _)| *timeline == wanted).map(|(_, end)| *end)
    };
    end(one, theirs).or_else(|| end(other, own)).map_or(Related::Unknown, Related::Until)
}

/// What a member has that another one has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Nothing: it is somewhere on the other's way.
    Nothing,
    /// Log from where they part.
    From {
        /// The end of what both have.
        fork: Position,
        /// How much it is known to have after that; a primary may write more at any moment.
        bytes: u64,
    },
    /// Everything: they have nothing in common.
    Everything,
    /// Nobody can tell from here.
    Unknown,
}

/// What `member` has that `other` has not.
pub fn own(other: &MemberFacts, member: &MemberFacts) -> Own {
    let fork = match related(other, member) {
        Related::Same => return Own::Nothing,
        Related::Not => return Own::Everything,
        Related::Unknown => return Own::Unknown,
        Related::Until(fork) => fork,
    };
    let bytes = member.position.bytes_since(fork);
    let on_its_way = other.history.contains(&(member.lineage.timeline, fork));
    if on_its_way && bytes == 0 && member.role != Role::Primary && !ends_at(member, fork) {
        return Own::Nothing;
    }
    Own::From { fork, bytes }
}

/// True for a member that ended cleanly with a checkpoint which begins here: a clean end is told as that place, everything else as an end.
pub(in crate::plan) fn ends_at(member: &MemberFacts, at: Position) -> bool {
    member.position == at && member.settings.get("cluster_state").is_some_and(|state| state == "shut down")
}
