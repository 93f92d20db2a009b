//! Processes of a lab. The supervisor is process 1 of its PID namespace: it reaps its own children and every orphan.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// The children of this process: the only place that waits for them.
#[derive(Debug, Default)]
pub struct Processes {
    /// Pid and, once it has ended, how.
    children: Mutex<HashMap<i32, Option<String>>>,
    ended: Condvar,
}

impl Processes {
    /// Starts to reap, on a thread of its own.
    pub fn start() -> Arc<Self> {
        let processes = Arc::new(Self::default());
        let reaper = Arc::clone(&processes);
        std::thread::spawn(move || reaper.reap());
        processes
    }

    fn children(&self) -> MutexGuard<'_, HashMap<i32, Option<String>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        loop {
            let ended = match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(status) => status.pid(),
                Err(Errno::ECHILD) => {
                    // No child now; orphans may come without notice.
                    let children = self.children();
                    drop(self.ended.wait_timeout(children, Duration::from_millis(100)));
                    continue;
                }
                Err(_) => continue,
            };
            // Only with the lock: a failed start is reaped by the one who started it.
            let mut children = self.children();
            let Some(pid) = ended else { continue };
            let how = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, status)) => format!("exit status {status}"),
                Ok(WaitStatus::Signaled(_, signal, _)) => signal.to_string(),
                _ => continue,
            };
            if let Some(slot) = children.get_mut(&pid.as_raw()) {
                *slot = Some(how);
                self.ended.notify_all();
            }
        }
    }

    /// Starts a program that goes on by itself; returns its pid.
    pub fn spawn(&self, command: &mut Command) -> Result<i32> {
        self.spawn_child(command).map(|child| child.id() as i32)
    }

    fn spawn_child(&self, command: &mut Command) -> Result<std::process::Child> {
        let mut children = self.children();
        let child =
            command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        children.insert(child.id() as i32, None);
        self.ended.notify_all();
        Ok(child)
    }

    /// How a child has ended, if it has.
    pub fn how_ended(&self, pid: i32) -> Option<String> {
        self.children().get(&pid).cloned().flatten()
    }

    /// Waits for the end of a child and forgets it.
    pub fn wait(&self, pid: i32, deadline: Instant) -> Result<String> {
        let mut children = self.children();
        loop {
            match children.get(&pid) {
                None => bail!("process {pid} is no child"),
                Some(Some(_)) => return Ok(children.remove(&pid).flatten().unwrap_or_default()),
                Some(None) => {
                    let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                        bail!("process {pid} did not end in time");
                    };
                    children = self.ended.wait_timeout(children, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Runs a program to its end and returns what it printed; a failure shows it.
    pub fn run(&self, command: &mut Command, input: Option<&str>) -> Result<String> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn_child(command)?;
        let pid = child.id() as i32;
        let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut out, mut err) = (String::new(), String::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if let (Some(stdin), Some(input)) = (&mut stdin, input) {
                    // A program that ends early tells why by its exit status.
                    let _ = stdin.write_all(input.as_bytes());
                }
                drop(stdin.take());
            });
            scope.spawn(|| stderr.as_mut().map(|stderr| stderr.read_to_string(&mut err)));
            stdout.as_mut().map(|stdout| stdout.read_to_string(&mut out))
        });
        let how = self.wait(pid, Instant::now() + Duration::from_secs(10))?;
        if how != "exit status 0" {
            bail!("{program} ended with {how}: {}{}", err.trim_end(), out.trim_end());
        }
        Ok(out)
    }
}

/// A process as `/proc` shows it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its pid.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Identity of its network namespace.
    pub network: u64,
}

/// The environment that a process was started with; empty if it is gone.
pub fn environment(pid: i32) -> HashMap<String, String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let variables =
        bytes.split(|byte| *byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok()?.split_once('='));
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The sockets that a process has open, by their inodes.
pub fn sockets(pid: i32) -> HashSet<u64> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(Result::ok);
    let inode = |link: std::path::PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    files.filter_map(|file| inode(std::fs::read_link(file.path()).ok()?)).collect()
}

/// The sockets that accept TCP connections at one of these addresses in the network namespace of this thread (proc(5), `net/tcp`).
pub fn listening(addresses: &BTreeSet<Ipv4Addr>) -> Result<HashSet<u64>> {
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // The bytes of an address are one number of this machine.
        let address = u32::from_str_radix(fields.get(1)?.split(':').next()?, 16).ok()?;
        let here = addresses.contains(&Ipv4Addr::from(address.to_ne_bytes())) && *fields.get(3)? == LISTEN;
        here.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    Ok(table.lines().skip(1).filter_map(socket).collect())
}

/// All processes of this PID namespace.
pub fn all() -> Result<Vec<Seen>> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // Processes end while they are looked at.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        let network = std::fs::metadata(entry.path().join("ns/net")).map_or(0, |meta| meta.ino());
        seen.push(Seen { pid, parent: parent.unwrap_or(0), network });
    }
    Ok(seen)
}

/// Kills a process and all its descendants, at once and without warning, and waits until they are gone.
pub fn kill_tree(root: i32) -> Result<()> {
    let seen = all()?;
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(seen.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        next += 1;
    }
    tree.iter().try_for_each(|pid| kill(*pid))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(pid) = tree.iter().find(|pid| alive(**pid)) {
        ensure!(Instant::now() < deadline, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Asks a process to end, and waits until it has; kills it if it takes long.
pub fn end(pid: i32, how: Signal) -> Result<()> {
    // It may have ended just now.
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), how);
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive(pid) {
        if Instant::now() >= deadline {
            return kill_tree(pid);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Kills every process of this PID namespace but this one, at once and without warning, and waits until they are gone.
pub fn kill_all() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let others: Vec<i32> = all()?.iter().map(|process| process.pid).filter(|pid| *pid > 1 && alive(*pid)).collect();
        if others.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "these processes do not end: {others:?}");
        others.iter().try_for_each(|pid| kill(*pid))?;
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends SIGKILL; a process that is gone already is fine.
pub fn kill(pid: i32) -> Result<()> {
    match nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot kill process {pid}")),
    }
}

/// Whether a process exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('Z')))
}

/// Memory of all processes of this PID namespace, shared pages counted once (proportional set size).
pub fn memory_kib() -> u64 {
    let pids = all().unwrap_or_default();
    let of = |pid: i32| -> Option<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(|process| of(process.pid)).sum()
}
