//! Databases and the jobs that write to them, and repairs of routes and replication.

use std::collections::{BTreeMap, BTreeSet};

use super::{Order, union};
use crate::model::text::same_member;
use crate::model::{Action, Condition, Database, DatabaseName, Job, JobName, Role, Span, TargetId};
use crate::plan::build::{After, step};
use crate::plan::diff::{FollowChange, RouteChange};
use crate::plan::lost::returned;
use crate::plan::step::{Step, Work};
use crate::plan::{live, switchover};

impl Order<'_> {
    pub(super) fn databases(&mut self, needs: &After) -> After {
        let moved: BTreeSet<_> = self.changes.primaries.iter().map(|change| &change.database).collect();
        let stopping: Vec<_> = self
            .topology
            .jobs
            .values()
            .filter(|job| {
                let runs = live::facts(self.live, &job.target.id).ok().and_then(|f| f.job()).is_some_and(|f| f.running);
                let unwanted = self.desired.jobs.get(&job.name) == Some(&false);
                runs && (unwanted || job.writes_to.iter().any(|database| moved.contains(database)))
            })
            .collect();
        // What each database waits for, and what is there once it has moved: a job that hangs holds up its own databases only.
        let mut stopped: BTreeMap<&DatabaseName, After> = BTreeMap::new();
        let mut switched = needs.clone();
        if !stopping.is_empty() {
            let stage = self.builder.stage("Jobs: stopped before their databases move", Vec::new());
            for job in &stopping {
                let stop = self.builder.push(job_step(stage, &job.target.id, false).needs(needs));
                for database in &job.writes_to {
                    stopped.entry(database).or_default().insert(stop.clone());
                }
                switched.insert(stop);
            }
        }
        let mut repaired = After::new();
        // Before any section at the same pooler: a reload would make true what a section has written and not yet promoted.
        let mut alone = self.repair_routes(needs, &mut repaired);
        let mut moves: BTreeMap<&DatabaseName, After> = BTreeMap::new();
        let mut ends: Vec<After> = Vec::new();
        let at_once = usize::try_from(self.topology.policy.parallel_switchovers.max(1)).unwrap_or(1);
        for (index, change) in self.changes.primaries.iter().enumerate() {
            let Some(database) = self.topology.databases.get(&change.database) else { continue };
            let needs = stopped.get(&change.database).unwrap_or(needs);
            let needs = match index.checked_sub(at_once).and_then(|earlier| ends.get(earlier)) {
                Some(earlier) => union(needs, earlier),
                None => needs.clone(),
            };
            let end =
                switchover::add(&mut self.builder, self.topology, database, change, self.live, &needs, &mut alone);
            switched.extend(end.iter().cloned());
            moves.insert(&change.database, end.clone());
            ends.push(end);
        }
        self.repair_replication(needs, &mut repaired);
        let repaired = self.join("databases.repaired", repaired);
        let stopping: BTreeSet<&JobName> = stopping.iter().map(|job| &job.name).collect();
        let resting: BTreeSet<&JobName> =
            self.changes.jobs.iter().filter(|change| change.run).map(|change| &change.job).collect();
        let starting: Vec<&Job> = self
            .topology
            .jobs
            .values()
            .filter(|job| {
                let wanted = self.desired.jobs.get(&job.name) == Some(&true);
                wanted && (stopping.contains(&job.name) || resting.contains(&job.name))
            })
            .collect();
        if starting.is_empty() {
            return union(&switched, &repaired);
        }
        let stage = self.builder.stage("Jobs: started", Vec::new());
        let mut started = After::new();
        for job in starting {
            let own = job.writes_to.iter().filter_map(|database| moves.get(database)).flatten().cloned();
            let mut ready: After = repaired.iter().cloned().chain(own).collect();
            if ready.is_empty() {
                ready.clone_from(needs);
            }
            started.insert(self.builder.push(job_step(stage, &job.target.id, true).needs(&ready)));
        }
        &(&switched | &repaired) | &started
    }

    /// Returns the steps that use each pooler.
    pub(super) fn repair_routes(&mut self, needs: &After, done: &mut After) -> switchover::Alone {
        let mut uses = switchover::Alone::new();
        if self.changes.routes.is_empty() {
            return uses;
        }
        let stage = self.builder.stage("Poolers: led back to their primaries", Vec::new());
        // A reload makes true what is written for every database of a pooler: each of its routes is written before any is loaded.
        let mut written: BTreeMap<&TargetId, After> = BTreeMap::new();
        for change in &self.changes.routes {
            let ready = written.entry(&change.pooler).or_insert_with(|| needs.clone());
            if change.written.from == change.written.to && change.loaded.from == change.loaded.to {
                continue;
            }
            ready.insert(self.builder.push(write(change, stage).needs(needs)));
        }
        for change in &self.changes.routes {
            let ready = written.get(&change.pooler).unwrap_or(needs);
            let id = format!("route.load.{}.{}", change.database, change.pooler.name());
            let load = self.builder.push(load(change, stage, id).needs(ready));
            uses.entry(change.pooler.clone()).or_default().insert(load.clone());
            done.insert(load);
        }
        uses
    }

    /// Who takes writes although another one is in charge is fenced before anything else.
    pub(super) fn quarantine(&mut self) -> After {
        let two = self.changes.follows.iter().filter(|change| change.rebuild.values().any(|rebuild| rebuild.fence));
        let two: Vec<&FollowChange> = two.collect();
        let mut fenced = After::new();
        if two.is_empty() {
            return fenced;
        }
        let names = crate::model::text::list(two.iter().map(|change| &change.database));
        let stage = self.builder.stage(format!("Quarantine: {names} with one primary only"), Vec::new());
        for change in two {
            let Some(database) = self.topology.databases.get(&change.database) else { continue };
            let (primary, rebuild) = (&change.primary, &change.rebuild);
            fenced.extend(returned::quarantine(&mut self.builder, stage, database, primary, rebuild, self.live));
        }
        fenced
    }

    pub(super) fn repair_replication(&mut self, needs: &After, done: &mut After) {
        for change in &self.changes.follows {
            let Some(database) = self.topology.databases.get(&change.database) else { continue };
            let primary = &change.primary;
            let title = format!("Database {}: redundancy back at {}", change.database, primary.member.name());
            let stage = self.builder.stage(title, vec!["clients notice nothing".to_owned()]);
            let others =
                || database.members.values().map(|member| &member.target.id).filter(|id| **id != primary.member);
            let receives = |id: &TargetId, from: &str| {
                live::member(self.live, id).is_some_and(|facts| facts.receives_from.as_deref() == Some(from))
            };
            let follows = |id: &&TargetId| match change.members.get(*id) {
                Some(upstream) => upstream == primary,
                None => receives(id, &primary.address),
            };
            // Slots of those that receive from a member stay there.
            let stale = |id: &TargetId| {
                let address = database.members.get(id.name()).map(|member| member.target.address.as_str());
                let left = |other: &&TargetId| match change.members.get(*other) {
                    Some(upstream) => upstream.member != *id,
                    None => !address.is_some_and(|address| receives(other, address)),
                };
                others().filter(|other| *other != id).filter(left).map(|other| other.name().to_owned()).collect()
            };
            let slots = self.repair_slots(stage, database, change, needs);
            let rebuilt = returned::add(&mut self.builder, stage, database, primary, &change.rebuild, &slots);
            let follow = switchover::Follow {
                database,
                primary,
                rebuilt,
                rejoin: change.members.iter().filter(|(id, _)| !change.rebuild.contains_key(*id)).collect(),
                replicas: others().filter(follows).map(|id| id.name().to_owned()).collect(),
                later: Vec::new(),
                keeping: Vec::new(),
                stale: change.members.keys().map(|id| (id.clone(), stale(id))).collect(),
                left: change
                    .members
                    .iter()
                    .filter(|(_, peer)| *peer != primary)
                    .map(|(id, _)| id.name().to_owned())
                    .collect(),
                synchronous: change.synchronous.to.clone(),
            };
            done.extend(follow.add(&mut self.builder, stage, &slots));
        }
    }

    /// A member that shall follow needs a slot at its primary: without it, its receiver is refused.
    fn repair_slots(&mut self, stage: usize, database: &Database, change: &FollowChange, needs: &After) -> After {
        let primary = &change.primary.member;
        let Some(facts) = live::member(self.live, primary) else { return needs.clone() };
        let has_slot = |id: &&TargetId| facts.slots.iter().any(|slot| same_member(&slot.name, id.name()));
        let direct = change.members.iter().filter(|(_, upstream)| **upstream == change.primary).map(|(id, _)| id);
        let missing: Vec<&TargetId> = direct.filter(|id| !has_slot(id)).collect();
        if missing.is_empty() {
            return needs.clone();
        }
        After::from([self.builder.push(switchover::slots(database, stage, primary, &missing).needs(needs))])
    }
}

