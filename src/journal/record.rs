//! What a journal says: an intent log for going on after a crash, not a debug log.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Moment;
use crate::model::{Action, DatabaseName, TargetId};
use crate::plan::{Assumption, HoldKind, Overrides, StepId};

/// Identity of a run: time and some randomness, so that it sorts and is easy to type: `20261123-061503-k3f9`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A hold in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What is held.
    #[serde(flatten)]
    pub kind: HoldKind,
    /// `user@host`.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: Option<String>,
    /// When somebody should look at it again; it nags then, and moves nothing.
    pub review_by: Option<Timestamp>,
    /// The run that made it.
    pub run: RunId,
}

impl Hold {
    /// True if somebody should have looked at it by now.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.review_by.is_some_and(|at| at < now)
    }
}

/// One record with its place and time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Position in the run, from 0.
    pub sequence: u64,
    /// Wall-clock time.
    pub at: Timestamp,
    /// Milliseconds since the run began, by the monotonic clock.
    pub elapsed_ms: u64,
    /// What happened.
    pub record: Record,
}

impl Entry {
    /// A record at a moment.
    pub fn new(sequence: u64, now: Moment, record: Record) -> Self {
        let elapsed_ms = u64::try_from(now.elapsed.as_millis()).unwrap_or(u64::MAX);
        Self { sequence, at: now.at, elapsed_ms, record }
    }
}

/// What happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The run began; its holds are in force from here.
    RunStarted {
        /// The plan's identity.
        plan: String,
        /// SHA-256 of the plan file's bytes.
        plan_digest: String,
        /// `user@host pid N`.
        operator: String,
        /// Holds that it makes.
        holds: Vec<Hold>,
        /// What it is for: "drain west". Runs before this was recorded have none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        title: String,
        /// The plan file's text, sealed as it was reviewed: the run can be told, and gone on with, without the file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        document: Option<String>,
        /// Gates that are passed, those of the plan and those that were named when it was applied.
        #[serde(default, skip_serializing_if = "Overrides::is_empty")]
        overrides: Overrides,
    },
    /// A step is about to act.
    StepStarted {
        /// The step.
        step: StepId,
        /// What was checked right before.
        assumed: Vec<Assumption>,
        /// What it will do; none for gates, waits and pure checks.
        intended: Option<Action>,
    },
    /// A section is about to act: one permit for all its steps, their undo and their completion.
    SectionStarted {
        /// The section.
        section: String,
        /// Its steps.
        steps: Vec<StepId>,
        /// What was checked right before.
        assumed: Vec<Assumption>,
    },
    /// A section has ended: all of it was done, or nothing of it remains. One without this record is open: what its targets are decides.
    SectionEnded {
        /// The section.
        section: String,
        /// True if all of it was done; false if it was taken back.
        done: bool,
    },
    /// A step of a section began or ended; recorded after the fact where the section must not wait for the store.
    Phase {
        /// The step.
        step: StepId,
        /// Milliseconds since the run began.
        from_ms: u64,
        /// Milliseconds since the run began.
        to_ms: u64,
        /// How it ended.
        outcome: String,
    },
    /// A step did what it should, verified.
    StepDone {
        /// The step.
        step: StepId,
        /// What the verification saw.
        verified: String,
    },
    /// A gate was judged.
    GateJudged {
        /// The step.
        step: StepId,
        /// `go`, `hold` or `retreat`.
        verdict: String,
        /// What was measured.
        measured: String,
    },
    /// A step did not do what it should.
    StepFailed {
        /// The step.
        step: StepId,
        /// True where it is not known whether it acted.
        unknown: bool,
        /// Why.
        why: String,
    },
    /// A step is about to be taken back.
    UndoStarted {
        /// The step.
        step: StepId,
        /// By what.
        intended: Action,
    },
    /// A step was taken back, verified.
    UndoDone {
        /// The step.
        step: StepId,
    },
    /// A step could not be taken back: a human must look.
    UndoFailed {
        /// The step.
        step: StepId,
        /// Why.
        why: String,
    },
    /// Writers of a database go on after a critical section, at whichever member is primary then.
    WritesResumed {
        /// The database.
        database: DatabaseName,
        /// The member that takes writes now.
        primary: TargetId,
        /// When the first of them was held back, in milliseconds since the run began.
        from_ms: u64,
        /// When the last of them went on.
        to_ms: u64,
    },
    /// So many sessions had not ended yet, while a step waited for them.
    Sessions {
        /// The step.
        step: StepId,
        /// How many.
        remaining: u64,
    },
    /// The operator was told something that stopped nothing.
    Told {
        /// What.
        text: String,
    },
    /// Somebody took the lock from the run's holder, who gets no permit from here on.
    Unlocked {
        /// `user@host pid N`.
        by: String,
    },
    /// Somebody goes on with a run that died or stopped; its records follow with the next token.
    RunResumed {
        /// `user@host pid N`.
        operator: String,
        /// What for.
        how: How,
        /// Holds that it makes again.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        holds: Vec<Hold>,
        /// Gates that are passed from here on, beside those of the first record.
        #[serde(default, skip_serializing_if = "Overrides::is_empty")]
        overrides: Overrides,
    },
    /// The run ended.
    RunEnded {
        /// How.
        end: RunEnd,
        /// One sentence.
        summary: String,
        /// Holds that end with it.
        released: Vec<HoldKind>,
    },
}

/// What somebody goes on with a run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// To its end.
    Resume,
    /// Back to the state before it.
    Rollback,
    /// To free clients that its dead process left waiting: open sections are ended, and what has passed its point of no return is
    /// completed. The guard does so.
    Settle,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// Everything was done.
    Done,
    /// A gate refused before anything was touched.
    Refused,
    /// It stopped midway; what was done stays.
    Stopped,
    /// It stopped and took back what it had done.
    Undone,
    /// Something could not be taken back or completed: a human must look.
    Stuck,
}

/// A run in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunSummary {
    /// Its identity.
    pub run: RunId,
    /// The plan's identity.
    pub plan: String,
    /// When it began.
    pub started: Timestamp,
    /// Who ran it.
    pub operator: String,
    /// How it ended; none while it runs or if it died.
    pub end: Option<RunEnd>,
    /// What the plan is for: "drain west"; empty for runs before this was recorded.
    pub title: String,
    /// The time of its last record.
    pub last: Timestamp,
    /// Until when it holds the lock, if it does.
    pub leased_until: Option<Timestamp>,
}

impl RunSummary {
    /// True while somebody carries it out: it holds the lock, and has given a sign of life in time.
    pub fn is_running(&self, now: Timestamp) -> bool {
        self.leased_until.is_some_and(|until| now < until)
    }
}
