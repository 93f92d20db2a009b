//! A drain until the power may go, and the way back.

#[path = "../common/powered.rs"]
mod topology;

use std::collections::{BTreeMap, BTreeSet};

use handover::model::{FacilityName, Facts, ForeignName, TargetId};
use handover::plan::{Depth, HoldKind, Intent, LetGo, Plan, Planned, Work, make};

use super::world::World;
use super::{EXAMPLE, carry_out, intent, nothing_to_do, plan};
use topology::powered;

fn until_off(facility: &str) -> Intent {
    Intent { depth: Depth::Power, ..intent(&[facility], &[], false) }
}

fn ids<'a>(plan: &'a Plan, prefix: &str) -> Vec<&'a str> {
    plan.steps.iter().map(|step| step.id.0.as_str()).filter(|id| id.starts_with(prefix)).collect()
}

fn hold() -> HoldKind {
    let let_go = |primary: &str, names: &str| LetGo { primary: primary.to_owned(), synchronous: names.to_owned() };
    HoldKind::PoweredOff {
        facility: "west".into(),
        let_go: BTreeMap::from([
            ("accounts".into(), let_go("east-pg1", "FIRST 1 (\"west-pg1\")")),
            ("prices".into(), let_go("east-pg3", "")),
            ("products".into(), let_go("east-pg2", "")),
        ]),
    }
}

fn verbs(plan: &Plan) -> BTreeSet<&str> {
    let acts = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Act { target, action } if target.as_str().starts_with("unit/") => Some(action.verb()),
        _ => None,
    });
    acts.collect()
}

/// In a few of the orders that the needs allow: the simulated primary of a database that loses its members must not be stopped.
fn choosers() -> impl Iterator<Item = Box<dyn FnMut(usize) -> usize>> {
    (1u64..6).map(|seed| {
        let mut random = seed;
        let choose = move |count: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % count
        };
        Box::new(choose) as Box<dyn FnMut(usize) -> usize>
    })
}

#[test]
fn a_facility_is_drained_until_its_power_may_go_and_comes_back() {
    let text = powered(EXAMPLE);
    for mut choose in choosers() {
        let mut world = World::healthy(&text);
        let off = plan(&world, &until_off("west"), &[]);
        assert!(off.holds.contains(&hold()), "{:#?}", off.holds);
        carry_out(&mut world, &off, &mut choose);
        nothing_to_do(&world, &off.holds);
        assert_eq!(verbs(&off), BTreeSet::from(["stop"]));
        assert_eq!(off.steps.last().unwrap().title, "safe to power off west: nothing there answers any more");
        assert!(
            off.notes.iter().any(|note| note.contains("accounts has no synchronous replica until west-pg1 is back"))
        );

        // First power, by a plan of its own; then the ordinary restore.
        let on = plan(&world, &intent(&[], &["west"], true), &off.holds);
        assert_eq!((on.intent.title().as_str(), &on.releases), ("power on west", &vec![hold()]));
        assert!(
            on.notes.iter().any(|note| note.contains("`handover plan --restore west` brings it back into service"))
        );
        assert!(ids(&on, "share.").is_empty() && ids(&on, "dns.").is_empty(), "{:?}", ids(&on, ""));
        carry_out(&mut world, &on, &mut choose);
        let drained = vec![HoldKind::Drained { facility: FacilityName::new("west") }];
        nothing_to_do(&world, &drained);
        let back = plan(&world, &intent(&[], &["west"], true), &drained);
        carry_out(&mut world, &back, &mut choose);
        nothing_to_do(&world, &[]);
    }
}

