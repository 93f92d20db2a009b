//! How far a run came, by its records alone. Pure: what is true of the targets is for whoever goes on to find out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::{Entry, Hold, How, Record, RunEnd};
use crate::model::{DatabaseName, TargetId};
use crate::plan::{DocumentError, HoldKind, Overrides, Plan, StepId};

/// A section that was begun, and of which no end was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Its name.
    pub section: String,
    /// Its steps.
    pub steps: Vec<StepId>,
    /// When it was begun, since the run was.
    pub began: Duration,
    /// True if its point of no return was about to be passed: whether it was, the targets know.
    pub committed: bool,
}

/// A step that was done and not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// When it began, since the run did.
    pub began: Duration,
    /// When it ended.
    pub ended: Duration,
    /// The time of its end.
    pub at: Timestamp,
}

/// Writers of a database that waited, and went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The database.
    pub database: DatabaseName,
    /// The primary from then on.
    pub primary: TargetId,
    /// When the first was held back, since the run began.
    pub from: Duration,
    /// When the last went on.
    pub to: Duration,
}

/// How far a run came.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The plan's identity.
    pub plan: String,
    /// What it is for.
    pub title: String,
    /// The plan file's text; runs before this was recorded have none.
    pub document: Option<String>,
    /// Gates that are passed.
    pub overrides: Overrides,
    /// Holds that it made.
    pub holds: Vec<Hold>,
    /// When it began.
    pub began: Timestamp,
    /// Steps that were done and not taken back.
    pub done: BTreeMap<StepId, Done>,
    /// Steps that were begun and neither done nor taken back: they may have acted.
    pub begun: BTreeSet<StepId>,
    /// Sections without an end.
    pub open: Vec<Open>,
    /// Stalls that are over.
    pub stalls: Vec<Stall>,
    /// What the operator was told.
    pub told: Vec<String>,
    /// True once something was sent to a target.
    pub acted: bool,
    /// How it ended last; none while it runs or if it died.
    pub end: Option<RunEnd>,
    /// Why it ended so, in one sentence.
    pub summary: Option<String>,
    /// Holds that ended with it.
    pub released: Vec<HoldKind>,
    /// What it was gone on with for last; none if it never was.
    pub how: Option<How>,
    /// The time of its last record, since it began.
    pub elapsed: Duration,
}

impl Past {
    /// What the records of a run say; none without a first record.
    pub fn of(entries: &[Entry]) -> Option<Self> {
        let first = entries.first()?;
        let Record::RunStarted { plan, holds, title, document, overrides, .. } = &first.record else { return None };
        let mut past = Self {
            plan: plan.clone(),
            title: if title.is_empty() { plan.clone() } else { title.clone() },
            document: document.clone(),
            overrides: overrides.clone(),
            holds: holds.clone(),
            began: first.at,
            done: BTreeMap::new(),
            begun: BTreeSet::new(),
            open: Vec::new(),
            stalls: Vec::new(),
            told: Vec::new(),
            acted: false,
            end: None,
            summary: None,
            released: Vec::new(),
            how: None,
            elapsed: Duration::ZERO,
        };
        let mut starts = BTreeMap::new();
        entries.iter().for_each(|entry| past.hear(entry, &mut starts));
        Some(past)
    }

