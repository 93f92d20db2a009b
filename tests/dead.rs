//! A dead facility with hundreds of targets: `status` and `plan` wait for their deadline once.

#![allow(clippy::disallowed_methods)]

use std::fmt::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long each target may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An address that drops every packet of a new connection, as a firewall does: its queue of connections is full and stays so.
fn black_hole() -> (TcpListener, Vec<TcpStream>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut kept = Vec::new();
    // The first that is not let in at once finds the queue full.
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        kept.push(stream);
        assert!(kept.len() < 100, "the queue never fills");
    }
    (listener, kept, address.port())
}

#[test]
fn five_hundred_dead_targets_cost_one_deadline() {
    let (_listener, _kept, port) = black_hole();
    let mut servers = String::new();
    for n in 0..500 {
        writeln!(servers, "      west-app{n}: {{facility: west, address: \"127.0.0.1:{port}\"}}").unwrap();
    }
    let text = format!(
        "topology: 1\nname: dead\nfacilities: {{west: {{}}, east: {{}}}}\nzones:\n  shop.example:\n    settings: {{key: k, secret: {{file: secret}}}}\n    \
         servers:\n      west-ns1: {{facility: west, address: \"127.0.0.1:{port}\", updates: true}}\nproxies:\n  \
         west-lb1: {{facility: west, address: \"127.0.0.1:{port}\", settings: {{control: \"tcp://127.0.0.1:{port}\"}}}}\n\
         services:\n  web:\n    hostnames: [www.shop.example]\n    addresses: {{west: [10.10.0.80], east: [10.20.0.80]}}\n    \
         share: {{west: 50%, east: 50%}}\n    health: {{path: /health}}\n    servers:\n{servers}      \
         east-app1: {{facility: east, address: \"127.0.0.1:{port}\"}}\n    writes_to: [accounts]\ndatabases:\n  accounts:\n    primary: west\n    \
         settings: {{user: handover}}\n    poolers: [west-pool1]\n    members:\n      \
         west-pg1: {{facility: west, address: \"127.0.0.1:{port}\", host: west-db1, settings: {{data_directory: /srv/data}}}}\n\
         poolers:\n  west-pool1: {{facility: west, address: \"127.0.0.1:{port}\", host: west-db1, \
         settings: {{admin: handover, databases: /srv/databases.ini}}}}\n\
         hosts:\n  west-db1: {{transport: ssh, address: 127.0.0.1, port: {port}}}\n\
         jobs:\n  billing: {{runs_in: west, host: west-db1, writes_to: [accounts], stop: {{command: [\"true\"]}}, \
         start: {{command: [\"true\"]}}, check: {{command: [\"true\"]}}}}\n\
         store: {{embedded: {{}}}}\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let topology = folder.path().join("topology.yaml");
    std::fs::write(&topology, text).unwrap();
    std::fs::write(folder.path().join("secret"), "aGFuZG92ZXIgY29udHJhY3QgdGVzdCBzZWNyZXQgMDE=").unwrap();
    for (command, code) in [("status", 11), ("plan", 3)] {
        let mut handover = Command::new(env!("CARGO_BIN_EXE_handover"));
        handover.args([command, "--timeout", &format!("{}s", TIMEOUT.as_secs()), "--topology"]).arg(&topology);
        handover.env("HANDOVER_STATE_DIR", folder.path().join("state")).current_dir(folder.path());
        let began = Instant::now();
        let output = handover.output().unwrap();
        let took = began.elapsed();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        match command {
            "plan" => assert!(said.contains("nothing in west answers"), "{said}"),
            _ => {
                assert!(said.contains("west-ns1") && said.contains("west-pg1") && said.contains("no answer"), "{said}")
            }
        }
        assert!(!said.contains("Too many open files"), "{said}");
        println!("{command}: {took:?}, exit {:?}", output.status.code());
        assert_eq!(output.status.code(), Some(code), "{said}");
        // Twice the deadline would be one after the other.
        assert!((TIMEOUT..2 * TIMEOUT).contains(&took), "{command} took {took:?}");
    }
}
