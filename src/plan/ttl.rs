//! TTLs: how long resolvers remember, what a plan says about it, and the holds that keep it honest. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::desired::{Desired, short_ttl};
use super::diff::Changes;
use super::intent::{HoldKind, Intent};
use crate::model::{RecordKey, RecordSet, Service, ServiceName, Span, text::list};
use crate::topology::Topology;

/// The service of each hostname.
pub(super) fn hostnames(topology: &Topology) -> BTreeMap<&str, &Service> {
    let services = topology.services.values();
    services.flat_map(|service| service.hostnames.keys().map(move |name| (name.as_str(), service))).collect()
}

/// A TTL in seconds, as DNS has it.
fn span(ttl: u32) -> Span {
    Span::secs(u64::from(ttl))
}

/// What is wanted of a record set for now.
pub(super) struct Wanted {
    pub(super) set: Option<RecordSet>,
    /// Why it is not all that should be.
    pub(super) postponed: Option<String>,
}

/// A TTL is not raised while a facility of its service is out: what is on its way out or back must be quick to undo.
pub(super) fn not_raised_now(
    desired: &Desired,
    services: &BTreeMap<&str, &Service>,
    key: &RecordKey,
    from: &Option<RecordSet>,
    to: &Option<RecordSet>,
) -> Wanted {
    let as_it_is = Wanted { set: to.clone(), postponed: None };
    let (Some(from), Some(to), Some(service)) = (from, to, services.get(key.name.as_str())) else { return as_it_is };
    let out: BTreeSet<_> = service.addresses.keys().filter(|facility| desired.out.contains_key(*facility)).collect();
    if from.ttl >= to.ttl || out.is_empty() {
        return as_it_is;
    }
    let why = format!(
        "the TTL of {} stays {}, below {} of the topology, until {} is back",
        service.name,
        span(from.ttl),
        span(to.ttl),
        list(out)
    );
    Wanted { set: Some(RecordSet { ttl: from.ttl, data: to.data.clone() }), postponed: Some(why) }
}

/// The TTLs that changes lower, by service: the longest that was live.
fn lowered<'a>(changes: &Changes, services: &BTreeMap<&str, &'a Service>) -> BTreeMap<&'a ServiceName, Span> {
    let mut lowered: BTreeMap<&ServiceName, Span> = BTreeMap::new();
    for (key, change) in changes.records.iter().flat_map(|change| &change.sets) {
        let (Some(from), Some(to), Some(service)) = (&change.from, &change.to, services.get(key.name.as_str())) else {
            continue;
        };
        if to.ttl < from.ttl {
            let longest = lowered.entry(&service.name).or_default();
            *longest = (*longest).max(span(from.ttl));
        }
    }
    lowered
}

/// Holds for the case that the plan is cut short before resolvers have forgotten the TTLs that it lowers: the next one waits for
/// them. Each ends with the run that made it.
pub(super) fn remembered(topology: &Topology, changes: &Changes) -> Vec<HoldKind> {
    let lowered = lowered(changes, &hostnames(topology));
    lowered.into_iter().map(|(service, ttl)| HoldKind::OldTtl { service: service.clone(), ttl }).collect()
}

/// What an operator should know about TTLs before agreeing.
pub(super) fn notes(topology: &Topology, intent: &Intent, desired: &Desired, changes: &Changes) -> Vec<String> {
    let limit = topology.policy.dns_recovery_target;
    let services = hostnames(topology);
    let mut notes = changes.postponed.clone();
    let mut long: BTreeMap<Span, BTreeSet<&ServiceName>> = BTreeMap::new();
    for (key, change) in changes.records.iter().flat_map(|change| &change.sets) {
        let (Some(from), Some(service)) = (&change.from, services.get(key.name.as_str())) else { continue };
        let loses = change.to.as_ref().is_none_or(|to| !from.data.is_subset(&to.data));
        if loses && span(from.ttl) > limit {
            long.entry(span(from.ttl)).or_default().insert(&service.name);
        }
    }
    for (ttl, names) in long {
        let flags: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        notes.push(format!(
            "resolvers forget old addresses of {} only after {ttl}, the live TTL, above policy.dns_recovery_target ({limit}): until then \
             some users still come to the proxies whose addresses leave, and those must go on running. To have it short when it \
             counts: `handover plan --lower-ttl {}`, apply that, then make this plan again",
            list(&names),
            flags.join(" ")
        ));
    }
    if !intent.lower_ttl.is_empty() {
        let lowered = lowered(changes, &services);
        let short = intent.lower_ttl.iter().filter(|name| !lowered.contains_key(name));
        let short: Vec<String> = short
            .filter_map(|name| topology.services.get(name))
            .map(|service| format!("{} ({})", service.name, short_ttl(service, &topology.policy)))
            .collect();
        if !short.is_empty() {
            notes.push(format!("nothing to lower: the TTL is short already for {}", list(short)));
        }
    }
    if let Some(ttl) = desired.old_ttl {
        notes.push(format!(
            "an earlier plan lowered a TTL of {ttl} and did not wait until resolvers had forgotten it: this one waits for that"
        ));
    }
    notes
}
