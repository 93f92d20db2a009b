//! One loss, from the power cut to the last resolver.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use handover::event::Event;
use handover::model::ReplicationMode;
use handover::topology::Topology;
use lab::Lab;
use serde::Serialize;
use tempfile::TempDir;

use super::LOST;
use super::clients::{Line, Seen, now_s};
use super::paths::Kind;
use crate::programs::{handover, own};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// The time between two looks of whoever watches.
const LOOK: Duration = Duration::from_millis(500);

/// What one loss was like, in seconds. What begins with the apply begins with the start of its process.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// From the power cut until nobody sees it any more and it was silent for `policy.hold_down`: the apply begins then.
    pub cut_to_apply_s: f64,
    /// From the apply until its last look says that it is dead.
    pub verdict_s: f64,
    /// From the apply until every database takes writes through every surviving pooler.
    pub databases_s: f64,
    /// From the apply until every surviving proxy answers for every service.
    pub proxies_s: f64,
    /// From the apply until every surviving name server publishes nothing that is lost.
    pub name_servers_s: f64,
    /// The latest of these three.
    pub service_s: f64,
    /// From the apply until the caching resolver names nothing any more that is lost.
    pub resolver_s: f64,
    /// From the apply until its process ended.
    pub apply_s: f64,
    /// The longest time between two acknowledged writes of one database, hold-down and operator included.
    pub longest_gap_s: f64,
    /// From the apply until each step of its run was done.
    pub steps_s: BTreeMap<String, f64>,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Attempts to write that failed.
    pub failed: usize,
    /// Acknowledged writes that are not on the new primary, of databases whose commits wait for a replica.
    pub lost_synchronous: usize,
    /// The same of the others, where a loss was accepted.
    pub lost_asynchronous: usize,
}

/// Lets the facility be lost once.
pub(super) fn once(lab: &Lab, topology: &Topology) -> Result<Round> {
    let operator = Operator { lab, folder: tempfile::tempdir()? };
    // Whoever watches knows how far each primary was; and everything is well before it begins.
    operator.until("everything is healthy", &["status"], |output| output.status.success())?;
    let clients = Clients::start(lab)?;
    let all_serve = BTreeSet::from([Kind::Write, Kind::Serve]);
    clients.until("clients are served", &all_serve)?;
    let cut = now_s()?;
    lab.power_off(LOST)?;
    let mut looks = 0;
    operator.until_with(&format!("{LOST} counts as dead"), || {
        looks += 1;
        let file = format!("look-{looks}.yaml");
        let output = operator.run(&["plan", "--lost", LOST, "--out", &file])?;
        Ok((output.status.success() && words(&output).contains(&format!("{LOST} is dead: ")), words(&output)))
    })?;
    let apply = operator.apply(topology)?;
    clients.until("clients are served by what is left", &BTreeSet::from(Kind::ALL))?;
    account(topology, cut, &apply, &clients.end()?)
}

/// When the apply began, when each of its steps was done, and when it ended.
struct Applied {
    began: f64,
    steps: BTreeMap<String, f64>,
    ended: f64,
}

/// The step that looks whether it is dead.
const LOOKS: &str = "gate.lost";

fn account(topology: &Topology, cut: f64, apply: &Applied, seen: &[Seen]) -> Result<Round> {
    let latest = |kind: Kind| -> Result<f64> {
        let mut latest = 0.0f64;
        for path in seen.iter().filter(|path| path.kind == kind) {
            let from = path.good_from.with_context(|| format!("{} does not serve at the end", path.name))?;
            // What was never interrupted served before.
            latest = latest.max(from - apply.began);
        }
        Ok(latest)
    };
    let writes = || seen.iter().filter(|path| path.kind == Kind::Write);
    let lost = |waits: bool| -> usize {
        let of = |path: &&Seen| {
            let database = topology.databases.values().find(|it| path.name.starts_with(&format!("{} ", it.name)));
            let synchronous = database.is_some_and(|it| it.mode == ReplicationMode::Synchronous);
            synchronous == waits
        };
        writes().filter(of).map(|path| path.lost).sum()
    };
    let steps_s: BTreeMap<String, f64> =
        apply.steps.iter().map(|(step, at)| (step.clone(), at - apply.began)).collect();
    let (databases_s, proxies_s, name_servers_s) = (latest(Kind::Write)?, latest(Kind::Serve)?, latest(Kind::Publish)?);
    Ok(Round {
        cut_to_apply_s: apply.began - cut,
        verdict_s: *steps_s.get(LOOKS).context("nobody looked whether it is dead")?,
        databases_s,
        proxies_s,
        name_servers_s,
        service_s: databases_s.max(proxies_s).max(name_servers_s),
        resolver_s: latest(Kind::Resolve)?,
        apply_s: apply.ended - apply.began,
        longest_gap_s: writes().map(|path| path.longest_gap_s).fold(0.0, f64::max),
        steps_s,
        acknowledged: writes().map(|path| path.good).sum(),
        failed: writes().map(|path| path.failed).sum(),
        lost_synchronous: lost(true),
        lost_asynchronous: lost(false),
    })
}

