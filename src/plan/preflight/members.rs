//! What stands against a switchover at the two members.

use std::time::Duration;

use super::Found;
use crate::model::{Database, MemberFacts, Policy, ReplicationMode, Role, Span, TargetId};

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
        let limit = |name: &str| candidate.settings.get(name).and_then(|value| value.parse::<usize>().ok());
        let followers = database.members.len().saturating_sub(1);
        if limit("max_replication_slots").is_some_and(|limit| limit < candidate.slots.len() + followers) {
            self.fixed(format!("{new} has too few replication slots"), "raise max_replication_slots there");
        }
        if limit("max_wal_senders").is_some_and(|limit| limit < followers + 1) {
            self.fixed(format!("{new} has too few WAL senders"), "raise max_wal_senders there");
        }
        if database.mode == ReplicationMode::Synchronous && primary.synchronous_names.is_empty() {
            self.fixed(
                format!("{old} waits for no replica, though {} is synchronous", database.name),
                "run `handover plan` first: it sets synchronous_standby_names",
            );
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

    /// Another manager would start or promote a member while we stop it; the member's host may have a way to hold it back.
    pub(super) fn managers(
        &mut self,
        database: &Database,
        from: &TargetId,
        to: &TargetId,
        primary: &MemberFacts,
        candidate: &MemberFacts,
    ) {
        for (id, facts) in [(from, primary), (to, candidate)] {
            let Some(manager) = facts.settings.get("manager") else { continue };
            let host = database.members.get(id.name()).and_then(|member| member.target.host.as_ref());
            if host.is_some_and(|host| ["inhibit", "allow"].iter().all(|name| host.commands.contains_key(*name))) {
                continue;
            }
            self.fixed(
                format!("{} is managed by {manager}, which would undo the fence", id.name()),
                "switch over with it instead, or give the member's host the commands `inhibit` and `allow`, which pause it and let \
                 it go on (docs/providers.md)",
            );
        }
    }

    pub(super) fn lag(&mut self, database: &Database, policy: &Policy, to: &TargetId, primary: &MemberFacts) {
        let limit = database.max_lag.min(policy.gates.max_replication_lag);
        let replica = primary.replicas.iter().find(|replica| crate::model::text::same_member(&replica.name, to.name()));
        match replica {
            Some(replica) if !replica.streaming => {
                self.passing(format!("{} is catching up, not streaming", to.name()), "wait until it streams");
            }
            Some(replica) => {
                if let Some(lag) = replica.lag.filter(|lag| *lag > limit.0) {
                    self.passing(
                        format!(
                            "{} lags by {} ({} bytes); the limit is {limit}",
                            to.name(),
                            Span(lag),
                            replica.lag_bytes
                        ),
                        "wait until the load falls, or look at the replica",
                    );
                }
            }
            None => self.fixed(
                format!("the primary does not see {} among its replicas", to.name()),
                "its walreceiver must give the member's name as application_name in primary_conninfo",
            ),
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
