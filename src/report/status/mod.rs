//! What is, as a matrix of tiers and facilities, with a verdict.

mod elsewhere;
mod machine;
mod observer;
mod prometheus;
mod view;

pub use machine::{DesiredShares, StatusData};
pub use prometheus::prometheus;
pub use view::{Cell, Column, ExitLevel, HeldView, Mark, Problem, Row, StatusView};

use super::text::{Page, Style, Text, Tone, command, moment};
use crate::model::{Live, text::list};
use crate::plan::lost::evidence::Before;
use crate::topology::Topology;

/// Columns that are narrower than this are unreadable: rows become lists.
const NARROWEST: usize = 24;

/// What hosts elsewhere, proxies and replicas say of what is silent, one line each; nothing where everything answers.
pub fn seen_from_elsewhere(topology: &Topology, live: &Live, before: &Before) -> Vec<String> {
    elsewhere::notes(topology, live, before)
}

/// The whole status.
pub fn status(view: &StatusView, style: Style) -> String {
    let mut page = Page::new(style);
    let shown: Vec<usize> =
        (0..view.columns.len()).filter(|index| view.rows.iter().any(|row| row.has(*index))).collect();
    let label = view.rows.iter().map(|row| row.label().chars().count()).max().unwrap_or(0) + 2;
    let column = style.width.saturating_sub(label) / shown.len().max(1);
    if column >= NARROWEST {
        matrix(&mut page, view, &shown, label, column);
    } else {
        lists(&mut page, view, &shown);
    }
    let idle: Vec<&str> = (0..view.columns.len())
        .filter(|index| !shown.contains(index))
        .filter_map(|index| view.columns.get(index).map(|column| column.facility.as_str()))
        .collect();
    if !idle.is_empty() {
        page.item("", Text::of(Tone::Dim, format!("Nothing is listed in {}.", list(idle))));
    }
    page.item("", Text::of(Tone::Dim, view.share_basis.as_str()));
    below(&mut page, view);
    page.blank();
    page.item("", verdict(view));
    page.finish()
}

