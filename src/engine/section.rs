//! Steps that stand or fall together, under one permit: the critical section of a switchover, or the same change at several name
//! servers. Before the point of no return every failure and missed deadline undoes all of it (`backward`, `docs/safety.md` S3); after
//! it there is only forward. Stop requests take effect at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::run::{Run, Trouble, worse};
use super::step::{Acted, NotDone};
use crate::event::Event;
use crate::journal::{Permit, Record};
use crate::model::{Action, Condition, DatabaseName, Facts, Position, Role, TargetId};
use crate::plan::{Assumption, Step, StepId, Work};
use crate::provider::Outcome;

/// How often a section is tried whose clients could not be held back in time.
const ATTEMPTS: u32 = 3;

/// The time between two attempts: clients go on meanwhile.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// How long preparing a section may take at least.
const PREPARING: Duration = Duration::from_secs(5);

/// How an attempt ended badly.
pub(super) struct Ended {
    /// What follows.
    pub(super) trouble: Trouble,
    /// True if another attempt makes sense: everything was undone, and only a transaction was in the way.
    pub(super) again: bool,
}

/// A section while it is carried out.
pub(super) struct Section<'a> {
    pub(super) steps: &'a [Step],
    pub(super) permit: Arc<Permit>,
    /// When it is given up, unless the point of no return was passed before: half of the longest stall is left for the undo.
    give_up: Option<Instant>,
    /// The final position of a fenced primary, once verified.
    pub(super) fenced_at: Option<Position>,
    /// Steps that were begun, with the time of their beginning and end.
    pub(super) phases: BTreeMap<StepId, (Duration, Option<Duration>)>,
    /// Steps for which something was done ahead of their turn: it is taken back with them.
    pub(super) prepared: BTreeSet<StepId>,
    /// Steps that were begun and certainly touched nothing.
    pub(super) untouched: BTreeSet<StepId>,
    /// True for one that another process left open: what that one has said may come late.
    pub(super) inherited: bool,
    /// True once the point of no return was begun.
    pub(super) committed: bool,
    /// How long writers waited, to be recorded once they go on.
    stall: Option<Record>,
}

impl Run {
    /// Carries out a section. If clients could not be held back in time, and go on, it is tried again.
    pub(super) async fn section(self: &Arc<Self>, steps: &[Step]) -> Result<(), Trouble> {
        let mut attempt = 1;
        loop {
            let ended = self.attempt(steps).await;
            match ended {
                Err(Ended { trouble: Trouble::Failed(_, why), again: true })
                    if attempt < ATTEMPTS && !self.stopping() =>
                {
                    attempt += 1;
                    self.tell(Event::Warning { text: format!("{why}; attempt {attempt} of {ATTEMPTS} follows") });
                    self.pause(BETWEEN_ATTEMPTS).await?;
                }
                ended => return ended.map_err(|ended| ended.trouble),
            }
        }
    }

    async fn attempt(self: &Arc<Self>, steps: &[Step]) -> Result<(), Ended> {
        let section = steps.first().and_then(|step| step.section.as_deref()).unwrap_or_default();
        let (armed, ()) = tokio::join!(self.arm(steps), self.engine.warm_up(&self.plan, section));
        let ended = self.attempt_armed(steps, armed).await;
        self.disarm(steps).await;
        ended
    }

    async fn attempt_armed(self: &Arc<Self>, steps: &[Step], armed: Result<(), String>) -> Result<(), Ended> {
        let name = steps.first().and_then(|step| step.section.clone()).unwrap_or_default();
        let first = steps.first().map_or_else(|| StepId(name.clone()), |step| step.id.clone());
        let ended = |trouble| Ended { trouble, again: false };
        let ready = match armed {
            Ok(()) => self.check_before(steps).await,
            unguarded => unguarded,
        };
        if let Err(why) = ready {
            if let Some(step) = steps.first() {
                self.begin(step);
                self.failed(step, Duration::ZERO, &why, false).await;
            }
            return Err(ended(Trouble::Failed(first, why)));
        }
        let assumed = steps.iter().flat_map(|step| step.before.iter().cloned()).collect();
        let mut section = self.open_section(steps, assumed).await.map_err(ended)?;
        let database = fenced(steps).and_then(TargetId::scope).map(DatabaseName::from);
        let moved = self.plan.primaries.iter().find(|moved| Some(&moved.database) == database.as_ref());
        let prepared = self.prepare(&mut section).await;
        // Nobody waits before this.
        section.give_up = moved.map(|moved| Instant::now() + moved.max_stall.0 / 2);
        let forward = match prepared {
            Ok(()) => self.forward(&mut section, BTreeSet::new()).await,
            Err(failed) => Err(failed),
        };
        self.close_section(&mut section, forward).await
    }

