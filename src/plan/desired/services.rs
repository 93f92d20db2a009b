//! Shares and record sets of services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::holds::{Held, is_declared_share};
use super::shares::{Basis, distribute};
use super::{Desired, Refusal, record_keys};
use crate::model::{AppServer, FacilityName, Percent, Policy, Rate, RecordSet, RecordType, Service, Span, text::list};
use crate::plan::diff::shares_text;
use crate::plan::{HoldKind, Intent, Shares};
use crate::topology::Topology;

type Addresses = BTreeSet<IpAddr>;

/// The TTL at which a service's addresses are forgotten in time: what `--lower-ttl` lowers to.
pub(in crate::plan) fn short_ttl(service: &Service, policy: &Policy) -> Span {
    service.ttl.min(policy.dns_recovery_target)
}

/// A TTL as DNS has it: whole seconds.
fn seconds(ttl: Span) -> u32 {
    u32::try_from(ttl.0.as_secs()).unwrap_or(u32::MAX)
}

impl Desired {
    pub(super) fn fill_services(
        &mut self,
        topology: &Topology,
        intent: &Intent,
        held: &Held<'_>,
        refusals: &mut Vec<Refusal>,
    ) {
        for service in topology.services.values() {
            let wish = self.share_wish(topology, service, intent, held, refusals);
            let Some((shares, basis)) = distribute(&wish, &service.share, &capacities(service), &self.serving) else {
                refusals.push(Refusal::new(
                    format!("no facility that serves {} would be left", service.name),
                    "restore one of its facilities first",
                ));
                continue;
            };
            self.note_basis(service, &shares, basis);
            self.shares.insert(service.name.clone(), shares);
            let ttl = self.ttl(topology, service, intent, held, refusals);
            self.fill_records(topology, service, ttl, refusals);
        }
    }

    /// The addresses of proxies that are lost themselves, where they are published as they are.
    fn lost_addresses(&mut self, topology: &Topology, service: &Service, published: &Addresses) -> Addresses {
        let lost = topology.proxies.values().filter(|proxy| self.lost.targets.contains(&proxy.target.id));
        let mut gone = Addresses::new();
        let mut unknown = Vec::new();
        for target in lost.map(|proxy| &proxy.target).filter(|target| self.serving.contains(&target.facility)) {
            let address: Option<SocketAddr> = target.address.parse().ok();
            match address.map(|address| address.ip()).filter(|ip| published.contains(ip)) {
                Some(ip) => _ = gone.insert(ip),
                None => unknown.push(target.name()),
            }
        }
        if !unknown.is_empty() {
            self.notes.push(format!(
                "which published addresses of {} lead to {} is not known: take them out by hand",
                service.name,
                list(unknown)
            ));
        }
        if gone.len() == published.len() {
            self.notes
                .push(format!("every address of {} leads to a proxy that is lost: they stay published", service.name));
            return Addresses::new();
        }
        gone
    }

    /// The share before facilities that are out are taken away.
    fn share_wish(
        &mut self,
        topology: &Topology,
        service: &Service,
        intent: &Intent,
        held: &Held<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> Shares {
        let name = &service.name;
        let hold = |share: &Shares| HoldKind::Share { service: name.clone(), share: share.clone() };
        match (intent.share.get(name), held.shares.get(name)) {
            (Some(Some(share)), _) => {
                let mut parts: Vec<(&FacilityName, &Percent)> = share.iter().collect();
                parts.retain(|(_, part)| **part > Percent::ZERO);
                for (facility, part) in parts {
                    if !service.share.contains_key(facility) {
                        refusals.push(Refusal::new(
                            format!("{facility} is to serve {part} of {name}, and {name} has no server there"),
                            format!("its servers are in {}", list(service.share.keys())),
                        ));
                    } else {
                        refusals.extend(self.is_out(facility, &format!("{facility} is to serve {part} of {name}")));
                    }
                }
                if is_declared_share(topology, name, share) {
                    self.notes.push(format!("the topology itself gives {name} this share: no hold is left"));
                } else if !held.has(&hold(share)) {
                    self.holds.push(hold(share));
                }
                share.clone()
            }
            (Some(None), _) | (None, None) => service.share.clone(),
            (None, Some(share)) => {
                self.note_hold(&hold(share));
                (*share).clone()
            }
        }
    }

    fn note_basis(&mut self, service: &Service, shares: &Shares, basis: Basis) {
        let name = &service.name;
        let how = match basis {
            Basis::AsWished | Basis::Proportion => return,
            Basis::Declared => "in proportion to their shares in the topology",
            Basis::Capacity => "in proportion to what their servers can serve",
            Basis::Equal => "equally, because the capacity of their servers is not stated",
        };
        self.notes.push(format!(
            "{name}: the facilities that remain have no share of it; they take over {how}: {}",
            shares_text(shares)
        ));
    }

    /// The TTL of a service's addresses, in seconds.
    fn ttl(
        &mut self,
        topology: &Topology,
        service: &Service,
        intent: &Intent,
        held: &Held<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> u32 {
        let (name, short) = (&service.name, short_ttl(service, &topology.policy));
        let hold = |ttl| HoldKind::Ttl { service: name.clone(), ttl };
        if intent.lower_ttl.contains(name) {
            if intent.raise_ttl.contains(name) {
                let what = format!("the TTL of {name} is to be lowered and raised at once");
                refusals.push(Refusal::new(what, "choose one"));
            }
            if short < service.ttl && !held.has(&hold(short)) {
                self.holds.push(hold(short));
            }
            return seconds(short);
        }
        match held.ttls.get(name) {
            Some(ttl) if !self.ttl_ends(intent, service, *ttl) => {
                self.note_hold(&hold(*ttl));
                seconds(*ttl)
            }
            _ => seconds(service.ttl),
        }
    }

    fn fill_records(&mut self, topology: &Topology, service: &Service, ttl: u32, refusals: &mut Vec<Refusal>) {
        let mut addresses: Addresses = service
            .addresses
            .iter()
            .filter(|(facility, _)| self.serving.contains(*facility))
            .flat_map(|(_, addresses)| addresses.iter().copied())
            .collect();
        if addresses.is_empty() {
            refusals.push(Refusal::new(
                format!("the hostnames of {} would be left without an address", service.name),
                "give a facility that serves an entry under `addresses`",
            ));
            return;
        }
        let gone = self.lost_addresses(topology, service, &addresses);
        addresses.retain(|address| !gone.contains(address));
        for (key, zone) in record_keys(service) {
            let data: Addresses =
                addresses.iter().copied().filter(|ip| ip.is_ipv4() == (key.rtype == RecordType::A)).collect();
            let set = (!data.is_empty()).then_some(RecordSet { ttl, data });
            self.records.entry(zone.clone()).or_default().insert(key, set);
        }
    }
}

/// What the servers of each facility can serve; none where one of them does not say.
fn capacities(service: &Service) -> BTreeMap<FacilityName, Option<Rate>> {
    let here = |facility: &FacilityName| {
        let servers: Vec<&AppServer> =
            service.servers.values().filter(|server| server.target.facility == *facility).collect();
        crate::plan::gate::capacity(servers.into_iter())
    };
    service.share.keys().map(|facility| (facility.clone(), here(facility))).collect()
}
