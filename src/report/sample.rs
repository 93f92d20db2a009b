//! An invented installation for tests: two facilities that serve, a third one without targets.

#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Admission, AppServer, BackendFacts, Conditional, Database, Facility, FacilityName, FacilityState, Facts, Failback,
    HealthCheck, Job, JobFacts, Lineage, Live, Member, MemberCapabilities, MemberFacts, NameServer, NameServerFacts,
    Observed, Operational, Peak, Percent, Policy, PoolFacts, PoolMode, Pooler, PoolerFacts, Position, Power,
    PrimaryPlace, Proxy, ProxyCapabilities, ProxyFacts, ProxyServerFacts, Rate, RecordKey, RecordSet, RecordType,
    ReplicaFacts, ReplicationMode, Role, Route, ServerFacts, ServerSetting, Service, Settings, Span, SwitchoverStyle,
    Target, TargetId, TargetKind, Zone,
};
use crate::topology::Topology;

fn target(id: TargetId, kind: TargetKind, facility: &str, address: &str) -> Arc<Target> {
    let (facility, address) = (facility.into(), address.to_owned());
    Arc::new(Target { id, kind, facility, provider: "any".into(), address, settings: Settings::default(), host: None })
}

fn both<T>(make: impl Fn(&str, &str) -> Vec<T>) -> Vec<T> {
    [("west", "10"), ("east", "20")].into_iter().flat_map(|(facility, net)| make(facility, net)).collect()
}

pub fn topology() -> Topology {
    let facility = |name: &str| Facility {
        name: name.into(),
        location: None,
        state: FacilityState::Active,
        power: Power::default(),
        uplinks: Vec::new(),
        cooling: None,
        fence: None,
        withdraw: None,
    };
    let zone: crate::model::ZoneName = "clickbank.example".into();
    let servers = both(|facility, net| {
        ["ns1", "ns2"]
            .map(|name| {
                let name = format!("{facility}-{name}");
                let id = TargetId::name_server(&zone, &name);
                let target = target(id, TargetKind::NameServer, facility, &format!("10.{net}.0.53:53"));
                (name, NameServer { target, updates: true, transfers_from: None })
            })
            .to_vec()
    });
    let proxies = both(|facility, net| {
        ["lb1", "lb2"]
            .map(|name| {
                let name = format!("{facility}-{name}");
                let target = target(TargetId::proxy(&name), TargetKind::Proxy, facility, &format!("10.{net}.0.80:80"));
                (name, Proxy { target, backends: BTreeMap::new() })
            })
            .to_vec()
    });
    let service = |name: &str, host: &str| Service {
        name: name.into(),
        hostnames: [(format!("{host}.clickbank.example"), zone.clone())].into(),
        ttl: Span::secs(30),
        addresses: both(|facility, net| {
            let addresses = [80, 81].map(|last| format!("10.{net}.0.{last}").parse().unwrap());
            vec![(FacilityName::new(facility), addresses.into())]
        })
        .into_iter()
        .collect(),
        share: both(|facility, _| vec![(FacilityName::new(facility), Percent::whole(50))]).into_iter().collect(),
        backend: name.into(),
        servers: both(|facility, net| {
            ["app1", "app2"]
                .map(|server| {
                    let server = format!("{facility}-{server}");
                    let id = TargetId::server(&name.into(), &server);
                    let target = target(id, TargetKind::Server, facility, &format!("10.{net}.0.91:8080"));
                    (server, AppServer { target, capacity: Some(Rate(800)) })
                })
                .to_vec()
        })
        .into_iter()
        .collect(),
        peak: Some(Peak { rate: Rate(1_200), measured: None }),
        health: HealthCheck { path: "/health".to_owned(), expect: 200, host: String::new() },
        writes_to: BTreeSet::new(),
        reads_from: BTreeSet::new(),
    };
    let database = |name: &str, number: u32| Database {
        name: name.into(),
        primary: PrimaryPlace::Facility("west".into()),
        members: both(|facility, net| {
            let member = format!("{facility}-pg{number}");
            let address = format!("10.{net}.0.100:543{}", number + 1);
            let target = target(TargetId::member(&name.into(), &member), TargetKind::Member, facility, &address);
            vec![(member, Member { target, priority: 100, follows: None })]
        })
        .into_iter()
        .collect(),
        mode: ReplicationMode::Asynchronous,
        confirmed_by: None,
        max_lag: Span::secs(1),
        poolers: ["west-pool1".to_owned(), "east-pool1".to_owned()].into(),
        direct: Vec::new(),
        route: Route::PoolerDatabase(name.into()),
        failback: Failback::Manual,
    };
    let poolers = both(|facility, net| {
        let name = format!("{facility}-pool1");
        let id = TargetId::pooler(&name);
        vec![(
            name,
            Pooler {
                target: target(id, TargetKind::Pooler, facility, &format!("10.{net}.0.110:6432")),
                egress: Vec::new(),
            },
        )]
    });
    let billing = Job {
        target: target(TargetId::job(&"billing".into()), TargetKind::Job, "west", ""),
        name: "billing".into(),
        writes_to: BTreeSet::from(["accounts".into()]),
    };
    Topology {
        name: "clickbank".to_owned(),
        facilities: ["west", "east", "haven"].map(|name| (name.into(), facility(name))).into(),
        zones: [(zone.clone(), Zone { name: zone.clone(), servers: servers.into_iter().collect() })].into(),
        proxies: proxies.into_iter().collect(),
        services: [("orderform", "pay"), ("hoplinks", "hop"), ("website", "www")]
            .map(|(name, host)| (name.into(), service(name, host)))
            .into(),
        databases: [("accounts", 1), ("products", 2)]
            .map(|(name, number)| (name.into(), database(name, number)))
            .into(),
        poolers: poolers.into_iter().collect(),
        hosts: BTreeMap::new(),
        host_fences: BTreeMap::new(),
        jobs: [("billing".into(), billing)].into(),
        vantages: BTreeMap::new(),
        units: BTreeMap::new(),
        policy: policy(),
        operator: None,
        store: crate::topology::StoreKind::default(),
        digest: "4f3a91c2d7e8".to_owned(),
    }
}

