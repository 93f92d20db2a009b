//! The way back: what is saved beside the plan of each drain and each loss once that was carried out.

use std::path::Path;

use super::context::{Context, eprint};
use super::files;
use crate::plan::{HoldKind, Plan, skeleton};

/// Writes how what the plan took out of service comes back, into the folder of the plan's file, and names the file and the command. It is a
/// help for later: where it cannot be had, that is said, and the run is what it was.
pub async fn sketch(context: &Context, plan: &Plan, beside: Option<&Path>) {
    let Ok(holds) = context.store.holds().await else { return };
    let holds: Vec<HoldKind> = holds.into_iter().map(|hold| hold.kind).collect();
    if plan.intent.drain.is_empty() && plan.intent.lost.facilities.is_empty() {
        return;
    }
    let live = context.observe(&plan.intent.lost.with(&holds)).await;
    let Some(way) = skeleton::way_back(&context.topology, plan, &holds, &live, context.engine.now()) else { return };
    let folder = beside.and_then(Path::parent).unwrap_or(Path::new("plans"));
    let file = folder.join(format!("{}.return.yaml", plan.id));
    let written = way.to_yaml().map_err(|error| error.to_string()).and_then(|text| {
        // A run that was gone on with may have left one.
        let written =
            if files::absent(&file).is_ok() { files::create(&file, &text) } else { files::replace(&file, &text) };
        written.map_err(|error| error.to_string())
    });
    let command = &way.command;
    match written {
        Ok(()) => eprint(&format!("note: the way back is `{command}`; {} tells how it will go\n", file.display())),
        Err(error) => {
            eprint(&format!("warning: {} could not be written: {error}; the way back is `{command}`\n", file.display()))
        }
    }
}
