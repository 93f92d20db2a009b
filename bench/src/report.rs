//! What came out: a file for machines, a table for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::dns::Zone;
use crate::failover::Failovers;
use crate::numbers::Spread;
use crate::observe::{Blackholed, Observed};
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
    /// With a facility that does not answer.
    pub blackholed: Blackholed,
    /// A facility that loses its power.
    pub failovers: Failovers,
    /// Primaries of Patroni that die.
    pub patroni: Vec<Measured>,
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
            "plan_blackholed_s": self.blackholed.plan_s,
            "plan_lost_blackholed_s": self.blackholed.plan_lost_s,
            "status_blackholed_s": self.blackholed.status_s,
            "failover": failovers_json(&self.failovers, &self.patroni),
            "planner_100k_s": self.planner.last().map(|once| once.plan_wall_s),
            "journal_ms": self.journal_ms,
            "details": self,
        })
    }

    /// One table, with the measure that each line must keep.
    pub fn table(&self) -> String {
        let mut table = Table::default();
        for way in &self.switchovers {
            let what = format!("write outage, {} ({} times)", way.way, way.outages_ms.len());
            let Spread { median, least, most } = Spread::of(way.outages_ms.clone());
            table.plain(&what, format!("{median:.0} ms ({least:.0}–{most:.0})"));
            let found = format!("{} / {} / {}", way.acknowledged, way.failed, way.lost);
            let what = "  writes acknowledged / failed / lost";
            match way.way.as_str() {
                "handover" => table.judged(what, found, "0 failed, 0 lost", way.failed + way.lost == 0),
                _ => table.plain(what, found),
            }
        }
        let (ours, made, patroni) = (self.way("handover"), self.way("handmade"), self.way("patroni"));
        table.judged("handover : handmade", format!("{:.2}", ours / made), "≤ 1.25", ours <= 1.25 * made);
        table.judged("patroni : handover", format!("{:.1}", patroni / ours), "≥ 10", patroni >= 10.0 * ours);
        table.failovers(&self.failovers, &self.patroni);
        for zone in &self.zones {
            let found = |seconds: f64, mib: f64| format!("{seconds:.3} s, {mib:.0} MiB");
            let what = format!("plan, zone of {}: handover", zone.records);
            table.plain(&what, found(zone.handover_s, zone.handover_mib));
            table.plain("  octoDNS", found(zone.octodns_s, zone.octodns_mib));
            table.plain("  dig AXFR", format!("{:.3} s", zone.dig_axfr_s));
        }
        if let Some(zone) = self.zones.last() {
            let (transfer, octodns) = (zone.handover_s / zone.dig_axfr_s, zone.octodns_s / zone.handover_s);
            table.judged("handover : dig AXFR", format!("{transfer:.2}"), "≤ 2", transfer <= 2.0);
            table.judged("octoDNS : handover", format!("{octodns:.0}"), "≥ 30", octodns >= 30.0);
            table.judged("memory", format!("{:.0} MiB", zone.handover_mib), "< 150 MiB", zone.handover_mib < 150.0);
        }
        let Observed { all_ms, slowest_ms, slowest, targets } = &self.observed;
        table.plain(&format!("observing {targets} targets"), format!("{all_ms:.0} ms"));
        table.plain(&format!("  alone: {slowest}"), format!("{slowest_ms:.0} ms"));
        let ratio = all_ms / slowest_ms;
        table.judged("all : slowest", format!("{ratio:.2}"), "≤ 1.5", ratio <= 1.5);
        let Blackholed { plan_s, status_s, plan_lost_s } = self.blackholed;
        for (what, seconds, most) in [
            ("plan --drain, one facility black-holed", plan_s, 3.0),
            ("status, one facility black-holed", status_s, 1.5),
            ("plan --lost, that facility", plan_lost_s, 1.5),
        ] {
            table.judged(what, format!("{seconds:.2} s"), &format!("< {most} s"), seconds < most);
        }
        for once in &self.planner {
            let found = format!("{:.3} s, {:.0} MiB", once.plan_wall_s, once.peak_mib);
            table.plain(&format!("planning, {} targets, {} steps", once.targets, once.steps), found);
        }
        if let Some(large) = self.planner.last() {
            let good = large.plan_wall_s < 1.0 && large.peak_mib < 500.0;
            table.judged("  the largest", format!("{:.3} s", large.plan_wall_s), "< 1 s, < 500 MiB", good);
            let order = exponent(&self.planner, |once| once.diff_order_s);
            table.judged("  exponent, comparing and ordering", format!("{order:.3}"), "≤ 1.1", order <= 1.1);
            let plan = exponent(&self.planner, |once| once.plan_s);
            table.plain("  exponent, the whole plan", format!("{plan:.3}"));
        }
        let journal = self.journal_ms;
        table.judged("one record of the journal, durable", format!("{journal:.1} ms"), "< 5 ms", journal < 5.0);
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        table.0 + "\n  " + &versions.join(", ") + "\n"
    }
}

