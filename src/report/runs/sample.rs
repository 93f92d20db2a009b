//! Journals of invented runs of a real plan, for tests: every step takes as long as the plan expects.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::journal::{Entry, Hold, Record, RunEnd, RunId};
use crate::model::{Action, TargetId};
use crate::plan::{Gate, Intent, Plan, Planned, Step, StepId, Undo, Wait, Work};
use crate::report::sample::{live, topology};

/// How a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Everything is done.
    Done,
    /// A soak finds the survivors sick.
    Retreat,
    /// A switchover is undone twice, for a fence that fails.
    Stopped,
    /// A route cannot be loaded after the promotion.
    Stuck,
    /// The process dies right after the durable intent to promote.
    Died,
}

/// Every fate.
pub const FATES: [Fate; 5] = [Fate::Done, Fate::Retreat, Fate::Stopped, Fate::Stuck, Fate::Died];

pub fn run() -> RunId {
    RunId("20261123-061503-k3f9".to_owned())
}

fn started() -> Timestamp {
    "2026-11-23T06:15:03.250Z".parse().unwrap()
}

/// The plan that drains west; `reason` is the operator's.
pub fn plan(reason: &str) -> Plan {
    let topology = topology();
    let intent = Intent { drain: ["west".into()].into(), reason: Some(reason.to_owned()), ..Intent::default() };
    let now = "2026-11-23T06:14:00Z".parse().unwrap();
    match crate::plan::make(&topology, &intent, &[], &live(&topology, 100, "west"), now) {
        Planned::Plan(plan) => *plan,
        other => panic!("{other:#?}"),
    }
}

/// The journal of a run of that plan.
pub fn journal(plan: &Plan, fate: Fate) -> Vec<Entry> {
    let mut play = Play { plan, fate, lines: Vec::new(), ends: BTreeMap::new(), ended: None };
    play.all();
    play.finish()
}

struct Play<'a> {
    plan: &'a Plan,
    fate: Fate,
    lines: Vec<(u64, Record)>,
    ends: BTreeMap<StepId, u64>,
    /// When it broke off, how and why.
    ended: Option<(u64, RunEnd, String)>,
}

