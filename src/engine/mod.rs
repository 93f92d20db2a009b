//! Carrying a plan out: observe, check, act under permits, verify, judge gates, undo.
//!
//! May use layers 0 to 2. Must not name an adapter, a store or a report: they come in as values. The order of steps is the plan's; what
//! a failure means is decided here.

mod backward;
mod gates;
mod guard;
mod keep;
mod observe;
mod report;
mod resume;
mod rollback;
mod run;
mod section;
mod settle;
mod step;
mod undo;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Target, TargetId};
use crate::plan::lost::known::Known;
use crate::plan::{Plan, Refusal, Undo, Work};
use crate::provider::{Clock, Registry};
use crate::topology::Topology;

pub use guard::Guard;
pub use resume::GoOn;
pub use run::{Request, RunOutcome};

/// Questions that may be work at the same time: more would only wait for this machine's processors, at the cost of their deadlines.
const WORKING: usize = 256;

/// Targets that are spoken to at once, silent ones included. One of them is one or two sockets.
const OPEN: usize = 4096;

/// Sockets and pipes that speaking to one target takes at most: a session, one beside it, and the pipes of an `ssh`.
const SOCKETS_EACH: usize = 6;

/// What observes and applies.
#[derive(Clone)]
pub struct Engine {
    topology: Arc<Topology>,
    targets: Arc<BTreeMap<TargetId, Arc<Target>>>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    open: usize,
    guard: Option<Arc<dyn Guard>>,
    known: Arc<(Instant, Known)>,
}

impl Engine {
    /// An engine for one topology. `timeout` bounds every question asked of a target (2 s by default on the command line).
    pub fn new(topology: Arc<Topology>, registry: Registry, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        let units = topology.units.values().map(|unit| &unit.target);
        let targets = topology.targets().chain(units).chain(topology.fences()).chain(topology.vantages.values());
        let targets = targets.map(|target| (target.id.clone(), Arc::clone(target))).collect();
        Self {
            topology,
            targets: Arc::new(targets),
            registry,
            clock,
            timeout,
            open: OPEN,
            guard: None,
            known: Arc::new((Instant::now(), Known::default())),
        }
    }

    /// The same on a machine that allows only so many open sockets.
    #[must_use]
    pub fn with_sockets(self, sockets: usize) -> Self {
        Self { open: (sockets / SOCKETS_EACH).clamp(1, OPEN), ..self }
    }

    /// The same with somebody who watches over its sections.
    #[must_use]
    pub fn guarded(self, guard: Arc<dyn Guard>) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// The same with what is known from before.
    #[must_use]
    pub fn knowing(self, known: Known) -> Self {
        Self { known: Arc::new((Instant::now(), known)), ..self }
    }

    /// What is known from before, as of now.
    pub fn known(&self) -> Known {
        let (since, known) = &*self.known;
        known.later(since.elapsed())
    }

    /// The topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What a plan demands that could never be carried out, its ways back included: the reasons to refuse it before it is saved.
    pub fn impossible(&self, plan: &Plan) -> Vec<Refusal> {
        let mut refusals = BTreeSet::new();
        for step in &plan.steps {
            let Work::Act { target: id, action } = &step.work else { continue };
            let Some(target) = self.targets.get(id) else { continue };
            let Ok(provider) = self.registry.of(target) else { continue };
            let back = match &step.undo {
                Undo::Act { action, .. } => Some(action),
                Undo::Nothing | Undo::Impossible { .. } => None,
            };
            for why in std::iter::once(action).chain(back).filter_map(|action| provider.impossible(target, action)) {
                let advice = why.advice.unwrap_or_default();
                refusals.insert(Refusal::new(format!("{}: {} ({})", id.name(), why.why, why.tried), advice));
            }
        }
        refusals.into_iter().collect()
    }

    /// The time now.
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }
}
