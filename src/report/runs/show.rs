//! `handover runs show`: the story of one run.

use serde::Serialize;

use super::super::json;
use super::super::text::{Page, Style, Text, Tone, count, duration_ms};
use super::list::tone;
use super::story::{Attempt, StepStory, Story};
use super::words;
use crate::event::StepOutcome;
use crate::model::text::condition;
use crate::plan::Assumption;

/// Assumptions of a step that are shown; JSON has all.
const ASSUMED: usize = 3;

/// Letters of an assumption that are shown.
const LONGEST: usize = 150;

/// The story for programs.
pub fn story_json(story: &Story, exit_code: Option<u8>) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        exit_code: Option<u8>,
        #[serde(flatten)]
        story: &'a Story,
    }
    json::answer("run", Body { exit_code, story })
}

/// A moment to the second: `2026-11-23 06:15:03 UTC`.
pub(super) fn second(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// When in a run: `+12s`, `+1m 3s`.
pub(super) fn plus(millis: u64) -> String {
    format!("+{}", duration_ms(millis))
}

/// The story for people.
pub fn story(story: &Story, style: Style) -> String {
    let mut page = Page::new(style);
    head(&mut page, story);
    ways_on(&mut page, story);
    windows(&mut page, story);
    for (index, stage) in story.stages.iter().enumerate() {
        page.blank();
        let took = match (stage.from_ms, stage.to_ms) {
            (Some(from), Some(to)) => duration_ms(to.saturating_sub(from)),
            _ => "not begun".to_owned(),
        };
        let title = Text::of(Tone::Strong, format!("{}. {}", index + 1, stage.title));
        page.ends(title, Text::of(Tone::Dim, took));
        let steps: Vec<&StepStory> = story.steps.iter().filter(|step| step.stage == index).collect();
        let (begun, idle): (Vec<_>, Vec<_>) = steps.into_iter().partition(|step| is_begun(step));
        begun.into_iter().for_each(|told| step(&mut page, story, told));
        if stage.from_ms.is_some() && !idle.is_empty() {
            page.item("  ", Text::of(Tone::Dim, format!("· {} not begun", count(idle.len(), "step"))));
        }
    }
    if story.stages.is_empty() {
        page.blank();
        story.steps.iter().for_each(|told| step(&mut page, story, told));
    }
    if !story.happenings.is_empty() {
        page.blank();
        page.line(Text::of(Tone::Strong, "Told on the way"));
        for happening in &story.happenings {
            page.item(Text::of(Tone::Warn, format!("  {:>9}  ", plus(happening.at_ms))), happening.text.as_str());
        }
    }
    holds(&mut page, story);
    page.finish()
}

fn is_begun(step: &StepStory) -> bool {
    !step.attempts.is_empty() || step.undo.is_some()
}

fn head(page: &mut Page, story: &Story) {
    let word = Text::of(tone(story.state), story.state.word().to_uppercase());
    let summary = story.summary.as_deref().unwrap_or(&story.title).trim_end_matches('.').to_owned();
    let after = Text::from(", after ").with(Tone::Strong, duration_ms(story.total_ms));
    let mut first = word.and(format!(": {summary}"));
    first.join(after);
    page.item("", first);
    let row = |page: &mut Page, label: &str, text: Text| page.item(Text::of(Tone::Dim, format!("  {label:<8}")), text);
    row(page, "run", format!("{} of plan {}", story.run, story.plan).into());
    row(page, "for", story.title.as_str().into());
    if let Some(reason) = &story.reason {
        row(page, "reason", reason.as_str().into());
    }
    row(page, "by", story.operator.as_str().into());
    row(page, "from", second(story.started).into());
    row(page, "to", second(story.last).into());
}

fn ways_on(page: &mut Page, story: &Story) {
    let row = |page: &mut Page, label: &str, text: Text| page.item(Text::of(Tone::Dim, format!("  {label:<8}")), text);
    for (step, why) in story.failures().filter(|_| !story.ways_on.is_empty()) {
        page.blank();
        row(page, "step", Text::of(Tone::Bad, step.title.as_str()).with(Tone::Dim, format!(" ({})", step.step)));
        if let Some(target) = &step.target {
            row(page, "where", target.as_str().into());
        }
        row(page, "why", why.into());
    }
    if story.ways_on.is_empty() {
        return;
    }
    page.blank();
    row(page, "now", story.state.meaning().into());
    for (index, way) in story.ways_on.iter().enumerate() {
        let mut text = Text::from(way.what.as_str());
        if let Some(command) = &way.command {
            text = text.and(":\u{a0}").with(Tone::Strong, super::super::text::command(command));
        }
        row(page, if index == 0 { "ways on" } else { "" }, text);
    }
}

fn windows(page: &mut Page, story: &Story) {
    if story.stalls.is_empty() && story.without_redundancy.is_empty() {
        return;
    }
    page.blank();
    page.line(Text::of(Tone::Strong, "Databases"));
    for stall in &story.stalls {
        let tone = if stall.is_too_long() { Tone::Bad } else { Tone::Good };
        let limit = stall.max_ms.map(|max| format!(" of at most {}", duration_ms(max))).unwrap_or_default();
        let text = Text::of(Tone::Strong, stall.database.as_str())
            .and(": writers waited ")
            .with(tone, duration_ms(stall.took_ms()))
            .and(format!("{limit}, from {}; they went on at {}", plus(stall.from_ms), stall.primary.name()));
        page.item("  ", text);
    }
    for window in &story.without_redundancy {
        let text = Text::of(Tone::Strong, window.database.as_str());
        let text = match window.to_ms {
            Some(to) => {
                let took = duration_ms(to.saturating_sub(window.from_ms));
                text.and(": one copy less for ")
                    .with(Tone::Strong, took)
                    .and(format!(", from {}", plus(window.from_ms)))
            }
            None => text.and(": ").with(Tone::Bad, format!("one copy less since {}", plus(window.from_ms))),
        };
        page.item("  ", text);
    }
}

fn mark(outcome: StepOutcome) -> (&'static str, Tone) {
    match outcome {
        StepOutcome::Done => ("✓", Tone::Good),
        StepOutcome::Failed | StepOutcome::UndoFailed => ("✗", Tone::Bad),
        StepOutcome::Unknown => ("?", Tone::Bad),
        StepOutcome::Undone => ("↺", Tone::Warn),
        StepOutcome::NotBegun => ("·", Tone::Dim),
    }
}

fn step(page: &mut Page, story: &Story, step: &StepStory) {
    let (symbol, tone) = mark(step.outcome);
    let note = match step.outcome {
        StepOutcome::Done => String::new(),
        other => format!(" — {}", words::outcome(other)),
    };
    let began = step.attempts.first().map_or(0, |attempt| attempt.from_ms);
    let took = step.attempts.last().and_then(Attempt::took_ms).map_or_else(|| "no end".to_owned(), duration_ms);
    let lead = Text::of(tone, format!("  {symbol} ")).with(Tone::Dim, format!("{:>8}  ", plus(began)));
    let no_return = if step.point_of_no_return { " (point of no return)" } else { "" };
    let title = Text::from(step.title.as_str()).with(Tone::Bad, no_return).with(tone, note);
    page.ends_item(lead, title, Text::of(Tone::Dim, took));
    for (index, told) in step.attempts.iter().enumerate() {
        if step.attempts.len() > 1 {
            let text = format!("attempt {} at {}: {}", index + 1, plus(told.from_ms), words::outcome(told.outcome));
            page.item(" ".repeat(14), Text::of(Tone::Dim, text));
        }
        attempt(page, told);
    }
    if let Some(sample) = samples(story, step) {
        page.item(" ".repeat(14), Text::of(Tone::Dim, sample));
    }
    if let Some(undo) = &step.undo {
        let took =
            undo.to_ms.map(|to| format!(", {}", duration_ms(to.saturating_sub(undo.from_ms)))).unwrap_or_default();
        row(page, "undo", format!("at {}{took}", plus(undo.from_ms)).into());
        if let Some(why) = &undo.why {
            row(page, "why", Text::of(Tone::Bad, why.as_str()));
        }
    }
}

fn row(page: &mut Page, label: &str, text: Text) {
    page.item(Text::of(Tone::Dim, format!("{:14}{label:<9} ", "")), text);
}

fn attempt(page: &mut Page, attempt: &Attempt) {
    for (index, assumption) in attempt.assumed.iter().take(ASSUMED).enumerate() {
        row(page, if index == 0 { "assumed" } else { "" }, shortened(assumed(assumption)).into());
    }
    if attempt.assumed.len() > ASSUMED {
        row(page, "", Text::of(Tone::Dim, format!("and {} more", attempt.assumed.len() - ASSUMED)));
    }
    if let Some(action) = &attempt.intended {
        row(page, "intended", action.verb().replace('_', " ").into());
    }
    if let Some(verdict) = &attempt.verdict {
        let measured = attempt.measured.as_deref().unwrap_or_default();
        row(page, "gate", Text::of(Tone::Strong, verdict.as_str()).and(format!(": {measured}")));
    }
    match (&attempt.verified, &attempt.why) {
        // A gate's value is said already.
        (Some(verified), _) if attempt.measured.as_ref() != Some(verified) => {
            row(page, "verified", verified.as_str().into());
        }
        (None, Some(why)) if attempt.measured.as_ref() != Some(why) => {
            row(page, "why", Text::of(Tone::Bad, why.as_str()));
        }
        _ => {}
    }
}

/// The beginning of a text that may be very long.
fn shortened(text: String) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", text.get(..end).unwrap_or_default().trim_end()),
        None => text,
    }
}

