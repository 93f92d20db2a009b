//! Hears the records of a run one after the other and puts the story together.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::story::{Attempt, Happening, Line, Sample, StageStory, StepStory, Story, Undoing};
use super::window::Stall;
use crate::event::StepOutcome;
use crate::journal::{Entry, Record};
use crate::model::Action;
use crate::plan::{Assumption, Plan, Step, StepId, Work};

/// What tells attempts at one step apart while records are heard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mark {
    /// How many processes had worked on the run.
    pub process: u32,
    /// How often its section had begun; 0 outside sections.
    pub round: u32,
    /// Its beginning was not recorded.
    pub derived: bool,
    /// Its end was recorded.
    pub over: bool,
    /// Its times within the section were recorded.
    pub timed: bool,
}

/// What is kept in mind while records are heard one after the other.
pub(super) struct Telling<'a> {
    story: &'a mut Story,
    index: BTreeMap<StepId, usize>,
    needs: BTreeMap<StepId, BTreeSet<StepId>>,
    /// What steps do, by the plan: sections do not record it again.
    planned: BTreeMap<StepId, Action>,
    /// What other processes took before: their clocks began at 0, too.
    base_ms: u64,
    last_elapsed_ms: u64,
    last_at: Timestamp,
    now_ms: u64,
    process: u32,
    /// When the present process began to record.
    process_from_ms: u64,
    rounds: BTreeMap<StepId, u32>,
    /// What was checked before a section, under its first step until that is told.
    assumed: BTreeMap<StepId, Vec<Assumption>>,
}

impl<'a> Telling<'a> {
    pub fn new(story: &'a mut Story, plan: Option<&Plan>) -> Self {
        let (mut index, mut needs, mut planned) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        if let Some(plan) = plan {
            let stage = |title: &String| StageStory { title: title.clone(), from_ms: None, to_ms: None };
            story.stages = plan.stages.iter().map(|heading| stage(&heading.title)).collect();
            for step in &plan.steps {
                index.insert(step.id.clone(), story.steps.len());
                needs.insert(step.id.clone(), step.needs.clone());
                if let Work::Act { action, .. } = &step.work {
                    planned.insert(step.id.clone(), action.clone());
                }
                story.steps.push(told(step));
            }
        }
        let last_at = story.started;
        let (rounds, assumed) = (BTreeMap::new(), BTreeMap::new());
        let (base_ms, last_elapsed_ms, now_ms, process, process_from_ms) = (0, 0, 0, 0, 0);
        Self {
            story,
            index,
            needs,
            planned,
            base_ms,
            last_elapsed_ms,
            last_at,
            now_ms,
            process,
            process_from_ms,
            rounds,
            assumed,
        }
    }

    /// Since the run began: another process counts from its own beginning, so that what lies between is taken from the wall clock.
    fn tick(&mut self, entry: &Entry) {
        if entry.elapsed_ms < self.last_elapsed_ms {
            let between = entry.at.as_millisecond().saturating_sub(self.last_at.as_millisecond());
            self.base_ms = (self.now_ms + u64::try_from(between).unwrap_or(0)).saturating_sub(entry.elapsed_ms);
            self.another_process();
        }
        (self.last_elapsed_ms, self.last_at) = (entry.elapsed_ms, entry.at);
        self.now_ms = self.now_ms.max(self.base_ms + entry.elapsed_ms);
    }

