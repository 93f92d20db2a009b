//! `handover status`: how things are, once or again and again.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;

use super::args::{self, StatusFormat};
use super::context::{Context, print, stdout_style};
use super::exit::Exit;
use super::voice::Voice;
use super::{files, watch};
use crate::journal::Hold;
use crate::model::Live;
use crate::plan::lost::evidence::Lost;
use crate::plan::{self, desired, split};
use crate::report::{self, StatusData, StatusView, Style};

/// Observes everything and tells it.
///
/// # Errors
/// If the store fails.
pub async fn run(args: args::Status) -> Result<Exit> {
    let voice = Voice { json: args.format == StatusFormat::Json, output: args.common.output };
    if args.watch.is_some() && args.format == StatusFormat::Prometheus && args.out.is_none() {
        let why = "metrics that are watched need a file: add --out FILE, as a rule in the textfile collector's folder";
        return Ok(voice.error(Exit::Usage, why));
    }
    let context = match Context::open(&args.common, voice)? {
        Ok(context) => context,
        Err(exit) => return Ok(exit),
    };
    let exit = match args.watch {
        Some(every) => watch::run(&args, &context, every.0, voice).await,
        None => once(&args, &context, voice).await,
    };
    context.close().await;
    exit
}

async fn once(args: &args::Status, context: &Context, voice: Voice) -> Result<Exit> {
    let state = State::observe(context).await?;
    let text = state.told(args, context);
    match &args.out {
        Some(file) => {
            if let Err(error) = files::replace(file, &text) {
                return Ok(voice.error(Exit::Error, &not_written(file, &error)));
            }
        }
        None => print(&text),
    }
    Ok(state.exit())
}

/// What to say of a file that could not be written.
pub fn not_written(file: &Path, error: &std::io::Error) -> String {
    format!(
        "cannot write {}: {error}\n\nWhat was there before is still there. The folder must exist and be writable.",
        file.display()
    )
}

/// How things are.
pub struct State {
    live: Live,
    holds: Vec<Hold>,
    view: StatusView,
    /// When the observation ended.
    pub at: Timestamp,
    took: Duration,
}

impl State {
    /// Observes everything.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn observe(context: &Context) -> Result<Self> {
        let began = tokio::time::Instant::now();
        let mut live = context.engine.observe_without(&Lost::default()).await;
        if !split::find(&context.topology, &live).is_empty() {
            // Targets are not asked at one moment: what a run changes meanwhile looks like two sides, once.
            live = context.engine.observe_without(&Lost::default()).await;
        }
        let (at, took) = (context.engine.now(), began.elapsed());
        let known = context.note(&live).await;
        let holds = context.store.holds().await?;
        let kinds: Vec<_> = holds.iter().map(|hold| hold.kind.clone()).collect();
        let (drift, notes) = plan::drift(&context.topology, &kinds, &live);
        let mut view = StatusView::new(&context.topology, &live, &holds, drift, at);
        view.notes.extend(notes);
        view.notes.extend(report::seen_from_elsewhere(&context.topology, &live, &known.before));
        view.remember(&known);
        Ok(Self { live, holds, view, at, took })
    }

    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        self.view.level.into()
    }

    /// In the form that was asked for.
    pub fn told(&self, args: &args::Status, context: &Context) -> String {
        let style = match args.out {
            Some(_) => Style { colour: false, ..stdout_style(args.common.output) },
            None => stdout_style(args.common.output),
        };
        match args.format {
            StatusFormat::Text => report::status(&self.view, style),
            StatusFormat::Json => self.data(context).json(),
            StatusFormat::Prometheus => report::prometheus(&self.data(context)),
        }
    }

    fn data(&self, context: &Context) -> StatusData {
        let topology = &context.topology;
        let kinds: Vec<_> = self.holds.iter().map(|hold| hold.kind.clone()).collect();
        let desired = desired::desired(topology, &plan::Intent::default(), &kinds, &self.live).ok();
        let shares = desired.as_ref().map(|desired| &desired.shares);
        StatusData::new(&self.view, topology, &self.live, shares, self.at, self.took)
    }
}
