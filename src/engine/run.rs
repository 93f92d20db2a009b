//! One run of a plan: units are started as soon as what they need has ended well; a failure stops new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::report::Log;
use super::{Engine, keep};
use crate::event::{Event, Failure, RunReport, StepOutcome, ways_on};
use crate::journal::{Hold, HoldKind, Holder, How, Journal, Moment, Record, RunEnd, RunId, Store, StoreError};
use crate::model::text::list;
use crate::model::{Action, TargetId};
use crate::plan::{Plan, Step, StepId, Work, window};

/// What is to be applied, and by whom.
pub struct Request {
    /// The plan.
    pub plan: Plan,
    /// SHA-256 of the plan file's bytes.
    pub digest: String,
    /// The plan file's text.
    pub document: String,
    /// The run's identity.
    pub run: RunId,
    /// Who carries it out.
    pub holder: Holder,
    /// Becomes true when the operator asks it to stop.
    pub stop: watch::Receiver<bool>,
    /// Who listens.
    pub events: mpsc::UnboundedSender<Event>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOutcome {
    /// How.
    pub end: RunEnd,
    /// One sentence.
    pub summary: String,
    /// What was measured.
    pub report: RunReport,
}

/// Why a unit ended badly, and what follows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trouble {
    /// The operator asked for it.
    Stopped,
    /// A gate says wait, and it did not pass.
    Held(StepId, String),
    /// A gate says that the survivors are getting sick: take back what can be taken back.
    Retreat(StepId, String),
    /// A step did not do what it should; its section, if any, was undone.
    Failed(StepId, String),
    /// A human must look.
    Stuck(StepId, String),
    /// The store failed or the lock was lost: nothing more may be done.
    Store(String),
    /// Nothing is wrong: everything was taken back, as it was asked for.
    RolledBack,
}

/// How often the lease is renewed.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A run while it is under way; shared by the tasks of its units.
pub(super) struct Run {
    pub(super) engine: Engine,
    pub(super) plan: Plan,
    pub(super) journal: Journal,
    began: Instant,
    /// How long the run had lasted when this process went on with it.
    before: Duration,
    /// What this process goes on with it for; none if it began it.
    how: Option<How>,
    pub(super) stop: watch::Receiver<bool>,
    /// True once something is in trouble: waits end, nothing new is begun.
    pub(super) halt: watch::Sender<bool>,
    pub(super) log: Mutex<Log>,
    /// What it has set at proxies.
    pub(super) kept: BTreeMap<TargetId, tokio::sync::Mutex<keep::Kept>>,
    events: mpsc::UnboundedSender<Event>,
}

impl Run {
    /// Tells the listeners; that nobody listens any more stops nothing.
    pub(super) fn tell(&self, event: Event) {
        if let Event::Warning { text } = &event {
            self.log().warned(text);
        }
        let _ = self.events.send(event);
    }

    /// How long the run has lasted, across the processes that carried it out.
    pub(super) fn elapsed(&self) -> Duration {
        self.before + self.began.elapsed()
    }

    /// True once the operator asked the run to stop.
    pub(super) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// The log; a poisoned lock only means that a task panicked while it held it.
    pub(super) fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Steps that are carried out as one: a section, or a single step.
struct Unit {
    steps: Vec<Step>,
    needs: BTreeSet<StepId>,
}

/// The units of a plan, in its order.
fn units(plan: &Plan) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut sections: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &plan.steps {
        let index = step.section.as_deref().and_then(|section| sections.get(section).copied());
        let index = index.unwrap_or_else(|| {
            units.push(Unit { steps: Vec::new(), needs: BTreeSet::new() });
            let index = units.len() - 1;
            if let Some(section) = &step.section {
                sections.insert(section, index);
            }
            index
        });
        units[index].steps.push(step.clone());
        units[index].needs.extend(step.needs.iter().cloned());
    }
    for unit in &mut units {
        for step in &unit.steps {
            unit.needs.remove(&step.id);
        }
    }
    units
}

