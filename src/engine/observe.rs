//! Asking every target at once, each under one deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Engine, WORKING};
use crate::model::{Condition, FacilityName, Facts, Live, Observed, Scope, Span, Target, TargetId, Unreachable};
use crate::plan::lost::evidence::Lost;
use crate::plan::{self, Assumption};

/// A target that has said nothing for so long is waited for, which is no work: it does not keep the next one from being asked. So the
/// silent targets of a dead facility cost their deadline once, not once for every [`WORKING`] of them.
const SILENT: Duration = Duration::from_millis(50);

/// How much longer than its deadline a provider may take before it is given up: it should have ended by itself.
const GRACE: Duration = Duration::from_millis(250);

/// How long what is known as lost, or stands where nothing answers, is waited for.
const QUICK: Duration = Duration::from_millis(500);

/// How many targets of a facility must be silent before it is given up: fewer may have died by themselves.
const PATTERN: usize = 3;

/// How often it is looked whether a facility is given up.
const LOOK: Duration = Duration::from_millis(50);

impl Engine {
    /// Observes the whole topology: all targets in parallel, one deadline each.
    pub async fn observe(&self) -> Live {
        self.observe_some(plan::scopes(&self.topology).into_values(), &Lost::default()).await
    }

    /// Observes the whole topology, and asks the hosts elsewhere what they reach of it. What is known as lost is asked once and with a
    /// short deadline, beside everything else.
    pub async fn observe_without(&self, lost: &Lost) -> Live {
        let vantages = plan::lost::vantages(&self.topology, lost);
        self.observe_some(plan::scopes(&self.topology).into_values().chain(vantages.into_values()), lost).await
    }

    /// Observes these targets of the topology.
    pub(super) async fn observe_only(&self, ids: &BTreeSet<TargetId>) -> Live {
        let scopes = plan::scopes(&self.topology).into_iter().filter(|(id, _)| ids.contains(id));
        self.observe_some(scopes.map(|(_, scope)| scope), &Lost::default()).await
    }

    async fn observe_some(&self, targets: impl Iterator<Item = (Arc<Target>, Scope)>, lost: &Lost) -> Live {
        let working = &Semaphore::new(WORKING);
        let round = &Round::beginning(self.timeout);
        futures_util::stream::iter(targets)
            .map(|(target, scope)| async move {
                let permit = working.acquire().await;
                let began = Instant::now();
                // Of a facility that answers again all is asked as usual, and of a server that has died its machine, over ssh.
                let all = lost.facilities.contains(&target.facility);
                let usual = all || target.host.is_some() || !lost.contains(&target);
                let time = if usual { self.timeout } else { self.timeout.min(QUICK) };
                round.asks(&target.facility);
                let mut asking = pin!(self.ask(&target, &scope, began + time));
                let observed = match tokio::time::timeout(SILENT, &mut asking).await {
                    Ok(observed) => observed,
                    Err(_) => {
                        drop(permit);
                        tokio::select! {
                            observed = asking => observed,
                            () = round.gives_up(&target.facility, began, all) => Observed::Unreachable(given_up(&target, began)),
                        }
                    }
                };
                if observed.known().is_some() {
                    round.hears(&target.facility);
                }
                (target.id.clone(), observed)
            })
            .buffer_unordered(self.open)
            .collect()
            .await
    }

    /// Observes one target, which need not be one of the topology's.
    pub(super) async fn observe_one(&self, target: &Target, scope: &Scope) -> Observed<Facts> {
        self.ask(target, scope, Instant::now() + self.timeout).await
    }

