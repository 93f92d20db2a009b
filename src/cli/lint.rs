//! `handover lint`: checks topology files without a network, credentials or a clock.

use anyhow::Result;

use super::args::{self, Format};
use super::context::{Source, checks, print};
use super::exit::Exit;
use crate::diagnostic::{Diagnostic, Severity};
use crate::report;
use crate::topology;

/// Checks every file and prints all findings.
///
/// # Errors
/// None; unreadable files are findings of their own.
pub fn run(args: &args::Lint) -> Result<Exit> {
    let mut worst = Exit::Success;
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for path in &args.files {
        let source = match Source::read(path) {
            Ok(source) => source,
            Err(error) => {
                worst = Exit::Invalid;
                unread.push((path.display().to_string(), format!("{error:#}")));
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
        if worst == Exit::Success && findings.iter().any(|finding| finding.severity >= Severity::Warning) {
            worst = Exit::Error;
        }
        read.push((source, findings));
    }
    match args.format {
        Format::Text => {
            for (_, why) in &unread {
                anstream::eprintln!("error: {why}");
            }
            for (source, findings) in &read {
                match findings.is_empty() {
                    true => print(&format!("{}: no findings\n", source.name)),
                    false => source.print(findings, args.output),
                }
            }
        }
        Format::Json => {
            let files: Vec<(&str, &[u8], &[Diagnostic])> = read
                .iter()
                .map(|(source, findings)| (source.name.as_str(), source.bytes.as_slice(), findings.as_slice()))
                .collect();
            let unread: Vec<(&str, &str)> = unread.iter().map(|(file, why)| (file.as_str(), why.as_str())).collect();
            print(&report::json::findings(worst as u8, &files, &unread));
        }
    }
    Ok(worst)
}