impl Engine {
    /// Applies a plan whose facts were found to be true just now.
    ///
    /// # Errors
    /// If the run cannot begin: locked, used before, or the store fails. Everything later is in the outcome.
    pub async fn apply(&self, request: Request, store: Arc<dyn Store>) -> Result<RunOutcome, StoreError> {
        let Request { plan, digest, document, run, holder, stop, events } = request;
        let began = Instant::now();
        let clock = Arc::clone(&self.clock);
        let holds = holds(&plan, &run, &holder.name, self.clock.now());
        let first = Record::RunStarted {
            plan: plan.id.clone(),
            plan_digest: digest,
            operator: holder.name.clone(),
            holds: holds.clone(),
            title: plan.intent.title(),
            document: Some(document),
            overrides: plan.intent.overrides.clone(),
        };
        let now = move || Moment { at: clock.now(), elapsed: began.elapsed() };
        let journal = Journal::begin(store, run.clone(), &holder, first, now).await?;
        let log = Log::new(&plan, &run, holds);
        let kept = keep::of(&plan);
        let parts = Parts { plan, journal, began, before: Duration::ZERO, how: None, stop, log, kept, events };
        let run = Arc::new(self.run(parts));
        run.tell(Event::RunStarted {
            run: run.journal.run().clone(),
            plan: run.plan.id.clone(),
            title: run.plan.intent.title(),
            stages: run.plan.stages.len(),
            steps: run.plan.steps.len(),
            expected: run.plan.expected.0,
        });
        Ok(run.last(async |run: &Arc<Run>| run.carry_out(None).await).await)
    }

    pub(super) fn run(&self, parts: Parts) -> Run {
        let Parts { plan, journal, began, before, how, stop, log, kept, events } = parts;
        let (halt, log) = (watch::Sender::new(false), Mutex::new(log));
        Run { engine: self.clone(), kept, plan, journal, began, before, how, stop, halt, log, events }
    }
}

/// What a run is made of.
pub(super) struct Parts {
    pub(super) plan: Plan,
    pub(super) journal: Journal,
    pub(super) began: Instant,
    pub(super) before: Duration,
    pub(super) how: Option<How>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) log: Log,
    pub(super) kept: BTreeMap<TargetId, tokio::sync::Mutex<keep::Kept>>,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

fn holds(plan: &Plan, run: &RunId, operator: &str, since: jiff::Timestamp) -> Vec<Hold> {
    let by = operator.split(' ').next().unwrap_or(operator).to_owned();
    plan.holds
        .iter()
        .map(|kind| Hold {
            kind: kind.clone(),
            by: by.clone(),
            since,
            reason: plan.intent.reason.clone(),
            review_by: plan.intent.review_by,
            run: run.clone(),
        })
        .collect()
}

/// Keeps the lease while the run lasts; a lost one shows at the next permit.
async fn heartbeat(run: Arc<Run>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        if let Err(why) = run.journal.renew().await {
            run.tell(Event::Warning { text: why.to_string() });
        }
    }
}

impl Run {
    /// Does the work with the lease kept and the proxies looked after, and ends the run.
    pub(super) async fn last(self: &Arc<Self>, work: impl AsyncFnOnce(&Arc<Self>) -> Option<Trouble>) -> RunOutcome {
        // Both end with this, however it ends.
        let (mut heart, mut keeper) = (JoinSet::new(), JoinSet::new());
        heart.spawn(heartbeat(Arc::clone(self)));
        let (ending, ended) = watch::channel(false);
        keeper.spawn(keep::watch(Arc::clone(self), ended));
        let trouble = work(self).await;
        // It is not cut off in the middle of setting a proxy again.
        ending.send_replace(true);
        let _ = keeper.join_next().await;
        drop(heart);
        self.conclude(trouble).await
    }

    /// Starts every unit once what it needs is done, until all are done or one is in trouble; then waits for those that run, and
    /// completes the switchovers that have passed their point of no return: nothing else would bring their redundancy back.
    ///
    /// What was done before is not done again. A run that is in trouble from the beginning only completes.
    pub(super) async fn carry_out(self: &Arc<Self>, mut trouble: Option<Trouble>) -> Option<Trouble> {
        let mut done = self.log().all_done();
        let mut waiting = units(&self.plan);
        waiting.retain(|unit| !unit.steps.iter().all(|step| done.contains(&step.id)));
        let mut running = JoinSet::new();
        let mut begun: BTreeSet<usize> = BTreeSet::new();
        loop {
            if trouble.is_none() && self.stopping() && !waiting.is_empty() {
                trouble = Some(Trouble::Stopped);
            }
            if trouble.as_ref().is_some_and(|trouble| self.halts(trouble)) {
                self.halt.send_replace(true);
            }
            let (ready, later): (Vec<Unit>, Vec<Unit>) = waiting
                .into_iter()
                .partition(|unit| unit.needs.is_subset(&done) && self.may_start(trouble.as_ref(), unit));
            waiting = later;
            for unit in ready {
                if trouble.is_none()
                    && let Some(closed) = self.closed(&unit, &mut begun)
                {
                    self.halt.send_replace(true);
                    trouble = Some(closed);
                }
                if !self.may_start(trouble.as_ref(), &unit) {
                    waiting.push(unit);
                    continue;
                }
                let run = Arc::clone(self);
                running.spawn(async move {
                    let ids: Vec<StepId> = unit.steps.iter().map(|step| step.id.clone()).collect();
                    (ids, run.unit(unit).await)
                });
            }
            match running.join_next().await {
                None if trouble.is_none() && !waiting.is_empty() => {
                    let stuck = waiting.iter().flat_map(|unit| &unit.steps).map(|step| step.id.to_string());
                    let why = format!("these steps need each other: {}", stuck.collect::<Vec<_>>().join(", "));
                    return Some(Trouble::Stuck(StepId("internal".to_owned()), why));
                }
                None => return trouble,
                Some(Ok((ids, Ok(())))) => done.extend(ids),
                Some(Ok((_, Err(new)))) => trouble = Some(worse(trouble, new)),
                Some(Err(panic)) => {
                    let why = format!("a task of handover itself failed: {panic}");
                    trouble = Some(worse(trouble, Trouble::Stuck(StepId("internal".to_owned()), why)));
                }
            }
        }
    }

