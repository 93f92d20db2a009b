//! One suite for every provider, against its real server: the clauses are the provider contract (`docs/providers.md`).
//!
//! A subject starts its real server on loopback addresses in a directory of its own and leaves nothing behind. `contract!` makes one
//! test per clause and subject.

#![allow(clippy::disallowed_methods, reason = "tests start servers and write their files")]

#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use handover::model::{Action, Condition, Facts, Observed, Scope, Target};
use handover::provider::{Outcome, Provider};
use tokio::time::Instant;

/// A provider under test, with its real server.
#[async_trait]
pub trait Subject: Sized + Send + Sync {
    /// Starts the server with a known state and waits until it answers.
    async fn start() -> Self;
    /// A provider with no open session.
    fn provider(&self) -> Arc<dyn Provider>;
    /// The target.
    fn target(&self) -> Target;
    /// The same kind of target at an address where nobody listens.
    fn nobody(&self) -> Target;
    /// All that can be asked of it.
    fn scope(&self) -> Scope;
    /// Something to do.
    fn action(&self) -> Action;
    /// What holds after it and does not hold before.
    fn condition(&self) -> Condition;
    /// What takes it back.
    fn undo(&self) -> Action;
    /// What holds after that.
    fn undone(&self) -> Condition;
    /// The action under an assumption that is not true; none where the protocol cannot tell (a skip, printed).
    fn stale(&self) -> Option<Action>;
    /// Stops the server's processes from answering, without ending them or their connections (SIGSTOP).
    async fn hang(&self);
    /// Lets them go on (SIGCONT).
    async fn unhang(&self);
    /// The facts that must be the same after apply and undo: everything but counters, ages, serials and positions.
    fn comparable(&self, facts: &Facts) -> String;
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn facts<S: Subject>(subject: &S, provider: &Arc<dyn Provider>) -> Facts {
    match provider.observe(&subject.target(), &subject.scope(), soon()).await {
        Observed::Known { value, .. } => value,
        Observed::Unreachable(why) => panic!("unreachable: {why}"),
    }
}

async fn holds(provider: &Arc<dyn Provider>, target: &Target, condition: &Condition, deadline: Duration) -> bool {
    match provider.verify(target, condition, Instant::now() + deadline).await {
        Observed::Known { value, .. } => condition.holds(&value).is_ok(),
        Observed::Unreachable(why) => panic!("unreachable: {why}"),
    }
}

async fn reading_changes_nothing<S: Subject>() {
    let subject = S::start().await;
    let provider = subject.provider();
    let first = facts(&subject, &provider).await;
    let second = facts(&subject, &provider).await;
    assert_eq!(subject.comparable(&first), subject.comparable(&second));
}

async fn verify_is_false_before_and_true_after<S: Subject>() {
    let subject = S::start().await;
    let (provider, permit) = (subject.provider(), common::permit().await);
    assert!(!holds(&provider, &subject.target(), &subject.condition(), Duration::from_millis(300)).await);
    common::taken(&provider.apply(&subject.target(), &subject.action(), &permit, soon()).await);
    assert!(holds(&provider, &subject.target(), &subject.condition(), Duration::from_secs(10)).await);
    // By a provider that knows nothing of the action.
    assert!(holds(&subject.provider(), &subject.target(), &subject.condition(), Duration::from_secs(10)).await);
}

async fn applying_twice_equals_once<S: Subject>() {
    let subject = S::start().await;
    let (provider, permit) = (subject.provider(), common::permit().await);
    common::taken(&provider.apply(&subject.target(), &subject.action(), &permit, soon()).await);
    assert!(holds(&provider, &subject.target(), &subject.condition(), Duration::from_secs(10)).await);
    let once = facts(&subject, &provider).await;
    // The second one may say that there was nothing to do, but never that it is unknown.
    let again = provider.apply(&subject.target(), &subject.action(), &permit, soon()).await;
    assert!(!matches!(again, Outcome::Unknown(_)), "{again:?}");
    assert!(holds(&provider, &subject.target(), &subject.condition(), Duration::from_secs(10)).await);
    assert_eq!(subject.comparable(&once), subject.comparable(&facts(&subject, &provider).await));
}

async fn a_stale_assumption_touches_nothing<S: Subject>() {
    let subject = S::start().await;
    let Some(stale) = subject.stale() else {
        println!("skipped: the protocol cannot carry an assumption");
        return;
    };
    let (provider, permit) = (subject.provider(), common::permit().await);
    let before = facts(&subject, &provider).await;
    let outcome = provider.apply(&subject.target(), &stale, &permit, soon()).await;
    assert!(matches!(outcome, Outcome::NotApplied(_)), "{outcome:?}");
    assert_eq!(subject.comparable(&before), subject.comparable(&facts(&subject, &provider).await));
}

async fn a_deadline_is_unknown_and_never_a_hang<S: Subject>() {
    let subject = S::start().await;
    let (provider, permit) = (subject.provider(), common::permit().await);
    facts(&subject, &provider).await;
    provider.warm_up(&subject.target(), soon()).await;
    subject.hang().await;
    let began = Instant::now();
    let outcome =
        provider.apply(&subject.target(), &subject.action(), &permit, began + Duration::from_millis(500)).await;
    let observed =
        provider.observe(&subject.target(), &subject.scope(), Instant::now() + Duration::from_millis(500)).await;
    let took = began.elapsed();
    subject.unhang().await;
    assert!(!outcome.taken(), "{outcome:?}");
    assert!(matches!(observed, Observed::Unreachable(_)), "{observed:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

async fn undo_restores_the_facts<S: Subject>() {
    let subject = S::start().await;
    let (provider, permit) = (subject.provider(), common::permit().await);
    let before = facts(&subject, &provider).await;
    common::taken(&provider.apply(&subject.target(), &subject.action(), &permit, soon()).await);
    assert!(holds(&provider, &subject.target(), &subject.condition(), Duration::from_secs(10)).await);
    common::taken(&provider.apply(&subject.target(), &subject.undo(), &permit, soon()).await);
    assert!(holds(&provider, &subject.target(), &subject.undone(), Duration::from_secs(10)).await);
    assert_eq!(subject.comparable(&before), subject.comparable(&facts(&subject, &provider).await));
}

async fn unreachable_is_not_absent<S: Subject>() {
    let subject = S::start().await;
    let (provider, permit) = (subject.provider(), common::permit().await);
    let observed = provider.observe(&subject.nobody(), &subject.scope(), soon()).await;
    assert!(matches!(observed, Observed::Unreachable(_)), "{observed:?}");
    // Nobody was reached, so it is certain that nothing was done.
    let outcome = provider.apply(&subject.nobody(), &subject.action(), &permit, soon()).await;
    assert!(matches!(outcome, Outcome::NotApplied(_)), "{outcome:?}");
}

/// Makes one test per clause for the subject of a module: `contract!(Bind);` in `rfc2136.rs`.
#[macro_export]
macro_rules! contract {
    ($subject:ident) => {
        $crate::contract!(@clauses $subject:
            reading_changes_nothing
            verify_is_false_before_and_true_after
            applying_twice_equals_once
            a_stale_assumption_touches_nothing
            a_deadline_is_unknown_and_never_a_hang
            undo_restores_the_facts
            unreachable_is_not_absent
        );
    };
    (@clauses $subject:ident: $($clause:ident)*) => {
        mod contract {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $clause() {
                    $crate::$clause::<super::$subject>().await;
                }
            )*
        }
    };
}

// One module for each provider.
mod command;
mod haproxy;
mod http;
mod pgbouncer;
mod postgresql;
mod rfc2136;
mod silent;
mod sim;
mod vantage;

#[path = "../common/healthy.rs"]
mod healthy;
#[path = "../common/postgres.rs"]
mod servers;
#[path = "../common/sshd.rs"]
mod sshd;
