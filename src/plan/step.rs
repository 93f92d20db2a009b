//! The nouns of a plan: steps, gates, waits, and what each relies on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::intent::HoldKind;
use super::lost::evidence::Lost;
use super::overrides::GateName;
use crate::model::{
    Action, BackendServers, Condition, DatabaseName, DrainThen, FacilityName, Percent, ServiceName, Span, TargetId,
};

/// Identity of a step within its plan, such as `share.orderform.west-lb1.10%`: readable, unique, stable for the same input.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(pub String);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A condition that is demanded of a target before or after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assumption {
    /// The target.
    pub target: TargetId,
    /// What is demanded.
    pub condition: Condition,
}

/// One journalled action of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its identity.
    pub id: StepId,
    /// Index of the stage it belongs to.
    pub stage: usize,
    /// What it does, in one line: "orderform: share of west 50% → 45% at west-lb1".
    pub title: String,
    /// Why it is there and what clients notice, in one sentence.
    pub why: String,
    /// What it does.
    pub work: Work,
    /// Steps that must have ended well before it begins.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub needs: BTreeSet<StepId>,
    /// What must hold right before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Assumption>,
    /// What must hold after it, by reading the targets again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Assumption>,
    /// How it is taken back.
    pub undo: Undo,
    /// Steps of one section stand or fall together, under one permit: if one fails before the point of no return, all are undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// Once this step was begun its section can only go forward.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub point_of_no_return: bool,
    /// How long it should take.
    pub expected: Span,
    /// How long it may take before it counts as failed.
    pub deadline: Span,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Acts on a target.
    Act {
        /// The target.
        target: TargetId,
        /// The action.
        action: Action,
    },
    /// Judges a gate: go, hold or retreat.
    Gate {
        /// The gate.
        gate: Gate,
    },
    /// Lets time pass or sessions end.
    Wait {
        /// For what.
        wait: Wait,
    },
    /// Only verifies what it demands in `after`.
    Verify,
    /// Releases a hold with the end of the run.
    Release {
        /// The hold.
        hold: HoldKind,
    },
}

/// How a step is taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Undo {
    /// By this action on the same target.
    Act {
        /// The action.
        action: Action,
        /// What must hold on the target after it.
        after: Condition,
    },
    /// There is nothing to take back.
    Nothing,
    /// It cannot be taken back.
    Impossible {
        /// Why, and what can be done instead.
        why: String,
    },
}

/// A condition between stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "snake_case")]
pub enum Gate {
    /// Every switchover that follows is possible now.
    Switchable {
        /// The database.
        database: DatabaseName,
        /// The present primary.
        primary: TargetId,
        /// The candidate.
        candidate: TargetId,
        /// Members that the plan leads over to the candidate before the pause.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        followers: BTreeSet<TargetId>,
    },
    /// The application tier that remains answers and is large enough.
    Capacity {
        /// The service.
        service: ServiceName,
        /// The share of each facility that is to come.
        shares: BTreeMap<FacilityName, Percent>,
        /// Servers that must be healthy.
        servers: BTreeSet<TargetId>,
    },
    /// Survivors stay healthy for the soak time: errors, queues and lag below the limits.
    Soak {
        /// How long.
        window: Span,
        /// Largest share of failed requests.
        max_error_rate: Percent,
        /// Longest queue of a backend.
        max_queue: u64,
        /// Requests that a sample needs; below it active probes are the sample.
        min_sample: u64,
        /// The backends that are watched, at each proxy, with the servers that serve.
        watched: BTreeMap<TargetId, BackendServers>,
    },
    /// What is said to be lost is dead, or is cut off before anything takes its place.
    Lost {
        /// What is said to be lost.
        lost: Lost,
        /// True if every old primary is cut off by a command with a check: then it need not be dead already.
        fenced_by_command: bool,
    },
    /// Nothing of a facility answers any more, by its own protocol: whatever its hosts say.
    Off {
        /// Every server there.
        targets: BTreeSet<TargetId>,
    },
    /// Each of a facility's proxies answers a request of each service.
    Synthetic {
        /// The services.
        services: BTreeSet<ServiceName>,
        /// The addresses asked, `host:port`.
        addresses: BTreeSet<String>,
    },
}

/// What a wait waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Wait {
    /// Caches to forget what was removed: the TTL that was live before the change, counted from its end.
    OldTtl {
        /// How long.
        time: Span,
    },
    /// Sessions to end on their own.
    Sessions {
        /// The servers at each proxy and backend.
        servers: BTreeMap<TargetId, BackendServers>,
        /// How long at most.
        deadline: Span,
        /// What happens to those that remain.
        then: DrainThen,
    },
    /// Clients to leave proxies that will be stopped: first on their own, then sent away with their next answer.
    Connections {
        /// The proxies.
        proxies: BTreeSet<TargetId>,
        /// How long they have to leave on their own.
        deadline: Span,
    },
}

/// A part of a plan that is read as one: "Edge: orderform away from west, 10 %".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its heading.
    pub title: String,
    /// What remains while and after it: capacity and redundancy, one line each.
    pub remains: Vec<String>,
}

impl Gate {
    /// The name by which it can be overridden; none where nothing may be.
    pub fn name(&self) -> Option<GateName> {
        match self {
            Self::Switchable { .. } => Some(GateName::Switchable),
            Self::Capacity { .. } => Some(GateName::Capacity),
            Self::Soak { .. } => Some(GateName::Soak),
            Self::Synthetic { .. } => Some(GateName::Synthetic),
            // The one is the proof that the power may go, the other one that nobody else takes writes.
            Self::Off { .. } | Self::Lost { .. } => None,
        }
    }
}

/// The time until the last of the steps that `count` has ended, by the longest chain of needs among them.
pub(super) fn longest_chain<'a>(steps: impl IntoIterator<Item = &'a Step>, count: impl Fn(&Step) -> bool) -> Span {
    let mut ends = HashMap::new();
    let mut last = std::time::Duration::ZERO;
    for step in steps {
        let begin = step.needs.iter().filter_map(|need| ends.get(need)).copied().max().unwrap_or_default();
        let end = begin + step.expected.0;
        ends.insert(&step.id, end);
        if count(step) {
            last = last.max(end);
        }
    }
    Span(last)
}
