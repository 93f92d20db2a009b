//! The times in which clients or data were at risk: write stalls, and databases with one copy less.

use serde::Serialize;

use super::story::Story;
use crate::event::StepOutcome;
use crate::model::{Action, Condition, DatabaseName, TargetId};
use crate::plan::{Plan, Work};

/// How long writers of a database waited.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stall {
    /// The database.
    pub database: DatabaseName,
    /// The member that took writes afterwards.
    pub primary: TargetId,
    /// When the first writer was held back, in milliseconds since the run began.
    pub from_ms: u64,
    /// When the last one went on.
    pub to_ms: u64,
    /// How long they may wait, where the plan is known.
    pub max_ms: Option<u64>,
}

impl Stall {
    /// How long it lasted.
    pub fn took_ms(&self) -> u64 {
        self.to_ms.saturating_sub(self.from_ms)
    }

    /// True if writers waited longer than policy allows.
    pub fn is_too_long(&self) -> bool {
        self.max_ms.is_some_and(|max| self.took_ms() > max)
    }
}

/// A time in which a database had one copy less: from the fence of its old primary until its followers were complete again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exposure {
    /// The database.
    pub database: DatabaseName,
    /// When it began.
    pub from_ms: u64,
    /// When it ended; none if it had not by the last record.
    pub to_ms: Option<u64>,
}

/// The windows without redundancy of each database that the plan moves, from the steps that open and close them. A section that was
/// undone closes its window when clients go on: the old primary is back then, with the replicas that it had.
pub(super) fn exposures(plan: &Plan, story: &Story) -> Vec<Exposure> {
    let mut exposures = Vec::new();
    for database in plan.primaries.iter().map(|moved| &moved.database) {
        let fences = |work: &Work| match work {
            Work::Act { target, action: Action::Fence { .. } } => target.scope() == Some(database.as_str()),
            _ => false,
        };
        let fence = plan.steps.iter().find(|step| fences(&step.work));
        let completes = plan.steps.iter().find(|step| {
            let redundant = |condition: &Condition| matches!(condition, Condition::Redundant { .. });
            step.after
                .iter()
                .any(|after| redundant(&after.condition) && after.target.scope() == Some(database.as_str()))
        });
        let attempts =
            |id| story.steps.iter().filter(move |step| Some(&step.step) == id).flat_map(|step| &step.attempts);
        for fenced in attempts(fence.map(|step| &step.id)).filter(|attempt| attempt.outcome != StepOutcome::NotBegun) {
            let from_ms = fenced.from_ms;
            let complete = attempts(completes.map(|step| &step.id))
                .filter(|attempt| attempt.outcome == StepOutcome::Done)
                .filter_map(|attempt| attempt.to_ms)
                .find(|to| *to >= from_ms);
            let undone = || {
                let over = story.stalls.iter().find(|stall| stall.database == *database && stall.to_ms >= from_ms);
                over.filter(|_| fenced.outcome == StepOutcome::Undone).map(|stall| stall.to_ms)
            };
            exposures.push(Exposure { database: database.clone(), from_ms, to_ms: undone().or(complete) });
        }
    }
    exposures
}

/// What policy allows, from the plan.
pub(super) fn limits(plan: &Plan, stalls: &mut [Stall]) {
    for stall in stalls {
        let moved = plan.primaries.iter().find(|moved| moved.database == stall.database);
        stall.max_ms = moved.and_then(|moved| u64::try_from(moved.max_stall.0.as_millis()).ok());
    }
}
