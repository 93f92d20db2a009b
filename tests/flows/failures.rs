//! Failures midway: what was begun is taken back where that is safe, clients go on, and a new plan finishes the work.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use handover::event::{Event, Verdict};
use lab::Selection;

use super::clients::{Clients, unharmed};
use super::history;
use super::world::{Running, World, until};

/// `policy.max_write_stall` of the worked example.
const MAX_STALL_MS: u64 = 2_000;

/// A topology that wants the primary of accounts in the east.
fn moved(world: &World, name: &str, edits: &[(&str, &str)]) -> PathBuf {
    let primary = ("primary: west                               # a facility", "primary: east  # a facility");
    world.edited(name, &[&[primary], edits].concat())
}

/// Applies a fresh plan for a topology that moves one primary; `disturb` is called when the gate has said go, `mend` when the first
/// step has failed.
fn switchover(world: &World, topology: &Path, name: &str, disturb: impl FnOnce(), mend: impl FnOnce()) -> Running {
    let plan = world.plan(topology, name, &[]);
    let mut run = world.begin(topology, &plan);
    let go = |event: &Event| matches!(event, Event::GateJudged { step, verdict: Verdict::Go, .. } if step.0 == "db.accounts.gate.ready");
    run.until("the gate says go", go);
    disturb();
    run.until("a step fails", |event| matches!(event, Event::StepFailed { .. }));
    mend();
    run.end(4);
    run
}

/// The section failed at this step, everything is as before, and clients go on.
#[track_caller]
fn undone(world: &World, run: &Running, step: &str, before: &str, clients: &Clients) {
    let failures = run.failures();
    assert!(failures.iter().any(|(failed, _)| *failed == step), "{failures:#?}\n{}", run.story());
    let undone = run.undone();
    for step in ["db.accounts.prepare_promotion.east-pg1", "db.accounts.prepare_demotion.west-pg1"] {
        assert!(undone.contains(&step), "{step} was not undone: {undone:?}");
    }
    world.unchanged(before);
    let report = clients.go_on();
    assert!(report.is_clean(), "{report:#?}\n{}", run.story());
    history::told_as_it_was(world, run, "stopped");
    let stall = report.databases["accounts"].longest_stall_ms;
    assert!(stall <= MAX_STALL_MS, "clients waited {stall} ms:\n{}", run.story());
}

#[test]
fn a_switchover_that_fails_is_undone_and_clients_go_on() {
    let world = World::start();
    let clients = Clients::start(&world);
    let before = world.facts();
    let plain = moved(&world, "moved.yaml", &[]);

    // A transaction that does not end: the poolers cannot be paused in time.
    let mut transaction = world.session("west", "10.10.0.110", 6432, "app", "accounts");
    let open = || {
        transaction.send("begin");
        assert_eq!(transaction.ask("select 'open'"), "open");
    };
    let run = switchover(&world, &plain, "pause.yaml", open, || ());
    assert_eq!(transaction.ask("select 'still open'"), "still open");
    transaction.send("commit");
    undone(&world, &run, "db.accounts.pause.west-pool1", &before, &clients);

    // A replica that stops applying what it receives. While it does, it does not connect to a restarted primary either, and commits
    // wait for it: it is mended as soon as the switchover has given up.
    let replica = RefCell::new(world.session("east", "10.20.0.100", 5432, "handover", "accounts"));
    let halt = || assert_eq!(replica.borrow_mut().ask("select pg_wal_replay_pause()"), "");
    let run = switchover(&world, &plain, "replay.yaml", halt, || {
        assert_eq!(replica.borrow_mut().ask("select pg_wal_replay_resume()"), "");
    });
    undone(&world, &run, "db.accounts.catch_up", &before, &clients);

    // A stop that fails, and one that does not come back.
    let host = "west-db1: {transport: ssh, address: 10.10.0.100, user: postgres}";
    for (name, stop) in [("fails", "[\"false\"]"), ("hangs", "[sleep, \"60\"]")] {
        let commands = host.replace('}', &format!(", commands: {{stop: {stop}}}}}"));
        let topology = moved(&world, &format!("{name}.yaml"), &[(host, &commands)]);
        let run = switchover(&world, &topology, &format!("{name}-plan.yaml"), || (), || ());
        undone(&world, &run, "db.accounts.fence", &before, &clients);
    }

    // Nothing that was left behind prevents the next one.
    let plan = world.plan(&plain, "works.yaml", &[]);
    world.apply(&plain, &plan).code(0);
    assert!(world.is_primary("east-pg1"));
    world.handover_on(&plain, &["plan", "--detailed-exitcode"]).code(0);
    clients.go_on();
    unharmed(&clients.end(&world));
    world.end();
}

