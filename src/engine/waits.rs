//! Waiting with progress: for caches to forget, for sessions to end. A stop request ends every wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{Run, Trouble};
use crate::event::{Event, Residual, WaitCause};
use crate::journal::Record;
use crate::model::{Action, BackendServers, CLOSE_FRONTENDS, DrainThen, Span, TargetId, text::list};
use crate::plan::{Step, Wait, live};
use crate::provider::Outcome;

/// How often sessions are counted.
const COUNT_INTERVAL: Duration = Duration::from_millis(250);

/// How often a changed number of sessions is recorded at most: enough for a curve, and nothing beside the step's own records.
const RECORD_INTERVAL: Duration = Duration::from_secs(2);

/// How long clients that were told to leave with their next answer have for that; what is idle for longer loses no request.
const LEAVING: Duration = Duration::from_secs(10);

/// How often a wait says how far it is: a part of its length, within these.
const PROGRESS_PART: u32 = 500;
const PROGRESS_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

type Servers = BTreeMap<TargetId, BackendServers>;

impl Run {
    /// Waits as a step says.
    pub(super) async fn wait(self: &Arc<Self>, step: &Step, wait: &Wait) -> Result<String, Trouble> {
        match wait {
            Wait::OldTtl { time } => self.old_ttl(step, *time).await,
            Wait::Sessions { servers, deadline, then } => self.sessions(step, servers, *deadline, *then).await,
            Wait::Connections { proxies, deadline } => self.connections(step, proxies, *deadline).await,
        }
    }

    async fn old_ttl(&self, step: &Step, time: Span) -> Result<String, Trouble> {
        let began = Instant::now();
        let (shortest, longest) = PROGRESS_INTERVALS;
        let interval = (time.0 / PROGRESS_PART).clamp(shortest, longest);
        let until = self.engine.now().checked_add(time.0).unwrap_or(jiff::Timestamp::MAX);
        let until = until.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC");
        loop {
            let elapsed = began.elapsed();
            if elapsed >= time.0 {
                self.log().waited(&step.id, WaitCause::Ttl, elapsed);
                return Ok(format!("{time} have passed since the last server served the new answers"));
            }
            let text = format!("{} of {time}, until {until}", Span::secs(elapsed.as_secs()));
            let fraction = Some(elapsed.as_secs_f64() / time.0.as_secs_f64());
            self.tell(Event::StepProgress { step: step.id.clone(), text, fraction });
            self.pause(interval.min(time.0 - elapsed)).await?;
        }
    }

    async fn sessions(
        self: &Arc<Self>,
        step: &Step,
        servers: &Servers,
        deadline: Span,
        then: DrainThen,
    ) -> Result<String, Trouble> {
        let began = Instant::now();
        let ids: BTreeSet<TargetId> = servers.keys().cloned().collect();
        let mut recorded: Option<(Duration, u64)> = None;
        loop {
            let live = self.engine.observe_only(&ids).await;
            let (residual, unknown) = count(&live, servers, then == DrainThen::Cut);
            let total: u64 = residual.iter().map(|residual| residual.sessions).sum();
            let elapsed = began.elapsed();
            let due = |(at, was): (Duration, u64)| was != total && (total == 0 || elapsed >= at + RECORD_INTERVAL);
            if unknown.is_empty() && recorded.is_none_or(due) {
                self.record(Record::Sessions { step: step.id.clone(), remaining: total }).await?;
                recorded = Some((elapsed, total));
            }
            if total == 0 && unknown.is_empty() {
                self.log().waited(&step.id, WaitCause::Sessions, elapsed);
                return Ok("no session is left".to_owned());
            }
            if elapsed >= deadline.0 {
                self.log().waited(&step.id, WaitCause::Sessions, elapsed);
                if !unknown.is_empty() {
                    return Err(Trouble::Held(
                        step.id.clone(),
                        format!("sessions cannot be counted: {}", unknown.join("; ")),
                    ));
                }
                if then == DrainThen::Cut {
                    self.cut(step, servers).await?;
                }
                self.log().residual(residual);
                let fate = if then == DrainThen::Cut { "were cut" } else { "are left to end by themselves" };
                return Ok(format!("{total} sessions had not ended after {deadline} and {fate}"));
            }
            let text = match total {
                0 => unknown.join("; "),
                1 => "1 session remains".to_owned(),
                several => format!("{several} sessions remain"),
            };
            self.tell(Event::StepProgress { step: step.id.clone(), text, fraction: None });
            self.pause(COUNT_INTERVAL.min(deadline.0.saturating_sub(elapsed))).await?;
        }
    }

