//! Members that answer again after they were lost, and others that stand aside: what each needs before it may follow the primary. By their
//! histories, never by their names. Pure.

use std::collections::BTreeMap;

use super::evidence::Lost;
use crate::model::{Action, Condition, Database, Live, MemberFacts, Peer, Position, Role, Span, TargetId};
use crate::plan::build::{After, Builder, step};
use crate::plan::live;
use crate::plan::split::{Related, ends_at, related};
use crate::plan::step::Work;

/// How a member's history is related to its primary's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parted {
    /// Not at all parted: what it has is a part of the primary's history.
    No,
    /// It has log of its own from this position on.
    At {
        /// The end of what both have.
        fork: Position,
        /// How much it is known to have beyond that; more where it did not end cleanly.
        bytes: u64,
    },
    /// Its timeline is none of the primary's.
    Elsewhere,
    /// It is on a later timeline than the primary.
    Ahead,
    /// The primary does not tell its history: its login may not read it.
    Unknown,
}

/// Where a member's history leaves that of `primary`, of the same system.
pub fn parted(primary: &MemberFacts, member: &MemberFacts) -> Parted {
    let (own, theirs) = (member.lineage.timeline, primary.lineage.timeline);
    if own == theirs {
        // Two that were promoted apart from each other give their timelines the same number.
        return match related(primary, member) {
            Related::Until(fork) => Parted::At { fork, bytes: member.position.bytes_since(fork) },
            _ => Parted::No,
        };
    }
    if own > theirs {
        return Parted::Ahead;
    }
    if primary.history.is_empty() {
        return Parted::Unknown;
    }
    let Some((_, fork)) = primary.history.iter().find(|(timeline, _)| *timeline == own) else {
        return Parted::Elsewhere;
    };
    if member.position > *fork || ends_at(member, *fork) {
        return Parted::At { fork: *fork, bytes: member.position.bytes_since(*fork) };
    }
    Parted::No
}

/// What a member needs before it may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it follows, or may simply be told to.
    Nothing,
    /// It becomes a replica anew.
    Rebuild(Rebuild),
    /// Nothing is done to it, and why.
    Left(String),
}

/// A member that becomes a replica anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuild {
    /// True where it takes writes and is fenced first.
    pub fence: bool,
    /// True where an operator has chosen the history that it gets: it counts even where this member's timeline is the later one.
    pub chosen: bool,
    /// Why, as a fragment.
    pub why: String,
}

/// What `member` needs before it may follow `primary`, which is in charge.
pub fn need(name: &str, primary: &MemberFacts, member: &MemberFacts) -> Need {
    if member.lineage.system != primary.lineage.system {
        return Need::Left(format!("it is of another cluster ({})", member.lineage));
    }
    let interrupted = member.settings.get("rebuilding");
    let parted = parted(primary, member);
    let why = match (member.role, &parted) {
        (_, Parted::Ahead) => {
            return Need::Left(format!(
                "it is on timeline {}, {name} on {}: look at both before anything is discarded",
                member.lineage.timeline, primary.lineage.timeline
            ));
        }
        // One that had written nothing yet when the other one was promoted writes from there on.
        (Role::Primary, Parted::No) if member.lineage == primary.lineage => {
            return Need::Left(format!("it takes writes on the same timeline as {name}: compare them by hand"));
        }
        // Whoever receives is connected to a history that it shares.
        (Role::Replica, _) if member.receives_from.is_some() => return Need::Nothing,
        (Role::Replica | Role::Fenced, Parted::No | Parted::Unknown) if interrupted.is_none() => return Need::Nothing,
        (_, _) if interrupted.is_some() => "a rebuild of it was cut short".to_owned(),
        (_, Parted::At { fork, bytes }) => {
            let more = if member.role == Role::Stopped { "at least " } else { "" };
            format!("it has {more}{bytes} bytes of log after {fork} that {name} has not")
        }
        (_, Parted::Elsewhere) => {
            format!("its timeline {} is none that {name} comes from", member.lineage.timeline)
        }
        (Role::Primary, _) => format!("it takes writes on timeline {}", member.lineage.timeline),
        _ => "it is stopped and did not end cleanly".to_owned(),
    };
    rebuilt(member, why, false)
}

