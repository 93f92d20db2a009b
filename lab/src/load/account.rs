//! The account: pure sums over what clients saw. Times are durations since the start of the load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::millis;

/// How many failed requests are kept with their reasons, for each service and database.
const KEPT_FAILURES: usize = 10;

/// What clients saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// False while the load goes on.
    pub finished: bool,
    /// Seconds since the load started.
    pub seconds: f64,
    /// The reads of all services together.
    pub http: HttpReport,
    /// The reads of each service.
    pub services: BTreeMap<String, ServiceReport>,
    /// The writes to each database.
    pub databases: BTreeMap<String, DatabaseReport>,
}

/// Reads of all services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpReport {
    /// How many were made, failed ones among them.
    pub requests: u64,
    /// How many failed.
    pub failed: u64,
    /// How many each facility's application tier answered.
    pub facilities: BTreeMap<String, u64>,
    /// The first ones that failed.
    pub first_errors: Vec<FailedRequest>,
}

/// Reads of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// How many were made, failed ones among them.
    pub requests: u64,
    /// How many failed.
    pub failed: u64,
    /// How many each facility's application tier answered.
    pub facilities: BTreeMap<String, u64>,
    /// How long the answers took.
    pub latency: Latency,
    /// The first ones that failed.
    pub first_errors: Vec<FailedRequest>,
}

/// Writes to one database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseReport {
    /// How many were acknowledged.
    pub writes: u64,
    /// How many were not: refused, or of unknown outcome.
    pub failed: u64,
    /// Acknowledged writes that are not on the final primary; unknown before the lost check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// The longest time without any acknowledgement, from the first one until the load was stopped; without one, the whole time.
    pub longest_stall_ms: u64,
    /// When that time began, in seconds since the load started.
    pub longest_stall_at: f64,
    /// How long the acknowledgements took.
    pub latency: Latency,
    /// The first ones that failed.
    pub first_errors: Vec<FailedRequest>,
}

/// How long successful requests took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_ms: f64,
    /// 99 of 100 were quicker.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedRequest {
    /// When it failed.
    pub at: Timestamp,
    /// How long it had taken.
    pub took_ms: u64,
    /// Method and URL.
    pub request: String,
    /// The address that answered, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<SocketAddr>,
    /// Status and body, or the error with its causes.
    pub why: String,
}

impl Report {
    pub(super) fn new(
        finished: bool,
        time: Duration,
        services: BTreeMap<String, ServiceReport>,
        databases: BTreeMap<String, DatabaseReport>,
    ) -> Self {
        let mut http = HttpReport::default();
        for service in services.values() {
            http.requests += service.requests;
            http.failed += service.failed;
            http.first_errors.extend(service.first_errors.iter().cloned());
            for (facility, count) in &service.facilities {
                *http.facilities.entry(facility.clone()).or_default() += count;
            }
        }
        http.first_errors.sort_by_key(|error| error.at);
        http.first_errors.truncate(KEPT_FAILURES);
        Self { finished, seconds: time.as_secs_f64(), http, services, databases }
    }

    /// Whether nothing failed and nothing is known to be lost.
    pub fn is_clean(&self) -> bool {
        let clean = |database: &DatabaseReport| database.failed == 0 && database.lost.unwrap_or(0) == 0;
        self.http.failed == 0 && self.databases.values().all(clean)
    }
}

/// Every latency of the run, in microseconds: 4 bytes each, 2 MB for an hour at 150 requests per second.
#[derive(Debug, Default)]
struct Latencies(Vec<u32>);

impl Latencies {
    fn add(&mut self, took: Duration) {
        self.0.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    fn report(&self) -> Latency {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        // The smallest value that at least `percent` of all do not exceed.
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).map_or(0.0, |&micros| f64::from(micros) / 1000.0)
        };
        Latency { p50_ms: at(50), p99_ms: at(99), max_ms: at(100) }
    }
}

#[derive(Debug, Default)]
pub(super) struct ServiceAccount {
    failed: u64,
    facilities: BTreeMap<String, u64>,
    latencies: Latencies,
    first_errors: Vec<FailedRequest>,
}

impl ServiceAccount {
    pub(super) fn served(&mut self, facility: &str, took: Duration) {
        match self.facilities.get_mut(facility) {
            Some(count) => *count += 1,
            None => _ = self.facilities.insert(facility.to_owned(), 1),
        }
        self.latencies.add(took);
    }

    pub(super) fn failed(&mut self, error: FailedRequest) {
        self.failed += 1;
        keep(&mut self.first_errors, error);
    }

