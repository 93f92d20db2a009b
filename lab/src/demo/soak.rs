//! The soak: drains and restores in a row under load, at several distances between the facilities. Nothing may fail, nothing be lost.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::clients::Clients;
use super::{DatabaseSummary, FIRST_REQUESTS, HttpSummary, Outcome, Play, Script, clear, everybody, scene, view};
use crate::{Lab, Options};

/// Drains a facility and brings it back, many times in a row under load, and counts what clients lost. Needs root.
///
/// Exit status 1 if a request or a write failed, an acknowledged write is lost, or a command did not succeed.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The topology.
    #[arg(long, default_value = "topology.yaml", value_name = "PATH")]
    pub topology: PathBuf,
    /// The facility to drain.
    #[arg(long, default_value = "west")]
    pub facility: String,
    /// The program `handover`; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    pub handover: Option<PathBuf>,
    /// Folder for plans, reports and the output of every command.
    #[arg(long, default_value = "target/soak", value_name = "DIR")]
    pub folder: PathBuf,
    /// Drains and restores in a row, for each distance.
    #[arg(long, default_value_t = 10, env = "SOAK_ROUNDS")]
    pub rounds: u32,
    /// Round trips between any two places, in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "20,80", value_name = "MS,…")]
    pub delays: Vec<u64>,
}

/// `report.json`.
#[derive(Serialize)]
struct Report<'a> {
    rounds: u32,
    runs: Vec<RunReport<'a>>,
}

#[derive(Serialize)]
struct RunReport<'a> {
    delay_ms: u64,
    http: HttpSummary,
    databases: BTreeMap<&'a str, DatabaseSummary>,
    /// Of every drain and restore that ended well, in their order.
    drains_s: &'a [f64],
    restores_s: &'a [f64],
    problems: &'a [String],
}

/// The soak at one distance.
struct Soaked {
    delay_ms: u64,
    outcome: Outcome,
    drains_s: Vec<f64>,
    restores_s: Vec<f64>,
}

/// Runs the soak.
///
/// # Errors
/// If a lab could not be started, it was interrupted, or clients saw a failure.
pub async fn run(args: Args) -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    ensure!(args.rounds > 0 && !args.delays.is_empty(), "nothing to do: give at least one round and one delay");
    let handover = super::run::beside(args.handover.as_deref())?;
    let mut runs = Vec::new();
    for &delay_ms in &args.delays {
        scene(&format!("{} drains and restores with {delay_ms} ms between facilities", args.rounds));
        let options = Options { fast: true, delay: Duration::from_millis(delay_ms), ..Options::new(&args.topology) };
        let lab = spawn_blocking(move || Lab::up(&options)).await??;
        let soaked = tokio::select! {
            biased;
            _ = term.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = int.recv() => Err(anyhow::anyhow!("interrupted")),
            soaked = soak(&lab, &args, &handover, delay_ms) => soaked,
        };
        spawn_blocking(move || lab.down()).await??;
        runs.push(soaked?);
    }
    let path = args.folder.join("report.json");
    let report = Report { rounds: args.rounds, runs: runs.iter().map(Soaked::report).collect() };
    tokio::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n").await?;
    scene("What clients saw");
    print!("{}", table(&runs));
    println!("\nReport: {}", path.display());
    let problems: usize = runs.iter().map(|run| run.outcome.problems.len()).sum();
    ensure!(problems == 0, "the soak found {problems} problem(s)");
    Ok(())
}

