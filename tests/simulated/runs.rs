//! Whole runs by the engine, in virtual time.

use std::collections::BTreeSet;
use std::time::Duration;

use handover::engine::RunOutcome;
use handover::journal::{HoldKind, RunEnd};
use handover::model::{FacilityName, TargetId};
use handover::plan::{Intent, Plan, Planned, Refusal, Work};
use handover::rehearse::sim::{Fault, Harm};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::carry_out::{holds_after, told_can};
use crate::cases::{Tally, check};
use crate::generated::pick;
use crate::rehearsal::Rehearsal;
use crate::story::{LATER, Scene, Story, rebuilds, settled, stories};

/// No run of these worlds takes longer: what does hangs.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Runs a case in virtual time of its own.
pub fn in_virtual_time(case: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|why| why.to_string())?;
    let ended = async { tokio::time::timeout(LONGEST, case).await };
    runtime.block_on(ended).unwrap_or_else(|_| Err(format!("it has not ended after {LONGEST:?}")))
}

/// The world of a story with an engine, the plan of its first wish of which there is one, or else of the first drain, and what was held
/// before.
pub async fn planned(story: &Story, tally: &Tally) -> Result<Option<(Rehearsal, Plan, Vec<HoldKind>)>, String> {
    let Scene { world, holds, .. } = story.scene()?;
    let topology = std::sync::Arc::clone(&world.topology);
    let rehearsal = Rehearsal::of(world);
    let drain = |facility: &FacilityName| Intent { drain: [facility.clone()].into(), ..Intent::default() };
    let wishes = story.wishes.iter().map(|wish| wish.intent(&topology)).chain(topology.facilities.keys().map(drain));
    for intent in wishes {
        if let Planned::Plan(plan) = rehearsal.planned(&intent, &holds).await {
            tally.count(if plan.primaries.is_empty() { "plans" } else { "plans with switchovers" });
            return Ok(Some((rehearsal, *plan, holds)));
        }
    }
    tally.empty();
    Ok(None)
}

/// What is held after a run.
fn held(holds: &[HoldKind], plan: &Plan, outcome: &RunOutcome) -> Vec<HoldKind> {
    holds_after(holds, &plan.holds, &outcome.report.holds_released)
}

/// Where nothing goes wrong a run does what its plan says, keeps every invariant, and leaves nothing to do.
#[test]
fn an_undisturbed_apply_of_any_plan_is_done_and_leaves_nothing_to_do() {
    let property = "an_undisturbed_apply_of_any_plan_is_done_and_leaves_nothing_to_do";
    check(property, 20, || stories(4), |story, tally| in_virtual_time(undisturbed(&story, tally)));
}

async fn undisturbed(story: &Story, tally: &Tally) -> Result<(), String> {
    let Some((rehearsal, plan, holds)) = planned(story, tally).await? else { return Ok(()) };
    let outcome = rehearsal.apply(plan.clone()).await;
    let told = |why: String| format!("{}: {why}; {}", plan.intent.title(), outcome.summary);
    rehearsal.simulation.disturbed().map_or(Ok(()), Err).map_err(told)?;
    if outcome.end != RunEnd::Done {
        return Err(told(format!("it ended {:?}", outcome.end)));
    }
    let holds = held(&holds, &plan, &outcome);
    let mut may = rehearsal.simulation.change(told_can).map_err(told)? || rebuilds(&plan);
    for _ in 0..LATER {
        if let Planned::Plan(rest) = rehearsal.planned(&Intent::default(), &holds).await
            && (may || rebuilds(&rest))
        {
            may = rebuilds(&rest);
            rehearsal.apply(*rest).await;
        }
    }
    settled(&rehearsal.planned(&Intent::default(), &holds).await).map_err(told)
}

/// Something that goes wrong: at which target, at which of its actions, and what.
type Mishap = (usize, usize, Harm);

fn mishaps() -> impl Strategy<Value = Vec<Mishap>> {
    let harms = vec![Harm::Refuse, Harm::Ignore, Harm::Hang, Harm::Lose, Harm::Slow, Harm::Die, Harm::DieAfter];
    vec((0usize..100, 1usize..6, prop::sample::select(harms)), 1..=4)
}

