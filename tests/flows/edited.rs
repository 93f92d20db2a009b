//! The file is edited, and what is live follows it.

use super::clients::{Clients, unharmed};
use super::world::World;

#[test]
fn what_is_live_follows_the_edited_file() {
    let world = World::start();
    let clients = Clients::start(&world);
    let file = world.edited(
        "edited.yaml",
        &[
            (
                "share: {west: 50%, east: 50%}               # of the requests",
                "share: {west: 20%, east: 80%}  # of the requests",
            ),
            ("ttl: 2s", "ttl: 5s"),
            ("primary: west                               # a facility", "primary: east  # a facility"),
        ],
    );
    let plan = world.path("plan.yaml");
    let out = plan.to_string_lossy().into_owned();
    world.handover_on(&file, &["plan", "--detailed-exitcode", "--out", &out]).code(2).says(&[
        "orderform",
        "west 20%",
        "east 80%",
        "accounts",
        "west-pg1 → east-pg1",
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
    world.end();
}
