//! The paths that are left to users when a facility is lost, and since when each of them serves. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use handover::model::{FacilityName, Route};
use handover::topology::Topology;
use serde::{Deserialize, Serialize};

/// The lab's caching resolver, as the operator's place finds it.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 53);

/// Writes and requests that do not come for longer than this are an interruption.
const GAP_S: f64 = 0.5;

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Writes to a database through a pooler.
    Write,
    /// Requests of a service through a proxy; each reads from the service's databases.
    Serve,
    /// A hostname at an authoritative name server: good without any address of what is lost.
    Publish,
    /// A hostname at the caching resolver, likewise.
    Resolve,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Write, Self::Serve, Self::Publish, Self::Resolve];
}

/// How it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// An INSERT at `host` and `port`, into this entry of the pooler.
    Write { host: String, port: u16, entry: String },
    /// `GET /` for a hostname at an address.
    Get { address: SocketAddr, hostname: String },
    /// The addresses of a hostname.
    Ask { server: SocketAddr, hostname: String, recursive: bool },
}

/// A path that must serve without what is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// What it is for.
    pub kind: Kind,
    /// In words.
    pub name: String,
    /// How it is used.
    pub how: How,
}

/// Every surviving path: each database through each pooler, each service through each proxy, each hostname at each name server and at the
/// caching resolver.
///
/// # Errors
/// If an address is no IP address with a port.
pub fn surviving(topology: &Topology, lost: &FacilityName) -> Result<Vec<Path>> {
    let mut paths = Vec::new();
    for database in topology.databases.values() {
        let Route::PoolerDatabase(entry) = &database.route else { continue };
        for pooler in database.poolers.iter().filter_map(|name| topology.poolers.get(name)) {
            let target = &pooler.target;
            if target.facility != *lost {
                let address = socket(&target.address)?;
                let how = How::Write { host: address.ip().to_string(), port: address.port(), entry: entry.to_string() };
                let name = format!("{} through {}", database.name, target.name());
                paths.push(Path { kind: Kind::Write, name, how });
            }
        }
    }
    for (hostname, service) in hostnames(topology) {
        for proxy in topology.proxies.values().filter(|proxy| proxy.target.facility != *lost) {
            let how = How::Get { address: socket(&proxy.target.address)?, hostname: hostname.clone() };
            paths.push(Path { kind: Kind::Serve, name: format!("{service} through {}", proxy.target.name()), how });
        }
        let servers = topology.zones.values().flat_map(|zone| zone.servers.values());
        for server in servers.filter(|server| server.target.facility != *lost) {
            let address = socket(&server.target.address)?;
            let how = How::Ask { server: address, hostname: hostname.clone(), recursive: false };
            paths.push(Path { kind: Kind::Publish, name: format!("{hostname} at {}", server.target.name()), how });
        }
        let how = How::Ask { server: RESOLVER, hostname: hostname.clone(), recursive: true };
        paths.push(Path { kind: Kind::Resolve, name: format!("{hostname} at the caching resolver"), how });
    }
    Ok(paths)
}

/// The addresses of what is lost: whoever gets one of them is sent to nobody.
pub fn dead_addresses(topology: &Topology, lost: &FacilityName) -> BTreeSet<IpAddr> {
    let published = topology.services.values().filter_map(|service| service.addresses.get(lost));
    published.flatten().copied().collect()
}

fn hostnames(topology: &Topology) -> impl Iterator<Item = (&String, String)> {
    topology
        .services
        .values()
        .flat_map(|service| service.hostnames.keys().map(|hostname| (hostname, service.name.to_string())))
}

fn socket(address: &str) -> Result<SocketAddr> {
    address.parse().with_context(|| format!("`{address}` is no IP address with a port"))
}

/// One use of a path. Times are seconds of the machine's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attempt {
    /// When it began.
    pub began: f64,
    /// When its answer was there, or was given up.
    pub ended: f64,
    /// Whether that was what a user needs.
    pub good: bool,
}

