//! `handover runs`: a line for each run.

use jiff::Timestamp;
use serde::Serialize;

use super::super::json;
use super::super::text::{Page, Style, Text, Tone, command, count, duration_ms, moment};
use super::story::State;
use crate::journal::{RunEnd, RunId, RunSummary};

/// A run in the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunLine {
    /// Its identity.
    pub run: RunId,
    /// When it began.
    pub started: Timestamp,
    /// Who ran it.
    pub operator: String,
    /// What it is for.
    pub title: String,
    /// The plan's identity.
    pub plan: String,
    /// How far it is.
    pub state: State,
    /// The time of its last record.
    pub last: Timestamp,
    /// From its first record to its last.
    pub took_ms: u64,
    /// What `apply` exited with; none while it runs or if it died.
    pub exit_code: Option<u8>,
}

impl RunLine {
    /// The line of a run; `exit_code` says what `apply` exits with at an end.
    pub fn new(summary: &RunSummary, now: Timestamp, exit_code: impl Fn(RunEnd) -> u8) -> Self {
        let state = State::of(summary.end, summary.is_running(now));
        let took = summary.last.as_millisecond().saturating_sub(summary.started.as_millisecond());
        Self {
            run: summary.run.clone(),
            started: summary.started,
            operator: summary.operator.clone(),
            title: if summary.title.is_empty() { summary.plan.clone() } else { summary.title.clone() },
            plan: summary.plan.clone(),
            state,
            last: summary.last,
            took_ms: u64::try_from(took).unwrap_or(0),
            exit_code: summary.end.filter(|_| state != State::Running).map(exit_code),
        }
    }
}

/// The list for programs.
pub fn runs_json(lines: &[RunLine]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        runs: &'a [RunLine],
    }
    json::answer("runs", Body { runs: lines })
}

/// The tone of a state.
pub(super) fn tone(state: State) -> Tone {
    match state {
        State::Running => Tone::Change,
        State::Done => Tone::Good,
        State::Refused | State::Undone => Tone::Warn,
        State::Stopped | State::Stuck | State::Died => Tone::Bad,
    }
}

/// The list for people, in the order that is given.
pub fn runs(lines: &[RunLine], style: Style) -> String {
    let mut page = Page::new(style);
    if lines.is_empty() {
        page.item("", Text::from("No run yet. ").and(command("handover apply PLAN")).and(" makes one."));
        return page.finish();
    }
    for line in lines.iter().filter(|line| line.state == State::Running) {
        let what = Text::of(Tone::Change, "In progress: ")
            .with(Tone::Strong, line.title.as_str())
            .and(format!(", by {} since {}; ", line.operator, moment(line.started)))
            .with(Tone::Strong, command(&format!("handover runs follow {}", line.run)));
        page.item("", what);
        page.blank();
    }
    let operators: Vec<&str> = lines.iter().map(|line| who(&line.operator)).collect();
    let widest = |least: usize, texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0).max(least);
    let run = widest(3, &mut lines.iter().map(|line| line.run.0.chars().count()));
    let operator = widest(2, &mut operators.iter().map(|name| name.chars().count()));
    let head =
        format!("{:run$}  {:20}  {:8}  {:>4}  {:>7}  {:operator$}  ", "RUN", "BEGAN", "STATE", "EXIT", "TOOK", "BY");
    page.line(Text::of(Tone::Dim, format!("{head}FOR")));
    for (line, name) in lines.iter().zip(operators) {
        let exit = line.exit_code.map_or_else(|| "–".to_owned(), |code| code.to_string());
        let mark = Text::of(Tone::Strong, format!("{:run$}  ", line.run))
            .and(format!("{:20}  ", moment(line.started)))
            .with(tone(line.state), format!("{:8}  ", line.state.word()))
            .and(format!("{exit:>4}  {:>7}  {name:operator$}  ", duration_ms(line.took_ms)));
        page.item(mark, line.title.as_str());
    }
    let troubled = lines.iter().find(|line| matches!(line.state, State::Stopped | State::Stuck | State::Died));
    if let Some(line) = troubled {
        page.blank();
        let how = command(&format!("handover runs show {}", line.run));
        page.item("", Text::of(Tone::Dim, "What happened, and how to go on: ").with(Tone::Strong, how));
    }
    page.finish()
}

/// `user@host` without the process.
pub(super) fn who(operator: &str) -> &str {
    operator.split(' ').next().unwrap_or(operator)
}

/// What pruning removes, and what stays although it was asked for.
pub fn prunable(go: &[RunLine], stay: &[(&RunId, &str)], style: Style) -> String {
    let mut page = Page::new(style);
    match go {
        [] => page.item("", "No run is to be removed."),
        lines => page.item("", format!("To be removed: {}.", count(lines.len(), "run"))),
    }
    for line in go {
        let text = format!("{}, {}, {}: {}", line.run, moment(line.started), line.state.word(), line.title);
        page.item(Text::of(Tone::Bad, "  - "), text);
    }
    if !stay.is_empty() {
        page.item("", "These stay, whatever is asked:");
        stay.iter().for_each(|(run, why)| page.item("    ", format!("{run}: {why}")));
    }
    page.finish()
}

/// The same for programs, with those that are gone.
pub fn pruned_json(wanted: &[RunId], removed: &[RunId], stay: &[(&RunId, &str)]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        prunable: &'a [RunId],
        removed: &'a [RunId],
        kept: Vec<Kept<'a>>,
    }
    #[derive(Serialize)]
    struct Kept<'a> {
        run: &'a RunId,
        why: &'a str,
    }
    let kept = stay.iter().map(|(run, why)| Kept { run, why }).collect();
    json::answer("pruned", Body { prunable: wanted, removed, kept })
}
