//! What is split, by what was observed.

use std::collections::BTreeSet;

use serde::Serialize;

use super::histories::{Own, own};
use crate::model::text::{self, list};
use crate::model::{Database, Live, MemberFacts, NameServerFacts, RecordKey, RecordSet, Role, Route, TargetId, Zone};
use crate::plan::{epoch, followers, live};
use crate::topology::Topology;

/// What is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitKind {
    /// Several members of a database take writes.
    Primaries,
    /// A member has log that the primary has not.
    Timeline,
    /// A pooler leads its clients where writes may be taken, and not to the primary.
    Route,
    /// Name servers of a zone publish different addresses, and no transfer that is under way explains it.
    Records,
    /// Name servers publish different epochs under one number.
    Epoch,
}

impl SplitKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Primaries, Self::Timeline, Self::Route, Self::Records, Self::Epoch];

    /// In one word, as in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Primaries => "primaries",
            Self::Timeline => "timeline",
            Self::Route => "route",
            Self::Records => "records",
            Self::Epoch => "epoch",
        }
    }
}

/// A split that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Split {
    /// Of what kind.
    pub kind: SplitKind,
    /// The database or zone.
    pub of: String,
    /// The targets that disagree.
    pub targets: BTreeSet<TargetId>,
    /// What is split, as a fragment.
    pub what: String,
    /// What to do about it, as a fragment.
    pub advice: String,
}

/// Every split. Nothing is said of what does not answer.
pub fn find(topology: &Topology, live: &Live) -> Vec<Split> {
    let mut found = Vec::new();
    for database in topology.databases.values() {
        found.extend(primaries(database, live));
        if let Some(primary) = live::primary(database, live) {
            found.extend(timelines(database, &primary, live));
            found.extend(routes(topology, database, &primary, live));
        }
    }
    found.extend(topology.zones.values().filter_map(|zone| records(zone, live)));
    found.extend(epochs(topology, live));
    found
}

fn primaries(database: &Database, live: &Live) -> Option<Split> {
    let several = live::primaries(database, live);
    (several.len() > 1).then(|| Split {
        kind: SplitKind::Primaries,
        of: database.name.to_string(),
        what: format!(
            "{} has {} primaries: {}",
            database.name,
            several.len(),
            list(several.iter().map(|id| id.name()))
        ),
        advice: "`handover plan` tells what each of them has and who uses it, and begins by fencing those that do not survive"
            .to_owned(),
        targets: several.into_iter().cloned().collect(),
    })
}

/// Members that have what the only primary has not.
fn timelines(database: &Database, primary: &TargetId, live: &Live) -> Vec<Split> {
    let Some(facts) = live::member(live, primary) else { return Vec::new() };
    let split = |id: &TargetId| {
        let member = live::member(live, id)?;
        let theirs = apart(database, primary, facts, id, member, live)?;
        let (name, chief) = (id.name(), primary.name());
        let is = format!("{name} ({}, timeline {})", member.role, member.lineage.timeline);
        let what = match theirs {
            Own::From { fork, bytes } => {
                let more = if member.role == Role::Stopped { "at least " } else { "" };
                format!(
                    "{is} has {more}{bytes} bytes of log after {fork} that the primary {chief} (timeline {}) has not",
                    facts.lineage.timeline
                )
            }
            _ => format!("{is} has no history in common with the primary {chief} ({})", facts.lineage),
        };
        Some(Split {
            kind: SplitKind::Timeline,
            of: database.name.to_string(),
            targets: BTreeSet::from([id.clone(), primary.clone()]),
            what: format!("{}: {what}", database.name),
            advice: "`handover plan` keeps what only one side has, lists it and rebuilds that side, or asks which side survives"
                .to_owned(),
        })
    };
    database.members.values().filter_map(|member| split(&member.target.id)).collect()
}

/// What a member has that the primary has not, where it stands apart from it.
pub(super) fn apart(
    database: &Database,
    primary: &TargetId,
    facts: &MemberFacts,
    id: &TargetId,
    member: &MemberFacts,
    live: &Live,
) -> Option<Own> {
    // Whoever receives from it shares its history, and of what is half rebuilt everything was kept before.
    let shares = member.role == Role::Replica && followers::receives_through(database, id, primary, live);
    if id == primary || shares || member.settings.contains_key("rebuilding") {
        return None;
    }
    Some(own(facts, member)).filter(|own| matches!(own, Own::From { .. } | Own::Everything))
}

