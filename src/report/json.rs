//! Answers for programs: one JSON object on one line, with the number of its format. `docs/json.md` describes them.

use serde::Serialize;
use serde_json::Value;

use super::diagnostic::Lines;
use crate::diagnostic::{Diagnostic, Severity};
use crate::journal::RunId;
use crate::model::Place;
use crate::plan::Stale;

/// Version of the answers: it rises when a key changes its meaning or goes away, not when one is added.
pub const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Answer<T> {
    format: u32,
    result: &'static str,
    #[serde(flatten)]
    body: T,
}

/// One answer on a line of its own.
pub(super) fn answer<T: Serialize>(result: &'static str, body: T) -> String {
    // Every type here has a JSON form; should one ever lack it, that is said in the same form.
    let text = serde_json::to_string(&Answer { format: FORMAT, result, body });
    text.unwrap_or_else(|error| Value::String(format!("no JSON form: {error}")).to_string()) + "\n"
}

/// Something failed.
pub fn error(exit_code: u8, message: &str) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        exit_code: u8,
        message: &'a str,
    }
    answer("error", Body { exit_code, message })
}

/// A run goes on without a terminal.
pub fn detached(run: &RunId, process: u32, log: &str) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        exit_code: u8,
        run: &'a RunId,
        process: u32,
        log: &'a str,
    }
    answer("detached", Body { exit_code: 0, run, process, log })
}

/// Something is refused: what stands against it, each with advice. `wish` is what was asked for.
pub fn refused(exit_code: u8, wish: Option<&str>, refusals: &[(&str, Option<&str>)]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        exit_code: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        wish: Option<&'a str>,
        refusals: Vec<Refusal<'a>>,
    }
    #[derive(Serialize)]
    struct Refusal<'a> {
        what: &'a str,
        advice: Option<&'a str>,
    }
    let refusals = refusals.iter().map(|(what, advice)| Refusal { what, advice: *advice }).collect();
    answer("refused", Body { exit_code, wish, refusals })
}

/// A plan is about a world that is no more.
pub fn stale(exit_code: u8, stale: &[Stale]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        exit_code: u8,
        stale: &'a [Stale],
        advice: &'static str,
    }
    answer("stale", Body { exit_code, stale, advice: "make a new plan with `handover plan`" })
}

/// A finding with its place in words of an editor: lines and columns from 1, columns in characters, the end exclusive.
#[derive(Serialize)]
struct Finding<'a> {
    code: &'a str,
    severity: &'static str,
    file: &'a str,
    #[serde(flatten)]
    at: Option<At>,
    message: &'a str,
    help: Option<&'a str>,
    related: Vec<Related<'a>>,
}

#[derive(Serialize)]
struct At {
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

#[derive(Serialize)]
struct Related<'a> {
    #[serde(flatten)]
    at: At,
    message: &'a str,
}

/// Findings about files, each given with its name and bytes; `unread` are files that could not be read, each with the reason.
pub fn findings(exit_code: u8, files: &[(&str, &[u8], &[Diagnostic])], unread: &[(&str, &str)]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        exit_code: u8,
        errors: usize,
        warnings: usize,
        findings: Vec<Finding<'a>>,
    }
    let mut all: Vec<Finding<'_>> = unread
        .iter()
        .map(|(file, why)| Finding {
            code: "unreadable-file",
            severity: Severity::Error.word(),
            file,
            at: None,
            message: why,
            help: None,
            related: Vec::new(),
        })
        .collect();
    for (file, text, findings) in files {
        let lines = Lines::new(text);
        let at = |place: Place| {
            let (line, column) = lines.position(place.start);
            let (end_line, end_column) = lines.position(place.end.max(place.start));
            At { line, column, end_line, end_column }
        };
        all.extend(findings.iter().map(|finding| Finding {
            code: finding.code,
            severity: finding.severity.word(),
            file,
            at: Some(at(finding.place)),
            message: &finding.message,
            help: finding.help.as_deref(),
            related: finding.related.iter().map(|(place, message)| Related { at: at(*place), message }).collect(),
        }));
    }
    let count = |severity: Severity| all.iter().filter(|finding| finding.severity == severity.word()).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    answer(if all.is_empty() { "clean" } else { "findings" }, Body { exit_code, errors, warnings, findings: all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_findings_are_those_of_editors() {
        let text = "a: 1\nü: [x,\n  yy]\n".as_bytes();
        let place = |from: &str, to: &str| {
            let text = std::str::from_utf8(text).unwrap();
            let end = text.find(to).unwrap() + to.len();
            Place { start: text.find(from).unwrap() as u32, end: end as u32 }
        };
        let finding = Diagnostic::error("wrong", place("[x", "yy]"), "it is \"wrong\"")
            .help("mend it")
            .related(place("1", "1"), "because of this");
        let told = findings(65, &[("f.yaml", text, &[finding])], &[("g.yaml", "no such file")]);
        insta::assert_snapshot!(told, @r#"{"format":1,"result":"findings","exit_code":65,"errors":2,"warnings":0,"findings":[{"code":"unreadable-file","severity":"error","file":"g.yaml","message":"no such file","help":null,"related":[]},{"code":"wrong","severity":"error","file":"f.yaml","line":2,"column":4,"end_line":3,"end_column":6,"message":"it is \"wrong\"","help":"mend it","related":[{"line":1,"column":4,"end_line":1,"end_column":5,"message":"because of this"}]}]}"#);
        assert!(findings(0, &[("f.yaml", text, &[])], &[]).contains(r#""result":"clean","exit_code":0"#));
    }
}