    /// How long ago the run began, at a moment of the wall clock; never less than its records say.
    pub fn elapsed_at(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.began)).unwrap_or_default().max(self.elapsed)
    }

    /// The plan that it applies, with the gates that are passed; none for runs before the plan was recorded.
    ///
    /// # Errors
    /// If it is not as it was written.
    pub fn plan(&self) -> Result<Option<Plan>, DocumentError> {
        let Some(document) = &self.document else { return Ok(None) };
        let mut plan = Plan::from_yaml(document)?;
        plan.intent.overrides = self.overrides.clone();
        Ok(Some(plan))
    }

    /// Its own holds that it gave up when it ended without having touched anything: whoever goes on makes them again.
    pub fn given_up(&self) -> Vec<Hold> {
        self.holds.iter().filter(|hold| self.released.contains(&hold.kind)).cloned().collect()
    }

    fn hear(&mut self, entry: &Entry, starts: &mut BTreeMap<StepId, Duration>) {
        let now = Duration::from_millis(entry.elapsed_ms);
        self.elapsed = self.elapsed.max(now);
        let done = |began| Done { began, ended: now, at: entry.at };
        match &entry.record {
            Record::StepStarted { step, .. } => {
                self.acted = true;
                starts.insert(step.clone(), now);
                // What a proxy had forgotten is set again by a step that was done.
                if !self.done.contains_key(step) {
                    self.begun.insert(step.clone());
                }
                for open in self.open.iter_mut().filter(|open| open.steps.contains(step)) {
                    open.committed = true;
                }
            }
            Record::StepDone { step, .. } => {
                self.begun.remove(step);
                let began = starts.get(step).copied().unwrap_or(now);
                self.done.insert(step.clone(), done(began));
            }
            Record::SectionStarted { section, steps, .. } => {
                self.acted = true;
                // One that is open already is begun again to be ended, by whoever goes on.
                if self.open.iter().all(|open| open.section != *section) {
                    let (section, steps) = (section.clone(), steps.clone());
                    self.open.push(Open { section, steps, began: now, committed: false });
                }
                starts.extend(steps.iter().map(|step| (step.clone(), now)));
            }
            Record::Phase { step, from_ms, .. } => {
                starts.insert(step.clone(), Duration::from_millis(*from_ms));
            }
            Record::SectionEnded { section, done: all } => {
                let Some(index) = self.open.iter().position(|open| open.section == *section) else { return };
                for step in self.open.remove(index).steps {
                    self.begun.remove(&step);
                    if *all {
                        let began = starts.get(&step).copied().unwrap_or(now);
                        self.done.insert(step, done(began));
                    } else {
                        self.done.remove(&step);
                    }
                }
            }
            Record::UndoStarted { step, .. } => {
                // Until it is taken back it may be half there.
                self.done.remove(step);
                self.begun.insert(step.clone());
            }
            Record::UndoDone { step } => {
                self.done.remove(step);
                self.begun.remove(step);
            }
            Record::WritesResumed { database, primary, from_ms, to_ms } => {
                let (from, to) = (Duration::from_millis(*from_ms), Duration::from_millis(*to_ms));
                self.stalls.push(Stall { database: database.clone(), primary: primary.clone(), from, to });
            }
            Record::Told { text } => self.told.push(text.clone()),
            Record::RunResumed { how, holds, overrides, .. } => {
                (self.end, self.summary, self.how) = (None, None, Some(*how));
                self.overrides.extend(overrides.clone());
                self.released.retain(|kind| holds.iter().all(|hold| hold.kind != *kind));
            }
            Record::RunEnded { end, summary, released } => {
                (self.end, self.summary) = (Some(*end), Some(summary.clone()));
                self.released.extend(released.iter().cloned());
            }
            Record::RunStarted { .. }
            | Record::GateJudged { .. }
            | Record::StepFailed { .. }
            | Record::UndoFailed { .. }
            | Record::Sessions { .. }
            | Record::Unlocked { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> StepId {
        StepId(name.to_owned())
    }

    fn past(records: Vec<Record>) -> Past {
        let first = Record::RunStarted {
            plan: "p".to_owned(),
            plan_digest: String::new(),
            operator: String::new(),
            holds: Vec::new(),
            title: String::new(),
            document: None,
            overrides: Overrides::new(),
        };
        let entry = |(number, record)| Entry {
            sequence: number as u64,
            at: Timestamp::from_second(1_795_000_000 + number as i64).unwrap(),
            elapsed_ms: number as u64 * 1_000,
            record,
        };
        let entries: Vec<Entry> = std::iter::once(first).chain(records).enumerate().map(entry).collect();
        Past::of(&entries).unwrap()
    }

    fn begun(step: &str) -> Record {
        Record::StepStarted { step: id(step), assumed: Vec::new(), intended: None }
    }

    fn done(step: &str) -> Record {
        Record::StepDone { step: id(step), verified: String::new() }
    }

    fn section() -> Record {
        Record::SectionStarted { section: "s".to_owned(), steps: vec![id("x"), id("y")], assumed: Vec::new() }
    }

    fn section_ended(done: bool) -> Record {
        Record::SectionEnded { section: "s".to_owned(), done }
    }

    fn names<'a>(ids: impl IntoIterator<Item = &'a StepId>) -> Vec<&'a str> {
        ids.into_iter().map(|id| id.0.as_str()).collect()
    }

    #[test]
    fn what_was_begun_and_has_no_end_may_have_acted() {
        let past = past(vec![begun("a"), done("a"), begun("b")]);
        assert_eq!((names(past.done.keys()), names(&past.begun), past.acted), (vec!["a"], vec!["b"], true));
        assert_eq!((past.done[&id("a")].began, past.elapsed), (Duration::from_secs(1), Duration::from_secs(3)));
    }

    #[test]
    fn what_is_being_taken_back_may_be_half_there() {
        let action = crate::model::Action::Start;
        let undo = || Record::UndoStarted { step: id("a"), intended: action.clone() };
        let half = past(vec![begun("a"), done("a"), undo()]);
        assert_eq!((names(half.done.keys()), names(&half.begun)), (vec![], vec!["a"]));
        let back = past(vec![begun("a"), done("a"), undo(), Record::UndoDone { step: id("a") }]);
        assert_eq!((names(back.done.keys()), names(&back.begun)), (vec![], vec![]));
    }

    #[test]
    fn a_section_is_open_until_its_end_and_committed_by_the_intent_to_promote() {
        let open = |records| past(records).open.into_iter().map(|open| open.committed).collect::<Vec<_>>();
        assert_eq!(open(vec![section()]), [false]);
        assert_eq!(open(vec![section(), begun("y")]), [true]);
        assert_eq!(open(vec![section(), begun("y"), section()]), [true], "whoever settles it does not forget");
        assert_eq!(open(vec![section(), section_ended(false), section()]), [false]);
        assert_eq!(open(vec![section(), begun("y"), section_ended(true)]), [false; 0]);
        let ended = past(vec![section(), begun("y"), section_ended(true)]);
        assert_eq!((names(ended.done.keys()), names(&ended.begun)), (vec!["x", "y"], vec![]));
        assert!(past(vec![section(), section_ended(false)]).done.is_empty());
    }

    #[test]
    fn whoever_goes_on_passes_gates_and_has_not_ended() {
        let ended = |end| Record::RunEnded { end, summary: "why".to_owned(), released: Vec::new() };
        let how = How::Rollback;
        let overrides = Overrides::new();
        let goes_on = Record::RunResumed { operator: String::new(), how, holds: Vec::new(), overrides };
        let stopped = past(vec![ended(RunEnd::Stopped)]);
        assert_eq!((stopped.end, stopped.summary.as_deref(), stopped.how), (Some(RunEnd::Stopped), Some("why"), None));
        let again = past(vec![ended(RunEnd::Stopped), goes_on]);
        assert_eq!((again.end, again.summary.as_deref(), again.how), (None, None, Some(How::Rollback)));
        assert_eq!(again.elapsed_at(Timestamp::from_second(1_795_000_100).unwrap()), Duration::from_secs(100));
        let before = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(again.elapsed_at(before), Duration::from_secs(2), "time does not go back");
    }
}
