//! What is tortured how, as data: pure, and the same for the same seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use handover::event::Event;
use handover::journal::{Entry, Record};
use handover::model::TargetId;
use handover::plan::{Plan, Step, StepId, Work};
use serde_json::Value;

use super::Playable;
use super::play::{self, Played};
use super::report::Tally;
use super::stand::Stand;

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Story {
    /// A facility leaves, and its primaries with it.
    Drain,
    /// It comes back, and its primaries with it.
    Restore,
}

impl Story {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Drain, Self::Restore];

    /// The word for it: also the name of the snapshot that it begins from.
    pub fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Restore => "restore",
        }
    }
}

/// A place in a run: a record of the journal, or an event of the output where the journal must not be waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// True for a record.
    pub recorded: bool,
    /// The record's or event's kind: `step_done`.
    pub kind: String,
    /// The step or section; empty where there is none.
    pub name: String,
    /// What kind of step that is: `set_share`, `soak`, `old_ttl`, or of a section what its steps do.
    pub verb: String,
}

impl Point {
    /// The text by which it is known when it is written.
    pub fn pattern(&self) -> String {
        let (tag, key) = match (self.recorded, self.kind.as_str()) {
            (true, "section_started" | "section_ended") => ("record", "section"),
            (true, _) => ("record", "step"),
            (false, _) => ("event", "step"),
        };
        match self.name.as_str() {
            "" => format!("\"{tag}\":\"{}\"", self.kind),
            name => format!("\"{tag}\":\"{}\",\"{key}\":\"{name}\"", self.kind),
        }
    }

    /// What one wants to have seen: every kind of record of every kind of step.
    pub fn class(&self) -> Class {
        Class { recorded: self.recorded, kind: self.kind.clone(), verb: self.verb.clone() }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = if self.recorded { "record" } else { "event" };
        let name = if self.name.is_empty() { "run" } else { &self.name };
        write!(f, "{source}:{}:{name}", self.kind)
    }
}

/// Points that are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    recorded: bool,
    kind: String,
    verb: String,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recorded, kind, verb } = self;
        let source = if *recorded { "record" } else { "event" };
        if verb.is_empty() { write!(f, "{source} {kind}") } else { write!(f, "{source} {kind} of {verb}") }
    }
}

/// When, at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Instead of writing the record.
    Before,
    /// Once it is durable.
    After,
    /// So many milliseconds later.
    Later(u64),
}

/// What happens to `handover`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGKILL, to its guard first.
    KillBoth,
    /// SIGSTOP.
    Stop,
    /// The journal cannot be synced any more.
    SyncFails,
    /// The journal's disk is full.
    NoRoom,
}

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    /// SIGKILL.
    Dies,
    /// SIGSTOP: connections are accepted, nothing is answered.
    Hangs,
    /// It runs for a tenth of the time only.
    Slow,
    /// Something else listens at its address, and answers nonsense.
    Lies,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `handover` itself.
    Orchestrator {
        /// Where.
        point: Point,
        /// When.
        moment: Moment,
        /// What.
        blow: Blow,
    },
    /// A server, when a step begins that acts on it.
    Server {
        /// The step.
        step: String,
        /// Its verb.
        verb: String,
        /// The server.
        server: String,
        /// What.
        ill: Ill,
    },
}

/// How one goes on afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// `apply --resume`.
    Resume,
    /// The same, killed as well, and again.
    ResumeTwice,
    /// `rollback`.
    Rollback,
    /// A new plan.
    Replan,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is run.
    pub story: Story,
    /// What goes wrong.
    pub fault: Fault,
    /// True if one waits a while before anything is done about it, as operators do: the guard has had its say then.
    pub waits: bool,
    /// What is done about it.
    pub then: Then,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.story.word())?;
        match &self.fault {
            Fault::Orchestrator { point, moment, blow } => {
                let moment = match moment {
                    Moment::Before => "before".to_owned(),
                    Moment::After => "after".to_owned(),
                    Moment::Later(ms) => format!("{ms}ms-after"),
                };
                let blow = match blow {
                    Blow::Kill => "kill",
                    Blow::KillBoth => "kill-both",
                    Blow::Stop => "stop",
                    Blow::SyncFails => "eio",
                    Blow::NoRoom => "enospc",
                };
                write!(f, "{blow}/{moment}/{point}")?;
            }
            Fault::Server { step, server, ill, .. } => {
                let ill = match ill {
                    Ill::Dies => "dies",
                    Ill::Hangs => "hangs",
                    Ill::Slow => "slow",
                    Ill::Lies => "lies",
                };
                write!(f, "{server}-{ill}/at/{step}")?;
            }
        }
        let then = match self.then {
            Then::Resume => "resume",
            Then::ResumeTwice => "resume-twice",
            Then::Rollback => "rollback",
            Then::Replan => "replan",
        };
        write!(f, "/{}{then}", if self.waits { "wait-" } else { "" })
    }
}

