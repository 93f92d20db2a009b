//! Clients of every surviving path, inside the lab: they write through the poolers, ask services through the proxies, and hostnames of the
//! name servers and of the caching resolver, before, while and after a facility is lost. A program of its own, which tells what it sees on
//! its standard output and ends with its standard input.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use handover::model::FacilityName;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::paths::{self, Attempt, How, Kind, Path};

/// The lab's role for applications, and the file with its password.
const USER: &str = "app";
const PASSWORD: &str = "/srv/secrets/app";

/// How often the state of all paths is told, and for how long a path must have been good to be told as good.
const TELL: Duration = Duration::from_millis(100);
const CALM_S: f64 = 1.0;

/// One line of the output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Kinds of which every path has served for the last second.
    Good(BTreeSet<Kind>),
    /// Everything that was seen: the last line.
    End(Vec<Seen>),
}

/// What the clients of one path saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// What it is for.
    pub kind: Kind,
    /// In words.
    pub name: String,
    /// From when on it served until the end, in seconds of the machine's monotonic clock; none where it does not.
    pub good_from: Option<f64>,
    /// The longest time between two answers, in seconds.
    pub longest_gap_s: f64,
    /// Answers as wanted.
    pub good: usize,
    /// Attempts that failed.
    pub failed: usize,
    /// Of acknowledged writes: those that are not on the primary at the end.
    pub lost: usize,
}

/// Seconds of the machine's monotonic clock: the same in every process and namespace.
///
/// # Errors
/// If there is no such clock.
pub fn now_s() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// How a kind of path is used: number of clients, time between two attempts of each, and how long one may take.
fn pace(kind: Kind) -> (u32, Duration, Duration) {
    let ms = Duration::from_millis;
    match kind {
        Kind::Write => (8, ms(80), ms(1000)),
        Kind::Serve => (4, ms(200), ms(1000)),
        Kind::Publish => (1, ms(50), ms(1000)),
        Kind::Resolve => (2, ms(100), ms(5000)),
    }
}

/// What the clients of one path share.
struct Account {
    path: Path,
    attempts: Mutex<Vec<Attempt>>,
    acknowledged: Mutex<Vec<i64>>,
}

/// What all clients share.
struct World {
    password: String,
    dead: BTreeSet<IpAddr>,
    stop: AtomicBool,
    /// Numbers of rows are never used twice.
    next: AtomicI64,
}

/// Runs the clients until the standard input ends.
///
/// # Errors
/// If the topology cannot be read, or a database cannot be asked at the end.
pub async fn run(topology: &FilePath, lost: &str) -> Result<()> {
    let lost = FacilityName::new(lost);
    let text = std::fs::read(topology)?;
    let parsed = handover::topology::parse(&text, &handover::cli::checks());
    let topology = parsed.map_err(|findings| anyhow::anyhow!("{findings:?}"))?.topology;
    let first = jiff::Timestamp::now().as_microsecond();
    let world = Arc::new(World {
        password: std::fs::read_to_string(PASSWORD)?.trim_end().to_owned(),
        dead: paths::dead_addresses(&topology, &lost),
        stop: AtomicBool::new(false),
        next: AtomicI64::new(first),
    });
    let account = |path| Arc::new(Account { path, attempts: Mutex::default(), acknowledged: Mutex::default() });
    let accounts: Vec<Arc<Account>> = paths::surviving(&topology, &lost)?.into_iter().map(account).collect();
    let mut clients = JoinSet::new();
    for account in &accounts {
        let (count, every, patience) = pace(account.path.kind);
        for number in 0..count {
            clients.spawn(client(Arc::clone(&world), Arc::clone(account), every * number / count, every, patience));
        }
    }
    let told = Arc::clone(&world);
    std::thread::spawn(move || {
        // Whatever ends it, nobody listens any more.
        let _ = std::io::stdin().read(&mut [0]);
        told.stop.store(true, Ordering::Relaxed);
    });
    let mut ticks = interval(TELL);
    while !world.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        tell(&Line::Good(good_now(&accounts)?))?;
    }
    let until = now_s()?;
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let mut seen = Vec::new();
    for account in &accounts {
        seen.push(account.seen(&world, first, until).await?);
    }
    tell(&Line::End(seen))
}

fn tell(line: &Line) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(line)?)?;
    Ok(output.flush()?)
}