    pub fn hear(&mut self, entry: &Entry) {
        self.tick(entry);
        let now = self.now_ms;
        (self.story.last, self.story.total_ms) = (entry.at, now);
        let mut entry = entry.clone();
        if let Record::RunStarted { document, .. } = &mut entry.record {
            *document = None;
        }
        match &entry.record {
            Record::StepStarted { step, assumed, intended } => {
                // What a wait does at its end belongs to it: it is no attempt of its own.
                let part = matches!(intended, Some(Action::CutSessions { .. }));
                let attempt = self.attempt(step, |last| !last.mark.over && (part || last.intended.is_none()));
                attempt.mark.derived = false;
                attempt.assumed.extend(assumed.iter().cloned());
                attempt.intended = intended.clone();
            }
            Record::SectionStarted { steps, assumed, .. } => {
                steps.iter().for_each(|step| *self.rounds.entry(step.clone()).or_default() += 1);
                if let Some(first) = steps.first() {
                    self.assumed.insert(first.clone(), assumed.clone());
                }
            }
            Record::Phase { step, from_ms, to_ms, outcome } => {
                let (from, to) = (self.base_ms + from_ms, self.base_ms + to_ms);
                let planned = self.planned.get(step).cloned();
                let attempt = self.attempt(step, |last| !last.mark.timed);
                attempt.intended = attempt.intended.take().or(planned);
                (attempt.from_ms, attempt.to_ms) = (from, Some(to));
                attempt.outcome = phase(outcome);
                (attempt.mark.derived, attempt.mark.timed, attempt.mark.over) = (false, true, true);
                let outcome = attempt.outcome;
                if let Some(assumed) = self.assumed.remove(step) {
                    self.attempt(step, |_| true).assumed = assumed;
                }
                self.step(step).outcome = outcome;
            }
            Record::StepDone { step, verified } => {
                self.end(step, StepOutcome::Done).verified = Some(verified.clone());
            }
            Record::GateJudged { step, verdict, measured } => {
                let attempt = self.attempt(step, |last| last.verdict.is_none() && !last.mark.over);
                (attempt.verdict, attempt.measured) = (Some(verdict.clone()), Some(measured.clone()));
            }
            Record::StepFailed { step, unknown, why } => {
                let outcome = if *unknown { StepOutcome::Unknown } else { StepOutcome::Failed };
                self.end(step, outcome).why = Some(why.clone());
            }
            Record::UndoStarted { step, .. } => {
                self.step(step).undo = Some(Undoing { from_ms: now, to_ms: None, why: None });
            }
            Record::UndoDone { step } => self.undone(step, StepOutcome::Undone, None),
            Record::UndoFailed { step, why } => self.undone(step, StepOutcome::UndoFailed, Some(why.clone())),
            Record::WritesResumed { database, primary, from_ms, to_ms } => {
                let (from_ms, to_ms) = (self.base_ms + from_ms, self.base_ms + to_ms);
                let (database, primary) = (database.clone(), primary.clone());
                self.story.stalls.push(Stall { database, primary, from_ms, to_ms, max_ms: None });
            }
            Record::Sessions { step, remaining } => {
                self.story.sessions.push(Sample { at_ms: now, step: step.clone(), remaining: *remaining });
            }
            Record::Told { text } => {
                self.story.happenings.push(Happening { at_ms: now, text: text.clone() });
            }
            Record::RunEnded { summary, released, .. } => {
                self.story.summary = Some(summary.clone());
                self.story.holds_released = released.clone();
                self.another_process();
            }
            Record::RunResumed { .. } => {
                let goes_on = super::words::record(&entry.record, &|id| id.to_string());
                self.story.happenings.push(Happening { at_ms: now, text: goes_on });
                self.another_process();
            }
            Record::SectionEnded { .. } => {}
            // What has no place among the steps is told as it is.
            other => {
                if !matches!(other, Record::RunStarted { .. }) {
                    self.story
                        .happenings
                        .push(Happening { at_ms: now, text: super::words::record(other, &|id| id.to_string()) });
                }
            }
        }
        self.story.records.push(Line { at_ms: now, entry });
    }

    fn another_process(&mut self) {
        self.process += 1;
        self.process_from_ms = self.now_ms;
    }

    fn step(&mut self, id: &StepId) -> &mut StepStory {
        let steps = &mut self.story.steps;
        let index = *self.index.entry(id.clone()).or_insert_with(|| {
            steps.push(unknown(id));
            steps.len() - 1
        });
        &mut steps[index]
    }

    fn mark(&self, id: &StepId) -> Mark {
        let round = self.rounds.get(id).copied().unwrap_or_default();
        Mark { process: self.process, round, derived: true, ..Mark::default() }
    }

