//! Load on services and writers on databases, through the clients' own path, and an account of what clients saw.
//!
//! The path is hostname → system resolver (`getaddrinfo`, so the caching resolver of `/etc/resolv.conf`) → proxy → application →
//! pooler → database. Clients behave as browsers do:
//!
//! - Connections are kept alive, but for at most [`Config::connection_lifetime`]: the last request of a connection says
//!   `Connection: close`, and the next one looks the name up again. Clients therefore follow a changed record set within its TTL (held
//!   by the caching resolver) plus that lifetime.
//! - Addresses are tried in the order in which the resolver gives them; one that refuses the connection gives way to the next.
//! - A request that could not be written at all, because its idle connection had been closed before, goes out on a new one.
//!
//! Nothing else is retried. Every answer outside 2xx, every connection that fails or breaks, every body that is cut short or is not the
//! application's, and every request without an answer after [`Config::timeout`] counts as failed.
//!
//! An application's request is a read (`GET /`). Writes (`POST /write`) are accounted for apart, per database: each id is sent once, in
//! sequence, and an id counts as acknowledged when the 2xx answer is there *and* the id is in the list on disk, so that the
//! [lost check](lost) covers exactly what the report counts.

mod account;
mod cli;
pub mod lost;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

pub use account::{DatabaseReport, FailedRequest, HttpReport, Latency, Report, ServiceReport};
pub use cli::{Args, LostArgs, run, run_lost};

use self::account::{DatabaseAccount, ServiceAccount};
use crate::app::chain;

/// What to drive, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Readers, by service.
    pub readers: BTreeMap<String, Readers>,
    /// Writers, by database.
    pub writers: BTreeMap<String, Writers>,
    /// Folder for the acknowledged ids: one file `DATABASE.ids` each, in a line an id and when it was acknowledged (microseconds since
    /// 1970).
    pub acknowledged: PathBuf,
    /// First id that is written. Ids must never have been used before in the same table: rows that are there already are acknowledged.
    pub first_id: i64,
    /// Longest time for one request.
    pub timeout: Duration,
    /// Longest time for which one connection is used.
    pub connection_lifetime: Duration,
}

/// Clients that read from one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Readers {
    /// What they get.
    pub url: String,
    /// Requests per second, of all clients together. Those that would be due while all clients wait are left out.
    pub rate: f64,
    /// Number of clients.
    pub clients: u32,
}

/// Clients that write to one database.
#[derive(Clone, Debug, PartialEq)]
pub struct Writers {
    /// The service's root; `write?database=…&id=…` is added.
    pub url: String,
    /// Time between writes, of all clients together. Those that would be due while all clients wait are left out.
    pub interval: Duration,
    /// Number of clients.
    pub clients: u32,
}

/// The load generator.
pub struct Load;

impl Load {
    /// Starts all clients.
    ///
    /// # Errors
    /// If a URL is none, or a list of acknowledged ids cannot be created.
    pub fn start(config: Config) -> Result<Handle> {
        // Fails only if there is one already. Nothing here speaks TLS, but the HTTP client wants a provider.
        _ = rustls::crypto::ring::default_provider().install_default();
        std::fs::create_dir_all(&config.acknowledged)
            .with_context(|| format!("cannot create {}", config.acknowledged.display()))?;
        let books = Arc::new(Books::open(&config)?);
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for (service, readers) in &config.readers {
            let url =
                reqwest::Url::parse(&readers.url).with_context(|| format!("service {service}: {}", readers.url))?;
            let pace = Pace::new(Duration::from_secs_f64(1.0 / readers.rate.max(0.001)), readers.clients);
            for number in 0..readers.clients {
                let client = Client::new(&config)?;
                let (service, url, books) = (service.clone(), url.clone(), books.clone());
                clients.spawn(read(service, url, client, books, pace.of(number), stopped.clone()));
            }
        }
        for (database, writers) in &config.writers {
            let url =
                reqwest::Url::parse(&writers.url).with_context(|| format!("database {database}: {}", writers.url))?;
            let pace = Pace::new(writers.interval, writers.clients);
            let ids = Arc::new(AtomicI64::new(config.first_id));
            for number in 0..writers.clients {
                let client = Client::new(&config)?;
                let (database, url, books, ids) = (database.clone(), url.clone(), books.clone(), ids.clone());
                clients.spawn(write(database, url, client, ids, books, pace.of(number), stopped.clone()));
            }
        }
        Ok(Handle { books, stop, clients })
    }
}

