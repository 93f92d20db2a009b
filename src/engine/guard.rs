//! Who frees clients if this process dies while they are held back: a process of its own, which `cli` starts.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::Engine;
use super::run::Run;
use super::section::{acts_on, fenced};
use crate::event::Event;
use crate::journal::RunId;
use crate::model::{Action, DatabaseName, TargetId};
use crate::plan::{Plan, Step, Work};

/// After this long without a beat this process counts as hung. A busy machine may let it wait for some tenths of a second.
const SILENCE: Duration = Duration::from_millis(700);

/// It is no less than this, however short clients may wait: beats come every tenth of a second.
const SHORTEST: Duration = Duration::from_millis(300);

/// How long arming may take: the first time, a process is started for it. Nobody waits meanwhile.
const ARMING: Duration = Duration::from_secs(10);

/// What a session needs is opened within this time, or when it is needed.
const WARMING: Duration = Duration::from_secs(5);

/// Watches over this process, and ends its open sections in its place if it dies or hangs (`How::Settle`).
#[async_trait]
pub trait Guard: Send + Sync {
    /// Returns once the section of the run is watched over: from then on a death of this process, or a `silence` of that length, is
    /// its end.
    ///
    /// # Errors
    /// Why it is not, in one sentence.
    async fn arm(&self, run: &RunId, section: &str, silence: Duration, deadline: Instant) -> Result<(), String>;

    /// The section has ended.
    ///
    /// # Errors
    /// Why it may not have been watched over to its end.
    async fn disarm(&self, section: &str) -> Result<(), String>;
}

impl Engine {
    /// Opens what the steps of a section will need, in parallel, so that no connection is made while clients wait.
    pub async fn warm_up(&self, plan: &Plan, section: &str) {
        let steps = plan.steps.iter().filter(|step| step.section.as_deref() == Some(section));
        let targets: BTreeSet<&TargetId> = steps.filter_map(acts_on).collect();
        let deadline = Instant::now() + self.timeout.max(WARMING);
        let warming = targets.into_iter().map(|id| async move {
            let Ok(target) = self.target(id) else { return };
            if let Ok(provider) = self.registry.of(&target) {
                let _ = tokio::time::timeout_at(deadline, provider.warm_up(&target, deadline)).await;
            }
        });
        futures_util::future::join_all(warming).await;
    }
}

impl Run {
    /// Has the section watched over, where it holds clients back and there is somebody to do so.
    pub(super) async fn arm(&self, steps: &[Step]) -> Result<(), String> {
        let (Some(guard), Some(section)) = (&self.engine.guard, guarded(steps)) else { return Ok(()) };
        let database = fenced(steps).and_then(TargetId::scope).map(DatabaseName::from);
        let moved = self.plan.primaries.iter().find(|moved| Some(&moved.database) == database.as_ref());
        let stall = moved.map_or(SILENCE, |moved| moved.max_stall.0 / 2);
        let deadline = Instant::now() + self.engine.timeout.max(ARMING);
        guard.arm(self.journal.run(), section, stall.clamp(SHORTEST, SILENCE), deadline).await.map_err(|why| {
            format!("there is no guard that would free the clients if this process died while they wait: {why}")
        })
    }

    /// Ends that.
    pub(super) async fn disarm(&self, steps: &[Step]) {
        let (Some(guard), Some(section)) = (&self.engine.guard, guarded(steps)) else { return };
        if let Err(why) = guard.disarm(section).await {
            self.tell(Event::Warning { text: format!("{section} was not watched over to its end: {why}") });
        }
    }
}

/// The name of a section that holds clients back.
fn guarded(steps: &[Step]) -> Option<&str> {
    let pauses = |step: &Step| matches!(&step.work, Work::Act { action: Action::Pause { .. }, .. });
    steps.iter().find(|step| pauses(step)).and_then(|step| step.section.as_deref())
}
