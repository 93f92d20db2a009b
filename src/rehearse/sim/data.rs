//! The rules of database members and poolers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::healthy::{replica, slot};
use super::world::{Acted, NATIVE, World};
use crate::model::{
    Action, DatabaseName, Facts, ForeignName, Lineage, MemberFacts, Observed, Peer, PoolFacts, Position, ReceiverFacts,
    ReplicaFacts, Role, TargetId,
};

/// The length of the record of a checkpoint.
const CHECKPOINT: u64 = 120;

/// The position after one more record.
fn beyond(position: Position) -> Position {
    match position {
        Position::Lsn(at) => Position::Lsn(at + CHECKPOINT),
    }
}

impl World {
    /// What a member says, to be changed.
    ///
    /// # Errors
    /// If it is off, or no member.
    pub fn member(&mut self, id: &TargetId) -> Result<&mut MemberFacts, String> {
        match self.known(id)? {
            Facts::Member(facts) => Ok(facts),
            _ => Err(format!("{id} is no member")),
        }
    }

    /// The members of the same database as `id`.
    pub fn members_of(&self, id: &TargetId) -> Vec<TargetId> {
        let database = id.scope().and_then(|name| self.topology.databases.get(name));
        database.into_iter().flat_map(|it| it.members.values()).map(|member| member.target.id.clone()).collect()
    }

    /// Where a member listens.
    pub fn address_of(&self, id: &TargetId) -> Option<String> {
        let database = id.scope().and_then(|name| self.topology.databases.get(name))?;
        Some(database.members.get(id.name())?.target.address.clone())
    }

    /// Does for every member that answers what `change` does.
    fn each_member(&mut self, of: &TargetId, mut change: impl FnMut(&TargetId, &mut MemberFacts)) {
        for id in self.members_of(of) {
            if let Ok(facts) = self.member(&id) {
                change(&id, facts);
            }
        }
    }

    pub(super) fn act_on_member(&mut self, id: &TargetId, action: &Action) -> Acted {
        match action {
            Action::Fence { .. } => self.fence(id),
            Action::Unfence { lineage } => self.unfence(id, lineage),
            Action::Keep { .. } if !matches!(self.role(id), Role::Stopped | Role::Fenced) => Err("it runs".to_owned()),
            Action::Withdraw { .. } | Action::Keep { .. } => {
                let facts = self.member(id)?;
                facts.role = Role::Fenced;
                let cut = std::mem::take(&mut facts.replicas);
                facts.receives_from = None;
                self.receive(id, &cut, None);
                Ok(())
            }
            // Replication takes no time here: what is to be caught up with is there.
            Action::CatchUp { .. } => match self.member(id)?.role {
                Role::Replica | Role::Primary => Ok(()),
                role => Err(format!("it is {role}")),
            },
            Action::Promote { lineage } => self.promote(id, lineage),
            Action::Rejoin { primary } => self.rejoin(id, primary),
            Action::Rebuild { primary, chosen } => self.rebuild(id, primary, *chosen),
            Action::Native { verb, args } if verb.ends_with("release_replicas") => self.release(id, verb, args),
            Action::Native { verb, args } => self.native(id, verb, args),
            _ => Err(format!("a member cannot {}", action.verb())),
        }
    }

    fn fence(&mut self, id: &TargetId) -> Acted {
        let facts = self.member(id)?;
        match facts.role {
            Role::Fenced => return Ok(()),
            Role::Primary => {}
            role => return Err(format!("it is {role}")),
        }
        facts.role = Role::Fenced;
        let (cut, last) = (std::mem::take(&mut facts.replicas), facts.position);
        // Its last record is the checkpoint of a clean stop, and who received from it has that record whole.
        let address = self.address_of(id);
        self.each_member(id, |_, facts| {
            if facts.receives_from == address && !facts.replay_paused {
                facts.position = beyond(last);
                facts.replayed = beyond(last);
            }
        });
        self.receive(id, &cut, None);
        self.cut.insert(id.clone(), cut);
        Ok(())
    }