    async fn connections(
        self: &Arc<Self>,
        step: &Step,
        proxies: &BTreeSet<TargetId>,
        deadline: Span,
    ) -> Result<String, Trouble> {
        let began = Instant::now();
        let mut sent_away = false;
        loop {
            let live = self.engine.observe_only(proxies).await;
            let (connected, unknown) = connected(&live, proxies);
            let elapsed = began.elapsed();
            if connected.is_empty() && unknown.is_empty() {
                self.log().waited(&step.id, WaitCause::Sessions, elapsed);
                return Ok(match sent_away {
                    false => "no client is connected".to_owned(),
                    true => format!("no client is connected; those that were after {deadline} left with an answer"),
                });
            }
            let text = remain(&connected, &unknown);
            if elapsed >= deadline.0 {
                if !unknown.is_empty() {
                    self.log().waited(&step.id, WaitCause::Sessions, elapsed);
                    return Err(Trouble::Held(step.id.clone(), format!("connections cannot be counted: {text}")));
                }
                if !sent_away {
                    self.send_away(step, &connected, &live).await?;
                    sent_away = true;
                }
                if elapsed >= deadline.0 + LEAVING {
                    self.log().waited(&step.id, WaitCause::Sessions, elapsed);
                    return Ok(format!("{text}, idle for {LEAVING:?} or longer; they end with their proxies"));
                }
            }
            self.tell(Event::StepProgress { step: step.id.clone(), text, fraction: None });
            if sent_away {
                // A run that stopped here would leave closed proxies behind; it stops before the next step.
                tokio::time::sleep(COUNT_INTERVAL).await;
            } else {
                self.pause(COUNT_INTERVAL.min(deadline.0.saturating_sub(elapsed))).await?;
            }
        }
    }

    /// Closes the proxies that still have clients, where their provider can do that without a failed request.
    async fn send_away(
        &self,
        step: &Step,
        connected: &BTreeMap<TargetId, u64>,
        live: &crate::model::Live,
    ) -> Result<(), Trouble> {
        let closes = |id: &&TargetId| live::proxy(live, id).is_some_and(|facts| facts.capabilities.closes_frontends);
        let action = Action::Native { verb: CLOSE_FRONTENDS.to_owned(), args: BTreeMap::new() };
        for proxy in connected.keys().filter(closes) {
            self.act_on_clients(step, proxy, &action, "clients were not sent away").await?;
            self.log().closed(proxy);
        }
        Ok(())
    }

    async fn cut(&self, step: &Step, servers: &Servers) -> Result<(), Trouble> {
        for (proxy, backends) in servers {
            let action = Action::CutSessions { backends: backends.clone() };
            self.act_on_clients(step, proxy, &action, "sessions not cut").await?;
        }
        Ok(())
    }

    /// Acts at the end of a wait, journalled like a step.
    async fn act_on_clients(
        &self,
        step: &Step,
        proxy: &TargetId,
        action: &Action,
        otherwise: &str,
    ) -> Result<(), Trouble> {
        let intended = Some(action.clone());
        let record = Record::StepStarted { step: step.id.clone(), assumed: Vec::new(), intended };
        let permit = self.permit(std::slice::from_ref(step), record).await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        self.log().touched();
        let why = match self.apply(proxy, action, &permit, deadline).await {
            Ok(Outcome::Applied | Outcome::Seen(_)) => return Ok(()),
            Ok(Outcome::NotApplied(why) | Outcome::Unknown(why)) => why.to_string(),
            Err(why) => why,
        };
        Err(Trouble::Failed(step.id.clone(), format!("{}: {otherwise}: {why}", proxy.name())))
    }
}

/// Proxies that have clients, and those that cannot say.
fn connected(live: &crate::model::Live, proxies: &BTreeSet<TargetId>) -> (BTreeMap<TargetId, u64>, Vec<String>) {
    let (mut connected, mut unknown) = (BTreeMap::new(), Vec::new());
    for proxy in proxies {
        match live::facts(live, proxy).map(|facts| facts.proxy().and_then(|facts| facts.connections)) {
            Ok(Some(0)) => {}
            Ok(Some(count)) => drop(connected.insert(proxy.clone(), count)),
            Ok(None) => unknown.push(format!("{} does not tell", proxy.name())),
            Err(why) => unknown.push(format!("{}: {why}", proxy.name())),
        }
    }
    (connected, unknown)
}

fn remain(connected: &BTreeMap<TargetId, u64>, unknown: &[String]) -> String {
    let at = list(connected.iter().map(|(proxy, count)| format!("{count} at {}", proxy.name())));
    let total: u64 = connected.values().sum();
    let word = if total == 1 { "connection remains" } else { "connections remain" };
    let counted = (total > 0).then(|| format!("{total} {word} ({at})"));
    counted.into_iter().chain(unknown.iter().cloned()).collect::<Vec<_>>().join("; ")
}

/// Servers that have sessions, and proxies that cannot say.
fn count(live: &crate::model::Live, servers: &Servers, cut: bool) -> (Vec<Residual>, Vec<String>) {
    let (mut residual, mut unknown) = (Vec::new(), Vec::new());
    for (proxy, backends) in servers {
        let facts = match live::facts(live, proxy) {
            Ok(facts) => facts.proxy(),
            Err(why) => {
                unknown.push(format!("{}: {why}", proxy.name()));
                None
            }
        };
        let Some(facts) = facts else { continue };
        for (backend, names) in backends {
            let Some(Some(found)) = facts.backends.get(backend) else { continue };
            for name in names.iter() {
                let sessions = found.servers.get(name).map_or(0, |server| server.sessions);
                if sessions > 0 {
                    let (proxy, backend, server) = (proxy.clone(), backend.clone(), name.clone());
                    residual.push(Residual { proxy, backend, server, sessions, cut });
                }
            }
        }
    }
    (residual, unknown)
}
