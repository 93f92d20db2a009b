//! What the demo says about its clients: pure text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Outcome;
use crate::load::Report;

/// A number with its thousands set apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `east 75 %, west 25 %`, of the answers that were counted.
fn shares(facilities: &BTreeMap<String, u64>) -> String {
    let sum: u64 = facilities.values().sum();
    let share = |(name, served): (&String, &u64)| format!("{name} {:.0} %", *served as f64 * 100.0 / sum.max(1) as f64);
    let shares: Vec<_> = facilities.iter().filter(|(_, served)| **served > 0).map(share).collect();
    if shares.is_empty() { "nobody".to_owned() } else { shares.join(", ") }
}

/// One line on what clients saw since the start.
pub(super) fn so_far(report: &Report) -> String {
    let (writes, failed) = writes(report);
    line(report.http.requests, report.http.failed, writes, failed, &report.http.facilities)
}

/// One line on what clients saw between two moments of one account.
pub(super) fn meanwhile(before: &Report, after: &Report) -> String {
    let mut facilities = after.http.facilities.clone();
    for (name, served) in &mut facilities {
        *served -= before.http.facilities.get(name).copied().unwrap_or(0);
    }
    let (writes_before, failed_before) = writes(before);
    let (writes, failed) = writes(after);
    line(
        after.http.requests - before.http.requests,
        after.http.failed - before.http.failed,
        writes - writes_before,
        failed - failed_before,
        &facilities,
    )
}

/// Acknowledged and failed writes of all databases.
fn writes(report: &Report) -> (u64, u64) {
    report.databases.values().fold((0, 0), |sum, database| (sum.0 + database.writes, sum.1 + database.failed))
}

fn line(requests: u64, failed: u64, writes: u64, failed_writes: u64, facilities: &BTreeMap<String, u64>) -> String {
    let (requests, writes) = (count(requests), count(writes));
    let by = shares(facilities);
    format!("{requests} requests, {failed} failed; {writes} writes, {failed_writes} failed; served by {by}")
}

/// The table of what clients saw, from the first request to the last.
pub(super) fn table(report: &Report, primaries: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let heads = ["service", "requests", "failed", "median", "99 of 100", "slowest", "served by"];
    let rows = report.services.iter().map(|(name, service)| {
        let latency = service.latency;
        vec![
            name.clone(),
            count(service.requests),
            count(service.failed),
            format!("{:.0} ms", latency.p50_ms),
            format!("{:.0} ms", latency.p99_ms),
            format!("{:.0} ms", latency.max_ms),
            shares(&service.facilities),
        ]
    });
    columns(&mut text, &heads, rows.collect());
    text.push('\n');
    let heads = ["database", "writes", "failed", "lost", "median", "longest stall", "primary in the end"];
    let rows = report.databases.iter().map(|(name, database)| {
        vec![
            name.clone(),
            count(database.writes),
            count(database.failed),
            database.lost.map_or_else(|| "unknown".to_owned(), count),
            format!("{:.0} ms", database.latency.p50_ms),
            format!("{} ms", count(database.longest_stall_ms)),
            primaries.get(name).cloned().unwrap_or_else(|| "unknown".to_owned()),
        ]
    });
    columns(&mut text, &heads, rows.collect());
    text
}

/// Columns as wide as they must be: the first and the last to the left, numbers to the right.
pub(super) fn columns(text: &mut String, heads: &[&str], rows: Vec<Vec<String>>) {
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            rows.iter().map(|row| row[column].chars().count()).chain([heads[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let heads = heads.iter().map(|&head| head.to_owned()).collect();
    for row in std::iter::once(heads).chain(rows) {
        let mut line = String::from(" ");
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            _ = match column == 0 || column + 1 == row.len() {
                true => write!(line, " {cell:<width$} "),
                false => write!(line, " {cell:>width$} "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// The first failures, each in a line.
pub(super) fn errors(report: &Report) -> String {
    let writes = report.databases.values().flat_map(|database| &database.first_errors);
    let mut text = String::new();
    for error in report.http.first_errors.iter().chain(writes) {
        let via = error.via.map(|via| format!(" by {via}")).unwrap_or_default();
        _ = writeln!(text, "  {} {}: {}{via}, after {} ms", error.at, error.request, error.why, error.took_ms);
    }
    text
}

/// The last line.
pub(super) fn verdict(outcome: &Outcome) -> String {
    if outcome.problems.is_empty() {
        return "No request failed, no write failed, no acknowledged write was lost.".to_owned();
    }
    let problems: Vec<_> = outcome.problems.iter().map(|problem| format!("  - {problem}")).collect();
    format!("Not as it should be:\n{}", problems.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{DatabaseReport, HttpReport, Latency, ServiceReport};

    fn report(west: u64, east: u64, failed: u64, writes: u64) -> Report {
        let facilities = BTreeMap::from([("east".to_owned(), east), ("west".to_owned(), west)]);
        let latency = Latency { p50_ms: 4.4, p99_ms: 31.0, max_ms: 812.3 };
        let requests = west + east + failed;
        let service =
            ServiceReport { requests, failed, facilities: facilities.clone(), latency, ..ServiceReport::default() };
        let database = DatabaseReport { writes, lost: Some(0), longest_stall_ms: 1612, latency, ..Default::default() };
        Report {
            finished: true,
            seconds: 60.0,
            http: HttpReport { requests, failed, facilities, first_errors: Vec::new() },
            services: BTreeMap::from([("orderform".to_owned(), service)]),
            databases: BTreeMap::from([("accounts".to_owned(), database)]),
        }
    }

    #[test]
    fn numbers_are_set_in_thousands() {
        assert_eq!(
            [0, 7, 999, 1000, 123_456, 1_234_567].map(count),
            ["0", "7", "999", "1,000", "123,456", "1,234,567"]
        );
    }

    #[test]
    fn meanwhile_is_the_difference_of_two_moments() {
        let line = meanwhile(&report(500, 500, 0, 100), &report(500, 2500, 1, 1350));
        assert_eq!(line, "2,001 requests, 1 failed; 1,250 writes, 0 failed; served by east 100 %");
        let line = meanwhile(&report(1, 1, 0, 0), &report(1, 1, 0, 0));
        assert_eq!(line, "0 requests, 0 failed; 0 writes, 0 failed; served by nobody");
    }

    #[test]
    fn the_table_shows_both_kinds_of_client() {
        let primaries = BTreeMap::from([("accounts".to_owned(), "10.10.0.100:5432".to_owned())]);
        let expected = "  \
  service    requests  failed  median  99 of 100  slowest  served by
  orderform    10,000       0    4 ms      31 ms   812 ms  east 75 %, west 25 %

  database  writes  failed  lost  median  longest stall  primary in the end
  accounts   4,000       0     0    4 ms       1,612 ms  10.10.0.100:5432
";
        assert_eq!(table(&report(2500, 7500, 0, 4000), &primaries), expected);
    }
}
