//! A simulated world: facts that change as real targets would.

#[path = "../common/healthy.rs"]
mod healthy;

use std::collections::{BTreeMap, BTreeSet};

use handover::model::*;
use handover::plan::{self, Assumption};
use handover::topology::Topology;

use healthy::{read, replica, slot};

/// A topology and what would be observed of it.
pub struct World {
    pub topology: Topology,
    pub live: Live,
    /// What was known of targets whose servers are stopped.
    off: BTreeMap<TargetId, Observed<Facts>>,
    /// Whom members were told to follow once they can.
    pub told: BTreeMap<TargetId, String>,
    /// Replicas that a fence has cut off.
    cut: BTreeMap<TargetId, Vec<ReplicaFacts>>,
}

impl World {
    /// Everything as the topology says.
    pub fn healthy(text: &str) -> Self {
        let topology = read(text);
        let mut live = healthy::live(&topology);
        let running = || Observed::Known { value: Facts::Job(JobFacts { running: true }), took: Default::default() };
        live.extend(topology.units.keys().map(|unit| (unit.clone(), running())));
        Self { topology, live, off: BTreeMap::new(), told: BTreeMap::new(), cut: BTreeMap::new() }
    }

    /// Replicas receive from others than the primary, and commits wait for other names.
    pub fn arrange(&mut self, database: &str, upstreams: &BTreeMap<String, String>, names: &str) {
        let id = |name: &str| TargetId::member(&DatabaseName::new(database), name);
        for (name, upstream) in upstreams {
            for other in self.members_of(&id(name)) {
                self.member(&other).replicas.retain(|replica| replica.name != *name);
                self.member(&other).slots.retain(|slot| slot.name != *name);
            }
            let address = self.address_of(&id(upstream));
            self.member(&id(name)).receives_from = Some(address);
            let facts = self.member(&id(upstream));
            facts.replicas.push(replica(name, false));
            facts.slots.push(slot(name));
        }
        for other in self.members_of(&id(upstreams.keys().next().map_or("", String::as_str))) {
            let facts = self.member(&other);
            if facts.role == Role::Primary {
                facts.synchronous_names = names.to_owned();
            }
        }
    }

    /// What a member said, to be changed.
    pub fn change_member(&mut self, database: &str, name: &str, change: impl FnOnce(&mut MemberFacts)) {
        change(self.member(&TargetId::member(&DatabaseName::new(database), name)));
    }

    /// What a member said.
    pub fn seen(&self, database: &str, name: &str) -> &MemberFacts {
        let id = TargetId::member(&DatabaseName::new(database), name);
        self.live[&id].known().and_then(Facts::member).unwrap()
    }

    /// The same world under another topology file.
    pub fn with_topology(self, text: &str) -> Self {
        Self { topology: read(text), ..self }
    }

    pub fn facts(&mut self, id: &TargetId) -> &mut Facts {
        match self.live.get_mut(id) {
            Some(Observed::Known { value, .. }) => value,
            _ => panic!("no facts about {id}"),
        }
    }

    pub fn member(&mut self, id: &TargetId) -> &mut MemberFacts {
        match self.facts(id) {
            Facts::Member(facts) => facts,
            _ => panic!("{id} is no member"),
        }
    }

    fn pool(&mut self, id: &TargetId, database: &ForeignName) -> &mut PoolFacts {
        match self.facts(id) {
            Facts::Pooler(facts) => facts.databases.get_mut(database).unwrap().as_mut().unwrap(),
            _ => panic!("{id} is no pooler"),
        }
    }

    fn backend(&mut self, id: &TargetId, backend: &ForeignName) -> &mut BackendFacts {
        match self.facts(id) {
            Facts::Proxy(facts) => facts.backends.get_mut(backend).unwrap().as_mut().unwrap(),
            _ => panic!("{id} is no proxy"),
        }
    }

