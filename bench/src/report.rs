//! What came out: a file for machines, a table for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::dns::Zone;
use crate::observe::Observed;
use crate::planner::{Once, exponent};
use crate::switchover::Measured;

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    /// Switchovers by each way.
    pub switchovers: Vec<Measured>,
    /// Zones by size.
    pub zones: Vec<Zone>,
    /// Reading the example.
    pub observed: Observed,
    /// Seconds for a plan with a facility that does not answer.
    pub plan_blackholed_s: f64,
    /// Plans of generated topologies.
    pub planner: Vec<Once>,
    /// Milliseconds until one record of the journal is durable.
    pub journal_ms: f64,
    /// Programs with their versions.
    pub versions: BTreeMap<&'static str, String>,
}

impl Report {
    fn way(&self, name: &str) -> f64 {
        self.switchovers.iter().find(|measured| measured.way == name).map_or(f64::NAN, Measured::median_ms)
    }

    /// `report.json`: the medians under names that stay, everything else under `details`.
    pub fn to_json(&self) -> Value {
        let switchovers: Map<String, Value> =
            self.switchovers.iter().map(|measured| (measured.way.clone(), json!(measured.median_ms()))).collect();
        let large = self.zones.last();
        json!({
            "switchover_ms": switchovers,
            "dns_plan_100k": {
                "handover_s": large.map(|zone| zone.handover_s),
                "handover_mib": large.map(|zone| zone.handover_mib),
                "octodns_s": large.map(|zone| zone.octodns_s),
                "dig_axfr_s": large.map(|zone| zone.dig_axfr_s),
            },
            "observe_ms": {"all": self.observed.all_ms, "slowest_target": self.observed.slowest_ms},
            "plan_blackholed_s": self.plan_blackholed_s,
            "planner_100k_s": self.planner.last().map(|once| once.plan_wall_s),
            "journal_ms": self.journal_ms,
            "details": self,
        })
    }

    /// One table, with the measure that each line must keep.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, found: String, measure: &str, good: Option<bool>| {
            let verdict = match good {
                Some(true) => "good",
                Some(false) => "MISSED",
                None => "",
            };
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{}", format!("  {what:<46} {found:>24}   {measure:<26} {verdict}").trim_end());
        };
        for way in &self.switchovers {
            let bounds =
                way.outages_ms.iter().fold((f64::MAX, 0.0f64), |(low, high), ms| (low.min(*ms), high.max(*ms)));
            let found = format!("{:.0} ms ({:.0}–{:.0})", way.median_ms(), bounds.0, bounds.1);
            let what = format!("write outage, {} ({} times)", way.way, way.outages_ms.len());
            line(&what, found, "", None);
            let found = format!("{} / {} / {}", way.acknowledged, way.failed, way.lost);
            let ours = way.way == "handover";
            let measure = if ours { "0 failed, 0 lost" } else { "" };
            line("  writes acknowledged / failed / lost", found, measure, ours.then_some(way.failed + way.lost == 0));
        }
        let (ours, made, patroni) = (self.way("handover"), self.way("handmade"), self.way("patroni"));
        line("handover : handmade", format!("{:.2}", ours / made), "≤ 1.25", Some(ours <= 1.25 * made));
        line("patroni : handover", format!("{:.1}", patroni / ours), "≥ 10", Some(patroni >= 10.0 * ours));
        for zone in &self.zones {
            let found = |seconds: f64, mib: f64| format!("{seconds:.3} s, {mib:.0} MiB");
            line(
                &format!("plan, zone of {}: handover", zone.records),
                found(zone.handover_s, zone.handover_mib),
                "",
                None,
            );
            line("  octoDNS", found(zone.octodns_s, zone.octodns_mib), "", None);
            line("  dig AXFR", format!("{:.3} s", zone.dig_axfr_s), "", None);
        }
        if let Some(zone) = self.zones.last() {
            let (transfer, octodns) = (zone.handover_s / zone.dig_axfr_s, zone.octodns_s / zone.handover_s);
            line("handover : dig AXFR", format!("{transfer:.2}"), "≤ 2", Some(transfer <= 2.0));
            line("octoDNS : handover", format!("{octodns:.0}"), "≥ 30", Some(octodns >= 30.0));
            line("memory", format!("{:.0} MiB", zone.handover_mib), "< 150 MiB", Some(zone.handover_mib < 150.0));
        }
        let Observed { all_ms, slowest_ms, slowest, targets } = &self.observed;
        line(&format!("observing {targets} targets"), format!("{all_ms:.0} ms"), "", None);
        line(&format!("  alone: {slowest}"), format!("{slowest_ms:.0} ms"), "", None);
        let ratio = all_ms / slowest_ms;
        line("all : slowest", format!("{ratio:.2}"), "≤ 1.5", Some(ratio <= 1.5));
        let blackholed = self.plan_blackholed_s;
        line("plan, one facility black-holed", format!("{blackholed:.2} s"), "< 3 s", Some(blackholed < 3.0));
        for once in &self.planner {
            let found = format!("{:.3} s, {:.0} MiB", once.plan_wall_s, once.peak_mib);
            line(&format!("planning, {} targets, {} steps", once.targets, once.steps), found, "", None);
        }
        if let Some(large) = self.planner.last() {
            let good = large.plan_wall_s < 1.0 && large.peak_mib < 500.0;
            line("  the largest", format!("{:.3} s", large.plan_wall_s), "< 1 s, < 500 MiB", Some(good));
            let order = exponent(&self.planner, |once| once.diff_order_s);
            line("  exponent, comparing and ordering", format!("{order:.3}"), "≤ 1.1", Some(order <= 1.1));
            let plan = exponent(&self.planner, |once| once.plan_s);
            line("  exponent, the whole plan", format!("{plan:.3}"), "", None);
        }
        let journal = self.journal_ms;
        line("one record of the journal, durable", format!("{journal:.1} ms"), "< 5 ms", Some(journal < 5.0));
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        text + "\n  " + &versions.join(", ") + "\n"
    }
}
