//! Runs one of a job's commands on its host.

use tokio::time::Instant;

use super::settings::{self, Verb};
use crate::model::{Target, Unreachable};
use crate::transport::{Command, Output, Transport, TransportError};

/// Runs the command that the target's settings name for `verb`.
pub(super) async fn run(
    transport: &Transport,
    target: &Target,
    verb: Verb,
    deadline: Instant,
) -> Result<Output, TransportError> {
    let tried = || format!("`{}` of {}", verb.word(), target.id);
    let host = target.host.as_ref().ok_or_else(|| {
        let advice = "give the job `host: NAME`, one of the file's `hosts`";
        TransportError::NotRun(Unreachable::new("it has no host to run commands on", tried()).advice(advice))
    })?;
    let argv = settings::command(&target.settings, verb).map_err(|finding| {
        let advice = finding.help.unwrap_or_default();
        TransportError::NotRun(Unreachable::new(finding.message, tried()).advice(advice))
    })?;
    transport.run(host, &Command::Argv(argv), None, deadline).await
}