    /// Does to the facts what a provider would do to the target; panics where a provider would refuse.
    pub fn act(&mut self, id: &TargetId, action: &Action) {
        match action {
            Action::SetRecords { zone, sets } => {
                let tree = self.transfer_tree(zone, id.name());
                for server in tree {
                    let Facts::NameServer(facts) = self.facts(&server) else { panic!("{server} is no name server") };
                    for (key, change) in sets {
                        assert_eq!(facts.sets[key], change.from, "prerequisite of {key} at {server}");
                        facts.sets.insert(key.clone(), change.to.clone());
                    }
                }
            }
            Action::SetShare { backends } => {
                for (backend, servers) in backends {
                    for (name, change) in servers.iter() {
                        let server = self.backend(id, backend).servers.get_mut(name).unwrap();
                        assert!(server.setting.same_effect(change.from), "{backend}/{name} at {id}");
                        server.setting = change.to;
                        let unchecked = change.to.admission == Admission::Maint;
                        server.operational = if unchecked { Operational::Unchecked } else { Operational::Up };
                    }
                }
            }
            Action::CutSessions { .. } | Action::CatchUp { .. } | Action::Marker { .. } | Action::Withdraw { .. } => {}
            Action::Pause { database } => self.pool(id, database).paused = true,
            Action::Resume { database } => self.pool(id, database).paused = false,
            Action::WriteRoute { database, route } => {
                let pool = self.pool(id, database);
                assert_eq!(pool.written_route.as_ref(), Some(&route.from));
                pool.written_route = Some(route.to.clone());
            }
            Action::Route { database, .. } => self.reload(id, database),
            Action::Redirect { database, .. } => {
                self.reload(id, database);
                self.pool(id, database).paused = false;
            }
            Action::RestoreRoute { database, route } => {
                self.pool(id, database).written_route = Some(route.to.clone());
                self.reload(id, database);
            }
            Action::Fence { .. } => {
                let facts = self.member(id);
                assert_eq!(facts.role, Role::Primary);
                facts.role = Role::Fenced;
                let cut = std::mem::take(&mut facts.replicas);
                self.receive(id, &cut, None);
                self.cut.insert(id.clone(), cut);
            }
            Action::Unfence { .. } => {
                let (cut, address) = (self.cut.remove(id).unwrap(), self.address_of(id));
                self.receive(id, &cut, Some(&address));
                let facts = self.member(id);
                (facts.role, facts.replicas) = (Role::Primary, cut);
            }
            Action::Promote { lineage } => {
                let facts = self.member(id);
                assert_eq!((facts.role, &facts.lineage), (Role::Replica, lineage));
                facts.role = Role::Primary;
                facts.receives_from = None;
                facts.lineage.timeline += 1;
                self.timeline_goes_on(id);
            }
            Action::Rejoin { primary } => {
                assert!(self.has_slot(&primary.member, id.name()), "no slot for {id} at {}", primary.member);
                for other in self.members_of(id) {
                    self.member(&other).replicas.retain(|replica| replica.name != id.name());
                }
                let facts = self.member(id);
                facts.role = Role::Replica;
                facts.receives_from = Some(primary.address.clone());
                let replica = replica(id.name(), false);
                self.member(&primary.member).replicas.push(replica);
                self.timeline_goes_on(&primary.member);
            }
            Action::Stop | Action::Start if self.topology.units.contains_key(id) => {
                let run = *action == Action::Start;
                for target in self.topology.units[id].of.clone() {
                    self.power(&target, run);
                }
                let Facts::Job(facts) = self.facts(id) else { panic!("{id} is no unit") };
                facts.running = run;
            }
            Action::Stop | Action::Start => {
                let Facts::Job(facts) = self.facts(id) else { panic!("{id} is no job") };
                facts.running = *action == Action::Start;
            }
            Action::Native { verb, args } if verb.ends_with("release_replicas") => {
                let (now, other) = match verb.as_str() {
                    "release_replicas" => ("synchronous", "unrelease_replicas"),
                    _ => ("synchronous_before", "release_replicas"),
                };
                let facts = self.member(id);
                facts.synchronous_names = args[now].concat();
                let names = facts.synchronous_names.clone();
                facts.replicas.iter_mut().for_each(|replica| replica.synchronous = names.contains(&replica.name));
                facts.settings.insert(format!("native:{verb}"), "done".to_owned());
                facts.settings.insert(format!("native:{other}"), "undone".to_owned());
            }
            Action::Native { verb, .. } if verb == SAVE_STATE => {
                let Facts::Proxy(facts) = self.facts(id) else { panic!("{id} is no proxy") };
                facts.saved = Saved::Yes;
            }
            Action::Native { verb, args } => {
                let undone = verb.strip_prefix("un");
                let state = if undone.is_some() { "undone" } else { "done" };
                let facts = self.member(id);
                facts.settings.insert(format!("native:{}", undone.unwrap_or(verb)), state.to_owned());
                match verb.as_str() {
                    "finish_promotion" | "prepare_promotion" | "set_synchronous" => {
                        facts.synchronous_names = args["synchronous"].concat();
                    }
                    "unprepare_promotion" | "unset_synchronous" => {
                        facts.synchronous_names = args["synchronous_before"].concat();
                    }
                    _ => {}
                }
                let synchronous = !facts.synchronous_names.is_empty();
                facts.replicas.iter_mut().for_each(|replica| replica.synchronous = synchronous);
                let named = |key: &str| args.get(key).cloned().unwrap_or_default();
                match verb.as_str() {
                    "prepare_promotion" | "make_slots" => {
                        for name in named("followers") {
                            if !facts.slots.iter().any(|slot| slot.name == name) {
                                facts.slots.push(slot(&name));
                            }
                        }
                    }
                    "unprepare_promotion" | "unmake_slots" | "finish_demotion" | "finish_promotion" => {
                        let of = if verb.starts_with("finish") { "stale" } else { "followers" };
                        let gone: Vec<String> =
                            named(of).into_iter().filter(|name| !named("kept").contains(name)).collect();
                        facts.slots.retain(|slot| !gone.contains(&slot.name));
                    }
                    "follow_later" => {
                        let (to, address) = (named("primary")[0].clone(), named("primary")[1].clone());
                        let to = TargetId::member(&DatabaseName::new(id.scope().unwrap()), &to);
                        assert!(self.has_slot(&to, id.name()), "no slot for {id} at {to}");
                        for other in self.members_of(id) {
                            self.member(&other).replicas.retain(|replica| replica.name != id.name());
                        }
                        self.member(id).receives_from = None;
                        self.told.insert(id.clone(), address);
                    }
                    _ => {}
                }
            }
        }
    }

