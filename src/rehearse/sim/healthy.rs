//! What would be observed of a topology where everything is as it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::*;
use crate::plan::{self, Refusal};
use crate::topology::Topology;

fn known(facts: Facts) -> Observed<Facts> {
    Observed::Known { value: facts, took: Duration::from_millis(20) }
}

/// The facts of every target.
///
/// # Errors
/// Why the topology itself cannot be had, such as a service that no facility serves.
pub(super) fn live(topology: &Topology) -> Result<Live, Vec<Refusal>> {
    let nothing = Live::new();
    let wanted = plan::desired::desired(topology, &plan::Intent::default(), &[], &nothing)?;
    let live = plan::scopes(topology)
        .into_iter()
        .filter_map(|(id, (target, scope))| {
            let facts = match scope {
                Scope::Records(keys) => Facts::NameServer(name_server(&id, &keys, &wanted)?),
                Scope::Backends(_) => Facts::Proxy(proxy(topology, topology.proxies.get(id.name())?, &wanted)),
                Scope::Health(_) => {
                    Facts::Server(ServerFacts { healthy: true, status: 200, latency: Duration::from_millis(1) })
                }
                Scope::Member => Facts::Member(Box::new(member(topology, &target, &wanted)?)),
                Scope::PoolerDatabases(names) => Facts::Pooler(pooler(topology, &names, &wanted)),
                Scope::Job => Facts::Job(JobFacts { running: true }),
                Scope::Reach(_) => Facts::Vantage(VantageFacts::default()),
            };
            Some((id, known(facts)))
        })
        .collect();
    Ok(live)
}

fn name_server(id: &TargetId, keys: &BTreeSet<RecordKey>, wanted: &plan::Desired) -> Option<NameServerFacts> {
    // A zone that no service has a name in is observed all the same.
    let records = wanted.records.get(&ZoneName::new(id.scope()?));
    Some(NameServerFacts {
        serial: 1,
        primary_name: id.name().to_owned(),
        sets: keys
            .iter()
            .map(|key| (key.clone(), records.and_then(|records| records.get(key)).cloned().flatten()))
            .collect(),
        conditional: Conditional::RecordSet,
        rejects_key: None,
        epoch: None,
        epoch_fault: None,
    })
}

fn proxy(topology: &Topology, declared: &Proxy, wanted: &plan::Desired) -> ProxyFacts {
    let capabilities = ProxyCapabilities {
        max_weight: 256,
        zero_drains: true,
        cuts_sessions: true,
        closes_frontends: true,
        persistent: false,
    };
    let backends = topology
        .services
        .values()
        .filter_map(|service| {
            let participants = plan::live::participants(service);
            let weights = plan::weights::weights(wanted.shares.get(&service.name)?, &participants, 256);
            let address =
                |name: &ForeignName| service.servers.get(name.as_str()).map(|server| server.target.address.clone());
            let server = |name: &ForeignName, weight: u32| ProxyServerFacts {
                address: address(name).unwrap_or_default(),
                setting: ServerSetting { weight, admission: Admission::Ready },
                operational: Operational::Up,
                down_for: None,
                sessions: 0,
                queue: 0,
                requests: 0,
                rate: 0,
                responses: BTreeMap::new(),
                errors: 0,
            };
            let servers = weights.iter().map(|(name, weight)| (name.clone(), server(name, *weight))).collect();
            let name = plan::backend_of(declared, service).clone();
            Some((name, Some(BackendFacts { servers, ..BackendFacts::default() })))
        })
        .collect();
    ProxyFacts {
        version: "simulated".to_owned(),
        age: Duration::from_secs(9),
        writable: true,
        connections: Some(0),
        closed: Default::default(),
        backends,
        capabilities,
        saved: Saved::No,
    }
}

/// The member that should be primary: the first of those that may be.
fn primary<'a>(database: &'a Database, wanted: &plan::Desired) -> Option<&'a Member> {
    database.members.get(wanted.primaries.get(&database.name)?.first()?.name())
}

/// A replica that streams, as its primary sees it.
pub fn replica(name: &str, synchronous: bool) -> ReplicaFacts {
    ReplicaFacts {
        name: name.to_owned(),
        address: None,
        streaming: true,
        synchronous,
        lag_bytes: 0,
        lag: Some(Duration::from_millis(10)),
        silence: None,
    }
}

/// A slot that nobody uses at this moment.
pub fn slot(name: &str) -> SlotFacts {
    SlotFacts { name: name.to_owned(), logical: false, active: false, retained_bytes: 0 }
}

fn member(topology: &Topology, target: &Target, wanted: &plan::Desired) -> Option<MemberFacts> {
    let database = topology.databases.get(target.id.scope()?)?;
    let home = primary(database, wanted)?;
    let is_primary = home.target.id == target.id;
    let synchronous = database.mode == ReplicationMode::Synchronous;
    let others: Vec<&str> =
        database.members.keys().map(String::as_str).filter(|name| *name != home.target.id.name()).collect();
    Some(MemberFacts {
        version: "simulated".to_owned(),
        role: if is_primary { Role::Primary } else { Role::Replica },
        lineage: Lineage { system: database.name.to_string(), timeline: 1 },
        position: Position::Lsn(100),
        replayed: Position::Lsn(100),
        replay_paused: false,
        receives_from: (!is_primary).then(|| home.target.address.clone()),
        receiver: None,
        set_to_follow: (!is_primary).then(|| home.target.address.clone()),
        replicas: if is_primary { others.iter().map(|name| replica(name, synchronous)).collect() } else { Vec::new() },
        slots: if is_primary { others.iter().map(|name| slot(name)).collect() } else { Vec::new() },
        synchronous_names: if is_primary && synchronous {
            format!("FIRST 1 (\"{}\")", others.join("\", \""))
        } else {
            String::new()
        },
        clients: Vec::new(),
        long_transactions: Vec::new(),
        settings: BTreeMap::new(),
        archive_backlog: 0,
        capabilities: MemberCapabilities { switchover: SwitchoverStyle::Phased, rewind: true, no_control: None },
        history: Vec::new(),
        diverged: None,
    })
}

fn pooler(topology: &Topology, names: &BTreeSet<ForeignName>, wanted: &plan::Desired) -> PoolerFacts {
    let pool = |name: &ForeignName| {
        let of_name = |database: &&Database| database.route == Route::PoolerDatabase(name.clone());
        // Most entries have their database's name.
        let namesake = topology.databases.get(name.as_str()).filter(of_name);
        let database = namesake.or_else(|| topology.databases.values().find(of_name))?;
        let route = primary(database, wanted)?.target.address.clone();
        let written_route = Some(route.clone());
        Some(PoolFacts {
            route,
            written_route,
            mode: PoolMode::Transaction,
            paused: false,
            pausing: false,
            active: 0,
            waiting: 0,
            own_min_size: 0,
            servers: BTreeSet::new(),
        })
    };
    PoolerFacts {
        version: "simulated".to_owned(),
        writable: true,
        query_wait_timeout: Duration::from_secs(120),
        login_retry: Duration::from_secs(1),
        gaps: Vec::new(),
        databases: names.iter().map(|name| (name.clone(), pool(name))).collect(),
    }
}
