//! `handover apply --resume` and `handover rollback`: go on with a run that died or stopped, forwards or back.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::apply::not_begun;
use super::args::{self, Common, Format, NamedRun};
use super::conduct::{Telling, conduct, confirmed};
use super::context::{Context, eprint, stderr_style};
use super::exit::Exit;
use super::guard::{self, GuardProcess};
use super::unlock::{self, AtWork};
use super::voice::Voice;
use super::{back, intent, process, runs};
use crate::engine::GoOn;
use crate::journal::{How, Past, RunEnd, RunId, RunSummary, Store};
use crate::plan::{Overrides, Plan};
use crate::report;

/// How long the guard of a dead run is waited for.
const GUARDED: Duration = Duration::from_secs(60);

/// How often it is looked whether it is done.
const LOOK: Duration = Duration::from_millis(100);

/// What is asked.
struct Asked<'a> {
    run: NamedRun,
    how: How,
    overrides: Overrides,
    auto_approve: bool,
    detach: bool,
    telling: Telling,
    common: &'a Common,
}

/// Goes on with a run to its end.
///
/// # Errors
/// If the store fails before anything was done.
pub async fn resume(args: args::Apply, voice: Voice) -> Result<Exit> {
    let overrides = match intent::overrides(&args.overrides, args.reason.as_deref()) {
        Ok(overrides) => overrides,
        Err(wrong) => return Ok(voice.errors(Exit::Usage, &wrong)),
    };
    let asked = Asked {
        run: NamedRun { run: args.resume.unwrap_or_default() },
        how: How::Resume,
        overrides,
        auto_approve: args.auto_approve,
        detach: args.detach,
        telling: Telling { format: args.format, output: args.common.output },
        common: &args.common,
    };
    go_on(asked, voice).await
}

/// Takes back what a run has done.
///
/// # Errors
/// If the store fails before anything was done.
pub async fn rollback(args: args::Rollback) -> Result<Exit> {
    let voice = Voice { json: args.format == Format::Json, output: args.common.output };
    let asked = Asked {
        run: args.named,
        how: How::Rollback,
        overrides: Overrides::new(),
        auto_approve: args.auto_approve,
        detach: false,
        telling: Telling { format: args.format, output: args.common.output },
        common: &args.common,
    };
    go_on(asked, voice).await
}

async fn go_on(asked: Asked<'_>, voice: Voice) -> Result<Exit> {
    let context = match Context::open(asked.common, voice)? {
        Ok(context) => context.remembering().await,
        Err(exit) => return Ok(exit),
    };
    let exit = go_on_in(asked, &context, voice).await;
    context.close().await;
    exit
}

async fn go_on_in(asked: Asked<'_>, context: &Context, voice: Voice) -> Result<Exit> {
    let Asked { run, how, overrides, auto_approve, detach, telling, common } = asked;
    let store = &*context.store;
    let dead = match after_the_guard(store).await? {
        AtWork::Somebody(lock) => return Ok(unlock::refused(&lock, voice)),
        AtWork::Dead(lock) => Some(lock),
        AtWork::Nobody => None,
    };
    let summary = match runs::find(store, &run, voice).await? {
        Ok(summary) => summary,
        Err(exit) => return Ok(exit),
    };
    let Some(past) = Past::of(&store.records(&summary.run).await?) else {
        return Ok(voice.refuse(&format!("the first record of run {} is missing from its journal", summary.run)));
    };
    let plan = match past.plan() {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            let why = "it was made by a handover that did not yet keep the plan with the run: make a new plan";
            return Ok(voice.refuse(&format!("run {} cannot be gone on with: {why}", summary.run)));
        }
        Err(error) => return Ok(voice.refuse(&format!("the plan of run {} cannot be read: {error}", summary.run))),
    };
    if let Some(why) = impossible(how, &summary, &store.runs().await?, &past, &plan, context) {
        return Ok(voice.refuse(&why));
    }
    if !auto_approve {
        if !std::io::stdin().is_terminal() {
            let show = format!("handover runs show {}", summary.run);
            let why = format!("there is no terminal to ask on: look at it with `{show}`, then add --auto-approve");
            return Ok(voice.error(Exit::Usage, &why));
        }
        eprint(&report::going_on(&summary.run, &plan, &past, how, stderr_style(common.output)));
        let question = if how == How::Rollback { "Take this back?" } else { "Go on?" };
        if !confirmed(question)? {
            return Ok(Exit::Refused);
        }
    }
    if detach {
        return super::detach::start(context, &summary.run, voice).await;
    }
    let guard = GuardProcess::new(common, &context.state)?;
    let engine = context.engine.clone().guarded(Arc::clone(&guard) as _);
    let outcome = conduct(telling, |stop, events| {
        let (run, holder, plan) = (summary.run.clone(), process::holder(), plan.clone());
        let request = GoOn { run, plan, how, holder, dead, overrides, stop, events };
        engine.go_on(request, Arc::clone(&context.store))
    });
    let outcome = outcome.await;
    guard.end().await;
    match outcome? {
        Ok(outcome) if how == How::Rollback && outcome.end == RunEnd::Undone => Ok(Exit::Success),
        Ok(outcome) => {
            if outcome.end == RunEnd::Done && how == How::Resume {
                back::sketch(context, &plan, None).await;
            }
            Ok(outcome.end.into())
        }
        Err(error) => not_begun(error, voice),
    }
}