/// From when on a path of this kind served without interruption until the end of the watch: the end of the first good attempt after every
/// bad one had begun, and after the last time that none was answered for [`GAP_S`]. None where it does not serve at the end.
pub fn good_from(kind: Kind, attempts: &[Attempt], until: f64) -> Option<f64> {
    let bad = attempts.iter().filter(|attempt| !attempt.good).map(|attempt| attempt.began);
    let bad = bad.fold(f64::NEG_INFINITY, f64::max);
    // An answer of DNS that comes late is late for one user; a service that answers nobody for so long is down.
    let most = if matches!(kind, Kind::Write | Kind::Serve) { GAP_S } else { f64::INFINITY };
    let mut from: Option<(f64, f64)> = None;
    for end in ends(attempts).filter(|end| *end > bad) {
        from = match from {
            Some((first, last)) if end - last <= most => Some((first, end)),
            _ => Some((end, end)),
        };
    }
    from.filter(|(_, last)| until - last <= most).map(|(first, _)| first)
}

/// The longest time between two good attempts: its end and its length. None with fewer than two.
pub fn longest_gap(attempts: &[Attempt]) -> Option<(f64, f64)> {
    let ends: Vec<f64> = ends(attempts).collect();
    let gaps = ends.windows(2).map(|pair| (pair[1], pair[1] - pair[0]));
    gaps.max_by(|a, b| a.1.total_cmp(&b.1))
}

/// When good attempts ended, in order.
fn ends(attempts: &[Attempt]) -> impl Iterator<Item = f64> {
    let mut ends: Vec<f64> = attempts.iter().filter(|attempt| attempt.good).map(|attempt| attempt.ended).collect();
    ends.sort_by(f64::total_cmp);
    ends.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(began: f64, ended: f64, good: bool) -> Attempt {
        Attempt { began, ended, good }
    }

    #[test]
    fn the_paths_of_the_example_are_those_that_do_not_lead_through_what_is_lost() {
        let text = include_bytes!("../../../topology.yaml");
        let topology = handover::topology::parse(text, &handover::cli::checks()).unwrap().topology;
        let paths = surviving(&topology, &"west".into()).unwrap();
        let names = |kind| paths.iter().filter(|path| path.kind == kind).map(|path| path.name.as_str()).collect();
        let writes: Vec<&str> = names(Kind::Write);
        assert_eq!(writes, ["accounts through east-pool1", "prices through east-pool1", "products through east-pool1"]);
        assert_eq!((names(Kind::Serve).len(), names(Kind::Publish).len(), names(Kind::Resolve).len()), (6, 6, 3));
        assert!(!paths.iter().any(|path| path.name.contains("west")), "{paths:?}");
        let dead = dead_addresses(&topology, &"west".into());
        assert_eq!(dead, ["10.10.0.80", "10.10.0.81"].map(|ip| ip.parse().unwrap()).into());
    }

    #[test]
    fn a_path_serves_from_its_first_answer_after_all_that_went_wrong() {
        let good = |at: f64| attempt(at - 0.1, at, true);
        let from = |attempts: &[Attempt], until| good_from(Kind::Write, attempts, until);
        assert_eq!(from(&[good(1.0), good(1.2), good(1.4)], 1.5), Some(1.0), "never interrupted");
        // One that hung and was given up later says nothing of the time after it began.
        let hung = attempt(1.25, 2.25, false);
        assert_eq!(from(&[good(1.0), good(1.2), hung, good(1.8), good(2.0), good(2.3)], 2.4), Some(1.8));
        assert_eq!(from(&[good(1.0), good(3.0), good(3.2)], 3.3), Some(3.0), "nobody was answered for two seconds");
        assert_eq!(from(&[good(1.0), good(1.2)], 3.0), None, "nor is anybody now");
        assert_eq!(from(&[good(1.0), attempt(1.1, 1.2, false)], 1.3), None);
        assert_eq!(from(&[], 1.0), None);
        // Of a name the last wrong answer counts, however seldom it is asked for.
        let asked = [good(1.0), attempt(2.0, 2.1, false), good(4.0), good(9.0)];
        assert_eq!(good_from(Kind::Resolve, &asked, 9.5), Some(4.0));
    }

    #[test]
    fn the_longest_gap_lies_between_two_answers() {
        let attempts =
            [attempt(0.0, 1.0, true), attempt(1.0, 4.0, true), attempt(4.0, 4.5, true), attempt(5.0, 9.0, false)];
        assert_eq!(longest_gap(&attempts), Some((4.0, 3.0)));
        assert_eq!(longest_gap(&attempts[..1]), None);
    }
}
