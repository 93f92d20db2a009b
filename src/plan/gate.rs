//! Judging gates: go, hold or retreat, with what was measured. Pure; the engine measures.

use std::collections::{BTreeMap, BTreeSet};

use super::live;
use super::overrides::Override;
use super::preflight::Objection;
use crate::model::{
    AppServer, BackendFacts, BackendServers, FacilityName, ForeignName, Live, MemberFacts, Percent, Policy, ProxyFacts,
    Rate, Role, Service, TargetId,
};

/// What a gate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on; what was measured.
    Go(String),
    /// Wait, and stop if it does not pass: no data, or not yet.
    Hold(String),
    /// Take the reversible steps back at once: the survivors are getting sick.
    Retreat(String),
}

impl Verdict {
    /// `go`, `hold` or `retreat`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Go(_) => "go",
            Self::Hold(_) => "hold",
            Self::Retreat(_) => "retreat",
        }
    }

    /// What was measured.
    pub fn measured(&self) -> &str {
        match self {
            Self::Go(text) | Self::Hold(text) | Self::Retreat(text) => text,
        }
    }
}

/// What the servers of a service in these facilities can serve; none if any capacity is unknown.
pub fn capacity<'a>(servers: impl Iterator<Item = &'a AppServer>) -> Option<Rate> {
    servers.map(|server| server.capacity.map(|rate| rate.0)).sum::<Option<u64>>().map(Rate)
}

fn in_facilities<'a>(
    service: &'a Service,
    facilities: &'a BTreeSet<FacilityName>,
) -> impl Iterator<Item = &'a AppServer> {
    service.servers.values().filter(|server| facilities.contains(&server.target.facility))
}

/// The load that a capacity may be asked to carry.
fn usable(capacity: Rate, headroom: Percent) -> Rate {
    Rate((capacity.0 as f64 * headroom.rest().fraction()).floor() as u64)
}

/// One line of what remains: `orderform: 1600 rps for a peak of 1200 rps (25% free)`.
pub fn capacity_line(service: &Service, facilities: &BTreeSet<FacilityName>) -> String {
    let name = &service.name;
    match (capacity(in_facilities(service, facilities)), &service.peak) {
        (Some(capacity), Some(peak)) => {
            let free = Percent::ratio(capacity.0.saturating_sub(peak.rate.0), capacity.0);
            format!("{name}: {capacity} for a peak of {} ({free} free)", peak.rate)
        }
        (Some(capacity), None) => format!("{name}: {capacity}; its peak is not stated"),
        (None, _) => format!("{name}: capacity not stated"),
    }
}

/// Is what remains enough at peak with headroom, counting only servers that are healthy? Each facility must carry its own share.
pub fn judge_capacity(
    service: &Service,
    shares: &BTreeMap<FacilityName, Percent>,
    policy: &Policy,
    live: &Live,
) -> Verdict {
    let healthy = |server: &&AppServer| live::is_healthy(live, &server.target.id);
    let (mut go, mut hold) = (Vec::new(), Vec::new());
    for (facility, share) in shares.iter().filter(|(_, share)| **share > Percent::ZERO) {
        let here = BTreeSet::from([facility.clone()]);
        let all = in_facilities(service, &here).count();
        let well: Vec<&AppServer> = in_facilities(service, &here).filter(healthy).collect();
        let count = format!("{}: {} of {all} servers in {facility} healthy", service.name, well.len());
        match (capacity(well.iter().copied()), &service.peak) {
            _ if well.is_empty() => hold.push(count),
            (Some(capacity), Some(peak)) => {
                let load = Rate((peak.rate.0 as f64 * share.fraction()).ceil() as u64);
                let text = format!("{count}, {capacity} for {share} of a peak of {}", peak.rate);
                if usable(capacity, policy.headroom) < load {
                    let needed = Rate((load.0 as f64 / policy.headroom.rest().fraction()).ceil() as u64);
                    hold.push(format!("{text}; with {} headroom it needs {needed}", policy.headroom));
                } else {
                    go.push(text);
                }
            }
            _ if well.len() < all => hold.push(format!("{count}, and capacity or peak is not stated")),
            _ => go.push(format!("{count}; capacity or peak is not stated")),
        }
    }
    if hold.is_empty() { Verdict::Go(go.join(", ")) } else { Verdict::Hold(hold.join(", ")) }
}

