//! Text with tones, wrapped at words. Colour is applied last, so that widths are those of what is seen.

use anstyle::{AnsiColor, Effects, Style as Ansi};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How a text is drawn: decided by the caller, who knows the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// ANSI colours; false for `NO_COLOR`, files and pipes.
    pub colour: bool,
}

impl Style {
    /// Without colours.
    pub fn plain(width: usize) -> Self {
        Self { width, colour: false }
    }
}

/// What a piece of text means; colour never says anything that words and symbols do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Strong,
    Dim,
    Good,
    Change,
    Warn,
    Bad,
}

impl Tone {
    fn ansi(self) -> Ansi {
        let colour = |colour: AnsiColor| colour.on_default();
        match self {
            Self::Plain => Ansi::new(),
            Self::Strong => Ansi::new().effects(Effects::BOLD),
            Self::Dim => Ansi::new().effects(Effects::DIMMED),
            Self::Good => colour(AnsiColor::Green),
            Self::Change => colour(AnsiColor::Cyan),
            Self::Warn => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red).effects(Effects::BOLD),
        }
    }
}

/// A line of text in several tones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(Vec<(Tone, String)>);

impl Text {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn of(tone: Tone, text: impl Into<String>) -> Self {
        Self::new().with(tone, text)
    }

    pub fn with(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.push(tone, text);
        self
    }

    pub fn and(mut self, text: impl Into<String>) -> Self {
        self.push(Tone::Plain, text);
        self
    }

