//! Provider `vantage`: hosts elsewhere, asked over ssh which addresses they reach. Nothing is ever changed.
//!
//! One command tries all addresses at once. An address is reached if a TCP connection was made; one that refuses is not: who only sees
//! the machine's kernel, or a router that speaks for it, sees no service.

mod client;
mod convert;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Outcome, Provider};
use crate::journal::Permit;
use crate::model::{Action, Condition, Facts, Observed, Scope, Target, Unreachable};
use crate::transport::Transport;

/// Asks hosts elsewhere what they reach.
#[derive(Clone, Debug)]
pub struct Vantage {
    transport: Arc<Transport>,
}

impl Vantage {
    /// Hosts that are asked through `transport`.
    pub fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }
}

#[async_trait]
impl Provider for Vantage {
    async fn observe(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts> {
        let began = Instant::now();
        let Scope::Reach(asked) = scope else { return Observed::Unreachable(misdirected(target)) };
        match client::reach(&self.transport, target, asked, deadline).await {
            Ok(facts) => Observed::Known { value: Facts::Vantage(facts), took: began.elapsed() },
            Err(why) => Observed::Unreachable(why),
        }
    }

    async fn apply(&self, target: &Target, action: &Action, _permit: &Permit, _deadline: Instant) -> Outcome {
        let tried = format!("{} at {}", action.verb(), target.id);
        Outcome::NotApplied(Unreachable::new("a vantage is only asked", tried))
    }

    async fn verify(&self, target: &Target, _condition: &Condition, _deadline: Instant) -> Observed<Facts> {
        Observed::Unreachable(misdirected(target))
    }
}

fn misdirected(target: &Target) -> Unreachable {
    Unreachable::new("a vantage knows what it reaches and nothing else", format!("provider vantage at {}", target.id))
}
