//! One line for each record, as an operator reads it.

use serde_json::Value;

use super::super::text::duration_ms;
use super::story::State;
use crate::event::StepOutcome;
use crate::journal::{Hold, How, Record};
use crate::plan::StepId;

/// What became of a step, as a fragment after its title.
pub(super) fn outcome(outcome: StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Done => "done",
        StepOutcome::Failed => "failed",
        StepOutcome::Unknown => "not known whether it acted",
        StepOutcome::Undone => "taken back",
        StepOutcome::UndoFailed => "could not be taken back",
        StepOutcome::NotBegun => "not begun",
    }
}

/// What a record says; `title` gives the title of a step.
pub(super) fn record(record: &Record, title: &dyn Fn(&StepId) -> String) -> String {
    match record {
        Record::RunStarted { plan, operator, title, holds, overrides, .. } => {
            let what = if title.is_empty() { String::new() } else { format!(" ({title})") };
            let holds = if holds.is_empty() { String::new() } else { format!("; holds: {}", kinds(holds)) };
            let passed: String = overrides.iter().map(|(gate, passed)| format!("; gate {gate} is {passed}")).collect();
            format!("run of plan {plan}{what} begun by {operator}{holds}{passed}")
        }
        Record::StepStarted { step, assumed, intended } => {
            let checked = match assumed.len() {
                0 => String::new(),
                1 => ", 1 assumption holds".to_owned(),
                several => format!(", {several} assumptions hold"),
            };
            let verb = intended.as_ref().map_or_else(String::new, |action| format!(": {}", action.verb()));
            format!("begins: {}{verb}{checked}", title(step))
        }
        Record::SectionStarted { section, steps, .. } => {
            format!("section {section} begins: {} steps that stand or fall together", steps.len())
        }
        Record::SectionEnded { section, done: true } => format!("section {section} is done"),
        Record::SectionEnded { section, done: false } => format!("section {section} was taken back"),
        Record::Phase { step, from_ms, to_ms, outcome } => {
            let took = duration_ms(to_ms.saturating_sub(*from_ms));
            format!("{outcome}: {}, {took} from +{from_ms}ms", title(step))
        }
        Record::StepDone { step, verified } => format!("done: {}: {verified}", title(step)),
        Record::GateJudged { step, verdict, measured } => format!("gate says {verdict}: {}: {measured}", title(step)),
        Record::StepFailed { step, unknown, why } => {
            let word = if *unknown { "unknown" } else { "failed" };
            format!("{word}: {}: {why}", title(step))
        }
        Record::UndoStarted { step, .. } => format!("taking back: {}", title(step)),
        Record::UndoDone { step } => format!("taken back: {}", title(step)),
        Record::UndoFailed { step, why } => format!("could not be taken back: {}: {why}", title(step)),
        Record::WritesResumed { database, primary, from_ms, to_ms } => {
            let stall = duration_ms(to_ms.saturating_sub(*from_ms));
            format!("writers of {database} go on at {} after {stall}", primary.name())
        }
        Record::Sessions { remaining: 1, .. } => "1 session remains".to_owned(),
        Record::Sessions { remaining, .. } => format!("{remaining} sessions remain"),
        Record::Told { text } => text.clone(),
        Record::RunResumed { operator, how, holds, overrides } => {
            let what = match how {
                How::Resume => "goes on",
                How::Rollback => "is rolled back",
                How::Settle => "has lost its process; its open sections are ended",
            };
            let holds = if holds.is_empty() { String::new() } else { format!("; holds: {}", kinds(holds)) };
            let passed: String = overrides.iter().map(|(gate, passed)| format!("; gate {gate} is {passed}")).collect();
            format!("run {what}, by {operator}{holds}{passed}")
        }
        other => ended(other).unwrap_or_else(|| plain(other)),
    }
}

fn ended(record: &Record) -> Option<String> {
    let Record::RunEnded { end, summary, released } = record else { return None };
    let released: Vec<String> = released.iter().map(|kind| kind.what()).collect();
    let released = if released.is_empty() { String::new() } else { format!("; released: {}", released.join(", ")) };
    Some(format!("run ended, {}: {summary}{released}", State::of(Some(*end), false).word()))
}

fn kinds(holds: &[Hold]) -> String {
    holds.iter().map(|hold| hold.kind.what()).collect::<Vec<_>>().join(", ")
}

/// A record that has no words of its own: its name and what it holds.
fn plain(record: &Record) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(record) else {
        return "a record without a JSON form".to_owned();
    };
    let name =
        fields.remove("record").and_then(|name| name.as_str().map(|name| name.replace('_', " "))).unwrap_or_default();
    let texts: Vec<String> = fields
        .iter()
        .map(|(key, value)| match value {
            Value::String(text) => format!("{} {text}", key.replace('_', " ")),
            other => format!("{} {other}", key.replace('_', " ")),
        })
        .collect();
    if texts.is_empty() { name } else { format!("{name}: {}", texts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DatabaseName, TargetId};

    #[test]
    fn a_record_without_words_of_its_own_is_told_all_the_same() {
        let database = DatabaseName::from("accounts");
        let primary = TargetId::member(&database, "east-pg1");
        let record = Record::WritesResumed { database, primary, from_ms: 10, to_ms: 122 };
        assert_eq!(
            plain(&record),
            "writes resumed: database accounts, from ms 10, primary member/accounts/east-pg1, to ms 122"
        );
        assert_eq!(super::record(&record, &|id| id.to_string()), "writers of accounts go on at east-pg1 after 112ms");
    }
}
