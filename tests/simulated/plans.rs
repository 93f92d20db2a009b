//! Plans by themselves: what their steps would do is done to the world, without an engine.

use handover::plan::{Intent, Plan, Planned, Step, Undo, Work, make};

use crate::carry_out::{act, carry_out, chooser, comparable, demands, in_some_order, told_can};
use crate::cases::{Tally, check};
use crate::story::{LATER, Scene, Story, rebuilds, stories};

/// In any order that the needs allow, after every step: users are served, no name is empty, no database has two primaries, no commit
/// hangs, nobody is led elsewhere (`docs/safety.md` S1, S5, S6, S15); and in the end nothing is left to do.
#[test]
fn any_plan_keeps_the_invariants_at_every_prefix_and_a_plan_of_its_result_is_empty() {
    let property = "any_plan_keeps_the_invariants_at_every_prefix_and_a_plan_of_its_result_is_empty";
    check(property, 40, || stories(4), |story, tally| prefixes(&story, tally));
}

fn prefixes(story: &Story, tally: &Tally) -> Result<(), String> {
    let mut scene = story.scene()?;
    let mut choose = chooser(story.seed);
    let mut carried_out = 0;
    for wish in &story.wishes {
        let intent = wish.intent(&scene.world.topology);
        let planned = scene.planned(&intent);
        let told = |why: String| format!("{}: {why}", intent.title());
        if story.seed.is_multiple_of(16) {
            is_reliable(&scene, &intent, &planned).map_err(told)?;
        }
        match planned {
            Planned::Refused(refusals) if refusals.iter().all(|refusal| !refusal.advice.is_empty()) => {
                tally.count(format!("refused: {}", crate::runs::reason(&refusals)));
                continue;
            }
            Planned::Refused(refusals) => return Err(told(format!("refused without advice: {refusals:?}"))),
            Planned::Nothing(_) => tally.count("nothing to do"),
            Planned::Plan(plan) => {
                tally.count(if plan.primaries.is_empty() { "plans" } else { "plans with switchovers" });
                carried_out += 1;
                carry_out(&mut scene.world, &plan, &mut choose).map_err(told)?;
                scene.ends(&plan);
                let mut may = told_can(&mut scene.world).map_err(told)? || rebuilds(&plan);
                for _ in 0..LATER {
                    if let Planned::Plan(rest) = scene.planned(&Intent::default())
                        && (may || rebuilds(&rest))
                    {
                        carry_out(&mut scene.world, &rest, &mut choose).map_err(told)?;
                        may = rebuilds(&rest);
                    }
                }
            }
        }
        scene.is_settled().map_err(told)?;
    }
    if carried_out == 0 {
        tally.empty();
    }
    Ok(())
}

/// The same input gives the same plan, and what is saved is read again.
fn is_reliable(scene: &Scene, intent: &Intent, planned: &Planned) -> Result<(), String> {
    if *planned != scene.planned(intent) {
        return Err("the same input gave two plans".to_owned());
    }
    let Planned::Plan(plan) = planned else { return Ok(()) };
    let text = plan.to_yaml().map_err(|why| format!("it cannot be saved: {why}"))?;
    let read = Plan::from_yaml(&text).map_err(|why| format!("it cannot be read again: {why}"))?;
    if read == **plan { Ok(()) } else { Err("it is read as another plan".to_owned()) }
}

/// What was done of a plan, up to what cannot be taken back, is taken back step by step, and everything is as before (S3, S7).
#[test]
fn any_prefix_before_the_first_irreversible_step_is_taken_back() {
    let property = "any_prefix_before_the_first_irreversible_step_is_taken_back";
    check(property, 10, || stories(4), |story, tally| taken_back(&story, tally));
}

fn taken_back(story: &Story, tally: &Tally) -> Result<(), String> {
    let Scene { mut world, holds, .. } = story.scene()?;
    let mut choose = chooser(story.seed);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let plans = story.wishes.iter().map(|wish| wish.intent(&world.topology)).filter_map(|intent| {
        match make(&world.topology, &intent, &holds, &world.live, now) {
            Planned::Plan(plan) => Some((intent, plan)),
            Planned::Nothing(_) | Planned::Refused(_) => None,
        }
    });
    let first = { plans }.next();
    let Some((intent, plan)) = first else {
        tally.empty();
        return Ok(());
    };
    let before = comparable(&world);
    let done = reversible(&plan, &mut choose);
    tally.count(if done.is_empty() { "plans of which nothing can be taken back" } else { "prefixes" });
    for step in &done {
        act(&mut world, step)?;
    }
    for step in done.iter().rev() {
        if let (Undo::Act { action, after }, Work::Act { target, .. }) = (&step.undo, &step.work) {
            let told = |why: String| format!("{}: undo of {}: {why}", intent.title(), step.id);
            world.act(target, action).map_err(told)?;
            demands(&world, target, after).map_err(told)?;
            world.undisturbed().map_err(told)?;
        }
    }
    if comparable(&world) != before {
        return Err(format!("{}: {}\nis not as before:\n{before}", intent.title(), comparable(&world)));
    }
    Ok(())
}

/// Some of the steps that come before the first one that cannot be taken back, in some order.
fn reversible(plan: &Plan, mut choose: impl FnMut(usize) -> usize) -> Vec<&Step> {
    let order = in_some_order(plan, &mut choose);
    let impossible = order.iter().position(|step| matches!(step.undo, Undo::Impossible { .. }));
    let most = impossible.unwrap_or(order.len());
    let cut = choose(most + 1);
    order.into_iter().take(cut).collect()
}
