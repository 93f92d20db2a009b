//! `handover apply`: carries out a saved plan.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;

use super::args::{self, Format};
use super::back;
use super::conduct::{Telling, conduct, confirmed};
use super::context::{Context, eprint, print, stderr_style};
use super::detach;
use super::emergency;
use super::exit::Exit;
use super::go_on;
use super::guard::GuardProcess;
use super::process;
use super::show::{self, Saved};
use super::unlock::{self, AtWork};
use super::voice::Voice;
use crate::engine::Request;
use crate::journal::{RunEnd, RunId, StoreError};
use crate::model::text::list;
use crate::plan::{self, Plan, window};
use crate::report::{self, Detail, Form, PlanAnswer};
use crate::topology::Topology;

/// Checks that the plan is still about the world as it is, asks, and carries it out.
///
/// # Errors
/// If the store fails before anything was done.
pub async fn run(args: args::Apply) -> Result<Exit> {
    let voice = Voice { json: args.format == Format::Json, output: args.common.output };
    if args.loss.lost.is_empty() && !args.loss.survivor.is_empty() {
        let why = "--survivor belongs to `handover plan` (or to --lost); a plan that is applied has chosen already";
        return Ok(voice.error(Exit::Usage, why));
    }
    if args.detached.is_some() {
        detach::leave();
    }
    let saved = match &args.plan {
        Some(plan) => match show::read(plan, voice) {
            Ok(saved) => Some(saved),
            Err(exit) => return Ok(exit),
        },
        None if args.loss.lost.is_empty() => return go_on::resume(args, voice).await,
        None => None,
    };
    let context = match Context::open(&args.common, voice)? {
        Ok(context) => context.remembering().await,
        Err(exit) => return Ok(exit),
    };
    let exit = match saved {
        Some(saved) => apply(&args, &context, saved, Made::Earlier, voice).await,
        None => emergency::plan_and_apply(&args, &context, voice).await,
    };
    context.close().await;
    exit
}

/// When a plan was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// By another command, some time ago.
    Earlier,
    /// By this one, of what was observed a moment ago.
    JustNow,
}

