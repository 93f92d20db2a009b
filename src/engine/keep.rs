//! What a run has set at proxies stays set: one that is restarted or reloaded meanwhile forgets its weights, and gets them again.
//!
//! Only where the process is younger than the run's last change: what differs at an older one somebody has set on purpose, and the
//! next step's own check finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::Instant;

use super::run::Run;
use crate::event::Event;
use crate::journal::{Past, Record};
use crate::model::{
    Action, Backends, Condition, Facts, ForeignName, FromTo, Observed, ProxyFacts, Saved, Scope, ServerSetting, Span,
    TargetId,
};
use crate::plan::{Assumption, Plan, Step, StepId, Work};
use crate::provider::Outcome;

/// How often the proxies are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often one that does not answer is asked again.
const LOOK: Duration = Duration::from_millis(200);

/// How long setting one again may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How soon it is tried again where that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// Proxies tell the age of their process in whole seconds.
const RESOLUTION: Duration = Duration::from_secs(1);

/// What this run has set at one proxy. Whoever holds it is the only one of the run who sets anything there.
#[derive(Debug, Default)]
pub(super) struct Kept {
    settings: BTreeMap<ForeignName, BTreeMap<ForeignName, ServerSetting>>,
    /// The step that set it last, and when.
    last: Option<(StepId, Instant)>,
    /// When setting it again failed.
    failed: Option<Instant>,
}

impl Kept {
    /// A step has set, or set back, what its action says.
    pub(super) fn set(&mut self, step: &StepId, action: &Action) {
        self.set_at(step, action, Instant::now());
    }

    /// The same at an earlier moment.
    pub(super) fn set_at(&mut self, step: &StepId, action: &Action, at: Instant) {
        let Action::SetShare { backends } = action else { return };
        for (backend, servers) in backends {
            let kept = self.settings.entry(backend.clone()).or_default();
            kept.extend(servers.iter().map(|(name, share)| (name.clone(), share.to)));
        }
        self.last = Some((step.clone(), at));
    }

    /// What leads from the present settings to those that were set.
    fn lost(&self, facts: &ProxyFacts) -> Backends<FromTo<ServerSetting>> {
        let mut lost: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (backend, servers) in &self.settings {
            let Some(Some(found)) = facts.backends.get(backend) else { continue };
            for (name, to) in servers {
                let Some(from) = found.servers.get(name).map(|server| server.setting) else { continue };
                if !from.same_effect(*to) {
                    lost.entry(backend.clone()).or_default().insert(name.clone(), FromTo { from, to: *to });
                }
            }
        }
        lost.into_iter().map(|(backend, servers)| (backend, Arc::new(servers))).collect()
    }
}

/// The proxies that a plan sets.
pub(super) fn of(plan: &Plan) -> BTreeMap<TargetId, Mutex<Kept>> {
    let set = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Act { target, action: Action::SetShare { .. } } => Some((target.clone(), Mutex::default())),
        _ => None,
    });
    set.collect()
}

/// What earlier processes of the run have set, as of `now`.
pub(super) fn remember(kept: &mut BTreeMap<TargetId, Mutex<Kept>>, plan: &Plan, past: &Past, now: Timestamp) {
    let mut done: Vec<(&Step, Timestamp)> =
        plan.steps.iter().filter_map(|step| Some((step, past.done.get(&step.id)?.at))).collect();
    done.sort_by_key(|(_, at)| *at);
    for (step, at) in done {
        let Work::Act { target, action } = &step.work else { continue };
        let Some(kept) = kept.get_mut(target) else { continue };
        let ago = Duration::try_from(now.duration_since(at)).unwrap_or_default();
        let at = Instant::now().checked_sub(ago).unwrap_or_else(Instant::now);
        kept.get_mut().set_at(&step.id, action, at);
    }
}

/// Looks after the proxies until the run has ended or is in trouble.
pub(super) async fn watch(run: Arc<Run>, mut ended: watch::Receiver<bool>) {
    let mut halt = run.halt.subscribe();
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = ended.wait_for(|ended| *ended) => return,
            _ = halt.wait_for(|halt| *halt) => return,
        }
        let looking = run.kept.iter().map(|(proxy, kept)| async {
            // One that a step is setting just now is looked at next time.
            if let Ok(mut kept) = kept.try_lock() {
                run.set_again(proxy, &mut kept).await;
            }
        });
        futures_util::future::join_all(looking).await;
    }
}

