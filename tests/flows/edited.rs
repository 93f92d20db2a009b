//! The file is edited, and what is live follows it.

use std::path::Path;

use handover::event::Event;
use lab::Selection;

use super::clients::{Clients, unharmed};
use super::world::{World, until};

#[test]
fn what_is_live_follows_the_edited_file() {
    let world = World::start();
    let clients = Clients::start(&world);
    let with_share = |name: &str, share: &str| {
        world.edited(
            name,
            &[
                (
                    "share: {west: 50%, east: 50%}               # of the requests",
                    &format!("share: {share}  # of the requests"),
                ),
                ("ttl: 2s", "ttl: 5s"),
                ("primary: west                               # a facility", "primary: east  # a facility"),
            ],
        )
    };
    let file = with_share("edited.yaml", "{west: 20%, east: 80%}");
    let plan = world.path("plan.yaml");
    let out = plan.to_string_lossy().into_owned();
    world.handover_on(&file, &["plan", "--detailed-exitcode", "--out", &out]).code(2).says(&[
        "orderform",
        "west 20%",
        "east 80%",
        "accounts",
        "west-pg1 → east-pg1",
        "DNS can only say present or absent",
    ]);
    let drain = world.plan(&file, "drain.yaml", &["--drain", "west"]);
    let status = world.handover_on(&file, &["status"]);
    assert_eq!(status.code, 10, "{}", status.out);

    world.apply(&file, &plan).code(0);
    let shares = ["east-app1 100 0", "east-app2 100 0", "west-app1 25 0", "west-app2 25 0"];
    for proxy in ["west-lb1", "west-lb2", "east-lb1", "east-lb2"] {
        assert_eq!(world.weights(proxy, "orderform"), shares, "{proxy}");
        assert!(world.weights(proxy, "website").iter().all(|server| server.ends_with(" 100 0")), "{proxy}");
    }
    for server in ["west-ns1", "west-ns2", "east-ns1", "east-ns2"] {
        let addresses = ["10.10.0.80", "10.10.0.81", "10.20.0.80", "10.20.0.81"];
        assert_eq!(world.published(server, "pay"), addresses.map(|address| format!("5 {address}")), "{server}");
        assert_eq!(world.published(server, "www"), addresses.map(|address| format!("2 {address}")), "{server}");
    }
    assert!(world.is_primary("east-pg1") && !world.is_primary("west-pg1") && world.is_primary("west-pg2"));

    world.handover_on(&file, &["plan", "--detailed-exitcode"]).code(0).says(&["Nothing to do"]);
    world.handover_on(&file, &["status"]).code(0);
    world.apply(&file, &plan).code(3).says(&["this plan was used by run", "make a new one"]);
    world.apply(&file, &drain).code(3).says(&[
        "the plan is stale",
        "west-pg1 is primary",
        "now: it is replica",
        "TTL 5s",
    ]);

    clients.go_on();
    unharmed(&clients.end(&world));
    restarted(&world, &with_share("shifted.yaml", "{west: 70%, east: 30%}"));
    world.end();
}

/// A proxy is restarted in the middle of a shift, without any traffic: it forgets its weights, gets them again, and the shift goes on,
/// judged by probes. One that is restarted when nobody looks shows as a difference.
fn restarted(world: &World, file: &Path) {
    let restart = || {
        let proxy = Selection::Target("west-lb2".to_owned());
        world.lab.kill(&proxy).unwrap();
        world.lab.start_servers(&proxy).unwrap();
    };
    let shifted = ["east-app1 43 0", "east-app2 43 0", "west-app1 100 0", "west-app2 100 0"];
    let plan = world.plan(file, "shift.yaml", &[]);
    let mut run = world.begin(file, &plan);
    run.until_begun("gate.soak.50%");
    restart();
    let again = |text: &String| text.starts_with("west-lb2 was restarted") && text.ends_with("they were set again");
    run.until("it is told", |event| matches!(event, Event::Warning { text } if again(text)));
    run.end(0);
    assert_eq!(world.weights("west-lb2", "orderform"), shifted, "{}", run.story());
    let probed =
        |event: &Event| matches!(event, Event::GateJudged { measured, .. } if measured.contains("probes answered"));
    assert!(run.seen.iter().any(probed), "{}", run.story());
    let reported = |event: &Event| matches!(event, Event::RunEnded { report, .. } if report.warnings.iter().any(again));
    assert!(run.seen.iter().any(reported), "{}", run.story());
    world.handover_on(file, &["plan", "--detailed-exitcode"]).code(0).says(&["Nothing to do"]);

    restart();
    until("the proxy answers", || world.handover_on(file, &["status"]).code == 10);
    let plan = world.path("again.yaml");
    let out = plan.to_string_lossy().into_owned();
    let words = ["west-lb2", "orderform", "west 70%"];
    world.handover_on(file, &["plan", "--detailed-exitcode", "--out", &out]).code(2).says(&words);
    world.apply(file, &plan).code(0);
    assert_eq!(world.weights("west-lb2", "orderform"), shifted);
}
