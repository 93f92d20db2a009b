//! Measures `handover` beside what people use today, in one run on one machine: `make bench`. The method is in `docs/performance.md`.

mod dns;
mod failover;
#[path = "../../tests/common/healthy.rs"]
mod healthy;
mod journal;
mod namespace;
mod numbers;
mod observe;
mod planner;
mod programs;
mod report;
mod run;
#[path = "../../tests/common/postgres.rs"]
mod servers;
mod switchover;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde::Serialize;

#[derive(Parser)]
#[command(name = "bench", about = "Measures handover beside what people use today")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything
    Run(run::Arguments),
    /// Plans for generated topologies of 1,000, 10,000 and 100,000 targets
    Planner,
    /// A facility is lost, and Patroni's primary dies, so many times each
    Failover {
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        #[arg(long, default_value = "topology.yaml", value_name = "PATH")]
        topology: PathBuf,
        /// Where everything that was measured goes
        #[arg(long, default_value = "target/bench/failover.json", value_name = "PATH")]
        report: PathBuf,
    },
    /// Patroni's primary dies; run inside a namespace of its own by `run`
    #[command(hide = true)]
    FailoverPatroni {
        #[arg(long)]
        rounds: u32,
    },
    /// Clients of what is left, inside a lab
    #[command(hide = true)]
    FailoverClients {
        #[arg(long)]
        topology: PathBuf,
        #[arg(long)]
        lost: String,
    },
    /// Switchovers; run inside a namespace of their own by `run`
    #[command(hide = true)]
    Switchovers {
        #[arg(long)]
        pairs: u32,
    },
    /// Zones of all sizes; run inside a namespace of their own by `run`
    #[command(hide = true)]
    Zones {
        #[arg(long, value_delimiter = ',', default_value = "100,10000,100000")]
        sizes: Vec<usize>,
        #[arg(long)]
        octodns: PathBuf,
        #[arg(long)]
        times: u32,
        #[arg(long)]
        octodns_times: u32,
    },
    /// One size, in a process of its own
    #[command(hide = true)]
    PlannerOnce { targets: usize },
    /// Observing, inside a lab
    #[command(hide = true)]
    ObserveOnce {
        #[arg(long)]
        times: u32,
    },
    /// A program, measured
    #[command(hide = true)]
    Timed {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run(arguments) => runtime()?.block_on(run::run(arguments))?,
        Command::Planner => print!("{}", planner::table(&planner::measure()?)),
        Command::Failover { rounds, topology, report } => {
            let (lost, patroni) = runtime()?.block_on(run::failovers(&topology, rounds))?;
            let details = serde_json::json!({"failovers": lost, "patroni": patroni});
            report.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(&report, serde_json::to_string_pretty(&details)? + "\n")?;
            print!("{}\n  Report: {}\n", report::failovers(&lost, &patroni), report.display());
        }
        Command::FailoverPatroni { rounds } => print(&failover::measure_patroni(rounds)?)?,
        Command::FailoverClients { topology, lost } => runtime()?.block_on(failover::run_clients(&topology, &lost))?,
        Command::Switchovers { pairs } => print(&switchover::measure(pairs)?)?,
        Command::Zones { sizes, octodns, times, octodns_times } => {
            print(&dns::measure(&sizes, &octodns, times, octodns_times)?)?;
        }
        Command::PlannerOnce { targets } => print(&planner::once(targets)?)?,
        Command::ObserveOnce { times } => print(&runtime()?.block_on(observe::once(times))?)?,
        Command::Timed { command } => print(&dns::run_timed(&command)?)?,
    }
    Ok(())
}

/// For the process that asked.
fn print(result: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
