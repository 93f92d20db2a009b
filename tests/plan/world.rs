//! A simulated world: facts that change as real targets would.

#[path = "../common/healthy.rs"]
mod healthy;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use handover::model::*;
use handover::plan;
use handover::rehearse::sim::{self, replica, slot};

pub use healthy::read;

/// The simulated world of rehearsals, which does not refuse: what a plan must never ask for is a failure here.
pub struct World(sim::World);

impl Deref for World {
    type Target = sim::World;

    fn deref(&self) -> &sim::World {
        &self.0
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut sim::World {
        &mut self.0
    }
}

impl World {
    /// Everything as the topology says.
    pub fn healthy(text: &str) -> Self {
        Self(sim::World::healthy(Arc::new(read(text))).unwrap())
    }

    /// Replicas receive from others than the primary, and commits wait for other names.
    pub fn arrange(&mut self, database: &str, upstreams: &BTreeMap<String, String>, names: &str) {
        let id = |name: &str| TargetId::member(&DatabaseName::new(database), name);
        for (name, upstream) in upstreams {
            for other in self.members_of(&id(name)) {
                self.member(&other).replicas.retain(|replica| replica.name != *name);
                self.member(&other).slots.retain(|slot| slot.name != *name);
            }
            let address = self.address_of(&id(upstream)).unwrap();
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

    /// What another world of the same topology is like.
    pub fn with_live(mut self, other: &Self) -> Self {
        self.live.clone_from(&other.live);
        self
    }

    /// The same world under another topology file.
    pub fn with_topology(self, text: &str) -> Self {
        Self(self.0.with_topology(Arc::new(read(text))))
    }

    pub fn facts(&mut self, id: &TargetId) -> &mut Facts {
        self.known(id).unwrap()
    }

    pub fn member(&mut self, id: &TargetId) -> &mut MemberFacts {
        self.0.member(id).unwrap()
    }

    /// Does to the facts what a provider would do to the target; panics where a provider would refuse.
    pub fn act(&mut self, id: &TargetId, action: &Action) {
        if *action == Action::Stop {
            for target in self.topology.units.get(id).into_iter().flat_map(|unit| &unit.of) {
                assert!(self.0.role(target) != Role::Primary, "{target} is stopped while it is primary");
            }
        }
        self.0.act(id, action).unwrap_or_else(|why| panic!("{} at {id}: {why}", action.verb()));
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
        self.undisturbed().unwrap();
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
}