impl Play<'_> {
    fn say(&mut self, at: u64, record: Record) {
        self.lines.push((at, record));
    }

    /// When what these steps need had ended; none if that never happened.
    fn begins(&self, steps: &[&Step]) -> Option<u64> {
        let inside = |need: &&StepId| steps.iter().any(|step| step.id == **need);
        let needs = steps.iter().flat_map(|step| &step.needs).filter(|need| !inside(need));
        needs.map(|need| self.ends.get(need).copied()).try_fold(12, |latest, end| Some(end?.max(latest)))
    }

    fn all(&mut self) {
        let plan = self.plan;
        let mut played = BTreeSet::new();
        for step in &plan.steps {
            match &step.section {
                None => self.alone(step),
                Some(section) if played.insert(section.clone()) => {
                    let steps: Vec<&Step> = plan.steps.iter().filter(|s| s.section.as_ref() == Some(section)).collect();
                    self.section(section, &steps);
                }
                Some(_) => {}
            }
        }
    }

    fn alone(&mut self, step: &Step) {
        let Some(begin) = self.begins(&[step]) else { return };
        let end = begin + took(step);
        let id = step.id.clone();
        if let Work::Act { action, .. } = &step.work {
            let intended = Some(action.clone());
            self.say(begin, Record::StepStarted { step: id.clone(), assumed: step.before.clone(), intended });
        }
        if let Work::Wait { wait: Wait::Sessions { .. } } = &step.work {
            for (part, remaining) in [(0, 41), (1, 17), (2, 6), (3, 2)] {
                self.say(begin + part * (end - begin) / 4, Record::Sessions { step: id.clone(), remaining });
            }
        }
        if let Work::Gate { gate } = &step.work {
            let sick = self.fate == Fate::Retreat && matches!(gate, Gate::Soak { .. });
            let (verdict, measured) = match (sick, gate) {
                (true, _) => ("retreat", "orderform: 4.2% of 1180 requests failed at east-lb1, at most 1% may"),
                (_, Gate::Soak { .. }) => ("go", "orderform: 0 of 35812 requests failed, longest queue 2"),
                _ => ("go", "2 of 2 servers in east healthy, 3200 rps for 100% of a peak of 1200 rps"),
            };
            let (verdict, measured) = (verdict.to_owned(), measured.to_owned());
            self.say(end, Record::GateJudged { step: id.clone(), verdict, measured: measured.clone() });
            if sick {
                self.say(end + 1, Record::StepFailed { step: id, unknown: false, why: measured.clone() });
                self.ended.get_or_insert((end + 1, RunEnd::Undone, format!("taken back: {measured}")));
                return;
            }
        }
        self.say(end + 1, Record::StepDone { step: id.clone(), verified: "read back".to_owned() });
        self.ends.insert(id, end + 1);
    }

    fn section(&mut self, name: &str, steps: &[&Step]) {
        let of_accounts = steps.iter().any(|step| step.id.0.contains("accounts"));
        let is = |step: &&&Step, verb: &str| matches!(&step.work, Work::Act { action, .. } if action.verb() == verb);
        let rounds = if self.fate == Fate::Stopped && of_accounts { 2 } else { 1 };
        let Some(mut begin) = self.begins(steps) else { return };
        for round in 1..=rounds {
            let assumed = steps.iter().flat_map(|step| step.before.clone()).collect();
            let all = steps.iter().map(|step| step.id.clone()).collect();
            self.say(begin, Record::SectionStarted { section: name.to_owned(), steps: all, assumed });
            let mut phases: Vec<(&Step, u64, u64)> = Vec::new();
            let mut ends: BTreeMap<&StepId, u64> = BTreeMap::new();
            let fails = match self.fate {
                Fate::Stopped if of_accounts => Some("fence"),
                Fate::Stuck if of_accounts => Some("redirect"),
                Fate::Died if of_accounts => Some("promote"),
                _ => None,
            };
            let mut failed = None;
            for step in steps {
                let inside = step.needs.iter().filter(|need| steps.iter().any(|other| other.id == **need));
                let from = inside.map(|need| ends.get(need)).try_fold(begin + 4, |from, end| Some(from.max(*end?)));
                let Some(from) = from else { continue };
                let to = from + took(step);
                if failed.is_some_and(|(at, _)| from >= at) {
                    continue;
                }
                if step.point_of_no_return {
                    let intended = match &step.work {
                        Work::Act { action, .. } => Some(action.clone()),
                        _ => None,
                    };
                    let (id, assumed) = (step.id.clone(), step.before.clone());
                    self.say(from, Record::StepStarted { step: id, assumed, intended });
                }
                if fails.is_some_and(|verb| is(&step, verb)) {
                    failed.get_or_insert((to, *step));
                } else {
                    ends.insert(&step.id, to);
                }
                phases.push((step, from, to));
            }
            let last = ends.values().max().copied().unwrap_or(begin);
            match failed {
                Some((at, _)) if self.fate == Fate::Died => {
                    self.ended.get_or_insert((at, RunEnd::Stuck, String::new()));
                    return;
                }
                Some((at, step)) => {
                    let why = format!("{}: no answer by the deadline", target(step).map_or("it", TargetId::name));
                    let failed = Record::StepFailed { step: step.id.clone(), unknown: false, why: why.clone() };
                    self.say(at + 300, failed);
                    self.phases(&phases, at, Some(step));
                    let (end, summary) = match self.fate {
                        Fate::Stuck => (RunEnd::Stuck, format!("stuck: {why}; there is only forward")),
                        _ => (RunEnd::Stopped, format!("stopped: {why}; the section was undone")),
                    };
                    if self.fate == Fate::Stopped {
                        self.resumed(steps, begin + 4, at + 290, false);
                    }
                    if round == rounds {
                        self.ended.get_or_insert((at + 320, end, summary));
                        return;
                    }
                    let text = format!("{why}; attempt {} of 3 follows", round + 1);
                    self.say(at + 310, Record::Told { text });
                    begin = at + 1_300;
                }
                None => {
                    self.phases(&phases, last, None);
                    self.resumed(steps, begin + 4, last, true);
                    self.ends.extend(ends.into_keys().map(|id| (id.clone(), last + 2)));
                }
            }
        }
    }

    fn phases(&mut self, phases: &[(&Step, u64, u64)], at: u64, failed: Option<&Step>) {
        for (step, from, to) in phases {
            let undone = failed.is_some() && self.fate == Fate::Stopped && matches!(step.undo, Undo::Act { .. });
            let outcome = match (failed, undone) {
                (Some(failed), false) if failed.id == step.id => "failed",
                (_, true) => "undone",
                _ => "done",
            };
            let (step, outcome) = (step.id.clone(), outcome.to_owned());
            self.say(at + 301, Record::Phase { step, from_ms: *from, to_ms: *to, outcome });
        }
    }

    fn resumed(&mut self, steps: &[&Step], from_ms: u64, to_ms: u64, moved: bool) {
        let of = |wanted: &str| steps.iter().find(|step| verb(step) == Some(wanted)).and_then(|step| target(step));
        let Some(primary) = of(if moved { "promote" } else { "fence" }) else { return };
        let database = primary.scope().unwrap().into();
        self.say(to_ms + 1, Record::WritesResumed { database, primary: primary.clone(), from_ms, to_ms });
    }

    fn finish(mut self) -> Vec<Entry> {
        self.lines.sort_by_key(|(at, _)| *at);
        let limit = self.ended.as_ref().map_or(u64::MAX, |(at, ..)| *at);
        self.lines.retain(|(at, _)| *at <= limit);
        let mut last = self.lines.last().map_or(0, |(at, _)| *at);
        let (end, summary) = match &self.ended {
            Some((_, end, summary)) => (*end, summary.clone()),
            None => (RunEnd::Done, "drain west: done".to_owned()),
        };
        if end == RunEnd::Undone {
            let done: Vec<StepId> = (self.lines.iter())
                .filter_map(|(_, record)| match record {
                    Record::StepDone { step, .. } => Some(step.clone()),
                    _ => None,
                })
                .collect();
            for id in done.iter().rev() {
                let Some(Step { undo: Undo::Act { action, .. }, .. }) = self.plan.step(id) else { continue };
                let (step, intended) = (id.clone(), action.clone());
                self.say(last + 5, Record::UndoStarted { step, intended });
                self.say(last + 60, Record::UndoDone { step: id.clone() });
                last += 60;
            }
        }
        let released = if end == RunEnd::Undone { self.plan.holds.clone() } else { Vec::new() };
        if self.fate != Fate::Died {
            self.say(last + 4, Record::RunEnded { end, summary, released });
        }
        let holds = self.plan.holds.iter().map(|kind| Hold {
            kind: kind.clone(),
            by: "ada@ops".to_owned(),
            since: started(),
            reason: self.plan.intent.reason.clone(),
            review_by: None,
            run: run(),
        });
        let text = self.plan.to_yaml().unwrap();
        let first = Record::RunStarted {
            plan: self.plan.id.clone(),
            plan_digest: "4f3a91c2d7e8".to_owned(),
            operator: "ada@ops pid 4711".to_owned(),
            holds: holds.collect(),
            title: self.plan.intent.title(),
            document: Some(text),
            overrides: self.plan.intent.overrides.clone(),
        };
        let lines = std::iter::once((0, first)).chain(self.lines);
        let entry = |(sequence, (elapsed_ms, record)): (usize, (u64, Record))| Entry {
            sequence: sequence as u64,
            at: started() + SignedDuration::from_millis(elapsed_ms as i64),
            elapsed_ms,
            record,
        };
        lines.enumerate().map(entry).collect()
    }
}

fn took(step: &Step) -> u64 {
    u64::try_from(step.expected.0.as_millis()).unwrap().max(3)
}

fn target(step: &Step) -> Option<&TargetId> {
    match &step.work {
        Work::Act { target, .. } => Some(target),
        _ => None,
    }
}

fn verb(step: &Step) -> Option<&str> {
    match &step.work {
        Work::Act { action, .. } => Some(Action::verb(action)),
        _ => None,
    }
}
