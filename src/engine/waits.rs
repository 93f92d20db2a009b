//! Waiting with progress: for caches to forget, for sessions to end. A stop request ends every wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::run::{Run, Trouble};
use crate::event::{Event, Residual, WaitCause};
use crate::journal::Record;
use crate::model::{Action, BackendServers, DrainThen, Span, TargetId};
use crate::plan::{Step, Wait, live};

/// How often sessions are counted.
const COUNT_INTERVAL: Duration = Duration::from_millis(250);

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
        loop {
            let live = self.engine.observe_only(&ids).await;
            let (residual, unknown) = count(&live, servers, then == DrainThen::Cut);
            let total: u64 = residual.iter().map(|residual| residual.sessions).sum();
            let elapsed = began.elapsed();
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

    async fn cut(&self, step: &Step, servers: &Servers) -> Result<(), Trouble> {
        for (proxy, backends) in servers {
            let action = Action::CutSessions { backends: backends.clone() };
            let intended = Some(action.clone());
            let record = Record::StepStarted { step: step.id.clone(), assumed: Vec::new(), intended };
            let permit = self.permit(std::slice::from_ref(step), record).await?;
            let deadline = Instant::now() + Duration::from_secs(10);
            self.log().touched();
            match self.apply(proxy, &action, &permit, deadline).await {
                Ok(crate::provider::Outcome::Applied) => {}
                Ok(outcome) => {
                    return Err(Trouble::Failed(
                        step.id.clone(),
                        format!("{}: sessions not cut: {outcome:?}", proxy.name()),
                    ));
                }
                Err(why) => return Err(Trouble::Failed(step.id.clone(), why)),
            }
        }
        Ok(())
    }
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
