//! A program's view of a simulated world, in virtual time.
#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Arc;
use std::time::Duration;

use handover::engine::{Engine, Request, RunOutcome};
use handover::journal::{HoldKind, RunId, Store, StoreError};
use handover::plan::{Intent, Plan, Planned, make};
use handover::rehearse::sim::{SimClock, Simulation, World};
use tokio::sync::{mpsc, watch};

use crate::common::MemoryStore;

/// How long every question may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A simulated world, and an engine for it.
pub struct Rehearsal {
    pub simulation: Simulation,
    pub engine: Engine,
}

/// What an engine is asked to apply.
pub fn request(plan: Plan, run: &str) -> Request {
    let (events, _told) = mpsc::unbounded_channel();
    let (_keep, stop) = watch::channel(false);
    let (digest, document) = (String::new(), String::new());
    Request { plan, digest, document, run: RunId(run.to_owned()), holder: "test".into(), stop, events }
}

impl Rehearsal {
    pub fn of(world: World) -> Self {
        let topology = Arc::clone(&world.topology);
        let simulation = Simulation::new(world);
        let clock = Arc::new(SimClock::starting("2026-11-23T06:15:00Z".parse().unwrap()));
        let engine = Engine::new(topology, simulation.registry(), clock, TIMEOUT);
        Self { simulation, engine }
    }

    /// A plan of what is observed.
    pub async fn planned(&self, intent: &Intent, holds: &[HoldKind]) -> Planned {
        make(self.engine.topology(), intent, holds, &self.engine.observe().await, self.engine.now())
    }

    /// Applies a plan, with a store of its own.
    pub async fn apply(&self, plan: Plan) -> RunOutcome {
        self.apply_with(plan, Arc::new(MemoryStore::default())).await.unwrap()
    }

    /// Applies a plan with this store.
    ///
    /// # Errors
    /// If the store refuses to begin.
    pub async fn apply_with(&self, plan: Plan, store: Arc<dyn Store>) -> Result<RunOutcome, StoreError> {
        self.engine.apply(request(plan, "rehearsal"), store).await
    }
}
