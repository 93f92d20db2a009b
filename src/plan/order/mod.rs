//! From changes to an ordered plan: the quickest to undo first, the hardest to undo last; make before break; prove everything that can
//! be proven before anything is touched (`docs/architecture.md`, "Ordering"). Pure.

mod data;
mod edge;
mod lost;
mod names;
mod power;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::build::{After, Builder, step};
use super::desired::Desired;
use super::diff::{Changes, movements};
use super::document::{FailoverMove, PrimaryMove};
use super::step::{Assumption, Gate, Stage, Step, Undo, Work};
use crate::model::{
    BackendServers, Condition, FacilityName, ForeignName, FromTo, Live, RecordKey, RecordSet, ServerSetting,
    ServiceName, Span, TargetId,
};
use crate::topology::Topology;

/// Changes of record sets at one server.
type RecordSets = BTreeMap<RecordKey, FromTo<Option<RecordSet>>>;

/// Servers by backend and proxy.
type ServersByProxy = BTreeMap<TargetId, BackendServers>;

/// What an ordering yields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ordered {
    /// Headings.
    pub stages: Vec<Stage>,
    /// Steps, each after all that it needs.
    pub steps: Vec<Step>,
    /// Primaries that move.
    pub primaries: Vec<PrimaryMove>,
    /// Primaries that are replaced because they are lost.
    pub failovers: Vec<FailoverMove>,
}

/// Orders changes into steps.
pub fn order(topology: &Topology, desired: &Desired, changes: &Changes, live: &Live) -> Ordered {
    let (entering, leaving) = movements(changes);
    let mut order = Order {
        topology,
        desired,
        changes,
        live,
        entering,
        leaving,
        builder: Builder::default(),
        settings: changes.shares.iter().map(|change| Arc::clone(&change.settings)).collect(),
    };
    let done = if desired.urgent() || !changes.failovers.is_empty() {
        let done = order.emergency();
        order.verify(&done)
    } else {
        order.planned()
    };
    order.release(&done);
    let primaries = changes
        .primaries
        .iter()
        .filter_map(|change| {
            let database = topology.databases.get(&change.database)?;
            Some(PrimaryMove {
                database: change.database.clone(),
                from: change.from.member.clone(),
                to: change.to.member.clone(),
                expected_stall: super::preflight::expected_stall(database, live),
                max_stall: topology.policy.max_write_stall,
            })
        })
        .collect();
    let failovers = changes.failovers.iter().map(FailoverMove::of).collect();
    Ordered { stages: order.builder.stages, steps: order.builder.steps, primaries, failovers }
}

fn union(a: &After, b: &After) -> After {
    a | b
}

struct Order<'a> {
    topology: &'a Topology,
    desired: &'a Desired,
    changes: &'a Changes,
    live: &'a Live,
    entering: BTreeSet<FacilityName>,
    leaving: BTreeSet<FacilityName>,
    builder: Builder,
    /// Settings of the servers as predicted after the steps so far, for each change of a share.
    settings: Vec<Arc<BTreeMap<ForeignName, ServerSetting>>>,
}

