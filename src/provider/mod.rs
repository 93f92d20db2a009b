//! What a provider must do: observe, apply, verify. Adapters live below, one folder each; they never use each other.
//!
//! May use `model`, `plan` and `journal` (for the permit). Only `cli` names adapters.

mod clock;
pub mod command;
pub mod haproxy;
pub mod http;
pub mod pgbouncer;
pub mod pgwire;
mod poll;
pub mod postgresql;
pub mod rfc2136;
pub mod vantage;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

pub use self::clock::{Clock, SystemClock};
pub use crate::diagnostic::SettingsCheck;
use crate::journal::Permit;
use crate::model::{Action, Condition, Facts, Observed, ProviderName, Scope, Target, Unreachable};

/// What became of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The target took it. Whether it had the effect is for [`Provider::verify`].
    Applied,
    /// The target took it, and these facts were read there afterwards, in the same conversation: what they show needs no other question.
    Seen(Box<Facts>),
    /// Nothing was touched.
    NotApplied(Unreachable),
    /// It may or may not have been done: the answer was lost or the deadline passed. Observe before anything else.
    Unknown(Unreachable),
}

impl Outcome {
    /// True if the target took it.
    pub fn taken(&self) -> bool {
        matches!(self, Self::Applied | Self::Seen(_))
    }
}

/// The code that speaks one kind of target's protocol.
///
/// Every method ends by its deadline. An action is idempotent: applied twice it equals once. Sessions may be kept open between
/// calls; a broken one is opened again, unless an action may already have reached the target ([`Outcome::Unknown`]).
#[async_trait]
pub trait Provider: Send + Sync {
    /// Reads live state; changes nothing. One round trip where the protocol allows it. Anything but an answer to the point is
    /// [`Observed::Unreachable`].
    async fn observe(&self, target: &Target, scope: &Scope, deadline: Instant) -> Observed<Facts>;

    /// Acts. State that differs from what the action carries as `from` makes it [`Outcome::NotApplied`] with nothing touched, where
    /// the protocol can tell.
    async fn apply(&self, target: &Target, action: &Action, permit: &Permit, deadline: Instant) -> Outcome;

    /// Does what may be done for an action of a critical section ahead of its turn and makes nobody wait, so that it takes less time
    /// then. None where nothing was changed; else the action's undo takes it back, also if the action was never carried out. What fails
    /// leaves nothing behind.
    async fn prepare(&self, target: &Target, action: &Action, permit: &Permit, deadline: Instant) -> Option<Outcome> {
        let _ = (target, action, permit, deadline);
        None
    }

    /// Reads what `condition` is about, by another path than [`apply`](Self::apply) where there is one, again and again until it
    /// holds or the deadline passes, and returns the last facts: the engine judges them. Polls as fast as is harmless: 1 ms on an
    /// open session, 20 ms where each question costs the target work.
    async fn verify(&self, target: &Target, condition: &Condition, deadline: Instant) -> Observed<Facts>;

    /// Why an action could never be carried out, whatever the target's state, so that no plan with it is made. Asks nobody.
    fn impossible(&self, target: &Target, action: &Action) -> Option<Unreachable> {
        let _ = (target, action);
        None
    }

    /// Calls off what was said to the target under earlier permits of this run and is not done yet: for who goes on with a run whose
    /// holder has died, before anything is observed. Afterwards nothing of it is under way, and what comes later is refused. Protocols that
    /// cannot do that have nothing to do here: what they are told late is found by looking again.
    async fn supersede(&self, target: &Target, permit: &Permit, deadline: Instant) -> Outcome {
        let _ = (target, permit, deadline);
        Outcome::Applied
    }

    /// Opens what [`apply`](Self::apply) will need, so that a following critical section loses no time; errors show there. Changes
    /// nothing.
    async fn warm_up(&self, target: &Target, deadline: Instant) {
        let _ = (target, deadline);
    }
}

/// The providers of a program by name.
#[derive(Clone, Default)]
pub struct Registry {
    providers: BTreeMap<ProviderName, Arc<dyn Provider>>,
}

impl Registry {
    /// Adds a provider.
    #[must_use]
    pub fn with(mut self, name: impl AsRef<str>, provider: Arc<dyn Provider>) -> Self {
        self.providers.insert(ProviderName::new(name), provider);
        self
    }

    /// The provider of a target.
    ///
    /// # Errors
    /// If this program has no such provider; the topology's check should have said so before.
    pub fn of(&self, target: &Target) -> Result<&Arc<dyn Provider>, Unreachable> {
        self.providers.get(&target.provider).ok_or_else(|| {
            Unreachable::new(
                format!("no provider `{}` in this program", target.provider),
                format!("looking up the provider of {}", target.id),
            )
        })
    }
}
