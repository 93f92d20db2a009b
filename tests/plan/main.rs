//! Planning as a whole, on a simulated world: what a plan's steps would do is done to the facts, step by step.
//!
//! The properties are those of `docs/safety.md`: at every prefix of every plan, in every order that its needs allow, users are served,
//! no name is empty, no database has two primaries, and no client is led elsewhere; after the last step there is nothing left to do.

mod admit;
mod edge_and_dns;
mod emergency;
mod epoch;
mod intents;
mod lost;
mod members;
mod powered;
mod preflight;
mod returned;
mod settle;
mod split;
#[path = "../common/carry_out.rs"]
mod steps;
mod world;

use handover::model::{Action, FacilityName, FromTo, RecordKey, RecordType, TargetId};
use handover::plan::document::{self, DocumentError};
use handover::plan::{
    Depth, GateName, HoldKind, Intent, Override, Overrides, Plan, Planned, Step, Undo, Work, make, stale,
};
use proptest::prelude::*;
use steps::{chooser, comparable, demands, in_some_order};
use world::World;

const EXAMPLE: &str = include_str!("../../topology.yaml");

fn intent(drain: &[&str], restore: &[&str], failback: bool) -> Intent {
    let set = |names: &[&str]| names.iter().copied().map(FacilityName::new).collect();
    Intent { drain: set(drain), restore: set(restore), failback, ..Intent::default() }
}

fn plan(world: &World, intent: &Intent, holds: &[HoldKind]) -> Plan {
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    match make(&world.topology, intent, holds, &world.live, now) {
        Planned::Plan(plan) => *plan,
        other => panic!("{}: {other:?}", intent.title()),
    }
}

fn nothing_to_do(world: &World, holds: &[HoldKind]) {
    let now = "2026-11-23T07:00:00Z".parse().unwrap();
    let planned = make(&world.topology, &Intent::default(), holds, &world.live, now);
    assert!(matches!(planned, Planned::Nothing(_)), "{planned:?}");
}

/// Carries a plan out, checks what every step assumes and promises, and the invariants after each.
fn carry_out(world: &mut World, plan: &Plan, choose: impl FnMut(usize) -> usize) {
    steps::carry_out(world, plan, choose).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn what_is_as_it_should_be_needs_no_plan() {
    nothing_to_do(&World::healthy(EXAMPLE), &[]);
}

#[test]
fn databases_without_any_service_can_be_moved() {
    let text = |primary: &str| {
        format!(
            "{{topology: 1, name: data, facilities: {{west: {{}}, east: {{}}}}, hosts: {{here: {{transport: local}}}}, databases: {{\
             accounts: {{provider: postgresql, primary: {primary}, replication: {{mode: asynchronous}}, poolers: [pool], \
             route: {{pooler_database: accounts}}, members: {{\
             a: {{facility: west, address: \"10.10.0.100:5432\", host: here}}, \
             b: {{facility: east, address: \"10.20.0.100:5432\", host: here}}}}}}}}, \
             poolers: {{pool: {{facility: west, provider: pgbouncer, address: \"10.10.0.110:6432\", host: here}}}}}}"
        )
    };
    let mut world = World::healthy(&text("a")).with_topology(&text("b"));
    let moved = plan(&world, &Intent::default(), &[]);
    assert_eq!(moved.primaries.len(), 1);
    carry_out(&mut world, &moved, |_| 0);
    nothing_to_do(&world, &[]);
}

#[test]
fn a_drain_and_a_restore_with_primaries_lead_back_to_the_beginning() {
    let mut world = World::healthy(EXAMPLE);
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drain, |_| 0);
    nothing_to_do(&world, &drain.holds);
    let restore = plan(&world, &intent(&[], &["west"], true), &drain.holds);
    assert_eq!(restore.releases, drain.holds);
    carry_out(&mut world, &restore, |_| 0);
    nothing_to_do(&world, &restore.holds);
    assert!(restore.holds.is_empty());
}

