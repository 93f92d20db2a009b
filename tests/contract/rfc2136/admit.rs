//! `handover admit` as systemd calls it: the program, two real name servers, and a real data directory.

use std::process::Output;

use handover::model::{Charge, Epoch};

use super::*;
use crate::servers::as_postgres;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A machine of the west with its data, and a name server in each facility.
struct Machine {
    dir: TempDir,
    west: Bind,
    east: Bind,
    system: String,
}

impl Machine {
    async fn new() -> Self {
        let (dir, west, east) = (tempfile::tempdir().unwrap(), Bind::primary().await, Bind::primary().await);
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Command::new("chown").arg("postgres").arg(&data).status().unwrap().success());
        let initdb =
            as_postgres(&format!("{BIN}/initdb")).args(["-N", "-A", "trust", "-D"]).arg(&data).output().unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        let control = Command::new(format!("{BIN}/pg_controldata")).arg(&data).env("LC_ALL", "C").output().unwrap();
        let control = String::from_utf8(control.stdout).unwrap();
        let system = control.lines().find_map(|line| line.strip_prefix("Database system identifier:")).unwrap();
        let topology = format!(
            "{{topology: 1, name: admit, facilities: {{west: {{}}, east: {{}}}}, hosts: {{here: {{transport: local}}}}, \
             zones: {{{ZONE}: {{provider: rfc2136, settings: {{key: k, secret: {{file: nowhere}}}}, servers: {{\
             west-ns1: {{facility: west, address: '127.0.0.1:{}', updates: true}}, \
             east-ns1: {{facility: east, address: '127.0.0.1:{}', updates: true}}}}}}}}, \
             proxies: {{west-lb1: {{facility: west, provider: haproxy, address: '10.10.0.80:80', settings: {{control: 'tcp://10.10.0.80:9999'}}}}}}, \
             poolers: {{pool: {{facility: west, provider: pgbouncer, address: '10.10.0.1:6432', settings: {{admin: a, password: {{file: nowhere}}}}}}}}, \
             databases: {{accounts: {{provider: postgresql, primary: west, replication: {{mode: asynchronous}}, poolers: [pool], \
             route: {{pooler_database: accounts}}, settings: {{user: a, password: {{file: nowhere}}}}, members: {{\
             west-pg1: {{facility: west, host: here, address: '10.10.0.1:5432', settings: {{data_directory: {}}}}}, \
             east-pg1: {{facility: east, host: here, address: '10.20.0.1:5432', settings: {{data_directory: /nowhere}}}}}}}}}}}}",
            west.port,
            east.port,
            data.display()
        );
        write(dir.path(), "topology.yaml", &topology);
        Self { dir, west, east, system: system.trim().to_owned() }
    }

    /// What `handover admit` says, with its exit status.
    fn admit(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_handover"))
            .arg("admit")
            .args(arguments)
            .env("HANDOVER_TOPOLOGY", self.dir.path().join("topology.yaml"))
            .output()
            .unwrap();
        (status.code(), [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat())
    }

    fn said(&self, arguments: &[&str], status: i32, text: &str) {
        let (code, said) = self.admit(arguments);
        assert_eq!(code, Some(status), "{arguments:?}: {said}");
        // Lines are folded.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(text), "{arguments:?}: {said}");
    }

    fn epoch(&self, number: u64, lost: &[&str], member: &str, timeline: u32) -> Epoch {
        let charge = Charge { member: member.to_owned(), system: self.system.clone(), timeline };
        let lost = lost.iter().copied().map(FacilityName::new).collect();
        Epoch { number, lost, lost_targets: BTreeSet::new(), databases: [("accounts".into(), charge)].into() }
    }
}

async fn publish(bind: &Bind, from: Option<&Epoch>, to: &Epoch) {
    let action = Action::SetEpoch {
        zone: ZoneName::new(ZONE),
        epoch: Box::new(FromTo { from: from.cloned(), to: Some(to.clone()) }),
    };
    common::taken(&bind.apply(&bind.target(), &action).await);
}

#[tokio::test]
async fn an_old_primary_starts_only_if_another_facility_says_that_it_is_in_charge() {
    let machine = Machine::new().await;
    machine.said(&["west-pg1"], 3, "no witness publishes an epoch yet");
    machine.said(&["west-pg1", "--allow-unpublished"], 0, "west-pg1 is admitted unseen: admitted");

    let before = machine.epoch(1, &[], "west-pg1", 1);
    publish(&machine.west, None, &before).await;
    publish(&machine.east, None, &before).await;
    machine.said(&["accounts/west-pg1"], 0, "west-pg1 is in charge of accounts: epoch 1 (");
    machine.said(&["west-lb1"], 0, "nothing is known against west-lb1");

    // West was lost; its own name server has not heard of it.
    let lost = machine.epoch(2, &["west"], "east-pg1", 2);
    publish(&machine.east, Some(&before), &lost).await;
    for name in ["west-pg1", "west-lb1", "pool", "west-ns1"] {
        machine.said(&[name], 3, "west is lost since epoch 2 or before, says east-ns1");
    }
    let returned = machine.epoch(3, &[], "east-pg1", 2);
    publish(&machine.east, Some(&lost), &returned).await;
    machine.said(
        &["west-pg1"],
        3,
        "east-pg1 is in charge from timeline 2 on; west-pg1 (timeline 1) can come back only as its replica",
    );
    machine.said(&["west-lb1"], 0, "nothing is known against west-lb1 (epoch 3, east-ns1)");

    // Nobody of the east answers. The own name server confirms nothing.
    machine.east.hang().await;
    machine.said(
        &["west-pg1", "--timeout", "1s"],
        3,
        "east may know something newer, and nobody there confirms: east-ns1",
    );
    machine.said(&["west-lb1", "--timeout", "1s"], 0, "nothing is known against west-lb1");
    write(&machine.dir.path().join("data"), "standby.signal", "");
    machine.said(&["west-pg1"], 0, "west-pg1 would start as a replica: admitted");

    // What cannot be asked is no admission.
    machine.said(&["east-pg1"], 3, "/nowhere is not a data directory of PostgreSQL");
    machine.said(&["nobody"], 64, "nothing in the topology is called `nobody`");
    machine.said(&["west-pg1", "--topology", "/nowhere.yaml"], 65, "cannot read /nowhere.yaml");
}