fn good_now(accounts: &[Arc<Account>]) -> Result<BTreeSet<Kind>> {
    let now = now_s()?;
    let mut good = BTreeSet::from(Kind::ALL);
    for account in accounts {
        let attempts = lock(&account.attempts);
        // Each is noted when it ends; only the last ones matter here.
        let recent = attempts.iter().rev().take_while(|attempt| attempt.ended >= now - 2.0 * CALM_S);
        let recent: Vec<Attempt> = recent.copied().collect();
        drop(attempts);
        if !paths::good_from(account.path.kind, &recent, now).is_some_and(|from| now - from >= CALM_S) {
            good.remove(&account.path.kind);
        }
    }
    Ok(good)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One client: what fails is noted, and tried again with the next beat.
async fn client(
    world: Arc<World>,
    account: Arc<Account>,
    first: Duration,
    every: Duration,
    patience: Duration,
) -> Result<()> {
    tokio::time::sleep(first).await;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session = None;
    while !world.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let began = now_s()?;
        let outcome = timeout(patience, account.attempt(&world, &mut session)).await;
        let good = match outcome {
            Ok(Ok(())) => true,
            Ok(Err(_)) | Err(_) => {
                session = None;
                false
            }
        };
        let attempt = Attempt { began, ended: now_s()?, good };
        lock(&account.attempts).push(attempt);
    }
    Ok(())
}

impl Account {
    async fn attempt(&self, world: &World, session: &mut Option<Client>) -> Result<()> {
        match &self.path.how {
            How::Write { host, port, entry } => {
                let id = world.next.fetch_add(1, Ordering::Relaxed);
                // It is put back once the answer is there: a session that is given up is closed.
                let client = match session.take() {
                    Some(client) => client,
                    None => login(world, host, *port, entry).await?,
                };
                client.simple_query(&format!("INSERT INTO writes (id) VALUES ({id})")).await?;
                *session = Some(client);
                lock(&self.acknowledged).push(id);
                Ok(())
            }
            How::Get { address, hostname } => get(*address, hostname).await,
            How::Ask { server, hostname, recursive } => {
                let addresses = ask(*server, hostname, *recursive).await?;
                ensure!(!addresses.is_empty() && addresses.is_disjoint(&world.dead), "{addresses:?}");
                Ok(())
            }
        }
    }

    async fn seen(&self, world: &World, first: i64, until: f64) -> Result<Seen> {
        let attempts = lock(&self.attempts).clone();
        let acknowledged = lock(&self.acknowledged).clone();
        let lost = match &self.path.how {
            How::Write { host, port, entry } => {
                let client = login(world, host, *port, entry).await.context("the lost check cannot log in")?;
                let rows = client.simple_query(&format!("SELECT id FROM writes WHERE id >= {first}")).await?;
                let there: BTreeSet<i64> = rows.iter().filter_map(row_id).collect();
                acknowledged.iter().filter(|id| !there.contains(id)).count()
            }
            How::Get { .. } | How::Ask { .. } => 0,
        };
        let good = attempts.iter().filter(|attempt| attempt.good).count();
        Ok(Seen {
            kind: self.path.kind,
            name: self.path.name.clone(),
            good_from: paths::good_from(self.path.kind, &attempts, until),
            longest_gap_s: paths::longest_gap(&attempts).map_or(0.0, |(_, length)| length),
            good,
            failed: attempts.len() - good,
            lost,
        })
    }
}

fn row_id(message: &SimpleQueryMessage) -> Option<i64> {
    match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    }
}

async fn login(world: &World, host: &str, port: u16, entry: &str) -> Result<Client> {
    let mut login = tokio_postgres::Config::new();
    login.host(host).port(port).dbname(entry).user(USER).password(&world.password);
    let (client, connection) = login.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// `GET /` on a connection of its own, as a new visitor; Ok for 200.
async fn get(address: SocketAddr, hostname: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..answer.len().min(20)]));
    Ok(())
}

/// The addresses of a hostname, asked once over UDP (RFC 1035 §4.2.1).
async fn ask(server: SocketAddr, hostname: &str, recursive: bool) -> Result<BTreeSet<IpAddr>> {
    let mut question = Message::new(Message::query().metadata.id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = recursive;
    question.add_query(Query::query(Name::from_ascii(format!("{hostname}."))?, RecordType::A));
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec()?).await?;
    let mut buffer = [0; 1500];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = Message::from_vec(buffer.get(..length).context("a message too long")?)?;
        if answer.metadata.id != question.metadata.id {
            continue;
        }
        if answer.metadata.truncation {
            bail!("the answer does not fit");
        }
        let address = |record: &hickory_proto::rr::Record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        };
        return Ok(answer.answers.iter().filter_map(address).collect());
    }
}