#[test]
fn a_restore_without_failback_keeps_the_primaries_and_holds_them() {
    let mut world = World::healthy(EXAMPLE);
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drain, |_| 0);
    let restore = plan(&world, &intent(&[], &["west"], false), &drain.holds);
    assert!(restore.primaries.is_empty());
    let held: Vec<&HoldKind> = restore.holds.iter().collect();
    assert_eq!(held.len(), 2, "accounts and products stay in the east: {held:?}");
    carry_out(&mut world, &restore, |_| 0);
    nothing_to_do(&world, &restore.holds);
    let back = plan(&world, &intent(&[], &["west"], true), &restore.holds);
    assert_eq!((back.primaries.len(), back.releases.len()), (2, 2));
    carry_out(&mut world, &back, |_| 0);
    nothing_to_do(&world, &back.holds);
}

#[test]
fn a_facility_that_is_found_drained_is_not_brought_back_by_a_bare_plan() {
    let mut world = World::healthy(EXAMPLE);
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drain, |_| 0);
    // The store was lost, and the holds with it.
    nothing_to_do(&world, &[]);
}

/// Does what the steps up to and with the first one of this name would do.
fn carry_out_until(world: &mut World, plan: &Plan, last: &str) {
    for step in &plan.steps {
        if let Work::Act { target, action } = &step.work {
            world.act(target, action);
        }
        if step.id.0.starts_with(last) {
            return;
        }
    }
    panic!("no step {last}");
}

#[test]
fn a_drain_that_was_stopped_after_the_shift_is_planned_to_its_end() {
    let mut world = World::healthy(EXAMPLE);
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out_until(&mut world, &drain, "dns.clickbank.example.remove.west-ns1");
    let rest = plan(&world, &Intent::default(), &drain.holds);
    let has = |id: &str| rest.steps.iter().any(|step| step.id.0.starts_with(id));
    for id in ["gate.capacity", "wait.old_ttl", "wait.sessions", "share.maint", "db.accounts.promote"] {
        assert!(has(id), "{id} is missing");
    }
    carry_out(&mut world, &rest, |_| 0);
    nothing_to_do(&world, &drain.holds);
}

#[test]
fn a_switchover_that_was_cut_short_after_the_promotion_is_completed_by_the_next_plan() {
    for last in ["db.accounts.promote", "db.accounts.redirect.east-pool1", "db.accounts.redirect.west-pool1"] {
        let mut world = World::healthy(EXAMPLE);
        let drain = plan(&world, &intent(&["west"], &[], false), &[]);
        carry_out_until(&mut world, &drain, last);
        let rest = plan(&world, &Intent::default(), &drain.holds);
        assert!(rest.steps.iter().any(|step| step.id.0 == "db.accounts.rejoin.west-pg1"), "after {last}");
        // Clients that the cut left waiting go on.
        let waits = |step: &&Step| step.id.0.starts_with("route.load.") && step.title.ends_with("its clients wait");
        let cut = drain.steps.iter().skip_while(|step| step.id.0 != last);
        let left = cut.skip(1).filter(|step| step.id.0.starts_with("db.accounts.redirect.")).count();
        assert_eq!(rest.steps.iter().filter(waits).count(), left, "after {last}");
        world.settle(&rest);
        nothing_to_do(&world, &drain.holds);
    }
}

#[test]
fn a_route_that_is_written_and_not_loaded_is_repaired() {
    let mut world = World::healthy(EXAMPLE);
    let route = FromTo { from: "10.10.0.100:5432".to_owned(), to: "10.20.0.100:5432".to_owned() };
    world.act(&TargetId::pooler("west-pool1"), &Action::WriteRoute { database: "accounts".into(), route });
    let repair = plan(&world, &Intent::default(), &[]);
    carry_out(&mut world, &repair, |_| 0);
    nothing_to_do(&world, &[]);
}

