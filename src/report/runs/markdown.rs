//! A run as GitHub flavoured Markdown, for an issue or a review. Whatever comes from files, servers or people is escaped.

use super::super::plan::{escaped, row};
use super::super::text::duration_ms;
use super::facts::{figures, impacts, last_word, sentences};
use super::show::plus;
use super::story::{StepStory, Story};
use super::words;
use crate::event::StepOutcome;

/// The whole report.
pub fn story_markdown(story: &Story) -> String {
    let mut out = format!("# {}: {}\n\n", escaped(&story.title), story.state.word());
    out += &sentences(story).iter().map(|sentence| escaped(sentence)).collect::<Vec<_>>().join("\n");
    out += "\n\n| | |\n| --- | --- |\n";
    let mut fact = |label: &str, text: &str| out += &row(&[&format!("**{label}**"), &escaped(text)]);
    fact("run", &story.run.0);
    fact("plan", &format!("{}, SHA-256 {}", story.plan, story.plan_digest));
    fact("operator", &story.operator);
    if let Some(reason) = &story.reason {
        fact("reason", reason);
    }
    for figure in figures(story) {
        fact(&escaped(&figure.meaning), &figure.value);
    }
    for hold in story.holds_made.iter().filter(|hold| !story.holds_released.contains(&hold.kind)) {
        fact("hold", &format!("{}; ends with {}", hold.kind.what(), hold.kind.ended_by()));
    }
    for kind in &story.holds_released {
        fact("released", &kind.what());
    }
    out += &wrong(story);
    out += &impact(story);
    out += &timeline(story);
    out += &gates(story);
    out += &steps(story);
    out += &told(story);
    out + &records(story)
}

fn table(heading: &str, head: &[&str], rows: Vec<String>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rule: Vec<&str> = head
        .iter()
        .map(|name| if ["at", "from", "took", "for", "no."].contains(name) { "---:" } else { "---" })
        .collect();
    format!("\n## {heading}\n\n{}{}{}", row(head), row(&rule), rows.concat())
}

fn wrong(story: &Story) -> String {
    let failures: Vec<(&StepStory, &str)> = story.failures().collect();
    if failures.is_empty() && story.ways_on.is_empty() {
        return String::new();
    }
    let mut out = "\n## What went wrong, and how to go on\n".to_owned();
    for (step, why) in failures {
        let target = step.target.as_ref().map(|target| format!(" ({})", escaped(target.as_str()))).unwrap_or_default();
        out += &format!("\n> [!WARNING]\n> **{}**{target}: {}\n", escaped(&step.title), escaped(why));
    }
    for (index, way) in story.ways_on.iter().enumerate() {
        let command = way.command.as_ref().map(|command| format!(": **{}**", escaped(command))).unwrap_or_default();
        out += if index == 0 { "\n" } else { "" };
        out += &format!("- {}{command}\n", escaped(&way.what));
    }
    out
}

fn impact(story: &Story) -> String {
    let rows = impacts(story).into_iter().map(|impact| {
        let took = if impact.bad { format!("**{}**", impact.took) } else { impact.took };
        row(&[&escaped(&impact.what), &took, &escaped(&impact.from), &escaped(&impact.note)])
    });
    let rows: Vec<String> = rows.collect();
    if rows.is_empty() {
        return "\n## Impact\n\nNo writer was held back, no database had a copy less, and no session was waited for.\n"
            .to_owned();
    }
    table("Impact", &["what", "for", "from", "note"], rows)
}

fn timeline(story: &Story) -> String {
    let rows = story.stages.iter().enumerate().map(|(index, stage)| {
        let from = stage.from_ms.map_or_else(|| "–".to_owned(), |from| escaped(&plus(from)));
        let took = stage.from_ms.zip(stage.to_ms).map(|(from, to)| duration_ms(to.saturating_sub(from)));
        row(&[
            &from,
            &took.unwrap_or_else(|| "not begun".to_owned()),
            &format!("{}. {}", index + 1, escaped(&stage.title)),
        ])
    });
    table("Stages", &["from", "took", "stage"], rows.collect())
}

fn gates(story: &Story) -> String {
    let attempts = story.steps.iter().flat_map(|step| step.attempts.iter().map(move |attempt| (step, attempt)));
    let rows = attempts.filter_map(|(step, attempt)| {
        let at = plus(attempt.to_ms.unwrap_or(attempt.from_ms));
        let measured = attempt.measured.as_deref().unwrap_or_default();
        let verdict = format!("**{}**", escaped(attempt.verdict.as_deref()?));
        Some(row(&[&escaped(&at), &escaped(&step.title), &verdict, &escaped(measured)]))
    });
    table("Gates", &["at", "gate", "says", "measured"], rows.collect())
}

fn steps(story: &Story) -> String {
    let begun = story.steps.iter().filter(|step| step.outcome != StepOutcome::NotBegun);
    let rows = begun.map(|step| {
        let from = step.attempts.first().map(|first| escaped(&plus(first.from_ms))).unwrap_or_default();
        let took =
            step.attempts.last().and_then(super::story::Attempt::took_ms).map_or_else(|| "–".to_owned(), duration_ms);
        let mut title = escaped(&step.title);
        if step.point_of_no_return {
            title += " ⛔ **point of no return**";
        }
        if step.attempts.len() > 1 {
            title += &format!(" ({} attempts)", step.attempts.len());
        }
        row(&[&from, &took, &title, words::outcome(step.outcome), &escaped(last_word(step))])
    });
    let mut out = table("Steps", &["from", "took", "step", "outcome", "seen"], rows.collect());
    let idle = story.steps.iter().filter(|step| step.outcome == StepOutcome::NotBegun).count();
    if idle > 0 {
        out += &format!("\n{idle} of the plan's steps were not begun.\n");
    }
    out
}

fn told(story: &Story) -> String {
    let rows = story.happenings.iter().map(|told| row(&[&escaped(&plus(told.at_ms)), &escaped(&told.text)]));
    table("Told on the way", &["at", "what"], rows.collect())
}

fn records(story: &Story) -> String {
    let rows = story.records.iter().map(|line| {
        let at = line.entry.at.strftime("%H:%M:%S%.3f").to_string();
        let words = words::record(&line.entry.record, &|id| id.to_string());
        row(&[&line.entry.sequence.to_string(), &at, &escaped(&plus(line.at_ms)), &escaped(&words)])
    });
    table("Appendix: every record", &["no.", "time (UTC)", "at", "record"], rows.collect())
}
