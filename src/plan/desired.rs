//! What should be: the topology with what flags and holds override. Precedence: flag, then hold, then file; and a facility that is found
//! wholly drained stays so until somebody restores it.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{HoldKind, Intent};
use super::live::{self, backend_of};
use crate::model::{
    DatabaseName, FacilityName, FacilityState, Failback, ForeignName, JobName, Live, Percent, PrimaryPlace, RecordKey,
    RecordSet, RecordType, Scope, Service, ServiceName, Target, TargetId, ZoneName,
};
use crate::topology::Topology;
use std::sync::Arc;

/// Why a plan is not made: what, and what the operator can do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// One sentence that names the things concerned.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl Refusal {
    /// A refusal with advice.
    pub fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: advice.into() }
    }
}

/// Why a facility is out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutBecause {
    /// A flag of this plan.
    Flag,
    /// A hold of an earlier run.
    Hold,
    /// The topology says so.
    File,
    /// It was found so, and nobody asked for its return.
    Found,
}

/// What should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Facilities that serve users.
    pub serving: BTreeSet<FacilityName>,
    /// Facilities that could serve but should not, and why.
    pub out: BTreeMap<FacilityName, OutBecause>,
    /// The share of each facility by service; sums to 100 %.
    pub shares: BTreeMap<ServiceName, BTreeMap<FacilityName, Percent>>,
    /// The record sets by zone; `None` means absent.
    pub records: BTreeMap<ZoneName, BTreeMap<RecordKey, Option<RecordSet>>>,
    /// Where each primary may be, best first; empty means: where it is.
    pub primaries: BTreeMap<DatabaseName, Vec<TargetId>>,
    /// Which jobs run.
    pub jobs: BTreeMap<JobName, bool>,
    /// Holds that the plan makes.
    pub holds: Vec<HoldKind>,
    /// Holds that it releases.
    pub releases: Vec<HoldKind>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// What is asked of each target for observing a topology: no more than planning needs.
pub fn scopes(topology: &Topology) -> BTreeMap<TargetId, (Arc<Target>, Scope)> {
    let mut keys: BTreeMap<&ZoneName, BTreeSet<RecordKey>> = BTreeMap::new();
    let mut databases: BTreeMap<&str, BTreeSet<ForeignName>> = BTreeMap::new();
    for service in topology.services.values() {
        for (key, zone) in record_keys(service) {
            keys.entry(zone).or_default().insert(key);
        }
    }
    for database in topology.databases.values() {
        if let crate::model::Route::PoolerDatabase(name) = &database.route {
            for pooler in &database.poolers {
                databases.entry(pooler).or_default().insert(name.clone());
            }
        }
    }
    let mut scopes = BTreeMap::new();
    let mut add = |target: &Arc<Target>, scope: Scope| {
        scopes.insert(target.id.clone(), (Arc::clone(target), scope));
    };
    for zone in topology.zones.values() {
        for server in zone.servers.values() {
            add(&server.target, Scope::Records(keys.get(&zone.name).cloned().unwrap_or_default()));
        }
    }
    for proxy in topology.proxies.values() {
        let backends = topology.services.values().map(|service| backend_of(proxy, service).clone()).collect();
        add(&proxy.target, Scope::Backends(backends));
    }
    for service in topology.services.values() {
        for server in service.servers.values() {
            add(&server.target, Scope::Health(service.health.clone()));
        }
    }
    for database in topology.databases.values() {
        for member in database.members.values() {
            add(&member.target, Scope::Member);
        }
    }
    for (name, pooler) in &topology.poolers {
        add(&pooler.target, Scope::PoolerDatabases(databases.get(name.as_str()).cloned().unwrap_or_default()));
    }
    for job in topology.jobs.values() {
        add(&job.target, Scope::Job);
    }
    scopes
}

/// The record sets that a service owns, each with its zone: both address types of every hostname.
fn record_keys(service: &Service) -> impl Iterator<Item = (RecordKey, &ZoneName)> {
    service.hostnames.iter().flat_map(|(name, zone)| {
        [RecordType::A, RecordType::Aaaa].map(|rtype| (RecordKey { name: name.clone(), rtype }, zone))
    })
}

/// Facilities that serve users when all is well; in a file of databases alone, those that hold one.
fn users_facilities(topology: &Topology) -> BTreeSet<FacilityName> {
    if topology.services.is_empty() {
        let members = topology.databases.values().flat_map(|database| database.members.values());
        return members.map(|member| member.target.facility.clone()).collect();
    }
    topology.services.values().flat_map(|service| service.share.keys().cloned()).collect()
}