#[test]
fn clients_that_are_held_back_for_nothing_go_on_by_the_next_plan() {
    let mut world = World::healthy(EXAMPLE);
    world.act(&TargetId::pooler("west-pool1"), &Action::Pause { database: "accounts".into() });
    let repair = plan(&world, &Intent::default(), &[]);
    let [step] = repair.steps.iter().filter(|step| matches!(step.work, Work::Act { .. })).collect::<Vec<_>>()[..]
    else {
        panic!("{:?}", repair.steps)
    };
    assert_eq!(step.title, "west-pool1: resume accounts; its clients wait, and it leads to the primary");
    assert!(matches!(&step.work, Work::Act { action: Action::Resume { .. }, .. }));
    carry_out(&mut world, &repair, |_| 0);
    nothing_to_do(&world, &[]);
}

/// A reload for one database makes true what a section has written for another and not yet promoted.
#[test]
fn a_route_is_repaired_before_another_database_moves_behind_the_same_pooler() {
    let mut world = World::healthy(EXAMPLE);
    let pooler = TargetId::pooler("west-pool1");
    let route = FromTo { from: "10.20.0.100:5434".to_owned(), to: "10.10.0.100:5434".to_owned() };
    world.act(&pooler, &Action::WriteRoute { database: "prices".into(), route });
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    for seed in 1u64..9 {
        let mut random = seed;
        let order = in_some_order(&drain, |count| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // The last that may come, more often than not.
            if random >> 62 == 0 { (random >> 33) as usize % count } else { count - 1 }
        });
        let at = |id: &str| order.iter().position(|step| step.id.0 == id).unwrap_or_else(|| panic!("no step {id}"));
        let repaired = at("route.load.prices.west-pool1");
        for database in ["accounts", "products"] {
            assert!(repaired < at(&format!("db.{database}.pause.west-pool1")), "{database}, in order {seed}");
        }
    }
}

/// Each reload makes both true: neither database's clients may be led to a replica by the other one's. Found by the random worlds of
/// `tests/simulated`.
#[test]
fn all_routes_of_a_pooler_are_written_before_any_is_loaded() {
    let mut world = World::healthy(EXAMPLE);
    let pooler = TargetId::pooler("west-pool1");
    for (database, port, from, to) in [("accounts", 5432, 10, 20), ("prices", 5434, 20, 10)] {
        let at = |facility: u32| format!("10.{facility}.0.100:{port}");
        let route = FromTo { from: at(from), to: at(to) };
        world.act(&pooler, &Action::WriteRoute { database: database.into(), route });
    }
    for last in [false, true] {
        let mut world = World::healthy(EXAMPLE).with_live(&world);
        let repair = plan(&world, &Intent::default(), &[]);
        carry_out(&mut world, &repair, |count| if last { count - 1 } else { 0 });
        nothing_to_do(&world, &[]);
    }
}

/// Found by the random worlds of `tests/simulated`.
#[test]
fn a_restore_does_not_wait_for_a_server_that_is_sick_where_the_others_are_enough() {
    // A small share of west, so that one of two is enough.
    let mut world = World::healthy(&EXAMPLE.replace("share: {west: 50%, east: 50%}", "share: {west: 10%, east: 90%}"));
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drain, |_| 0);
    let sick = TargetId::server(&"website".into(), "west-app1");
    let handover::model::Facts::Server(facts) = world.facts(&sick) else { panic!("{sick}") };
    facts.healthy = false;
    let restore = plan(&world, &intent(&[], &["west"], true), &drain.holds);
    carry_out(&mut world, &restore, |_| 0);
    nothing_to_do(&world, &[]);
}

#[test]
fn records_that_differ_beforehand_do_not_make_the_end_contradict_itself() {
    let mut world = World::healthy(EXAMPLE);
    let name = RecordKey { name: "www.clickbank.example".to_owned(), rtype: RecordType::A };
    world.forget_address(&name, "10.20.0.81");
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    carry_out(&mut world, &drain, |_| 0);
    nothing_to_do(&world, &drain.holds);
}

