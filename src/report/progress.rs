//! Reporters of a running run: what they say is made by pure functions; drawing is a thin layer over them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::text::{Style, Text, Tone, count, duration};
use crate::event::{Event, Verdict};
use crate::journal::How;
use crate::plan::StepId;

/// How often a step that waits is heard of where every line stays.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// Steps that should take less than this get a line only when they have ended.
const QUICK: Duration = Duration::from_secs(2);

/// Somebody who tells about a run. A reporter that cannot write stays silent: the run goes on, and its journal tells everything.
pub trait Reporter: Send {
    /// Tells about an event that happened at `at`.
    fn event(&mut self, at: Timestamp, event: &Event);
}

/// Timestamped lines, for files, pipes and terminals without cursor control.
pub struct Plain {
    out: Box<dyn Write + Send>,
    style: Style,
    /// Titles of the steps that run, and when they were last heard of.
    heard: BTreeMap<StepId, (Timestamp, String)>,
    judged: BTreeSet<StepId>,
}

impl Plain {
    /// Writes to `out`.
    pub fn new(out: Box<dyn Write + Send>, style: Style) -> Self {
        Self { out, style, heard: BTreeMap::new(), judged: BTreeSet::new() }
    }

    /// The event's line, where it deserves one.
    fn worth(&mut self, at: Timestamp, event: &Event) -> Option<Line> {
        match event {
            Event::StepStarted { step, title, expected } => {
                self.heard.insert(step.clone(), (at, title.clone()));
                // Its end follows at once and says the same.
                if *expected < QUICK {
                    return None;
                }
            }
            Event::StepProgress { step, text, .. } => {
                let (heard, title) = self.heard.get_mut(step)?;
                if at.duration_since(*heard) < PATIENCE {
                    return None;
                }
                *heard = at;
                return Some(Line::new(".", Tone::Dim, Text::of(Tone::Dim, format!("{title}: {text}"))));
            }
            Event::GateJudged { step, .. } => {
                self.judged.insert(step.clone());
            }
            Event::StepDone { step, .. } if self.judged.remove(step) => return None,
            _ => {}
        }
        line(event)
    }
}

impl Reporter for Plain {
    fn event(&mut self, at: Timestamp, event: &Event) {
        let Some(line) = self.worth(at, event) else { return };
        let mut time = Text::of(Tone::Dim, at.strftime("%H:%M:%SZ ").to_string());
        for part in line.wrapped(self.style.width.saturating_sub(time.width())) {
            let indent = " ".repeat(time.width());
            let mut text = std::mem::replace(&mut time, indent.into());
            text.join(part);
            let _ = writeln!(self.out, "{}", text.draw(self.style.colour).trim_end());
        }
        let _ = self.out.flush();
    }
}

/// One JSON object per line: the event's fields, its name under `event`, and `time` by RFC 3339.
pub struct Json {
    out: Box<dyn Write + Send>,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: Timestamp,
    #[serde(flatten)]
    event: &'a Event,
}

impl Json {
    /// Writes to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out }
    }
}

impl Reporter for Json {
    fn event(&mut self, time: Timestamp, event: &Event) {
        if let Ok(text) = serde_json::to_string(&JsonLine { time, event }) {
            let _ = writeln!(self.out, "{text}");
            let _ = self.out.flush();
        }
    }
}

/// What ends stays as a line; what runs is drawn below it with a spinner, its time, and a bar where the end of a wait is known.
/// Dropped midway it takes its drawing off the terminal; the cursor is never hidden.
pub struct Live {
    bars: MultiProgress,
    stage: Option<ProgressBar>,
    running: BTreeMap<StepId, ProgressBar>,
    judged: BTreeSet<StepId>,
    style: Style,
    done: u64,
}

impl Live {
    /// Draws on `target`, as a rule `ProgressDrawTarget::stderr()`.
    pub fn new(target: ProgressDrawTarget, style: Style) -> Self {
        let bars = MultiProgress::with_draw_target(target);
        Self { bars, stage: None, running: BTreeMap::new(), judged: BTreeSet::new(), style, done: 0 }
    }

    fn say(&self, event: &Event) {
        for part in line(event).iter().flat_map(|line| line.wrapped(self.style.width)) {
            let _ = self.bars.println(part.draw(self.style.colour).trim_end());
        }
    }

