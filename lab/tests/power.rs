//! Power and isolation as a power controller and a firewall give them, on real servers. Needs root and the packages of `lab/install.sh`.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lab::{Lab, Options, Selection};

fn run(lab: &Lab, line: &str) -> Output {
    lab.command("sh").unwrap().args(["-c", line]).output().unwrap()
}

fn inside(lab: &Lab, line: &str) -> String {
    let output = run(lab, line);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text.trim_end().to_owned()
}

fn status(lab: &Lab, line: &str) -> Option<i32> {
    run(lab, line).status.code()
}

/// Polls until `holds`, at most a minute.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pid(lab: &Lab, name: &str) -> Option<i32> {
    lab.status().unwrap().servers.into_iter().find(|server| server.name == name).unwrap().pid
}

/// Names of the servers that run in a place.
fn up(lab: &Lab, place: &str) -> Vec<String> {
    let servers = lab.status().unwrap().servers.into_iter();
    servers.filter(|server| server.place == place && server.pid.is_some()).map(|server| server.name).collect()
}

fn ended(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// curl's exit statuses: nobody listens there, and nobody answers at all.
const REFUSED: Option<i32> = Some(7);
const SILENT: Option<i32> = Some(28);
const SQL: &str = "PGCONNECT_TIMEOUT=2 PGPASSWORD=$(cat /srv/secrets/postgresql) psql -XAtq -U handover -d accounts";

#[test]
fn power_goes_and_returns_and_isolation_holds_whatever_the_network_does() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../topology.yaml");
    let lab = Lab::up(&Options { restart: true, applications: false, fast: true, ..Options::new(example) }).unwrap();
    let all_of_west = up(&lab, "west");
    let ask = |line: &str| status(&lab, &format!("/srv/power {line}"));
    let get = |address: &str| status(&lab, &format!("curl -so /dev/null -m 1 http://{address}/"));
    assert_eq!(get("10.10.0.80"), Some(0));
    assert_eq!((ask("check west"), ask("check west-db1"), ask("check-isolated west")), (Some(1), Some(1), Some(1)));

    // What others have started there, as `units` does, is no child of the supervisor: it ends with the rest, though nobody reaches west
    // over the network.
    ended(lab.command_in("west", "sh").unwrap().args(["-c", "setsid sleep 600 >/dev/null 2>&1 &"]));
    inside(&lab, &format!("{SQL} -h 10.10.0.100 -c 'create table kept as select 1 as one'"));
    lab.cut("west", "all").unwrap();
    let said = inside(&lab, "/srv/power off west");
    assert!(said.starts_with("west is off: "), "{said}");
    assert_eq!((ask("check west"), ask("check west-db1"), ask("check east")), (Some(0), Some(0), Some(1)));
    assert_eq!(up(&lab, "west"), Vec::<String>::new());
    assert_eq!(lab.status().unwrap().off, ["west"]);
    lab.uncut("west", "all").unwrap();
    // Not even a refusal comes back, and nothing starts there.
    assert_eq!(get("10.10.0.80"), SILENT);
    assert!(lab.command_in("west", "true").unwrap_err().to_string().contains("no place `west` with power"));
    let error = lab.start_servers(&Selection::Target("west-lb1".to_owned())).unwrap_err().to_string();
    assert!(error.contains("west has no power"), "{error}");

    // Whoever starts dead servers again has looked at all of them once one of the east is back; those of the west stay down.
    let restarted = || {
        lab.kill(&Selection::Target("east-lb1".to_owned())).unwrap();
        until("east-lb1 is started again", || pid(&lab, "east-lb1").is_some());
        lab.kill(&Selection::Target("east-lb1".to_owned())).unwrap();
        until("east-lb1 is started again", || pid(&lab, "east-lb1").is_some());
    };
    restarted();
    assert_eq!(ask("check west"), Some(0));

    // Machines without their servers, then everything by itself, the old primary as the primary that it was.
    inside(&lab, "/srv/power on west --servers none");
    until("ssh answers", || status(&lab, "ssh postgres@10.10.0.100 true") == Some(0));
    restarted();
    assert_eq!(up(&lab, "west"), ["boise", "west-db1", "west-job1"]);
    assert_eq!(get("10.10.0.80"), REFUSED);
    lab.power_on("west", true).unwrap();
    let kept = format!("{SQL} -h 10.10.0.100 -c 'select pg_is_in_recovery(), one from kept'");
    until("the primary is back with its data", || {
        run(&lab, &kept).stdout == b"f|1\n" && up(&lab, "west") == all_of_west && get("10.10.0.80") == Some(0)
    });
    assert_eq!(ask("check west"), Some(1));

    // One machine: what has it as its host, and nothing else.
    inside(&lab, "/srv/power off east-db1");
    assert_eq!((ask("check east-db1"), ask("check east")), (Some(0), Some(1)));
    assert_eq!(up(&lab, "east"), ["east-ns1", "east-ns2", "east-lb1", "east-lb2", "ashburn"]);
    assert_eq!(get("10.20.0.100:5432"), SILENT);
    let refused = run(&lab, "/srv/power off east-pg1");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("east-pg1 stands on the machine east-db1"));
    inside(&lab, "/srv/power on east-db1");
    let streams = format!("{SQL} -h 10.10.0.100 -c 'select application_name from pg_stat_replication'");
    until("the replica is back", || run(&lab, &streams).stdout == b"east-pg1\n");

    // Isolated: everything goes on inside.
    inside(&lab, "/srv/power isolate east");
    assert_eq!((ask("check-isolated east"), ask("check east")), (Some(0), Some(1)));
    assert_eq!(get("10.20.0.80"), SILENT);
    ended(lab.command_in("east", "curl").unwrap().args(["-so", "/dev/null", "http://10.20.0.80/"]));
    lab.uncut("east", "all").unwrap();
    assert_eq!(get("10.20.0.80"), SILENT);
    inside(&lab, "/srv/power join east");
    until("east is reached again", || get("10.20.0.80") == Some(0));

    // One way.
    assert_eq!(lab.cut_one_way("all", "east").unwrap(), "every other place → east: nothing passes");
    let cut: Vec<_> = lab.status().unwrap().links.into_iter().filter(|link| link.cut).map(|link| link.to).collect();
    assert_eq!(cut, ["east", "east", "east"]);
    assert_eq!(get("10.20.0.80"), SILENT);
    lab.uncut("all", "east").unwrap();
    until("east is reached again", || get("10.20.0.80") == Some(0));
}
