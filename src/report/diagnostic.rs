//! Findings about a file as text, the way compilers show them: code, place, source line, caret, advice.

use std::borrow::Cow;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::diagnostic::{Diagnostic, Severity};
use crate::model::Place;

/// How findings are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// With colours, by ANSI escape sequences.
    pub colour: bool,
    /// Columns of the terminal; longer source lines are cut.
    pub width: usize,
}

impl Style {
    /// Without colours, for 120 columns.
    pub const PLAIN: Self = Self { colour: false, width: 120 };
    /// With colours, for 120 columns.
    pub const COLOURED: Self = Self { colour: true, width: 120 };
}

/// Most bytes of a source line that are shown before a place and after it.
const AROUND: usize = 400;

/// Renders findings about `text`, the bytes of the file `file_name`, in the order given, and a last line that counts them. Any
/// bytes can be shown: what is not UTF-8 is replaced, long lines are cut around the place.
pub fn render(text: &[u8], file_name: &str, findings: &[Diagnostic], style: Style) -> String {
    let renderer = if style.colour { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(style.width).decor_style(DecorStyle::Ascii);
    let text = without_secrets(text, findings);
    let lines = Lines::new(if findings.is_empty() { &[] } else { &text });
    let mut rendered = String::new();
    for finding in findings {
        rendered += &renderer.render(&[group(&lines, file_name, finding)]);
        rendered += "\n\n";
    }
    rendered += &summary(file_name, findings);
    rendered
}

/// The text with stars where somebody wrote a secret instead of a reference to it: findings are shown in logs of CI.
fn without_secrets<'t>(text: &'t [u8], findings: &[Diagnostic]) -> Cow<'t, [u8]> {
    let mut text = Cow::Borrowed(text);
    for finding in findings.iter().filter(|finding| finding.code == "secret-reference") {
        let place = finding.place.start as usize..finding.place.end as usize;
        if let Some(secret) = text.to_mut().get_mut(place) {
            secret.iter_mut().filter(|byte| !byte.is_ascii_whitespace()).for_each(|byte| *byte = b'*');
        }
    }
    text
}

fn group<'a>(lines: &Lines<'a>, file_name: &'a str, finding: &'a Diagnostic) -> Group<'a> {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Info => Level::INFO,
    };
    let line = lines.at(finding.place);
    let mut group = Group::with_title(level.primary_title(finding.message.as_str()).id(finding.code));
    // Places on the same line share one picture of it.
    let mut picture = line.picture(AnnotationKind::Primary, None);
    let mut others = Vec::new();
    for (place, label) in &finding.related {
        let other = lines.at(*place);
        match line.span_of(*place).filter(|_| other.number == line.number) {
            Some(span) => {
                picture = picture.annotation(AnnotationKind::Context.span(span).label(label.as_str()));
            }
            None => others.push((other.picture(AnnotationKind::Context, Some(label)), other)),
        }
    }
    for (picture, line) in std::iter::once((picture, line)).chain(others) {
        group = match line.cut {
            // What is cut off at the left counts in the column, which the picture does not know.
            true => group.element(Origin::path(file_name).line(line.number).char_column(line.column)).element(picture),
            false => group.element(picture.path(file_name)),
        };
    }
    match &finding.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// "topology.yaml: 2 errors, 1 warning".
fn summary(file_name: &str, findings: &[Diagnostic]) -> String {
    let counts = [Severity::Error, Severity::Warning, Severity::Info].map(|severity| {
        let count = findings.iter().filter(|finding| finding.severity == severity).count();
        (count > 0).then(|| format!("{count} {}{}", severity.word(), if count == 1 { "" } else { "s" }))
    });
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    match counts.as_slice() {
        [] => format!("{file_name}: no findings\n"),
        counts => format!("{file_name}: {}\n", counts.join(", ")),
    }
}

/// Finds lines.
pub(super) struct Lines<'a> {
    text: &'a [u8],
    /// Where each line begins.
    starts: Vec<usize>,
}

