//! Ending the sections that a dead process left open. What the journal says of them is what was intended; what they are is read from their
//! targets. Before the durable intent to promote nothing can have been promoted, and everything is undone; after it the section is
//! completed where the fence still stands, and undone only once the candidate is certainly out (`docs/safety.md` S1).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{Run, Trouble, worse};
use super::section::{Section, acts_on, fenced};
use super::step::{Acted, NotDone, is_done};
use crate::event::{Event, StepOutcome};
use crate::journal::Open;
use crate::model::{Action, Condition, Facts, Live, Position, Role, TargetId};
use crate::plan::{Assumption, Step, StepId, Undo, Work, live};
use crate::provider::Outcome;

/// How long is waited until what a dead process has said is called off at a target.
const CALLING_OFF: Duration = Duration::from_secs(10);

/// How soon that is tried again where it certainly did nothing.
const AGAIN: Duration = Duration::from_millis(100);

/// After this long is looked again whether a word of the dead process, still on its way when it died, has come in between.
const LATE: Duration = Duration::from_millis(1_500);

/// How long looking again may take where nothing has changed.
const LOOK: Duration = Duration::from_millis(500);

impl Run {
    /// Ends every open section, all at the same time; what cannot be ended is a trouble.
    pub(super) async fn settle(self: &Arc<Self>, open: &[Open]) -> Option<Trouble> {
        let settling = open.iter().map(|open| async move {
            let steps = self.plan.steps.iter().filter(|step| open.steps.contains(&step.id));
            let steps: Vec<Step> = steps.cloned().collect();
            self.settle_section(open, &steps).await
        });
        let ended = futures_util::future::join_all(settling).await;
        ended.into_iter().filter_map(Result::err).fold(None, |old, new| Some(worse(old, new)))
    }

    async fn settle_section(self: &Arc<Self>, open: &Open, steps: &[Step]) -> Result<(), Trouble> {
        // Clients may wait already: they are freed with or without somebody who would do so in this one's place.
        if let Err(text) = self.arm(steps).await {
            self.tell(Event::Warning { text });
        }
        let ended = self.settle_armed(open, steps).await;
        self.disarm(steps).await;
        ended
    }

    async fn settle_armed(self: &Arc<Self>, open: &Open, steps: &[Step]) -> Result<(), Trouble> {
        let name = &open.section;
        let mut section = self.open_section(steps, Vec::new()).await?;
        section.inherited = true;
        // Before the intent to promote only a fence may be under way at a machine, and its undo calls that off.
        if open.committed {
            self.call_off(&section, open).await;
        }
        let live = self.engine.observe_only(&steps.iter().filter_map(acts_on).cloned().collect()).await;
        match steps.iter().find(|step| step.point_of_no_return) {
            Some(promote) if open.committed => self.settle_promotion(&mut section, open, promote, &live).await,
            None if steps.iter().all(|step| is_done(step, &live).is_ok()) => {
                self.tell(Event::Warning { text: format!("{name}: its process died when all of it was done") });
                steps.iter().for_each(|step| self.found_done(step, open.began));
                self.record_section(&section, Some(true)).await
            }
            promote => {
                self.tell(Event::Warning {
                    text: format!("{name}: its process died in the middle of it; it is undone"),
                });
                let first = steps.first().map_or_else(|| StepId(name.clone()), |step| step.id.clone());
                let failure = NotDone { why: "its process died".to_owned(), acted: Acted::No };
                section.begun_before(promote, open.began);
                self.undo_open(&mut section, (first, failure)).await
            }
        }
    }

