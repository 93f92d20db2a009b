//! All measurements in one run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use crate::failover::Failovers;
use crate::programs::{handover, version};
use crate::report::Report;
use crate::switchover::Measured;
use crate::{failover, journal, namespace, observe, planner};

/// What `make bench` can be told.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Switchovers by each way, and three times the losses; below 15 the run is a try, and smaller in all its parts.
    #[arg(long, env = "BENCH_PAIRS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// The topology whose servers are observed.
    #[arg(long, default_value = "topology.yaml", value_name = "PATH")]
    topology: PathBuf,
    /// Where octoDNS is installed.
    #[arg(long, default_value = "target/bench/octodns", value_name = "DIR")]
    octodns: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench/report.json", value_name = "PATH")]
    report: PathBuf,
}

/// Measures, prints one table, writes the report.
///
/// # Errors
/// If a part fails, or the run is interrupted; nothing is left behind then.
pub async fn run(arguments: Arguments) -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let report = tokio::select! {
        biased;
        _ = term.recv() => anyhow::bail!("interrupted"),
        _ = int.recv() => anyhow::bail!("interrupted"),
        report = measure(&arguments) => report?,
    };
    std::fs::write(&arguments.report, serde_json::to_string_pretty(&report.to_json())? + "\n")?;
    println!("\n{}\n  Report: {}", report.table(), arguments.report.display());
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let pairs = arguments.pairs;
    let (times, octodns_times) = if pairs < 15 { (3, 1) } else { (11, 3) };
    eprintln!("planning without a network");
    let planner = spawn_blocking(planner::measure).await??;
    let journal_ms = journal::measure().await?;
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let octodns = arguments.octodns.canonicalize()?.display().to_string();
    let (times_text, octodns_text) = (times.to_string(), octodns_times.to_string());
    let zones = namespace::run(&text(&[
        "zones",
        "--octodns",
        &octodns,
        "--times",
        &times_text,
        "--octodns-times",
        &octodns_text,
    ]))
    .await?;
    eprintln!("the example in a lab");
    let topology = arguments.topology.clone();
    let (observed, blackholed) = spawn_blocking(move || observe::measure(&topology, times)).await??;
    let (failovers, patroni) = failovers(&arguments.topology, pairs.div_ceil(3)).await?;
    let switchovers = namespace::run(&text(&["switchovers", "--pairs", &pairs.to_string()])).await?;
    let octodns_sync = arguments.octodns.join("bin/octodns-sync").display().to_string();
    let versions = BTreeMap::from([
        ("handover", version(&handover()?.display().to_string(), &["--version"])),
        ("PostgreSQL", version("/usr/lib/postgresql/15/bin/postgres", &["--version"])),
        ("pgbouncer", version("pgbouncer", &["--version"])),
        ("Patroni", version("patroni", &["--version"])),
        ("etcd", version("etcd", &["--version"])),
        ("HAProxy", version("haproxy", &["-v"])),
        ("repmgr", version("/usr/lib/postgresql/15/bin/repmgr", &["--version"])),
        ("BIND", version("named", &["-v"])),
        ("dig", version("dig", &["-v"])),
        ("octoDNS", version(&octodns_sync, &["--version"])),
    ]);
    Ok(Report { switchovers, zones, observed, blackholed, failovers, patroni, planner, journal_ms, versions })
}

/// A facility is lost, and Patroni's primary dies, so many times each.
///
/// # Errors
/// If a program fails, or something does not serve again.
pub async fn failovers(topology: &Path, rounds: u32) -> Result<(Failovers, Vec<Measured>)> {
    eprintln!("a facility is lost");
    let topology = topology.to_owned();
    let lost = spawn_blocking(move || failover::measure(&topology, rounds)).await??;
    let words = ["failover-patroni", "--rounds", &rounds.to_string()].map(str::to_owned);
    Ok((lost, namespace::run(&words).await?))
}