#[test]
fn a_drain_that_is_disturbed_retreats_or_stops_and_can_be_finished() {
    let world = World::start();
    let topology = world.topology();
    let clients = Clients::start(&world);

    // Ctrl-C while a stage is watched.
    let plan = world.plan(&topology, "stopped.yaml", &["--drain", "west"]);
    let mut run = world.begin(&topology, &plan);
    run.until_begun("gate.soak.50%");
    run.interrupt();
    run.end(4);
    assert_eq!(
        world.weights("east-lb1", "orderform"),
        ["east-app1 100 0", "east-app2 100 0", "west-app1 33 0", "west-app2 33 0"]
    );
    let ways = run.seen.iter().find_map(|event| match event {
        Event::RunEnded { summary, report, .. } => Some(format!("{summary} {report:?}")),
        _ => None,
    });
    assert!(ways.is_some_and(|text| text.contains("handover plan --drain west")), "how to go on is said");
    world.apply(&topology, &plan).code(3).says(&["used by run"]);

    // The end of the terminal while it goes on.
    let mut run = world.resume();
    run.until_begun("gate.soak.50%");
    run.hang_up();
    run.end(4);

    // A name server dies right before DNS is changed.
    let plan = world.plan(&topology, "dns.yaml", &["--drain", "west"]);
    let mut run = world.begin(&topology, &plan);
    run.until(
        "the edge has shifted",
        |event| matches!(event, Event::GateJudged { step, verdict: Verdict::Go, .. } if step.0 == "gate.soak.100%"),
    );
    world.lab.kill(&Selection::Target("east-ns1".to_owned())).unwrap();
    run.end(4);
    assert_eq!(world.published("west-ns1", "pay").len(), 4, "the same addresses at both again");
    world.lab.start_servers(&Selection::Target("east-ns1".to_owned())).unwrap();
    until("all name servers agree", || {
        ["west-ns1", "west-ns2", "east-ns1", "east-ns2"].iter().all(|server| world.published(server, "pay").len() == 4)
    });

    // A new plan holds what is left; then everything comes back.
    let plan = world.plan(&topology, "finish.yaml", &["--drain", "west"]);
    world.apply(&topology, &plan).code(0);
    assert_eq!(world.published("west-ns2", "hop"), ["2 10.20.0.80", "2 10.20.0.81"]);
    assert!(world.is_primary("east-pg1") && world.is_primary("east-pg2"));
    let plan = world.plan(&topology, "restore.yaml", &["--restore", "west", "--failback"]);
    world.apply(&topology, &plan).code(0);
    unharmed(&clients.go_on());

    // The survivors get sick: the pooler of the east dies, so that its applications cannot serve.
    let back = world.facts();
    let plan = world.plan(&topology, "sick.yaml", &["--drain", "west"]);
    let mut run = world.begin(&topology, &plan);
    run.until_begun("gate.soak.50%");
    world.lab.kill(&Selection::Target("east-pool1".to_owned())).unwrap();
    run.end(3);
    let retreated = |event: &Event| matches!(event, Event::GateJudged { verdict: Verdict::Retreat, .. });
    assert!(run.seen.iter().any(retreated), "{:#?}", run.seen);
    history::told_as_it_was(&world, &run, "undone");
    world.lab.start_servers(&Selection::Target("east-pool1".to_owned())).unwrap();
    world.unchanged(&back);
    until("the east is well again", || world.handover(&["status"]).code == 0);
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&["Nothing to do"]);
    clients.go_on();
    clients.end(&world);
    world.end();
}
