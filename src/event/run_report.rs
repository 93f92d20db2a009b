//! What a run's end tells: pure data, gathered by the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::millis;
use crate::journal::{Hold, HoldKind, RunId};
use crate::model::{DatabaseName, ForeignName, TargetId};
use crate::plan::StepId;

/// Why time passed without anything being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitCause {
    /// Caches had to forget an old DNS answer.
    Ttl,
    /// Survivors were watched between stages.
    Soak,
    /// Running sessions had to end.
    Sessions,
    /// Replicas had to catch up or to stream again.
    Replication,
    /// Targets took time to show what had been done.
    Verification,
}

impl WaitCause {
    /// What was waited for, as a fragment after "waiting for".
    pub fn words(self) -> &'static str {
        match self {
            Self::Ttl => "caches to forget old DNS answers (TTL)",
            Self::Soak => "soak: watching the survivors between stages",
            Self::Sessions => "running sessions to end",
            Self::Replication => "replicas to catch up",
            Self::Verification => "targets to show the change",
        }
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// Done and verified.
    Done,
    /// It did not do what it should.
    Failed,
    /// It is not known whether it acted.
    Unknown,
    /// Done, then taken back.
    Undone,
    /// It could not be taken back.
    UndoFailed,
    /// Never begun.
    NotBegun,
}

/// What became of one step, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step.
    pub step: StepId,
    /// Its title.
    pub title: String,
    /// Index of its stage.
    pub stage: usize,
    /// What became of it.
    pub outcome: StepOutcome,
    /// When it began, counted from the beginning of the run.
    #[serde(rename = "began_ms", with = "millis")]
    pub began: Duration,
    /// How long it took.
    #[serde(rename = "took_ms", with = "millis")]
    pub took: Duration,
    /// How much of that was waiting.
    #[serde(rename = "waited_ms", with = "millis")]
    pub waited: Duration,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Its heading.
    pub title: String,
    /// From the beginning of its first step to the end of its last one; none if it was never begun.
    #[serde(rename = "took_ms", with = "millis::option")]
    pub took: Option<Duration>,
}

/// What a run did to one database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseReport {
    /// The primary before.
    pub from: TargetId,
    /// The primary now.
    pub to: TargetId,
    /// How long writers waited: from the first pause to the last resume.
    #[serde(rename = "write_stall_ms", with = "millis::option")]
    pub write_stall: Option<Duration>,
    /// How long they may, by policy.
    #[serde(rename = "max_write_stall_ms", with = "millis")]
    pub max_write_stall: Duration,
    /// How long there was one copy only: from the fence to the end of the rejoin.
    #[serde(rename = "without_redundancy_ms", with = "millis::option")]
    pub without_redundancy: Option<Duration>,
}

/// Sessions that had not ended when their deadline passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residual {
    /// The proxy.
    pub proxy: TargetId,
    /// Its backend.
    pub backend: ForeignName,
    /// The server.
    pub server: ForeignName,
    /// How many.
    pub sessions: u64,
    /// True where they were cut, false where they were left.
    pub cut: bool,
}

/// Why a run stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The step.
    pub step: StepId,
    /// Its title.
    pub title: String,
    /// The target, where the step has one.
    pub target: Option<TargetId>,
    /// What went wrong, as a fragment.
    pub why: String,
    /// What was tried, where that is more than the title says.
    pub tried: Option<String>,
    /// Ways on, the safest first: what to do, and the command for it.
    pub ways_on: Vec<WayOn>,
}

/// One way on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayOn {
    /// What it means: "finish the run".
    pub what: String,
    /// The command, where there is one.
    pub command: Option<String>,
}

