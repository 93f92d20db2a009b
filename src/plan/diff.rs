//! The difference between what is and what should be: the only diff there is. Pure.

mod confirmed;
mod dns;
mod returned;
mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::shares::movements;
use super::desired::{Desired, OutBecause, Refusal};
use super::epoch::EpochChange;
use super::followers;
use super::live;
use super::lost::failover::Failover;
use super::lost::returned::Rebuild;
use super::split;
use super::weights::Participant;
use crate::model::{
    Admission, DatabaseName, FacilityName, ForeignName, FromTo, JobName, Lineage, Live, Member, MemberFacts, Peer,
    Percent, RecordKey, RecordSet, Role, Route, ServerSetting, ServiceName, TargetId, TargetKind, ZoneName,
};
use crate::topology::Topology;

/// Record sets that differ at one server that can be changed.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordsChange {
    /// The zone.
    pub zone: ZoneName,
    /// The server.
    pub server: TargetId,
    /// The record sets.
    pub sets: BTreeMap<RecordKey, FromTo<Option<RecordSet>>>,
}

/// A service whose share differs, at proxies that are set alike.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareChange {
    /// The proxies, each with the name of the service's backend there.
    pub at: Vec<(TargetId, ForeignName)>,
    /// The service.
    pub service: ServiceName,
    /// Its servers; alike at every proxy.
    pub participants: Arc<BTreeMap<ForeignName, Participant>>,
    /// How they are set now.
    pub settings: Arc<BTreeMap<ForeignName, ServerSetting>>,
    /// Shares now and wanted.
    pub shares: FromTo<BTreeMap<FacilityName, Percent>>,
    /// The servers' admission that is wanted; alike at every proxy.
    pub admissions: Arc<BTreeMap<ForeignName, Admission>>,
    /// The proxies' largest weight.
    pub max_weight: u32,
}

/// A proxy that is set as it should be, and would not be after a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct SaveChange {
    /// The proxy.
    pub proxy: TargetId,
    /// The backends that differ in what is saved, or all.
    pub backends: BTreeSet<ForeignName>,
    /// What is saved instead, as a fragment.
    pub why: String,
}

/// A database whose primary is not where it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct PrimaryChange {
    /// The database.
    pub database: DatabaseName,
    /// The present primary.
    pub from: Peer,
    /// Its history.
    pub lineage: Lineage,
    /// The candidate.
    pub to: Peer,
    /// Why it and no other, where there was a choice.
    pub why: Option<String>,
}

/// A job that does not run though it should, or the other way round.
#[derive(Clone, Debug, PartialEq)]
pub struct JobChange {
    /// The job.
    pub job: JobName,
    /// It.
    pub target: TargetId,
    /// True if it should run.
    pub run: bool,
}

/// A pooler that leads elsewhere than to the primary, which stays where it is, or that holds clients back.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteChange {
    /// The pooler.
    pub pooler: TargetId,
    /// Its name for the database.
    pub database: ForeignName,
    /// What is written in its configuration, and what should be.
    pub written: FromTo<String>,
    /// What is loaded, and what should be.
    pub loaded: FromTo<String>,
    /// The primary that it should lead to.
    pub primary: TargetId,
    /// True if clients wait there: somebody has paused it, or a switchover that was cut short.
    pub paused: bool,
}

/// A database whose primary stays where it is and lacks followers, as after a switchover that was cut short.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowChange {
    /// The database.
    pub database: DatabaseName,
    /// Its primary.
    pub primary: Peer,
    /// The members that do not follow whom they should and can, each with whom.
    pub members: BTreeMap<TargetId, Peer>,
    /// Those among them that become replicas anew.
    pub rebuild: BTreeMap<TargetId, Rebuild>,
    /// The names that commits wait for, now and wanted.
    pub synchronous: FromTo<String>,
}

/// All differences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Of DNS.
    pub records: Vec<RecordsChange>,
    /// Of proxies.
    pub shares: Vec<ShareChange>,
    /// Of what proxies find after a reload; those with other changes are saved with them.
    pub saves: Vec<SaveChange>,
    /// Of databases, by their names in order.
    pub primaries: Vec<PrimaryChange>,
    /// Of jobs.
    pub jobs: Vec<JobChange>,
    /// Databases whose primary is lost.
    pub failovers: Vec<Failover>,
    /// Of poolers.
    pub routes: Vec<RouteChange>,
    /// Of replication.
    pub follows: Vec<FollowChange>,
    /// Of what is published of who is in charge.
    pub epoch: Option<EpochChange>,
    /// Targets that did not answer and need not: of facilities that are out.
    pub silent: Vec<String>,
    /// Differences that are left as they are for now, and why.
    pub postponed: Vec<String>,
}

