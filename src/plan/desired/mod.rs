//! What should be: the topology with what flags and holds override. Precedence: flag, then hold, then file; and a facility that is found
//! wholly drained stays so until somebody restores it.

mod holds;
mod primaries;
mod services;
mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::holds::Held;
pub(in crate::plan) use self::services::short_ttl;
use super::intent::{Depth, HoldKind, Intent, LetGo, LostThing, Shares};
use super::live::{self, backend_of};
use super::lost::evidence::Lost;
use super::lost::owed;
use super::operator;
use crate::model::{
    DatabaseName, FacilityName, FacilityState, ForeignName, JobName, Live, RecordKey, RecordSet, RecordType, Scope,
    Service, ServiceName, Span, Target, TargetId, ZoneName,
};
use crate::topology::Topology;

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
    /// It is lost, by a flag or a hold.
    Lost,
}

/// What should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Facilities that serve users.
    pub serving: BTreeSet<FacilityName>,
    /// Facilities that could serve but should not, and why.
    pub out: BTreeMap<FacilityName, OutBecause>,
    /// What is lost, by this plan or an earlier one.
    pub lost: Lost,
    /// What was lost and comes back with this plan.
    pub regained: Lost,
    /// What this plan's own flag says is lost.
    pub flagged: Lost,
    /// Which side of each split database survives, by this plan's own flag. Where something is lost, that flag chooses among replicas.
    pub survivors: BTreeMap<DatabaseName, String>,
    /// The share of each facility by service; sums to 100 %.
    pub shares: BTreeMap<ServiceName, Shares>,
    /// The record sets by zone; `None` means absent.
    pub records: BTreeMap<ZoneName, BTreeMap<RecordKey, Option<RecordSet>>>,
    /// How long resolvers may remember what an earlier plan changed and did not wait for; the plan waits for it.
    pub old_ttl: Option<Span>,
    /// Where each primary may be, best first; empty means: where it is.
    pub primaries: BTreeMap<DatabaseName, Vec<TargetId>>,
    /// Facilities whose servers are stopped at the end.
    pub power_down: BTreeSet<FacilityName>,
    /// Facilities whose servers are started first.
    pub power_up: BTreeSet<FacilityName>,
    /// Facilities whose servers were stopped by an earlier plan, and what was changed elsewhere for that.
    pub powered_off: BTreeMap<FacilityName, BTreeMap<DatabaseName, LetGo>>,
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

/// Contradictory or impossible wishes, as far as they can be found without looking at anything.
///
/// # Errors
/// All of them at once.
pub fn possible(topology: &Topology, intent: &Intent, holds: &[HoldKind]) -> Result<(), Vec<Refusal>> {
    desired(topology, intent, holds, &Live::new()).map(drop)
}

/// What should be, all refusals at once. Precedence: flag, then hold, then file.
///
/// # Errors
/// Contradictory or impossible wishes.
pub fn desired(topology: &Topology, intent: &Intent, holds: &[HoldKind], live: &Live) -> Result<Desired, Vec<Refusal>> {
    let mut refusals = Vec::new();
    let held = Held::new(topology, holds);
    let mut wanted = Desired {
        serving: BTreeSet::new(),
        out: BTreeMap::new(),
        lost: owed::still_lost(held.lost_beside(&intent.lost), &intent.lost, live),
        regained: Lost::default(),
        flagged: intent.lost.clone(),
        survivors: if intent.lost.is_empty() { intent.survivor.clone() } else { BTreeMap::new() },
        shares: BTreeMap::new(),
        records: BTreeMap::new(),
        old_ttl: None,
        primaries: BTreeMap::new(),
        power_down: BTreeSet::new(),
        power_up: BTreeSet::new(),
        powered_off: held.powered_off.clone(),
        jobs: BTreeMap::new(),
        holds: Vec::new(),
        releases: Vec::new(),
        notes: Vec::new(),
    };
    wanted.fill_facilities(topology, intent, &held, live, &mut refusals);
    refusals.extend(owed::refusals(intent, holds));
    refusals.extend(operator::needed(topology, intent).into_iter().map(|needed| needed.refusal));
    wanted.fill_services(topology, intent, &held, &mut refusals);
    wanted.fill_databases(topology, intent, &held, live, &mut refusals);
    for job in topology.jobs.values() {
        wanted.jobs.insert(job.name.clone(), !wanted.out.contains_key(&job.target.facility));
    }
    if intent.depth == Depth::Power {
        if intent.drain.is_empty() {
            refusals.push(Refusal::new("nothing is to be drained, and so nothing can be powered off", "add --drain F"));
        }
        wanted.power_down.clone_from(&intent.drain);
    }
    let back = held.powered_off.keys().filter(|name| intent.power_on.contains(*name));
    wanted.power_up = back.cloned().collect();
    let drained = intent.drain.iter().map(|facility| HoldKind::Drained { facility: facility.clone() });
    wanted.holds.extend(drained.filter(|hold| !held.has(hold)));
    wanted.old_ttl = held.old_ttl().filter(|_| wanted.waits_for_old_ttl(intent));
    wanted.fill_releases(topology, intent, &held);
    refusals.sort();
    refusals.dedup();
    if refusals.is_empty() { Ok(wanted) } else { Err(refusals) }
}

