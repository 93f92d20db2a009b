//! Jobs (cron jobs, queue workers) through their own commands, which run on the target's host.
//!
//! `check` ends with status 0 while the job runs and 1 while it does not; everything else is no answer. `stop` returns once the job
//! has ended or is ending, `start` once it has begun; whether it is so, `check` says.

mod client;
mod convert;
mod settings;

pub use settings::{check, schema};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use self::settings::Verb;
use crate::journal::Permit;
use crate::model::{Action, Condition, Facts, JobFacts, Observed, Scope, Target, TargetKind, Unreachable};
use crate::provider::{Outcome, Provider, poll};
use crate::transport::{Transport, TransportError};

/// Time between two checks: each is a process on the host.
const POLL: Duration = Duration::from_millis(200);

/// Jobs that are controlled by commands.
#[derive(Clone, Debug)]
pub struct CommandJobs {
    transport: Arc<Transport>,
}

impl CommandJobs {
    /// Jobs whose commands run through `transport`.
    pub fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }

    async fn read(&self, target: &Target, deadline: Instant) -> Result<Facts, Unreachable> {
        match client::run(&self.transport, target, Verb::Check, deadline).await {
            // A fence's check succeeds once nothing runs any more.
            Ok(output) => {
                let running = convert::running(target, &output)? != (target.kind == TargetKind::Fence);
                Ok(Facts::Job(JobFacts { running }))
            }
            Err(TransportError::NotRun(why) | TransportError::Unknown(why)) => Err(why),
        }
    }

    /// Runs a command unless the job is as wanted: a second `start` could start a second worker.
    async fn make(&self, target: &Target, running: bool, deadline: Instant) -> Outcome {
        let wanted = Condition::Running { running };
        match self.read(target, deadline).await {
            Err(why) => return Outcome::NotApplied(why),
            Ok(facts) if wanted.holds(&facts).is_ok() => return Outcome::Applied,
            Ok(_) => {}
        }
        let verb = if running { Verb::Start } else { Verb::Stop };
        match client::run(&self.transport, target, verb, deadline).await {
            Ok(output) => convert::outcome(target, verb, &output),
            Err(TransportError::NotRun(why)) => Outcome::NotApplied(why),
            Err(TransportError::Unknown(why)) => Outcome::Unknown(why),
        }
    }
}

#[async_trait]
impl Provider for CommandJobs {
    async fn observe(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        let facts = match scope {
            Scope::Job => self.read(target, deadline).await,
            _ => Err(Unreachable::new(
                "a job runs or does not run, and nothing else",
                format!("observing {}", target.id),
            )),
        };
        match facts {
            Ok(value) => Observed::Known { value, took: began.elapsed() },
            Err(why) => Observed::Unreachable(why),
        }
    }

    async fn apply(&self, target: &Target, action: &Action, _permit: &Permit, deadline: Instant) -> Outcome {
        match action {
            Action::Stop => self.make(target, false, deadline).await,
            Action::Start => self.make(target, true, deadline).await,
            _ => {
                let why = format!("a job cannot {}", action.verb());
                Outcome::NotApplied(Unreachable::new(why, format!("acting on {}", target.id)))
            }
        }
    }

    async fn verify(&self, target: &Target, condition: &Condition, deadline: Instant) -> Observed<Facts> {
        poll::until(condition, POLL, deadline, || self.read(target, deadline)).await
    }

    async fn warm_up(&self, target: &Target, deadline: Instant) {
        if let Some(host) = &target.host {
            // What is wrong with the host shows when it is needed.
            let _ = self.transport.warm_up(host, deadline).await;
        }
    }
}
