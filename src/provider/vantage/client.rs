//! Runs the script on the vantage's host.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::convert;
use crate::model::{Target, Unreachable, VantageFacts};
use crate::transport::{Command, Transport, TransportError};

/// Tries every address at once.
const SCRIPT: &str = include_str!("reach.sh");

/// How long an address may take to answer. Facilities are at most a few hundred milliseconds apart; opening the way to the host itself takes longer.
const EACH: Duration = Duration::from_millis(400);

/// Asks which of these addresses the host reaches.
///
/// # Errors
/// If it does not answer, or cannot try.
pub(super) async fn reach(
    transport: &Transport,
    target: &Target,
    asked: &BTreeSet<String>,
    deadline: Instant,
) -> Result<VantageFacts, Unreachable> {
    let tried = || format!("trying {} addresses from {}", asked.len(), target.id);
    let host = target.host.as_ref().ok_or_else(|| Unreachable::new("it has no host", tried()))?;
    let command = Command::Script { text: SCRIPT, args: convert::arguments(EACH, asked) };
    match transport.run(host, &command, None, deadline).await {
        Ok(output) => convert::facts(asked, &output).map_err(|why| {
            Unreachable::new(why, tried()).advice("install bash or nc there, or declare another vantage")
        }),
        Err(TransportError::NotRun(why) | TransportError::Unknown(why)) => Err(why),
    }
}