    async fn ask(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts> {
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

/// What has come back so far of one observation, by facility.
struct Round {
    /// From when on a facility of which nothing has come back is given up.
    half: Instant,
    tally: Mutex<BTreeMap<FacilityName, Tally>>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    asked: usize,
    answered: usize,
}

impl Round {
    fn beginning(timeout: Duration) -> Self {
        Self { half: Instant::now() + timeout / 2, tally: Mutex::default() }
    }

    fn count(&self, facility: &FacilityName, count: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match tally.get_mut(facility) {
            Some(tally) => count(tally),
            None => count(tally.entry(facility.clone()).or_default()),
        }
    }

    fn asks(&self, facility: &FacilityName) {
        self.count(facility, |tally| tally.asked += 1);
    }

    fn hears(&self, facility: &FacilityName) {
        self.count(facility, |tally| tally.answered += 1);
    }

    /// Ends once nothing of a facility has answered for half of the time although others have, and somebody who was asked at `began` has
    /// been waited for at least shortly. One that is `lost` is waited for shortly only.
    async fn gives_up(&self, facility: &FacilityName, began: Instant, lost: bool) {
        if lost {
            tokio::time::sleep_until(began + QUICK).await;
            if self.answered(facility) > 0 {
                std::future::pending::<()>().await;
            }
            return;
        }
        tokio::time::sleep_until(self.half.max(began + QUICK)).await;
        while !self.is_dead(facility) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn answered(&self, facility: &FacilityName) -> usize {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.get(facility).map_or(0, |tally| tally.answered)
    }

    fn is_dead(&self, facility: &FacilityName) -> bool {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let own = tally.get(facility).copied().unwrap_or_default();
        let elsewhere = || tally.iter().any(|(other, tally)| other != facility && tally.answered > 0);
        own.asked >= PATTERN && own.answered == 0 && elsewhere()
    }
}

/// A target that was not waited for to its deadline.
fn given_up(target: &Target, began: Instant) -> Unreachable {
    let waited = Span::millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let facility = &target.facility;
    Unreachable::new(
        format!("no answer within {waited}, and nothing else in {facility} answers"),
        format!("asking {}", target.id),
    )
    .advice(format!("check power and network of {facility}; if it is lost: `handover plan --lost {facility}`"))
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
    struct Servers {
        open: AtomicUsize,
        most: AtomicUsize,
        /// How long each takes; none says nothing.
        takes: fn(&Target) -> Option<Duration>,
    }

    /// A question is open until its answer is there or nobody waits for it any more.
    struct Closes<'a>(&'a AtomicUsize);

    impl Drop for Closes<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    const SOON: Option<Duration> = Some(Duration::from_millis(20));

    impl Servers {
        fn new(takes: fn(&Target) -> Option<Duration>) -> Arc<Self> {
            Arc::new(Self { open: AtomicUsize::new(0), most: AtomicUsize::new(0), takes })
        }
    }

    #[async_trait]
    impl Provider for Servers {
        async fn observe(&self, target: &Target, _scope: &Scope, deadline: Instant) -> Observed<Facts> {
            let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(open, Ordering::Relaxed);
            let _open = Closes(&self.open);
            match (self.takes)(target).filter(|time| Instant::now() + *time < deadline) {
                Some(time) => {
                    tokio::time::sleep(time).await;
                    let facts = ServerFacts { healthy: true, status: 200, latency: Duration::ZERO };
                    Observed::Known { value: Facts::Server(facts), took: Duration::ZERO }
                }
                None => {
                    tokio::time::sleep_until(deadline).await;
                    Observed::Unreachable(Unreachable::new("no answer", "test"))
                }
            }
        }

        async fn apply(&self, _: &Target, _: &Action, _: &Permit, _: Instant) -> Outcome {
            unreachable!("nothing is applied here")
        }

        async fn verify(&self, _: &Target, _: &Condition, _: Instant) -> Observed<Facts> {
            unreachable!("nothing is verified here")
        }
    }

    /// A topology with so many servers in each facility.
    fn topology(each: usize) -> Arc<Topology> {
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
        Arc::new(crate::topology::parse(text.as_bytes(), &checks.into()).unwrap().topology)
    }

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn engine(topology: &Arc<Topology>, servers: &Arc<Servers>) -> Engine {
        let names = ["rfc2136", "haproxy", "http", "postgresql", "pgbouncer", "command", "vantage"];
        let registry = names
            .into_iter()
            .fold(Registry::default(), |all, name| all.with(name, Arc::clone(servers) as Arc<dyn Provider>));
        Engine::new(Arc::clone(topology), registry, Arc::new(SystemClock), TIMEOUT)
    }

    /// What was observed, and how long that took: virtual time, so it is exact, whatever the machine does meanwhile.
    async fn timed(observing: impl Future<Output = Live>) -> (Live, Duration) {
        let began = Instant::now();
        (observing.await, began.elapsed())
    }

    fn silent(live: &Live) -> usize {
        live.values().filter(|observed| observed.known().is_none()).count()
    }

    fn west_of(topology: &Topology) -> usize {
        topology.targets().filter(|target| target.facility.as_str() == "west").count()
    }

    fn is_west(target: &Target) -> bool {
        target.facility.as_str() == "west"
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_facility_costs_half_of_its_deadline_once_however_many_targets_it_has() {
        let topology = topology(2_000);
        let servers = Servers::new(|target| if is_west(target) { None } else { SOON });
        let engine = engine(&topology, &servers);
        let (live, took) = timed(engine.observe()).await;
        assert_eq!((live.len(), silent(&live)), (topology.targets().count(), west_of(&topology)));
        assert!((TIMEOUT / 2..Duration::from_millis(1_450)).contains(&took), "{took:?}");
        let told = live.values().find_map(|observed| observed.as_result().err()).unwrap().to_string();
        assert!(told.contains("nothing else in west answers") && told.contains("plan --lost west"), "{told}");

        // Where sockets are few, fewer are asked at a time, and everybody is asked all the same.
        servers.most.store(0, Ordering::Relaxed);
        let live = engine.with_sockets(600).observe().await;
        assert_eq!((live.len(), silent(&live)), (topology.targets().count(), west_of(&topology)));
        assert_eq!(servers.most.load(Ordering::Relaxed), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_facility_is_given_up_only_if_nothing_of_it_answers_and_others_do() {
        let all = topology(5);
        // One that is slow keeps all of its facility from being given up.
        let slow = Servers::new(|target| match target.name() {
            "west3" => Some(Duration::from_millis(900)),
            "west4" => Some(Duration::from_millis(1_800)),
            _ if is_west(target) => None,
            _ => SOON,
        });
        let (live, took) = timed(engine(&all, &slow).observe()).await;
        assert_eq!((silent(&live), took), (west_of(&all) - 2, TIMEOUT));

        // Nobody answers: then it is us.
        let nobody = Servers::new(|_| None);
        let (live, took) = timed(engine(&all, &nobody).observe()).await;
        assert_eq!((silent(&live), took), (live.len(), TIMEOUT));

        // Two that are silent have died by themselves, perhaps: one of them is only slow.
        let few = Servers::new(|target| match target.name() {
            "west-app1" | "west-pg1" => Some(Duration::from_millis(1_500)),
            _ => SOON,
        });
        let ids = topology(0)
            .targets()
            .filter(|it| ["west-app1", "west-pg1"].contains(&it.name()) || !is_west(it))
            .map(|it| it.id.clone())
            .collect();
        let (live, took) = timed(engine(&topology(0), &few).observe_only(&ids)).await;
        assert_eq!((silent(&live), took), (0, Duration::from_millis(1_500)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_as_lost_is_asked_once_and_shortly() {
        let all = topology(200);
        let west = Lost { facilities: ["west".into()].into(), ..Lost::default() };
        let dead = Servers::new(|target| if is_west(target) { None } else { Some(Duration::from_millis(700)) });
        let (live, took) = timed(engine(&all, &dead).observe_without(&west)).await;
        assert_eq!(silent(&live), west_of(&all));
        assert!(took < Duration::from_millis(900), "{took:?}");
        assert_eq!(live.len(), all.targets().count());

        // What answers in that time has answered.
        let alive = Servers::new(|_| Some(Duration::from_millis(300)));
        assert_eq!(silent(&engine(&all, &alive).observe_without(&west).await), 0);
        // A single target, and nothing else, is waited for less.
        let proxy = all.targets().find(|target| target.name() == "west-lb1").unwrap().id.clone();
        let one = Lost { targets: [proxy.clone()].into(), ..Lost::default() };
        let slow = Servers::new(|_| Some(Duration::from_millis(600)));
        let live = engine(&all, &slow).observe_without(&one).await;
        assert_eq!((silent(&live), live[&proxy].known().is_none()), (1, true));
    }
}
