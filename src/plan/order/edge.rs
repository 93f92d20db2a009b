//! The edge: servers are admitted, shares shift in stages, sessions end, servers rest.

use std::collections::{BTreeMap, BTreeSet};

use super::{Backends, Order, ServersByProxy};
use crate::model::{
    Action, Admission, Condition, DrainThen, FacilityName, ForeignName, FromTo, Percent, SAVE_STATE, ServerSetting,
    ServiceName, Span, TargetId,
};
use crate::plan::build::{After, step};
use crate::plan::diff::{ShareChange, shares_text};
use crate::plan::step::{Gate, Step, Wait, Work};
use crate::plan::weights::{between, weights};

impl<'a> Order<'a> {
    /// Servers of entering facilities out of maintenance, with weight 0 until the edge shifts; then proof that they work.
    pub(super) fn admit(&mut self, needs: &After) -> After {
        if self.entering.is_empty() {
            return needs.clone();
        }
        let names = crate::model::text::list(&self.entering);
        let stage = self.builder.stage(
            format!("Application servers of {names} back, without requests yet"),
            vec![format!("nothing changes for users: the servers of {names} have weight 0")],
        );
        let mut done = After::new();
        for (proxy, changes) in self.by_proxy() {
            let mut backends: Backends<ServerSetting> = BTreeMap::new();
            for change in changes {
                let back = change.admissions.iter().filter(|(server, admission)| {
                    **admission == Admission::Ready
                        && change.settings.get(*server).is_some_and(|s| s.admission != Admission::Ready)
                });
                let servers: BTreeMap<_, _> = back
                    .map(|(server, _)| (server.clone(), ServerSetting { weight: 0, admission: Admission::Ready }))
                    .collect();
                if !servers.is_empty() {
                    backends.insert(change.backend.clone(), servers);
                }
            }
            let up = keys(&backends);
            let Some(set) = self.set_share(proxy, backends, format!("share.admit.{}", proxy.name()), stage) else {
                continue;
            };
            let title = format!("{}: servers of {names} ready, weight 0", proxy.name());
            let set = Step { title, ..set }
                .why("They are health-checked again before they get requests.")
                .needs(needs)
                .after(proxy, Condition::ServersUp { backends: up })
                .takes(Span::secs(2), Span::secs(30));
            done.insert(self.builder.push(set));
        }
        let done = if done.is_empty() { needs.clone() } else { done };
        self.synthetic(stage, &done)
    }

    fn synthetic(&mut self, stage: usize, needs: &After) -> After {
        let services: BTreeSet<ServiceName> = self.changes.shares.iter().map(|change| change.service.clone()).collect();
        let addresses: BTreeSet<String> = self
            .topology
            .proxies
            .values()
            .filter(|proxy| self.entering.contains(&proxy.target.facility))
            .map(|proxy| proxy.target.address.clone())
            .collect();
        if addresses.is_empty() || services.is_empty() {
            return needs.clone();
        }
        let names = crate::model::text::list(&self.entering);
        let id = self.builder.push(
            step(
                format!(
                    "gate.synthetic.{}",
                    self.entering.iter().map(FacilityName::as_str).collect::<Vec<_>>().join("+")
                ),
                stage,
                format!("a request of each service through each proxy of {names} is answered"),
                Work::Gate { gate: Gate::Synthetic { services, addresses } },
            )
            .why("Proven before DNS sends users there.")
            .takes(Span::millis(200), Span::secs(30))
            .needs(needs),
        );
        After::from([id])
    }

    fn by_proxy(&self) -> BTreeMap<&'a TargetId, Vec<&'a ShareChange>> {
        let mut by_proxy: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for change in &self.changes.shares {
            by_proxy.entry(&change.proxy).or_default().push(change);
        }
        by_proxy
    }

    /// A step that sets servers of one proxy, from what is predicted to what is wanted; none where nothing differs.
    fn set_share(
        &mut self,
        proxy: &TargetId,
        wanted: Backends<ServerSetting>,
        id: String,
        stage: usize,
    ) -> Option<Step> {
        let predicted = self.settings.entry(proxy.clone()).or_default();
        let mut changed: Backends<FromTo<ServerSetting>> = BTreeMap::new();
        for (backend, servers) in wanted {
            let predicted = predicted.entry(backend.clone()).or_default();
            for (server, to) in servers {
                let from = predicted.insert(server.clone(), to).unwrap_or(to);
                if !from.same_effect(to) {
                    changed.entry(backend.clone()).or_default().insert(server, FromTo { from, to });
                }
            }
        }
        if changed.is_empty() {
            return None;
        }
        let side = |pick: fn(&FromTo<ServerSetting>) -> ServerSetting| Condition::Servers {
            backends: map_settings(&changed, pick),
        };
        let (before, after) = (side(|change| change.from), side(|change| change.to));
        let reversed = changed
            .iter()
            .map(|(backend, servers)| {
                (backend.clone(), servers.iter().map(|(server, change)| (server.clone(), change.reversed())).collect())
            })
            .collect();
        Some(
            step(id, stage, String::new(), Work::on(proxy, Action::SetShare { backends: changed.clone() }))
                .before(proxy, before.clone())
                .after(proxy, after)
                .undone_by(Action::SetShare { backends: reversed }, before),
        )
    }

