//! The provider of all simulated targets.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::fault::{Fault, Harm, Script};
use super::world::{NATIVE, World};
use crate::journal::Permit;
use crate::model::{Action, Condition, Facts, Observed, Scope, Target, TargetId, Unreachable};
use crate::provider::{Clock, Outcome, Provider, Registry};

/// How long an answer takes.
pub const LATENCY: Duration = Duration::from_millis(20);

/// How often `verify` looks again.
const POLL: Duration = Duration::from_millis(50);

/// The names of the real providers: a simulation stands in for all of them.
const NAMES: [&str; 6] = ["rfc2136", "haproxy", "http", "postgresql", "pgbouncer", "command"];

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

/// What the simulation knows beside the world.
struct State {
    world: World,
    script: Script,
    /// Targets that accept everything and answer nothing.
    silent: BTreeSet<TargetId>,
    acted: Vec<(TargetId, Action)>,
    /// What was broken first, and by what.
    broken: Option<String>,
}

/// A world of targets, with faults; clones share it.
#[derive(Clone)]
pub struct Simulation {
    state: Arc<Mutex<State>>,
}

impl Simulation {
    /// A simulation of `world`.
    pub fn new(world: World) -> Self {
        let state =
            State { world, script: Script::default(), silent: BTreeSet::new(), acted: Vec::new(), broken: None };
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

fn unreachable(target: &Target, why: impl Into<String>) -> Unreachable {
    Unreachable::new(why, format!("asking {}, simulated", target.id))
}

/// What must be asked to judge a condition; none where that is all there is.
fn scope(condition: &Condition) -> Option<Scope> {
    Some(match condition {
        Condition::Records { sets } => Scope::Records(sets.keys().cloned().collect()),
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

    async fn apply(&self, target: &Target, action: &Action, _permit: &Permit, deadline: Instant) -> Outcome {
        let tried = || format!("{} at {}", action.verb(), target.id);
        let unknown = |why: &str| Outcome::Unknown(Unreachable::new(why, tried()));
        let refused = |why: String| Outcome::NotApplied(Unreachable::new(why, tried()));
        if let Err(why) = self.lock().world.reached(target) {
            return refused(why);
        }
        if !self.answers(&target.id, deadline).await {
            return unknown("no answer by the deadline");
        }
        let (harm, done) = {
            let mut state = self.lock();
            let harm = state.script.next(&target.id);
            let acts = !matches!(harm, Some(Harm::Refuse | Harm::Ignore | Harm::Hang | Harm::Die));
            let done = if acts { state.world.act(&target.id, action) } else { Ok(()) };
            if acts && done.is_ok() {
                state.acted.push((target.id.clone(), action.clone()));
                if let Err(what) = state.world.always()
                    && state.broken.is_none()
                {
                    state.broken = Some(format!("{what}, after {}", tried()));
                }
            }
            if matches!(harm, Some(Harm::Die | Harm::DieAfter)) {
                state.world.kill(&target.id);
            }
            (harm, done)
        };
        match (harm, done) {
            (Some(Harm::Refuse), _) => refused("it refuses, by script".to_owned()),
            (Some(Harm::Die | Harm::DieAfter), _) => unknown("it broke the connection"),
            (Some(Harm::Hang | Harm::Lose), Ok(())) => {
                sleep_until(deadline).await;
                unknown("no answer by the deadline")
            }
            (_, Err(why)) => refused(why),
            (None | Some(Harm::Ignore), Ok(())) => Outcome::Applied,
        }
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
