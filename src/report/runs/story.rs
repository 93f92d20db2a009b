//! What happened in a run, put together from its journal and the plan that the journal holds. Journals that were begun before some of
//! these records existed tell less, and are told all the same.

use jiff::Timestamp;
use serde::Serialize;

use super::telling::{Mark, Telling};
use super::window::{self, Exposure, Stall};
use crate::event::{StepOutcome, WayOn, ways_on};
use crate::journal::{Entry, Hold, HoldKind, Record, RunEnd, RunId};
use crate::model::{Action, TargetId};
use crate::plan::{Assumption, Intent, Plan, StepId};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Somebody carries it out, and gave a sign of life in time.
    Running,
    /// It has no end, and nobody carries it out: its process died or lost the machine.
    Died,
    /// Everything was done.
    Done,
    /// A gate refused before anything was touched.
    Refused,
    /// It stopped midway; what was done stays.
    Stopped,
    /// It stopped and took back what it had done.
    Undone,
    /// A human must look.
    Stuck,
}

impl State {
    /// The state of a run with this end, carried out or not.
    pub fn of(end: Option<RunEnd>, running: bool) -> Self {
        match end {
            // One that goes on after its end has not ended.
            _ if running => Self::Running,
            None => Self::Died,
            Some(RunEnd::Done) => Self::Done,
            Some(RunEnd::Refused) => Self::Refused,
            Some(RunEnd::Stopped) => Self::Stopped,
            Some(RunEnd::Undone) => Self::Undone,
            Some(RunEnd::Stuck) => Self::Stuck,
        }
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Died => "died",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
            Self::Undone => "undone",
            Self::Stuck => "stuck",
        }
    }

    /// What it means for whoever has to go on.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Running => "it is being carried out",
            Self::Died => {
                "its process ended without a word: what was done so far stays, and what it was doing must be looked at"
            }
            Self::Done => "everything was done and verified",
            Self::Refused => "nothing was touched",
            Self::Stopped => "what was done so far stays; nothing more happens by itself",
            Self::Undone => "everything that was done has been taken back; it is as before the run",
            Self::Stuck => "part of it is done and could be neither completed nor taken back: a human must look",
        }
    }
}

/// One attempt at a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    /// When it began, in milliseconds since the run began; of steps that only judge or wait, when what they need had ended.
    pub from_ms: u64,
    /// When it ended; none if that was never recorded.
    pub to_ms: Option<u64>,
    /// What was checked right before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<Assumption>,
    /// What it did; none for gates, waits and checks, and for steps of sections, which are in the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intended: Option<Action>,
    /// `go`, `hold` or `retreat`, of gates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What a gate measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<String>,
    /// What the verification saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How it ended; `unknown` also where no end was recorded.
    pub outcome: StepOutcome,
    /// What tells it from other attempts at the same step.
    #[serde(skip)]
    pub(super) mark: Mark,
}

impl Attempt {
    pub(super) fn new(from_ms: u64, mark: Mark) -> Self {
        Self {
            from_ms,
            to_ms: None,
            assumed: Vec::new(),
            intended: None,
            verdict: None,
            measured: None,
            verified: None,
            why: None,
            outcome: StepOutcome::Unknown,
            mark,
        }
    }

    /// How long it took; none if its end was never recorded.
    pub fn took_ms(&self) -> Option<u64> {
        self.to_ms.map(|to| to.saturating_sub(self.from_ms))
    }
}

/// How a step was taken back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Undoing {
    /// When that began.
    pub from_ms: u64,
    /// When it ended.
    pub to_ms: Option<u64>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A step and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepStory {
    /// The step.
    pub step: StepId,
    /// Its title.
    pub title: String,
    /// Index of its stage.
    pub stage: usize,
    /// `change`, `gate`, `wait`, `check` or `release`; `step` where the plan is not known.
    pub kind: &'static str,
    /// The target that it acts on.
    pub target: Option<TargetId>,
    /// The section that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// Once it was begun its section could only go forward.
    pub point_of_no_return: bool,
    /// What became of it.
    pub outcome: StepOutcome,
    /// Every attempt, in their order.
    pub attempts: Vec<Attempt>,
    /// How it was taken back, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undoing>,
}

/// A stage and how long it took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageStory {
    /// Its heading.
    pub title: String,
    /// When its first step began; none if none did.
    pub from_ms: Option<u64>,
    /// When its last step ended.
    pub to_ms: Option<u64>,
}

/// Something that happened beside the steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Happening {
    /// When.
    pub at_ms: u64,
    /// What.
    pub text: String,
}

/// So many sessions remained at this time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// When.
    pub at_ms: u64,
    /// The step that waited for them.
    pub step: StepId,
    /// How many.
    pub remaining: u64,
}