/// What is shown of one line, and of a place in it.
struct Line<'a> {
    number: usize,
    /// In characters, from 1.
    column: usize,
    /// Whether the beginning of the line is left out.
    cut: bool,
    shown: Cow<'a, str>,
    /// The place within `shown`.
    span: Range<usize>,
    /// What of the file's bytes is shown.
    bytes: &'a [u8],
    /// Offset of `bytes` in the file.
    offset: usize,
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        let newlines = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        Self { text, starts: std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect() }
    }

    /// Line and column of an offset, from 1; columns count characters.
    pub fn position(&self, offset: u32) -> (usize, usize) {
        let line = self.at(Place { start: offset, end: offset });
        (line.number, line.column)
    }

    fn at(&self, place: Place) -> Line<'a> {
        let position = (place.start as usize).min(self.text.len());
        let number = self.starts.partition_point(|start| *start <= position);
        let line_start = number.checked_sub(1).and_then(|index| self.starts.get(index)).copied().unwrap_or_default();
        let rest = self.text.get(line_start..).unwrap_or_default();
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let end = (place.end as usize).clamp(position, line_start + line.len().max(position - line_start));
        let (from, to) = (position - line_start, (end - line_start).min(line.len()));
        let before = line.get(..from.min(line.len())).unwrap_or_default();
        let column = String::from_utf8_lossy(before).chars().count() + 1;

        let first = character_start(line, from.saturating_sub(AROUND));
        let last = character_start(line, to.saturating_add(AROUND).min(line.len()));
        let bytes = line.get(first..last).unwrap_or_default();
        let mut line = Line {
            number,
            column,
            cut: first > 0,
            shown: String::from_utf8_lossy(bytes),
            span: 0..0,
            bytes,
            offset: line_start + first,
        };
        line.span = line.span_of(Place { start: place.start, end: offset(end) }).unwrap_or_default();
        line
    }
}

impl<'a> Line<'a> {
    /// A place of the file within what is shown; none where it is outside.
    fn span_of(&self, place: Place) -> Option<Range<usize>> {
        let start = (place.start as usize).checked_sub(self.offset)?;
        let end = (place.end as usize).checked_sub(self.offset)?.min(self.bytes.len());
        let shown = |to: usize| Some(String::from_utf8_lossy(self.bytes.get(..to)?).len());
        let start = shown(start)?;
        Some(start..shown(end).filter(|end| *end > start).unwrap_or(start))
    }

    fn picture(&self, kind: AnnotationKind, label: Option<&'a str>) -> Snippet<'a, Annotation<'a>> {
        Snippet::source(self.shown.clone())
            .line_start(self.number)
            .annotation(kind.span(self.span.clone()).label(label))
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The beginning of the character at `index`.
fn character_start(line: &[u8], index: usize) -> usize {
    let before = |back: &usize| line.get(index - back).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000);
    index - (0..=index.min(3)).find(before).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8], start: u32, end: u32) -> String {
        render(text, "f.yaml", &[Diagnostic::error("wrong", Place { start, end }, "it is wrong")], Style::PLAIN)
    }

    #[test]
    fn places_are_counted_in_characters_and_lines() {
        let text = "a: 1\r\nü: \"東京\" # é\r\n".as_bytes();
        let start = text.windows(3).position(|bytes| bytes == "東".as_bytes()).unwrap() as u32;
        let report = shown(text, start, start + 6);
        assert!(report.contains("--> f.yaml:2:5\n"), "{report}");
        assert!(report.contains("2 | ü: \"東京\" # é\n"), "{report}");
        assert_eq!(Place { start, end: start }.line_and_column(text), (2, 5));
    }

    #[test]
    fn any_place_in_any_bytes_can_be_shown() {
        for text in [
            &b""[..],
            b"\n",
            b"\r\n",
            b"abc",
            b"a\n\n\nb",
            b"\xff\xfe\x00\x01",
            b"\xe6\x9d",
            b"\t\xe6\x9d\xb1\t\n\xe6\n",
        ] {
            for start in 0..12 {
                for end in 0..14 {
                    assert!(shown(text, start, end).starts_with("error[wrong]: it is wrong\n --> f.yaml:"));
                }
            }
        }
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("{}wrong{}", "é".repeat(100_000), "x".repeat(100_000));
        let report = shown(text.as_bytes(), 200_000, 200_005);
        assert!(report.contains("--> f.yaml:1:100001\n"), "{report}");
        assert!(report.contains("wrong") && report.contains("^^^^^"), "{report}");
        assert!(report.lines().all(|line| line.chars().count() < 130), "{report}");
    }

    #[test]
    fn colours_are_a_matter_of_style() {
        let findings = [Diagnostic::warning("odd", Place::default(), "odd").help("mend it")];
        assert!(!render(b"x", "f.yaml", &findings, Style::PLAIN).contains('\x1b'));
        let coloured = render(b"x", "f.yaml", &findings, Style::COLOURED);
        assert!(coloured.contains('\x1b') && coloured.ends_with("f.yaml: 1 warning\n"), "{coloured}");
    }
}
