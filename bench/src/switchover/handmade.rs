//! The script that a patient expert would write: the phases of a switchover and nothing else. No record of what was done, no lock, no
//! undo, no look at whether it is safe. It uses everything that makes it quick: open sessions, 1 ms polling, one process to signal.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Way;
use super::pair::Pair;
use super::sql::Sql;
use crate::servers::Member;

const POLL: Duration = Duration::from_millis(1);

/// How often a promotion is asked for again.
const PROMOTE_EVERY: u32 = 200;

/// The script and its servers.
pub struct Handmade(Pair);

impl Handmade {
    /// Starts the servers.
    pub fn start() -> Result<Self> {
        Ok(Self(Pair::start()))
    }
}

impl Way for Handmade {
    fn name(&self) -> &'static str {
        "handmade"
    }

    fn login(&self) -> String {
        self.0.login()
    }

    fn switch(&mut self) -> Result<()> {
        let pair = &self.0;
        let (old, new) = (pair.primary(), pair.replica());
        let (at_old, at_new, console) = (superuser(old)?, superuser(new)?, Sql::open(&pair.console())?);

        // Prepare.
        let slot = format!("SELECT pg_create_physical_replication_slot('{}', true)", old.name);
        let missing = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", old.name);
        if at_new.ask(&missing)? == "0" {
            at_new.ask(&slot)?;
        }
        at_new.ask("ALTER SYSTEM SET wal_retrieve_retry_interval = '20ms'")?;
        at_new.ask("SELECT pg_reload_conf()")?;
        at_old.ask("CHECKPOINT")?;
        at_new.ask("CHECKPOINT")?;
        pair.write_route(new)?;
        drop(at_old);
        let postmaster = postmaster(old)?;

        // The stall.
        console.ask("PAUSE accounts")?;
        follow(old, new)?;
        kill(postmaster, Signal::SIGINT)?;
        while kill(postmaster, None).is_ok() {
            sleep(POLL);
        }
        let end = final_checkpoint(old)?;
        while at_new.ask(&format!("SELECT pg_last_wal_replay_lsn() > '{end}'"))? != "t" {
            sleep(POLL);
        }
        let mut polls = 0;
        while at_new.ask("SELECT pg_is_in_recovery()")? == "t" {
            if polls % PROMOTE_EVERY == 0 {
                at_new.ask("SELECT pg_promote(false)")?;
            }
            polls += 1;
            sleep(POLL);
        }
        console.ask("RELOAD")?;
        console.ask("RESUME accounts")?;

        // The old primary follows.
        at_new.ask("CHECKPOINT")?;
        old.start_without_waiting();
        self.0.moved();
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.0.settle()?;
        let slot = format!("SELECT pg_drop_replication_slot('{}')", self.0.primary().name);
        superuser(self.0.replica())?.ask(&slot)?;
        Ok(())
    }

    fn rows(&self) -> Result<BTreeSet<i64>> {
        self.0.rows()
    }
}

fn superuser(member: &Member) -> Result<Sql> {
    Sql::open(&format!("host=127.0.0.1 port={} user=postgres dbname=postgres", member.port))
}

fn postmaster(member: &Member) -> Result<Pid> {
    let text = fs::read_to_string(member.data.join("postmaster.pid"))?;
    Ok(Pid::from_raw(text.lines().next().context("postmaster.pid is empty")?.trim().parse()?))
}

/// From its next start on the old primary follows the new one.
fn follow(old: &Member, new: &Member) -> Result<()> {
    let settings = format!(
        "primary_conninfo = 'host=127.0.0.1 port={} application_name={} user=replicator'\nprimary_slot_name = '{}'\n",
        new.port, old.name, old.name
    );
    write_as_owner(&old.data.join("postgresql.auto.conf"), &settings, &old.data)?;
    write_as_owner(&old.data.join("standby.signal"), "", &old.data)
}

fn write_as_owner(path: &Path, text: &str, like: &Path) -> Result<()> {
    fs::write(path, text)?;
    let owner = fs::metadata(like)?;
    Ok(chown(path, Some(owner.uid()), Some(owner.gid()))?)
}

/// Where the log of a cleanly stopped server ends.
fn final_checkpoint(member: &Member) -> Result<String> {
    let output =
        Command::new("/usr/lib/postgresql/15/bin/pg_controldata").env("LC_ALL", "C").arg(&member.data).output()?;
    let text = String::from_utf8(output.stdout)?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    anyhow::ensure!(value("Database cluster state:") == Some("shut down"), "it did not end cleanly: {text}");
    Ok(value("Latest checkpoint location:").context("no checkpoint in the control data")?.to_owned())
}
