//! Members that answer again after they were lost, and others whose history is not their primary's any more.

use handover::model::*;
use handover::plan::lost::returned::{Need, Parted, Rebuild, need, parted};
use handover::plan::{HoldKind, Intent, LostThing, Plan, Planned, Undo, Work, make};

use crate::world::World;
use crate::{carry_out, nothing_to_do, plan};

const TOPOLOGY: &str = "{topology: 1, name: data, facilities: {west: {}, east: {}}, hosts: {here: {transport: local}}, databases: {\
    accounts: {provider: postgresql, primary: b, replication: {mode: asynchronous}, poolers: [pool], \
    route: {pooler_database: accounts}, members: {\
    a: {facility: west, address: \"10.10.0.100:5432\", host: here}, \
    b: {facility: east, address: \"10.20.0.100:5432\", host: here}, \
    c: {facility: east, address: \"10.20.0.101:5432\", host: here}}}}, \
    poolers: {pool: {facility: east, provider: pgbouncer, address: \"10.20.0.110:6432\", host: here}}}";

/// `b` took over at 100, from `a`, which is as `change` makes it.
fn world(change: impl FnOnce(&mut MemberFacts)) -> World {
    let mut world = World::healthy(TOPOLOGY);
    for name in ["b", "c"] {
        world.change_member("accounts", name, |facts| {
            facts.lineage.timeline = 2;
            facts.history = vec![(1, Position::Lsn(100))];
            facts.position = Position::Lsn(400);
            facts.replayed = Position::Lsn(400);
            facts.replicas.retain(|replica| replica.name != "a");
        });
    }
    world.change_member("accounts", "a", |facts| {
        facts.receives_from = None;
        facts.position = Position::Lsn(300);
        change(facts);
    });
    world
}

fn stopped(facts: &mut MemberFacts, role: Role, state: &str) {
    facts.role = role;
    facts.settings.insert("cluster_state".to_owned(), state.to_owned());
}

fn lost() -> [HoldKind; 1] {
    let owed = [TargetId::member(&"accounts".into(), "a")].into();
    [HoldKind::Lost { what: LostThing::Facility("west".into()), owed }]
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().filter(|step| matches!(step.work, Work::Act { .. })).map(|step| step.id.0.as_str()).collect()
}

#[test]
fn an_old_primary_that_comes_back_writing_is_fenced_and_rebuilt_before_anything_else() {
    let mut world = world(|a| a.role = Role::Primary);
    let plan = plan(&world, &Intent::default(), &lost());
    let steps = ids(&plan);
    let at = |id: &str| steps.iter().position(|step| *step == id).unwrap_or_else(|| panic!("{id}: {steps:#?}"));
    assert_eq!(at("db.accounts.quarantine.a"), 0, "before anything else");
    assert!(at("db.accounts.rebuild.a") < at("db.accounts.finish_promotion.b"));
    let waits = plan.steps.iter().filter(|step| step.needs.is_empty()).map(|step| step.id.0.as_str());
    assert_eq!(waits.collect::<Vec<_>>(), ["db.accounts.quarantine.a"], "everything else waits for it");
    let rebuild = plan.steps.iter().find(|step| step.id.0 == "db.accounts.rebuild.a").unwrap();
    assert!(rebuild.title.contains("200 bytes of log after 0/64 that b has not"), "{}", rebuild.title);
    assert!(matches!(&rebuild.undo, Undo::Impossible { why } if why.contains("stays in the directory")));
    world.settle(&plan);
    assert_eq!(world.writable(&"accounts".into()), [TargetId::member(&"accounts".into(), "b")]);
    assert_eq!(world.seen("accounts", "a").lineage.timeline, 2);
    // What was owed is done, and its hold ends with the plan.
    assert_eq!(plan.releases, lost());
    nothing_to_do(&world, &plan.holds);
}

#[test]
fn nobody_is_fenced_by_its_timeline_alone() {
    let world = world(|a| a.role = Role::Primary);
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    let planned = make(&world.topology, &Intent::default(), &[], &world.live, now);
    let Planned::Refused(why) = planned else { panic!("{planned:?}") };
    assert!(why.iter().any(|it| it.what.contains("is split: a and b take writes, each by itself")), "{why:?}");
}