    /// Shares from where they are to where they should be, in stages, each watched before the next.
    pub(super) fn shift(&mut self, needs: &After) -> After {
        let by_proxy = self.by_proxy();
        let largest = self
            .changes
            .shares
            .iter()
            .flat_map(|change| {
                change
                    .shares
                    .to
                    .iter()
                    .map(|(f, to)| change.shares.from.get(f).copied().unwrap_or_default().distance(*to))
            })
            .max();
        let Some(largest) = largest else { return needs.clone() };
        let first = self.topology.policy.stages.first().copied().unwrap_or(Percent::FULL);
        let stages: Vec<Percent> =
            if largest <= first { vec![Percent::FULL] } else { self.topology.policy.stages.clone() };
        let mut needs = needs.clone();
        for progress in stages {
            let last = progress == Percent::FULL;
            let mut titles = BTreeSet::new();
            let mut steps = Vec::new();
            for (proxy, changes) in &by_proxy {
                let mut wanted: Backends<ServerSetting> = BTreeMap::new();
                let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for change in changes {
                    let shares = between(&change.shares.from, &change.shares.to, progress);
                    let weights = weights(&shares, &change.participants, change.max_weight);
                    let setting = |server: &ForeignName, weight: u32| {
                        let leaving = change.admissions.get(server) != Some(&Admission::Ready);
                        match change.settings.get(server) {
                            // What is out already stays as it is.
                            Some(now) if leaving && now.admission != Admission::Ready => *now,
                            _ if leaving && last => ServerSetting { weight: 0, admission: Admission::Drain },
                            _ => ServerSetting { weight, admission: Admission::Ready },
                        }
                    };
                    let servers =
                        weights.iter().map(|(server, weight)| (server.clone(), setting(server, *weight))).collect();
                    wanted.insert(change.backend.clone(), servers);
                    texts.entry(shares_text(&shares)).or_default().push(change.service.to_string());
                }
                let shares: Vec<String> =
                    texts.iter().map(|(shares, services)| format!("{} → {shares}", services.join(", "))).collect();
                let id = format!("share.{progress}.{}", proxy.name());
                if let Some(set) = self.set_share(proxy, wanted, id, 0) {
                    titles.extend(shares.iter().cloned());
                    steps.push(Step { title: format!("{}: {}", proxy.name(), shares.join("; ")), ..set });
                }
            }
            if steps.is_empty() {
                continue;
            }
            let remains = if last { self.serving_line() } else { titles.iter().cloned().collect() };
            let stage = self.builder.stage(format!("Edge: {progress} of the shift{}", self.shift_text()), remains);
            let mut done = After::new();
            for set in steps {
                let set = Step { stage, ..set }
                    .why("Each proxy lists the servers of all facilities; new requests follow the weights at once.");
                done.insert(self.builder.push(set.needs(&needs)));
            }
            needs = self.soak(stage, progress, &done);
        }
        needs
    }

    fn shift_text(&self) -> String {
        let mut text = String::new();
        if !self.leaving.is_empty() {
            text += &format!(" away from {}", crate::model::text::list(&self.leaving));
        }
        if !self.entering.is_empty() {
            text += &format!(" to {}", crate::model::text::list(&self.entering));
        }
        text
    }

    fn soak(&mut self, stage: usize, progress: Percent, needs: &After) -> After {
        let policy = &self.topology.policy;
        let mut watched: ServersByProxy = BTreeMap::new();
        for change in &self.changes.shares {
            let serving = change
                .participants
                .iter()
                .filter(|(_, participant)| self.desired.serving.contains(&participant.facility))
                .map(|(server, _)| server.clone())
                .collect();
            watched.entry(change.proxy.clone()).or_default().insert(change.backend.clone(), serving);
        }
        let gate = Gate::Soak {
            window: policy.soak,
            max_error_rate: policy.gates.max_error_rate,
            max_queue: policy.gates.max_queue,
            min_sample: policy.gates.min_sample,
            watched,
        };
        let id = self.builder.push(
            step(
                format!("gate.soak.{progress}"),
                stage,
                format!(
                    "watch {}: at most {} failed requests, queues up to {}",
                    policy.soak, policy.gates.max_error_rate, policy.gates.max_queue
                ),
                Work::Gate { gate },
            )
            .why("If the survivors get sick, the shift is taken back at once.")
            .takes(policy.soak, Span(policy.soak.0 * 2 + std::time::Duration::from_secs(30)))
            .needs(needs),
        );
        After::from([id])
    }

