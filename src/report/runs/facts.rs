//! What a report of a run says first, the same as HTML and as Markdown.

use super::super::text::{count, duration_ms};
use super::show::{plus, second};
use super::story::{State, StepStory, Story};
use crate::event::StepOutcome;

/// A number that matters, with what it means.
pub(super) struct Figure {
    pub value: String,
    pub meaning: String,
    pub bad: bool,
}

/// The summary in sentences.
pub(super) fn sentences(story: &Story) -> Vec<String> {
    let who = super::list::who(&story.operator);
    let mut said = vec![format!("{who} began this run at {}: {}.", second(story.started), story.title)];
    let end = match story.state {
        State::Running => format!("It is still being carried out; its last record was made at {}.", second(story.last)),
        State::Died => format!("Its last record was made at {}: {}.", second(story.last), story.state.meaning()),
        state => {
            let summary = story.summary.as_deref().unwrap_or(state.word()).trim_end_matches('.');
            format!("It ended {} later, at {}: {summary}.", duration_ms(story.total_ms), second(story.last))
        }
    };
    said.push(end);
    if matches!(story.state, State::Stopped | State::Undone | State::Stuck | State::Refused) {
        said.push(capital(story.state.meaning()) + ".");
    }
    said
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The numbers that matter.
pub(super) fn figures(story: &Story) -> Vec<Figure> {
    let figure = |value: String, meaning: &str, bad| Figure { value, meaning: meaning.to_owned(), bad };
    let mut figures = vec![figure(duration_ms(story.total_ms), "from the first record to the last", false)];
    let longest = story.stalls.iter().max_by_key(|stall| stall.took_ms());
    figures.push(match longest {
        Some(stall) => {
            let limit = stall.max_ms.map(|max| format!(", at most {} allowed", duration_ms(max))).unwrap_or_default();
            let meaning = format!("longest write stall: {}{limit}", stall.database);
            figure(duration_ms(stall.took_ms()), &meaning, stall.is_too_long())
        }
        None => figure("none".to_owned(), "write stalls: no writer was held back", false),
    });
    let windows = &story.without_redundancy;
    let open = windows.iter().find(|window| window.to_ms.is_none());
    let longest = windows.iter().filter_map(|window| Some(window.to_ms?.saturating_sub(window.from_ms))).max();
    figures.push(match (open, longest) {
        (Some(window), _) => {
            let meaning = format!("{} without redundancy from then on, with no end recorded", window.database);
            figure(plus(window.from_ms), &meaning, true)
        }
        (None, Some(longest)) => figure(duration_ms(longest), "longest time with one copy less", false),
        (None, None) => figure("none".to_owned(), "windows without redundancy", false),
    });
    let of = |outcome: StepOutcome| story.steps.iter().filter(|step| step.outcome == outcome).count();
    let (done, all) = (of(StepOutcome::Done), story.steps.len());
    let others = [
        (StepOutcome::Failed, "failed"),
        (StepOutcome::Unknown, "unknown"),
        (StepOutcome::Undone, "taken back"),
        (StepOutcome::UndoFailed, "could not be taken back"),
        (StepOutcome::NotBegun, "not begun"),
    ];
    let others: Vec<String> = others
        .iter()
        .filter(|(outcome, _)| of(*outcome) > 0)
        .map(|(outcome, words)| format!("{} {words}", of(*outcome)))
        .collect();
    let meaning = if others.is_empty() {
        "steps done and verified".to_owned()
    } else {
        format!("steps done; {}", others.join(", "))
    };
    let bad = of(StepOutcome::Failed) + of(StepOutcome::Unknown) + of(StepOutcome::UndoFailed) > 0;
    figures.push(Figure { value: format!("{done} of {all}"), meaning, bad });
    figures
}

/// A row of the table of impact: what, how long, from when, and what is said of it.
pub(super) struct Impact {
    pub what: String,
    pub took: String,
    pub from: String,
    pub note: String,
    pub bad: bool,
}

/// What clients and data felt.
pub(super) fn impacts(story: &Story) -> Vec<Impact> {
    let mut impacts = Vec::new();
    for stall in &story.stalls {
        let limit = stall.max_ms.map(|max| format!("at most {} allowed; ", duration_ms(max))).unwrap_or_default();
        impacts.push(Impact {
            what: format!("writers of {} waited", stall.database),
            took: duration_ms(stall.took_ms()),
            from: plus(stall.from_ms),
            note: format!("{limit}they went on at {}", stall.primary.name()),
            bad: stall.is_too_long(),
        });
    }
    for window in &story.without_redundancy {
        let took = window.to_ms.map(|to| duration_ms(to.saturating_sub(window.from_ms)));
        let note = match window.to_ms {
            Some(_) => "from the fence of the old primary until the copies were complete again",
            None => "no end was recorded: look with handover status",
        };
        impacts.push(Impact {
            what: format!("{} had one copy less", window.database),
            took: took.unwrap_or_else(|| "open".to_owned()),
            from: plus(window.from_ms),
            note: note.to_owned(),
            bad: window.to_ms.is_none(),
        });
    }
    for (step, attempt) in story.steps.iter().flat_map(|step| step.attempts.iter().map(move |attempt| (step, attempt)))
    {
        let first = story.sessions.iter().find(|sample| sample.step == step.step && sample.remaining > 0);
        if let Some(first) = first {
            impacts.push(Impact {
                what: count(usize::try_from(first.remaining).unwrap_or(usize::MAX), "session") + " had to end",
                took: attempt.took_ms().map_or_else(|| "no end".to_owned(), duration_ms),
                from: plus(attempt.from_ms),
                note: attempt.verified.clone().or_else(|| attempt.why.clone()).unwrap_or_default(),
                bad: false,
            });
        }
    }
    impacts
}

/// What became of a step, in one line: what its last attempt says.
pub(super) fn last_word(step: &StepStory) -> &str {
    let last = step.attempts.last();
    let said = last.and_then(|last| last.why.as_deref().or(last.measured.as_deref()).or(last.verified.as_deref()));
    step.undo.as_ref().and_then(|undo| undo.why.as_deref()).or(said).unwrap_or_default()
}