#[test]
fn a_member_that_stands_aside_is_rebuilt_only_where_its_history_asks_for_it() {
    let kinds = |change: fn(&mut MemberFacts)| {
        let mut world = world(change);
        let plan = plan(&world, &Intent::default(), &[]);
        carry_out(&mut world, &plan, |_| 0);
        assert_eq!(world.seen("accounts", "a").role, Role::Replica);
        nothing_to_do(&world, &[]);
        let steps = ids(&plan).into_iter().filter(|id| id.ends_with(".a")).map(|id| id.replace("db.accounts.", ""));
        steps.collect::<Vec<_>>()
    };
    let finish = "finish_demotion.a";
    // The power failed: how much there is beyond the last checkpoint only its log can tell.
    assert_eq!(kinds(|a| stopped(a, Role::Stopped, "in production")), ["rebuild.a", finish]);
    // It ended cleanly, and late.
    assert_eq!(kinds(|a| stopped(a, Role::Fenced, "shut down")), ["rebuild.a", finish]);
    // It ended cleanly, and has nothing of its own.
    let in_time = |a: &mut MemberFacts| {
        stopped(a, Role::Fenced, "shut down");
        a.position = Position::Lsn(50);
    };
    assert_eq!(kinds(in_time), ["rejoin.a", finish]);
    // It runs as a replica, and has received too much.
    assert_eq!(kinds(|_| {}), ["rebuild.a", finish]);
}

#[test]
fn what_cannot_be_judged_or_reached_from_here_is_left_and_said() {
    let told = |change: fn(&mut MemberFacts), expected: &str| {
        let world = world(change);
        let now = "2026-11-23T06:15:00Z".parse().unwrap();
        let planned = make(&world.topology, &Intent::default(), &[], &world.live, now);
        let Planned::Nothing(notes) = planned else { panic!("{planned:?}") };
        assert!(notes.iter().any(|note| note.contains("a is left alone") && note.contains(expected)), "{notes:?}");
    };
    told(|a| (a.role, a.lineage.system) = (Role::Fenced, "7".to_owned()), "another cluster");
    told(
        |a| {
            a.role = Role::Stopped;
            a.capabilities.no_control = Some("a has no `host`".to_owned());
        },
        "by hand",
    );
}

#[test]
fn histories_part_where_the_log_goes_on_beyond_the_end_of_the_timeline() {
    let world = world(|_| {});
    let mut primary = world.seen("accounts", "b").clone();
    primary.lineage.timeline = 3;
    primary.history = vec![(1, Position::Lsn(100)), (2, Position::Lsn(500))];
    let member = |timeline, position, state: &str| {
        let mut facts = world.seen("accounts", "a").clone();
        stopped(&mut facts, Role::Fenced, state);
        (facts.lineage.timeline, facts.position) = (timeline, Position::Lsn(position));
        facts
    };
    let at = |fork, bytes| Parted::At { fork: Position::Lsn(fork), bytes };
    for (timeline, position, state, expected) in [
        (2, 499, "shut down", Parted::No),
        // Its checkpoint begins where the other timeline does.
        (2, 500, "shut down", at(500, 0)),
        // A replica that has received all of it.
        (2, 500, "shut down in recovery", Parted::No),
        (2, 900, "shut down in recovery", at(500, 400)),
        (1, 101, "shut down", at(100, 1)),
        (3, 9_999, "shut down", Parted::No),
        (4, 1, "shut down", Parted::Ahead),
    ] {
        assert_eq!(parted(&primary, &member(timeline, position, state)), expected, "{timeline} {position} {state}");
    }
    primary.history = vec![(1, Position::Lsn(100))];
    assert_eq!(parted(&primary, &member(2, 1, "shut down")), Parted::Elsewhere);
    primary.history = Vec::new();
    assert_eq!(parted(&primary, &member(2, 1, "shut down")), Parted::Unknown);
    // Without the right to read it, one that ended cleanly is told to follow, and one that did not is rebuilt.
    assert_eq!(need("b", &primary, &member(2, 900, "shut down")), Need::Nothing);
    let mut crashed = member(2, 900, "in production");
    crashed.role = Role::Stopped;
    assert!(matches!(need("b", &primary, &crashed), Need::Rebuild(Rebuild { fence: false, .. })));
    // Whoever receives shares what it receives.
    let mut receiving = member(2, 900, "");
    (receiving.role, receiving.receives_from) = (Role::Replica, Some("10.20.0.100:5432".to_owned()));
    assert_eq!(need("b", &primary, &receiving), Need::Nothing);
    let mut half = member(3, 1, "shut down");
    half.role = Role::Stopped;
    half.settings.insert("rebuilding".to_owned(), "copy".to_owned());
    assert!(matches!(need("b", &primary, &half), Need::Rebuild(it) if it.why.contains("cut short")));
}
