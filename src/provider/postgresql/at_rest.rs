//! What a member of this machine would start as, told by its data directory alone: it does not run.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::files::marks_and_control_data;
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
    read(&output.stdout).map_err(|why| Unreachable::new(why, tried))
}

/// Reads what the script prints.
fn read(output: &str) -> Result<AtRest, String> {
    let (marks, control) = marks_and_control_data(output);
    match marks.get("signal") {
        Some(&"yes") => return Ok(AtRest::Replica),
        Some(_) => {}
        None => return Err("`signal` is missing".to_owned()),
    }
    let datum = |label| control.get(label).copied().ok_or_else(|| format!("the control data have no `{label}`"));
    let number = |label| datum(label)?.parse::<u32>().map_err(|_| format!("`{label}` is no number"));
    // Right after a promotion the last checkpoint is still one of the timeline before; recovery must reach the new one.
    let timeline = number("Latest checkpoint's TimeLineID")?.max(number("Min recovery ending loc's timeline")?);
    Ok(AtRest::Primary(Lineage { system: datum("Database system identifier")?.to_owned(), timeline }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_after_a_promotion_the_new_timeline_counts() {
        let said = |checkpoint: u32, recovery: u32| {
            read(&format!(
                "signal=no\nDatabase system identifier:           73\nLatest checkpoint's TimeLineID:       {checkpoint}\n\
                 Min recovery ending loc's timeline:   {recovery}\n"
            ))
        };
        let primary = |timeline| Ok(AtRest::Primary(Lineage { system: "73".to_owned(), timeline }));
        assert_eq!((said(3, 0), said(3, 4)), (primary(3), primary(4)));
        assert_eq!(read("signal=yes\n"), Ok(AtRest::Replica));
        assert!(read("signal=no\n").is_err() && read("").is_err());
    }
}
