//! What the load and the application servers promise.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::stack::{Stack, answers, connect, http, start_app, start_pgbouncer};
use axum::serve::ListenerExt;
use lab::app::Endpoint;
use lab::load::lost::{final_primary, lost, read_acknowledged, read_ids};
use lab::load::{Config, Handle, Load, Readers, Report, Writers, ids_path};
use nix::sys::signal::Signal;
use serde_json::Value;

fn config(stack: &Stack) -> Config {
    let readers = Readers { url: stack.url(), rate: 100.0, clients: 4 };
    let writers = Writers { url: stack.url(), interval: Duration::from_millis(10), clients: 2 };
    Config {
        readers: BTreeMap::from([("orderform".to_owned(), readers)]),
        writers: BTreeMap::from([("accounts".to_owned(), writers.clone()), ("products".to_owned(), writers)]),
        acknowledged: stack.path("acknowledged"),
        first_id: 1,
        timeout: Duration::from_secs(10),
        connection_lifetime: Duration::from_millis(300),
    }
}

/// Waits until the account says so.
async fn until(load: &Handle, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
    let started = Instant::now();
    loop {
        let report = load.snapshot();
        if condition(&report) {
            return report;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "not within 20 s: {what}; {report:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn everybody_wrote(report: &Report, count: u64) -> bool {
    report.databases.values().all(|database| database.writes >= count)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_and_what_is_not_there_is_lost() {
    let stack = Stack::start().await;
    let load = Load::start(config(&stack)).unwrap();
    until(&load, "writes and reads", |report| everybody_wrote(report, 100) && report.http.requests >= 150).await;
    let report = load.stop().await;
    assert!(report.finished && report.is_clean(), "{report:#?}");
    let service = &report.services["orderform"];
    let (west, east) = (service.facilities["west"], service.facilities["east"]);
    assert_eq!(service.requests, west + east);
    assert!(west.abs_diff(east) <= service.requests / 5, "round robin serves both alike: {west} and {east}");
    assert!(service.latency.p50_ms > 0.0 && service.latency.p50_ms <= service.latency.max_ms);

    for database in ["accounts", "products"] {
        let ids = read_ids(&ids_path(&stack.path("acknowledged"), database)).await.unwrap();
        assert_eq!(ids.len() as u64, report.databases[database].writes);
        let primary = stack.database(database).await;
        assert_eq!(lost(&primary, &ids).await.unwrap(), Vec::<i64>::new());
        let (first, last) = (ids[0], ids[ids.len() - 1]);
        primary.execute("DELETE FROM writes WHERE id = ANY ($1)", &[&[first, last].as_slice()]).await.unwrap();
        assert_eq!(lost(&primary, &ids).await.unwrap(), [first.min(last), first.max(last)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pooler_makes_clients_wait_and_none_fail() {
    let stack = Stack::start().await;
    let load = Load::start(config(&stack)).unwrap();
    until(&load, "first writes", |report| everybody_wrote(report, 20)).await;
    stack.console("PAUSE accounts").await;
    let paused = Instant::now();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    for port in [stack.ports.west, stack.ports.east] {
        let health = http().get(format!("http://127.0.0.1:{port}/health")).send().await.unwrap();
        assert_eq!(health.status(), 200, "a pause is no illness");
    }
    stack.console("RESUME accounts").await;
    let pause = paused.elapsed();
    let before = load.snapshot();
    until(&load, "more writes", |report| everybody_wrote(report, before.databases["accounts"].writes + 20)).await;
    let report = load.stop().await;
    assert!(report.is_clean(), "{report:#?}");
    let stall = |name: &str| Duration::from_millis(report.databases[name].longest_stall_ms);
    assert!(stall("accounts") >= Duration::from_millis(1200) && stall("accounts") < pause * 2, "{report:#?}");
    assert!(stall("products") < stall("accounts"), "only one database was paused: {report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_applications_are_failed_requests_and_failed_writes() {
    let mut stack = Stack::start().await;
    let load = Load::start(config(&stack)).unwrap();
    until(&load, "first writes", |report| everybody_wrote(report, 20)).await;
    stack.west.signal(Signal::SIGKILL);
    stack.east.signal(Signal::SIGKILL);
    let failed =
        |report: &Report| report.http.failed >= 10 && report.databases.values().all(|database| database.failed >= 5);
    until(&load, "failures", failed).await;
    stack.west = start_app(stack.dir.path(), "west", stack.ports.west, stack.ports.pooler);
    let before = load.snapshot();
    until(&load, "writes again", |report| everybody_wrote(report, before.databases["accounts"].writes + 20)).await;
    let report = load.stop().await;
    assert!(!report.is_clean());
    let service = &report.services["orderform"];
    assert_eq!(service.requests, service.failed + service.facilities.values().sum::<u64>());
    let reasons: Vec<_> = report.http.first_errors.iter().map(|error| error.why.as_str()).collect();
    assert!(reasons.iter().any(|why| why.starts_with("503 Service Unavailable")), "{reasons:?}");
    // Nothing that was acknowledged before, between or after the failures is lost.
    let ids = read_ids(&ids_path(&stack.path("acknowledged"), "accounts")).await.unwrap();
    assert_eq!(lost(&stack.database("accounts").await, &ids).await.unwrap(), Vec::<i64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_writes_is_named_with_its_reason() {
    let stack = Stack::start().await;
    let write = |id: i64| http().post(format!("{}write?database=accounts&id={id}", stack.url())).send();
    assert_eq!(write(1).await.unwrap().status(), 200);
    assert_eq!(write(1).await.unwrap().status(), 200, "a repeated id is no error");
    stack.database("accounts").await.batch_execute("ALTER TABLE writes OWNER TO handover").await.unwrap();
    stack.database("accounts").await.batch_execute("GRANT SELECT ON writes TO app").await.unwrap();
    let refused = write(2).await.unwrap();
    assert_eq!(refused.status(), 503);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["outcome"], "refused");
    assert_eq!(body["error"]["why"], "permission denied for table writes (SQLSTATE 42501)");
    let page: Value = http().get(stack.url()).send().await.unwrap().json().await.unwrap();
    assert_eq!(page["reads"]["accounts"]["latest"], 1, "{page}");
    assert_eq!(page["reads"]["accounts"]["from"], format!("127.0.0.1:{}", stack.ports.postgres));
    assert_eq!(http().post(format!("{}write?database=none&id=1", stack.url())).send().await.unwrap().status(), 404);
    assert_eq!(http().post(format!("{}write?database=accounts&id=x", stack.url())).send().await.unwrap().status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_pooler_closed_are_replaced() {
    let mut stack = Stack::start().await;
    let page = format!("http://127.0.0.1:{}/", stack.ports.west);
    answers(&page).await;
    stack.pgbouncer.signal(Signal::SIGKILL);
    stack.pgbouncer.wait();
    let refused = http().get(&page).send().await.unwrap();
    assert!(refused.status().is_server_error(), "{}", refused.status());
    stack.pgbouncer = start_pgbouncer(stack.dir.path());
    stack.console("SHOW VERSION").await;
    assert_eq!(http().get(&page).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_told_to_stop_finishes_what_it_began() {
    let mut stack = Stack::start().await;
    stack.console("PAUSE accounts").await;
    let url = format!("http://127.0.0.1:{}/write?database=accounts&id=1", stack.ports.west);
    let write = tokio::spawn(http().post(url).send());
    // The write has arrived when the paused pooler shows a client that waits.
    let console = connect(stack.ports.pooler, "pgbouncer").await;
    let waiting = |messages: &[tokio_postgres::SimpleQueryMessage]| {
        messages.iter().any(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                row.get("database") == Some("accounts") && row.get("cl_waiting") == Some("1")
            }
            _ => false,
        })
    };
    let started = Instant::now();
    while !waiting(&console.simple_query("SHOW POOLS").await.unwrap()) {
        assert!(started.elapsed() < Duration::from_secs(10), "no client waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stack.west.signal(Signal::SIGTERM);
    let started = Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", stack.ports.west)).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(10), "it still takes connections");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stack.console("RESUME accounts").await;
    assert_eq!(write.await.unwrap().unwrap().status(), 200);
    assert!(stack.west.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_is_whoever_takes_writes_and_there_is_one() {
    let stack = Stack::start().await;
    let member = |port: u16| Endpoint {
        name: "accounts".to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        dbname: "accounts".to_owned(),
    };
    let (real, dead) = (member(stack.ports.postgres), member(1));
    let primary = final_primary(&[dead.clone(), real.clone()], "app", "secret").await.unwrap();
    assert_eq!(primary.address, format!("127.0.0.1:{}", stack.ports.postgres));
    assert_eq!(primary.unreachable.len(), 1);
    let error = |outcome: anyhow::Result<_>| outcome.err().map(|error: anyhow::Error| error.to_string()).unwrap();
    let none = error(final_primary(&[dead], "app", "secret").await.map(drop));
    assert!(none.starts_with("no member takes writes"), "{none}");
    let two = error(final_primary(&[real.clone(), real], "app", "secret").await.map(drop));
    assert!(two.starts_with("more than one member takes writes"), "{two}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_report_and_check_and_say_so_by_their_exit_status() {
    let stack = Stack::start().await;
    let acknowledged = stack.path("acknowledged");
    let mut load = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args([
            "load",
            "--every",
            "100",
            "--until-eof",
            "--for",
            "60",
            "--service",
            &format!("orderform={}", stack.url()),
        ])
        .args(["--writer", &format!("accounts={}", stack.url()), "--report"])
        .args([stack.path("report.json").as_path(), "--acknowledged".as_ref(), &acknowledged])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(load.stdout.take().unwrap()));
    let parse = |line: std::io::Result<String>| serde_json::from_str::<Report>(&line.unwrap()).unwrap();
    let wrote = lines.by_ref().map(parse).find(|report| everybody_wrote(report, 50)).unwrap();
    assert!(!wrote.finished);
    load.stdin.take().unwrap().flush().unwrap();
    let last = lines.map(parse).last().unwrap();
    assert!(load.wait().unwrap().success() && last.finished && last.is_clean(), "{last:#?}");
    let stored: Report = serde_json::from_slice(&std::fs::read(stack.path("report.json")).unwrap()).unwrap();
    assert_eq!(stored, last);

    let check = || {
        let output = Command::new(env!("CARGO_BIN_EXE_lab"))
            .args(["lost", "--member", &format!("accounts=127.0.0.1:{}/accounts", stack.ports.postgres)])
            .args([
                "--password-file".as_ref(),
                stack.path("password").as_path(),
                "--acknowledged".as_ref(),
                &acknowledged,
            ])
            .output()
            .unwrap();
        (output.status.success(), serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let (clean, answer) = check();
    assert!(clean, "{answer}");
    assert_eq!(answer["accounts"]["acknowledged"], last.databases["accounts"].writes);
    assert_eq!(answer["accounts"]["lost"], 0);
    let ids = read_ids(&ids_path(&acknowledged, "accounts")).await.unwrap();
    stack.database("accounts").await.execute("DELETE FROM writes WHERE id = $1", &[&ids[7]]).await.unwrap();
    let (clean, answer) = check();
    assert!(!clean);
    assert_eq!(answer["accounts"]["first_lost"], serde_json::json!([ids[7]]));
    let acknowledged = read_acknowledged(&ids_path(&acknowledged, "accounts")).await.unwrap();
    assert_eq!(answer["accounts"]["last_lost_at_us"], acknowledged[7].at_us);
}

/// A server that gives one answer, and the number of connections that were made to it.
async fn server(answer: &'static str) -> (String, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicU64::new(0));
    let count = connections.clone();
    let listener = listener.tap_io(move |_| _ = count.fetch_add(1, Ordering::Relaxed));
    let router = axum::Router::new().fallback(move || async move { answer });
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, connections)
}

/// What one client that reads for a while sees.
async fn one_reader(url: String, requests: u64, connection_lifetime: Duration) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        readers: BTreeMap::from([("www".to_owned(), Readers { url, rate: 100.0, clients: 1 })]),
        writers: BTreeMap::new(),
        acknowledged: dir.path().to_owned(),
        first_id: 1,
        timeout: Duration::from_secs(10),
        connection_lifetime,
    };
    let load = Load::start(config).unwrap();
    until(&load, "reads", |report| report.http.requests >= requests).await;
    load.stop().await
}

#[tokio::test]
async fn connections_are_kept_for_their_lifetime_and_no_longer() {
    let (url, connections) = server(r#"{"facility": "west"}"#).await;
    let report = one_reader(url.clone(), 100, Duration::from_secs(60)).await;
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(connections.swap(0, Ordering::Relaxed), 1);
    let report = one_reader(url, 100, Duration::from_millis(100)).await;
    assert!(report.is_clean(), "{report:#?}");
    let made = connections.load(Ordering::Relaxed);
    assert!((4..=20).contains(&made), "{made} connections in about a second");
}

#[tokio::test]
async fn an_answer_that_is_not_the_application_s_is_a_failed_request() {
    let (url, _) = server("<h1>It works!</h1>").await;
    let report = one_reader(url, 5, Duration::from_secs(60)).await;
    assert_eq!(report.http.failed, report.http.requests);
    assert!(report.http.first_errors[0].why.contains("It works!"), "{report:#?}");
}
