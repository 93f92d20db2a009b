//! What came out of all cases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

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
    /// Cases in which a facility is lost.
    pub lost_facility: LostFacility,
    /// Seconds that a case took on average, of all labs together.
    pub seconds_per_case: f64,
    /// Points that were never reached.
    pub missing: Vec<String>,
    /// Cases that did not go as they should.
    pub failures: Vec<Played>,
    /// Cases that could not be played: nothing is said of `handover`.
    pub not_played: Vec<String>,
}

/// Cases in which a facility is lost and comes back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LostFacility {
    /// Cases that were played.
    pub runs: usize,
    /// Those of them in which somebody else became primary; in the others nothing was to be done.
    pub taken_over: usize,
    /// Times at which two members of one database took writes while clients could reach both.
    pub two_writable: usize,
    /// Acknowledged writes of synchronous databases that were not on the final primary.
    pub lost_writes_sync: u64,
    /// The same of asynchronous databases.
    pub lost_writes_async: u64,
    /// Asynchronous databases that lost what no plan had stated, over all runs.
    pub loss_beyond_stated: usize,
    /// Runs that did not end in full redundancy.
    pub not_redundant_after_return: usize,
    /// Seconds that a case took on average.
    pub seconds_per_case: f64,
}

/// Collects what comes out.
#[derive(Debug, Default)]
pub struct Tally {
    report: Report,
    known: BTreeSet<(&'static str, Class)>,
    reached: BTreeSet<(&'static str, Class)>,
    seconds: f64,
    seconds_lost: f64,
    played: BTreeMap<&'static str, usize>,
}

impl Tally {
    /// Begins.
    pub fn new(seed: u64) -> Self {
        Self { report: Report { seed, ..Report::default() }, ..Self::default() }
    }

    /// These points and cases there are.
    pub fn know(&mut self, undisturbed: &[Undisturbed], cases: usize) {
        let points = |one: &Undisturbed| -> Vec<_> {
            one.points().iter().map(|point| (one.story.word(), point.class())).collect()
        };
        self.known = undisturbed.iter().flat_map(points).collect();
        self.report.cases_known = cases;
        self.report.kill_points_known = self.known.len();
    }

    /// Adds a case in which a facility is lost.
    pub fn add_lost(&mut self, played: &Played) {
        let lost = played.lost_facility.unwrap_or_default();
        let all = &mut self.report.lost_facility;
        all.runs += 1;
        all.taken_over += usize::from(lost.taken_over);
        all.two_writable += played.two_writable;
        all.lost_writes_sync += lost.lost_writes_sync;
        all.lost_writes_async += lost.lost_writes_async;
        all.loss_beyond_stated += lost.beyond_stated;
        all.not_redundant_after_return += usize::from(lost.not_redundant);
        self.seconds_lost += played.seconds;
        self.report.questions += played.questions;
        if !played.problems.is_empty() {
            self.report.failures.push(played.clone());
        }
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
    pub fn not_played(&mut self, case: &dyn fmt::Display, why: &anyhow::Error) {
        self.report.not_played.push(format!("{case}: {why:#}"));
    }

    /// What came out so far.
    pub fn report(&self) -> Report {
        let mut lost_facility = self.report.lost_facility.clone();
        lost_facility.seconds_per_case = self.seconds_lost / lost_facility.runs.max(1) as f64;
        let missing = self.known.difference(&self.reached).map(|(story, class)| format!("{story}: {class}"));
        Report {
            kill_points: self.reached.len(),
            missing: missing.collect(),
            lost_facility,
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
        let lost = &report.lost_facility;
        let _ = writeln!(
            text,
            "Lost      {} facilities, {} taken over, {:.1} s each: two primaries at once {}; acknowledged writes lost: synchronous {}, \
             asynchronous {}, {} databases beyond what was stated; not redundant afterwards {}",
            lost.runs,
            lost.taken_over,
            lost.seconds_per_case,
            lost.two_writable,
            lost.lost_writes_sync,
            lost.lost_writes_async,
            lost.loss_beyond_stated,
            lost.not_redundant_after_return
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
        self.cases + self.lost_facility.runs > 0 && self.failures.is_empty() && self.not_played.is_empty()
    }
}
