//! Clients by the path that users take, and what they saw.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use lab::load::Report;

use super::world::World;

/// How long clients may take to do what is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Readers of every service and writers of every database.
pub struct Clients {
    child: Child,
    input: Option<ChildStdin>,
    latest: Arc<(Mutex<Option<Report>>, Condvar)>,
    reader: Option<std::thread::JoinHandle<()>>,
    acknowledged: PathBuf,
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_handover")).with_file_name("lab")
}

impl Clients {
    /// Starts them, and waits until every one of them is served. They keep a connection for ten seconds.
    pub fn start(world: &World) -> Self {
        let acknowledged = world.path("acknowledged");
        let mut command = world.lab.command(program()).unwrap();
        command.args(["load", "--every", "100", "--until-eof", "--rate", "40", "--acknowledged"]).arg(&acknowledged);
        command.args(["--connection-lifetime", "10"]);
        for (service, host) in [("orderform", "pay"), ("hoplinks", "hop"), ("website", "www")] {
            command.arg("--service").arg(format!("{service}=http://{host}.clickbank.example/"));
        }
        for (database, host) in [("accounts", "hop"), ("products", "www"), ("prices", "www")] {
            command.arg("--writer").arg(format!("{database}=http://{host}.clickbank.example/"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let latest = Arc::new((Mutex::new(None), Condvar::new()));
        let shared = Arc::clone(&latest);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let report: Report = serde_json::from_str(&line).unwrap();
                *shared.0.lock().unwrap() = Some(report);
                shared.1.notify_all();
            }
        });
        let clients = Self { child, input, latest, reader: Some(reader), acknowledged };
        clients.until("every client is served", |report| {
            report.services.values().all(|service| service.requests >= 20)
                && report.databases.values().all(|database| database.writes >= 20)
        });
        clients
    }

    /// Waits until what clients saw so far is as wanted.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let deadline = Instant::now() + PATIENCE;
        let mut latest = self.latest.0.lock().unwrap();
        loop {
            if let Some(report) = latest.as_ref().filter(|report| wanted(report)) {
                return report.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not within {} s: {latest:#?}", PATIENCE.as_secs());
            latest = self.latest.1.wait_timeout(latest, left).unwrap().0;
        }
    }

    /// What they have seen so far.
    pub fn now(&self) -> Report {
        self.until("any report", |_| true)
    }

    /// Waits until writers of every database go on from here.
    #[track_caller]
    pub fn go_on(&self) -> Report {
        let before = self.now();
        let more = |report: &Report| {
            report.databases.iter().all(|(name, now)| now.writes >= before.databases[name].writes + 20)
                && report.http.requests - report.http.failed >= before.http.requests - before.http.failed + 50
        };
        self.until("clients go on", more)
    }

    /// Ends them; returns everything that they saw, and asserts that every acknowledged write is on the final primary.
    pub fn end(self, world: &World) -> Report {
        let (report, output) = self.stop(world);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        report
    }

    /// Ends them after primaries were lost; returns how many acknowledged writes are not on the primaries now.
    pub fn end_after_a_loss(self, world: &World) -> BTreeMap<String, u64> {
        let (_, output) = self.stop(world);
        let answers: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        answers.into_iter().map(|(name, answer)| (name, answer["lost"].as_u64().unwrap())).collect()
    }

    fn stop(mut self, world: &World) -> (Report, Output) {
        drop(self.input.take());
        self.reader.take().unwrap().join().unwrap();
        self.child.wait().unwrap();
        let report = self.latest.0.lock().unwrap().clone().filter(|report| report.finished).unwrap();
        let mut command = world.lab.command(program()).unwrap();
        command.args(["lost", "--user", "app", "--password-file", "/srv/secrets/app", "--acknowledged"]);
        command.arg(&self.acknowledged);
        for (port, database) in [(5432, "accounts"), (5433, "products"), (5434, "prices")] {
            for facility in [10, 20] {
                command.arg("--member").arg(format!("{database}=10.{facility}.0.100:{port}/{database}"));
            }
        }
        (report, command.output().unwrap())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asserts that nothing failed.
#[track_caller]
pub fn unharmed(report: &Report) {
    assert!(report.is_clean(), "{report:#?}");
}
