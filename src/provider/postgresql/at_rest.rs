//! What a member of this machine would start as, told by its data directory alone: it does not run.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::convert;
use crate::model::{Host, Lineage, Target, TransportKind, Unreachable};
use crate::transport::{Command, Transport, TransportError};

/// What a data directory would start as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtRest {
    /// A replica: it has a `standby.signal`.
    Replica,
    /// A primary, also after a recovery from an archive, with this history.
    Primary(Lineage),
}

/// Reads what `target` would start as, on this machine.
///
/// # Errors
/// If its data directory is not known or cannot be read here.
pub async fn at_rest(target: &Target, transport: &Transport, deadline: Instant) -> Result<AtRest, Unreachable> {
    let tried = format!("reading the control data of {} on this machine", target.name());
    let Some(data) = target.settings.text("data_directory") else {
        return Err(Unreachable::new("no `data_directory` is configured", tried));
    };
    let here = Host { name: "here".into(), transport: TransportKind::Local, commands: BTreeMap::new() };
    let bin = target.settings.text("bin_directory").unwrap_or_default();
    let args = vec![data.to_owned(), bin.to_owned()];
    let command = Command::Script { text: include_str!("at_rest.sh"), args };
    let output = match transport.run(&here, &command, None, deadline).await {
        Ok(output) => output,
        Err(TransportError::NotRun(why) | TransportError::Unknown(why)) => return Err(why),
    };
    if output.status != 0 {
        return Err(Unreachable::new(output.stderr.trim(), tried)
            .advice("run this where its data are, as their owner or as root"));
    }
    convert::at_rest(&output.stdout).map_err(|why| Unreachable::new(why, tried))
}