/// The step that writes where a pooler's clients are to be led.
pub(super) fn write(change: &RouteChange, stage: usize) -> Step {
    let (pooler, database) = (&change.pooler, &change.database);
    let act = |route| Action::WriteRoute { database: database.clone(), route };
    let is_written = |to: &String| Condition::RouteWritten { database: database.clone(), to: to.clone() };
    step(
        format!("route.write.{database}.{}", pooler.name()),
        stage,
        format!("{}: write {database} → {}", pooler.name(), change.written.to),
        Work::on(pooler, act(change.written.clone())),
    )
    .why("It leads elsewhere than to the primary.")
    .after(pooler, is_written(&change.written.to))
    .undone_by(act(change.written.reversed()), is_written(&change.written.from))
}

/// The step by which a pooler's clients reach the primary again; those that are held back go on.
pub(super) fn load(change: &RouteChange, stage: usize, id: String) -> Step {
    let (pooler, database) = (&change.pooler, &change.database);
    let name = pooler.name();
    let routed = Condition::Routed { database: database.clone(), to: change.loaded.to.clone() };
    if !change.paused {
        let load = Action::Route { database: database.clone(), route: change.loaded.clone() };
        return step(id, stage, format!("{name}: load it"), Work::on(pooler, load))
            .why("Clients reach the primary again.")
            .after(pooler, routed)
            .irreversible("the old route led nowhere useful");
    }
    let (action, title) = match change.loaded.from == change.loaded.to && change.written.from == change.written.to {
        true => (
            Action::Resume { database: database.clone() },
            format!("{name}: resume {database}; its clients wait, and it leads to the primary"),
        ),
        false => (
            Action::Redirect { database: database.clone(), route: change.loaded.clone() },
            format!("{name}: load it and resume {database}; its clients wait"),
        ),
    };
    step(id, stage, title, Work::on(pooler, action))
        .why("Somebody paused it, or a switchover was cut short: clients wait until they go on.")
        .before(&change.primary, Condition::Role { role: Role::Primary, lineage: None })
        .after(pooler, routed)
        .after(pooler, Condition::Paused { database: database.clone(), paused: false })
        .irreversible("clients that wait are helped by nothing")
}

fn job_step(stage: usize, target: &TargetId, run: bool) -> Step {
    let (word, action, back) =
        if run { ("start", Action::Start, Action::Stop) } else { ("stop", Action::Stop, Action::Start) };
    step(format!("job.{word}.{}", target.name()), stage, format!("{word} {}", target.name()), Work::on(target, action))
        .why(if run { "Its database is where it should be." } else { "It would fail, or write to the wrong place." })
        .before(target, Condition::Running { running: !run })
        .after(target, Condition::Running { running: run })
        .undone_by(back, Condition::Running { running: !run })
        .takes(Span::secs(1), Span::secs(120))
}
