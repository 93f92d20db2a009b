//! Two sides of what should be one: what counts as that, what is asked, and what follows from the answer.

use handover::model::*;
use handover::plan::split::{Own, Related, Split, SplitKind, find, grown, own, related};
use handover::plan::{HoldKind, Intent, Plan, Planned, Refusal, Work, make};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::world::World;
use crate::{EXAMPLE, carry_out, intent, nothing_to_do, plan};

const TOPOLOGY: &str = "{topology: 1, name: data, facilities: {west: {}, east: {}}, hosts: {here: {transport: local}}, databases: {\
    accounts: {provider: postgresql, primary: a, replication: {mode: asynchronous}, poolers: [pool], \
    route: {pooler_database: accounts}, members: {\
    a: {facility: west, address: \"10.10.0.100:5432\", host: here}, \
    b: {facility: east, address: \"10.20.0.100:5432\", host: here}, \
    c: {facility: east, address: \"10.20.0.101:5432\", host: here}}}}, \
    poolers: {pool: {facility: west, provider: pgbouncer, address: \"10.10.0.110:6432\", host: here}}}";

fn now() -> Timestamp {
    "2026-11-23T06:15:00Z".parse().unwrap()
}

fn member(name: &str) -> TargetId {
    TargetId::member(&"accounts".into(), name)
}

/// Somebody has promoted `b` at 100, while `a` is primary, `c` receives from `a` and clients are led there.
fn stray() -> World {
    let mut world = World::healthy(TOPOLOGY);
    world.change_member("accounts", "b", |facts| {
        facts.role = Role::Primary;
        facts.lineage.timeline = 2;
        facts.history = vec![(1, Position::Lsn(100))];
        facts.position = Position::Lsn(150);
        facts.receives_from = None;
    });
    world.change_member("accounts", "a", |facts| {
        facts.position = Position::Lsn(300);
        facts.replicas.retain(|replica| replica.name != "b");
    });
    world.change_member("accounts", "c", |facts| facts.position = Position::Lsn(300));
    world
}

fn survivor(name: &str) -> Intent {
    Intent { survivor: [("accounts".into(), name.to_owned())].into(), ..Intent::default() }
}

fn refused(world: &World, intent: &Intent) -> Vec<Refusal> {
    match make(&world.topology, intent, &[], &world.live, now()) {
        Planned::Refused(refusals) => refusals,
        other => panic!("{other:?}"),
    }
}

fn kinds(world: &World) -> Vec<SplitKind> {
    find(&world.topology, &world.live).into_iter().map(|split| split.kind).collect()
}

fn only(world: &World) -> Split {
    let [split] = <[Split; 1]>::try_from(find(&world.topology, &world.live)).unwrap_or_else(|all| panic!("{all:#?}"));
    split
}

#[test]
fn both_sides_are_told_with_what_each_has_and_nobody_is_chosen() {
    let mut world = stray();
    let split = only(&world);
    assert_eq!((split.kind, split.of.as_str()), (SplitKind::Primaries, "accounts"));
    assert_eq!(split.what, "accounts has 2 primaries: a and b");
    world.change_member("accounts", "a", |facts| {
        let (application, user) = ("shell".to_owned(), "ann".to_owned());
        facts.clients = vec![ClientFacts { application, user, address: None, count: 3, ports: Vec::new() }];
    });
    let told: Vec<String> =
        refused(&world, &Intent::default()).iter().map(|it| format!("{}\n  → {}", it.what, it.advice)).collect();
    insta::assert_snapshot!(told.join("\n"));
    // Planned work is refused alike.
    assert!(refused(&world, &intent(&["west"], &[], false)).iter().any(|it| it.what.contains("is split")));
}

#[test]
fn the_others_are_fenced_first_then_everybody_comes_to_the_survivor() {
    for (keeps, goes) in [("a", "b"), ("b", "a")] {
        let mut world = stray();
        let plan = plan(&world, &survivor(keeps), &[]);
        let ids: Vec<&str> = plan
            .steps
            .iter()
            .filter(|step| matches!(step.work, Work::Act { .. }))
            .map(|step| step.id.0.as_str())
            .collect();
        let fence = format!("db.accounts.quarantine.{goes}");
        let first: Vec<&str> =
            plan.steps.iter().filter(|step| step.needs.is_empty()).map(|step| step.id.0.as_str()).collect();
        assert_eq!(first, [fence.as_str()], "everything else waits for it: {ids:#?}");
        assert!(ids.contains(&format!("db.accounts.rebuild.{goes}").as_str()), "{ids:#?}");
        // Whoever receives from the side that goes has what that has.
        assert_eq!(ids.contains(&"db.accounts.rebuild.c"), keeps == "b", "{ids:#?}");
        assert_eq!(ids.contains(&"route.load.accounts.pool"), keeps == "b", "{ids:#?}");
        assert!(plan.is_urgent(), "no window is waited for");
        let discards: Vec<(&str, Option<u64>)> =
            plan.splits[0].discards.iter().map(|it| (it.member.name(), it.bytes)).collect();
        assert_eq!(discards, [(goes, Some(if goes == "a" { 200 } else { 50 }))]);
        // It reads back, and the topology's own place needs no hold.
        assert_eq!(Plan::from_yaml(&plan.to_yaml().unwrap()).unwrap(), plan);
        assert_eq!(plan.holds.is_empty(), keeps == "a", "{:?}", plan.holds);
        world.settle(&plan);
        assert_eq!(world.writable(&"accounts".into()), [member(keeps)]);
        assert_eq!(kinds(&world), []);
        nothing_to_do(&world, &plan.holds);
    }
}