/// Whatever goes wrong with whichever actions: what must always hold does (S1, S5, S6), the run ends with a reason, and once it is over
/// new plans end as was wanted, unless somebody has died or a human must look.
#[test]
fn any_faults_in_any_run_break_nothing_and_the_next_plans_end_as_wanted() {
    let property = "any_faults_in_any_run_break_nothing_and_the_next_plans_end_as_wanted";
    let cases = || (stories(4), mishaps());
    check(property, 25, cases, |(story, mishaps), tally| in_virtual_time(disturbed(&story, &mishaps, tally)));
}

async fn disturbed(story: &Story, mishaps: &[Mishap], tally: &Tally) -> Result<(), String> {
    let Some((rehearsal, plan, holds)) = planned(story, tally).await? else { return Ok(()) };
    let targets = acted_on(&plan);
    for (target, action, harm) in mishaps {
        let Some(target) = pick(&targets, *target).cloned() else { continue };
        rehearsal.simulation.script(Fault { target, action: *action, harm: *harm });
    }
    let outcome = rehearsal.apply(plan.clone()).await;
    tally.count(format!("{:?}", outcome.end));
    let told = |why: String| format!("{}: {why}; {:?}: {}", plan.intent.title(), outcome.end, outcome.summary);
    rehearsal.simulation.broken().map_or(Ok(()), Err).map_err(told)?;
    if outcome.end != RunEnd::Done && outcome.report.failure.is_none() {
        return Err(told("it gives no reason".to_owned()));
    }
    let dead = mishaps.iter().any(|(.., harm)| matches!(harm, Harm::Die | Harm::DieAfter));
    if dead || outcome.end == RunEnd::Stuck {
        return Ok(());
    }
    rehearsal.simulation.forgive();
    let holds = held(&holds, &plan, &outcome);
    converges(&rehearsal, &plan.intent, holds, tally).await.map_err(told)
}

/// The targets of a plan's actions.
fn acted_on(plan: &Plan) -> Vec<TargetId> {
    let targets = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Act { target, .. } => Some(target.clone()),
        _ => None,
    });
    targets.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Nothing goes wrong any more: new plans end as wanted, one after the other. Where the wish cannot be had any more, what is left is
/// repaired.
pub async fn converges(
    rehearsal: &Rehearsal,
    intent: &Intent,
    mut holds: Vec<HoldKind>,
    tally: &Tally,
) -> Result<(), String> {
    let (bare, back) = (Intent::default(), given_up(intent));
    let mut withdrawn = false;
    for (intent, way_back) in [(intent, false), (&bare, false), (&back, true), (&bare, false)] {
        if way_back && !withdrawn {
            continue;
        }
        // What a dead process had said may have come late and taken a slot away: then a plan leads the member.
        let _ = rehearsal.simulation.change(told_can);
        match rehearsal.planned(intent, &holds).await {
            Planned::Nothing(_) => continue,
            Planned::Refused(refusals) if !intent.is_bare() => {
                tally.count(format!("afterwards refused: {}", reason(&refusals)));
            }
            // A candidate that was withdrawn and could not be led back: a plan repairs what follows a primary that stays.
            Planned::Refused(refusals)
                if !withdrawn && refusals.iter().all(|one| one.what.contains("is fenced, not")) =>
            {
                withdrawn = true;
            }
            Planned::Refused(refusals) => return Err(format!("the next plan is refused: {refusals:#?}")),
            Planned::Plan(plan) => {
                let outcome = rehearsal.apply(*plan.clone()).await;
                rehearsal.simulation.broken().map_or(Ok(()), Err)?;
                if outcome.end != RunEnd::Done {
                    return Err(format!(
                        "the next plan ({}) ends {:?}: {}",
                        intent.title(),
                        outcome.end,
                        outcome.summary
                    ));
                }
                holds = held(&holds, &plan, &outcome);
            }
        }
    }
    settled(&rehearsal.planned(&Intent::default(), &holds).await)
}

/// The wish that takes back what an intent holds.
fn given_up(intent: &Intent) -> Intent {
    Intent {
        restore: intent.drain.clone(),
        primary: intent.primary.keys().map(|database| (database.clone(), None)).collect(),
        ..Intent::default()
    }
}

/// The kind of a refusal: its words without names.
pub fn reason(refusals: &[Refusal]) -> String {
    let words = |refusal: &Refusal| {
        let known = |word: &&str| !word.contains(|c: char| c.is_ascii_digit()) && word.len() > 1;
        refusal.what.split_whitespace().filter(known).take(9).collect::<Vec<_>>().join(" ")
    };
    refusals.first().map(words).unwrap_or_default()
}
