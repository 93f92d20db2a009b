//! Carrying a plan out: observe, check, act under permits, verify, judge gates, undo.
//!
//! May use layers 0 to 2. Must not name an adapter, a store or a report: they come in as values. The order of steps is the plan's; what
//! a failure means is decided here.

mod backward;
mod gates;
mod observe;
mod report;
mod run;
mod section;
mod step;
mod undo;
mod waits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Target, TargetId};
use crate::provider::{Clock, Registry};
use crate::topology::Topology;

pub use run::{Request, RunOutcome};

/// Targets that are spoken to at once: far above what a team has, far below what a machine's sockets allow.
const PARALLEL: usize = 256;

/// What observes and applies.
#[derive(Clone)]
pub struct Engine {
    topology: Arc<Topology>,
    targets: Arc<BTreeMap<TargetId, Arc<Target>>>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    timeout: Duration,
}

impl Engine {
    /// An engine for one topology. `timeout` bounds every question asked of a target (2 s by default on the command line).
    pub fn new(topology: Arc<Topology>, registry: Registry, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        let units = topology.units.values().map(|unit| &unit.target);
        let targets = topology.targets().chain(units).map(|target| (target.id.clone(), Arc::clone(target))).collect();
        Self { topology, targets: Arc::new(targets), registry, clock, timeout }
    }

    /// The topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The time now.
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }
}
