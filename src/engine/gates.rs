//! Measuring for gates; the judgement is `plan::gate`'s. A gate that says hold is asked again until its step's deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{Run, Trouble};
use crate::event::{Event, Verdict as Told, WaitCause};
use crate::journal::Record;
use crate::model::{
    BackendServers, FacilityName, ForeignName, HealthCheck, Live, Observed, ProxyFacts, Scope, Service, ServiceName,
    Settings, Target, TargetId, TargetKind,
};
use crate::plan::gate::{self, Limits, Samples, Verdict};
use crate::plan::lost::decide;
use crate::plan::lost::evidence::{self, Lost};
use crate::plan::{self, Gate, GateName, Step, live, preflight};

/// The servers that are watched, by proxy and backend.
type Watched = BTreeMap<TargetId, BackendServers>;

/// How often a gate that holds is asked again, and how often a soak looks at the counters.
const INTERVAL: Duration = Duration::from_millis(500);

/// Requests sent through each proxy for a backend with too little traffic to judge by.
const PROBES: u64 = 5;

/// What a gate has seen of what is said to be lost.
#[derive(Default)]
struct Vigil {
    /// It was alive once: what was known before counts no more.
    answered: bool,
    silent_since: Option<Instant>,
}

impl Run {
    /// Judges a gate; what was measured is recorded with the verdict.
    pub(super) async fn gate(self: &Arc<Self>, step: &Step, gate: &Gate) -> Result<String, Trouble> {
        let deadline = Instant::now() + step.deadline.0;
        let passed = gate.name().and_then(|name| self.plan.intent.overrides.get(&name));
        let mut watched = Vigil::default();
        let verdict = match gate {
            Gate::Soak { .. } => self.soak(step, gate, deadline).await?,
            _ => loop {
                let verdict = match gate {
                    Gate::Lost { lost, fenced_by_command } => self.lost(lost, *fenced_by_command, &mut watched).await,
                    _ => self.measure(gate).await,
                };
                if !matches!(verdict, Verdict::Hold(_)) || passed.is_some() || Instant::now() + INTERVAL >= deadline {
                    break verdict;
                }
                let text = format!("hold: {}", verdict.measured());
                self.tell(Event::StepProgress { step: step.id.clone(), text, fraction: None });
                self.pause(INTERVAL).await?;
            },
        };
        let verdict = match (passed, verdict) {
            (Some(passed), verdict) if gate.name() != Some(GateName::Switchable) => gate::overridden(verdict, passed),
            (_, verdict) => verdict,
        };
        let (word, measured) = (verdict.word().to_owned(), verdict.measured().to_owned());
        self.record(Record::GateJudged { step: step.id.clone(), verdict: word, measured: measured.clone() }).await?;
        let told = match &verdict {
            Verdict::Go(_) => Told::Go,
            Verdict::Hold(_) => Told::Hold,
            Verdict::Retreat(_) => Told::Retreat,
        };
        let title = step.title.clone();
        self.tell(Event::GateJudged { step: step.id.clone(), title, verdict: told, measured: measured.clone() });
        match verdict {
            Verdict::Go(_) => Ok(measured),
            Verdict::Hold(_) => Err(Trouble::Held(step.id.clone(), measured)),
            Verdict::Retreat(_) => Err(Trouble::Retreat(step.id.clone(), measured)),
        }
    }

    async fn measure(&self, gate: &Gate) -> Verdict {
        let topology = &self.engine.topology;
        match gate {
            Gate::Switchable { database: name, primary, candidate, followers } => {
                let Some(database) = topology.databases.get(name) else {
                    return Verdict::Hold(format!("the topology has no database {name}"));
                };
                let poolers = database.poolers.iter().filter_map(|pooler| topology.poolers.get(pooler));
                let mut ids: BTreeSet<TargetId> = poolers.map(|pooler| pooler.target.id.clone()).collect();
                ids.extend(database.members.values().map(|member| member.target.id.clone()));
                let live = self.engine.observe_only(&ids).await;
                let mut objections = preflight::objections(topology, database, primary, candidate, &live);
                objections.extend(preflight::led(database, primary, candidate, followers, &live));
                let passed = self.plan.intent.overrides.get(&GateName::Switchable);
                gate::judge_switchable(name.as_str(), &objections, passed)
            }
            Gate::Capacity { service, shares, servers } => match topology.services.get(service) {
                Some(service) => {
                    let live = self.engine.observe_only(servers).await;
                    gate::judge_capacity(service, shares, &topology.policy, &live)
                }
                None => Verdict::Hold(format!("the topology has no service {service}")),
            },
            Gate::Off { targets } => gate::judge_off(targets, &self.engine.observe_only(targets).await),
            Gate::Synthetic { services, addresses } => self.synthetic(services, addresses).await,
            Gate::Soak { .. } | Gate::Lost { .. } => Verdict::Hold("it is watched, not asked".to_owned()),
        }
    }

