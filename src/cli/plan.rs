//! `handover plan`: observes, compares, orders, saves.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;

use super::args::{self, PlanFormat};
use super::context::{Context, print};
use super::exit::Exit;
use super::files;
use super::voice::Voice;
use crate::diagnostic::Diagnostic;
use crate::model::{FacilityName, FacilityState};
use crate::plan::operator::{self, Needed};
use crate::plan::{self, HoldKind, Intent, Planned, Refusal, document};
use crate::report::{self, PlanAnswer};
use crate::topology;

/// Makes a plan, prints it and saves it.
///
/// # Errors
/// If the store fails or the plan cannot be saved.
pub async fn run(args: args::Plan) -> Result<Exit> {
    let voice = Voice { json: args.format == PlanFormat::Json, output: args.common.output };
    if let Some(exit) = args.out.as_deref().and_then(|file| taken(file, voice)) {
        return Ok(exit);
    }
    let context = match Context::open(&args.common, voice)? {
        Ok(context) => context,
        Err(exit) => return Ok(exit),
    };
    let exit = make(&args, &context, voice).await;
    context.close().await;
    exit
}

/// A file that is there already is told before anything is asked.
fn taken(file: &Path, voice: Voice) -> Option<Exit> {
    match files::absent(file) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Some(voice.error(Exit::Error, &not_saved(file, &error)))
        }
        _ => None,
    }
}

async fn make(args: &args::Plan, context: &Context, voice: Voice) -> Result<Exit> {
    let now = context.engine.now();
    let intent = match super::intent::intent(args, &context.topology, now) {
        Ok(intent) => intent,
        Err(wrong) => return Ok(voice.errors(Exit::Usage, &wrong)),
    };
    if let Some(findings) = restore_against_file(context, &intent) {
        return Ok(voice.findings(Exit::Refused, &context.source, &findings));
    }
    if let Some(findings) = needed_there(context, &intent) {
        return Ok(voice.findings(Exit::Refused, &context.source, &findings));
    }
    let holds = context.store.holds().await?;
    for hold in holds.iter().filter(|hold| hold.is_overdue(now)) {
        anstream::eprintln!("warning: overdue: {}; `{}` ends this hold", hold.kind.what(), hold.kind.ended_by());
    }
    let holds: Vec<HoldKind> = holds.into_iter().map(|hold| hold.kind).collect();
    // What contradicts itself is refused without asking anybody.
    let form = super::show::form(args.format, args.brief, args.common.output);
    let refused = |refusals: &[Refusal]| {
        let exit = Exit::Refused;
        let refused = PlanAnswer::Refused { wish: &title(&intent), refusals, exit_code: exit as u8 };
        (exit, report::answer(refused, form))
    };
    if let Err(refusals) = plan::possible(&context.topology, &intent, &holds) {
        let (exit, text) = refused(&refusals);
        print(&text);
        return Ok(exit);
    }
    let planned = observed(context, &intent, &holds, now).await;
    let (exit, text) = match planned {
        Planned::Nothing(notes) => (Exit::Success, report::answer(PlanAnswer::Nothing(&notes), form)),
        Planned::Refused(refusals) => refused(&refusals),
        Planned::Plan(plan) => {
            let text = plan.to_yaml()?;
            let file = args.out.clone().unwrap_or_else(|| Path::new("plans").join(format!("{}.yaml", plan.id)));
            if let Err(error) = files::create(&file, &text) {
                return Ok(voice.error(Exit::Error, &not_saved(&file, &error)));
            }
            let (file, digest) = (file.display().to_string(), document::digest(text.as_bytes()));
            let answer = PlanAnswer::Plan { plan: &plan, file: Some(&file), digest: &digest };
            let exit = if args.detailed_exitcode { Exit::Differences } else { Exit::Success };
            (exit, report::answer(answer, form))
        }
    };
    print(&text);
    Ok(exit)
}

/// What a wish comes to, by what the store holds and the targets say.
///
/// # Errors
/// If the store fails.
pub async fn planned(context: &Context, intent: &Intent) -> Result<Planned> {
    let holds: Vec<HoldKind> = context.store.holds().await?.into_iter().map(|hold| hold.kind).collect();
    if let Err(refusals) = plan::possible(&context.topology, intent, &holds) {
        return Ok(Planned::Refused(refusals));
    }
    Ok(observed(context, intent, &holds, context.engine.now()).await)
}

async fn observed(context: &Context, intent: &Intent, holds: &[HoldKind], now: Timestamp) -> Planned {
    let live = context.observe(&intent.lost.with(holds)).await;
    match plan::make_knowing(&context.topology, intent, holds, &live, &context.engine.known(), now) {
        Planned::Plan(plan) => match context.engine.impossible(&plan) {
            impossible if impossible.is_empty() => Planned::Plan(plan),
            impossible => Planned::Refused(impossible),
        },
        other => other,
    }
}

/// What to do about a plan that could not be saved.
fn not_saved(file: &Path, error: &std::io::Error) -> String {
    let what = match error.kind() {
        ErrorKind::AlreadyExists => "there is such a file already".to_owned(),
        _ => error.to_string(),
    };
    let advice = match error.kind() {
        ErrorKind::AlreadyExists => {
            "a plan is never overwritten: name another file with --out, or move that one away".to_owned()
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free some space there, or name a file elsewhere with --out, then plan again".to_owned()
        }
        _ => "name a file elsewhere with --out, or make that folder writable, then plan again".to_owned(),
    };
    format!(
        "cannot save the plan as {}: {what}\n\nNo plan was saved, not even a part of it, and nothing was changed: {advice}.",
        file.display()
    )
}

fn title(intent: &Intent) -> String {
    if intent.is_bare() { "do what the topology says".to_owned() } else { intent.title() }
}

/// What the run needs in a facility that it would drain.
fn needed_there(context: &Context, intent: &Intent) -> Option<Vec<Diagnostic>> {
    let needed = operator::needed(&context.topology, intent);
    if needed.is_empty() {
        return None;
    }
    let parsed = topology::parse(&context.source.bytes, &super::context::checks()).ok()?;
    let finding = |needed: Needed| {
        let place = parsed.places.of(&needed.path).unwrap_or_default();
        Diagnostic::error("needed-there", place, needed.refusal.what).help(needed.refusal.advice)
    };
    Some(needed.into_iter().map(finding).collect())
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
