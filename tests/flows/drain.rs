//! Draining a facility and bringing it back, under load.

use std::path::Path;

use super::clients::{Clients, unharmed};
use super::history;
use super::world::World;
use handover::model::Span;
use handover::plan::Plan;

/// A plan's text without what differs between two plans from the same state: its identity, moments, and estimates that are measured.
fn timeless(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(Plan::from_yaml(&text).unwrap().format, 1);
    let varies = |line: &&str| {
        let line = line.trim_start_matches([' ', '-']);
        ["id: 20", "created: ", "expires: ", "expected: ", "expected_stall: ", "seal: "]
            .iter()
            .any(|key| line.starts_with(key))
            || line.starts_with("writers of ") && line.contains(" wait about ")
    };
    text.lines().filter(|line| !varies(line)).map(str::to_owned).collect()
}

#[track_caller]
fn same(a: &[String], b: &[String]) {
    let differing = a.iter().zip(b).find(|(a, b)| a != b);
    assert!(a.len() == b.len() && differing.is_none(), "{} and {} lines; {differing:?}", a.len(), b.len());
}

#[test]
fn a_facility_is_drained_and_brought_back_and_clients_notice_nothing() {
    let world = World::start();
    let topology = world.topology();
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&["Nothing to do"]);
    world.handover(&["status"]).code(0);
    let before = world.facts();
    let clients = Clients::start(&world);

    // The same state makes the same plan.
    let drain = world.plan(&topology, "drain.yaml", &["--drain", "west", "--reason", "generator test"]);
    let again = world.plan(&topology, "again.yaml", &["--drain", "west", "--reason", "generator test"]);
    same(&timeless(&drain), &timeless(&again));
    let shown = world.handover(&["show", &drain.to_string_lossy()]).code(0);
    assert!(shown.out.contains("drain west"), "{}", shown.out);
    let file = world.path("differs.yaml");
    world.handover(&["plan", "--drain", "west", "--detailed-exitcode", "--out", &file.to_string_lossy()]).code(2);
    world.unchanged(&before);

    // One run at a time.
    let mut run = world.begin(&topology, &drain);
    run.until_begun("gate.soak.10%");
    world.apply(&topology, &again).code(5).says(&["somebody is at work: run", "of flow@", "handover runs follow"]);
    world.handover(&["runs"]).code(0).says(&["In progress: drain west, by flow@"]);
    let followed = world.follow();
    run.end(0);
    let followed = followed.join().unwrap();
    assert_eq!(followed.code, 0, "{}", followed.err);
    assert!(followed.out.trim_end().ends_with("run ended, done: drain west: done"), "{}", followed.out);
    history::told_as_it_was(&world, &run, "done");
    assert_eq!(
        world.weights("east-lb1", "orderform"),
        ["east-app1 100 0", "east-app2 100 0", "west-app1 0 1", "west-app2 0 1"]
    );
    for server in ["west-ns1", "west-ns2", "east-ns1", "east-ns2"] {
        for hostname in ["pay", "hop", "www"] {
            assert_eq!(world.published(server, hostname), ["2 10.20.0.80", "2 10.20.0.81"], "{hostname} at {server}");
        }
    }
    for member in ["east-pg1", "east-pg2", "east-pg3"] {
        assert!(world.is_primary(member), "{member}");
    }
    clients.go_on();

    // Drained stays drained.
    let status = world.handover(&["status"]);
    assert!(status.out.contains("generator test"), "{}", status.out);
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&[
        "Nothing to do",
        "west stays drained",
        "handover plan --restore west",
    ]);
    std::fs::rename(world.path("state"), world.path("state.kept")).unwrap();
    world
        .handover(&["plan", "--detailed-exitcode"])
        .code(0)
        .says(&["west was found wholly drained", "handover plan --restore west"]);
    std::fs::remove_dir_all(world.path("state")).unwrap();
    std::fs::rename(world.path("state.kept"), world.path("state")).unwrap();

    // Back, but not the primaries.
    let restore = world.path("restore.yaml");
    world
        .handover(&["plan", "--restore", "west", "--out", &restore.to_string_lossy()])
        .code(0)
        .says(&["the primary of accounts stays at east-pg1", "--restore west --failback"]);
    world.apply(&topology, &restore).code(0);
    assert!(world.is_primary("east-pg1") && world.is_primary("east-pg2"));
    assert_eq!(
        world.weights("west-lb2", "website"),
        ["east-app1 100 0", "east-app2 100 0", "west-app1 100 0", "west-app2 100 0"]
    );
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&["Nothing to do"]);
    let status = world.handover(&["status"]);
    assert!(status.out.contains("accounts"), "{}", status.out);

    // And the primaries.
    let failback = world.plan(&topology, "failback.yaml", &["--restore", "west", "--failback"]);
    world.apply(&topology, &failback).code(0);
    assert!(world.is_primary("west-pg1") && world.is_primary("west-pg2") && world.is_primary("east-pg3"));
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&["Nothing to do"]);
    world.handover(&["status"]).code(0);

    history::tells_no_secret(&world);
    clients.go_on();
    let report = clients.end(&world);
    unharmed(&report);
    let longest: Span = "2s".parse().unwrap();
    for (name, database) in &report.databases {
        assert!(u128::from(database.longest_stall_ms) < longest.0.as_millis(), "{name}: {database:#?}");
    }
    world.end();
}