    fn unfence(&mut self, id: &TargetId, lineage: &Lineage) -> Acted {
        let address = self.address_of(id);
        let facts = self.member(id)?;
        match facts.role {
            Role::Primary => return Ok(()),
            Role::Fenced if facts.lineage == *lineage => {}
            role => return Err(format!("it is {role} of {}", facts.lineage)),
        }
        let Some(cut) = self.cut.remove(id) else { return Err("nobody here has fenced it".to_owned()) };
        self.receive(id, &cut, address.as_ref());
        let facts = self.member(id)?;
        (facts.role, facts.replicas) = (Role::Primary, cut);
        Ok(())
    }

    fn promote(&mut self, id: &TargetId, lineage: &Lineage) -> Acted {
        let facts = self.member(id)?;
        match facts.role {
            Role::Primary if facts.lineage.timeline > lineage.timeline => return Ok(()),
            Role::Replica if facts.lineage == *lineage => {}
            role => return Err(format!("it is {role} of {}", facts.lineage)),
        }
        facts.role = Role::Primary;
        facts.receives_from = None;
        facts.lineage.timeline += 1;
        self.timeline_goes_on(id);
        Ok(())
    }

    fn rejoin(&mut self, id: &TargetId, primary: &Peer) -> Acted {
        if self.member(id)?.role == Role::Primary {
            return Err("it is a primary".to_owned());
        }
        if !self.has_slot(&primary.member, id.name()) {
            return Err(format!("there is no slot for it at {}", primary.member));
        }
        self.each_member(id, |_, facts| facts.replicas.retain(|replica| replica.name != id.name()));
        let facts = self.member(id)?;
        facts.role = Role::Replica;
        facts.receives_from = Some(primary.address.clone());
        facts.set_to_follow = Some(primary.address.clone());
        self.cut.remove(id);
        self.told.remove(id);
        let position = self.member(&primary.member)?.position;
        let facts = self.member(id)?;
        (facts.position, facts.replayed) = (position, position);
        self.member(&primary.member)?.replicas.push(replica(id.name(), false));
        self.timeline_goes_on(&primary.member);
        self.confirm(&primary.member);
        Ok(())
    }

    /// Whatever it had is set aside; it is as its primary then.
    fn rebuild(&mut self, id: &TargetId, primary: &Peer, chosen: bool) -> Acted {
        let from = self.member(&primary.member)?;
        if from.role != Role::Primary {
            return Err(format!("{} is {}", primary.member, from.role));
        }
        let lineage = from.lineage.clone();
        let facts = self.member(id)?;
        match facts.role {
            Role::Primary => return Err("it runs as a primary".to_owned()),
            _ if facts.lineage.system != lineage.system => return Err(format!("it is of {}", facts.lineage)),
            _ if facts.lineage.timeline > lineage.timeline && !chosen => {
                return Err(format!("it is of {}", facts.lineage));
            }
            _ => facts.lineage = lineage,
        }
        if !self.has_slot(&primary.member, id.name()) {
            self.member(&primary.member)?.slots.push(slot(id.name()));
        }
        self.rejoin(id, primary)
    }

    /// Replicas count as synchronous where the names ask for anybody.
    fn confirm(&mut self, id: &TargetId) {
        if let Ok(facts) = self.member(id) {
            let synchronous = !facts.synchronous_names.is_empty();
            facts.replicas.iter_mut().for_each(|replica| replica.synchronous = synchronous);
        }
    }

