//! Switchovers of real PostgreSQL servers behind a real pgbouncer, under write load, phase by phase through the providers.
#![allow(clippy::disallowed_methods, reason = "tests start servers and write their files")]

mod common;
#[path = "common/postgres.rs"]
mod servers;
#[path = "common/writers.rs"]
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use handover::journal::Permit;
use handover::model::{
    Action, Condition, Facts, FromTo, Lineage, MemberFacts, Observed, Position, Role, Scope, Target,
};
use handover::provider::pgbouncer::Pgbouncer;
use handover::provider::postgresql::{
    FINISH_DEMOTION, FINISH_PROMOTION, PREPARE_DEMOTION, PREPARE_PROMOTION, Postgresql, UNPREPARE_DEMOTION,
    UNPREPARE_PROMOTION,
};
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use servers::{Member, Pooler, Site};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use writers::Load;

fn within(seconds: f64) -> Instant {
    Instant::now() + Duration::from_secs_f64(seconds)
}

fn args<const N: usize>(items: [(&str, Vec<&str>); N]) -> BTreeMap<String, Vec<String>> {
    items.into_iter().map(|(key, values)| (key.to_owned(), values.into_iter().map(str::to_owned).collect())).collect()
}

/// Clients that log in all the time, write a row and leave.
struct Logins {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(usize, Duration, Vec<String>)>>,
}

impl Logins {
    fn start(pooler: &Pooler) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, port) = (Arc::clone(&stop), pooler.port);
            tokio::spawn(async move {
                let login = format!("host=127.0.0.1 port={port} user=app password=app-secret dbname=accounts");
                let (mut count, mut longest, mut failed) = (0, Duration::ZERO, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let visit = async {
                        let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await?;
                        tokio::spawn(connection);
                        client.simple_query("SELECT pg_logical_emit_message(true, 'visit', '')").await
                    };
                    failed.extend(visit.await.err().map(|error| format!("{error:?}")));
                    longest = longest.max(began.elapsed());
                    count += 1;
                }
                (count, longest, failed)
            })
        };
        Self { clients: (0..3).map(client).collect(), stop }
    }

    async fn nothing_failed_or_hung(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let (count, longest, failed) =
                tokio::time::timeout(Duration::from_secs(10), client).await.expect("logins hang").unwrap();
            assert!(failed.is_empty(), "{} of {count} failed: {:?}", failed.len(), failed.first());
            println!("{count} logins, 0 failed, longest {longest:?}");
            // `server_login_retry` is 15 s.
            assert!(count > 10 && longest < Duration::from_secs(5), "{count} logins, longest {longest:?}");
        }
    }
}

struct World {
    members: BTreeMap<&'static str, Member>,
    pooler: Pooler,
    postgresql: Arc<dyn Provider>,
    pgbouncer: Arc<dyn Provider>,
    permit: Permit,
    _site: Site,
}