async fn soak(lab: &Lab, args: &Args, handover: &Path, delay_ms: u64) -> Result<Soaked> {
    let topology = crate::topology::read(&lab.directory().join("topology.yaml"))?;
    let folder = args.folder.join(format!("{delay_ms}ms"));
    let script = Script::beginning(handover.to_owned(), args.facility.clone(), folder)?.cast(&topology)?;
    clear(&script.folder).await?;
    let log = OpenOptions::new().create(true).write(true).truncate(true).open(script.folder.join("handover.log"))?;
    let mut clients = Clients::start(lab, &script)?;
    let mut play = Play { log: Some(log), ..Play::new(lab, &script) };
    let (mut drains_s, mut restores_s) = (Vec::new(), Vec::new());
    if let Err(error) = rounds(&mut play, &mut clients, args.rounds, &mut drains_s, &mut restores_s).await {
        play.problems.push(format!("{error:#}; see {}", script.folder.join("handover.log").display()));
    }
    let outcome = play.judge(clients).await?;
    Ok(Soaked { delay_ms, outcome, drains_s, restores_s })
}

/// A login by ssh takes about twelve round trips: at 80 ms a second, and clients and servers share the machine's processors.
const TIMEOUT: &str = "5s";

async fn rounds(
    play: &mut Play<'_>,
    clients: &mut Clients,
    rounds: u32,
    drains_s: &mut Vec<f64>,
    restores_s: &mut Vec<f64>,
) -> Result<()> {
    clients.until("every client is served", FIRST_REQUESTS, everybody).await?;
    let facility = play.script.facility.clone();
    for round in 1..=rounds {
        let before = clients.latest()?;
        let (drain, restore) =
            (play.plan_file(&format!("drain-{round}.yaml")), play.plan_file(&format!("restore-{round}.yaml")));
        play.handover(&["plan", "--drain", &facility, "--timeout", TIMEOUT, "--out", &drain]).await?;
        drains_s.push(timed(play.handover(&["apply", &drain, "--timeout", TIMEOUT, "--auto-approve"])).await?);
        play.handover(&["plan", "--restore", &facility, "--failback", "--timeout", TIMEOUT, "--out", &restore]).await?;
        restores_s.push(timed(play.handover(&["apply", &restore, "--timeout", TIMEOUT, "--auto-approve"])).await?);
        let seen = view::meanwhile(&before, &clients.latest()?);
        println!("round {round} of {rounds}: {seen}");
    }
    Ok(())
}

async fn timed(work: impl Future<Output = Result<()>>) -> Result<f64> {
    let began = Instant::now();
    work.await.map(|()| began.elapsed().as_secs_f64())
}

impl Soaked {
    fn report(&self) -> RunReport<'_> {
        let summary = self.outcome.summary();
        RunReport {
            delay_ms: self.delay_ms,
            http: summary.http,
            databases: summary.databases,
            drains_s: &self.drains_s,
            restores_s: &self.restores_s,
            problems: &self.outcome.problems,
        }
    }
}

fn table(runs: &[Soaked]) -> String {
    let heads = [
        "between",
        "rounds",
        "requests",
        "failed",
        "writes",
        "failed",
        "lost",
        "longest stall",
        "drain",
        "restore",
        "",
    ];
    let mean = |times: &[f64]| match times.len() {
        0 => "–".to_owned(),
        number => format!("{:.1} s", times.iter().sum::<f64>() / number as f64),
    };
    let row = |run: &Soaked| {
        let databases = || run.outcome.report.databases.values();
        let lost: Option<u64> = databases().map(|database| database.lost).sum();
        let stall = databases().map(|database| database.longest_stall_ms).max().unwrap_or(0);
        let http = &run.outcome.report.http;
        vec![
            format!("{} ms", run.delay_ms),
            run.restores_s.len().to_string(),
            view::count(http.requests),
            view::count(http.failed),
            view::count(databases().map(|database| database.writes).sum()),
            view::count(databases().map(|database| database.failed).sum()),
            lost.map_or_else(|| "unknown".to_owned(), view::count),
            format!("{stall} ms"),
            mean(&run.drains_s),
            mean(&run.restores_s),
            if run.outcome.problems.is_empty() { "good" } else { "BAD" }.to_owned(),
        ]
    };
    let mut text = String::new();
    view::columns(&mut text, &heads, runs.iter().map(row).collect());
    text
}
