//! What is lost: one plan, everything at once, no primary before the old one is cut off, and nothing accepted that was not stated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use handover::model::*;
use handover::plan::lost::evidence::{Attestation, Lost};
use handover::plan::lost::failover::FenceBy;
use handover::plan::lost::known::{Known, Seen};
use handover::plan::{
    GateName, HoldKind, Intent, LostThing, Override, Overrides, Plan, Planned, Refusal, StepId, Work, make_knowing,
};

use super::world::World;
use super::{EXAMPLE, chooser, in_some_order, nothing_to_do};

pub fn lost(name: &str) -> Intent {
    let lost = Lost { facilities: BTreeSet::from([name.into()]), targets: BTreeSet::new() };
    Intent { lost, ..Intent::default() }
}

/// Nothing of a facility answers any more, and its neighbours' health checks say so.
pub fn dead(world: &mut World, facility: &str) {
    let gone: Vec<TargetId> = world
        .topology
        .targets()
        .chain(world.topology.vantages.values())
        .filter(|target| target.facility.as_str() == facility)
        .map(|target| target.id.clone())
        .collect();
    let servers: Vec<String> = gone.iter().map(|id| id.name().to_owned()).collect();
    let addresses: Vec<String> = gone.iter().filter_map(|id| world.address_of(id)).collect();
    for observed in world.live.values_mut() {
        let Observed::Known { value, .. } = observed else { continue };
        match value {
            Facts::Proxy(facts) => {
                let backends = facts.backends.values_mut().flatten();
                for (name, server) in backends.flat_map(|backend| &mut backend.servers) {
                    if servers.iter().any(|gone| gone == name.as_str()) {
                        server.operational = Operational::Down;
                    }
                }
            }
            Facts::Member(facts) if facts.receives_from.as_ref().is_some_and(|from| addresses.contains(from)) => {
                facts.set_to_follow = facts.receives_from.take();
            }
            _ => {}
        }
    }
    for id in &gone {
        world.silence(id);
    }
}

pub fn known(world: &World, silent: Duration) -> Known {
    let mut known = Known::default();
    for target in world.topology.targets() {
        if world.live[&target.id].known().is_none() {
            known.before.silent.insert(target.id.clone(), silent);
        }
    }
    known
}

fn planned(world: &World, intent: &Intent, holds: &[HoldKind], known: &Known) -> Planned {
    let now = "2026-11-24T03:00:00Z".parse().unwrap();
    make_knowing(&world.topology, intent, holds, &world.live, known, now)
}