/// Whoever types the commands, in the operator's place.
struct Operator<'a> {
    lab: &'a Lab,
    folder: TempDir,
}

impl Operator<'_> {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.lab.command(handover()?)?;
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("HANDOVER_TOPOLOGY", self.lab.topology_path());
        command.env("HANDOVER_STATE_DIR", self.folder.path().join("state"));
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments)?.output().context("cannot start handover")
    }

    fn until(&self, what: &str, arguments: &[&str], good: impl Fn(&Output) -> bool) -> Result<()> {
        self.until_with(what, || {
            let output = self.run(arguments)?;
            Ok((good(&output), words(&output)))
        })
    }

    fn until_with(&self, what: &str, mut look: impl FnMut() -> Result<(bool, String)>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (good, said) = look()?;
            if good {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not within {} s: {what}\n{said}", PATIENCE.as_secs());
            std::thread::sleep(LOOK);
        }
    }

    /// Everything that may be lost is accepted: how much it is, is told by the clients.
    fn apply(&self, topology: &Topology) -> Result<Applied> {
        let mut arguments = vec!["apply", "--lost", LOST, "--auto-approve", "--format", "json"];
        let accepted: Vec<String> = topology.databases.keys().map(|name| format!("{name}=unknown")).collect();
        for accepted in &accepted {
            arguments.extend(["--accept-loss", accepted]);
        }
        let mut command = self.command(&arguments)?;
        let errors = self.path("apply.log");
        command.stdout(Stdio::piped()).stderr(fs::File::create(&errors)?);
        let began = now_s()?;
        let mut child = command.spawn().context("cannot start handover")?;
        let (mut steps, mut said) = (BTreeMap::new(), String::new());
        for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
            let (line, at) = (line?, now_s()?);
            if let Ok(Event::StepDone { step, .. }) = serde_json::from_str(&line) {
                steps.insert(step.0, at);
            }
            said += &line;
            said.push('\n');
        }
        let status = child.wait()?;
        let ended = now_s()?;
        let errors = fs::read_to_string(errors).unwrap_or_default();
        ensure!(status.success(), "handover apply: {status}\n{said}{errors}");
        Ok(Applied { began, steps, ended })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// All that a program said, line breaks aside.
fn words(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The program with the clients; it ends with this value.
struct Clients {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Line>,
}

impl Clients {
    fn start(lab: &Lab) -> Result<Self> {
        let mut command = lab.command(own()?)?;
        command.args(["failover-clients", "--lost", LOST, "--topology"]).arg(lab.topology_path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // What is no line of its own ends it, and then nothing more is heard.
            for line in output.lines().map_while(Result::ok).map_while(|line| serde_json::from_str(&line).ok()) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, lines })
    }

    /// Waits until all paths of these kinds have served for a while, from now on.
    fn until(&self, what: &str, kinds: &BTreeSet<Kind>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // Of an earlier moment.
        while self.lines.try_recv().is_ok() {}
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Line::Good(good)) if good.is_superset(kinds) => return Ok(()),
                Ok(Line::Good(good)) if Instant::now() >= deadline => {
                    bail!("not within {} s: {what}: {good:?}", PATIENCE.as_secs())
                }
                Ok(Line::Good(_)) => {}
                Ok(Line::End(_)) | Err(RecvTimeoutError::Disconnected) => bail!("the clients ended before {what}"),
                Err(RecvTimeoutError::Timeout) => bail!("the clients say nothing: {what}"),
            }
        }
    }

    /// Ends them; returns what they saw.
    fn end(mut self) -> Result<Vec<Seen>> {
        drop(self.input.take());
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Line::End(seen)) => return Ok(seen),
                Ok(Line::Good(_)) => {}
                Err(_) => bail!("the clients did not tell what they saw"),
            }
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
