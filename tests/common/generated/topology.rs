//! A random topology, as the text that a user would write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use handover::model::Percent;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{divided, pick};

/// The facilities that serve users, at most.
const FACILITIES: [&str; 4] = ["a", "b", "c", "d"];

/// The one that serves nobody.
const WITNESS: &str = "w";

/// What a random topology has.
#[derive(Clone, Debug)]
pub struct Sketch {
    facilities: usize,
    witness: bool,
    operator: bool,
    zones: Vec<Zone>,
    /// Proxies in each facility.
    proxies: Vec<usize>,
    services: Vec<Service>,
    databases: Vec<Database>,
    /// The facility of each pooler.
    poolers: Vec<usize>,
    jobs: Vec<Job>,
    policy: Policy,
}

#[derive(Clone, Debug)]
struct Zone {
    /// The facility of each server that takes updates.
    updatable: Vec<usize>,
    /// The facility of each further server, and whom it is transferred from.
    others: Vec<(usize, usize)>,
}

#[derive(Clone, Debug)]
struct Service {
    zones: Vec<usize>,
    ttl: usize,
    /// Facilities without servers of it.
    without: BTreeSet<usize>,
    servers: Vec<usize>,
    parts: Vec<u32>,
    /// What each server can serve, and the peak in percent of all that.
    capacity: Option<(u32, u32)>,
    /// Called otherwise at the first proxy of each facility.
    renamed: bool,
}

#[derive(Clone, Debug)]
struct Database {
    members: Vec<Member>,
    primary: usize,
    /// The file names the facility, not the member.
    by_facility: bool,
    confirmed_by: Option<usize>,
    synchronous: bool,
    poolers: Vec<usize>,
    automatic: bool,
}

#[derive(Clone, Debug)]
struct Member {
    facility: usize,
    priority: usize,
    follows: Option<usize>,
}

#[derive(Clone, Debug)]
struct Job {
    facility: usize,
    writes_to: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Policy {
    min_active: usize,
    headroom: u32,
    stages: usize,
    at_once: u32,
    recovery: usize,
    cut: bool,
}

prop_compose! {
    fn zones()(updatable in vec(0usize..4, 1..=3), others in vec((0usize..5, 0usize..4), 0..=2)) -> Zone {
        Zone { updatable, others }
    }
}

prop_compose! {
    fn services()(
        zones in vec(0usize..2, 1..=2),
        ttl in 0usize..3,
        without in prop_oneof![
            3 => Just(BTreeSet::new()),
            1 => proptest::collection::btree_set(1usize..4, 0..=2),
        ],
        servers in vec(1usize..=3, 4),
        parts in vec(0u32..=10, 4),
        capacity in prop::option::weighted(0.7, (1u32..=9, 1u32..=30)),
        renamed in prop::bool::weighted(0.1),
    ) -> Service {
        Service { zones, ttl, without, servers, parts, capacity, renamed }
    }
}

prop_compose! {
    fn members()(
        facility in 0usize..5,
        priority in prop_oneof![4 => Just(0usize), 1 => 1usize..4],
        follows in prop::option::weighted(0.2, 0usize..4),
    ) -> Member {
        Member { facility, priority, follows }
    }
}

prop_compose! {
    fn databases()(
        members in vec(members(), 2..=5),
        primary in 0usize..5,
        by_facility in any::<bool>(),
        synchronous in any::<bool>(),
        confirmed_by in prop::option::weighted(0.4, 0usize..2),
        poolers in vec(0usize..4, 1..=3),
        automatic in prop::bool::weighted(0.3),
    ) -> Database {
        Database { members, primary, by_facility, confirmed_by, synchronous, poolers, automatic }
    }
}

prop_compose! {
    fn policies()(
        min_active in prop_oneof![5 => Just(1usize), 1 => Just(2usize)],
        headroom in prop::sample::select(vec![0u32, 20]),
        stages in 0usize..4,
        at_once in 1u32..=3,
        recovery in 0usize..2,
        cut in any::<bool>(),
    ) -> Policy {
        Policy { min_active, headroom, stages, at_once, recovery, cut }
    }
}

prop_compose! {
    /// Any topology that the language allows, within these sizes.
    pub fn sketches()(
        facilities in 2usize..=4,
        witness in any::<bool>(),
        operator in prop::bool::weighted(0.1),
        zones in vec(zones(), 1..=2),
        proxies in vec(2usize..=3, 4),
        services in prop_oneof![1 => Just(Vec::new()), 15 => vec(services(), 1..=3)],
        databases in vec(databases(), 0..=3),
        poolers in vec(0usize..5, 1..=4),
        jobs in vec(
            (0usize..4, vec(0usize..3, 0..=2)).prop_map(|(facility, writes_to)| Job { facility, writes_to }),
            0..=2,
        ),
        policy in policies(),
    ) -> Sketch {
        Sketch { facilities, witness, operator, zones, proxies, services, databases, poolers, jobs, policy }
    }
}

impl Sketch {
    fn facilities(&self) -> Vec<&'static str> {
        FACILITIES[..self.facilities].to_vec()
    }

