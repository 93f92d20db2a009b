//! The demo's story, with a stand-in for `handover` and real clients.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use lab::app::Endpoint;
use lab::demo::{Outcome, Script, Stage, perform};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::stack::Stack;

/// The host itself: everything is on loopback here.
struct Host;

impl Stage for Host {
    fn topology_path(&self) -> &Path {
        Path::new("topology.yaml")
    }

    fn command(&self, program: &Path) -> anyhow::Result<Command> {
        Ok(Command::new(program))
    }
}

/// Plays the demo; `on_drain` is what the stand-in does when it applies the drain.
async fn play(stack: &Stack, on_drain: &str) -> (Outcome, Value) {
    let handover = stack.path("handover");
    let calls = stack.path("calls");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {}\ncase \"$1 $2\" in 'apply '*drain.yaml) {on_drain};; esac\n",
        calls.display()
    );
    fs::write(&handover, text).unwrap();
    fs::set_permissions(&handover, fs::Permissions::from_mode(0o755)).unwrap();
    let member = |name: &str| Endpoint {
        name: name.to_owned(),
        host: "127.0.0.1".to_owned(),
        port: stack.ports.postgres,
        dbname: name.to_owned(),
    };
    let script = Script {
        handover,
        lab: env!("CARGO_BIN_EXE_lab").into(),
        facility: "west".to_owned(),
        folder: stack.path("demo"),
        services: BTreeMap::from([("orderform".to_owned(), stack.url())]),
        writers: ["accounts", "products"].map(|name| (name.to_owned(), stack.url())).into(),
        members: ["accounts", "products"].map(member).into(),
        user: "app".to_owned(),
        password_file: stack.path("password"),
        patience: Duration::from_secs(10),
    };
    let outcome = perform(&Host, &script).await.unwrap();
    let report = fs::read(script.folder.join("report.json")).unwrap();
    (outcome, serde_json::from_slice(&report).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_story_without_failures_has_no_problems() {
    let stack = Stack::start().await;
    let (outcome, report) = play(&stack, "sleep 0.5").await;
    assert_eq!(outcome.problems, Vec::<String>::new());
    let calls = fs::read_to_string(stack.path("calls")).unwrap();
    let calls: Vec<_> = calls.lines().map(|line| line.split(" --topology").next().unwrap()).collect();
    let file = |name: &str| stack.path("demo").join(name).display().to_string();
    let expected = [
        "status".to_owned(),
        format!("plan --drain west --out {}", file("drain.yaml")),
        format!("apply {} --auto-approve", file("drain.yaml")),
        "status".to_owned(),
        format!("plan --restore west --failback --brief --out {}", file("restore.yaml")),
        format!("apply {} --auto-approve", file("restore.yaml")),
        "status".to_owned(),
    ];
    assert_eq!(calls, expected);

    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&report), ["databases", "drain_s", "http", "restore_s"]);
    assert_eq!(keys(&report["http"]), ["failed", "requests"]);
    assert_eq!(keys(&report["databases"]), ["accounts", "products"]);
    assert_eq!(keys(&report["databases"]["accounts"]), ["failed", "longest_stall_ms", "lost", "writes"]);
    assert_eq!((&report["http"]["failed"], &report["databases"]["accounts"]["lost"]), (&json!(0), &json!(0)));
    assert!(report["drain_s"].as_f64().unwrap() >= 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_fails_and_loses_a_write_is_told_as_it_is() {
    let stack = Stack::start().await;
    let delete = format!(
        "PGPASSWORD=secret /usr/lib/postgresql/15/bin/psql -q -h 127.0.0.1 -p {} -U handover accounts \
         -c 'DELETE FROM writes WHERE id = (SELECT min(id) FROM writes)'; exit 4",
        stack.ports.postgres
    );
    let (outcome, report) = play(&stack, &delete).await;
    let [first, second] = outcome.problems.as_slice() else { panic!("{:#?}", outcome.problems) };
    assert!(first.starts_with("`handover apply") && first.ends_with("exit status: 4"), "{first}");
    assert_eq!(second, "accounts: acknowledged writes lost: 1");
    assert_eq!(report["databases"]["accounts"]["lost"], 1);
    assert_eq!((&report["drain_s"], &report["restore_s"]), (&Value::Null, &Value::Null));
}
