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
        let member = |member: &crate::servers::Member| {
            format!(
                "{{facility: {0}, address: \"{1}\", host: here, priority: 100, settings: {{data_directory: {2}}}}}",
                member.name,
                member.address(),
                member.data.display()
            )
        };
        let [a, b] = self.pair.members();
        format!(
            "topology: 1\nname: bench\nfacilities: {{a: {{}}, b: {{}}}}\ndatabases:\n  accounts:\n    provider: postgresql\n    \
             settings: {{user: handover, password: {{file: postgresql}}, replication: user=replicator}}\n    primary: {}\n    \
             members:\n      a: {}\n      b: {}\n    replication: {{mode: asynchronous, max_lag: 1s}}\n    poolers: [pool]\n    \
             route: {{pooler_database: accounts}}\npoolers:\n  pool:\n    facility: a\n    provider: pgbouncer\n    \
             address: \"{}\"\n    host: here\n    settings: {{admin: handover, password: {{file: pgbouncer}}, databases: {}, \
             probe: {{user: app, password: {{file: probe}}}}}}\nhosts: {{here: {{transport: local}}}}\n\
             policy: {{min_active_facilities: 0}}\n",
            self.pair.replica().name,
            member(a),
            member(b),
            self.pair.pooler.address(),
            self.pair.pooler.databases.display()
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
