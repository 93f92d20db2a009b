//! Where everything stands in the picture of a run: pure geometry, in units of an SVG that is [`WIDTH`] wide. Drawing is `svg`'s.

use super::super::text::duration_ms;
use super::show::plus;
use super::story::{Attempt, StepStory, Story};
use super::window::Stall;
use super::words;
use crate::event::StepOutcome;

/// Width of every picture.
pub(super) const WIDTH: f64 = 1000.0;

/// Room for the names of rows.
pub(super) const LEFT: f64 = 128.0;

/// Room behind the end.
const RIGHT: f64 = 16.0;

/// Where the rows begin, below the axis.
pub(super) const TOP: f64 = 40.0;

/// Height of a bar and of the room it stands in.
const BAR: f64 = 11.0;
const LINE: f64 = 14.0;

/// Bars beside each other in one row; the rest stands in the last line, one over the other.
const LINES: usize = 10;

/// Width of a letter.
const LETTER: f64 = 5.7;

/// What is too short to be seen is drawn this wide.
const LEAST: f64 = 2.0;

/// Milliseconds to units.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    from_ms: f64,
    span_ms: f64,
    left: f64,
}

impl Scale {
    fn new(from_ms: f64, to_ms: f64, left: f64) -> Self {
        Self { from_ms, span_ms: (to_ms - from_ms).max(1.0), left }
    }

    fn x(self, at_ms: f64) -> f64 {
        let part = ((at_ms - self.from_ms) / self.span_ms).clamp(0.0, 1.0);
        self.left + part * (WIDTH - self.left - RIGHT)
    }

    /// Marks of the axis, at round numbers.
    fn ticks(self, name: impl Fn(u64) -> String) -> Vec<Tick> {
        const ROUND: [u64; 24] = [
            1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000,
            600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000,
        ];
        let step = ROUND.into_iter().find(|step| self.span_ms / *step as f64 <= 8.0).unwrap_or(86_400_000);
        let first = (self.from_ms / step as f64).ceil().max(0.0) as u64;
        let last = ((self.from_ms + self.span_ms) / step as f64).floor() as u64;
        (first..=last)
            .take(64)
            .map(|number| number * step)
            .map(|at| Tick { x: self.x(at as f64), text: name(at) })
            .collect()
    }
}

/// A mark of the axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub x: f64,
    pub text: String,
}

/// A bar.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    /// What it means, as a class of the page's style.
    pub class: &'static str,
    /// What is written in it, where there is room.
    pub text: Option<String>,
    /// What it says when pointed at.
    pub title: String,
}

/// A row with a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub name: String,
    pub y: f64,
    pub height: f64,
    pub bars: Vec<Bar>,
}

/// A line through all rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cut {
    pub x: f64,
    pub class: &'static str,
    pub title: String,
    /// What is written above it.
    pub text: Option<&'static str>,
}

/// A number over time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub name: String,
    pub y: f64,
    pub height: f64,
    /// The largest value, which is at the top.
    pub most: u64,
    pub points: Vec<(f64, f64)>,
}

/// A picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture {
    pub left: f64,
    pub height: f64,
    pub ticks: Vec<Tick>,
    pub rows: Vec<Row>,
    pub cuts: Vec<Cut>,
    pub curve: Option<Curve>,
    /// A span that is shaded through all rows, with what is written above it.
    pub band: Option<(f64, f64, String)>,
}

/// A bar before its place is known.
struct Span {
    from_ms: u64,
    to_ms: u64,
    class: &'static str,
    text: Option<String>,
    title: String,
}

/// The class of a step's bar.
fn class(outcome: StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Done => "done",
        StepOutcome::Failed | StepOutcome::UndoFailed => "failed",
        StepOutcome::Unknown => "unknown",
        StepOutcome::Undone => "undone",
        StepOutcome::NotBegun => "idle",
    }
}