    /// The last attempt of a step, where this is still about it; else a new one that begins now.
    fn attempt(&mut self, id: &StepId, still: impl Fn(&Attempt) -> bool) -> &mut Attempt {
        let (now, mark) = (self.now_ms, self.mark(id));
        let attempts = &mut self.step(id).attempts;
        let same = |last: &Attempt| last.mark.process == mark.process && last.mark.round == mark.round && still(last);
        if !attempts.last().is_some_and(same) {
            attempts.push(Attempt::new(now, mark));
        }
        let last = attempts.len() - 1;
        &mut attempts[last]
    }

    /// An attempt ended now.
    fn end(&mut self, id: &StepId, outcome: StepOutcome) -> &mut Attempt {
        let now = self.now_ms;
        self.step(id).outcome = outcome;
        let attempt = self.attempt(id, |last| !last.mark.over);
        (attempt.outcome, attempt.to_ms, attempt.mark.over) = (outcome, Some(now), true);
        attempt
    }

    fn undone(&mut self, id: &StepId, outcome: StepOutcome, why: Option<String>) {
        let now = self.now_ms;
        let step = self.step(id);
        step.outcome = outcome;
        let undo = step.undo.get_or_insert(Undoing { from_ms: now, to_ms: None, why: None });
        (undo.to_ms, undo.why) = (Some(now), why);
    }

    /// Steps that only judge or wait begin when what they need has ended, in the process that carries them out.
    pub fn finish(&mut self) {
        let ended: BTreeMap<StepId, Vec<u64>> = (self.story.steps.iter())
            .map(|step| (step.step.clone(), step.attempts.iter().filter_map(|attempt| attempt.to_ms).collect()))
            .collect();
        let process_from_ms = self.process_from_ms;
        let present = self.process;
        for step in &mut self.story.steps {
            let needs: Vec<u64> = (self.needs.get(&step.step).into_iter().flatten())
                .filter_map(|need| ended.get(need))
                .flatten()
                .copied()
                .collect();
            let mut earliest = 0;
            for attempt in &mut step.attempts {
                if attempt.mark.derived {
                    let end = attempt.to_ms.unwrap_or(attempt.from_ms);
                    let ready = needs.iter().copied().filter(|need| *need <= end).max().unwrap_or(0);
                    let process = if attempt.mark.process == present { process_from_ms } else { 0 };
                    attempt.from_ms = ready.max(earliest).max(process.min(end));
                }
                earliest = attempt.to_ms.unwrap_or(attempt.from_ms);
            }
            if let (StepOutcome::NotBegun, Some(last)) = (step.outcome, step.attempts.last()) {
                step.outcome = last.outcome;
            }
        }
    }
}

/// The outcome of a phase, by the word that the journal has for it.
fn phase(word: &str) -> StepOutcome {
    match word {
        "done" => StepOutcome::Done,
        "failed" => StepOutcome::Failed,
        "undone" => StepOutcome::Undone,
        "undofailed" => StepOutcome::UndoFailed,
        "notbegun" => StepOutcome::NotBegun,
        _ => StepOutcome::Unknown,
    }
}

/// A step of the plan, before anything is heard of it.
fn told(step: &Step) -> StepStory {
    let (kind, target) = match &step.work {
        Work::Act { target, .. } => ("change", Some(target.clone())),
        Work::Gate { .. } => ("gate", None),
        Work::Wait { .. } => ("wait", None),
        Work::Verify => ("check", None),
        Work::Release { .. } => ("release", None),
    };
    StepStory {
        step: step.id.clone(),
        title: step.title.clone(),
        stage: step.stage,
        kind,
        target,
        section: step.section.clone(),
        point_of_no_return: step.point_of_no_return,
        outcome: StepOutcome::NotBegun,
        attempts: Vec::new(),
        undo: None,
    }
}

/// A step that no plan explains.
fn unknown(id: &StepId) -> StepStory {
    StepStory {
        step: id.clone(),
        title: id.0.clone(),
        stage: 0,
        kind: "step",
        target: None,
        section: None,
        point_of_no_return: false,
        outcome: StepOutcome::NotBegun,
        attempts: Vec::new(),
        undo: None,
    }
}