    fn members_of(&self, id: &TargetId) -> Vec<TargetId> {
        let database = &self.topology.databases[id.scope().unwrap()];
        database.members.values().map(|member| member.target.id.clone()).collect()
    }

    /// Replicas of a member begin or cease to receive.
    fn receive(&mut self, id: &TargetId, replicas: &[ReplicaFacts], from: Option<&String>) {
        let database = DatabaseName::new(id.scope().unwrap());
        for replica in replicas {
            self.member(&TargetId::member(&database, &replica.name)).receives_from = from.cloned();
        }
    }

    fn address_of(&self, id: &TargetId) -> String {
        self.topology.databases[id.scope().unwrap()].members[id.name()].target.address.clone()
    }

    fn has_slot(&mut self, at: &TargetId, name: &str) -> bool {
        self.member(at).slots.iter().any(|slot| slot.name == name)
    }

    /// Replicas take the timeline over from whom they receive.
    fn timeline_goes_on(&mut self, id: &TargetId) {
        let (lineage, address) = (self.member(id).lineage.clone(), self.address_of(id));
        for other in self.members_of(id) {
            let facts = self.member(&other);
            if facts.receives_from.as_ref() == Some(&address) && !facts.replay_paused {
                facts.lineage = lineage.clone();
                self.timeline_goes_on(&other);
            }
        }
    }