/// The lanes of steps, in the order in which they are drawn: name, and the kinds of steps or targets that belong there.
const LANES: [(&str, &[&str]); 10] = [
    ("gates", &["gate"]),
    ("edge", &["proxy"]),
    ("DNS", &["dns"]),
    ("jobs", &["job"]),
    ("poolers", &["pooler"]),
    ("databases", &["member"]),
    ("hosts", &["unit", "app"]),
    ("waits", &["wait"]),
    ("checks", &["check", "release"]),
    ("steps", &["step", "change"]),
];

fn lane(step: &StepStory) -> &str {
    let kind = step.target.as_ref().and_then(|target| target.as_str().split('/').next());
    kind.unwrap_or(step.kind)
}

fn spans(story: &Story, step: &StepStory) -> Vec<Span> {
    let several = step.attempts.len() > 1;
    let mut spans: Vec<Span> = Vec::new();
    for (index, attempt) in step.attempts.iter().enumerate() {
        let to_ms = attempt.to_ms.unwrap_or(story.total_ms);
        let number = if several { format!(" (attempt {})", index + 1) } else { String::new() };
        let class = match attempt.verdict.as_deref() {
            Some("hold") => "hold",
            Some("retreat") => "failed",
            // What was done and taken back later was done here.
            _ if attempt.outcome == StepOutcome::Undone && step.undo.is_some() => "done",
            _ => class(attempt.outcome),
        };
        let title = format!("{}{number}: {}", step.title, told(attempt));
        let text = attempt.verdict.as_ref().zip(attempt.measured.as_ref());
        let text = text.map(|(verdict, measured)| format!("{verdict}: {measured}"));
        spans.push(Span { from_ms: attempt.from_ms, to_ms, class, text, title });
    }
    if let Some(undo) = &step.undo {
        let to_ms = undo.to_ms.unwrap_or(story.total_ms);
        let class = if undo.why.is_some() { "failed" } else { "undone" };
        let title = format!("taking back: {}, from {}", step.title, plus(undo.from_ms));
        spans.push(Span { from_ms: undo.from_ms, to_ms, class, text: None, title });
    }
    spans
}

/// What became of an attempt, in one line.
fn told(attempt: &Attempt) -> String {
    let took = attempt.took_ms().map_or_else(|| "no end was recorded".to_owned(), duration_ms);
    let verdict = match (&attempt.verdict, &attempt.measured) {
        (Some(verdict), Some(measured)) => format!("{verdict}: {measured}"),
        _ => words::outcome(attempt.outcome).to_owned(),
    };
    format!("{verdict}; {took} from {}", plus(attempt.from_ms))
}

/// Puts bars that overlap into lines of their own; returns the row's height.
fn stack(scale: Scale, y: f64, mut spans: Vec<Span>) -> (Vec<Bar>, f64) {
    spans.sort_by_key(|span| (span.from_ms, span.to_ms));
    let mut ends: Vec<f64> = Vec::new();
    let mut bars = Vec::new();
    for span in spans {
        let x = scale.x(span.from_ms as f64);
        let width = (scale.x(span.to_ms as f64) - x).max(LEAST);
        let free = ends.iter().position(|end| *end <= x + 0.01);
        let line = match free {
            Some(line) => line,
            None if ends.len() < LINES => {
                ends.push(0.0);
                ends.len() - 1
            }
            None => LINES - 1,
        };
        ends[line] = ends[line].max(x + width + 0.5);
        let text = span.text.and_then(|text| fitting(&text, width));
        let y = y + line as f64 * LINE + (LINE - BAR) / 2.0;
        bars.push(Bar { x, y, width, height: BAR, class: span.class, text, title: span.title });
    }
    (bars, ends.len().max(1) as f64 * LINE + 4.0)
}

/// As much of a text as a bar can hold; nothing where that would be a few letters of it.
fn fitting(text: &str, width: f64) -> Option<String> {
    let shown = cut_to(text, width - 6.0);
    (shown == *text || shown.chars().count() >= 8).then_some(shown)
}

/// The beginning of a text that has this much room.
pub(super) fn cut_to(text: &str, room: f64) -> String {
    let letters = (room / LETTER) as usize;
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    text.chars().take(letters.saturating_sub(1)).collect::<String>() + "…"
}