/// Who is at work, once a guard that is about to free the clients of a dead run has done so.
async fn after_the_guard(store: &dyn Store) -> Result<AtWork> {
    let deadline = Instant::now() + GUARDED;
    let mut told = false;
    loop {
        match unlock::at_work(store).await? {
            AtWork::Somebody(lock) if guard::holds(&lock) && Instant::now() < deadline => {
                if !told {
                    eprint(&format!("note: the guard of run {} frees its clients; it is waited for\n", lock.run));
                    told = true;
                }
                tokio::time::sleep(LOOK).await;
            }
            at_work => return Ok(at_work),
        }
    }
}

/// Why a run cannot be gone on with so, whatever the targets say.
fn impossible(
    how: How,
    summary: &RunSummary,
    runs: &[RunSummary],
    past: &Past,
    plan: &Plan,
    context: &Context,
) -> Option<String> {
    let run = &summary.run;
    let over = match (how, past.end) {
        (_, Some(RunEnd::Refused)) => Some("has touched nothing"),
        (_, Some(RunEnd::Undone)) => Some("was taken back"),
        (How::Resume | How::Settle, Some(RunEnd::Done)) => Some("is done"),
        _ => None,
    };
    if let Some(over) = over {
        return Some(format!("run {run} {over}: there is nothing to go on with; `handover runs` lists them all"));
    }
    let nothing_stays = |other: &&RunSummary| matches!(other.end, Some(RunEnd::Refused | RunEnd::Undone));
    let since = runs.iter().take_while(|other| other.run != *run).find(|other| !nothing_stays(other));
    if let Some(since) = since {
        return Some(format!(
            "run {} has changed things since run {run}: see how they are with `handover status`, and make a new plan",
            since.run
        ));
    }
    if plan.topology.digest != context.topology.digest {
        return Some(format!(
            "the topology was edited since run {run} began: put it back as it was (SHA-256 {}), or make a new plan, which starts from how \
             things are",
            plan.topology.digest
        ));
    }
    let done = past.done.keys().cloned().collect();
    let (step, why) = plan.irreversible(&done).next().filter(|_| how == How::Rollback)?;
    let back = plan.way_back();
    Some(format!(
        "run {run} cannot be rolled back after `{}`: {why}\nplan the way back, which moves primaries as well: {back}",
        step.title
    ))
}

/// The newest run, if it died in the middle of a section of the topology as it is now.
///
/// # Errors
/// If the store fails.
pub async fn unsettled(context: &Context) -> Result<Option<RunId>> {
    let runs = context.store.runs().await?;
    let Some(newest) = runs.first().filter(|run| run.end.is_none()) else { return Ok(None) };
    let Some(past) = Past::of(&context.store.records(&newest.run).await?) else { return Ok(None) };
    let same = past.plan().ok().flatten().is_some_and(|plan| plan.topology.digest == context.topology.digest);
    Ok((same && !past.open.is_empty()).then(|| newest.run.clone()))
}

/// What to do about it.
pub fn settle_first(run: &RunId) -> String {
    format!(
        "run {run} died in the middle of what stands or falls as one. First go on with it, or back:\n\
         handover apply --resume {run}\nhandover rollback {run}"
    )
}
