//! Asking every target at once, each under one deadline.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Engine, WORKING};
use crate::model::{Condition, Facts, Live, Observed, Scope, Target, TargetId, Unreachable};
use crate::plan::lost::evidence::Lost;
use crate::plan::{self, Assumption};

/// A target that has said nothing for so long is waited for, which is no work: it does not keep the next one from being asked. So the
/// silent targets of a dead facility cost their deadline once, not once for every [`WORKING`] of them.
const SILENT: Duration = Duration::from_millis(50);

/// How much longer than its deadline a provider may take before it is given up: it should have ended by itself.
const GRACE: Duration = Duration::from_millis(250);

impl Engine {
    /// Observes the whole topology: all targets in parallel, one deadline each.
    pub async fn observe(&self) -> Live {
        self.observe_some(plan::scopes(&self.topology).into_values()).await
    }

    /// Observes the whole topology, and asks the hosts elsewhere what they reach of it.
    pub async fn observe_from_elsewhere_too(&self) -> Live {
        let vantages = plan::lost::vantages(&self.topology, &Lost::default());
        self.observe_some(plan::scopes(&self.topology).into_values().chain(vantages.into_values())).await
    }

    /// Observes these targets of the topology.
    pub(super) async fn observe_only(&self, ids: &BTreeSet<TargetId>) -> Live {
        let scopes = plan::scopes(&self.topology).into_iter().filter(|(id, _)| ids.contains(id));
        self.observe_some(scopes.map(|(_, scope)| scope)).await
    }

    async fn observe_some(&self, targets: impl Iterator<Item = (Arc<Target>, Scope)>) -> Live {
        let working = &Semaphore::new(WORKING);
        futures_util::stream::iter(targets)
            .map(|(target, scope)| async move {
                let permit = working.acquire().await;
                let mut asking = pin!(self.observe_one(&target, &scope));
                let observed = match tokio::time::timeout(SILENT, &mut asking).await {
                    Ok(observed) => observed,
                    Err(_) => {
                        drop(permit);
                        asking.await
                    }
                };
                (target.id.clone(), observed)
            })
            .buffer_unordered(self.open)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::journal::Permit;
    use crate::model::{Action, ServerFacts};
    use crate::provider::{Outcome, Provider, Registry, SystemClock};
    use crate::topology::Topology;

    /// Answers after a while, or says nothing until its deadline; counts how many questions are open.
    #[derive(Default)]
    struct Servers {
        open: AtomicUsize,
        most: AtomicUsize,
    }

    #[async_trait]
    impl Provider for Servers {
        async fn observe(&self, target: &Target, _scope: &Scope, deadline: Instant) -> Observed<Facts> {
            let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(open, Ordering::Relaxed);
            let observed = if target.facility.as_str() == "west" {
                tokio::time::sleep_until(deadline).await;
                Observed::Unreachable(Unreachable::new("no answer", "test"))
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let facts = ServerFacts { healthy: true, status: 200, latency: Duration::ZERO };
                Observed::Known { value: Facts::Server(facts), took: Duration::ZERO }
            };
            self.open.fetch_sub(1, Ordering::Relaxed);
            observed
        }

        async fn apply(&self, _: &Target, _: &Action, _: &Permit, _: Instant) -> Outcome {
            unreachable!("nothing is applied here")
        }

        async fn verify(&self, _: &Target, _: &Condition, _: Instant) -> Observed<Facts> {
            unreachable!("nothing is verified here")
        }
    }

    /// A topology with so many servers in each facility.
    fn topology(each: usize) -> Topology {
        let servers: String = ["west", "east"]
            .into_iter()
            .flat_map(|facility| (0..each).map(move |n| (facility, n)))
            .map(|(facility, n)| {
                format!("      {facility}{n}: {{facility: {facility}, address: \"10.0.0.1:{}\"}}\n", n + 1)
            })
            .collect();
        let text = include_str!("../../tests/fixtures/topology-small.yaml");
        let first = "      west-app1: ";
        assert!(text.contains(first));
        let text = text.replacen(first, &format!("{servers}{first}"), 1);
        let none: crate::provider::SettingsCheck = |_, _| Vec::new();
        let checks = ["rfc2136", "haproxy", "http", "postgresql", "pgbouncer", "command"].map(|name| (name, none));
        crate::topology::parse(text.as_bytes(), &checks.into()).unwrap().topology
    }

    /// Virtual time: what it takes is exact, whatever the machine does meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_dead_facility_costs_its_deadline_once_however_many_targets_it_has() {
        let topology = Arc::new(topology(2_000));
        let servers = Arc::new(Servers::default());
        let names = ["rfc2136", "haproxy", "http", "postgresql", "pgbouncer", "command"];
        let registry = names
            .into_iter()
            .fold(Registry::default(), |all, name| all.with(name, Arc::clone(&servers) as Arc<dyn Provider>));
        let timeout = Duration::from_secs(2);
        let engine = Engine::new(Arc::clone(&topology), registry, Arc::new(SystemClock), timeout);
        let began = Instant::now();
        let live = engine.observe().await;
        let took = began.elapsed();
        assert_eq!(live.len(), topology.targets().count());
        let silent = live.values().filter(|observed| observed.known().is_none()).count();
        assert!((2_000..live.len() / 2 + 100).contains(&silent), "{silent} of {}", live.len());
        assert!(took < Duration::from_secs(3), "{took:?}");

        // Where sockets are few, fewer are asked at a time, and everybody is asked all the same.
        servers.most.store(0, Ordering::Relaxed);
        let live = engine.with_sockets(600).observe().await;
        assert_eq!(live.len(), topology.targets().count());
        assert_eq!(servers.most.load(Ordering::Relaxed), 100);
    }
}
