//! Raising the epoch: what is published next, where, and how it is taken back.

use std::collections::BTreeSet;

use handover::model::{Charge, Epoch, FacilityName, Facts, Lineage, NameServerFacts, Observed, Unreachable};
use handover::plan::epoch::{Raise, in_charge, newest, next, publish};

use super::*;

fn facts<'a>(world: &'a mut World, name: &str) -> &'a mut NameServerFacts {
    let id = TargetId::name_server(&"clickbank.example".into(), name);
    match world.live.get_mut(&id) {
        Some(Observed::Known { value: Facts::NameServer(facts), .. }) => facts,
        other => panic!("{other:?}"),
    }
}

fn lineage(timeline: u32) -> Lineage {
    Lineage { system: "7".to_owned(), timeline }
}

fn lost_west() -> Raise {
    let lost = [FacilityName::new("west")].into();
    Raise { lost, ..Raise::default() }.promoting(&"accounts".into(), "east-pg1", &lineage(5))
}

#[test]
fn the_first_epoch_says_who_is_primary_and_a_second_plan_has_nothing_to_publish() {
    let mut world = World::healthy(EXAMPLE);
    assert_eq!(next(&world.topology, &world.live, &Raise::default()), None);
    let raise = Raise { in_charge: in_charge(&world.topology, &world.live), ..Raise::default() };
    let first = next(&world.topology, &world.live, &raise).unwrap();
    let members: Vec<&str> = first.databases.values().map(|charge| charge.member.as_str()).collect();
    assert_eq!((first.number, members), (1, vec!["west-pg1", "east-pg3", "west-pg2"]));

    let publishing = publish(&world.topology, &world.live, 0, &first);
    let ids: Vec<&str> = publishing.steps.iter().map(|step| step.id.0.as_str()).collect();
    assert_eq!(ids, ["epoch.clickbank.example.east-ns1", "epoch.clickbank.example.west-ns1"]);
    // What nobody knew before is not taken away again.
    assert!(publishing.steps.iter().all(|step| step.undo == Undo::Nothing));
    for step in &publishing.steps {
        let Work::Act { target, action } = &step.work else { panic!("{step:?}") };
        world.act(target, action);
    }
    assert_eq!(facts(&mut world, "west-ns2").epoch.as_ref(), Some(&first));
    assert_eq!(next(&world.topology, &world.live, &raise), Some(first.clone()));
    assert_eq!(publish(&world.topology, &world.live, 0, &first).steps, []);
}

#[test]
fn a_lost_facility_is_told_to_the_others_and_taking_it_back_raises_the_number() {
    let mut world = World::healthy(EXAMPLE);
    let raise = Raise { in_charge: in_charge(&world.topology, &world.live), ..Raise::default() };
    let first = next(&world.topology, &world.live, &raise).unwrap();
    for name in ["west-ns1", "east-ns1"] {
        facts(&mut world, name).epoch = Some(first.clone());
    }
    let lost = next(&world.topology, &world.live, &lost_west()).unwrap();
    assert_eq!(lost.number, 2);
    assert_eq!(lost.databases["accounts"], Charge { member: "east-pg1".into(), system: "7".into(), timeline: 6 });
    assert_eq!(lost.databases["products"], first.databases["products"]);

    let west = TargetId::name_server(&"clickbank.example".into(), "west-ns1");
    let silent = || Observed::Unreachable(Unreachable::new("no answer", "asking"));
    world.live.insert(west, silent());
    let publishing = publish(&world.topology, &world.live, 0, &lost);
    assert_eq!(publishing.unreached, []);
    let [step] = publishing.steps.as_slice() else { panic!("{publishing:?}") };
    let Undo::Act { action: Action::SetEpoch { epoch, .. }, .. } = &step.undo else { panic!("{step:?}") };
    assert_eq!(**epoch, FromTo { from: Some(lost.clone()), to: Some(Epoch { number: 3, ..first.clone() }) });

    // One that is not lost and does not answer stands in the way of every promotion.
    let east = TargetId::name_server(&"clickbank.example".into(), "east-ns1");
    world.live.insert(east.clone(), silent());
    let unreached = publish(&world.topology, &world.live, 0, &lost).unreached;
    assert_eq!(unreached, [(east.clone(), "no answer (asking)".to_owned())]);
    let with_it = Raise { lost_targets: BTreeSet::from([east]), ..lost_west() };
    let with_it = next(&world.topology, &world.live, &with_it).unwrap();
    assert_eq!(publish(&world.topology, &world.live, 0, &with_it).unreached, []);
}

#[test]
fn a_server_that_is_behind_gets_the_newest_and_two_that_contradict_each_other_get_a_newer_one() {
    let mut world = World::healthy(EXAMPLE);
    let raise = Raise { in_charge: in_charge(&world.topology, &world.live), ..Raise::default() };
    let first = next(&world.topology, &world.live, &raise).unwrap();
    let second = Epoch { number: 2, lost: [FacilityName::new("west")].into(), ..first.clone() };
    facts(&mut world, "west-ns1").epoch = Some(first.clone());
    facts(&mut world, "east-ns1").epoch = Some(second.clone());
    let returned = Raise { returned: [FacilityName::new("west")].into(), ..Raise::default() };
    let third = next(&world.topology, &world.live, &returned).unwrap();
    assert_eq!(third, Epoch { number: 3, ..first.clone() });
    let steps = publish(&world.topology, &world.live, 0, &third).steps;
    let from = |step: &Step| match &step.work {
        Work::Act { action: Action::SetEpoch { epoch, .. }, .. } => epoch.from.clone().map(|epoch| epoch.number),
        other => panic!("{other:?}"),
    };
    assert_eq!(steps.iter().map(from).collect::<Vec<_>>(), [Some(2), Some(1)]);

    facts(&mut world, "west-ns1").epoch = Some(Epoch { number: 2, ..first });
    assert_eq!(newest(&world.topology, &world.live).unwrap().number, 2);
    assert_eq!(next(&world.topology, &world.live, &Raise::default()).unwrap().number, 3);
}
