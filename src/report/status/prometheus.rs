//! The status in Prometheus's text format, for the textfile collector of node_exporter.
//!
//! Samples carry no time of their own, which the collector refuses; `handover_observation_timestamp_seconds` says how old they are.

use std::fmt::Display;

use super::machine::StatusData;
use super::view::ExitLevel;
use crate::journal::HoldKind;
use crate::model::Role;
use crate::plan::split::SplitKind;

/// A family of samples: Prometheus wants each in one piece, after its help and type.
struct Family {
    name: &'static str,
    text: String,
    topology: String,
}

impl Family {
    fn new(data: &StatusData, name: &'static str, help: &str) -> Self {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        let text = format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        Self { name, text, topology: data.topology.name.clone() }
    }

    /// Adds a sample; every one tells the topology.
    fn add(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let all = std::iter::once(("topology", self.topology.as_str())).chain(labels.iter().copied());
        let labels: Vec<String> = all.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        self.text += &format!("{}{{{}}} {value}\n", self.name, labels.join(","));
    }
}

/// The status as metrics.
pub fn prometheus(data: &StatusData) -> String {
    let families =
        [whole(data), facilities(data), targets(data), services(data), databases(data), poolers(data), rest(data)];
    families.into_iter().flatten().map(|family| family.text).collect()
}

fn one(data: &StatusData, name: &'static str, help: &str, value: impl Display) -> Family {
    let mut family = Family::new(data, name, help);
    family.add(&[], value);
    family
}

fn whole(data: &StatusData) -> Vec<Family> {
    let at = data.observed_at.as_millisecond();
    vec![
        one(
            data,
            "handover_status_code",
            "Exit code of `handover status`: 0 healthy, 10 drift, 11 degraded, 12 split.",
            data.exit_code,
        ),
        one(
            data,
            "handover_observation_timestamp_seconds",
            "When all this was observed, in Unix time.",
            format_args!("{}.{:03}", at.div_euclid(1_000), at.rem_euclid(1_000)),
        ),
        one(
            data,
            "handover_observation_duration_seconds",
            "How long observing all targets took.",
            data.observation_seconds,
        ),
    ]
}

fn facilities(data: &StatusData) -> Vec<Family> {
    let mut serving = Family::new(data, "handover_facility_serving", "1 if the facility serves users.");
    let mut drained = Family::new(data, "handover_facility_drained", "1 if the facility should be drained.");
    for facility in &data.facilities {
        let labels = [("facility", facility.name.as_str())];
        serving.add(&labels, u8::from(facility.serving));
        drained.add(&labels, u8::from(facility.drained));
    }
    vec![serving, drained]
}

fn targets(data: &StatusData) -> Vec<Family> {
    let mut up = Family::new(data, "handover_target_up", "1 if the target answered.");
    let mut answer = Family::new(data, "handover_target_answer_seconds", "How long the target took to answer.");
    for target in &data.targets {
        let labels =
            [("target", target.target.as_str()), ("kind", target.kind), ("facility", target.facility.as_str())];
        up.add(&labels, u8::from(target.reachable));
        if let Some(seconds) = target.answer_seconds {
            answer.add(&labels, seconds);
        }
    }
    vec![up, answer]
}

fn services(data: &StatusData) -> Vec<Family> {
    let mut share = Family::new(
        data,
        "handover_service_share_ratio",
        "Part of the service's requests that the facility serves, between 0 and 1; by weights where there are few requests.",
    );
    let mut desired = Family::new(data, "handover_service_desired_share_ratio", "The part that it should serve.");
    let mut rate = Family::new(
        data,
        "handover_service_requests_per_second",
        "Requests of the last second, as the proxies count them.",
    );
    let mut servers = Family::new(data, "handover_service_servers", "Application servers that are listed.");
    let mut healthy = Family::new(data, "handover_service_healthy_servers", "Application servers that are healthy.");
    for service in &data.services {
        for at in &service.facilities {
            let labels = [("service", service.name.as_str()), ("facility", at.facility.as_str())];
            if let Some(percent) = at.share_percent {
                share.add(&labels, ratio(percent));
            }
            if let Some(percent) = at.desired_share_percent {
                desired.add(&labels, ratio(percent));
            }
            if let Some(requests) = at.requests_per_second {
                rate.add(&labels, requests);
            }
            servers.add(&labels, at.servers);
            healthy.add(&labels, at.healthy);
        }
    }
    vec![share, desired, rate, servers, healthy]
}

/// Percents come in hundredths.
fn ratio(percent: f64) -> f64 {
    (percent * 100.0).round() / 10_000.0
}

