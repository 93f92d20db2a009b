//! The records of a run as they come, a line each.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::json;
use super::words;
use crate::journal::{Entry, Record, RunId};
use crate::plan::{Plan, StepId};

/// The titles of a run's steps, from the plan in its first record.
#[derive(Debug, Default)]
pub struct Titles(BTreeMap<StepId, String>);

impl Titles {
    /// Learns the titles, if this is the record that holds the plan.
    pub fn learn(&mut self, record: &Record) {
        if let Record::RunStarted { document: Some(text), .. } = record
            && let Ok(plan) = Plan::from_yaml(text)
        {
            self.0.extend(plan.steps.into_iter().map(|step| (step.id, step.title)));
        }
    }

    fn of(&self, id: &StepId) -> String {
        self.0.get(id).cloned().unwrap_or_else(|| id.to_string())
    }
}

/// A record on a line of its own.
pub struct RecordLine<'a> {
    /// The run.
    pub run: &'a RunId,
    /// The record.
    pub entry: &'a Entry,
}

impl RecordLine<'_> {
    /// For people: time, seconds since the run began, what happened.
    pub fn text(&self, titles: &Titles) -> String {
        let at = self.entry.at.strftime("%H:%M:%S%.3f");
        let since = std::time::Duration::from_millis(self.entry.elapsed_ms).as_secs_f64();
        let words = words::record(&self.entry.record, &|id| titles.of(id));
        format!("{at}  +{since:.3}s  {}\n", words.replace(char::is_control, " "))
    }

    /// For programs: the record as it was written, but for the plan file's text.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            run: &'a RunId,
            #[serde(flatten)]
            entry: Entry,
        }
        let mut entry = self.entry.clone();
        if let Record::RunStarted { document, .. } = &mut entry.record {
            *document = None;
        }
        json::answer("record", Body { run: self.run, entry })
    }
}