    /// Whether a trouble ends everything that need not be completed. Where something is lost, one thing that cannot be done stops nothing
    /// else.
    fn halts(&self, trouble: &Trouble) -> bool {
        let only_one = matches!(trouble, Trouble::Held(..) | Trouble::Failed(..) | Trouble::Stuck(..));
        !(self.plan.is_urgent() && only_one)
    }

    /// Whether steps may begin.
    fn may_start(&self, trouble: Option<&Trouble>, unit: &Unit) -> bool {
        match trouble {
            None => true,
            // Without the lock nothing more may be done.
            Some(Trouble::Store(_)) => false,
            Some(trouble) => self.completes(unit) || !self.halts(trouble),
        }
    }

    /// Why a stage that would begin with these steps must not, if so: windows and freezes leave no time for it and its undo. What
    /// completes a switchover is never held back, and a stage that has begun goes on.
    fn closed(&self, unit: &Unit, begun: &mut BTreeSet<usize>) -> Option<Trouble> {
        if self.plan.is_urgent() {
            return None;
        }
        let first = unit.steps.first().filter(|step| !begun.contains(&step.stage) && !self.completes(unit))?;
        if let Some(needs) = self.plan.stage_needs(first.stage) {
            let policy = &self.engine.topology.policy;
            let answer = window::answer(policy, &self.plan.intent.overrides, self.engine.now(), needs);
            if let Some(why) = answer.refusal() {
                return Some(Trouble::Held(first.id.clone(), why));
            }
        }
        begun.insert(first.stage);
        None
    }

    /// True for what follows a point of no return in its stage: once a new primary has taken over, the old one is led back to it
    /// whatever fails elsewhere, because until then the database has one copy less.
    fn completes(&self, unit: &Unit) -> bool {
        let passed = |stage: usize| {
            let mut steps = self.plan.steps.iter().filter(|step| step.stage == stage && step.point_of_no_return);
            steps.any(|step| self.log().outcome(&step.id) == StepOutcome::Done)
        };
        unit.steps.iter().all(|step| passed(step.stage))
    }

    async fn unit(self: &Arc<Self>, unit: Unit) -> Result<(), Trouble> {
        match unit.steps.as_slice() {
            [step] if step.section.is_none() => self.step(step).await,
            steps => self.section(steps).await,
        }
    }