fn policy() -> Policy {
    Policy {
        min_active_facilities: 1,
        headroom: Percent::whole(20),
        stages: vec![Percent::FULL],
        soak: Span::secs(30),
        gates: crate::model::GateLimits {
            max_error_rate: Percent::whole(1),
            max_replication_lag: Span::secs(1),
            max_queue: 50,
            min_sample: 20,
        },
        drain_deadline: Span::secs(600),
        drain_then: crate::model::DrainThen::Leave,
        max_write_stall: Span::secs(2),
        dns_recovery_target: Span::secs(300),
        max_transaction_age: Span::secs(5),
        hold_down: Span::secs(15),
        settle: Span::secs(600),
        plan_expiry: Span::secs(86_400),
        parallel_switchovers: 3,
        windows: Vec::new(),
        freezes: Vec::new(),
        shed: Vec::new(),
    }
}

/// Everything in order, west with `west` requests per second and weights of each server, the primaries where `primary` says.
pub fn live(topology: &Topology, west: u32, primary: &str) -> Live {
    let mut live = Live::new();
    let mut say = |id: &TargetId, facts: Facts| {
        live.insert(id.clone(), Observed::Known { value: facts, took: Duration::from_millis(3) });
    };
    for server in topology.zones.values().flat_map(|zone| zone.servers.values()) {
        let sets = topology.services.values().map(|service| {
            let name = service.hostnames.keys().next().unwrap().clone();
            let serving = service.addresses.iter().filter(|(facility, _)| west > 0 || facility.as_str() == "east");
            let data = serving.flat_map(|(_, addresses)| addresses.iter().copied()).collect();
            (RecordKey { name, rtype: RecordType::A }, Some(RecordSet { ttl: 30, data }))
        });
        let facts = NameServerFacts {
            serial: 2_026_112_301,
            primary_name: "west-ns1".to_owned(),
            sets: sets.collect(),
            conditional: Conditional::RecordSet,
            rejects_key: None,
            epoch: None,
            epoch_fault: None,
        };
        say(&server.target.id, Facts::NameServer(facts));
    }
    for proxy in topology.proxies.values() {
        let backends = topology.services.values().map(|service| {
            let servers = service.servers.iter().map(|(name, server)| {
                let weight = if server.target.facility.as_str() == "west" { west } else { 100 };
                let admission = if weight == 0 { Admission::Maint } else { Admission::Ready };
                let facts = ProxyServerFacts {
                    address: server.target.address.clone(),
                    setting: ServerSetting { weight, admission },
                    operational: Operational::Up,
                    down_for: None,
                    sessions: 4,
                    queue: 0,
                    requests: 100_000,
                    rate: u64::from(weight),
                    responses: BTreeMap::new(),
                    errors: 0,
                };
                (name.as_str().into(), facts)
            });
            (service.backend.clone(), Some(BackendFacts { servers: servers.collect(), ..BackendFacts::default() }))
        });
        let capabilities = ProxyCapabilities {
            max_weight: 256,
            zero_drains: true,
            cuts_sessions: true,
            closes_frontends: true,
            persistent: true,
        };
        let facts = ProxyFacts {
            version: "HAProxy 2.6.12".to_owned(),
            age: Duration::from_secs(86_400),
            writable: true,
            connections: Some(0),
            closed: BTreeSet::new(),
            backends: backends.collect(),
            capabilities,
            saved: crate::model::Saved::Yes,
        };
        say(&proxy.target.id, Facts::Proxy(facts));
    }
    for server in topology.services.values().flat_map(|service| service.servers.values()) {
        let facts = ServerFacts { healthy: true, status: 200, latency: Duration::from_millis(2) };
        say(&server.target.id, Facts::Server(facts));
    }
    for database in topology.databases.values() {
        for (name, member) in &database.members {
            let is_primary = member.target.facility.as_str() == primary;
            let role = if is_primary { Role::Primary } else { Role::Replica };
            let others =
                database.members.keys().filter(|other| is_primary && *other != name).map(|other| ReplicaFacts {
                    name: other.replace('-', "_"),
                    address: None,
                    streaming: true,
                    synchronous: database.name.as_str() == "accounts",
                    lag_bytes: 0,
                    lag: Some(Duration::from_millis(12)),
                    silence: None,
                });
            let mut facts = member_facts(role, others.collect());
            facts.receives_from = database.members.keys().find(|other| !is_primary && *other != name).cloned();
            say(&member.target.id, Facts::Member(Box::new(facts)));
        }
    }
    for pooler in topology.poolers.values() {
        let databases = topology.databases.values().map(|database| {
            let member = database.members.values().find(|member| member.target.facility.as_str() == primary).unwrap();
            let pool = PoolFacts {
                route: member.target.address.clone(),
                written_route: Some(member.target.address.clone()),
                mode: PoolMode::Transaction,
                paused: false,
                pausing: false,
                active: 4,
                waiting: 0,
                own_min_size: 0,
                servers: BTreeSet::new(),
            };
            (database.name.as_str().into(), Some(pool))
        });
        let facts = PoolerFacts {
            version: "PgBouncer 1.18.0".to_owned(),
            writable: true,
            query_wait_timeout: Duration::from_secs(120),
            login_retry: Duration::from_secs(1),
            gaps: Vec::new(),
            databases: databases.collect(),
        };
        say(&pooler.target.id, Facts::Pooler(facts));
    }
    say(&TargetId::job(&"billing".into()), Facts::Job(JobFacts { running: west > 0 }));
    live
}

pub fn member_facts(role: Role, replicas: Vec<ReplicaFacts>) -> MemberFacts {
    MemberFacts {
        version: "PostgreSQL 15.18".to_owned(),
        role,
        lineage: Lineage { system: "7301".to_owned(), timeline: 3 },
        position: Position::Lsn(1),
        replayed: Position::Lsn(1),
        replay_paused: false,
        receives_from: None,
        receiver: None,
        set_to_follow: None,
        replicas,
        slots: Vec::new(),
        synchronous_names: String::new(),
        clients: Vec::new(),
        long_transactions: Vec::new(),
        settings: BTreeMap::new(),
        archive_backlog: 0,
        capabilities: MemberCapabilities { switchover: SwitchoverStyle::Phased, rewind: true, no_control: None },
        history: Vec::new(),
        diverged: None,
    }
}
