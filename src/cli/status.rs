//! `handover status`: how things are.

use anyhow::Result;

use super::args;
use super::context::{Context, print, stdout_style};
use super::exit::Exit;
use crate::plan;
use crate::report::{self, StatusView};

/// Observes everything and prints the matrix.
///
/// # Errors
/// If the store fails.
pub async fn run(args: args::Status) -> Result<Exit> {
    let context = match Context::open(&args.common)? {
        Ok(context) => context,
        Err(exit) => return Ok(exit),
    };
    let live = context.engine.observe().await;
    let holds = context.store.holds().await?;
    let kinds: Vec<_> = holds.iter().map(|hold| hold.kind.clone()).collect();
    let (drift, notes) = plan::drift(&context.topology, &kinds, &live);
    let mut view = StatusView::new(&context.topology, &live, &holds, drift, context.engine.now());
    view.notes.extend(notes);
    print(&report::status(&view, stdout_style(args.common.output)));
    context.close().await;
    Ok(view.level.into())
}
