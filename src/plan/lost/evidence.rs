//! Is it dead, or do we only not see it? One verdict from what is known, never on one point of view only. Pure.
//!
//! [`gather`] puts what was observed into plain values, [`judge`] decides by them alone. The truth table is in `docs/safety.md` (S18); the
//! tests go through every combination and compare with that table.

mod gather;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use gather::{Before, gather};

use crate::model::{FacilityName, Target, TargetId};
use crate::plan::intent::{HoldKind, LostThing};

/// What an operator says is lost: whole facilities, single targets, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Facilities with everything in them.
    pub facilities: BTreeSet<FacilityName>,
    /// Targets, wherever they stand.
    pub targets: BTreeSet<TargetId>,
}

impl Lost {
    /// True if nothing is lost.
    pub fn is_empty(&self) -> bool {
        self.facilities.is_empty() && self.targets.is_empty()
    }

    /// The same with what earlier runs have left as lost.
    #[must_use]
    pub fn with(&self, holds: &[HoldKind]) -> Self {
        let mut lost = self.clone();
        for hold in holds {
            match hold {
                HoldKind::Lost { what: LostThing::Facility(facility), .. } => {
                    _ = lost.facilities.insert(facility.clone())
                }
                HoldKind::Lost { what: LostThing::Target(target), .. } => _ = lost.targets.insert(target.clone()),
                _ => {}
            }
        }
        lost
    }

    /// What operators call it, one name each.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let targets: BTreeSet<&str> = self.targets.iter().map(TargetId::name).collect();
        let targets: Vec<String> = targets.into_iter().map(str::to_owned).collect();
        self.facilities.iter().map(ToString::to_string).chain(targets)
    }

    /// True if this target is among what is lost.
    pub fn contains(&self, target: &Target) -> bool {
        self.facilities.contains(&target.facility) || self.targets.contains(&target.id)
    }
}

/// All that is known about what is said to be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What is said to be lost.
    pub lost: Lost,
    /// The facility that handover runs in, where that is declared: who stands there sees what we see.
    pub here: Option<FacilityName>,
    /// What we have asked ourselves.
    pub own: Own,
    /// What others say who stand outside of it.
    pub witnesses: Vec<Witness>,
    /// A human's word that it is down, if there is one. It stands for a witness; it proves nothing.
    pub attested: Option<Attestation>,
    /// For how long it is known to have been silent without interruption.
    pub silent_for: Duration,
    /// For how long it must have been (`policy.hold_down`).
    pub hold_down: Duration,
}

/// What we have asked ourselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Of what is lost: what answers us all the same.
    pub answers: BTreeSet<TargetId>,
    /// Of single lost targets: those whose own machine answers and says that they do not run.
    pub stopped: BTreeSet<TargetId>,
    /// Of what is lost: what does not answer.
    pub silent: BTreeSet<TargetId>,
    /// The newest answer of any of it, if there ever was one that was noted: its age.
    pub last_answer: Option<Duration>,
    /// Everything else, by facility.
    pub survivors: BTreeMap<FacilityName, Count>,
}

/// How many were asked, and how many of those have answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Asked.
    pub asked: usize,
    /// Answered.
    pub answered: usize,
}

/// Somebody outside of what is lost, and what that one says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Its name: `east-lb1`.
    pub who: String,
    /// What it is: it decides what its word is worth only in words.
    pub kind: WitnessKind,
    /// Where it stands.
    pub place: FacilityName,
    /// What it says.
    pub says: Says,
    /// What else it reaches that is not lost and does not answer us.
    pub reaches: BTreeSet<TargetId>,
}

/// What a witness is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WitnessKind {
    /// A proxy: its health checks.
    Proxy,
    /// A replica: what it receives.
    Receiver,
    /// A host that probes addresses when it is asked to.
    Vantage,
}

/// What a witness says of what is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// It sees it: how, as a fragment after the witness's name: "finds west-app1 up".
    Sees(String),
    /// It looks, sees other things, and does not see it.
    SeesNot {
        /// How, as a fragment: "finds none of 6 servers up".
        how: String,
        /// For how long without interruption, where it can tell.
        since: Option<Duration>,
    },
    /// Nothing follows from its word, and why, as a fragment: "does not answer us: connection refused".
    CannotTell(String),
}

/// A human's word that something is down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// Who says so.
    pub by: String,
    /// Why that one believes it.
    pub reason: String,
}

