//! Which address lives in which namespace: pure, from the topology.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use handover::model::{Target, TargetKind, TransportKind};
use handover::topology::Topology;

/// The namespace in which the operator and the clients live.
pub const OPERATOR: &str = "operator";

/// One network namespace: a facility, or the operator's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The facility's name, or [`OPERATOR`].
    pub name: String,
    /// First two bytes of its addresses: each place has a /16 of its own.
    pub network: [u8; 2],
    /// The addresses that its servers listen on.
    pub addresses: BTreeSet<Ipv4Addr>,
}

impl Place {
    /// The address that programs in this place speak from when they speak to another place.
    pub fn own_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.network[0], self.network[1], 0, 1)
    }

    /// The network as `a.b.0.0/16`.
    pub fn cidr(&self) -> String {
        format!("{}.{}.0.0/16", self.network[0], self.network[1])
    }
}

/// All places of a lab; the operator's is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The places.
    pub places: Vec<Place>,
}

impl Layout {
    /// Finds out where each address of the topology lives.
    pub fn of(topology: &Topology) -> Result<Self> {
        let mut addresses: BTreeMap<&str, BTreeSet<Ipv4Addr>> =
            topology.facilities.keys().map(|name| (name.as_str(), BTreeSet::new())).collect();
        let mut add = |facility: &str, ip: Ipv4Addr| -> Result<()> {
            addresses.entry_of(facility)?.insert(ip);
            Ok(())
        };
        for target in topology.targets() {
            if target.kind != TargetKind::Job {
                add(target.facility.as_str(), socket(target)?.0)?;
            }
            if let Some(control) = target.settings.text("control").and_then(|control| control.strip_prefix("tcp://")) {
                let control: SocketAddr =
                    control.parse().with_context(|| format!("{}: control address {control}", target.id))?;
                add(target.facility.as_str(), v4(control.ip())?)?;
            }
            if let Some(address) = target.host.as_deref().and_then(|host| ssh_address(&host.transport)) {
                add(target.facility.as_str(), address?)?;
            }
        }
        for target in topology.vantages.values() {
            if let Some(address) = target.host.as_deref().and_then(|host| ssh_address(&host.transport)) {
                add(target.facility.as_str(), address?)?;
            }
        }
        for (facility, ips) in topology.services.values().flat_map(|service| &service.addresses) {
            for ip in ips {
                add(facility.as_str(), v4(*ip)?)?;
            }
        }
        Self::from_addresses(addresses)
    }

    fn from_addresses(addresses: BTreeMap<&str, BTreeSet<Ipv4Addr>>) -> Result<Self> {
        let mut owner: BTreeMap<[u8; 2], &str> = BTreeMap::new();
        for (facility, ips) in &addresses {
            for ip in ips {
                let network = network_of(*ip);
                let before = owner.insert(network, facility);
                ensure!(
                    before.is_none_or(|before| before == *facility),
                    "{ip} of {facility} is in the same /16 as addresses of {}: the lab needs a /16 of its own for each facility",
                    before.unwrap_or_default()
                );
            }
        }
        let mut places = Vec::new();
        for (facility, ips) in addresses {
            let mut networks: BTreeSet<[u8; 2]> = ips.iter().map(|ip| network_of(*ip)).collect();
            ensure!(networks.len() <= 1, "the addresses of {facility} lie in more than one /16");
            let network = match networks.pop_first() {
                Some(network) => network,
                None => free_network(&owner, (10..=250).step_by(10))?,
            };
            owner.insert(network, facility);
            places.push(Place { name: facility.to_owned(), network, addresses: ips });
        }
        let network = free_network(&owner, (99..=250).step_by(1))?;
        let resolver = Ipv4Addr::new(network[0], network[1], 0, 53);
        places.push(Place { name: OPERATOR.to_owned(), network, addresses: BTreeSet::from([resolver]) });
        Ok(Self { places })
    }

    /// The number of a place.
    pub fn index(&self, name: &str) -> Result<usize> {
        self.places.iter().position(|place| place.name == name).with_context(|| {
            let names: Vec<_> = self.places.iter().map(|place| place.name.as_str()).collect();
            format!("there is no place `{name}` in this lab; there are {}", names.join(", "))
        })
    }

    /// The operator's place.
    pub fn operator(&self) -> &Place {
        &self.places[self.places.len() - 1]
    }

    /// Where the caching resolver answers.
    pub fn resolver(&self) -> Ipv4Addr {
        let [a, b] = self.operator().network;
        Ipv4Addr::new(a, b, 0, 53)
    }
}

trait EntryOf {
    fn entry_of(&mut self, facility: &str) -> Result<&mut BTreeSet<Ipv4Addr>>;
}

impl EntryOf for BTreeMap<&str, BTreeSet<Ipv4Addr>> {
    fn entry_of(&mut self, facility: &str) -> Result<&mut BTreeSet<Ipv4Addr>> {
        self.get_mut(facility).with_context(|| format!("there is no facility `{facility}`"))
    }
}

fn free_network(owner: &BTreeMap<[u8; 2], &str>, second: impl Iterator<Item = u8>) -> Result<[u8; 2]> {
    let mut free = second.map(|byte| [10, byte]).filter(|network| !owner.contains_key(network));
    free.next().context("no /16 of 10.0.0.0/8 is left")
}

fn network_of(ip: Ipv4Addr) -> [u8; 2] {
    let [a, b, ..] = ip.octets();
    [a, b]
}

fn v4(ip: IpAddr) -> Result<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => bail!("{ip}: the lab's networks carry IPv4 only"),
    }
}

/// Where a target listens: address and port.
pub fn socket(target: &Target) -> Result<(Ipv4Addr, u16)> {
    let address: SocketAddr = target
        .address
        .parse()
        .with_context(|| format!("{}: `{}` is not an address such as 10.10.0.1:80", target.id, target.address))?;
    Ok((v4(address.ip())?, address.port()))
}

/// The address of a host that is reached by ssh.
pub fn ssh_address(transport: &TransportKind) -> Option<Result<Ipv4Addr>> {
    match transport {
        TransportKind::Local => None,
        TransportKind::Ssh { address, .. } => {
            Some(address.parse().with_context(|| format!("the lab needs an IPv4 address for host `{address}`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &[&str]) -> BTreeSet<Ipv4Addr> {
        text.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn a_facility_without_addresses_and_the_operator_get_free_networks() {
        let layout = Layout::from_addresses(BTreeMap::from([
            ("east", ips(&["10.20.0.53"])),
            ("haven", ips(&[])),
            ("west", ips(&["10.10.0.53", "10.10.0.80"])),
        ]))
        .unwrap();
        let networks: Vec<_> = layout.places.iter().map(|place| (place.name.as_str(), place.cidr())).collect();
        let expected = [("east", "10.20"), ("haven", "10.30"), ("west", "10.10"), (OPERATOR, "10.99")];
        assert_eq!(networks, expected.map(|(name, prefix)| (name, format!("{prefix}.0.0/16"))));
    }

    #[test]
    fn two_facilities_in_one_network_are_refused() {
        let result =
            Layout::from_addresses(BTreeMap::from([("east", ips(&["10.1.0.1"])), ("west", ips(&["10.1.9.9"]))]));
        assert!(result.unwrap_err().to_string().contains("same /16"));
    }
}
