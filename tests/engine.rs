//! Runs of the engine against targets that are scripted here, in virtual time: hours of waiting take no time.

#![allow(clippy::disallowed_methods, reason = "tests read their fixtures")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/healthy.rs"]
mod healthy;
#[path = "common/powered.rs"]
mod powered;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::MemoryStore;
use handover::engine::{Engine, Request, RunOutcome};
use handover::event::Event;
use handover::journal::{Permit, RunEnd, RunId};
use handover::model::{
    Action, CLOSE_FRONTENDS, Condition, Facts, JobFacts, Live, Observed, Scope, Target, TargetId, Unreachable,
};
use handover::plan::{Depth, GateName, Intent, Override, Plan, Planned, StepId, make};
use handover::provider::rfc2136::Rfc2136;
use handover::provider::{Clock, Outcome, Provider, Registry, SystemClock};
use handover::secret::SecretReader;
use handover::topology::Topology;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const EXAMPLE: &str = include_str!("../topology.yaml");
const PROVIDERS: [&str; 6] = ["rfc2136", "haproxy", "http", "postgresql", "pgbouncer", "command"];

/// How long a job takes to stop or start.
const SLOW: Duration = Duration::from_secs(8);

/// Targets that say what is in `live`, and whose clients at proxies do as they are told here.
struct Scripted {
    live: Mutex<Live>,
    /// How many clients stay at a proxy although they were told to leave.
    stubborn: u64,
    acted: Mutex<Vec<(TargetId, String)>>,
}

impl Scripted {
    fn seen(&self, id: &TargetId) -> Observed<Facts> {
        let nothing = || Observed::Unreachable(Unreachable::new("no answer", "scripted"));
        self.live.lock().unwrap().get(id).cloned().unwrap_or_else(nothing)
    }

    fn connect(&self, id: &TargetId, clients: u64) {
        let mut live = self.live.lock().unwrap();
        let Some(Observed::Known { value: Facts::Proxy(facts), .. }) = live.get_mut(id) else { panic!("{id}") };
        facts.connections = Some(clients);
    }
}

#[async_trait]
impl Provider for Scripted {
    async fn observe(&self, target: &Target, _: &Scope, _: Instant) -> Observed<Facts> {
        self.seen(&target.id)
    }

    async fn apply(&self, target: &Target, action: &Action, _: &Permit, _: Instant) -> Outcome {
        self.acted.lock().unwrap().push((target.id.clone(), action.verb().to_owned()));
        if matches!(action, Action::Stop | Action::Start) {
            tokio::time::sleep(SLOW).await;
            let running = *action == Action::Start;
            let facts = Observed::Known { value: Facts::Job(JobFacts { running }), took: SLOW };
            self.live.lock().unwrap().insert(target.id.clone(), facts);
        }
        if action.verb() == CLOSE_FRONTENDS {
            self.connect(&target.id, self.stubborn);
        }
        Outcome::Applied
    }

    async fn verify(&self, target: &Target, _: &Condition, _: Instant) -> Observed<Facts> {
        self.seen(&target.id)
    }
}

fn example() -> Topology {
    healthy::read(&powered::powered(EXAMPLE))
}

