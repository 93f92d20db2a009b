//! Taking a section back, and the cases in which that is not possible any more.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::run::{Run, Trouble, worse};
use super::section::{Ended, Section, acts_on, fenced};
use super::step::{Acted, NotDone};
use crate::event::Event;
use crate::journal::Record;
use crate::model::{Action, Condition, Peer, Role, TargetId};
use crate::plan::{Assumption, Step, StepId, Undo, Work};

impl Run {
    /// Undoes a section, unless the point of no return was passed.
    pub(super) async fn backward(&self, section: &mut Section<'_>, failed: StepId, failure: NotDone) -> Ended {
        let why = failure.why;
        let record =
            Record::StepFailed { step: failed.clone(), unknown: failure.acted == Acted::Unknown, why: why.clone() };
        let stuck = |text: String| Trouble::Stuck(failed.clone(), format!("{why}; {text}"));
        let step = section.steps.iter().find(|step| step.id == failed);
        let mut withdrawn = None;
        let trouble = match (section.committed, step.filter(|step| step.point_of_no_return), failure.acted) {
            (true, None, _) => Some(stuck(
                "the new primary has taken over, so there is only forward: repair the target, then `handover plan`, which lets \
                 clients go on (by hand: RELOAD and RESUME at the poolers)"
                    .to_owned(),
            )),
            (true, Some(step), Acted::Yes | Acted::Unknown) => match self.withdraw(section, step).await {
                Ok(candidate) => {
                    withdrawn = candidate;
                    None
                }
                Err(text) => Some(stuck(text)),
            },
            _ => None,
        };
        if let Some(trouble) = trouble {
            return Ended { trouble: self.recorded(record, trouble).await, again: false };
        }
        if let Err(text) = self.undo_section(section).await {
            let text = format!("undoing failed: {text}; {}", waiting(section));
            return Ended { trouble: self.recorded(record, stuck(text)).await, again: false };
        }
        self.clients_go_on(section);
        let mut told = format!("{why}; the section was undone");
        if let Some((candidate, old)) = withdrawn {
            told += &self.follow_again(section, &candidate, &old).await;
        }
        let pausing = step.is_some_and(|step| matches!(&step.work, Work::Act { action: Action::Pause { .. }, .. }));
        let trouble = self.recorded(record, Trouble::Failed(failed, told)).await;
        Ended { again: pausing && failure.acted == Acted::No, trouble }
    }

    /// Records what happened; if that fails too, the graver trouble stays.
    async fn recorded(&self, record: Record, trouble: Trouble) -> Trouble {
        match self.record(record).await {
            Ok(()) => trouble,
            Err(lost) => worse(Some(trouble), lost),
        }
    }

    /// A promotion of which nobody knows whether it happened: the candidate must be out before the old primary may return.
    async fn withdraw(&self, section: &Section<'_>, step: &Step) -> Result<Option<(Peer, Peer)>, String> {
        let peer = |id| {
            let target = self.engine.target(id).ok()?;
            Some(Peer { member: target.id.clone(), address: target.address.clone() })
        };
        let (candidate, old) = (acts_on(step).and_then(peer), fenced(section.steps).and_then(peer));
        let (Some(candidate), Some(old)) = (candidate, old) else { return Ok(None) };
        let name = candidate.member.name().to_owned();
        self.tell(Event::Warning {
            text: format!("{name}: promotion undecided; it is stopped before the old primary returns"),
        });
        let deadline = Instant::now() + super::undo::DEADLINE;
        let out = async {
            let action = Action::Withdraw { successor: old.clone() };
            self.apply(&candidate.member, &action, &section.permit, deadline).await?;
            let condition = Condition::Role { role: Role::Fenced, lineage: None };
            self.engine.verify(&Assumption { target: candidate.member.clone(), condition }, deadline).await
        };
        match out.await {
            Ok(_) => Ok(Some((candidate, old))),
            Err(why) => Err(format!(
                "{name} may or may not be primary and could not be stopped ({why}): clients still wait; stop it by hand, \
                 then start {} as primary and RESUME the poolers",
                old.member.name()
            )),
        }
    }

    /// A candidate that was withdrawn follows the old primary again, if its history allows; what is to be told about it.
    async fn follow_again(&self, section: &Section<'_>, candidate: &Peer, old: &Peer) -> String {
        let deadline = Instant::now() + super::undo::DEADLINE;
        let following = async {
            let action = Action::Rejoin { primary: old.clone() };
            self.apply(&candidate.member, &action, &section.permit, deadline).await?;
            let condition = Condition::Follows { primary: old.clone() };
            self.engine.verify(&Assumption { target: candidate.member.clone(), condition }, deadline).await
        };
        match following.await {
            Ok(_) => format!("; {} follows {} again", candidate.member.name(), old.member.name()),
            Err(why) => format!("; {} stays stopped and must be rebuilt: {why}", candidate.member.name()),
        }
    }

