//! The lab itself, on the real servers of the example topology. Needs root and the packages of `lab/install.sh`.

use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, OPERATOR, Options, Selection};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../topology.yaml")
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text.trim_end().to_owned()
}

fn inside(lab: &Lab, line: &str) -> String {
    output(lab.command("sh").unwrap().args(["-ec", line]))
}

/// Polls until `holds`, at most 20 s.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Identities of a lab's PID namespace and network namespaces, as the host sees them.
fn namespaces(lab: &Lab) -> Vec<PathBuf> {
    let link = |place: &str, kind: &str| {
        let id = output(lab.command_in(place, "readlink").unwrap().arg(format!("/proc/self/ns/{kind}")));
        PathBuf::from(id)
    };
    vec![link(OPERATOR, "pid"), link(OPERATOR, "mnt"), link(OPERATOR, "net"), link("west", "net"), link("east", "net")]
}

fn processes_in(namespaces: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        for kind in ["pid", "mnt", "net"] {
            // Processes end while they are looked at.
            if fs::read_link(process.path().join("ns").join(kind)).is_ok_and(|id| namespaces.contains(&id)) {
                found.push(process.path());
            }
        }
    }
    found
}

/// How long a connection to a proxy of the east takes from the west, in seconds; none if there is none.
fn connect_seconds(lab: &Lab) -> Option<f64> {
    const CONNECT: &str = "curl -so /dev/null -m 2 -w '%{time_connect}' http://10.20.0.80/";
    let output = lab.command_in("west", "sh").unwrap().args(["-c", CONNECT]).output().unwrap();
    let seconds: f64 = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    (output.status.success() && seconds > 0.0).then_some(seconds)
}

#[test]
fn every_server_answers_and_nothing_is_left_behind() {
    let lab = Lab::up(&Options { fast: true, ..Options::new(example()) }).unwrap();
    let status = lab.status().unwrap();
    let down: Vec<_> = status.servers.iter().filter(|server| server.pid.is_none()).collect();
    assert!(down.is_empty(), "{down:?}");

    // DNS: the resolver, and all authoritative servers alike.
    let expected = "10.10.0.80\n10.10.0.81\n10.20.0.80\n10.20.0.81";
    for server in ["", "@10.10.0.53", "@10.10.0.54", "@10.20.0.53", "@10.20.0.54"] {
        let answer = inside(&lab, &format!("dig {server} +short pay.clickbank.example A | sort"));
        assert_eq!(answer, expected, "{server}");
    }
    // An update is signed with the lab's key and reaches the secondary, but not the other primary.
    inside(
        &lab,
        "printf 'server 10.10.0.53\nupdate add probe.clickbank.example 5 A 10.9.9.9\nsend\n' | nsupdate -y hmac-sha256:handover-key:$(cat /srv/secrets/tsig)",
    );
    until("the secondary has the update", || {
        inside(&lab, "dig @10.10.0.54 +short probe.clickbank.example") == "10.9.9.9"
    });
    assert_eq!(inside(&lab, "dig @10.20.0.53 +short probe.clickbank.example"), "");

    // The edge, the applications and their databases: through each proxy, and by name.
    for proxy in ["10.10.0.80", "10.10.0.81", "10.20.0.80", "10.20.0.81"] {
        for host in ["pay", "hop", "www"] {
            inside(&lab, &format!("curl -sSf -o /dev/null -H 'Host: {host}.clickbank.example' http://{proxy}/"));
        }
        let control: SocketAddrV4 = format!("{proxy}:9999").parse().unwrap();
        lab.connect(control, Duration::from_secs(2)).unwrap();
    }
    inside(&lab, "curl -sSf -o /dev/null -X POST 'http://pay.clickbank.example/write?database=accounts&id=7'");
    let sql = "PGPASSWORD=$(cat /srv/secrets/postgresql) psql -XAtq -U handover";
    until("the replica has the row", || {
        inside(&lab, &format!("{sql} -h 10.20.0.100 -d accounts -c 'select count(*) from writes'")) == "1"
    });
    let replication = format!(
        "{sql} -h 10.10.0.100 -d accounts -c 'select application_name, state, sync_state from pg_stat_replication'"
    );
    assert_eq!(inside(&lab, &replication), "east-pg1|streaming|sync");

    // Hosts: what runs over ssh runs in the host's facility; a database started that way is the server that status shows.
    let restart = "ssh postgres@10.20.0.100 'pg_ctl -D /srv/east-pg2/data -m fast -w restart >/dev/null && ip -o -4 address show lo'";
    assert!(inside(&lab, restart).contains("10.20.0.100"));
    let member =
        |lab: &Lab| lab.status().unwrap().servers.into_iter().find(|server| server.name == "east-pg2").unwrap();
    assert!(member(&lab).pid.is_some());
    let job = "ssh postgres@10.10.0.120 'cd /srv/west-job1; ./billing check; ./billing stop; ./billing check || ./billing start && ./billing check && echo runs'";
    assert_eq!(inside(&lab, job), "runs");

    // Links.
    let seconds = connect_seconds(&lab).unwrap();
    assert!((0.02..0.06).contains(&seconds), "{seconds}");
    lab.delay("west", "east", Duration::from_millis(80)).unwrap();
    let seconds = connect_seconds(&lab).unwrap();
    assert!((0.08..0.14).contains(&seconds), "{seconds}");
    assert_eq!(lab.cut("west", "east").unwrap(), "west ↔ east: nothing passes");
    assert_eq!(connect_seconds(&lab), None);
    inside(&lab, "curl -sSf -o /dev/null -H 'Host: pay.clickbank.example' http://10.20.0.80/health");
    assert_eq!(lab.uncut("west", "east").unwrap(), "west ↔ east: everything passes again");
    assert!(connect_seconds(&lab).is_some());

    // One server, then a facility, then its power returns.
    lab.kill(&Selection::Target("member/products/east-pg2".to_owned())).unwrap();
    assert_eq!(member(&lab).pid, None);
    lab.kill(&Selection::Facility("east".to_owned())).unwrap();
    let east = |lab: &Lab| lab.status().unwrap().servers.into_iter().filter(|server| server.place == "east");
    assert!(east(&lab).all(|server| server.pid.is_none()));
    assert_eq!(processes_in(&[namespaces(&lab)[4].clone()]).len(), 0);
    lab.start_servers(&Selection::Facility("east".to_owned())).unwrap();
    until("the replica streams again", || inside(&lab, &replication) == "east-pg1|streaming|sync");
    assert!(east(&lab).all(|server| server.pid.is_some()));

    let (namespaces, directory) = (namespaces(&lab), lab.directory());
    assert!(!processes_in(&namespaces).is_empty());
    lab.down().unwrap();
    assert_eq!(processes_in(&namespaces), Vec::<PathBuf>::new());
    assert!(!directory.exists() && !directory.parent().unwrap().exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(directory.to_str().unwrap()));
}

