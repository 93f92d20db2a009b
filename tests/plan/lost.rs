//! What others say of a facility or a target that does not answer us, from observed facts to words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use handover::model::*;
use handover::plan::lost::{
    self,
    evidence::{Attestation, Before, Lost, Verdict, gather, judge},
};

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
    let all = world.topology.targets().chain(world.topology.vantages.values());
    let gone: Vec<TargetId> = all.filter(|target| lost.contains(target)).map(|target| target.id.clone()).collect();
    assert!(!gone.is_empty());
    gone.iter().for_each(|id| world.silence(id));
}

/// What each proxy of `facility` finds of the servers that stand in `of`.
fn checks(world: &mut World, facility: &str, of: &str, found: Operational) {
    let proxies = world.topology.proxies.values().map(|proxy| &proxy.target);
    let here = proxies.filter(|target| target.facility.as_str() == facility);
    let ids: Vec<TargetId> = here.map(|target| target.id.clone()).collect();
    ids.iter().for_each(|id| finds(world, id, of, found, None));
}

/// What one proxy finds of the servers whose names begin so, and for how long it has found them down.
fn finds(world: &mut World, proxy: &TargetId, of: &str, found: Operational, down_for: Option<u64>) {
    let Facts::Proxy(facts) = world.facts(proxy) else { panic!("{proxy}") };
    for backend in facts.backends.values_mut().flatten() {
        for (_, server) in backend.servers.iter_mut().filter(|(name, _)| name.as_str().starts_with(of)) {
            server.operational = found;
            server.down_for = down_for.map(Duration::from_secs);
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
fn what_the_proxies_have_watched_counts_at_the_first_look_and_ends_with_what_any_of_them_saw() {
    let mut world = World::healthy(EXAMPLE);
    silence(&mut world, &west());
    cut_receivers(&mut world);
    let (one, other) = (TargetId::proxy("east-lb1"), TargetId::proxy("east-lb2"));
    let down = |world: &mut World, proxy: &TargetId, of: &str, time: Option<u64>| {
        finds(world, proxy, of, Operational::Down, time);
    };
    let word = |world: &World, before: &Before, expected: &str| {
        let (verdict, lines) = told(world, &west(), before);
        assert_eq!(verdict.word(), expected, "{lines}");
        lines
    };
    let nothing = Before::default();
    down(&mut world, &one, "west", Some(20));
    down(&mut world, &other, "west", Some(30));
    let lines = word(&world, &nothing, "dead");
    assert!(lines.contains("east-lb1 in east finds none of its 6 servers up, for 20s"), "{lines}");
    assert!(lines.contains("silent for 20s"), "{lines}");
    // Somebody else knows nothing of it: what one has watched is enough.
    down(&mut world, &other, "west", None);
    word(&world, &nothing, "dead");
    // One of them saw it later, whatever we found.
    down(&mut world, &other, "west", Some(4));
    let long = silent_for(&world, &west(), Duration::from_secs(60));
    assert!(word(&world, &long, "undecided").contains("known to be silent for 4s"));
    // One server was seen later than the others.
    down(&mut world, &other, "west", Some(30));
    word(&world, &nothing, "dead");
    down(&mut world, &other, "west-app2", Some(4));
    word(&world, &nothing, "undecided");
    // A check of one server has just passed.
    down(&mut world, &other, "west", Some(30));
    finds(&mut world, &other, "west-app2", Operational::Starting, None);
    assert!(word(&world, &long, "undecided").contains("known to be silent for 0"));
    // We have heard of it ourselves since.
    down(&mut world, &other, "west", Some(30));
    let answered = BTreeMap::from([(TargetId::proxy("west-lb1"), Duration::from_secs(5))]);
    word(&world, &Before { answered, ..nothing.clone() }, "undecided");
    // Who is cut off itself has seen its own end, not that of the west.
    word(&world, &nothing, "dead");
    finds(&mut world, &other, "east", Operational::Down, Some(3));
    down(&mut world, &other, "west", Some(3));
    word(&world, &nothing, "dead");

    // Beside us nobody is a witness, but what is seen there ends the silence too.
    let mut world = World::healthy(&EXAMPLE.replace("runs_in: haven", "runs_in: east"));
    silence(&mut world, &west());
    cut_receivers(&mut world);
    looks(&mut world, &west(), &["10.10."]);
    for proxy in [&one, &other] {
        down(&mut world, proxy, "west", Some(20));
    }
    word(&world, &nothing, "undecided");
    word(&world, &long, "dead");
    down(&mut world, &one, "west", Some(4));
    word(&world, &long, "undecided");
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

/// What the vantages reach of what they are asked: everything but the addresses that begin with one of these. Those in what is lost are
/// silent.
fn looks(world: &mut World, lost: &Lost, not: &[&str]) {
    for (id, (target, scope)) in lost::vantages(&world.topology, lost) {
        if lost.contains(&target) {
            world.silence(&id);
            continue;
        }
        let Scope::Reach(asked) = scope else { panic!("{scope:?}") };
        let reached = asked.into_iter().map(|address| {
            let is = !not.iter().any(|prefix| address.starts_with(prefix));
            (address, is)
        });
        let facts = Facts::Vantage(VantageFacts { reached: reached.collect() });
        world.live.insert(id, Observed::Known { value: facts, took: Duration::ZERO });
    }
}

#[test]
fn a_vantage_is_a_witness_if_it_stands_in_another_place_and_sees_anything_at_all() {
    // The operator is in the east, so the vantage in haven stands elsewhere, and nothing else does.
    let mut world = World::healthy(&EXAMPLE.replace("runs_in: haven", "runs_in: east"));
    silence(&mut world, &west());
    checks(&mut world, "east", "west", Operational::Down);
    cut_receivers(&mut world);
    let long = silent_for(&world, &west(), Duration::from_secs(20));
    let verdict = |world: &World| told(world, &west(), &long);

    world.silence(&TargetId::vantage("toronto"));
    let (undecided, lines) = verdict(&world);
    assert_eq!(undecided.word(), "undecided", "{lines}");
    assert!(lines.contains("a word of toronto"), "{lines}");

    looks(&mut world, &west(), &[]);
    let (partitioned, lines) = verdict(&world);
    assert_eq!(partitioned.word(), "partitioned", "{lines}");
    assert!(lines.contains("toronto in haven reaches west-app1, west-app2, west-lb1, west-lb2 and 6 more"), "{lines}");

    looks(&mut world, &west(), &["10.10."]);
    let (dead, lines) = verdict(&world);
    assert_eq!(dead.word(), "dead", "{lines}");
    assert!(lines.contains("toronto in haven reaches none of its "), "{lines}");

    looks(&mut world, &west(), &["10."]);
    let (undecided, lines) = verdict(&world);
    assert_eq!(undecided.word(), "undecided", "{lines}");
    assert!(lines.contains("it may be cut off itself"), "{lines}");

    // A vantage that answers out of what is lost shows that it is not.
    let haven = Lost { facilities: BTreeSet::from(["haven".into()]), targets: BTreeSet::new() };
    assert_eq!(told(&world, &haven, &Before::default()).0.word(), "answers");
}

#[test]
fn a_vantage_in_the_facility_that_is_left_is_a_witness_by_itself() {
    // Of the west nothing but its name servers is asked for by anybody else: proxies and replicas say nothing.
    let mut world = World::healthy(EXAMPLE);
    silence(&mut world, &west());
    checks(&mut world, "east", "west", Operational::Unchecked);
    cut_receivers(&mut world);
    looks(&mut world, &west(), &["10.10."]);
    let long = silent_for(&world, &west(), Duration::from_secs(20));
    let (dead, lines) = told(&world, &west(), &long);
    assert_eq!(dead.word(), "dead", "{lines}");
    // The one beside us has looked as well, and is none.
    assert!(lines.contains("ashburn in east reaches none of its ") && !lines.contains("toronto"), "{lines}");
    world.silence(&TargetId::vantage("ashburn"));
    let (undecided, lines) = told(&world, &west(), &long);
    assert_eq!(undecided.word(), "undecided", "{lines}");
    assert!(lines.contains("a word of ashburn"), "{lines}");
    // One in the facility that is said to be lost, and answers.
    let boise = Facts::Vantage(VantageFacts::default());
    world.live.insert(TargetId::vantage("boise"), Observed::Known { value: boise, took: Duration::ZERO });
    assert_eq!(told(&world, &west(), &long).0.word(), "answers");
}

#[test]
fn what_only_we_do_not_reach_is_our_own_path() {
    let text = EXAMPLE.replace("runs_in: haven", "runs_in: west");
    let east = Lost { facilities: BTreeSet::from(["east".into()]), targets: BTreeSet::new() };
    // One target of the rest stands elsewhere, in haven; only what stands in the west, beside us, answers.
    let world_text = text.replace(
        "      east-app2: {facility: east, address: \"10.20.0.92:8082\", capacity: 500 rps}\n",
        "      east-app2: {facility: east, address: \"10.20.0.92:8082\", capacity: 500 rps}\n      haven-app1: {facility: haven, address: \"10.30.0.92:8082\", capacity: 500 rps}\n",
    );
    assert_ne!(world_text, text);
    let mut world = World::healthy(&world_text);
    silence(&mut world, &east);
    world.silence(&TargetId::server(&"website".into(), "haven-app1"));
    let long = silent_for(&world, &east, Duration::from_secs(20));
    looks(&mut world, &east, &[]);
    let (verdict, lines) = told(&world, &east, &long);
    assert_eq!(verdict.word(), "own path broken", "{lines}");
    assert!(lines.contains("toronto in haven reaches haven-app1"), "{lines}");
}

#[test]
fn a_receiver_that_heard_something_since_we_do_not_sees_it() {
    let mut world = World::healthy(EXAMPLE);
    silence(&mut world, &west());
    checks(&mut world, "east", "west", Operational::Down);
    let from = world.address_of(&TargetId::member(&"accounts".into(), "west-pg1")).unwrap();
    let hears = |world: &mut World, age: u64| {
        cut_receivers(world);
        let (last_message, told_age) = (Duration::from_secs(age), Duration::from_secs(age));
        let receiver = ReceiverFacts { from: from.clone(), last_message, told: Position::Lsn(100), told_age };
        world.change_member("accounts", "east-pg1", |facts| facts.receiver = Some(receiver));
    };
    let long = silent_for(&world, &west(), Duration::from_secs(20));
    hears(&mut world, 0);
    assert_eq!(told(&world, &west(), &Before::default()).0.word(), "partitioned");
    hears(&mut world, 18);
    assert_eq!(told(&world, &west(), &long).0.word(), "partitioned", "since we lost sight of it");
    // A connection on which nothing comes any more proves nothing, and does not stand against the others.
    hears(&mut world, 25);
    assert_eq!(told(&world, &west(), &long).0.word(), "dead");
    // What was heard ends the silence, whoever heard it.
    hears(&mut world, 12);
    let (verdict, lines) = told(&world, &west(), &silent_for(&world, &west(), Duration::from_secs(11)));
    assert_eq!(verdict.word(), "undecided", "{lines}");
}

#[test]
fn few_addresses_of_each_facility_are_tried_and_always_those_that_are_named() {
    let servers: String = (0..200)
        .map(|n| format!("      west-app{n}x: {{facility: west, address: \"10.10.1.{n}:8080\", capacity: 800 rps}}\n"))
        .collect();
    let first = "      west-app1: {facility: west, address: \"10.10.0.91:8080\", capacity: 800 rps}\n";
    let text = EXAMPLE.replacen(first, &format!("{first}{servers}"), 1);
    let world = World::healthy(&text);
    let asked = |lost: &Lost| -> BTreeSet<String> {
        let (_, (_, scope)) = lost::vantages(&world.topology, lost).pop_first().unwrap();
        let Scope::Reach(asked) = scope else { panic!("{scope:?}") };
        asked
    };
    let all = asked(&west());
    assert!(all.len() <= 2 * 16 + 4, "{}", all.len());
    for address in ["10.10.0.100:5432", "10.20.0.100:5434", "10.10.0.53:53", "10.10.0.80:80"] {
        assert!(all.contains(address), "{address}");
    }
    assert!(!all.contains("10.10.1.77:8080"));
    let named = only(&TargetId::server(&"orderform".into(), "west-app77x"));
    assert!(asked(&named).contains("10.10.1.77:8080"));
}
