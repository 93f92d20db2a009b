//! `handover plan` and `handover apply`, with the embedded store and commands on this machine.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::Way;
use super::pair::Pair;
use crate::programs::handover;

/// The program and its servers.
pub struct Handover {
    pair: Pair,
    /// Plans are numbered.
    plans: u32,
}

impl Handover {
    /// Starts the servers.
    pub fn start() -> Result<Self> {
        Ok(Self { pair: Pair::start(), plans: 0 })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pair.site.path().join(name)
    }

    /// What the operator's file says once the primary should be at the other member.
    fn topology(&self) -> String {
        let member = |facility: &str, member: &crate::servers::Member| {
            format!(
                "{{facility: {facility}, address: \"{}\", host: here, priority: 100, settings: {{data_directory: {}}}}}",
                member.address(),
                member.data.display()
            )
        };
        let [a, b] = self.pair.members();
        format!(
            "topology: 1
name: bench
facilities: {{west: {{}}, east: {{}}}}
databases:
  accounts:
    provider: postgresql
    settings: {{user: handover, password: {{file: postgresql}}, replication: user=replicator}}
    primary: {primary}
    members:
      a: {a}
      b: {b}
    replication: {{mode: asynchronous, max_lag: 1s}}
    poolers: [pool]
    route: {{pooler_database: accounts}}
poolers:
  pool:
    facility: west
    provider: pgbouncer
    address: \"{pool}\"
    host: here
    settings:
      admin: handover
      password: {{file: pgbouncer}}
      databases: {routes}
      probe: {{user: app, password: {{file: probe}}}}
hosts: {{here: {{transport: local}}}}
",
            primary = self.pair.replica().name,
            a = member("west", a),
            b = member("east", b),
            pool = self.pair.pooler.address(),
            routes = self.pair.pooler.databases.display(),
        )
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(handover()?);
        command.args(arguments).arg("--topology").arg(self.path("topology.yaml"));
        let output = command.arg("--state-dir").arg(self.path("state")).stdin(Stdio::null()).output()?;
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "handover {}: {}\n{said}{complained}", arguments.join(" "), output.status);
        Ok(())
    }
}

impl Way for Handover {
    fn name(&self) -> &'static str {
        "handover"
    }

    fn login(&self) -> String {
        self.pair.login()
    }

    fn switch(&mut self) -> Result<()> {
        self.plans += 1;
        let plan = self.path(&format!("plan-{}.yaml", self.plans)).display().to_string();
        std::fs::write(self.path("topology.yaml"), self.topology())?;
        self.run(&["plan", "--out", &plan])?;
        self.run(&["apply", &plan, "--auto-approve"])?;
        self.pair.moved();
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.pair.settle()
    }

    fn rows(&self) -> Result<BTreeSet<i64>> {
        self.pair.rows()
    }
}
