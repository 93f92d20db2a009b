//! The files of a lab as they were at some moment: kept beside `/srv`, and put back. Servers rest meanwhile.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::Supervisor;
use crate::probe;
use crate::process::{self, Processes};
use crate::servers::{Ready, SRV};

/// What is no server's state: this program's own mount, and logs, which go on.
const LEFT_ALONE: [&str; 2] = [".lab", "log"];

/// What ran when a snapshot was made, by the place in the supervisor's list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Manifest {
    /// Servers that ran, each with the conditions of its readiness that held.
    running: Vec<(usize, Vec<usize>)>,
}

/// A snapshot on disk.
#[derive(Clone, Debug)]
struct Snapshot {
    folder: PathBuf,
}

impl Snapshot {
    /// The snapshot `name` of the lab in `directory`.
    fn named(directory: &Path, name: &str) -> Result<Self> {
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(plain, "`{name}` cannot be the name of a snapshot: letters, digits and `-`");
        Ok(Self { folder: directory.join("snapshots").join(name) })
    }

    fn manifest(&self) -> PathBuf {
        self.folder.join("manifest.json")
    }

    /// What ran when it was made.
    fn read(&self) -> Result<Manifest> {
        let text = fs::read(self.manifest()).with_context(|| format!("no snapshot in {}", self.folder.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Copies the files of all servers, which rest.
    fn save(&self, processes: &Processes, manifest: &Manifest) -> Result<()> {
        let files = self.folder.join("srv");
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        fs::create_dir_all(&files)?;
        copy(processes, Path::new(SRV), &files)?;
        Ok(fs::write(self.manifest(), serde_json::to_vec(manifest)?)?)
    }

    /// Puts the files back, in place of those that are there.
    fn load(&self, processes: &Processes) -> Result<()> {
        for path in state(Path::new(SRV))? {
            if fs::symlink_metadata(&path)?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        copy(processes, &self.folder.join("srv"), Path::new(SRV))
    }
}

impl Supervisor {
    /// Stops everything that runs, keeps the files, and starts it again.
    pub(super) fn snapshot(&self, name: &str) -> Result<String> {
        let began = Instant::now();
        let snapshot = Snapshot::named(&self.directory, name)?;
        let mut manifest = Manifest::default();
        for (index, server) in self.servers.iter().enumerate() {
            let Some(pid) = self.running(index) else { continue };
            let place = self.namespace(&server.place)?;
            let holds = |ready: &&Ready| place.enter(|| probe::ask(ready, &self.processes)).is_ok();
            let held = server.ready.iter().enumerate().filter(|(_, ready)| holds(ready)).map(|(number, _)| number);
            manifest.running.push((index, held.collect()));
            // A database server at its next start needs no recovery then.
            process::end(pid, if server.kind == "postgres" { Signal::SIGINT } else { Signal::SIGTERM })?;
            if let Some(file) = server.pid_file.as_ref().filter(|file| file.exists()) {
                fs::remove_file(file)?;
            }
        }
        process::kill_all()?;
        snapshot.save(&self.processes, &manifest)?;
        let saved = began.elapsed();
        self.start_as(&manifest)?;
        Ok(format!("saved after {:.1} s, ready after {:.1} s", saved.as_secs_f64(), began.elapsed().as_secs_f64()))
    }

    /// Everything as it was.
    pub(super) fn restore(&self, name: &str) -> Result<String> {
        let began = Instant::now();
        let snapshot = Snapshot::named(&self.directory, name)?;
        let manifest = snapshot.read()?;
        process::kill_all()?;
        self.power_as_at_the_beginning()?;
        snapshot.load(&self.processes)?;
        let loaded = began.elapsed();
        self.start_as(&manifest)?;
        Ok(format!("restored after {:.1} s, ready after {:.1} s", loaded.as_secs_f64(), began.elapsed().as_secs_f64()))
    }

    /// Starts what ran when a snapshot was made, and waits until it is as ready as it was then.
    fn start_as(&self, manifest: &Manifest) -> Result<()> {
        self.pids().clear();
        let held: HashMap<usize, &[usize]> =
            manifest.running.iter().map(|(index, held)| (*index, held.as_slice())).collect();
        let which: Vec<usize> = manifest.running.iter().map(|(index, _)| *index).collect();
        let ready = |index: usize, number: usize| held.get(&index).is_some_and(|held| held.contains(&number));
        self.start_servers(&which, &ready, &|_| ())
    }
}

/// Everything in a folder that is state.
fn state(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let state = entries.into_iter().filter(|entry| !LEFT_ALONE.iter().any(|name| entry.file_name() == **name));
    Ok(state.map(|entry| entry.path()).collect())
}

fn copy(processes: &Processes, from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["-a", "--reflink=auto", "-t"]).arg(to).args(state(from)?);
    processes.run(&mut cp, None).map(drop)
}
