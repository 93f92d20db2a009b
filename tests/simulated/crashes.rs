//! Runs whose process dies: at a record, or at any moment after it. What it had said to targets may arrive all the same, at once or
//! later. Another process goes on, or back, and may die as well.

use std::sync::Arc;
use std::time::Duration;

use handover::engine::{GoOn, RunOutcome};
use handover::journal::{HoldKind, How, RunEnd, RunId, Store};
use handover::plan::{Overrides, Plan};
use handover::rehearse::sim::Orphans;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::sync::{mpsc, watch};

use crate::carry_out::comparable;
use crate::cases::{Tally, check};
use crate::mortal::{Death, MortalStore};
use crate::rehearsal::{Rehearsal, request};
use crate::runs::{converges, in_virtual_time, planned};
use crate::story::{Story, stories};

/// Nothing that a dead process has said arrives later than this after its death.
const LATEST: Duration = Duration::from_secs(3);

/// How long a process lives, and what becomes of what it had said.
#[derive(Clone, Debug)]
struct Life {
    /// At which of the records that it makes it dies.
    record: usize,
    /// Whether that one is made.
    made: bool,
    /// So many milliseconds after it; with 0 it makes no other record.
    later: Option<u64>,
    orphans: Orphans,
    /// How long it takes until somebody goes on, in milliseconds.
    pause: u64,
}

prop_compose! {
    fn lives()(
        record in prop_oneof![0usize..12, 0usize..70],
        made in any::<bool>(),
        later in prop::option::of(1u64..400),
        orphans in prop_oneof![
            Just(Orphans::Done),
            Just(Orphans::Lost),
            (1u64..=3_000).prop_map(|late| Orphans::Late(Duration::from_millis(late))),
        ],
        pause in prop_oneof![Just(0u64), 0u64..10_000],
    ) -> Life {
        Life { record, made, later, orphans, pause }
    }
}

/// How somebody goes on after deaths.
#[derive(Clone, Debug)]
struct Afterwards {
    lives: Vec<Life>,
    how: How,
}

fn afterwards() -> impl Strategy<Value = Afterwards> {
    let how = prop::sample::select(vec![How::Resume, How::Rollback, How::Settle]);
    (vec(lives(), 1..=3), how).prop_map(|(lives, how)| Afterwards { lives, how })
}

/// A run is cut short at any moment and gone on with, again and again: what must always hold does, it is done, undone or stopped with its
/// reason, and new plans end as was wanted (S1, S3, S4, S9).
#[test]
fn any_run_that_dies_is_gone_on_with_or_back_and_plans_of_its_result_converge() {
    let property = "any_run_that_dies_is_gone_on_with_or_back_and_plans_of_its_result_converge";
    let cases = || (stories(4), afterwards());
    check(property, 25, cases, |(story, after), tally| in_virtual_time(dies(&story, &after, tally)));
}

/// A run and what goes on with it.
struct Mortal<'a> {
    rehearsal: &'a Rehearsal,
    store: Arc<MortalStore>,
    plan: &'a Plan,
}

impl Mortal<'_> {
    /// The outcome of a process; none if it died.
    async fn live(&self, life: Option<&Life>, how: Option<How>) -> Result<Option<RunOutcome>, String> {
        let first = self.store.len();
        let death = life.filter(|life| life.later.is_none());
        // The first record is the beginning of the run, or of going on: before it nothing has happened.
        self.store.die(death.map(|life| Death { number: first + 1 + life.record, made: life.made }));
        self.rehearsal.simulation.orphans(life.map_or(Orphans::Done, |life| life.orphans));
        let store: Arc<dyn Store> = Arc::clone(&self.store) as _;
        let dies_later = async {
            match life.and_then(|life| Some((life, life.later?))) {
                Some((life, later)) => {
                    self.store.reaches(first + 1 + life.record).await;
                    tokio::time::sleep(Duration::from_millis(later)).await;
                }
                None => std::future::pending().await,
            }
        };
        let lives = async {
            match how {
                None => self.rehearsal.engine.apply(request(self.plan.clone(), "run"), store).await,
                Some(how) => self.rehearsal.engine.go_on(self.go_on(how).await, store).await,
            }
        };
        let outcome = tokio::select! {
            outcome = lives => Some(outcome.map_err(|why| why.to_string())?),
            () = self.store.dead() => None,
            () = dies_later => None,
        };
        if let (None, Some(life)) = (&outcome, life) {
            tokio::time::sleep(Duration::from_millis(life.pause)).await;
        }
        Ok(outcome)
    }

    async fn go_on(&self, how: How) -> GoOn {
        let (events, _told) = mpsc::unbounded_channel();
        let (_keep, stop) = watch::channel(false);
        let dead = self.store.lock().await.unwrap_or_default();
        let (run, plan, holder) = (RunId("run".to_owned()), self.plan.clone(), "test".into());
        GoOn { run, plan, how, holder, dead, overrides: Overrides::new(), stop, events }
    }

    async fn holds(&self) -> Vec<HoldKind> {
        self.store.holds().await.unwrap_or_default().into_iter().map(|hold| hold.kind).collect()
    }
}

async fn dies(story: &Story, after: &Afterwards, tally: &Tally) -> Result<(), String> {
    let Some((rehearsal, plan, holds)) = planned(story, tally).await? else { return Ok(()) };
    let before = rehearsal.simulation.change(|world| comparable(world));
    let store = Arc::new(MortalStore::holding(&holds));
    let mortal = Mortal { rehearsal: &rehearsal, store, plan: &plan };
    let mut outcome = mortal.live(after.lives.first(), None).await?;
    for life in &after.lives[1..] {
        if outcome.is_some() {
            break;
        }
        tally.count("deaths");
        outcome = mortal.live(Some(life), Some(after.how)).await?;
    }
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => {
            tally.count("deaths");
            mortal.live(None, Some(after.how)).await?.ok_or("it died by nothing")?
        }
    };
    tally.count(format!("{:?} {:?}", after.how, outcome.end));
    let told = |why: String| {
        let ended = format!("{:?} {:?}: {}", after.how, outcome.end, outcome.summary);
        format!("{}: {why}; {ended}", plan.intent.title())
    };
    rehearsal.simulation.broken().map_or(Ok(()), Err).map_err(told)?;
    if outcome.end == RunEnd::Stuck {
        return Err(told("a human would have to look".to_owned()));
    }
    // Whatever was still under way has arrived.
    tokio::time::sleep(LATEST).await;
    rehearsal.simulation.broken().map_or(Ok(()), Err).map_err(told)?;
    if outcome.end == RunEnd::Undone && after.lives.iter().all(|life| !matches!(life.orphans, Orphans::Late(_))) {
        let now = rehearsal.simulation.change(|world| comparable(world));
        if now != before {
            return Err(told(format!("{now}\nis not as before:\n{before}")));
        }
        if mortal.holds().await != holds {
            return Err(told(format!("{:?} are held, not {holds:?}", mortal.holds().await)));
        }
    }
    converges(&rehearsal, &plan.intent, mortal.holds().await, tally).await.map_err(told)
}
