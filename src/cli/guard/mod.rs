//! `handover guard`: a process that watches over the one that carries a run out, and ends its open sections in its place if it dies or
//! hangs while clients are held back. `apply` starts it.
//!
//! It never acts beside the one it watches over: that one's death is waited for, through a file descriptor that means this one process
//! (pidfd_open(2)), then its lock is taken, from it only. The proof is in docs/safety.md.

mod start;
mod watch;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal, setsid};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch as flag};

pub use start::GuardProcess;
use watch::{Armed, Word};

use super::args;
use super::context::{self, Context, eprint};
use super::exit::Exit;
use super::process;
use super::voice::Voice;
use crate::engine::{Engine, GoOn};
use crate::journal::{Holder, How, Lock, Past, Process, RunEnd, RunId, Store, StoreError};
use crate::plan::{Overrides, Plan};
use crate::provider::{Clock, SystemClock};
use crate::report::{Plain, Reporter};

/// What follows the name of whoever holds a lock as guard.
const NAME: &str = " (guard)";

/// True if the lock is held by the guard of a run: it gives it back as soon as nobody is left waiting.
pub fn holds(lock: &Lock) -> bool {
    lock.holder.name.ends_with(NAME)
}

/// The answer to a section that is watched over from now on; every other one says why it is not.
const ARMED: &str = "armed";

/// How long the answer waits for connections that settling would need.
const WARMING: Duration = Duration::from_secs(2);

/// How often it is told that a killed process has not ended yet.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Where a run's guard tells what it did.
pub fn log(state: &Path, run: &RunId) -> PathBuf {
    state.join(format!("guard-{run}.log"))
}

/// Watches over the process that has started this one, until it ends or does not answer any more.
///
/// # Errors
/// If it cannot watch, or could not end what that process had left.
pub fn run(args: args::Guard) -> Result<Exit> {
    // What ends the operator's session or stops its processes is not meant for this one.
    let _ = setsid();
    context::block_on(guard(args))
}

async fn guard(args: args::Guard) -> Result<Exit> {
    // Listened to for ever, and not obeyed.
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let _deaf = kinds.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>()?;
    let voice = Voice { json: false, output: args.common.output };
    let context = match Context::open(&args.common, voice)? {
        Ok(context) => Arc::new(context),
        Err(exit) => return Ok(exit),
    };
    let run = RunId(args.run);
    let watched = Watched::parent(run.clone(), &context)?;
    let handle = Handle::current();
    let left = tokio::task::spawn_blocking(move || watched.watch_to_the_end(&handle)).await??;
    let ended = match left {
        Some((lock, plan)) => settle(&context, &run, lock, plan).await,
        None => {
            // It holds what the topology file is warned of at most.
            let _ = std::fs::remove_file(log(&context.state, &run));
            Ok(Exit::Success)
        }
    };
    context.close().await;
    ended
}

/// The process that is watched over.
struct Watched {
    run: RunId,
    identity: Process,
    /// It, and no other one that gets its number later.
    pidfd: OwnedFd,
    context: Arc<Context>,
    /// Its lock and its plan, once it has armed this guard.
    holds: Option<(Lock, Plan)>,
    armed: Armed,
}

impl Watched {
    fn parent(run: RunId, context: &Arc<Context>) -> Result<Self> {
        let parent = getppid().context("the process to watch over has ended")?;
        let pidfd = pidfd_open(parent, PidfdFlags::empty()).context("the process to watch over cannot be opened")?;
        // Read after it was opened: it is the same one if it still is who has started this one.
        let identity = process::of(parent.as_raw_nonzero().get().unsigned_abs());
        let identity = identity.filter(|_| getppid() == Some(parent)).context("the process to watch over has ended")?;
        Ok(Self { run, identity, pidfd, context: Arc::clone(context), holds: None, armed: Armed::default() })
    }

