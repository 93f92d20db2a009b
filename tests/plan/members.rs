//! Databases with many members: cascades, priorities, any synchronous names, members that cannot follow. In every prefix of every
//! switchover no commit hangs, and in the end everybody follows and commits wait for as many as before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use handover::model::{Action, Role, TargetId};
use handover::plan::{Intent, Plan, Planned, Step, Undo, Work, make, synchronous};
use proptest::prelude::*;

use crate::steps::{chooser, comparable, demands};
use crate::world::World;
use crate::{carry_out, plan};

/// A database of so many members `m0`, `m1`, …, with its primary wanted at one of them.
fn topology(members: usize, primary: &str, priorities: &[u32]) -> String {
    let mut text = "topology: 1\nname: many\nfacilities: {west: {state: active}, east: {state: active}}\n\
                    databases:\n  accounts:\n    provider: postgresql\n"
        .to_owned();
    text += &format!("    primary: {primary}\n    members:\n");
    for index in 0..members {
        let facility = if index % 2 == 0 { "west" } else { "east" };
        let priority = priorities.get(index).copied().unwrap_or(100);
        text += &format!(
            "      m{index}: {{facility: {facility}, address: \"10.0.0.{index}:5432\", host: h, priority: {priority}}}\n"
        );
    }
    text + "    replication: {mode: synchronous, max_lag: 1s}\n    poolers: [p]\n    route: {pooler_database: accounts}\n\
            poolers:\n  p: {facility: west, provider: pgbouncer, address: \"10.0.1.1:6432\", host: h}\n\
            hosts:\n  h: {transport: local}\n"
}

/// A world with `m0` as primary.
fn world(members: usize, upstreams: &[(&str, &str)], names: &str) -> World {
    let mut world = World::healthy(&topology(members, "m0", &[]));
    let mut all: BTreeMap<String, String> = (1..members).map(|index| (format!("m{index}"), "m0".to_owned())).collect();
    all.extend(upstreams.iter().map(|(name, upstream)| ((*name).to_owned(), (*upstream).to_owned())));
    world.arrange("accounts", &all, names);
    world
}

fn to(world: World, members: usize, primary: &str) -> (World, Plan) {
    let world = world.with_topology(&topology(members, primary, &[]));
    let plan = plan(&world, &Intent::default(), &[]);
    (world, plan)
}

fn outline(plan: &Plan) -> String {
    let mut text = String::new();
    for note in &plan.notes {
        text += &format!("! {note}\n");
    }
    for (index, stage) in plan.stages.iter().enumerate() {
        text += &format!("{}\n", stage.title);
        for line in &stage.remains {
            text += &format!("  {line}\n");
        }
        for step in plan.steps.iter().filter(|step| step.stage == index) {
            let needs: Vec<&str> = step.needs.iter().map(|need| need.0.as_str()).collect();
            text += &format!("    {}: {} <- {}\n", step.id, step.title, needs.join(" "));
            if let Work::Act { action: Action::Native { args, .. }, .. } = &step.work {
                for (key, values) in args {
                    text += &format!("        {key}: {}\n", values.join(" | "));
                }
            }
        }
    }
    text
}

fn everybody_follows(world: &World, primary: &str, names: &str) {
    assert_eq!(world.seen("accounts", primary).role, Role::Primary);
    assert_eq!(world.seen("accounts", primary).synchronous_names, names);
}

#[test]
fn five_members_with_a_cascade_change_places_and_two_replicas_are_waited_for_again() {
    // m3 receives from m1, which takes over; m4 from m2, which stays.
    let world = world(5, &[("m3", "m1"), ("m4", "m2")], "FIRST 2 (m1, m2)");
    let (mut world, there) = to(world, 5, "m1");
    insta::assert_snapshot!(outline(&there));
    carry_out(&mut world, &there, |_| 0);
    everybody_follows(&world, "m1", "FIRST 2 (\"m0\", \"m2\")");
    let (mut world, back) = to(world, 5, "m0");
    carry_out(&mut world, &back, |_| 0);
    everybody_follows(&world, "m0", "FIRST 2 (\"m1\", \"m2\")");
}

