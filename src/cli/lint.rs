//! `handover lint`: checks topology files without a network, credentials or a clock.

use anyhow::Result;

use super::args;
use super::context::{Source, checks, print};
use super::exit::Exit;
use crate::diagnostic::Severity;
use crate::topology;

/// Checks every file and prints all findings.
///
/// # Errors
/// None; unreadable files are findings of their own.
pub fn run(args: &args::Lint) -> Result<Exit> {
    let mut worst = Exit::Success;
    for path in &args.files {
        let source = match Source::read(path) {
            Ok(source) => source,
            Err(error) => {
                anstream::eprintln!("error: {error:#}");
                worst = Exit::Invalid;
                continue;
            }
        };
        let findings = match topology::parse(&source.bytes, &checks()) {
            Ok(parsed) => parsed.warnings,
            Err(findings) => {
                worst = Exit::Invalid;
                findings
            }
        };
        if findings.is_empty() {
            print(&format!("{}: no findings\n", source.name));
            continue;
        }
        if worst == Exit::Success && findings.iter().any(|finding| finding.severity >= Severity::Warning) {
            worst = Exit::Error;
        }
        source.print(&findings, args.output);
    }
    Ok(worst)
}
