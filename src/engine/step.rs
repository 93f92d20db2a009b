//! One step: check what it assumes, record the intent durably, act, verify, record the outcome.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{Run, Trouble};
use crate::event::{Event, StepOutcome, WaitCause};
use crate::journal::{Permit, Record, StoreError};
use crate::model::{Action, Condition, Facts, Live, TargetId, Unreachable};
use crate::plan::{Assumption, Step, Undo, Work, live};
use crate::provider::Outcome;

/// How much longer than its deadline a provider may take before it is given up: it should have ended by itself.
const GRACE: Duration = Duration::from_millis(250);

/// How far an attempt came that ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acted {
    /// Nothing was touched.
    No,
    /// It acted, and what should follow did not.
    Yes,
    /// It is not known whether it acted.
    Unknown,
}

/// How an attempt to act ended badly.
pub(super) struct NotDone {
    /// Why, with the target.
    pub(super) why: String,
    /// How far it came.
    pub(super) acted: Acted,
}

impl Run {
    /// Carries out a step that belongs to no section.
    pub(super) async fn step(self: &Arc<Self>, step: &Step) -> Result<(), Trouble> {
        self.begin(step);
        let began = Instant::now();
        let result = match &step.work {
            Work::Act { target, action } => self.act_alone(step, target, action).await,
            Work::Gate { gate } => self.gate(step, gate).await,
            Work::Wait { wait } => self.wait(step, wait).await,
            Work::Verify => self.verify_only(step).await,
            Work::Release { hold } => Ok(format!("it ends with the run: {}", hold.what())),
        };
        match result {
            Ok(verified) => {
                self.record(Record::StepDone { step: step.id.clone(), verified: verified.clone() }).await?;
                self.done(step, began.elapsed(), verified);
                Ok(())
            }
            Err(trouble) => {
                let (why, unknown) = match &trouble {
                    Trouble::Stopped | Trouble::RolledBack => ("it stopped with the run".to_owned(), false),
                    Trouble::Held(_, why) | Trouble::Retreat(_, why) | Trouble::Failed(_, why) => (why.clone(), false),
                    Trouble::Stuck(_, why) | Trouble::Store(why) => (why.clone(), true),
                };
                self.failed(step, began.elapsed(), &why, unknown).await;
                Err(trouble)
            }
        }
    }

    async fn act_alone(self: &Arc<Self>, step: &Step, target: &TargetId, action: &Action) -> Result<String, Trouble> {
        let failed = |why: String| Trouble::Failed(step.id.clone(), why);
        let mut kept = self.keep(target, action).await;
        if let Some(kept) = &mut kept {
            self.set_again(target, kept).await;
        }
        let begun = self.log().is_half_done(&step.id);
        // What was set at a proxy may not have been saved there: that is done again with it, from wherever it is.
        let repeats = begun && matches!(action, Action::SetShare { .. });
        if begun && !repeats && self.is_done_now(step).await {
            return Ok("was so already".to_owned());
        }
        let mut ready = match repeats {
            true => Ok(()),
            false => self.check_before(std::slice::from_ref(step)).await,
        };
        if let (Some(kept), Err(_)) = (&mut kept, &ready)
            && self.set_again(target, kept).await
        {
            // It came back from a restart meanwhile.
            ready = self.check_before(std::slice::from_ref(step)).await;
        }
        if let Err(why) = ready {
            // What a step should do may have been done already: by an earlier run, or by hand.
            match self.check_after(&step.after, Instant::now() + self.engine.timeout).await {
                Ok(_) if !step.after.is_empty() => {
                    if let Some(kept) = &mut kept {
                        kept.set(&step.id, action);
                    }
                    return Ok("was so already".to_owned());
                }
                // An earlier process of this run was killed in the middle of it.
                _ if begun => {
                    drop(kept.take());
                    self.start_again(step).await.map_err(failed)?;
                    kept = self.keep(target, action).await;
                }
                _ => return Err(failed(why)),
            }
        }
        let intended = Some(action.clone());
        let assumed = if repeats { Vec::new() } else { step.before.clone() };
        let record = Record::StepStarted { step: step.id.clone(), assumed, intended };
        let permit = self.permit(std::slice::from_ref(step), record).await?;
        let deadline = Instant::now() + step.deadline.0;
        let began = Instant::now();
        let mut attempt = self.act(step, target, action, &permit, deadline, self.engine.timeout).await;
        if let (Some(kept), Err(NotDone { acted: Acted::No, .. })) = (&mut kept, &attempt)
            && self.back_again(step, target, kept, deadline).await
        {
            // It was restarting just then, and certainly took nothing.
            attempt = self.act(step, target, action, &permit, deadline, self.engine.timeout).await;
        }
        if let (Some(kept), Err(NotDone { acted: Acted::Yes, .. })) = (&mut kept, &attempt) {
            // It took it, and may have been restarted before that could be read.
            kept.set_at(&step.id, action, began);
            if self.set_again(target, kept).await {
                let verified = self.check_after(&step.after, Instant::now() + self.engine.timeout).await;
                attempt = verified.map_err(|why| NotDone { why, acted: Acted::Yes });
            }
        }
        match attempt {
            Ok(facts) => {
                if let Some(kept) = &mut kept {
                    kept.set(&step.id, action);
                }
                facts.iter().for_each(|facts| self.warn_unsaved(target, facts));
                Ok(verified(step, &facts))
            }
            Err(NotDone { why, acted: Acted::No }) => Err(failed(format!("{why}; nothing was touched by this step"))),
            Err(NotDone { why, acted: Acted::Yes }) => {
                self.log().half_done(&step.id);
                Err(failed(why))
            }
            Err(NotDone { why, acted: Acted::Unknown }) => {
                self.log().half_done(&step.id);
                Err(failed(format!("{why}; it is not known whether it acted")))
            }
        }
    }