#[test]
fn a_candidate_that_receives_from_a_replica_is_led_to_the_primary_first() {
    let world = world(4, &[("m3", "m1")], "ANY 1 (m1, m2)");
    let (mut world, there) = to(world, 4, "m3");
    insta::assert_snapshot!(outline(&there));
    carry_out(&mut world, &there, |_| 0);
    everybody_follows(&world, "m3", "ANY 1 (m1, m2)");
    assert_eq!(world.seen("accounts", "m1").receives_from.as_deref(), Some("10.0.0.3:5432"));
    assert!(world.seen("accounts", "m1").slots.is_empty(), "the slot of m3 holds log for nobody");
}

#[test]
fn a_declared_cascade_is_there_again_after_there_and_back_and_is_repaired() {
    let cascade = |text: String| {
        let line = "address: \"10.0.0.3:5432\", host: h,";
        assert!(text.contains(line));
        text.replace(line, &format!("{line} follows: m1,"))
    };
    let at = |world: World, primary: &str| world.with_topology(&cascade(topology(4, primary, &[])));
    let mut world = at(world(4, &[("m3", "m1")], "FIRST 2 (m1, m2)"), "m0");
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    let settled = |world: &World| match make(&world.topology, &Intent::default(), &[], &world.live, now) {
        Planned::Nothing(_) => {}
        other => panic!("{other:?}"),
    };
    settled(&world);
    for (primary, sender) in [("m1", "10.0.0.1:5432"), ("m0", "10.0.0.1:5432"), ("m3", ""), ("m2", "10.0.0.1:5432")] {
        world = at(world, primary);
        let there = plan(&world, &Intent::default(), &[]);
        carry_out(&mut world, &there, |_| 0);
        assert_eq!(world.seen("accounts", primary).role, Role::Primary);
        assert_eq!(
            world.seen("accounts", "m3").receives_from.as_deref().unwrap_or_default(),
            sender,
            "under {primary}"
        );
        if primary == "m0" {
            insta::assert_snapshot!(outline(&there));
        }
        settled(&world);
    }
}

#[test]
fn who_cannot_follow_is_named_and_told_later_and_nobody_waits_for_it() {
    let mut before = world(5, &[], "FIRST 2 (m1, m2, m3)");
    before.change_member("accounts", "m2", |facts| facts.replay_paused = true);
    before.change_member("accounts", "m4", |facts| facts.receives_from = None);
    before.change_member("accounts", "m0", |facts| facts.replicas.retain(|replica| replica.name != "m4"));
    let (mut after, there) = to(before, 5, "m1");
    insta::assert_snapshot!(outline(&there));
    carry_out(&mut after, &there, |_| 0);
    everybody_follows(&after, "m1", "FIRST 2 (\"m0\", \"m2\", \"m3\")");
    assert_eq!(after.told.len(), 2);
    assert!(after.told.values().all(|address| address == "10.0.0.1:5432"));
}

#[test]
fn the_choice_follows_priority_then_closeness_then_name_and_is_explained() {
    let drain = |priorities: &[u32], upstreams: &[(&str, &str)], change: &dyn Fn(&mut World)| {
        let mut world = world(5, upstreams, "ANY 1 (m1, m2, m3, m4)");
        change(&mut world);
        // East alone is left: m1 and m3.
        let text = topology(5, "west", priorities);
        let world = world.with_topology(&text);
        let intent = Intent { drain: ["west".into()].into(), ..Intent::default() };
        let plan = plan(&world, &intent, &[]);
        let why = plan.stages.iter().flat_map(|stage| &stage.remains).find(|line| line.starts_with("why"));
        (plan.primaries[0].to.name().to_owned(), why.cloned().unwrap_or_default())
    };
    let mut told = String::new();
    let mut tell = |(name, why): (String, String)| told += &format!("{name}: {why}\n");
    tell(drain(&[], &[], &|_| {}));
    tell(drain(&[100, 50, 100, 100], &[], &|_| {}));
    tell(drain(&[], &[("m1", "m2")], &|_| {}));
    tell(drain(&[100, 200, 100, 100], &[("m1", "m2")], &|_| {}));
    tell(drain(&[], &[], &|world| world.change_member("accounts", "m1", |facts| facts.replay_paused = true)));
    tell(drain(&[], &[], &|world| world.change_member("accounts", "m1", |facts| facts.receives_from = None)));
    insta::assert_snapshot!(told);
}

