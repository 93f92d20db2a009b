//! Runs whose process dies at any of its records, on simulated targets: another process goes on, or back.

#![allow(clippy::disallowed_methods, reason = "tests read their fixtures")]

#[path = "common/healthy.rs"]
mod healthy;
#[path = "common/mortal.rs"]
mod mortal;

use std::sync::Arc;
use std::time::Duration;

use handover::engine::{Engine, GoOn, Request, RunOutcome};
use handover::journal::{HoldKind, How, Past, Record, RunEnd, RunId, Store};
use handover::model::{FacilityName, TargetId};
use handover::plan::{Intent, Overrides, Plan, Planned, make};
use handover::rehearse::sim::{SimClock, Simulation, World};
use mortal::{Death, MortalStore};
use tokio::sync::{mpsc, watch};

const EXAMPLE: &str = include_str!("../topology.yaml");

/// Little waiting: each look at a proxy in virtual time is work all the same.
fn hasty() -> String {
    EXAMPLE.replace("ttl: 30s", "ttl: 2s").replace("soak: 30s", "soak: 1s")
}

struct Rehearsal {
    simulation: Simulation,
    engine: Engine,
    store: Arc<MortalStore>,
}

fn run() -> RunId {
    RunId("20261123-061500-test".to_owned())
}

impl Rehearsal {
    fn new() -> Self {
        let topology = Arc::new(healthy::read(&hasty()));
        let simulation = Simulation::new(World::healthy(Arc::clone(&topology)).unwrap());
        let clock = Arc::new(SimClock::starting("2026-11-23T06:15:00Z".parse().unwrap()));
        let engine = Engine::new(topology, simulation.registry(), clock, Duration::from_secs(2));
        Self { simulation, engine, store: Arc::new(MortalStore::default()) }
    }

    async fn planned(&self, intent: &Intent, holds: &[HoldKind]) -> Planned {
        make(self.engine.topology(), intent, holds, &self.engine.observe().await, self.engine.now())
    }

