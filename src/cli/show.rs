//! `handover show`: prints a saved plan again.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::args;
use super::context::{print, stdout_style};
use super::exit::Exit;
use crate::plan::{Plan, document};
use crate::report::{self, Detail};

/// A plan file as it was read, with its digest.
pub struct Saved {
    /// The plan.
    pub plan: Plan,
    /// SHA-256 of the file's bytes.
    pub digest: String,
}

/// Reads a plan file; what is wrong with it is printed.
///
/// # Errors
/// None: an exit code says what failed.
#[expect(clippy::disallowed_methods, reason = "the command line reads the files it is given")]
pub fn read(path: &Path) -> Result<Saved, Exit> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the plan {}", path.display()));
    let saved = bytes.and_then(|bytes| {
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
        let plan = Plan::from_yaml(text).with_context(|| path.display().to_string())?;
        Ok(Saved { plan, digest: document::digest(&bytes) })
    });
    saved.map_err(|error| {
        anstream::eprintln!("error: {error:#}");
        Exit::Invalid
    })
}

/// How much of a plan is shown.
pub fn detail(brief: bool) -> Detail {
    if brief { Detail::Brief } else { Detail::Full }
}

/// Prints a saved plan.
///
/// # Errors
/// None; an unreadable plan is an exit code.
pub fn run(args: &args::Show) -> Result<Exit> {
    let saved = match read(&args.plan) {
        Ok(saved) => saved,
        Err(exit) => return Ok(exit),
    };
    let file = args.plan.display().to_string();
    print(&report::plan(&saved.plan, Some(&file), detail(args.brief), stdout_style(args.output)));
    Ok(Exit::Success)
}
