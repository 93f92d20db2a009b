//! Carrying plans out on a simulated world, step by step, without an engine.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeSet;

use handover::model::{Action, Condition, Facts, Observed, Peer, Role, TargetId, text};
use handover::plan::{Assumption, HoldKind, Plan, Step, StepId, Work};
use handover::rehearse::sim::World;

/// Numbers that look random, from a seed: for choices that need not shrink.
pub fn chooser(seed: u64) -> impl FnMut(usize) -> usize {
    let mut random = seed | 1;
    move |count| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % count
    }
}

/// The steps in an order that their needs allow, chosen by `choose`.
pub fn in_some_order(plan: &Plan, mut choose: impl FnMut(usize) -> usize) -> Vec<&Step> {
    let mut done: BTreeSet<&StepId> = BTreeSet::new();
    let mut waiting: Vec<&Step> = plan.steps.iter().collect();
    let mut order = Vec::new();
    while !waiting.is_empty() {
        let ready: Vec<usize> =
            (0..waiting.len()).filter(|index| waiting[*index].needs.iter().all(|need| done.contains(need))).collect();
        assert!(!ready.is_empty(), "steps that need each other: {waiting:?}");
        let step = waiting.remove(ready[choose(ready.len())]);
        done.insert(&step.id);
        order.push(step);
    }
    order
}

/// Does a condition hold at a target?
pub fn demands(world: &World, target: &TargetId, condition: &Condition) -> Result<(), String> {
    // Known only while a run lasts.
    if matches!(condition, Condition::AppliedBeyond { .. }) {
        return Ok(());
    }
    let facts = world.live.get(target).and_then(Observed::known).ok_or_else(|| format!("{target} does not answer"))?;
    condition.holds(facts).map_err(|found| format!("{target} {}: {found}", text::condition(condition)))
}

/// Does to the facts what a step would do. What it must never ask for is an error.
pub fn act(world: &mut World, step: &Step) -> Result<(), String> {
    let Work::Act { target, action } = &step.work else { return Ok(()) };
    let stopped = world.topology.units.get(target).filter(|_| *action == Action::Stop);
    if let Some(primary) = stopped.and_then(|unit| unit.of.iter().find(|id| world.role(id) == Role::Primary)) {
        return Err(format!("{primary} is stopped while it is primary"));
    }
    world.act(target, action).map_err(|why| format!("{} is refused: {why}", step.id))
}

/// Carries a plan out in some order, and checks what every step assumes and promises, and the invariants after each.
pub fn carry_out(world: &mut World, plan: &Plan, choose: impl FnMut(usize) -> usize) -> Result<(), String> {
    let all = |world: &World, conditions: &[Assumption]| {
        conditions.iter().try_for_each(|one| demands(world, &one.target, &one.condition))
    };
    for step in in_some_order(plan, choose) {
        all(world, &step.before).map_err(|why| format!("before {}: {why}", step.id))?;
        act(world, step)?;
        all(world, &step.after).map_err(|why| format!("after {}: {why}", step.id))?;
        world.undisturbed().map_err(|why| format!("after {}: {why}", step.id))?;
    }
    Ok(())
}

/// What a run does to the holds, as the store does it: those that it makes take the place of earlier ones about the same thing, and those
/// that end with it are gone.
pub fn holds_after(holds: &[HoldKind], made: &[HoldKind], released: &[HoldKind]) -> Vec<HoldKind> {
    let replaced = |hold: &&HoldKind| made.iter().any(|new| new.subject() == hold.subject());
    let all = holds.iter().filter(|hold| !replaced(hold)).chain(made);
    all.filter(|hold| !released.contains(hold)).cloned().collect()
}

/// Members that were told whom to follow once they can, can: true if there are any.
pub fn told_can(world: &mut World) -> Result<bool, String> {
    let told = std::mem::take(&mut world.told);
    let any = !told.is_empty();
    for (id, address) in told {
        let of_address = |other: &TargetId| world.address_of(other).as_ref() == Some(&address);
        let Some(member) = world.members_of(&id).into_iter().find(of_address) else { continue };
        world.member(&id)?.replay_paused = false;
        let primary = Peer { member, address };
        world
            .act(&id, &Action::Rejoin { primary })
            .map_err(|why| format!("{id} cannot follow as it was told: {why}"))?;
    }
    Ok(any)
}

/// Everything that an undo must restore, a line for each target that answers.
pub fn comparable(world: &World) -> String {
    let mut text = String::new();
    for (id, observed) in &world.live {
        let Some(facts) = observed.known() else { continue };
        text += &match facts {
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
            Facts::Vantage(facts) => format!("{id} {facts:?}\n"),
            Facts::Server(_) => String::new(),
        };
    }
    text
}