/// What [`a_lab_ends_with_its_owner`] kills: itself in another process.
fn own(name: String) {
    let lab = Lab::up(&Options { applications: false, name: Some(name), ..Options::new(example()) }).unwrap();
    println!("up {}", lab.directory().display());
    std::thread::park_timeout(Duration::from_secs(300));
}

#[test]
fn a_lab_ends_with_its_owner() {
    if let Ok(name) = std::env::var("OWNED_LAB") {
        return own(name);
    }
    let name = format!("owned-{}", std::process::id());
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_lab_ends_with_its_owner", "--nocapture"])
        .env("OWNED_LAB", &name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(owner.stdout.take().unwrap()));
    let up = lines.map_while(Result::ok).find(|line| line.contains("up /"));
    let lab = Lab::attach(&name).unwrap();
    let (namespaces, directory) = (namespaces(&lab), lab.directory());
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(up.is_some());
    until("the lab is gone", || !directory.parent().unwrap().exists());
    assert_eq!(processes_in(&namespaces), Vec::<PathBuf>::new());
}

#[test]
fn a_server_that_cannot_start_is_named_and_nothing_is_left_behind() {
    let text = fs::read_to_string(example()).unwrap();
    let text = text.replace("tcp://10.20.0.81:9999", "unix:/srv/no/such/socket");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let name = format!("broken-{}", std::process::id());
    let options = Options { name: Some(name.clone()), applications: false, ..Options::new(file.path()) };
    let error = Lab::up(&options).unwrap_err().to_string();
    assert!(error.contains("east-lb2 (haproxy) ended with exit status 1"), "{error}");
    assert!(error.contains("no/such/socket"), "{error}");
    assert!(Lab::attach(&name).is_err());
    assert!(!Path::new("/var/tmp/handover-lab").join(name).exists());
}
