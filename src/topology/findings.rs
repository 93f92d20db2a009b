//! Collects findings, so that one reading of a file reports them all, and finds the names that were meant.

use std::cell::{Cell, RefCell};

use crate::diagnostic::{Diagnostic, Severity};
use crate::model::Place;

/// More findings than this are counted, not kept: a file with so many needs one repair, not a million lines.
const MOST: usize = 1_000;
/// Comparisons of names spent on suggestions in one file, so that a large file full of wrong names stays quick to judge.
const COMPARISONS: usize = 100_000;
/// How many names are listed where no single one was meant.
const LISTED: usize = 16;

/// The findings of one reading.
#[derive(Default)]
pub(super) struct Findings {
    kept: RefCell<Vec<Diagnostic>>,
    left_out: Cell<usize>,
    comparisons: Cell<usize>,
}

impl Findings {
    /// Keeps a finding.
    pub(super) fn add(&self, finding: Diagnostic) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < MOST {
            kept.push(finding);
        } else {
            self.left_out.set(self.left_out.get() + 1);
        }
    }

    /// Keeps an error at `place`.
    pub(super) fn error(&self, code: &'static str, place: Place, message: impl Into<String>) {
        self.add(Diagnostic::error(code, place, message));
    }

    /// Whether anything was found that makes the file unusable.
    pub(super) fn unusable(&self) -> bool {
        self.left_out.get() > 0 || self.kept.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// All of them in the order of their places, each once.
    pub(super) fn sorted(self) -> Vec<Diagnostic> {
        let mut findings = self.kept.into_inner();
        findings.sort_by(|a, b| (a.place, a.code, &a.message).cmp(&(b.place, b.code, &b.message)));
        findings.dedup();
        if let (Some(last), more @ 1..) = (findings.last(), self.left_out.get()) {
            let place = last.place;
            findings.push(Diagnostic::error("too-many-findings", place, format!("{more} more findings are not shown")));
        }
        findings
    }

    /// The candidate that `word` was most likely meant to be.
    pub(super) fn nearest<'c>(&self, word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
        let length = word.chars().count();
        if length > 64 {
            return None;
        }
        let limit = (length / 3).max(1);
        let mut best: Option<(usize, &str)> = None;
        for candidate in candidates {
            if self.comparisons.get() >= COMPARISONS {
                break;
            }
            self.comparisons.set(self.comparisons.get() + 1);
            // `thursday` for `thu`, `async` for `asynchronous`.
            let (short, long) = if candidate.len() < word.len() { (candidate, word) } else { (word, candidate) };
            if short.len() >= 3 && long.starts_with(short) {
                return Some(candidate);
            }
            if candidate.len().abs_diff(word.len()) > 4 * limit {
                continue;
            }
            let distance = strsim::osa_distance(&word.to_lowercase(), &candidate.to_lowercase());
            if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, candidate));
            }
        }
        best.map(|(_, candidate)| candidate)
    }

    /// Advice on a wrong `word`: the name that was meant, or those that there are. `what` is their plural.
    pub(super) fn advice<'c>(
        &self,
        word: &str,
        what: &str,
        candidates: impl Iterator<Item = &'c str> + Clone,
    ) -> String {
        if let Some(nearest) = self.nearest(word, candidates.clone()) {
            return format!("did you mean `{nearest}`?");
        }
        let names: Vec<String> = candidates.clone().take(LISTED + 1).map(|name| format!("`{name}`")).collect();
        match names.len() {
            0 => format!("there are no {what}"),
            1 => format!("there is only {}", names.concat()),
            n if n > LISTED => format!("there are more than {LISTED} {what}, none of them similar"),
            _ => format!("the {what} are {}", crate::model::text::list(names)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_far_ones_are_not() {
        let findings = Findings::default();
        let known = ["state", "power", "network"];
        assert_eq!(findings.nearest("stat", known.into_iter()), Some("state"));
        assert_eq!(findings.nearest("State", known.into_iter()), Some("state"));
        assert_eq!(findings.nearest("pwoer", known.into_iter()), Some("power"));
        assert_eq!(findings.nearest("cooling", known.into_iter()), None);
    }

    #[test]
    fn findings_are_counted_beyond_the_limit() {
        let findings = Findings::default();
        for start in 0..1_005 {
            findings.error("x", Place { start, end: start }, "wrong");
        }
        assert!(findings.unusable());
        let sorted = findings.sorted();
        assert_eq!(sorted.len(), MOST + 1);
        assert_eq!(sorted.last().unwrap().message, "5 more findings are not shown");
    }
}