/// The whole run.
pub(super) fn whole(story: &Story) -> Picture {
    let scale = Scale::new(0.0, story.total_ms as f64, LEFT);
    let mut rows = Vec::new();
    let mut y = TOP;
    let mut row = |name: String, spans: Vec<Span>| {
        if !spans.is_empty() {
            let (bars, height) = stack(scale, y, spans);
            rows.push(Row { name, y, height, bars });
            y += height;
        }
    };
    let stages = story.stages.iter().enumerate().filter_map(|(index, stage)| {
        let (from_ms, to_ms) = (stage.from_ms?, stage.to_ms.unwrap_or(story.total_ms));
        let text = format!("{} {}", index + 1, stage.title);
        let wide = scale.x(to_ms as f64) - scale.x(from_ms as f64);
        let shown = fitting(&text, wide).unwrap_or_else(|| (index + 1).to_string());
        let took = duration_ms(to_ms.saturating_sub(from_ms));
        let title = format!("stage {text}: {took} from {}", plus(from_ms));
        Some(Span { from_ms, to_ms, class: "stage", text: Some(shown), title })
    });
    row("stages".to_owned(), stages.collect());
    for (name, kinds) in LANES {
        let steps = story.steps.iter().filter(|step| kinds.contains(&lane(step)));
        row(name.to_owned(), steps.flat_map(|step| spans(story, step)).collect());
    }
    let databases: std::collections::BTreeSet<_> = (story.stalls.iter().map(|stall| &stall.database))
        .chain(story.without_redundancy.iter().map(|window| &window.database))
        .collect();
    for database in databases {
        let windows = story.without_redundancy.iter().filter(|window| window.database == *database).map(|window| {
            let to_ms = window.to_ms.unwrap_or(story.total_ms);
            let open = if window.to_ms.is_none() { ", and still at the last record" } else { "" };
            let took = duration_ms(to_ms.saturating_sub(window.from_ms));
            let title = format!("{database} without redundancy for {took} from {}{open}", plus(window.from_ms));
            Span { from_ms: window.from_ms, to_ms, class: "exposed", text: None, title }
        });
        let stalls = story.stalls.iter().filter(|stall| stall.database == *database).map(|stall| {
            let title =
                format!("writers of {database} wait {} from {}", duration_ms(stall.took_ms()), plus(stall.from_ms));
            Span { from_ms: stall.from_ms, to_ms: stall.to_ms, class: "stall", text: None, title }
        });
        row(cut_to(&format!("{database}"), LEFT - 20.0), stalls.chain(windows).collect());
    }
    let curve = curve(story, scale, y);
    if let Some(curve) = &curve {
        y += curve.height + 8.0;
    }
    let no_return = story.steps.iter().filter(|step| step.point_of_no_return).filter_map(|step| {
        let attempt = step.attempts.last()?;
        let title = format!("point of no return: {}, {}", step.title, plus(attempt.from_ms));
        Some(Cut { x: scale.x(attempt.from_ms as f64), class: "noreturn", title, text: None })
    });
    let mut cuts: Vec<Cut> = no_return.collect();
    let end = format!("{} at {}", story.state.word(), plus(story.total_ms));
    let text = Some(story.state.word());
    cuts.push(Cut { x: scale.x(story.total_ms as f64), class: "end", title: end, text });
    let ticks = scale.ticks(|at| if at == 0 { "0s".to_owned() } else { plus(at) });
    Picture { left: LEFT, height: y + 6.0, ticks, rows, cuts, curve, band: None }
}

fn curve(story: &Story, scale: Scale, y: f64) -> Option<Curve> {
    const HEIGHT: f64 = 48.0;
    let most = story.sessions.iter().map(|sample| sample.remaining).max().filter(|most| *most > 0)?;
    let level = |remaining: u64| y + 6.0 + HEIGHT * (1.0 - remaining as f64 / most.max(1) as f64);
    let mut points: Vec<(f64, f64)> = Vec::new();
    for sample in &story.sessions {
        let x = scale.x(sample.at_ms as f64);
        // It stays as it was until it is counted again.
        if let Some((_, before)) = points.last().copied() {
            points.push((x, before));
        }
        points.push((x, level(sample.remaining)));
    }
    Some(Curve { name: "sessions".to_owned(), y, height: HEIGHT + 8.0, most, points })
}

