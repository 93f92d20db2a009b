//! Faults by script: the n-th action at a target goes wrong in a chosen way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::TargetId;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The target refuses, and says so.
    Refuse,
    /// The target says yes and does nothing, as BIND does with an address next to an alias.
    Ignore,
    /// Nothing is done and nothing is said until the deadline.
    Hang,
    /// It is done, and the answer is lost.
    Lose,
    /// It is done right before the deadline, and answered just in time.
    Slow,
    /// The target dies before it has done anything, and answers nobody any more.
    Die,
    /// The target dies right after it has done it.
    DieAfter,
}

/// What becomes of an action that is under way when its caller dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orphans {
    /// It is carried out as if nothing had happened: it was on the wire.
    #[default]
    Done,
    /// At members it is carried out so much later, but by its deadline; elsewhere at once.
    Late(Duration),
    /// It never reaches the target.
    Lost,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// At which target.
    pub target: TargetId,
    /// At which of the actions that reach it, from 1 on; undoing counts.
    pub action: usize,
    /// What.
    pub harm: Harm,
}

/// The faults to come, and how many actions have reached each target.
#[derive(Debug, Default)]
pub(super) struct Script {
    faults: Vec<Fault>,
    seen: BTreeMap<TargetId, usize>,
}

impl Script {
    pub fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// What goes wrong with the action that has just reached a target.
    pub fn next(&mut self, target: &TargetId) -> Option<Harm> {
        let seen = self.seen.entry(target.clone()).or_default();
        *seen += 1;
        let now = *seen;
        self.faults.iter().find(|fault| fault.target == *target && fault.action == now).map(|fault| fault.harm)
    }
}