impl World {
    /// A primary `a` and its replicas.
    async fn start(replicas: &[&'static str]) -> Self {
        let site = Site::new();
        let primary = Member::primary(&site, "a-pg1");
        let mut members = BTreeMap::new();
        for name in replicas {
            members.insert(*name, Member::replica(&site, name, &primary));
        }
        let pooler = Pooler::start(&site, &primary.address());
        members.insert("a-pg1", primary);
        let transport = Arc::new(Transport::new());
        Self {
            postgresql: Arc::new(Postgresql::new(site.secrets(), Arc::clone(&transport))),
            pgbouncer: Arc::new(Pgbouncer::new(site.secrets(), transport)),
            permit: common::permit().await,
            members,
            pooler,
            _site: site,
        }
    }

    fn synchronous(&self, primary: &str, names: &str) {
        self.members[primary].sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        self.members[primary].sql("SELECT pg_reload_conf()");
        self.members[primary].until("SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'sync'", "t");
    }

    fn provider(&self, target: &Target) -> &Arc<dyn Provider> {
        if target.provider.as_str() == "pgbouncer" { &self.pgbouncer } else { &self.postgresql }
    }

    /// Applies, verifies and prints how long both took.
    async fn step(&self, target: &Target, action: Action, condition: Condition) -> Facts {
        let provider = self.provider(target);
        let began = Instant::now();
        let outcome = provider.apply(target, &action, &self.permit, within(15.0)).await;
        assert!(outcome.taken(), "{} at {}: {outcome:?}", action.verb(), target.name());
        let applied = began.elapsed();
        let facts = self.verified(target, &condition).await;
        let verified = began.elapsed() - applied;
        println!("{:>20} {:<12} {applied:>12.2?}   verified in {verified:.2?}", action.verb(), target.name());
        facts
    }

    async fn verified(&self, target: &Target, condition: &Condition) -> Facts {
        match self.provider(target).verify(target, condition, within(20.0)).await {
            Observed::Known { value, .. } => {
                assert_eq!(condition.holds(&value), Ok(()), "{} {condition:?}", target.name());
                value
            }
            Observed::Unreachable(why) => panic!("{}: {why}", target.name()),
        }
    }

    async fn observe(&self, target: &Target) -> Observed<Facts> {
        let scope = match target.provider.as_str() {
            "pgbouncer" => Scope::PoolerDatabases(BTreeSet::from(["accounts".into()])),
            _ => Scope::Member,
        };
        self.provider(target).observe(target, &scope, within(5.0)).await
    }

    async fn member(&self, name: &str) -> MemberFacts {
        match self.observe(&self.members[name].target()).await {
            Observed::Known { value, .. } => value.member().unwrap().clone(),
            Observed::Unreachable(why) => panic!("{name}: {why}"),
        }
    }

    async fn prepare(&self, old: &str, new: &str, others: &[&str], remaining: &str) {
        let (old, new) = (&self.members[old], &self.members[new]);
        let mut followers = vec![old.name.as_str()];
        followers.extend(others);
        let arguments = args([("followers", followers), ("synchronous", vec![remaining])]);
        self.native(new, PREPARE_PROMOTION, arguments).await;
        let arguments = args([("primary", vec![&new.name, &new.address()])]);
        self.native(old, PREPARE_DEMOTION, arguments).await;
        let route = FromTo { from: old.address(), to: new.address() };
        let written = Condition::RouteWritten { database: "accounts".into(), to: new.address() };
        self.step(&self.pooler.target(), Action::WriteRoute { database: "accounts".into(), route }, written).await;
        let fence = Action::Fence { successor: new.peer() };
        for target in [&old.target(), &new.target(), &self.pooler.target()] {
            self.provider(target).warm_up(target, within(5.0)).await;
        }
        assert_eq!(self.postgresql.prepare(&old.target(), &fence, &self.permit, within(5.0)).await, None);
        let pause = Action::Pause { database: "accounts".into() };
        common::taken(&self.pgbouncer.prepare(&self.pooler.target(), &pause, &self.permit, within(5.0)).await.unwrap());
    }

    async fn native(&self, member: &Member, verb: &str, args: BTreeMap<String, Vec<String>>) {
        let action = Action::Native { verb: verb.to_owned(), args: args.clone() };
        self.step(&member.target(), action, Condition::Native { verb: verb.to_owned(), args, done: true }).await;
    }

    async fn pause(&self) {
        let paused = Condition::Paused { database: "accounts".into(), paused: true };
        self.step(&self.pooler.target(), Action::Pause { database: "accounts".into() }, paused).await;
    }

    async fn resume(&self) {
        let resumed = Condition::Paused { database: "accounts".into(), paused: false };
        self.step(&self.pooler.target(), Action::Resume { database: "accounts".into() }, resumed).await;
    }

    /// Fences; returns the final position.
    async fn fence(&self, old: &str, new: &str) -> Position {
        let fenced = Condition::Role { role: Role::Fenced, lineage: None };
        let action = Action::Fence { successor: self.members[new].peer() };
        let facts = self.step(&self.members[old].target(), action, fenced).await;
        facts.member().unwrap().position
    }

    /// The whole switchover; `others` follow the new primary too, `complete` are its synchronous names in the end.
    async fn switch(&self, old: &str, new: &str, others: &[&str], remaining: &str, complete: &str) {
        let lineage = self.member(old).await.lineage;
        self.prepare(old, new, others, remaining).await;
        let (old, new) = (&self.members[old], &self.members[new]);
        let database = || "accounts".into();
        // Those that remain follow the candidate before it is primary: commits that wait for them go on at once.
        for name in others {
            let follows = Condition::Follows { primary: new.peer() };
            self.step(&self.members[*name].target(), Action::Rejoin { primary: new.peer() }, follows).await;
        }
        let began = Instant::now();
        self.pause().await;
        let position = Some(self.fence(&old.name, &new.name).await);
        let action = Action::CatchUp { behind: old.id(), position };
        self.step(&new.target(), action, Condition::AppliedBeyond { position }).await;
        let promoted = Condition::Promoted { beyond: lineage.clone() };
        self.step(&new.target(), Action::Promote { lineage }, promoted).await;
        let route = FromTo { from: old.address(), to: new.address() };
        let routed = Condition::Routed { database: database(), to: new.address() };
        self.step(&self.pooler.target(), Action::Redirect { database: database(), route }, routed.clone()).await;
        self.verified(&self.pooler.target(), &Condition::Paused { database: database(), paused: false }).await;
        println!("pause to resume: {:?}", began.elapsed());
        let action = Action::Marker { database: database(), primary: new.peer() };
        self.step(&self.pooler.target(), action, routed).await;
        let follows = Condition::Follows { primary: new.peer() };
        self.step(&old.target(), Action::Rejoin { primary: new.peer() }, follows).await;
        let mut replicas = vec![old.name.as_str()];
        replicas.extend(others);
        let arguments = args([("followers", replicas.clone()), ("synchronous", vec![complete])]);
        self.native(new, FINISH_PROMOTION, arguments).await;
        let mut stale = vec![new.name.as_str()];
        stale.extend(others);
        self.native(old, FINISH_DEMOTION, args([("stale", stale)])).await;
        let replicas = replicas.into_iter().map(str::to_owned).collect();
        let redundant = Condition::Redundant { replicas, synchronous: !complete.is_empty() };
        self.verified(&new.target(), &redundant).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_under_load_nothing_fails_and_nothing_is_lost() {
    let world = World::start(&["b-pg1", "c-pg1"]).await;
    world.synchronous("a-pg1", "FIRST 1 (\"b-pg1\")");
    let (load, logins) = (Load::start(&world.pooler), Logins::start(&world.pooler));
    tokio::time::sleep(Duration::from_millis(300)).await;
    // `c` stays synchronous while `a` is away.
    world.switch("a-pg1", "b-pg1", &["c-pg1"], "FIRST 1 (\"c-pg1\")", "FIRST 1 (\"a-pg1\")").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = load.stop().await;
    seen.nothing_failed_or_lost(&world.members["b-pg1"]);
    assert!(seen.stall < Duration::from_secs(4), "{:?}", seen.stall);
    logins.nothing_failed_or_hung().await;
    let (load, logins) = (Load::start(&world.pooler), Logins::start(&world.pooler));
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.switch("b-pg1", "a-pg1", &["c-pg1"], "", "FIRST 1 (\"b-pg1\")").await;
    let seen = load.stop().await;
    seen.nothing_failed_or_lost(&world.members["a-pg1"]);
    assert!(seen.stall < Duration::from_secs(4), "{:?}", seen.stall);
    logins.nothing_failed_or_hung().await;
    // Nothing temporary is left anywhere, and no slot holds log for somebody who will not come.
    for (name, slots) in [("a-pg1", "b_pg1,c_pg1"), ("b-pg1", ""), ("c-pg1", "")] {
        let facts = world.member(name).await;
        let found: Vec<&str> = facts.slots.iter().map(|slot| slot.name.as_str()).collect();
        assert_eq!(found.join(","), slots, "{name}");
        assert_eq!(facts.settings["wal_retrieve_retry_interval"], "5s", "{name}");
        assert_eq!(facts.settings["rights"], "complete", "{name}");
        assert_eq!(facts.settings["rights_to_release"], "complete", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_primary_refuses_writes_and_returns_only_as_a_replica_until_the_fence_is_undone() {
    let world = World::start(&["b-pg1"]).await;
    let before = world.member("a-pg1").await;
    let load = Load::start(&world.pooler);
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.prepare("a-pg1", "b-pg1", &[], "").await;
    let (a, b) = (&world.members["a-pg1"], &world.members["b-pg1"]);
    world.pause().await;
    let position = world.fence("a-pg1", "b-pg1").await;
    // Twice is once.
    assert_eq!(world.fence("a-pg1", "b-pg1").await, position);
    let login = format!("host=127.0.0.1 port={} user=app dbname=postgres", a.port);
    assert!(tokio_postgres::connect(&login, tokio_postgres::NoTls).await.is_err());
    assert_eq!(world.member("a-pg1").await.role, Role::Fenced);
    // Whoever starts it by hand gets a replica.
    a.start();
    let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let refused = client.simple_query("INSERT INTO ledger (id) VALUES (-1)").await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("25006"), "{refused}");
    drop(client);
    // Undone, it is the primary that it was, and clients go on.
    let primary = Condition::Role { role: Role::Primary, lineage: Some(before.lineage.clone()) };
    let unfence = Action::Unfence { lineage: before.lineage };
    world.step(&a.target(), unfence.clone(), primary.clone()).await;
    world.step(&a.target(), unfence.clone(), primary.clone()).await;
    world.resume().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let seen = load.stop().await;
    seen.nothing_failed_or_lost(a);
    let undo = args([("followers", vec!["a-pg1"]), ("synchronous", vec![""])]);
    world.native(b, UNPREPARE_PROMOTION, undo).await;
    let undo = args([("primary", vec![&b.name, &b.address()])]);
    world.native(a, UNPREPARE_DEMOTION, undo).await;
    // A fence that never happened is undone as well.
    world.step(&a.target(), unfence, primary).await;
    b.until("SELECT status FROM pg_stat_wal_receiver", "streaming");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_replica_does_not_hold_the_fence_up() {
    let world = World::start(&["b-pg1", "c-pg1"]).await;
    world.prepare("a-pg1", "b-pg1", &[], "").await;
    world.members["c-pg1"].signal("-STOP");
    // Something that the frozen replica cannot confirm.
    world.members["a-pg1"].sql("INSERT INTO ledger (id) VALUES (-2)");
    let began = Instant::now();
    world.fence("a-pg1", "b-pg1").await;
    let took = began.elapsed();
    world.members["c-pg1"].signal("-CONT");
    println!("fence beside a frozen replica: {took:?}");
    // `wal_sender_timeout` is 60 s.
    assert!((Duration::from_millis(150)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_cannot_end_is_undone_by_its_deadline() {
    let world = World::start(&[]).await;
    let load = Load::start(&world.pooler);
    let login = format!("host=127.0.0.1 port={} user=app password=app-secret dbname=accounts", world.pooler.port);
    let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.simple_query("BEGIN; INSERT INTO ledger (id) VALUES (-3)").await.unwrap();
    let pooler = world.pooler.target();
    let began = Instant::now();
    let action = Action::Pause { database: "accounts".into() };
    let (outcome, meanwhile) = tokio::join!(
        world.pgbouncer.apply(&pooler, &action, &world.permit, began + Duration::from_millis(800)),
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            world.observe(&pooler).await
        }
    );
    // One that was asked for and has not come is neither a pause nor the absence of one.
    let Observed::Known { value, .. } = meanwhile else { panic!("unreachable") };
    let pool = value.pooler().unwrap().databases["accounts"].clone().unwrap();
    assert!(pool.pausing && !pool.paused, "{pool:?}");
    for paused in [true, false] {
        assert!(Condition::Paused { database: "accounts".into(), paused }.holds(&value).is_err());
    }
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    let Outcome::NotApplied(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.to_string().contains("clients go on"), "{why}");
    world.verified(&pooler, &Condition::Paused { database: "accounts".into(), paused: false }).await;
    client.simple_query("COMMIT").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    load.stop().await.nothing_failed_or_lost(&world.members["a-pg1"]);
    // With the transaction gone it works; resuming twice is once.
    world.pause().await;
    world.resume().await;
    world.resume().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_seen_or_done_is_said_and_never_guessed() {
    let world = World::start(&["b-pg1"]).await;
    let (a, b) = (&world.members["a-pg1"], &world.members["b-pg1"]);
    let unreachable = |observed: Observed<Facts>| match observed {
        Observed::Unreachable(why) => why.to_string(),
        Observed::Known { value, .. } => panic!("{value:?}"),
    };
    let wrong = unreachable(world.observe(&a.target_as("handover", "wrong")).await);
    assert!(wrong.contains("password authentication failed") && wrong.contains("check the role"), "{wrong}");
    assert!(!wrong.contains("no\n"), "{wrong}");
    let rightless = unreachable(world.observe(&a.target_as("nobody", "postgresql")).await);
    assert!(rightless.contains("permission denied") && rightless.contains("docs/providers.md"), "{rightless}");
    let pooler = world.pooler.target_as("looker");
    let Observed::Known { value, .. } = world.observe(&pooler).await else { panic!("unreachable") };
    assert!(!value.pooler().unwrap().writable);
    let pause = Action::Pause { database: "accounts".into() };
    let refused = world.pgbouncer.apply(&pooler, &pause, &world.permit, within(2.0)).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("admin_users")), "{refused:?}");

    // A write through the pooler that lands elsewhere than it should is no success.
    let marker = |primary: &Member| Action::Marker { database: "accounts".into(), primary: primary.peer() };
    let target = world.pooler.target();
    common::taken(&world.pgbouncer.apply(&target, &marker(a), &world.permit, within(5.0)).await);
    let elsewhere = world.pgbouncer.apply(&target, &marker(b), &world.permit, within(5.0)).await;
    assert!(matches!(elsewhere, Outcome::Unknown(_)), "{elsewhere:?}");

    // A replica that does not replay is seen, and is not waited for beyond the deadline.
    b.sql("SELECT pg_wal_replay_pause()");
    a.sql("INSERT INTO ledger (id) VALUES (-4)");
    let ahead: Position = a.sql("SELECT pg_current_wal_lsn()").parse().unwrap();
    b.until("SELECT pg_get_wal_replay_pause_state()", "paused");
    let facts = world.member("b-pg1").await;
    assert!(facts.replay_paused && facts.receives_from == Some(a.address()), "{facts:?}");
    let action = Action::CatchUp { behind: a.id(), position: Some(ahead) };
    let late = world.postgresql.apply(&b.target(), &action, &world.permit, within(0.3)).await;
    assert!(matches!(late, Outcome::NotApplied(_)), "{late:?}");
    b.sql("SELECT pg_wal_replay_resume()");

    // A primary is neither promoted nor made to follow; a replica is not fenced.
    let Lineage { system, timeline } = world.member("a-pg1").await.lineage;
    let lineage = Lineage { system, timeline };
    for (member, action) in [
        (a, Action::Promote { lineage }),
        (a, Action::Rejoin { primary: b.peer() }),
        (b, Action::Fence { successor: a.peer() }),
    ] {
        let outcome = world.postgresql.apply(&member.target(), &action, &world.permit, within(5.0)).await;
        assert!(matches!(outcome, Outcome::NotApplied(_)), "{} {outcome:?}", action.verb());
    }
    assert_eq!(world.member("b-pg1").await.role, Role::Replica);

    // A long transaction is seen with its age; so is a client.
    let login = format!("host=127.0.0.1 port={} user=app dbname=postgres application_name=report", a.port);
    let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.simple_query("BEGIN").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let facts = world.member("a-pg1").await;
    assert!(facts.long_transactions.iter().any(|open| open.application == "report"), "{facts:?}");
    assert!(facts.clients.iter().any(|client| client.application == "report" && client.count == 1), "{facts:?}");
    assert!(facts.clients.iter().all(|client| client.user != "handover"), "{facts:?}");
    drop(client);

    b.stop();
    let stopped = unreachable(world.observe(&Target { host: None, ..b.target() }).await);
    assert!(stopped.contains("refused"), "{stopped}");
}