/// Judges a switchover's preflight.
pub fn judge_switchable(database: &str, objections: &[Objection], passed: Option<&Override>) -> Verdict {
    if objections.is_empty() {
        return Verdict::Go(format!("{database}: replica streams, poolers ready, no transaction in the way"));
    }
    let texts: Vec<String> = objections.iter().map(|o| format!("{}: {}", o.what, o.advice)).collect();
    let verdict = Verdict::Hold(texts.join("; "));
    match passed {
        // The section takes everything back if what may pass does not pass in time; the rest would lose commits.
        Some(passed) if objections.iter().all(|objection| objection.may_pass) => overridden(verdict, passed),
        _ => verdict,
    }
}

/// The verdict on a gate that is passed whatever it says: what was measured is told all the same.
pub fn overridden(verdict: Verdict, passed: &Override) -> Verdict {
    match verdict {
        Verdict::Go(text) => Verdict::Go(text),
        Verdict::Hold(text) | Verdict::Retreat(text) => Verdict::Go(format!("{text} ({passed})")),
    }
}

/// Is everything off? A database server whose files say that it was stopped is.
pub fn judge_off(targets: &BTreeSet<TargetId>, live: &Live) -> Verdict {
    let answers = |id: &&TargetId| {
        let facts = live::facts(live, id).ok();
        let stopped = |facts: &MemberFacts| matches!(facts.role, Role::Fenced | Role::Stopped);
        facts.is_some_and(|facts| !facts.member().is_some_and(stopped))
    };
    let on: BTreeSet<&str> = targets.iter().filter(answers).map(TargetId::name).collect();
    if on.is_empty() {
        Verdict::Go("nothing there answers".to_owned())
    } else {
        let (list, verb) = (crate::model::text::list(&on), if on.len() == 1 { "answers" } else { "answer" });
        Verdict::Hold(format!("not safe to power off: {list} still {verb}; stop by hand what is left"))
    }
}

/// Counters of one backend at one proxy, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests answered, but for those of servers that are not watched: a facility may be drained because it is sick.
    pub requests: u64,
    /// Of those, answered by 5xx, by a server or by the proxy itself where none could be reached.
    pub failed: u64,
    /// The longest queue and whose it is.
    pub queue: Option<(u64, String)>,
}

/// Samples by backend, then proxy: a small service that fails must not hide behind a large one that does not.
pub type Samples = BTreeMap<ForeignName, BTreeMap<TargetId, Sample>>;

/// What the proxies that answered report of watched backends. Server errors count (5xx); what clients did wrong does not.
pub fn sample(proxies: &BTreeMap<TargetId, &ProxyFacts>, watched: &BTreeMap<TargetId, BackendServers>) -> Samples {
    let mut samples = Samples::new();
    for (proxy, backends) in watched {
        for (name, servers) in backends {
            let Some(Some(backend)) = proxies.get(proxy).and_then(|facts| facts.backends.get(name)) else { continue };
            let sample = Sample::of(proxy, name, backend, servers);
            samples.entry(name.clone()).or_default().insert(proxy.clone(), sample);
        }
    }
    samples
}

impl Sample {
    fn of(proxy: &TargetId, name: &ForeignName, backend: &BackendFacts, servers: &BTreeSet<ForeignName>) -> Self {
        fn failed(responses: &BTreeMap<u8, u64>) -> u64 {
            responses.get(&5).copied().unwrap_or_default()
        }
        fn all(responses: &BTreeMap<u8, u64>) -> u64 {
            responses.values().sum()
        }
        let others = || backend.servers.iter().filter(|(name, _)| !servers.contains(*name)).map(|(_, server)| server);
        let of_others = |count: fn(&BTreeMap<u8, u64>) -> u64| others().map(|s| count(&s.responses)).sum::<u64>();
        Self {
            requests: all(&backend.responses).saturating_sub(of_others(all)),
            failed: failed(&backend.responses).saturating_sub(of_others(failed)),
            queue: Some((backend.queue, format!("{name} at {}", proxy.name()))),
        }
    }

