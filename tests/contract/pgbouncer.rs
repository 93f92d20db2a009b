//! pgbouncer: its clients are paused and let go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use handover::model::{Action, Condition, Facts, FromTo, Scope, Target};
use handover::provider::pgbouncer::Pgbouncer;
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::servers::{Pooler, Site, free_port};
use crate::{Subject, common};

pub struct Bouncer {
    // Dropped in this order: the server before its directory.
    pooler: Pooler,
    site: Site,
}

#[async_trait]
impl Subject for Bouncer {
    async fn start() -> Self {
        let site = Site::new();
        // Nobody has to be there: nobody asks.
        Self { pooler: Pooler::start(&site, "127.0.0.1:1"), site }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(Pgbouncer::new(self.site.secrets(), Arc::new(Transport::new())))
    }

    fn target(&self) -> Target {
        self.pooler.target()
    }

    fn nobody(&self) -> Target {
        Target { address: format!("127.0.0.1:{}", free_port()), ..self.target() }
    }

    fn scope(&self) -> Scope {
        Scope::PoolerDatabases(BTreeSet::from(["accounts".into(), "none".into()]))
    }

    fn action(&self) -> Action {
        Action::Pause { database: "accounts".into() }
    }

    fn condition(&self) -> Condition {
        Condition::Paused { database: "accounts".into(), paused: true }
    }

    fn undo(&self) -> Action {
        Action::Resume { database: "accounts".into() }
    }

    fn undone(&self) -> Condition {
        Condition::Paused { database: "accounts".into(), paused: false }
    }

    fn stale(&self) -> Option<Action> {
        let route = FromTo { from: "127.0.0.1:2".to_owned(), to: "127.0.0.1:3".to_owned() };
        Some(Action::WriteRoute { database: "accounts".into(), route })
    }

    async fn hang(&self) {
        self.pooler.signal("-STOP");
    }

    async fn unhang(&self) {
        self.pooler.signal("-CONT");
    }

    fn comparable(&self, facts: &Facts) -> String {
        format!("{:#?}", facts.pooler().unwrap())
    }
}

crate::contract!(Bouncer);

/// Stands between us and the pooler; breaks the connections that are open, and not those that come later.
struct Relay {
    port: u16,
    /// Connections with a lower number are dead.
    alive_from: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    /// With `silent`, what a dead connection sends disappears; otherwise it is closed at that moment.
    async fn start(to: u16, silent: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (alive_from, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (limit, count) = (Arc::clone(&alive_from), Arc::clone(&opened));
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (mut near_in, mut near_out) = near.into_split();
                let (mut far_in, mut far_out) = TcpStream::connect(("127.0.0.1", to)).await.unwrap().into_split();
                let back = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut far_in, &mut near_out).await;
                });
                let limit = Arc::clone(&limit);
                tokio::spawn(async move {
                    let mut text = [0; 4096];
                    loop {
                        let size = near_in.read(&mut text).await.unwrap_or(0);
                        let dead = number < limit.load(Ordering::SeqCst);
                        if size == 0 || (dead && !silent) {
                            break;
                        }
                        if !dead && far_out.write_all(&text[..size]).await.is_err() {
                            break;
                        }
                    }
                    back.abort();
                    let _ = far_out.shutdown().await;
                });
            }
        });
        Self { port, alive_from, opened, task }
    }
}

