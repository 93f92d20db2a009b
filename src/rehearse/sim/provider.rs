//! The provider of all simulated targets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::fault::{Fault, Harm, Orphans, Script};
use super::world::{NATIVE, World};
use crate::journal::{Permit, RunId};
use crate::model::{Action, Condition, Facts, Observed, Scope, Target, TargetId, TargetKind, Unreachable};
use crate::provider::{Clock, Outcome, Provider, Registry};

/// How long an answer takes.
pub const LATENCY: Duration = Duration::from_millis(20);

/// How often `verify` looks again.
const POLL: Duration = Duration::from_millis(50);

/// The names of the real providers: a simulation stands in for all of them.
const NAMES: [&str; 7] = ["rfc2136", "haproxy", "http", "postgresql", "pgbouncer", "command", "vantage"];

/// The time of day in virtual time.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    start: Timestamp,
    began: Instant,
}

impl SimClock {
    /// A clock that shows `start` now.
    pub fn starting(start: Timestamp) -> Self {
        Self { start, began: Instant::now() }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.start.checked_add(self.began.elapsed()).unwrap_or(Timestamp::MAX)
    }
}

/// An action on its way to a target.
struct Said {
    id: TargetId,
    action: Action,
    by: (RunId, u64),
    deadline: Instant,
    /// What becomes of it if its caller dies.
    orphans: Orphans,
}

/// What the simulation knows beside the world.
struct State {
    world: World,
    script: Script,
    /// Targets that accept everything and answer nothing.
    silent: BTreeSet<TargetId>,
    orphans: Orphans,
    /// By target and run, the token below which nobody's word counts any more.
    superseded: BTreeMap<(TargetId, RunId), u64>,
    acted: Vec<(TargetId, Action)>,
    /// What was broken first, and by what.
    broken: Option<String>,
    /// The same of what holds only where nothing goes wrong.
    disturbed: Option<String>,
}

/// A world of targets, with faults; clones share it.
#[derive(Clone)]
pub struct Simulation {
    state: Arc<Mutex<State>>,
}

