//! A run as one HTML page for a review after the fact: no script, nothing from elsewhere, light and dark, fit for paper.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::super::text::duration_ms;
use super::facts::{figures, impacts, last_word, sentences};
use super::list::who;
use super::show::{plus, second};
use super::story::{State, StepStory, Story};
use super::svg::{Plain, draw};
use super::{timeline, words};
use crate::event::StepOutcome;

/// Constant, and without any `<`.
const STYLE: &str = include_str!("report.css");

/// The page.
pub fn story_html(story: &Story) -> String {
    let title = format!("{}: {}", story.title, story.state.word());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content={ "handover " (env!("CARGO_PKG_VERSION")) };
                title { (Plain(&title)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(story))
                main {
                    (summary(story))
                    (way_on(story))
                    (impact(story))
                    (pictures(story))
                    (gates(story))
                    (steps(story))
                    (told(story))
                    (records(story))
                }
                footer {
                    "Told by handover " (env!("CARGO_PKG_VERSION")) " from the journal of run " (Plain(&story.run.0)) ". Times that begin with + count from its first record."
                }
            }
        }
    };
    page.into_string()
}

fn head(story: &Story) -> Markup {
    html! {
        header {
            h1 { span class={ "badge " (story.state.word()) } { (story.state.word()) } (Plain(&story.title)) }
            p class="under" {
                "Run " code { (Plain(&story.run.0)) }
                @if let Some(topology) = &story.topology { " of " (Plain(topology)) }
                ", " (second(story.started)) " to " (second(story.last)) ", by " (Plain(who(&story.operator)))
            }
        }
    }
}

fn summary(story: &Story) -> Markup {
    html! {
        section {
            h2 { "Summary" }
            @for sentence in sentences(story) { p { (Plain(&sentence)) } }
            ul class="figures" {
                @for figure in figures(story) {
                    li class=[figure.bad.then_some("bad")] { b { (Plain(&figure.value)) } span { (Plain(&figure.meaning)) } }
                }
            }
            dl {
                @if let Some(reason) = &story.reason { dt { "Reason" } dd { (Plain(reason)) } }
                dt { "Operator" } dd { (Plain(&story.operator)) }
                dt { "Plan" } dd { (Plain(&story.plan)) " " span class="soft" { "SHA-256 " (Plain(&story.plan_digest)) } }
                @for hold in &story.holds_made {
                    dt { "Hold" }
                    dd {
                        (Plain(&hold.kind.what()))
                        @if story.holds_released.contains(&hold.kind) { " (released)" }
                        @else { "; ends with " code { (Plain(&hold.kind.ended_by())) } }
                    }
                }
                @for kind in story.holds_released.iter().filter(|kind| story.holds_made.iter().all(|hold| hold.kind != **kind)) {
                    dt { "Released" } dd { (Plain(&kind.what())) }
                }
            }
        }
    }
}

fn way_on(story: &Story) -> Markup {
    let failures: Vec<(&StepStory, &str)> = story.failures().collect();
    if failures.is_empty() && story.ways_on.is_empty() {
        return Markup::default();
    }
    html! {
        section {
            h2 { "What went wrong, and how to go on" }
            @for (step, why) in failures {
                div class="notice" {
                    b { (Plain(&step.title)) }
                    @if let Some(target) = &step.target { " " code { (Plain(target.as_str())) } }
                    p { (Plain(why)) }
                    p class="soft" { "In the end: " (words::outcome(step.outcome)) "." }
                }
            }
            @if !story.ways_on.is_empty() {
                ul {
                    @for way in &story.ways_on {
                        li { (Plain(&way.what)) @if let Some(command) = &way.command { ": " code { (Plain(command)) } } }
                    }
                }
            }
        }
    }
}

