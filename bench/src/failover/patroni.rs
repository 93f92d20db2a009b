//! What Patroni's clients see when the machine of the primary dies: SIGKILL of Patroni and of everything of PostgreSQL there. Two clusters
//! side by side, one with the defaults of Patroni's documentation, one with the shortest times that are recommended.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::switchover::{Measured, Patroni, Timing, Way, once};

/// The times of each cluster, in seconds.
const TIMINGS: [Timing; 2] = [Timing::DEFAULT, Timing { ttl: 5, loop_wait: 1, retry_timeout: 2 }];

/// A cluster whose primary dies, again and again.
struct Dying {
    name: String,
    patroni: Patroni,
}

impl Way for Dying {
    fn name(&self) -> &str {
        &self.name
    }

    fn login(&self) -> String {
        self.patroni.login()
    }

    fn switch(&mut self) -> Result<()> {
        self.patroni.kill_primary()
    }

    fn settle(&mut self) -> Result<()> {
        self.patroni.revive()
    }

    fn rows(&self) -> Result<BTreeSet<i64>> {
        self.patroni.rows()
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(180)
    }
}

/// Kills each primary `rounds` times. The clusters wait for their timers nearly all of that time, so that they do not disturb each other.
///
/// # Errors
/// If a cluster cannot be started, or serves nobody for too long.
pub fn measure(rounds: u32) -> Result<Vec<Measured>> {
    let mut dying = Vec::new();
    for timing in TIMINGS {
        let name = format!("ttl {} / loop {}", timing.ttl, timing.loop_wait);
        eprintln!("starting the servers of Patroni, {name}");
        dying.push(Dying { patroni: Patroni::start(timing)?, name });
    }
    let threads: Vec<_> = dying.into_iter().map(|way| std::thread::spawn(move || die(way, rounds))).collect();
    let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
    ended.collect()
}

fn die(mut way: Dying, rounds: u32) -> Result<Measured> {
    let mut measured = Measured { way: way.name.clone(), ..Measured::default() };
    for round in 1..=rounds {
        let gap = once(&mut way, &mut measured).with_context(|| format!("Patroni, {}, round {round}", way.name))?;
        eprintln!("Patroni, {}: {round} of {rounds}: {:.1} s", way.name, gap.as_secs_f64());
    }
    Ok(measured)
}
