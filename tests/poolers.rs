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
use handover::model::{Action, FromTo, Observed, PoolerFacts, Scope};
use handover::provider::pgbouncer::Pgbouncer;
use handover::provider::postgresql::Postgresql;
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
    primary: Member,
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
        Self::with(site, primary, pooler).await
    }

    async fn with(site: Site, primary: Member, pooler: Pooler) -> Self {
        let pgbouncer = Pgbouncer::new(site.secrets(), Arc::new(Transport::new()));
        Self { pooler, primary, pgbouncer, permit: common::permit().await, _site: site }
    }

    async fn act(&self, action: Action) -> Outcome {
        self.pgbouncer.apply(&self.pooler.target(), &action, &self.permit, within(10.0)).await
    }

    async fn pause(&self) -> Outcome {
        self.act(Action::Pause { database: "accounts".into() }).await
    }

    async fn prepare(&self) -> Outcome {
        let pause = Action::Pause { database: "accounts".into() };
        self.pgbouncer.prepare(&self.pooler.target(), &pause, &self.permit, within(10.0)).await.unwrap()
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
        for round in 0..count {
            growing.served(5).await;
            // Ahead of its turn, as in a critical section, or all in one.
            if round % 2 == 0 {
                common::taken(&self.prepare().await);
                assert_ne!(limits(), before);
            }
            assert_eq!(self.pause().await, Outcome::Applied);
            // Long enough for the pooler's own maintenance, which comes each third of a second.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(self.resume().await, Outcome::Applied);
            assert_eq!(limits(), before);
        }
        // A pause that never came is taken back all the same, and made nobody wait.
        common::taken(&self.prepare().await);
        growing.served(5).await;
        assert_eq!(self.resume().await, Outcome::Applied);
        assert_eq!(limits(), before);
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

/// A login that never ends keeps the brake on for as long as the pause waits for it: `max_db_connections` where the entry has a pool size
/// of its own. Then all is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brake_is_one_that_the_entry_does_not_override() {
    for (entry, usual, braked) in [
        ("pool_size=60", ["20", "80"], ["20", "1"]),
        // Here the usual one has an effect, and the other is left alone.
        ("", ["20", "80"], ["1", "80"]),
    ] {
        let site = Site::new();
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let leads_to = mute.local_addr().unwrap().to_string();
        let pooler = Pooler::start_with(&site, &leads_to, entry, "default_pool_size = 20\nmax_db_connections = 80");
        let primary = Member::primary(&site, "a-pg1");
        let world = World::with(site, primary, pooler).await;
        let limits = || ["default_pool_size", "max_db_connections"].map(|name| world.setting(name));
        let login = format!("host=127.0.0.1 port={} user=app password=app-secret dbname=accounts", world.pooler.port);
        let client =
            tokio::spawn(async move { tokio_postgres::connect(&login, tokio_postgres::NoTls).await.map(drop) });
        let deadline = within(10.0);
        while !world.pooler.console("SHOW POOLS").lines().any(|line| line.starts_with("accounts|app|")) {
            assert!(Instant::now() < deadline, "{}", world.pooler.console("SHOW POOLS"));
        }
        assert_eq!(limits(), usual);
        let seen = async {
            let deadline = within(10.0);
            while limits() != braked {
                assert!(Instant::now() < deadline, "{:?}", limits());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (outcome, ()) = tokio::join!(world.pause(), seen);
        let Outcome::NotApplied(why) = outcome else { panic!("{outcome:?}") };
        assert!(why.why.starts_with("logins at the server did not end in time"), "{why}");
        assert_eq!(limits(), usual);
        client.abort();
    }
}

/// Two processes on one port: what is said at the pooler is said to both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_of_a_pooler_is_paused_redirected_and_resumed() {
    let site = Site::new();
    let primary = Member::primary(&site, "a-pg1");
    let replica = Member::replica(&site, "b-pg1", &primary);
    let pooler = Pooler::start_two(&site, &primary.address());
    let mut world = World::with(site, primary, pooler).await;
    let listed = world.pooler.consoles.clone();
    assert_eq!(world.facts().await.gaps, [""; 0]);

    // What is missing is seen: no list, one process twice, a process that nobody listed.
    let own = &listed[0];
    let socket = listed[1].strip_prefix("unix:").unwrap();
    let link = format!("{socket}.link");
    std::os::unix::fs::symlink(socket, &link).unwrap();
    let link = format!("unix:{link}");
    for (consoles, gap) in [
        (vec![], "their consoles are not listed"),
        (vec![own.clone(), listed[1].clone(), link.clone()], "are of one process"),
        (vec![own.clone()], "a process whose console is not listed"),
    ] {
        world.pooler.consoles = consoles;
        let gaps = world.facts().await.gaps;
        assert!(gaps.iter().any(|found| found.contains(gap)), "{gap}: {gaps:?}");
    }
    world.pooler.consoles = listed.clone();

    // Clients of both processes wait, and go on at the other server.
    let address = |console: &str| console.strip_prefix("tcp://").map(|it| it.rsplit_once(':').unwrap().0.to_owned());
    let socket = listed[1].strip_prefix("unix:").unwrap().rsplit_once('/').unwrap().0.to_owned();
    let hosts = [address(&listed[0]).unwrap(), socket];
    let port = world.pooler.port;
    let mut clients = Vec::new();
    for host in &hosts {
        let login = format!("host={host} port={port} user=app password=app-secret dbname=accounts");
        let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        clients.push(client);
    }
    const WHERE: &str = "SELECT inet_server_port()";
    let answered = |rows: Vec<tokio_postgres::SimpleQueryMessage>| {
        rows.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    };
    for client in &clients {
        assert_eq!(answered(client.simple_query(WHERE).await.unwrap()), Some(world.primary.port.to_string()));
    }
    let facts = world.facts().await;
    assert_eq!(facts.databases["accounts"].as_ref().unwrap().servers.len(), 2, "a server connection of each process");
    assert_eq!(world.pause().await, Outcome::Applied);
    let pool = world.facts().await.databases["accounts"].clone().unwrap();
    assert!(pool.paused && pool.pausing, "{pool:?}");
    let waiting: Vec<_> = clients.iter().map(|client| client.simple_query(WHERE)).collect();
    let route = FromTo { from: world.primary.address(), to: replica.address() };
    let database = || "accounts".into();
    assert_eq!(world.act(Action::WriteRoute { database: database(), route: route.clone() }).await, Outcome::Applied);
    let (redirected, went_on) = tokio::join!(
        world.act(Action::Redirect { database: database(), route: route.clone() }),
        tokio::time::timeout(Duration::from_secs(30), futures_util::future::join_all(waiting))
    );
    assert_eq!(redirected, Outcome::Applied);
    for rows in went_on.expect("clients hang") {
        assert_eq!(answered(rows.unwrap()), Some(replica.port.to_string()));
    }
    let pool = world.facts().await.databases["accounts"].clone().unwrap();
    assert_eq!((pool.route, pool.pausing), (replica.address(), false));
    // A process that cannot be paused frees the other.
    let login = format!("host={} port={port} user=app password=app-secret dbname=accounts", hosts[1]);
    let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.simple_query("BEGIN; SELECT 1").await.unwrap();
    let action = Action::Pause { database: database() };
    let outcome = world.pgbouncer.apply(&world.pooler.target(), &action, &world.permit, within(2.0)).await;
    assert!(matches!(&outcome, Outcome::NotApplied(why) if why.to_string().contains("clients go on")), "{outcome:?}");
    assert!(!world.facts().await.databases["accounts"].as_ref().unwrap().pausing);
    client.simple_query("COMMIT").await.unwrap();
}

/// Whoever is connected past the pooler is told apart from its own connections, also where they come from one machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_the_pooler_are_told_apart_from_others() {
    let world = World::start("", "").await;
    let mut clients = Vec::new();
    for (port, database) in [(world.pooler.port, "accounts"), (world.primary.port, "postgres")] {
        let login =
            format!("host=127.0.0.1 port={port} user=app password=app-secret dbname={database} application_name=shop");
        let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.unwrap();
        clients.push(client);
    }
    // What has just connected is not compared.
    world.primary.until("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop' AND backend_start < now() - interval '1.2 s'", "2");
    let target = world.primary.target();
    let postgresql = Postgresql::new(world._site.secrets(), Arc::new(Transport::new()));
    let Observed::Known { value, .. } = postgresql.observe(&target, &Scope::Member, within(10.0)).await else {
        panic!("unreachable")
    };
    let shop = value.member().unwrap().clients.iter().find(|client| client.application == "shop").unwrap();
    assert_eq!((shop.count, shop.ports.len(), shop.address.as_deref()), (2, 2, Some("127.0.0.1")));
    let servers = world.facts().await.databases["accounts"].clone().unwrap().servers;
    let own = shop.ports.iter().filter(|port| servers.contains(&format!("127.0.0.1:{port}"))).count();
    assert_eq!(own, 1, "{shop:?} {servers:?}");
}