#[test]
fn a_choice_that_cannot_be_followed_is_refused() {
    let says = |world: &World, name: &str, expected: &str| {
        let told = refused(world, &survivor(name));
        assert!(told.iter().any(|it| it.what.contains(expected)), "{told:#?}");
    };
    says(&stray(), "c", "c cannot survive in accounts: it takes no writes");
    says(&World::healthy(TOPOLOGY), "a", "accounts is not split: a is its only primary");
    let change = |change: fn(&mut MemberFacts)| {
        let mut world = stray();
        world.change_member("accounts", "b", change);
        world
    };
    let same = change(|b| (b.lineage.timeline, b.history) = (1, Vec::new()));
    says(&same, "a", "b and a both write on timeline 1");
    says(&change(|b| b.lineage.system = "other".to_owned()), "a", "are not of one cluster");
    let far = change(|b| b.capabilities.no_control = Some("b has no `host`".to_owned()));
    says(&far, "a", "b cannot be fenced from here: b has no `host`");
    // The one that can be fenced may go.
    assert_eq!(plan(&far, &survivor("b"), &[]).splits.len(), 1);
}

#[test]
fn what_is_given_up_is_counted_and_more_than_was_accepted_is_refused() {
    let mut world = stray();
    let mut wish = survivor("a");
    wish.accept_loss.insert("accounts".into(), 50);
    let plan = plan(&world, &wish, &[]);
    let [repair] = plan.splits.as_slice() else { panic!("{:?}", plan.splits) };
    assert_eq!((repair.bytes(), repair.exceeds(50), repair.exceeds(49).is_some()), (Some(50), None, true));
    insta::assert_snapshot!(repair, @"50 bytes of log that b has after 0/64 and a has not are given up, with all that it writes until it is fenced; it is kept beside its data directory and listed before anything is discarded");
    assert_eq!(grown(&plan, &world.topology, &world.live), None);
    world.change_member("accounts", "b", |facts| facts.position = Position::Lsn(151));
    let why = grown(&plan, &world.topology, &world.live).unwrap();
    assert!(why.starts_with("accounts: 51 bytes would be lost, and 50 are accepted"), "{why}");
    // Nobody may read where the timeline began: then no number covers it.
    world.change_member("accounts", "b", |facts| facts.history.clear());
    let plan = crate::plan(&world, &survivor("a"), &[]);
    assert_eq!((plan.splits[0].bytes(), plan.splits[0].exceeds(u64::MAX - 1).is_some()), (None, true));
    assert_eq!(plan.splits[0].exceeds(u64::MAX), None);
}

#[test]
fn nothing_else_is_done_with_it_and_nothing_that_is_wrong_elsewhere_is_in_its_way() {
    let mut world = World::healthy(EXAMPLE);
    world.change_member("accounts", "east-pg1", |facts| {
        facts.role = Role::Primary;
        (facts.lineage.timeline, facts.history) = (2, vec![(1, Position::Lsn(100))]);
        facts.receives_from = None;
    });
    world.silence(&TargetId::proxy("east-lb1"));
    world.forget_address(&RecordKey { name: "www.clickbank.example".to_owned(), rtype: RecordType::A }, "10.20.0.81");
    let wish = Intent { survivor: [("accounts".into(), "east-pg1".to_owned())].into(), ..Intent::default() };
    let plan = plan(&world, &wish, &[]);
    for step in &plan.steps {
        let Work::Act { target, .. } = &step.work else { continue };
        assert!(["member/accounts/", "pooler/"].iter().any(|kind| target.as_str().starts_with(kind)), "{}", step.id);
        assert!(step.id.0.contains("accounts"), "{}", step.id);
    }
    assert!(
        plan.notes.iter().any(|note| note.contains("left as it is: no answer from proxy/east-lb1")),
        "{:?}",
        plan.notes
    );
    assert!(plan.notes.iter().any(|note| note.contains("for the next `handover plan`")), "{:?}", plan.notes);
    let placed = HoldKind::Placed { database: "accounts".into(), at: PrimaryPlace::Member("east-pg1".to_owned()) };
    assert_eq!((&plan.holds, &plan.releases), (&vec![placed], &Vec::new()));
    world.settle(&plan);
    assert_eq!(world.writable(&"accounts".into()), [member("east-pg1")]);
}

