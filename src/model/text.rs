//! Values as operators read them, the same in plans, messages and reports.

use super::action::{BackendServers, Condition};
use super::declared::PrimaryPlace;
use super::epoch::Epoch;
use super::facts::RecordSet;

/// A record set: `10.10.0.80, 10.20.0.80 (TTL 30s)`, or `absent`.
pub fn record_set(set: Option<&RecordSet>) -> String {
    match set {
        None => "absent".to_owned(),
        Some(set) => {
            let data: Vec<String> = set.data.iter().map(ToString::to_string).collect();
            format!("{} (TTL {})", data.join(", "), super::Span::secs(u64::from(set.ttl)))
        }
    }
}

/// An epoch: `epoch 8: west is lost; accounts: east-pg1 from timeline 6 on`, or `no epoch`.
pub fn epoch(epoch: Option<&Epoch>) -> String {
    let Some(epoch) = epoch else { return "no epoch".to_owned() };
    let lost: Vec<String> =
        epoch.lost.iter().map(ToString::to_string).chain(epoch.lost_targets.iter().map(ToString::to_string)).collect();
    let lost = (!lost.is_empty()).then(|| format!("{} lost", is_or_are(&lost)));
    let charge = |(name, charge): (&super::DatabaseName, &super::Charge)| {
        format!("{name}: {} from timeline {} on", charge.member, charge.timeline)
    };
    let parts: Vec<String> = lost.into_iter().chain(epoch.databases.iter().map(charge)).collect();
    match parts.is_empty() {
        true => format!("epoch {}", epoch.number),
        false => format!("epoch {}: {}", epoch.number, parts.join("; ")),
    }
}

fn is_or_are(names: &[String]) -> String {
    format!("{} {}", list(names.iter()), if names.len() == 1 { "is" } else { "are" })
}

/// Whether a replica's own name means this member: databases that allow no hyphens in such names get underscores.
pub fn same_member(reported: &str, member: &str) -> bool {
    reported.len() == member.len()
        && reported.bytes().zip(member.bytes()).all(|(a, b)| a == b || matches!((a, b), (b'_', b'-') | (b'-', b'_')))
}

/// What a condition demands, as a fragment after the target's name: "is primary".
pub fn condition(condition: &Condition) -> String {
    match condition {
        Condition::Records { sets } => {
            let sets: Vec<String> =
                sets.iter().map(|(key, set)| format!("{key} = {}", record_set(set.as_ref()))).collect();
            format!("serves {}", sets.join("; "))
        }
        Condition::Epoch { epoch } => format!("publishes {}", self::epoch(epoch.as_ref())),
        Condition::Servers { backends } => {
            let backends: Vec<String> = backends
                .iter()
                .map(|(backend, servers)| {
                    let servers: Vec<String> =
                        servers.iter().map(|(name, setting)| format!("{name} {setting}")).collect();
                    format!("{backend}: {}", servers.join(", "))
                })
                .collect();
            format!("has {}", backends.join("; "))
        }
        Condition::ServersUp { backends } => format!("finds {} up", servers(backends)),
        Condition::SessionsAtMost { backends, limit: 0 } => format!("has no session left on {}", servers(backends)),
        Condition::SessionsAtMost { backends, limit } => {
            format!("has at most {limit} sessions on {}", servers(backends))
        }
        Condition::Healthy { .. } => "is healthy".to_owned(),
        Condition::Role { role, lineage: None } => format!("is {role}"),
        Condition::Role { role, lineage: Some(lineage) } => format!("is {role} of {lineage}"),
        Condition::Kept => "does not run, and can come back as a replica only".to_owned(),
        Condition::Promoted { beyond } => format!("is primary of a timeline above {}", beyond.timeline),
        Condition::AppliedBeyond { position: Some(position) } => format!("has applied beyond {position}"),
        Condition::AppliedBeyond { position: None } => "has applied the final checkpoint of the old primary".to_owned(),
        Condition::Follows { primary } => format!("streams from {}", primary.member.name()),
        Condition::KeepsUp { upstream } => format!("keeps up with {}", upstream.member.name()),
        Condition::FollowedBy { replicas } => format!("has {} streaming", list(replicas)),
        Condition::Redundant { replicas, synchronous: true } => {
            format!("has {} streaming, synchronously", list(replicas))
        }
        Condition::Redundant { replicas, synchronous: false } => format!("has {} streaming", list(replicas)),
        Condition::Native { verb, done: true, .. } => format!("has {verb} in place"),
        Condition::Native { verb, done: false, .. } => format!("has nothing left of {verb}"),
        Condition::Paused { database, paused: true } => format!("holds clients of {database} back"),
        Condition::Paused { database, paused: false } => format!("lets clients of {database} go on"),
        Condition::Routed { database, to } => format!("leads {database} to {to}"),
        Condition::RouteWritten { database, to } => format!("has {to} written as route of {database}"),
        Condition::Answers => "answers".to_owned(),
        Condition::Running { running: true } => "runs".to_owned(),
        Condition::Running { running: false } => "does not run".to_owned(),
    }
}

/// Where a primary is: the name of a facility or a member.
pub fn place(at: &PrimaryPlace) -> &str {
    match at {
        PrimaryPlace::Facility(facility) => facility.as_str(),
        PrimaryPlace::Member(member) => member,
    }
}

/// Servers of backends: `orderform/west-app1 and orderform/west-app2`.
pub fn servers(backends: &BackendServers) -> String {
    list(backends.iter().flat_map(|(backend, names)| names.iter().map(move |name| format!("{backend}/{name}"))))
}

/// `a, b and c`.
pub fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
