//! What `handover plan` and `handover show` answer, in every form.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Detail, markdown, mermaid, text};
use crate::model::TargetId;
use crate::plan::{Plan, Refusal, Stale, StepId, Work};
use crate::report::json;
use crate::report::text::{Page, Style, Text, Tone};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text(Detail, Style),
    /// For programs: one object on one line.
    Json,
    /// For a pull request.
    Markdown(Detail),
    /// The graph of steps.
    Mermaid,
}

/// What became of the wish for a plan.
#[derive(Clone, Copy, Debug)]
pub enum PlanAnswer<'a> {
    /// There is one.
    Plan {
        /// The plan.
        plan: &'a Plan,
        /// Where it was saved.
        file: Option<&'a str>,
        /// SHA-256 of the file's bytes.
        digest: &'a str,
    },
    /// Nothing differs; what is worth knowing all the same.
    Nothing(&'a [String]),
    /// It is refused.
    Refused {
        /// What was wished for.
        wish: &'a str,
        /// What stands against it.
        refusals: &'a [Refusal],
        /// The exit code that goes with it.
        exit_code: u8,
    },
}

const NOTHING: &str = "Nothing to do: what is live is what it should be.";

/// An answer in a form.
pub fn answer(answer: PlanAnswer<'_>, form: Form) -> String {
    match (answer, form) {
        (PlanAnswer::Plan { plan, file, .. }, Form::Text(detail, style)) => text(plan, file, detail, style),
        (PlanAnswer::Plan { plan, file, .. }, Form::Markdown(detail)) => markdown::plan(plan, file, detail),
        (PlanAnswer::Plan { plan, .. }, Form::Mermaid) => mermaid::plan(plan),
        (PlanAnswer::Plan { plan, file, digest }, Form::Json) => json_plan(plan, file, digest),
        (PlanAnswer::Nothing(notes), Form::Text(_, style)) => nothing(notes, style),
        (PlanAnswer::Nothing(notes), Form::Markdown(_)) => markdown::list(NOTHING, notes),
        (PlanAnswer::Nothing(_), Form::Mermaid) => mermaid::message(NOTHING),
        (PlanAnswer::Nothing(notes), Form::Json) => {
            #[derive(Serialize)]
            struct Body<'a> {
                notes: &'a [String],
            }
            json::answer("nothing", Body { notes })
        }
        (PlanAnswer::Refused { wish, refusals, .. }, Form::Text(_, style)) => refused(wish, refusals, style),
        (PlanAnswer::Refused { wish, refusals, .. }, Form::Markdown(_)) => {
            let lines: Vec<String> =
                refusals.iter().map(|refusal| format!("{} → {}", refusal.what, refusal.advice)).collect();
            markdown::list(&no_plan(wish), &lines)
        }
        (PlanAnswer::Refused { wish, .. }, Form::Mermaid) => mermaid::message(&no_plan(wish)),
        (PlanAnswer::Refused { wish, refusals, exit_code }, Form::Json) => {
            let refusals: Vec<(&str, Option<&str>)> =
                refusals.iter().map(|refusal| (refusal.what.as_str(), Some(refusal.advice.as_str()))).collect();
            json::refused(exit_code, Some(wish), &refusals)
        }
    }
}

fn no_plan(wish: &str) -> String {
    format!("No plan to {wish}: nothing was changed, and nothing was saved.")
}

fn nothing(notes: &[String], style: Style) -> String {
    let mut page = Page::new(style);
    page.item("", NOTHING);
    for note in notes {
        page.item("  note: ", note.as_str());
    }
    page.finish()
}

fn refused(wish: &str, refusals: &[Refusal], style: Style) -> String {
    let mut page = Page::new(style);
    page.item("", no_plan(wish));
    for refusal in refusals {
        page.blank();
        page.item(Text::of(Tone::Bad, "  ✗ "), refusal.what.as_str());
        page.item("    → ", refusal.advice.as_str());
    }
    page.finish()
}

/// Why a plan is about a world that is no more: for people.
pub fn stale(stale: &[Stale], style: Style) -> String {
    let mut page = Page::new(style);
    page.item("refused: ", "the plan is stale: what it relies on has changed since it was made");
    for fact in stale {
        page.blank();
        page.item(Text::of(Tone::Bad, "  ✗ "), format!("{} {}", fact.target.name(), fact.planned));
        page.item("    now: ", fact.found.as_str());
    }
    page.blank();
    page.item("", "Make a new plan with `handover plan`.");
    page.finish()
}

fn json_plan(plan: &Plan, file: Option<&str>, digest: &str) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        file: Option<&'a str>,
        digest: &'a str,
        summary: Summary<'a>,
        plan: &'a Plan,
    }
    #[derive(Serialize)]
    struct Summary<'a> {
        title: String,
        expected_seconds: f64,
        steps: usize,
        changes: usize,
        gates: usize,
        waits: usize,
        checks: usize,
        targets: BTreeSet<&'a TargetId>,
        points_of_no_return: Vec<&'a StepId>,
    }
    let of_kind = |kind: fn(&Work) -> bool| plan.steps.iter().filter(|step| kind(&step.work)).count();
    let target = |work: &'_ Work| matches!(work, Work::Act { .. } | Work::Release { .. });
    let points = plan.steps.iter().filter(|step| step.point_of_no_return);
    let summary = Summary {
        title: plan.intent.title(),
        expected_seconds: plan.expected.0.as_secs_f64(),
        steps: plan.steps.len(),
        changes: of_kind(target),
        gates: of_kind(|work| matches!(work, Work::Gate { .. })),
        waits: of_kind(|work| matches!(work, Work::Wait { .. })),
        checks: of_kind(|work| matches!(work, Work::Verify)),
        targets: super::touched(plan).collect(),
        points_of_no_return: points.map(|step| &step.id).collect(),
    };
    json::answer("plan", Body { file, digest, summary, plan })
}
