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
            let what = if adding { "new addresses are published" } else { "addresses leave" };
            let remains = if adding {
                vec!["users find more addresses; shares hold whatever DNS does".to_owned()]
            } else {
                vec![
                    "nothing changes for users: the proxies whose addresses leave go on forwarding while caches remember them"
                        .to_owned(),
                ]
            };
            let stage = self.builder.stage(format!("DNS {zone}: {what}"), remains);
            let section = format!("dns.{zone}.{}", if adding { "add" } else { "remove" });
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

    /// Waits until caches have forgotten what was removed: the TTL that was live before. Where an earlier run removed it, nobody
    /// knows how long ago: the whole time is waited for once more.
    pub(super) fn old_ttl(&mut self, needs: &After) -> After {
        let removed = self.changes.records.iter().flat_map(|change| change.sets.values());
        let removed =
            removed.filter(|change| part(change, false).is_some()).filter_map(|change| Some(change.from.as_ref()?.ttl));
        let servers = self.topology.zones.values().flat_map(|zone| zone.servers.values());
        let live = servers.filter_map(|server| live::name_server(self.live, &server.target.id));
        let live = live.flat_map(|facts| facts.sets.values().flatten().map(|set| set.ttl));
        let ttl = if self.leaving.is_empty() { removed.max() } else { removed.chain(live).max() };
        let Some(ttl) = ttl else { return needs.clone() };
        let time = Span::secs(u64::from(ttl));
        let stage = if self.changes.records.is_empty() {
            self.builder.stage("DNS: old answers are forgotten", Vec::new())
        } else {
            self.builder.stages.len().saturating_sub(1)
        };
        let id = self.builder.push(
            step(
                "wait.old_ttl",
                stage,
                format!("wait {time}: resolvers may remember the old addresses for the TTL that was live"),
                Work::Wait { wait: Wait::OldTtl { time } },
            )
            .why("Lowering the TTL in the same change would not shorten this.")
            .takes(time, Span(time.0 * 2))
            .needs(needs),
        );
        After::from([id])
    }
}

/// The part of a change that is made before the edge shifts (`adding`: nothing is taken away), or after it.
fn part(change: &FromTo<Option<RecordSet>>, adding: bool) -> Option<FromTo<Option<RecordSet>>> {
    let union = match (&change.from, &change.to) {
        (Some(from), Some(to)) => Some(RecordSet { ttl: to.ttl, data: from.data.union(&to.data).copied().collect() }),
        (from, to) => from.clone().or_else(|| to.clone()),
    };
    let grows = match (&change.from, &change.to) {
        (None, Some(_)) => true,
        (Some(from), Some(to)) => !to.data.is_subset(&from.data),
        _ => false,
    };
    // A change that only takes away, or only changes the TTL, is one message.
    let removes = match (&change.from, &change.to) {
        (Some(_), None) => true,
        (Some(from), Some(to)) => !from.data.is_subset(&to.data),
        _ => false,
    };
    let split = match (grows, removes) {
        (true, true) => Some(union),
        _ => None,
    };
    match (adding, split) {
        (true, Some(union)) => Some(FromTo { from: change.from.clone(), to: union }),
        (false, Some(union)) => Some(FromTo { from: union, to: change.to.clone() }),
        (adding, None) if adding != removes => Some(change.clone()),
        _ => None,
    }
}
