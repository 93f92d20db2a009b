//! The status as data for programs: what JSON and Prometheus are written from. `docs/json.md` describes it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::observer::{Observer, Shares};
use super::verdict;
use super::view::{ExitLevel, HeldView, Mark, Problem, StatusView};
use crate::model::text::same_member;
use crate::model::{
    Database, FacilityName, Facts, Live, MemberFacts, Observed, Percent, Role, ServiceName, Target, TargetId,
};
use crate::plan::split::Split;
use crate::report::json;
use crate::topology::Topology;

/// The share of each facility that should be, by service.
pub type DesiredShares = BTreeMap<ServiceName, BTreeMap<FacilityName, Percent>>;

/// The whole status.
#[derive(Clone, Debug, Serialize)]
pub struct StatusData {
    pub(super) observed_at: Timestamp,
    pub(super) observation_seconds: f64,
    pub(super) verdict: ExitLevel,
    pub(super) exit_code: u8,
    summary: String,
    pub(super) topology: TopologyData,
    pub(super) facilities: Vec<FacilityData>,
    tiers: Vec<TierData>,
    pub(super) services: Vec<ServiceData>,
    pub(super) databases: Vec<DatabaseData>,
    pub(super) poolers: Vec<PoolerData>,
    pub(super) jobs: Vec<JobData>,
    pub(super) targets: Vec<TargetData>,
    pub(super) holds: Vec<HeldView>,
    pub(super) problems: Vec<Problem>,
    pub(super) splits: Vec<Split>,
    pub(super) drift: Vec<String>,
    notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct TopologyData {
    pub name: String,
    digest: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct FacilityData {
    pub name: FacilityName,
    state: String,
    pub serving: bool,
    pub drained: bool,
    held: bool,
}

/// A tier in a facility, as people see it.
#[derive(Clone, Debug, Serialize)]
struct TierData {
    tier: &'static str,
    /// Zone, service or database; empty where the tier is shown as one.
    name: String,
    facility: FacilityName,
    lines: Vec<LineData>,
}

#[derive(Clone, Debug, Serialize)]
struct LineData {
    mark: Mark,
    text: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ServiceData {
    pub name: ServiceName,
    /// `requests` of the last second, `weights` where there are too few, `unknown` where no proxy answers.
    basis: &'static str,
    pub facilities: Vec<ShareData>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ShareData {
    pub facility: FacilityName,
    pub share_percent: Option<f64>,
    pub desired_share_percent: Option<f64>,
    pub requests_per_second: Option<u64>,
    pub servers: usize,
    pub healthy: usize,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct DatabaseData {
    pub name: String,
    /// The primary, where there is exactly one.
    primary: Option<String>,
    pub primaries: usize,
    pub max_lag_seconds: f64,
    pub members: Vec<MemberData>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct MemberData {
    pub name: String,
    pub facility: FacilityName,
    /// None where it does not answer.
    pub role: Option<Role>,
    timeline: Option<u32>,
    /// Of a replica, as the only primary sees it.
    #[serde(flatten)]
    pub replica: Option<ReplicaData>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ReplicaData {
    pub streaming: bool,
    pub synchronous: bool,
    pub lag_seconds: Option<f64>,
    pub lag_bytes: Option<u64>,
    replay_paused: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct PoolerData {
    pub name: String,
    pub facility: FacilityName,
    pub databases: Vec<PoolData>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct PoolData {
    pub name: String,
    route: String,
    pub paused: bool,
    pub clients_active: u64,
    pub clients_waiting: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct JobData {
    pub name: String,
    pub facility: FacilityName,
    pub running: Option<bool>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct TargetData {
    pub target: TargetId,
    pub kind: &'static str,
    pub facility: FacilityName,
    address: String,
    pub reachable: bool,
    pub answer_seconds: Option<f64>,
    /// Where it does not answer: why, what was tried, and what can be done.
    why: Option<String>,
    tried: Option<String>,
    advice: Option<String>,
    /// Where it does not answer: what is known from before.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
}

impl StatusData {
    /// The status as data. `desired` are the shares that should be, where the policy allows any; `took` is the time of the observation
    /// that ended at `at`.
    pub fn new(
        view: &StatusView,
        topology: &Topology,
        live: &Live,
        desired: Option<&DesiredShares>,
        at: Timestamp,
        took: Duration,
    ) -> Self {
        let mut tiers = Vec::new();
        for row in &view.rows {
            for (column, cell) in view.columns.iter().zip(&row.cells).filter(|(_, cell)| !cell.is_empty()) {
                let lines = cell.iter().map(|(mark, text)| LineData { mark: *mark, text: text.clone() }).collect();
                let (name, facility) = (row.name.clone(), column.facility.clone());
                tiers.push(TierData { tier: row.tier, name, facility, lines });
            }
        }
        let facilities = view.columns.iter().map(|column| FacilityData {
            name: column.facility.clone(),
            state: column.state.clone(),
            serving: column.serving,
            drained: column.drained,
            held: column.held,
        });
        let mut jobs = Vec::new();
        for job in topology.jobs.values() {
            let running = facts(live, &job.target).and_then(Facts::job).map(|facts| facts.running);
            jobs.push(JobData { name: job.name.to_string(), facility: job.target.facility.clone(), running });
        }
        Self {
            observed_at: at,
            observation_seconds: took.as_secs_f64(),
            verdict: view.level,
            exit_code: view.level.exit_code(),
            summary: verdict(view).draw(false),
            topology: TopologyData { name: topology.name.clone(), digest: topology.digest.clone() },
            facilities: facilities.collect(),
            tiers,
            services: services(topology, live, desired),
            databases: topology.databases.values().map(|database| self::database(database, live)).collect(),
            poolers: poolers(topology, live),
            jobs,
            targets: topology.targets().map(|target| self::target(target, live, view)).collect(),
            holds: view.holds.clone(),
            problems: view.problems.clone(),
            splits: view.splits.clone(),
            drift: view.drift.clone(),
            notes: view.notes.clone(),
        }
    }

    /// As one JSON object on one line.
    pub fn json(&self) -> String {
        json::answer("status", self)
    }
}

fn facts<'a>(live: &'a Live, target: &Target) -> Option<&'a Facts> {
    live.get(&target.id).and_then(Observed::known)
}

fn percent(share: Percent) -> f64 {
    f64::from(share.basis_points()) / 100.0
}

fn services(topology: &Topology, live: &Live, desired: Option<&DesiredShares>) -> Vec<ServiceData> {
    let mut observer = Observer::new(topology, live, &[]);
    let mut services = Vec::new();
    for service in topology.services.values() {
        let shares = observer.shares(service);
        let mut facilities = Vec::new();
        for facility in topology.facilities.keys() {
            let here = service.servers.values().filter(|server| server.target.facility == *facility);
            let healthy: Vec<bool> = here
                .map(|server| facts(live, &server.target).and_then(Facts::server).is_some_and(|facts| facts.healthy))
                .collect();
            if healthy.is_empty() {
                continue;
            }
            let (share, rate) = match &shares {
                Shares::Measured(rates) => {
                    let rate = rates.get(facility).copied().unwrap_or_default();
                    (Some(Percent::ratio(rate, rates.values().sum())), Some(rate))
                }
                Shares::Weights(shares) => (Some(shares.get(facility).copied().unwrap_or_default()), None),
                Shares::Unknown => (None, None),
            };
            let desired = desired.and_then(|desired| desired.get(&service.name));
            facilities.push(ShareData {
                facility: facility.clone(),
                share_percent: share.map(percent),
                desired_share_percent: desired.map(|shares| percent(shares.get(facility).copied().unwrap_or_default())),
                requests_per_second: rate,
                servers: healthy.len(),
                healthy: healthy.iter().filter(|healthy| **healthy).count(),
            });
        }
        let basis = match shares {
            Shares::Measured(_) => "requests",
            Shares::Weights(_) => "weights",
            Shares::Unknown => "unknown",
        };
        services.push(ServiceData { name: service.name.clone(), basis, facilities });
    }
    services
}

fn database(database: &Database, live: &Live) -> DatabaseData {
    let members: Vec<(&str, &Target, Option<&MemberFacts>)> = database
        .members
        .values()
        .map(|member| (member.target.name(), &*member.target, facts(live, &member.target).and_then(Facts::member)))
        .collect();
    let primaries: Vec<(&str, &MemberFacts)> = members
        .iter()
        .filter_map(|(name, _, facts)| facts.filter(|facts| facts.role == Role::Primary).map(|facts| (*name, facts)))
        .collect();
    let only = match primaries.as_slice() {
        [one] => Some(*one),
        _ => None,
    };
    let member = |(name, target, facts): (&str, &Target, Option<&MemberFacts>)| {
        let replica = facts.filter(|facts| facts.role == Role::Replica).map(|facts| {
            let seen = only.and_then(|(_, primary)| primary.replicas.iter().find(|seen| same_member(&seen.name, name)));
            ReplicaData {
                streaming: seen.is_some_and(|seen| seen.streaming),
                synchronous: seen.is_some_and(|seen| seen.synchronous),
                // A replica that has caught up reports no time.
                lag_seconds: seen.filter(|seen| seen.streaming).map(|seen| seen.lag.unwrap_or_default().as_secs_f64()),
                lag_bytes: seen.filter(|seen| seen.streaming).map(|seen| seen.lag_bytes),
                replay_paused: facts.replay_paused,
            }
        });
        MemberData {
            name: name.to_owned(),
            facility: target.facility.clone(),
            role: facts.map(|facts| facts.role),
            timeline: facts.map(|facts| facts.lineage.timeline),
            replica,
        }
    };
    DatabaseData {
        name: database.name.to_string(),
        primary: only.map(|(name, _)| name.to_owned()),
        primaries: primaries.len(),
        max_lag_seconds: database.max_lag.0.as_secs_f64(),
        members: members.into_iter().map(member).collect(),
    }
}

fn poolers(topology: &Topology, live: &Live) -> Vec<PoolerData> {
    let pooler = |pooler: &crate::model::Pooler| {
        let known = facts(live, &pooler.target).and_then(Facts::pooler);
        let pools = known.into_iter().flat_map(|facts| &facts.databases);
        let databases = pools.filter_map(|(name, pool)| {
            let pool = pool.as_ref()?;
            Some(PoolData {
                name: name.to_string(),
                route: pool.route.clone(),
                paused: pool.paused,
                clients_active: pool.active,
                clients_waiting: pool.waiting,
            })
        });
        PoolerData {
            name: pooler.target.name().to_owned(),
            facility: pooler.target.facility.clone(),
            databases: databases.collect(),
        }
    };
    topology.poolers.values().map(pooler).collect()
}

fn target(target: &Target, live: &Live, view: &StatusView) -> TargetData {
    let (answer_seconds, unreachable) = match live.get(&target.id) {
        Some(Observed::Known { took, .. }) => (Some(took.as_secs_f64()), None),
        Some(Observed::Unreachable(unreachable)) => (None, Some(unreachable)),
        None => (None, None),
    };
    TargetData {
        target: target.id.clone(),
        kind: target.kind.word(),
        facility: target.facility.clone(),
        address: target.address.clone(),
        reachable: answer_seconds.is_some(),
        answer_seconds,
        why: unreachable.map(|unreachable| unreachable.why.clone()),
        tried: unreachable.map(|unreachable| unreachable.tried.clone()),
        advice: unreachable.and_then(|unreachable| unreachable.advice.clone()),
        last_seen: view.last_seen.get(&target.id).cloned(),
    }
}