/// What should be, all refusals at once.
///
/// # Errors
/// Contradictory or impossible wishes.
pub fn desired(topology: &Topology, intent: &Intent, holds: &[HoldKind], live: &Live) -> Result<Desired, Vec<Refusal>> {
    let mut refusals = Vec::new();
    let users = users_facilities(topology);
    let mut wanted = Desired {
        serving: BTreeSet::new(),
        out: BTreeMap::new(),
        shares: BTreeMap::new(),
        records: BTreeMap::new(),
        primaries: BTreeMap::new(),
        jobs: BTreeMap::new(),
        holds: Vec::new(),
        releases: Vec::new(),
        notes: Vec::new(),
    };
    for facility in intent.drain.intersection(&intent.restore) {
        refusals.push(Refusal::new(format!("{facility} is to be drained and restored at once"), "choose one"));
    }
    for facility in intent.drain.difference(&users) {
        if topology.databases.values().all(|db| db.members.values().all(|m| m.target.facility != *facility)) {
            refusals.push(Refusal::new(
                format!("{facility} serves no users and holds no database: there is nothing to drain"),
                "leave it out",
            ));
        }
    }
    for facility in topology.facilities.values() {
        let name = &facility.name;
        let file_out = facility.state != FacilityState::Active;
        let held = holds.contains(&HoldKind::Drained { facility: name.clone() });
        if intent.restore.contains(name) && file_out {
            refusals.push(Refusal::new(
                format!("the topology itself says that {name} is {}", state_word(facility.state)),
                format!("change `facilities.{name}.state` to `active`, then run plan --restore {name}"),
            ));
        }
        let why = if intent.drain.contains(name) {
            Some(OutBecause::Flag)
        } else if intent.restore.contains(name) {
            None
        } else if held {
            Some(OutBecause::Hold)
        } else if file_out {
            Some(OutBecause::File)
        } else if users.contains(name) && live::wholly_drained(topology, live, name) {
            Some(OutBecause::Found)
        } else {
            None
        };
        match why {
            Some(why) => {
                wanted.note_out(name, &why);
                wanted.out.insert(name.clone(), why);
            }
            None if users.contains(name) => {
                wanted.serving.insert(name.clone());
            }
            None => {}
        }
    }
    if (wanted.serving.len() as u64) < u64::from(topology.policy.min_active_facilities) {
        refusals.push(Refusal::new(
            format!(
                "{} would serve, and the policy asks for at least {} active facilities",
                if wanted.serving.is_empty() {
                    "no facility".to_owned()
                } else {
                    crate::model::text::list(&wanted.serving)
                },
                topology.policy.min_active_facilities
            ),
            "restore another facility first",
        ));
    }
    wanted.fill_services(topology, &mut refusals);
    wanted.fill_databases(topology, intent, holds, live);
    for job in topology.jobs.values() {
        wanted.jobs.insert(job.name.clone(), !wanted.out.contains_key(&job.target.facility));
    }
    wanted.holds.extend(
        intent
            .drain
            .iter()
            .map(|facility| HoldKind::Drained { facility: facility.clone() })
            .filter(|h| !holds.contains(h)),
    );
    wanted.releases.extend(holds.iter().filter(|hold| released(hold, intent)).cloned());
    wanted.releases.sort();
    wanted.releases.dedup();
    if refusals.is_empty() { Ok(wanted) } else { Err(refusals) }
}

fn state_word(state: FacilityState) -> &'static str {
    match state {
        FacilityState::Active => "active",
        FacilityState::Drained => "drained",
        FacilityState::Lost => "lost",
    }
}

fn holds_primary(hold: &HoldKind, name: &DatabaseName) -> bool {
    matches!(hold, HoldKind::Primary { database, .. } if database == name)
}

fn released(hold: &HoldKind, intent: &Intent) -> bool {
    match hold {
        HoldKind::Drained { facility } => intent.restore.contains(facility),
        HoldKind::Primary { away_from, .. } => intent.failback && intent.restore.contains(away_from),
    }
}

impl Desired {
    fn note_out(&mut self, facility: &FacilityName, why: &OutBecause) {
        match why {
            OutBecause::Flag => {}
            OutBecause::Hold => self.notes.push(format!(
                "{facility} stays drained: an earlier run left a hold; `handover plan --restore {facility}` brings it back"
            )),
            OutBecause::File => self.notes.push(format!("{facility} stays out of service: the topology says so")),
            OutBecause::Found => self.notes.push(format!(
                "{facility} was found wholly drained and stays so; `handover plan --restore {facility}` brings it back"
            )),
        }
    }