#[test]
fn what_a_switchover_cannot_do_is_refused_with_target_and_remedy() {
    let mut told = String::new();
    let mut refuse = |names: &str, change: &dyn Fn(&mut World)| {
        let mut world = world(4, &[], names);
        change(&mut world);
        let world = world.with_topology(&topology(4, "m1", &[]));
        let now = "2026-11-23T06:15:00Z".parse().unwrap();
        match make(&world.topology, &Intent::default(), &[], &world.live, now) {
            Planned::Refused(refusals) => {
                for refusal in refusals {
                    told += &format!("{}\n    {}\n", refusal.what, refusal.advice);
                }
            }
            Planned::Plan(plan) => told += &format!("{}\n", plan.notes.join("\n")),
            other => panic!("{other:?}"),
        }
    };
    let set = |name: &'static str, key: &'static str, value: &'static str| {
        move |world: &mut World| {
            world.change_member("accounts", name, |facts| {
                facts.settings.insert(key.to_owned(), value.to_owned());
            });
        }
    };
    refuse("ANY 1 (m1, m2)", &|world| {
        world.change_member("accounts", "m2", |facts| facts.lineage.system = "other".to_owned())
    });
    refuse("ANY 1 (m1, m2)", &set("m2", "recovery_target_timeline", "current"));
    refuse("ANY 1 (m1, m2)", &|world| {
        set("m1", "max_connections", "200")(world);
        set("m2", "max_connections", "100")(world);
    });
    refuse("ANY 1 (m1, m2)", &set("m1", "max_replication_slots", "2"));
    refuse("ANY 1 (m1, m2)", &set("m1", "max_wal_senders", "3"));
    refuse("ANY 1 (m1, m2)", &set("m2", "rights", "missing: EXECUTE on pg_reload_conf()"));
    // These may pass, or matter to that member only: a plan is made, and says so.
    refuse("FIRST 2 (m1, x)", &|_| {});
    refuse("ANY 1 (m1, m2)", &set("m2", "recovery_min_apply_delay", "1h"));
    refuse("ANY 1 (m1, m2)", &set("m1", "recovery_min_apply_delay", "1h"));
    refuse("ANY 1 (m1, m2)", &|world| {
        world.change_member("accounts", "m0", |facts| {
            let frozen = facts.replicas.iter_mut().find(|replica| replica.name == "m3").unwrap();
            (frozen.lag_bytes, frozen.silence) = (4096, Some(std::time::Duration::from_secs(12)));
        });
    });
    refuse("ANY 1 (m1, m2)", &|world| {
        world.change_member("accounts", "m1", |facts| facts.capabilities.rewind = false);
    });
    insta::assert_snapshot!(told);
}