fn matrix(page: &mut Page, view: &StatusView, shown: &[usize], label: usize, width: usize) {
    let mut head = Text::from(" ".repeat(label));
    let mut states = Text::from(" ".repeat(label));
    for column in shown.iter().filter_map(|index| view.columns.get(*index)) {
        pad(&mut head, Text::of(Tone::Strong, column.facility.as_str()), width);
        let tone = if column.drained { Tone::Warn } else { Tone::Dim };
        pad(&mut states, Text::of(tone, column.state.as_str()), width);
    }
    page.line(head);
    page.line(states);
    let mut tier = "";
    for row in &view.rows {
        if row.tier != tier {
            page.line(Text::of(Tone::Dim, "─".repeat(label + width * shown.len())));
            tier = row.tier;
        }
        let cells: Vec<Vec<Text>> = shown.iter().map(|index| cell(row.cells.get(*index), width - 2)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..height {
            let mut text = Text::new();
            let name = if line == 0 { row.label() } else { String::new() };
            pad(&mut text, Text::of(Tone::Strong, name), label);
            for cell in &cells {
                pad(&mut text, cell.get(line).cloned().unwrap_or_default(), width);
            }
            page.line(text);
        }
    }
    page.line(Text::of(Tone::Dim, "─".repeat(label + width * shown.len())));
}

fn lists(page: &mut Page, view: &StatusView, shown: &[usize]) {
    for column in shown.iter().filter_map(|index| view.columns.get(*index)) {
        page.item(Text::of(Tone::Strong, format!("{}: ", column.facility)), column.state.as_str());
    }
    for row in &view.rows {
        page.blank();
        page.line(Text::of(Tone::Strong, row.label()));
        for index in shown.iter().filter(|index| row.has(**index)) {
            let Some(column) = view.columns.get(*index) else { continue };
            let mut mark = Text::from(format!("  {}: ", column.facility));
            let width = page.width().saturating_sub(mark.width());
            for line in cell(row.cells.get(*index), width) {
                let indent = mark.width();
                let mut text = std::mem::replace(&mut mark, " ".repeat(indent).into());
                text.join(line);
                page.line(text);
            }
        }
    }
    page.blank();
}

/// A cell's lines, wrapped.
fn cell(cell: Option<&Cell>, width: usize) -> Vec<Text> {
    let mut lines = Vec::new();
    for (mark, text) in cell.map(|cell| cell.as_slice()).unwrap_or_default() {
        let (symbol, tone) = match mark {
            Mark::Good => ("✓ ", Tone::Good),
            Mark::Plain => ("  ", Tone::Plain),
            Mark::Quiet => ("· ", Tone::Dim),
            Mark::Note => ("! ", Tone::Warn),
            Mark::Bad => ("✗ ", Tone::Bad),
        };
        let mut first = Some(Text::of(tone, symbol));
        let words = if *mark == Mark::Good { Tone::Plain } else { tone };
        for part in Text::of(words, text.as_str()).wrapped(width.saturating_sub(2)) {
            let mut line = first.take().unwrap_or_else(|| "  ".into());
            line.join(part);
            lines.push(line);
        }
    }
    lines
}

fn pad(line: &mut Text, text: Text, width: usize) {
    let room = width.saturating_sub(text.width());
    line.join(text);
    line.push(Tone::Plain, " ".repeat(room));
}

/// What the matrix has no room for.
fn below(page: &mut Page, view: &StatusView) {
    let section = |page: &mut Page, title: &str| {
        page.blank();
        page.line(Text::of(Tone::Strong, title));
    };
    if !view.unreachable.is_empty() {
        section(page, "Nothing is known about");
        for (target, why) in &view.unreachable {
            let seen = view.last_seen.get(target).map(|seen| format!("; {seen}")).unwrap_or_default();
            page.item("  ✗ ", Text::of(Tone::Bad, target.as_str()).and(format!(": {why}{seen}")));
        }
    }
    if !view.problems.is_empty() {
        section(page, "Wrong");
        for problem in &view.problems {
            let tone = if problem.level == ExitLevel::Split { Tone::Bad } else { Tone::Warn };
            page.item(Text::of(tone, "  ! "), problem.text.as_str());
            // The verdict tells the first one's.
            let first = view.splits.first().map(|split| &split.advice);
            let split =
                view.splits.iter().find(|split| problem.level == ExitLevel::Split && split.what == problem.text);
            if let Some(split) = split.filter(|split| Some(&split.advice) != first) {
                page.item(Text::of(Tone::Dim, "    → "), split.advice.as_str());
            }
        }
    }
    if !view.drift.is_empty() {
        section(page, "Differs from what should be");
        for line in &view.drift {
            page.item(Text::of(Tone::Change, "  ~ "), line.as_str());
        }
    }
    if !view.holds.is_empty() {
        section(page, "Held");
        for held in &view.holds {
            page.item("  · ", hold(held));
        }
    }
    if !view.notes.is_empty() {
        section(page, "Good to know");
        for note in &view.notes {
            page.item(Text::of(Tone::Dim, "  · "), note.as_str());
        }
    }
}

fn hold(held: &HeldView) -> Text {
    let hold = &held.hold;
    let (what, way) = (hold.kind.what(), command(&hold.kind.ended_by()));
    let mut text = Text::of(Tone::Strong, what).and(format!(", by {} since {}", hold.by, moment(hold.since)));
    if let Some(reason) = &hold.reason {
        text = text.and(format!(": {reason}"));
    }
    match hold.review_by {
        Some(at) if held.overdue => {
            text = text.with(Tone::Bad, format!(" — OVERDUE: it was to be reviewed by {}", moment(at)));
        }
        Some(at) => text = text.and(format!(" (review by {})", moment(at))),
        None => {}
    }
    text.with(Tone::Dim, format!("; ends with {way}"))
}

fn verdict(view: &StatusView) -> Text {
    let overdue = view.holds.iter().filter(|held| held.overdue).count();
    let mut text = match view.level {
        ExitLevel::Healthy if view.drift.is_empty() => {
            Text::of(Tone::Good, "HEALTHY").and(": everything answers and is as it should be")
        }
        ExitLevel::Healthy => Text::of(Tone::Good, "HEALTHY"),
        ExitLevel::Drift => Text::of(Tone::Warn, "DRIFT").and(format!(
            ": everything works, but {} from what should be; `handover plan` shows the way back",
            match view.drift.len() {
                1 => "one thing differs".to_owned(),
                many => format!("{many} things differ"),
            }
        )),
        ExitLevel::Degraded => Text::of(Tone::Bad, "DEGRADED").and(format!(": {}", reasons(view, ExitLevel::Degraded))),
        ExitLevel::Split => Text::of(Tone::Bad, "SPLIT").and(format!(
            ": {}; {}",
            reasons(view, ExitLevel::Split),
            view.splits.first().map_or("`handover plan` says more", |split| split.advice.as_str())
        )),
    };
    let drained: Vec<&str> =
        view.columns.iter().filter(|column| column.drained).map(|column| column.facility.as_str()).collect();
    if !drained.is_empty() {
        let verb = if drained.len() == 1 { "is" } else { "are" };
        text = text.and(format!("; {} {verb} drained", list(drained)));
    }
    if overdue > 0 {
        let holds = if overdue == 1 { "one hold is".to_owned() } else { format!("{overdue} holds are") };
        text = text.and("; ").with(Tone::Bad, format!("{holds} overdue"));
    }
    text
}

/// The worst things in a few words.
fn reasons(view: &StatusView, level: ExitLevel) -> String {
    let of_level: Vec<&str> =
        view.problems.iter().filter(|problem| problem.level == level).map(|problem| problem.text.as_str()).collect();
    match of_level.as_slice() {
        [] => "see above".to_owned(),
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first}, and {} more", rest.len()),
    }
}

#[cfg(test)]
mod tests;