#[test]
fn the_order_is_traffic_then_redundancy_then_servers_and_the_other_way_round() {
    let mut world = World::healthy(&powered(EXAMPLE));
    let off = plan(&world, &until_off("west"), &[]);
    let mut told = String::new();
    let mut tell = |plan: &Plan| {
        for step in plan.steps.iter().filter(|step| step.id.0.starts_with("power.") || step.id.0 == "verify") {
            let needs: Vec<&str> = step.needs.iter().map(|need| need.0.as_str()).collect();
            told += &format!("{} <- {}\n    {}\n", step.id, needs.join(" "), step.title);
        }
    };
    tell(&off);
    carry_out(&mut world, &off, |_| 0);
    tell(&plan(&world, &intent(&[], &["west"], false), &off.holds));
    insta::assert_snapshot!(told);
}

#[test]
fn servers_that_were_started_by_hand_are_made_complete_first_all_the_same() {
    let mut world = World::healthy(&powered(EXAMPLE));
    let off = plan(&world, &until_off("west"), &[]);
    carry_out(&mut world, &off, |_| 0);
    for unit in world.topology.units.keys().cloned().collect::<Vec<_>>() {
        world.act(&unit, &handover::model::Action::Start);
    }
    let on = plan(&world, &intent(&[], &["west"], true), &off.holds);
    assert_eq!(on.intent.title(), "power on west");
    carry_out(&mut world, &on, |_| 0);
    let drained = [HoldKind::Drained { facility: "west".into() }];
    let back = plan(&world, &intent(&[], &["west"], true), &drained);
    carry_out(&mut world, &back, |_| 0);
    nothing_to_do(&world, &[]);
}

#[test]
fn a_drained_facility_is_powered_off_later_and_again_after_a_cut() {
    let mut world = World::healthy(&powered(EXAMPLE));
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drain, |_| 0);
    let off = plan(&world, &until_off("west"), &drain.holds);
    assert_eq!(off.holds, [hold()]);
    assert!(
        off.steps.iter().all(|step| step.id.0.starts_with("power.") || step.id.0 == "verify"),
        "{:?}",
        ids(&off, "")
    );
    let mut holds = drain.holds.clone();
    holds.extend(off.holds.clone());
    // Cut short after the databases had let go: what was there before is not forgotten.
    for step in off.steps.iter().filter(|step| step.id.0.starts_with("power.release_replicas")) {
        if let Work::Act { target, action } = &step.work {
            world.act(target, action);
        }
    }
    let again = plan(&world, &until_off("west"), &holds);
    assert_eq!(again.holds, []);
    carry_out(&mut world, &again, |_| 0);
    nothing_to_do(&world, &holds);
    let on = plan(&world, &intent(&[], &["west"], false), &holds);
    carry_out(&mut world, &on, |_| 0);
    nothing_to_do(&world, &drain.holds);
}

#[test]
fn what_cannot_be_stopped_from_here_is_named() {
    let world = World::healthy(
        &powered(EXAMPLE).replace("west-ns2: {facility: west, host: west-power,", "west-ns2: {facility: west,"),
    );
    let off = plan(&world, &until_off("west"), &[]);
    assert!(
        off.notes.iter().any(|note| note.contains("stop west-ns2 by hand before the power of west goes")),
        "{:?}",
        off.notes
    );
    assert_eq!(
        off.steps.last().unwrap().title,
        "safe to power off west: nothing there answers any more; stop west-ns2 by hand"
    );
}

#[test]
fn a_right_that_only_the_power_plan_needs_is_proven_first() {
    let mut world = World::healthy(&powered(EXAMPLE));
    let lacks = "missing: ALTER SYSTEM on max_slot_wal_keep_size";
    // Both members: who is primary in the end is not yet.
    for member in ["west-pg1", "east-pg1"] {
        let facts = world.member(&TargetId::member(&"accounts".into(), member));
        facts.settings.insert("rights_to_release".to_owned(), lacks.to_owned());
    }
    plan(&world, &intent(&["west"], &[], false), &[]);
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    let Planned::Refused(refusals) = make(&world.topology, &until_off("west"), &[], &world.live, now) else { panic!() };
    let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
    assert_eq!(
        refusal.what,
        "our role at east-pg1 may not bound the log that east-pg1 keeps for west-pg1: missing: ALTER SYSTEM on \
         max_slot_wal_keep_size"
    );
}

