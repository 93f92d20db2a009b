//! Live states that a world without trouble can be in, beside that of its file.

use handover::model::{Admission, DatabaseName, Facts, JobFacts, Observed, Operational, Role, Route, TargetId};
use handover::rehearse::sim::{World, replica, slot};
use proptest::prelude::*;

use super::pick;

/// Something that is not as the file says; indices count what there is.
#[derive(Clone, Debug)]
pub enum Quirk {
    /// A replica is stopped and did not end cleanly; its machine answers for it.
    Stopped(usize, usize),
    /// A replica does not answer at all.
    Dead(usize, usize),
    /// A replica does not replay.
    ReplayPaused(usize, usize),
    /// A replica receives from another one.
    Cascade(usize, usize, usize),
    /// Commits wait for so many, by `ANY` or `FIRST`, of all replicas.
    Names(usize, bool, usize),
    /// A job does not run.
    JobOff(usize),
    /// A pooler was paused by somebody.
    Paused(usize, usize),
    /// A pooler's file leads to another member than its memory.
    Written(usize, usize, usize),
    /// An application server fails its health check.
    Sick(usize),
    /// Somebody gave a server another weight at one proxy.
    Weighed(usize, usize, u32),
    /// Another TTL is live.
    Ttl(usize, u32),
}

/// Any of them.
pub fn quirks() -> impl Strategy<Value = Quirk> {
    let few = 0usize..5;
    prop_oneof![
        (few.clone(), few.clone()).prop_map(|(database, member)| Quirk::Stopped(database, member)),
        (few.clone(), few.clone()).prop_map(|(database, member)| Quirk::Dead(database, member)),
        (few.clone(), few.clone()).prop_map(|(database, member)| Quirk::ReplayPaused(database, member)),
        (few.clone(), few.clone(), few.clone()).prop_map(|(database, member, to)| Quirk::Cascade(database, member, to)),
        (few.clone(), any::<bool>(), 1usize..3).prop_map(|(database, any, count)| Quirk::Names(database, any, count)),
        few.clone().prop_map(Quirk::JobOff),
        (few.clone(), few.clone()).prop_map(|(database, pooler)| Quirk::Paused(database, pooler)),
        (few.clone(), few.clone(), few).prop_map(|(database, pooler, to)| Quirk::Written(database, pooler, to)),
        (0usize..12).prop_map(Quirk::Sick),
        (0usize..12, 0usize..12, 1u32..=256).prop_map(|(proxy, server, weight)| Quirk::Weighed(proxy, server, weight)),
        (0usize..3, 1u32..5).prop_map(|(service, ttl)| Quirk::Ttl(service, ttl)),
    ]
}

/// Brings a quirk about, and says what it is; none where there is nothing of the kind, or the world would be in trouble.
pub fn disturb(world: &mut World, quirk: &Quirk) -> Option<String> {
    let mut other = world.clone();
    let told = bring_about(&mut other, quirk)?;
    other.undisturbed().ok()?;
    *world = other;
    Some(told)
}

/// The primary of some database and its other members.
fn database(world: &World, index: usize) -> Option<(DatabaseName, TargetId, Vec<TargetId>)> {
    let names: Vec<DatabaseName> = world.topology.databases.keys().cloned().collect();
    let name = pick(&names, index)?.clone();
    let [primary] = world.writable(&name).try_into().ok()?;
    let others = world.members_of(&primary).into_iter().filter(|id| *id != primary).collect();
    Some((name, primary, others))
}

/// The pooler's name for a database, and some pooler.
fn pooler(world: &World, database: &DatabaseName, index: usize) -> Option<(TargetId, handover::model::ForeignName)> {
    let declared = world.topology.databases.get(database)?;
    let Route::PoolerDatabase(entry) = &declared.route else { return None };
    let names: Vec<&String> = declared.poolers.iter().collect();
    Some((TargetId::pooler(pick(&names, index)?), entry.clone()))
}

