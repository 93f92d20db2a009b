//! Raising the epoch: what is published next, where, in which order, and how it is taken back.

use std::collections::BTreeSet;

use handover::model::{Charge, Epoch, FacilityName, Facts, NameServerFacts, Observed, PrimaryPlace, Unreachable};
use handover::plan::{LostThing, StepId};

use super::emergency::{LONG, before, dead, known, lost, plan_knowing};
use super::*;

fn server(name: &str) -> TargetId {
    TargetId::name_server(&"clickbank.example".into(), name)
}

fn facts<'a>(world: &'a mut World, name: &str) -> &'a mut NameServerFacts {
    match world.live.get_mut(&server(name)) {
        Some(Observed::Known { value: Facts::NameServer(facts), .. }) => facts,
        other => panic!("{other:?}"),
    }
}

fn published(world: &mut World, name: &str) -> Epoch {
    facts(world, name).epoch.clone().unwrap()
}

fn silence(world: &mut World, name: &str) {
    world.live.insert(server(name), Observed::Unreachable(Unreachable::new("no answer", "asking")));
}

fn first() -> Intent {
    Intent { publish_epoch: true, ..Intent::default() }
}

/// A world that publishes who is in charge.
fn told() -> World {
    let mut world = World::healthy(EXAMPLE);
    let plan = plan(&world, &first(), &[]);
    world.settle(&plan);
    world
}

/// The steps that publish, with what each server published before.
fn told_by(plan: &Plan) -> Vec<(&str, Option<u64>, Epoch)> {
    let told = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Act { target, action: Action::SetEpoch { epoch, .. } } => {
            let from = epoch.from.as_ref().map(|epoch| epoch.number);
            Some((target.name(), from, epoch.to.clone().unwrap()))
        }
        _ => None,
    });
    told.collect()
}

fn set(names: &[&str]) -> BTreeSet<FacilityName> {
    names.iter().copied().map(FacilityName::new).collect()
}

#[test]
fn the_first_epoch_is_published_when_it_is_asked_for_and_a_second_plan_has_nothing_to_publish() {
    let mut world = World::healthy(EXAMPLE);
    nothing_to_do(&world, &[]);
    let plan = plan(&world, &first(), &[]);
    let ids: Vec<&str> = plan.steps.iter().map(|step| step.id.0.as_str()).collect();
    assert_eq!(ids, ["epoch.clickbank.example.east-ns1", "epoch.clickbank.example.west-ns1", "verify"]);
    // What nobody knew before is not taken away again.
    assert!(plan.steps.iter().all(|step| step.undo == Undo::Nothing));
    carry_out(&mut world, &plan, chooser(1));
    let epoch = published(&mut world, "west-ns2");
    let members: Vec<&str> = epoch.databases.values().map(|charge| charge.member.as_str()).collect();
    assert_eq!((epoch.number, members), (1, vec!["west-pg1", "east-pg3", "west-pg2"]));
    nothing_to_do(&world, &[]);
    let now = "2026-11-23T07:00:00Z".parse().unwrap();
    assert!(matches!(make(&world.topology, &first(), &[], &world.live, now), Planned::Nothing(_)));
}

#[test]
fn a_switchover_is_told_of_once_clients_are_led_to_the_new_primary() {
    let mut world = told();
    let primary = [("accounts".into(), Some(PrimaryPlace::Facility("east".into())))].into();
    let plan = plan(&world, &Intent { primary, ..Intent::default() }, &[]);
    let timeline = world.seen("accounts", "west-pg1").lineage.timeline;
    let system = world.seen("accounts", "west-pg1").lineage.system.clone();
    let steps = told_by(&plan);
    assert_eq!(
        steps.iter().map(|(name, from, _)| (*name, *from)).collect::<Vec<_>>(),
        [("east-ns1", Some(1)), ("west-ns1", Some(1))]
    );
    let charge = Charge { member: "east-pg1".to_owned(), system, timeline: timeline + 1 };
    assert_eq!((steps[0].2.number, &steps[0].2.databases["accounts"]), (2, &charge));
    for name in ["east-ns1", "west-ns1"] {
        let id = StepId(format!("epoch.clickbank.example.{name}"));
        let before = before(&plan, &id);
        assert!(before.iter().any(|id| id.0.contains("promote")), "{before:?}");
        assert!(plan.step(&id).unwrap().section.is_none(), "outside the write stall");
    }
    let holds = plan.holds.clone();
    carry_out(&mut world, &plan, chooser(2));
    nothing_to_do(&world, &holds);
    // Without anything published nobody asks, and nothing is written into a zone that nobody wanted there.
    let untold = World::healthy(EXAMPLE);
    let primary = [("accounts".into(), Some(PrimaryPlace::Facility("east".into())))].into();
    assert_eq!(told_by(&super::plan(&untold, &Intent { primary, ..Intent::default() }, &[])), []);
}

