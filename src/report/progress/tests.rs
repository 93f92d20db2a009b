use std::sync::{Arc, Mutex};

use super::*;
use crate::event::RunReport;
use crate::journal::RunEnd;
use crate::model::TargetId;

/// What was written, for a look at it afterwards.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn id(text: &str) -> StepId {
    StepId(text.to_owned())
}

fn events() -> Vec<(i64, Event)> {
    let report = RunReport::example();
    let progress = |seconds: u64| Event::StepProgress {
        step: id("soak.10%"),
        text: format!("{seconds}s of 30s"),
        fraction: Some(seconds as f64 / 30.0),
    };
    let soak = || "east stays healthy".to_owned();
    let share = || "10% of west's share moves to east at west-lb1".to_owned();
    let secs = Duration::from_secs;
    let primary = TargetId::member(&"accounts".into(), "east-pg1");
    let mut events = vec![
        (
            0,
            Event::RunStarted {
                run: report.run.clone(),
                plan: report.plan.clone(),
                title: "drain west".to_owned(),
                stages: 5,
                steps: 42,
                expected: secs(140),
            },
        ),
        (0, Event::StageStarted { stage: 1, title: "Edge: 10% of west's share moves away".to_owned(), steps: 5 }),
        (0, Event::StepStarted { step: id("share"), title: share(), expected: secs(1) }),
        (
            1,
            Event::StepDone {
                step: id("share"),
                title: share(),
                took: Duration::from_millis(41),
                verified: "weights read back".to_owned(),
            },
        ),
        (1, Event::StepStarted { step: id("soak.10%"), title: soak(), expected: secs(30) }),
    ];
    events.extend((1..30).map(|second| (1 + i64::try_from(second).unwrap(), progress(second))));
    events.extend([
        (
            31,
            Event::GateJudged {
                step: id("soak.10%"),
                title: soak(),
                verdict: Verdict::Go,
                measured: "0 of 35,402 requests failed, queue 0".to_owned(),
            },
        ),
        (31, Event::StepDone { step: id("soak.10%"), title: soak(), took: secs(30), verified: String::new() }),
        (31, Event::StageEnded { stage: 1, title: "Edge".to_owned(), took: secs(31) }),
        (40, Event::WritesResumed { database: "accounts".into(), primary, write_stall: Duration::from_millis(312) }),
        (42, Event::RedundancyRestored { database: "accounts".into(), without: Duration::from_millis(1_840) }),
        (
            43,
            Event::StepFailed {
                step: id("dns"),
                title: "west's addresses leave clickbank.example at east-ns1".to_owned(),
                took: secs(5),
                unknown: true,
                why: "no answer within 5s (UPDATE over TCP to 10.20.0.53:53)".to_owned(),
            },
        ),
        (43, Event::StopRequested { finishing: "the step that runs is finished first".to_owned() }),
        (44, Event::UndoStarted { step: id("share"), title: share() }),
        (
            44,
            Event::UndoFailed {
                step: id("share"),
                title: share(),
                why: "the weight is 40, neither what was set nor what was before".to_owned(),
            },
        ),
        (
            45,
            Event::RunEnded {
                end: RunEnd::Stuck,
                summary: "a weight at west-lb1 could not be taken back".to_owned(),
                report: Box::new(report),
            },
        ),
    ]);
    events
}

fn tell(reporter: &mut dyn Reporter) {
    for (second, event) in events() {
        reporter.event(Timestamp::from_second(1_795_414_503 + second).unwrap(), &event);
    }
}

#[test]
fn plain_lines_tell_the_story_without_flooding() {
    let paper = Paper::default();
    tell(&mut Plain::new(Box::new(paper.clone()), Style::plain(100)));
    insta::assert_snapshot!("plain", paper.text());
}

#[test]
fn json_lines_are_objects_with_time_and_name() {
    let paper = Paper::default();
    tell(&mut Json::new(Box::new(paper.clone())));
    let lines: Vec<serde_json::Value> = paper.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), events().len());
    assert_eq!(lines[0]["event"], "run_started");
    assert_eq!(lines[0]["time"], "2026-11-23T06:15:03Z");
    assert_eq!(lines.last().unwrap()["report"]["databases"]["accounts"]["write_stall_ms"], 312);
}

#[test]
fn the_live_display_shows_what_runs_and_leaves_only_what_ended() {
    let terminal = indicatif::InMemoryTerm::new(30, 100);
    let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
    let mut live = Live::new(target, Style::plain(100));
    let all = events();
    let (before, after) = all.split_at(20);
    for (_, event) in before {
        live.event(Timestamp::UNIX_EPOCH, event);
    }
    // Drawing is limited in its rate and repeated by a tick.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    let complete = |shown: &str| ["15s of 30s", "━━", "1 of 42 steps"].iter().all(|part| shown.contains(part));
    while !complete(&terminal.contents()) {
        assert!(std::time::Instant::now() < deadline, "{}", terminal.contents());
        std::thread::yield_now();
    }
    for (_, event) in after {
        live.event(Timestamp::UNIX_EPOCH, event);
    }
    drop(live);
    insta::assert_snapshot!("live_leftover", terminal.contents());
}

#[test]
fn dropped_midway_the_live_display_takes_its_drawing_away() {
    let terminal = indicatif::InMemoryTerm::new(30, 100);
    let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
    let mut live = Live::new(target, Style::plain(100));
    for (_, event) in &events()[..20] {
        live.event(Timestamp::UNIX_EPOCH, event);
    }
    drop(live);
    let left = terminal.contents();
    assert!(!left.contains("of 42 steps") && !left.contains("15s of 30s"), "{left}");
    assert!(left.contains("weights read back"), "{left}");
}
