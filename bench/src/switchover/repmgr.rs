//! repmgr behind pgbouncer: PAUSE, `repmgr standby switchover` as it comes, the new route, RELOAD, RESUME. repmgr wants ssh between its
//! nodes; both are this machine, so that a shell stands in for it, which is quicker.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Way;
use super::pair::Pair;
use super::sql::Sql;
use crate::programs::{as_postgres, succeed};
use crate::servers::Member;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Takes the place of `ssh OPTIONS HOST COMMAND…`.
const SHELL: &str = r#"#!/bin/sh
while :; do
  case $1 in
    -[oplFi]) shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
shift
exec sh -c "$*"
"#;

/// repmgr and its servers.
pub struct Repmgr(Pair);

impl Repmgr {
    /// Starts the servers and registers them.
    pub fn start() -> Result<Self> {
        let way = Self(Pair::start());
        let shell = way.folder().join("ssh");
        fs::write(&shell, SHELL)?;
        fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))?;
        way.0.primary().sql("CREATE ROLE repmgr SUPERUSER LOGIN REPLICATION");
        way.0.primary().sql("CREATE DATABASE repmgr OWNER repmgr");
        let hba = way.0.members().each_ref().map(|member| member.data.join("pg_hba.conf"));
        for (number, member) in (1..).zip(way.0.members()) {
            let text = fs::read_to_string(&hba[number - 1])? + "host replication repmgr 127.0.0.1/32 trust\n";
            fs::write(&hba[number - 1], text)?;
            member.sql("SELECT pg_reload_conf()");
            fs::write(way.configuration(member), way.settings(number, member))?;
        }
        succeed(&mut way.repmgr(way.0.primary(), &["primary", "register"]))?;
        let upstream = format!("--upstream-conninfo={}", conninfo(way.0.primary()));
        succeed(&mut way.repmgr(way.0.replica(), &["standby", "register", "--force", &upstream]))?;
        Ok(way)
    }

    fn folder(&self) -> &Path {
        self.0.site.path()
    }

    fn configuration(&self, member: &Member) -> PathBuf {
        self.folder().join(format!("repmgr-{}.conf", member.name))
    }

    fn settings(&self, number: usize, member: &Member) -> String {
        let (name, port, conninfo) = (&member.name, member.port, conninfo(member));
        let (data, log) = (member.data.display(), member.data.with_extension("log"));
        let log = log.display();
        format!(
            "node_id={number}\nnode_name='{name}'\nconninfo='{conninfo}'\ndata_directory='{data}'\npg_bindir='{BIN}'\n\
             use_replication_slots=yes\n\
             service_start_command='{BIN}/pg_ctl -D {data} -w -s -o \"-p {port}\" -l {log} start'\n\
             service_stop_command='{BIN}/pg_ctl -D {data} -w -s -m fast stop'\n"
        )
    }

    fn repmgr(&self, at: &Member, arguments: &[&str]) -> Command {
        let mut command = as_postgres(format!("{BIN}/repmgr"));
        command.arg("-f").arg(self.configuration(at)).args(arguments);
        // It writes what the other node says to a temporary file.
        command.env("TMPDIR", self.folder());
        command.env("PATH", format!("{}:/usr/bin:/bin:{BIN}", self.folder().display()));
        command
    }
}

fn conninfo(member: &Member) -> String {
    format!("host=127.0.0.1 port={} user=repmgr dbname=repmgr connect_timeout=2", member.port)
}

impl Way for Repmgr {
    fn name(&self) -> &'static str {
        "repmgr"
    }

    fn login(&self) -> String {
        self.0.login()
    }

    fn switch(&mut self) -> Result<()> {
        let new = self.0.replica();
        let console = Sql::open(&self.0.console())?;
        self.0.write_route(new)?;
        console.ask("PAUSE accounts")?;
        let switched = succeed(&mut self.repmgr(new, &["standby", "switchover", "--log-level=WARNING"]));
        console.ask("RELOAD")?;
        console.ask("RESUME accounts")?;
        switched?;
        self.0.moved();
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.0.settle()
    }

    fn rows(&self) -> Result<BTreeSet<i64>> {
        self.0.rows()
    }
}