    /// Hears it until it ends, or is silent for too long while it is watched over: then it is killed, and certainly dead when this
    /// returns. None if there is nothing to be done in its place.
    fn watch_to_the_end(mut self, runtime: &Handle) -> Result<Option<(Lock, Plan)>> {
        let stdin = rustix::stdio::stdin();
        let mut heard = Vec::new();
        loop {
            let silence = self.armed.silence().map(timespec);
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], silence.as_ref()) {
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("its beats cannot be waited for"),
                Ok(0) => {
                    eprint(&format!("handover ({}) is silent: it is ended\n", self.identity.pid));
                    break;
                }
                Ok(_) => {}
            }
            let mut chunk = [0; 4096];
            match rustix::io::read(stdin, &mut chunk) {
                Ok(0) => break,
                Ok(count) => heard.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error).context("its beats cannot be read"),
            }
            while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = heard.drain(..=end).collect();
                self.hear(&String::from_utf8_lossy(&line), runtime);
            }
        }
        if self.armed.silence().is_none() {
            return Ok(None);
        }
        self.end()?;
        Ok(self.holds)
    }

    fn hear(&mut self, line: &str, runtime: &Handle) {
        match Word::read(line) {
            Some(Word::Arm { section, silence }) => {
                let answer = match runtime.block_on(self.arm(&section, silence)) {
                    Ok(()) => ARMED.to_owned(),
                    // On one line.
                    Err(why) => format!("{why:#}").replace('\n', " "),
                };
                if let Some((_, plan)) = self.holds.as_ref().filter(|_| answer == ARMED) {
                    // Before the answer: nobody waits yet, and nothing is opened beside what the other does while they wait.
                    let _ =
                        runtime.block_on(tokio::time::timeout(WARMING, self.context.engine.warm_up(plan, &section)));
                }
                let mut out = std::io::stdout();
                let _ = writeln!(out, "{answer}").and_then(|()| out.flush());
            }
            Some(Word::Disarm { section }) => self.armed.remove(&section),
            None => {}
        }
    }

    /// Only the holder of the run's lock is watched over: that lock, and no other, will be taken.
    async fn arm(&mut self, section: &str, silence: Duration) -> Result<()> {
        let store = &*self.context.store;
        let lock = store.lock().await?.filter(|lock| lock.run == self.run);
        let lock = lock.ok_or_else(|| anyhow!("run {} does not hold the lock", self.run))?;
        if lock.holder.process.as_ref() != Some(&self.identity) {
            bail!("the lock is held by {}, not by the process that asks", lock.holder.name);
        }
        if self.holds.is_none() {
            let past = Past::of(&store.records(&self.run).await?).context("the run has no first record")?;
            let plan = past.plan()?.context("its plan was not recorded")?;
            self.holds = Some((lock, plan));
        }
        self.armed.add(section.to_owned(), silence);
        Ok(())
    }

    /// Ends it, and waits until it has ended: what it had sent is on its way then, and nothing else will follow.
    fn end(&self) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error).context("the process that hangs cannot be ended"),
        }
        loop {
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&PATIENCE)) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("its end cannot be waited for"),
                // The kernel holds it, in a call to a disk for example; to act beside it is worse than to wait.
                Ok(0) => eprint(&format!("process {} has been killed and has not ended yet\n", self.identity.pid)),
                Ok(_) => return Ok(()),
            }
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

/// Ends what a process that is certainly dead has left open.
async fn settle(context: &Context, run: &RunId, lock: Lock, plan: Plan) -> Result<Exit> {
    let over = Past::of(&context.store.records(run).await?).is_none_or(|past| past.end.is_some());
    if over {
        // Somebody else was quicker.
        return Ok(Exit::Success);
    }
    match settled(&context.engine, &context.store, run, lock, plan).await {
        Ok(end) => Ok(end.into()),
        Err(StoreError::Locked(lock)) => {
            eprint(&format!("somebody else goes on with the run: {}\n", lock.holder.name));
            Ok(Exit::Locked)
        }
        Err(error) => Err(error.into()),
    }
}

async fn settled(
    engine: &Engine,
    store: &Arc<dyn Store>,
    run: &RunId,
    dead: Lock,
    plan: Plan,
) -> Result<RunEnd, StoreError> {
    let (events, mut heard) = mpsc::unbounded_channel();
    let (_never, stop) = flag::channel(false);
    let listener = tokio::spawn(async move {
        let style = context::stderr_style(args::Output { color: clap::ColorChoice::Never });
        let mut reporter = Plain::new(Box::new(std::io::stderr()), style);
        while let Some(event) = heard.recv().await {
            reporter.event(SystemClock.now(), &event);
        }
    });
    let holder = process::holder();
    let holder = Holder { name: format!("{}{NAME}", holder.name), ..holder };
    let (run, overrides) = (run.clone(), Overrides::new());
    let request = GoOn { run, plan, how: How::Settle, holder, dead: Some(dead), overrides, stop, events };
    let outcome = engine.go_on(request, Arc::clone(store)).await;
    let _ = listener.await;
    Ok(outcome?.end)
}
