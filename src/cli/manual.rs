//! `handover schema`, `completions` and `man`: what editors, shells and `man` want to know of this program.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::CommandFactory;

use super::args;
use super::context::{print, schemas};
use super::exit::Exit;
use crate::topology;

/// Prints the JSON Schema of topology files.
///
/// # Errors
/// None that can happen: every schema has a text.
pub fn schema() -> Result<Exit> {
    let schema = serde_json::to_string_pretty(&topology::schema(&schemas()))?;
    print(&format!("{schema}\n"));
    Ok(Exit::Success)
}

/// Prints a completion script.
///
/// # Errors
/// None.
pub fn completions(args: args::Completions) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::Cli::command(), "handover", &mut script);
    print(&String::from_utf8_lossy(&script));
    Ok(Exit::Success)
}

/// Prints the manual page, or writes those of all subcommands into a folder.
///
/// # Errors
/// If they cannot be written.
pub fn pages(args: &args::Man) -> Result<Exit> {
    // The names of shells, the defaults and the like are filled in when the command is built.
    let mut command = args::Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.dir else {
        print(&String::from_utf8_lossy(&page(command)?));
        return Ok(Exit::Success);
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    write_all(folder, "handover", command)?;
    Ok(Exit::Success)
}

/// The pages of a command's subcommands, then its own.
fn write_all(folder: &Path, name: &str, command: clap::Command) -> Result<()> {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help").cloned() {
        write_all(folder, &format!("{name}-{}", sub.get_name()), sub)?;
    }
    write(folder, name, &page(command)?)
}

fn page(command: clap::Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}

#[expect(clippy::disallowed_methods, reason = "the command line writes the files it is asked for")]
fn write(folder: &Path, name: &str, page: &[u8]) -> Result<()> {
    let file = folder.join(format!("{name}.1"));
    std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    print(&format!("{}\n", file.display()));
    Ok(())
}
