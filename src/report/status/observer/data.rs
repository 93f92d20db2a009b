//! The data tier: databases, and the poolers before them.

use super::Observer;
use crate::model::{Database, Facts, MemberFacts, Observed, ReplicationMode, Role, Route, TargetId};
use crate::plan::followers;
use crate::report::status::view::{Cell, ExitLevel, Mark, Problem, Row};
use crate::report::text::{count, duration};

impl<'a> Observer<'a> {
    pub(in crate::report::status) fn data(&mut self) -> Vec<Row> {
        let topology = self.topology;
        let mut rows = Vec::new();
        for database in topology.databases.values() {
            let primaries = self.primaries(database);
            let primary = match primaries.as_slice() {
                [] => {
                    let text = format!("no primary of {} answers", database.name);
                    self.problems.push(Problem { level: ExitLevel::Degraded, text });
                    None
                }
                [one] => Some(*one),
                // `plan::split` says so.
                _ => None,
            };
            rows.push(self.row("data", database.name.as_str(), |this, facility| {
                let mut cell = Cell::new();
                for member in database.members.values().filter(|member| member.target.facility == *facility) {
                    cell.extend(this.member(database, &member.target.id, primary, primaries.len() > 1));
                }
                cell
            }));
        }
        rows
    }

    fn primaries(&self, database: &'a Database) -> Vec<(&'a TargetId, &'a MemberFacts)> {
        let members = database.members.values().map(|member| &member.target.id);
        let facts = members.filter_map(|id| Some((id, self.facts(id)?.member()?)));
        facts.filter(|(_, facts)| facts.role == Role::Primary).collect()
    }

    fn member(
        &mut self,
        database: &Database,
        id: &TargetId,
        primary: Option<(&TargetId, &MemberFacts)>,
        split: bool,
    ) -> Cell {
        // Redundancy is missing wherever the facility stands: a drain does not excuse it.
        let mut wrong = |text: String| {
            self.problems.push(Problem { level: ExitLevel::Degraded, text: format!("{}: {text}", database.name) });
            (Mark::Bad, text)
        };
        let name = id.name();
        let Some(facts) = self.live.get(id).and_then(Observed::known).and_then(Facts::member) else {
            return vec![wrong(format!("{name} does not answer"))];
        };
        match facts.role {
            Role::Primary if split => vec![(Mark::Bad, format!("{name} is PRIMARY, and not the only one"))],
            Role::Primary => vec![(Mark::Good, format!("{name} is primary, timeline {}", facts.lineage.timeline))],
            Role::Fenced => vec![wrong(format!("{name} is fenced and does not run"))],
            Role::Stopped => vec![wrong(format!("{name} does not run"))],
            Role::Replica => {
                // A replica may receive from another one, which then knows how far behind it is.
                let upstream = followers::upstream(database, facts);
                let upstream = upstream.filter(|peer| primary.is_none_or(|(id, _)| *id != peer.member));
                let sender = upstream.as_ref().and_then(|peer| self.live.get(&peer.member)?.known()?.member());
                let seen = sender.or(primary.map(|(_, facts)| facts)).and_then(|facts| followers::replica(facts, name));
                let Some(seen) = seen.filter(|seen| seen.streaming) else {
                    return vec![wrong(format!("{name} is a replica that receives nothing"))];
                };
                let mode = match &upstream {
                    Some(peer) => format!(" from {}", peer.member.name()),
                    None if seen.synchronous => ", synchronous".to_owned(),
                    None => String::new(),
                };
                let lag = seen.lag.unwrap_or_default();
                let text = format!("{name} replicates{mode}, {} behind", duration(lag));
                let demanded = database.mode == ReplicationMode::Synchronous;
                let synchronous =
                    primary.is_some_and(|(_, primary)| primary.replicas.iter().any(|seen| seen.synchronous));
                if demanded && !synchronous {
                    vec![wrong(format!("{name} should be synchronous and is not"))]
                } else if facts.replay_paused {
                    vec![wrong(format!("{name} has its replay paused"))]
                } else if lag > database.max_lag.0 {
                    vec![wrong(format!("{text} (at most {})", duration(database.max_lag.0)))]
                } else {
                    vec![(Mark::Good, text)]
                }
            }
        }
    }

    pub(in crate::report::status) fn poolers(&mut self) -> Vec<Row> {
        let topology = self.topology;
        if topology.poolers.is_empty() {
            return Vec::new();
        }
        vec![self.row("poolers", "", |this, facility| {
            let here = topology.poolers.values().filter(|pooler| pooler.target.facility == *facility);
            let poolers: Vec<&TargetId> = here.map(|pooler| &pooler.target.id).collect();
            if poolers.is_empty() {
                return Cell::new();
            }
            let mut cell = vec![this.answers(facility, "pooler", &poolers)];
            for id in &poolers {
                let problems = this.pools(id);
                let clear = |database: &Database| this.primaries(database).len() == 1;
                if problems.is_empty() && this.facts(id).is_some() && topology.databases.values().all(clear) {
                    cell.push((Mark::Plain, format!("{} leads to the primaries", id.name())));
                }
                for text in problems {
                    let mark = this.wrong(facility, format!("pooler {} {text}", id.name()));
                    cell.push((mark, format!("{} {text}", id.name())));
                }
            }
            cell
        })]
    }

    /// What is wrong with the databases of a pooler.
    fn pools(&self, id: &TargetId) -> Vec<String> {
        let Some(facts) = self.facts(id).and_then(Facts::pooler) else { return Vec::new() };
        let mut wrong = Vec::new();
        for database in self.topology.databases.values().filter(|database| database.poolers.contains(id.name())) {
            let Route::PoolerDatabase(name) = &database.route else { continue };
            let Some(Some(pool)) = facts.databases.get(name) else {
                wrong.push(format!("has no database {name}"));
                continue;
            };
            if pool.paused {
                let waiting = count(usize::try_from(pool.waiting).unwrap_or(usize::MAX), "client");
                wrong.push(format!("holds {name} back: {waiting} waiting"));
            }
            if let [(primary, _)] = self.primaries(database).as_slice() {
                let member = database.members.values().find(|member| member.target.id == **primary);
                if member.is_some_and(|member| member.target.address != pool.route) {
                    wrong.push(format!("leads {name} to {}, which is not the primary", pool.route));
                }
            }
        }
        wrong
    }
}