#[test]
fn a_member_that_stands_aside_on_a_later_timeline_is_asked_about_and_then_rebuilt() {
    let mut world = stray();
    world.change_member("accounts", "b", |facts| facts.role = Role::Stopped);
    let split = only(&world);
    assert_eq!(split.kind, SplitKind::Timeline);
    assert!(split.what.contains("b (stopped, timeline 2) has at least 50 bytes of log after 0/64"), "{}", split.what);
    let told = refused(&world, &Intent::default());
    assert!(told[0].what.contains("a takes writes, and b went on from a later timeline"), "{told:#?}");
    let plan = plan(&world, &survivor("a"), &[]);
    assert!(plan.steps.iter().all(|step| !step.id.0.contains("quarantine")), "nobody else takes writes");
    carry_out(&mut world, &plan, |_| 0);
    assert_eq!(kinds(&world), []);
    nothing_to_do(&world, &plan.holds);
}

#[test]
fn a_route_splits_where_it_leads_to_somebody_who_may_take_writes() {
    let mut world = World::healthy(TOPOLOGY);
    let lead = |world: &mut World, to: &str| {
        let Facts::Pooler(facts) = world.facts(&TargetId::pooler("pool")) else { panic!() };
        facts.databases.values_mut().flatten().for_each(|pool| pool.route = to.to_owned());
    };
    // It refuses them: its clients fail, and nothing is written twice.
    lead(&mut world, "10.20.0.100:5432");
    assert_eq!(kinds(&world), []);
    lead(&mut world, "10.99.0.1:5432");
    let split = only(&world);
    assert_eq!(split.kind, SplitKind::Route);
    assert!(split.what.contains("pool leads clients of accounts to 10.99.0.1:5432, where no member"), "{}", split.what);
    lead(&mut world, "10.20.0.100:5432");
    world.silence(&member("b"));
    assert!(only(&world).what.contains("to b, which does not answer and may take writes; the primary is a"));
}

#[test]
fn name_servers_split_where_no_transfer_explains_what_they_publish() {
    let zone = "clickbank.example".into();
    let server = |name: &str| TargetId::name_server(&zone, name);
    let key = RecordKey { name: "www.clickbank.example".to_owned(), rtype: RecordType::A };
    let other = |ttl| Some(RecordSet { ttl, data: ["10.20.0.80".parse().unwrap()].into() });
    let mut world = World::healthy(EXAMPLE);
    let ttl = {
        let Facts::NameServer(facts) = world.facts(&server("west-ns2")) else { panic!() };
        facts.serial = facts.serial.wrapping_sub(1);
        facts.sets[&key].as_ref().unwrap().ttl
    };
    world.publish(&server("west-ns2"), &key, other(ttl));
    assert_eq!(kinds(&world), [], "a transfer is under way");
    let Facts::NameServer(facts) = world.facts(&server("west-ns2")) else { panic!() };
    facts.serial = facts.serial.wrapping_add(1);
    let split = only(&world);
    assert_eq!((split.kind, split.of.as_str(), split.targets.len()), (SplitKind::Records, "clickbank.example", 2));
    assert!(split.what.contains("both in serial"), "{}", split.what);

    let mut world = World::healthy(EXAMPLE);
    world.publish(&server("west-ns1"), &key, other(ttl));
    world.publish(&server("west-ns2"), &key, other(ttl));
    let split = only(&world);
    assert!(split.what.contains("at east-ns1 and 10.20.0.80 (TTL"), "{}", split.what);
    // The same addresses for another time send nobody elsewhere.
    let mut world = World::healthy(EXAMPLE);
    let Facts::NameServer(facts) = world.facts(&server("east-ns1")) else { panic!() };
    let set = facts.sets[&key].clone().map(|set| RecordSet { ttl: set.ttl + 1, ..set });
    for name in ["east-ns1", "east-ns2"] {
        world.publish(&server(name), &key, set.clone());
    }
    assert_eq!(kinds(&world), []);
}

#[test]
fn epochs_split_where_one_number_says_two_things() {
    let mut world = World::healthy(EXAMPLE);
    let epoch = |number, lost: &[&str]| Epoch {
        number,
        lost: lost.iter().copied().map(FacilityName::new).collect(),
        lost_targets: Default::default(),
        databases: Default::default(),
    };
    let mut say = |name: &str, epoch: Epoch| {
        let id = TargetId::name_server(&"clickbank.example".into(), name);
        let Facts::NameServer(facts) = world.facts(&id) else { panic!() };
        facts.epoch = Some(epoch);
        kinds(&world)
    };
    assert_eq!(say("west-ns1", epoch(4, &[])), []);
    assert_eq!(say("east-ns1", epoch(5, &["west"])), [], "one is older");
    assert_eq!(say("west-ns1", epoch(5, &["east"])), [SplitKind::Epoch]);
}