fn bring_about(world: &mut World, quirk: &Quirk) -> Option<String> {
    match quirk {
        Quirk::Stopped(index, member) => {
            let (_, _, others) = database(world, *index)?;
            let id = pick(&others, *member)?;
            cut_off(world, id);
            let facts = world.member(id).ok()?;
            (facts.role, facts.receives_from) = (Role::Stopped, None);
            Some(format!("{id} is stopped"))
        }
        Quirk::Dead(index, member) => {
            let (_, _, others) = database(world, *index)?;
            let id = pick(&others, *member)?;
            cut_off(world, id);
            world.kill(id);
            Some(format!("{id} does not answer"))
        }
        Quirk::ReplayPaused(index, member) => {
            let (_, _, others) = database(world, *index)?;
            let id = pick(&others, *member)?;
            world.member(id).ok()?.replay_paused = true;
            Some(format!("{id} does not replay"))
        }
        Quirk::Cascade(index, member, to) => {
            let (_, primary, others) = database(world, *index)?;
            let (id, upstream) = (pick(&others, *member)?, pick(&others, *to)?);
            // A switchover leaves such a cascade to the next plan where the file wants another one.
            let (name, ..) = database(world, *index)?;
            if world.topology.databases.get(&name)?.members.get(id.name())?.follows.is_some() {
                return None;
            }
            // Whoever it receives from receives from the primary itself: no rings.
            let direct = world.address_of(&primary);
            if id == upstream || world.member(upstream).ok()?.receives_from != direct {
                return None;
            }
            let below = world.address_of(id);
            if others.iter().any(|other| world.member(other).is_ok_and(|facts| facts.receives_from == below)) {
                return None;
            }
            world.member(id).ok()?.receives_from.as_ref()?;
            cut_off(world, id);
            let address = world.address_of(upstream);
            world.member(id).ok()?.receives_from = address;
            let facts = world.member(upstream).ok()?;
            facts.replicas.push(replica(id.name(), false));
            facts.slots.push(slot(id.name()));
            Some(format!("{id} receives from {upstream}"))
        }
        Quirk::Names(index, any, count) => {
            let (_, primary, others) = database(world, *index)?;
            let facts = world.member(&primary).ok()?;
            if facts.synchronous_names.is_empty() {
                return None;
            }
            let names: Vec<String> = others.iter().map(|id| format!("\"{}\"", id.name())).collect();
            let (method, count) = (if *any { "ANY" } else { "FIRST" }, (*count).min(names.len()));
            facts.synchronous_names = format!("{method} {count} ({})", names.join(", "));
            Some(format!("commits at {primary} wait for {}", facts.synchronous_names))
        }
        Quirk::JobOff(index) => {
            let jobs: Vec<TargetId> = world.topology.jobs.keys().map(TargetId::job).collect();
            let id = pick(&jobs, *index)?;
            *world.known(id).ok()? = Facts::Job(JobFacts { running: false });
            Some(format!("{id} does not run"))
        }
        Quirk::Paused(index, at) => {
            let (name, ..) = database(world, *index)?;
            let (id, entry) = pooler(world, &name, *at)?;
            world.pool(&id, &entry).ok()?.paused = true;
            Some(format!("{entry} is paused at {id}"))
        }
        Quirk::Written(index, at, to) => {
            let (name, _, others) = database(world, *index)?;
            let (id, entry) = pooler(world, &name, *at)?;
            let address = world.address_of(pick(&others, *to)?)?;
            world.pool(&id, &entry).ok()?.written_route = Some(address.clone());
            Some(format!("{id} has {address} written for {entry}"))
        }
        Quirk::Sick(index) => {
            let services = world.topology.services.values();
            let servers: Vec<TargetId> =
                services.flat_map(|service| service.servers.values()).map(|server| server.target.id.clone()).collect();
            let id = pick(&servers, *index)?;
            let Facts::Server(facts) = world.known(id).ok()? else { return None };
            (facts.healthy, facts.status) = (false, 500);
            let (service, name) = (id.scope()?.to_owned(), id.name().to_owned());
            let topology = std::sync::Arc::clone(&world.topology);
            for proxy in topology.proxies.values() {
                let declared = topology.services.get(service.as_str())?;
                let backend = handover::plan::backend_of(proxy, declared);
                let Ok(Facts::Proxy(facts)) = world.known(&proxy.target.id) else { continue };
                let backend = facts.backends.get_mut(backend).and_then(Option::as_mut);
                if let Some(server) = backend.and_then(|backend| backend.servers.get_mut(name.as_str())) {
                    server.operational = Operational::Down;
                }
            }
            Some(format!("{id} is sick"))
        }
        Quirk::Weighed(at, server, weight) => {
            let proxies: Vec<TargetId> = world.topology.proxies.values().map(|proxy| proxy.target.id.clone()).collect();
            let id = pick(&proxies, *at)?;
            let Facts::Proxy(facts) = world.known(id).ok()? else { return None };
            let mut servers: Vec<_> =
                facts.backends.values_mut().flatten().flat_map(|backend| backend.servers.iter_mut()).collect();
            let count = servers.len();
            let (name, facts) = servers.get_mut(server.checked_rem(count)?)?;
            if facts.setting.admission != Admission::Ready || facts.setting.weight == 0 {
                return None;
            }
            facts.setting.weight = *weight;
            Some(format!("{name} has weight {weight} at {id}"))
        }
        Quirk::Ttl(index, ttl) => {
            let services: Vec<_> = world.topology.services.values().cloned().collect();
            let service = pick(&services, *index)?;
            for observed in world.live.values_mut() {
                let Observed::Known { value: Facts::NameServer(facts), .. } = observed else { continue };
                for (key, set) in &mut facts.sets {
                    if let Some(set) = set.as_mut().filter(|_| service.hostnames.contains_key(&key.name)) {
                        set.ttl = *ttl;
                    }
                }
            }
            Some(format!("{} has a TTL of {ttl} s", service.name))
        }
    }
}

/// Nobody sends to a member any more.
fn cut_off(world: &mut World, id: &TargetId) {
    for other in world.members_of(id) {
        if let Ok(facts) = world.member(&other) {
            facts.replicas.retain(|replica| replica.name != id.name());
        }
    }
}
