//! Poolers in front of real servers: what a pause may cost clients, and what speaks against one.
#![allow(clippy::disallowed_methods, reason = "tests start servers and write their files")]

mod common;
#[path = "common/postgres.rs"]
mod servers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use handover::journal::Permit;
use handover::model::{Action, Observed, PoolerFacts, Scope};
use handover::provider::pgbouncer::Pgbouncer;
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use servers::{Member, Pooler, Site};
use tokio::task::JoinHandle;
use tokio::time::Instant;

fn within(seconds: f64) -> Instant {
    Instant::now() + Duration::from_secs_f64(seconds)
}

/// How long a pooler waits after a failed login before it tries again: whoever meets that here is noticed.
const RETRY: Duration = Duration::from_secs(60);

/// Applications that are at every stage when a pause comes: some ask all the time, some seldom, some log in for each visit, and all of
/// them together need more server connections than are open.
struct Growing {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<(Duration, Vec<String>)>>,
}

impl Growing {
    const CLIENTS: u64 = 24;

    fn start(pooler: &Pooler) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number: u64| {
            let (stop, answered, port) = (Arc::clone(&stop), Arc::clone(&answered), pooler.port);
            tokio::spawn(async move {
                let login = format!("host=127.0.0.1 port={port} user=app password=app-secret dbname=accounts");
                let questions = if number.is_multiple_of(2) { usize::MAX } else { 10 };
                let pause = if number.is_multiple_of(4) { 150 + number * 5 } else { number % 7 * 3 };
                let (mut longest, mut failed) = (Duration::ZERO, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let visit = async {
                        let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await?;
                        tokio::spawn(connection);
                        for _ in 0..questions {
                            let began = Instant::now();
                            client.simple_query("SELECT pg_sleep(0.005)").await?;
                            longest = longest.max(began.elapsed());
                            answered.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(pause)).await;
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                        }
                        Ok::<_, tokio_postgres::Error>(())
                    };
                    failed.extend(visit.await.err().map(|error| format!("{error:?}")));
                }
                (longest, failed)
            })
        };
        Self { clients: (0..Self::CLIENTS).map(client).collect(), stop, answered }
    }

    /// Waits until some have been answered.
    async fn served(&self, some: usize) {
        let seen = self.answered.load(Ordering::Relaxed);
        let began = Instant::now();
        while self.answered.load(Ordering::Relaxed) < seen + some {
            assert!(began.elapsed() < RETRY, "nobody is answered");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Nobody was turned away, and nobody waited for `server_login_retry`.
    async fn unharmed(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut slowest, mut failures) = (Duration::ZERO, Vec::new());
        for client in self.clients {
            let (longest, failed) = tokio::time::timeout(2 * RETRY, client).await.expect("clients hang").unwrap();
            slowest = slowest.max(longest);
            failures.extend(failed);
        }
        let answered = self.answered.load(Ordering::Relaxed);
        println!("{answered} answered, {} failed, the longest wait was {slowest:?}", failures.len());
        assert!(failures.is_empty(), "{} of {answered} failed: {:?}", failures.len(), failures.first());
        assert!(slowest < RETRY / 2, "{slowest:?}");
    }
}

struct World {
    // Dropped in this order: the servers before their directory.
    pooler: Pooler,
    _primary: Member,
    pgbouncer: Pgbouncer,
    permit: Permit,
    _site: Site,
}

impl World {
    /// A primary and a pooler whose entry and configuration have some more settings.
    async fn start(entry: &str, settings: &str) -> Self {
        let site = Site::new();
        let primary = Member::primary(&site, "a-pg1");
        let settings = format!("{settings}\nserver_login_retry = {}", RETRY.as_secs());
        let pooler = Pooler::start_with(&site, &primary.address(), entry, &settings);
        let pgbouncer = Pgbouncer::new(site.secrets(), Arc::new(Transport::new()));
        Self { pooler, _primary: primary, pgbouncer, permit: common::permit().await, _site: site }
    }

    async fn act(&self, action: Action) -> Outcome {
        self.pgbouncer.apply(&self.pooler.target(), &action, &self.permit, within(10.0)).await
    }

    async fn pause(&self) -> Outcome {
        self.act(Action::Pause { database: "accounts".into() }).await
    }

    async fn resume(&self) -> Outcome {
        self.act(Action::Resume { database: "accounts".into() }).await
    }

    async fn facts(&self) -> PoolerFacts {
        let scope = Scope::PoolerDatabases(BTreeSet::from(["accounts".into()]));
        match self.pgbouncer.observe(&self.pooler.target(), &scope, within(10.0)).await {
            Observed::Known { value, .. } => value.pooler().unwrap().clone(),
            Observed::Unreachable(why) => panic!("{why}"),
        }
    }

    /// A setting of the running process.
    fn setting(&self, name: &str) -> String {
        let config = self.pooler.console("SHOW CONFIG");
        let value = config.lines().find_map(|line| line.strip_prefix(&format!("{name}|"))).unwrap_or_default();
        value.split('|').next().unwrap_or_default().to_owned()
    }

    /// Pauses that come while pools grow, and end again.
    async fn pauses(&self, count: usize) {
        let growing = Growing::start(&self.pooler);
        let limits = || ["default_pool_size", "max_db_connections", "min_pool_size"].map(|name| self.setting(name));
        let before = limits();
        for _ in 0..count {
            growing.served(5).await;
            assert_eq!(self.pause().await, Outcome::Applied);
            // Long enough for the pooler's own maintenance, which comes each third of a second.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(self.resume().await, Outcome::Applied);
            assert_eq!(limits(), before);
        }
        growing.served(5).await;
        growing.unharmed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applications_whose_pools_grow_do_not_notice_a_pause() {
    World::start("", "").await.pauses(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_where_the_entry_has_limits_of_its_own() {
    World::start("pool_size=60", "").await.pauses(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_where_servers_are_kept_open() {
    World::start("", "min_pool_size = 4").await.pauses(10).await;
}