#[test]
fn databases_without_a_common_pooler_switch_side_by_side_and_others_one_after_the_other() {
    let text = |second: &str| {
        let one = topology(2, "m0", &[]);
        let members = "      n0: {facility: west, address: \"10.0.0.10:5432\", host: h}\n      \
                       n1: {facility: east, address: \"10.0.0.11:5432\", host: h}\n";
        let other = format!(
            "  orders:\n    provider: postgresql\n    primary: n0\n    members:\n{members}    \
             replication: {{mode: asynchronous, max_lag: 1s}}\n    poolers: [{second}]\n    route: {{pooler_database: orders}}\n"
        );
        one.replace("poolers:\n  p:", &format!("{other}poolers:\n  q: {{facility: east, provider: pgbouncer, address: \"10.0.1.2:6432\", host: h}}\n  p:"))
    };
    for (second, chained) in [("q", false), ("p", true)] {
        let world = World::healthy(&text(second));
        let moved = text(second).replace("primary: m0", "primary: m1").replace("primary: n0", "primary: n1");
        let world = world.with_topology(&moved);
        let plan = plan(&world, &Intent::default(), &[]);
        let pause = plan.steps.iter().find(|step| step.id.0.starts_with("db.orders.pause")).unwrap();
        let after = pause.needs.iter().any(|need| need.0.starts_with("db.accounts.redirect"));
        assert_eq!(after, chained, "behind {second}: {:?}", pause.needs);
    }
}

/// A database in some layout, whom its primary should move to, and who cannot follow.
#[derive(Clone, Debug)]
struct Layout {
    members: usize,
    upstreams: BTreeMap<String, String>,
    names: String,
    target: usize,
    paused: BTreeSet<usize>,
}

prop_compose! {
    fn layouts()(members in 2usize..7)(
        members in Just(members),
        parents in prop::collection::vec(any::<prop::sample::Index>(), members),
        any_method in any::<bool>(),
        count in 1usize..3,
        listed in prop::collection::vec(any::<bool>(), members),
        target in 1usize..members,
        paused in prop::collection::vec(prop::bool::weighted(0.2), members),
    ) -> Layout {
        let upstream = |index: usize| if parents[index].index(2) == 0 { 0 } else { parents[index].index(index) };
        let upstreams: BTreeMap<String, String> =
            (1..members).map(|index| (format!("m{index}"), format!("m{}", upstream(index)))).collect();
        let direct: Vec<String> =
            (1..members).filter(|index| listed[*index] && upstream(*index) == 0).map(|index| format!("m{index}")).collect();
        let names = match direct.len() {
            // It must be synchronous at all: somebody receives from the primary.
            0 => format!("FIRST 1 (m{})", (1..members).find(|index| upstream(*index) == 0).unwrap()),
            there => format!("{} {} ({})", if any_method { "ANY" } else { "FIRST" }, count.min(there), direct.join(", ")),
        };
        let paused = (1..members).filter(|index| paused[*index] && *index != target).collect();
        Layout { members, upstreams, names, target, paused }
    }
}

fn arranged(layout: &Layout) -> World {
    let mut world = World::healthy(&topology(layout.members, "m0", &[]));
    world.arrange("accounts", &layout.upstreams, &layout.names);
    for index in &layout.paused {
        world.change_member("accounts", &format!("m{index}"), |facts| facts.replay_paused = true);
    }
    world
}

