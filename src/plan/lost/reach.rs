//! Which addresses hosts elsewhere are asked for, and whose those are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::evidence::Lost;
use crate::model::{FacilityName, Scope, Target, TargetId, TargetKind};
use crate::topology::Topology;

/// Addresses of one facility that a vantage tries: enough to see it, few enough for one command.
const MOST: usize = 16;

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whose {
    /// What an operator calls it.
    pub names: BTreeSet<String>,
    /// The targets that listen there; none for an address that users are sent to and that is translated on its way.
    pub targets: BTreeSet<TargetId>,
    /// Where it is.
    pub facility: FacilityName,
    /// True if everything that is there is said to be lost.
    pub lost: bool,
}

/// The addresses that are worth a connection, each with whose it is.
pub(super) fn addresses(topology: &Topology, lost: &Lost) -> BTreeMap<String, Whose> {
    let mut found: BTreeMap<String, Whose> = BTreeMap::new();
    let mut add = |address: String, name: String, facility: &FacilityName, target: Option<&Target>, is_lost: bool| {
        let whose = found.entry(address).or_insert_with(|| Whose {
            names: BTreeSet::new(),
            targets: BTreeSet::new(),
            facility: facility.clone(),
            lost: true,
        });
        // An address that users are sent to is mostly a proxy's own, and has its name.
        if target.is_some() || whose.names.is_empty() {
            whose.names.insert(name);
        }
        whose.targets.extend(target.map(|target| target.id.clone()));
        whose.lost &= is_lost;
    };
    let mut room: BTreeMap<&FacilityName, usize> = BTreeMap::new();
    let mut targets: Vec<&Arc<Target>> = topology.targets().filter(|target| worth(target) > 0).collect();
    targets.sort_by_key(|target| std::cmp::Reverse((lost.targets.contains(&target.id), worth(target))));
    for target in targets {
        let taken = room.entry(&target.facility).or_default();
        if *taken < MOST || lost.targets.contains(&target.id) {
            *taken += 1;
            add(
                target.address.clone(),
                target.name().to_owned(),
                &target.facility,
                Some(target),
                lost.contains(target),
            );
        }
    }
    for (facility, address) in published(topology) {
        let name = format!("{facility}'s published address {address}");
        add(address, name, &facility, None, lost.facilities.contains(&facility));
    }
    found
}

/// How much an address of this kind says about the place where it is; 0 for what listens nowhere.
fn worth(target: &Target) -> u8 {
    match target.kind {
        TargetKind::Member => 5,
        TargetKind::NameServer => 4,
        TargetKind::Proxy => 3,
        TargetKind::Pooler => 2,
        TargetKind::Server => 1,
        TargetKind::Job | TargetKind::Unit | TargetKind::Fence | TargetKind::Vantage => 0,
    }
}

/// The addresses that users are sent to, on the ports of the facility's proxies; not those of several facilities, such as anycast ones.
fn published(topology: &Topology) -> BTreeSet<(FacilityName, String)> {
    let mut of: BTreeMap<IpAddr, BTreeSet<&FacilityName>> = BTreeMap::new();
    for (facility, ips) in topology.services.values().flat_map(|service| &service.addresses) {
        for ip in ips {
            of.entry(*ip).or_default().insert(facility);
        }
    }
    let alone = of.into_iter().filter_map(|(ip, facilities)| {
        let [only] = facilities.into_iter().collect::<Vec<_>>()[..] else { return None };
        Some((ip, only))
    });
    let ports = |facility: &FacilityName| -> BTreeSet<u16> {
        let here = topology.proxies.values().filter(|proxy| proxy.target.facility == *facility);
        here.filter_map(|proxy| proxy.target.address.rsplit_once(':')?.1.parse().ok()).collect()
    };
    alone
        .flat_map(|(ip, facility)| {
            ports(facility)
                .into_iter()
                .map(move |port| (facility.clone(), std::net::SocketAddr::new(ip, port).to_string()))
        })
        .take(MOST * topology.facilities.len())
        .collect()
}

/// What the hosts elsewhere are asked: those that stand outside of what is lost and those within, for who answers is not lost.
pub fn vantages(topology: &Topology, lost: &Lost) -> BTreeMap<TargetId, (Arc<Target>, Scope)> {
    let asked: BTreeSet<String> = addresses(topology, lost).into_keys().collect();
    let each = topology.vantages.values();
    each.map(|target| (target.id.clone(), (Arc::clone(target), Scope::Reach(asked.clone())))).collect()
}