#[test]
fn a_hold_of_a_primary_ends_when_the_primary_has_to_leave() {
    let mut world = World::healthy(EXAMPLE);
    let mut holds: Vec<HoldKind> = Vec::new();
    for (drain, restore) in [("west", ""), ("", "west"), ("east", ""), ("", "east")] {
        let list = |name: &'static str| if name.is_empty() { Vec::new() } else { vec![name] };
        let next = plan(&world, &intent(&list(drain), &list(restore), false), &holds);
        if restore == "east" {
            let moved: Vec<&str> = next.primaries.iter().map(|moved| moved.database.as_str()).collect();
            assert!(moved.is_empty(), "primaries move unasked: {moved:?}");
        }
        carry_out(&mut world, &next, |_| 0);
        holds.retain(|hold| !next.releases.contains(hold));
        holds.extend(next.holds.iter().cloned());
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let world = World::healthy(EXAMPLE);
    let bytes = || plan(&world, &intent(&["west"], &[], false), &[]).to_yaml().unwrap();
    assert_eq!(bytes(), bytes());
    let read = Plan::from_yaml(&bytes()).unwrap();
    assert_eq!(read.to_yaml().unwrap(), bytes());
}

#[test]
fn a_plan_is_stale_as_soon_as_one_of_its_facts_has_changed() {
    let mut world = World::healthy(EXAMPLE);
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    assert!(stale(&drain, &world.live).is_empty());
    let share = drain.steps.iter().find(|step| step.id.0.starts_with("share.")).unwrap();
    if let Work::Act { target, action } = &share.work {
        world.act(target, action);
    }
    let stale = stale(&drain, &world.live);
    assert_eq!(stale.len(), 6, "six servers at one proxy, each by itself: {stale:?}");
    assert!(stale.iter().all(|fact| fact.target == stale[0].target && fact.found.contains("weight 82")), "{stale:?}");
}

#[test]
fn an_edited_plan_is_not_read() {
    let text = plan(&World::healthy(EXAMPLE), &intent(&["west"], &[], false), &[]).to_yaml().unwrap();
    let read = |text: &str| Plan::from_yaml(text).unwrap_err();
    // All but the last of these would be plans, other ones than the reviewed.
    for (from, to) in [
        ("expires: 2026", "expires: 2027"),
        ("-> drain 0", "-> ready 0"),
        ("title: ", "title:  "),
        ("\nid: ", "\n# approved\nid: "),
        ("\nid: ", "\nid:\t["),
    ] {
        assert!(text.contains(from), "{from}");
        let error = read(&text.replacen(from, to, 1));
        assert!(matches!(error, DocumentError::Edited), "{to}: {error}");
    }
    assert!(read(&text.replacen("expires: 2026", "expires: 2027", 1)).to_string().contains("handover plan"));
    // A seal that was made anew does not help against contradictions.
    for (from, to) in [("stage: 0", "stage: 99"), ("- gate.soak.10%", "- gate.soak.11%")] {
        let (body, _) = text.rsplit_once("seal: ").unwrap();
        let body = body.replacen(from, to, 1);
        let error = read(&format!("{body}seal: {}\n", document::digest(body.as_bytes())));
        assert!(matches!(error, DocumentError::Inconsistent(_)), "{to}: {error}");
    }
}

#[test]
fn a_plan_that_was_cut_short_is_not_read() {
    let text = plan(&World::healthy(EXAMPLE), &intent(&["west"], &[], false), &[]).to_yaml().unwrap();
    for end in (100..text.len()).step_by(997).chain([text.len() - 1, text.len() - 2, text.len() - 40]) {
        let Some(cut) = text.get(..end) else { continue };
        let error = Plan::from_yaml(cut).unwrap_err();
        let cut_in_seal = end > text.len() - 70;
        assert!(matches!(error, DocumentError::CutShort) || cut_in_seal, "{end} of {}: {error}", text.len());
    }
    assert!(matches!(Plan::from_yaml("name: shop\n").unwrap_err(), DocumentError::Malformed(_)));
    assert!(matches!(Plan::from_yaml("").unwrap_err(), DocumentError::Malformed(_)));
}

#[test]
fn a_plan_of_a_newer_version_says_which_one_is_needed() {
    let text = plan(&World::healthy(EXAMPLE), &intent(&["west"], &[], false), &[]).to_yaml().unwrap();
    let version = format!("version: {}", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version));
    let newer = text.replacen("format: 1", "format: 2", 1).replacen(&version, "version: 7.1.0", 1);
    let told = Plan::from_yaml(&newer).unwrap_err().to_string();
    assert!(told.contains("made by handover 7.1.0") && told.contains("formats up to 1"), "{told}");
}

