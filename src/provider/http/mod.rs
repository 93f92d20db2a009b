//! Provider `http`: application servers, asked for their health as a client would ask.
//!
//! Any HTTP answer is an observation; only the expected status is healthy. A target whose address is a proxy's, with the service's
//! hostname as `Host`, is a synthetic request through that proxy. Nothing is ever changed.

mod client;
mod convert;
mod settings;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use self::settings::{check, schema};
use super::{Outcome, Provider};
use crate::journal::Permit;
use crate::model::{Action, Condition, Facts, HealthCheck, Observed, Scope, Span, Target, Unreachable};

/// How often `verify` asks.
const POLL: Duration = Duration::from_millis(100);

/// How long `verify` waits for one answer before it asks again, so that one lost question does not use all the time up.
const ATTEMPT: Duration = Duration::from_secs(2);

/// For how long the last answer counts as the present state while the next one is awaited.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks application servers for their health.
#[derive(Debug)]
pub struct HttpHealth {
    client: Result<reqwest::Client, String>,
}

impl HttpHealth {
    /// A provider whose requests each open a connection of their own.
    pub fn new() -> Self {
        Self { client: client::build() }
    }

    async fn ask(&self, target: &Target, check: &HealthCheck, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        let url = convert::url(&target.address, check);
        let tried = format!("GET {url} for {}", check.host);
        let unreachable = |why: String| {
            let why = Unreachable::new(why, tried.clone());
            Observed::Unreachable(why.advice("check that it runs, and that its address can be reached from here"))
        };
        let client = match &self.client {
            Ok(client) => client,
            Err(why) => return unreachable(format!("this program cannot send requests: {why}")),
        };
        match timeout_at(deadline, client::get(client, &url, &check.host)).await {
            Ok(Ok(answer)) => {
                let facts = convert::facts(check, answer.status, answer.latency);
                Observed::Known { value: Facts::Server(facts), took: began.elapsed() }
            }
            Ok(Err(why)) => unreachable(why),
            Err(_) => {
                let waited = Span::millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                unreachable(format!("no answer within {waited}"))
            }
        }
    }
}

impl Default for HttpHealth {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Provider for HttpHealth {
    async fn observe(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts> {
        let Scope::Health(check) = scope else { return Observed::Unreachable(misdirected(target)) };
        self.ask(target, check, deadline).await
    }

    async fn apply(&self, target: &Target, action: &Action, _permit: &Permit, _deadline: Instant) -> Outcome {
        let tried = format!("{} at {}", action.verb(), target.id);
        Outcome::NotApplied(Unreachable::new("an application server is only read", tried))
    }

    async fn verify(&self, target: &Target, condition: &Condition, deadline: Instant) -> Observed<Facts> {
        let Condition::Healthy { check } = condition else { return Observed::Unreachable(misdirected(target)) };
        let mut last = None;
        loop {
            let asked = Instant::now();
            let patience = deadline.min(asked + ATTEMPT);
            let seen = self.ask(target, check, patience).await;
            let holds = matches!(&seen, Observed::Known { value, .. } if condition.holds(value).is_ok());
            // The deadline may cut the last question off; what was seen right before it tells more then.
            let cut_off = Instant::now() >= deadline && asked.elapsed() < PATIENCE;
            let seen = match (last, seen) {
                (Some(known @ Observed::Known { .. }), Observed::Unreachable(_)) if cut_off => known,
                (_, seen) => seen,
            };
            let next = Instant::now() + POLL;
            if holds || next >= deadline {
                return seen;
            }
            last = Some(seen);
            sleep_until(next).await;
        }
    }
}

fn misdirected(target: &Target) -> Unreachable {
    Unreachable::new(
        "an application server knows its health and nothing else",
        format!("provider http at {}", target.id),
    )
}
