//! The independent checker: asks every database member, by connections of its own in the member's facility, whether it takes writes. It
//! knows nothing of `handover`.
//!
//! A member that took two writes without a restart in between took writes all the time between them: PostgreSQL becomes a replica
//! only by a restart. Two members of one database for which such times overlap were writable at once; there is no other way to read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use handover::model::{DatabaseName, FacilityName, Position, SettingValue, Settings};
use handover::topology::Topology;
use jiff::Timestamp;
use nix::sched::{CloneFlags, setns};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::layout::{OPERATOR, socket};
use crate::{Lab, ways};

/// What the checker's connections call themselves; the topology declares them.
pub const APPLICATION: &str = "torture-watch";

/// The time between two questions to one member, for each three members that there are.
const EVERY: Duration = Duration::from_millis(7);

/// How long one question or login may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which start of the server answers, the number of a transaction that wrote: only a primary gives one; and the end of its log. The last
/// statement of a simple query is answered after its commit.
const QUESTION: &str = "select pg_postmaster_start_time(), case when pg_is_in_recovery() then null else pg_current_xact_id() end, \
                        case when pg_is_in_recovery() then null else pg_current_wal_flush_lsn() end";

/// A time for which a member took writes, as far as it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The member.
    pub member: String,
    /// When the first write of one start of the server had been committed, in microseconds since 1970.
    pub from: i64,
    /// When the last one was sent.
    pub to: i64,
}

/// The wall clock as it was once, carried on by the monotonic one.
#[derive(Clone, Copy, Debug)]
struct Clock {
    began: Instant,
    began_us: i64,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), began_us: Timestamp::now().as_microsecond() }
    }

    /// Microseconds since 1970.
    fn now(self) -> i64 {
        self.began_us.saturating_add(i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

/// Two members of one database took writes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Two {
    /// Both of them.
    pub members: [String; 2],
    /// For at least this long.
    pub time: Duration,
}

/// The checker while it runs.
pub struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<Watcher>,
    /// Where the lab notes which ways are closed.
    notes: PathBuf,
    /// Facilities through which clients reach the others.
    doors: BTreeSet<String>,
}

/// Who asks one member.
struct Watcher {
    database: DatabaseName,
    facility: FacilityName,
    thread: JoinHandle<Result<Seen>>,
}

/// What was seen of one member.
#[derive(Default)]
struct Seen {
    spans: Vec<Span>,
    answers: u64,
    ends: Vec<(i64, Position)>,
}

/// What was seen of all.
pub struct Watched {
    /// Members that took writes at once while clients could reach both.
    pub two_writable: Vec<Two>,
    /// How many questions were answered.
    pub answers: u64,
    /// The end of each member's log while it took writes: when, in microseconds since 1970, and where.
    pub ends: BTreeMap<String, Vec<(i64, Position)>>,
}

