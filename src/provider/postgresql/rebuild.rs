//! A member whose history is not the primary's, or that did not end cleanly, becomes a replica again.

use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, Failure, HostArguments, REBUILD, explain};
use super::convert::{configuration_value, connection, literal, slot_name};
use super::settings::{keeps, no_control};
use crate::journal::Permit;
use crate::model::{MemberFacts, Peer, Role, Target, Unreachable};
use crate::provider::pgwire::WireError;

/// How often it is asked whether it follows.
const POLL: Duration = Duration::from_millis(50);

fn tried(target: &Target) -> String {
    format!("rebuild of {}", target.name())
}

fn refused(target: &Target, why: impl Into<String>) -> Failure {
    Failure::untouched(Unreachable::new(why, tried(target)))
}

/// Makes it a replica of `primary`. What only it has is kept first; the facts tell what that was, where there was any. A member on a
/// later timeline than the primary is left as it is, unless the primary's history was `chosen`.
pub(super) async fn rebuild(
    client: &Client,
    target: &Target,
    primary: &Peer,
    chosen: bool,
    permit: &Permit,
    deadline: Instant,
) -> Result<MemberFacts, Failure> {
    if let Some(why) = no_control(target) {
        return Err(refused(target, why));
    }
    let untouched = |failure: Failure| Failure::untouched(failure.why);
    let here = match client.facts_or_files(target, deadline).await {
        Ok(facts) if facts.role == Role::Primary => {
            return Err(Failure::untouched(
                Unreachable::new("it runs as a primary", tried(target)).advice("fence it first"),
            ));
        }
        Ok(facts) => Some(facts),
        // A machine that runs something that does not answer, or has its data directory beside its place: the script tells.
        Err(_) => None,
    };
    let from = ready(client, target, primary, deadline).await?;
    if let Some(here) = here.filter(|here| here.role == Role::Replica && here.lineage == from.lineage)
        && here.receives_from.as_ref() == Some(&primary.address)
        && client.host(target, "state", HostArguments::default(), deadline).await.map_err(untouched)?.rebuild.is_empty()
    {
        return Ok(here);
    }
    let login = target.settings.text("replication").unwrap_or_default();
    let text = connection(primary, target.name(), login).map_err(|why| refused(target, why))?;
    let slot = slot_name(target.name()).map_err(|why| refused(target, why))?;
    let database = target.settings.text("database").unwrap_or("postgres");
    let source = format!("{text} dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
    let (keep, free) = keeps(target);
    let arguments = HostArguments {
        connection: configuration_value(&text),
        slot,
        rebuild: vec![source, keep.to_owned(), free.to_string(), if chosen { "chosen" } else { "" }.to_owned()],
        ..HostArguments::under(permit)
    };
    let state = client.host(target, REBUILD, arguments, deadline).await?;
    let mut last = state.facts(no_control(target));
    while Instant::now() < deadline {
        if let Ok(facts) = client.facts(target, deadline).await {
            let follows = facts.receives_from.as_ref() == Some(&primary.address);
            last = MemberFacts { diverged: state.diverged.clone(), ..facts };
            if follows {
                break;
            }
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(last)
}

/// Sees to it that the primary is one, that its control file shows its timeline (pg_rewind reads it there, and finds nothing to do before
/// the first checkpoint after a promotion), and that it keeps the log for the member from now on.
async fn ready(client: &Client, target: &Target, primary: &Peer, deadline: Instant) -> Result<MemberFacts, Failure> {
    let source = Target { id: primary.member.clone(), address: primary.address.clone(), host: None, ..target.clone() };
    let facts = client.facts(&source, deadline).await.map_err(Failure::untouched)?;
    if facts.role != Role::Primary {
        return Err(refused(target, format!("{} is no primary, but {}", primary.member.name(), facts.role)));
    }
    let slot = slot_name(target.name()).map_err(|why| refused(target, why))?;
    let slot = literal(&slot);
    let make = format!(
        "SELECT pg_create_physical_replication_slot({slot}, true) \
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot})"
    );
    let failed = |error: WireError| Failure::untouched(explain(&source, &error));
    client.ask(&source, &make, deadline).await.map_err(failed)?;
    client.ask(&source, "CHECKPOINT", deadline).await.map_err(failed)?;
    Ok(facts)
}