    fn release(&mut self, id: &TargetId, verb: &str, args: &BTreeMap<String, Vec<String>>) -> Acted {
        let (now, other) = match verb {
            "release_replicas" => ("synchronous", "unrelease_replicas"),
            _ => ("synchronous_before", "release_replicas"),
        };
        let names = args.get(now).map(|names| names.concat()).unwrap_or_default();
        let facts = self.member(id)?;
        facts.replicas.iter_mut().for_each(|replica| replica.synchronous = names.contains(&replica.name));
        facts.synchronous_names = names;
        facts.settings.insert(format!("{NATIVE}{verb}"), "done".to_owned());
        facts.settings.insert(format!("{NATIVE}{other}"), "undone".to_owned());
        Ok(())
    }

    fn native(&mut self, id: &TargetId, verb: &str, args: &BTreeMap<String, Vec<String>>) -> Acted {
        let named = |key: &str| args.get(key).cloned().unwrap_or_default();
        let follows = match (verb, named("primary").as_slice()) {
            ("follow_later", [to, address]) => {
                let to = TargetId::member(&DatabaseName::new(id.scope().unwrap_or_default()), to);
                if !self.has_slot(&to, id.name()) {
                    return Err(format!("there is no slot for it at {to}"));
                }
                Some(address.clone())
            }
            ("follow_later", _) => return Err("the argument `primary` is missing".to_owned()),
            _ => None,
        };
        let undone = verb.strip_prefix("un");
        let state = if undone.is_some() { "undone" } else { "done" };
        let facts = self.member(id)?;
        facts.settings.insert(format!("{NATIVE}{}", undone.unwrap_or(verb)), state.to_owned());
        match verb {
            "finish_promotion" | "prepare_promotion" | "set_synchronous" => {
                facts.synchronous_names = named("synchronous").concat();
            }
            "unprepare_promotion" | "unset_synchronous" => {
                facts.synchronous_names = named("synchronous_before").concat();
            }
            _ => {}
        }
        if matches!(verb, "prepare_promotion" | "make_slots" | "finish_promotion") {
            for name in named("followers") {
                if !facts.slots.iter().any(|slot| slot.name == name) {
                    facts.slots.push(slot(&name));
                }
            }
        }
        let gone = match verb {
            "unprepare_promotion" | "unmake_slots" => named("followers"),
            "finish_demotion" | "finish_promotion" => named("stale"),
            _ => Vec::new(),
        };
        facts.slots.retain(|slot| !gone.contains(&slot.name) || named("kept").contains(&slot.name));
        self.confirm(id);
        if let Some(address) = follows {
            self.each_member(id, |_, facts| facts.replicas.retain(|replica| replica.name != id.name()));
            let facts = self.member(id)?;
            facts.receives_from = None;
            facts.set_to_follow = Some(address.clone());
            self.told.insert(id.clone(), address);
        }
        Ok(())
    }

    /// Replicas of a member begin or cease to receive.
    fn receive(&mut self, id: &TargetId, replicas: &[ReplicaFacts], from: Option<&String>) {
        let database = DatabaseName::new(id.scope().unwrap_or_default());
        for replica in replicas {
            if let Ok(facts) = self.member(&TargetId::member(&database, &replica.name)) {
                facts.receives_from = from.cloned();
            }
        }
    }

    /// What a replica's receiver has heard: nothing for as long as its sender does not run.
    pub(super) fn receiver(&self, facts: &MemberFacts) -> Option<ReceiverFacts> {
        let from = facts.receives_from.clone().filter(|_| facts.role == Role::Replica)?;
        let mut members = self.topology.databases.values().flat_map(|database| database.members.values());
        let sender = members.find(|member| member.target.address == from)?;
        let told = self.live.get(&sender.target.id).and_then(Observed::known).and_then(Facts::member)?.position;
        Some(ReceiverFacts { from, last_message: Duration::ZERO, told, told_age: Duration::ZERO })
    }

    /// Whether a member keeps log for another one.
    pub fn has_slot(&mut self, at: &TargetId, name: &str) -> bool {
        self.member(at).is_ok_and(|facts| facts.slots.iter().any(|slot| slot.name == name))
    }