    /// Those where servers that serve no users may stand.
    fn everywhere(&self) -> Vec<&'static str> {
        let mut all = self.facilities();
        all.extend(self.witness.then_some(WITNESS));
        all
    }

    /// Some facility that serves users.
    fn at(&self, index: usize) -> &'static str {
        FACILITIES[index % self.facilities]
    }

    /// Some facility.
    fn anywhere(&self, index: usize) -> &'static str {
        pick(&self.everywhere(), index).copied().unwrap_or(WITNESS)
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = "topology: 1\nname: any\nfacilities:\n".to_owned();
        for facility in self.everywhere() {
            line(&mut text, format!("  {facility}: {{}}"));
        }
        if !self.services.is_empty() {
            self.write_edge(&mut text);
        }
        self.write_data(&mut text);
        let Policy { headroom, at_once, cut, .. } = self.policy;
        let serving = |facility: &usize| self.services.iter().any(|service| !service.without.contains(facility));
        let min_active = (0..self.facilities).filter(serving).count().clamp(1, self.policy.min_active);
        let stages = ["[100%]", "[50%, 100%]", "[10%, 50%, 100%]", "[1%, 100%]"][self.policy.stages];
        let recovery = ["5m", "1s"][self.policy.recovery];
        let then = if cut { "cut" } else { "leave" };
        line(&mut text, "policy:".to_owned());
        line(&mut text, format!("  min_active_facilities: {min_active}"));
        line(&mut text, format!("  headroom: {headroom}%"));
        line(&mut text, format!("  shift: {{stages: {stages}, soak: 100ms}}"));
        line(&mut text, format!("  drain_deadline: {{after: 1s, then: {then}}}"));
        line(&mut text, format!("  parallel_switchovers: {at_once}"));
        line(&mut text, format!("  dns_recovery_target: {recovery}"));
        if self.witness && self.operator {
            line(&mut text, format!("operator: {{runs_in: {WITNESS}}}"));
        }
        text
    }

    fn write_edge(&self, text: &mut String) {
        line(text, "zones:".to_owned());
        for (zone, Zone { updatable, others }) in self.zones.iter().enumerate() {
            line(text, format!("  z{zone}.test:\n    servers:"));
            for (index, facility) in updatable.iter().enumerate() {
                let at = self.at(*facility);
                line(
                    text,
                    format!(
                        "      z{zone}-ns{index}: {{facility: {at}, address: \"10.0.{zone}.{index}:53\", updates: true}}"
                    ),
                );
            }
            for (other, (facility, source)) in others.iter().enumerate() {
                let (at, index) = (self.anywhere(*facility), updatable.len() + other);
                line(
                    text,
                    format!(
                        "      z{zone}-ns{index}: {{facility: {at}, address: \"10.0.{zone}.{index}:53\", transfers_from: z{zone}-ns{}}}",
                        source % index
                    ),
                );
            }
        }
        line(text, "proxies:".to_owned());
        for (facility, name) in self.facilities().into_iter().enumerate() {
            for proxy in 0..self.proxies[facility] {
                let renamed = self.services.iter().enumerate().filter(|(_, service)| service.renamed && proxy == 0);
                let renamed: Vec<String> = renamed.map(|(index, _)| format!("s{index}: other-s{index}")).collect();
                let backends =
                    if renamed.is_empty() { String::new() } else { format!(", backends: {{{}}}", renamed.join(", ")) };
                line(
                    text,
                    format!(
                        "  {name}-lb{proxy}: {{facility: {name}, address: \"10.1.{facility}.{proxy}:80\"{backends}}}"
                    ),
                );
            }
        }
        line(text, "services:".to_owned());
        for (index, service) in self.services.iter().enumerate() {
            self.write_service(text, index, service);
        }
    }

    fn write_service(&self, text: &mut String, index: usize, service: &Service) {
        let here: Vec<usize> = (0..self.facilities).filter(|facility| !service.without.contains(facility)).collect();
        let zones: BTreeSet<usize> = service.zones.iter().map(|zone| zone % self.zones.len()).collect();
        let names: Vec<String> = zones.iter().map(|zone| format!("s{index}.z{zone}.test")).collect();
        let addresses = |facility: &usize| {
            let all: Vec<String> =
                (0..self.proxies[*facility]).map(|proxy| format!("10.1.{facility}.{proxy}")).collect();
            format!("{}: [{}]", FACILITIES[*facility], all.join(", "))
        };
        let parts: Vec<u32> = here.iter().map(|facility| service.parts[*facility]).collect();
        let shares = here.iter().zip(divided(&parts));
        let shares: Vec<String> = shares
            .map(|(facility, points)| format!("{}: {}", FACILITIES[*facility], Percent::from_basis_points(points)))
            .collect();
        let addresses: Vec<String> = here.iter().map(addresses).collect();
        line(text, format!("  s{index}:"));
        line(text, format!("    hostnames: [{}]", names.join(", ")));
        line(text, format!("    ttl: {}s", [1, 2, 4][service.ttl]));
        line(text, format!("    addresses: {{{}}}", addresses.join(", ")));
        line(text, format!("    share: {{{}}}", shares.join(", ")));
        line(text, "    servers:".to_owned());
        let mut servers = 0;
        for facility in &here {
            for server in 0..service.servers[*facility] {
                let capacity =
                    service.capacity.map(|(rate, _)| format!(", capacity: {rate}00 rps")).unwrap_or_default();
                let name = FACILITIES[*facility];
                line(
                    text,
                    format!(
                        "      {name}-app{server}: {{facility: {name}, address: \"10.2.{facility}.{server}:808{index}\"{capacity}}}"
                    ),
                );
                servers += 1;
            }
        }
        if let Some((rate, percent)) = service.capacity {
            line(text, format!("    peak: {{rate: {} rps}}", servers * rate * percent));
        }
        line(text, "    health: {path: /health}".to_owned());
        if !self.databases.is_empty() {
            line(text, format!("    writes_to: [d{}]", index % self.databases.len()));
        }
    }

    fn write_data(&self, text: &mut String) {
        if !self.databases.is_empty() {
            line(text, "databases:".to_owned());
        }
        for (index, database) in self.databases.iter().enumerate() {
            self.write_database(text, index, database);
        }
        line(text, "poolers:".to_owned());
        for (index, facility) in self.poolers.iter().enumerate() {
            let at = self.anywhere(*facility);
            line(text, format!("  p{index}: {{facility: {at}, address: \"10.4.0.{index}:6432\", host: h}}"));
        }
        line(text, "hosts: {h: {transport: local}}".to_owned());
        if !self.jobs.is_empty() {
            line(text, "jobs:".to_owned());
        }
        for (index, job) in self.jobs.iter().enumerate() {
            let all = job.writes_to.iter().filter_map(|database| database.checked_rem(self.databases.len()));
            let all: BTreeSet<String> = all.map(|database| format!("d{database}")).collect();
            let all: Vec<String> = all.into_iter().collect();
            let at = self.at(job.facility);
            line(text, format!("  j{index}: {{runs_in: {at}, host: h, writes_to: [{}]}}", all.join(", ")));
        }
    }

    fn write_database(&self, text: &mut String, index: usize, database: &Database) {
        let Database { members, synchronous, confirmed_by, .. } = database;
        let home = database.primary % members.len();
        let primary = match database.by_facility {
            true => self.anywhere(members[home].facility).to_owned(),
            false => format!("d{index}-m{home}"),
        };
        line(text, format!("  d{index}:\n    primary: {primary}\n    members:"));
        for (number, member) in members.iter().enumerate() {
            // Somebody must be able to be primary at home.
            let priority = [100, 50, 200, 0][member.priority];
            let priority = if number == home { priority.max(50) } else { priority };
            let mut more = if priority == 100 { String::new() } else { format!(", priority: {priority}") };
            if let Some(upstream) = member.follows.filter(|_| number > 0) {
                let _ = write!(more, ", follows: d{index}-m{}", upstream % number);
            }
            let at = self.anywhere(member.facility);
            line(
                text,
                format!(
                    "      d{index}-m{number}: {{facility: {at}, address: \"10.3.{index}.{number}:5432\", host: h{more}}}"
                ),
            );
        }
        let replication = match (synchronous, confirmed_by) {
            (false, _) => "mode: asynchronous".to_owned(),
            (true, None) => "mode: synchronous".to_owned(),
            (true, Some(count)) => format!("mode: synchronous, confirmed_by: {}", 1 + count.min(&(members.len() - 2))),
        };
        line(text, format!("    replication: {{{replication}}}"));
        let poolers: BTreeMap<usize, String> = database
            .poolers
            .iter()
            .map(|pooler| pooler % self.poolers.len())
            .map(|pooler| (pooler, format!("p{pooler}")))
            .collect();
        let poolers: Vec<String> = poolers.into_values().collect();
        line(text, format!("    poolers: [{}]", poolers.join(", ")));
        if database.automatic {
            line(text, "    failback: automatic".to_owned());
        }
    }
}

fn line(text: &mut String, line: String) {
    text.push_str(&line);
    text.push('\n');
}
