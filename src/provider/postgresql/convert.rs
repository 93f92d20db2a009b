//! Between PostgreSQL's words and the model's: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::model::{
    ClientFacts, Lineage, MemberCapabilities, MemberFacts, Peer, Position, ReceiverFacts, ReplicaFacts, Role,
    SlotFacts, SwitchoverStyle, TransactionFacts,
};
use crate::provider::pgwire::split_address;

/// Asks for [`Reported`].
pub(super) const FACTS_SQL: &str = include_str!("facts.sql");

/// What a member is and how far it has come: the question that is asked while clients wait.
pub(super) const PROGRESS_SQL: &str = include_str!("progress.sql");

/// Asks for the history file of the timeline that a member is on; null where there is none. Beside the facts, because the right for it may
/// be missing.
pub(super) const HISTORY_SQL: &str = "\
    SELECT pg_read_file('pg_wal/' || lpad(upper(to_hex(timeline)), 8, '0') || '.history', 0, 65536, true) \
      FROM (SELECT CASE WHEN pg_is_in_recovery() \
              THEN coalesce((SELECT nullif(received_tli, 0) FROM pg_stat_wal_receiver), \
                            (SELECT timeline_id FROM pg_control_checkpoint())) \
              ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline) AS here";

/// Reads a timeline history file (PostgreSQL manual, 26.3.5): in each line a timeline, where it ended, and why; anything else is a comment.
pub(super) fn history(text: &str) -> Vec<(u32, Position)> {
    let ended = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(ended).collect()
}

/// `wal_retrieve_retry_interval` during a switchover: with the default of 5 s a promotion right after the end of the old primary
/// sometimes waits those 5 s.
pub(super) const QUICK_RETRY: &str = "20ms";

/// The log that slots may keep while members are away on purpose: hours of most databases' writes, and a part of most disks. Not a
/// round number, so that it can be told from one that somebody else has set.
pub(super) const SLOT_BOUND: &str = "10239MB";

/// Among the settings: whether ALTER SYSTEM has set [`QUICK_RETRY`].
const TEMPORARY: &str = "temporary_retry_interval";

/// What `facts.sql` answers.
#[derive(Debug, Deserialize)]
pub(super) struct Reported {
    version: String,
    replica: bool,
    system: String,
    timeline: u32,
    position: Position,
    replayed: Position,
    replay_paused: bool,
    sender: Option<Sender>,
    receiver: Option<ReportedReceiver>,
    set_to_follow: Option<SetToFollow>,
    replicas: Vec<ReportedReplica>,
    slots: Vec<ReportedSlot>,
    clients: Vec<ReportedClient>,
    long_transactions: Vec<ReportedTransaction>,
    settings: BTreeMap<String, String>,
    quick_retry: bool,
    follows_set: bool,
    synchronous_names: String,
    manager: Option<String>,
    prepared_transactions: u64,
    archive_backlog: u64,
    missing: Vec<String>,
    missing_to_release: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Sender {
    host: Option<String>,
    port: Option<u16>,
}

#[derive(Debug, Deserialize)]
struct ReportedReceiver {
    host: Option<String>,
    port: Option<u16>,
    last_message_ms: Option<f64>,
    told: Option<Position>,
    told_age_ms: Option<f64>,
}

impl ReportedReceiver {
    /// Nothing where it has not yet heard anything, or may not be looked at.
    fn facts(self) -> Option<ReceiverFacts> {
        Some(ReceiverFacts {
            from: address(&self.host?, self.port?),
            last_message: millis(self.last_message_ms?),
            told: self.told?,
            told_age: millis(self.told_age_ms?),
        })
    }
}

/// Host and port of a connection text, each a list where there are several.
#[derive(Debug, Deserialize)]
struct SetToFollow {
    hosts: String,
    ports: Option<String>,
}

impl SetToFollow {
    /// As libpq pairs them (PostgreSQL manual, "Specifying Multiple Hosts"): one port is for all hosts.
    fn addresses(&self) -> Option<String> {
        let ports: Vec<&str> = self.ports.as_deref().unwrap_or_default().split(',').collect();
        let hosts = self.hosts.split(',').enumerate().filter(|(_, host)| !host.is_empty() && !host.starts_with('/'));
        let addresses = hosts.map(|(at, host)| {
            let port = ports.get(at).or(ports.last().filter(|_| ports.len() == 1)).filter(|port| !port.is_empty());
            address(host, port.and_then(|port| port.trim().parse().ok()).unwrap_or(5432))
        });
        let addresses = addresses.collect::<Vec<_>>().join(",");
        (!addresses.is_empty()).then_some(addresses)
    }
}

#[derive(Debug, Deserialize)]
struct ReportedReplica {
    name: String,
    address: Option<String>,
    streaming: bool,
    synchronous: bool,
    lag_bytes: u64,
    lag_ms: Option<f64>,
    silence_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct ReportedSlot {
    name: String,
    logical: bool,
    active: bool,
    retained: u64,
}

#[derive(Debug, Deserialize)]
struct ReportedClient {
    application: String,
    user: String,
    address: Option<String>,
    count: u64,
    ports: Vec<u16>,
}

#[derive(Debug, Deserialize)]
struct ReportedTransaction {
    pid: i32,
    application: String,
    state: String,
    age_ms: f64,
}

/// Reads the answer to [`FACTS_SQL`] or [`PROGRESS_SQL`].
///
/// # Errors
/// What in it was not understood.
pub(super) fn reported(json: &str) -> Result<Reported, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

fn millis(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0) / 1000.0).unwrap_or(Duration::MAX)
}