impl Run {
    /// For an action that sets a proxy: what the run keeps there.
    pub(super) async fn keep(&self, target: &TargetId, action: &Action) -> Option<MutexGuard<'_, Kept>> {
        match action {
            Action::SetShare { .. } => Some(self.kept.get(target)?.lock().await),
            _ => None,
        }
    }

    /// Sets a proxy again that was restarted since the run set it, and tells so. The way back does so only where its own action does
    /// not apply: a proxy that came back with the weights that are wanted is left alone. True if it was set.
    pub(super) async fn set_again(&self, proxy: &TargetId, kept: &mut Kept) -> bool {
        let Some((step, at)) = kept.last.clone() else { return false };
        if kept.failed.is_some_and(|failed| failed.elapsed() < AGAIN) {
            return false;
        }
        let Ok(target) = self.engine.target(proxy) else { return false };
        let scope = Scope::Backends(kept.settings.keys().cloned().collect());
        let Observed::Known { value: Facts::Proxy(facts), .. } = self.engine.observe_one(&target, &scope).await else {
            return false;
        };
        let lost = kept.lost(&facts);
        if facts.age > at.elapsed() + RESOLUTION || lost.is_empty() {
            return false;
        }
        let name = proxy.name();
        let age = match facts.age.as_secs() {
            0 => "less than a second".to_owned(),
            seconds => Span::secs(seconds).to_string(),
        };
        let servers = lost.values().map(|servers| servers.len()).sum::<usize>();
        let what = format!("{name} was restarted {age} ago and forgot the weights of {servers} servers");
        let cause = if facts.capabilities.persistent {
            "; its state file was not loaded: it needs `server-state-file` in `global` and `load-server-state-from-file global`"
        } else {
            ""
        };
        let action = Action::SetShare { backends: lost };
        match self.restore(proxy, &step, &action, format!("{what}; they were set again")).await {
            Ok(()) => {
                kept.set(&step, &action);
                kept.failed = None;
                self.tell(Event::Warning { text: format!("{what}: they were set again{cause}") });
                true
            }
            Err(why) => {
                kept.failed = Some(Instant::now());
                self.tell(Event::Warning { text: format!("{what}, and they could not be set again: {why}{cause}") });
                false
            }
        }
    }

    /// After an attempt at a proxy that touched nothing: true as soon as the proxy answers and is as the step assumes, as it is after
    /// a restart.
    pub(super) async fn back_again(&self, step: &Step, proxy: &TargetId, kept: &mut Kept, deadline: Instant) -> bool {
        let Ok(target) = self.engine.target(proxy) else { return false };
        let nothing = Scope::Backends(BTreeSet::new());
        while Instant::now() + LOOK < deadline && !self.stopping() {
            if self.engine.observe_one(&target, &nothing).await.known().is_some() {
                self.set_again(proxy, kept).await;
                return self.check_before(std::slice::from_ref(step)).await.is_ok();
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// Carries the step out again, as far as it was lost: recorded as everything else is.
    async fn restore(&self, proxy: &TargetId, step: &StepId, action: &Action, done: String) -> Result<(), String> {
        let Action::SetShare { backends } = action else { return Ok(()) };
        let intended = Some(action.clone());
        let record = Record::StepStarted { step: step.clone(), assumed: Vec::new(), intended };
        let permit = self.journal.start(BTreeSet::from([step.clone()]), record).await.map_err(|why| why.to_string())?;
        let deadline = Instant::now() + DEADLINE;
        let outcome = self.apply(proxy, action, &permit, deadline).await?;
        let result = match outcome {
            Outcome::NotApplied(why) => Err((why.to_string(), false)),
            Outcome::Applied | Outcome::Seen(_) | Outcome::Unknown(_) => {
                let wanted = backends.iter().map(|(backend, servers)| {
                    let servers = servers.iter().map(|(name, share)| (name.clone(), share.to)).collect();
                    (backend.clone(), Arc::new(servers))
                });
                let condition = Condition::Servers { backends: wanted.collect() };
                let demanded = Assumption { target: proxy.clone(), condition };
                self.engine.verify(&demanded, deadline).await.map_err(|why| (why, true))
            }
        };
        let (result, record) = match result {
            Ok(facts) => {
                self.warn_unsaved(proxy, &facts);
                (Ok(()), Record::StepDone { step: step.clone(), verified: done })
            }
            Err((why, unknown)) => (Err(why.clone()), Record::StepFailed { step: step.clone(), unknown, why }),
        };
        self.journal.record(record).await.map_err(|why| why.to_string())?;
        result
    }

    /// Tells that what was set at a proxy would not survive its reload, though that is configured.
    pub(super) fn warn_unsaved(&self, target: &TargetId, facts: &Facts) {
        let why = match facts.proxy().map(|facts| &facts.saved) {
            Some(Saved::Unknown(why)) => why.to_string(),
            Some(Saved::Outdated(what)) => what.clone(),
            _ => return,
        };
        let text = format!("{} is set, but a reload would forget it: {why}", target.name());
        self.tell(Event::Warning { text });
    }
}