/// Poolers that lead to nobody of the database, or to a member of which nobody knows whether it takes writes. One that leads to a member
/// which refuses them is wrong as well, but splits nothing: its clients fail.
fn routes(topology: &Topology, database: &Database, primary: &TargetId, live: &Live) -> Vec<Split> {
    let Route::PoolerDatabase(entry) = &database.route else { return Vec::new() };
    let Some(chief) = database.members.get(primary.name()) else { return Vec::new() };
    let split = |name: &String| {
        let pooler = &topology.poolers.get(name)?.target;
        let route = &live::pool(live, &pooler.id, entry)?.route;
        if *route == chief.target.address {
            return None;
        }
        let whose = match database.members.values().find(|member| member.target.address == *route) {
            None => format!("{route}, where no member of it listens"),
            Some(member) if live::member(live, &member.target.id).is_some() => return None,
            Some(member) => format!("{}, which does not answer and may take writes", member.target.name()),
        };
        Some(Split {
            kind: SplitKind::Route,
            of: database.name.to_string(),
            targets: BTreeSet::from([pooler.id.clone(), primary.clone()]),
            what: format!(
                "{} leads clients of {} to {whose}; the primary is {}",
                pooler.name(),
                database.name,
                primary.name()
            ),
            advice: format!(
                "`handover plan` leads them to {}; compare what was written elsewhere by hand",
                primary.name()
            ),
        })
    };
    database.poolers.iter().filter_map(split).collect()
}

/// Servers that get the zone from one place differ by a transfer that is under way, unless they call what they have by the same serial.
/// Servers that get it from nobody are changed together, additions first: whatever differs there for longer stays different.
fn records(zone: &Zone, live: &Live) -> Option<Split> {
    let servers: Vec<(&String, &TargetId, &NameServerFacts)> = zone
        .servers
        .iter()
        .filter_map(|(name, server)| Some((name, &server.target.id, live::name_server(live, &server.target.id)?)))
        .collect();
    let mut targets = BTreeSet::new();
    let mut keys: BTreeSet<&RecordKey> = BTreeSet::new();
    let mut first = None;
    for (index, (name, id, facts)) in servers.iter().enumerate() {
        for (other, other_id, there) in servers.iter().skip(index + 1) {
            let one_tree = zone.origin(name) == zone.origin(other);
            let both_origins = zone.origin(name) == name.as_str() && zone.origin(other) == other.as_str();
            let differing: Vec<&RecordKey> = match one_tree {
                true if facts.serial == there.serial => differing(facts, there, |one, other| one == other),
                false if both_origins => differing(facts, there, same_addresses),
                _ => Vec::new(),
            };
            let Some(key) = differing.first().copied() else { continue };
            targets.extend([(*id).clone(), (*other_id).clone()]);
            keys.extend(&differing);
            first.get_or_insert_with(|| {
                let at = |facts: &NameServerFacts| text::record_set(facts.sets.get(key).and_then(Option::as_ref));
                let what = format!("{key} is {} at {name} and {} at {other}", at(facts), at(there));
                if !one_tree {
                    let advice =
                        "users are sent to different places; `handover plan` makes both publish what should be";
                    return (what, advice.to_owned());
                }
                let copy = if zone.origin(name) == name.as_str() { other } else { name };
                let advice = format!(
                    "no transfer repairs that: make {copy} fetch the zone anew (BIND: `rndc retransfer {}`)",
                    zone.name
                );
                (format!("{what}, both in serial {}", facts.serial), advice)
            });
        }
    }
    let more = match keys.len() {
        0 | 1 => String::new(),
        count => format!(", and {} more differ", count - 1),
    };
    first.map(|(first, advice)| Split {
        kind: SplitKind::Records,
        of: zone.name.to_string(),
        what: format!("name servers of {} differ: {first}{more}", zone.name),
        advice,
        targets,
    })
}

fn differing<'a>(
    one: &'a NameServerFacts,
    other: &NameServerFacts,
    same: impl Fn(Option<&RecordSet>, Option<&RecordSet>) -> bool,
) -> Vec<&'a RecordKey> {
    let differs = |(key, set): &(&RecordKey, &Option<RecordSet>)| {
        other.sets.get(*key).is_some_and(|there| !same(set.as_ref(), there.as_ref()))
    };
    one.sets.iter().filter(differs).map(|(key, _)| key).collect()
}

/// A TTL that differs sends nobody elsewhere.
fn same_addresses(one: Option<&RecordSet>, other: Option<&RecordSet>) -> bool {
    one.map(|set| &set.data) == other.map(|set| &set.data)
}

fn epochs(topology: &Topology, live: &Live) -> Option<Split> {
    let servers = topology.zones.values().flat_map(|zone| zone.servers.values());
    let published: Vec<_> = servers
        .filter_map(|server| {
            let id = &server.target.id;
            Some((id, live::name_server(live, id)?.epoch.as_ref()?))
        })
        .collect();
    published.iter().enumerate().find_map(|(index, (id, said))| {
        let (other, there) = published.iter().skip(index + 1).find(|(_, there)| epoch::contradicts(said, there))?;
        Some(Split {
            kind: SplitKind::Epoch,
            of: id.scope().unwrap_or_default().to_owned(),
            targets: BTreeSet::from([(*id).clone(), (*other).clone()]),
            what: format!(
                "{} and {} publish different epochs under one number: {} and {}",
                id.name(),
                other.name(),
                text::epoch(Some(*said)),
                text::epoch(Some(*there))
            ),
            advice: "whoever asks before it starts is refused meanwhile; `handover plan` publishes the next number"
                .to_owned(),
        })
    })
}
