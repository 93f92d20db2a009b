//! The way back: what is written down when something leaves, and what keeps it out until it is well.

use std::collections::BTreeMap;
use std::time::Duration;

use handover::model::*;
use handover::plan::lost::known::Known;
use handover::plan::{GateName, HoldKind, Intent, LostThing, Override, Plan, Planned, make_knowing, skeleton};
use jiff::Timestamp;

use crate::world::World;
use crate::{EXAMPLE, carry_out, intent, plan};

fn now() -> Timestamp {
    "2026-11-23T06:15:00Z".parse().unwrap()
}

fn restore(world: &World, known: &Known, intent: &Intent) -> Result<Plan, String> {
    let holds = [HoldKind::Drained { facility: "west".into() }, HoldKind::Settling { facility: "west".into() }];
    match make_knowing(&world.topology, intent, &holds, &world.live, known, now()) {
        Planned::Plan(plan) => Ok(*plan),
        Planned::Refused(why) => Err(why.into_iter().map(|it| it.what).collect::<Vec<_>>().join("\n")),
        Planned::Nothing(notes) => panic!("{notes:?}"),
    }
}

/// Well for so long.
fn well(minutes: u64) -> Known {
    let returned = BTreeMap::from([("west".into(), Duration::from_secs(60 * minutes))]);
    Known { returned, ..Known::default() }
}

#[test]
fn what_came_back_after_a_loss_is_restored_once_it_has_been_well_for_long_enough() {
    let mut world = World::healthy(EXAMPLE);
    let drained = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drained, |_| 0);
    let wish = intent(&[], &["west"], true);
    let says = |world: &World, known: &Known, expected: &str| {
        let why = restore(world, known, &wish).unwrap_err();
        assert!(why.contains("west came back after a loss and has not settled") && why.contains(expected), "{why}");
    };
    says(&world, &Known::default(), "has not ended well");
    says(&world, &well(4), "everything there answers since 4m, and `policy.settle` asks for 10m: 6m more");
    let done = restore(&world, &well(10), &wish).unwrap();
    assert_eq!(done.releases.len(), 2, "both holds end: {:?}", done.releases);
    // Somebody has asked in vain meanwhile. What was out before counts no more, nor do servers whose health the proxies know.
    let with = |id: TargetId, minutes: u64| {
        let quiet = BTreeMap::from([(id, Duration::from_secs(60 * minutes))]);
        Known { quiet, ..well(30) }
    };
    says(&world, &with(TargetId::proxy("west-lb1"), 3), "since 3m");
    assert!(restore(&world, &with(TargetId::proxy("west-lb1"), 90), &wish).is_ok());
    assert!(restore(&world, &with(TargetId::server(&"orderform".into(), "west-app1"), 1), &wish).is_ok());
    assert!(restore(&world, &with(TargetId::proxy("east-lb1"), 1), &wish).is_ok());

    let passed = Override { by: "ada@ops".to_owned(), reason: "the other one burns".to_owned() };
    let overrides = [(GateName::Settle, passed)].into();
    let forced = restore(&world, &well(0), &Intent { overrides, ..wish.clone() }).unwrap();
    assert!(forced.notes.iter().any(|note| note.starts_with("gate settle is overridden")), "{:?}", forced.notes);

    let primary = world.topology.databases["accounts"].members["east-pg1"].target.id.clone();
    let change = |world: &World, change: &dyn Fn(&mut World)| {
        let mut other = World::healthy(EXAMPLE).with_live(world);
        change(&mut other);
        restore(&other, &well(30), &wish).unwrap_err()
    };
    let late = change(&world, &|world| {
        let replicas = &mut world.member(&primary).replicas;
        replicas.iter_mut().for_each(|replica| replica.lag = Some(Duration::from_secs(60)));
    });
    assert!(late.contains("west-pg1 does not keep up: it lags by 1m"), "{late}");
    let alone = change(&world, &|world| {
        world.member(&primary).replicas.iter_mut().for_each(|replica| replica.synchronous = false);
    });
    assert!(alone.contains("commits of accounts wait for no replica"), "{alone}");
    let down = change(&world, &|world| world.change_member("accounts", "west-pg1", |facts| facts.role = Role::Stopped));
    assert!(down.contains("west-pg1 is stopped"), "{down}");
}

#[test]
fn a_drain_and_a_loss_leave_the_skeleton_of_their_way_back() {
    let mut world = World::healthy(EXAMPLE);
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drain, |_| 0);
    let way = skeleton::way_back(&world.topology, &drain, &drain.holds, &world.live, now()).unwrap();
    assert_eq!(way.command, "handover plan --restore west --failback");
    // It is what the command makes of the same world.
    let made = plan(&world, &intent(&[], &["west"], true), &drain.holds);
    let titles: Vec<&str> = way.stages.iter().flat_map(|stage| &stage.steps).map(String::as_str).collect();
    let mut planned: Vec<(usize, &str)> = made.steps.iter().map(|step| (step.stage, step.title.as_str())).collect();
    planned.sort_by_key(|(stage, _)| *stage);
    assert_eq!(titles, planned.into_iter().map(|(_, title)| title).collect::<Vec<_>>());
    let text = way.to_yaml().unwrap();
    let error = Plan::from_yaml(&text).unwrap_err().to_string();
    assert!(error.starts_with("it is the skeleton of a way back"), "{error}");

    // Nothing of it answers: the way back is predicted all the same, beyond what is owed.
    let lost = handover::plan::lost::evidence::Lost { facilities: ["west".into()].into(), ..Default::default() };
    let gone = Plan { intent: Intent { lost, ..Intent::default() }, ..drain.clone() };
    let west: Vec<TargetId> = world
        .topology
        .targets()
        .filter(|target| target.facility.as_str() == "west")
        .map(|target| target.id.clone())
        .collect();
    west.iter().for_each(|id| world.silence(id));
    for name in ["east-pg1", "east-pg2", "east-pg3"] {
        let id =
            world.topology.databases.values().find_map(|it| Some(it.members.get(name)?.target.id.clone())).unwrap();
        let facts = world.member(&id);
        facts.replicas.clear();
        facts.synchronous_names.clear();
    }
    let held = [HoldKind::Lost { what: LostThing::Facility("west".into()), owed: west.into_iter().collect() }];
    let way = skeleton::way_back(&world.topology, &gone, &held, &world.live, now()).unwrap();
    assert_eq!(way.against, [""; 0]);
    assert!(way.first.iter().any(|line| line.contains("`policy.settle`")), "{:?}", way.first);
    insta::assert_snapshot!(way.to_yaml().unwrap());
    // What takes nothing out of service needs none.
    let other = Plan { intent: Intent::default(), ..drain };
    assert_eq!(skeleton::way_back(&world.topology, &other, &[], &world.live, now()), None);
}