fn done<'a>(plan: &'a Plan, cut: &prop::sample::Index) -> &'a [Step] {
    let reversible = plan.steps.iter().position(|step| step.point_of_no_return).unwrap();
    &plan.steps[..cut.index(reversible + 1)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn commits_never_hang_and_everybody_who_can_follows(layout in layouts(), seed in any::<u64>()) {
        let choose = chooser(seed);
        let world = arranged(&layout);
        prop_assert!(world.undisturbed().is_ok());
        let target = format!("m{}", layout.target);
        let (mut world, there) = to(world, layout.members, &target);
        carry_out(&mut world, &there, choose);
        let primary = world.seen("accounts", &target);
        // As many are waited for as before, where so many are there.
        let fit = primary.replicas.iter().map(|replica| replica.name.clone()).collect();
        let complete = synchronous::after(&layout.names, &target, "m0");
        let expected = synchronous::demand(&layout.names).min(synchronous::counting(&complete, &fit));
        prop_assert_eq!(synchronous::demand(&primary.synchronous_names), expected, "{}", primary.synchronous_names);
        let timeline = primary.lineage.timeline;
        for index in (0..layout.members).filter(|index| *index != layout.target) {
            let (name, facts) = (format!("m{index}"), world.seen("accounts", &format!("m{index}")));
            let id = TargetId::member(&"accounts".into(), &name);
            let upstream = layout.upstreams.get(&name).cloned();
            // Whoever receives from one that does not replay cannot follow either.
            let blocked = std::iter::successors(Some(name.clone()), |name| layout.upstreams.get(name).cloned())
                .any(|name| layout.paused.contains(&name[1..].parse().unwrap()));
            if !blocked {
                prop_assert_eq!(facts.lineage.timeline, timeline, "{} from {:?}", name, upstream);
            }
            prop_assert!(facts.receives_from.is_some() || world.told.contains_key(&id), "{} follows nobody", name);
        }
    }

    #[test]
    fn everything_before_the_promotion_is_taken_back_by_leading_back(layout in layouts(), cut in any::<prop::sample::Index>()) {
        let world = arranged(&layout);
        let (mut world, there) = to(world, layout.members, &format!("m{}", layout.target));
        let before = comparable(&world);
        let done = done(&there, &cut);
        for step in done {
            if let Work::Act { target, action } = &step.work {
                world.act(target, action);
            }
        }
        for step in done.iter().rev() {
            if let (Undo::Act { action, after }, Work::Act { target, .. }) = (&step.undo, &step.work) {
                world.act(target, action);
                demands(&world, target, after).map_err(|why| TestCaseError::fail(format!("undo of {}: {why}", step.id)))?;
                world.undisturbed().map_err(|why| TestCaseError::fail(format!("after the undo of {}: {why}", step.id)))?;
            }
        }
        prop_assert_eq!(comparable(&world), before);
    }
}

/// A run that was killed between the narrowing of the names and its end, found by the next plan.
#[test]
fn names_that_a_cut_run_left_narrow_are_set_right_where_it_is_declared_how_many_confirm() {
    let declared = |text: String| text.replace("{mode: synchronous,", "{mode: synchronous, confirmed_by: 2,");
    let mut cut = world(4, &[], "ANY 2 (m1, m2)").with_topology(&topology(4, "m1", &[]));
    let there = plan(&cut, &Intent::default(), &[]);
    for step in there.steps.iter().filter(|step| step.id.0.contains(".set_synchronous.")) {
        let Work::Act { target, action } = &step.work else { panic!() };
        cut.act(target, action);
    }
    assert_eq!(cut.seen("accounts", "m0").synchronous_names, "FIRST 1 (\"m1\")");

    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    let mut repaired = cut.with_topology(&declared(topology(4, "m0", &[])));
    let repair = plan(&repaired, &Intent::default(), &[]);
    carry_out(&mut repaired, &repair, |_| 0);
    assert_eq!(repaired.seen("accounts", "m0").synchronous_names, "FIRST 2 (\"m1\", \"m2\", \"m3\")");
    assert!(matches!(make(&repaired.topology, &Intent::default(), &[], &repaired.live, now), Planned::Nothing(_)));

    // Nobody says how many: then it is only named, in plan and status.
    let mut named = repaired.with_topology(&topology(4, "m0", &[]));
    named.arrange("accounts", &(1..4).map(|n| (format!("m{n}"), "m0".to_owned())).collect(), "FIRST 1 (\"m1\")");
    let Planned::Nothing(notes) = make(&named.topology, &Intent::default(), &[], &named.live, now) else { panic!() };
    let expected = "commits of accounts wait for m1 alone, though m1, m2 and m3 replicate";
    assert!(notes.iter().any(|note| note.starts_with(expected) && note.contains("confirmed_by")), "{notes:?}");

    // Those that do not stream cannot confirm: commits are not made to wait for them.
    let mut fewer = named.with_topology(&declared(topology(4, "m0", &[])));
    fewer.change_member("accounts", "m0", |facts| {
        facts.replicas.iter_mut().filter(|replica| replica.name != "m1").for_each(|replica| replica.streaming = false);
    });
    let Planned::Nothing(notes) = make(&fewer.topology, &Intent::default(), &[], &fewer.live, now) else { panic!() };
    let expected = "commits of accounts should be confirmed by 2 replicas, and 1 can: bring the others back";
    assert!(notes.iter().any(|note| note == expected), "{notes:?}");
}

