//! Wishes other than a drain: they stay until they are released, and say how.

use super::world::{World, until};

#[test]
fn primaries_shares_and_ttls_stay_as_asked_until_they_are_released() {
    let world = World::start();
    let topology = world.edited("short.yaml", &[("dns_recovery_target: 5m", "dns_recovery_target: 1s")]);
    let apply = |name: &str, args: &[&str]| {
        let plan = world.plan(&topology, name, args);
        world.apply(&topology, &plan).code(0)
    };
    let shown = |args: &[&str], words: &[&str]| {
        world.handover_on(&topology, args).code(0).says(words);
    };

    // Replicas that have just turned round may lag for a moment.
    let healthy = || until("it is healthy", || world.handover_on(&topology, &["status"]).code == 0);

    let wishes =
        ["--primary", "accounts=east", "--primary", "prices=east-pg3", "--share", "orderform=west:20%,east:80%"];
    let moved = ["--reason", "noisy neighbour", "--review-by", "2026-01-01T00:00Z"];
    apply("moved.yaml", &[&wishes[..], &moved].concat()).says(&["the share of orderform stays east 80%, west 20%"]);
    assert!(world.is_primary("east-pg1") && world.is_primary("west-pg2") && world.is_primary("east-pg3"));
    let weights = ["east-app1 100 0", "east-app2 100 0", "west-app1 25 0", "west-app2 25 0"];
    assert_eq!(world.weights("west-lb1", "orderform"), weights);
    healthy();
    shown(
        &["status"],
        &[
            "the primary of accounts stays at east",
            "noisy neighbour",
            "OVERDUE",
            "handover plan --primary accounts=file",
            "handover plan --share orderform=file",
        ],
    );
    shown(
        &["plan", "--detailed-exitcode"],
        &["Nothing to do", "overdue: the share of orderform stays east 80%, west 20%"],
    );
    world
        .handover_on(&topology, &["plan", "--share", "hoplinks=file", "--primary", "products=haven"])
        .code(3)
        .says(&["products has no member there", "its members are east-pg2 (east) and west-pg2 (west)"]);

    // A primary that is where it is wanted already is held without a step.
    apply("held.yaml", &["--primary", "products=west-pg2"]).says(&["the primary of products stays at west-pg2"]);

    // Lower the TTLs first, then drain: everything at once comes back with what releases it.
    apply("lower.yaml", &["--lower-ttl"]).says(&["the TTL of website stays 1s"]);
    assert_eq!(world.published("east-ns2", "pay")[0], "1 10.10.0.80");
    shown(&["plan", "--detailed-exitcode"], &["Nothing to do", "the TTL of hoplinks stays 1s"]);
    apply("drain.yaml", &["--drain", "west"]);
    assert_eq!(world.published("west-ns2", "www"), ["1 10.20.0.80", "1 10.20.0.81"]);
    assert!(world.is_primary("east-pg2"));
    let released = ["--primary", "accounts=file", "--primary", "prices=file", "--share", "orderform=file"];
    apply("restore.yaml", &[&["--restore", "west", "--failback"], &released[..]].concat());
    healthy();
    assert!(!world.handover_on(&topology, &["status"]).out.contains("Held"));
    assert!(world.is_primary("west-pg1") && world.is_primary("west-pg2") && world.is_primary("east-pg3"));
    assert_eq!(world.published("west-ns2", "pay"), ["2 10.10.0.80", "2 10.10.0.81", "2 10.20.0.80", "2 10.20.0.81"]);
    shown(&["plan", "--detailed-exitcode"], &["Nothing to do"]);
    world.end();
}
