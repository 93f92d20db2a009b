//! What may be done without what is said to be lost. Pure.

use std::collections::BTreeSet;

use super::evidence::{Lost, Verdict, gather, judge};
use super::failover::{self, FenceBy};
use super::known::Known;
use super::owed;
use crate::model::{FacilityName, Live, Span, TargetId, text::list};
use crate::plan::desired::{Desired, Refusal};
use crate::plan::diff::Changes;
use crate::plan::gate;
use crate::plan::intent::{HoldKind, Intent, LostThing};
use crate::plan::live;
use crate::plan::overrides::GateName;
use crate::topology::Topology;

/// What planning without what is lost comes to, beside the changes.
#[derive(Default)]
pub(in crate::plan) struct Decided {
    pub(in crate::plan) notes: Vec<String>,
    pub(in crate::plan) refusals: Vec<Refusal>,
}

/// Completes the changes by what the loss demands, and says what stands against it.
pub(in crate::plan) fn decide(
    topology: &Topology,
    intent: &Intent,
    desired: &mut Desired,
    changes: &mut Changes,
    live: &Live,
    known: &Known,
) -> Decided {
    let mut decided = Decided::default();
    if desired.lost.is_empty() {
        return decided;
    }
    for database in topology.databases.values() {
        let lost = |member: &crate::model::Member| {
            desired.lost.contains(&member.target) && live::member(live, &member.target.id).is_none_or(failover::stands)
        };
        if !live::primaries(database, live).is_empty() || !database.members.values().any(lost) {
            continue;
        }
        match failover::failover(topology, desired, intent, database, live, known) {
            Ok(failover) => changes.failovers.push(failover),
            Err(failover::NoFailover::Impossible(refusal)) => {
                decided.notes.push(format!("{}: {}", refusal.what, refusal.advice));
            }
            Err(failover::NoFailover::Undecided(refusals)) => decided.refusals.extend(refusals),
        }
    }
    if desired.urgent() {
        postpone(changes, &mut decided.notes);
        decided.evidence(topology, intent, desired, changes, live, known);
        decided.notes.extend(holds(topology, intent, desired));
        decided.notes.extend(shared_roof(topology, desired));
    }
    decided
}

/// Planned work waits until the loss is dealt with.
fn postpone(changes: &mut Changes, notes: &mut Vec<String>) {
    if !changes.primaries.is_empty() {
        let names = list(changes.primaries.iter().map(|change| &change.database));
        notes.push(format!(
            "{names}: not moved by this plan, which deals with the loss alone; `handover plan` does it later"
        ));
        changes.primaries.clear();
    }
}

/// The word of who is asked for the verdict on a gate.
pub fn judge_gate(verdict: &Verdict, fenced_by_command: bool) -> gate::Verdict {
    let text = verdict.lines().join("; ");
    match verdict {
        Verdict::Dead { .. } => gate::Verdict::Go(text),
        Verdict::Partitioned { .. } if fenced_by_command => gate::Verdict::Go(text),
        _ => gate::Verdict::Hold(text),
    }
}

impl Decided {
    fn evidence(
        &mut self,
        topology: &Topology,
        intent: &Intent,
        desired: &Desired,
        changes: &Changes,
        live: &Live,
        known: &Known,
    ) {
        let lost = &desired.flagged;
        let evidence = gather(topology, lost, live, &known.before, intent.attested.clone());
        let verdict = judge(&evidence);
        let lines = verdict.lines();
        let said = || lines.join("; ");
        let advice = |text: &str| text.to_owned();
        match &verdict {
            Verdict::Dead { .. } => self.notes.push(said()),
            Verdict::Partitioned { .. } => self.partitioned(topology, intent, lost, changes, &said()),
            // Nobody takes its place, or its own machine says that it does not run.
            Verdict::Undecided { .. } if !needs_evidence(desired, changes) => self.notes.push(said()),
            Verdict::Undecided { wait: Some(wait), .. } => {
                let wait = Span::millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                self.notes.push(format!("{}: apply waits for it, {wait} from now", said()));
            }
            Verdict::Undecided { .. } => self.refusals.push(Refusal::new(
                said(),
                advice("get what would decide; if you know that it is down: --attest-fenced --reason TEXT"),
            )),
            Verdict::OwnPathBroken { .. } => self.refusals.push(Refusal::new(
                said(),
                advice(
                    "run handover from another place; nothing that is seen from here says anything about what is lost",
                ),
            )),
            Verdict::Answers { .. } => self.refusals.push(Refusal::new(
                said(),
                advice("take it out with --drain, or name only what does not answer: --lost TARGET"),
            )),
        }
    }