/// What was demanded of a target.
pub(super) fn assumed(assumption: &Assumption) -> String {
    format!("{} {}", assumption.target.name(), condition(&assumption.condition))
}

/// The sessions that a step waited for: how many at first and at last.
fn samples(story: &Story, step: &StepStory) -> Option<String> {
    let mut samples = story.sessions.iter().filter(|sample| sample.step == step.step);
    let first = samples.next()?;
    let last = samples.next_back().filter(|last| last.remaining != first.remaining);
    let last = last.map(|last| format!(", {} at {}", last.remaining, plus(last.at_ms))).unwrap_or_default();
    Some(format!("sessions: {} at {}{last}", first.remaining, plus(first.at_ms)))
}

fn holds(page: &mut Page, story: &Story) {
    let made = story.holds_made.iter().filter(|hold| !story.holds_released.contains(&hold.kind));
    let mut lines: Vec<String> = made.map(|hold| format!("+ {}", hold.kind.what())).collect();
    let old = |kind: &&_| story.holds_made.iter().all(|hold| hold.kind != **kind);
    lines.extend(story.holds_released.iter().filter(old).map(|kind| format!("- released: {}", kind.what())));
    if !lines.is_empty() {
        page.blank();
        page.line(Text::of(Tone::Strong, "Holds"));
        lines.into_iter().for_each(|line| page.item("  ", line));
    }
}
