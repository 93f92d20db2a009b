//! What reading the example costs, in a lab: all targets at once beside the slowest one alone, and the commands with a facility that
//! swallows every packet.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use handover::cli;
use handover::engine::Engine;
use handover::plan;
use handover::provider::{Registry, SystemClock};
use handover::secret::SecretReader;
use handover::topology::{Topology, parse};
use handover::transport::Transport;
use lab::{Lab, Options};
use serde::{Deserialize, Serialize};

use crate::numbers::median;
use crate::programs::{handover, own};

/// The command line's default for one question.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What was measured: medians in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Observed {
    /// All targets at once.
    pub all_ms: f64,
    /// The slowest one, asked alone by the same provider.
    pub slowest_ms: f64,
    /// Which one that is.
    pub slowest: String,
    /// How many targets there are.
    pub targets: usize,
}

/// Commands while every packet to and from a facility is swallowed: medians in seconds, from the start of the process to its end.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Blackholed {
    /// `handover plan --drain` of that facility.
    pub plan_s: f64,
    /// `handover status`.
    pub status_s: f64,
    /// `handover plan --lost` with that facility.
    pub plan_lost_s: f64,
}

/// Both measurements on one lab.
///
/// # Errors
/// If the lab cannot be started or a program fails.
pub fn measure(topology: &Path, times: u32) -> Result<(Observed, Blackholed)> {
    let lab = Lab::up(&Options { fast: true, ..Options::new(topology) })?;
    let measured = on(&lab, times);
    lab.down()?;
    measured
}

fn on(lab: &Lab, times: u32) -> Result<(Observed, Blackholed)> {
    let mut inside = lab.command(own()?)?;
    let output = inside.args(["observe-once", "--times", &times.to_string()]).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "observing ended with {}", output.status);
    let observed = serde_json::from_slice(&output.stdout).context("the measuring process wrote something else")?;
    let state = tempfile::tempdir()?;
    // Somebody has looked before: of what is lost it is known how far it was.
    command(lab, state.path(), &["status"], &[0])?;
    lab.cut("west", "all")?;
    let (mut plans, mut statuses, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..times {
        // Whether there is a plan or a reasoned refusal is for the tests; here it must only be quick.
        let file = format!("drain-{number}.yaml");
        plans.push(command(lab, state.path(), &["plan", "--drain", "west", "--out", &file], &[0, 3])?);
        statuses.push(command(lab, state.path(), &["status"], &[10, 11, 12])?);
        let file = format!("lost-{number}.yaml");
        lost.push(command(lab, state.path(), &["plan", "--lost", "west", "--out", &file], &[0, 3])?);
    }
    let blackholed = Blackholed { plan_s: median(plans), status_s: median(statuses), plan_lost_s: median(lost) };
    Ok((observed, blackholed))
}

/// Runs `handover`, which must end with one of these exit statuses; returns its seconds.
fn command(lab: &Lab, state: &Path, arguments: &[&str], expected: &[i32]) -> Result<f64> {
    let mut command: Command = lab.command(handover()?)?;
    command.args(arguments).arg("--topology").arg(lab.topology_path());
    command.arg("--state-dir").arg(state).current_dir(state);
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = began.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let good = output.status.code().is_some_and(|code| expected.contains(&code));
    ensure!(good, "handover {}: {}\n{said}", arguments.join(" "), output.status);
    Ok(took)
}

/// Inside the lab. Every question is asked by a program that has just started: no connection is open yet.
///
/// # Errors
/// If the topology cannot be read or a target does not answer.
pub async fn once(times: u32) -> Result<Observed> {
    // Somebody else may have installed one already; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let path = Path::new("/srv/topology.yaml");
    let text = std::fs::read(path)?;
    let topology = parse(&text, &cli::checks()).map(|parsed| parsed.topology);
    let topology = Arc::new(topology.map_err(|findings| anyhow::anyhow!("{findings:?}"))?);
    let mut all = Vec::new();
    let mut alone: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..times {
        let (engine, transport) = engine(&topology);
        let began = Instant::now();
        let live = engine.observe().await;
        all.push(millis(began));
        transport.close().await;
        for (id, observed) in &live {
            ensure!(observed.known().is_some(), "{id} does not answer: {observed:?}");
        }
        for (id, (target, scope)) in plan::scopes(&topology) {
            let (registry, transport) = registry();
            let asked = registry.of(&target).map_err(|why| anyhow::anyhow!("{why}"))?;
            let began = Instant::now();
            asked.observe(&target, &scope, tokio::time::Instant::now() + TIMEOUT).await;
            alone.entry(id.to_string()).or_default().push(millis(began));
            transport.close().await;
        }
    }
    let targets = alone.len();
    let alone = alone.into_iter().map(|(id, times)| (id, median(times)));
    let (slowest, slowest_ms) = alone.max_by(|a, b| a.1.total_cmp(&b.1)).context("there are no targets")?;
    Ok(Observed { all_ms: median(all), slowest_ms, slowest, targets })
}

fn engine(topology: &Arc<Topology>) -> (Engine, Arc<Transport>) {
    let (registry, transport) = registry();
    (Engine::new(Arc::clone(topology), registry, Arc::new(SystemClock), TIMEOUT), transport)
}

fn registry() -> (Registry, Arc<Transport>) {
    let (secrets, transport) = (Arc::new(SecretReader::new(Path::new("/srv"))), Arc::new(Transport::new()));
    (cli::registry(&secrets, &transport), transport)
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}