#[test]
fn histories_part_where_their_timelines_do() {
    let world = World::healthy(TOPOLOGY);
    let history = |timeline, history: &[(u32, u64)], position| {
        let mut facts = world.seen("accounts", "b").clone();
        facts.lineage.timeline = timeline;
        facts.history = history.iter().map(|(timeline, end)| (*timeline, Position::Lsn(*end))).collect();
        facts.position = Position::Lsn(position);
        facts
    };
    let until = |end| Related::Until(Position::Lsn(end));
    let from = |fork, bytes| Own::From { fork: Position::Lsn(fork), bytes };
    let primary = history(3, &[(1, 100), (2, 500)], 900);
    for (other, expected, own_of_other) in [
        (history(3, &[(1, 100), (2, 500)], 800), Related::Same, Own::Nothing),
        (history(2, &[(1, 100)], 400), until(500), Own::Nothing),
        (history(2, &[(1, 100)], 700), until(500), from(500, 200)),
        // Promoted apart from each other, with the same number.
        (history(3, &[(1, 100), (2, 450)], 460), until(450), from(450, 10)),
        (history(2, &[(1, 90)], 95), until(90), from(90, 5)),
        (history(4, &[(1, 100), (2, 500), (3, 900)], 900), until(900), from(900, 0)),
        // Its own history is not told, and the number of its timeline is.
        (history(2, &[], 700), until(500), from(500, 200)),
        (history(7, &[], 700), Related::Unknown, Own::Unknown),
    ] {
        assert_eq!(related(&primary, &other), expected, "{:?}", other.history);
        assert_eq!(related(&other, &primary), expected, "from the other side: {:?}", other.history);
        assert_eq!(own(&primary, &other), own_of_other, "{:?}", other.history);
    }
    let mut other = history(3, &[(1, 100), (2, 500)], 800);
    other.lineage.system = "other".to_owned();
    assert_eq!(own(&primary, &other), Own::Everything);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Replicas lag, on the primary's timeline or on one that it came by; secondaries lag; facilities are drained or not: one primary
    /// everywhere, and nothing that would be called a split.
    #[test]
    fn what_is_consistent_is_never_called_split(
        ends in prop::collection::vec(1u64..1_000, 0..4),
        behind in prop::collection::vec((0u64..2_000, any::<bool>()), 3),
        stopped in any::<bool>(),
        serial in any::<u32>(),
        lag in 1u32..9,
        drained in prop::option::of(prop::sample::select(vec!["west", "east"])),
    ) {
        let mut world = World::healthy(EXAMPLE);
        if let Some(facility) = drained {
            let drain = plan(&world, &intent(&[facility], &[], false), &[]);
            carry_out(&mut world, &drain, |_| 0);
            prop_assert_eq!(kinds(&world), []);
        }
        let mut history: Vec<(u32, Position)> = Vec::new();
        let mut end = 0;
        for more in ends {
            end += more;
            history.push((history.len() as u32 + 1, Position::Lsn(end)));
        }
        let timeline = history.len() as u32 + 1;
        let head = end + 500;
        let databases = world.topology.databases.clone();
        for (database, (behind, stands_aside)) in databases.values().zip(behind) {
            for member in database.members.values() {
                let (id, at) = (&member.target.id, head.saturating_sub(behind));
                let facts = world.member(id);
                facts.lineage.timeline = timeline;
                facts.history.clone_from(&history);
                facts.position = Position::Lsn(head);
                if facts.role != Role::Replica {
                    continue;
                }
                facts.position = Position::Lsn(at);
                if stands_aside {
                    // It has stopped somewhere on the primary's way.
                    let passed = history.iter().filter(|(_, end)| *end < Position::Lsn(at)).count();
                    facts.lineage.timeline = passed as u32 + 1;
                    facts.history.truncate(passed);
                    facts.receives_from = None;
                    if stopped {
                        facts.role = Role::Stopped;
                    }
                }
            }
        }
        for (name, secondary) in [("west-ns1", "west-ns2"), ("east-ns1", "east-ns2")] {
            let id = |name: &str| TargetId::name_server(&"clickbank.example".into(), name);
            let Facts::NameServer(facts) = world.facts(&id(name)) else { panic!() };
            facts.serial = serial;
            let Facts::NameServer(facts) = world.facts(&id(secondary)) else { panic!() };
            facts.serial = serial.wrapping_sub(lag);
            facts.sets.values_mut().for_each(|set| *set = None);
        }
        prop_assert_eq!(find(&world.topology, &world.live), []);
    }
}