impl Order<'_> {
    /// Proof first, then edge and DNS, databases, and what rests at the end; returns what the end waits for.
    fn planned(&mut self) -> After {
        let powered = self.power_up();
        let fenced = self.quarantine();
        // A switchover is told of afterwards: until then its fence keeps the old primary down.
        let moves = !self.changes.primaries.is_empty();
        let told = if moves { After::new() } else { self.tell(&fenced) };
        let proven = union(&union(&union(&self.prove(), &self.prove_power()), &powered), &fenced);
        let admitted = self.admit(&proven);
        let published = self.records(true, &admitted);
        let shifted = if self.only_at_the_lost() { self.edge_at_once(&published) } else { self.shift(&published) };
        let forgotten = self.records(false, &shifted);
        let forgotten = self.old_ttl(&forgotten);
        let switched = self.databases(&shifted);
        let switched = if moves { self.tell(&switched) } else { union(&switched, &told) };
        let switched = self.regain(&switched);
        let emptied = self.sessions(&union(&forgotten, &shifted));
        let rested = self.maintenance(&emptied);
        let saved = self.saves();
        let verified = self.verify(&union(&union(&union(&switched, &rested), &forgotten), &saved));
        self.power_down(&union(&verified, &proven))
    }

    /// Who is in charge is published; returns what waits for it.
    fn tell(&mut self, needs: &After) -> After {
        let Some(change) = &self.changes.epoch else { return needs.clone() };
        let stage = self.builder.stage("Name servers tell who is in charge", Vec::new());
        change.add(&mut self.builder, stage, needs)
    }

    /// What remains for each service whose share changes: capacity against peak.
    fn capacity_lines(&self) -> Vec<String> {
        let services: BTreeSet<&ServiceName> = self.changes.shares.iter().map(|change| &change.service).collect();
        services
            .into_iter()
            .filter_map(|name| self.topology.services.get(name))
            .map(|service| super::gate::capacity_line(service, &self.desired.serving))
            .collect()
    }

    fn serving_line(&self) -> Vec<String> {
        let serving = crate::model::text::list(&self.desired.serving);
        let mut lines =
            vec![format!("{serving} {} users", if self.desired.serving.len() == 1 { "alone serves" } else { "serve" })];
        lines.extend(self.capacity_lines());
        lines
    }

    fn prove(&mut self) -> After {
        if self.changes.shares.is_empty() && self.changes.primaries.is_empty() {
            return After::new();
        }
        let stage = self.builder.stage("Prove that it can be done, before anything is touched", Vec::new());
        let mut proven = After::new();
        let services: BTreeSet<&ServiceName> = self.changes.shares.iter().map(|change| &change.service).collect();
        for service in services.into_iter().filter_map(|name| self.topology.services.get(name)) {
            let servers = service
                .servers
                .values()
                .filter(|server| self.desired.serving.contains(&server.target.facility))
                .map(|server| server.target.id.clone())
                .collect();
            let shares = self.desired.shares.get(&service.name).cloned().unwrap_or_default();
            let gate = Gate::Capacity { service: service.name.clone(), shares, servers };
            proven.insert(
                self.builder.push(
                    step(
                        format!("gate.capacity.{}", service.name),
                        stage,
                        format!(
                            "{}: the servers of {} are healthy and enough at peak with headroom",
                            service.name,
                            crate::model::text::list(&self.desired.serving)
                        ),
                        Work::Gate { gate },
                    )
                    .why("The rest must carry the whole load.")
                    .takes(Span::millis(100), Span::secs(30)),
                ),
            );
        }
        for change in &self.changes.primaries {
            let gate = Gate::Switchable {
                database: change.database.clone(),
                primary: change.from.member.clone(),
                candidate: change.to.member.clone(),
                followers: super::switchover::led(self.topology, change, self.live),
            };
            proven.insert(
                self.builder.push(
                    step(
                        format!("gate.switchable.{}", change.database),
                        stage,
                        format!(
                            "{}: {} can hand over to {}",
                            change.database,
                            change.from.member.name(),
                            change.to.member.name()
                        ),
                        Work::Gate { gate },
                    )
                    .why("Every database is proven switchable before any traffic moves.")
                    .takes(Span::millis(100), Span::secs(30)),
                ),
            );
        }
        self.join("gate.proven", proven)
    }

    /// One step in the place of many, for the steps that wait for all of them: otherwise each of n steps would name each of m.
    fn join(&mut self, id: &str, needs: After) -> After {
        const MANY: usize = 32;
        if needs.len() <= MANY {
            return needs;
        }
        let stage = self.builder.stages.len().saturating_sub(1);
        let title = format!("all {} steps that lead here have ended well", needs.len());
        let join = step(id, stage, title, Work::Verify)
            .why("Later steps wait for all of them.")
            .takes(Span::millis(0), Span::secs(10))
            .needs(&needs);
        After::from([self.builder.push(join)])
    }

    /// Everything is read again and compared with what was wanted.
    fn verify(&mut self, needs: &After) -> After {
        let mut last: BTreeMap<(TargetId, String), Assumption> = BTreeMap::new();
        let mut records: BTreeMap<TargetId, BTreeMap<RecordKey, Option<RecordSet>>> = BTreeMap::new();
        for assumption in self.builder.steps.iter().flat_map(|step| &step.after) {
            if let Condition::Records { sets } = &assumption.condition {
                let known = records.entry(assumption.target.clone()).or_default();
                known.extend(sets.iter().map(|(key, set)| (key.clone(), set.clone())));
            } else if let Some(key) = lasting(&assumption.condition) {
                last.insert((assumption.target.clone(), key), assumption.clone());
            }
        }
        let mut after: Vec<Assumption> = last.into_values().collect();
        after.extend(records.into_iter().map(|(server, sets)| Assumption::on(&server, Condition::Records { sets })));
        let settings = self.by_proxy(&self.settings).into_iter();
        after.extend(settings.map(|(proxy, backends)| Assumption::on(proxy, Condition::Servers { backends })));
        after.sort_by(|a, b| a.target.cmp(&b.target));
        if self.builder.steps.is_empty() && self.desired.releases.is_empty() {
            return needs.clone();
        }
        let stage = self.builder.stage("Verify everything once more", self.serving_line());
        let mut verify = step("verify", stage, "read every target that changed and compare", Work::Verify)
            .why("What was true after its own step must still be true at the end.")
            .takes(Span::millis(300), Span::secs(30))
            .needs(needs);
        verify.after = after;
        After::from([self.builder.push(verify)])
    }

    /// Holds end last.
    fn release(&mut self, needs: &After) {
        let stage = self.builder.stages.len().saturating_sub(1);
        for hold in &self.desired.releases {
            let mut release = step(
                format!("release.{}", hold.subject()),
                stage,
                format!("release the hold: {}", hold.what()),
                Work::Release { hold: hold.clone() },
            )
            .why("Later plans are free of it.")
            .takes(Span::millis(10), Span::secs(10))
            .needs(needs);
            release.undo = Undo::Nothing;
            self.builder.push(release);
        }
    }
}

/// What a later condition on the same target replaces; none for conditions that hold for a moment only.
fn lasting(condition: &Condition) -> Option<String> {
    match condition {
        Condition::Promoted { .. } => Some("role".to_owned()),
        Condition::Follows { .. } => Some("follows".to_owned()),
        Condition::Redundant { .. } => Some("redundant".to_owned()),
        Condition::Routed { database, .. } => Some(format!("routed {database}")),
        Condition::Paused { database, .. } => Some(format!("paused {database}")),
        Condition::Running { .. } => Some("running".to_owned()),
        Condition::Epoch { .. } => Some("epoch".to_owned()),
        _ => None,
    }
}