/// A record as it was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Milliseconds since the run began, also across processes.
    pub at_ms: u64,
    /// The record, but for the plan file's text.
    #[serde(flatten)]
    pub entry: Entry,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Story {
    /// The run.
    pub run: RunId,
    /// The plan's identity.
    pub plan: String,
    /// SHA-256 of the plan file's bytes.
    pub plan_digest: String,
    /// What the plan is for.
    pub title: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// The topology's name, where the plan is known.
    pub topology: Option<String>,
    /// Who began it.
    pub operator: String,
    /// When.
    pub started: Timestamp,
    /// The time of its last record.
    pub last: Timestamp,
    /// From its first record to its last.
    pub total_ms: u64,
    /// How far it is.
    pub state: State,
    /// How it ended, in one sentence.
    pub summary: Option<String>,
    /// How to go on.
    pub ways_on: Vec<WayOn>,
    /// The stages of the plan.
    pub stages: Vec<StageStory>,
    /// The steps in the plan's order.
    pub steps: Vec<StepStory>,
    /// How long writers waited.
    pub stalls: Vec<Stall>,
    /// How long databases had one copy less.
    pub without_redundancy: Vec<Exposure>,
    /// Sessions that had not ended yet.
    pub sessions: Vec<Sample>,
    /// What the operator was told, and what else happened.
    pub happenings: Vec<Happening>,
    /// Holds that it made.
    pub holds_made: Vec<Hold>,
    /// Holds that it released.
    pub holds_released: Vec<HoldKind>,
    /// Every record.
    pub records: Vec<Line>,
}

impl Story {
    /// Tells a run from its records; `running` says whether somebody carries it out now. None without a first record.
    pub fn new(run: &RunId, entries: &[Entry], running: bool) -> Option<Self> {
        let first = entries.first()?;
        let Record::RunStarted { document, .. } = &first.record else { return None };
        let plan = document.as_deref().and_then(|text| Plan::from_yaml(text).ok());
        Self::of(run, entries, running, plan.as_ref())
    }

    /// The same with a plan that was read already.
    pub(super) fn of(run: &RunId, entries: &[Entry], running: bool, document: Option<&Plan>) -> Option<Self> {
        let first = entries.first()?;
        let Record::RunStarted { plan, plan_digest, operator, holds, title, .. } = &first.record else {
            return None;
        };
        let intent = document.map(|plan| plan.intent.clone()).unwrap_or_default();
        let mut story = Self {
            run: run.clone(),
            plan: plan.clone(),
            plan_digest: plan_digest.clone(),
            title: if title.is_empty() { plan.clone() } else { title.clone() },
            reason: intent.reason.clone().or_else(|| holds.iter().find_map(|hold| hold.reason.clone())),
            topology: document.map(|plan| plan.topology.name.clone()),
            operator: operator.clone(),
            started: first.at,
            last: first.at,
            total_ms: 0,
            state: State::of(None, running),
            summary: None,
            ways_on: Vec::new(),
            stages: Vec::new(),
            steps: Vec::new(),
            stalls: Vec::new(),
            without_redundancy: Vec::new(),
            sessions: Vec::new(),
            happenings: Vec::new(),
            holds_made: holds.clone(),
            holds_released: Vec::new(),
            records: Vec::new(),
        };
        let mut telling = Telling::new(&mut story, document);
        entries.iter().for_each(|entry| telling.hear(entry));
        telling.finish();
        story.conclude(entries, running, document, &intent);
        Some(story)
    }

    fn conclude(&mut self, entries: &[Entry], running: bool, plan: Option<&Plan>, intent: &Intent) {
        let end = entries.last().and_then(|entry| match &entry.record {
            Record::RunEnded { end, .. } => Some(*end),
            _ => None,
        });
        self.state = State::of(end, running);
        self.ways_on = if running { Vec::new() } else { ways_on(intent, end) };
        if let Some(plan) = plan {
            window::limits(plan, &mut self.stalls);
        }
        self.without_redundancy = plan.map(|plan| window::exposures(plan, self)).unwrap_or_default();
        for (index, stage) in self.stages.iter_mut().enumerate() {
            let attempts = || self.steps.iter().filter(|step| step.stage == index).flat_map(|step| &step.attempts);
            stage.from_ms = attempts().map(|attempt| attempt.from_ms).min();
            stage.to_ms = attempts().filter_map(|attempt| attempt.to_ms).max();
        }
    }

    /// The steps that did not do what they should, with why; once nobody carries the run out, also those without an end.
    pub fn failures(&self) -> impl Iterator<Item = (&StepStory, &str)> {
        self.steps.iter().filter_map(|step| {
            let last = step.attempts.last()?;
            let lost = last.to_ms.is_none() && self.state != State::Running;
            let why = step.attempts.iter().rev().find_map(|attempt| attempt.why.as_deref());
            let why = why.or(lost.then_some("it was begun, and its end was never recorded"))?;
            Some((step, step.undo.as_ref().and_then(|undo| undo.why.as_deref()).unwrap_or(why)))
        })
    }
}
