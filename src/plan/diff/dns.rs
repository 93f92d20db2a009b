//! Of DNS: records that differ, and what keeps them from being changed.

use std::collections::BTreeMap;

use super::{Diff, RecordsChange, Refusal};
use crate::model::{FromTo, NameServer, NameServerFacts, RecordKey, RecordSet, Zone};
use crate::plan::{live, ttl};

impl Diff<'_> {
    pub(super) fn records(&mut self) {
        let hostnames = ttl::hostnames(self.topology);
        for zone in self.topology.zones.values() {
            let Some(wanted) = self.desired.records.get(&zone.name) else { continue };
            self.unchangeable(zone, wanted);
            self.disagreement(zone);
            for server in zone.servers.values().filter(|server| server.updates) {
                let Some(facts) = live::name_server(self.live, &server.target.id) else { continue };
                if let Some(why) = &facts.rejects_key {
                    let what = format!("{} does not accept our key: {}", server.target.id.name(), why.why);
                    let advice =
                        why.advice.clone().unwrap_or_else(|| "compare key, algorithm, secret and clock".to_owned());
                    self.refusals.push(Refusal::new(what, advice));
                    continue;
                }
                let mut sets = BTreeMap::new();
                for (key, to) in wanted {
                    let Some(from) = facts.sets.get(key) else { continue };
                    let to = ttl::not_raised_now(self.desired, &hostnames, key, from, to);
                    if let Some(why) = to.postponed {
                        self.changes.postponed.push(why);
                    }
                    if *from != to.set {
                        sets.insert(key.clone(), FromTo { from: from.clone(), to: to.set });
                    }
                }
                if !sets.is_empty() {
                    let server = server.target.id.clone();
                    self.changes.records.push(RecordsChange { zone: zone.name.clone(), server, sets });
                }
            }
        }
    }

    /// A zone that has to change while no server that could be told so answers.
    fn unchangeable(&mut self, zone: &Zone, wanted: &BTreeMap<RecordKey, Option<RecordSet>>) {
        let answer = |server: &&NameServer| live::name_server(self.live, &server.target.id);
        let updatable: Vec<&NameServer> = zone.servers.values().filter(|server| server.updates).collect();
        if updatable.iter().any(|server| answer(server).is_some()) {
            return;
        }
        let differs =
            |facts: &NameServerFacts| wanted.iter().any(|(key, set)| facts.sets.get(key).is_some_and(|is| is != set));
        if zone.servers.values().filter_map(|server| answer(&server)).any(differs) {
            let names = updatable.iter().map(|server| server.target.name());
            self.refuse(
                format!(
                    "{} cannot be changed: no answer from {}, where alone it takes updates",
                    zone.name,
                    crate::model::text::list(names)
                ),
                "repair one of them; until then users are sent to addresses that should leave",
            );
        }
    }

    /// A server that serves other records than the one that it gets the zone from: a change would never be seen there.
    fn disagreement(&mut self, zone: &Zone) {
        for (name, server) in &zone.servers {
            let Some(source) = &server.transfers_from else { continue };
            let facts = |name: &String| live::name_server(self.live, &zone.servers.get(name)?.target.id);
            let (Some(here), Some(there)) = (facts(name), facts(source)) else { continue };
            let differing = there.sets.iter().find(|(key, set)| here.sets.get(*key).is_some_and(|is| is != *set));
            if let Some((key, set)) = differing {
                let text = |set: Option<&RecordSet>| crate::model::text::record_set(set);
                let own = here.sets.get(key).and_then(Option::as_ref);
                self.refuse(
                    format!(
                        "{name} and {source}, from which it gets {}, disagree: {key} is {} (serial {}) and {} (serial {})",
                        zone.name,
                        text(own),
                        here.serial,
                        text(set.as_ref()),
                        there.serial
                    ),
                    format!("a transfer takes up to some seconds: plan again; if it stays so, repair the transfer to {name}"),
                );
            }
        }
    }
}