fn rights(missing: &[String]) -> String {
    match missing {
        [] => "complete".to_owned(),
        missing => format!("missing: {}", missing.join(", ")),
    }
}

/// The model's facts; `no_control` is why the member cannot be stopped and started from here.
pub(super) fn member(reported: Reported, no_control: Option<String>) -> MemberFacts {
    let mut settings = reported.settings;
    let rewind = ["wal_log_hints", "data_checksums"].iter().any(|name| settings.get(*name).is_some_and(|v| v == "on"));
    settings.insert("primary_conninfo".to_owned(), if reported.follows_set { "set".to_owned() } else { String::new() });
    settings.insert(TEMPORARY.to_owned(), if reported.quick_retry { "set".to_owned() } else { String::new() });
    settings.insert("prepared_transactions".to_owned(), reported.prepared_transactions.to_string());
    settings.extend(reported.manager.map(|manager| ("manager".to_owned(), manager)));
    settings.insert("rights".to_owned(), rights(&reported.missing));
    settings.insert("rights_to_release".to_owned(), rights(&reported.missing_to_release));
    let replica = |it: ReportedReplica| ReplicaFacts {
        name: it.name,
        address: it.address,
        streaming: it.streaming,
        synchronous: it.synchronous,
        lag_bytes: it.lag_bytes,
        lag: it.lag_ms.map(millis),
        silence: it.silence_ms.map(millis),
    };
    let slot = |it: ReportedSlot| SlotFacts {
        name: it.name,
        logical: it.logical,
        active: it.active,
        retained_bytes: it.retained,
    };
    let client = |it: ReportedClient| ClientFacts {
        application: it.application,
        user: it.user,
        address: it.address,
        count: it.count,
        ports: it.ports,
    };
    let transaction = |it: ReportedTransaction| TransactionFacts {
        pid: it.pid,
        application: it.application,
        age: millis(it.age_ms),
        state: it.state,
    };
    let version = reported.version.split_whitespace().next().unwrap_or_default();
    MemberFacts {
        version: format!("PostgreSQL {version}"),
        role: if reported.replica { Role::Replica } else { Role::Primary },
        lineage: Lineage { system: reported.system, timeline: reported.timeline },
        position: reported.position,
        replayed: reported.replayed,
        replay_paused: reported.replay_paused,
        receives_from: reported.sender.and_then(|sender| Some(address(&sender.host?, sender.port?))),
        receiver: reported.receiver.and_then(ReportedReceiver::facts),
        set_to_follow: reported.set_to_follow.and_then(|told| told.addresses()),
        replicas: reported.replicas.into_iter().map(replica).collect(),
        slots: reported.slots.into_iter().map(slot).collect(),
        synchronous_names: reported.synchronous_names,
        clients: reported.clients.into_iter().map(client).collect(),
        long_transactions: reported.long_transactions.into_iter().map(transaction).collect(),
        settings,
        archive_backlog: reported.archive_backlog,
        capabilities: MemberCapabilities { switchover: SwitchoverStyle::Phased, rewind, no_control },
        history: Vec::new(),
        diverged: None,
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An SQL literal (with `standard_conforming_strings`, the default).
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The inside of a quoted value in a configuration file, as ALTER SYSTEM writes it.
pub(super) fn configuration_value(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "''")
}

/// The physical slot of a member at its primary: its name with underscores.
///
/// # Errors
/// If PostgreSQL would not take it: slots are named in lower-case letters, digits and underscores, at most 63 of them.
pub(super) fn slot_name(member: &str) -> Result<String, String> {
    let name = member.replace('-', "_");
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if fits {
        Ok(name)
    } else {
        Err(format!(
            "`{member}` cannot name a replication slot: use lower-case letters, digits and hyphens, at most 63"
        ))
    }
}

/// How `member` connects to `primary` (PostgreSQL manual, "Connection Strings"); `login` is the setting `replication`.
///
/// # Errors
/// If the address is none.
pub(super) fn connection(primary: &Peer, member: &str, login: &str) -> Result<String, String> {
    let (host, port) = split_address(&primary.address)
        .ok_or_else(|| format!("`{}` is not an address such as `10.10.0.100:5432`", primary.address))?;
    let quoted = |value: &str| {
        if value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b)) && !value.is_empty() {
            value.to_owned()
        } else {
            format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
        }
    };
    let mut text = format!("host={} port={port} application_name={}", quoted(host), quoted(member));
    if !login.trim().is_empty() {
        text.push(' ');
        text.push_str(login.trim());
    }
    Ok(text)
}

