//! Whom commits should wait for, by what is declared.

use std::collections::BTreeMap;

use super::Diff;
use crate::model::{Database, MemberFacts, Peer, ReplicationMode, TargetId, text::list};
use crate::plan::{followers, synchronous};

impl Diff<'_> {
    /// The names that commits should wait for: those that are set, unless they ask for another number than is declared, or for nobody
    /// where somebody should confirm.
    pub(super) fn wanted_names(
        &mut self,
        database: &Database,
        facts: &MemberFacts,
        others: &[&str],
        coming: &BTreeMap<TargetId, Peer>,
    ) -> String {
        let from = &facts.synchronous_names;
        if database.mode != ReplicationMode::Synchronous || others.is_empty() {
            return from.clone();
        }
        let streams = |name: &&&str| followers::replica(facts, name).is_some_and(|replica| replica.streaming);
        let there: Vec<&str> = others.iter().filter(streams).copied().collect();
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
            return if from.is_empty() { synchronous::demanding(from, 1, others) } else { from.clone() };
        };
        // Whoever is led back by this plan confirms before the names are set.
        let returns = |name: &&str| there.contains(name) || coming.keys().any(|id| id.name() == *name);
        let able: Vec<&str> = others.iter().copied().filter(returns).collect();
        match wanted.min(able.len()) {
            _ if synchronous::demand(from) == wanted => from.clone(),
            reachable if reachable < wanted && reachable <= synchronous::demand(from) => {
                self.changes.silent.push(format!(
                    "commits of {} should be confirmed by {wanted} replicas, and {reachable} can: bring the others back",
                    database.name
                ));
                from.clone()
            }
            reachable => synchronous::demanding(from, reachable, &able),
        }
    }
}