    /// Records that the steps begin as one, and gives leave for all of them and their undo.
    pub(super) async fn open_section<'a>(
        &self,
        steps: &'a [Step],
        assumed: Vec<Assumption>,
    ) -> Result<Section<'a>, Trouble> {
        let section = steps.first().and_then(|step| step.section.clone()).unwrap_or_default();
        let ids = steps.iter().map(|step| step.id.clone()).collect();
        let permit = self.permit(steps, Record::SectionStarted { section, steps: ids, assumed }).await?;
        Ok(Section {
            steps,
            permit: Arc::new(permit),
            give_up: None,
            fenced_at: None,
            phases: BTreeMap::new(),
            prepared: BTreeSet::new(),
            untouched: BTreeSet::new(),
            inherited: false,
            committed: false,
            stall: None,
        })
    }

    /// Undoes what did not succeed, and records how the section ended.
    pub(super) async fn close_section(
        self: &Arc<Self>,
        section: &mut Section<'_>,
        forward: Result<(), (StepId, NotDone)>,
    ) -> Result<(), Ended> {
        let ended = |trouble| Ended { trouble, again: false };
        let result = match forward {
            Ok(()) => {
                self.writes_resumed(section);
                Ok(())
            }
            Err((step, failure)) => Err(self.backward(section, step, failure).await),
        };
        // Before the end is recorded: if this process dies as well, the next one looks.
        let result = match result {
            Ok(()) if section.inherited => self.look_again(section, true).await.map_err(ended),
            Err(Ended { trouble: trouble @ Trouble::Failed(..), .. }) if section.inherited => {
                Err(ended(self.look_again(section, false).await.err().unwrap_or(trouble)))
            }
            result => result,
        };
        let whole = match &result {
            Ok(()) => Some(true),
            Err(Ended { trouble: Trouble::Failed(..), .. }) => Some(false),
            // What of it is there nobody knows: it stays open.
            Err(_) => None,
        };
        match (result, self.record_section(section, whole).await) {
            (Ok(()), Ok(())) => Ok(()),
            (Ok(()), Err(lost)) => Err(ended(lost)),
            (Err(ended), Ok(())) => Err(ended),
            // What a human must look at is not hidden by a store that failed as well.
            (Err(Ended { trouble, .. }), Err(lost)) => Err(ended(worse(Some(trouble), lost))),
        }
    }

    /// Does what can be done ahead of the steps and makes nobody wait, at all targets at the same time.
    async fn prepare(&self, section: &mut Section<'_>) -> Result<(), (StepId, NotDone)> {
        let deadline = Instant::now() + self.engine.timeout.max(PREPARING);
        let permit = &section.permit;
        let preparing = section.steps.iter().filter_map(|step| match &step.work {
            Work::Act { target, action } => {
                Some(async move { (step, self.apply_ahead(target, action, permit, deadline).await) })
            }
            _ => None,
        });
        let mut failed = None;
        for (step, outcome) in futures_util::future::join_all(preparing).await {
            let (why, acted) = match outcome {
                Ok(None) => continue,
                Ok(Some(Outcome::Applied | Outcome::Seen(_))) => {
                    section.prepared.insert(step.id.clone());
                    continue;
                }
                Ok(Some(Outcome::Unknown(why))) => (why.to_string(), Acted::Unknown),
                Ok(Some(Outcome::NotApplied(why))) => (why.to_string(), Acted::No),
                Err(why) => (why, Acted::No),
            };
            if acted == Acted::Unknown {
                section.prepared.insert(step.id.clone());
            }
            let name = acts_on(step).map(TargetId::name).unwrap_or_default();
            let why = NotDone { why: format!("{name}: {why}"), acted };
            self.begin(step);
            self.failed_quietly(step, Duration::ZERO, &why);
            failed.get_or_insert((step.id.clone(), why));
        }
        failed.map_or(Ok(()), Err)
    }

    /// Every step that is not `done` as soon as those before it are.
    pub(super) async fn forward(
        &self,
        section: &mut Section<'_>,
        mut done: BTreeSet<StepId>,
    ) -> Result<(), (StepId, NotDone)> {
        let ids: BTreeSet<&StepId> = section.steps.iter().map(|step| &step.id).collect();
        let mut waiting: Vec<&Step> = section.steps.iter().filter(|step| !done.contains(&step.id)).collect();
        let mut failure: Option<(StepId, NotDone)> = None;
        let mut running = FuturesUnordered::new();
        loop {
            if failure.is_none() || section.committed {
                let (ready, later): (Vec<&Step>, Vec<&Step>) = waiting
                    .into_iter()
                    .partition(|step| step.needs.iter().all(|need| !ids.contains(need) || done.contains(need)));
                waiting = later;
                for step in ready {
                    if let Err(why) = self.enter(section, step).await {
                        failure = Some((step.id.clone(), why));
                        break;
                    }
                    let deadline = section.deadline(step);
                    let (target, action) = match &step.work {
                        Work::Act { target, action } => (target.clone(), section.bind(action)),
                        _ => continue,
                    };
                    let step = section.bound(step);
                    let permit = Arc::clone(&section.permit);
                    // While clients wait and everything can still be undone, the time for the undo is not spent on looking again.
                    let hurry = section.give_up.is_some() && !section.committed;
                    let look = if hurry { Duration::ZERO } else { self.engine.timeout };
                    running.push(async move {
                        let began = Instant::now();
                        let result = self.act(&step, &target, &action, &permit, deadline, look).await;
                        (step, began.elapsed(), result)
                    });
                }
            }
            match running.next().await {
                None => return failure.map_or(Ok(()), Err),
                Some((step, took, Ok(facts))) => {
                    if let Some(position) = fenced_at(&facts) {
                        section.fenced_at = Some(position);
                    }
                    if let Some(phase) = section.phases.get_mut(&step.id) {
                        phase.1 = Some(self.elapsed());
                    }
                    self.done(&step, took, "verified".to_owned());
                    done.insert(step.id);
                }
                Some((step, took, Err(why))) => {
                    self.failed_quietly(&step, took, &why);
                    if why.acted == Acted::No {
                        section.untouched.insert(step.id.clone());
                    }
                    failure.get_or_insert((step.id, why));
                }
            }
        }
    }

    /// Notes that a step begins. Right before the point of no return the intent is made durable: the one durable write inside the stall.
    async fn enter(&self, section: &mut Section<'_>, step: &Step) -> Result<(), NotDone> {
        if section.give_up.is_some_and(|limit| !section.committed && Instant::now() >= limit) {
            let why = "the time in which writers may wait is half used up, and the rest is needed to undo".to_owned();
            return Err(NotDone { why, acted: Acted::No });
        }
        if step.point_of_no_return {
            let intended = match &step.work {
                Work::Act { action, .. } => Some(action.clone()),
                _ => None,
            };
            let record = Record::StepStarted { step: step.id.clone(), assumed: step.before.clone(), intended };
            if let Err(why) = self.journal.record(record).await {
                return Err(NotDone { why: why.to_string(), acted: Acted::No });
            }
            if section.give_up.is_some_and(|limit| Instant::now() >= limit) {
                let why = "recording the intent took too long: the rest of the time is needed to undo".to_owned();
                return Err(NotDone { why, acted: Acted::No });
            }
            section.committed = true;
        }
        self.begin(step);
        section.phases.insert(step.id.clone(), (self.elapsed(), None));
        Ok(())
    }

    /// A step of a section failed: told at once, recorded after the section.
    fn failed_quietly(&self, step: &Step, took: Duration, failure: &NotDone) {
        let unknown = failure.acted == Acted::Unknown;
        self.log().end_badly(&step.id, unknown, took);
        let (title, why) = (step.title.clone(), failure.why.clone());
        self.tell(Event::StepFailed { step: step.id.clone(), title, took, unknown, why });
    }

    /// After a successful switchover: how long writers waited.
    fn writes_resumed(&self, section: &mut Section<'_>) {
        let promoted = section.steps.iter().find(|step| step.point_of_no_return).and_then(acts_on);
        self.stalled(section, promoted);
    }

    /// After an undone one.
    pub(super) fn clients_go_on(&self, section: &mut Section<'_>) {
        self.stalled(section, fenced(section.steps));
    }

    fn stalled(&self, section: &mut Section<'_>, primary: Option<&TargetId>) {
        let begun = |verb: fn(&Action) -> bool| {
            let of_verb = move |step: &&Step| matches!(&step.work, Work::Act { action, .. } if verb(action));
            section.steps.iter().filter(of_verb).filter_map(|step| section.phases.get(&step.id))
        };
        let paused = begun(|action| matches!(action, Action::Pause { .. })).map(|phase| phase.0).min();
        let resumed = begun(|action| matches!(action, Action::Redirect { .. })).filter_map(|phase| phase.1).max();
        let fence = begun(|action| matches!(action, Action::Fence { .. })).map(|phase| phase.0).min();
        let (Some(primary), Some(paused)) = (primary, paused) else { return };
        let resumed = resumed.unwrap_or_else(|| self.elapsed());
        let stall = resumed.saturating_sub(paused);
        let database = DatabaseName::from(primary.scope().unwrap_or_default());
        self.log().stalled(&database, primary, stall, fence);
        let (from_ms, to_ms) = (millis(paused), millis(resumed));
        section.stall =
            Some(Record::WritesResumed { database: database.clone(), primary: primary.clone(), from_ms, to_ms });
        self.tell(Event::WritesResumed { database, primary: primary.clone(), write_stall: stall });
    }

    /// Records what the section did, and whether it was done or undone, where that is known.
    pub(super) async fn record_section(&self, section: &Section<'_>, whole: Option<bool>) -> Result<(), Trouble> {
        for step in section.steps {
            let Some((from, to)) = section.phases.get(&step.id) else { continue };
            let outcome = format!("{:?}", self.log().outcome(&step.id)).to_lowercase();
            let to_ms = millis(to.unwrap_or_else(|| self.elapsed()));
            self.record(Record::Phase { step: step.id.clone(), from_ms: millis(*from), to_ms, outcome }).await?;
        }
        if let Some(stall) = &section.stall {
            self.record(stall.clone()).await?;
        }
        let Some(done) = whole else { return Ok(()) };
        let section = section.steps.first().and_then(|step| step.section.clone()).unwrap_or_default();
        self.record(Record::SectionEnded { section, done }).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Section<'_> {
    /// The deadline of a step that begins now: before the point of no return the section's own is never exceeded.
    fn deadline(&self, step: &Step) -> Instant {
        let own = Instant::now() + step.deadline.0;
        match self.give_up {
            Some(limit) if !self.committed => own.min(limit),
            _ => own,
        }
    }

    /// The action with what only the run knows.
    fn bind(&self, action: &Action) -> Action {
        match action {
            Action::CatchUp { behind, position: None } => {
                Action::CatchUp { behind: behind.clone(), position: self.fenced_at }
            }
            other => other.clone(),
        }
    }

    /// The step with what only the run knows.
    fn bound(&self, step: &Step) -> Step {
        let mut step = step.clone();
        for assumption in &mut step.after {
            if let Condition::AppliedBeyond { position } = &mut assumption.condition {
                *position = position.or(self.fenced_at);
            }
        }
        step
    }
}

pub(super) fn acts_on(step: &Step) -> Option<&TargetId> {
    match &step.work {
        Work::Act { target, .. } => Some(target),
        _ => None,
    }
}

/// The member that a section fences: the old primary.
pub(super) fn fenced(steps: &[Step]) -> Option<&TargetId> {
    steps.iter().find(|step| matches!(&step.work, Work::Act { action: Action::Fence { .. }, .. })).and_then(acts_on)
}

pub(super) fn fenced_at(facts: &[Facts]) -> Option<Position> {
    facts.iter().filter_map(Facts::member).find(|member| member.role == Role::Fenced).map(|member| member.position)
}
