//! The plan as an artefact: what is saved, reviewed in a pull request, and applied exactly as it stands.
//!
//! The file is YAML. Its last line is a seal, the SHA-256 of all bytes before it, so that nothing but what was printed and reviewed is
//! ever applied: one changed or missing byte is found. Its format is versioned by [`FORMAT`]; actions and conditions are stored in the model's own serde form, so a
//! change of those is a change of the format and needs an ADR.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::intent::{HoldKind, Intent};
use super::lost::failover::{Failover, FenceBy};
use super::lost::loss::Loss;
use super::split::Repair;
use super::step::{Assumption, Stage, Step, StepId, Undo, Work, longest_chain};
use crate::model::{DatabaseName, Span, TargetId};

/// Version of the plan file that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// The key of the last line: SHA-256 of everything before it.
const SEAL: &str = "seal: ";

/// How every plan file begins.
const HEAD: &str = "# A plan of handover: ";

/// The topology that a plan was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyRef {
    /// Its name.
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: String,
}

/// A database whose primary moves: what its clients will notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryMove {
    /// The database.
    pub database: DatabaseName,
    /// The old primary.
    pub from: TargetId,
    /// The new one.
    pub to: TargetId,
    /// How long writers should wait.
    pub expected_stall: Span,
    /// How long they wait at most before everything is undone.
    pub max_stall: Span,
}

/// A database whose primary is lost and replaced: what may be lost with it, to be accepted before the plan is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverMove {
    /// The database.
    pub database: DatabaseName,
    /// The primary that is lost.
    pub from: TargetId,
    /// Who takes over.
    pub to: TargetId,
    /// What may be lost.
    pub loss: Loss,
    /// How the old primary is kept from taking writes.
    pub fence: FenceBy,
}

impl FailoverMove {
    /// What a plan says of a failover.
    pub(super) fn of(failover: &Failover) -> Self {
        let Failover { database, from, to, loss, fence, .. } = failover;
        let (from, to) = (from.member.clone(), to.member.clone());
        Self { database: database.clone(), from, to, loss: loss.clone(), fence: fence.clone() }
    }
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of the format.
    pub format: u32,
    /// Its identity: `20261123-0615-drain-west`.
    pub id: String,
    /// What it is for.
    pub intent: Intent,
    /// What it was made from.
    pub topology: TopologyRef,
    /// When it was made.
    pub created: Timestamp,
    /// When it is no longer valid.
    pub expires: Timestamp,
    /// What an operator should know before agreeing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How long it should take, soaks and waits included.
    pub expected: Span,
    /// Databases whose primaries move.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub primaries: Vec<PrimaryMove>,
    /// Databases whose primaries are lost and replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failovers: Vec<FailoverMove>,
    /// Databases that are split, and which side survives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<Repair>,
    /// Holds that it makes with its first record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<HoldKind>,
    /// Holds that it releases with its last one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<HoldKind>,
    /// Identity facts that it relies on: if one differs when it is applied, it is stale.
    pub facts: Vec<Assumption>,
    /// Headings of its parts.
    pub stages: Vec<Stage>,
    /// Its steps, each after all that it needs.
    pub steps: Vec<Step>,
}

/// Why a file is no plan that can be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not YAML of the right shape.
    #[error("it is not a plan")]
    Malformed(#[from] serde_yaml::Error),
    /// It says how something would come back, and is not applied.
    #[error(
        "it is the skeleton of a way back, predicted when something left; the command in its first lines makes the plan"
    )]
    Skeleton,
    /// It was made by a newer version.
    #[error(
        "it has format {found}, made by handover {by}; this is handover {}, a version that reads formats up to {FORMAT}: apply it with \
         handover {by} or newer, or make the plan again with this one",
        env!("CARGO_PKG_VERSION")
    )]
    Newer {
        /// Its format.
        found: u32,
        /// The version that made it.
        by: String,
    },
    /// Its end is missing.
    #[error(
        "it was cut short: its last line, the seal, is missing; fetch the whole file again, or make the plan again with `handover plan`"
    )]
    CutShort,
    /// It is not what was written.
    #[error(
        "it was edited since it was made: what it says does not fit the seal in its last line; take the file as it was (`git log` shows who \
         changed it), or change the topology or the flags and make a new plan with `handover plan`"
    )]
    Edited,
    /// Its steps contradict each other.
    #[error("it was edited: {0}")]
    Inconsistent(String),
}

