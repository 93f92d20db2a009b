//! What the guard hears from the process that it watches over, a line each: `.` (a beat), `arm MILLISECONDS SECTION`, `disarm SECTION`.
//! Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// A line that wants an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Watch over a section.
    Arm {
        /// Its name.
        section: String,
        /// After this long without a line the process counts as hung.
        silence: Duration,
    },
    /// A section has ended.
    Disarm {
        /// Its name.
        section: String,
    },
}

impl Word {
    /// Reads a line; none for a beat, and for what is not understood, which is a sign of life all the same.
    pub fn read(line: &str) -> Option<Self> {
        let (verb, rest) = line.trim_end().split_once(' ')?;
        match verb {
            "arm" => {
                let (silence, section) = rest.split_once(' ')?;
                let silence = Duration::from_millis(silence.parse().ok()?);
                Some(Self::Arm { section: section.to_owned(), silence })
            }
            "disarm" => Some(Self::Disarm { section: rest.to_owned() }),
            _ => None,
        }
    }

    /// As it is sent.
    pub fn line(&self) -> String {
        match self {
            Self::Arm { section, silence } => format!("arm {} {section}\n", silence.as_millis()),
            Self::Disarm { section } => format!("disarm {section}\n"),
        }
    }
}

/// The sections that are watched over, each with the silence after which it ends.
#[derive(Debug, Default)]
pub struct Armed(BTreeMap<String, Duration>);

impl Armed {
    /// From now on.
    pub fn add(&mut self, section: String, silence: Duration) {
        self.0.insert(section, silence);
    }

    /// No longer.
    pub fn remove(&mut self, section: &str) {
        self.0.remove(section);
    }

    /// How long there may be silence; none if nothing is watched over.
    pub fn silence(&self) -> Option<Duration> {
        self.0.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_sent_and_the_shortest_silence_counts() {
        let arm = |section: &str, millis| Word::Arm { section: section.into(), silence: Duration::from_millis(millis) };
        let disarm = Word::Disarm { section: "switch accounts".into() };
        for word in [arm("switch accounts", 700), arm("b", 300), disarm] {
            assert_eq!(Word::read(&word.line()), Some(word));
        }
        for line in [".\n", "", "arm", "arm x y", "arm 700", "go away"] {
            assert_eq!(Word::read(line), None, "{line}");
        }
        let mut armed = Armed::default();
        assert_eq!(armed.silence(), None);
        armed.add("a".into(), Duration::from_millis(700));
        armed.add("b".into(), Duration::from_millis(300));
        assert_eq!(armed.silence(), Some(Duration::from_millis(300)));
        armed.remove("b");
        assert_eq!(armed.silence(), Some(Duration::from_millis(700)));
        armed.remove("a");
        assert_eq!(armed.silence(), None);
    }
}
