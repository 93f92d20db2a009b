//! Measures `handover` beside what people use today, in one run on one machine: `make bench`. The method is in `docs/performance.md`.

#[path = "../../tests/common/healthy.rs"]
mod healthy;
mod numbers;
mod planner;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about = "Measures handover beside what people use today")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plans for generated topologies of 1,000, 10,000 and 100,000 targets
    Planner,
    /// One such plan, measured in a process of its own
    #[command(hide = true)]
    PlannerOnce {
        /// About how many targets
        targets: usize,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Planner => {
            let measured = planner::measure()?;
            print!("{}", planner::table(&measured));
        }
        Command::PlannerOnce { targets } => println!("{}", serde_json::to_string(&planner::once(targets)?)?),
    }
    Ok(())
}