pub fn plan_knowing(world: &World, intent: &Intent, known: &Known) -> Plan {
    match planned(world, intent, &[], known) {
        Planned::Plan(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

fn refused(planned: Planned) -> Vec<Refusal> {
    match planned {
        Planned::Refused(refusals) => refusals,
        other => panic!("{other:?}"),
    }
}

/// All that must have ended well before a step begins.
pub fn before(plan: &Plan, id: &StepId) -> BTreeSet<StepId> {
    let mut all = BTreeSet::new();
    let mut open = vec![id.clone()];
    while let Some(id) = open.pop() {
        let step = plan.step(&id).unwrap();
        open.extend(step.needs.iter().filter(|need| all.insert((*need).clone())).cloned());
    }
    all
}

pub const LONG: Duration = Duration::from_secs(60);

#[test]
fn one_plan_moves_everything_and_no_primary_is_promoted_before_the_old_one_is_cut_off() {
    let mut world = World::healthy(EXAMPLE);
    dead(&mut world, "west");
    let plan = plan_knowing(&world, &lost("west"), &known(&world, LONG));
    let databases: Vec<&str> = plan.failovers.iter().map(|it| it.database.as_str()).collect();
    assert_eq!(databases, ["accounts", "products"]);
    for failover in &plan.failovers {
        let FenceBy::Command { fence, .. } = &failover.fence else { panic!("{:?}", failover.fence) };
        let promote = StepId(format!("db.{}.promote", failover.database));
        let before = before(&plan, &promote);
        let acts = |id: &StepId| match &plan.step(id).unwrap().work {
            Work::Act { target, action } => Some((target.clone(), action.verb().to_owned())),
            _ => None,
        };
        let acted: Vec<_> = before.iter().filter_map(acts).collect();
        assert!(acted.contains(&(fence.clone(), "stop".to_owned())), "{acted:?}");
        // Nothing of the edge, of DNS or of another database is waited for.
        let others = before.iter().filter(|id| !id.0.starts_with(&format!("db.{}.", failover.database)));
        assert_eq!(others.map(|id| id.0.as_str()).collect::<Vec<_>>(), ["fence.facility.west", "gate.lost"]);
    }
    // Nothing is asked of what is lost.
    let of_west = |id: &TargetId| world.topology.targets().any(|it| it.id == *id && it.facility.as_str() == "west");
    for step in &plan.steps {
        if let Work::Act { target, .. } = &step.work {
            assert!(!of_west(target), "{}", step.id);
        }
        assert!(step.before.iter().chain(&step.after).all(|one| !of_west(&one.target)), "{}", step.id);
    }
    assert!(plan.is_urgent());
}

#[test]
fn carried_out_in_any_order_users_are_served_and_commits_wait_for_nobody_who_is_lost() {
    for seed in 0..20 {
        let mut world = World::healthy(EXAMPLE);
        dead(&mut world, "west");
        let plan = plan_knowing(&world, &lost("west"), &known(&world, LONG));
        for step in in_some_order(&plan, chooser(seed)) {
            if let Work::Act { target, action } = &step.work
                && !target.as_str().starts_with("fence/")
            {
                world.act(target, action);
            }
        }
        for (database, member) in [("accounts", "east-pg1"), ("products", "east-pg2"), ("prices", "east-pg3")] {
            let facts = world.seen(database, member);
            assert_eq!((facts.role, facts.synchronous_names.as_str()), (Role::Primary, ""), "{database}");
        }
        let holds = plan.holds.clone();
        nothing_to_do(&world, &holds);
    }
}

#[test]
fn without_anything_that_cuts_it_off_there_is_no_promotion_and_a_word_is_shown_as_trust() {
    let text = without_fences();
    let mut world = World::healthy(&text);
    dead(&mut world, "west");
    let known = known(&world, LONG);
    let refusals = refused(planned(&world, &lost("west"), &[], &known));
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    for refusal in &refusals {
        assert!(refusal.what.contains("takes no more writes"), "{}", refusal.what);
        assert!(refusal.advice.contains("--attest-fenced"), "{}", refusal.advice);
    }
    let attested = Some(Attestation { by: "ada@ops".to_owned(), reason: "main switch is off, ticket 4711".to_owned() });
    let plan = plan_knowing(&world, &Intent { attested, ..lost("west") }, &known);
    let stages: Vec<&str> = plan.stages.iter().flat_map(|stage| stage.remains.iter().map(String::as_str)).collect();
    assert!(stages.iter().any(|line| line.contains("ada@ops") && line.contains("trust, not proof")), "{stages:?}");
    assert!(plan.steps.iter().all(|step| !step.id.0.starts_with("fence.")));
}

fn without_fences() -> String {
    let lines = EXAMPLE.lines().filter(|line| !line.trim_start().starts_with("fence:"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_facility_that_others_see_needs_a_fence_and_a_word_on_what_it_publishes() {
    let mut world = World::healthy(EXAMPLE);
    dead(&mut world, "west");
    // One proxy still finds one of its servers up.
    let proxy = TargetId::proxy("east-lb1");
    let Facts::Proxy(facts) = world.facts(&proxy) else { panic!() };
    let server = facts.backends.values_mut().flatten().next().unwrap().servers.get_mut("west-app1").unwrap();
    server.operational = Operational::Up;
    let known = known(&world, LONG);
    let refusals = refused(planned(&world, &lost("west"), &[], &known));
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals[0].advice.contains("--override published"), "{refusals:?}");
    let passed = Override { by: "ada@ops".to_owned(), reason: "delegation was changed".to_owned() };
    let overrides = Overrides::from([(GateName::Published, passed)]);
    assert_eq!(
        plan_knowing(&world, &Intent { overrides: overrides.clone(), ..lost("west") }, &known).failovers.len(),
        2
    );
    // What only a word keeps from writing is not enough where somebody sees it.
    let mut unfenced = World::healthy(&without_fences()).with_live(&world);
    let attested = Some(Attestation { by: "ada@ops".to_owned(), reason: "I believe so".to_owned() });
    let refusals = refused(planned(&unfenced, &Intent { attested, overrides, ..lost("west") }, &[], &known));
    assert!(refusals.iter().all(|it| it.what.contains("whatever anybody attests")), "{refusals:?}");
    unfenced.silence(&proxy);
}

#[test]
fn what_answers_is_not_lost_and_a_drain_is_offered() {
    let mut world = World::healthy(EXAMPLE);
    dead(&mut world, "west");
    let alive = World::healthy(EXAMPLE);
    let id = TargetId::proxy("west-lb1");
    world.live.insert(id.clone(), alive.live[&id].clone());
    let refusals = refused(planned(&world, &lost("west"), &[], &known(&world, LONG)));
    assert!(refusals.iter().any(|it| it.advice.contains("--drain")), "{refusals:?}");
}

#[test]
fn the_loss_is_stated_and_nothing_is_claimed_that_is_not_proven() {
    let mut world = World::healthy(EXAMPLE);
    let (id, seen) = {
        let facts = world.seen("accounts", "west-pg1");
        let position = facts.position;
        let seen = Seen {
            age: Duration::from_secs(7),
            role: Role::Primary,
            lineage: facts.lineage.clone(),
            position,
            synchronous_names: facts.synchronous_names.clone(),
        };
        (TargetId::member(&"accounts".into(), "west-pg1"), seen)
    };
    dead(&mut world, "west");
    let mut knowing = known(&world, LONG);
    let loss = |world: &World, known: &Known| {
        let plan = plan_knowing(world, &lost("west"), known);
        plan.failovers.into_iter().find(|it| it.database.as_str() == "accounts").unwrap().loss
    };
    // Nobody knows how far it was.
    let unknown = loss(&world, &knowing);
    assert_eq!((unknown.bytes, unknown.is_nothing()), (None, false));
    assert!(unknown.exceeds(1 << 40).is_some());
    // Commits waited for the only replica, which answers: none is lost.
    assert!(!seen.synchronous_names.is_empty());
    knowing.members.insert(id.clone(), seen.clone());
    assert!(loss(&world, &knowing).is_nothing(), "{}", loss(&world, &knowing));
    // They waited for nobody: as many bytes as it is known to have been ahead, and whatever it wrote since.
    let Position::Lsn(lsn) = seen.position;
    let ahead = Seen { synchronous_names: String::new(), position: Position::Lsn(lsn + 1000), ..seen.clone() };
    knowing.members.insert(id.clone(), ahead);
    let counted = loss(&world, &knowing);
    assert_eq!((counted.bytes, counted.unheard), (Some(1000), Some(Duration::from_secs(7))));
    assert!(counted.exceeds(999).is_some() && counted.exceeds(1000).is_none());
    // They waited for one of two, of which one is none of ours: it proves nothing that ours is there.
    let elsewhere = Seen { synchronous_names: "ANY 1 (\"east-pg1\", \"elsewhere\")".to_owned(), ..seen };
    knowing.members.insert(id, elsewhere);
    assert!(!loss(&world, &knowing).is_nothing());
}

#[test]
fn what_is_lost_stays_out_is_owed_and_comes_back_drained() {
    let healthy = World::healthy(EXAMPLE);
    let mut world = World::healthy(EXAMPLE);
    dead(&mut world, "west");
    let failed_over = plan_knowing(&world, &lost("west"), &known(&world, LONG));
    for step in &failed_over.steps {
        if let Work::Act { target, action } = &step.work
            && !target.as_str().starts_with("fence/")
        {
            world.act(target, action);
        }
    }
    let [HoldKind::Lost { what: LostThing::Facility(facility), owed }] = failed_over.holds.as_slice() else {
        panic!("{:?}", failed_over.holds)
    };
    assert_eq!(facility.as_str(), "west");
    let names: BTreeSet<&str> = owed.iter().map(TargetId::name).collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>().join(" "),
        "billing west-lb1 west-lb2 west-ns1 west-ns2 west-pg1 west-pg2 west-pg3 west-pool1"
    );
    let restore = Intent { restore: BTreeSet::from(["west".into()]), ..Intent::default() };
    let refusals = refused(planned(&world, &restore, &failed_over.holds, &Known::default()));
    assert!(refusals.iter().any(|it| it.what.contains("is owed there")), "{refusals:?}");
    // All but the databases answer again: what can be done is done, and it stays lost.
    for (id, observed) in &healthy.live {
        if world.live[id].known().is_none() && !id.as_str().starts_with("member/") {
            world.live.insert(id.clone(), observed.clone());
        }
    }
    let Planned::Plan(partly) = planned(&world, &Intent::default(), &failed_over.holds, &Known::default()) else {
        panic!("nothing is owed")
    };
    assert!(partly.releases.is_empty() && partly.holds.is_empty(), "{:?}", partly.releases);
    let touched: BTreeMap<&str, &str> = partly
        .steps
        .iter()
        .filter_map(|step| match &step.work {
            Work::Act { target, action } => Some((target.name(), action.verb())),
            _ => None,
        })
        .collect();
    for owed in ["west-lb1", "west-lb2", "west-ns1", "west-pool1", "billing"] {
        assert!(touched.contains_key(owed), "{touched:?}");
    }
}

#[test]
fn the_last_facility_that_serves_is_replaced_by_one_that_was_drained() {
    let mut world = World::healthy(EXAMPLE);
    let drain = Intent { drain: BTreeSet::from(["west".into()]), ..Intent::default() };
    let Planned::Plan(drained) = planned(&world, &drain, &[], &Known::default()) else { panic!("no drain") };
    world.settle(&drained);
    dead(&mut world, "east");
    // The proxies of the drained facility check no server that is up: they cannot tell whom they do not see.
    let attested = Some(Attestation { by: "ada@ops".to_owned(), reason: "seen on television".to_owned() });
    let lost = Intent { attested, ..lost("east") };
    let Planned::Plan(plan) = planned(&world, &lost, &drained.holds, &known(&world, LONG)) else {
        panic!("{:?}", planned(&world, &lost, &drained.holds, &known(&world, LONG)))
    };
    assert!(plan.releases.contains(&HoldKind::Drained { facility: "west".into() }), "{:?}", plan.releases);
    assert_eq!(plan.failovers.len(), 3);
    assert!(plan.failovers.iter().all(|it| it.to.name().starts_with("west-")), "{:?}", plan.failovers);
}

/// One target that is lost by itself.
fn only(id: &TargetId) -> Intent {
    let lost = Lost { facilities: BTreeSet::new(), targets: BTreeSet::from([id.clone()]) };
    let attested = Some(Attestation { by: "ada@ops".to_owned(), reason: "its disk is on my desk".to_owned() });
    Intent { lost, attested, ..Intent::default() }
}

fn acts(plan: &Plan) -> Vec<(&str, &str)> {
    plan.steps
        .iter()
        .filter_map(|step| match &step.work {
            Work::Act { target, action } => Some((target.name(), action.verb())),
            _ => None,
        })
        .collect()
}

#[test]
fn a_primary_a_replica_and_a_proxy_are_lost_one_by_one() {
    let alone = |id: &TargetId| {
        let mut world = World::healthy(EXAMPLE);
        world.silence(id);
        let address = world.address_of(id);
        for observed in world.live.values_mut() {
            if let Observed::Known { value: Facts::Member(facts), .. } = observed
                && facts.receives_from == address
            {
                facts.set_to_follow = facts.receives_from.take();
            }
        }
        let known = known(&world, LONG);
        (world, known)
    };
    // A primary: its database fails over, nothing else moves; the fence of its facility would cut off too much.
    let id = TargetId::member(&"accounts".into(), "west-pg1");
    let (world, known) = alone(&id);
    let primary = plan_knowing(&world, &only(&id), &known);
    assert_eq!(primary.failovers.iter().map(|it| it.database.as_str()).collect::<Vec<_>>(), ["accounts"]);
    let touched = ["east-pg1", "east-pool1", "west-pool1", "east-ns1", "west-ns1"];
    assert!(acts(&primary).iter().all(|(target, _)| touched.contains(target)));
    let unattested = Intent { attested: None, ..only(&id) };
    let refusals = refused(planned(&world, &unattested, &[], &known));
    assert!(refusals.iter().any(|it| it.advice.contains("hosts.west-db1.fence")), "{refusals:?}");
    // A replica: commits wait for it no longer.
    let id = TargetId::member(&"accounts".into(), "east-pg1");
    let (world, known) = alone(&id);
    let replica = plan_knowing(&world, &only(&id), &known);
    assert_eq!(acts(&replica), [("west-pg1", "release_replicas")]);
    // A proxy: its address leaves every record set, at every server where the zone is changed.
    let id = TargetId::proxy("west-lb1");
    let (world, known) = alone(&id);
    let proxy = plan_knowing(&world, &only(&id), &known);
    assert_eq!(acts(&proxy), [("east-ns1", "set_records"), ("west-ns1", "set_records")]);
    let removed = proxy.steps.iter().flat_map(|step| &step.after).find_map(|after| match &after.condition {
        Condition::Records { sets } => sets.values().flatten().next().cloned(),
        _ => None,
    });
    let data: Vec<String> = removed.unwrap().data.iter().map(ToString::to_string).collect();
    assert_eq!(data, ["10.10.0.81", "10.20.0.80", "10.20.0.81"]);
    // Once it answers again one plan publishes it and ends the hold.
    let mut back = World::healthy(EXAMPLE);
    back.settle(&proxy);
    let returned = super::plan(&back, &Intent::default(), &proxy.holds);
    assert_eq!(acts(&returned), [("east-ns1", "set_records"), ("west-ns1", "set_records")]);
    assert_eq!(returned.releases, proxy.holds);
    back.settle(&returned);
    nothing_to_do(&back, &[]);
}

#[test]
fn a_primary_whose_machine_says_that_it_does_not_run_is_kept_so_and_replaced_without_any_other_proof() {
    let mut world = World::healthy(&without_fences());
    let id = TargetId::member(&"accounts".into(), "west-pg1");
    let address = world.address_of(&id).unwrap();
    world.change_member("accounts", "west-pg1", |facts| facts.role = Role::Stopped);
    world.change_member("accounts", "east-pg1", |facts| {
        facts.set_to_follow = facts.receives_from.take().filter(|from| *from == address);
    });
    let advice: Vec<String> = refused(planned(&world, &Intent::default(), &[], &Known::default()))
        .into_iter()
        .map(|refusal| refusal.advice)
        .collect();
    assert!(advice.iter().any(|it| it.contains("handover plan --lost west-pg1")), "{advice:?}");

    let only = Intent {
        lost: Lost { facilities: BTreeSet::new(), targets: BTreeSet::from([id.clone()]) },
        ..Intent::default()
    };
    let plan = plan_knowing(&world, &only, &Known::default());
    assert_eq!(plan.failovers.iter().map(|it| it.fence.clone()).collect::<Vec<_>>(), [FenceBy::Host]);
    assert!(plan.step(&StepId("gate.lost".to_owned())).is_none(), "its own machine has been asked");
    let before = before(&plan, &StepId("db.accounts.promote".to_owned()));
    let fence = StepId("fence.accounts.west-pg1".to_owned());
    assert!(before.contains(&fence), "{before:?}");
    // Whoever starts it meanwhile is not stopped by surprise: the step has something to say against it.
    assert!(
        plan.step(&fence)
            .unwrap()
            .before
            .iter()
            .any(|it| { it.target == id && matches!(it.condition, Condition::Role { role: Role::Stopped, .. }) })
    );
    for seed in 0..10 {
        let mut world = World::healthy(&without_fences()).with_live(&world);
        for step in in_some_order(&plan, chooser(seed)) {
            if let Work::Act { target, action } = &step.work {
                world.act(target, action);
            }
        }
        let accounts = "accounts".into();
        assert_eq!(world.writable(&accounts), [TargetId::member(&accounts, "east-pg1")]);
    }
}

#[test]
fn a_name_server_that_is_lost_is_only_done_without_and_nobody_else_has_to_have_seen_it() {
    let mut world = World::healthy(EXAMPLE);
    let id = TargetId::name_server(&"clickbank.example".into(), "west-ns1");
    world.silence(&id);
    let lost = Lost { facilities: BTreeSet::new(), targets: BTreeSet::from([id.clone()]) };
    let intent = Intent { lost, ..Intent::default() };
    match planned(&world, &intent, &[], &Known::default()) {
        Planned::Plan(plan) => {
            assert!(
                plan.notes.iter().any(|note| note.starts_with("undecided: no answer from west-ns1")),
                "{:?}",
                plan.notes
            );
            assert!(plan.steps.iter().all(|step| step.id.0 != "gate.lost"), "{:?}", plan.steps);
        }
        other => panic!("{other:?}"),
    }
}
