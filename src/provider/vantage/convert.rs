//! Between addresses and the script's arguments and lines: pure.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::VantageFacts;
use crate::transport::Output;

/// Host and port; brackets around an IPv6 address are not the script's business.
fn parts(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port))
}

/// The script's arguments.
pub(super) fn arguments(each: Duration, asked: &BTreeSet<String>) -> Vec<String> {
    let pairs = asked.iter().filter_map(|address| parts(address));
    let words = pairs.flat_map(|(host, port)| [host.to_owned(), port.to_owned()]);
    std::iter::once(each.as_millis().to_string()).chain(words).collect()
}

/// What the script printed.
///
/// # Errors
/// If it could not try.
pub(super) fn facts(asked: &BTreeSet<String>, output: &Output) -> Result<VantageFacts, String> {
    if output.status != 0 {
        let said = output.stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
        return Err(format!("it cannot try: {}", said.trim().chars().take(200).collect::<String>()));
    }
    let made: BTreeSet<&str> = output.stdout.lines().map(str::trim).collect();
    let reached = asked.iter().map(|address| {
        let is = parts(address).is_some_and(|(host, port)| made.contains(format!("{host} {port}").as_str()));
        (address.clone(), is)
    });
    Ok(VantageFacts { reached: reached.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> BTreeSet<String> {
        ["10.10.0.53:53", "[fd00::1]:5432", "db.example:5432"].map(str::to_owned).into()
    }

    fn output(status: i32, stdout: &str, stderr: &str) -> Output {
        Output { status, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
    }

    #[test]
    fn addresses_are_told_apart_and_come_back() {
        let words = arguments(Duration::from_millis(400), &asked());
        assert_eq!(words, ["400", "10.10.0.53", "53", "fd00::1", "5432", "db.example", "5432"]);
        let facts = facts(&asked(), &output(0, "fd00::1 5432\nsomething else\n", "")).unwrap();
        let reached: Vec<_> =
            facts.reached.iter().filter(|(_, is)| **is).map(|(address, _)| address.as_str()).collect();
        assert_eq!((reached, facts.reached.len()), (vec!["[fd00::1]:5432"], 3));
    }

    #[test]
    fn a_host_that_cannot_try_has_reached_nothing_and_says_so() {
        let why = facts(&asked(), &output(3, "", "neither bash with /dev/tcp nor nc is installed\n")).unwrap_err();
        assert_eq!(why, "it cannot try: neither bash with /dev/tcp nor nc is installed");
        assert!(facts(&asked(), &output(127, "", "")).is_err());
    }
}
