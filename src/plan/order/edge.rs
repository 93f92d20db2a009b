//! The edge: servers are admitted, shares shift in stages, sessions end, servers rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Order, ServersByProxy};
use crate::model::{
    Action, Admission, Backends, Condition, DrainThen, FacilityName, ForeignName, FromTo, Percent, SAVE_STATE,
    ServerSetting, ServiceName, Span, TargetId,
};
use crate::plan::build::{After, step};
use crate::plan::diff::{ShareChange, shares_text};
use crate::plan::live;
use crate::plan::step::{Gate, Step, Wait, Work};
use crate::plan::weights::{between, weights};

/// How the servers of a service are set, by name.
pub(super) type Setting = BTreeMap<ForeignName, ServerSetting>;

/// What a step does to the servers of a service at one backend. It is the same at all proxies that are set alike.
struct Move {
    there: Arc<BTreeMap<ForeignName, FromTo<ServerSetting>>>,
    back: Arc<BTreeMap<ForeignName, FromTo<ServerSetting>>>,
    from: Arc<Setting>,
    to: Arc<Setting>,
}

impl Move {
    /// From what is predicted to what is wanted; none where nothing differs.
    fn new(predicted: &Arc<Setting>, wanted: &Arc<Setting>) -> Option<Self> {
        let there: BTreeMap<_, _> = wanted
            .iter()
            .filter_map(|(server, to)| {
                let from = *predicted.get(server).unwrap_or(to);
                (!from.same_effect(*to)).then_some((server.clone(), FromTo { from, to: *to }))
            })
            .collect();
        if there.is_empty() {
            return None;
        }
        let of = |setting: &Arc<Setting>, pick: fn(&FromTo<ServerSetting>) -> ServerSetting| {
            let whole = there.len() == setting.len();
            let part = || there.iter().map(|(server, change)| (server.clone(), pick(change))).collect();
            if whole { Arc::clone(setting) } else { Arc::new(part()) }
        };
        Some(Self {
            back: Arc::new(there.iter().map(|(server, change)| (server.clone(), change.reversed())).collect()),
            from: of(predicted, |change| change.from),
            to: of(wanted, |change| change.to),
            there: Arc::new(there),
        })
    }
}

/// What a step does to one proxy.
#[derive(Default)]
pub(super) struct ProxyMove {
    there: Backends<FromTo<ServerSetting>>,
    back: Backends<FromTo<ServerSetting>>,
    from: Backends<ServerSetting>,
    to: Backends<ServerSetting>,
}

impl ProxyMove {
    fn add(&mut self, backend: &ForeignName, moved: &Move) {
        let Move { there, back, from, to } = moved;
        self.there.insert(backend.clone(), Arc::clone(there));
        self.back.insert(backend.clone(), Arc::clone(back));
        self.from.insert(backend.clone(), Arc::clone(from));
        self.to.insert(backend.clone(), Arc::clone(to));
    }

