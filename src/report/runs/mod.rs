//! Runs as their journals tell them: the list, the story of one, its records as they come.

mod facts;
mod html;
mod list;
mod markdown;
mod records;
#[cfg(test)]
mod sample;
mod show;
mod story;
mod svg;
mod telling;
mod timeline;
mod window;
mod words;

pub use html::story_html;
pub use list::{RunLine, prunable, pruned_json, runs, runs_json};
pub use markdown::story_markdown;
pub use records::{RecordLine, Titles};
pub use show::{story, story_json};
pub use story::{State, Story};

#[cfg(test)]
mod tests;
