//! `handover show`: prints a saved plan again.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::args::{self, Output, PlanFormat};
use super::context::{print, stdout_style};
use super::exit::Exit;
use super::voice::Voice;
use crate::plan::{Plan, document};
use crate::report::{self, Detail, Form, PlanAnswer};

/// A plan file as it was read, with its digest.
pub struct Saved {
    /// The plan.
    pub plan: Plan,
    /// SHA-256 of the file's bytes.
    pub digest: String,
    /// The file's text.
    pub text: String,
}

/// Reads a plan file; what is wrong with it is printed.
///
/// # Errors
/// None: an exit code says what failed.
#[expect(clippy::disallowed_methods, reason = "the command line reads the files it is given")]
pub fn read(path: &Path, voice: Voice) -> Result<Saved, Exit> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the plan {}", path.display()));
    let saved = bytes.and_then(|bytes| {
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
        let plan = Plan::from_yaml(text).with_context(|| path.display().to_string())?;
        Ok(Saved { plan, digest: document::digest(&bytes), text: text.to_owned() })
    });
    saved.map_err(|error| voice.error(Exit::Invalid, &format!("{error:#}")))
}

/// The form of an answer.
pub fn form(format: PlanFormat, brief: bool, output: Output) -> Form {
    let detail = if brief { Detail::Brief } else { Detail::Full };
    match format {
        PlanFormat::Text => Form::Text(detail, stdout_style(output)),
        PlanFormat::Json => Form::Json,
        PlanFormat::Markdown => Form::Markdown(detail),
        PlanFormat::Mermaid => Form::Mermaid,
    }
}

/// Prints a saved plan.
///
/// # Errors
/// None; an unreadable plan is an exit code.
pub fn run(args: &args::Show) -> Result<Exit> {
    let voice = Voice { json: args.format == PlanFormat::Json, output: args.output };
    let saved = match read(&args.plan, voice) {
        Ok(saved) => saved,
        Err(exit) => return Ok(exit),
    };
    let file = args.plan.display().to_string();
    let answer = PlanAnswer::Plan { plan: &saved.plan, file: Some(&file), digest: &saved.digest };
    print(&report::answer(answer, form(args.format, args.brief, args.output)));
    Ok(Exit::Success)
}
