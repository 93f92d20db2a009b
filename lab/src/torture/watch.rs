//! The independent checker: asks every database member, by connections of its own in the member's facility, whether it takes writes. It
//! knows nothing of `handover`.
//!
//! A member that took two writes without a restart in between took writes all the time between them: PostgreSQL becomes a replica
//! only by a restart. Two members of one database for which such times overlap were writable at once; there is no other way to read it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use handover::model::{DatabaseName, SettingValue, Settings};
use handover::topology::Topology;
use nix::sched::{CloneFlags, setns};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::Lab;
use crate::layout::socket;

/// What the checker's connections call themselves; the topology declares them.
pub const APPLICATION: &str = "torture-watch";

/// The time between two questions to one member.
const EVERY: Duration = Duration::from_millis(7);

/// How long one question or login may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which start of the server answers, and the number of a transaction that wrote: only a primary gives one. The last statement of a simple
/// query is answered after its commit.
const QUESTION: &str =
    "select pg_postmaster_start_time(), case when pg_is_in_recovery() then null else pg_current_xact_id() end";

/// A time for which a member took writes, as far as it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The member.
    pub member: String,
    /// When the first write of one start of the server had been committed.
    pub from: Instant,
    /// When the last one was sent.
    pub to: Instant,
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
    threads: Vec<(DatabaseName, JoinHandle<Result<Seen>>)>,
}

/// What was seen of one member.
#[derive(Default)]
struct Seen {
    spans: Vec<Span>,
    answers: u64,
}

/// What was seen of all.
pub struct Watched {
    /// Members that took writes at once.
    pub two_writable: Vec<Two>,
    /// How many questions were answered.
    pub answers: u64,
}

impl Watch {
    /// Starts to watch every member of every database of a lab.
    ///
    /// # Errors
    /// If the lab does not run, or a member's settings do not say how to log in.
    pub fn start(lab: &Lab, topology: &Topology) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for database in topology.databases.values() {
            for (name, member) in &database.members {
                let network = File::open(lab.directory.namespace(member.target.facility.as_str())?)?;
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
                    Ok(runtime.block_on(watch(&name, &login, &stop)))
                })?;
                threads.push((database.name.clone(), thread));
            }
        }
        Ok(Self { stop, threads })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If a thread of it failed, or nobody ever answered: then nothing was watched.
    pub fn end(self) -> Result<Watched> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut spans, mut answers) = (BTreeMap::<DatabaseName, Vec<Span>>::new(), 0);
        for (database, thread) in self.threads {
            let seen = thread.join().map_err(|_| anyhow!("the checker panicked"))??;
            anyhow::ensure!(seen.answers > 0, "a member of {database} never answered the checker");
            answers += seen.answers;
            spans.entry(database).or_default().extend(seen.spans);
        }
        Ok(Watched { two_writable: spans.values().flat_map(|spans| two(spans)).collect(), answers })
    }
}

/// The password in `{file: /srv/…}`, as the host sees that file.
fn secret(srv: &Path, settings: &Settings) -> Result<String> {
    let file = match settings.get("password").map(|password| &password.value) {
        Some(SettingValue::Map(map)) => map.get("file").and_then(|(_, file)| file.as_text()),
        _ => None,
    };
    let file = Path::new(file.context("a member's password is not in a file")?).strip_prefix("/srv")?;
    Ok(std::fs::read_to_string(srv.join(file))?.trim_end().to_owned())
}

async fn watch(member: &str, login: &tokio_postgres::Config, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut client: Option<Client> = None;
    let mut current: Option<(String, Span)> = None;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(EVERY).await;
        if client.is_none() {
            client = timeout(PATIENCE, connect(login)).await.ok().flatten();
        }
        let Some(open) = &client else { continue };
        let sent = Instant::now();
        let answer = timeout(PATIENCE, open.simple_query(QUESTION)).await;
        let Ok(Ok(answer)) = answer else {
            client = None;
            continue;
        };
        seen.answers += 1;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0).unwrap_or_default().to_owned(), row.get(1).is_some())),
            _ => None,
        });
        let Some((start, true)) = row else { continue };
        match &mut current {
            Some((same, span)) if *same == start => span.to = sent,
            _ => {
                seen.spans.extend(current.take().map(|(_, span)| span));
                let now = Instant::now();
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
            let time = one.to.min(other.to).saturating_duration_since(one.from.max(other.from));
            if !time.is_zero() {
                found.push(Two { members: [one.member.clone(), other.member.clone()], time });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_different_members_at_the_same_time_are_two() {
        let began = Instant::now();
        let span = |member: &str, from: u64, to: u64| {
            let at = |ms| began + Duration::from_millis(ms);
            Span { member: member.to_owned(), from: at(from), to: at(to) }
        };
        assert_eq!(two(&[span("a", 0, 10), span("b", 10, 20), span("a", 20, 30)]), []);
        assert_eq!(two(&[span("a", 0, 10), span("a", 5, 20)]), []);
        let overlap = two(&[span("a", 0, 12), span("b", 10, 20), span("c", 30, 40)]);
        assert_eq!(overlap, [Two { members: ["a".to_owned(), "b".to_owned()], time: Duration::from_millis(2) }]);
    }
}
