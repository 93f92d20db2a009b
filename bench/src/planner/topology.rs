//! A large topology, as text.

use std::fmt::Write;

/// Application servers of each service.
const SERVERS: usize = 20;
/// Targets that come with each service: its servers, a database of two members, two poolers, a job.
const TARGETS: usize = SERVERS + 2 + 2 + 1;
/// Services whose hostnames are in one zone.
const SERVICES_PER_ZONE: usize = 100;

/// A topology of about `targets` targets: two facilities; four proxies that list every service, as they must; for each service
/// twenty application servers, a database of two members behind two poolers of its own, and a job. Every second database has its
/// primary in the west.
pub fn text(targets: usize) -> String {
    let services = (targets / TARGETS).max(1);
    let mut text = "topology: 1\nname: large\nfacilities:\n  west: {}\n  east: {}\nzones:\n".to_owned();
    for zone in 0..services.div_ceil(SERVICES_PER_ZONE) {
        let address = |facility: usize, server: usize| format!("10.{facility}.{zone}.{server}:53");
        line(&mut text, format_args!("  zone{zone}.example:\n    provider: rfc2136\n    servers:"));
        for (number, facility) in [(1, "west"), (2, "east")] {
            let (first, second) = (address(number, 53), address(number, 54));
            line(
                &mut text,
                format_args!("      {facility}-ns1: {{facility: {facility}, address: \"{first}\", updates: true}}"),
            );
            line(
                &mut text,
                format_args!(
                    "      {facility}-ns2: {{facility: {facility}, address: \"{second}\", transfers_from: {facility}-ns1}}"
                ),
            );
        }
    }
    text.push_str("proxies:\n");
    for (number, facility) in [(1, "west"), (2, "east")] {
        for proxy in 1..=2 {
            line(
                &mut text,
                format_args!(
                    "  {facility}-lb{proxy}: {{facility: {facility}, provider: haproxy, address: \"10.{number}.0.8{proxy}:80\"}}"
                ),
            );
        }
    }
    text.push_str("services:\n");
    (0..services).for_each(|number| service(&mut text, number));
    text.push_str("databases:\n");
    (0..services).for_each(|number| database(&mut text, number));
    text.push_str("poolers:\n");
    (0..services).for_each(|number| {
        for (place, facility) in ["west", "east"].into_iter().enumerate() {
            let address = address(place, number, 6432);
            line(
                &mut text,
                format_args!(
                    "  {facility}-pool{number}: {{facility: {facility}, provider: pgbouncer, address: \"{address}\", host: here}}"
                ),
            );
        }
    });
    text.push_str("hosts:\n  here: {transport: local}\njobs:\n");
    for number in 0..services {
        line(&mut text, format_args!("  job{number}: {{runs_in: west, host: here, writes_to: [db{number}]}}"));
    }
    text.push_str("policy:\n  headroom: 0%\n");
    text
}

fn service(text: &mut String, number: usize) {
    let zone = number / SERVICES_PER_ZONE;
    line(text, format_args!("  service{number}:"));
    line(text, format_args!("    hostnames: [service{number}.zone{zone}.example]"));
    text.push_str("    addresses: {west: [10.1.0.81, 10.1.0.82], east: [10.2.0.81, 10.2.0.82]}\n");
    text.push_str("    share: {west: 50%, east: 50%}\n    servers:\n");
    for server in 0..SERVERS {
        let (place, facility) = if server % 2 == 0 { (0, "west") } else { (1, "east") };
        let address = address(place, number, 8000 + server);
        line(
            text,
            format_args!(
                "      app{number}-{server}: {{facility: {facility}, address: \"{address}\", capacity: 100 rps}}"
            ),
        );
    }
    text.push_str("    peak: {rate: 500 rps}\n    health: {path: /health}\n");
    line(text, format_args!("    writes_to: [db{number}]"));
}

fn database(text: &mut String, number: usize) {
    let primary = if number.is_multiple_of(2) { "west" } else { "east" };
    line(text, format_args!("  db{number}:\n    provider: postgresql\n    primary: {primary}\n    members:"));
    for (place, facility) in ["west", "east"].into_iter().enumerate() {
        let address = address(place, number, 5432);
        line(
            text,
            format_args!(
                "      {facility}-pg{number}: {{facility: {facility}, address: \"{address}\", host: here, priority: 100}}"
            ),
        );
    }
    text.push_str("    replication: {mode: asynchronous, max_lag: 1s}\n");
    line(
        text,
        format_args!("    poolers: [west-pool{number}, east-pool{number}]\n    route: {{pooler_database: db{number}}}"),
    );
}

fn address(place: usize, number: usize, port: usize) -> String {
    format!("10.{}.{}.{}:{port}", place + 1, number / 200, number % 200 + 10)
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a text cannot fail.
    let _ = text.write_fmt(arguments);
    text.push('\n');
}
