//! What the YAML parser complains about, in an operator's words. It stops where it can read no further, which is often some lines
//! after the mistake: a forgotten quote, bracket or space is looked for and pointed at as well.

use granit_parser::{ErrorKind, ScanError};

use super::tree::{DEPTH, place};
use crate::diagnostic::Diagnostic;
use crate::model::Place;

/// The finding of too many maps and lists inside each other.
pub(super) fn too_deep(place: Place) -> Diagnostic {
    Diagnostic::error("too-deep", place, format!("more than {DEPTH} maps and lists inside each other"))
}

/// The parser's `error` as a finding; `bracket` is the innermost one that was open.
pub(super) fn complaint(text: &str, error: &ScanError, bracket: Option<Place>) -> Diagnostic {
    let start = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let here = character(text, start);
    let finding = |message: &str| Diagnostic::error("yaml-syntax", here, message);
    let finding = match error.kind() {
        ErrorKind::RecursionLimitExceeded => return too_deep(here),
        ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabNotAllowed
        | ErrorKind::TabInPlainScalar => {
            // The parser may have stepped over the tab.
            let tab = [start, start.saturating_sub(1)].into_iter().find(|at| text.as_bytes().get(*at) == Some(&b'\t'));
            let place = tab.map_or(here, |at| place(at..at + 1));
            return Diagnostic::error("yaml-syntax", place, "a tab cannot stand here")
                .help("YAML is indented with spaces; replace the tab by spaces");
        }
        ErrorKind::UnclosedQuotedScalar => {
            return finding("this quote is never closed").help("add the closing quote at the end of the text");
        }
        ErrorKind::InvalidTrailingDoubleQuotedScalar | ErrorKind::InvalidTrailingSingleQuotedScalar => {
            return late_quote(text, start).unwrap_or_else(|| {
                finding("nothing can follow a quoted text").help("put the whole text into the quotes")
            });
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            return finding(&format!("this `{open}` is never closed"))
                .help(format!("add the closing `{}`", if *open == '[' { ']' } else { '}' }));
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            if let Some(finding) = colon_without_space(text, start) {
                return finding.related(here, "reading stops here");
            }
            match error.kind() {
                ErrorKind::MappingValueNotAllowed => finding("a value cannot begin here")
                    .help("check the indentation of this line and the one before; a text that holds `: ` needs quotes"),
                _ => finding("a key needs its `:`").help("write `key: value`, with a space after the colon"),
            }
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            finding(&format!("`{close}` closes what `{open}` opened"))
        }
        ErrorKind::ExpectedBlockMappingKey => finding("here a key of the same map should stand")
            .help("check the indentation: the keys of a map all begin in the same column"),
        ErrorKind::ExpectedBlockSequenceEntry => finding("here an item of the list (`- …`) should stand")
            .help("check the indentation: the items of a list all begin in the same column"),
        ErrorKind::ExpectedFlowMappingSeparator => {
            finding("here `,` or `}` should stand").help("a text that holds `,`, `{`, `}`, `[` or `]` needs quotes")
        }
        ErrorKind::ExpectedFlowSequenceSeparator => {
            finding("here `,` or `]` should stand").help("a text that holds `,`, `{`, `}`, `[` or `]` needs quotes")
        }
        ErrorKind::InvalidColonPlacement => finding("a `:` cannot stand here"),
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => {
            finding(&format!("the control character U+{:04X} cannot stand in a topology", u32::from(*character)))
        }
        ErrorKind::UnexpectedCharacter { character } => {
            finding(&format!("a text cannot begin with `{character}`")).help("put the text into quotes")
        }
        ErrorKind::UnknownQuotedScalarEscape => {
            finding("unknown escape in a double-quoted text").help("write `\\\\` for a backslash, or use single quotes")
        }
        _ => finding(&error.info()),
    };
    match bracket.filter(|bracket| bracket.start < here.start && *bracket != here) {
        Some(bracket) => {
            let character = text.get(bracket.start as usize..bracket.end as usize).unwrap_or_default();
            finding.related(bracket, format!("this `{character}` is still open"))
        }
        None => finding,
    }
}

/// The character at `start`; nothing at the end of a line.
fn character(text: &str, start: usize) -> Place {
    let character = text.get(start..).and_then(|rest| rest.chars().next()).filter(|c| *c != '\n' && *c != '\r');
    place(start..start + character.map_or(0, char::len_utf8))
}

/// Where a quoted text that ended before `start` began on an earlier line: there its closing quote is missing.
fn late_quote(text: &str, start: usize) -> Option<Diagnostic> {
    let before = text.get(..start)?.trim_end();
    let quote = before.chars().next_back().filter(|c| *c == '"' || *c == '\'')?;
    let inside = before.get(..before.len() - 1)?;
    let opening = inside.rfind(quote)?;
    let lines = inside.get(opening..)?.matches('\n').count();
    (lines > 0).then(|| {
        let message = format!("this quote is closed only {lines} line{} below", if lines == 1 { "" } else { "s" });
        Diagnostic::error("yaml-syntax", place(opening..opening + 1), message)
            .related(place(before.len() - 1..before.len()), "here")
            .help("add the closing quote at the end of the text")
    })
}

/// A line `key:value` just before the one of `start`: YAML takes it for a text that goes on.
fn colon_without_space(text: &str, start: usize) -> Option<Diagnostic> {
    let line_start = text.get(..start)?.rfind('\n')?;
    let mut end = line_start;
    loop {
        let begin = text.get(..end)?.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text.get(begin..end)?;
        let words = line.trim();
        if words.is_empty() || words.starts_with('#') {
            end = begin.checked_sub(1)?;
            continue;
        }
        let (key, value) = words.split_once(':')?;
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if key.is_empty() || !key.chars().all(word) || value.is_empty() || value.starts_with(char::is_whitespace) {
            return None;
        }
        let colon = begin + line.find(':')?;
        let finding = Diagnostic::error("yaml-syntax", place(colon..colon + 1), "a space is missing after this colon");
        return Some(finding.help(format!("write `{key}: {value}`")));
    }
}
