//! `handover apply --detach`: the run goes on in a process of its own, without a terminal.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::context::{Context, eprint, print};
use super::exit::Exit;
use super::voice::Voice;
use crate::journal::{Entry, RunId};
use crate::report::json;

/// How often it is looked whether the run has begun.
const LOOK: Duration = Duration::from_millis(20);

/// Where a run without a terminal prints.
pub fn log(state: &Path, run: &RunId) -> PathBuf {
    state.join(format!("{run}.log"))
}

/// Leaves the session of whoever started this process: neither Ctrl-C there nor the end of that terminal reach it any more.
pub fn leave() {
    // It fails only for one that leads a group already, which has left.
    let _ = rustix::process::setsid();
}

/// Starts a process that carries the run out, and waits until it has begun or has ended.
///
/// # Errors
/// If the process cannot be started, or the store fails.
pub async fn start(context: &Context, run: &RunId, voice: Voice) -> Result<Exit> {
    let log = log(&context.state, run);
    let before = context.store.records(run).await?.len();
    let mut child = spawn(run, &log)?;
    loop {
        let begun = context.store.records(run).await?.get(before..).is_some_and(|new: &[Entry]| !new.is_empty());
        if begun {
            let pid = child.id();
            match voice.json {
                true => print(&json::detached(run, pid, &log.display().to_string())),
                false => print(&format!(
                    "Run {run} has begun and goes on without this terminal (process {pid}).\n\
                     watch it: handover runs follow {run}\nask it to stop: kill -TERM {pid}\nwhat it prints: {}\n",
                    log.display()
                )),
            }
            return Ok(Exit::Success);
        }
        if let Some(status) = child.try_wait().context("cannot wait for the process of the run")? {
            // It has ended before it began; it knows why.
            let said = read(&log);
            let code = status.code().and_then(|code| u8::try_from(code).ok()).and_then(Exit::of).unwrap_or(Exit::Error);
            match voice.json {
                true => print(&said),
                false => eprint(&said),
            }
            return Ok(code);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the command line reads what its own process has printed")]
fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the command line starts itself")]
fn spawn(run: &RunId, log: &Path) -> Result<Child> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    let errors = file.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
    let arguments =
        std::env::args_os().skip(1).filter(|argument| argument != "--detach" && argument != "--auto-approve");
    let own = ["--auto-approve".into(), "--detached".into(), OsString::from(&run.0)];
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let mut command = Command::new(program);
    command.args(arguments.chain(own)).stdin(Stdio::null()).stdout(file).stderr(errors);
    command.spawn().context("cannot start a process for the run")
}
