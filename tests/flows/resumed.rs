//! A run whose process dies: gone on with to its end, or rolled back, and clients notice nothing.

use handover::event::Event;

use super::clients::{Clients, unharmed};
use super::history;
use super::world::{World, until};

#[test]
fn a_killed_run_is_gone_on_with_or_rolled_back_and_clients_notice_nothing() {
    let world = World::start();
    let topology = world.topology();
    let clients = Clients::start(&world);
    let processes = history::Processes::watch();

    // Killed while traffic moves: whoever goes on does what is left, and gates are judged again.
    let drain = world.plan(&topology, "drain.yaml", &["--drain", "west"]);
    let mut run = world.begin(&topology, &drain);
    run.until_begun("gate.soak.50%");
    run.kill();
    world.handover(&["runs"]).code(0).says(&["died", "drain west"]);
    world.handover(&["runs", "show"]).code(0).says(&["handover apply --resume", "handover rollback"]);
    world.handover(&["apply", "--resume"]).code(64).says(&["there is no terminal to ask on"]);
    let mut again = world.resume();
    again.until("it goes on", |event| matches!(event, Event::RunResumed { done, .. } if *done > 0));
    again.end(0);
    let begun = |id: &str| {
        let begins = |event: &&Event| matches!(event, Event::StepStarted { step, .. } if step.0 == id);
        again.seen.iter().filter(begins).count()
    };
    assert_eq!((begun("gate.soak.50%"), begun("gate.soak.10%")), (1, 0), "{}", again.story());
    world.handover(&["runs", "show"]).code(0).says(&["DONE: drain west", "goes on"]);
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&["Nothing to do"]);
    assert!(world.is_primary("east-pg1") && world.is_primary("east-pg2"));
    // A new primary has taken over: the way back is a plan.
    let way_back = "handover plan --restore west --failback";
    world.handover(&["rollback", "--auto-approve"]).code(3).says(&["cannot be rolled back", way_back]);
    world.handover(&["apply", "--resume", "--auto-approve"]).code(3).says(&["is done"]);

    // Killed on the way back, without a terminal: taken back to the drained state.
    let drained = world.facts();
    let restore = world.plan(&topology, "restore.yaml", &["--restore", "west", "--failback"]);
    let plan = restore.to_string_lossy();
    let begun = world.handover(&["apply", "--auto-approve", "--detach", "--format", "json", &plan]).code(0);
    let begun: serde_json::Value = serde_json::from_str(&begun.out).unwrap();
    let run = begun["run"].as_str().unwrap();
    until("traffic is on its way", || {
        let records = world.handover(&["runs", "show", run, "--format", "json"]).code(0);
        let told: serde_json::Value = serde_json::from_str(&records.out).unwrap();
        let gate = told["steps"].as_array().unwrap().iter().find(|step| step["step"] == "gate.soak.10%").unwrap();
        gate["outcome"] == "done"
    });
    world.shell(lab::OPERATOR, &format!("kill -9 {}", begun["process"]));
    world.handover(&["rollback", "--auto-approve"]).code(0).says(&["rolled back", "taken back"]);
    world.unchanged(&drained);
    world.handover(&["status"]).code(0).says(&["west stays drained"]);

    // And all the way back, with a gate that is passed: nobody works during a freeze, unless somebody says why.
    let freeze = "freezes: [{from: 2020-01-01T00:00Z, to: 2099-01-01T00:00Z, reason: forever}]";
    let frozen = world.edited("frozen.yaml", &[("freezes: []", freeze)]);
    let restore = world.plan(&frozen, "frozen-restore.yaml", &["--restore", "west", "--failback"]);
    let plan = restore.to_string_lossy();
    world.handover_on(&frozen, &["apply", "--auto-approve", &plan]).code(3).says(&["forever", "--override"]);
    let passed = ["--override", "freezes", "--reason", "nobody is here"];
    world.handover_on(&frozen, &[&["apply", "--auto-approve", &plan][..], &passed].concat()).code(0);
    world.handover(&["runs", "show"]).code(0).says(&["DONE: restore west"]);
    let told = world.handover(&["report"]).code(0);
    assert!(told.out.contains("nobody is here"), "{}", told.out);

    clients.go_on();
    unharmed(&clients.end(&world));
    history::tells_no_secret(&world);
    processes.show_no_secret(&world);
    world.end();
}
