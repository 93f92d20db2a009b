//! What follows from the choice of a side: the others are fenced, clients are led to the survivor, and everybody becomes its replica. What
//! the others had beyond the common history is stated first, and accepted before anything is done. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::found::apart;
use super::histories::{Own, own};
use crate::model::text::list;
use crate::model::{Database, DatabaseName, Live, MemberFacts, Position, Role, TargetId};
use crate::plan::desired::{Desired, Refusal};
use crate::plan::diff::Changes;
use crate::plan::intent::HoldKind;
use crate::plan::lost::loss::uncovered;
use crate::plan::lost::returned::{self, Need, rebuilt};
use crate::plan::{followers, live};
use crate::topology::Topology;

/// A split database, the side that survives, and what the others had: to be accepted before the plan is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The database.
    pub database: DatabaseName,
    /// Who survives: an operator's choice.
    pub survivor: TargetId,
    /// What is in no history afterwards.
    pub discards: Vec<Discard>,
}

/// What a member has that the survivor has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// The member.
    pub member: TargetId,
    /// True where it takes writes, and is fenced.
    pub takes_writes: bool,
    /// The end of what both have; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Position>,
    /// Bytes of log after that, so far; none where nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl Repair {
    /// What becomes of a database if `survivor` survives. Of members that receive from one another only the first counts: the others have
    /// what it has.
    pub(super) fn of(database: &Database, survivor: &TargetId, live: &Live) -> Option<Self> {
        let facts = live::member(live, survivor)?;
        let discard = |id: &TargetId| {
            let member = live::member(live, id)?;
            let takes_writes = member.role == Role::Primary;
            let theirs = if takes_writes {
                Some(own(facts, member))
            } else {
                apart(database, survivor, facts, id, member, live)
            };
            let led =
                followers::upstream(database, member).is_some_and(|peer| live::member(live, &peer.member).is_some());
            let (from, bytes) = match theirs? {
                Own::From { fork, bytes } => (Some(fork), Some(bytes)),
                Own::Nothing | Own::Everything | Own::Unknown => (None, None),
            };
            (!led).then(|| Discard { member: id.clone(), takes_writes, from, bytes })
        };
        let others = database.members.values().map(|member| &member.target.id).filter(|id| *id != survivor);
        let discards = others.filter_map(discard).collect();
        Some(Self { database: database.name.clone(), survivor: survivor.clone(), discards })
    }

    /// Bytes of log that are given up, so far; none where somebody's cannot be counted.
    pub fn bytes(&self) -> Option<u64> {
        self.discards.iter().map(|discard| discard.bytes).sum()
    }

    /// Why so many accepted bytes do not cover it, if they do not.
    pub fn exceeds(&self, accepted: u64) -> Option<String> {
        uncovered(
            self.bytes(),
            accepted,
            "nobody can tell from here where the histories part: the loss cannot be counted",
        )
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let survivor = self.survivor.name();
        for (index, discard) in self.discards.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            let name = discard.member.name();
            match (discard.bytes, discard.from) {
                (Some(bytes), Some(from)) => {
                    write!(
                        f,
                        "{between}{bytes} bytes of log that {name} has after {from} and {survivor} has not are given up"
                    )?;
                }
                _ => write!(
                    f,
                    "{between}what {name} has and {survivor} has not is given up, and cannot be counted from here"
                )?,
            }
            if discard.takes_writes {
                f.write_str(", with all that it writes until it is fenced")?;
            }
        }
        f.write_str("; it is kept beside its data directory and listed before anything is discarded")
    }
}

/// The primary that stays where several members take writes: whom the operator has chosen; else the one that was not lost.
pub(in crate::plan) fn chief<'a>(
    database: &'a Database,
    several: &[&'a TargetId],
    desired: &Desired,
    live: &Live,
) -> Option<&'a TargetId> {
    match desired.survivors.get(&database.name) {
        Some(name) => several.iter().copied().find(|id| id.name() == name),
        None => {
            let wish = desired.primaries.get(&database.name).map(Vec::as_slice).unwrap_or_default();
            returned::in_charge(database, several, &desired.lost, live).filter(|chief| wish.contains(chief))
        }
    }
}

/// What a member needs before it may follow the survivor of a split, which an operator has chosen.
pub(in crate::plan) fn need(
    database: &Database,
    survivor: &TargetId,
    facts: &MemberFacts,
    id: &TargetId,
    member: &MemberFacts,
    live: &Live,
) -> Need {
    let name = survivor.name();
    if member.role == Role::Replica && followers::receives_through(database, id, survivor, live) {
        return Need::Nothing;
    }
    if member.role == Role::Replica
        && let Some(sender) = followers::upstream(database, member)
        && live::member(live, &sender.member).is_some_and(|sender| own(facts, sender) != Own::Nothing)
    {
        // With the last words of a side that is fenced, too.
        let why = format!("it receives from {}, whose history is given up", sender.member.name());
        return rebuilt(member, why, true);
    }
    match own(facts, member) {
        Own::From { fork, bytes } => {
            let writes = if member.role == Role::Primary { "takes writes on timeline" } else { "is on timeline" };
            let timeline = member.lineage.timeline;
            rebuilt(
                member,
                format!("it {writes} {timeline}, with {bytes} bytes of log after {fork} that {name} has not"),
                true,
            )
        }
        Own::Unknown if member.role == Role::Primary || member.lineage.timeline > facts.lineage.timeline => {
            let timeline = member.lineage.timeline;
            rebuilt(
                member,
                format!("it is on timeline {timeline}, and where that leaves the one of {name} is not told"),
                true,
            )
        }
        Own::Nothing | Own::Everything | Own::Unknown => returned::need(name, facts, member),
    }
}

