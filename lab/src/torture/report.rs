//! What came out of all cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use handover::journal::RunEnd;
use serde::Serialize;

use super::cases::{Blow, Case, Class, Fault, Undisturbed};
use super::play::Played;

/// `report.json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Repeats the order of the cases.
    pub seed: u64,
    /// Cases that were played, of how many.
    pub cases: usize,
    /// All that there are.
    pub cases_known: usize,
    /// Different points (story, record or event, kind of step) at which `handover` really died.
    pub kill_points: usize,
    /// Those that an undisturbed run has.
    pub kill_points_known: usize,
    /// How often `handover` died.
    pub kills: usize,
    /// Runs that were gone on with to their end.
    pub resumed: usize,
    /// Runs that were taken back, by themselves or by `rollback`.
    pub undone: usize,
    /// Disturbed runs that stopped by themselves.
    pub stopped: usize,
    /// Runs that were stuck at some time.
    pub stuck: usize,
    /// Acknowledged writes that were not on the final primary.
    pub lost_writes: u64,
    /// Times at which two members of one database took writes.
    pub two_writable: usize,
    /// How often a member answered the checker whether it takes writes.
    pub questions: u64,
    /// The longest time without an acknowledged write while a guard lived and every server was well.
    pub longest_stall_ms: u64,
    /// The same where the guard was killed too: until somebody goes on.
    pub longest_stall_without_guard_ms: u64,
    /// The same while a server was ill.
    pub longest_stall_ill_ms: u64,
    /// Cases of the property tests on the simulated world; none if they were not run.
    pub simulated_cases: Option<u64>,
    /// Seconds that a case took on average, of all labs together.
    pub seconds_per_case: f64,
    /// Points that were never reached.
    pub missing: Vec<String>,
    /// Cases that did not go as they should.
    pub failures: Vec<Played>,
    /// Cases that could not be played: nothing is said of `handover`.
    pub not_played: Vec<String>,
}

/// Collects what comes out.
#[derive(Debug, Default)]
pub struct Tally {
    report: Report,
    known: BTreeSet<(&'static str, Class)>,
    reached: BTreeSet<(&'static str, Class)>,
    seconds: f64,
    played: BTreeMap<&'static str, usize>,
}

impl Tally {
    /// Begins: these points there are.
    pub fn new(seed: u64, undisturbed: &[Undisturbed], cases: usize) -> Self {
        let points = |one: &Undisturbed| -> Vec<_> {
            one.points().iter().map(|point| (one.story.word(), point.class())).collect()
        };
        let known: BTreeSet<_> = undisturbed.iter().flat_map(points).collect();
        let report = Report { seed, cases_known: cases, kill_points_known: known.len(), ..Report::default() };
        Self { report, known, ..Self::default() }
    }

    /// Adds one case.
    pub fn add(&mut self, case: &Case, played: &Played) {
        let report = &mut self.report;
        report.cases += 1;
        self.seconds += played.seconds;
        report.resumed += usize::from(played.resumed);
        report.undone += usize::from(played.rolled_back || played.end == Some(RunEnd::Undone));
        report.stopped += usize::from(played.end == Some(RunEnd::Stopped));
        report.stuck += usize::from(played.stuck || played.end == Some(RunEnd::Stuck));
        report.lost_writes += played.lost_writes;
        report.questions += played.questions;
        report.two_writable += played.two_writable;
        let (kind, stall) = match &case.fault {
            Fault::Server { .. } => ("ill servers", &mut report.longest_stall_ill_ms),
            Fault::Orchestrator { blow: Blow::KillBoth, .. } => {
                ("guard killed too", &mut report.longest_stall_without_guard_ms)
            }
            Fault::Orchestrator { .. } => ("orchestrator", &mut report.longest_stall_ms),
        };
        *stall = (*stall).max(played.longest_stall_ms);
        *self.played.entry(kind).or_default() += 1;
        if let Some(point) = &played.died_at {
            report.kills += 1;
            self.reached.insert((case.story.word(), point.class()));
        }
        if !played.problems.is_empty() {
            report.failures.push(played.clone());
        }
    }

    /// Adds one that could not be played.
    pub fn not_played(&mut self, case: &Case, why: &anyhow::Error) {
        self.report.not_played.push(format!("{case}: {why:#}"));
    }

    /// What came out so far.
    pub fn report(&self) -> Report {
        let missing = self.known.difference(&self.reached).map(|(story, class)| format!("{story}: {class}"));
        Report {
            kill_points: self.reached.len(),
            missing: missing.collect(),
            seconds_per_case: self.seconds / self.report.cases.max(1) as f64,
            ..self.report.clone()
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let report = self.report();
        let mut text = String::new();
        let kinds: Vec<String> = self.played.iter().map(|(kind, number)| format!("{kind} {number}")).collect();
        let _ = writeln!(
            text,
            "Cases     {} of {} ({}), {:.1} s each",
            report.cases,
            report.cases_known,
            kinds.join(", "),
            report.seconds_per_case
        );
        let _ = writeln!(
            text,
            "Killed    {} times, at {} of {} points",
            report.kills, report.kill_points, report.kill_points_known
        );
        let _ = writeln!(
            text,
            "Then      resumed {}, undone {}, stopped {}, stuck {}",
            report.resumed, report.undone, report.stopped, report.stuck
        );
        let _ = writeln!(
            text,
            "Data      {} acknowledged writes lost; two primaries at once: {}",
            report.lost_writes, report.two_writable
        );
        let _ = writeln!(
            text,
            "Stalls    {} ms; without its guard {} ms; with an ill server {} ms",
            report.longest_stall_ms, report.longest_stall_without_guard_ms, report.longest_stall_ill_ms
        );
        for failure in &report.failures {
            let _ = writeln!(text, "\nFAILED    {}", failure.case);
            for line in &failure.problems {
                let _ = writeln!(text, "          {line}");
            }
            let _ = writeln!(text, "          lab torture --seed {} --case '{}'", report.seed, failure.case);
        }
        for why in &report.not_played {
            let _ = writeln!(text, "\nNOT PLAYED {why}");
        }
        text
    }
}

impl Report {
    /// True if everything went as it should.
    pub fn is_good(&self) -> bool {
        self.cases > 0 && self.failures.is_empty() && self.not_played.is_empty()
    }
}