#[test]
fn nobody_is_promoted_in_the_place_of_what_is_lost_before_everybody_who_is_asked_knows() {
    for asked in [true, false] {
        let mut world = if asked { told() } else { World::healthy(EXAMPLE) };
        dead(&mut world, "west");
        let plan = plan_knowing(&world, &lost("west"), &known(&world, LONG));
        let steps = told_by(&plan);
        assert_eq!(steps.len(), 1, "{steps:?}");
        let (name, from, epoch) = &steps[0];
        assert_eq!((*name, *from), ("east-ns1", asked.then_some(1)));
        assert_eq!((epoch.number, &epoch.lost), (from.unwrap_or_default() + 1, &set(&["west"])));
        let members: Vec<&str> = epoch.databases.values().map(|charge| charge.member.as_str()).collect();
        assert_eq!(members, ["east-pg1", "east-pg3", "east-pg2"]);
        let step = StepId("epoch.clickbank.example.east-ns1".to_owned());
        for failover in &plan.failovers {
            let promote = StepId(format!("db.{}.promote", failover.database));
            assert_eq!(before(&plan, &promote).contains(&step), asked, "{promote}");
        }
        if asked {
            let Undo::Act { action: Action::SetEpoch { epoch: back, .. }, .. } = &plan.step(&step).unwrap().undo else {
                panic!("it cannot be taken back")
            };
            let (from, to) = (back.from.as_ref().unwrap(), back.to.as_ref().unwrap());
            assert_eq!((from, to.number, &to.lost), (epoch, 3, &set(&[])));
        }
    }
}

#[test]
fn a_name_server_that_cannot_be_told_counts_as_lost_until_it_can() {
    let three = EXAMPLE.replace("transfers_from: east-ns1", "updates: true");
    let mut world = World::healthy(&three);
    let first = plan(&world, &first(), &[]);
    assert_eq!(told_by(&first).len(), 3);
    world.settle(&first);
    dead(&mut world, "west");
    facts(&mut world, "east-ns2").rejects_key = Some(Unreachable::new("NOTAUTH (BADKEY)", "an update of nothing"));
    let plan = plan_knowing(&world, &lost("west"), &known(&world, LONG));
    let steps = told_by(&plan);
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert_eq!((steps[0].0, &steps[0].2.lost_targets), ("east-ns1", &[server("east-ns2")].into()));
    let note = "east-ns2 is not told who is in charge, and counts as lost until it is";
    assert!(plan.notes.iter().any(|line| line.starts_with(note) && line.contains("BADKEY")), "{:#?}", plan.notes);

    facts(&mut world, "east-ns1").epoch = Some(steps[0].2.clone());
    facts(&mut world, "east-ns2").rejects_key = None;
    let again = plan_knowing(&world, &lost("west"), &known(&world, LONG));
    let told: Vec<_> = told_by(&again).into_iter().map(|(name, from, epoch)| (name, from, epoch.number)).collect();
    assert_eq!(
        told,
        [("east-ns1", Some(2), 3), ("east-ns2", Some(1), 3)],
        "a second attempt calls nobody lost who is not"
    );
}

#[test]
fn a_server_that_is_behind_gets_the_newest_and_two_that_contradict_each_other_get_a_newer_one() {
    let mut world = told();
    let first = published(&mut world, "west-ns1");
    let second = first.raised();
    facts(&mut world, "east-ns1").epoch = Some(second.clone());
    let repair = plan(&world, &Intent::default(), &[]);
    assert_eq!(told_by(&repair), [("west-ns1", Some(1), second.clone())]);
    world.settle(&repair);
    nothing_to_do(&world, &[]);

    let other = Epoch { lost: set(&["haven"]), ..second.clone() };
    facts(&mut world, "west-ns1").epoch = Some(other);
    let repair = plan(&world, &Intent::default(), &[]);
    let numbers: Vec<u64> = told_by(&repair).iter().map(|(_, _, epoch)| epoch.number).collect();
    assert_eq!(numbers, [3, 3]);
    world.settle(&repair);
    nothing_to_do(&world, &[]);
}

#[test]
fn a_primary_that_was_moved_by_hand_is_told_of_by_the_next_plan_if_everybody_is_seen() {
    let mut world = told();
    for name in ["west-ns1", "west-ns2", "east-ns1", "east-ns2"] {
        let epoch = facts(&mut world, name).epoch.as_mut().unwrap();
        epoch.databases.get_mut("prices").unwrap().member = "west-pg3".to_owned();
    }
    let repair = plan(&world, &Intent::default(), &[]);
    let members: Vec<String> =
        told_by(&repair).iter().map(|(_, _, epoch)| epoch.databases["prices"].member.clone()).collect();
    assert_eq!(members, ["east-pg3", "east-pg3"]);
    world.settle(&repair);
    nothing_to_do(&world, &[]);
}

#[test]
fn what_answers_again_may_start_and_who_is_in_charge_stays() {
    let mut world = told();
    let east = || Some(PrimaryPlace::Facility("east".into()));
    let primary = [("accounts".into(), east()), ("products".into(), east())].into();
    let moved = plan(&world, &Intent { primary, ..Intent::default() }, &[]);
    world.settle(&moved);
    let mut epoch = published(&mut world, "east-ns1").raised();
    epoch.lost = set(&["west"]);
    for name in ["east-ns1", "east-ns2"] {
        facts(&mut world, name).epoch = Some(epoch.clone());
    }
    // Its name servers are kept down by `handover admit`; its hosts answer.
    for name in ["west-ns1", "west-ns2"] {
        silence(&mut world, name);
    }
    let owed = [server("west-ns1"), server("west-ns2")].into();
    let holds = [HoldKind::Lost { what: LostThing::Facility("west".into()), owed }];
    let plan = plan(&world, &Intent::default(), &holds);
    let steps = told_by(&plan);
    assert_eq!(steps.len(), 1, "{steps:?}");
    let (name, from, told) = &steps[0];
    assert_eq!((*name, *from, &told.lost, told.number), ("east-ns1", Some(3), &set(&[]), 4));
    assert_eq!(told.databases, epoch.databases);
    // What cannot be told yet hears of it later, and confirms nobody until then.
    assert_eq!(told.lost_targets, [server("west-ns1")].into());
}
