//! Everything the engine says while it works. Reporters only listen: nothing here can touch a provider.
//!
//! May use `model`, `plan` and `journal`. Must not know how it is shown: that is `report`'s.
//!
//! As JSON each event is an object with its name under `event`; durations are whole milliseconds under names that end in `_ms`.

mod run_report;
mod ways_on;

pub use run_report::{
    DatabaseReport, Failure, Residual, RunReport, StageReport, StepOutcome, StepReport, WaitCause, WayOn,
};

pub use ways_on::ways_on;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::journal::{How, RunEnd, RunId};
use crate::model::{DatabaseName, TargetId};
use crate::plan::StepId;

/// What a gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The next stage may begin.
    Go,
    /// Not yet, or no data: wait, then stop.
    Hold,
    /// The survivors are getting sick: take back what can be taken back.
    Retreat,
}

impl Verdict {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Hold => "hold",
            Self::Retreat => "retreat",
        }
    }
}

/// One thing that happened in a run. Titles are the plan's, without a final full stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began: its lock is taken, its first record is durable.
    RunStarted {
        /// The run.
        run: RunId,
        /// The plan's identity.
        plan: String,
        /// What the plan is for: "drain west".
        title: String,
        /// Number of stages.
        stages: usize,
        /// Number of steps.
        steps: usize,
        /// How long it should take.
        #[serde(rename = "expected_ms", with = "millis")]
        expected: Duration,
    },
    /// A run is gone on with that died or stopped: its lock is taken, the record that says so is durable.
    RunResumed {
        /// The run.
        run: RunId,
        /// The plan's identity.
        plan: String,
        /// What the plan is for: "drain west".
        title: String,
        /// `resume`, `rollback` or `settle`.
        how: How,
        /// Number of stages.
        stages: usize,
        /// Number of steps.
        steps: usize,
        /// How many of them were done.
        done: usize,
    },
    /// The first step of a stage is about to begin.
    StageStarted {
        /// Its index, from 0.
        stage: usize,
        /// Its heading.
        title: String,
        /// Number of its steps.
        steps: usize,
    },
    /// The last step of a stage has ended.
    StageEnded {
        /// Its index, from 0.
        stage: usize,
        /// Its heading.
        title: String,
        /// How long it took.
        #[serde(rename = "took_ms", with = "millis")]
        took: Duration,
    },
    /// A step is about to act; its intent is durable.
    StepStarted {
        /// The step.
        step: StepId,
        /// Its title.
        title: String,
        /// How long it should take.
        #[serde(rename = "expected_ms", with = "millis")]
        expected: Duration,
    },
    /// A step that waits has something to tell: "12s of 30s", "3 sessions remain".
    StepProgress {
        /// The step.
        step: StepId,
        /// What, as a fragment.
        text: String,
        /// How much of it is over, from 0 to 1, where that is known.
        fraction: Option<f64>,
    },
    /// A step did what it should, verified.
    StepDone {
        /// The step.
        step: StepId,
        /// Its title.
        title: String,
        /// How long it took.
        #[serde(rename = "took_ms", with = "millis")]
        took: Duration,
        /// What the verification saw.
        verified: String,
    },
    /// A step did not do what it should.
    StepFailed {
        /// The step.
        step: StepId,
        /// Its title.
        title: String,
        /// How long it took.
        #[serde(rename = "took_ms", with = "millis")]
        took: Duration,
        /// True where it is not known whether it acted.
        unknown: bool,
        /// Why.
        why: String,
    },
    /// A gate was judged.
    GateJudged {
        /// The step.
        step: StepId,
        /// Its title.
        title: String,
        /// What it says.
        verdict: Verdict,
        /// What was measured.
        measured: String,
    },
    /// A step is about to be taken back.
    UndoStarted {
        /// The step.
        step: StepId,
        /// Its title.
        title: String,
    },
    /// A step was taken back, verified.
    UndoDone {
        /// The step.
        step: StepId,
        /// Its title.
        title: String,
        /// How long that took.
        #[serde(rename = "took_ms", with = "millis")]
        took: Duration,
    },
    /// A step could not be taken back: a human must look.
    UndoFailed {
        /// The step.
        step: StepId,
        /// Its title.
        title: String,
        /// Why.
        why: String,
    },
    /// Writers of a database go on after a critical section, at whichever member is primary now.
    WritesResumed {
        /// The database.
        database: DatabaseName,
        /// The member that takes writes now.
        primary: TargetId,
        /// How long writers waited.
        #[serde(rename = "write_stall_ms", with = "millis")]
        write_stall: Duration,
    },
    /// A database has its replicas back.
    RedundancyRestored {
        /// The database.
        database: DatabaseName,
        /// How long there was one copy only.
        #[serde(rename = "without_redundancy_ms", with = "millis")]
        without: Duration,
    },
    /// The operator asked the run to stop; it does so at the next point where that is safe.
    StopRequested {
        /// What it still finishes or undoes.
        finishing: String,
    },
    /// Something that the operator should know and that stops nothing.
    Warning {
        /// What.
        text: String,
    },
    /// The run ended.
    RunEnded {
        /// How.
        end: RunEnd,
        /// One sentence without a final full stop.
        summary: String,
        /// Everything that was measured.
        report: Box<RunReport>,
    },
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }

    /// The same where there may be none.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serializer};

        pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_json_object_with_its_name_and_milliseconds() {
        let event = Event::WritesResumed {
            database: "accounts".into(),
            primary: TargetId::member(&"accounts".into(), "east-pg1"),
            write_stall: Duration::from_micros(112_700),
        };
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(
            json,
            r#"{"event":"writes_resumed","database":"accounts","primary":"member/accounts/east-pg1","write_stall_ms":112}"#
        );
    }

    #[test]
    fn events_read_back_as_written() {
        let event = Event::RunEnded {
            end: RunEnd::Undone,
            summary: "west serves as before".to_owned(),
            report: Box::new(RunReport::example()),
        };
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}
