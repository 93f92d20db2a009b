//! The world: facts that change as those of real targets would. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::healthy;
use crate::model::{
    Action, Admission, BackendFacts, Backends, CLOSE_FRONTENDS, Epoch, Facts, ForeignName, FromTo, JobFacts, Live,
    NameServerFacts, Observed, Operational, ProxyFacts, RecordKey, RecordSet, ReplicaFacts, Role, SAVE_STATE, Saved,
    Scope, ServerFacts, ServerSetting, Target, TargetId, Unreachable, VantageFacts, ZoneName, text,
};
use crate::plan::{Refusal, backend_of};
use crate::topology::Topology;

/// How settings begin that say what a native verb has left behind.
pub(super) const NATIVE: &str = "native:";

/// Why an action was refused; nothing was touched.
pub(super) type Acted = Result<(), String>;

/// A topology, and what would be observed of it.
#[derive(Clone, Debug)]
pub struct World {
    /// What is declared.
    pub topology: Arc<Topology>,
    /// What every target would say.
    pub live: Live,
    /// Whom members were told to follow once they can.
    pub told: BTreeMap<TargetId, String>,
    /// Replicas that a fence has cut off.
    pub(super) cut: BTreeMap<TargetId, Vec<ReplicaFacts>>,
    /// What was known of targets that are off.
    off: BTreeMap<TargetId, Observed<Facts>>,
    /// Where each target listens.
    addresses: BTreeMap<TargetId, String>,
}

impl World {
    /// Everything as the topology says.
    ///
    /// # Errors
    /// Why the topology itself cannot be had, such as a service that no facility serves.
    pub fn healthy(topology: Arc<Topology>) -> Result<Self, Vec<Refusal>> {
        let mut live = healthy::live(&topology)?;
        let running = || Observed::Known { value: Facts::Job(JobFacts { running: true }), took: Duration::ZERO };
        live.extend(topology.units.keys().map(|unit| (unit.clone(), running())));
        let idle = || Observed::Known { value: Facts::Vantage(VantageFacts::default()), took: Duration::ZERO };
        live.extend(topology.vantages.values().map(|target| (target.id.clone(), idle())));
        let addresses = addresses(&topology);
        Ok(Self { topology, live, told: BTreeMap::new(), cut: BTreeMap::new(), off: BTreeMap::new(), addresses })
    }

    /// The same targets under another topology file.
    #[must_use]
    pub fn with_topology(self, topology: Arc<Topology>) -> Self {
        Self { addresses: addresses(&topology), topology, ..self }
    }