    /// The servers of leaving facilities at each proxy.
    fn leaving_servers(&self) -> ServersByProxy {
        let mut servers: ServersByProxy = BTreeMap::new();
        for change in &self.changes.shares {
            let names: BTreeSet<ForeignName> = change
                .participants
                .iter()
                .filter(|(_, participant)| self.leaving.contains(&participant.facility))
                .map(|(server, _)| server.clone())
                .collect();
            if !names.is_empty() {
                servers.entry(change.proxy.clone()).or_default().insert(change.backend.clone(), names);
            }
        }
        servers
    }

    pub(super) fn sessions(&mut self, needs: &After) -> After {
        let servers = self.leaving_servers();
        if servers.is_empty() {
            return needs.clone();
        }
        let policy = &self.topology.policy;
        let names = crate::model::text::list(&self.leaving);
        let stage = self.builder.stage(
            format!("Sessions that remain on {names} end; its servers rest"),
            vec![match policy.drain_then {
                DrainThen::Leave => format!("sessions older than {} are left and reported", policy.drain_deadline),
                DrainThen::Cut => format!("sessions older than {} are cut", policy.drain_deadline),
            }],
        );
        let wait = Wait::Sessions { servers, deadline: policy.drain_deadline, then: policy.drain_then };
        let id = self.builder.push(
            step(
                "wait.sessions",
                stage,
                format!("wait until no session is left on the servers of {names}, at most {}", policy.drain_deadline),
                Work::Wait { wait },
            )
            .why("Requests that run are finished, not cut off.")
            .takes(Span::secs(1), Span(policy.drain_deadline.0 + std::time::Duration::from_secs(30)))
            .needs(needs),
        );
        After::from([id])
    }

    /// Proxies that are as they should be are saved so: only for their next reload.
    pub(super) fn saves(&mut self) -> After {
        let mut done = After::new();
        if self.changes.saves.is_empty() {
            return done;
        }
        let stage = self.builder.stage("Proxies: weights saved for their next reload", Vec::new());
        for change in &self.changes.saves {
            let names = change.backends.iter().map(ToString::to_string).collect();
            let args = BTreeMap::from([("backends".to_owned(), names)]);
            let verb = SAVE_STATE.to_owned();
            let saved = Condition::Native { verb: verb.clone(), args: args.clone(), done: true };
            let name = change.proxy.name();
            let save = step(
                format!("share.save.{name}"),
                stage,
                format!("{name}: save weights and states for its next reload"),
                Work::on(&change.proxy, Action::Native { verb, args }),
            )
            .why("What is saved differs from what is set.")
            .after(&change.proxy, saved);
            done.insert(self.builder.push(save));
        }
        done
    }

    pub(super) fn maintenance(&mut self, needs: &After) -> After {
        let servers = self.leaving_servers();
        let mut done = After::new();
        let stage = self.builder.stages.len().saturating_sub(1);
        for (proxy, backends) in servers {
            let wanted: Backends<ServerSetting> = backends
                .into_iter()
                .map(|(backend, names)| {
                    let rest = ServerSetting { weight: 0, admission: Admission::Maint };
                    (backend, names.into_iter().map(|name| (name, rest)).collect())
                })
                .collect();
            let id = format!("share.maint.{}", proxy.name());
            if let Some(set) = self.set_share(&proxy, wanted, id, stage) {
                let title =
                    format!("{}: servers of {} in maintenance", proxy.name(), crate::model::text::list(&self.leaving));
                let set = Step { title, ..set }.why("No health check disturbs the work on them.").needs(needs);
                done.insert(self.builder.push(set));
            }
        }
        if done.is_empty() { needs.clone() } else { done }
    }
}

fn keys<T>(backends: &Backends<T>) -> BTreeMap<ForeignName, BTreeSet<ForeignName>> {
    backends.iter().map(|(backend, servers)| (backend.clone(), servers.keys().cloned().collect())).collect()
}

fn map_settings<T>(backends: &Backends<T>, pick: fn(&T) -> ServerSetting) -> Backends<ServerSetting> {
    backends
        .iter()
        .map(|(backend, servers)| {
            (backend.clone(), servers.iter().map(|(server, value)| (server.clone(), pick(value))).collect())
        })
        .collect()
}