/// Found by the random worlds of `tests/simulated`.
#[test]
fn a_switchover_ends_with_as_many_confirming_as_are_declared() {
    let declared = |text: String, count: usize| {
        text.replace("{mode: synchronous,", &format!("{{mode: synchronous, confirmed_by: {count},"))
    };
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    for (count, before, wanted) in [
        // One replica was away when the names were set.
        (2, "FIRST 1 (m1, m2)", "FIRST 2 (\"m0\", \"m2\")"),
        // Somebody has asked for more.
        (1, "FIRST 2 (m1, m2)", "FIRST 1 (\"m0\", \"m2\")"),
    ] {
        let mut world = world(3, &[], before).with_topology(&declared(topology(3, "m1", &[]), count));
        let there = plan(&world, &Intent::default(), &[]);
        carry_out(&mut world, &there, |_| 0);
        everybody_follows(&world, "m1", wanted);
        let rest = make(&world.topology, &Intent::default(), &[], &world.live, now);
        assert!(matches!(rest, Planned::Nothing(_)), "{rest:?}");
    }
}

/// A topology of four with these members under others.
fn cascades(primary: &str, follows: &[(&str, &str)]) -> String {
    let mut text = topology(4, primary, &[]).replace("mode: synchronous", "mode: asynchronous");
    for (member, upstream) in follows {
        let line = format!("address: \"10.0.0.{}:5432\", host: h,", &member[1..]);
        assert!(text.contains(&line));
        text = text.replace(&line, &format!("{line} follows: {upstream},"));
    }
    text
}

/// The candidate receives from another replica, and the old primary is itself to send to one in the end: it gets a slot twice. Found by the
/// random worlds of `tests/simulated`.
#[test]
fn steps_of_a_switchover_with_two_cascades_have_names_of_their_own() {
    let follows = [("m2", "m1"), ("m3", "m0")];
    let world = world(4, &[("m2", "m1")], "").with_topology(&cascades("m2", &follows));
    let there = plan(&world, &Intent::default(), &[]);
    let names: BTreeSet<&str> = there.steps.iter().map(|step| step.id.0.as_str()).collect();
    assert_eq!(names.len(), there.steps.len());
    assert!(names.contains("db.accounts.make_slots.m0") && names.contains("db.accounts.below.slots.m0"), "{names:?}");
    Plan::from_yaml(&there.to_yaml().unwrap()).unwrap();
}

/// Found by the random worlds of `tests/simulated`.
#[test]
fn an_old_primary_goes_below_a_replica_that_follows_through_another_one() {
    let follows = [("m2", "m1"), ("m0", "m2")];
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    let mut world = world(4, &[("m2", "m1")], "").with_topology(&cascades("m3", &follows));
    let there = plan(&world, &Intent::default(), &[]);
    carry_out(&mut world, &there, |_| 0);
    assert_eq!(world.seen("accounts", "m0").receives_from.as_deref(), Some("10.0.0.2:5432"));
    let rest = make(&world.topology, &Intent::default(), &[], &world.live, now);
    assert!(matches!(rest, Planned::Nothing(_)), "{rest:?}");
}