/// What follows from the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Some of it answers us: that is not lost.
    Answers {
        /// What was said to be lost.
        lost: Lost,
        /// What answers.
        who: BTreeSet<TargetId>,
        /// What does not.
        silent: BTreeSet<TargetId>,
    },
    /// We are the ones who are cut off: nothing may be concluded, and nothing be done from here.
    OwnPathBroken {
        /// What was said to be lost.
        lost: Lost,
        /// Why we think so, a sentence each.
        why: Vec<String>,
    },
    /// We do not see it, others do: it may be taking writes.
    Partitioned {
        /// What was said to be lost.
        lost: Lost,
        /// Who sees it, and how, a sentence each.
        seen_by: Vec<String>,
    },
    /// Not enough is known.
    Undecided {
        /// What was said to be lost.
        lost: Lost,
        /// What would decide, a sentence each.
        would_decide: Vec<String>,
        /// How much longer it must be silent, where that alone is missing.
        wait: Option<Duration>,
    },
    /// Nobody sees it, and somebody in another place has looked.
    Dead {
        /// What was said to be lost.
        lost: Lost,
        /// Who has looked, and how, a sentence each.
        witnesses: Vec<String>,
        /// The human's word, where that stands for a witness.
        attested: Option<Attestation>,
        /// For how long it is known to have been silent.
        silent_for: Duration,
    },
}

/// The verdict. First what forbids any conclusion, then what speaks against death, then whether enough speaks for it.
pub fn judge(evidence: &Evidence) -> Verdict {
    let own = &evidence.own;
    let lost = evidence.lost.clone();
    if !own.answers.is_empty() {
        return Verdict::Answers { lost, who: own.answers.clone(), silent: own.silent.clone() };
    }
    let why = evidence.own_path_broken();
    if !why.is_empty() {
        return Verdict::OwnPathBroken { lost, why };
    }
    let seen_by: Vec<String> = evidence.witnesses.iter().filter_map(Witness::sees).collect();
    if !seen_by.is_empty() {
        return Verdict::Partitioned { lost, seen_by };
    }
    let (witnesses, silent_for) = (evidence.independent(), evidence.silent_for);
    let mut would_decide = if own.silent.is_empty() && own.stopped.is_empty() {
        vec![format!("something of {lost} that can be asked: the topology names no target there")]
    } else if witnesses.is_empty() && evidence.attested.is_none() {
        evidence.what_would_witness()
    } else {
        Vec::new()
    };
    let missing = evidence.hold_down.saturating_sub(silent_for);
    let wait = would_decide.is_empty().then_some(missing);
    if !missing.is_zero() {
        would_decide.push(evidence.must_wait(missing));
    }
    if would_decide.is_empty() {
        let attested = evidence.attested.clone().filter(|_| witnesses.is_empty());
        return Verdict::Dead { lost, witnesses, attested, silent_for };
    }
    Verdict::Undecided { lost, would_decide, wait }
}

impl Evidence {
    /// True for a place that sees what we see, as far as we know.
    fn beside_us(&self, place: &FacilityName) -> bool {
        self.here.as_ref() == Some(place)
    }

    /// Why it is us who are cut off, if so: nothing that is left answers, or only what stands beside us although others reach the rest.
    fn own_path_broken(&self) -> Vec<String> {
        let count = |beside: bool| {
            let places = self.own.survivors.iter().filter(|(place, _)| self.beside_us(place) == beside);
            places.fold(Count::default(), |sum, (_, count)| Count {
                asked: sum.asked + count.asked,
                answered: sum.answered + count.answered,
            })
        };
        let (beside, elsewhere) = (count(true), count(false));
        let asked = beside.asked + elsewhere.asked;
        if asked > 0 && beside.answered + elsewhere.answered == 0 {
            return vec![format!("none of the {asked} targets that are left answers us either")];
        }
        if elsewhere.asked == 0 || elsewhere.answered > 0 {
            return Vec::new();
        }
        let reached = self.witnesses.iter().filter(|witness| !witness.reaches.is_empty());
        reached.map(words::reaches_what_we_do_not).collect()
    }

    /// Who has looked from another place than ours and does not see it. Where ours is not known, one place alone may be ours.
    fn independent(&self) -> Vec<String> {
        let look: Vec<&Witness> =
            self.witnesses.iter().filter(|witness| matches!(witness.says, Says::SeesNot { .. })).collect();
        let places: BTreeSet<&FacilityName> = look.iter().map(|witness| &witness.place).collect();
        let told = look.into_iter().filter(|witness| match &self.here {
            Some(here) => witness.place != *here,
            None => places.len() > 1,
        });
        let told: Vec<String> = told.map(Witness::sentence).collect();
        // The machine on which it ran has looked closest of all.
        if told.is_empty() && self.own.silent.is_empty() { self.own.stopped_sentences() } else { told }
    }
}
