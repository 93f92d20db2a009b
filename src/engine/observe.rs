//! Asking every target at once, each under one deadline.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::{Engine, PARALLEL};
use crate::model::{Condition, Facts, Live, Observed, Scope, Target, TargetId, Unreachable};
use crate::plan::{self, Assumption};

/// How much longer than its deadline a provider may take before it is given up: it should have ended by itself.
const GRACE: Duration = Duration::from_millis(250);

impl Engine {
    /// Observes the whole topology: all targets in parallel, one deadline each.
    pub async fn observe(&self) -> Live {
        self.observe_some(plan::scopes(&self.topology).into_values()).await
    }

    /// Observes these targets of the topology.
    pub(super) async fn observe_only(&self, ids: &BTreeSet<TargetId>) -> Live {
        let scopes = plan::scopes(&self.topology).into_iter().filter(|(id, _)| ids.contains(id));
        self.observe_some(scopes.map(|(_, scope)| scope)).await
    }

    async fn observe_some(&self, targets: impl Iterator<Item = (Arc<Target>, Scope)>) -> Live {
        futures_util::stream::iter(targets)
            .map(|(target, scope)| async move {
                let observed = self.observe_one(&target, &scope).await;
                (target.id.clone(), observed)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await
    }

    /// Observes one target, which need not be one of the topology's.
    pub(super) async fn observe_one(&self, target: &Target, scope: &Scope) -> Observed<Facts> {
        let deadline = Instant::now() + self.timeout;
        let provider = match self.registry.of(target) {
            Ok(provider) => provider,
            Err(why) => return Observed::Unreachable(why),
        };
        bounded(deadline, provider.observe(target, scope, deadline)).await
    }

    /// Lets the provider verify a condition until it holds or the deadline passes, then judges what it saw.
    ///
    /// # Errors
    /// What is there instead, as "expected …, but …".
    pub(super) async fn verify(&self, assumption: &Assumption, deadline: Instant) -> Result<Facts, String> {
        let Assumption { target: id, condition } = assumption;
        let name = id.name();
        let target = self.target(id)?;
        let provider = self.registry.of(&target).map_err(|why| why.to_string())?;
        match bounded(deadline, provider.verify(&target, condition, deadline)).await {
            Observed::Known { value, .. } => match condition.holds(&value) {
                Ok(()) => Ok(value),
                Err(found) => Err(format!("{name} should be so that it {}, but {found}", text(condition))),
            },
            Observed::Unreachable(why) => Err(format!("{name} cannot be read: {why}")),
        }
    }

    /// A target by its identity.
    ///
    /// # Errors
    /// If the topology has no such target.
    pub(super) fn target(&self, id: &TargetId) -> Result<Arc<Target>, String> {
        self.targets.get(id).cloned().ok_or_else(|| format!("the topology has no target {id}"))
    }
}

fn text(condition: &Condition) -> String {
    crate::model::text::condition(condition)
}

/// A provider that does not keep its deadline is not waited for.
async fn bounded(deadline: Instant, asking: impl Future<Output = Observed<Facts>>) -> Observed<Facts> {
    match tokio::time::timeout_at(deadline + GRACE, asking).await {
        Ok(observed) => observed,
        Err(_) => {
            Observed::Unreachable(Unreachable::new("no answer by the deadline", "its provider did not end by itself"))
        }
    }
}