/// Everything that was measured in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// The run.
    pub run: RunId,
    /// The plan's identity.
    pub plan: String,
    /// What the plan is for: "drain west".
    pub title: String,
    /// From the first record to the last.
    #[serde(rename = "total_ms", with = "millis")]
    pub total: Duration,
    /// The stages in their order.
    pub stages: Vec<StageReport>,
    /// The steps in the plan's order.
    pub steps: Vec<StepReport>,
    /// Waiting time by cause. Waits that overlap count once each, so the sum may exceed the total.
    pub waited_ms: BTreeMap<WaitCause, u64>,
    /// The databases whose primary moved, or should have.
    pub databases: BTreeMap<DatabaseName, DatabaseReport>,
    /// Sessions that were left or cut.
    pub residual_sessions: Vec<Residual>,
    /// What the operator was told on the way and that stopped nothing.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Holds that it made.
    pub holds_made: Vec<Hold>,
    /// Holds that it released.
    pub holds_released: Vec<HoldKind>,
    /// Why it stopped, if it did.
    pub failure: Option<Failure>,
}

#[cfg(test)]
impl RunReport {
    /// A drain that succeeded, for tests of whoever shows or stores it.
    pub(crate) fn example() -> Self {
        let millis = Duration::from_millis;
        let stages = [
            ("Proofs: nothing is touched yet", 850),
            ("Edge: 10% of west's share moves away", 31_400),
            ("Edge: all of west's share moves away", 31_100),
            ("DNS and databases: west's addresses and primaries move", 33_200),
            ("Edge: west's servers are taken out", 1_200),
        ];
        let step = |id: &str, title: &str, stage, began, took, waited| StepReport {
            step: StepId(id.to_owned()),
            title: title.to_owned(),
            stage,
            outcome: StepOutcome::Done,
            began: millis(began),
            took: millis(took),
            waited: millis(waited),
        };
        let mut steps = vec![
            step("gate.switchable.accounts", "accounts can be switched from west-pg1 to east-pg1", 0, 10, 240, 0),
            step("gate.capacity", "east alone carries the peak", 0, 10, 840, 0),
        ];
        for proxy in ["west-lb1", "west-lb2", "east-lb1", "east-lb2"] {
            let id = format!("share.10%.{proxy}");
            steps.push(step(&id, &format!("10% of west's share moves to east at {proxy}"), 1, 860, 40, 0));
        }
        steps.push(step("soak.10%", "east stays healthy", 1, 900, 30_050, 30_000));
        steps.push(step("soak.100%", "east stays healthy", 2, 32_300, 30_040, 30_000));
        steps.push(step("dns.remove", "west's addresses leave clickbank.example at west-ns1", 3, 63_400, 210, 0));
        steps.push(step("dns.ttl", "caches forget west's addresses", 3, 63_700, 30_000, 30_000));
        steps.push(step("accounts.promote", "accounts: east-pg1 becomes primary", 3, 64_000, 140, 20));
        steps.push(step("maint", "west's servers get nothing more at west-lb1", 4, 96_600, 1_100, 700));
        let member = |name: &str| TargetId::member(&"accounts".into(), name);
        let accounts = DatabaseReport {
            from: member("west-pg1"),
            to: member("east-pg1"),
            write_stall: Some(millis(312)),
            max_write_stall: millis(2_000),
            without_redundancy: Some(millis(1_840)),
        };
        let run = RunId("20261123-061503-k3f9".to_owned());
        let hold = Hold {
            kind: HoldKind::Drained { facility: "west".into() },
            by: "ada@ops".to_owned(),
            since: jiff::Timestamp::from_second(1_795_414_503).unwrap_or_default(),
            reason: Some("new switches".to_owned()),
            review_by: jiff::Timestamp::from_second(1_795_500_903).ok(),
            run: run.clone(),
        };
        Self {
            run,
            plan: "20261123-0615-drain-west".to_owned(),
            title: "drain west".to_owned(),
            total: millis(98_400),
            stages: stages
                .map(|(title, took)| StageReport { title: title.to_owned(), took: Some(millis(took)) })
                .to_vec(),
            steps,
            waited_ms: [(WaitCause::Ttl, 30_000), (WaitCause::Soak, 60_000), (WaitCause::Sessions, 700)].into(),
            databases: [("accounts".into(), accounts)].into(),
            residual_sessions: vec![Residual {
                proxy: TargetId::proxy("west-lb1"),
                backend: "orderform".into(),
                server: "west-app2".into(),
                sessions: 3,
                cut: false,
            }],
            warnings: Vec::new(),
            holds_made: vec![hold],
            holds_released: Vec::new(),
            failure: None,
        }
    }
}