impl Simulation {
    /// A simulation of `world`.
    pub fn new(world: World) -> Self {
        let state = State {
            world,
            script: Script::default(),
            silent: BTreeSet::new(),
            orphans: Orphans::default(),
            superseded: BTreeMap::new(),
            acted: Vec::new(),
            broken: None,
            disturbed: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// It as the only provider, under all names.
    pub fn registry(&self) -> Registry {
        let all = Registry::default();
        NAMES.into_iter().fold(all, |all, name| all.with(name, Arc::new(self.clone()) as Arc<dyn Provider>))
    }

    /// One more thing goes wrong.
    pub fn script(&self, fault: Fault) {
        self.lock().script.add(fault);
    }

    /// Nothing more goes wrong.
    pub fn forgive(&self) {
        self.lock().script = Script::default();
    }

    /// What becomes of actions whose caller has died while they were under way.
    pub fn orphans(&self, orphans: Orphans) {
        self.lock().orphans = orphans;
    }

    /// A target accepts everything and answers nothing, or answers again.
    pub fn silence(&self, target: &TargetId, silent: bool) {
        let mut state = self.lock();
        if silent {
            state.silent.insert(target.clone());
        } else {
            state.silent.remove(target);
        }
    }

    /// Looks at the world, or changes it as somebody else would.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.lock().world)
    }

    /// Every action that had an effect, in order.
    pub fn acted(&self) -> Vec<(TargetId, Action)> {
        self.lock().acted.clone()
    }

    /// What must always hold ([`World::always`]) and was broken by an action, the first of all.
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    /// What must hold where nothing goes wrong ([`World::undisturbed`]) and was broken by an action, the first of all.
    pub fn disturbed(&self) -> Option<String> {
        self.lock().disturbed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of a test's closure leaves the world as that closure had it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an answer's time; false where there is none before the deadline.
    async fn answers(&self, target: &TargetId, deadline: Instant) -> bool {
        if self.lock().silent.contains(target) {
            sleep_until(deadline).await;
            return false;
        }
        let there = Instant::now() + LATENCY;
        sleep_until(there.min(deadline)).await;
        there <= deadline
    }

    /// Reads what is asked for, or all.
    async fn read(&self, target: &Target, scope: Option<&Scope>, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        if !self.answers(&target.id, deadline).await {
            return Observed::Unreachable(unreachable(target, "no answer by the deadline"));
        }
        match self.lock().world.look(target, scope) {
            Ok(value) => Observed::Known { value, took: began.elapsed() },
            Err(why) => Observed::Unreachable(unreachable(target, why)),
        }
    }
}

impl Simulation {
    /// The target's side of an action: it goes on when the caller dies.
    async fn serve(self, said: Said, mut answer: oneshot::Sender<Outcome>) {
        let Said { id, action, by: (run, token), deadline, orphans } = said;
        let unknown = |why: &str| Outcome::Unknown(Unreachable::new(why, tried(&id, &action)));
        let refused = |why: String| Outcome::NotApplied(Unreachable::new(why, tried(&id, &action)));
        let late = || unknown("no answer by the deadline");
        if !self.answers(&id, deadline).await {
            // Nobody listens any more where the caller has died.
            let _ = answer.send(late());
            return;
        }
        let harm = self.lock().script.next(&id);
        if harm == Some(Harm::Slow) {
            sleep_until(deadline - LATENCY).await;
        }
        match orphans {
            Orphans::Lost if answer.is_closed() => return,
            Orphans::Late(by) if answer.is_closed() => sleep_until(deadline.min(Instant::now() + by)).await,
            _ => {}
        }
        if self.lock().superseded.get(&(id.clone(), run)).is_some_and(|first| token < *first) {
            let _ = answer.send(refused("somebody has gone on with the run since".to_owned()));
            return;
        }
        let done = self.lock().act(&id, &action, harm);
        let outcome = match (harm, done) {
            (Some(Harm::Refuse), _) => refused("it refuses, by script".to_owned()),
            (Some(Harm::Die | Harm::DieAfter), _) => unknown("it broke the connection"),
            (Some(Harm::Hang | Harm::Lose), Ok(())) => {
                tokio::select! {
                    () = sleep_until(deadline) => {}
                    () = answer.closed() => {}
                }
                late()
            }
            (_, Err(why)) => refused(why),
            (None | Some(Harm::Ignore | Harm::Slow), Ok(())) => Outcome::Applied,
        };
        let _ = answer.send(outcome);
    }
}

impl State {
    /// Carries an action out as far as the script lets it, and looks at the invariants.
    fn act(&mut self, id: &TargetId, action: &Action, harm: Option<Harm>) -> Result<(), String> {
        let acts = !matches!(harm, Some(Harm::Refuse | Harm::Ignore | Harm::Hang | Harm::Die));
        let done = if acts { self.world.act(id, action) } else { Ok(()) };
        if acts && done.is_ok() {
            self.acted.push((id.clone(), action.clone()));
            let after = |what: String| format!("{what}, after {}", tried(id, action));
            if self.broken.is_none() {
                self.broken = self.world.always().err().map(after);
            }
            if self.disturbed.is_none() {
                self.disturbed = self.world.undisturbed().err().map(after);
            }
        }
        if matches!(harm, Some(Harm::Die | Harm::DieAfter)) {
            self.world.kill(id);
        }
        done
    }
}

/// The run and the token under which something is said.
fn said_by(permit: &Permit) -> (RunId, u64) {
    (permit.run().clone(), permit.token())
}

fn tried(id: &TargetId, action: &Action) -> String {
    format!("{} at {id}", action.verb())
}

fn unreachable(target: &Target, why: impl Into<String>) -> Unreachable {
    Unreachable::new(why, format!("asking {}, simulated", target.id))
}

/// What must be asked to judge a condition; none where that is all there is.
fn scope(condition: &Condition) -> Option<Scope> {
    Some(match condition {
        Condition::Records { sets } => Scope::Records(sets.keys().cloned().collect()),
        Condition::Epoch { .. } => Scope::Records(std::collections::BTreeSet::new()),
        Condition::Servers { backends } => Scope::Backends(backends.keys().cloned().collect()),
        Condition::ServersUp { backends } | Condition::SessionsAtMost { backends, .. } => {
            Scope::Backends(backends.keys().cloned().collect())
        }
        Condition::Paused { database, .. }
        | Condition::Routed { database, .. }
        | Condition::RouteWritten { database, .. } => Scope::PoolerDatabases([database.clone()].into()),
        _ => return None,
    })
}

#[async_trait]
impl Provider for Simulation {
    async fn observe(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts> {
        self.read(target, Some(scope), deadline).await
    }

    async fn apply(&self, target: &Target, action: &Action, permit: &Permit, deadline: Instant) -> Outcome {
        if let Err(why) = self.lock().world.reached(target) {
            return Outcome::NotApplied(Unreachable::new(why, tried(&target.id, action)));
        }
        let (answer, answered) = oneshot::channel();
        // What is said to others takes no time there, and nobody could call it off.
        let orphans = match self.lock().orphans {
            Orphans::Late(_) if target.kind != TargetKind::Member => Orphans::Done,
            orphans => orphans,
        };
        let said = Said { id: target.id.clone(), action: action.clone(), by: said_by(permit), deadline, orphans };
        tokio::spawn(self.clone().serve(said, answer));
        let broken = || Outcome::Unknown(Unreachable::new("it broke the connection", tried(&target.id, action)));
        answered.await.unwrap_or_else(|_| broken())
    }

    async fn supersede(&self, target: &Target, permit: &Permit, deadline: Instant) -> Outcome {
        // As the real ones: members alone can tell whose word comes late.
        if target.kind != TargetKind::Member {
            return Outcome::Applied;
        }
        if !self.answers(&target.id, deadline).await {
            return Outcome::Unknown(Unreachable::new("no answer by the deadline", format!("asking {}", target.id)));
        }
        let (run, token) = said_by(permit);
        self.lock().superseded.insert((target.id.clone(), run), token);
        Outcome::Applied
    }

    async fn verify(&self, target: &Target, condition: &Condition, deadline: Instant) -> Observed<Facts> {
        let scope = scope(condition);
        let mut last = None;
        loop {
            let mut seen = self.read(target, scope.as_ref(), deadline).await;
            if let (Condition::Native { verb, .. }, Observed::Known { value: Facts::Member(facts), .. }) =
                (condition, &mut seen)
            {
                facts.settings.entry(format!("{NATIVE}{verb}")).or_insert_with(|| "undone".to_owned());
            }
            let holds = seen.known().is_some_and(|facts| condition.holds(facts).is_ok());
            if holds || Instant::now() + POLL >= deadline {
                // A question that was under way at the deadline does not make the one before it void.
                return match (seen, last) {
                    (Observed::Unreachable(_), Some(known)) if !self.lock().silent.contains(&target.id) => known,
                    (seen, _) => seen,
                };
            }
            last = matches!(seen, Observed::Known { .. }).then_some(seen);
            tokio::time::sleep(POLL).await;
        }
    }
}