impl Changes {
    /// True if nothing differs.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.shares.is_empty()
            && self.saves.is_empty()
            && self.primaries.is_empty()
            && self.failovers.is_empty()
            && self.jobs.is_empty()
            && self.routes.is_empty()
            && self.follows.is_empty()
            && self.epoch.is_none()
    }

    /// The move of a database's primary.
    pub fn primary_of(&self, database: &DatabaseName) -> Option<&PrimaryChange> {
        let at = self.primaries.binary_search_by(|change| change.database.cmp(database));
        at.ok().and_then(|index| self.primaries.get(index))
    }

    /// One line for each thing that differs, sorted, for `status`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for change in &self.records {
            for (key, set) in &change.sets {
                lines.push(format!(
                    "{key} at {} is {}, should be {}",
                    change.server.name(),
                    crate::model::text::record_set(set.from.as_ref()),
                    crate::model::text::record_set(set.to.as_ref())
                ));
            }
        }
        for change in &self.shares {
            for (proxy, _) in &change.at {
                lines.push(format!(
                    "share of {} at {} is {}, should be {}",
                    change.service,
                    proxy.name(),
                    shares_text(&change.shares.from),
                    shares_text(&change.shares.to)
                ));
            }
        }
        for change in &self.saves {
            lines.push(format!("{}: {}", change.proxy.name(), change.why));
        }
        for change in &self.primaries {
            lines.push(format!(
                "primary of {} is {}, should be {}",
                change.database,
                change.from.member.name(),
                change.to.member.name()
            ));
        }
        for change in &self.failovers {
            lines.push(format!(
                "primary of {} is lost ({}), should be {}",
                change.database,
                change.from.member.name(),
                change.to.member.name()
            ));
        }
        for change in &self.jobs {
            let (is, should) = if change.run { ("does not run", "should") } else { ("runs", "should not") };
            lines.push(format!("job {} {is}, {should}", change.job));
        }
        for change in &self.routes {
            if change.paused {
                lines.push(format!("{} is paused at {}, clients wait", change.database, change.pooler.name()));
            }
            if change.written.from == change.written.to && change.loaded.from == change.loaded.to {
                continue;
            }
            lines.push(format!(
                "route of {} at {} is {}, should be {}",
                change.database,
                change.pooler.name(),
                change.loaded.from,
                change.loaded.to
            ));
        }
        for change in &self.follows {
            let database = &change.database;
            for (member, rebuild) in &change.rebuild {
                lines.push(format!("{} of {database} must be rebuilt: {}", member.name(), rebuild.why));
            }
            let simply = change.members.iter().filter(|(member, _)| !change.rebuild.contains_key(*member));
            for (member, upstream) in simply {
                lines.push(format!("{} of {database} does not follow {}", member.name(), upstream.member.name()));
            }
            if change.synchronous.from != change.synchronous.to {
                let from = if change.synchronous.from.is_empty() { "nobody" } else { &change.synchronous.from };
                lines.push(format!("commits of {database} wait for {from}, should wait for {}", change.synchronous.to));
            }
        }
        lines.extend(self.epoch.iter().flat_map(EpochChange::lines));
        lines.sort();
        lines
    }
}

/// `west 45%, east 55%`.
pub fn shares_text(shares: &BTreeMap<FacilityName, Percent>) -> String {
    let shares: Vec<String> = shares.iter().map(|(facility, share)| format!("{facility} {share}")).collect();
    shares.join(", ")
}

/// Compares. A target that did not answer is a refusal, never taken for absent.
///
/// # Errors
/// Everything that could not be compared.
pub fn diff(topology: &Topology, desired: &Desired, live: &Live) -> (Changes, Vec<Refusal>) {
    let mut diff = Diff { topology, desired, live, changes: Changes::default(), refusals: Vec::new() };
    diff.unreachable();
    diff.records();
    diff.shares();
    diff.databases();
    diff.jobs();
    diff.refusals.sort();
    diff.refusals.dedup();
    diff.changes.postponed.sort();
    diff.changes.postponed.dedup();
    (diff.changes, diff.refusals)
}

