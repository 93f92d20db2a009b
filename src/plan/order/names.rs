//! DNS: additions before the edge shifts, removals after it, and the time that caches remember.

use std::collections::BTreeMap;

use super::{Order, RecordSets};
use crate::model::{Action, Condition, FromTo, RecordSet, Span, TargetId, ZoneName};
use crate::plan::build::{After, step};
use crate::plan::live;
use crate::plan::step::{StepId, Wait, Work};

/// How long a change of DNS may take to reach every server of its transfer tree: BIND's `notify-delay` alone can be 5 s.
const DNS_DEADLINE: Span = Span::secs(30);

impl Order<'_> {
    /// Record sets: additions (and changed TTLs) before the edge shifts, removals after it.
    pub(super) fn records(&mut self, adding: bool, needs: &After) -> After {
        let mut by_zone: BTreeMap<&ZoneName, Vec<(TargetId, RecordSets)>> = BTreeMap::new();
        for change in &self.changes.records {
            let sets: BTreeMap<_, _> =
                change.sets.iter().filter_map(|(key, change)| Some((key.clone(), part(change, adding)?))).collect();
            if !sets.is_empty() {
                by_zone.entry(&change.zone).or_default().push((change.server.clone(), sets));
            }
        }
        let mut done = After::new();
        for (zone, servers) in by_zone {
            let of_addresses = servers.iter().flat_map(|(_, sets)| sets.values()).any(|set| grows(set) || removes(set));
            let (word, what, remains) = match (adding, of_addresses) {
                (true, true) => {
                    ("add", "new addresses are published", "users find more addresses; shares hold whatever DNS does")
                }
                (true, false) => ("lower_ttl", "TTLs are lowered", "nothing changes for users"),
                (false, true) => (
                    "remove",
                    "addresses leave",
                    "nothing changes for users: the proxies whose addresses leave go on forwarding while caches remember them",
                ),
                (false, false) => ("raise_ttl", "TTLs are raised again", "nothing changes for users"),
            };
            let stage = self.builder.stage(format!("DNS {zone}: {what}"), vec![remains.to_owned()]);
            let section = format!("dns.{zone}.{word}");
            for (server, sets) in servers {
                done.insert(self.record_step(stage, zone, &section, &server, sets, needs));
            }
        }
        if done.is_empty() { needs.clone() } else { done }
    }

    fn record_step(
        &mut self,
        stage: usize,
        zone: &ZoneName,
        section: &str,
        server: &TargetId,
        sets: RecordSets,
        needs: &After,
    ) -> StepId {
        let side = |pick: fn(&FromTo<Option<RecordSet>>) -> Option<RecordSet>| Condition::Records {
            sets: sets.iter().map(|(key, change)| (key.clone(), pick(change))).collect(),
        };
        let (before, after) = (side(|change| change.from.clone()), side(|change| change.to.clone()));
        let reversed = sets.iter().map(|(key, change)| (key.clone(), change.reversed())).collect();
        let act = |sets| Action::SetRecords { zone: zone.clone(), sets };
        let names: Vec<String> = sets.keys().map(ToString::to_string).collect();
        let mut change = step(
            format!("{section}.{}", server.name()),
            stage,
            format!("{}: {}", server.name(), names.join(", ")),
            Work::on(server, act(sets.clone())),
        )
        .why("One message, carried out only if every record set is still as planned.")
        .before(server, before.clone())
        .after(server, after.clone())
        .undone_by(act(reversed), before)
        .section(section)
        .takes(Span::secs(1), DNS_DEADLINE)
        .needs(needs);
        for follower in self.transfer_tree(zone, server.name()) {
            change = change.after(&follower, after.clone());
        }
        self.builder.push(change)
    }

    /// The servers that get the zone from this one, directly or through others, and answer.
    fn transfer_tree(&self, zone: &ZoneName, root: &str) -> Vec<TargetId> {
        let Some(zone) = self.topology.zones.get(zone) else { return Vec::new() };
        let mut tree: Vec<&str> = vec![root];
        let mut followers = Vec::new();
        while let Some(parent) = tree.pop() {
            for (name, server) in &zone.servers {
                if server.transfers_from.as_deref() == Some(parent) {
                    tree.push(name);
                    if live::name_server(self.live, &server.target.id).is_some() {
                        followers.push(server.target.id.clone());
                    }
                }
            }
        }
        followers.sort();
        followers
    }

    /// Waits until resolvers have forgotten what was removed or had a longer TTL: the TTL that was live before. Where an earlier run
    /// removed it, nobody knows how long ago: the whole time is waited for once more.
    pub(super) fn old_ttl(&mut self, needs: &After) -> After {
        let sets = self.changes.records.iter().flat_map(|change| change.sets.values());
        let forgotten = sets.filter(|change| removes(change) || lowers(change));
        let forgotten = forgotten.filter_map(|change| Some(Span::secs(u64::from(change.from.as_ref()?.ttl))));
        let servers = self.topology.zones.values().flat_map(|zone| zone.servers.values());
        let live = servers.filter_map(|server| live::name_server(self.live, &server.target.id));
        let live = live.flat_map(|facts| facts.sets.values().flatten().map(|set| Span::secs(u64::from(set.ttl))));
        let live = live.filter(|_| !self.leaving.is_empty());
        let Some(time) = forgotten.chain(live).chain(self.desired.old_ttl).max() else { return needs.clone() };
        let removing = self.changes.records.iter().any(|change| change.sets.values().any(removes));
        let stage = if removing {
            self.builder.stages.len().saturating_sub(1)
        } else {
            self.builder.stage("DNS: old answers are forgotten", Vec::new())
        };
        let id = self.builder.push(
            step(
                "wait.old_ttl",
                stage,
                format!("wait {time}: resolvers may remember the old answers for the TTL that was live"),
                Work::Wait { wait: Wait::OldTtl { time } },
            )
            .why("Lowering the TTL in the same change would not shorten this.")
            .takes(time, Span(time.0 * 2))
            .needs(needs),
        );
        After::from([id])
    }
}

type Change = FromTo<Option<RecordSet>>;

/// True if addresses go away.
fn removes(change: &Change) -> bool {
    match (&change.from, &change.to) {
        (Some(_), None) => true,
        (Some(from), Some(to)) => !from.data.is_subset(&to.data),
        _ => false,
    }
}

/// True if addresses are added.
fn grows(change: &Change) -> bool {
    match (&change.from, &change.to) {
        (None, Some(_)) => true,
        (Some(from), Some(to)) => !to.data.is_subset(&from.data),
        _ => false,
    }
}

fn lowers(change: &Change) -> bool {
    matches!((&change.from, &change.to), (Some(from), Some(to)) if to.ttl < from.ttl)
}

/// The part of a change that is made before the edge shifts (`adding`: nothing is taken away, no TTL is raised), or after it. What
/// belongs to one of them alone is one message.
fn part(change: &Change, adding: bool) -> Option<Change> {
    let (Some(from), Some(to)) = (&change.from, &change.to) else {
        return (adding != removes(change)).then(|| change.clone());
    };
    let before = if grows(change) {
        RecordSet { ttl: from.ttl.min(to.ttl), data: from.data.union(&to.data).copied().collect() }
    } else if lowers(change) && !removes(change) {
        to.clone()
    } else {
        from.clone()
    };
    let part = if adding {
        FromTo { from: Some(from.clone()), to: Some(before) }
    } else {
        FromTo { from: Some(before), to: Some(to.clone()) }
    };
    (part.from != part.to).then_some(part)
}