    /// Whether what is said to be lost is. What this gate has watched since it was last found alive counts, and as long as it has not been,
    /// what was known before.
    async fn lost(&self, lost: &Lost, fenced_by_command: bool, watched: &mut Vigil) -> Verdict {
        let began = Instant::now();
        let live = self.engine.observe_without(lost).await;
        let topology = &self.engine.topology;
        let targets = || topology.targets().filter(|target| lost.contains(target));
        if targets().any(|target| live::facts(&live, &target.id).is_ok()) {
            *watched = Vigil { answered: true, silent_since: None };
        }
        let silent_for = watched.silent_since.get_or_insert(began).elapsed();
        let mut before = self.engine.known().before;
        for target in targets() {
            let silent = before.silent.entry(target.id.clone()).or_default();
            *silent = if watched.answered { silent_for } else { silent_for.max(*silent) };
        }
        let attested = self.plan.intent.attested.clone();
        let verdict = evidence::judge(&evidence::gather(topology, lost, &live, &before, attested));
        decide::judge_gate(&verdict, fenced_by_command)
    }

    /// A request of each service through each address.
    async fn synthetic(&self, services: &BTreeSet<ServiceName>, addresses: &BTreeSet<String>) -> Verdict {
        let services = || services.iter().filter_map(|name| self.engine.topology.services.get(name));
        let requests = addresses.iter().flat_map(|address| services().map(move |service| (address, service)));
        let asked =
            futures_util::future::join_all(requests.map(|(address, service)| self.probe(address, service))).await;
        let count = asked.len();
        let wrong: Vec<String> = asked.into_iter().filter_map(Result::err).collect();
        if wrong.is_empty() {
            Verdict::Go(format!("{count} of {count} requests answered"))
        } else {
            Verdict::Hold(wrong.join("; "))
        }
    }

    /// One request of a service through a proxy's address, as the service's own health check.
    async fn probe(&self, address: &str, service: &Service) -> Result<(), String> {
        let Some(server) = service.servers.values().next() else { return Ok(()) };
        let target = Target {
            id: TargetId::server(&service.name, address),
            kind: TargetKind::Server,
            facility: FacilityName::new("edge"),
            provider: server.target.provider.clone(),
            address: address.to_owned(),
            settings: Settings::default(),
            host: None,
        };
        let HealthCheck { path, host, .. } = &service.health;
        match self.engine.observe_one(&target, &Scope::Health(service.health.clone())).await {
            Observed::Known { value, .. } => match value.server() {
                Some(facts) if facts.healthy => Ok(()),
                Some(facts) => Err(format!("{host}{path} through {address} answers {}", facts.status)),
                None => Err(format!("{address} answered as something else")),
            },
            Observed::Unreachable(why) => Err(format!("{host}{path} through {address}: {why}")),
        }
    }

