//! Going on with a run that died or stopped, forwards or back. The journal says what was done; what was in the middle is read from the
//! targets (`settle`).

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::report::Log;
use super::run::{Parts, Run, Trouble};
use super::{Engine, RunOutcome, keep};
use crate::event::Event;
use crate::journal::{Hold, Holder, How, Journal, Lock, Moment, Past, Record, RunId, Store, StoreError};
use crate::plan::{Overrides, Plan, StepId};

/// With which run somebody goes on, and who.
pub struct GoOn {
    /// The run.
    pub run: RunId,
    /// Its plan, as its first record has it.
    pub plan: Plan,
    /// What for.
    pub how: How,
    /// Who carries it out.
    pub holder: Holder,
    /// The lock of its holder, if that is certainly dead.
    pub dead: Option<Lock>,
    /// Gates that are passed from now on.
    pub overrides: Overrides,
    /// Becomes true when the operator asks it to stop.
    pub stop: watch::Receiver<bool>,
    /// Who listens.
    pub events: mpsc::UnboundedSender<Event>,
}

impl Engine {
    /// Goes on with a run: ends the sections that were left open, then does what is left (`Resume`), takes back what was done
    /// (`Rollback`), or completes only what has passed its point of no return (`Settle`).
    ///
    /// # Errors
    /// If it cannot be gone on with: locked, its records are not there, or the store fails. Everything later is in the outcome.
    pub async fn go_on(&self, request: GoOn, store: Arc<dyn Store>) -> Result<RunOutcome, StoreError> {
        let GoOn { run, mut plan, how, holder, dead, overrides, stop, events } = request;
        let began = Instant::now();
        let no_run = || StoreError::NoRun { run: run.clone() };
        let earlier = Past::of(&store.records(&run).await?).ok_or_else(no_run)?;
        let before = earlier.elapsed_at(self.clock.now());
        let clock = Arc::clone(&self.clock);
        let now = move || Moment { at: clock.now(), elapsed: before + began.elapsed() };
        let holds = match how {
            How::Rollback => self.held_before(&plan, &earlier, &run, &holder.name),
            How::Resume => earlier.given_up(),
            How::Settle => Vec::new(),
        };
        let record = Record::RunResumed { operator: holder.name.clone(), how, holds, overrides };
        let (journal, entries) = Journal::resume(store, &run, &holder, dead.as_ref(), record, now).await?;
        // With the lock: nobody adds anything any more.
        let past = Past::of(&entries).ok_or_else(no_run)?;
        plan.intent.overrides = past.overrides.clone();
        let mut log = Log::new(&plan, &run, past.holds.clone());
        log.remember(&past);
        let mut kept = keep::of(&plan);
        keep::remember(&mut kept, &plan, &past, self.clock.now());
        let parts = Parts { plan, journal, began, before, how: Some(how), stop, log, kept, events };
        let run = Arc::new(self.run(parts));
        run.tell(Event::RunResumed {
            run: run.journal.run().clone(),
            plan: run.plan.id.clone(),
            title: run.plan.intent.title(),
            how,
            stages: run.plan.stages.len(),
            steps: run.plan.steps.len(),
            done: past.done.len(),
        });
        Ok(run.last(async |run: &Arc<Run>| run.go_on(how, &past).await).await)
    }

    /// The holds that a run had released at its end: they are in force again once it is rolled back.
    fn held_before(&self, plan: &Plan, past: &Past, run: &RunId, operator: &str) -> Vec<Hold> {
        let released = past.released.iter().filter(|kind| plan.releases.contains(kind));
        let by = operator.split(' ').next().unwrap_or(operator).to_owned();
        let reason = Some(format!("the run that released it, {run}, is rolled back"));
        released
            .map(|kind| Hold {
                kind: kind.clone(),
                by: by.clone(),
                since: self.clock.now(),
                reason: reason.clone(),
                review_by: None,
                run: run.clone(),
            })
            .collect()
    }
}

impl Run {
    async fn go_on(self: &Arc<Self>, how: How, past: &Past) -> Option<Trouble> {
        if let Some(trouble) = self.settle(&past.open).await {
            return Some(trouble);
        }
        match how {
            How::Settle => self.carry_out(Some(Trouble::Stopped)).await,
            How::Rollback => self.roll_back().await,
            How::Resume => {
                // Slots, checkpoints and temporary settings are made anew right before they are needed.
                if let Err(why) = self.take_back_preparations().await {
                    let why = format!("preparations could not be taken back: {why}");
                    return Some(Trouble::Stuck(StepId("preparations".to_owned()), why));
                }
                let done = self.log().all_done();
                for again in done.difference(&self.plan.settled(&done)) {
                    self.log().forget(again);
                }
                self.carry_out(None).await
            }
        }
    }
}