    /// A server stops, and nobody answers at its address; or it starts as it was.
    fn power(&mut self, id: &TargetId, run: bool) {
        for observed in self.live.values_mut() {
            if let Observed::Known { value: Facts::Member(facts), .. } = observed {
                facts.replicas.retain(|replica| replica.name != id.name());
            }
        }
        if run {
            if let Some(facts) = self.off.remove(id) {
                self.live.insert(id.clone(), facts);
            }
        } else if let Some(Observed::Known { value, took }) = self.live.get(id).cloned() {
            let member = value.member();
            assert!(member.is_none_or(|facts| facts.role == Role::Replica), "{id} is stopped while it is primary");
            self.off.insert(id.clone(), Observed::Known { value, took });
            self.live.insert(id.clone(), Observed::Unreachable(Unreachable::new("it is off", "simulated")));
        }
    }

    /// A reload makes true what is written for every database of the pooler.
    fn reload(&mut self, id: &TargetId, _database: &ForeignName) {
        let Facts::Pooler(facts) = self.facts(id) else { panic!("{id} is no pooler") };
        for pool in facts.databases.values_mut().flatten() {
            pool.route = pool.written_route.clone().unwrap();
        }
    }

    fn transfer_tree(&self, zone: &ZoneName, root: &str) -> Vec<TargetId> {
        let servers = &self.topology.zones[zone].servers;
        let mut tree = vec![root.to_owned()];
        while let Some(next) = servers.iter().find(|(name, server)| {
            !tree.contains(name) && server.transfers_from.as_ref().is_some_and(|source| tree.contains(source))
        }) {
            tree.push(next.0.clone());
        }
        tree.iter().map(|name| servers[name].target.id.clone()).collect()
    }

    /// A target does not answer any more.
    pub fn silence(&mut self, id: &TargetId) {
        let why = Unreachable::new("no answer within 2s", "test");
        self.live.insert(id.clone(), Observed::Unreachable(why));
    }

    /// A record set at one server only.
    pub fn publish(&mut self, server: &TargetId, key: &RecordKey, set: Option<RecordSet>) {
        let Facts::NameServer(facts) = self.facts(server) else { panic!("{server} is no name server") };
        facts.sets.insert(key.clone(), set);
    }

    /// What a proxy would find after a reload.
    pub fn saved(&mut self, proxy: &TargetId, saved: Saved) {
        let Facts::Proxy(facts) = self.facts(proxy) else { panic!("{proxy} is no proxy") };
        facts.saved = saved;
    }

    /// Does what a plan's steps would do, without looking at the invariants, which were broken before it.
    pub fn settle(&mut self, plan: &plan::Plan) {
        for step in &plan.steps {
            if let plan::Work::Act { target, action } = &step.work {
                self.act(target, action);
            }
        }
        self.invariants().unwrap();
    }

    /// Somebody took an address out of a record set, at every server.
    pub fn forget_address(&mut self, key: &RecordKey, address: &str) {
        for observed in self.live.values_mut() {
            if let Observed::Known { value: Facts::NameServer(facts), .. } = observed
                && let Some(Some(set)) = facts.sets.get_mut(key)
            {
                set.data.remove(&address.parse().unwrap());
            }
        }
    }

    /// Does an assumption hold?
    pub fn holds(&self, assumption: &Assumption) -> Result<(), String> {
        self.demands(&assumption.target, &assumption.condition)
    }

    /// Does a condition hold at a target?
    pub fn demands(&self, target: &TargetId, condition: &Condition) -> Result<(), String> {
        // Known only while a run lasts.
        if matches!(condition, Condition::AppliedBeyond { .. }) {
            return Ok(());
        }
        let facts = self.live[target].known().ok_or("unreachable")?;
        condition.holds(facts).map_err(|found| format!("{target} {}: {found}", text::condition(condition)))
    }

