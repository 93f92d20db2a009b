//! What `apply` does otherwise where something is lost or split: the loss is accepted by name, and planned work gives way.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::apply::{self, Made};
use super::args::{self, PlanFormat};
use super::conduct::{Telling, conduct};
use super::context::{Context, eprint, print};
use super::exit::Exit;
use super::show::{self, Saved};
use super::unlock::{self, AtWork};
use super::voice::Voice;
use super::{files, go_on, intent, process};
use crate::engine::GoOn;
use crate::journal::{How, Life, Lock, Past};
use crate::model::DatabaseName;
use crate::plan::{FailoverMove, Overrides, Plan, Planned, document};
use crate::report::{self, PlanAnswer};

/// How long a planned run may take to finish or undo its step when something is lost.
const GIVES_WAY: Duration = Duration::from_secs(30);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What a database loses by a plan.
struct Stake<'a> {
    database: &'a DatabaseName,
    text: String,
    bytes: Option<u64>,
    /// Where bytes were accepted: why they do not cover it, if they do not.
    uncovered: Option<Option<String>>,
}

/// All that is at stake.
fn stakes(plan: &Plan) -> impl Iterator<Item = Stake<'_>> {
    let accepted = |database: &DatabaseName| plan.intent.accept_loss.get(database).copied();
    let lost = plan.failovers.iter().filter(|failover| !failover.loss.is_nothing()).map(move |failover| {
        let FailoverMove { database, loss, .. } = failover;
        let uncovered = accepted(database).map(|bytes| loss.exceeds(bytes));
        Stake { database, text: loss.to_string(), bytes: loss.bytes, uncovered }
    });
    let split = plan.splits.iter().map(move |repair| {
        let database = &repair.database;
        let uncovered = accepted(database).map(|bytes| repair.exceeds(bytes));
        Stake { database, text: repair.to_string(), bytes: repair.bytes(), uncovered }
    });
    lost.chain(split)
}

/// True if somebody must be asked before the plan may lose what it may lose.
pub fn asks(plan: &Plan) -> bool {
    stakes(plan).any(|stake| stake.uncovered.is_none())
}

/// What stands against applying a plan that may lose something, all of it at once. Accepted by bytes, or asked for by name.
///
/// # Errors
/// If the terminal cannot be read.
pub fn accepted(plan: &Plan) -> Result<Result<(), String>> {
    let (mut open, mut wrong) = (Vec::new(), Vec::new());
    for stake in stakes(plan) {
        match &stake.uncovered {
            Some(None) => {}
            Some(Some(why)) => wrong.push(format!("{}: {why}\n{}", stake.database, stake.text)),
            None => open.push(stake),
        }
    }
    if !wrong.is_empty() {
        return Ok(Err(wrong.join("\n")));
    }
    if !open.is_empty() && !std::io::stdin().is_terminal() {
        let told = |stake: &Stake<'_>| {
            let number = stake.bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
            format!("{0}: {1}\nto accept it: --accept-loss {0}={number}", stake.database, stake.text)
        };
        return Ok(Err(open.iter().map(told).collect::<Vec<_>>().join("\n")));
    }
    for Stake { database, text, .. } in open {
        eprint(&format!("\n{database}: {text}\nType `{database}` to accept that: "));
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != database.as_str() {
            return Ok(Err(format!("the loss of {database} was not accepted: nothing was done")));
        }
    }
    Ok(Ok(()))
}

/// Makes the plan for what is lost, saves it, and applies it: one command.
///
/// # Errors
/// If the store fails before anything was done.
pub async fn plan_and_apply(args: &args::Apply, context: &Context, voice: Voice) -> Result<Exit> {
    let intent = match intent::emergency(args, &context.topology) {
        Ok(intent) => intent,
        Err(wrong) => return Ok(voice.errors(Exit::Usage, &wrong)),
    };
    clear_the_way(args, context).await?;
    let format = if voice.json { PlanFormat::Json } else { PlanFormat::Text };
    let form = show::form(format, true, args.common.output);
    match super::plan::planned(context, &intent).await? {
        Planned::Nothing(notes) => {
            print(&report::answer(PlanAnswer::Nothing(&notes), form));
            Ok(Exit::Success)
        }
        Planned::Refused(refusals) => {
            let (wish, exit) = (intent.title(), Exit::Refused);
            let refused = PlanAnswer::Refused { wish: &wish, refusals: &refusals, exit_code: exit as u8 };
            print(&report::answer(refused, form));
            Ok(exit)
        }
        Planned::Plan(plan) => {
            let text = plan.to_yaml()?;
            let file = Path::new("plans").join(format!("{}.yaml", plan.id));
            // The run keeps its text as well: nothing waits for a disk.
            match files::create(&file, &text) {
                Ok(()) => eprint(&format!("note: the plan is saved as {}\n", file.display())),
                Err(error) => eprint(&format!("warning: the plan could not be saved as {}: {error}\n", file.display())),
            }
            let digest = document::digest(text.as_bytes());
            apply::apply(args, context, Saved { plan: *plan, digest, text }, Made::JustNow, voice).await
        }
    }
}

/// Planned work gives way: a run at work is asked to stop, and what a dead one left in the middle is settled first. True if anything was in
/// the way: it may have changed what was observed before.
///
/// # Errors
/// If the store fails.
pub async fn clear_the_way(args: &args::Apply, context: &Context) -> Result<bool> {
    let at_work = unlock::at_work(&*context.store).await?;
    let preempted = matches!(at_work, AtWork::Somebody(_));
    let dead = match at_work {
        AtWork::Somebody(lock) => preempt(context, &lock).await?,
        at_work => at_work,
    };
    let dead = match dead {
        AtWork::Somebody(_) => return Ok(preempted),
        AtWork::Dead(lock) => Some(lock),
        AtWork::Nobody => None,
    };
    let Some(run) = go_on::unsettled(context).await? else { return Ok(preempted) };
    eprint(&format!("note: run {run} died in the middle of what stands or falls as one; that is settled first\n"));
    let Some(plan) = Past::of(&context.store.records(&run).await?).and_then(|past| past.plan().ok().flatten()) else {
        return Ok(preempted);
    };
    let telling = Telling { format: args.format, output: args.common.output };
    let settled = conduct(telling, |stop, events| {
        let (how, holder) = (How::Settle, process::holder());
        let request = GoOn { run, plan, how, holder, dead, overrides: Overrides::new(), stop, events };
        context.engine.go_on(request, Arc::clone(&context.store))
    });
    if let Err(why) = settled.await? {
        eprint(&format!("warning: it could not be settled: {why}\n"));
    }
    Ok(true)
}

/// Asks a planned run on this machine to stop, and waits until it has; what it leaves in the middle, its guard ends.
///
/// # Errors
/// If the store fails.
async fn preempt(context: &Context, lock: &Lock) -> Result<AtWork> {
    let pid = lock.holder.process.as_ref().and_then(|process| Pid::from_raw(i32::try_from(process.pid).ok()?));
    if let (Some(pid), Life::Lives) = (pid, process::life(&lock.holder)) {
        eprint(&format!("note: run {} of {} is asked to stop: this cannot wait\n", lock.run, lock.holder.name));
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
