//! What stands against a switchover, said of the facts that speak against it.

use handover::model::{ClientFacts, Facts, MemberFacts, Observed, PoolMode, PoolerFacts, Role, TargetId, Unreachable};
use handover::plan::preflight::{direct_notes, objections};

use crate::EXAMPLE;
use crate::world::World;

fn west() -> TargetId {
    TargetId::member(&"accounts".into(), "west-pg1")
}

fn east() -> TargetId {
    TargetId::member(&"accounts".into(), "east-pg1")
}

fn member(world: &mut World, id: &TargetId, change: impl FnOnce(&mut MemberFacts)) {
    let Facts::Member(facts) = world.facts(id) else { panic!("{id} is no member") };
    change(facts);
}

fn pooler(world: &mut World, change: impl FnOnce(&mut PoolerFacts)) {
    let Facts::Pooler(facts) = world.facts(&TargetId::pooler("west-pool1")) else { panic!("no pooler") };
    change(facts);
}

fn pool(facts: &mut PoolerFacts) -> &mut handover::model::PoolFacts {
    facts.databases.get_mut("accounts").unwrap().as_mut().unwrap()
}

/// Every objection as a line; `~` marks what may pass by waiting.
fn told(world: &World) -> String {
    let database = &world.topology.databases["accounts"];
    let found = objections(&world.topology, database, &west(), &east(), &world.live);
    found.iter().map(|it| format!("{} {}\n    {}\n", if it.may_pass { "~" } else { "-" }, it.what, it.advice)).collect()
}

fn client(application: &str, user: &str, address: Option<&str>, ports: &[u16]) -> ClientFacts {
    ClientFacts {
        application: application.to_owned(),
        user: user.to_owned(),
        address: address.map(str::to_owned),
        count: ports.len().max(1) as u64,
        ports: ports.to_vec(),
    }
}

#[test]
fn a_healthy_database_can_be_switched_over() {
    let world = World::healthy(EXAMPLE);
    assert_eq!(told(&world), "");
}

#[test]
fn what_is_wrong_with_a_pooler_is_said() {
    let cases: [fn(&mut PoolerFacts); 8] = [
        |facts| facts.writable = false,
        |facts| facts.query_wait_timeout = std::time::Duration::from_secs(1),
        |facts| pool(facts).mode = PoolMode::Session,
        |facts| pool(facts).own_min_size = 5,
        |facts| pool(facts).paused = true,
        |facts| pool(facts).route = "10.9.9.9:5432".to_owned(),
        |facts| pool(facts).route = "10.10.0.100:5432 and 10.20.0.100:5432".to_owned(),
        |facts| facts.gaps = vec!["the consoles 10.10.0.111:6432 and 10.10.0.112:6432 are of one process".to_owned()],
    ];
    let mut all = String::new();
    for change in cases {
        let mut world = World::healthy(EXAMPLE);
        pooler(&mut world, change);
        let text = told(&world);
        assert!(!text.is_empty());
        all += &text;
    }
    insta::assert_snapshot!(all);
}

#[test]
fn another_manager_is_an_objection_unless_its_host_can_hold_it_back() {
    let mut world = World::healthy(EXAMPLE);
    member(&mut world, &east(), |facts| _ = facts.settings.insert("manager".to_owned(), "Patroni".to_owned()));
    let text = told(&world);
    assert!(text.starts_with("- east-pg1 is managed by Patroni") && text.contains("`inhibit` and `allow`"), "{text}");
    let held_back = EXAMPLE.replace(
        "east-db1: {transport: ssh, address: 10.20.0.100, user: postgres}",
        "east-db1: {transport: ssh, address: 10.20.0.100, user: postgres, commands: {inhibit: [patronictl, pause], \
         allow: [patronictl, resume]}}",
    );
    assert_ne!(held_back, EXAMPLE);
    assert_eq!(told(&world.with_topology(&held_back)), "");
}

#[test]
fn clients_come_through_the_poolers_or_are_declared() {
    let known = |world: &mut World| {
        pooler(world, |facts| pool(facts).servers = ["10.10.0.1:40001", "[fd00::1]:40002"].map(str::to_owned).into());
    };
    let mut world = World::healthy(EXAMPLE);
    known(&mut world);
    member(&mut world, &west(), |facts| {
        facts.clients =
            vec![client("app", "app", Some("10.10.0.1"), &[40001]), client("app", "app", Some("fd00::1"), &[40002])];
    });
    assert_eq!(told(&world), "");
    // From the pooler's own machine, but not its connections; from elsewhere; from the server's own machine.
    member(&mut world, &west(), |facts| {
        facts.role = Role::Primary;
        facts.clients = vec![
            client("app", "app", Some("10.10.0.1"), &[40001, 40003]),
            client("nagios", "monitor", Some("10.10.7.7"), &[1, 2]),
            client("", "backup", None, &[]),
        ];
    });
    let notes =
        |world: &World| direct_notes(&world.topology, &world.topology.databases["accounts"], &west(), &world.live);
    assert_eq!(notes(&world), [""; 0]);
    insta::assert_snapshot!(told(&world));
    // Declared, they are no objection; the plan says that they are cut.
    let direct = EXAMPLE.replace(
        "    route: {pooler_database: accounts}",
        "    direct: [{application_name: nagios, user: monitor, address: 10.10.0.0/16}, {user: backup}, {address: 10.10.0.1}]\n    \
         route: {pooler_database: accounts}",
    );
    assert_ne!(direct, EXAMPLE);
    let world = world.with_topology(&direct);
    assert_eq!(told(&world), "");
    insta::assert_snapshot!(notes(&world).join("\n"));
    // An item fits only if all of it does; an address that is translated belongs to a pooler.
    let narrow = direct.replace("10.10.0.0/16", "10.10.0.0/24").replace(", {address: 10.10.0.1}", "");
    let translated =
        narrow.replacen("address: \"10.10.0.110:6432\"", "egress: [10.10.0.1]\n    address: \"10.10.0.110:6432\"", 1);
    let text = told(&world.with_topology(&translated));
    assert!(text.contains("nagios") && text.lines().count() == 2, "{text}");
}

#[test]
fn what_is_wrong_with_a_member_or_a_silent_pooler_is_said() {
    let set =
        |facts: &mut MemberFacts, name: &str, value: &str| _ = facts.settings.insert(name.to_owned(), value.to_owned());
    let mut world = World::healthy(EXAMPLE);
    member(&mut world, &west(), |facts| set(facts, "rights", "missing: EXECUTE on pg_promote(boolean, integer)"));
    member(&mut world, &east(), |facts| {
        facts.replay_paused = true;
        set(facts, "default_transaction_read_only", "on");
    });
    let silent =
        Observed::Unreachable(Unreachable::new("connection refused", "console of west-pool1 (10.10.0.110:6432)"));
    world.live.insert(TargetId::pooler("west-pool1"), silent);
    insta::assert_snapshot!(told(&world));
}