    /// Undoes what was begun and may have acted, the last level first, each level in parallel, under the section's own permit. One
    /// that fails does not keep the others back, but for this: clients go on only where their primary is back.
    async fn undo_section(&self, section: &Section<'_>) -> Result<(), String> {
        let mut levels: BTreeMap<usize, Vec<&Step>> = BTreeMap::new();
        let depths = depths(section.steps);
        for step in section.steps {
            let begun = section.phases.contains_key(&step.id) || section.prepared.contains(&step.id);
            let begun = begun && !section.untouched.contains(&step.id);
            if begun && matches!(step.undo, Undo::Act { .. }) {
                levels.entry(depths.get(&step.id).copied().unwrap_or_default()).or_default().push(step);
            }
        }
        let (mut wrong, mut no_primary) = (Vec::new(), false);
        for steps in levels.into_values().rev() {
            if no_primary {
                break;
            }
            let results = steps.iter().map(|step| self.undo(step, &section.permit));
            for (step, result) in steps.iter().zip(futures_util::future::join_all(results).await) {
                if let Err(why) = result {
                    no_primary |= matches!(&step.work, Work::Act { action: Action::Fence { .. }, .. });
                    wrong.push(why);
                }
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Takes back every step that was done and can be taken back, the last level first, each level in parallel and unramped; one that
    /// fails does not keep the others back.
    pub(super) async fn take_back_all(&self) -> Result<(), String> {
        let steps = self.plan.steps.iter();
        self.take_back_steps(steps.collect()).await
    }

    /// Takes back the preparations of switchovers that did not come to their point of no return.
    pub(super) async fn take_back_preparations(&self) -> Result<(), String> {
        let done = |id: &StepId| self.log().outcome(id) == crate::event::StepOutcome::Done;
        let idle =
            self.plan.steps.iter().filter(|step| step.point_of_no_return && !done(&step.id)).map(|step| step.stage);
        let idle: std::collections::BTreeSet<usize> = idle.collect();
        let prepared = self.plan.steps.iter().filter(|step| step.section.is_none() && idle.contains(&step.stage));
        let prepared: Vec<&Step> = prepared.collect();
        // What failed may be there all the same, such as a replica that is pointed elsewhere and does not stream. That its target
        // cannot be reached is no news then: the run has failed because of it.
        let half_done = prepared.iter().filter(|step| self.log().is_half_done(&step.id));
        let half_done: Vec<&&Step> = half_done.filter(|step| matches!(step.undo, Undo::Act { .. })).collect();
        let results = futures_util::future::join_all(half_done.iter().map(|step| self.take_back(step))).await;
        for (step, result) in half_done.into_iter().zip(results) {
            if let Err(why) = result {
                self.tell(Event::Warning { text: format!("{}: could not be taken back: {why}", step.title) });
            }
        }
        self.take_back_steps(prepared).await
    }

    async fn take_back_steps(&self, steps: Vec<&Step>) -> Result<(), String> {
        let depths = depths(&self.plan.steps);
        let mut levels: BTreeMap<usize, Vec<&Step>> = BTreeMap::new();
        for step in steps {
            let done = self.log().outcome(&step.id) == crate::event::StepOutcome::Done;
            if done && matches!(step.undo, Undo::Act { .. }) {
                levels.entry(depths.get(&step.id).copied().unwrap_or_default()).or_default().push(step);
            }
        }
        let mut wrong = Vec::new();
        for steps in levels.into_values().rev() {
            let results = futures_util::future::join_all(steps.into_iter().map(|step| self.take_back(step))).await;
            wrong.extend(results.into_iter().filter_map(Result::err));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }
}

/// Who may still be held back after an undo that failed, and what lets them go on.
fn waiting(section: &Section<'_>) -> String {
    let pauses = |step: &&Step| matches!(&step.work, Work::Act { action: Action::Pause { .. }, .. });
    let poolers: Vec<&str> = section.steps.iter().filter(pauses).filter_map(acts_on).map(TargetId::name).collect();
    match (fenced(section.steps), poolers.is_empty()) {
        (Some(old), false) => format!(
            "clients may still wait: see that {} runs as primary, then RESUME at {}",
            old.name(),
            crate::model::text::list(&poolers)
        ),
        _ => "see how things are with `handover status`".to_owned(),
    }
}

/// How many steps come before each, along the longest way.
pub(super) fn depths(steps: &[Step]) -> BTreeMap<&StepId, usize> {
    let mut depths: BTreeMap<&StepId, usize> = BTreeMap::new();
    for step in steps {
        let depth = step.needs.iter().filter_map(|need| depths.get(need)).max().map_or(0, |depth| depth + 1);
        depths.insert(&step.id, depth);
    }
    depths
}
