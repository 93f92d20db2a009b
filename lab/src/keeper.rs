//! The keeper: starts process 1 of a lab in a new PID namespace, waits for its end, and removes the lab's directory.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use crate::directory::Directory;

/// Runs until the lab has ended. With `owned`, the lab ends when this process's standard input does: with whoever holds its other end,
/// even if killed; else with this process. Must be called while the process is single-threaded, and cannot make a thread: its next
/// child is process 1 of another PID namespace.
pub fn run(directory: &Directory, owned: bool) -> Result<()> {
    nix::unistd::setsid().context("cannot begin a session")?;
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a PID namespace: root is needed")?;
    let mut init = Command::new("/proc/self/exe");
    init.arg("init").arg(directory.path()).stdin(if owned { Stdio::inherit() } else { Stdio::piped() });
    let mut init = init.spawn().context("cannot start the lab")?;
    // Held open until the lab has ended; `wait` would close it.
    let _stdin = init.stdin.take();
    directory.write_pids(std::process::id() as i32, init.id() as i32)?;
    init.wait()?;
    directory.remove()
}