    /// Takes back, if a gate asks for it, and ends the run.
    async fn conclude(self: &Arc<Self>, trouble: Option<Trouble>) -> RunOutcome {
        let acted = self.log().acted();
        let trouble = match trouble {
            Some(Trouble::Stopped | Trouble::Held(..) | Trouble::Failed(..)) => {
                let prepared = self.take_back_preparations().await.map_err(|why| {
                    Trouble::Stuck(
                        StepId("preparations".to_owned()),
                        format!("preparations could not be taken back: {why}"),
                    )
                });
                let left = prepared.and(self.resume_jobs().await);
                left.map_or_else(Some, |()| trouble)
            }
            other => other,
        };
        let (end, summary, failed) = match trouble {
            None => (RunEnd::Done, format!("{}: done", self.plan.intent.title()), None),
            Some(Trouble::RolledBack) => (RunEnd::Undone, format!("{}: rolled back", self.plan.intent.title()), None),
            Some(Trouble::Stopped) if self.how == Some(How::Settle) => {
                let why = "its process died; what was done stays, and nobody is left waiting".to_owned();
                (RunEnd::Stopped, why, None)
            }
            Some(Trouble::Stopped) => {
                let next = self.plan.steps.iter().find(|step| self.log().outcome(&step.id) != StepOutcome::Done);
                let next = next.map(|step| (step.id.clone(), "the operator asked the run to stop".to_owned()));
                (RunEnd::Stopped, "stopped on request; what was done stays".to_owned(), next)
            }
            Some(Trouble::Held(step, why) | Trouble::Failed(step, why)) if !acted => {
                (RunEnd::Refused, format!("refused before anything was touched: {why}"), Some((step, why)))
            }
            Some(Trouble::Held(step, why)) => (RunEnd::Stopped, format!("stopped at a gate: {why}"), Some((step, why))),
            Some(Trouble::Retreat(step, why)) => match self.take_back_all().await {
                Ok(()) => (
                    RunEnd::Undone,
                    format!("taken back, because the survivors were getting sick: {why}"),
                    Some((step, why)),
                ),
                Err(stuck) => (RunEnd::Stuck, format!("retreating failed: {stuck}"), Some((step, stuck))),
            },
            Some(Trouble::Failed(step, why)) => (RunEnd::Stopped, format!("stopped: {why}"), Some((step, why))),
            Some(Trouble::Stuck(step, why)) => (RunEnd::Stuck, format!("stuck: {why}"), Some((step, why))),
            Some(Trouble::Store(why)) => {
                (RunEnd::Stopped, format!("stopped: {why}"), Some((StepId("journal".to_owned()), why)))
            }
        };
        let closed = self.log().all_closed();
        if end != RunEnd::Done && !closed.is_empty() {
            let text = format!("{} let nobody in until restarted: closed to clients by this run", list(&closed));
            self.tell(Event::Warning { text });
        }
        if let Err(Trouble::Store(why)) = self.record_told().await {
            self.tell(Event::Warning { text: format!("what was told could not be recorded: {why}") });
        }
        let released = if end == RunEnd::Done { self.plan.releases.clone() } else { self.given_up_holds(end, acted) };
        let record = Record::RunEnded { end, summary: summary.clone(), released: released.clone() };
        if let Err(why) = self.journal.end(record).await {
            self.tell(Event::Warning { text: format!("the end of the run could not be recorded: {why}") });
        }
        let failure = failed.map(|(step, why)| self.failure(step, why, end));
        let report = self.log().report(self.elapsed(), released, failure);
        self.tell(Event::RunEnded { end, summary: summary.clone(), report: Box::new(report.clone()) });
        RunOutcome { end, summary, report }
    }

    /// A run that touched nothing, or took everything back, leaves no hold behind.
    fn given_up_holds(&self, end: RunEnd, acted: bool) -> Vec<HoldKind> {
        let nothing_stays = !acted || matches!(end, RunEnd::Refused | RunEnd::Undone);
        if nothing_stays { self.plan.holds.clone() } else { Vec::new() }
    }

    fn failure(&self, id: StepId, why: String, end: RunEnd) -> Failure {
        let step = self.plan.step(&id);
        let target = step.and_then(|step| match &step.work {
            Work::Act { target, .. } => Some(target.clone()),
            _ => None,
        });
        Failure {
            title: step.map_or_else(|| id.to_string(), |step| step.title.clone()),
            step: id,
            target,
            why,
            tried: None,
            ways_on: ways_on(&self.plan.intent, Some(end)),
        }
    }

    /// Jobs that rest only while their databases move run again when the run stops before it would have started them.
    pub(super) async fn resume_jobs(self: &Arc<Self>) -> Result<(), Trouble> {
        let steps = |wanted: &Action, outcome: StepOutcome| -> BTreeMap<TargetId, Step> {
            let of = self.plan.steps.iter().filter_map(|step| match &step.work {
                Work::Act { target, action } if action == wanted => Some((target.clone(), step.clone())),
                _ => None,
            });
            of.filter(|(_, step)| self.log().outcome(&step.id) == outcome).collect()
        };
        let to_come = steps(&Action::Start, StepOutcome::NotBegun);
        for (target, step) in steps(&Action::Stop, StepOutcome::Done) {
            if to_come.contains_key(&target) {
                let stays = |why| Trouble::Stuck(step.id.clone(), format!("{} stays stopped: {why}", target.name()));
                self.take_back(&step).await.map_err(stays)?;
            }
        }
        Ok(())
    }
}

/// The graver of two troubles decides how the run ends.
pub(super) fn worse(old: Option<Trouble>, new: Trouble) -> Trouble {
    let rank = |trouble: &Trouble| match trouble {
        Trouble::RolledBack | Trouble::Stopped => 0,
        Trouble::Held(..) => 1,
        Trouble::Failed(..) => 2,
        Trouble::Retreat(..) => 3,
        Trouble::Store(_) => 4,
        Trouble::Stuck(..) => 5,
    };
    match old {
        Some(old) if rank(&old) >= rank(&new) => old,
        _ => new,
    }
}