fn state_word(state: FacilityState) -> &'static str {
    match state {
        FacilityState::Active => "active",
        FacilityState::Drained => "drained",
        FacilityState::Lost => "lost",
    }
}

impl Desired {
    /// True if nothing may wait: something was just lost.
    pub fn urgent(&self) -> bool {
        !self.flagged.is_empty()
    }

    /// True if this plan's own flag says that this is lost.
    pub(super) fn flagged_as(&self, what: &LostThing) -> bool {
        match what {
            LostThing::Facility(facility) => self.flagged.facilities.contains(facility),
            LostThing::Target(target) => self.flagged.targets.contains(target),
        }
    }

    /// Who serves and who is out.
    fn fill_facilities(
        &mut self,
        topology: &Topology,
        intent: &Intent,
        held: &Held<'_>,
        live: &Live,
        refusals: &mut Vec<Refusal>,
    ) {
        let users = users_facilities(topology);
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
            if intent.restore.contains(name) && file_out {
                refusals.push(Refusal::new(
                    format!("the topology itself says that {name} is {}", state_word(facility.state)),
                    format!("change `facilities.{name}.state` to `active`, then run plan --restore {name}"),
                ));
            }
            let why = if self.lost.facilities.contains(name) {
                Some(OutBecause::Lost)
            } else if intent.drain.contains(name) {
                Some(OutBecause::Flag)
            } else if intent.restore.contains(name) {
                None
            } else if held.has(&HoldKind::Drained { facility: name.clone() }) {
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
                    self.note_out(name, &why);
                    self.out.insert(name.clone(), why);
                }
                None if users.contains(name) => {
                    self.serving.insert(name.clone());
                }
                None => {}
            }
        }
        self.bring_back_if_nothing_else_is_left(topology, intent, &users);
        // Where databases are all there is, nobody serves users.
        let serves = !topology.services.is_empty();
        if serves && !intent.lost.is_empty() && !self.serving.is_empty() {
            // The policy is for planned work.
        } else if serves && (self.serving.len() as u64) < u64::from(topology.policy.min_active_facilities) {
            refusals.push(Refusal::new(
                format!(
                    "{} would serve, and the policy asks for at least {} active facilities",
                    if self.serving.is_empty() {
                        "no facility".to_owned()
                    } else {
                        crate::model::text::list(&self.serving)
                    },
                    topology.policy.min_active_facilities
                ),
                "restore another facility first",
            ));
        }
    }

    /// A facility that was drained serves again where all others are lost: it is all that there is.
    fn bring_back_if_nothing_else_is_left(
        &mut self,
        topology: &Topology,
        intent: &Intent,
        users: &BTreeSet<FacilityName>,
    ) {
        if intent.lost.is_empty() || !self.serving.is_empty() || topology.services.is_empty() {
            return;
        }
        let drained = |why: &OutBecause| matches!(why, OutBecause::Hold | OutBecause::Found);
        let back: Vec<FacilityName> = self
            .out
            .iter()
            .filter(|(name, why)| users.contains(*name) && drained(why))
            .map(|(name, _)| name.clone())
            .collect();
        for name in back {
            self.out.remove(&name);
            self.notes.push(format!("{name} was drained and serves again: nothing else is left"));
            self.serving.insert(name);
        }
    }

    fn note_out(&mut self, facility: &FacilityName, why: &OutBecause) {
        match why {
            OutBecause::Flag | OutBecause::Lost => {}
            OutBecause::Hold => self.notes.push(format!(
                "{facility} stays drained: an earlier run left a hold; `handover plan --restore {facility}` brings it back"
            )),
            OutBecause::File => self.notes.push(format!("{facility} stays out of service: the topology says so")),
            OutBecause::Found => self.notes.push(format!(
                "{facility} was found wholly drained and stays so; `handover plan --restore {facility}` brings it back"
            )),
        }
    }

    /// Says that a hold of an earlier run is in force.
    fn note_hold(&mut self, hold: &HoldKind) {
        self.notes.push(format!("{}: an earlier run left a hold; `{}` ends it", hold.what(), hold.ended_by()));
    }

    /// Why nothing can be put into a facility that is out, and what to do about it; none if it is not.
    fn is_out(&self, facility: &FacilityName, what: &str) -> Option<Refusal> {
        let (why, advice) = match self.out.get(facility)? {
            OutBecause::Flag => ("is to be drained in the same plan", "choose one of the two".to_owned()),
            OutBecause::Hold => {
                ("stays drained by a hold", format!("add --restore {facility}, or choose another facility"))
            }
            OutBecause::File => (
                "is out of service by the topology",
                format!("change `facilities.{facility}.state` to `active`, or choose another facility"),
            ),
            OutBecause::Lost => ("is lost", "choose another facility".to_owned()),
            OutBecause::Found => {
                ("was found wholly drained", format!("add --restore {facility}, or choose another facility"))
            }
        };
        Some(Refusal::new(format!("{what}, and {facility} {why}"), advice))
    }
}
