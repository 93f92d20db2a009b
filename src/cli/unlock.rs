//! `handover unlock`, and what is said to whoever finds the lock held. It speaks to no target.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Result;
use jiff::Timestamp;

use super::args;
use super::context::{self, eprint, print};
use super::exit::Exit;
use super::process;
use super::voice::Voice;
use crate::journal::{Life, Lock, Store};
use crate::model::Span;
use crate::provider::{Clock, SystemClock};

/// Gives the lock of a run back that will not do so itself.
///
/// # Errors
/// If the store fails.
pub async fn run(args: args::Unlock) -> Result<Exit> {
    let voice = Voice { json: false, output: args.store.output };
    let store = match context::store(&args.store, voice)? {
        Ok(records) => records.store,
        Err(exit) => return Ok(exit),
    };
    let now = SystemClock.now();
    let Some(lock) = store.lock().await? else {
        print("No run holds the lock.\n");
        return Ok(Exit::Success);
    };
    print(&format!("The lock is held by {}.\n", told(&lock, now)));
    let sure = match process::life(&lock.holder) {
        Life::Lives => {
            let pid = lock.holder.process.as_ref().map(|process| process.pid).unwrap_or_default();
            let why = format!(
                "that process runs on this machine: let it end, or ask it to stop with `kill -TERM {pid}`; it finishes or undoes its step first"
            );
            return Ok(voice.refuse(&why));
        }
        Life::Gone => {
            print("That process is gone.\n");
            true
        }
        Life::Unknown => match &args.run {
            Some(run) if *run == lock.run.0 => true,
            Some(run) => return Ok(voice.refuse(&format!("the lock is not that of {run}: nothing was changed"))),
            None if std::io::stdin().is_terminal() => confirmed(&lock)?,
            None => {
                let why = format!(
                    "whether that process runs cannot be seen from here. If you are sure that it does not: handover unlock --run {}",
                    lock.run
                );
                return Ok(voice.error(Exit::Usage, &why));
            }
        },
    };
    if !sure {
        eprint("Nothing was changed.\n");
        return Ok(Exit::Refused);
    }
    if !store.unlock(&lock, &process::holder(), now).await? {
        return Ok(voice.error(Exit::Locked, "the lock has changed hands meanwhile: look again"));
    }
    let run = &lock.run;
    print(&format!(
        "The lock was given back. See what {run} has done with `handover runs show {run}`, and how things are with `handover status`;\n\
         a new `handover plan` holds what is left.\n"
    ));
    Ok(Exit::Success)
}

fn confirmed(lock: &Lock) -> Result<bool> {
    eprint(
        "Whether that process runs cannot be seen from here. Two runs at once would undo each other's work:\n\
         make sure that it has ended, on its own machine.\n\
         Type the identity of the run to take the lock from it: ",
    );
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == lock.run.0)
}

/// Who holds a lock, for which run, since when, and until when without a sign of life.
fn told(lock: &Lock, now: Timestamp) -> String {
    let seconds =
        |from: Timestamp, to: Timestamp| Span::secs(to.duration_since(from).as_secs().try_into().unwrap_or(0));
    let until = match lock.until > now {
        true => format!("good for {} more", seconds(now, lock.until)),
        false => format!("run out {} ago", seconds(lock.until, now)),
    };
    let (run, name, since) = (&lock.run, &lock.holder.name, seconds(lock.since, now));
    format!("run {run} of {name} since {:.0} ({since} ago); without a sign of life it is {until}", lock.since)
}

/// Who is at work.
pub enum AtWork {
    /// Nobody: the lock may be taken.
    Nobody,
    /// Nobody: the process that holds the lock is certainly gone.
    Dead(Lock),
    /// Somebody, or it cannot be seen that nobody is.
    Somebody(Lock),
}

/// Who is at work. A process that certainly lives is, however long it has given no sign of life.
///
/// # Errors
/// If the store fails.
pub async fn at_work(store: &dyn Store) -> Result<AtWork> {
    let Some(lock) = store.lock().await? else { return Ok(AtWork::Nobody) };
    Ok(match process::life(&lock.holder) {
        Life::Gone => AtWork::Dead(lock),
        Life::Unknown if lock.until <= SystemClock.now() => AtWork::Nobody,
        Life::Lives | Life::Unknown => AtWork::Somebody(lock),
    })
}

/// Gives the lock of a process that is gone back, and says so.
///
/// # Errors
/// If the store fails.
pub async fn free(store: &dyn Store, lock: &Lock) -> Result<()> {
    if store.unlock(lock, &process::holder(), SystemClock.now()).await? {
        let run = &lock.run;
        eprint(&format!(
            "note: run {run} of {} has died: its lock is given back. What it has done: handover runs show {run}\n",
            lock.holder.name
        ));
    }
    Ok(())
}

/// Tells that somebody else is at work.
pub fn refused(lock: &Lock, voice: Voice) -> Exit {
    let why = format!(
        "somebody is at work: {}\nwatch it: handover runs follow {}\nif it has died on another machine: handover unlock",
        told(lock, SystemClock.now()),
        lock.run
    );
    voice.error(Exit::Locked, &why)
}
