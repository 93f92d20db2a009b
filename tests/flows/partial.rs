//! A single server is lost: a proxy, and the primary of a database whose machine still answers. The rest goes on, and each comes back.

use lab::Selection;

use super::clients::Clients;
use super::world::{World, until};

#[test]
fn a_proxy_and_a_primary_are_lost_one_by_one_and_come_back() {
    let world = World::start();
    until("everything is well", || world.handover(&["status"]).code == 0);
    world.lab.kill(&server("west-lb1")).unwrap();
    let without = |name: &str| {
        until(name, || world.published("east-ns2", name) == ["2 10.10.0.81", "2 10.20.0.80", "2 10.20.0.81"])
    };
    world.handover(&["apply", "--lost", "west-lb1", "--auto-approve"]).code(0);
    without("pay");
    world.lab.start_servers(&server("west-lb1")).unwrap();
    until("it answers", || {
        let plan = world.path("seen.yaml");
        let _ = std::fs::remove_file(&plan);
        world.handover(&["plan", "--out", &plan.to_string_lossy()]).out.contains("10.10.0.80") && plan.exists()
    });
    world.apply(&world.topology(), &world.path("seen.yaml")).code(0);
    until("its address is published again", || world.published("east-ns2", "pay").len() == 4);

    let clients = Clients::start(&world);
    world.lab.kill(&server("west-pg1")).unwrap();
    until("nobody is primary of accounts", || world.handover(&["status"]).said("no primary of accounts answers"));
    world.handover(&["plan"]).code(3).says(&["handover plan --lost west-pg1"]);
    let apply = ["apply", "--lost", "west-pg1", "--auto-approve"];
    world.handover(&apply).code(0).says(&["go on without west-pg1: done"]);
    assert!(world.is_primary("east-pg1"));
    clients.go_on();
    let lost = clients.end_after_a_loss(&world);
    assert_eq!(lost["accounts"], 0, "{lost:?}");
    // The plan that brings it back as a replica makes it primary again where the file wants that; nothing is left to do then.
    for number in 0..3 {
        if world.handover(&["status"]).code == 0 {
            break;
        }
        converge(&world, &format!("member{number}.yaml"));
    }
    until("it is healthy", || world.handover(&["status"]).code == 0);
    world.end();
}

fn server(name: &str) -> Selection {
    Selection::Target(name.to_owned())
}

/// Does what a bare plan finds.
fn converge(world: &World, name: &str) {
    let plan = world.plan(&world.topology(), name, &[]);
    world.apply(&world.topology(), &plan).code(0);
}