    fn spin(&mut self, step: &StepId, title: &str) {
        let bar = ProgressBar::new(1_000).with_style(spinner()).with_message(title.to_owned());
        let bar = match &self.stage {
            Some(stage) => self.bars.insert_before(stage, bar),
            None => self.bars.add(bar),
        };
        bar.enable_steady_tick(Duration::from_millis(120));
        self.running.insert(step.clone(), bar);
    }

    fn stop(&mut self, step: &StepId) {
        if let Some(bar) = self.running.remove(step) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }

    fn step_ended(&mut self, step: &StepId) {
        self.stop(step);
        self.done += 1;
        if let Some(stage) = &self.stage {
            stage.set_position(self.done);
        }
    }
}

impl Reporter for Live {
    fn event(&mut self, _: Timestamp, event: &Event) {
        match event {
            Event::StepStarted { step, title, .. } => return self.spin(step, title),
            Event::UndoStarted { step, title } => return self.spin(step, &format!("taking back: {title}")),
            Event::StepProgress { step, text, fraction } => {
                if let Some(bar) = self.running.get(step) {
                    if let Some(fraction) = fraction {
                        bar.set_style(waiting());
                        bar.set_position((fraction.clamp(0.0, 1.0) * 1_000.0) as u64);
                    }
                    bar.set_prefix(text.clone());
                }
                return;
            }
            Event::RunStarted { steps, .. } | Event::RunResumed { steps, .. } => {
                if let Event::RunResumed { done, how: How::Resume, .. } = event {
                    self.done = *done as u64;
                }
                let bar = ProgressBar::new(*steps as u64).with_style(overall()).with_position(self.done);
                let bar = self.bars.add(bar);
                bar.enable_steady_tick(Duration::from_millis(500));
                self.stage = Some(bar);
            }
            Event::StageStarted { title, .. } => {
                if let Some(stage) = &self.stage {
                    stage.set_message(title.clone());
                }
            }
            Event::StepDone { step, .. } => {
                self.step_ended(step);
                if self.judged.remove(step) {
                    return;
                }
            }
            Event::StepFailed { step, .. } => self.step_ended(step),
            Event::GateJudged { step, .. } => {
                self.judged.insert(step.clone());
            }
            Event::UndoDone { step, .. } | Event::UndoFailed { step, .. } => self.stop(step),
            Event::RunEnded { .. } => {
                if let Some(stage) = self.stage.take() {
                    stage.finish_and_clear();
                }
            }
            Event::StageEnded { .. }
            | Event::WritesResumed { .. }
            | Event::RedundancyRestored { .. }
            | Event::StopRequested { .. }
            | Event::Warning { .. } => {}
        }
        self.say(event);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for bar in self.running.values().chain(&self.stage) {
            bar.finish_and_clear();
        }
        let _ = self.bars.clear();
    }
}

fn spinner() -> ProgressStyle {
    template("  {spinner} {wide_msg} {prefix} {elapsed}")
}

fn waiting() -> ProgressStyle {
    template("  {spinner} {wide_msg} {prefix} {bar:16} {elapsed}").progress_chars("━╸─")
}

fn overall() -> ProgressStyle {
    template("  {bar:24} {pos} of {len} steps, {elapsed}: {wide_msg}").progress_chars("━╸─")
}

/// The templates above are constant and sound; a wrong one would only look plain.
fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A line with a mark before it; what is wrapped stands below the text.
struct Line {
    mark: Text,
    text: Text,
}

impl Line {
    /// About a step.
    fn new(symbol: &str, tone: Tone, text: Text) -> Self {
        Self { mark: Text::of(tone, format!("    {symbol} ")), text }
    }

    /// About the run or a stage.
    fn outer(indent: usize, text: Text) -> Self {
        Self { mark: " ".repeat(indent).into(), text }
    }

    fn wrapped(&self, width: usize) -> Vec<Text> {
        let mut next = self.mark.clone();
        let wrap = |part: Text| {
            let mut line = std::mem::replace(&mut next, " ".repeat(self.mark.width()).into());
            line.join(part);
            line
        };
        self.text.wrapped(width.saturating_sub(self.mark.width())).into_iter().map(wrap).collect()
    }
}

