//! How long a service is away when a facility loses its power: from `handover apply --lost` until all that is left serves, in a lab with
//! clients on every surviving path; and, beside it, how long Patroni's clients wait when the primary's machine dies.

mod clients;
mod paths;
mod patroni;
mod round;

use std::path::Path;

use anyhow::{Result, ensure};
use lab::{Lab, Options};
use serde::Serialize;

pub use self::clients::run as run_clients;
pub use self::patroni::measure as measure_patroni;
pub use self::round::Round;
use crate::numbers::Spread;

/// The facility that is lost.
const LOST: &str = "west";

/// The lab's files before anything is lost.
const BEFORE: &str = "before";

/// All rounds.
#[derive(Debug, Serialize)]
pub struct Failovers {
    /// Those in which all served again, one after the other.
    pub rounds: Vec<Round>,
    /// What went wrong in the others.
    pub failed: Vec<String>,
    /// `policy.hold_down` of the lab.
    pub hold_down_s: f64,
    /// The longest TTL of the lab's services.
    pub ttl_s: f64,
}

impl Failovers {
    /// Median, least and most of one number of each round.
    pub fn of(&self, number: impl Fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(number).collect())
    }

    /// One number of all rounds together.
    pub fn sum(&self, number: impl Fn(&Round) -> usize) -> usize {
        self.rounds.iter().map(number).sum()
    }
}

/// Lets the facility be lost `rounds` times, each time from the same state.
///
/// # Errors
/// If the lab cannot be started, or no round ends with everything served.
pub fn measure(topology: &Path, rounds: u32) -> Result<Failovers> {
    let lab = Lab::up(&Options { fast: true, ..Options::new(topology) })?;
    let measured = on(&lab, rounds);
    lab.down()?;
    measured
}

fn on(lab: &Lab, rounds: u32) -> Result<Failovers> {
    let text = std::fs::read(lab.directory().join("topology.yaml"))?;
    let parsed = handover::topology::parse(&text, &handover::cli::checks());
    let topology = parsed.map_err(|findings| anyhow::anyhow!("{findings:?}"))?.topology;
    lab.snapshot(BEFORE)?;
    let mut all = Failovers {
        rounds: Vec::new(),
        failed: Vec::new(),
        hold_down_s: topology.policy.hold_down.0.as_secs_f64(),
        ttl_s: topology.services.values().map(|service| service.ttl.0.as_secs_f64()).fold(0.0, f64::max),
    };
    for number in 1..=rounds {
        if number > 1 {
            lab.restore(BEFORE)?;
        }
        match round::once(lab, &topology) {
            Ok(round) => {
                eprintln!("losing {LOST}, {number} of {rounds}: {:.2} s from apply until all serves", round.service_s);
                all.rounds.push(round);
            }
            // It is a result too, and the others are worth having.
            Err(why) => {
                eprintln!("losing {LOST}, {number} of {rounds}: {why:#}");
                all.failed.push(format!("round {number}: {why:#}"));
            }
        }
    }
    ensure!(!all.rounds.is_empty(), "no round succeeded:\n{}", all.failed.join("\n"));
    Ok(all)
}