/// What is chosen, and what that gives up; nothing where the choice cannot be followed, which [`super::questions`] says.
pub(in crate::plan) fn repairs(topology: &Topology, desired: &Desired, live: &Live) -> Vec<Repair> {
    let chosen = desired.survivors.iter().filter_map(|(name, survivor)| {
        let database = topology.databases.get(name)?;
        Repair::of(database, &database.members.get(survivor)?.target.id, live)
    });
    chosen.collect()
}

/// Leaves of the changes only what repairs the databases for which a survivor was chosen: everything else waits, and nothing that is wrong
/// elsewhere stands against it. Returns what an operator should know of what waits.
pub(in crate::plan) fn alone(desired: &mut Desired, changes: &mut Changes, refusals: &mut Vec<Refusal>) -> Vec<String> {
    let mut notes: Vec<String> =
        refusals.drain(..).map(|it| format!("left as it is: {} ({})", it.what, it.advice)).collect();
    let all = changes.lines().len();
    let of = |id: &TargetId, desired: &Desired| id.scope().is_some_and(|name| desired.survivors.contains_key(name));
    let (routes, follows) = (std::mem::take(&mut changes.routes), std::mem::take(&mut changes.follows));
    let silent = std::mem::take(&mut changes.silent);
    *changes = Changes {
        routes: routes.into_iter().filter(|change| of(&change.primary, desired)).collect(),
        follows: follows.into_iter().filter(|change| of(&change.primary.member, desired)).collect(),
        silent,
        ..Changes::default()
    };
    match all - changes.lines().len() {
        0 => {}
        1 => notes.push("one more difference waits for the next `handover plan`".to_owned()),
        more => notes.push(format!("{more} more differences wait for the next `handover plan`")),
    }
    let chosen: BTreeSet<&DatabaseName> = desired.survivors.keys().collect();
    let about = |hold: &HoldKind| match hold {
        HoldKind::Placed { database, .. } | HoldKind::Primary { database, .. } => chosen.contains(database),
        _ => false,
    };
    desired.holds.retain(about);
    desired.releases.retain(about);
    desired.old_ttl = None;
    desired.power_down.clear();
    desired.power_up.clear();
    desired.jobs.clear();
    notes
}

/// What an operator should know about the databases that are repaired.
pub(in crate::plan) fn notes(topology: &Topology, repairs: &[Repair], live: &Live) -> Vec<String> {
    let mut notes = Vec::new();
    for Repair { database, survivor, discards } in repairs {
        let Some(facts) = live::member(live, survivor) else { continue };
        let archives = |id: &&TargetId| {
            live::member(live, id).is_some_and(|member| {
                let mode = member.settings.get("archive_mode").map(String::as_str);
                member.lineage.timeline > facts.lineage.timeline && !matches!(mode, None | Some("off"))
            })
        };
        let later: Vec<&str> = discards.iter().map(|it| &it.member).filter(archives).map(TargetId::name).collect();
        if !later.is_empty() {
            notes.push(format!(
                "{database}: {} may have archived log of a later timeline than {}'s; take that timeline's .history file out of the archive \
                 first, or replicas that restore from there take the wrong one",
                list(&later),
                survivor.name()
            ));
        }
        let Some(declared) = topology.databases.get(database) else { continue };
        let silent =
            declared.members.values().map(|member| &member.target.id).filter(|id| live::member(live, id).is_none());
        let silent: Vec<&str> = silent.map(TargetId::name).collect();
        if !silent.is_empty() {
            notes.push(format!(
                "{database}: {} did not answer: nobody knows whether it takes writes, and this plan does not touch it",
                list(&silent)
            ));
        }
    }
    notes
}

/// Why what was accepted does not cover what would be given up now, if so: members that take writes have gone on.
pub fn grown(plan: &crate::plan::Plan, topology: &Topology, live: &Live) -> Option<String> {
    plan.splits.iter().find_map(|planned| {
        let accepted = *plan.intent.accept_loss.get(&planned.database)?;
        let now = Repair::of(topology.databases.get(&planned.database)?, &planned.survivor, live)?;
        let why = now.exceeds(accepted)?;
        Some(format!("{}: {why}\n{now}", planned.database))
    })
}