    /// Watches the survivors for the soak time: retreats as soon as they get sick, and goes on only on data.
    async fn soak(self: &Arc<Self>, step: &Step, gate: &Gate, deadline: Instant) -> Result<Verdict, Trouble> {
        let Gate::Soak { window, max_error_rate, max_queue, min_sample, watched } = gate else {
            return Ok(Verdict::Hold("not a soak".to_owned()));
        };
        let limits = Limits { max_error_rate: *max_error_rate, max_queue: *max_queue, min_sample: *min_sample };
        let ids: BTreeSet<TargetId> = watched.keys().cloned().collect();
        let began = Instant::now();
        let mut before = Samples::new();
        let mut no_data;
        loop {
            let live = self.engine.observe_only(&ids).await;
            let elapsed = began.elapsed();
            let (proxies, silent) = proxies(&live, &ids);
            let now = gate::sample(&proxies, watched);
            let judged: Vec<(&ForeignName, Option<Verdict>)> = now
                .iter()
                .map(|(name, now)| (name, gate::judge_soak(name, before.get(name).unwrap_or(now), now, limits)))
                .collect();
            if let Some(sick) = judged.iter().find_map(|(_, verdict)| match verdict {
                Some(Verdict::Retreat(why)) => Some(why.clone()),
                _ => None,
            }) {
                return Ok(Verdict::Retreat(sick));
            }
            // To retreat, the proxies that answer are enough; to go on, it takes all of them.
            if silent.is_empty() && elapsed >= window.0 && !before.is_empty() {
                self.log().waited(&step.id, WaitCause::Soak, elapsed);
                return Ok(self.well(watched, judged).await);
            }
            no_data = silent.join("; ");
            for (name, samples) in now {
                let known = before.entry(name).or_default();
                for (proxy, now) in samples {
                    // Counters that went backwards belong to a new process: begin again with them.
                    if known.get(&proxy).is_none_or(|before| now.restarted_since(before)) {
                        known.insert(proxy, now);
                    }
                }
            }
            if Instant::now() >= deadline {
                return Ok(Verdict::Hold(no_data));
            }
            let fraction = elapsed.as_secs_f64() / window.0.as_secs_f64().max(f64::EPSILON);
            let text = format!("{}s of {window}", elapsed.as_secs());
            self.tell(Event::StepProgress { step: step.id.clone(), text, fraction: Some(fraction.min(1.0)) });
            let left = window.0.saturating_sub(began.elapsed());
            self.pause(if left.is_zero() { INTERVAL } else { INTERVAL.min(left) }).await?;
        }
    }

    /// The verdict at the end of a soak in which nothing got sick: backends with too little traffic are probed through each proxy.
    async fn well(&self, watched: &Watched, judged: Vec<(&ForeignName, Option<Verdict>)>) -> Verdict {
        let texts = judged.into_iter().map(|(name, verdict)| async move {
            match verdict {
                Some(verdict) => Ok(verdict.measured().to_owned()),
                None => self.probes(watched, name).await,
            }
        });
        match futures_util::future::join_all(texts).await.into_iter().collect::<Result<Vec<String>, String>>() {
            Ok(texts) => Verdict::Go(texts.join(", ")),
            Err(why) => Verdict::Retreat(why),
        }
    }

    /// Active probes of one backend through each proxy.
    async fn probes(&self, watched: &Watched, backend: &ForeignName) -> Result<String, String> {
        let topology = &self.engine.topology;
        let routes: Vec<(String, &Service)> = topology
            .proxies
            .values()
            .filter(|proxy| watched.contains_key(&proxy.target.id))
            .flat_map(|proxy| topology.services.values().map(move |service| (proxy, service)))
            .filter(|(proxy, service)| plan::backend_of(proxy, service) == backend)
            .map(|(proxy, service)| (proxy.target.address.clone(), service))
            .collect();
        let rounds = (0..PROBES).flat_map(|_| routes.iter());
        let asked = futures_util::future::join_all(rounds.map(|(address, service)| self.probe(address, service))).await;
        let sent = asked.len();
        match asked.into_iter().find_map(Result::err) {
            None => Ok(format!("{backend}: too little traffic, {sent} of {sent} probes answered")),
            Some(why) => Err(format!("{backend}: too little traffic to judge by, and a probe failed: {why}")),
        }
    }

    /// Lets time pass, unless the operator asks the run to stop or something else is in trouble.
    pub(super) async fn pause(&self, time: Duration) -> Result<(), Trouble> {
        let (mut stop, mut halt) = (self.stop.clone(), self.halt.subscribe());
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            Ok(_) = stop.wait_for(|stop| *stop) => Err(Trouble::Stopped),
            Ok(_) = halt.wait_for(|halt| *halt) => Err(Trouble::Stopped),
        }
    }
}

/// What the proxies said, and which of them said nothing.
fn proxies<'a>(live: &'a Live, ids: &BTreeSet<TargetId>) -> (BTreeMap<TargetId, &'a ProxyFacts>, Vec<String>) {
    let (mut known, mut silent) = (BTreeMap::new(), Vec::new());
    for id in ids {
        match live::facts(live, id).map(crate::model::Facts::proxy) {
            Ok(Some(facts)) => {
                known.insert(id.clone(), facts);
            }
            Ok(None) => silent.push(format!("{} answered as something else", id.name())),
            Err(why) => silent.push(format!("no data from {}: {why}", id.name())),
        }
    }
    (known, silent)
}