    /// Everything that a step should bring about is so now: an earlier process of this run may have done it.
    async fn is_done_now(&self, step: &Step) -> bool {
        let live = self.engine.observe_only(&step.after.iter().map(|after| after.target.clone()).collect()).await;
        is_done(step, &live).is_ok()
    }

    /// Brings a step that was begun and not ended back to where it begins: taken back where that is possible. Where it is not, the step
    /// is carried out from where it is, since every action can be repeated.
    async fn start_again(&self, step: &Step) -> Result<(), String> {
        if !matches!(step.undo, Undo::Act { .. }) {
            return Ok(());
        }
        self.take_back(step).await?;
        self.check_before(std::slice::from_ref(step)).await
    }

    /// Leave to act, after the intent is durable.
    pub(super) async fn permit(&self, steps: &[Step], record: Record) -> Result<Permit, Trouble> {
        let ids: BTreeSet<_> = steps.iter().map(|step| step.id.clone()).collect();
        self.journal.start(ids, record).await.map_err(lost)
    }

    /// Records durably, after what the operator was told since the last time; a store that fails ends the run.
    pub(super) async fn record(&self, record: Record) -> Result<(), Trouble> {
        self.record_told().await?;
        self.journal.record(record).await.map_err(lost)
    }

    /// Records what the operator was told and is not recorded yet. Never between a pause and the end of its section.
    pub(super) async fn record_told(&self) -> Result<(), Trouble> {
        let told = self.log().not_recorded();
        for text in told {
            self.journal.record(Record::Told { text }).await.map_err(lost)?;
        }
        Ok(())
    }

    /// Acts and verifies. An unknown outcome is resolved by observing, at least for the time of a `look`, never by trying again blindly.
    pub(super) async fn act(
        &self,
        step: &Step,
        target: &TargetId,
        action: &Action,
        permit: &Permit,
        deadline: Instant,
        look: Duration,
    ) -> Result<Vec<Facts>, NotDone> {
        let not_done = |why: String, acted| NotDone { why: format!("{}: {why}", target.name()), acted };
        self.log().touched();
        let outcome = match self.apply(target, action, permit, deadline).await {
            Ok(outcome) => outcome,
            Err(why) => return Err(not_done(why, Acted::No)),
        };
        let verifying = Instant::now();
        let verified = match outcome {
            Outcome::NotApplied(why) => return Err(not_done(why.to_string(), Acted::No)),
            Outcome::Applied => self.check_after(&step.after, deadline).await,
            Outcome::Seen(facts) => {
                self.tell_diverged(target, &facts);
                self.check_seen(target, &facts, &step.after, deadline).await
            }
            Outcome::Unknown(why) => {
                let seen = self.check_after(&step.after, deadline.max(Instant::now() + look)).await;
                match seen {
                    Ok(facts) if !step.after.is_empty() => Ok(facts),
                    Ok(_) => return Err(not_done(why.to_string(), Acted::Unknown)),
                    Err(found) => return Err(not_done(format!("{why}; {found}"), Acted::Unknown)),
                }
            }
        };
        self.log().waited(&step.id, cause_of(action), verifying.elapsed());
        verified.map_err(|why| NotDone { why, acted: Acted::Yes })
    }