    /// Others see what we do not see: it may take writes and serve users.
    fn partitioned(&mut self, topology: &Topology, intent: &Intent, lost: &Lost, changes: &Changes, said: &str) {
        self.notes.push(said.to_owned());
        for failover in changes.failovers.iter().filter(|it| matches!(it.fence, FenceBy::Attested(_))) {
            self.refusals.push(Refusal::new(
                format!(
                    "{said}: {} may be taking writes for {}, whatever anybody attests",
                    failover.from.member.name(),
                    failover.database
                ),
                "cut it off first, and declare how (`fence` of its host or facility)",
            ));
        }
        for facility in lost.facilities.iter().filter(|name| publishes(topology, name)) {
            let withdrawn = topology.facilities.get(facility).is_some_and(|it| it.withdraw.is_some());
            match intent.overrides.get(&GateName::Published) {
                _ if withdrawn => {}
                Some(passed) => {
                    self.notes.push(format!("{facility} may go on publishing its own addresses ({passed})"));
                }
                None => self.refusals.push(Refusal::new(
                    format!("the name servers of {facility} may still answer the Internet, with addresses of {facility}"),
                    format!(
                        "declare `facilities.{facility}.withdraw`, take them out of the delegation, or accept it: --override {} \
                         --reason TEXT",
                        GateName::Published
                    ),
                )),
            }
        }
    }
}

/// Whether it must be certain that what is lost is dead, or cut off: where somebody takes its place whom nothing else keeps from being the
/// second. A single proxy, name server or replica is only done without.
pub(in crate::plan) fn needs_evidence(desired: &Desired, changes: &Changes) -> bool {
    let by_host = |failover: &failover::Failover| failover.fence == FenceBy::Host;
    !desired.flagged.facilities.is_empty() || !changes.failovers.iter().all(by_host)
}

/// True for a facility with name servers of its own.
fn publishes(topology: &Topology, facility: &FacilityName) -> bool {
    topology.zones.values().flat_map(|zone| zone.servers.values()).any(|server| server.target.facility == *facility)
}

/// The holds by which later plans know what is lost, and where work is owed.
fn holds(topology: &Topology, intent: &Intent, desired: &mut Desired) -> Vec<String> {
    let owed = |here: &dyn Fn(&crate::model::Target) -> bool| -> BTreeSet<TargetId> {
        let targets = topology.targets().filter(|target| owed::owes(target.kind) && here(target));
        targets.map(|target| target.id.clone()).collect()
    };
    let mut notes = Vec::new();
    let facilities = intent.lost.facilities.iter().map(|facility| {
        let owed = owed(&|target| target.facility == *facility);
        HoldKind::Lost { what: LostThing::Facility(facility.clone()), owed }
    });
    let targets = intent.lost.targets.iter().map(|id| {
        let owed = owed(&|target| target.id == *id);
        HoldKind::Lost { what: LostThing::Target(id.clone()), owed }
    });
    let new: Vec<HoldKind> = facilities.chain(targets).collect();
    for hold in &new {
        if let HoldKind::Lost { what, owed } = hold
            && !owed.is_empty()
        {
            let names: BTreeSet<&str> = owed.iter().map(TargetId::name).collect();
            notes.push(format!("owed until {} answers again: {}", what.name(), list(names)));
        }
    }
    desired.holds.extend(new);
    notes
}

/// What the run itself needs in what is lost.
fn shared_roof(topology: &Topology, desired: &Desired) -> Vec<String> {
    let Some(operator) = &topology.operator else { return Vec::new() };
    let needs = operator.needs.iter().filter(|(_, facility)| desired.flagged.facilities.contains(*facility));
    needs.map(|(need, facility)| format!("the topology says that {need} lives in {facility}, which is lost")).collect()
}
