//! The command line: the only place that names adapters and stores.

mod admit;
mod apply;
pub mod args;
mod back;
mod conduct;
mod context;
mod detach;
mod emergency;
mod exit;
mod files;
mod go_on;
mod guard;
mod intent;
mod lint;
mod manual;
mod plan;
mod process;
mod report;
mod runs;
mod show;
mod status;
mod unlock;
mod voice;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

pub use context::{checks, registry};
pub use exit::Exit;

/// Parses the arguments and does what they say.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let matches = match args::Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are answers, everything else is a wrong command line.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() };
        }
    };
    let cli = match args::Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return Exit::Usage.into();
        }
    };
    let voice = cli.command.voice();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => voice.error(Exit::Error, &format!("{error:#}")).into(),
    }
}

fn run(cli: args::Cli) -> anyhow::Result<Exit> {
    match cli.command {
        args::Command::Lint(args) => lint::run(&args),
        args::Command::Show(args) => show::run(&args),
        args::Command::Status(args) => context::block_on(status::run(args)),
        args::Command::Plan(args) => context::block_on(plan::run(args)),
        args::Command::Apply(args) => context::block_on(apply::run(args)),
        args::Command::Rollback(args) => context::block_on(go_on::rollback(args)),
        args::Command::Guard(args) => guard::run(args),
        args::Command::Runs(args) => context::block_on(runs::run(args)),
        args::Command::Report(args) => context::block_on(report::run(args)),
        args::Command::Admit(args) => context::block_on(admit::run(args)),
        args::Command::Unlock(args) => context::block_on(unlock::run(args)),
        args::Command::Schema => manual::schema(),
        args::Command::Completions(args) => manual::completions(args),
        args::Command::Man(args) => manual::pages(&args),
    }
}