/// What other managers leave in the settings is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_manager_is_seen() {
    let world = World::start("", "").await;
    let postgresql = Postgresql::new(world._site.secrets(), Arc::new(Transport::new()));
    let manager = async || match postgresql.observe(&world.primary.target(), &Scope::Member, within(10.0)).await {
        Observed::Known { value, .. } => value.member().unwrap().settings.get("manager").cloned(),
        Observed::Unreachable(why) => panic!("{why}"),
    };
    assert_eq!(manager().await, None);
    // Patroni starts servers with their settings on the command line, and stays connected.
    let login = format!("host=127.0.0.1 port={} user=app dbname=postgres", world.primary.port);
    let (client, connection) =
        tokio_postgres::connect(&format!("{login} application_name='Patroni heartbeat'"), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    assert_eq!(manager().await.as_deref(), Some("Patroni"));
    drop(client);
    world.primary.stop();
    world.primary.start_with("--cluster_name=accounts --max_prepared_transactions=0 --wal_level=replica");
    assert_eq!(manager().await.as_deref(), Some("Patroni"));
    world.primary.stop();
    std::fs::write(world.primary.data.join("postgresql-auto-failover.conf"), "cluster_name = 'accounts'\n").unwrap();
    let conf = world.primary.data.join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("include 'postgresql-auto-failover.conf'\n{text}")).unwrap();
    world.primary.start();
    assert_eq!(manager().await.as_deref(), Some("pg_auto_failover"));
    // repmgr is a library of this name; any other does as well.
    let library = world.primary.data.join("repmgr.so");
    std::os::unix::fs::symlink("/usr/lib/postgresql/15/lib/auto_explain.so", &library).unwrap();
    std::fs::write(&conf, format!("{text}\nshared_preload_libraries = '{}'\n", library.display())).unwrap();
    world.primary.stop();
    world.primary.start();
    assert_eq!(manager().await.as_deref(), Some("repmgr"));
    let named = "auto_explain";
    std::fs::write(&conf, format!("{text}\nshared_preload_libraries = '{named}'\n")).unwrap();
    world.primary.stop();
    world.primary.start();
    assert_eq!(manager().await, None, "{named} is no manager");
}
