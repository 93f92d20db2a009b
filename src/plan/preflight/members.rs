//! What stands against a switchover at the two members.

use std::time::Duration;

use super::Found;
use crate::model::{Database, Live, MemberFacts, Policy, Role, Span, TargetId};
use crate::plan::{followers, live};

/// Archive segments that may wait: a clean stop waits for them all.
const MAX_ARCHIVE_BACKLOG: u64 = 3;

impl Found {
    pub(super) fn members(
        &mut self,
        database: &Database,
        from: &TargetId,
        to: &TargetId,
        primary: &MemberFacts,
        candidate: &MemberFacts,
    ) {
        let (old, new) = (from.name(), to.name());
        if primary.role != Role::Primary {
            self.fixed(format!("{old} is {}, not primary", primary.role), "make a new plan");
        }
        if candidate.role != Role::Replica {
            self.fixed(format!("{new} is {}, not a replica", candidate.role), "make a new plan");
        }
        if candidate.lineage != primary.lineage {
            self.fixed(
                format!("{new} has another history than {old}: {} and {}", candidate.lineage, primary.lineage),
                "rebuild the replica",
            );
        }
        if candidate.replay_paused {
            self.fixed(format!("replay is paused at {new}"), "run `SELECT pg_wal_replay_resume()` there");
        }
        for (name, facts) in [(old, primary), (new, candidate)] {
            if let Some(why) = &facts.capabilities.no_control {
                self.fixed(format!("{name} cannot be stopped and started from here: {why}"), "give it a `host`");
            }
            if facts.settings.get("default_transaction_read_only").is_some_and(|value| value == "on") {
                self.fixed(
                    format!("{name} has default_transaction_read_only = on: it would refuse writes as primary"),
                    "run `ALTER SYSTEM RESET default_transaction_read_only` and reload",
                );
            }
        }
        for (name, facts) in [(old, primary), (new, candidate)] {
            if let Some(missing) = facts.settings.get("rights").filter(|rights| *rights != "complete") {
                self.fixed(format!("our role at {name} lacks rights: {missing}"), "grant what docs/providers.md lists");
            }
        }
        if facts_number(primary, "prepared_transactions") > 0 {
            self.passing(
                format!("{old} has prepared transactions: they would keep their locks on the new primary"),
                "commit or roll them back",
            );
        }
        for slot in primary.slots.iter().filter(|slot| slot.logical) {
            self.fixed(
                format!("logical replication slot {} of {old} would be lost", slot.name),
                "its reader must be moved by hand: drop the slot before, create it on the new primary after",
            );
        }
        for replica in &primary.replicas {
            if !database.members.keys().any(|name| crate::model::text::same_member(&replica.name, name)) {
                self.fixed(
                    format!("{} streams from {old} and is no member of {}", replica.name, database.name),
                    "list it among the members, give its walreceiver the member's name as application_name, or end it",
                );
            }
        }
        if primary.archive_backlog > MAX_ARCHIVE_BACKLOG {
            self.passing(
                format!(
                    "{} log segments of {old} wait to be archived: a clean stop waits for them",
                    primary.archive_backlog
                ),
                "look at its archive_command",
            );
        }
    }

    /// Whether the candidate is close behind, as its sender sees it: the old primary, or the replica that it still receives from.
    pub(super) fn lag(
        &mut self,
        database: &Database,
        policy: &Policy,
        to: &TargetId,
        primary: &MemberFacts,
        candidate: &MemberFacts,
        live: &Live,
    ) {
        let limit = database.max_lag.min(policy.gates.max_replication_lag);
        let sender = followers::upstream(database, candidate).and_then(|peer| live::member(live, &peer.member));
        let seen = followers::replica(primary, to.name());
        let Some(replica) = seen.or_else(|| followers::replica(sender?, to.name())) else {
            return self.fixed(
                format!("the primary does not see {} among its replicas", to.name()),
                "its walreceiver must give the member's name as application_name in primary_conninfo",
            );
        };
        if !replica.streaming {
            return self.passing(format!("{} is catching up, not streaming", to.name()), "wait until it streams");
        }
        if let Some(lag) = replica.lag.filter(|lag| *lag > limit.0) {
            self.passing(
                format!("{} lags by {} ({} bytes); the limit is {limit}", to.name(), Span(lag), replica.lag_bytes),
                "wait until the load falls, or look at the replica",
            );
        }
        // A paused replay is named by itself.
        if let Some(why) = candidate.held_back().filter(|_| !candidate.replay_paused) {
            self.passing(
                format!("{} would take over late: {why}", to.name()),
                "look at its replay; a replica that is meant to be late gets priority 0",
            );
        }
    }

    pub(super) fn transactions(
        &mut self,
        policy: &Policy,
        from: &TargetId,
        to: &TargetId,
        primary: &MemberFacts,
        candidate: &MemberFacts,
    ) {
        for (id, facts) in [(from, primary), (to, candidate)] {
            if let Some(longest) = facts.long_transactions.iter().max_by_key(|transaction| transaction.age)
                && longest.age > policy.max_transaction_age.0
            {
                let age = Span(Duration::from_secs(longest.age.as_secs()));
                self.passing(
                    format!(
                        "a transaction of `{}` (pid {}) at {} is open for {age}; the limit is {}",
                        longest.application,
                        longest.pid,
                        id.name(),
                        policy.max_transaction_age
                    ),
                    "wait for it, or end it with `SELECT pg_terminate_backend(pid)`",
                );
            }
        }
    }
}

fn facts_number(facts: &MemberFacts, name: &str) -> u64 {
    facts.settings.get(name).and_then(|value| value.parse().ok()).unwrap_or_default()
}