impl Relay {
    fn kill_open_connections(&self) {
        self.alive_from.store(self.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_died_since_the_pause_do_not_keep_clients_from_going_on() {
    let database = || "accounts".into();
    let there = FromTo { from: "127.0.0.1:1".to_owned(), to: "127.0.0.1:2".to_owned() };
    let paused = |paused| Condition::Paused { database: database(), paused };
    for silent in [false, true] {
        let subject = Bouncer::start().await;
        let (provider, permit) = (subject.provider(), common::permit().await);
        let relay = Relay::start(subject.pooler.port, silent).await;
        let target = Target { address: format!("127.0.0.1:{}", relay.port), ..subject.target() };
        let written = Action::WriteRoute { database: database(), route: there.clone() };
        for (action, condition) in [
            (Action::Redirect { database: database(), route: there.clone() }, paused(false)),
            (Action::Resume { database: database() }, paused(false)),
            (
                Action::RestoreRoute { database: database(), route: there.reversed() },
                Condition::Routed { database: database(), to: there.from.clone() },
            ),
            (Action::Pause { database: database() }, paused(true)),
        ] {
            // What goes dead in silence shows only at the deadline of PAUSE, which then lets clients go on.
            if silent && matches!(action, Action::Pause { .. }) {
                continue;
            }
            if matches!(action, Action::Redirect { .. }) {
                assert_eq!(provider.apply(&target, &written, &permit, soon()).await, Outcome::Applied);
            }
            provider.warm_up(&target, soon()).await;
            if !matches!(action, Action::Pause { .. }) {
                let pause = Action::Pause { database: database() };
                assert_eq!(provider.apply(&target, &pause, &permit, soon()).await, Outcome::Applied);
            }
            relay.kill_open_connections();
            let outcome = provider.apply(&target, &action, &permit, soon()).await;
            assert_eq!(outcome, Outcome::Applied, "{} (silent: {silent})", action.verb());
            // By a provider without any session.
            assert!(crate::holds(&subject.provider(), &subject.target(), &condition, Duration::from_secs(2)).await);
            let resume = Action::Resume { database: database() };
            assert_eq!(provider.apply(&target, &resume, &permit, soon()).await, Outcome::Applied);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_that_leads_elsewhere_is_unknown_and_twice_is_once() {
    let subject = Bouncer::start().await;
    let (provider, permit, target) = (subject.provider(), common::permit().await, subject.target());
    let route = FromTo { from: "127.0.0.1:1".to_owned(), to: "127.0.0.1:2".to_owned() };
    let redirect = Action::Redirect { database: "accounts".into(), route: route.clone() };
    let outcome = provider.apply(&target, &redirect, &permit, soon()).await;
    assert!(matches!(&outcome, Outcome::Unknown(why) if why.to_string().contains("127.0.0.1:1")), "{outcome:?}");
    let write = Action::WriteRoute { database: "accounts".into(), route };
    assert_eq!(provider.apply(&target, &write, &permit, soon()).await, Outcome::Applied);
    for action in [&Action::Pause { database: "accounts".into() }, &redirect, &redirect] {
        assert_eq!(provider.apply(&target, action, &permit, soon()).await, Outcome::Applied);
    }
    for condition in [
        Condition::Paused { database: "accounts".into(), paused: false },
        Condition::Routed { database: "accounts".into(), to: "127.0.0.1:2".to_owned() },
    ] {
        assert!(crate::holds(&provider, &target, &condition, Duration::from_secs(2)).await, "{condition:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_file_is_written_too_and_one_that_changed_is_not() {
    let subject = Bouncer::start().await;
    let (provider, permit, target) = (subject.provider(), common::permit().await, subject.target());
    let path = &subject.pooler.databases;
    let text = std::fs::read_to_string(path).unwrap() + &"; a line that makes it long\n".repeat(10_000);
    std::fs::write(path, &text).unwrap();
    let route = |to: &str| FromTo { from: "127.0.0.1:1".to_owned(), to: to.to_owned() };
    let write = |route| Action::WriteRoute { database: "accounts".into(), route };
    let outcome = provider.apply(&target, &write(route("127.0.0.1:2")), &permit, soon()).await;
    assert_eq!(outcome, Outcome::Applied);
    assert_eq!(std::fs::read_to_string(path).unwrap(), text.replace("port=1 ", "port=2 "));
    // The provider remembers its own text; somebody else's stays.
    let theirs = text.replace("port=1 ", "port=9 ");
    std::fs::write(path, &theirs).unwrap();
    let outcome = provider.apply(&target, &write(route("127.0.0.1:1").reversed()), &permit, soon()).await;
    assert!(matches!(outcome, Outcome::NotApplied(_)), "{outcome:?}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), theirs);
}