/// What an undisturbed run looked like.
#[derive(Clone, Debug)]
pub struct Undisturbed {
    /// The run's story.
    pub story: Story,
    /// Its plan.
    pub plan: Plan,
    /// Its journal.
    pub records: Vec<Entry>,
    /// What it told.
    pub events: Vec<Event>,
}

/// The kind of a step.
pub fn verb(step: &Step) -> String {
    let named = |value: Option<Value>, key: &str| {
        value.and_then(|value| value.get(key).and_then(Value::as_str).map(str::to_owned)).unwrap_or_default()
    };
    match &step.work {
        Work::Act { action, .. } => match serde_json::to_value(action).ok() {
            Some(value) if value.get("do").is_some_and(|verb| verb == "native") => named(Some(value), "verb"),
            value => named(value, "do"),
        },
        Work::Gate { gate } => named(serde_json::to_value(gate).ok(), "gate"),
        Work::Wait { wait } => named(serde_json::to_value(wait).ok(), "for"),
        Work::Verify => "verify".to_owned(),
        Work::Release { .. } => "release".to_owned(),
    }
}

/// Where a record is; none for those that have no point of their own.
pub fn point_of(plan: &Plan, record: &Record) -> Option<Point> {
    let value = serde_json::to_value(record).ok()?;
    let kind = value.get("record")?.as_str()?.to_owned();
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let (name, verb) = match (text("step"), text("section")) {
        (Some(step), _) => {
            let verb = plan.step(&StepId(step.clone())).map(verb).unwrap_or_default();
            (step, verb)
        }
        (None, Some(section)) => {
            let of = |step: &&Step| step.section.as_deref() == Some(&section);
            let what =
                if plan.steps.iter().filter(of).any(|step| step.point_of_no_return) { "switchover" } else { "records" };
            (section, what.to_owned())
        }
        (None, None) => (String::new(), String::new()),
    };
    Some(Point { recorded: true, kind, name, verb })
}

impl Undisturbed {
    /// Every place where one can interfere.
    pub fn points(&self) -> Vec<Point> {
        let mut points: Vec<Point> =
            self.records.iter().filter_map(|entry| point_of(&self.plan, &entry.record)).collect();
        // What is told within sections is recorded only after them.
        for event in &self.events {
            let (kind, step) = match event {
                Event::StepStarted { step, .. } => ("step_started", step),
                Event::StepDone { step, .. } => ("step_done", step),
                _ => continue,
            };
            let Some(found) = self.plan.step(step).filter(|step| step.section.is_some()) else { continue };
            points.push(Point { recorded: false, kind: kind.to_owned(), name: step.0.clone(), verb: verb(found) });
        }
        let mut seen = BTreeSet::new();
        points.retain(|point| seen.insert(point.clone()));
        points
    }

    /// Every step that acts, with its target.
    fn acting(&self) -> impl Iterator<Item = (&Step, &TargetId)> {
        self.plan.steps.iter().filter_map(|step| match &step.work {
            Work::Act { target, .. } => Some((step, target)),
            _ => None,
        })
    }
}

/// Random numbers that depend on the seed alone (SplitMix64; Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % limit.max(1) as u64).unwrap_or_default()
    }

    /// Puts items into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

impl Playable for Case {
    fn play(&self, stand: &Stand) -> Result<Played> {
        play::play(stand, self)
    }

    fn count(&self, tally: &mut Tally, played: &Played) {
        tally.add(self, played);
    }
}

impl Case {
    /// Cases that are alike in what goes wrong and what is done about it, wherever.
    fn kind(&self) -> String {
        match &self.fault {
            Fault::Orchestrator { blow, .. } => format!("{blow:?} {:?}", self.then),
            Fault::Server { ill, .. } => format!("{ill:?}"),
        }
    }
}

/// Some of the cases, in their order, as different as can be.
pub fn sample(cases: &[Case], number: usize) -> Vec<Case> {
    one_of_each_kind(cases, number, Case::kind)
}

/// So many of them: one of each kind before any second one.
pub fn one_of_each_kind<C: Clone>(cases: &[C], number: usize, kind: impl Fn(&C) -> String) -> Vec<C> {
    let mut places: Vec<(usize, usize)> = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        let count = seen.entry(kind(case)).or_default();
        places.push((*count, index));
        *count += 1;
    }
    places.sort_unstable();
    places.iter().take(number).map(|(_, index)| cases[*index].clone()).collect()
}

