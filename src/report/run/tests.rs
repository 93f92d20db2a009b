use super::*;
use crate::event::WayOn;
use crate::plan::StepId;

#[test]
fn a_drain_that_succeeded() {
    let report = RunReport::example();
    for width in [80, 120] {
        insta::assert_snapshot!(
            format!("done_{width}"),
            run(&report, RunEnd::Done, "west is drained", Style::plain(width))
        );
    }
}

fn failed_report() -> RunReport {
    let mut report = RunReport::example();
    for step in &mut report.steps {
        step.outcome = match step.stage {
            0 => StepOutcome::Done,
            1 => StepOutcome::Undone,
            _ => StepOutcome::NotBegun,
        };
    }
    if let Some(step) = report.steps.iter_mut().find(|step| step.step.0 == "soak.10%") {
        step.outcome = StepOutcome::Failed;
    }
    for stage in &mut report.stages[2..] {
        stage.took = None;
    }
    report.databases.clear();
    report.residual_sessions.clear();
    report.holds_made.clear();
    report.waited_ms.retain(|cause, _| *cause == crate::event::WaitCause::Soak);
    report.failure = Some(Failure {
        step: StepId("soak.10%".to_owned()),
        title: "east stays healthy".to_owned(),
        target: Some(crate::model::TargetId::proxy("east-lb1")),
        why: "4.2% of 1180 requests failed within 12s at east-lb1, at most 1% may".to_owned(),
        tried: Some("counters of orderform, hoplinks and website at 4 proxies".to_owned()),
        ways_on: vec![
            WayOn { what: "see what is wrong in east".to_owned(), command: Some("handover status".to_owned()) },
            WayOn { what: "then plan again".to_owned(), command: Some("handover plan --drain west".to_owned()) },
        ],
    });
    report
}

#[test]
fn a_drain_that_retreated() {
    let text = run(&failed_report(), RunEnd::Undone, "east got sick; west serves as before", Style::plain(80));
    insta::assert_snapshot!("retreated", text);
}

#[test]
fn colours_add_nothing_but_colour() {
    let plain = run(&failed_report(), RunEnd::Stuck, "x", Style::plain(100));
    let coloured = run(&failed_report(), RunEnd::Stuck, "x", Style { width: 100, colour: true });
    assert_ne!(plain, coloured);
    assert_eq!(plain, anstream::adapter::strip_str(&coloured).to_string());
}