    /// Calls off what the dead process has said to the targets and is not done yet. Where that is not possible it is waited until that is
    /// too late to begin.
    async fn call_off(&self, section: &Section<'_>, open: &Open) {
        let targets: BTreeSet<&TargetId> = section.steps.iter().filter_map(acts_on).collect();
        let deadline = Instant::now() + CALLING_OFF;
        let calling = targets.into_iter().map(|id| async move {
            let target = self.engine.target(id)?;
            let provider = self.engine.registry.of(&target).map_err(|why| why.to_string())?;
            loop {
                match provider.supersede(&target, &section.permit, deadline).await {
                    Outcome::Applied | Outcome::Seen(_) => return Ok(()),
                    Outcome::NotApplied(_) if Instant::now() + AGAIN < deadline => tokio::time::sleep(AGAIN).await,
                    Outcome::NotApplied(why) | Outcome::Unknown(why) => return Err(format!("{}: {why}", id.name())),
                }
            }
        });
        let failed = futures_util::future::join_all(calling).await.into_iter().filter_map(Result::err);
        let failed: Vec<String> = failed.collect();
        if !failed.is_empty() {
            let what = "what the dead process has said there cannot be called off; it is waited until that is too late";
            self.tell(Event::Warning { text: format!("{}: {what}: {}", open.section, failed.join("; ")) });
            tokio::time::sleep((open.began + CALLING_OFF).saturating_sub(self.elapsed())).await;
        }
    }

    /// A pause or a route that was on its way when the process died may have come after what ended its section: that is said again.
    pub(super) async fn look_again(&self, section: &Section<'_>, done: bool) -> Result<(), Trouble> {
        tokio::time::sleep(LATE).await;
        let looking =
            section.steps.iter().filter(|step| section.phases.contains_key(&step.id)).map(|step| async move {
                let Work::Act { target, action } = &step.work else { return Ok(()) };
                let wanted = match (&step.undo, done) {
                    (Undo::Act { after, .. }, false) => {
                        vec![Assumption { target: target.clone(), condition: after.clone() }]
                    }
                    (_, false) => return Ok(()),
                    (_, true) if matches!(action, Action::Redirect { .. }) => step.after.clone(),
                    (_, true) => return Ok(()),
                };
                if self.check_after(&wanted, Instant::now() + LOOK).await.is_ok() {
                    return Ok(());
                }
                let again = match done {
                    false => self.undo(step, &section.permit).await,
                    true => {
                        let deadline = Instant::now() + step.deadline.0;
                        let acted =
                            self.act(step, target, action, &section.permit, deadline, self.engine.timeout).await;
                        acted.map(drop).map_err(|failed| failed.why)
                    }
                };
                again.map_err(|why| {
                    Trouble::Stuck(step.id.clone(), format!("it changed again after its section had ended: {why}"))
                })
            });
        let looked = futures_util::future::join_all(looking).await;
        looked.into_iter().filter_map(Result::err).fold(None, |old, new| Some(worse(old, new))).map_or(Ok(()), Err)
    }

    /// After the durable intent to promote.
    async fn settle_promotion(
        self: &Arc<Self>,
        section: &mut Section<'_>,
        open: &Open,
        promote: &Step,
        live: &Live,
    ) -> Result<(), Trouble> {
        let name = &open.section;
        section.committed = true;
        let promoted = is_done(promote, live).is_ok();
        let old = fenced(section.steps).map(TargetId::name).unwrap_or_default();
        let stuck = |text: String| Err(Trouble::Stuck(promote.id.clone(), text));
        let back = match (promoted, fence_of(section.steps, live)) {
            (true, Fence::Broken { primary: true, .. }) => {
                return stuck(format!(
                    "the new primary has taken over, and {old} runs as primary too: stop {old} at once, then `handover apply --resume`"
                ));
            }
            // The intent was recorded after the fence was verified, and only a withdrawal of the candidate comes before its undo.
            (true, Fence::Broken { .. } | Fence::Unseen(_)) => None,
            (_, Fence::Stands(position)) => {
                section.fenced_at = position;
                // One that a withdrawal has stopped, for example.
                (!promoted && !is_replica(promote, live)).then(|| "the candidate is no running replica".to_owned())
            }
            (false, Fence::Broken { why, .. }) => Some(why),
            // It may have been undone already: then it is primary.
            (false, Fence::Unseen(why)) => {
                return stuck(format!(
                    "whether {old} is still fenced cannot be seen ({why}), so that nobody may be made primary and clients still wait: once \
                     {old} or its machine answers, `handover apply --resume`"
                ));
            }
        };
        if let Some(why) = back {
            let text =
                format!("{name}: its process died at the promotion, which cannot be completed ({why}); it is undone");
            self.tell(Event::Warning { text });
            section.begun_before(Some(promote), open.began);
            let failure = NotDone { why, acted: Acted::Unknown };
            return self.undo_open(section, (promote.id.clone(), failure)).await;
        }
        self.tell(Event::Warning { text: format!("{name}: its process died at the promotion; it is completed") });
        let later = after(section.steps, &promote.id);
        let is_done = |step: &Step| match &step.work {
            // Waited for again, with the position at which the old primary has ended.
            Work::Act { action: Action::CatchUp { .. } | Action::WriteRoute { .. }, .. } => promoted,
            _ if step.id == promote.id => promoted,
            _ if later.contains(&step.id) => promoted && is_done(step, live).is_ok(),
            _ => true,
        };
        let done: Vec<&Step> = section.steps.iter().filter(|step| is_done(step)).collect();
        for step in &done {
            section.phases.insert(step.id.clone(), (open.began, Some(self.elapsed())));
            self.found_done(step, open.began);
        }
        let done = done.into_iter().map(|step| step.id.clone()).collect();
        let forward = self.forward(section, done).await;
        self.close_section(section, forward).await.map_err(|ended| ended.trouble)
    }

