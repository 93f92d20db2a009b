//! What must be true of the world at every moment (`docs/safety.md`). Pure.

use std::collections::BTreeSet;

use super::world::World;
use crate::model::{
    Admission, BackendFacts, Database, Facts, Member, MemberFacts, NameServerFacts, Observed, PoolerFacts, ProxyFacts,
    ReplicaFacts, Role, Route, TargetId,
};
use crate::plan::synchronous;

impl World {
    fn facts_of(&self, id: &TargetId) -> Option<&Facts> {
        self.live.get(id).and_then(Observed::known)
    }

    fn proxy(&self, id: &TargetId) -> Option<&ProxyFacts> {
        self.facts_of(id)?.proxy()
    }

    fn name_server(&self, id: &TargetId) -> Option<&NameServerFacts> {
        self.facts_of(id)?.name_server()
    }

    fn pooler(&self, id: &TargetId) -> Option<&PoolerFacts> {
        self.facts_of(id)?.pooler()
    }

    fn member_at(&self, id: &TargetId) -> Option<&MemberFacts> {
        self.facts_of(id)?.member()
    }

    /// What holds whatever dies, hangs or lies: never two writable primaries (S1), no name without addresses (S5), a server for every
    /// backend (S6).
    ///
    /// # Errors
    /// What is broken, and where.
    pub fn always(&self) -> Result<(), String> {
        for proxy in self.topology.proxies.values() {
            let backends = self.proxy(&proxy.target.id).into_iter().flat_map(|facts| &facts.backends);
            let idle = |backend: &BackendFacts| {
                let mut settings = backend.servers.values().map(|server| server.setting);
                !settings.any(|setting| setting.admission == Admission::Ready && setting.weight > 0)
            };
            if let Some((name, _)) = backends.into_iter().find(|(_, backend)| backend.as_ref().is_some_and(idle)) {
                return Err(format!("no server of {name} gets requests at {}", proxy.target.id));
            }
        }
        for server in self.topology.zones.values().flat_map(|zone| zone.servers.values()) {
            let Some(facts) = self.name_server(&server.target.id) else { continue };
            let names: BTreeSet<&str> = facts.sets.keys().map(|key| key.name.as_str()).collect();
            for name in names {
                if facts.sets.iter().all(|(key, set)| key.name != name || set.is_none()) {
                    return Err(format!("{name} is empty at {}", server.target.id));
                }
            }
        }
        for database in self.topology.databases.values() {
            let primaries = self.writable(&database.name);
            if primaries.len() > 1 {
                return Err(format!("{} has {} primaries", database.name, primaries.len()));
            }
        }
        Ok(())
    }

    /// What holds beside that where nothing goes wrong: commits end, and poolers lead to the primary or hold clients back.
    ///
    /// # Errors
    /// What is broken, and where.
    pub fn undisturbed(&self) -> Result<(), String> {
        self.always()?;
        for database in self.topology.databases.values() {
            let primary = database.members.values().find(|member| self.role(&member.target.id) == Role::Primary);
            if let Some(primary) = primary {
                self.commits_go_on(database, primary)?;
            }
            let Route::PoolerDatabase(entry) = &database.route else { continue };
            let poolers = database.poolers.iter().filter_map(|name| self.topology.poolers.get(name));
            for pooler in poolers {
                let facts = self.pooler(&pooler.target.id);
                let Some(Some(pool)) = facts.and_then(|facts| facts.databases.get(entry)) else { continue };
                if !pool.paused && primary.is_none_or(|member| member.target.address != pool.route) {
                    return Err(format!("{} leads clients of {entry} to {}", pooler.target.id, pool.route));
                }
            }
        }
        Ok(())
    }

    /// A commit that waits for more replicas than there are never ends.
    fn commits_go_on(&self, database: &Database, primary: &Member) -> Result<(), String> {
        let Some(facts) = self.member_at(&primary.target.id) else { return Ok(()) };
        let there = |replica: &&ReplicaFacts| {
            let member = database.members.get(&replica.name);
            let Some(seen) = member.and_then(|member| self.member_at(&member.target.id)) else { return false };
            // One that does not replay confirms all the same, until there is another timeline.
            seen.receives_from.as_ref() == Some(&primary.target.address) && seen.lineage == facts.lineage
        };
        let there = facts.replicas.iter().filter(there).map(|replica| replica.name.clone()).collect();
        let names = &facts.synchronous_names;
        let (demand, there) = (synchronous::demand(names), synchronous::counting(names, &there));
        if there < demand {
            return Err(format!("commits at {} hang: {there} of {demand} for {names}", primary.target.id));
        }
        Ok(())
    }
}