    pub(super) fn step(self, proxy: &TargetId, id: String, stage: usize, title: String) -> Step {
        let (before, after) = (Condition::Servers { backends: self.from }, Condition::Servers { backends: self.to });
        step(id, stage, title, Work::on(proxy, Action::SetShare { backends: self.there }))
            .before(proxy, before.clone())
            .after(proxy, after)
            .undone_by(Action::SetShare { backends: self.back }, before)
    }
}

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
        let rest = ServerSetting { weight: 0, admission: Admission::Ready };
        let back = |change: &ShareChange| -> Setting {
            let out = |server| change.settings.get(server).is_some_and(|s| s.admission != Admission::Ready);
            let back = change.admissions.iter().filter(|(server, to)| **to == Admission::Ready && out(*server));
            back.map(|(server, _)| (server.clone(), rest)).collect()
        };
        let returning: Vec<Setting> = self.changes.shares.iter().map(back).collect();
        // One that is sick already need not recover: that the others are enough is a gate's matter.
        let well = |change: &ShareChange, name: &ForeignName| {
            let service = self.topology.services.get(&change.service);
            let server = service.and_then(|service| service.servers.get(name.as_str()));
            server.is_some_and(|server| live::is_healthy(self.live, &server.target.id))
        };
        let names_of = |(change, setting): (&ShareChange, &Setting)| {
            let names = setting.keys().filter(|name| well(change, name)).cloned();
            Arc::new(names.collect::<BTreeSet<ForeignName>>())
        };
        let mut up = self.by_proxy(&self.changes.shares.iter().zip(&returning).map(names_of).collect::<Vec<_>>());
        for (proxy, set) in self.set_shares(returning) {
            let mut backends = up.remove(proxy).unwrap_or_default();
            backends.retain(|_, servers| !servers.is_empty());
            let title = format!("{}: servers of {names} ready, weight 0", proxy.name());
            let set = set
                .step(proxy, format!("share.admit.{}", proxy.name()), stage, title)
                .why("They are health-checked again before they get requests.")
                .needs(needs)
                .after(proxy, Condition::ServersUp { backends })
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

    /// What is said of each change of a share, by proxy and backend.
    pub(super) fn by_proxy<T: Clone>(&self, of_changes: &[T]) -> BTreeMap<&'a TargetId, BTreeMap<ForeignName, T>> {
        let mut by_proxy: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (change, of_change) in self.changes.shares.iter().zip(of_changes) {
            for (proxy, backend) in &change.at {
                by_proxy.entry(proxy).or_default().insert(backend.clone(), of_change.clone());
            }
        }
        by_proxy
    }

    /// Sets servers, for each change of a share, from what is predicted to what is wanted; nothing for proxies where nothing differs.
    pub(super) fn set_shares(&mut self, wanted: Vec<Setting>) -> BTreeMap<&'a TargetId, ProxyMove> {
        let mut by_proxy: BTreeMap<_, ProxyMove> = BTreeMap::new();
        for ((change, predicted), wanted) in self.changes.shares.iter().zip(&mut self.settings).zip(wanted) {
            let wanted = Arc::new(wanted);
            if let Some(moved) = Move::new(predicted, &wanted) {
                for (proxy, backend) in &change.at {
                    by_proxy.entry(proxy).or_default().add(backend, &moved);
                }
            }
            if wanted.len() == predicted.len() {
                *predicted = wanted;
            } else if !wanted.is_empty() {
                Arc::make_mut(predicted).extend(wanted.iter().map(|(server, setting)| (server.clone(), *setting)));
            }
        }
        by_proxy
    }

    /// Shares from where they are to where they should be, in stages, each watched before the next.
    pub(super) fn shift(&mut self, needs: &After) -> After {
        let changes = &self.changes.shares;
        let off = |change: &ShareChange| {
            let FromTo { from, to } = &change.shares;
            to.iter().map(|(f, to)| from.get(f).copied().unwrap_or_default().distance(*to)).max()
        };
        let largest = changes.iter().filter_map(off).max();
        let Some(largest) = largest else { return needs.clone() };
        let first = self.topology.policy.stages.first().copied().unwrap_or(Percent::FULL);
        let stages: Vec<Percent> =
            if largest <= first { vec![Percent::FULL] } else { self.topology.policy.stages.clone() };
        let watched = self.servers_of(&self.desired.serving);
        let mut needs = needs.clone();
        for progress in stages {
            let last = progress == Percent::FULL;
            let (texts, wanted): (Vec<_>, Vec<_>) =
                changes.iter().map(|change| at_stage(change, progress, last)).unzip();
            let mut titles = BTreeSet::new();
            let mut steps = Vec::new();
            let shares = self.share_texts(&texts);
            for (proxy, set) in self.set_shares(wanted) {
                let Some(shares) = shares.get(proxy) else { continue };
                titles.extend(shares.iter().cloned());
                let title = format!("{}: {}", proxy.name(), shares.join("; "));
                steps.push(set.step(proxy, format!("share.{progress}.{}", proxy.name()), 0, title));
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
            needs = self.soak(stage, progress, watched.clone(), &done);
        }
        needs
    }

    /// The shares of each proxy at a stage, those of services that are shared alike together: `a, b → west 45%, east 55%`.
    pub(super) fn share_texts(&self, texts: &[String]) -> BTreeMap<&'a TargetId, Vec<String>> {
        let mut by_proxy: BTreeMap<_, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for (change, text) in self.changes.shares.iter().zip(texts) {
            for (proxy, _) in &change.at {
                by_proxy.entry(proxy).or_default().entry(text.as_str()).or_default().push(change.service.as_str());
            }
        }
        let line = |(shares, services): (&str, Vec<&str>)| format!("{} → {shares}", services.join(", "));
        by_proxy.into_iter().map(|(proxy, texts)| (proxy, texts.into_iter().map(line).collect())).collect()
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

    fn soak(&mut self, stage: usize, progress: Percent, watched: ServersByProxy, needs: &After) -> After {
        let policy = &self.topology.policy;
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

    /// The servers of these facilities at each proxy.
    fn servers_of(&self, facilities: &BTreeSet<FacilityName>) -> ServersByProxy {
        let here = |change: &ShareChange| {
            let servers = change.participants.iter().filter(|(_, server)| facilities.contains(&server.facility));
            Arc::new(servers.map(|(name, _)| name.clone()).collect::<BTreeSet<ForeignName>>())
        };
        let servers: Vec<Arc<BTreeSet<ForeignName>>> = self.changes.shares.iter().map(here).collect();
        self.by_proxy(&servers).into_iter().map(|(proxy, backends)| (proxy.clone(), backends)).collect()
    }

    pub(super) fn sessions(&mut self, needs: &After) -> After {
        let mut servers = self.servers_of(&self.leaving);
        for backends in servers.values_mut() {
            backends.retain(|_, servers| !servers.is_empty());
        }
        servers.retain(|_, backends| !backends.is_empty());
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
        let rest = ServerSetting { weight: 0, admission: Admission::Maint };
        let resting = |change: &ShareChange| -> Setting {
            let here = change.participants.iter().filter(|(_, server)| self.leaving.contains(&server.facility));
            here.map(|(name, _)| (name.clone(), rest)).collect()
        };
        let wanted = self.changes.shares.iter().map(resting).collect();
        let mut done = After::new();
        let stage = self.builder.stages.len().saturating_sub(1);
        for (proxy, set) in self.set_shares(wanted) {
            let names = crate::model::text::list(&self.leaving);
            let title = format!("{}: servers of {names} in maintenance", proxy.name());
            let set = set.step(proxy, format!("share.maint.{}", proxy.name()), stage, title);
            done.insert(self.builder.push(set.why("No health check disturbs the work on them.").needs(needs)));
        }
        if done.is_empty() { needs.clone() } else { done }
    }
}

/// The shares of a service at a stage as text, and how its servers are then set.
fn at_stage(change: &ShareChange, progress: Percent, last: bool) -> (String, Setting) {
    let shares = between(&change.shares.from, &change.shares.to, progress);
    let setting = |(server, weight): (ForeignName, u32)| {
        let leaving = change.admissions.get(&server) != Some(&Admission::Ready);
        let setting = match change.settings.get(&server) {
            // What is out already stays as it is.
            Some(now) if leaving && now.admission != Admission::Ready => *now,
            _ if leaving && last => ServerSetting { weight: 0, admission: Admission::Drain },
            _ => ServerSetting { weight, admission: Admission::Ready },
        };
        (server, setting)
    };
    let weights = weights(&shares, &change.participants, change.max_weight);
    (shares_text(&shares), weights.into_iter().map(setting).collect())
}