    /// Hands an action to its provider, bounded a little beyond its deadline.
    ///
    /// # Errors
    /// If the target or its provider is not known here: nothing was done.
    pub(super) async fn apply(
        &self,
        id: &TargetId,
        action: &Action,
        permit: &Permit,
        deadline: Instant,
    ) -> Result<Outcome, String> {
        let target = self.engine.target(id)?;
        let provider = self.engine.registry.of(&target).map_err(|why| why.to_string())?;
        match tokio::time::timeout_at(deadline + GRACE, provider.apply(&target, action, permit, deadline)).await {
            Ok(outcome) => Ok(outcome),
            Err(_) => Ok(no_end(id, action)),
        }
    }

    /// Lets a provider do ahead of an action's turn what it can.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub(super) async fn apply_ahead(
        &self,
        id: &TargetId,
        action: &Action,
        permit: &Permit,
        deadline: Instant,
    ) -> Result<Option<Outcome>, String> {
        let target = self.engine.target(id)?;
        let provider = self.engine.registry.of(&target).map_err(|why| why.to_string())?;
        match tokio::time::timeout_at(deadline + GRACE, provider.prepare(&target, action, permit, deadline)).await {
            Ok(outcome) => Ok(outcome),
            Err(_) => Ok(Some(no_end(id, action))),
        }
    }

    /// Checks what steps assume, all in parallel; right before acting.
    pub(super) async fn check_before(&self, steps: &[Step]) -> Result<(), String> {
        let deadline = Instant::now() + self.engine.timeout;
        let before: Vec<Assumption> = steps.iter().flat_map(|step| step.before.iter().cloned()).collect();
        self.check_after(&before, deadline).await.map(drop)
    }

    /// Verifies conditions, all in parallel; every one that does not hold is in the message.
    pub(super) async fn check_after(&self, conditions: &[Assumption], deadline: Instant) -> Result<Vec<Facts>, String> {
        let verified =
            futures_util::future::join_all(conditions.iter().map(|one| self.engine.verify(one, deadline))).await;
        let (mut facts, mut wrong) = (Vec::new(), Vec::new());
        for result in verified {
            match result {
                Ok(found) => facts.push(found),
                Err(why) => wrong.push(why),
            }
        }
        if wrong.is_empty() { Ok(facts) } else { Err(wrong.join("; ")) }
    }

    /// The same after `target` has just been read: only what these facts do not show is asked for.
    async fn check_seen(
        &self,
        target: &TargetId,
        facts: &Facts,
        conditions: &[Assumption],
        deadline: Instant,
    ) -> Result<Vec<Facts>, String> {
        let shown = |one: &Assumption| one.target == *target && one.condition.holds(facts).is_ok();
        let open: Vec<Assumption> = conditions.iter().filter(|one| !shown(one)).cloned().collect();
        let mut read = self.check_after(&open, deadline).await?;
        if open.len() < conditions.len() {
            read.push(facts.clone());
        }
        Ok(read)
    }

    /// Tells what a rebuilt member had that is in no history any more, and where that is kept.
    fn tell_diverged(&self, target: &TargetId, facts: &Facts) {
        if let Some(diverged) = facts.member().and_then(|facts| facts.diverged.as_ref()) {
            self.tell(Event::Warning { text: format!("{}: {diverged}", target.name()) });
        }
    }

    async fn verify_only(&self, step: &Step) -> Result<String, Trouble> {
        let deadline = Instant::now() + step.deadline.0;
        match self.check_after(&step.after, deadline).await {
            Ok(facts) => Ok(verified(step, &facts)),
            Err(why) => Err(Trouble::Failed(step.id.clone(), why)),
        }
    }

    /// Tells that a step begins.
    pub(super) fn begin(&self, step: &Step) {
        let opened = self.log().begin(step, self.elapsed());
        if opened && let Some(stage) = self.plan.stages.get(step.stage) {
            let steps = self.plan.steps.iter().filter(|other| other.stage == step.stage).count();
            self.tell(Event::StageStarted { stage: step.stage, title: stage.title.clone(), steps });
        }
        self.tell(Event::StepStarted { step: step.id.clone(), title: step.title.clone(), expected: step.expected.0 });
    }

    /// Tells that a step was done.
    pub(super) fn done(&self, step: &Step, took: Duration, verified: String) {
        let closed = self.log().end(&step.id, StepOutcome::Done, took);
        self.tell(Event::StepDone { step: step.id.clone(), title: step.title.clone(), took, verified });
        if let (Some(took), Some(stage)) = (closed, self.plan.stages.get(step.stage)) {
            self.tell(Event::StageEnded { stage: step.stage, title: stage.title.clone(), took });
        }
        self.redundant_again(step);
    }

    /// Tells and records that a step failed; that this cannot be recorded changes nothing any more.
    pub(super) async fn failed(&self, step: &Step, took: Duration, why: &str, unknown: bool) {
        let outcome = if unknown { StepOutcome::Unknown } else { StepOutcome::Failed };
        self.log().end(&step.id, outcome, took);
        let (id, title, text) = (step.id.clone(), step.title.clone(), why.to_owned());
        self.tell(Event::StepFailed { step: id.clone(), title, took, unknown, why: text.clone() });
        let record = Record::StepFailed { step: id, unknown, why: text };
        if let Err(why) = self.journal.record(record).await {
            self.tell(Event::Warning { text: why.to_string() });
        }
    }

    /// The end of a database's window without redundancy: its new primary has all followers again.
    fn redundant_again(&self, step: &Step) {
        let redundant = |assumption: &Assumption| matches!(assumption.condition, Condition::Redundant { .. });
        let Some(assumption) = step.after.iter().find(|assumption| redundant(assumption)) else { return };
        let database = assumption.target.scope().unwrap_or_default().into();
        if let Some(without) = self.log().redundant(&database, self.elapsed()) {
            self.tell(Event::RedundancyRestored { database, without });
        }
    }
}