impl Watch {
    /// Starts to watch every member of every database of a lab.
    ///
    /// # Errors
    /// If the lab does not run, or a member's settings do not say how to log in.
    pub fn start(lab: &Lab, topology: &Topology) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let clock = Clock::start();
        let members: usize = topology.databases.values().map(|database| database.members.len()).sum();
        let every = EVERY * u32::try_from(members.div_ceil(3))?;
        let mut threads = Vec::new();
        for database in topology.databases.values() {
            for (name, member) in &database.members {
                let facility = member.target.facility.clone();
                let network = File::open(lab.directory.namespace(facility.as_str())?)?;
                let (ip, port) = socket(&member.target)?;
                let mut login = tokio_postgres::Config::new();
                login.host(ip.to_string()).port(port).dbname(database.name.as_str()).application_name(APPLICATION);
                login.user(member.target.settings.text("user").context("a member without a user")?);
                login.password(secret(&lab.directory(), &member.target.settings)?);
                login.connect_timeout(PATIENCE);
                let (name, stop) = (name.clone(), Arc::clone(&stop));
                let thread = std::thread::Builder::new().name(format!("watch {name}"));
                let thread = thread.spawn(move || {
                    setns(&network, CloneFlags::CLONE_NEWNET)?;
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    Ok(runtime.block_on(watch(&name, &login, every, &stop, clock)))
                })?;
                threads.push(Watcher { database: database.name.clone(), facility, thread });
            }
        }
        let doors = topology.poolers.values().map(|pooler| pooler.target.facility.to_string()).collect();
        Ok(Self { stop, threads, notes: lab.directory().join(ways::FILE), doors })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If a thread of it failed, or nobody ever answered: then nothing was watched.
    pub fn end(mut self) -> Result<Watched> {
        self.stop.store(true, Ordering::Relaxed);
        let notes = ways::read(&self.notes)?;
        let mut spans = BTreeMap::<DatabaseName, Vec<Span>>::new();
        let mut watched = Watched { two_writable: Vec::new(), answers: 0, ends: BTreeMap::new() };
        for Watcher { database, facility, thread } in std::mem::take(&mut self.threads) {
            let seen = thread.join().map_err(|_| anyhow!("the checker panicked"))??;
            anyhow::ensure!(seen.answers > 0, "a member of {database} never answered the checker");
            watched.answers += seen.answers;
            if let Some(span) = seen.spans.first() {
                watched.ends.insert(span.member.clone(), seen.ends);
            }
            let reachable = ways::reachable(&notes, OPERATOR, facility.as_str(), &self.doors);
            spans.entry(database).or_default().extend(seen.spans.iter().flat_map(|span| within(span, &reachable)));
        }
        watched.two_writable = spans.values().flat_map(|spans| two(spans)).collect();
        Ok(watched)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The parts of a time that lie within others.
fn within(span: &Span, times: &[(i64, i64)]) -> Vec<Span> {
    let part = |(from, to): &(i64, i64)| Span { from: span.from.max(*from), to: span.to.min(*to), ..span.clone() };
    times.iter().map(part).filter(|part| part.from <= part.to).collect()
}

/// The password in `{file: /srv/…}`, as the host sees that file.
pub fn secret(srv: &Path, settings: &Settings) -> Result<String> {
    let file = match settings.get("password").map(|password| &password.value) {
        Some(SettingValue::Map(map)) => map.get("file").and_then(|(_, file)| file.as_text()),
        _ => None,
    };
    let file = Path::new(file.context("a member's password is not in a file")?).strip_prefix("/srv")?;
    Ok(std::fs::read_to_string(srv.join(file))?.trim_end().to_owned())
}

async fn watch(member: &str, login: &tokio_postgres::Config, every: Duration, stop: &AtomicBool, clock: Clock) -> Seen {
    let mut seen = Seen::default();
    let mut client: Option<Client> = None;
    let mut current: Option<(String, Span)> = None;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(every).await;
        if client.is_none() {
            client = timeout(PATIENCE, connect(login)).await.ok().flatten();
        }
        let Some(open) = &client else { continue };
        let sent = clock.now();
        let answer = timeout(PATIENCE, open.simple_query(QUESTION)).await;
        let Ok(Ok(answer)) = answer else {
            client = None;
            continue;
        };
        seen.answers += 1;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                row.get(1)?;
                Some((row.get(0)?.to_owned(), row.get(2)?.parse::<Position>().ok()?))
            }
            _ => None,
        });
        let Some((start, end)) = row else { continue };
        seen.ends.push((sent, end));
        match &mut current {
            Some((same, span)) if *same == start => span.to = sent,
            _ => {
                seen.spans.extend(current.take().map(|(_, span)| span));
                let now = clock.now();
                current = Some((start, Span { member: member.to_owned(), from: now, to: now }));
            }
        }
    }
    seen.spans.extend(current.map(|(_, span)| span));
    seen
}

async fn connect(login: &tokio_postgres::Config) -> Option<Client> {
    let (client, connection) = login.connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    // A primary whose replicas are away would otherwise hold the checker back.
    client.batch_execute("set synchronous_commit = off").await.ok()?;
    Some(client)
}

/// The pairs of different members whose times overlap.
fn two(spans: &[Span]) -> Vec<Two> {
    let mut found = Vec::new();
    for (index, one) in spans.iter().enumerate() {
        for other in spans.iter().skip(index + 1).filter(|other| other.member != one.member) {
            let time = one.to.min(other.to).saturating_sub(one.from.max(other.from));
            if let Some(time) = u64::try_from(time).ok().filter(|time| *time > 0) {
                let members = [one.member.clone(), other.member.clone()];
                found.push(Two { members, time: Duration::from_micros(time) });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(member: &str, from: i64, to: i64) -> Span {
        Span { member: member.to_owned(), from, to }
    }

    #[test]
    fn only_different_members_at_the_same_time_are_two() {
        assert_eq!(two(&[span("a", 0, 10), span("b", 10, 20), span("a", 20, 30)]), []);
        assert_eq!(two(&[span("a", 0, 10), span("a", 5, 20)]), []);
        let overlap = two(&[span("a", 0, 12), span("b", 10, 20), span("c", 30, 40)]);
        assert_eq!(overlap, [Two { members: ["a".to_owned(), "b".to_owned()], time: Duration::from_micros(2) }]);
    }

    #[test]
    fn a_member_counts_only_while_clients_reach_it() {
        let times = [(i64::MIN, 20), (50, 60)];
        assert_eq!(within(&span("a", 10, 55), &times), [span("a", 10, 20), span("a", 50, 55)]);
        assert_eq!(within(&span("a", 25, 45), &times), []);
    }
}
