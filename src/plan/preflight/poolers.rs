//! What stands against a switchover at the poolers.

use std::time::Duration;

use super::Found;
use crate::model::{Database, Live, PoolMode, Route, Span, TargetId};
use crate::plan::live;
use crate::topology::Topology;

impl Found {
    pub(super) fn poolers(&mut self, topology: &Topology, database: &Database, from: &TargetId, live: &Live) {
        let Route::PoolerDatabase(entry) = &database.route else {
            return self.fixed(
                format!("{} is routed by a proxy backend, which cannot hold its clients back", database.name),
                "put poolers in front of it: `route: {pooler_database: …}`",
            );
        };
        if database.poolers.is_empty() {
            self.fixed(format!("{} has no pooler that could hold its clients back", database.name), "list its poolers");
        }
        let primary = database.members.get(from.name()).map(|member| member.target.address.as_str());
        for name in &database.poolers {
            let Some(pooler) = topology.poolers.get(name) else { continue };
            let facts = match live::facts(live, &pooler.target.id) {
                Ok(facts) => facts,
                Err(why) => {
                    self.fixed(format!("{name} does not answer: {why}"), "repair it, or take it out of the topology");
                    continue;
                }
            };
            let Some(facts) = facts.pooler() else { continue };
            if !facts.writable {
                self.fixed(format!("the console of {name} does not obey us"), "add its `admin` user to admin_users");
            }
            for gap in &facts.gaps {
                self.fixed(
                    format!("{name} could not be paused as a whole: {gap}"),
                    "give every process an address of its own beside the shared one (`listen_addr`) or a socket, and list all of them \
                     as `consoles` in the pooler's settings (docs/providers.md)",
                );
            }
            if facts.query_wait_timeout > Duration::ZERO && facts.query_wait_timeout < topology.policy.max_write_stall.0
            {
                self.fixed(
                    format!(
                        "{name} ends clients that wait for {}, before the longest stall ({})",
                        Span(facts.query_wait_timeout),
                        topology.policy.max_write_stall
                    ),
                    "raise its query_wait_timeout",
                );
            }
            match facts.databases.get(entry) {
                Some(Some(pool)) => {
                    if pool.mode == PoolMode::Session {
                        self.fixed(
                            format!("{name} lends {entry} for whole sessions: pausing would end them"),
                            "set pool_mode = transaction",
                        );
                    }
                    if pool.own_min_size > 0 {
                        self.fixed(
                            format!(
                                "the entry {entry} of {name} keeps {} servers open (min_pool_size), also while it is paused: \
                                 logins that fail then make it turn clients away",
                                pool.own_min_size
                            ),
                            "take min_pool_size out of the entry and RELOAD; the one in [pgbouncer] is set to 0 for the pause",
                        );
                    }
                    if pool.paused {
                        self.fixed(
                            format!("{entry} is paused at {name} already"),
                            "`handover apply --resume` if a run has died there; else find out by whom, and `RESUME` it",
                        );
                    }
                    match &pool.written_route {
                        None => self.fixed(
                            format!("the configuration of {name} cannot be read: its route could not be changed"),
                            "give it a `host` and the setting `databases`, and see that the host answers within --timeout",
                        ),
                        Some(written) if *written != pool.route => self.fixed(
                            format!("{name} has {written} written as route of {entry}, and {} loaded", pool.route),
                            "run `handover plan` first: it repairs the route",
                        ),
                        Some(_) => {}
                    }
                    if pool.route.contains(" and ") {
                        self.fixed(
                            format!("the processes of {name} lead {entry} to different places: {}", pool.route),
                            "let all of them include the same file of routes, and RELOAD",
                        );
                    } else if Some(pool.route.as_str()) != primary {
                        self.fixed(
                            format!("{name} leads {entry} to {}, not to the primary", pool.route),
                            "run `handover plan` first: it repairs the route",
                        );
                    }
                }
                _ => self.fixed(format!("{name} has no database {entry}"), "add it to its [databases] section"),
            }
        }
    }
}