/// Whether what a native verb leaves behind is in place: `done`, `undone`, or in words what there is.
pub(super) fn native_state(verb: &str, args: &super::Arguments, facts: &MemberFacts, follows_as_asked: bool) -> String {
    let slot_of = |member: &String| slot_name(member).unwrap_or_default();
    let there = |names: &[String]| {
        names.iter().filter(|member| facts.slots.iter().any(|slot| slot.name == slot_of(member))).count()
    };
    let quick = facts.settings.get(TEMPORARY).is_some_and(|value| value == "set");
    let synchronous = args.synchronous.as_ref().is_none_or(|names| *names == facts.synchronous_names);
    let slots = |names: &[String], wanted: usize| {
        (there(names) != wanted).then(|| format!("{} of {} slots are there", there(names), names.len()))
    };
    let names = || (!synchronous).then(|| format!("synchronous_standby_names is `{}`", facts.synchronous_names));
    let temporary = || quick.then(|| format!("wal_retrieve_retry_interval is still {QUICK_RETRY}"));
    let connected = facts.settings.get("primary_conninfo").is_some_and(|value| value == "set");
    let bound = facts.settings.get("max_slot_wal_keep_size").map(String::as_str);
    let missing: Vec<String> = match verb {
        super::PREPARE_PROMOTION => {
            let new = args.new_slots();
            // Where the names stay as they were, only the temporary setting tells.
            let told_by_names = args.synchronous_before.is_none() || args.synchronous_before != args.synchronous;
            if there(&new) == 0 && !quick && !(new.is_empty() && synchronous && told_by_names) {
                return "undone".to_owned();
            }
            [slots(&args.followers, args.followers.len()), names(), None].into_iter().flatten().collect()
        }
        super::UNPREPARE_PROMOTION => [slots(&args.new_slots(), 0), temporary()].into_iter().flatten().collect(),
        super::PREPARE_DEMOTION | super::FOLLOW_LATER if follows_as_asked => Vec::new(),
        super::PREPARE_DEMOTION | super::FOLLOW_LATER => return "undone".to_owned(),
        super::MAKE_SLOTS if there(&args.new_slots()) == 0 && !args.new_slots().is_empty() => {
            return "undone".to_owned();
        }
        super::MAKE_SLOTS => slots(&args.followers, args.followers.len()).into_iter().collect(),
        super::SET_SYNCHRONOUS
            if !synchronous && args.synchronous_before.as_ref() == Some(&facts.synchronous_names) =>
        {
            return "undone".to_owned();
        }
        super::SET_SYNCHRONOUS => names().into_iter().collect(),
        super::UNPREPARE_DEMOTION => {
            connected.then(|| "primary_conninfo is still set".to_owned()).into_iter().collect()
        }
        super::FINISH_PROMOTION | super::FINISH_DEMOTION => {
            [slots(&args.stale, 0), names(), temporary()].into_iter().flatten().collect()
        }
        super::RELEASE_REPLICAS => {
            let unbounded = bound.is_none_or(|bound| bound == "-1");
            let unbounded = unbounded.then(|| "the log that slots keep is not bounded".to_owned());
            [unbounded, names()].into_iter().flatten().collect()
        }
        super::UNRELEASE_REPLICAS => {
            let bounded = (bound == Some(SLOT_BOUND)).then(|| format!("max_slot_wal_keep_size is still {SLOT_BOUND}"));
            let before = args.synchronous_before.as_ref().is_none_or(|names| *names == facts.synchronous_names);
            let before = (!before).then(|| format!("synchronous_standby_names is `{}`", facts.synchronous_names));
            [bounded, before].into_iter().flatten().collect()
        }
        _ => return "unknown to this provider".to_owned(),
    };
    if missing.is_empty() { "done".to_owned() } else { missing.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TargetId;

    #[test]
    fn connections_are_quoted_as_libpq_asks() {
        let peer =
            |address: &str| Peer { member: TargetId::member(&"d".into(), "east-pg1"), address: address.to_owned() };
        assert_eq!(
            connection(&peer("10.20.0.100:5432"), "west-pg1", "user=replicator").unwrap(),
            "host=10.20.0.100 port=5432 application_name=west-pg1 user=replicator"
        );
        assert_eq!(connection(&peer("[fd00::1]:5432"), "m", "").unwrap(), "host=fd00::1 port=5432 application_name=m");
        assert_eq!(connection(&peer("a'b:1"), "m", "").unwrap(), "host='a\\'b' port=1 application_name=m");
        assert!(connection(&peer("nowhere"), "m", "").is_err());
    }

    #[test]
    fn hosts_and_ports_are_paired_as_libpq_does() {
        let set = |hosts: &str, ports: Option<&str>| {
            SetToFollow { hosts: hosts.to_owned(), ports: ports.map(str::to_owned) }.addresses()
        };
        assert_eq!(set("10.20.0.100", Some("5433")).unwrap(), "10.20.0.100:5433");
        assert_eq!(set("fd00::1", None).unwrap(), "[fd00::1]:5432");
        assert_eq!(set("a,b", Some("1,2")).unwrap(), "a:1,b:2");
        assert_eq!(set("a,b", Some("7")).unwrap(), "a:7,b:7");
        assert_eq!(set("a,b", Some(",9")).unwrap(), "a:5432,b:9");
        assert_eq!(set("/run/postgresql", Some("1")), None);
        assert_eq!(set("", Some("1")), None);
    }

    #[test]
    fn a_history_file_tells_where_each_timeline_ended() {
        let text =
            "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t0/50000A0\tno recovery target specified\n";
        assert_eq!(history(text), [(1, Position::Lsn(0x300_0148)), (2, Position::Lsn(0x500_00A0))]);
        assert_eq!(history(""), []);
    }

    #[test]
    fn slots_are_named_as_postgresql_allows() {
        assert_eq!(slot_name("west-pg1").unwrap(), "west_pg1");
        for wrong in ["", "West", "a.b", &"x".repeat(64)] {
            assert!(slot_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn text_cannot_leave_its_quotes() {
        assert_eq!(literal("a'; DROP"), "'a''; DROP'");
        assert_eq!(configuration_value("a'b\\c"), "a''b\\\\c");
    }

    /// What is asked while clients wait is read by the same code as all facts.
    #[test]
    fn both_questions_have_the_same_answers() {
        let keys = FACTS_SQL.lines().filter_map(|line| line.strip_prefix("  '")?.split('\'').next());
        let keys: Vec<&str> = keys.collect();
        assert!(keys.len() > 15, "{keys:?}");
        for key in keys {
            assert!(PROGRESS_SQL.contains(&format!("'{key}', ")), "{key}");
        }
    }
}
