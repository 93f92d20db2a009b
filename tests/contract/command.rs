//! A real job: a worker that a small script starts, stops and finds, on this machine.

#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use handover::model::{
    Action, Condition, Facts, Host, Observed, Place, Scope, Setting, SettingValue, Settings, Target, TargetId,
    TargetKind, TransportKind,
};
use handover::provider::command::CommandJobs;
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use tempfile::TempDir;

use crate::{Subject, common, soon};

/// A worker and its pid file; while the file `hang` exists, the script does not answer.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 3
while [ -e hang ]; do sleep 0.02; done
echo "$1" >> calls
runs() { [ -e pid ] && kill -0 "$(cat pid)" 2>/dev/null; }
case $1 in
  start) sleep 1000 >/dev/null 2>&1 & echo $! > pid ;;
  stop) kill "$(cat pid)"; while runs; do sleep 0.01; done; rm pid ;;
  check) runs || exit 1 ;;
  *) echo "billing: no such order: $1" >&2; exit 5 ;;
esac
"#;

pub struct Job {
    directory: TempDir,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.directory.path().join("pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
    }
}

impl Job {
    fn on(&self, host: Option<TransportKind>, commands: [&[&str]; 3]) -> Target {
        let place = Place::default();
        let setting = |value| (place, Setting { value, place });
        let command = |words: &[&str]| {
            let items = words.iter().map(|word| setting(SettingValue::Text((*word).to_owned())).1).collect();
            setting(SettingValue::Map(BTreeMap::from([("command".to_owned(), setting(SettingValue::List(items)))])))
        };
        let entries = ["stop", "start", "check"].map(str::to_owned).into_iter().zip(commands.map(command)).collect();
        Target {
            id: TargetId::job(&"billing".into()),
            kind: TargetKind::Job,
            facility: "west".into(),
            provider: "command".into(),
            address: String::new(),
            settings: Settings { entries, place },
            host: host
                .map(|transport| Arc::new(Host { name: "west-job1".into(), transport, commands: BTreeMap::new() })),
        }
    }

    fn script(&self) -> String {
        self.directory.path().join("billing").display().to_string()
    }

    fn calls(&self, verb: &str) -> usize {
        let calls = std::fs::read_to_string(self.directory.path().join("calls")).unwrap_or_default();
        calls.lines().filter(|line| *line == verb).count()
    }

    fn elsewhere(&self, host: Option<TransportKind>) -> Target {
        let script = self.script();
        self.on(host, [&[&script, "stop"], &[&script, "start"], &[&script, "check"]])
    }
}

#[async_trait]
impl Subject for Job {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("billing");
        std::fs::write(&script, SCRIPT).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new("sh").arg(&script).arg("start").status().unwrap().success());
        Self { directory }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(CommandJobs::new(Arc::new(Transport::with_options(vec!["-F".to_owned(), "none".to_owned()]))))
    }

    fn target(&self) -> Target {
        self.elsewhere(Some(TransportKind::Local))
    }

    fn nobody(&self) -> Target {
        let port = crate::servers::free_port();
        self.elsewhere(Some(TransportKind::Ssh { address: "127.0.0.1".to_owned(), user: None, port: Some(port) }))
    }

    fn scope(&self) -> Scope {
        Scope::Job
    }

    fn action(&self) -> Action {
        Action::Stop
    }

    fn condition(&self) -> Condition {
        Condition::Running { running: false }
    }

    fn undo(&self) -> Action {
        Action::Start
    }

    fn undone(&self) -> Condition {
        Condition::Running { running: true }
    }

    fn stale(&self) -> Option<Action> {
        None
    }

    async fn hang(&self) {
        std::fs::write(self.directory.path().join("hang"), "").unwrap();
    }

    async fn unhang(&self) {
        std::fs::remove_file(self.directory.path().join("hang")).unwrap();
    }

    fn comparable(&self, facts: &Facts) -> String {
        format!("{:?}", facts.job().unwrap())
    }
}

crate::contract!(Job);

#[tokio::test]
async fn a_job_that_runs_is_not_started_again() {
    let (job, permit) = (Job::start().await, common::permit().await);
    assert_eq!(job.provider().apply(&job.target(), &Action::Start, &permit, soon()).await, Outcome::Applied);
    assert_eq!(job.calls("start"), 1);
}

#[tokio::test]
async fn a_check_that_fails_says_nothing_of_the_job() {
    let job = Job::start().await;
    let script = job.script();
    let stop: &[&str] = &[&script, "stop"];
    for (check, expected) in [
        (&[script.as_str(), "chek"][..], "status 5: billing: no such order: chek"),
        (&["/nowhere/billing"], "there is no such program"),
        (&["sh", "-c", "kill -9 $$"], "status 137"),
    ] {
        let target = job.on(Some(TransportKind::Local), [stop, stop, check]);
        let observed = job.provider().observe(&target, &Scope::Job, soon()).await;
        assert!(
            matches!(&observed, Observed::Unreachable(why) if why.why.contains(expected)),
            "{observed:?}, not {expected}"
        );
        let outcome = job.provider().apply(&target, &Action::Stop, &common::permit().await, soon()).await;
        assert!(matches!(outcome, Outcome::NotApplied(_)), "{outcome:?}");
    }
    assert_eq!(job.calls("stop"), 0);
}

#[tokio::test]
async fn a_stop_that_fails_is_unknown_and_one_that_could_not_run_is_not() {
    let job = Job::start().await;
    let script = job.script();
    let check: &[&str] = &[&script, "check"];
    let stop = async |command: &[&str]| {
        let target = job.on(Some(TransportKind::Local), [command, command, check]);
        job.provider().apply(&target, &Action::Stop, &common::permit().await, soon()).await
    };
    let failed = stop(&["sh", "-c", "echo busy >&2; exit 4"]).await;
    assert!(matches!(&failed, Outcome::Unknown(why) if why.why == "it ended with status 4: busy"), "{failed:?}");
    let missing = stop(&["/nowhere/billing", "stop"]).await;
    assert!(matches!(missing, Outcome::NotApplied(_)), "{missing:?}");
}

#[tokio::test]
async fn a_job_without_host_says_what_to_write() {
    let job = Job::start().await;
    let observed = job.provider().observe(&job.elsewhere(None), &Scope::Job, soon()).await;
    let Observed::Unreachable(why) = observed else { panic!("{observed:?}") };
    assert!(why.to_string().contains("give the job `host: NAME`"), "{why}");
}
