//! How long writers wait while a primary moves: `handover`, a hand-made script, Patroni and repmgr take turns.
//!
//! Each way has two servers of its own, which stay for the whole run; in each round each way moves its primary to the other server
//! while clients write. All of it happens in a network and process namespace of its own, see `namespace`.

mod handmade;
mod handover;
mod load;
mod pair;
mod patroni;
mod repmgr;
mod sql;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::load::Load;
pub use self::patroni::{Patroni, Timing};
use crate::numbers::median;

/// Rows before and after the switchover: about half a second each.
const ROWS: i64 = 250;

/// How long clients may take to be served again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way to move a primary, with the servers that it moves.
pub trait Way {
    /// Its name in the report.
    fn name(&self) -> &str;
    /// How clients log in.
    fn login(&self) -> String;
    /// Moves the primary to the other server.
    fn switch(&mut self) -> Result<()>;
    /// Waits until the old primary follows the new one.
    fn settle(&mut self) -> Result<()>;
    /// Every row that the primary has.
    fn rows(&self) -> Result<BTreeSet<i64>>;
    /// How long clients may take to be served again.
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// What a way cost its clients.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Name of the way.
    pub way: String,
    /// The longest time between two acknowledged writes, for each switchover, in milliseconds.
    pub outages_ms: Vec<f64>,
    /// Writes that were acknowledged, failed, and acknowledged but not on the final primary.
    pub acknowledged: usize,
    /// Failed attempts.
    pub failed: usize,
    /// Lost writes.
    pub lost: usize,
}

impl Measured {
    /// The median outage in milliseconds.
    pub fn median_ms(&self) -> f64 {
        median(self.outages_ms.clone())
    }
}

/// Lets every way move its primary `pairs` times, in turns.
pub fn measure(pairs: u32) -> Result<Vec<Measured>> {
    type Start = fn() -> Result<Box<dyn Way>>;
    let starts: [(&str, Start); 4] = [
        ("handover", || Ok(Box::new(handover::Handover::start()?))),
        ("handmade", || Ok(Box::new(handmade::Handmade::start()?))),
        ("patroni", || Ok(Box::new(Patroni::start(Timing::DEFAULT)?))),
        ("repmgr", || Ok(Box::new(repmgr::Repmgr::start()?))),
    ];
    let mut ways = Vec::new();
    for (name, start) in starts {
        eprintln!("starting the servers of {name}");
        ways.push(start().with_context(|| format!("cannot start {name}"))?);
    }
    let mut measured: Vec<Measured> =
        ways.iter().map(|way| Measured { way: way.name().to_owned(), ..Measured::default() }).collect();
    for pair in 1..=pairs {
        let mut line = format!("switchover {pair:>2} of {pairs}:");
        for (way, measured) in ways.iter_mut().zip(&mut measured) {
            let outage =
                once(way.as_mut(), measured).with_context(|| format!("switchover {pair} by {}", way.name()))?;
            line += &format!("  {} {:.0} ms", way.name(), outage.as_secs_f64() * 1000.0);
        }
        eprintln!("{line}");
    }
    Ok(measured)
}

/// One move under load; returns the longest time between two acknowledged writes.
///
/// # Errors
/// If clients are not served before or afterwards, or the move fails.
pub fn once(way: &mut dyn Way, measured: &mut Measured) -> Result<Duration> {
    let load = Load::start(&way.login());
    load.wait_for(ROWS, way.patience())?;
    let switched = way.switch();
    let served = load.wait_for(ROWS, way.patience());
    let seen = load.stop()?;
    switched?;
    served?;
    ensure!(!seen.acknowledged.is_empty(), "nothing was written");
    way.settle()?;
    let there = way.rows()?;
    measured.lost += seen.acknowledged.iter().filter(|id| !there.contains(*id)).count();
    measured.acknowledged += seen.acknowledged.len();
    measured.failed += seen.failed;
    measured.outages_ms.push(seen.outage.as_secs_f64() * 1000.0);
    Ok(seen.outage)
}

/// Reads `ledger` as text.
fn parse_rows(text: &str) -> Result<BTreeSet<i64>> {
    text.lines().map(|id| id.parse().context("a row is no number")).collect()
}