    fn fill_services(&mut self, topology: &Topology, refusals: &mut Vec<Refusal>) {
        for service in topology.services.values() {
            let serving: BTreeMap<&FacilityName, Percent> = service
                .share
                .iter()
                .filter(|(facility, _)| self.serving.contains(*facility))
                .map(|(facility, share)| (facility, *share))
                .collect();
            let total: u32 = serving.values().map(|share| share.basis_points()).sum();
            if serving.is_empty() {
                refusals.push(Refusal::new(
                    format!("no facility that serves {} would be left", service.name),
                    "restore one of its facilities first",
                ));
                continue;
            }
            // Facilities that had no share before take over in equal parts where all the others are gone.
            let weight = |share: Percent| if total == 0 { 1 } else { share.basis_points() };
            let whole: u32 = serving.values().map(|share| weight(*share)).sum();
            let mut shares: BTreeMap<FacilityName, Percent> = service
                .share
                .keys()
                .map(|facility| {
                    let part = serving.get(facility).map_or(0, |share| weight(*share));
                    (facility.clone(), Percent::ratio(u64::from(part), u64::from(whole)))
                })
                .collect();
            give_rest_to_largest(&mut shares);
            self.shares.insert(service.name.clone(), shares);
            self.fill_records(service, refusals);
        }
    }

    fn fill_records(&mut self, service: &Service, refusals: &mut Vec<Refusal>) {
        let addresses: BTreeSet<std::net::IpAddr> = service
            .addresses
            .iter()
            .filter(|(facility, _)| self.serving.contains(*facility))
            .flat_map(|(_, addresses)| addresses.iter().copied())
            .collect();
        if addresses.is_empty() {
            refusals.push(Refusal::new(
                format!("the hostnames of {} would be left without an address", service.name),
                "give a facility that serves an entry under `addresses`",
            ));
            return;
        }
        let ttl = u32::try_from(service.ttl.0.as_secs()).unwrap_or(u32::MAX);
        for (key, zone) in record_keys(service) {
            let data: BTreeSet<_> =
                addresses.iter().copied().filter(|ip| ip.is_ipv4() == (key.rtype == RecordType::A)).collect();
            let set = (!data.is_empty()).then_some(RecordSet { ttl, data });
            self.records.entry(zone.clone()).or_default().insert(key, set);
        }
    }

    fn fill_databases(&mut self, topology: &Topology, intent: &Intent, holds: &[HoldKind], live: &Live) {
        for database in topology.databases.values() {
            let mut order: Vec<(&String, &crate::model::Member)> = database
                .members
                .iter()
                .filter(|(_, member)| member.priority > 0 && !self.out.contains_key(&member.target.facility))
                .collect();
            order.sort_by(|(a_name, a), (b_name, b)| b.priority.cmp(&a.priority).then_with(|| a_name.cmp(b_name)));
            let current = live::primary(database, live);
            let stays = current.as_ref().filter(|id| order.iter().any(|(_, member)| member.target.id == **id));
            let home = |member: &crate::model::Member, name: &String| match &database.primary {
                PrimaryPlace::Facility(facility) => member.target.facility == *facility,
                PrimaryPlace::Member(wanted) => name == wanted,
            };
            let at_home: Vec<TargetId> = order
                .iter()
                .filter(|(name, member)| home(member, name))
                .map(|(_, member)| member.target.id.clone())
                .collect();
            let returns_to = at_home.first().and_then(|id| {
                let facility = &database.members.get(id.name())?.target.facility;
                intent.restore.contains(facility).then(|| facility.clone())
            });
            let hold = holds.iter().find_map(|hold| match hold {
                HoldKind::Primary { member, .. } if holds_primary(hold, &database.name) && !released(hold, intent) => {
                    Some(member.clone())
                }
                _ => None,
            });
            let candidates: Vec<TargetId> = order.iter().map(|(_, member)| member.target.id.clone()).collect();
            if let Some(member) = &hold
                && !candidates.contains(member)
            {
                // The primary has to leave the member that the hold names: it must not be moved back there unasked later.
                self.releases.extend(holds.iter().filter(|kind| holds_primary(kind, &database.name)).cloned());
            }
            let wish = match (hold, stays, returns_to) {
                (Some(member), ..) if candidates.contains(&member) => vec![member],
                // A restored facility gets its primaries back only when that is asked for; a hold keeps them where they are.
                (_, Some(current), Some(facility))
                    if !at_home.contains(current) && !intent.failback && database.failback == Failback::Manual =>
                {
                    self.holds.push(HoldKind::Primary {
                        database: database.name.clone(),
                        member: current.clone(),
                        away_from: facility.clone(),
                    });
                    self.notes.push(format!(
                        "the primary of {} stays at {}; `handover plan --restore {facility} --failback` moves it back",
                        database.name,
                        current.name()
                    ));
                    vec![current.clone()]
                }
                _ if !at_home.is_empty() => at_home,
                (_, Some(current), _) => vec![current.clone()],
                _ => candidates,
            };
            self.primaries.insert(database.name.clone(), wish);
        }
    }
}

/// Makes shares that were rounded sum to 100 % again.
fn give_rest_to_largest(shares: &mut BTreeMap<FacilityName, Percent>) {
    let sum: u32 = shares.values().map(|share| share.basis_points()).sum();
    if let Some(largest) = shares.values_mut().max() {
        *largest = Percent::from_basis_points(largest.basis_points() + 10_000 - sum.min(10_000));
    }
}
