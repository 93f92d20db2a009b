//! The `handover` program: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    handover::cli::main(std::env::args_os())
}