/// Everything that a step should bring about is so, as far as what was observed shows it.
///
/// # Errors
/// What is different.
pub(super) fn is_done(step: &Step, live: &Live) -> Result<(), String> {
    if step.after.is_empty() {
        return Err("nothing shows it".to_owned());
    }
    step.after.iter().try_for_each(|after| {
        let facts = live::facts(live, &after.target).map_err(|why| why.to_string())?;
        after.condition.holds(facts).map_err(|found| found.to_string())
    })
}

fn no_end(id: &TargetId, action: &Action) -> Outcome {
    Outcome::Unknown(Unreachable::new("no end by the deadline", format!("{} at {id}", action.verb())))
}

fn lost(why: StoreError) -> Trouble {
    Trouble::Store(why.to_string())
}

fn cause_of(action: &Action) -> WaitCause {
    match action {
        Action::Rejoin { .. } | Action::Rebuild { .. } | Action::CatchUp { .. } => WaitCause::Replication,
        _ => WaitCause::Verification,
    }
}

/// What the verification saw, as a fragment; the journal has the conditions themselves.
fn verified(step: &Step, facts: &[Facts]) -> String {
    match step.after.as_slice() {
        [] => "answered".to_owned(),
        [one] => match &one.condition {
            Condition::Servers { .. } | Condition::Records { .. } | Condition::Native { .. } => "read back".to_owned(),
            condition => format!("{} {}", one.target.name(), crate::model::text::condition(condition)),
        },
        several => format!("read back: {} conditions hold at {} targets", several.len(), facts.len()),
    }
}