/// Checks, asks and carries out.
///
/// # Errors
/// If the store fails before anything was done.
pub async fn apply(args: &args::Apply, context: &Context, mut saved: Saved, made: Made, voice: Voice) -> Result<Exit> {
    match super::intent::overrides(&args.overrides, args.reason.as_deref()) {
        Ok(overrides) => saved.plan.intent.overrides.extend(overrides),
        Err(wrong) => return Ok(voice.errors(Exit::Usage, &wrong)),
    }
    match super::intent::accepted(&args.loss.accept_loss, &context.topology) {
        Ok(accepted) => saved.plan.intent.accept_loss.extend(accepted),
        Err(wrong) => return Ok(voice.errors(Exit::Usage, &wrong)),
    }
    if let Some(why) = unusable(&saved.plan, &context.topology, context.engine.now()) {
        return Ok(voice.refuse(&why));
    }
    // Before anything else is said of the plan: while another run changes things, every plan is stale.
    let urgent = saved.plan.is_urgent();
    let cleared = urgent && emergency::clear_the_way(args, context).await?;
    match unlock::at_work(&*context.store).await? {
        AtWork::Somebody(lock) => return Ok(unlock::refused(&lock, voice)),
        at_work => {
            if let Some(run) = go_on::unsettled(context).await?.filter(|_| !urgent) {
                return Ok(voice.refuse(&go_on::settle_first(&run)));
            }
            if let AtWork::Dead(lock) = at_work {
                unlock::free(&*context.store, &lock).await?;
            }
        }
    }
    if let Err(error) = context.store.may_begin(&saved.digest, context.engine.now()).await {
        return not_begun(error, voice);
    }
    // Time passes only while somebody is asked. What each step assumes is read again right before it in any case (S10).
    let fresh = made == Made::JustNow && !cleared && args.auto_approve && !emergency::asks(&saved.plan);
    if !args.auto_approve {
        if !std::io::stdin().is_terminal() {
            let why = "there is no terminal to ask on: review the plan with `handover show`, then add --auto-approve";
            return Ok(voice.error(Exit::Usage, why));
        }
        let answer = PlanAnswer::Plan { plan: &saved.plan, file: None, digest: &saved.digest };
        eprint(&report::answer(answer, Form::Text(Detail::Full, stderr_style(args.common.output))));
        if !confirmed("Apply this plan?")? {
            return Ok(Exit::Refused);
        }
    }
    if let Err(why) = emergency::accepted(&saved.plan)? {
        return Ok(voice.refuse(&why));
    }
    let stale = if fresh {
        Vec::new()
    } else {
        let held: Vec<_> = context.store.holds().await?.into_iter().map(|hold| hold.kind).collect();
        let live = context.observe(&saved.plan.intent.lost.with(&held)).await;
        if let Some(why) = plan::split::grown(&saved.plan, &context.topology, &live) {
            return Ok(voice.refuse(&why));
        }
        plan::stale(&saved.plan, &live)
    };
    if !stale.is_empty() {
        match args.format {
            Format::Text => eprint(&report::stale(&stale, stderr_style(args.common.output))),
            Format::Json => print(&report::json::stale(Exit::Refused as u8, &stale)),
        }
        return Ok(Exit::Refused);
    }
    let run = args.detached.clone().map_or_else(|| run_id(context.engine.now()), RunId);
    if args.detach {
        return detach::start(context, &run, voice).await;
    }
    let (digest, document, plan) = (saved.digest, saved.text, saved.plan);
    let telling = Telling { format: args.format, output: args.common.output };
    let guard = GuardProcess::new(&args.common, &context.state)?;
    let engine = context.engine.clone().guarded(Arc::clone(&guard) as _);
    let outcome = conduct(telling, |stop, events| {
        let plan = plan.clone();
        let request = Request { plan, digest, document, run, holder: process::holder(), stop, events };
        engine.apply(request, Arc::clone(&context.store))
    });
    let outcome = outcome.await;
    guard.end().await;
    match outcome? {
        Ok(outcome) => {
            if outcome.end == RunEnd::Done {
                back::sketch(context, &plan, args.plan.as_deref()).await;
            }
            Ok(outcome.end.into())
        }
        Err(error) => not_begun(error, voice),
    }
}

/// A run that could not begin, or be gone on with.
///
/// # Errors
/// If it is the store that failed.
pub fn not_begun(error: StoreError, voice: Voice) -> Result<Exit> {
    match error {
        StoreError::Locked(lock) => Ok(unlock::refused(&lock, voice)),
        StoreError::PlanUsed { .. } | StoreError::NoRun { .. } => Ok(voice.refuse(&error.to_string())),
        error => Err(error.into()),
    }
}

/// Why a plan must not be applied now, whatever the targets say.
fn unusable(plan: &Plan, topology: &Topology, now: Timestamp) -> Option<String> {
    if plan.topology.name != topology.name {
        return Some(format!("the plan is for `{}`, this topology is `{}`", plan.topology.name, topology.name));
    }
    if plan.topology.digest != topology.digest {
        return Some("the topology was edited after the plan was made: make a new plan".to_owned());
    }
    if now >= plan.expires {
        return Some(format!("the plan expired at {}: make a new one", plan.expires));
    }
    if plan.is_urgent() {
        return None;
    }
    let answer = window::answer(&topology.policy, &plan.intent.overrides, now, plan.needs());
    let pass =
        |why| format!("{why}; `--override GATE --reason TEXT` passes {}", list(answer.closed.iter().map(|it| it.gate)));
    answer.refusal().map(pass)
}

/// Time and some randomness, so that it sorts and is easy to type.
fn run_id(now: Timestamp) -> RunId {
    use std::hash::{BuildHasher, Hasher};
    const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
    let mut random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let mut tail = String::new();
    for _ in 0..4 {
        let index = usize::try_from(random % LETTERS.len() as u64).unwrap_or_default();
        tail.push(char::from(LETTERS.get(index).copied().unwrap_or(b'a')));
        random /= LETTERS.len() as u64;
    }
    RunId(format!("{}-{tail}", now.strftime("%Y%m%d-%H%M%S")))
}