    pub(super) fn report(&self) -> ServiceReport {
        ServiceReport {
            requests: self.failed + self.facilities.values().sum::<u64>(),
            failed: self.failed,
            facilities: self.facilities.clone(),
            latency: self.latencies.report(),
            first_errors: self.first_errors.clone(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct DatabaseAccount {
    writes: u64,
    failed: u64,
    stall: Stall,
    latencies: Latencies,
    first_errors: Vec<FailedRequest>,
}

impl DatabaseAccount {
    pub(super) fn acknowledged(&mut self, now: Duration, took: Duration) {
        self.writes += 1;
        self.stall.acknowledged(now);
        self.latencies.add(took);
    }

    pub(super) fn failed(&mut self, error: FailedRequest) {
        self.failed += 1;
        keep(&mut self.first_errors, error);
    }

    /// No further writes begin after `now`.
    pub(super) fn close(&mut self, now: Duration) {
        self.stall = self.stall.until(now);
    }

    /// The account at `now`; a gap that has not ended counts, unless the load is `finished` and nobody writes any more.
    pub(super) fn report(&self, now: Duration, finished: bool) -> DatabaseReport {
        let stall = if finished { self.stall } else { self.stall.until(now) };
        DatabaseReport {
            writes: self.writes,
            failed: self.failed,
            lost: None,
            longest_stall_ms: millis(stall.longest),
            longest_stall_at: stall.began.as_secs_f64(),
            latency: self.latencies.report(),
            first_errors: self.first_errors.clone(),
        }
    }
}

fn keep(errors: &mut Vec<FailedRequest>, error: FailedRequest) {
    if errors.len() < KEPT_FAILURES {
        errors.push(error);
    }
}

/// The longest gap between acknowledgements, whoever received them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Stall {
    any: bool,
    last: Duration,
    longest: Duration,
    began: Duration,
}

impl Stall {
    fn acknowledged(&mut self, now: Duration) {
        let stall = if self.any { self.until(now) } else { *self };
        *self = Self { any: true, last: now.max(self.last), ..stall };
    }

    /// As if an acknowledgement came `now`, without one.
    fn until(self, now: Duration) -> Self {
        let gap = now.saturating_sub(self.last);
        if gap > self.longest { Self { longest: gap, began: self.last, ..self } } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn error(why: &str) -> FailedRequest {
        FailedRequest { at: Timestamp::UNIX_EPOCH, took_ms: 1, request: String::new(), via: None, why: why.into() }
    }

    #[test]
    fn the_longest_stall_is_the_longest_gap_wherever_it_lies() {
        let stall = |acknowledged: &[u64], stopped: u64| {
            let mut account = DatabaseAccount::default();
            for &now in acknowledged {
                account.acknowledged(ms(now), ms(1));
            }
            account.close(ms(stopped));
            let report = account.report(ms(stopped + 5000), true);
            (report.longest_stall_ms, (report.longest_stall_at * 1000.0).round() as u64)
        };
        assert_eq!(stall(&[10, 20, 320, 330], 340), (300, 20), "in the middle");
        assert_eq!(stall(&[200, 210], 220), (10, 200), "before the first, connections are still made");
        assert_eq!(stall(&[10, 20], 900), (880, 20), "after the last");
        assert_eq!(stall(&[], 900), (900, 0), "none at all");
    }

    #[test]
    fn a_gap_that_goes_on_is_in_the_snapshot() {
        let mut account = DatabaseAccount::default();
        account.acknowledged(ms(10), ms(1));
        assert_eq!(account.report(ms(2010), false).longest_stall_ms, 2000);
    }

    #[test]
    fn requests_are_those_served_and_those_failed_and_some_errors_are_kept() {
        let mut account = ServiceAccount::default();
        account.served("west", ms(1));
        account.served("east", ms(3));
        account.served("east", ms(2));
        for number in 0..KEPT_FAILURES + 5 {
            account.failed(error(&number.to_string()));
        }
        let services = BTreeMap::from([("orderform".to_owned(), account.report())]);
        let report = Report::new(true, ms(1000), services, BTreeMap::new());
        assert_eq!((report.http.requests, report.http.failed), (18, 15));
        assert_eq!(report.http.facilities, BTreeMap::from([("east".to_owned(), 2), ("west".to_owned(), 1)]));
        assert_eq!(report.http.first_errors.len(), KEPT_FAILURES);
        assert_eq!(report.http.first_errors[0].why, "0");
        let latency = report.services["orderform"].latency;
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.max_ms), (2.0, 3.0, 3.0));
        assert!(!report.is_clean());
    }

    #[test]
    fn a_failed_or_a_lost_write_is_not_clean() {
        let report = |failed, lost| {
            let database = DatabaseReport { failed, lost, ..DatabaseReport::default() };
            Report::new(true, ms(1), BTreeMap::new(), BTreeMap::from([("accounts".to_owned(), database)]))
        };
        assert!(report(0, None).is_clean() && report(0, Some(0)).is_clean());
        assert!(!report(1, Some(0)).is_clean() && !report(0, Some(1)).is_clean());
    }
}
