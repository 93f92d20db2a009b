//! What earlier observations have left: who answered when, and where each database server was then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::evidence::Before;
use crate::model::{FacilityName, Lineage, Position, Role, TargetId};

/// What is known from before, as ages: nothing here has a clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Who answered when.
    pub before: Before,
    /// Where each database server was when it last answered.
    pub members: BTreeMap<TargetId, Seen>,
    /// How long ago each target was last asked in vain.
    pub quiet: BTreeMap<TargetId, Duration>,
    /// How long ago everything that was owed in a facility that came back after a loss had been done.
    pub returned: BTreeMap<FacilityName, Duration>,
}

/// A database server as it was when it last answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How long ago that was.
    pub age: Duration,
    /// What it was.
    pub role: Role,
    /// Its history.
    pub lineage: Lineage,
    /// The end of its log.
    pub position: Position,
    /// The names that its commits waited for.
    pub synchronous_names: String,
}

impl Known {
    /// The same after some time in which nobody has answered who did not before.
    #[must_use]
    pub fn later(&self, time: Duration) -> Self {
        let mut known = self.clone();
        let ages = known.before.answered.values_mut().chain(known.before.silent.values_mut());
        let ages = ages.chain(known.quiet.values_mut()).chain(known.returned.values_mut());
        ages.chain(known.members.values_mut().map(|seen| &mut seen.age)).for_each(|age| *age += time);
        known
    }
}