    /// True if a counter went backwards since `before`: a proxy was restarted.
    pub fn restarted_since(&self, before: &Self) -> bool {
        self.requests < before.requests || self.failed < before.failed
    }
}

/// Failures below this number are no pattern, whatever their rate: one of twenty is five percent.
const MIN_FAILED: u64 = 3;

/// The limits of a soak.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest share of failed requests.
    pub max_error_rate: Percent,
    /// Longest queue of a backend.
    pub max_queue: u64,
    /// Requests that a sample needs.
    pub min_sample: u64,
}

/// Judges what happened to one backend between two samples of each proxy; none where there were too few requests to judge: then
/// probes are the sample. A counter that went backwards means that a proxy was restarted: no data from it.
pub fn judge_soak(
    name: &ForeignName,
    before: &BTreeMap<TargetId, Sample>,
    now: &BTreeMap<TargetId, Sample>,
    limits: Limits,
) -> Option<Verdict> {
    let queues = now.values().filter_map(|sample| sample.queue.as_ref());
    if let Some((queue, whose)) = queues.filter(|(queue, _)| *queue > limits.max_queue).max() {
        let limit = limits.max_queue;
        return Some(Verdict::Retreat(format!("{queue} requests wait for a server of {whose}; the limit is {limit}")));
    }
    let pairs = now.iter().filter_map(|(proxy, now)| Some((before.get(proxy)?, now)));
    let (mut requests, mut failed) = (0, 0);
    for (before, now) in pairs.filter(|(before, now)| !now.restarted_since(before)) {
        requests += now.requests - before.requests;
        failed += now.failed - before.failed;
    }
    if requests < limits.min_sample.max(1) {
        return None;
    }
    let rate = Percent::ratio(failed, requests);
    let text = format!("{name}: {failed} of {requests} requests failed");
    Some(if rate > limits.max_error_rate && failed >= MIN_FAILED {
        Verdict::Retreat(format!("{text} ({rate}; the limit is {})", limits.max_error_rate))
    } else {
        Verdict::Go(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(requests: u64, failed: u64) -> Sample {
        Sample { requests, failed, queue: None }
    }

    fn judge(before: &Sample, now: &Sample) -> Option<&'static str> {
        let limits = Limits { max_error_rate: Percent::ONE, max_queue: 50, min_sample: 20 };
        let at = |sample: &Sample| BTreeMap::from([(TargetId::proxy("east-lb1"), sample.clone())]);
        judge_soak(&"orderform".into(), &at(before), &at(now), limits).map(|verdict| verdict.word())
    }

    #[test]
    fn too_few_requests_are_no_verdict() {
        assert_eq!(judge(&counted(100, 0), &counted(110, 0)), None);
    }

    #[test]
    fn errors_above_the_limit_retreat_and_below_go() {
        assert_eq!(judge(&counted(0, 0), &counted(1_000, 10)), Some("go"));
        assert_eq!(judge(&counted(0, 0), &counted(1_000, 11)), Some("retreat"));
        assert_eq!(judge(&counted(7, 7), &counted(107, 107)), Some("retreat"), "traffic that is all errors");
    }

    #[test]
    fn one_failure_is_no_pattern() {
        assert_eq!(judge(&counted(0, 0), &counted(20, 1)), Some("go"));
        assert_eq!(judge(&counted(0, 0), &counted(20, 3)), Some("retreat"));
    }

    #[test]
    fn a_restarted_proxy_is_no_data() {
        assert_eq!(judge(&counted(500, 0), &counted(300, 0)), None);
    }

    #[test]
    fn a_long_queue_retreats_whatever_the_requests_say() {
        let now = Sample { queue: Some((51, "orderform at east-lb1".to_owned())), ..Sample::default() };
        assert_eq!(judge(&Sample::default(), &now), Some("retreat"));
    }
}