    pub fn push(&mut self, tone: Tone, text: impl Into<String>) {
        self.0.push((tone, text.into()));
    }

    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.width()).sum()
    }

    /// Draws it without wrapping. Spaces at which it must not break become plain ones here, so that commands can be copied.
    pub fn draw(&self, colour: bool) -> String {
        let mut out = String::new();
        for (tone, text) in &self.0 {
            let text = text.replace('\u{a0}', " ");
            if colour && *tone != Tone::Plain && !text.trim().is_empty() {
                let ansi = tone.ansi();
                out += &format!("{}{text}{}", ansi.render(), ansi.render_reset());
            } else {
                out += &text;
            }
        }
        out
    }

    /// Breaks it at spaces into lines of at most `width` columns; a word that is longer is cut.
    pub fn wrapped(&self, width: usize) -> Vec<Self> {
        let width = width.max(8);
        let mut lines = Vec::new();
        let (mut line, mut used) = (Self::new(), 0);
        for word in self.words() {
            let length = word.width();
            if used > 0 && used + 1 + length > width {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            if used > 0 {
                line.push(Tone::Plain, " ");
                used += 1;
            }
            for (tone, text) in word.0 {
                let mut part = String::new();
                for c in text.chars() {
                    let columns = c.width().unwrap_or(0);
                    if used + columns > width {
                        line.push(tone, std::mem::take(&mut part));
                        lines.push(std::mem::take(&mut line));
                        used = 0;
                    }
                    part.push(c);
                    used += columns;
                }
                line.push(tone, part);
            }
        }
        if used > 0 || lines.is_empty() {
            lines.push(line);
        }
        lines
    }

    /// Its words; one word may have several tones.
    fn words(&self) -> Vec<Self> {
        let mut words = Vec::new();
        let mut word = Self::new();
        for (tone, text) in &self.0 {
            for (index, part) in text.split(' ').enumerate() {
                if index > 0 && !word.0.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                if !part.is_empty() {
                    word.push(*tone, part);
                }
            }
        }
        if !word.0.is_empty() {
            words.push(word);
        }
        words
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::of(Tone::Plain, text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::of(Tone::Plain, text)
    }
}

/// A text in the making.
pub(crate) struct Page {
    style: Style,
    gutter: Text,
    out: String,
}

impl Page {
    pub fn new(style: Style) -> Self {
        Self { style, gutter: Text::new(), out: String::new() }
    }

    /// Columns that are left beside the gutter.
    pub fn width(&self) -> usize {
        self.style.width.saturating_sub(self.gutter.width()).max(20)
    }

    /// Puts `bar` before every line that `body` draws.
    pub fn within(&mut self, bar: Text, body: impl FnOnce(&mut Self)) {
        let outer = self.gutter.clone();
        self.gutter.join(bar);
        body(self);
        self.gutter = outer;
    }

    pub fn blank(&mut self) {
        let gutter = self.gutter.draw(self.style.colour);
        self.out += gutter.trim_end();
        self.out.push('\n');
    }

    pub fn line(&mut self, text: impl Into<Text>) {
        let mut line = self.gutter.clone();
        line.join(text.into());
        let line = line.draw(self.style.colour);
        self.out += line.trim_end();
        self.out.push('\n');
    }

    /// Draws a text after a mark; the lines after the first stand below the text.
    pub fn item(&mut self, mark: impl Into<Text>, text: impl Into<Text>) {
        let mark = mark.into();
        let rest = " ".repeat(mark.width());
        self.framed(mark, rest.into(), text.into());
    }

    /// Draws a text after a mark, and its lines after the first after another one of the same width.
    pub fn framed(&mut self, mark: Text, rest: Text, text: Text) {
        let width = self.width().saturating_sub(mark.width());
        let mut next = mark;
        for part in text.wrapped(width) {
            let mut line = std::mem::replace(&mut next, rest.clone());
            line.join(part);
            self.line(line);
        }
    }

    /// Draws `left`, and `right` at the end of the line where there is room, else after it.
    pub fn ends(&mut self, left: Text, right: Text) {
        let room = self.width().saturating_sub(left.width() + right.width());
        if room >= 2 {
            let mut line = left;
            line.push(Tone::Plain, " ".repeat(room));
            line.join(right);
            self.line(line);
        } else {
            let mut text = left.and("  ");
            text.join(right);
            self.item("", text);
        }
    }

    /// An [`item`](Self::item) with `right` at the end of its first line; the text keeps clear of that column.
    pub fn ends_item(&mut self, mark: Text, text: Text, right: Text) {
        let indent = mark.width();
        let room = self.width().saturating_sub(indent + right.width() + 2);
        let mut parts = text.wrapped(room).into_iter();
        let mut first = mark;
        first.join(parts.next().unwrap_or_default());
        self.ends(first, right);
        for part in parts {
            let mut line = Text::from(" ".repeat(indent));
            line.join(part);
            self.line(line);
        }
    }

    pub fn finish(self) -> String {
        self.out
    }
}

/// Something that went wrong, as `error: …`; lines after the first stand below.
pub fn failed(label: &str, what: &str, style: Style) -> String {
    let mut page = Page::new(style);
    for (index, line) in what.lines().enumerate() {
        match (index, line.is_empty()) {
            (_, true) => page.blank(),
            (0, false) => page.item(Text::of(Tone::Bad, format!("{label}: ")), line),
            (_, false) => page.item("", line),
        }
    }
    page.finish()
}

/// A duration as a human says it: `85ms`, `2.4s`, `45s`, `3m 20s`, `1h 5m`, `2d 3h`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    let tenths = (millis + 50) / 100;
    let seconds = (millis + 500) / 1_000;
    let pair = |large: u128, unit: &str, small: u128, under: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit} {small}{under}"),
    };
    match millis {
        0 => "0s".to_owned(),
        1..1_000 => format!("{millis}ms"),
        1_000..9_950 if tenths.is_multiple_of(10) => format!("{}s", tenths / 10),
        1_000..9_950 => format!("{}.{}s", tenths / 10, tenths % 10),
        _ if seconds < 60 => format!("{seconds}s"),
        _ if seconds < 3_600 => pair(seconds / 60, "m", seconds % 60, "s"),
        _ if seconds < 86_400 => pair(seconds / 3_600, "h", seconds / 60 % 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// Milliseconds as a human says them.
pub(crate) fn duration_ms(millis: u64) -> String {
    duration(std::time::Duration::from_millis(millis))
}

/// A command that is not broken over two lines.
pub(crate) fn command(command: &str) -> String {
    command.replace(' ', "\u{a0}")
}

/// A moment: `2026-11-23 06:15 UTC`.
pub(crate) fn moment(at: jiff::Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// `1 step`, `3 steps`.
pub(crate) fn count(number: usize, one: &str) -> String {
    let plural = match one.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if one.ends_with('x') => format!("{one}es"),
        _ => format!("{one}s"),
    };
    if number == 1 { format!("1 {one}") } else { format!("{number} {plural}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_like_speech() {
        let words: Vec<String> = [0, 85, 1_000, 2_449, 9_949, 9_951, 45_000, 59_700, 200_000, 3_900_000, 183_600_000]
            .map(|millis| duration(Duration::from_millis(millis)))
            .into();
        assert_eq!(words, ["0s", "85ms", "1s", "2.4s", "9.9s", "10s", "45s", "1m", "3m 20s", "1h 5m", "2d 3h"]);
    }

    #[test]
    fn tones_cost_no_columns_and_are_reset() {
        let text = Text::of(Tone::Bad, "point of").and(" no return");
        assert_eq!(text.width(), 18);
        assert_eq!(text.draw(false), "point of no return");
        assert_eq!(text.draw(true), "\u{1b}[1m\u{1b}[31mpoint of\u{1b}[0m no return");
    }

    proptest! {
        #[test]
        fn wrapping_keeps_every_word_and_the_width(text in "[a-zé→ ]{0,200}", width in 8usize..60) {
            let lines = Text::from(text.as_str()).wrapped(width);
            prop_assert!(lines.iter().all(|line| line.width() <= width));
            let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            let drawn: String = lines.iter().map(|line| line.draw(false)).collect();
            prop_assert_eq!(letters(&drawn), letters(&text));
        }
    }
}
