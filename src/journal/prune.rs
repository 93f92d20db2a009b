//! Which runs may be forgotten. Pure: the store checks again what it may forget.

use jiff::Timestamp;

use super::{Hold, RunEnd, RunSummary};
use crate::model::Span;

/// Which runs shall be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruning {
    /// Those whose last record is older than this.
    pub older_than: Option<Span>,
    /// Those behind the newest so many.
    pub keep: Option<usize>,
}

/// Runs that are to be forgotten, and those that stay although they were asked for, each with why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned<'a> {
    /// Those that go.
    pub go: Vec<&'a RunSummary>,
    /// Those that stay.
    pub stay: Vec<(&'a RunSummary, &'static str)>,
}

impl Pruning {
    /// Sorts out the runs, which come newest first.
    pub fn of<'a>(self, runs: &'a [RunSummary], holds: &[Hold], now: Timestamp) -> Pruned<'a> {
        let mut pruned = Pruned::default();
        for run in runs.iter().skip(self.keep.unwrap_or(0)) {
            let age = now.as_millisecond().saturating_sub(run.last.as_millisecond());
            let age = u128::try_from(age).unwrap_or(0);
            if self.older_than.is_some_and(|least| age <= least.0.as_millis()) {
                continue;
            }
            match why_needed(run, holds, now) {
                Some(why) => pruned.stay.push((run, why)),
                None => pruned.go.push(run),
            }
        }
        pruned
    }
}

/// Why forgetting a run could cost somebody something.
fn why_needed(run: &RunSummary, holds: &[Hold], now: Timestamp) -> Option<&'static str> {
    if run.is_running(now) {
        return Some("it is being carried out");
    }
    match run.end {
        None => Some("it died midway, and can be gone on with"),
        Some(RunEnd::Stopped) => Some("it stopped midway, and can be gone on with"),
        Some(RunEnd::Stuck) => Some("it is stuck: a human must look"),
        // The store does not take the lock from anybody either.
        Some(_) if run.leased_until.is_some() => Some("it has the lock"),
        Some(_) => holds.iter().any(|hold| hold.run == run.run).then_some("a hold that it made is in force"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{HoldKind, RunId};

    fn summary(name: &str, days_ago: i64, end: Option<RunEnd>) -> RunSummary {
        let last = now() - jiff::SignedDuration::from_hours(24 * days_ago);
        RunSummary {
            run: RunId(name.to_owned()),
            plan: "plan".to_owned(),
            started: last,
            operator: "ada@ops pid 1".to_owned(),
            end,
            title: "drain west".to_owned(),
            last,
            leased_until: None,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_795_000_000).unwrap()
    }

    #[test]
    fn only_old_runs_that_nobody_needs_go() {
        let mut running = summary("running", 0, None);
        running.leased_until = Some(now() + jiff::SignedDuration::from_secs(10));
        let holding = summary("holding", 100, Some(RunEnd::Done));
        let hold = Hold {
            kind: HoldKind::Drained { facility: "west".into() },
            by: "ada@ops".to_owned(),
            since: holding.started,
            reason: None,
            review_by: None,
            run: holding.run.clone(),
        };
        let runs = [
            running,
            summary("young", 89, Some(RunEnd::Done)),
            holding,
            summary("stopped", 101, Some(RunEnd::Stopped)),
            summary("died", 102, None),
            summary("stuck", 103, Some(RunEnd::Stuck)),
            summary("undone", 104, Some(RunEnd::Undone)),
            summary("done", 105, Some(RunEnd::Done)),
        ];
        let sorted = |older_than: Option<&str>, keep| {
            let older_than = older_than.map(|text| text.parse().unwrap());
            let pruned = Pruning { older_than, keep }.of(&runs, std::slice::from_ref(&hold), now());
            let names = |runs: Vec<&RunSummary>| runs.into_iter().map(|run| run.run.0.clone()).collect::<Vec<_>>();
            (names(pruned.go), names(pruned.stay.into_iter().map(|(run, _)| run).collect()))
        };
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let needed = ["holding", "stopped", "died", "stuck"];
        assert_eq!(sorted(Some("90d"), None), (owned(&["undone", "done"]), owned(&needed)));
        assert_eq!(sorted(None, Some(0)).0, owned(&["young", "undone", "done"]));
        assert_eq!(sorted(None, Some(7)), (owned(&["done"]), vec![]));
        assert_eq!(sorted(Some("104d"), Some(1)).0, owned(&["done"]));
    }
}