/// A receiver that is on the new timeline already is refused by a sender on the old one. Found by the random worlds of `tests/simulated`.
#[test]
fn nobody_is_led_below_a_replica_that_does_not_replay_the_new_timeline() {
    let follows = [("m0", "m2")];
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    // m2 receives from the candidate, and goes on doing so.
    let mut world = world(4, &[("m2", "m1")], "").with_topology(&cascades("m1", &follows));
    world.change_member("accounts", "m2", |facts| facts.replay_paused = true);
    let there = plan(&world, &Intent::default(), &[]);
    carry_out(&mut world, &there, |_| 0);
    assert_eq!(world.seen("accounts", "m0").receives_from.as_deref(), Some("10.0.0.1:5432"));
    assert_eq!(world.seen("accounts", "m2").lineage.timeline, 1);
    let rest = make(&world.topology, &Intent::default(), &[], &world.live, now);
    assert!(matches!(rest, Planned::Nothing(_)), "{rest:?}");
}

/// The operator has taken the names away because the replica is dead: a plan must not make commits wait for it again.
#[test]
fn commits_are_made_to_wait_only_for_those_that_can_confirm() {
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    let without_names = |members: usize| {
        let mut world = world(members, &[], "FIRST 1 (m1)");
        world.change_member("accounts", "m0", |facts| {
            facts.synchronous_names.clear();
            facts.replicas.iter_mut().for_each(|replica| replica.synchronous = false);
        });
        world
    };
    let seen_by_m0 = |world: &mut World, change: &dyn Fn(&mut handover::model::ReplicaFacts)| {
        world.change_member("accounts", "m0", |facts| {
            facts.replicas.iter_mut().filter(|replica| replica.name == "m1").for_each(change);
        });
    };
    // Nobody can rebuild it from here.
    let died = |world: &mut World| {
        world.change_member("accounts", "m1", |facts| {
            (facts.role, facts.receives_from) = (Role::Stopped, None);
            facts.capabilities.no_control = Some("it has no host".to_owned());
        });
        world.change_member("accounts", "m0", |facts| facts.replicas.retain(|replica| replica.name != "m1"));
    };
    let hangs = |world: &mut World| {
        seen_by_m0(world, &|replica| replica.silence = Some(std::time::Duration::from_secs(12)));
    };
    let catches_up = |world: &mut World| seen_by_m0(world, &|replica| replica.streaming = false);
    // Its facility is lost, and nobody has told us to power it off.
    let lost = |world: &mut World| {
        died(world);
        world.silence(&TargetId::member(&"accounts".into(), "m1"));
        let text = topology(2, "m0", &[]).replace("east: {state: active}", "east: {state: drained}");
        world.topology = Arc::clone(&World::healthy(&text).topology);
    };
    let deaths: [&dyn Fn(&mut World); 4] = [&died, &hangs, &catches_up, &lost];
    for death in deaths {
        let mut world = without_names(2);
        death(&mut world);
        let planned = make(&world.topology, &Intent::default(), &[], &world.live, now);
        let Planned::Nothing(notes) = planned else { panic!("{planned:?}") };
        let expected = "commits of accounts wait for nobody, and it is left so: none of m1 streams";
        assert!(notes.iter().any(|note| note.starts_with(expected)), "{notes:?}");
    }
    for death in &deaths[..3] {
        let mut world = without_names(3);
        death(&mut world);
        let repair = plan(&world, &Intent::default(), &[]);
        world.settle(&repair);
        assert_eq!(world.seen("accounts", "m0").synchronous_names, "FIRST 1 (\"m2\")");
    }
    // One that streams: its provider is told how many must stream before commits may wait for it.
    let world = without_names(2);
    let repair = plan(&world, &Intent::default(), &[]);
    let names = repair.steps.iter().find_map(|step| match &step.work {
        Work::Act { action: Action::Native { verb, args }, .. } if verb == "finish_promotion" => Some(args),
        _ => None,
    });
    let names = names.unwrap();
    assert_eq!(
        (names["synchronous"].concat(), names["needed"].concat()),
        ("FIRST 1 (\"m1\")".to_owned(), "1".to_owned())
    );
    assert_eq!(names["awaited"], ["m1"]);
}