struct Diff<'a> {
    topology: &'a Topology,
    desired: &'a Desired,
    live: &'a Live,
    changes: Changes,
    refusals: Vec<Refusal>,
}

impl Diff<'_> {
    fn refuse(&mut self, what: String, advice: impl Into<String>) {
        self.refusals.push(Refusal::new(what, advice));
    }

    fn unreachable(&mut self) {
        let dead = self.dead();
        for target in self.topology.targets() {
            let Err(why) = live::facts(self.live, &target.id) else { continue };
            let lost = self.desired.lost.contains(target);
            let spared = lost
                || match (target.kind, self.desired.out.get(&target.facility)) {
                    // Capacity counts only servers that are healthy.
                    (TargetKind::Server, _) => true,
                    // It may run, and write to a database that moves.
                    (TargetKind::Job, out) => !matches!(out, None | Some(OutBecause::Flag)),
                    // What is out, or on its way out, may be dead: that may be why. Switchovers have their own preflight.
                    (_, out) => out.is_some(),
                };
            if lost {
                // A hold says what is owed there.
            } else if spared {
                self.changes.silent.push(format!("{} does not answer and is left alone: {why}", target.id));
            } else if let Some(count) = dead.get(&target.facility) {
                self.refusals.push(Refusal::new(
                    format!("nothing in {} answers: none of {count} targets", target.facility),
                    format!(
                        "planned work needs every target to answer: repair it; if {f} is lost, `handover plan --lost {f}` goes on without it",
                        f = target.facility
                    ),
                ));
            } else {
                self.refusals.push(Refusal::new(
                    format!("no answer from {}: {why}", target.id),
                    "planned work needs every target to answer: repair it, or correct its entry in the topology",
                ));
            }
        }
    }

    /// Facilities of which nothing answers, and how many targets they have: at least so many that it is no accident.
    fn dead(&self) -> BTreeMap<FacilityName, usize> {
        const SOME: usize = 3;
        let mut counts: BTreeMap<&FacilityName, (usize, bool)> = BTreeMap::new();
        for target in self.topology.targets() {
            let (count, answers) = counts.entry(&target.facility).or_default();
            *count += 1;
            *answers |= live::facts(self.live, &target.id).is_ok();
        }
        let dead = counts.into_iter().filter(|(_, (count, answers))| *count >= SOME && !answers);
        dead.map(|(facility, (count, _))| (facility.clone(), count)).collect()
    }

    fn databases(&mut self) {
        for database in self.topology.databases.values() {
            let name = &database.name;
            let answered = database.members.values().all(|m| live::member(self.live, &m.target.id).is_some());
            let found = live::primaries(database, self.live);
            let wish = self.desired.primaries.get(name).map(Vec::as_slice).unwrap_or_default();
            let primary = match found.as_slice() {
                [one] => (*one).clone(),
                [] if !answered || database.members.values().any(|m| self.desired.lost.contains(&m.target)) => continue,
                [] => {
                    let stands =
                        |m: &&Member| live::member(self.live, &m.target.id).is_some_and(|it| it.role == Role::Stopped);
                    let stopped: Vec<&str> =
                        database.members.values().filter(stands).map(|m| m.target.name()).collect();
                    let advice = match stopped.as_slice() {
                        [old] => format!("{old} does not run: start it, or go on without it: `handover plan --lost {old}`"),
                        _ => "look at its members' logs; promote one by hand only if you are sure that no other takes writes"
                            .to_owned(),
                    };
                    self.refuse(format!("no member of {name} is primary"), advice);
                    continue;
                }
                several => match split::chief(database, several, self.desired, self.live) {
                    Some(chief) => chief.clone(),
                    // That is asked for, with what each side has: `split::questions`.
                    None => continue,
                },
            };
            let peer = |id: &TargetId| {
                let member = database.members.get(id.name())?;
                Some(Peer { member: id.clone(), address: member.target.address.clone() })
            };
            let (Some(from), Some(facts)) = (peer(&primary), live::member(self.live, &primary)) else { continue };
            if wish.is_empty() {
                self.refuse(
                    format!(
                        "no member of {name} may be primary: all are in facilities that are out, or have priority 0"
                    ),
                    "restore a facility that holds one, or give one a priority",
                );
            } else if wish.contains(&primary) {
                self.routes(database, &from);
                self.follows(database, &from, facts);
            } else {
                match super::candidate::choose(database, wish, &primary, &facts.lineage, self.live) {
                    Ok(choice) => {
                        if let Some(to) = peer(&choice.member) {
                            let (database, lineage, why) = (name.clone(), facts.lineage.clone(), choice.why);
                            self.changes.primaries.push(PrimaryChange { database, from, lineage, to, why });
                        }
                    }
                    Err(why) => {
                        self.refuse(format!("no member of {name} can take over: {why}"), "repair replication first")
                    }
                }
            }
        }
    }

    fn routes(&mut self, database: &crate::model::Database, primary: &Peer) {
        let Route::PoolerDatabase(entry) = &database.route else { return };
        for name in &database.poolers {
            let Some(pooler) = self.topology.poolers.get(name) else { continue };
            let Some(pool) = live::pool(self.live, &pooler.target.id, entry) else { continue };
            let written = pool.written_route.as_ref().unwrap_or(&pool.route);
            // A pause of ours does not outlive its section: whoever waits here waits for nothing.
            let paused = pool.paused || pool.pausing;
            if paused || pool.route != primary.address || *written != primary.address {
                let change = |from: &String| FromTo { from: from.clone(), to: primary.address.clone() };
                self.changes.routes.push(RouteChange {
                    pooler: pooler.target.id.clone(),
                    database: entry.clone(),
                    written: change(written),
                    loaded: change(&pool.route),
                    primary: primary.member.clone(),
                    paused,
                });
            }
        }
    }

    /// Members that stand aside, and commits that wait for nobody though they should.
    fn follows(&mut self, database: &crate::model::Database, primary: &Peer, facts: &MemberFacts) {
        let known = |address: &String| database.members.values().any(|member| member.target.address == *address);
        let replicates = |peer: &Peer| {
            live::member(self.live, &peer.member).is_some_and(|sender| match sender.role {
                Role::Fenced => true,
                // One that receives and is on another timeline does not replay: whoever followed it would get no further.
                Role::Replica => sender.receives_from.is_none() || sender.lineage == facts.lineage,
                Role::Primary | Role::Stopped => false,
            })
        };
        let aside = |id: &TargetId| {
            let facts = live::member(self.live, id)?;
            // Two that receive from one another would receive nothing.
            let around = |peer: &Peer| followers::receives_through(database, &peer.member, id, self.live);
            let wanted =
                followers::wanted(database, id, &primary.member).filter(replicates).filter(|peer| !around(peer));
            match (facts.role, &facts.receives_from, &wanted) {
                // Where the topology names nobody, a replica may follow another replica.
                (Role::Replica, Some(from), None) if known(from) => None,
                (Role::Replica, Some(from), Some(wanted)) if *from == wanted.address => None,
                (Role::Fenced | Role::Replica, ..) => Some(wanted.unwrap_or_else(|| primary.clone())),
                _ => None,
            }
        };
        // What was stopped with its facility is started with it.
        let on = |member: &&Member| !self.desired.powered_off.contains_key(&member.target.facility);
        let ids = database.members.values().filter(on).map(|member| &member.target.id);
        let mut members: BTreeMap<TargetId, Peer> = ids.filter_map(|id| Some((id.clone(), aside(id)?))).collect();
        let (rebuild, left) = self.returned(database, primary, facts);
        members.retain(|id, _| !left.contains(id));
        members.extend(rebuild.keys().map(|id| (id.clone(), primary.clone())));
        let from = facts.synchronous_names.clone();
        let others: Vec<&str> = database
            .members
            .values()
            .filter(on)
            .map(|it| it.target.name())
            .filter(|name| *name != primary.member.name())
            .collect();
        let to = self.wanted_names(database, primary, facts, &others, &members);
        if from != to || !members.is_empty() {
            let synchronous = FromTo { from, to };
            let (database, primary) = (database.name.clone(), primary.clone());
            self.changes.follows.push(FollowChange { database, primary, members, rebuild, synchronous });
        }
    }

    fn jobs(&mut self) {
        for job in self.topology.jobs.values() {
            let Ok(Some(facts)) = live::facts(self.live, &job.target.id).map(crate::model::Facts::job) else {
                continue;
            };
            let run = self.desired.jobs.get(&job.name).copied().unwrap_or(facts.running);
            if facts.running != run {
                self.changes.jobs.push(JobChange { job: job.name.clone(), target: job.target.id.clone(), run });
            }
        }
    }
}
