//! A run while it is under way: who is told, who may ask it to stop, and what is printed at its end.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context as _, Result};
use indicatif::ProgressDrawTarget;
use tokio::sync::{mpsc, watch};

use super::args::{Format, Output};
use super::context::{eprint, print, stderr_style, stdout_style};
use super::process;
use crate::engine::RunOutcome;
use crate::event::Event;
use crate::journal::StoreError;
use crate::provider::{Clock, SystemClock};
use crate::report::{self, Json, Live, Plain, Reporter};

/// How a run is told.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    /// To people or to programs.
    pub format: Format,
    /// How to print.
    pub output: Output,
}

/// Carries a run out, tells about it while it lasts, and prints its end. `run` gets what becomes true when the operator asks it to stop, and
/// where it tells what happens.
///
/// # Errors
/// If it could not begin (the inner one), or the display failed.
pub async fn conduct<Work>(
    telling: Telling,
    run: impl FnOnce(watch::Receiver<bool>, mpsc::UnboundedSender<Event>) -> Work,
) -> Result<Result<RunOutcome, StoreError>>
where
    Work: Future<Output = Result<RunOutcome, StoreError>>,
{
    let (events, heard) = mpsc::unbounded_channel();
    let (stop, stopping) = watch::channel(false);
    let listener = tokio::task::spawn_blocking(move || listen(reporter(telling), heard));
    let signals = tokio::spawn(stop_on_signal(stop, events.clone()));
    let outcome = run(stopping, events).await;
    signals.abort();
    let _ = signals.await;
    listener.await.context("the progress display failed")?;
    if let (Ok(outcome), Format::Text) = (&outcome, telling.format) {
        let style = stdout_style(telling.output);
        print(&report::run(&outcome.report, outcome.end, &outcome.summary, style));
    }
    Ok(outcome)
}

/// Asks on the terminal; says so if nothing is done.
///
/// # Errors
/// If the terminal cannot be read.
pub fn confirmed(question: &str) -> Result<bool> {
    eprint(&format!("\n{question} Only `yes` is a yes: "));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    let yes = answer.trim() == "yes";
    if !yes {
        eprint("Nothing was done.\n");
    }
    Ok(yes)
}

fn reporter(telling: Telling) -> Box<dyn Reporter> {
    let style = stderr_style(telling.output);
    match telling.format {
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

/// The first Ctrl-C, SIGTERM or SIGHUP (its terminal is gone) asks the run to stop where that is safe; later ones only say that it does.
async fn stop_on_signal(stop: watch::Sender<bool>, events: mpsc::UnboundedSender<Event>) {
    use tokio::signal::unix::{SignalKind, signal};
    // Before the handler hides it.
    let stays = process::ignores_hangup();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv(), if !stays => {}
        }
        let finishing =
            "steps that are under way; a database that is being switched over is finished or undone".to_owned();
        let _ = events.send(Event::StopRequested { finishing });
        stop.send_replace(true);
    }
}
