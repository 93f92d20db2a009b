//! Whom commits should wait for, by what is declared.

use std::collections::BTreeMap;

use super::Diff;
use crate::model::{Database, MemberFacts, Peer, ReplicationMode, TargetId, text::list};
use crate::plan::{followers, synchronous};

impl Diff<'_> {
    /// The names that commits should wait for: those that are set, unless they ask for another number than is declared, or for nobody
    /// where somebody should confirm. They ask only for those that can: a commit that waits for one that is dead never returns.
    pub(super) fn wanted_names(
        &mut self,
        database: &Database,
        primary: &Peer,
        facts: &MemberFacts,
        others: &[&str],
        coming: &BTreeMap<TargetId, Peer>,
    ) -> String {
        let from = &facts.synchronous_names;
        if database.mode != ReplicationMode::Synchronous || others.is_empty() {
            return from.clone();
        }
        let there: Vec<&str> =
            others.iter().filter(|name| followers::confirming(facts, name).is_some()).copied().collect();
        // Whoever is led back by this plan confirms before the names are set; whoever is led elsewhere confirms there no longer.
        let able = |name: &&str| match coming.iter().find(|(id, _)| id.name() == *name) {
            Some((_, upstream)) if upstream.member == primary.member => Some((*name).to_owned()),
            Some(_) => None,
            // Under the name that it gives: commits wait for that one.
            None => Some(followers::confirming(facts, name)?.name.clone()),
        };
        let able: Vec<String> = others.iter().filter_map(able).collect();
        let Some(wanted) = database.confirmed_by else {
            if let Some(only) = synchronous::only(from).filter(|_| there.len() > 1) {
                self.changes.silent.push(format!(
                    "commits of {} wait for {only} alone, though {} replicate: if a run was cut short, set \
                     synchronous_standby_names as it was (the run's plan has it), and declare `replication: {{confirmed_by: …}}`, so \
                     that the next plan does",
                    database.name,
                    list(&there)
                ));
            }
            if !from.is_empty() {
                return from.clone();
            }
            if able.is_empty() {
                self.changes.silent.push(format!(
                    "commits of {} wait for nobody, and it is left so: none of {} streams, and every commit would hang; bring one back, \
                     then `handover plan` makes commits wait for it",
                    database.name,
                    list(others)
                ));
                return from.clone();
            }
            return synchronous::demanding(from, 1, &able);
        };
        let reachable = wanted.min(able.len());
        if reachable < wanted && reachable <= synchronous::demand(from) && synchronous::demand(from) != wanted {
            self.changes.silent.push(format!(
                "commits of {} should be confirmed by {wanted} replicas, and {reachable} can: bring the others back",
                database.name
            ));
        }
        synchronous::as_declared(from, wanted, &able)
    }
}
