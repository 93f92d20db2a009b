//! The final report of a run: what it took, what clients felt, and, where it stopped, why and how to go on.

use super::text::{Page, Style, Text, Tone, command, count, duration, moment};
use crate::event::{DatabaseReport, Failure, RunReport, StepOutcome, StepReport};
use crate::journal::RunEnd;
use crate::model::DatabaseName;

/// The whole report.
pub fn run(report: &RunReport, end: RunEnd, summary: &str, style: Style) -> String {
    let mut page = Page::new(style);
    let (word, tone) = word(end);
    page.item(
        "",
        Text::of(tone, word).and(format!(": {}, after ", fragment(summary))).with(Tone::Strong, duration(report.total)),
    );
    page.item("", Text::of(Tone::Dim, format!("Run {} of plan {} ({})", report.run, report.plan, report.title)));
    if let Some(failure) = &report.failure {
        page.blank();
        failed(&mut page, failure, end);
    }
    times(&mut page, report);
    waiting(&mut page, report);
    databases(&mut page, report);
    sessions(&mut page, report);
    warnings(&mut page, report);
    holds(&mut page, report);
    page.finish()
}

fn word(end: RunEnd) -> (&'static str, Tone) {
    match end {
        RunEnd::Done => ("DONE", Tone::Good),
        RunEnd::Refused => ("REFUSED", Tone::Warn),
        RunEnd::Stopped => ("STOPPED", Tone::Bad),
        RunEnd::Undone => ("UNDONE", Tone::Warn),
        RunEnd::Stuck => ("STUCK", Tone::Bad),
    }
}

/// What a human needs to know first when something went wrong.
fn failed(page: &mut Page, failure: &Failure, end: RunEnd) {
    let row = |page: &mut Page, label: &str, text: Text| {
        page.item(Text::of(Tone::Dim, format!("  {label:<10}")), text);
    };
    let what = match end {
        RunEnd::Refused => "refused",
        RunEnd::Stopped => "stopped at",
        _ => "failed",
    };
    row(page, what, Text::of(Tone::Bad, failure.title.as_str()).with(Tone::Dim, format!(" (step {})", failure.step)));
    if let Some(target) = &failure.target {
        row(page, "where", target.as_str().into());
    }
    row(page, "why", failure.why.as_str().into());
    if let Some(tried) = &failure.tried {
        row(page, "tried", tried.as_str().into());
    }
    let state = match end {
        RunEnd::Done => return,
        RunEnd::Refused => "nothing was touched",
        RunEnd::Stopped => "what was done so far stays; nothing more happens by itself",
        RunEnd::Undone => "everything that was done has been taken back; it is as before the run",
        RunEnd::Stuck => "part of it is done and could be neither completed nor taken back: a human must look",
    };
    row(page, "now", state.into());
    for (index, way) in failure.ways_on.iter().enumerate() {
        let mut text = Text::from(way.what.as_str());
        if let Some(command) = &way.command {
            text = text.and(":\u{a0}").with(Tone::Strong, command.replace(' ', "\u{a0}"));
        }
        row(page, if index == 0 { "ways on" } else { "" }, text);
    }
}

fn times(page: &mut Page, report: &RunReport) {
    page.blank();
    heading(page, "Time");
    for (index, stage) in report.stages.iter().enumerate() {
        let took = stage.took.map_or_else(|| "not begun".to_owned(), duration);
        page.ends(
            Text::of(Tone::Strong, format!("  {}. {}", index + 1, stage.title)),
            Text::of(if stage.took.is_some() { Tone::Strong } else { Tone::Dim }, took),
        );
        let steps: Vec<&StepReport> =
            report.steps.iter().filter(|step| step.stage == index && step.outcome != StepOutcome::NotBegun).collect();
        let mut rest = steps.as_slice();
        while let Some(first) = rest.first() {
            let alike = rest.iter().take_while(|step| quick(step) && quick(first)).count().max(1);
            let (part, after) = rest.split_at(alike);
            rest = after;
            match part {
                [step] => one_step(page, step),
                many => {
                    let longest = many.iter().map(|step| step.took).max().unwrap_or_default();
                    page.ends(
                        Text::of(Tone::Good, "     ✓ ").and(count(many.len(), "quick step")),
                        Text::of(Tone::Dim, format!("each at most {}", duration(longest))),
                    );
                }
            }
        }
    }
    let not_begun = report.steps.iter().filter(|step| step.outcome == StepOutcome::NotBegun).count();
    if not_begun > 0 {
        page.item("  ", Text::of(Tone::Dim, format!("{} not begun", count(not_begun, "step"))));
    }
}

/// Not worth a line of its own.
fn quick(step: &StepReport) -> bool {
    step.outcome == StepOutcome::Done && step.took.as_millis() < 100 && step.waited.is_zero()
}