#[test]
fn names_that_somebody_has_set_while_the_power_was_off_stay() {
    const THEIRS: &str = "ANY 1 (\"west-pg1\", \"audit\")";
    let mut world = World::healthy(&powered(EXAMPLE));
    let off = plan(&world, &until_off("west"), &[]);
    carry_out(&mut world, &off, |_| 0);
    world.change_member("accounts", "east-pg1", |facts| facts.synchronous_names = THEIRS.to_owned());
    let on = plan(&world, &intent(&[], &["west"], false), &off.holds);
    let expected = "commits of accounts wait for ANY 1 (\"west-pg1\", \"audit\") at east-pg1: somebody has set that since the power-off";
    assert!(on.notes.iter().any(|note| note.starts_with(expected)), "{:#?}", on.notes);
    let step = on.steps.iter().find(|step| step.id.0 == "power.unrelease_replicas.accounts").unwrap();
    assert_eq!(step.title, "east-pg1: log is kept for its members as before");
    world.settle(&on);
    assert_eq!(world.seen("accounts", "east-pg1").synchronous_names, THEIRS);

    // A power-off that was cut short before it let go, and a power-on that was cut short after it had put back: nobody else's.
    for names in ["FIRST 1 (\"west-pg1\")", "\"west-pg1\"", ""] {
        let mut world = World::healthy(&powered(EXAMPLE));
        let off = plan(&world, &until_off("west"), &[]);
        carry_out(&mut world, &off, |_| 0);
        world.change_member("accounts", "east-pg1", |facts| facts.synchronous_names = names.to_owned());
        let on = plan(&world, &intent(&[], &["west"], false), &off.holds);
        assert!(!on.notes.iter().any(|note| note.contains("since the power-off")), "{names}: {:#?}", on.notes);
        world.settle(&on);
        assert_eq!(world.seen("accounts", "east-pg1").synchronous_names, "FIRST 1 (\"west-pg1\")");
    }
}

/// A run that stopped between sending clients away and stopping the proxies.
#[test]
fn users_do_not_return_to_proxies_that_let_nobody_in() {
    let mut world = World::healthy(&powered(EXAMPLE));
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drain, |_| 0);
    let proxies: Vec<TargetId> = world.topology.proxies.values().map(|proxy| proxy.target.id.clone()).collect();
    let west = proxies.iter().find(|id| id.name().starts_with("west")).unwrap();
    let close = |world: &mut World, names: &[&str]| {
        let Facts::Proxy(facts) = world.facts(west) else { panic!("{west} is no proxy") };
        facts.closed = names.iter().map(ForeignName::new).collect();
    };
    close(&mut world, &["https"]);
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    let what = format!("{} takes no new client at https", west.name());
    // It may stay so while nobody is sent there, and is named.
    let Planned::Nothing(notes) = make(&world.topology, &Intent::default(), &drain.holds, &world.live, now) else {
        panic!()
    };
    assert!(notes.iter().any(|note| note.starts_with(&what)), "{notes:?}");
    let mut holds = drain.holds.clone();
    for _ in 0..2 {
        let back = make(&world.topology, &intent(&[], &["west"], false), &holds, &world.live, now);
        let Planned::Refused(refusals) = back else { panic!("{back:?}") };
        assert!(refusals.iter().any(|refusal| refusal.what.starts_with(&what)), "{refusals:?}");
        assert!(refusals.iter().any(|refusal| refusal.advice.starts_with("restart the proxy")), "{refusals:?}");
        // Also where its servers are to be started first.
        holds.push(hold());
    }
    close(&mut world, &[]);
    plan(&world, &intent(&[], &["west"], false), &drain.holds);
}
