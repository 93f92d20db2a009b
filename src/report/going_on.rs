//! What going on with a run means, before it is agreed to.

use super::text::{Page, Style, Text, Tone, count};
use crate::journal::{How, Past, RunEnd, RunId};
use crate::plan::{Plan, Undo, Work};

/// How far a run came, what is done first about what it left in the middle, and what is left to do or to take back.
pub fn going_on(run: &RunId, plan: &Plan, past: &Past, how: How, style: Style) -> String {
    let mut page = Page::new(style);
    let ended = match past.end {
        None => "has died",
        Some(RunEnd::Done) => "is done",
        Some(RunEnd::Stuck) => "is stuck",
        Some(_) => "has stopped",
    };
    let far = format!(": run {run} {ended}; {} of {} are done", past.done.len(), count(plan.steps.len(), "step"));
    page.line(Text::of(Tone::Strong, plan.intent.title()).and(far));
    if let Some(summary) = &past.summary {
        page.item("  ", summary.as_str());
    }
    for open in &past.open {
        let (name, what) = (
            &open.section,
            match open.committed {
                true => "it died when the new primary was about to take over: it is completed, if the fence stands",
                false => "it died in the middle of it: it is undone first",
            },
        );
        page.item(Text::of(Tone::Warn, "  ! "), format!("{name}: {what}"));
    }
    let done = past.done.keys().cloned().collect();
    let settled = plan.settled(&done);
    for (index, stage) in plan.stages.iter().enumerate() {
        let steps = || plan.steps.iter().filter(|step| step.stage == index);
        let text = match how {
            How::Rollback => {
                let back = |step: &&crate::plan::Step| {
                    let there = done.contains(&step.id) || past.begun.contains(&step.id);
                    there && matches!((&step.work, &step.undo), (Work::Act { .. }, Undo::Act { .. }))
                };
                match steps().filter(back).count() {
                    0 => continue,
                    some => format!("{} to take back", count(some, "step")),
                }
            }
            How::Resume | How::Settle => match steps().filter(|step| !settled.contains(&step.id)).count() {
                0 => continue,
                some => format!("{} left", count(some, "step")),
            },
        };
        page.ends(format!("  {}. {}", index + 1, stage.title).into(), Text::of(Tone::Dim, text));
    }
    page.finish()
}