fn one_step(page: &mut Page, step: &StepReport) {
    let (mark, tone, note) = match step.outcome {
        StepOutcome::Done => ("✓", Tone::Good, ""),
        StepOutcome::Failed => ("✗", Tone::Bad, " — failed"),
        StepOutcome::Unknown => ("?", Tone::Bad, " — not known whether it acted"),
        StepOutcome::Undone => ("↺", Tone::Warn, " — taken back"),
        StepOutcome::UndoFailed => ("✗", Tone::Bad, " — could not be taken back"),
        StepOutcome::NotBegun => ("·", Tone::Dim, " — not begun"),
    };
    let mut took = duration(step.took);
    if step.waited.as_millis() >= 100 {
        took = match step.took.saturating_sub(step.waited).as_millis() {
            0..100 => format!("{took}, all waiting"),
            _ => format!("{took}, waiting {}", duration(step.waited)),
        };
    }
    page.ends_item(
        Text::of(tone, format!("     {mark} ")),
        Text::from(step.title.as_str()).with(tone, note),
        Text::of(Tone::Dim, took),
    );
}

fn waiting(page: &mut Page, report: &RunReport) {
    if report.waited_ms.is_empty() {
        return;
    }
    page.blank();
    heading(page, "Waiting, by cause");
    let mut causes: Vec<_> = report.waited_ms.iter().collect();
    causes.sort_by(|a, b| b.1.cmp(a.1));
    for (cause, millis) in causes {
        page.ends(
            format!("  {}", cause.words()).into(),
            Text::of(Tone::Strong, duration(std::time::Duration::from_millis(*millis))),
        );
    }
}

fn databases(page: &mut Page, report: &RunReport) {
    if report.databases.is_empty() {
        return;
    }
    page.blank();
    heading(page, "Databases");
    for (name, database) in &report.databases {
        page.item("  ", one_database(name, database));
    }
}

fn one_database(name: &DatabaseName, database: &DatabaseReport) -> Text {
    let mut text = Text::of(Tone::Strong, name.as_str());
    text = match database.from == database.to {
        true => text.and(format!(": primary still {}", database.from.name())),
        false => text.and(format!(": primary {} → {}", database.from.name(), database.to.name())),
    };
    text = match database.write_stall {
        Some(stall) => {
            let tone = if stall > database.max_write_stall { Tone::Bad } else { Tone::Good };
            text.and("; writers waited ")
                .with(tone, duration(stall))
                .and(format!(" of at most {}", duration(database.max_write_stall)))
        }
        None => text.and("; writers did not wait"),
    };
    match database.without_redundancy {
        Some(without) => text.and("; without redundancy for ").with(Tone::Strong, duration(without)),
        None if database.from != database.to => text.with(Tone::Bad, "; STILL without redundancy"),
        None => text,
    }
}

fn sessions(page: &mut Page, report: &RunReport) {
    if report.residual_sessions.is_empty() {
        return;
    }
    page.blank();
    heading(page, "Sessions that did not end in time");
    for residual in &report.residual_sessions {
        let sessions = count(usize::try_from(residual.sessions).unwrap_or(usize::MAX), "session");
        let fate = if residual.cut { "cut" } else { "left running" };
        page.item(
            "  ",
            format!("{sessions} of {} on {} at {}: {fate}", residual.backend, residual.server, residual.proxy.name()),
        );
    }
}

fn warnings(page: &mut Page, report: &RunReport) {
    if report.warnings.is_empty() {
        return;
    }
    page.blank();
    heading(page, "Told on the way");
    for text in &report.warnings {
        page.item(Text::of(Tone::Warn, "  ! "), text.as_str());
    }
}

fn holds(page: &mut Page, report: &RunReport) {
    if report.holds_made.is_empty() && report.holds_released.is_empty() {
        return;
    }
    page.blank();
    heading(page, "Holds");
    for hold in report.holds_made.iter().filter(|hold| !report.holds_released.contains(&hold.kind)) {
        let review = hold.review_by.map(|at| format!("; review by {}", moment(at))).unwrap_or_default();
        page.item(
            Text::of(Tone::Change, "  + "),
            format!("{}{review}; ends with {}", hold.kind.what(), command(&hold.kind.ended_by())),
        );
    }
    for kind in report.holds_released.iter().filter(|kind| report.holds_made.iter().all(|hold| hold.kind != **kind)) {
        page.item(Text::of(Tone::Dim, "  - "), Text::of(Tone::Dim, format!("released: {}", kind.what())));
    }
}

fn heading(page: &mut Page, text: &str) {
    page.line(Text::of(Tone::Strong, text));
}

/// A sentence without its full stop.
fn fragment(summary: &str) -> &str {
    summary.trim_end_matches('.')
}

#[cfg(test)]
mod tests;