/// All cases in the order in which they are played: first a kill once durable and a resume at every class of points, then the rest.
/// `servers` says which servers a target needs.
pub fn cases(undisturbed: &[Undisturbed], servers: &dyn Fn(&TargetId) -> Vec<String>, seed: u64) -> Vec<Case> {
    let mut random = Random(seed);
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for one in undisturbed {
        let story = one.story;
        let mut classes: BTreeMap<Class, Vec<Point>> = BTreeMap::new();
        for point in one.points() {
            classes.entry(point.class()).or_default().push(point);
        }
        for points in classes.values() {
            let mut any = || points[random.below(points.len())].clone();
            let [a, b, c, d, e, f, g, h] = [(); 8].map(|()| any());
            let recorded = a.recorded;
            let later = Moment::Later(1 + random.number() % 120);
            let again = Moment::Later(1 + random.number() % 120);
            let add = |list: &mut Vec<Case>, point: Point, moment, blow, then| {
                // A new plan is made once the guard has ended what was open: until then it is refused.
                let waits = then == Then::Replan || (list.len() + usize::from(recorded)).is_multiple_of(2);
                list.push(Case { story, fault: Fault::Orchestrator { point, moment, blow }, waits, then });
            };
            add(&mut first, a, Moment::After, Blow::Kill, Then::Resume);
            add(&mut rest, b, later, Blow::Kill, Then::ResumeTwice);
            add(&mut rest, c, Moment::After, Blow::Kill, Then::Rollback);
            add(&mut rest, d, again, Blow::KillBoth, Then::Resume);
            add(&mut rest, e.clone(), Moment::After, Blow::Stop, Then::Resume);
            if recorded {
                // There is no run yet where the first record was not written.
                if f.kind != "run_started" {
                    add(&mut rest, f.clone(), Moment::Before, Blow::Kill, Then::Resume);
                    add(&mut rest, f, Moment::Before, Blow::KillBoth, Then::Rollback);
                }
                add(&mut rest, g, Moment::After, Blow::SyncFails, Then::Resume);
                add(&mut rest, h, Moment::After, Blow::NoRoom, Then::Resume);
            } else {
                add(&mut rest, f, Moment::After, Blow::KillBoth, Then::Rollback);
                add(&mut rest, e, Moment::After, Blow::Kill, Then::Replan);
            }
        }
        for (step, target) in one.acting() {
            for server in servers(target) {
                for ill in [Ill::Dies, Ill::Hangs, Ill::Slow, Ill::Lies] {
                    let then = if random.below(3) == 0 { Then::Replan } else { Then::Resume };
                    let (step, verb, server) = (step.id.0.clone(), verb(step), server.clone());
                    rest.push(Case { story, fault: Fault::Server { step, verb, server, ill }, waits: false, then });
                }
            }
        }
    }
    random.shuffle(&mut first);
    random.shuffle(&mut rest);
    first.extend(rest);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(blow: Blow, then: Then, name: &str) -> Case {
        let point =
            Point { recorded: true, kind: "step_done".to_owned(), name: name.to_owned(), verb: "stop".to_owned() };
        Case {
            story: Story::Drain,
            fault: Fault::Orchestrator { point, moment: Moment::After, blow },
            waits: false,
            then,
        }
    }

    #[test]
    fn a_sample_has_one_of_each_kind_before_any_second_one() {
        let all = [
            case(Blow::Kill, Then::Resume, "a"),
            case(Blow::Kill, Then::Resume, "b"),
            case(Blow::Kill, Then::Rollback, "c"),
            case(Blow::Stop, Then::Resume, "d"),
        ];
        let names: Vec<String> = sample(&all, 3).iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "drain/kill/after/record:step_done:a/resume",
                "drain/kill/after/record:step_done:c/rollback",
                "drain/stop/after/record:step_done:d/resume"
            ]
        );
        assert_eq!(sample(&all, 9).len(), 4);
    }

    #[test]
    fn a_point_is_known_by_what_is_written_for_it() {
        let record = Record::StepDone { step: StepId("db.orders.fence".to_owned()), verified: String::new() };
        let written = serde_json::to_string(&record).unwrap();
        let point = |kind: &str, name: &str| Point {
            recorded: true,
            kind: kind.to_owned(),
            name: name.to_owned(),
            verb: String::new(),
        };
        assert!(written.contains(&point("step_done", "db.orders.fence").pattern()));
        assert!(!written.contains(&point("step_done", "db.orders.fen").pattern()));
        let section =
            Record::SectionStarted { section: "switchover.orders".to_owned(), steps: vec![], assumed: vec![] };
        let written = serde_json::to_string(&section).unwrap();
        assert!(written.contains(&point("section_started", "switchover.orders").pattern()));
        let event = serde_json::to_string(&Event::StepStarted {
            step: StepId("db.orders.fence".to_owned()),
            title: String::new(),
            expected: std::time::Duration::ZERO,
        });
        let told = Point { recorded: false, ..point("step_started", "db.orders.fence") };
        assert!(event.unwrap().contains(&told.pattern()));
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let numbers = |seed| {
            let mut random = Random(seed);
            [(); 3].map(|()| random.number())
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        // As the reference implementation gives them.
        assert_eq!(Random(1234567).number(), 6457827717110365317);
    }
}