/// The table of the losses alone.
pub fn failovers(failovers: &Failovers, patroni: &[Measured]) -> String {
    let mut table = Table::default();
    table.failovers(failovers, patroni);
    table.0
}

/// Medians, in seconds; what begins with the apply begins with the start of its process.
fn failovers_json(failovers: &Failovers, patroni: &[Measured]) -> Value {
    let of = |number: fn(&crate::failover::Round) -> f64| failovers.of(number).median;
    let patroni: Map<String, Value> =
        patroni.iter().map(|measured| (measured.way.clone(), json!(measured.median_ms() / 1000.0))).collect();
    json!({
        "failed_rounds": failovers.failed.len(),
        "service_s": of(|round| round.service_s),
        "databases_s": of(|round| round.databases_s),
        "proxies_s": of(|round| round.proxies_s),
        "name_servers_s": of(|round| round.name_servers_s),
        "verdict_s": of(|round| round.verdict_s),
        "resolver_s": of(|round| round.resolver_s),
        "cut_to_apply_s": of(|round| round.cut_to_apply_s),
        "longest_gap_s": of(|round| round.longest_gap_s),
        "patroni_longest_gap_s": patroni,
    })
}

/// Lines of what was measured, what it was, and the measure that it must keep.
#[derive(Default)]
struct Table(String);

impl Table {
    fn line(&mut self, what: &str, found: &str, measure: &str, verdict: &str) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.0, "{}", format!("  {what:<46} {found:>24}   {measure:<26} {verdict}").trim_end());
    }

    fn plain(&mut self, what: &str, found: String) {
        self.line(what, &found, "", "");
    }

    fn judged(&mut self, what: &str, found: String, measure: &str, good: bool) {
        self.line(what, &found, measure, if good { "good" } else { "MISSED" });
    }

    fn failovers(&mut self, lost: &Failovers, patroni: &[Measured]) {
        let service = lost.of(|round| round.service_s);
        let what = format!("facility lost, from apply on ({} times)", lost.rounds.len());
        self.judged(&what, service.seconds(), "< 3 s", service.median < 3.0);
        let failed = lost.failed.len();
        self.judged("  rounds that failed", failed.to_string(), "0", failed == 0);
        self.plain("  the last look says dead", lost.of(|round| round.verdict_s).seconds());
        self.plain("  every database writable", lost.of(|round| round.databases_s).seconds());
        self.plain("  every surviving proxy serves", lost.of(|round| round.proxies_s).seconds());
        self.plain("  every surviving name server publishes", lost.of(|round| round.name_servers_s).seconds());
        self.plain("  the process has ended", lost.of(|round| round.apply_s).seconds());
        let resolver = format!("  apart: caching resolver, TTL {:.0} s", lost.ttl_s);
        self.plain(&resolver, lost.of(|round| round.resolver_s).seconds());
        let before = format!("  apart: power cut to apply, hold-down {:.0} s", lost.hold_down_s);
        self.plain(&before, lost.of(|round| round.cut_to_apply_s).seconds());
        let gap = lost.of(|round| round.longest_gap_s);
        self.plain("  longest gap between writes, all in all", gap.seconds());
        let sum = |number: fn(&crate::failover::Round) -> usize| lost.sum(number);
        let found = format!("{} / {}", sum(|round| round.acknowledged), sum(|round| round.failed));
        self.plain("  writes acknowledged / failed", found);
        let synchronous = sum(|round| round.lost_synchronous);
        self.judged("  lost, synchronous", synchronous.to_string(), "0", synchronous == 0);
        self.plain("  lost, asynchronous (accepted)", sum(|round| round.lost_asynchronous).to_string());
        for way in patroni {
            let found = Spread::of(way.outages_ms.iter().map(|ms| ms / 1000.0).collect());
            self.plain(
                &format!("Patroni's primary dies, {} ({} times)", way.way, way.outages_ms.len()),
                found.seconds(),
            );
            let writes = format!("{} / {} / {}", way.acknowledged, way.failed, way.lost);
            self.plain("  writes acknowledged / failed / lost", writes);
            self.plain("  its gap : from apply on", format!("{:.1}", found.median / service.median));
            self.plain("  its gap : longest gap, all in all", format!("{:.1}", found.median / gap.median));
        }
    }
}