    /// What must be true at every moment.
    pub fn invariants(&self) -> Result<(), String> {
        for proxy in self.topology.proxies.values() {
            let Some(facts) = self.live[&proxy.target.id].known().and_then(Facts::proxy) else { continue };
            for (name, backend) in &facts.backends {
                let serves = |server: &ProxyServerFacts| {
                    server.setting.admission == Admission::Ready && server.setting.weight > 0
                };
                if !backend.as_ref().unwrap().servers.values().any(serves) {
                    return Err(format!("no server of {name} gets requests at {}", proxy.target.id));
                }
            }
        }
        for zone in self.topology.zones.values() {
            for server in zone.servers.values() {
                let Some(facts) = self.live[&server.target.id].known().and_then(Facts::name_server) else { continue };
                let names: BTreeSet<&str> = facts.sets.keys().map(|key| key.name.as_str()).collect();
                for name in names {
                    if facts.sets.iter().all(|(key, set)| key.name != name || set.is_none()) {
                        return Err(format!("{name} is empty at {}", server.target.id));
                    }
                }
            }
        }
        for database in self.topology.databases.values() {
            let primaries: Vec<&Member> = database.members.values().filter(|m| self.role(m) == Role::Primary).collect();
            if primaries.len() > 1 {
                return Err(format!("{} has {} primaries", database.name, primaries.len()));
            }
            if let [primary] = primaries.as_slice() {
                self.commits_go_on(database, primary)?;
            }
            let Route::PoolerDatabase(entry) = &database.route else { continue };
            for pooler in database.poolers.iter().map(|name| &self.topology.poolers[name]) {
                let Some(facts) = self.live[&pooler.target.id].known().and_then(Facts::pooler) else { continue };
                let pool = facts.databases[entry].as_ref().unwrap();
                if !pool.paused && primaries.iter().all(|member| member.target.address != pool.route) {
                    return Err(format!("{} leads clients of {entry} to {}", pooler.target.id, pool.route));
                }
            }
        }
        Ok(())
    }

    /// A commit that waits for more replicas than there are never ends.
    fn commits_go_on(&self, database: &Database, primary: &Member) -> Result<(), String> {
        let facts = self.live[&primary.target.id].known().and_then(Facts::member).unwrap();
        let lineage = facts.lineage.clone();
        let there = |replica: &&ReplicaFacts| {
            let member = &database.members[&replica.name];
            let facts = self.live[&member.target.id].known().and_then(Facts::member).unwrap();
            // One that does not replay confirms all the same, until there is another timeline.
            facts.receives_from.as_ref() == Some(&primary.target.address) && facts.lineage == lineage
        };
        let there = facts.replicas.iter().filter(there).map(|replica| replica.name.clone()).collect();
        let names = &facts.synchronous_names;
        let (demand, there) = (plan::synchronous::demand(names), plan::synchronous::counting(names, &there));
        if there < demand {
            return Err(format!("commits at {} hang: {there} of {demand} for {names}", primary.target.id));
        }
        Ok(())
    }

    fn role(&self, member: &Member) -> Role {
        self.live[&member.target.id].known().and_then(Facts::member).map_or(Role::Stopped, |facts| facts.role)
    }

    /// Everything that an undo must restore.
    pub fn comparable(&self) -> String {
        let mut text = String::new();
        for (id, observed) in &self.live {
            text += &match observed.known().unwrap() {
                Facts::NameServer(facts) => format!("{id} {:?}\n", facts.sets),
                Facts::Proxy(facts) => {
                    let servers = facts.backends.values().flatten().flat_map(|backend| &backend.servers);
                    format!("{id} {:?}\n", servers.map(|(name, server)| (name, server.setting)).collect::<Vec<_>>())
                }
                Facts::Member(facts) => {
                    let slots: BTreeSet<&str> = facts.slots.iter().map(|slot| slot.name.as_str()).collect();
                    let (from, names) = (&facts.receives_from, &facts.synchronous_names);
                    format!("{id} {} {} from {from:?}, {slots:?}, {names}\n", facts.role, facts.lineage)
                }
                Facts::Pooler(facts) => format!("{id} {:?}\n", facts.databases),
                Facts::Job(facts) => format!("{id} {facts:?}\n"),
                Facts::Server(_) => String::new(),
            };
        }
        text
    }
}
