//! Primaries that stay while some of their replicas are lost: commits must not wait for those, and log is not kept for them without end.
//! Pure.

use crate::model::{Database, FromTo, Live, Peer, SlotFacts, Target, TargetId, text::list, text::same_member};
use crate::plan::desired::Desired;
use crate::plan::power::Parting;
use crate::plan::{live, synchronous};
use crate::topology::Topology;

/// What the primaries that stay let go.
pub(in crate::plan) fn leaving<'a>(topology: &'a Topology, desired: &Desired, live: &Live) -> Vec<Parting<'a>> {
    let parting = |database: &'a Database| {
        let members: Vec<&Target> = database
            .members
            .values()
            .map(|member| member.target.as_ref())
            .filter(|target| desired.lost.contains(target) && live::member(live, &target.id).is_none())
            .collect();
        let id = live::primary(database, live)?;
        let facts = live::member(live, &id)?;
        let names: Vec<&str> = members.iter().map(|target| target.name()).collect();
        let from = facts.synchronous_names.clone();
        let to = synchronous::without(&from, &names);
        let has_slot = slots(&facts.slots, &names).next().is_some();
        let bounded = facts.settings.get("max_slot_wal_keep_size").is_some_and(|bound| bound != "-1");
        if members.is_empty() || (from == to && (bounded || !has_slot)) {
            return None;
        }
        let primary = Peer { address: database.members.get(id.name())?.target.address.clone(), member: id };
        Some(Parting { database, primary, members, synchronous: FromTo { from, to }, overruled: None })
    };
    topology.databases.values().filter_map(parting).collect()
}

/// The primaries that keep a bounded log for members that are back, and which.
pub(in crate::plan) fn coming<'a>(
    topology: &'a Topology,
    desired: &Desired,
    live: &Live,
) -> Vec<(&'a Database, TargetId, Vec<String>)> {
    let back = |database: &'a Database| {
        let members = database.members.values().map(|member| &member.target);
        let members = members.filter(|target| desired.regained.contains(target));
        let members: Vec<String> = members.map(|target| target.name().to_owned()).collect();
        let primaries = live::primaries(database, live);
        let mut stayed = primaries.into_iter().filter(|id| !members.iter().any(|name| name == id.name()));
        let primary = stayed.next()?.clone();
        let facts = live::member(live, &primary)?;
        let bounded = facts.settings.get("max_slot_wal_keep_size").is_some_and(|bound| bound != "-1");
        (bounded && !members.is_empty()).then_some((database, primary, members))
    };
    topology.databases.values().filter_map(back).collect()
}

fn slots<'a>(slots: &'a [SlotFacts], names: &'a [&'a str]) -> impl Iterator<Item = &'a SlotFacts> {
    slots.iter().filter(|slot| names.iter().any(|name| same_member(&slot.name, name)))
}

/// What is let go, in one line.
pub(in crate::plan) fn title(parting: &Parting<'_>, live: &Live) -> String {
    let names: Vec<&str> = parting.members.iter().map(|target| target.name()).collect();
    let members = list(&names);
    let primary = parting.primary.member.name();
    let waits = match parting.synchronous.from == parting.synchronous.to {
        true => String::new(),
        false => format!("commits do not wait for {members}, "),
    };
    let facts = live::member(live, &parting.primary.member);
    let kept: u64 =
        facts.map(|facts| slots(&facts.slots, &names).map(|slot| slot.retained_bytes).sum()).unwrap_or_default();
    let kept = if kept == 0 { String::new() } else { format!(" ({} MiB are kept now)", kept >> 20) };
    format!("{primary}: {waits}the log kept for {members} is bounded{kept}")
}
