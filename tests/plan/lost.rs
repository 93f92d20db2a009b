//! What others say of a facility or a target that does not answer us, from observed facts to words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use handover::model::*;
use handover::plan::lost::evidence::{Attestation, Before, Lost, Verdict, gather, judge};

use crate::EXAMPLE;
use crate::world::World;

fn west() -> Lost {
    Lost { facilities: BTreeSet::from(["west".into()]), targets: BTreeSet::new() }
}

fn only(id: &TargetId) -> Lost {
    Lost { facilities: BTreeSet::new(), targets: BTreeSet::from([id.clone()]) }
}

/// Everything of it is silent, for us.
fn silence(world: &mut World, lost: &Lost) {
    let gone: Vec<TargetId> =
        world.topology.targets().filter(|target| lost.contains(target)).map(|target| target.id.clone()).collect();
    assert!(!gone.is_empty());
    gone.iter().for_each(|id| world.silence(id));
}

/// What each proxy of `facility` finds of the servers that stand in `of`.
fn checks(world: &mut World, facility: &str, of: &str, found: Operational) {
    let ids: Vec<TargetId> = world
        .topology
        .proxies
        .values()
        .map(|proxy| &proxy.target)
        .filter(|target| target.facility.as_str() == facility)
        .map(|target| target.id.clone())
        .collect();
    for id in ids {
        let Facts::Proxy(facts) = world.facts(&id) else { panic!("{id}") };
        for backend in facts.backends.values_mut().flatten() {
            for (name, server) in &mut backend.servers {
                if name.as_str().starts_with(of) {
                    server.operational = found;
                }
            }
        }
    }
}

/// The replicas in the east have lost their connections.
fn cut_receivers(world: &mut World) {
    for (database, name) in [("accounts", "east-pg1"), ("products", "east-pg2")] {
        world.change_member(database, name, |facts| facts.receives_from = None);
    }
}

/// Observed before: everything of it was silent for so long.
fn silent_for(world: &World, lost: &Lost, time: Duration) -> Before {
    let gone = world.topology.targets().filter(|target| lost.contains(target));
    Before { silent: gone.map(|target| (target.id.clone(), time)).collect(), ..Before::default() }
}

fn told(world: &World, lost: &Lost, before: &Before) -> (Verdict, String) {
    let verdict = judge(&gather(&world.topology, lost, &world.live, before, None));
    let lines = verdict.lines().join("\n  ");
    (verdict, lines)
}

#[test]
fn what_others_say_of_a_facility_decides() {
    let mut world = World::healthy(EXAMPLE);
    let mut all = Vec::new();
    let mut tell = |world: &World, before: &Before, expected: &str| {
        let (verdict, lines) = told(world, &west(), before);
        assert_eq!(verdict.word(), expected, "{lines}");
        all.push(lines);
    };
    let nothing = Before::default();
    tell(&world, &nothing, "answers");
    silence(&mut world, &west());
    let long = silent_for(&world, &west(), Duration::from_secs(20));
    // Proxies and replicas of the east go on seeing it: it is the way from here that has gone.
    tell(&world, &long, "partitioned");
    checks(&mut world, "east", "west", Operational::Down);
    tell(&world, &long, "partitioned");
    cut_receivers(&mut world);
    tell(&world, &silent_for(&world, &west(), Duration::from_secs(4)), "undecided");
    tell(&world, &long, "dead");
    // A proxy that checks nothing there says nothing.
    checks(&mut world, "east", "west", Operational::Unchecked);
    tell(&world, &long, "undecided");
    let received = |world: &World| {
        let address = |name: &str| world.address_of(&TargetId::member(&"accounts".into(), name)).unwrap();
        BTreeMap::from([(TargetId::member(&"accounts".into(), "east-pg1"), address("west-pg1"))])
    };
    // A replica that did receive and cannot connect any more is a witness.
    tell(&world, &Before { received_from: received(&world), ..long.clone() }, "dead");
    // One whose own checks all fail may be cut off itself.
    checks(&mut world, "east", "", Operational::Down);
    tell(&world, &long, "undecided");
    let east = Lost { facilities: BTreeSet::from(["east".into()]), targets: BTreeSet::new() };
    silence(&mut world, &east);
    tell(&world, &long, "own path broken");
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn an_attestation_stands_for_a_witness_and_overrides_nobody() {
    let mut world = World::healthy(EXAMPLE);
    silence(&mut world, &west());
    checks(&mut world, "east", "west", Operational::Unchecked);
    let attested = Some(Attestation { by: "ann".to_owned(), reason: "stands before the dark building".to_owned() });
    let long = silent_for(&world, &west(), Duration::from_secs(20));
    let verdict = |world: &World, before: &Before| {
        judge(&gather(&world.topology, &west(), &world.live, before, attested.clone()))
    };
    assert_eq!(verdict(&world, &long).word(), "partitioned", "replicas still receive");
    cut_receivers(&mut world);
    assert_eq!(verdict(&world, &Before::default()).word(), "undecided", "not yet for long enough");
    let dead = verdict(&world, &long);
    let Verdict::Dead { attested: Some(by), witnesses, .. } = &dead else { panic!("{dead:?}") };
    assert_eq!((by.by.as_str(), witnesses.len()), ("ann", 0));
    assert!(dead.lines().iter().any(|line| line.contains("trust, not proof")), "{dead:?}");
}

#[test]
fn a_single_target_is_judged_by_the_same_function() {
    let mut world = World::healthy(EXAMPLE);
    let app = TargetId::server(&"orderform".into(), "west-app1");
    world.silence(&app);
    let long = silent_for(&world, &only(&app), Duration::from_secs(20));
    assert_eq!(told(&world, &only(&app), &long).0.word(), "partitioned", "proxies find it up");
    checks(&mut world, "east", "west-app1", Operational::Down);
    checks(&mut world, "west", "west-app1", Operational::Down);
    assert_eq!(told(&world, &only(&app), &long).0.word(), "dead");

    // A database server that has died: its own machine says so.
    let member = TargetId::member(&"accounts".into(), "west-pg1");
    world.change_member("accounts", "west-pg1", |facts| facts.role = Role::Stopped);
    world.change_member("accounts", "east-pg1", |facts| facts.receives_from = None);
    let long = silent_for(&world, &only(&member), Duration::from_secs(20));
    let (verdict, lines) = told(&world, &only(&member), &long);
    assert_eq!(verdict.word(), "dead", "{lines}");
    assert!(lines.contains("the machine of west-pg1 answers and says that it does not run"), "{lines}");
    // Its facility is not dead while the machine answers.
    assert_eq!(told(&world, &west(), &long).0.word(), "answers");

    // A name server: nobody else has looked.
    let server = TargetId::name_server(&"clickbank.example".into(), "west-ns1");
    world.silence(&server);
    let long = silent_for(&world, &only(&server), Duration::from_secs(20));
    let (verdict, lines) = told(&world, &only(&server), &long);
    assert_eq!(verdict.word(), "undecided", "{lines}");
    assert!(lines.contains("vantages"), "{lines}");
}
