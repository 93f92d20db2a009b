//! `handover apply`: carries out a saved plan.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use indicatif::ProgressDrawTarget;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::args::{self, Format};
use super::context::{Context, eprint, print, stderr_style, stdout_style};
use super::exit::Exit;
use super::process;
use super::show::{self, Saved};
use super::unlock;
use super::voice::Voice;
use crate::engine::Request;
use crate::event::Event;
use crate::journal::{RunId, StoreError};
use crate::model::text::list;
use crate::plan::{self, Plan, window};
use crate::provider::{Clock, SystemClock};
use crate::report::{self, Detail, Form, Json, Live, Plain, PlanAnswer, Reporter};
use crate::topology::Topology;

/// Checks that the plan is still about the world as it is, asks, and carries it out.
///
/// # Errors
/// If the store fails before anything was done.
pub async fn run(args: args::Apply) -> Result<Exit> {
    let voice = Voice { json: args.format == Format::Json, output: args.common.output };
    let saved = match show::read(&args.plan, voice) {
        Ok(saved) => saved,
        Err(exit) => return Ok(exit),
    };
    let context = match Context::open(&args.common, voice)? {
        Ok(context) => context,
        Err(exit) => return Ok(exit),
    };
    let exit = apply(&args, &context, saved, voice).await;
    context.close().await;
    exit
}

async fn apply(args: &args::Apply, context: &Context, mut saved: Saved, voice: Voice) -> Result<Exit> {
    match super::intent::overrides(&args.overrides, args.reason.as_deref()) {
        Ok(overrides) => saved.plan.intent.overrides.extend(overrides),
        Err(wrong) => return Ok(voice.errors(Exit::Usage, &wrong)),
    }
    if let Some(why) = unusable(&saved.plan, &context.topology, context.engine.now()) {
        return Ok(voice.refuse(&why));
    }
    // Before anything else is said of the plan: while another run changes things, every plan is stale.
    let may_begin = async || context.store.may_begin(&saved.digest, context.engine.now()).await;
    let begin = match may_begin().await {
        Err(StoreError::Locked(lock)) if unlock::freed(&*context.store, &lock).await? => may_begin().await,
        begin => begin,
    };
    if let Err(error) = begin {
        return not_begun(error, voice);
    }
    if !args.auto_approve {
        if !std::io::stdin().is_terminal() {
            let why = "there is no terminal to ask on: review the plan with `handover show`, then add --auto-approve";
            return Ok(voice.error(Exit::Usage, why));
        }
        let answer = PlanAnswer::Plan { plan: &saved.plan, file: None, digest: &saved.digest };
        eprint(&report::answer(answer, Form::Text(Detail::Full, stderr_style(args.common.output))));
        if !confirmed()? {
            eprint("Nothing was done.\n");
            return Ok(Exit::Refused);
        }
    }
    let live = context.engine.observe().await;
    let stale = plan::stale(&saved.plan, &live);
    if !stale.is_empty() {
        match args.format {
            Format::Text => eprint(&report::stale(&stale, stderr_style(args.common.output))),
            Format::Json => print(&report::json::stale(Exit::Refused as u8, &stale)),
        }
        return Ok(Exit::Refused);
    }
    let (events, heard) = mpsc::unbounded_channel();
    let (stop, stopping) = watch::channel(false);
    let listener = tokio::task::spawn_blocking({
        let reporter = reporter(args);
        move || listen(reporter, heard)
    });
    let signals = tokio::spawn(stop_on_signal(stop, events.clone()));
    let request = Request {
        plan: saved.plan,
        digest: saved.digest,
        document: saved.text,
        run: run_id(context.engine.now()),
        holder: process::holder(),
        stop: stopping,
        events,
    };
    let outcome = context.engine.apply(request, Arc::clone(&context.store)).await;
    signals.abort();
    let _ = signals.await;
    listener.await.context("the progress display failed")?;
    match outcome {
        Ok(outcome) => {
            if args.format == Format::Text {
                print(&report::run(&outcome.report, outcome.end, &outcome.summary, stdout_style(args.common.output)));
            }
            Ok(outcome.end.into())
        }
        Err(error) => not_begun(error, voice),
    }
}

/// A run that could not begin.
fn not_begun(error: StoreError, voice: Voice) -> Result<Exit> {
    match error {
        StoreError::Locked(lock) => Ok(unlock::refused(&lock, voice)),
        StoreError::PlanUsed { .. } => Ok(voice.refuse(&error.to_string())),
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
    let answer = window::answer(&topology.policy, &plan.intent.overrides, now, plan.needs());
    let pass =
        |why| format!("{why}; `--override GATE --reason TEXT` passes {}", list(answer.closed.iter().map(|it| it.gate)));
    answer.refusal().map(pass)
}

fn confirmed() -> Result<bool> {
    eprint("\nApply this plan? Only `yes` is a yes: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

fn reporter(args: &args::Apply) -> Box<dyn Reporter> {
    let style = stderr_style(args.common.output);
    match args.format {
        Format::Json => Box::new(Json::new(Box::new(std::io::stdout()))),
        Format::Text if std::io::stderr().is_terminal() => Box::new(Live::new(ProgressDrawTarget::stderr(), style)),
        Format::Text => Box::new(Plain::new(Box::new(std::io::stderr()), style)),
    }
}

fn listen(mut reporter: Box<dyn Reporter>, mut heard: mpsc::UnboundedReceiver<Event>) {
    while let Some(event) = heard.blocking_recv() {
        reporter.event(SystemClock.now(), &event);
    }
}

/// The first Ctrl-C or SIGTERM asks the run to stop where that is safe; later ones only say that it does.
async fn stop_on_signal(stop: watch::Sender<bool>, events: mpsc::UnboundedSender<Event>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let finishing =
            "steps that are under way; a database that is being switched over is finished or undone".to_owned();
        let _ = events.send(Event::StopRequested { finishing });
        stop.send_replace(true);
    }
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
