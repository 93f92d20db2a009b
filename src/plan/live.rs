//! Questions to what was observed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::weights::Participant;
use crate::model::{
    Admission, BackendFacts, Database, FacilityName, Facts, ForeignName, Live, MemberFacts, NameServerFacts, PoolFacts,
    Proxy, ProxyFacts, Role, ServerSetting, Service, TargetId, Unreachable,
};
use crate::topology::Topology;

/// Why there is no answer of a target: it was not asked, did not answer, or answered as something else.
pub fn facts<'a>(live: &'a Live, id: &TargetId) -> Result<&'a Facts, Unreachable> {
    match live.get(id) {
        Some(observed) => observed.as_result().map_err(Clone::clone),
        None => Err(Unreachable::new("it was not asked", "nothing")),
    }
}

/// What a name server said.
pub fn name_server<'a>(live: &'a Live, id: &TargetId) -> Option<&'a NameServerFacts> {
    facts(live, id).ok()?.name_server()
}

/// What a proxy said.
pub fn proxy<'a>(live: &'a Live, id: &TargetId) -> Option<&'a ProxyFacts> {
    facts(live, id).ok()?.proxy()
}

/// What a member said.
pub fn member<'a>(live: &'a Live, id: &TargetId) -> Option<&'a MemberFacts> {
    facts(live, id).ok()?.member()
}

/// True if an application server answers its health check.
pub fn is_healthy(live: &Live, id: &TargetId) -> bool {
    facts(live, id).ok().and_then(|facts| facts.server()).is_some_and(|facts| facts.healthy)
}

/// What a pooler said of one database.
pub fn pool<'a>(live: &'a Live, id: &TargetId, database: &ForeignName) -> Option<&'a PoolFacts> {
    facts(live, id).ok()?.pooler()?.databases.get(database)?.as_ref()
}

/// What a proxy said of a service's backend.
pub fn backend<'a>(live: &'a Live, at: &Proxy, service: &Service) -> Option<&'a BackendFacts> {
    proxy(live, &at.target.id)?.backends.get(backend_of(at, service))?.as_ref()
}

/// The members that say they are primary.
pub fn primaries<'a>(database: &'a Database, live: &Live) -> Vec<&'a TargetId> {
    let is_primary = |id: &&TargetId| member(live, id).is_some_and(|facts| facts.role == Role::Primary);
    database.members.values().map(|member| &member.target.id).filter(is_primary).collect()
}

/// The member that is primary, if exactly one says so.
pub fn primary(database: &Database, live: &Live) -> Option<TargetId> {
    match primaries(database, live).as_slice() {
        [one] => Some((*one).clone()),
        _ => None,
    }
}

/// The servers of a service as they take part in its share.
pub fn participants(service: &Service) -> BTreeMap<ForeignName, Participant> {
    service
        .servers
        .iter()
        .map(|(name, server)| {
            let participant = Participant { facility: server.target.facility.clone(), capacity: server.capacity };
            (ForeignName::new(name), participant)
        })
        .collect()
}

/// True if no proxy that answers gives a facility's servers requests and no name server that answers publishes its addresses, and at
/// least one of each answers.
pub fn wholly_drained(topology: &Topology, live: &Live, facility: &FacilityName) -> bool {
    let mut proxies = 0;
    for proxy in topology.proxies.values() {
        for service in topology.services.values() {
            let Some(backend) = backend(live, proxy, service) else { continue };
            proxies += 1;
            let served = service.servers.iter().any(|(name, server)| {
                server.target.facility == *facility
                    && backend.servers.get(name.as_str()).is_some_and(|facts| serves(facts.setting))
            });
            if served {
                return false;
            }
        }
    }
    let mut addresses: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for service in topology.services.values() {
        let Some(own) = service.addresses.get(facility) else { continue };
        for hostname in service.hostnames.keys() {
            addresses.entry(hostname).or_default().extend(own);
        }
    }
    let mut servers = 0;
    for server in topology.zones.values().flat_map(|zone| zone.servers.values()) {
        let Some(facts) = name_server(live, &server.target.id) else { continue };
        servers += 1;
        let published = facts.sets.iter().any(|(key, set)| match (addresses.get(key.name.as_str()), set) {
            (Some(own), Some(set)) => !set.data.is_disjoint(own),
            _ => false,
        });
        if published {
            return false;
        }
    }
    proxies > 0 && servers > 0
}

/// The name of a service's backend at a proxy.
pub fn backend_of<'a>(proxy: &'a Proxy, service: &'a Service) -> &'a ForeignName {
    proxy.backends.get(&service.name).unwrap_or(&service.backend)
}

/// True if a server gets requests.
fn serves(setting: ServerSetting) -> bool {
    setting.admission == Admission::Ready && setting.weight > 0
}
