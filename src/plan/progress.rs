//! What is left of a plan of which some steps were done.

use std::collections::BTreeSet;

use super::document::Plan;
use super::intent::Intent;
use super::step::{Gate, Step, StepId, Undo, Work};
use crate::model::TargetId;

impl Plan {
    /// Of the steps that were `done`, those that need not be done again. What was changed stays changed. What was judged or waited for
    /// counts only while all that came before it is still so, and a gate only until the last step that relies on it directly is done:
    /// time has passed since. Whether a primary can move is not asked again once it has moved.
    pub fn settled(&self, done: &BTreeSet<StepId>) -> BTreeSet<StepId> {
        let mut settled: BTreeSet<StepId> = BTreeSet::new();
        for step in self.steps.iter().filter(|step| done.contains(&step.id)) {
            if matches!(step.work, Work::Act { .. }) || step.needs.is_subset(&settled) {
                settled.insert(step.id.clone());
            }
        }
        let open = self.steps.iter().filter(|step| !settled.contains(&step.id));
        let relied_on: BTreeSet<&StepId> = open.flat_map(|step| &step.needs).collect();
        let again = |step: &&Step| relied_on.contains(&step.id) && self.may_be_judged_again(step, done);
        for gate in self.steps.iter().filter(again) {
            settled.remove(&gate.id);
        }
        settled
    }

    fn may_be_judged_again(&self, step: &Step, done: &BTreeSet<StepId>) -> bool {
        let Work::Gate { gate } = &step.work else { return false };
        let Gate::Switchable { database, .. } = gate else { return true };
        let of_database = |target: &TargetId| target.scope() == Some(database.as_str());
        let mut passed = self.steps.iter().filter(|step| step.point_of_no_return && done.contains(&step.id));
        !passed.any(|step| matches!(&step.work, Work::Act { target, .. } if of_database(target)))
    }

    /// The command that plans the way back once a new primary has taken over.
    pub fn way_back(&self) -> String {
        let Intent { drain, .. } = &self.intent;
        let flags: String = match drain.is_empty() {
            false => drain
                .iter()
                .map(|facility| format!(" --restore {facility}"))
                .chain([" --failback".to_owned()])
                .collect(),
            true => {
                let moved = self.primaries.iter();
                moved.map(|moved| format!(" --primary {}={}", moved.database, moved.from.name())).collect()
            }
        };
        format!("handover plan{flags}")
    }

    /// Why it cannot be taken back once these steps are `done`, step by step: each with what can be done instead.
    pub fn irreversible<'a>(&'a self, done: &'a BTreeSet<StepId>) -> impl Iterator<Item = (&'a Step, &'a str)> {
        self.steps.iter().filter(|step| done.contains(&step.id)).filter_map(|step| match &step.undo {
            Undo::Impossible { why } => Some((step, why.as_str())),
            _ => None,
        })
    }
}
