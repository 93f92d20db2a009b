//! Putting steps together: defaults that every builder shares. Pure.

use std::collections::BTreeSet;

use super::step::{Assumption, Stage, Step, StepId, Undo, Work};
use crate::model::{Action, Condition, Span, TargetId};

/// Stages and steps under construction, each step after all that it needs.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pub(super) stages: Vec<Stage>,
    pub(super) steps: Vec<Step>,
}

/// Steps that later ones wait for.
pub(super) type After = BTreeSet<StepId>;

impl Builder {
    /// Opens a stage.
    pub(super) fn stage(&mut self, title: impl Into<String>, remains: Vec<String>) -> usize {
        self.stages.push(Stage { title: title.into(), remains });
        self.stages.len() - 1
    }

    /// Says what remains while and after a stage.
    pub(super) fn remains(&mut self, stage: usize, remains: Vec<String>) {
        if let Some(stage) = self.stages.get_mut(stage) {
            stage.remains = remains;
        }
    }

    /// Adds a step and returns what later ones need in order to wait for it.
    pub(super) fn push(&mut self, step: Step) -> StepId {
        let id = step.id.clone();
        self.steps.push(step);
        id
    }
}

/// A step with no needs, conditions or undo yet.
pub(super) fn step(id: impl Into<String>, stage: usize, title: impl Into<String>, work: Work) -> Step {
    Step {
        id: StepId(id.into()),
        stage,
        title: title.into(),
        why: String::new(),
        work,
        needs: BTreeSet::new(),
        before: Vec::new(),
        after: Vec::new(),
        undo: Undo::Nothing,
        section: None,
        point_of_no_return: false,
        expected: Span::millis(200),
        deadline: Span::secs(10),
    }
}

impl Work {
    /// Acting on a target.
    pub(super) fn on(target: &TargetId, action: Action) -> Self {
        Self::Act { target: target.clone(), action }
    }
}

impl Assumption {
    /// A condition on a target.
    pub(super) fn on(target: &TargetId, condition: Condition) -> Self {
        Self { target: target.clone(), condition }
    }
}

impl Step {
    pub(super) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    pub(super) fn needs(mut self, needs: &After) -> Self {
        self.needs.extend(needs.iter().cloned());
        self
    }

    pub(super) fn before(mut self, target: &TargetId, condition: Condition) -> Self {
        self.before.push(Assumption::on(target, condition));
        self
    }

    pub(super) fn after(mut self, target: &TargetId, condition: Condition) -> Self {
        self.after.push(Assumption::on(target, condition));
        self
    }

    pub(super) fn undone_by(mut self, action: Action, after: Condition) -> Self {
        self.undo = Undo::Act { action, after };
        self
    }

    pub(super) fn irreversible(mut self, why: impl Into<String>) -> Self {
        self.undo = Undo::Impossible { why: why.into() };
        self
    }

    pub(super) fn section(mut self, section: &str) -> Self {
        self.section = Some(section.to_owned());
        self
    }

    pub(super) fn takes(mut self, expected: Span, deadline: Span) -> Self {
        (self.expected, self.deadline) = (expected, deadline);
        self
    }
}