/// What an event says; nothing for those that only move what is drawn.
fn line(event: &Event) -> Option<Line> {
    let took = |took: &Duration| format!(" {}", duration(*took));
    Some(match event {
        Event::RunStarted { run, title, stages, steps, expected, .. } => {
            let (steps, stages) = (count(*steps, "step"), count(*stages, "stage"));
            let rest = format!(": run {run}, {steps} in {stages}, about {}", duration(*expected));
            Line::outer(0, Text::of(Tone::Strong, title.as_str()).and(rest))
        }
        Event::RunResumed { run, title, how, steps, done, .. } => {
            let what = match how {
                How::Resume => format!("goes on with run {run}, {done} of {} done", count(*steps, "step")),
                How::Rollback => format!("run {run} is rolled back, {} of {steps} done", count(*done, "step")),
                How::Settle => format!("run {run} has lost its process: nobody is left waiting"),
            };
            Line::outer(0, Text::of(Tone::Strong, title.as_str()).and(format!(": {what}")))
        }
        Event::StageStarted { stage, title, .. } => {
            Line::outer(2, Text::of(Tone::Strong, format!("Stage {}: {title}", stage + 1)))
        }
        Event::StageEnded { stage, took, .. } => {
            Line::outer(2, Text::of(Tone::Dim, format!("Stage {} ended after {}", stage + 1, duration(*took))))
        }
        Event::StepStarted { title, expected, .. } => {
            let about = match *expected >= Duration::from_secs(5) {
                true => format!(" (about {})", duration(*expected)),
                false => String::new(),
            };
            Line::new("·", Tone::Dim, Text::from(title.as_str()).with(Tone::Dim, about))
        }
        Event::StepProgress { .. } => return None,
        Event::StepDone { title, took: time, verified, .. } => {
            let seen = if verified.is_empty() { String::new() } else { format!(" ({verified})") };
            Line::new("✓", Tone::Good, Text::from(title.as_str()).with(Tone::Dim, took(time) + &seen))
        }
        Event::StepFailed { title, took, unknown, why, .. } => {
            let after = if *unknown { "; not known whether it acted" } else { "" };
            let rest = format!(": {why}{after} (after {})", duration(*took));
            Line::new("✗", Tone::Bad, Text::of(Tone::Bad, title.as_str()).and(rest))
        }
        Event::GateJudged { title, verdict, measured, .. } => {
            let (symbol, tone) = match verdict {
                Verdict::Go => ("✓", Tone::Good),
                Verdict::Hold => ("?", Tone::Warn),
                Verdict::Retreat => ("✗", Tone::Bad),
            };
            let text = Text::from(format!("{title}: ")).with(tone, verdict.word());
            Line::new(symbol, tone, text.with(Tone::Dim, format!(" ({measured})")))
        }
        Event::UndoStarted { title, .. } => Line::new("↺", Tone::Warn, format!("taking back: {title}").into()),
        Event::UndoDone { title, took: time, .. } => {
            let text = Text::from(format!("taken back: {title}")).with(Tone::Dim, took(time));
            Line::new("↺", Tone::Warn, text)
        }
        Event::UndoFailed { title, why, .. } => {
            let text = Text::of(Tone::Bad, format!("could not be taken back: {title}")).and(format!(": {why}"));
            Line::new("✗", Tone::Bad, text)
        }
        Event::WritesResumed { database, primary, write_stall } => {
            let text = Text::of(Tone::Strong, database.as_str())
                .and(format!(": writers go on at {}, after waiting ", primary.name()))
                .with(Tone::Strong, duration(*write_stall));
            Line::new("→", Tone::Change, text)
        }
        Event::RedundancyRestored { database, without } => {
            let text = format!(": redundant again, after {}", duration(*without));
            Line::new("→", Tone::Change, Text::of(Tone::Strong, database.as_str()).and(text))
        }
        Event::StopRequested { finishing } => {
            let text = Text::of(Tone::Warn, "stopping on request").and(format!(": {finishing}"));
            Line::new("!", Tone::Warn, text)
        }
        Event::Warning { text } => Line::new("!", Tone::Warn, Text::of(Tone::Warn, text.as_str())),
        Event::RunEnded { summary, report, .. } => {
            let text = Text::of(Tone::Strong, "Ended").and(format!(" after {}: {summary}", duration(report.total)));
            Line::outer(0, text)
        }
    })
}

#[cfg(test)]
mod tests;
