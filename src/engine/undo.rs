//! Taking a step back. An undo acts only where live equals what we set: the action carries it as `from`.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::run::Run;
use crate::event::{Event, StepOutcome};
use crate::journal::{Permit, Record};
use crate::model::{Condition, Observed, TargetId};
use crate::plan::{Assumption, Step, Undo, Work};
use crate::provider::Outcome;

/// How long an undo of one step may take: a deadline of its own, so that an expired caller cannot cause half an undo.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// How long is looked at the target before an undo that was refused is said again.
const AGAIN: Duration = Duration::from_millis(500);

/// How long is looked at the target after an undo that was done.
const SHOWING: Duration = Duration::from_secs(10);

impl Run {
    /// Takes one step back under a permit of its own.
    pub(super) async fn take_back(&self, step: &Step) -> Result<(), String> {
        let Undo::Act { action, .. } = &step.undo else { return Ok(()) };
        let record = Record::UndoStarted { step: step.id.clone(), intended: action.clone() };
        let permit = self.journal.start([step.id.clone()].into(), record).await.map_err(|why| why.to_string())?;
        let undone = self.undo(step, &permit).await;
        let record = match &undone {
            Ok(()) => Record::UndoDone { step: step.id.clone() },
            Err(why) => Record::UndoFailed { step: step.id.clone(), why: why.clone() },
        };
        self.journal.record(record).await.map_err(|why| why.to_string())?;
        undone
    }

    /// Takes one step back under a permit that covers it. What the target answers matters less than what it is afterwards.
    pub(super) async fn undo(&self, step: &Step, permit: &Permit) -> Result<(), String> {
        let (Undo::Act { action, after }, Work::Act { target, .. }) = (&step.undo, &step.work) else { return Ok(()) };
        self.tell(Event::UndoStarted { step: step.id.clone(), title: step.title.clone() });
        let began = Instant::now();
        let mut kept = self.keep(target, action).await;
        let deadline = Instant::now() + DEADLINE;
        let demanded = Assumption { target: target.clone(), condition: after.clone() };
        let result = loop {
            let outcome = self.apply(target, action, permit, deadline).await;
            // What certainly did nothing may be said again: a member that is starting up will listen in a moment. So may what was done and
            // does not show: something that was on its way to the target has come after it.
            let patience = match outcome {
                Ok(Outcome::NotApplied(_)) => Some(AGAIN),
                Ok(Outcome::Applied | Outcome::Seen(_)) => Some(SHOWING),
                Ok(Outcome::Unknown(_)) | Err(_) => None,
            };
            let again = patience.is_some();
            let until = patience.map_or(deadline, |patience| deadline.min(Instant::now() + patience));
            let why = match self.engine.verify(&demanded, until).await {
                Ok(facts) => {
                    if let Some(kept) = &mut kept {
                        kept.set(&step.id, action);
                    }
                    self.warn_unsaved(target, &facts);
                    break self.undone_elsewhere(step, &demanded, deadline).await;
                }
                Err(why) => why,
            };
            if !again || Instant::now() >= deadline {
                break Err(match outcome {
                    Ok(Outcome::Applied | Outcome::Seen(_)) => why,
                    Ok(Outcome::NotApplied(cause)) => format!("{why}; taking it back was refused: {cause}"),
                    Ok(Outcome::Unknown(cause)) => format!("{why}; whether it was taken back is not known: {cause}"),
                    Err(cause) => format!("{why}; {cause}"),
                });
            }
            // A proxy that comes back only now has forgotten what the undo starts from.
            if let Some(kept) = &mut kept {
                self.set_again(target, kept).await;
            }
        };
        let (id, title, took) = (step.id.clone(), step.title.clone(), began.elapsed());
        match &result {
            Ok(()) => {
                self.log().undone(&id, StepOutcome::Undone);
                self.log().whole_again(&id);
                self.tell(Event::UndoDone { step: id, title, took });
            }
            Err(why) => {
                self.log().undone(&id, StepOutcome::UndoFailed);
                self.tell(Event::UndoFailed { step: id, title, why: why.clone() });
            }
        }
        result
    }

    /// Record sets that were taken back are looked at on every other server that the step itself looks at. One that does not answer
    /// misleads no resolver: that is told, and keeps nothing from being taken back.
    async fn undone_elsewhere(&self, step: &Step, undone: &Assumption, deadline: Instant) -> Result<(), String> {
        if !matches!(undone.condition, Condition::Records { .. }) {
            return Ok(());
        }
        let others: BTreeSet<TargetId> =
            step.after.iter().map(|after| after.target.clone()).filter(|id| *id != undone.target).collect();
        let mut demanded = Vec::new();
        for (target, observed) in self.engine.observe_only(&others).await {
            match observed {
                Observed::Known { .. } => demanded.push(Assumption { target, condition: undone.condition.clone() }),
                Observed::Unreachable(why) => {
                    let (own, name) = (undone.target.name(), target.name());
                    let text =
                        format!("{own} was set back, and {name}, which gets the zone from it, does not answer: {why}");
                    self.tell(Event::Warning { text });
                }
            }
        }
        self.check_after(&demanded, deadline).await.map(drop)
    }
}