/// That a member becomes a replica anew, where that can be done from here. `chosen`: by an operator's word on who survives.
pub(in crate::plan) fn rebuilt(member: &MemberFacts, why: String, chosen: bool) -> Need {
    match &member.capabilities.no_control {
        Some(no) => Need::Left(format!("{why}; rebuild it by hand before it may follow: {no}")),
        None => Need::Rebuild(Rebuild { fence: member.role == Role::Primary, chosen, why }),
    }
}

/// The primary that is in charge where several members say that they are: the one that was not lost, if all others were, and are on earlier
/// timelines of the same system. Where nothing is known to have been lost nobody can tell it from here.
pub fn in_charge<'a>(
    database: &'a Database,
    primaries: &[&'a TargetId],
    lost: &Lost,
    live: &Live,
) -> Option<&'a TargetId> {
    let was_lost = |id: &TargetId| database.members.get(id.name()).is_some_and(|member| lost.contains(&member.target));
    let (returned, stayed): (Vec<_>, Vec<_>) = primaries.iter().copied().partition(|id| was_lost(id));
    let [chief] = stayed.as_slice() else { return None };
    let facts = live::member(live, chief)?;
    let older = |id: &&TargetId| {
        live::member(live, id).is_some_and(|other| {
            other.lineage.system == facts.lineage.system && other.lineage.timeline < facts.lineage.timeline
        })
    };
    returned.iter().all(older).then_some(*chief)
}

/// Adds the steps that fence members which take writes although another one is in charge: before anything else, so that there is one
/// primary only.
pub(in crate::plan) fn quarantine(
    builder: &mut Builder,
    stage: usize,
    database: &Database,
    primary: &Peer,
    rebuild: &BTreeMap<TargetId, Rebuild>,
    live: &Live,
) -> After {
    let fenced = rebuild.iter().filter(|(_, rebuild)| rebuild.fence).map(|(member, _)| {
        let (name, to) = (member.name(), primary.member.name());
        let lineage = live::member(live, member).map(|facts| facts.lineage.clone());
        let fence = step(
            format!("db.{}.quarantine.{name}", database.name),
            stage,
            format!("fence {name}: {to} is in charge of {}", database.name),
            Work::on(member, Action::Fence { successor: primary.clone() }),
        )
        .why("It still takes writes that nobody else has. From here on it can only come back as a replica.")
        .before(member, Condition::Role { role: Role::Primary, lineage })
        .after(member, Condition::Role { role: Role::Fenced, lineage: None })
        .irreversible(format!("{to} is in charge: two would take writes"))
        .takes(Span::secs(1), Span::secs(120));
        builder.push(fence)
    });
    fenced.collect()
}

/// Adds the steps that rebuild members; returns what each ends with.
pub(in crate::plan) fn add(
    builder: &mut Builder,
    stage: usize,
    database: &Database,
    primary: &Peer,
    rebuild: &BTreeMap<TargetId, Rebuild>,
    needs: &After,
) -> After {
    let mut done = After::new();
    for (member, Rebuild { why, chosen, .. }) in rebuild {
        let (name, to) = (member.name(), primary.member.name());
        let rebuild = step(
            format!("db.{}.rebuild.{name}", database.name),
            stage,
            format!("rebuild {name} as a replica of {to}: {why}"),
            Work::on(member, Action::Rebuild { primary: primary.clone(), chosen: *chosen }),
        )
        .why(
            "What only it has is kept beside its data directory and listed in the report before anything is discarded.",
        )
        .before(&primary.member, Condition::Role { role: Role::Primary, lineage: None })
        .after(member, Condition::Follows { primary: primary.clone() })
        .irreversible(format!(
            "what only {name} had is in no history any more; it stays in the directory that the report names"
        ))
        // By pg_rewind seconds, by a new copy as long as the database is large.
        .takes(Span::secs(30), Span::secs(12 * 3600));
        done.insert(builder.push(rebuild.needs(needs)));
    }
    done
}
