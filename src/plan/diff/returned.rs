//! Members that cannot simply be told to follow.

use std::collections::{BTreeMap, BTreeSet};

use super::Diff;
use crate::model::{Database, MemberFacts, Peer, TargetId};
use crate::plan::lost::returned::{self, Need, Rebuild};
use crate::plan::{live, split};

impl Diff<'_> {
    /// Members that become replicas anew, and those that are left alone because nobody here can tell what to do with them.
    pub(super) fn returned(
        &mut self,
        database: &Database,
        primary: &Peer,
        facts: &MemberFacts,
    ) -> (BTreeMap<TargetId, Rebuild>, BTreeSet<TargetId>) {
        let (mut rebuild, mut left) = (BTreeMap::new(), BTreeSet::new());
        for member in database.members.values() {
            let id = &member.target.id;
            let off = self.desired.powered_off.contains_key(&member.target.facility);
            let Some(found) = live::member(self.live, id).filter(|_| !off && *id != primary.member) else { continue };
            let need = match self.desired.survivors.contains_key(&database.name) {
                true => split::need(database, &primary.member, facts, id, found, self.live),
                false => returned::need(primary.member.name(), facts, found),
            };
            let why = match need {
                Need::Nothing => continue,
                // Redundancy can wait, users cannot.
                Need::Rebuild(it) if self.desired.urgent() => {
                    format!("{}; `handover plan` rebuilds it afterwards", it.why)
                }
                Need::Rebuild(it) => {
                    rebuild.insert(id.clone(), it);
                    continue;
                }
                Need::Left(why) => why,
            };
            left.insert(id.clone());
            self.changes.silent.push(format!("{} is left alone: {why}", id.name()));
        }
        (rebuild, left)
    }
}
