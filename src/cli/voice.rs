//! How errors and findings are told: to people on standard error, to programs as one JSON object on standard output.

use super::args::Output;
use super::context::{Source, eprint, message_style, print};
use super::exit::Exit;
use crate::diagnostic::Diagnostic;
use crate::report::{self, json};

/// Who listens.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    /// A program that asked for JSON.
    pub json: bool,
    /// How people want to see it.
    pub output: Output,
}

impl Voice {
    /// Tells what failed; returns the exit code that goes with it.
    pub fn error(self, exit: Exit, what: &str) -> Exit {
        match self.json {
            true => print(&json::error(exit as u8, what)),
            false => eprint(&report::failed("error", what, message_style(self.output))),
        }
        exit
    }

    /// Tells several things that are wrong at once.
    pub fn errors(self, exit: Exit, wrong: &[String]) -> Exit {
        match self.json {
            true => self.error(exit, &wrong.join("\n")),
            false => wrong.iter().fold(exit, |exit, what| self.error(exit, what)),
        }
    }

    /// Tells why something is refused.
    pub fn refuse(self, why: &str) -> Exit {
        match self.json {
            true => print(&json::refused(Exit::Refused as u8, None, &[(why, None)])),
            false => eprint(&report::failed("refused", why, message_style(self.output))),
        }
        Exit::Refused
    }

    /// Tells what is wrong with a topology that cannot be used.
    pub fn findings(self, exit: Exit, source: &Source, findings: &[Diagnostic]) -> Exit {
        match self.json {
            true => print(&json::findings(exit as u8, &[(&source.name, &source.bytes, findings)], &[])),
            false => source.print(findings, self.output),
        }
        exit
    }
}
