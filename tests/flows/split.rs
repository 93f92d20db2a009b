//! Somebody promotes replicas by hand while their primaries run: two sides take writes. An operator chooses one, and all is one again.

use super::world::{World, until};

#[test]
fn two_primaries_are_told_and_the_one_that_is_chosen_survives() {
    let world = World::start();
    for member in ["east-pg1", "east-pg2"] {
        assert_eq!(world.sql(member, "select pg_promote()"), "t");
        world.sql(member, "set synchronous_commit = off; create table only_in_the_east (n int)");
    }
    for member in ["west-pg1", "west-pg2"] {
        world.sql(member, "set synchronous_commit = off; create table only_in_the_west (n int)");
    }
    world.handover(&["status"]).code(12).says(&[
        "accounts has 2 primaries: east-pg1 and west-pg1",
        "products has 2 primaries: east-pg2 and west-pg2",
        "SPLIT",
    ]);
    let metrics = world.handover(&["status", "--format", "prometheus"]).code(12).out;
    assert!(metrics.contains("kind=\"primaries\"} 2\n"), "{metrics}");
    world.handover(&["plan"]).code(3).says(&[
        "accounts is split: east-pg1 and west-pg1 take writes, each by itself",
        "east-pool1 and west-pool1 lead",
        "no pooler leads to it",
        "--survivor accounts=west-pg1",
        "--survivor products=east-pg2",
    ]);
    world.handover(&["plan", "--drain", "east"]).code(3).says(&["nobody is chosen for you"]);

    // The older history of one database, and the newer one of the other.
    let choice = ["--survivor", "accounts=west-pg1", "--survivor", "products=east-pg2"];
    let plan = world.plan(&world.topology(), "split.yaml", &choice);
    let file = plan.to_string_lossy().into_owned();
    let apply = ["apply", "--auto-approve", &file];
    let few = ["--accept-loss", "accounts=1", "--accept-loss", "products=1"];
    world.handover(&apply).code(3).says(&["to accept it: --accept-loss accounts="]);
    world.handover(&[&apply[..], &few].concat()).code(3).says(&["bytes would be lost, and 1 are accepted"]);
    assert!(world.is_primary("east-pg1") && world.is_primary("west-pg2"), "nothing was done");
    let all = ["--accept-loss", "accounts=unknown", "--accept-loss", "products=unknown"];
    world.handover(&[&apply[..], &all].concat()).code(0).says(&[
        "fence east-pg1: west-pg1 is in charge of accounts",
        "fence west-pg2: east-pg2 is in charge of products",
        "east-pg1: it had",
        "west-pg2: it had",
    ]);
    until("all is one again", || world.handover(&["status"]).says(&[]).code == 0);
    let tables = "select string_agg(relname, ' ' order by relname) from pg_class where relname like 'only_in_the_%'";
    for (members, kept) in
        [(["west-pg1", "east-pg1"], "only_in_the_west"), (["east-pg2", "west-pg2"], "only_in_the_east")]
    {
        let [primary, replica] = members;
        assert!(world.is_primary(primary) && !world.is_primary(replica));
        for member in members {
            assert_eq!(world.sql(member, tables), kept, "{member}");
        }
    }
    world.handover(&["plan", "--detailed-exitcode"]).code(0).says(&["the primary of products stays at east-pg2"]);
    world.end();
}
