//! Exit statuses to facts and outcomes.

use super::settings::Verb;
use crate::model::{Target, TargetKind, Unreachable};
use crate::provider::Outcome;
use crate::transport::Output;

/// Whether the job runs, by what its `check` left.
///
/// # Errors
/// If the status is neither 0 nor 1: a check that fails says nothing about the job.
pub(super) fn running(target: &Target, output: &Output) -> Result<bool, Unreachable> {
    match output.status {
        0 => Ok(true),
        1 => Ok(false),
        _ => Err(failed(target, Verb::Check, output).advice(match target.kind {
            TargetKind::Fence => "`check` must end with status 0 once it is cut off and with 1 while it is not",
            _ => "`check` must end with status 0 while the job runs and with 1 while it does not",
        })),
    }
}

/// What became of a `stop` or `start`, by what it left. One that failed may have done half of it, unless it could not be run.
pub(super) fn outcome(target: &Target, verb: Verb, output: &Output) -> Outcome {
    match output.status {
        0 => Outcome::Applied,
        126 | 127 => Outcome::NotApplied(
            failed(target, verb, output).advice("check that the program exists on the host and may be run there"),
        ),
        _ => Outcome::Unknown(failed(target, verb, output).advice(match target.kind {
            TargetKind::Fence => "run it by hand, and look at what it controls",
            _ => "look at the job on its host",
        })),
    }
}

fn failed(target: &Target, verb: Verb, output: &Output) -> Unreachable {
    let last = |text: &str| text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned);
    let said = last(&output.stderr).or_else(|| last(&output.stdout));
    let said = said.map(|line| format!(": {}", line.chars().take(200).collect::<String>())).unwrap_or_default();
    Unreachable::new(
        format!("it ended with status {}{said}", output.status),
        format!("`{}` of {}", verb.word(), target.id),
    )
}