fn databases(data: &StatusData) -> Vec<Family> {
    let mut primaries =
        Family::new(data, "handover_database_primaries", "Members that say they are primary: anything but 1 is wrong.");
    let mut bound =
        Family::new(data, "handover_database_max_replication_lag_seconds", "The largest acceptable replication lag.");
    let mut primary = Family::new(data, "handover_database_primary", "1 if the member is primary.");
    let mut streaming =
        Family::new(data, "handover_database_replica_streaming", "1 if the replica receives the stream.");
    let mut synchronous =
        Family::new(data, "handover_database_replica_synchronous", "1 if commits wait for the replica.");
    let mut lag = Family::new(data, "handover_database_replication_lag_seconds", "Replication lag of the replica.");
    let mut bytes =
        Family::new(data, "handover_database_replication_lag_bytes", "Bytes that the replica has not replayed yet.");
    for database in &data.databases {
        primaries.add(&[("database", &database.name)], database.primaries);
        bound.add(&[("database", &database.name)], database.max_lag_seconds);
        for member in &database.members {
            let labels = [
                ("database", database.name.as_str()),
                ("member", &member.name),
                ("facility", member.facility.as_str()),
            ];
            if let Some(role) = member.role {
                primary.add(&labels, u8::from(role == Role::Primary));
            }
            let Some(replica) = &member.replica else { continue };
            streaming.add(&labels, u8::from(replica.streaming));
            synchronous.add(&labels, u8::from(replica.synchronous));
            if let Some(seconds) = replica.lag_seconds {
                lag.add(&labels, seconds);
            }
            if let Some(behind) = replica.lag_bytes {
                bytes.add(&labels, behind);
            }
        }
    }
    vec![primaries, bound, primary, streaming, synchronous, lag, bytes]
}

fn poolers(data: &StatusData) -> Vec<Family> {
    let mut paused = Family::new(data, "handover_pooler_paused", "1 if the pooler holds the database's clients back.");
    let mut active = Family::new(data, "handover_pooler_active_clients", "Clients with a server connection.");
    let mut waiting = Family::new(data, "handover_pooler_waiting_clients", "Clients that wait for a connection.");
    for pooler in &data.poolers {
        for pool in &pooler.databases {
            let labels =
                [("pooler", pooler.name.as_str()), ("database", &pool.name), ("facility", pooler.facility.as_str())];
            paused.add(&labels, u8::from(pool.paused));
            active.add(&labels, pool.clients_active);
            waiting.add(&labels, pool.clients_waiting);
        }
    }
    vec![paused, active, waiting]
}

fn rest(data: &StatusData) -> Vec<Family> {
    let mut running = Family::new(data, "handover_job_running", "1 if the job runs.");
    for job in &data.jobs {
        if let Some(runs) = job.running {
            running.add(&[("job", &job.name), ("facility", job.facility.as_str())], u8::from(runs));
        }
    }
    let mut since =
        Family::new(data, "handover_hold_start_timestamp_seconds", "Since when the hold is in force, in Unix time.");
    let mut overdue =
        Family::new(data, "handover_hold_overdue", "1 if somebody should have looked at the hold by now.");
    for held in &data.holds {
        let (kind, of) = match &held.hold.kind {
            HoldKind::Drained { facility } => ("drained", facility.as_str()),
            HoldKind::Primary { database, .. } => ("primary", database.as_str()),
            HoldKind::Placed { database, .. } => ("placed", database.as_str()),
            HoldKind::Share { service, .. } => ("share", service.as_str()),
            HoldKind::Ttl { service, .. } => ("ttl", service.as_str()),
            HoldKind::Lost { what, .. } => ("lost", what.name()),
            HoldKind::Settling { facility } => ("settling", facility.as_str()),
            HoldKind::OldTtl { service, .. } => ("old_ttl", service.as_str()),
            HoldKind::PoweredOff { facility, .. } => ("powered_off", facility.as_str()),
        };
        since.add(&[("hold", kind), ("of", of)], held.hold.since.as_second());
        overdue.add(&[("hold", kind), ("of", of)], u8::from(held.overdue));
    }
    let mut problems = Family::new(data, "handover_problems", "Things that are wrong, by how bad they are.");
    for (word, level) in [("degraded", ExitLevel::Degraded), ("split", ExitLevel::Split)] {
        let number = data.problems.iter().filter(|problem| problem.level == level).count();
        problems.add(&[("level", word)], number);
    }
    let mut splits =
        Family::new(data, "handover_splits", "Things that are split, by what it is: anything but 0 is an alarm.");
    for kind in SplitKind::ALL {
        splits.add(&[("kind", kind.word())], data.splits.iter().filter(|split| split.kind == kind).count());
    }
    let drift = one(data, "handover_drift", "Differences between what is and what should be.", data.drift.len());
    vec![running, since, overdue, problems, splits, drift]
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}
