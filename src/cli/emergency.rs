//! What `apply` does otherwise where something is lost: the loss is accepted by name, and planned work gives way.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::context::{Context, eprint};
use super::process;
use super::unlock::{self, AtWork};
use crate::journal::{Life, Lock};
use crate::plan::{FailoverMove, Plan};

/// How long a planned run may take to finish or undo its step when something is lost.
const GIVES_WAY: Duration = Duration::from_secs(30);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What stands against applying a plan that may lose something, all of it at once. Accepted by bytes, or asked for by name.
///
/// # Errors
/// If the terminal cannot be read.
pub fn accepted(plan: &Plan) -> Result<Result<(), String>> {
    let (mut open, mut wrong) = (Vec::new(), Vec::new());
    for failover in plan.failovers.iter().filter(|failover| !failover.loss.is_nothing()) {
        match plan.intent.accept_loss.get(&failover.database) {
            Some(bytes) => {
                if let Some(why) = failover.loss.exceeds(*bytes) {
                    wrong.push(format!("{}: {why}\n{}", failover.database, failover.loss));
                }
            }
            None => open.push(failover),
        }
    }
    if !wrong.is_empty() {
        return Ok(Err(wrong.join("\n")));
    }
    if !open.is_empty() && !std::io::stdin().is_terminal() {
        let told = |failover: &&FailoverMove| {
            let number = failover.loss.bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
            let database = &failover.database;
            format!("{database}: {}\nto accept it: --accept-loss {database}={number}", failover.loss)
        };
        return Ok(Err(open.iter().map(told).collect::<Vec<_>>().join("\n")));
    }
    for failover in open {
        let database = &failover.database;
        eprint(&format!("\n{database}: {}\nType `{database}` to accept that: ", failover.loss));
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != database.as_str() {
            return Ok(Err(format!("the loss of {database} was not accepted: nothing was done")));
        }
    }
    Ok(Ok(()))
}

/// Asks a planned run on this machine to stop, and waits until it has; what it leaves in the middle, its guard ends.
///
/// # Errors
/// If the store fails.
pub async fn preempt(context: &Context, lock: &Lock) -> Result<AtWork> {
    let pid = lock.holder.process.as_ref().and_then(|process| Pid::from_raw(i32::try_from(process.pid).ok()?));
    if let (Some(pid), Life::Lives) = (pid, process::life(&lock.holder)) {
        eprint(&format!("note: run {} of {} is asked to stop: something is lost\n", lock.run, lock.holder.name));
        // It may have ended just now.
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + GIVES_WAY;
    loop {
        match unlock::at_work(&*context.store).await? {
            AtWork::Somebody(_) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
            at_work => return Ok(at_work),
        }
    }
}
