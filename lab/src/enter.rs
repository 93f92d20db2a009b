//! Runs a program inside a lab and stands for it outside: signals go in, the exit status comes out.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use crate::directory::Directory;

/// What is passed on to the program.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Runs `argv` in a place; returns its exit status, 128 + N after signal N. Must be called while the process is single-threaded.
pub fn run(directory: &Directory, place: &str, argv: &[OsString]) -> Result<u8> {
    let network = File::open(directory.namespace(place)?).context("the lab is ending")?;
    let init = directory.pids()?.init;
    let open = |kind: &str| File::open(format!("/proc/{init}/ns/{kind}")).context("the lab is ending");
    let (mounts, ipc, pids) = (open("mnt")?, open("ipc")?, open("pid")?);
    let here = std::env::current_dir().context("the working directory is gone")?;
    let kinds = [CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWIPC, CloneFlags::CLONE_NEWPID, CloneFlags::CLONE_NEWNS];
    for (namespace, kind) in [network, ipc, pids, mounts].iter().zip(kinds) {
        setns(namespace, kind).context("cannot enter the lab: root is needed")?;
    }

    // It dies with this process, even if that is killed.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(argv)
        .current_dir(here)
        .spawn()
        .context("cannot start a program in the lab")?;
    // Not before: a program inherits what is blocked, and would never see a signal.
    let mut signals = SigSet::from_iter(FORWARDED);
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let signals = SignalFd::new(&signals)?;
    wait(&mut child, &signals)
}

fn wait(child: &mut Child, signals: &SignalFd) -> Result<u8> {
    loop {
        if let Some(status) = child.try_wait()? {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
        let Some(signal) = signals.read_signal()? else { continue };
        let number = i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        // What the terminal sends reaches the program by itself: it is in the same process group.
        if let Some(number) = number.filter(|number| *number != Signal::SIGCHLD && signal.ssi_code != libc::SI_KERNEL) {
            // The program may have ended just now.
            let _ = kill(Pid::from_raw(child.id() as i32), number);
        }
    }
}
