//! What a run measures while it lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::event::{DatabaseReport, Failure, Residual, RunReport, StageReport, StepOutcome, StepReport, WaitCause};
use crate::journal::{Hold, HoldKind, Past, RunId};
use crate::model::{DatabaseName, TargetId};
use crate::plan::{Plan, Step, StepId};

/// The measurements of a run.
pub(super) struct Log {
    run: RunId,
    plan: String,
    title: String,
    stages: Vec<String>,
    steps: Vec<StepReport>,
    index: BTreeMap<StepId, usize>,
    opened: BTreeSet<usize>,
    waits: BTreeMap<WaitCause, Duration>,
    databases: BTreeMap<DatabaseName, DatabaseReport>,
    fenced: BTreeMap<DatabaseName, Duration>,
    residual: Vec<Residual>,
    warnings: Vec<String>,
    /// How many of the warnings the journal has.
    recorded: usize,
    holds: Vec<Hold>,
    acted: bool,
    half_done: BTreeSet<StepId>,
    closed: BTreeSet<TargetId>,
}

impl Log {
    pub(super) fn new(plan: &Plan, run: &RunId, holds: Vec<Hold>) -> Self {
        let steps: Vec<StepReport> = plan
            .steps
            .iter()
            .map(|step| StepReport {
                step: step.id.clone(),
                title: step.title.clone(),
                stage: step.stage,
                outcome: StepOutcome::NotBegun,
                began: Duration::ZERO,
                took: Duration::ZERO,
                waited: Duration::ZERO,
            })
            .collect();
        let databases = plan
            .primaries
            .iter()
            .map(|moved| {
                let report = DatabaseReport {
                    from: moved.from.clone(),
                    to: moved.from.clone(),
                    write_stall: None,
                    max_write_stall: moved.max_stall.0,
                    without_redundancy: None,
                };
                (moved.database.clone(), report)
            })
            .collect();
        Self {
            run: run.clone(),
            plan: plan.id.clone(),
            title: plan.intent.title(),
            stages: plan.stages.iter().map(|stage| stage.title.clone()).collect(),
            index: steps.iter().enumerate().map(|(index, step)| (step.step.clone(), index)).collect(),
            steps,
            opened: BTreeSet::new(),
            waits: BTreeMap::new(),
            databases,
            fenced: BTreeMap::new(),
            residual: Vec::new(),
            warnings: Vec::new(),
            recorded: 0,
            holds,
            acted: false,
            half_done: BTreeSet::new(),
            closed: BTreeSet::new(),
        }
    }

    fn step(&mut self, id: &StepId) -> Option<&mut StepReport> {
        self.index.get(id).and_then(|index| self.steps.get_mut(*index))
    }

    /// A step begins; true if it is the first of its stage.
    pub(super) fn begin(&mut self, step: &Step, at: Duration) -> bool {
        if let Some(report) = self.step(&step.id) {
            report.began = at;
            // Until it has ended it counts as what it would be if the run broke off here.
            report.outcome = StepOutcome::Unknown;
        }
        self.opened.insert(step.stage)
    }

    /// A step ended; how long its stage took, if it was the last one of it.
    pub(super) fn end(&mut self, id: &StepId, outcome: StepOutcome, took: Duration) -> Option<Duration> {
        let stage = {
            let report = self.step(id)?;
            (report.outcome, report.took) = (outcome, took);
            report.stage
        };
        let of_stage = || self.steps.iter().filter(|step| step.stage == stage);
        if of_stage().any(|step| step.outcome != StepOutcome::Done) {
            return None;
        }
        Some(span(of_stage()))
    }

    pub(super) fn end_badly(&mut self, id: &StepId, unknown: bool, took: Duration) {
        self.end(id, if unknown { StepOutcome::Unknown } else { StepOutcome::Failed }, took);
    }

    pub(super) fn undone(&mut self, id: &StepId, outcome: StepOutcome) {
        if let Some(report) = self.step(id) {
            report.outcome = outcome;
        }
    }

    pub(super) fn outcome(&self, id: &StepId) -> StepOutcome {
        let index = self.index.get(id).and_then(|index| self.steps.get(*index));
        index.map_or(StepOutcome::NotBegun, |step| step.outcome)
    }

    /// Steps that were done and not taken back.
    pub(super) fn all_done(&self) -> BTreeSet<StepId> {
        self.steps.iter().filter(|step| step.outcome == StepOutcome::Done).map(|step| step.step.clone()).collect()
    }

