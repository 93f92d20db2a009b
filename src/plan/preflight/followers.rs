//! What stands against a switchover at the members that are to follow, and at the candidate as their sender.

use std::collections::BTreeSet;

use super::{Found, Objection};
use crate::model::text::{list, same_member};
use crate::model::{Database, Live, MemberFacts, ReplicationMode, TargetId};
use crate::plan::followers::{Followers, Way};
use crate::plan::{live, synchronous};

/// A replica must have at least its primary's values, or its replay stops (PostgreSQL manual, 27.4.3).
const AT_LEAST_THE_PRIMARYS: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

fn number(facts: &MemberFacts, name: &str) -> Option<usize> {
    facts.settings.get(name)?.parse().ok()
}

impl Found {
    pub(super) fn followers(&mut self, database: &Database, from: &TargetId, to: &TargetId, live: &Live) {
        let (Some(primary), Some(candidate)) = (live::member(live, from), live::member(live, to)) else { return };
        let followers = Followers::of(database, from, to, live);
        for (id, way) in &followers.ways {
            let Some(facts) = live::member(live, id) else { continue };
            if facts.lineage.system != primary.lineage.system {
                self.fixed(
                    format!(
                        "{} is of another cluster than {}: {} and {}",
                        id.name(),
                        from.name(),
                        facts.lineage,
                        primary.lineage
                    ),
                    "correct its address in the topology, or rebuild it as a replica",
                );
            } else if !matches!(way, Way::Left(_)) {
                self.can_follow(id.name(), facts, to.name(), candidate);
            }
            let moved = matches!(way, Way::Led | Way::Later(_));
            if let Some(missing) = facts.settings.get("rights").filter(|rights| moved && *rights != "complete") {
                self.fixed(
                    format!("our role at {} lacks rights: {missing}", id.name()),
                    "grant what docs/providers.md lists",
                );
            }
        }
        self.can_follow(from.name(), primary, to.name(), candidate);
        self.room(from, to, candidate, &followers);
        self.commits(database, from, primary);
    }

    /// Whether a member can follow `new` on its new timeline.
    fn can_follow(&mut self, name: &str, facts: &MemberFacts, new: &str, candidate: &MemberFacts) {
        if let Some(target) = facts.settings.get("recovery_target_timeline").filter(|target| *target != "latest") {
            self.fixed(
                format!(
                    "{name} has recovery_target_timeline = {target}: it would not follow {new} on its new timeline"
                ),
                "set it to latest there, and restart it",
            );
        }
        for setting in AT_LEAST_THE_PRIMARYS {
            if let (Some(here), Some(there)) = (number(facts, setting), number(candidate, setting))
                && here < there
            {
                self.fixed(
                    format!("{name} has {setting} = {here}, {new} {there}: as its replica {name} would stop to replay"),
                    "raise it there to at least that, and restart it",
                );
            }
        }
    }

    /// Whether the candidate can serve all that will receive from it.
    fn room(&mut self, from: &TargetId, to: &TargetId, candidate: &MemberFacts, followers: &Followers) {
        let direct: BTreeSet<&str> = followers.direct().chain([from.name()]).collect();
        let has_slot = |name: &&&str| candidate.slots.iter().any(|slot| same_member(&slot.name, name));
        let missing = direct.iter().filter(|name| !has_slot(name)).count();
        let new = to.name();
        if let Some(limit) =
            number(candidate, "max_replication_slots").filter(|limit| *limit < candidate.slots.len() + missing)
        {
            self.fixed(
                format!(
                    "{new} has {} of {limit} replication slots in use and needs {missing} more, for its followers",
                    candidate.slots.len()
                ),
                "raise max_replication_slots there, and restart it",
            );
        }
        if let Some(limit) = number(candidate, "max_wal_senders").filter(|limit| *limit < direct.len() + 1) {
            self.fixed(
                format!("{new} has max_wal_senders = {limit}, and {} will follow it", list(&direct)),
                "raise max_wal_senders there to one more than they are, and restart it",
            );
        }
    }

    /// Whether commits wait for more replicas than there are: then nothing can be written before anything was touched.
    fn commits(&mut self, database: &Database, from: &TargetId, primary: &MemberFacts) {
        let (old, names) = (from.name(), primary.synchronous_names.as_str());
        if database.mode == ReplicationMode::Synchronous && names.is_empty() {
            self.fixed(
                format!("{old} waits for no replica, though {} is synchronous", database.name),
                "run `handover plan` first: it sets synchronous_standby_names",
            );
        }
        let streaming: BTreeSet<String> =
            primary.replicas.iter().filter(|replica| replica.streaming).map(|replica| replica.name.clone()).collect();
        let (demand, there) = (synchronous::demand(names), synchronous::counting(names, &streaming));
        if there < demand {
            self.passing(
                format!("every commit at {old} waits for {demand} of {names}, and {there} of them stream"),
                "bring the others back, or lower the number",
            );
        }
    }
}

/// What stands against leading these members over, as the plan wants: they were able to when it was made.
pub fn led(
    database: &Database,
    from: &TargetId,
    to: &TargetId,
    led: &BTreeSet<TargetId>,
    live: &Live,
) -> Vec<Objection> {
    let followers = Followers::of(database, from, to, live);
    let why = |id: &TargetId| match followers.ways.get(id) {
        Some(Way::Led | Way::There(None)) => None,
        Some(Way::Later(why) | Way::Left(why) | Way::There(Some(why))) => Some(why.clone()),
        Some(Way::Keeps(peer)) => Some(format!("it receives from {} now", peer.member.name())),
        Some(Way::Returns) => Some("it is stopped".to_owned()),
        None => Some("the topology no longer has it".to_owned()),
    };
    let objection = |id: &TargetId| {
        let what = format!("{} cannot be led to {}: {}", id.name(), to.name(), why(id)?);
        let advice = format!("repair it, or make a new plan: without it, {} follows later", id.name());
        Some(Objection { what, advice, may_pass: true })
    };
    led.iter().filter_map(objection).collect()
}

/// Whether old primary or candidate could be rewound; a clean switchover never needs it, so that this is a note.
pub fn rewind_note(from: &TargetId, to: &TargetId, live: &Live) -> Option<String> {
    let cannot = |id: &&TargetId| live::member(live, id).is_some_and(|facts| !facts.capabilities.rewind);
    let names: Vec<&str> = [from, to].into_iter().filter(cannot).map(TargetId::name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "no pg_rewind for {}: neither wal_log_hints nor data checksums are on; this switchover needs none, but after an unclean \
             end as primary only a new copy would help: set wal_log_hints = on",
            list(&names)
        )
    })
}