fn until_off(topology: &Topology, live: &Live) -> Plan {
    let intent = Intent { drain: ["west".into()].into(), depth: Depth::Power, ..Intent::default() };
    match make(topology, &intent, &[], live, "2026-11-23T06:15:00Z".parse().unwrap()) {
        Planned::Plan(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

/// Applies a plan of which only the named steps are left.
async fn apply_only(topology: Topology, targets: &Arc<Scripted>, mut plan: Plan, id: &str) -> (RunOutcome, Vec<Event>) {
    plan.steps.retain(|step| step.id.0 == id);
    plan.steps.iter_mut().for_each(|step| step.needs.clear());
    assert_eq!(plan.steps.len(), 1, "{id}");
    apply(topology, targets, plan, Arc::new(SystemClock)).await
}

async fn apply(
    topology: Topology,
    targets: &Arc<Scripted>,
    plan: Plan,
    clock: Arc<dyn Clock>,
) -> (RunOutcome, Vec<Event>) {
    let registry = PROVIDERS
        .iter()
        .fold(Registry::default(), |all, name| all.with(name, Arc::clone(targets) as Arc<dyn Provider>));
    let engine = Engine::new(Arc::new(topology), registry, clock, Duration::from_secs(2));
    let (events, mut told) = mpsc::unbounded_channel();
    let (_keep, stop) = watch::channel(false);
    let request = Request {
        plan,
        digest: String::new(),
        document: String::new(),
        run: RunId("test".to_owned()),
        holder: "test".into(),
        stop,
        events,
    };
    let outcome = engine.apply(request, Arc::new(MemoryStore::default())).await.unwrap();
    let mut all = Vec::new();
    while let Ok(event) = told.try_recv() {
        all.push(event);
    }
    (outcome, all)
}

fn verified(events: &[Event]) -> &str {
    let done = events.iter().find_map(|event| match event {
        Event::StepDone { verified, .. } => Some(verified.as_str()),
        _ => None,
    });
    done.unwrap_or_else(|| panic!("{events:#?}"))
}

fn progress(events: &[Event]) -> Vec<&str> {
    let texts = events.iter().filter_map(|event| match event {
        Event::StepProgress { text, .. } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn west() -> [TargetId; 2] {
    ["west-lb1", "west-lb2"].map(TargetId::proxy)
}

#[tokio::test(start_paused = true)]
async fn clients_have_the_drain_deadline_to_leave_and_are_then_sent_away() {
    for (stubborn, end) in [
        (0, "no client is connected; those that were after 10m left with an answer"),
        (2, "2 connections remain (2 at west-lb1), idle for 10s or longer; they end with their proxies"),
    ] {
        let topology = example();
        let targets =
            Arc::new(Scripted { live: Mutex::new(healthy::live(&topology)), stubborn, acted: Mutex::default() });
        let plan = until_off(&topology, &targets.live.lock().unwrap());
        let [first, second] = west();
        targets.connect(&first, 5);
        targets.connect(&second, 1);
        let began = Instant::now();
        let leaving = {
            let (targets, second) = (Arc::clone(&targets), second.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(30)).await;
                targets.connect(&second, 0);
            })
        };
        let (outcome, events) = apply_only(topology, &targets, plan, "power.connections").await;
        leaving.await.unwrap();
        assert_eq!(outcome.end, RunEnd::Done, "{}", outcome.summary);
        assert_eq!(verified(&events), end);
        assert_eq!(*targets.acted.lock().unwrap(), [(first, CLOSE_FRONTENDS.to_owned())]);
        let (took, grace) = (began.elapsed(), if stubborn > 0 { 10 } else { 0 });
        assert!((600 + grace..602 + grace).contains(&took.as_secs()), "{took:?}");
        let told = progress(&events);
        assert_eq!(told[0], "6 connections remain (5 at west-lb1 and 1 at west-lb2)");
        assert!(told.contains(&"5 connections remain (5 at west-lb1)"), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_sent_away_who_leaves_alone_and_what_cannot_be_counted_holds() {
    let topology = example();
    let targets =
        Arc::new(Scripted { live: Mutex::new(healthy::live(&topology)), stubborn: 0, acted: Mutex::default() });
    let plan = until_off(&topology, &targets.live.lock().unwrap());
    let (outcome, events) = apply_only(example(), &targets, plan.clone(), "power.connections").await;
    assert_eq!((outcome.end, verified(&events)), (RunEnd::Done, "no client is connected"));

    let silent = Observed::Unreachable(Unreachable::new("connection refused", "scripted"));
    targets.live.lock().unwrap().insert(west()[0].clone(), silent);
    let (outcome, _) = apply_only(example(), &targets, plan, "power.connections").await;
    assert!(outcome.summary.contains("connections cannot be counted: west-lb1: connection refused"), "{outcome:?}");
    assert_eq!(*targets.acted.lock().unwrap(), []);
}

/// Design §7: nothing was touched, so the run was refused, and leaves no hold behind.
#[tokio::test(start_paused = true)]
async fn a_proof_that_fails_before_anything_is_touched_is_a_refusal() {
    let topology = example();
    let mut live = healthy::live(&topology);
    let plan = until_off(&topology, &live);
    let silent = Observed::Unreachable(Unreachable::new("no such command", "scripted"));
    live.insert(topology.units.values().next().unwrap().target.id.clone(), silent);
    let targets = Arc::new(Scripted { live: Mutex::new(live), stubborn: 0, acted: Mutex::default() });
    let holds = plan.holds.clone();
    let (outcome, _) = apply_only(topology, &targets, plan, "power.ready").await;
    assert_eq!(outcome.end, RunEnd::Refused);
    assert!(outcome.summary.starts_with("refused before anything was touched: "), "{}", outcome.summary);
    assert!(outcome.summary.contains("no such command"), "{}", outcome.summary);
    assert_eq!(outcome.report.holds_released, holds);
}

/// The wall clock at a moment of the virtual time.
struct Virtual {
    from: jiff::Timestamp,
    began: Instant,
}

impl Clock for Virtual {
    fn now(&self) -> jiff::Timestamp {
        self.from + jiff::SignedDuration::try_from(self.began.elapsed()).unwrap()
    }
}

/// Stops a job and starts it again, in two stages, within a window that closes at three o'clock; `passed` gates are overridden.
async fn stop_and_start(now: &str, passed: &[GateName]) -> (RunEnd, String, Vec<String>) {
    let windows = "windows: [{days: [mon], from: \"02:00\", to: \"03:00\", zone: America/Boise}]";
    let topology = healthy::read(&EXAMPLE.replace("windows: []", windows));
    let live = healthy::live(&topology);
    let now: jiff::Timestamp = now.parse().unwrap();
    let passed =
        passed.iter().map(|gate| (*gate, Override { by: "ada@ops".to_owned(), reason: "nobody is awake".to_owned() }));
    let intent = Intent { drain: ["west".into()].into(), overrides: passed.collect(), ..Intent::default() };
    let Planned::Plan(mut plan) = make(&topology, &intent, &[], &live, now) else { panic!("no plan") };
    let job = plan.steps.iter().find_map(|step| step.id.0.strip_prefix("job.stop.")).unwrap().to_owned();
    let (stop, start) = (StepId(format!("job.stop.{job}")), StepId(format!("job.start.{job}")));
    let mut steps: Vec<_> = plan.steps.iter().filter(|step| step.id == stop).cloned().collect();
    steps[0].needs.clear();
    let mut second = steps[0].clone();
    (second.id, second.stage, second.needs) = (start, steps[0].stage + 1, [stop].into());
    let running = |running| Condition::Running { running };
    (second.before[0].condition, second.after[0].condition) = (running(false), running(true));
    let handover::plan::Work::Act { action, .. } = &mut second.work else { panic!("it acts") };
    *action = Action::Start;
    second.undo = handover::plan::Undo::Nothing;
    steps.push(second);
    plan.steps = steps;
    let targets = Arc::new(Scripted { live: Mutex::new(live), stubborn: 0, acted: Mutex::default() });
    let clock = Virtual { from: now, began: Instant::now() };
    let (outcome, _) = apply(topology, &targets, *plan, Arc::new(clock)).await;
    let acted = targets.acted.lock().unwrap().iter().map(|(_, verb)| verb.clone()).collect();
    (outcome.end, outcome.summary, acted)
}

#[tokio::test(start_paused = true)]
async fn a_stage_begins_only_while_its_window_leaves_time_for_it() {
    let (end, _, acted) = stop_and_start("2026-11-23T02:30:00-07:00", &[]).await;
    assert_eq!((end, acted), (RunEnd::Done, vec!["stop".to_owned(), "start".to_owned()]));

    let (end, why, acted) = stop_and_start("2026-11-23T01:30:00-07:00", &[]).await;
    assert_eq!((end, acted.as_slice()), (RunEnd::Refused, &[][..]), "{why}");
    assert!(why.contains("no maintenance window of policy.windows is open now"), "{why}");

    // The window closes while the first stage lasts: the second one does not begin, and the job that only rested runs again.
    let (end, why, acted) = stop_and_start("2026-11-23T02:59:55-07:00", &[]).await;
    assert_eq!((end, acted.as_slice()), (RunEnd::Stopped, &["stop".to_owned(), "start".to_owned()][..]), "{why}");
    assert!(why.contains("stopped at a gate") && why.contains("fits at Mon 2026-11-30 02:00 MST"), "{why}");

    let (end, why, _) = stop_and_start("2026-11-23T01:30:00-07:00", &[GateName::Freezes]).await;
    assert_eq!(end, RunEnd::Refused, "{why}");
    let (end, why, _) = stop_and_start("2026-11-23T01:30:00-07:00", &[GateName::Windows]).await;
    assert_eq!(end, RunEnd::Done, "{why}");
}

/// A zone's change is one message, and a message has an end: the plan is refused, not its application.
#[test]
fn a_change_that_fits_no_message_makes_no_plan() {
    let engine = |hosts: usize| {
        let names: Vec<String> = (0..hosts).map(|n| format!("host{n}.clickbank.example")).collect();
        let text = EXAMPLE.replacen("hostnames: [pay.", &format!("hostnames: [{}, pay.", names.join(", ")), 1);
        let topology = Arc::new(healthy::read(&text));
        let intent = Intent { drain: ["west".into()].into(), ..Intent::default() };
        let now = "2026-11-23T06:15:00Z".parse().unwrap();
        let Planned::Plan(plan) = make(&topology, &intent, &[], &healthy::live(&topology), now) else { panic!() };
        let dns = Rfc2136::new(Arc::new(SecretReader::new("/nowhere")));
        let registry = Registry::default().with("rfc2136", Arc::new(dns));
        let engine = Engine::new(topology, registry, Arc::new(SystemClock), Duration::from_secs(2));
        engine.impossible(&plan)
    };
    assert_eq!(engine(100), []);
    let refusals = engine(1_500);
    // Each of the two servers that take updates, there and back.
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert_eq!(
        refusals[1].what,
        "west-ns1: the change does not fit one DNS message of 64 KiB, and in several it would not be all or nothing (updating \
         1503 record sets of clickbank.example at 10.10.0.53:53)"
    );
    assert!(refusals[1].advice.contains("spread the hostnames over several zones"), "{refusals:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_with_closed_proxies_says_so() {
    let topology = example();
    let targets =
        Arc::new(Scripted { live: Mutex::new(healthy::live(&topology)), stubborn: 1, acted: Mutex::default() });
    let plan = until_off(&topology, &targets.live.lock().unwrap());
    let [first, second] = west();
    targets.connect(&first, 5);
    let dying = {
        let targets = Arc::clone(&targets);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(605)).await;
            let silent = Observed::Unreachable(Unreachable::new("connection refused", "scripted"));
            targets.live.lock().unwrap().insert(second, silent);
        })
    };
    let (outcome, events) = apply_only(topology, &targets, plan, "power.connections").await;
    dying.await.unwrap();
    assert_eq!(outcome.end, RunEnd::Stopped, "{}", outcome.summary);
    let warned = |event: &Event| matches!(event, Event::Warning { text } if text.starts_with("west-lb1 let nobody in"));
    assert!(events.iter().any(warned), "{events:#?}");
}