    /// What was recorded before this process went on with the run.
    pub(super) fn remember(&mut self, past: &Past) {
        for (id, done) in &past.done {
            if let Some(report) = self.step(id) {
                report.outcome = StepOutcome::Done;
                (report.began, report.took) = (done.began, done.ended.saturating_sub(done.began));
            }
        }
        for stall in &past.stalls {
            let waited = stall.to.saturating_sub(stall.from);
            self.stalled(&stall.database, &stall.primary, waited, Some(stall.from));
        }
        self.acted = past.acted;
        self.half_done.extend(past.begun.iter().cloned());
        past.told.iter().for_each(|text| self.warned(text));
        self.recorded = self.warnings.len();
    }

    /// A step that was done has to be done again.
    pub(super) fn forget(&mut self, id: &StepId) {
        if let Some(report) = self.step(id) {
            report.outcome = StepOutcome::NotBegun;
        }
    }

    /// Something was sent to a target: the run can no longer say that nothing was touched.
    pub(super) fn touched(&mut self) {
        self.acted = true;
    }

    pub(super) fn acted(&self) -> bool {
        self.acted
    }

    /// A step failed, and something of it may be there.
    pub(super) fn half_done(&mut self, id: &StepId) {
        self.half_done.insert(id.clone());
    }

    /// Nothing of it is there any more.
    pub(super) fn whole_again(&mut self, id: &StepId) {
        self.half_done.remove(id);
    }

    /// True if a step failed and something of it may be there.
    pub(super) fn is_half_done(&self, id: &StepId) -> bool {
        self.half_done.contains(id)
    }

    /// A proxy lets nobody in any more.
    pub(super) fn closed(&mut self, proxy: &TargetId) {
        self.closed.insert(proxy.clone());
    }

    /// The proxies that the run has closed to clients.
    pub(super) fn all_closed(&self) -> Vec<String> {
        self.closed.iter().map(|proxy| proxy.name().to_owned()).collect()
    }

    pub(super) fn waited(&mut self, id: &StepId, cause: WaitCause, time: Duration) {
        *self.waits.entry(cause).or_default() += time;
        if let Some(report) = self.step(id) {
            report.waited += time;
        }
    }

    pub(super) fn residual(&mut self, residual: Vec<Residual>) {
        self.residual.extend(residual);
    }

    /// The operator was told something; once is enough.
    pub(super) fn warned(&mut self, text: &str) {
        if !self.warnings.iter().any(|told| told == text) {
            self.warnings.push(text.to_owned());
        }
    }

    /// What the operator was told since this was asked last.
    pub(super) fn not_recorded(&mut self) -> Vec<String> {
        let texts = self.warnings.get(self.recorded..).unwrap_or_default().to_vec();
        self.recorded = self.warnings.len();
        texts
    }

    pub(super) fn stalled(
        &mut self,
        database: &DatabaseName,
        primary: &TargetId,
        stall: Duration,
        fenced: Option<Duration>,
    ) {
        if let Some(report) = self.databases.get_mut(database) {
            report.write_stall = Some(stall);
            report.to = primary.clone();
        }
        if let Some(fenced) = fenced {
            self.fenced.insert(database.clone(), fenced);
        }
    }

    /// A database is redundant again; for how long it was not.
    pub(super) fn redundant(&mut self, database: &DatabaseName, now: Duration) -> Option<Duration> {
        let without = now.saturating_sub(self.fenced.remove(database)?);
        self.databases.get_mut(database)?.without_redundancy = Some(without);
        Some(without)
    }

    pub(super) fn report(&self, total: Duration, released: Vec<HoldKind>, failure: Option<Failure>) -> RunReport {
        let stages = self.stages.iter().enumerate().map(|(index, title)| {
            let of_stage =
                || self.steps.iter().filter(|step| step.stage == index && step.outcome != StepOutcome::NotBegun);
            StageReport { title: title.clone(), took: of_stage().next().map(|_| span(of_stage())) }
        });
        let millis = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        RunReport {
            run: self.run.clone(),
            plan: self.plan.clone(),
            title: self.title.clone(),
            total,
            stages: stages.collect(),
            steps: self.steps.clone(),
            waited_ms: self.waits.iter().map(|(cause, time)| (*cause, millis(time))).collect(),
            databases: self.databases.clone(),
            residual_sessions: self.residual.clone(),
            warnings: self.warnings.clone(),
            holds_made: self.holds.iter().filter(|hold| !released.contains(&hold.kind)).cloned().collect(),
            holds_released: released,
            failure,
        }
    }
}

/// From the beginning of the first to the end of the last.
fn span<'a>(steps: impl Iterator<Item = &'a StepReport>) -> Duration {
    let times: Vec<(Duration, Duration)> = steps.map(|step| (step.began, step.began + step.took)).collect();
    let first = times.iter().map(|time| time.0).min().unwrap_or_default();
    times.iter().map(|time| time.1).max().unwrap_or_default().saturating_sub(first)
}
