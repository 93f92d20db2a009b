//! `handover report`: a run for a review after the fact.

use anyhow::Result;

use super::args::{self, ReportFormat};
use super::context::{self, print};
use super::exit::Exit;
use super::status::not_written;
use super::voice::Voice;
use super::{files, runs};
use crate::report;

/// Writes the report of a run.
///
/// # Errors
/// If the store fails.
pub async fn run(args: args::Report) -> Result<Exit> {
    let voice = Voice { json: false, output: args.store.output };
    let store = match context::store(&args.store, voice)? {
        Ok(records) => records.store,
        Err(exit) => return Ok(exit),
    };
    let summary = match runs::find(&*store, &args.named, voice).await? {
        Ok(summary) => summary,
        Err(exit) => return Ok(exit),
    };
    let story = runs::read(&*store, &summary).await?;
    let named_html =
        args.out.as_ref().and_then(|file| file.extension()).is_some_and(|end| end == "html" || end == "htm");
    let implied = if named_html { ReportFormat::Html } else { ReportFormat::Markdown };
    let text = match args.format.unwrap_or(implied) {
        ReportFormat::Markdown => report::story_markdown(&story),
        ReportFormat::Html => report::story_html(&story),
    };
    match &args.out {
        None => print(&text),
        Some(file) => {
            if let Err(error) = files::replace(file, &text) {
                return Ok(voice.error(Exit::Error, &not_written(file, &error)));
            }
        }
    }
    Ok(Exit::Success)
}