    /// Takes back whatever was done of a section: that it was undone is what is wanted.
    async fn undo_open(self: &Arc<Self>, section: &mut Section<'_>, cause: (StepId, NotDone)) -> Result<(), Trouble> {
        match self.close_section(section, Err(cause)).await.map_err(|ended| ended.trouble) {
            Ok(()) | Err(Trouble::Failed(..)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// A step that an earlier process has done.
    fn found_done(&self, step: &Step, began: Duration) {
        let took = self.elapsed().saturating_sub(began);
        self.log().begin(step, began);
        self.log().end(&step.id, StepOutcome::Done, took);
    }
}

impl Section<'_> {
    /// Everything that comes before the promotion counts as begun: an earlier process may have done so.
    fn begun_before(&mut self, promote: Option<&Step>, began: Duration) {
        let never = promote.map(|promote| after(self.steps, &promote.id)).unwrap_or_default();
        let begun = self.steps.iter().filter(|step| !never.contains(&step.id) && !step.point_of_no_return);
        self.phases = begun.map(|step| (step.id.clone(), (began, None))).collect();
    }
}

/// What is seen of a fence.
enum Fence {
    /// It stands; where the old primary ended. There is nothing to fence in a section without one.
    Stands(Option<Position>),
    /// It does not: what is there instead, and whether that is a primary.
    Broken { why: String, primary: bool },
    /// Nothing is seen of the old primary.
    Unseen(String),
}

fn fence_of(steps: &[Step], live: &Live) -> Fence {
    let Some(old) = fenced(steps) else { return Fence::Stands(None) };
    let facts = match live::facts(live, old) {
        Ok(facts) => facts,
        Err(why) => return Fence::Unseen(why.to_string()),
    };
    let fenced = Condition::Role { role: Role::Fenced, lineage: None };
    let member = facts.member();
    match fenced.holds(facts) {
        Ok(()) => Fence::Stands(member.map(|member| member.position)),
        Err(found) => Fence::Broken {
            why: format!("{}: {found}", old.name()),
            primary: member.is_some_and(|member| member.role == Role::Primary),
        },
    }
}

/// Whether the candidate can be told to become primary.
fn is_replica(promote: &Step, live: &Live) -> bool {
    let facts = acts_on(promote).and_then(|candidate| live::facts(live, candidate).ok());
    facts.and_then(Facts::member).is_some_and(|member| member.role == Role::Replica)
}

/// The steps that come after one, by their needs.
fn after(steps: &[Step], first: &StepId) -> BTreeSet<StepId> {
    let mut later = BTreeSet::new();
    for step in steps {
        if step.needs.iter().any(|need| need == first || later.contains(need)) {
            later.insert(step.id.clone());
        }
    }
    later
}
