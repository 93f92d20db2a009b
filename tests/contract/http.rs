//! Provider `http` against a small real server in this process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use handover::model::{
    Action, Condition, FacilityName, Facts, HealthCheck, Observed, ProviderName, Scope, ServerFacts, Settings, Target,
    TargetId, TargetKind,
};
use handover::provider::http::HttpHealth;
use handover::provider::{Outcome, Provider};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::common;

/// Answers every request of every connection with `status`; 0 means never, and 1 breaks the body off.
struct App {
    address: String,
    status: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
    request: Arc<std::sync::Mutex<String>>,
    task: JoinHandle<()>,
}

impl App {
    async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let status = Arc::new(AtomicU16::new(status));
        let connections = Arc::new(AtomicUsize::new(0));
        let request = Arc::new(std::sync::Mutex::new(String::new()));
        let (answer, count, seen) = (status.clone(), connections.clone(), request.clone());
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (answer, seen) = (answer.clone(), seen.clone());
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    let Ok(read) = stream.read(&mut buffer).await else { return };
                    *seen.lock().unwrap() = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let reply = match answer.load(Ordering::SeqCst) {
                        0 => return std::future::pending().await,
                        1 => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it".to_owned(),
                        302 => "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".to_owned(),
                        status => format!("HTTP/1.1 {status} Some\r\nContent-Length: 2\r\n\r\nok"),
                    };
                    let _ = stream.write_all(reply.as_bytes()).await;
                });
            }
        });
        Self { address, status, connections, request, task }
    }

    fn target(&self) -> Target {
        target(&self.address)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn target(address: &str) -> Target {
    Target {
        id: TargetId::server(&"orderform".into(), "west-app1"),
        kind: TargetKind::Server,
        facility: FacilityName::new("west"),
        provider: ProviderName::new("http"),
        address: address.to_owned(),
        settings: Settings::default(),
        host: None,
    }
}

fn check() -> HealthCheck {
    HealthCheck { path: "/health".to_owned(), expect: 200, host: "pay.clickbank.example".to_owned() }
}

fn within(time: Duration) -> Instant {
    Instant::now() + time
}

async fn observe(target: &Target) -> Result<ServerFacts, String> {
    let observed = HttpHealth::new().observe(target, &Scope::Health(check()), within(Duration::from_millis(500))).await;
    match observed {
        Observed::Known { value: Facts::Server(facts), .. } => Ok(facts),
        Observed::Known { value, .. } => panic!("{value:?}"),
        Observed::Unreachable(why) => Err(why.to_string()),
    }
}

#[tokio::test]
async fn it_asks_as_a_client_of_the_service_would() {
    let app = App::start(200).await;
    let facts = observe(&app.target()).await.unwrap();
    assert!(facts.healthy && facts.latency < Duration::from_millis(500), "{facts:?}");
    let request = app.request.lock().unwrap().to_lowercase();
    assert!(request.starts_with("get /health http/1.1\r\n"), "{request}");
    assert_eq!(request.matches("host:").count(), 1, "{request}");
    assert!(request.contains("host: pay.clickbank.example\r\n"), "{request}");
}

#[tokio::test]
async fn another_status_is_known_and_not_healthy_and_no_redirect_is_followed() {
    for status in [503, 302, 204] {
        let app = App::start(status).await;
        let facts = observe(&app.target()).await.unwrap();
        assert_eq!((facts.healthy, facts.status), (false, status));
        assert_eq!(app.connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn no_answer_is_unreachable_with_the_reason() {
    let refused = observe(&target("127.0.0.1:1")).await.unwrap_err();
    assert!(refused.starts_with("connection refused (GET http://127.0.0.1:1/health"), "{refused}");
    let began = Instant::now();
    let silent = App::start(0).await;
    let why = observe(&silent.target()).await.unwrap_err();
    assert!(why.starts_with("no answer within "), "{why}");
    assert!(began.elapsed() < Duration::from_secs(2));
    let broken = App::start(1).await;
    let why = observe(&broken.target()).await.unwrap_err();
    assert!(why.starts_with("it broke its answer 200 off"), "{why}");
    let invalid = observe(&target("not an address")).await.unwrap_err();
    assert!(invalid.starts_with("the request cannot be made"), "{invalid}");
}

#[tokio::test]
async fn every_question_is_a_new_connection() {
    let app = App::start(200).await;
    let provider = HttpHealth::new();
    for asked in 1..=3 {
        provider.observe(&app.target(), &Scope::Health(check()), within(Duration::from_secs(2))).await;
        assert_eq!(app.connections.load(Ordering::SeqCst), asked);
    }
}

#[tokio::test]
async fn verify_waits_until_the_server_is_healthy() {
    let app = App::start(503).await;
    let provider = HttpHealth::new();
    let condition = Condition::Healthy { check: check() };
    let sick = provider.verify(&app.target(), &condition, within(Duration::from_millis(250))).await;
    assert!(condition.holds(sick.known().unwrap()).is_err());
    assert!(app.connections.load(Ordering::SeqCst) >= 2, "it was asked only once");

    let status = app.status.clone();
    let recovery = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        status.store(200, Ordering::SeqCst);
    });
    let well = provider.verify(&app.target(), &condition, within(Duration::from_secs(10))).await;
    assert_eq!(condition.holds(well.known().unwrap()), Ok(()));
    recovery.await.unwrap();
}

#[tokio::test]
async fn a_question_that_was_lost_is_asked_again() {
    let app = App::start(0).await;
    let condition = Condition::Healthy { check: check() };
    let (provider, target) = (HttpHealth::new(), app.target());
    let (seen, ()) = tokio::join!(provider.verify(&target, &condition, within(Duration::from_secs(10))), async {
        while app.connections.load(Ordering::SeqCst) == 0 || app.request.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The first question stays without an answer for ever.
        tokio::time::sleep(Duration::from_millis(100)).await;
        app.status.store(200, Ordering::SeqCst);
    });
    assert_eq!(condition.holds(seen.known().unwrap()), Ok(()));
}

#[tokio::test]
async fn nothing_is_ever_changed() {
    let app = App::start(200).await;
    let permit = common::permit().await;
    let provider = HttpHealth::new();
    let outcome = provider.apply(&app.target(), &Action::Stop, &permit, within(Duration::from_secs(1))).await;
    assert!(matches!(&outcome, Outcome::NotApplied(why) if why.why == "an application server is only read"));
    let scope = Scope::Records(BTreeSet::new());
    let observed = provider.observe(&app.target(), &scope, within(Duration::from_secs(1))).await;
    assert!(matches!(observed, Observed::Unreachable(_)));
    assert_eq!(app.connections.load(Ordering::SeqCst), 0);
}