#[test]
fn every_refusal_says_what_and_what_to_do() {
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    let mut told = String::new();
    let mut refuse = |text: &str, intent: &Intent| match make(
        &World::healthy(text).topology,
        intent,
        &[],
        &World::healthy(text).live,
        now,
    ) {
        Planned::Refused(refusals) => {
            told += &format!("{}\n", intent.title());
            for refusal in refusals {
                told += &format!("  {}\n    {}\n", refusal.what, refusal.advice);
            }
        }
        other => panic!("{other:?}"),
    };
    refuse(EXAMPLE, &intent(&["west", "east"], &[], false));
    refuse(EXAMPLE, &intent(&["west"], &["west"], false));
    refuse(EXAMPLE, &intent(&["haven"], &[], false));
    refuse(&EXAMPLE.replace("peak: {rate: 1200 rps", "peak: {rate: 1500 rps"), &intent(&["west"], &[], false));
    refuse(&EXAMPLE.replace("min_active_facilities: 1", "min_active_facilities: 2"), &intent(&["west"], &[], false));
    insta::assert_snapshot!(told);
}

#[test]
fn what_the_run_needs_is_not_drained() {
    let there = EXAMPLE.replace("runs_in: haven", "runs_in: west").replace("resolver: haven", "resolver: east");
    let passed = Override { by: "ada@ops".to_owned(), reason: "only traffic leaves".to_owned() };
    let overrides = Overrides::from([(GateName::Operator, passed)]);
    let told = |text: &str, intent: &Intent| match make(
        &World::healthy(text).topology,
        intent,
        &[],
        &World::healthy(text).live,
        "2026-11-23T06:15:00Z".parse().unwrap(),
    ) {
        Planned::Refused(refusals) => refusals.into_iter().map(|refusal| refusal.what).collect(),
        Planned::Plan(plan) => plan.notes.into_iter().filter(|note| note.contains("gate ")).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let west = intent(&["west"], &[], false);
    assert_eq!(told(EXAMPLE, &west), Vec::<String>::new());
    assert_eq!(told(&there, &west), ["handover runs in west, which is to be drained, and so do journal and lock"]);
    let east = told(&there, &intent(&["east"], &[], false));
    assert_eq!(east, ["the run needs resolver, which lives in east, and east is to be drained"]);
    let passed = Intent { overrides: overrides.clone(), ..west.clone() };
    assert_eq!(told(&there, &passed), ["gate operator is overridden by ada@ops: only traffic leaves"]);
    let deep = Intent { depth: Depth::Power, ..passed };
    assert_eq!(told(&there, &deep).len(), 1, "a machine without power carries nothing out");
}

#[test]
fn a_plan_says_when_its_window_opens_and_what_is_passed() {
    let windows = "windows: [{days: [tue], from: \"23:00\", to: \"02:00\", zone: America/Boise}]";
    let freezes = "freezes: [{from: 2026-11-24T00:00-07:00, to: 2026-11-25T00:00-07:00, reason: launch}]";
    let closed = EXAMPLE.replace("windows: []", windows).replace("freezes: []", freezes);
    let world = World::healthy(&closed);
    let told = |overrides: Overrides| {
        let intent = Intent { overrides, ..intent(&["west"], &[], false) };
        let plan = plan(&world, &intent, &[]);
        let again = Plan::from_yaml(&plan.to_yaml().unwrap()).unwrap();
        assert_eq!(again.intent, intent);
        plan.notes.into_iter().filter(|note| note.contains("gate ") || note.contains("apply would")).collect::<Vec<_>>()
    };
    let passed = |gate| (gate, Override { by: "ada@ops".to_owned(), reason: "the roof leaks".to_owned() });
    insta::assert_snapshot!(told(Overrides::new()).join("\n"));
    insta::assert_snapshot!(told(Overrides::from([passed(GateName::Windows)])).join("\n"));
}

#[test]
fn the_steps_of_a_drain_are_in_the_order_of_the_design() {
    let drain = plan(&World::healthy(EXAMPLE), &intent(&["west"], &[], false), &[]);
    let mut text = String::new();
    for step in &drain.steps {
        let needs: Vec<&str> = step.needs.iter().map(|need| need.0.as_str()).collect();
        text += &format!("{} <- {}\n", step.id, needs.join(" "));
    }
    insta::assert_snapshot!(text);
}

prop_compose! {
    /// The example with another share and other homes of the primaries.
    fn topologies()(
        west in 0u32..=100,
        accounts in prop::sample::select(vec!["west", "east", "east-pg1"]),
        prices in prop::sample::select(vec!["west", "east"]),
        stages in prop::sample::select(vec!["[100%]", "[10%, 50%, 100%]", "[1%, 5%, 25%, 50%, 100%]"]),
        at_once in 1u32..4,
    ) -> String {
        EXAMPLE
            .replace("share: {west: 50%, east: 50%}", &format!("share: {{west: {west}%, east: {}%}}", 100 - west))
            .replacen("primary: west ", &format!("primary: {accounts} "), 1)
            .replacen("primary: east", &format!("primary: {prices}"), 1)
            .replace("[10%, 50%, 100%]", stages)
            .replace("parallel_switchovers: 3", &format!("parallel_switchovers: {at_once}"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_prefix_in_every_order_keeps_the_invariants_and_the_end_is_what_was_wanted(
        before in topologies(),
        after in topologies(),
        facility in prop::sample::select(vec!["west", "east"]),
        failback in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut choose = chooser(seed);
        // From one topology to another, then a drain, then a restore.
        let mut world = World::healthy(&before).with_topology(&after);
        let now = "2026-11-23T06:15:00Z".parse().unwrap();
        if let Planned::Plan(converge) = make(&world.topology, &Intent::default(), &[], &world.live, now) {
            carry_out(&mut world, &converge, &mut choose);
        }
        nothing_to_do(&world, &[]);
        let drain = plan(&world, &intent(&[facility], &[], false), &[]);
        carry_out(&mut world, &drain, &mut choose);
        nothing_to_do(&world, &drain.holds);
        let restore = plan(&world, &intent(&[], &[facility], failback), &drain.holds);
        carry_out(&mut world, &restore, &mut choose);
        nothing_to_do(&world, &restore.holds);
    }

    #[test]
    fn what_was_done_before_the_point_of_no_return_can_be_taken_back(
        text in topologies(),
        facility in prop::sample::select(vec!["west", "east"]),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::healthy(&text);
        let drain = plan(&world, &intent(&[facility], &[], false), &[]);
        let before = comparable(&world);
        let reversible = drain.steps.iter().position(|step| step.point_of_no_return).unwrap_or(drain.steps.len());
        let done = &drain.steps[..cut.index(reversible + 1)];
        for step in done {
            if let Work::Act { target, action } = &step.work {
                world.act(target, action);
            }
        }
        for step in done.iter().rev() {
            if let (Undo::Act { action, after }, Work::Act { target, .. }) = (&step.undo, &step.work) {
                world.act(target, action);
                demands(&world, target, after).map_err(|why| TestCaseError::fail(format!("undo of {}: {why}", step.id)))?;
            }
        }
        prop_assert_eq!(comparable(&world), before);
    }
}