/// One stall, enlarged: every step of its section on a line of its own.
pub(super) fn enlarged(story: &Story, stall: &Stall) -> Picture {
    const NAMES: f64 = 330.0;
    let pad = (stall.took_ms() as f64 * 0.12).max(4.0);
    let (from, to) = (stall.from_ms as f64 - pad, stall.to_ms as f64 + pad);
    let scale = Scale::new(from.max(0.0), to, NAMES);
    let overlaps = |from_ms: u64, to_ms: u64| to_ms as f64 >= from && from_ms as f64 <= to;
    let of_database = |step: &&StepStory| {
        let scope = step.target.as_ref().and_then(|target| target.scope());
        scope == Some(stall.database.as_str())
    };
    let section = story.steps.iter().filter(of_database).find_map(|step| step.section.as_ref());
    let mut rows = Vec::new();
    let mut y = TOP + 8.0;
    let mut steps: Vec<&StepStory> =
        story.steps.iter().filter(|step| section.is_some() && step.section.as_ref() == section).collect();
    let begin = |step: &&StepStory| {
        let inside = |attempt: &&Attempt| overlaps(attempt.from_ms, attempt.to_ms.unwrap_or(story.total_ms));
        step.attempts.iter().find(inside).map_or(u64::MAX, |attempt| attempt.from_ms)
    };
    steps.sort_by_key(begin);
    for step in steps {
        let spans: Vec<Span> =
            spans(story, step).into_iter().filter(|span| overlaps(span.from_ms, span.to_ms)).collect();
        if spans.is_empty() {
            continue;
        }
        let spans = spans.into_iter().map(|span| {
            let took = duration_ms(span.to_ms.saturating_sub(span.from_ms));
            Span { text: Some(took), ..span }
        });
        let (bars, height) = stack(scale, y, spans.collect());
        rows.push(Row { name: cut_to(&step.title, NAMES - 20.0), y, height, bars });
        y += height;
    }
    if rows.is_empty() {
        let (from_ms, to_ms) = (stall.from_ms, stall.to_ms);
        let span = Span { from_ms, to_ms, class: "stall", text: None, title: "writers wait".to_owned() };
        let (bars, height) = stack(scale, y, vec![span]);
        rows.push(Row { name: "writers wait".to_owned(), y, height, bars });
        y += height;
    }
    let limit = stall.max_ms.map(|max| format!(", at most {} may be", duration_ms(max))).unwrap_or_default();
    let text = format!("writers of {} wait {}{limit}", stall.database, duration_ms(stall.took_ms()));
    let band = Some((scale.x(stall.from_ms as f64), scale.x(stall.to_ms as f64), text));
    let fenced = story.without_redundancy.iter().filter(|window| window.database == stall.database);
    let fenced = fenced.filter(|window| overlaps(window.from_ms, window.from_ms)).map(|window| Cut {
        x: scale.x(window.from_ms as f64),
        class: "exposes",
        title: format!("one copy less from here, {}", plus(window.from_ms)),
        text: None,
    });
    let no_return = story.steps.iter().filter(|step| step.point_of_no_return && step.section.as_ref() == section);
    let no_return =
        no_return.flat_map(|step| &step.attempts).filter(|attempt| overlaps(attempt.from_ms, attempt.from_ms));
    let no_return = no_return.map(|attempt| Cut {
        x: scale.x(attempt.from_ms as f64),
        class: "noreturn",
        title: format!("point of no return, {}", plus(attempt.from_ms)),
        text: None,
    });
    let cuts = fenced.chain(no_return).collect();
    let base = stall.from_ms;
    let ticks = scale.ticks(|at| match at.checked_sub(base) {
        _ if to - from > 20_000.0 => plus(at),
        _ => format!("+{:.3}s", at as f64 / 1_000.0),
    });
    Picture { left: NAMES, height: y + 6.0, ticks, rows, cuts, curve: None, band }
}
