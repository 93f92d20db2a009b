//! What came back after a loss serves again only once all of it follows, has caught up, and has been well for a while. Pure.

use std::time::Duration;

use super::known::Known;
use crate::model::text::list;
use crate::model::{Database, FacilityName, Live, Member, ReplicationMode, Role, Span, TargetKind};
use crate::plan::desired::Refusal;
use crate::plan::intent::{HoldKind, Intent};
use crate::plan::overrides::GateName;
use crate::plan::{followers, live};
use crate::topology::Topology;

/// Why facilities that came back after a loss cannot be restored yet.
pub(in crate::plan) fn refusals(
    topology: &Topology,
    intent: &Intent,
    holds: &[HoldKind],
    live: &Live,
    known: &Known,
) -> Vec<Refusal> {
    if intent.overrides.contains_key(&GateName::Settle) {
        return Vec::new();
    }
    let settling = holds.iter().filter_map(|hold| match hold {
        HoldKind::Settling { facility } if intent.restore.contains(facility) => Some(facility),
        _ => None,
    });
    let refusal = |facility: &FacilityName| {
        let why: Vec<String> = unsettled(topology, facility, live, known).collect();
        (!why.is_empty()).then(|| {
            Refusal::new(
                format!("{facility} came back after a loss and has not settled: {}", list(why)),
                format!("wait for it, then plan again; or --override {} --reason TEXT", GateName::Settle),
            )
        })
    };
    settling.filter_map(refusal).collect()
}

/// What is not yet as it must be, as fragments.
fn unsettled(topology: &Topology, facility: &FacilityName, live: &Live, known: &Known) -> impl Iterator<Item = String> {
    let time = match well(topology, facility, known) {
        None => Some("the run that did what was owed there has not ended well".to_owned()),
        Some(well) => topology.policy.settle.0.checked_sub(well).filter(|left| !left.is_zero()).map(|left| {
            format!(
                "everything there answers since {}, and `policy.settle` asks for {}: {} more",
                seconds(well),
                topology.policy.settle,
                seconds(left + Duration::from_millis(999))
            )
        }),
    };
    let databases = topology.databases.values().filter_map(move |database| redundancy(database, facility, live));
    time.into_iter().chain(databases)
}

fn seconds(time: Duration) -> Span {
    Span::secs(time.as_secs())
}

/// For how long everything there has answered whoever asked, since what was owed there was done; none where it is not yet.
fn well(topology: &Topology, facility: &FacilityName, known: &Known) -> Option<Duration> {
    let counts = |kind: TargetKind| {
        matches!(kind, TargetKind::NameServer | TargetKind::Proxy | TargetKind::Member | TargetKind::Pooler)
    };
    let here = topology.targets().filter(|target| target.facility == *facility && counts(target.kind));
    let quiet = here.filter_map(|target| known.quiet.get(&target.id));
    quiet.chain([known.returned.get(facility)?]).min().copied()
}

/// What keeps a database with a member there from being as safe as before.
fn redundancy(database: &Database, facility: &FacilityName, live: &Live) -> Option<String> {
    let here: Vec<&Member> = database.members.values().filter(|member| member.target.facility == *facility).collect();
    if here.is_empty() {
        return None;
    }
    let name = &database.name;
    let Some(primary) = live::primary(database, live) else { return Some(format!("{name} has not one primary")) };
    let facts = live::member(live, &primary)?;
    let behind = here.into_iter().find_map(|member| {
        let id = &member.target.id;
        let why = match live::member(live, id) {
            _ if *id == primary => return None,
            None => "does not answer".to_owned(),
            Some(found) if found.role != Role::Replica => format!("is {}", found.role),
            Some(found) => {
                let sender = followers::upstream(database, found).and_then(|peer| live::member(live, &peer.member));
                let seen = sender.and_then(|sender| followers::replica(sender, id.name()));
                format!("does not keep up: {}", followers::unfit(found, seen, facts, database.max_lag)?)
            }
        };
        Some(format!("{} {why}", id.name()))
    });
    let unconfirmed = database.mode == ReplicationMode::Synchronous && !facts.replicas.iter().any(|it| it.synchronous);
    behind.or_else(|| unconfirmed.then(|| format!("commits of {name} wait for no replica")))
}
