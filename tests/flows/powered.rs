//! A drain until the power may go: every server of west is stopped, and west comes back.

#[path = "../common/powered.rs"]
mod topology;

use std::fs;

use super::clients::{Clients, unharmed};
use super::world::{World, until};

/// Every kind of server that runs in a facility, as its process table says: whoever started it.
fn running(world: &World, facility: &str) -> Vec<String> {
    let script = r#"
        here=$(readlink /proc/self/ns/net)
        for process in /proc/[0-9]*; do
            [ "$(readlink $process/ns/net || true)" = "$here" ] || continue
            case "$(tr '\0' ' ' <$process/cmdline || true)" in
            */named\ *) echo named ;; */haproxy\ *) echo haproxy ;; */postgres\ *) echo postgres ;;
            */pgbouncer\ *) echo pgbouncer ;; *\ app\ --listen*) echo app ;;
            esac
        done 2>/dev/null | sort -u"#;
    world.shell(facility, script).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_facility_is_drained_until_its_power_may_go_and_comes_back() {
    let world = World::start();
    let text = fs::read_to_string(world.lab.directory().join("topology.yaml")).unwrap();
    let topology = world.path("powered.yaml");
    // How long writers wait is for other tests: here a machine that is busy must not matter.
    let text = topology::powered(&text).replace("max_write_stall: 2s", "max_write_stall: 20s");
    fs::write(&topology, text).unwrap();
    let patient = |args: &[&str]| world.handover_on(&topology, &[args, &["--timeout", "20s"]].concat()).code(0);
    let plan = |name: &str, args: &[&str]| {
        let file = world.path(name).to_string_lossy().into_owned();
        let told = patient(&[&["plan", "--out", &file], args].concat());
        (file, told)
    };
    let apply = |file: &str| patient(&["apply", "--auto-approve", file]);
    assert_eq!(running(&world, "west"), ["app", "haproxy", "named", "pgbouncer", "postgres"]);
    // They keep connections for longer than the name's TTL: proxies are stopped only when nobody is connected any more.
    let clients = Clients::start(&world);

    let (off, told) = plan("off.yaml", &["--drain", "west", "--depth", "power", "--reason", "new switchgear"]);
    told.says(&[
        "drain west until its power may go",
        "accounts has no synchronous replica until west-pg1 is back",
        "safe to power off west: nothing there answers any more",
        "the servers of west stay stopped until handover plan --restore west",
    ]);
    apply(&off).says(&["safe to power off west: nothing there answers any more"]);
    assert_eq!(running(&world, "west"), Vec::<String>::new());
    assert_eq!(world.sql("east-pg1", "show synchronous_standby_names"), "");
    assert_ne!(world.sql("east-pg1", "show max_slot_wal_keep_size"), "-1");
    clients.go_on();
    patient(&["plan", "--detailed-exitcode"]).says(&["Nothing to do", "west stays drained"]);
    assert!(world.handover_on(&topology, &["status"]).says(&["the servers of west stay stopped"]).code != 12);

    let (on, told) = plan("on.yaml", &["--restore", "west"]);
    told.says(&["power on west", "then `handover plan --restore west` brings it back into service"]);
    apply(&on);
    assert_eq!(running(&world, "west"), ["app", "haproxy", "named", "pgbouncer", "postgres"]);
    assert_eq!(world.sql("east-pg1", "show max_slot_wal_keep_size"), "-1");
    assert_eq!(world.sql("east-pg1", "select count(*) from pg_stat_replication where sync_state = 'sync'"), "1");

    apply(&plan("restore.yaml", &["--restore", "west", "--failback"]).0);
    assert!(world.is_primary("west-pg1") && world.is_primary("west-pg2") && world.is_primary("east-pg3"));
    until("it is healthy", || world.handover_on(&topology, &["status", "--timeout", "20s"]).code == 0);
    clients.go_on();
    unharmed(&clients.end(&world));
    world.end();
}
