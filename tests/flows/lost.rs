//! A facility loses its power under load, the service goes on without it by one command, and days later it comes back with the data that
//! it had, its old primaries taking writes.

use super::clients::Clients;
use super::world::{World, until};

#[test]
fn a_facility_is_lost_the_service_goes_on_and_it_comes_back_without_harm() {
    let world = World::start();
    // Whoever is asked once knows how far every primary was.
    until("everything is well", || world.handover(&["status"]).code == 0);
    let clients = Clients::start(&world);
    world.lab.power_off("west").unwrap();
    world.handover(&["plan"]).code(3).says(&["nothing in west answers", "handover plan --lost west"]);

    // Nothing is lost that was not accepted, and nothing is done before.
    let emergency = ["apply", "--lost", "west", "--auto-approve"];
    let proxies = || world.weights("east-lb1", "orderform");
    let before = proxies();
    let facts = until_dead(&world, &emergency);
    facts.says(&["to accept it: --accept-loss products="]);
    assert_eq!(proxies(), before);
    let accepted = ["--accept-loss", "accounts=unknown", "--accept-loss", "products=unknown"];
    world.handover(&[&emergency[..], &accepted].concat()).code(0).says(&[
        "go on without west: done",
        "west is dead",
        "the way back is `handover plan --restore west --failback`",
    ]);
    let back = world.shell(lab::OPERATOR, &format!("cat {}/*.return.yaml", world.path("plans").display()));
    for expected in ["skeleton: true", "Database accounts", "west-lb1"] {
        assert!(back.contains(expected), "{expected}: {back}");
    }
    world
        .script("$HANDOVER apply --auto-approve plans/*.return.yaml")
        .code(65)
        .says(&["is the skeleton of a way back"]);
    assert!(world.is_primary("east-pg1") && world.is_primary("east-pg2") && world.is_primary("east-pg3"));
    for member in ["east-pg1", "east-pg2", "east-pg3"] {
        assert_eq!(world.sql(member, "show synchronous_standby_names"), "", "{member} waits for somebody");
    }
    for name in ["pay", "hop", "www"] {
        let published = world.published("east-ns2", name);
        assert_eq!(published, ["2 10.20.0.80", "2 10.20.0.81"]);
    }
    clients.go_on();
    let lost = clients.end_after_a_loss(&world);
    // Every commit of accounts was confirmed by a replica in the other facility.
    assert_eq!(lost["accounts"], 0, "{lost:?}");

    world.handover(&["status"]).code(11).says(&["west is lost and stays out"]);
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&["owed until it answers"]);
    world.handover(&["plan", "--restore", "west"]).code(3).says(&["work is owed there"]);
    world.handover(&["admit", "west-lb1"]).code(3).says(&["west is lost since epoch 1"]);

    // Nobody has told the machines of west: they start as what they were, and take writes that nobody else has.
    world.lab.power_on("west", true).unwrap();
    until("two primaries are seen", || world.handover(&["status"]).says(&[]).code == 12);
    world.sql("west-pg1", "set synchronous_commit = off; create table nobody_else_has_this (n int)");
    until("everything of west answers", || {
        let file = world.path("seen.yaml");
        // A plan is never overwritten.
        let _ = std::fs::remove_file(&file);
        world.handover(&["plan", "--out", &file.to_string_lossy()]).out.contains("west answers again")
    });
    world.apply(&world.topology(), &world.path("seen.yaml")).code(0).says(&[
        "fence west-pg1: east-pg1 is in charge of accounts",
        "west-pg1: it had",
        "accounts.pg_catalog.pg_attribute",
        "rebuilt by",
    ]);
    assert!(!world.is_primary("west-pg1") && !world.is_primary("west-pg2"));
    assert_eq!(world.sql("east-pg3", "show max_slot_wal_keep_size"), "-1");

    world.handover(&["admit", "west-lb1"]).code(0);

    // It serves again only once it has been well for a while.
    let patient = world.edited("patient.yaml", &[("settle: 3s", "settle: 1h")]);
    let restore = ["plan", "--restore", "west", "--failback", "--out", "restore.yaml"];
    let settles = ["west came back after a loss and has not settled", "asks for 1h"];
    world.handover_on(&patient, &restore).code(3).says(&settles);
    let passed = ["plan", "--restore", "west", "--override", "settle", "--reason", "the other one burns"];
    world.handover_on(&patient, &passed).code(0).says(&["gate settle is overridden by"]);
    until("west has settled", || world.handover(&restore).says(&[]).code == 0);
    world.apply(&world.topology(), &world.path("restore.yaml")).code(0);
    assert!(world.is_primary("west-pg1") && world.is_primary("west-pg2") && world.is_primary("east-pg3"));
    until("it is healthy", || world.handover(&["status"]).code == 0);
    world.end();
}

/// Tries until it is certain that it is dead: the proxies' checks take their time.
fn until_dead(world: &World, emergency: &[&str]) -> super::world::Answer {
    let mut last = world.handover(emergency);
    until("west counts as dead", || {
        if last.err.contains("to accept it") {
            return true;
        }
        last = world.handover(emergency);
        false
    });
    last.code(3)
}