    /// Replicas take the timeline over from whom they receive; who has it already passes nothing on, also in a ring.
    fn timeline_goes_on(&mut self, id: &TargetId) {
        let Some(address) = self.address_of(id) else { return };
        let Ok(from) = self.member(id) else { return };
        let lineage = from.lineage.clone();
        let mut taken = Vec::new();
        self.each_member(id, |other, facts| {
            let receives = facts.receives_from.as_ref() == Some(&address) && !facts.replay_paused;
            if receives && facts.lineage != lineage {
                facts.lineage = lineage.clone();
                taken.push(other.clone());
            }
        });
        for other in taken {
            self.timeline_goes_on(&other);
        }
    }

    pub(super) fn act_on_pooler(&mut self, id: &TargetId, action: &Action) -> Acted {
        match action {
            Action::Pause { database } => self.pool(id, database)?.paused = true,
            Action::Resume { database } => self.pool(id, database)?.paused = false,
            Action::WriteRoute { database, route } => {
                let pool = self.pool(id, database)?;
                match &pool.written_route {
                    Some(written) if *written == route.from || *written == route.to => {}
                    written => return Err(format!("its file leads to {}", written.as_deref().unwrap_or("nowhere"))),
                }
                pool.written_route = Some(route.to.clone());
            }
            Action::Route { database, route } | Action::Redirect { database, route } => {
                if self.pool(id, database)?.written_route.as_ref() != Some(&route.to) {
                    return Err(format!("its file does not lead to {}", route.to));
                }
                self.reload(id)?;
                if !matches!(action, Action::Route { .. }) {
                    self.pool(id, database)?.paused = false;
                }
            }
            Action::RestoreRoute { database, route } => {
                self.pool(id, database)?.written_route = Some(route.to.clone());
                self.reload(id)?;
            }
            Action::Marker { database, primary } => return self.marker(id, database, primary),
            _ => return Err(format!("a pooler cannot {}", action.verb())),
        }
        Ok(())
    }

    /// A write by the way of clients reaches whoever is primary where the pooler leads.
    fn marker(&mut self, id: &TargetId, database: &ForeignName, primary: &Peer) -> Acted {
        let pool = self.pool(id, database)?;
        if pool.paused {
            return Err("clients are held back".to_owned());
        }
        if pool.route != primary.address {
            return Err(format!("it was taken at {}", pool.route));
        }
        match self.role(&primary.member) {
            Role::Primary => Ok(()),
            role => Err(format!("{} is {role}", primary.member.name())),
        }
    }

    /// A pooler's entry, to be changed.
    ///
    /// # Errors
    /// If there is none.
    pub fn pool(&mut self, id: &TargetId, database: &ForeignName) -> Result<&mut PoolFacts, String> {
        let Facts::Pooler(facts) = self.known(id)? else { return Err(format!("{id} is no pooler")) };
        let pool = facts.databases.get_mut(database).and_then(Option::as_mut);
        pool.ok_or_else(|| format!("there is no database {database}"))
    }

    /// A reload makes true what is written for every database of the pooler.
    fn reload(&mut self, id: &TargetId) -> Acted {
        let Facts::Pooler(facts) = self.known(id)? else { return Err(format!("{id} is no pooler")) };
        for pool in facts.databases.values_mut().flatten() {
            if let Some(written) = &pool.written_route {
                pool.route.clone_from(written);
            }
        }
        Ok(())
    }

    /// The primaries of a database that take writes now: more than one is what must never be.
    pub fn writable(&self, database: &DatabaseName) -> Vec<TargetId> {
        let members = self.topology.databases.get(database).into_iter().flat_map(|it| it.members.values());
        let is_primary = |id: &TargetId| {
            let facts = self.live.get(id).and_then(Observed::known).and_then(Facts::member);
            facts.is_some_and(|facts| facts.role == Role::Primary)
        };
        members.map(|member| member.target.id.clone()).filter(is_primary).collect()
    }
}
