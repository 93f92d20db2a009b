//! Can this database be switched over, now? Pure: asked when planning and again by the gate before anything is touched.

use std::time::Duration;

use super::live;
use crate::model::{
    Database, Live, MemberFacts, Observed, Policy, PoolMode, ReplicationMode, Role, Route, Span, TargetId,
};
use crate::topology::Topology;

/// What stands against a switchover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// One sentence that names the things concerned.
    pub what: String,
    /// What to do about it.
    pub advice: String,
    /// True where waiting may be enough: a lag, a long transaction.
    pub may_pass: bool,
}

/// Archive segments that may wait: a clean stop waits for them all.
const MAX_ARCHIVE_BACKLOG: u64 = 3;

/// Everything that stands against moving the primary of `database` from one member to another.
pub fn objections(
    topology: &Topology,
    database: &Database,
    from: &TargetId,
    to: &TargetId,
    live: &Live,
) -> Vec<Objection> {
    let mut found = Found::default();
    let (primary, candidate) = match (live::member(live, from), live::member(live, to)) {
        (Some(primary), Some(candidate)) => (primary, candidate),
        _ => {
            for id in [from, to] {
                if let Err(why) = live::facts(live, id) {
                    found.fixed(format!("{} does not answer: {why}", id.name()), "repair it");
                }
            }
            return found.0;
        }
    };
    found.members(database, from, to, primary, candidate);
    found.lag(database, &topology.policy, to, primary);
    found.transactions(&topology.policy, from, to, primary, candidate);
    found.poolers(topology, database, from, live);
    let expected = expected_stall(database, live);
    if expected.0 > topology.policy.max_write_stall.0 / 2 {
        found.fixed(
            format!(
                "writers of {} would wait about {expected}; half of `policy.max_write_stall` ({}) is kept for an undo",
                database.name, topology.policy.max_write_stall
            ),
            "run handover nearer to the databases, or allow a longer stall",
        );
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Objection>);

impl Found {
    fn fixed(&mut self, what: String, advice: &str) {
        self.0.push(Objection { what, advice: advice.to_owned(), may_pass: false });
    }

    fn passing(&mut self, what: String, advice: &str) {
        self.0.push(Objection { what, advice: advice.to_owned(), may_pass: true });
    }

    fn members(
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

    fn lag(&mut self, database: &Database, policy: &Policy, to: &TargetId, primary: &MemberFacts) {
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

    fn transactions(
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

    fn poolers(&mut self, topology: &Topology, database: &Database, from: &TargetId, live: &Live) {
        let Route::PoolerDatabase(entry) = &database.route else {
            return self.fixed(
                format!("{} is routed by a proxy backend, which cannot hold its clients back", database.name),
                "put poolers in front of it: `route: {pooler_database: …}`",
            );
        };
        if database.poolers.is_empty() {
            self.fixed(format!("{} has no pooler that could hold its clients back", database.name), "list its poolers");
        }
        let primary = database.members.get(from.name()).map(|member| member.target.address.as_str());
        for name in &database.poolers {
            let Some(pooler) = topology.poolers.get(name) else { continue };
            let facts = match live::facts(live, &pooler.target.id) {
                Ok(facts) => facts,
                Err(why) => {
                    self.fixed(format!("{name} does not answer: {why}"), "repair it, or take it out of the topology");
                    continue;
                }
            };
            let Some(facts) = facts.pooler() else { continue };
            if !facts.writable {
                self.fixed(format!("the console of {name} does not obey us"), "add its `admin` user to admin_users");
            }
            if facts.query_wait_timeout > Duration::ZERO && facts.query_wait_timeout < topology.policy.max_write_stall.0
            {
                self.fixed(
                    format!(
                        "{name} ends clients that wait for {}, before the longest stall ({})",
                        Span(facts.query_wait_timeout),
                        topology.policy.max_write_stall
                    ),
                    "raise its query_wait_timeout",
                );
            }
            match facts.databases.get(entry) {
                Some(Some(pool)) => {
                    if pool.mode == PoolMode::Session {
                        self.fixed(
                            format!("{name} lends {entry} for whole sessions: pausing would end them"),
                            "set pool_mode = transaction",
                        );
                    }
                    if pool.paused {
                        self.fixed(format!("{entry} is paused at {name} already"), "find out by whom; `RESUME` it");
                    }
                    match &pool.written_route {
                        None => self.fixed(
                            format!("the configuration of {name} cannot be read: its route could not be changed"),
                            "give it a `host` and the setting `databases`, and see that the host can be reached",
                        ),
                        Some(written) if *written != pool.route => self.fixed(
                            format!("{name} has {written} written as route of {entry}, and {} loaded", pool.route),
                            "run `handover plan` first: it repairs the route",
                        ),
                        Some(_) => {}
                    }
                    if Some(pool.route.as_str()) != primary {
                        self.fixed(
                            format!("{name} leads {entry} to {}, not to the primary", pool.route),
                            "run `handover plan` first: it repairs the route",
                        );
                    }
                }
                _ => self.fixed(format!("{name} has no database {entry}"), "add it to its [databases] section"),
            }
        }
    }
}

fn facts_number(facts: &MemberFacts, name: &str) -> u64 {
    facts.settings.get(name).and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// How long writers should wait: the measured phases beside the servers, and the round trips between them. Observing a member takes
/// about as many (connect, log in, ask) as the critical section does between its phases.
pub fn expected_stall(database: &Database, live: &Live) -> Span {
    const PHASES: Duration = Duration::from_millis(120);
    let took = |id: &TargetId| match live.get(id) {
        Some(Observed::Known { took, .. }) => Some(*took),
        _ => None,
    };
    let slowest = database.members.values().filter_map(|member| took(&member.target.id)).max().unwrap_or_default();
    let stall = u64::try_from((PHASES + slowest).as_millis()).unwrap_or(u64::MAX);
    Span(Duration::from_millis(stall.next_multiple_of(50)))
}