    async fn plan(&self, intent: &Intent) -> Plan {
        match self.planned(intent, &[]).await {
            Planned::Plan(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    /// The outcome; none if it died.
    async fn apply(&self, plan: Plan, death: Option<Death>) -> Option<RunOutcome> {
        self.apply_until(false, plan, death).await
    }

    /// The same; `stopped` before it has begun anything, if so.
    async fn apply_until(&self, stopped: bool, plan: Plan, death: Option<Death>) -> Option<RunOutcome> {
        let (events, _told) = mpsc::unbounded_channel();
        let (_keep, stop) = watch::channel(stopped);
        let document = plan.to_yaml().unwrap();
        let request =
            Request { plan, digest: String::new(), document, run: run(), holder: "test".into(), stop, events };
        self.store.die(death);
        let store: Arc<dyn Store> = Arc::clone(&self.store) as _;
        tokio::select! {
            outcome = self.engine.apply(request, store) => Some(outcome.unwrap()),
            () = self.store.dead() => None,
        }
    }

    async fn go_on(&self, how: How, death: Option<Death>) -> Option<RunOutcome> {
        let past = Past::of(&self.store.records(&run()).await.unwrap()).unwrap();
        let plan = past.plan().unwrap().unwrap();
        let (events, _told) = mpsc::unbounded_channel();
        let (_keep, stop) = watch::channel(false);
        let dead = self.store.lock().await.unwrap();
        let holder = "test".into();
        let request = GoOn { run: run(), plan, how, holder, dead, overrides: Overrides::new(), stop, events };
        self.store.die(death);
        let store: Arc<dyn Store> = Arc::clone(&self.store) as _;
        tokio::select! {
            outcome = self.engine.go_on(request, store) => Some(outcome.unwrap()),
            () = self.store.dead() => None,
        }
    }

    async fn holds(&self) -> Vec<HoldKind> {
        self.store.holds().await.unwrap().into_iter().map(|hold| hold.kind).collect()
    }

    fn primaries(&self, database: &str) -> Vec<String> {
        let names = |world: &mut World| world.writable(&database.into());
        self.simulation.change(names).iter().map(|id| id.name().to_owned()).collect()
    }

    /// What is live, but for what only rises.
    async fn state(&self) -> String {
        let live = self.engine.observe().await;
        let mut lines = Vec::new();
        for (id, observed) in &live {
            let Some(facts) = observed.known() else {
                lines.push(format!("{id}: silent"));
                continue;
            };
            let text = serde_json::to_value(facts).unwrap();
            lines.push(format!("{id}: {}", without(text)));
        }
        lines.join("\n")
    }

    /// Clients of every database are led to its primary, and not held back.
    fn nobody_waits(&self, what: &str) {
        for database in ["accounts", "products", "prices"] {
            let [primary] = self.primaries(database).try_into().unwrap_or_else(|all| panic!("{what}: {all:?}"));
            let member = TargetId::member(&database.into(), &primary);
            let address = self.simulation.change(|world| world.address_of(&member)).unwrap();
            for pooler in ["west-pool1", "east-pool1"] {
                let pool = |world: &mut World| world.pool(&TargetId::pooler(pooler), &database.into()).cloned();
                let Ok(pool) = self.simulation.change(pool) else { continue };
                assert!(!pool.paused && pool.route == address, "{what}: {pooler} {database} {pool:?}");
            }
        }
    }
}

/// Positions, serials, ages and histories rise with every attempt.
fn without(mut value: serde_json::Value) -> serde_json::Value {
    fn walk(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                for key in ["position", "replayed", "serial", "age", "lineage", "took", "slots", "timeline", "latency"]
                {
                    fields.remove(key);
                }
                fields.values_mut().for_each(walk);
            }
            serde_json::Value::Array(values) => values.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}

fn drain() -> Intent {
    Intent { drain: [FacilityName::new("west")].into(), ..Intent::default() }
}

/// How many records an undisturbed run makes, and what is live before and after it.
async fn undisturbed() -> (usize, String, String) {
    let lab = Rehearsal::new();
    let before = lab.state().await;
    let outcome = lab.apply(lab.plan(&drain()).await, None).await.unwrap();
    assert_eq!(outcome.end, RunEnd::Done, "{}", outcome.summary);
    (lab.store.records(&run()).await.unwrap().len(), before, lab.state().await)
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_record_a_run_is_gone_on_with_to_the_same_end() {
    let (records, _, after) = undisturbed().await;
    let (mut undone, mut completed) = (0, 0);
    for number in 1..records {
        for made in [false, true] {
            let lab = Rehearsal::new();
            let plan = lab.plan(&drain()).await;
            let what = format!("record {number} of {records}, made: {made}");
            if lab.apply(plan, Some(Death { number, made })).await.is_some() {
                continue;
            }
            let outcome = lab.go_on(How::Resume, None).await.unwrap();
            assert_eq!(outcome.end, RunEnd::Done, "{what}: {} {:?}", outcome.summary, outcome.report.failure);
            assert_eq!(lab.simulation.broken(), None, "{what}");
            lab.nobody_waits(&what);
            let holds = lab.holds().await;
            let left = lab.planned(&Intent::default(), &holds).await;
            assert!(matches!(left, Planned::Nothing(_)), "{what}: {left:?}");
            same(&after, &lab.state().await, &what);
            let entries = lab.store.records(&run()).await.unwrap();
            undone += entries.iter().filter(|e| matches!(e.record, Record::SectionEnded { done: false, .. })).count();
            let told = |text: &str| {
                entries.iter().any(|entry| matches!(&entry.record, Record::Told { text: told } if told.contains(text)))
            };
            completed += usize::from(told("it is completed"));
        }
    }
    assert!(undone > 3 && completed > 3, "{undone} sections undone, {completed} completed");
}

fn same(wanted: &str, found: &str, what: &str) {
    let differ: Vec<(&str, &str)> = wanted.lines().zip(found.lines()).filter(|(a, b)| a != b).collect();
    assert!(differ.is_empty(), "{what}: {differ:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_stopped_before_it_touched_anything_makes_its_holds_again_when_it_is_gone_on_with() {
    let lab = Rehearsal::new();
    let outcome = lab.apply_until(true, lab.plan(&drain()).await, None).await.unwrap();
    assert_eq!((outcome.end, lab.holds().await.len()), (RunEnd::Stopped, 0), "it leaves none behind");
    let outcome = lab.go_on(How::Resume, None).await.unwrap();
    assert_eq!(outcome.end, RunEnd::Done, "{}", outcome.summary);
    assert_eq!(lab.holds().await, [HoldKind::Drained { facility: FacilityName::new("west") }]);
    let (_, _, after) = undisturbed().await;
    same(&after, &lab.state().await, "gone on with");
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_record_a_run_is_rolled_back_or_says_that_a_new_primary_has_taken_over() {
    let (records, before, _) = undisturbed().await;
    let (mut back, mut beyond) = (0, 0);
    for number in 1..records {
        let made = number % 2 == 0;
        let lab = Rehearsal::new();
        let plan = lab.plan(&drain()).await;
        let what = format!("record {number} of {records}, made: {made}");
        if lab.apply(plan, Some(Death { number, made })).await.is_some() {
            continue;
        }
        let outcome = lab.go_on(How::Rollback, None).await.unwrap();
        assert_eq!(lab.simulation.broken(), None, "{what}");
        lab.nobody_waits(&what);
        match outcome.end {
            RunEnd::Undone => {
                same(&before, &lab.state().await, &what);
                assert_eq!(lab.holds().await, [], "{what}");
                back += 1;
            }
            RunEnd::Stopped => {
                assert!(outcome.summary.contains("cannot be rolled back any more"), "{what}: {}", outcome.summary);
                beyond += 1;
            }
            end => panic!("{what}: {end:?} {}", outcome.summary),
        }
    }
    assert!(back > 20 && beyond > 10, "{back} {beyond}");
}

/// What goes on dies as well, again and again.
#[tokio::test(start_paused = true)]
async fn a_run_whose_every_process_dies_after_some_records_gets_to_its_end() {
    for step in [3, 5, 7] {
        let lab = Rehearsal::new();
        let plan = lab.plan(&drain()).await;
        let mut outcome = lab.apply(plan, Some(Death { number: step, made: step % 2 == 0 })).await;
        let mut processes = 1;
        while outcome.is_none() {
            // A section takes some records from its beginning to its end: those who go on live long enough for one.
            let so_far = lab.store.records(&run()).await.unwrap().len();
            let death = Death { number: so_far + 40 + step, made: processes % 2 == 0 };
            outcome = lab.go_on(How::Resume, Some(death)).await;
            processes += 1;
            assert!(processes < 50, "it gets no further");
        }
        assert_eq!(outcome.unwrap().end, RunEnd::Done);
        assert!(processes > 3, "{processes}");
        assert_eq!(lab.simulation.broken(), None);
        lab.nobody_waits(&format!("every {step}"));
    }
}

/// The machine of the old primary dies as well: clients go on where the new primary has taken over, and nobody becomes primary where it is
/// not seen that nobody else is.
#[tokio::test(start_paused = true)]
async fn without_a_sight_of_the_old_primary_clients_go_on_only_where_the_new_one_has_taken_over() {
    let old = TargetId::member(&"accounts".into(), "west-pg1");
    let paused = |lab: &Rehearsal| {
        let pool = |world: &mut World| world.pool(&TargetId::pooler("east-pool1"), &"accounts".into()).cloned();
        lab.simulation.change(pool).unwrap().paused
    };
    // Killed as soon as there is a new primary.
    let lab = Rehearsal::new();
    let plan = lab.plan(&drain()).await;
    let promoted = async {
        while lab.primaries("accounts") != ["east-pg1"] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        outcome = lab.apply(plan, None) => panic!("{outcome:?}"),
        () = promoted => {}
    }
    assert!(paused(&lab));
    lab.simulation.change(|world| world.kill(&old));
    let outcome = lab.go_on(How::Settle, None).await.unwrap();
    assert!(!paused(&lab), "{}", outcome.summary);
    assert_eq!(lab.simulation.broken(), None);

    // Killed right after the intent.
    let (records, ..) = undisturbed().await;
    for number in 1..records {
        let lab = Rehearsal::new();
        let plan = lab.plan(&drain()).await;
        lab.apply(plan, Some(Death { number, made: true })).await;
        let entries = lab.store.records(&run()).await.unwrap();
        let intent =
            |record: &Record| matches!(record, Record::StepStarted { step, .. } if step.0 == "db.accounts.promote");
        if !entries.last().is_some_and(|entry| intent(&entry.record)) {
            continue;
        }
        lab.simulation.change(|world| world.kill(&old));
        let outcome = lab.go_on(How::Settle, None).await.unwrap();
        assert_eq!((outcome.end, paused(&lab)), (RunEnd::Stuck, true), "{}", outcome.summary);
        assert!(outcome.summary.contains("cannot be seen"), "{}", outcome.summary);
        assert_eq!(lab.primaries("accounts"), [""; 0]);
        return;
    }
    panic!("it was never killed there");
}