fn impact(story: &Story) -> Markup {
    let impacts = impacts(story);
    html! {
        section {
            h2 { "Impact" }
            @if impacts.is_empty() { p { "No writer was held back, no database had a copy less, and no session was waited for." } }
            @else {
                div class="scroll" {
                    table {
                        thead { tr { th { "what" } th class="number" { "for" } th class="number" { "from" } th { "" } } }
                        tbody {
                            @for impact in impacts {
                                tr {
                                    th scope="row" { (Plain(&impact.what)) }
                                    td class={ "number" @if impact.bad { " bad" } } { (impact.took) }
                                    td class="number" { (impact.from) }
                                    td { (Plain(&impact.note)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn pictures(story: &Story) -> Markup {
    let whole = timeline::whole(story);
    let stages = story.stages.iter().filter(|stage| stage.from_ms.is_some()).count();
    let description = format!(
        "{} in {}: {stages} stages, {} steps, {} write stalls; the table of steps below says the same in words.",
        story.title,
        duration_ms(story.total_ms),
        story.steps.iter().filter(|step| step.outcome != StepOutcome::NotBegun).count(),
        story.stalls.len(),
    );
    html! {
        section {
            h2 { "Timeline" }
            figure {
                figcaption { "The whole run. Steps stand in lanes by what they act on; those that ran side by side stand below each other." }
                div class="scroll" { (draw(&whole, "whole", "Timeline of the run", &description)) }
                (legend(story))
            }
            @for (index, stall) in story.stalls.iter().enumerate() {
                @let name = format!("Write stall of {}, enlarged", stall.database);
                @let description = format!("{} from {}: the steps between the first pause and the last resume.", duration_ms(stall.took_ms()), plus(stall.from_ms));
                figure {
                    figcaption { b { (Plain(&name)) } ": " (description) }
                    div class="scroll" { (draw(&timeline::enlarged(story, stall), &format!("stall{index}"), &name, &description)) }
                }
            }
        }
    }
}

fn legend(story: &Story) -> Markup {
    let has = |outcome: StepOutcome| {
        story
            .steps
            .iter()
            .any(|step| step.outcome == outcome || step.attempts.iter().any(|attempt| attempt.outcome == outcome))
    };
    let failed = has(StepOutcome::Failed) || has(StepOutcome::UndoFailed);
    let item = |colour: &str, text: &str| html! { li { i style={ "background:var(--" (colour) ")" } {} (text) } };
    html! {
        ul class="legend" aria-hidden="true" {
            (item("stage", "stage"))
            (item("done", "done and verified"))
            @if failed || story.state == State::Undone { (item("failed", "failed, or a gate that retreats")) }
            @if has(StepOutcome::Undone) { (item("undone", "taken back")) }
            @if has(StepOutcome::Unknown) { (item("unknown", "not known whether it acted")) }
            @if !story.stalls.is_empty() { (item("stall", "writers wait")) }
            @if !story.without_redundancy.is_empty() { (item("exposed", "one copy less")) }
            li { i class="line" {} "point of no return" }
            li { i class="line end" {} "end" }
        }
    }
}

fn gates(story: &Story) -> Markup {
    let judged = || story.steps.iter().flat_map(|step| step.attempts.iter().map(move |attempt| (step, attempt)));
    let judged = || judged().filter_map(|(step, attempt)| Some((step, attempt, attempt.verdict.as_deref()?)));
    html! {
        @if judged().next().is_some() {
            section {
                h2 { "Gates" }
                div class="scroll" {
                    table {
                        thead { tr { th class="number" { "at" } th { "gate" } th { "says" } th { "measured" } } }
                        tbody {
                            @for (step, attempt, verdict) in judged() {
                                tr {
                                    td class="number" { (plus(attempt.to_ms.unwrap_or(attempt.from_ms))) }
                                    th scope="row" { (Plain(&step.title)) }
                                    td { span class={ "word " (verdict) } { (Plain(verdict)) } }
                                    td { (Plain(attempt.measured.as_deref().unwrap_or_default())) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn steps(story: &Story) -> Markup {
    let begun = |step: &&StepStory| step.outcome != StepOutcome::NotBegun;
    let idle = story.steps.iter().filter(|step| !begun(step)).count();
    let stages = story.stages.len().max(1);
    html! {
        section {
            h2 { "Steps" }
            div class="scroll" {
                table {
                    thead { tr { th class="number" { "from" } th class="number" { "took" } th { "step" } th { "outcome" } th { "seen" } } }
                    @for index in 0..stages {
                        tbody {
                            @if let Some(stage) = story.stages.get(index) {
                                tr class="stagehead" {
                                    th colspan="5" scope="colgroup" {
                                        (index + 1) ". " (Plain(&stage.title))
                                        @match (stage.from_ms, stage.to_ms) {
                                            (Some(from), Some(to)) => { span class="soft" { " — " (duration_ms(to.saturating_sub(from))) } }
                                            _ => { span class="soft" { " — not begun" } }
                                        }
                                    }
                                }
                            }
                            @for step in story.steps.iter().filter(|step| step.stage == index).filter(begun) { (one_step(step)) }
                        }
                    }
                }
            }
            @if idle > 0 { p class="soft" { (idle) " of the plan's steps were not begun." } }
        }
    }
}

fn one_step(step: &StepStory) -> Markup {
    let first = step.attempts.first();
    let took = step.attempts.last().and_then(super::story::Attempt::took_ms);
    let word = serde_json::to_value(step.outcome).ok();
    let class = word.as_ref().and_then(|word| word.as_str()).unwrap_or_default();
    html! {
        tr {
            td class="number" { @if let Some(first) = first { (plus(first.from_ms)) } }
            td class="number" { (took.map_or_else(|| "–".to_owned(), duration_ms)) }
            td {
                (Plain(&step.title))
                @if step.point_of_no_return { " " b class="bad" { "point of no return" } }
                @if step.attempts.len() > 1 {
                    @for (index, attempt) in step.attempts.iter().enumerate() {
                        br; span class="soft" { "attempt " (index + 1) " at " (plus(attempt.from_ms)) ": " (words::outcome(attempt.outcome)) }
                    }
                }
                @if let Some(undo) = &step.undo {
                    br; span class="soft" { "taking it back began at " (plus(undo.from_ms)) @if let Some(to) = undo.to_ms { ", took " (duration_ms(to.saturating_sub(undo.from_ms))) } }
                }
            }
            td { span class={ "word " (class) } { (words::outcome(step.outcome)) } }
            td { (Plain(last_word(step))) }
        }
    }
}

fn told(story: &Story) -> Markup {
    html! {
        @if !story.happenings.is_empty() {
            section {
                h2 { "Told on the way" }
                table {
                    thead { tr { th class="number" { "at" } th { "what" } } }
                    tbody {
                        @for happening in &story.happenings {
                            tr { td class="number" { (plus(happening.at_ms)) } td { (Plain(&happening.text)) } }
                        }
                    }
                }
            }
        }
    }
}

fn records(story: &Story) -> Markup {
    let title = |id: &crate::plan::StepId| id.to_string();
    html! {
        section {
            h2 { "Appendix: every record" }
            div class="scroll" {
                table {
                    caption { "As they were written to the journal, before and after each action. Each opens to its content; the plan file's text is left out." }
                    thead { tr { th class="number" { "no." } th { "time (UTC)" } th class="number" { "at" } th { "record" } } }
                    tbody {
                        @for line in &story.records {
                            tr {
                                td class="number" { (line.entry.sequence) }
                                td class="when" { (line.entry.at.strftime("%H:%M:%S%.3f").to_string()) }
                                td class="number" { (plus(line.at_ms)) }
                                td {
                                    details {
                                        summary { (Plain(&words::record(&line.entry.record, &title))) }
                                        pre { (Plain(&serde_json::to_string(&line.entry.record).unwrap_or_default())) }
                                    }
                                    span class="paper" { (Plain(&words::record(&line.entry.record, &title))) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