    /// Whether anybody listens where a target is said to be.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn reached(&self, target: &Target) -> Acted {
        match (self.addresses.get(&target.id), self.live.get(&target.id)) {
            (Some(address), Some(Observed::Known { .. })) if *address == target.address => Ok(()),
            (Some(address), Some(Observed::Unreachable(why))) if *address == target.address => Err(why.why.clone()),
            _ => Err("connection refused".to_owned()),
        }
    }

    /// What a target says when it is asked for `scope`, or for all.
    ///
    /// # Errors
    /// Why it says nothing.
    pub(super) fn look(&self, target: &Target, scope: Option<&Scope>) -> Result<Facts, String> {
        if let Some(Scope::Health(_)) = scope
            && !self.addresses.contains_key(&target.id)
        {
            return self.probe(&target.address);
        }
        self.reached(target)?;
        let Some(Observed::Known { value, .. }) = self.live.get(&target.id) else { return Err("no answer".to_owned()) };
        let mut facts = value.clone();
        if let Facts::Member(facts) = &mut facts {
            facts.receiver = self.receiver(facts);
        }
        match (&mut facts, scope) {
            (Facts::NameServer(facts), Some(Scope::Records(keys))) => {
                let set = |key: &RecordKey| (key.clone(), facts.sets.get(key).cloned().flatten());
                facts.sets = keys.iter().map(set).collect();
            }
            (Facts::Proxy(facts), Some(Scope::Backends(names))) => {
                let backend = |name: &ForeignName| (name.clone(), facts.backends.get(name).cloned().flatten());
                facts.backends = names.iter().map(backend).collect();
            }
            (Facts::Pooler(facts), Some(Scope::PoolerDatabases(names))) => {
                let pool = |name: &ForeignName| (name.clone(), facts.databases.get(name).cloned().flatten());
                facts.databases = names.iter().map(pool).collect();
            }
            // What a verb has left behind is told only where it is asked for.
            (Facts::Member(facts), Some(Scope::Member)) => facts.settings.retain(|name, _| !name.starts_with(NATIVE)),
            (Facts::Vantage(facts), Some(Scope::Reach(asked))) => {
                facts.reached = asked.iter().map(|address| (address.clone(), self.listens(address))).collect();
            }
            (Facts::Server(_), None | Some(Scope::Health(_)))
            | (Facts::Job(_), None | Some(Scope::Job))
            | (_, None) => {}
            _ => return Err("this is nothing that it can tell".to_owned()),
        }
        Ok(facts)
    }

    /// Whether somebody takes connections at an address; what is silent to us alone does.
    fn listens(&self, address: &str) -> bool {
        let alive = |id: &TargetId| self.live.get(id).is_some_and(|observed| observed.known().is_some());
        self.addresses.iter().any(|(id, own)| own == address && alive(id) && self.role_allows(id))
    }

    /// False for a member that does not run.
    fn role_allows(&self, id: &TargetId) -> bool {
        let facts = self.live.get(id).and_then(Observed::known).and_then(Facts::member);
        facts.is_none_or(|facts| !matches!(facts.role, Role::Fenced | Role::Stopped))
    }

    /// A request through the proxy at an address is answered if each of its backends has a server for it.
    fn probe(&self, address: &str) -> Result<Facts, String> {
        let at = |proxy: &&crate::model::Proxy| {
            address == proxy.target.address || address.strip_suffix(":80") == Some(proxy.target.address.as_str())
        };
        let proxy = self.topology.proxies.values().find(at).ok_or("connection refused")?;
        self.reached(&proxy.target)?;
        let facts = self.live.get(&proxy.target.id).and_then(Observed::known).and_then(Facts::proxy);
        let serves = |backend: &Option<BackendFacts>| {
            backend.as_ref().is_some_and(|backend| {
                backend.servers.values().any(|server| gets_requests(server.setting, server.operational))
            })
        };
        let healthy = facts.is_some_and(|facts| facts.backends.values().all(serves));
        let status = if healthy { 200 } else { 503 };
        Ok(Facts::Server(ServerFacts { healthy, status, latency: Duration::from_millis(1) }))
    }

    /// Does to the facts what the target would do.
    ///
    /// # Errors
    /// Why the target refuses; then nothing was touched.
    pub fn act(&mut self, id: &TargetId, action: &Action) -> Acted {
        match (self.known(id)?, action) {
            (Facts::NameServer(_), Action::SetRecords { zone, sets }) => self.set_records(id, zone, sets),
            (Facts::NameServer(_), Action::SetEpoch { zone, epoch }) => self.set_epoch(id, zone, epoch),
            (Facts::Proxy(_), Action::SetShare { backends }) => self.set_share(id, backends),
            (Facts::Proxy(facts), Action::CutSessions { backends }) => {
                for (name, servers) in backends {
                    for server in servers.iter() {
                        let backend = facts.backends.get_mut(name).and_then(Option::as_mut);
                        let server = backend.and_then(|backend| backend.servers.get_mut(server));
                        server.ok_or_else(|| format!("there is no such server in {name}"))?.sessions = 0;
                    }
                }
                Ok(())
            }
            (Facts::Proxy(facts), Action::Native { verb, .. }) if verb == SAVE_STATE => {
                facts.saved = Saved::Yes;
                Ok(())
            }
            (Facts::Proxy(facts), Action::Native { verb, .. }) if verb == CLOSE_FRONTENDS => {
                facts.connections = Some(0);
                Ok(())
            }
            (Facts::Job(_), Action::Stop | Action::Start) => self.run(id, *action == Action::Start),
            (Facts::Member(_), _) => self.act_on_member(id, action),
            (Facts::Pooler(_), _) => self.act_on_pooler(id, action),
            _ => Err(format!("it cannot {}", action.verb())),
        }
    }

    /// What a target says, to be changed.
    ///
    /// # Errors
    /// If it is off, or unknown.
    pub fn known(&mut self, id: &TargetId) -> Result<&mut Facts, String> {
        match self.live.get_mut(id) {
            Some(Observed::Known { value, .. }) => Ok(value),
            Some(Observed::Unreachable(why)) => Err(why.why.clone()),
            None => Err(format!("there is no {id}")),
        }
    }

    fn set_epoch(&mut self, id: &TargetId, zone: &ZoneName, epoch: &FromTo<Option<Epoch>>) -> Acted {
        if !Epoch::may_replace(epoch.from.as_ref(), epoch.to.as_ref()) {
            return Err("an epoch is never lowered".to_owned());
        }
        let facts = self.updatable(id, zone)?;
        if facts.epoch == epoch.to {
            return Ok(());
        }
        if facts.epoch != epoch.from {
            return Err(format!("somebody else changed it: {}", text::epoch(facts.epoch.as_ref())));
        }
        for server in self.transfer_tree(zone, id.name()) {
            let Ok(Facts::NameServer(facts)) = self.known(&server) else { continue };
            facts.serial = facts.serial.wrapping_add(1);
            facts.epoch.clone_from(&epoch.to);
        }
        Ok(())
    }

    /// What a name server says that takes updates for a zone.
    fn updatable(&mut self, id: &TargetId, zone: &ZoneName) -> Result<&NameServerFacts, String> {
        let declared = self.topology.zones.get(zone).ok_or_else(|| format!("there is no zone {zone}"))?;
        if !declared.servers.get(id.name()).is_some_and(|server| server.updates) {
            return Err(format!("it takes no updates for {zone}"));
        }
        match self.known(id)? {
            Facts::NameServer(facts) => Ok(facts),
            _ => Err("it is no name server".to_owned()),
        }
    }

    fn set_records(
        &mut self,
        id: &TargetId,
        zone: &ZoneName,
        sets: &BTreeMap<RecordKey, FromTo<Option<RecordSet>>>,
    ) -> Acted {
        let facts = self.updatable(id, zone)?;
        let found = |key: &RecordKey| facts.sets.get(key).and_then(Option::as_ref);
        if sets.iter().all(|(key, change)| found(key) == change.to.as_ref()) {
            return Ok(());
        }
        for (key, change) in sets {
            if found(key) != change.from.as_ref() {
                return Err(format!("somebody else changed it: {key} is {}", text::record_set(found(key))));
            }
            if change.to.as_ref().is_some_and(|set| set.data.is_empty()) {
                return Err(format!("{key} would be a record set without records"));
            }
        }
        for server in self.transfer_tree(zone, id.name()) {
            // One that is off gets the zone when it is back; here it keeps what it had.
            let Ok(Facts::NameServer(facts)) = self.known(&server) else { continue };
            facts.serial = facts.serial.wrapping_add(1);
            facts.sets.extend(sets.iter().map(|(key, change)| (key.clone(), change.to.clone())));
        }
        Ok(())
    }

    fn transfer_tree(&self, zone: &ZoneName, root: &str) -> Vec<TargetId> {
        let Some(zone) = self.topology.zones.get(zone) else { return Vec::new() };
        let mut tree = vec![root.to_owned()];
        while let Some(next) = zone.servers.iter().find(|(name, server)| {
            !tree.contains(name) && server.transfers_from.as_ref().is_some_and(|source| tree.contains(source))
        }) {
            tree.push(next.0.clone());
        }
        tree.iter().filter_map(|name| Some(zone.servers.get(name)?.target.id.clone())).collect()
    }

    fn set_share(&mut self, id: &TargetId, backends: &Backends<FromTo<ServerSetting>>) -> Acted {
        let well = |backend: &ForeignName, server: &ForeignName| self.is_well(id, backend, server);
        let up: BTreeMap<(&ForeignName, &ForeignName), bool> = backends
            .iter()
            .flat_map(|(backend, servers)| servers.keys().map(move |server| (backend, server)))
            .map(|(backend, server)| ((backend, server), well(backend, server)))
            .collect();
        let Facts::Proxy(facts) = self.known(id)? else { return Err("it is no proxy".to_owned()) };
        let mut after: ProxyFacts = facts.clone();
        for (backend, servers) in backends {
            let found = after.backends.get_mut(backend).and_then(Option::as_mut);
            let found = found.ok_or_else(|| format!("there is no backend {backend}"))?;
            for (name, change) in servers.iter() {
                let server =
                    found.servers.get_mut(name).ok_or_else(|| format!("backend {backend} has no server {name}"))?;
                let is = server.setting;
                if change.to.weight > after.capabilities.max_weight {
                    return Err(format!("weight {} for {name} is too large", change.to.weight));
                }
                if !is.same_effect(change.from) && !is.same_effect(change.to) {
                    return Err(format!("expected {backend}/{name} with {}, but it has {is}", change.from));
                }
                server.setting = change.to;
                server.operational = match up.get(&(backend, name)) {
                    _ if change.to.admission == Admission::Maint => Operational::Unchecked,
                    Some(true) => Operational::Up,
                    _ => Operational::Down,
                };
            }
        }
        if after.capabilities.persistent {
            after.saved = Saved::Yes;
        }
        *facts = after;
        Ok(())
    }

    /// Whether an application server, as a proxy calls it, is healthy; one that is nobody's is.
    fn is_well(&self, proxy: &TargetId, backend: &ForeignName, server: &ForeignName) -> bool {
        let Some(proxy) = self.topology.proxies.get(proxy.name()) else { return true };
        let mut services = self.topology.services.values().filter(|service| backend_of(proxy, service) == backend);
        let server = services.find_map(|service| service.servers.get(server.as_str()));
        server.is_none_or(|server| {
            let facts = self.live.get(&server.target.id).and_then(Observed::known).and_then(Facts::server);
            facts.is_some_and(|facts| facts.healthy)
        })
    }

    fn run(&mut self, id: &TargetId, run: bool) -> Acted {
        for target in self.topology.units.get(id).map(|unit| unit.of.clone()).unwrap_or_default() {
            if run { self.power_on(&target) } else { self.power_off(&target, "connection refused") }
        }
        if let Facts::Job(facts) = self.known(id)? {
            facts.running = run;
        }
        Ok(())
    }

    /// A target dies as a process does that is killed; it does not come back by itself.
    pub fn kill(&mut self, id: &TargetId) {
        self.power_off(id, "connection refused");
    }

    /// A server stops, and nobody answers at its address.
    fn power_off(&mut self, id: &TargetId, why: &str) {
        let Some(Observed::Known { value, took }) = self.live.get(id).cloned() else { return };
        self.leaves(id);
        self.off.insert(id.clone(), Observed::Known { value, took });
        self.live.insert(id.clone(), Observed::Unreachable(Unreachable::new(why, "simulated")));
    }

    /// A server starts as it was.
    fn power_on(&mut self, id: &TargetId) {
        self.leaves(id);
        if let Some(facts) = self.off.remove(id) {
            self.live.insert(id.clone(), facts);
        }
    }

    /// Nobody sends to a member that has just stopped or started.
    fn leaves(&mut self, id: &TargetId) {
        for observed in self.live.values_mut() {
            if let Observed::Known { value: Facts::Member(facts), .. } = observed {
                facts.replicas.retain(|replica| replica.name != id.name());
            }
        }
    }

    /// What role a member says it has; stopped where it says nothing.
    pub fn role(&self, id: &TargetId) -> Role {
        self.live.get(id).and_then(Observed::known).and_then(Facts::member).map_or(Role::Stopped, |facts| facts.role)
    }
}

fn addresses(topology: &Topology) -> BTreeMap<TargetId, String> {
    let units = topology.units.values().map(|unit| &unit.target);
    topology
        .targets()
        .chain(units)
        .chain(topology.vantages.values())
        .map(|target| (target.id.clone(), target.address.clone()))
        .collect()
}

fn gets_requests(setting: ServerSetting, operational: Operational) -> bool {
    setting.admission == Admission::Ready && setting.weight > 0 && operational != Operational::Down
}