impl Plan {
    /// The file's text: the same plan gives the same bytes.
    ///
    /// # Errors
    /// If a value has no YAML form; none of ours is without.
    pub fn to_yaml(&self) -> Result<String, DocumentError> {
        let head = format!(
            "{HEAD}{}. Read it with `handover show`, carry it out with `handover apply`.\n\
             # What it says is checked again before it is applied; an edited plan is refused.\nversion: {}\n",
            self.intent.title(),
            env!("CARGO_PKG_VERSION")
        );
        let text = head + &serde_yaml::to_string(self)?;
        Ok(format!("{text}{SEAL}{}\n", digest(text.as_bytes())))
    }

    /// Reads a plan file.
    ///
    /// # Errors
    /// If it is no plan, was made by a newer version, was cut short or edited, or its steps contradict each other.
    pub fn from_yaml(text: &str) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
            version: Option<String>,
        }
        let sealed = sealed(text);
        match serde_yaml::from_str(text) {
            // Whatever its seal looks like there.
            Ok(Version { format, version }) if format > FORMAT => {
                let by = version.unwrap_or_else(|| "of a newer version".to_owned());
                return Err(DocumentError::Newer { found: format, by });
            }
            Ok(_) => {}
            Err(_) if text.lines().any(|line| line == "skeleton: true") => return Err(DocumentError::Skeleton),
            Err(_) if text.starts_with(HEAD) && sealed.is_none() => return Err(DocumentError::CutShort),
            Err(_) if text.starts_with(HEAD) => return Err(DocumentError::Edited),
            Err(error) => return Err(error.into()),
        }
        match sealed {
            None => return Err(DocumentError::CutShort),
            Some((sealed, seal)) if digest(sealed.as_bytes()) != seal => return Err(DocumentError::Edited),
            Some(_) => {}
        }
        let plan: Self = serde_yaml::from_str(text)?;
        plan.check()?;
        Ok(plan)
    }

    /// A step by its identity.
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == *id)
    }

    /// True if it goes on without something that is lost, or ends a split: no window, no approval, and one failure stops nothing else.
    pub fn is_urgent(&self) -> bool {
        !self.intent.lost.is_empty() || !self.failovers.is_empty() || !self.splits.is_empty()
    }

    /// How long it takes until it has changed everything that it changes: waiting for resolvers at its end is no work.
    pub fn acts_for(&self) -> Span {
        longest_chain(&self.steps, |step| matches!(step.work, Work::Act { .. }))
    }

    /// How long a window must stay open when it begins: until it has changed everything, and could have taken it back.
    pub fn needs(&self) -> Span {
        Span(self.acts_for().0 + undo(&self.steps).0)
    }

    /// The same for one stage; none where that changes nothing.
    pub fn stage_needs(&self, stage: usize) -> Option<Span> {
        let steps = || self.steps.iter().filter(|step| step.stage == stage);
        let acts = |step: &Step| matches!(step.work, Work::Act { .. });
        let undo = undo(steps().filter(|step| acts(step)));
        steps().any(acts).then(|| Span(longest_chain(steps(), acts).0 + undo.0))
    }

    fn check(&self) -> Result<(), DocumentError> {
        let inconsistent = |why: String| Err(DocumentError::Inconsistent(why));
        let mut seen = BTreeSet::new();
        for step in &self.steps {
            if let Some(missing) = step.needs.iter().find(|need| !seen.contains(*need)) {
                return inconsistent(format!("step {} needs {missing}, which does not come before it", step.id));
            }
            if step.stage >= self.stages.len() {
                return inconsistent(format!("step {} belongs to stage {}, which does not exist", step.id, step.stage));
            }
            if !seen.insert(&step.id) {
                return inconsistent(format!("there are two steps {}", step.id));
            }
        }
        Ok(())
    }
}

/// How long steps take to be taken back, one after another where they depend on each other: as long as they took.
fn undo<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Span {
    let undone = steps.into_iter().filter(|step| matches!(step.undo, Undo::Act { .. }));
    longest_chain(undone, |_| true)
}

/// What is sealed, and the seal.
fn sealed(text: &str) -> Option<(&str, &str)> {
    let last = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (sealed, line) = text.split_at(last);
    Some((sealed, line.trim_end().strip_prefix(SEAL)?))
}

/// SHA-256 of a file's bytes, in lower-case hexadecimal: the identity of a plan.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
