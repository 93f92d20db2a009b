//! The lab's private directory on disk.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Pids as the host sees them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pids {
    /// The process that waits for the lab's end and removes its directory.
    pub keeper: i32,
    /// Process 1 of the lab.
    pub init: i32,
    /// When the keeper was started, in ticks since boot: a pid alone may be another process by now.
    pub keeper_started: u64,
}

/// A lab's directory: everything that the lab writes is in it.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory of the lab `name`: `$LAB_DIR/NAME`, without that variable `/var/tmp/handover-lab/NAME`.
    pub fn named(name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        ensure!(
            !name.is_empty() && name.chars().all(plain) && !name.starts_with('.'),
            "`{name}` cannot be the name of a lab: letters, digits, `-` and `_`"
        );
        let base = std::env::var_os("LAB_DIR").map_or_else(|| PathBuf::from("/var/tmp/handover-lab"), PathBuf::from);
        ensure!(base.is_absolute(), "LAB_DIR must be an absolute path");
        Ok(Self { path: base.join(name) })
    }

    /// A directory by its path.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the lab's servers see as `/srv`.
    pub fn srv(&self) -> PathBuf {
        self.path.join("srv")
    }

    /// Files that are mounted over those of `/etc`.
    pub fn etc(&self) -> PathBuf {
        self.path.join("etc")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// How the lab shall be.
    pub fn orders(&self) -> PathBuf {
        self.path.join("orders.json")
    }

    /// Descriptors of the namespaces in process 1, of places with power.
    pub fn namespaces(&self) -> PathBuf {
        self.path.join("namespaces.json")
    }

    /// What the supervisor itself has to say.
    pub fn log(&self) -> PathBuf {
        self.path.join("supervisor.log")
    }

    /// Records which places can be entered, and by which descriptors of process 1.
    pub fn write_namespaces(&self, descriptors: &BTreeMap<&str, i32>) -> Result<()> {
        let aside = self.path.join("namespaces.json.new");
        fs::write(&aside, serde_json::to_vec(descriptors)?)?;
        Ok(fs::rename(aside, self.namespaces())?)
    }

    fn pids_file(&self) -> PathBuf {
        self.path.join("pids.json")
    }

    /// Makes the directory; refuses if a lab runs in it, removes what a killed lab left.
    pub fn create(&self) -> Result<()> {
        if self.path.exists() {
            if self.keeper_alive() {
                bail!("a lab runs in {} already; `lab down` ends it", self.path.display());
            }
            self.remove()?;
        }
        fs::create_dir_all(self.srv()).with_context(|| format!("cannot make {}", self.path.display()))?;
        fs::set_permissions(&self.path, Permissions::from_mode(0o700))?;
        fs::set_permissions(self.srv(), Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Removes the directory, and its parent where that is empty then.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", self.path.display()));
            }
            _ => {}
        }
        if let Some(parent) = self.path.parent() {
            // Another lab may live there.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Records the pids.
    pub fn write_pids(&self, keeper: i32, init: i32) -> Result<()> {
        let pids = Pids { keeper, init, keeper_started: started(keeper).context("the keeper's start is unknown")? };
        let aside = self.path.join("pids.json.new");
        fs::write(&aside, serde_json::to_vec(&pids)?)?;
        Ok(fs::rename(aside, self.pids_file())?)
    }

    /// The pids of a lab that runs.
    pub fn pids(&self) -> Result<Pids> {
        let read = || -> Option<Pids> { serde_json::from_slice(&fs::read(self.pids_file()).ok()?).ok() };
        let running = read().filter(|pids| started(pids.keeper) == Some(pids.keeper_started));
        running.with_context(|| format!("no lab runs in {}; `lab up` starts one", self.path.display()))
    }

    fn keeper_alive(&self) -> bool {
        self.pids().is_ok()
    }

    /// Where a namespace can be entered from the host.
    pub fn namespace(&self, place: &str) -> Result<PathBuf> {
        let pids = self.pids()?;
        let descriptors: BTreeMap<String, i32> = serde_json::from_slice(&fs::read(self.namespaces())?)?;
        let descriptor = descriptors.get(place).with_context(|| {
            let names: Vec<&str> = descriptors.keys().map(String::as_str).collect();
            format!("there is no place `{place}` with power in this lab; there are {}", names.join(", "))
        })?;
        Ok(PathBuf::from(format!("/proc/{}/fd/{descriptor}", pids.init)))
    }

    /// Waits until the keeper has ended and the directory is gone; removes what a killed keeper left.
    pub fn wait_gone(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.path.exists() {
            // The last processes of a lab whose keeper was killed may still be ending.
            if !self.keeper_alive() && self.remove().is_ok() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the lab in {} did not end in time", self.path.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// When a process was started, in ticks since boot (proc(5), field 22 of `stat`); none if it is gone or a zombie.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(") ").next()?.split_whitespace();
    let state = fields.next()?;
    fields.nth(18)?.parse().ok().filter(|_| state != "Z")
}
