//! Going back to the state before a run, as far as that is possible: the last stage first, as ramped as the way there was, while the
//! survivors are healthy.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backward::depths;
use super::run::{Run, Trouble};
use crate::event::StepOutcome;
use crate::plan::{Gate, Step, Undo, Work};

impl Run {
    /// Takes everything back. What cannot be taken back any more is completed, and the rest stays.
    pub(super) async fn roll_back(self: &Arc<Self>) -> Option<Trouble> {
        let mut done = self.log().all_done();
        // What was begun, and not as part of a section that has been ended since, may have acted.
        let alone = self.plan.steps.iter().filter(|step| step.section.is_none());
        done.extend(alone.filter(|step| self.log().is_half_done(&step.id)).map(|step| step.id.clone()));
        let first = self.plan.irreversible(&done).map(|(step, why)| (step.id.clone(), why.to_owned())).next();
        if let Some((step, why)) = first {
            let why = format!("it cannot be rolled back any more: {why}; plan the way back: {}", self.plan.way_back());
            return self.carry_out(Some(Trouble::Failed(step, why))).await;
        }
        let mut levels: BTreeMap<usize, Vec<&Step>> = BTreeMap::new();
        let depths = depths(&self.plan.steps);
        for step in &self.plan.steps {
            levels.entry(depths.get(&step.id).copied().unwrap_or_default()).or_default().push(step);
        }
        let mut acted = false;
        for steps in levels.into_values().rev() {
            if self.stopping() {
                return Some(Trouble::Stopped);
            }
            if acted && let Some(trouble) = self.watched_again(&steps).await {
                return Some(trouble);
            }
            let back: Vec<&Step> = steps.into_iter().filter(|step| self.is_there(step)).collect();
            acted |= !back.is_empty();
            let results = futures_util::future::join_all(back.iter().map(|step| self.take_back(step))).await;
            let failed = back.iter().zip(results).find_map(|(step, result)| Some((step.id.clone(), result.err()?)));
            if let Some((step, why)) = failed {
                return Some(Trouble::Stuck(step, why));
            }
        }
        Some(Trouble::RolledBack)
    }

    /// True for a step of which something may be there, and that can be taken back.
    fn is_there(&self, step: &Step) -> bool {
        let there = self.log().outcome(&step.id) == StepOutcome::Done || self.log().is_half_done(&step.id);
        there && matches!(step.undo, Undo::Act { .. })
    }

    /// The soaks that had let the stages pass that have just been taken back: their servers serve again as they did then.
    async fn watched_again(self: &Arc<Self>, steps: &[&Step]) -> Option<Trouble> {
        for step in steps {
            let Work::Gate { gate: gate @ Gate::Soak { .. } } = &step.work else { continue };
            if self.log().outcome(&step.id) != StepOutcome::Done {
                continue;
            }
            match self.gate(step, gate).await {
                Ok(_) => {}
                // Those that come back are sick: nothing is gained by going on in either direction.
                Err(Trouble::Retreat(step, why)) => return Some(Trouble::Held(step, why)),
                Err(trouble) => return Some(trouble),
            }
        }
        None
    }
}
