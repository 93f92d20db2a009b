//! How long planning takes without any network: a drain of the west of generated topologies.

mod topology;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use handover::plan::{Intent, Planned, desired, diff, make, order};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::healthy;
use crate::numbers::median;

/// Sizes that are measured.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

/// Plans made in one process, of few targets and of many; the median counts.
const PLANS: (usize, usize) = (50, 5);

/// What one process measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Once {
    /// Targets of the topology.
    pub targets: usize,
    /// Steps of the plan.
    pub steps: usize,
    /// What steps need, all in all.
    pub needs: usize,
    /// Seconds on the processor for comparing and ordering.
    pub diff_order_s: f64,
    /// Seconds on the processor for the whole plan: wishes, difference, objections, order, facts.
    pub plan_s: f64,
    /// Seconds on the clock for the whole plan.
    pub plan_wall_s: f64,
    /// The most memory that the process held, topology and facts included.
    pub peak_mib: f64,
}

/// All sizes, each in a process of its own.
pub fn measure() -> Result<Vec<Once>> {
    SIZES.iter().map(|targets| in_a_process(*targets)).collect()
}

/// How a time grows with the number of targets: the exponent between the smallest and the largest.
pub fn exponent(measured: &[Once], time: fn(&Once) -> f64) -> f64 {
    match measured {
        [first, .., last] => (time(last) / time(first)).ln() / (last.targets as f64 / first.targets as f64).ln(),
        _ => f64::NAN,
    }
}

/// As text.
pub fn table(measured: &[Once]) -> String {
    let mut text =
        format!("{:>9} {:>9} {:>9} {:>14} {:>9} {:>9}\n", "targets", "steps", "needs", "diff+order s", "plan s", "MiB");
    for once in measured {
        let sizes = [once.targets, once.steps, once.needs].map(|size| format!("{size:>13}"));
        let times = [once.diff_order_s, once.plan_s, once.plan_wall_s].map(|time| format!("{time:>13.4}"));
        text += &format!("{}{}{:>13.0}\n", sizes.concat(), times.concat(), once.peak_mib);
    }
    let [order, plan] = [exponent(measured, |once| once.diff_order_s), exponent(measured, |once| once.plan_s)];
    text + &format!("exponent: diff+order {order:.3}, plan {plan:.3}\n")
}

fn in_a_process(targets: usize) -> Result<Once> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.arg("planner-once").arg(targets.to_string()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("the measuring process wrote something else")
}

/// Measures in this process.
pub fn once(targets: usize) -> Result<Once> {
    let topology = healthy::read(&topology::text(targets));
    let live = healthy::live(&topology);
    // What generating and parsing needed is not planning's.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let intent = Intent { drain: BTreeSet::from(["west".into()]), ..Intent::default() };
    let now: Timestamp = "2026-11-23T06:15:00Z".parse()?;
    let (mut plans, mut walls, mut cores, mut size) = (Vec::new(), Vec::new(), Vec::new(), (0, 0));
    for _ in 0..(PLANS.0 * SIZES[0] / targets.max(1)).clamp(PLANS.1, PLANS.0) {
        let (began, working) = (Instant::now(), processor_s()?);
        let planned = make(&topology, &intent, &[], &live, now);
        plans.push(processor_s()? - working);
        walls.push(began.elapsed().as_secs_f64());
        let Planned::Plan(plan) = planned else { bail!("no plan: {planned:.300?}") };
        size = (plan.steps.len(), plan.steps.iter().map(|step| step.needs.len()).sum());
        drop(plan);
        let Ok(wanted) = desired::desired(&topology, &intent, &[], &live) else { bail!("no wishes") };
        let working = processor_s()?;
        let (changes, _) = diff::diff(&topology, &wanted, &live);
        let ordered = order(&topology, &wanted, &changes, &live);
        cores.push(processor_s()? - working);
        drop(ordered);
    }
    Ok(Once {
        targets: topology.targets().count(),
        steps: size.0,
        needs: size.1,
        diff_order_s: median(cores),
        plan_s: median(plans),
        plan_wall_s: median(walls),
        peak_mib: peak_mib()?,
    })
}

/// The time that this thread has had a processor: other work on the machine does not count.
fn processor_s() -> Result<f64> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?).as_secs_f64())
}

fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
