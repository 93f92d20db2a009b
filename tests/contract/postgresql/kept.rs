//! A primary that has died on a machine that has not: it is kept from coming back as one.

use handover::model::KEPT;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_has_died_is_kept_from_coming_back_as_one_and_a_primary_that_runs_is_not_touched() {
    let pair = Pair::start().await;
    let keep = Action::Keep { successor: pair.b.peer() };
    let refused = pair.apply(&pair.a, &keep, 10.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("it runs")), "{refused:?}");
    assert!(!marked(&pair.a) && pair.observe(&pair.a).await.role == Role::Primary);

    pair.a.kill();
    let died = pair.observe(&pair.a).await;
    assert_eq!((died.role, died.settings.contains_key(KEPT)), (Role::Stopped, false));
    // Twice is once.
    for _ in 0..2 {
        common::taken(&pair.apply(&pair.a, &keep, 10.0).await);
        assert!(pair.holds(&pair.a, &Condition::Kept).await);
    }
    // It did not end cleanly, which is told apart from a fence.
    assert_eq!(pair.observe(&pair.a).await.role, Role::Stopped);
    // Whoever starts it gets a replica.
    pair.b.sql("SELECT pg_promote()");
    pair.a.start_without_waiting();
    let replica = Condition::Role { role: Role::Replica, lineage: None };
    assert!(pair.holds(&pair.a, &replica).await, "{}", pair.a.log());
}
