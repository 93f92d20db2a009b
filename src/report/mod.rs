//! What operators read: plans, status, runs. Pure rendering into strings; only `progress` draws on a terminal.
//!
//! May use layers 0 and 1. Must not ask a clock or a target: time comes in, style comes in.

mod describe;
pub mod diagnostic;
mod going_on;
pub mod json;
mod layout;
mod plan;
mod progress;
mod run;
mod runs;
#[cfg(test)]
mod sample;
mod status;
mod text;

pub use going_on::going_on;
pub use plan::{Detail, Form, PlanAnswer, answer, stale};
pub use progress::{Json, Live, Plain, Reporter};
pub use run::run;
pub use runs::{
    RecordLine, RunLine, State, Story, Titles, prunable, pruned_json, runs, runs_json, story, story_html, story_json,
    story_markdown,
};
pub use status::{Cell, Column, ExitLevel, HeldView, Mark, Problem, Row, StatusView, seen_from_elsewhere, status};
pub use status::{DesiredShares, StatusData, prometheus};
pub use text::{Style, failed};