/// Running clients. Dropped, they end at once, and what they were doing is not accounted for.
pub struct Handle {
    books: Arc<Books>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Handle {
    /// What clients have seen so far.
    pub fn snapshot(&self) -> Report {
        self.books.report(false)
    }

    /// Starts no further requests, waits for the answers to those that run, and closes the account.
    pub async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        // A gap that lasts until now counts; the answers that are still to come can only add to it.
        self.books.close();
        while self.clients.join_next().await.is_some() {}
        self.books.report(true)
    }
}

/// The account of everything, shared by all clients.
struct Books {
    began: Instant,
    services: BTreeMap<String, Mutex<ServiceAccount>>,
    databases: BTreeMap<String, Mutex<(DatabaseAccount, File)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Books {
    fn open(config: &Config) -> Result<Self> {
        let mut databases = BTreeMap::new();
        for name in config.writers.keys() {
            let path = ids_path(&config.acknowledged, name);
            let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            databases.insert(name.clone(), Mutex::new((DatabaseAccount::default(), file)));
        }
        let services = config.readers.keys().map(|name| (name.clone(), Mutex::default())).collect();
        Ok(Self { began: Instant::now(), services, databases })
    }

    fn read(&self, service: &str, started: Instant, outcome: Result<Answer, Failed>) {
        let Some(account) = self.services.get(service) else { return };
        let mut account = lock(account);
        match outcome {
            Ok(answer) => account.served(&answer.facility, started.elapsed()),
            Err(failed) => account.failed(self.entry(started, failed)),
        }
    }

    fn wrote(&self, database: &str, id: i64, started: Instant, outcome: Result<Answer, Failed>) {
        let Some(account) = self.databases.get(database) else { return };
        let mut account = lock(account);
        let (account, file) = &mut *account;
        let outcome = outcome.and_then(|_| {
            let line = format!("{id} {}\n", jiff::Timestamp::now().as_microsecond());
            file.write_all(line.as_bytes()).map_err(|e| Failed {
                request: format!("list of ids, {id}"),
                why: e.to_string(),
                via: None,
            })
        });
        match outcome {
            Ok(()) => account.acknowledged(self.began.elapsed(), started.elapsed()),
            Err(failed) => account.failed(self.entry(started, failed)),
        }
    }

    fn entry(&self, started: Instant, failed: Failed) -> FailedRequest {
        FailedRequest {
            at: jiff::Timestamp::now(),
            took_ms: millis(started.elapsed()),
            request: failed.request,
            via: failed.via,
            why: failed.why,
        }
    }

    fn close(&self) {
        let now = self.began.elapsed();
        for account in self.databases.values() {
            lock(account).0.close(now);
        }
    }

    fn report(&self, finished: bool) -> Report {
        let now = self.began.elapsed();
        let services = self.services.iter().map(|(name, account)| (name.clone(), lock(account).report())).collect();
        let databases =
            self.databases.iter().map(|(name, account)| (name.clone(), lock(account).0.report(now, finished)));
        Report::new(finished, now, services, databases.collect())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Where the acknowledged ids of a database are listed.
pub fn ids_path(folder: &Path, database: &str) -> PathBuf {
    folder.join(format!("{database}.ids"))
}

/// When the clients of one group are due: evenly spread, each once in `every`.
#[derive(Clone, Copy)]
struct Pace {
    first: Instant,
    step: Duration,
    every: Duration,
}

impl Pace {
    fn new(step: Duration, clients: u32) -> Self {
        let step = step.max(Duration::from_micros(100));
        Self { first: Instant::now(), step, every: step * clients.max(1) }
    }

    fn of(self, number: u32) -> Interval {
        let mut interval = tokio::time::interval_at(self.first + self.step * number, self.every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        interval
    }
}

/// Whether another request is due; false once the load is to stop.
async fn due(interval: &mut Interval, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => false,
        _ = interval.tick() => true,
    }
}

async fn read(
    service: String,
    url: reqwest::Url,
    mut client: Client,
    books: Arc<Books>,
    mut interval: Interval,
    mut stop: watch::Receiver<bool>,
) {
    while due(&mut interval, &mut stop).await {
        let started = Instant::now();
        let outcome = client.send(reqwest::Method::GET, url.clone()).await;
        books.read(&service, started, outcome);
    }
}

async fn write(
    database: String,
    root: reqwest::Url,
    mut client: Client,
    ids: Arc<AtomicI64>,
    books: Arc<Books>,
    mut interval: Interval,
    mut stop: watch::Receiver<bool>,
) {
    while due(&mut interval, &mut stop).await {
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let mut url = root.clone();
        url.set_path("/write");
        url.query_pairs_mut().append_pair("database", &database).append_pair("id", &id.to_string());
        let started = Instant::now();
        let outcome = client.send(reqwest::Method::POST, url).await;
        books.wrote(&database, id, started, outcome);
    }
}

/// An answer of the application.
struct Answer {
    facility: String,
}

/// A request that failed.
struct Failed {
    request: String,
    via: Option<SocketAddr>,
    why: String,
}

/// One client with one connection.
struct Client {
    http: reqwest::Client,
    lifetime: Duration,
    opened: Option<Instant>,
}

impl Client {
    fn new(config: &Config) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(config.timeout)
            // Shared by the addresses of a name: one that swallows packets must not use up the time of the others.
            .connect_timeout(config.timeout * 4 / 5)
            .pool_max_idle_per_host(1)
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Nothing here speaks TLS: do not look for the system's certificates, which may not be there.
            .tls_certs_only([])
            .build()?;
        Ok(Self { http, lifetime: config.connection_lifetime, opened: None })
    }

    async fn send(&mut self, method: reqwest::Method, url: reqwest::Url) -> Result<Answer, Failed> {
        let request = format!("{method} {url}");
        let opened = *self.opened.get_or_insert_with(Instant::now);
        let mut builder = self.http.request(method, url);
        if opened.elapsed() >= self.lifetime {
            self.opened = None;
            builder = builder.header(reqwest::header::CONNECTION, "close");
        }
        let outcome = Self::answer(builder).await;
        if outcome.is_err() {
            self.opened = None;
        }
        outcome.map_err(|(via, why)| Failed { request, via, why })
    }

    async fn answer(builder: reqwest::RequestBuilder) -> Result<Answer, (Option<SocketAddr>, String)> {
        let response = builder.send().await.map_err(|e| (None, chain(&e.without_url())))?;
        let (status, via) = (response.status(), response.remote_addr());
        let body = response.bytes().await.map_err(|e| (via, format!("{status}, then: {}", chain(&e.without_url()))))?;
        let text = || String::from_utf8_lossy(&body).chars().take(300).collect::<String>().trim().to_owned();
        if !status.is_success() {
            return Err((via, format!("{status}: {}", text())));
        }
        let facility = serde_json::from_slice(&body)
            .ok()
            .and_then(|value: Value| value.get("facility").and_then(Value::as_str).map(str::to_owned));
        facility
            .map(|facility| Answer { facility })
            .ok_or_else(|| (via, format!("{status}, but not from the application: {}", text())))
    }
}
