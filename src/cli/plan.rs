//! `handover plan`: observes, compares, orders, saves.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::args;
use super::context::{Context, print, stdout_style};
use super::exit::Exit;
use crate::diagnostic::Diagnostic;
use crate::model::{FacilityName, FacilityState};
use crate::plan::{self, HoldKind, Intent, Plan, Planned, Refusal};
use crate::report;
use crate::topology;

/// Makes a plan, prints it and saves it.
///
/// # Errors
/// If the store fails or the plan cannot be saved.
pub async fn run(args: args::Plan) -> Result<Exit> {
    let context = match Context::open(&args.common)? {
        Ok(context) => context,
        Err(exit) => return Ok(exit),
    };
    let exit = make(&args, &context).await;
    context.close().await;
    exit
}

async fn make(args: &args::Plan, context: &Context) -> Result<Exit> {
    let now = context.engine.now();
    let intent = match super::intent::intent(args, &context.topology, now) {
        Ok(intent) => intent,
        Err(wrong) => {
            wrong.iter().for_each(|why| anstream::eprintln!("error: {why}"));
            return Ok(Exit::Usage);
        }
    };
    if let Some(findings) = restore_against_file(context, &intent) {
        context.source.print(&findings, args.common.output);
        return Ok(Exit::Refused);
    }
    let holds = context.store.holds().await?;
    for hold in holds.iter().filter(|hold| hold.is_overdue(now)) {
        anstream::eprintln!("warning: overdue: {}; `{}` ends this hold", hold.kind.what(), hold.kind.ended_by());
    }
    let holds: Vec<HoldKind> = holds.into_iter().map(|hold| hold.kind).collect();
    // What contradicts itself is refused without asking anybody.
    if let Err(refusals) = plan::possible(&context.topology, &intent, &holds) {
        print(&refused(&intent, &refusals));
        return Ok(Exit::Refused);
    }
    let live = context.engine.observe().await;
    match plan::make(&context.topology, &intent, &holds, &live, now) {
        Planned::Nothing(notes) => {
            print(&nothing(&notes));
            Ok(Exit::Success)
        }
        Planned::Refused(refusals) => {
            print(&refused(&intent, &refusals));
            Ok(Exit::Refused)
        }
        Planned::Plan(plan) => {
            let file = save(&plan, args.out.as_deref())?;
            let (detail, style) = (super::show::detail(args.brief), stdout_style(args.common.output));
            print(&report::plan(&plan, Some(&file.display().to_string()), detail, style));
            Ok(if args.detailed_exitcode { Exit::Differences } else { Exit::Success })
        }
    }
}

fn nothing(notes: &[String]) -> String {
    let mut text = "Nothing to do: what is live is what it should be.\n".to_owned();
    for note in notes {
        text += &format!("  note: {note}\n");
    }
    text
}

fn refused(intent: &Intent, refusals: &[Refusal]) -> String {
    let mut text = format!("No plan to {}: nothing was changed, and nothing was saved.\n", title(intent));
    for refusal in refusals {
        text += &format!("\n  ✗ {}\n    → {}\n", refusal.what, refusal.advice);
    }
    text
}

fn title(intent: &Intent) -> String {
    if intent.is_bare() { "do what the topology says".to_owned() } else { intent.title() }
}

/// A facility that the file itself takes out of service cannot be restored by a flag.
fn restore_against_file(context: &Context, intent: &Intent) -> Option<Vec<Diagnostic>> {
    let wrong = |name: &&FacilityName| {
        context.topology.facilities.get(*name).is_some_and(|facility| facility.state != FacilityState::Active)
    };
    let names: Vec<&FacilityName> = intent.restore.iter().filter(wrong).collect();
    if names.is_empty() {
        return None;
    }
    let parsed = topology::parse(&context.source.bytes, &super::context::checks()).ok()?;
    let finding = |name: &FacilityName| {
        let place = parsed.places.of(&format!("facilities/{name}/state")).unwrap_or_default();
        Diagnostic::error("restore-against-file", place, format!("the topology itself takes {name} out of service"))
            .help(format!("change it to `active`, then run `handover plan --restore {name}` again"))
    };
    Some(names.into_iter().map(finding).collect())
}

/// Saves a plan without overwriting anything.
fn save(plan: &Plan, out: Option<&Path>) -> Result<PathBuf> {
    let file = out.map_or_else(|| Path::new("plans").join(format!("{}.yaml", plan.id)), Path::to_path_buf);
    let text = plan.to_yaml()?;
    let written = || -> std::io::Result<()> {
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let mut open = std::fs::File::create_new(&file)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()
    };
    if let Err(error) = written() {
        // A plan that was cut short must not be mistaken for one.
        if error.kind() != std::io::ErrorKind::AlreadyExists {
            let _ = std::fs::remove_file(&file);
        }
        return Err(error).with_context(|| format!("cannot save the plan as {}", file.display()));
    }
    Ok(file)
}
