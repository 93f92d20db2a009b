//! Runs as their journals tell them: the list, the story of one, its records as they come.

mod list;
mod records;
#[cfg(test)]
mod sample;
mod show;
mod story;
mod telling;
mod window;
mod words;

pub use list::{RunLine, prunable, pruned_json, runs, runs_json};
pub use records::{RecordLine, Titles};
pub use show::{story, story_json};
pub use story::{State, Story};

#[cfg(test)]
mod tests;
