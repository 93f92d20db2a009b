//! Which ways between places are closed, and since when. The supervisor notes every change in `/srv/log/ways`; whoever judges a lab from
//! outside reads it there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where it is, in what servers see as `/srv`.
pub const FILE: &str = "log/ways";

/// One direction between two places.
pub type Way = (String, String);

/// What is closed from a moment until the next note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Microseconds since 1970.
    pub at_us: i64,
    /// Directions in which nothing passes.
    pub closed: BTreeSet<Way>,
}

/// Where the supervisor notes it.
#[derive(Debug)]
pub struct Notebook {
    file: PathBuf,
    last: Mutex<BTreeSet<Way>>,
}

impl Notebook {
    /// An empty one: every way is open.
    pub fn new(file: PathBuf) -> Self {
        Self { file, last: Mutex::default() }
    }

    /// Notes what is closed after a change that began at `began`. A time that is noted as open may be longer than it was, never shorter.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn note(&self, began: Timestamp, closed: BTreeSet<Way>) -> Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == closed {
            return Ok(());
        }
        let opens = !last.is_subset(&closed);
        let at = if opens { began } else { Timestamp::now() };
        let line = serde_json::to_string(&Note { at_us: at.as_microsecond(), closed: closed.clone() })?;
        let mut file = File::options().create(true).append(true).open(&self.file)?;
        file.write_all((line + "\n").as_bytes())?;
        *last = closed;
        Ok(())
    }
}

/// Everything that was noted, in its order.
///
/// # Errors
/// If it cannot be read. No file means no change.
pub fn read(file: &Path) -> Result<Vec<Note>> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", file.display()))?,
    };
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no note: {line}"))).collect()
}

/// The times, in microseconds since 1970, at which somebody in `from` could reach `to`: packets pass both ways between the two, or between
/// both and one of `doors`, where servers pass requests on.
pub fn reachable(notes: &[Note], from: &str, to: &str, doors: &BTreeSet<String>) -> Vec<(i64, i64)> {
    let passes = |note: &Note, a: &str, b: &str| {
        let closed = |a: &str, b: &str| note.closed.contains(&(a.to_owned(), b.to_owned()));
        a == b || !(closed(a, b) || closed(b, a))
    };
    let reaches = |note: &Note| {
        passes(note, from, to) || doors.iter().any(|door| passes(note, from, door) && passes(note, door, to))
    };
    let beginning = Note { at_us: i64::MIN, closed: BTreeSet::new() };
    let mut times: Vec<(i64, i64)> = Vec::new();
    let all: Vec<&Note> = std::iter::once(&beginning).chain(notes).collect();
    for (index, note) in all.iter().enumerate().filter(|(_, note)| reaches(note)) {
        let end = all.get(index + 1).map_or(i64::MAX, |next| next.at_us);
        match times.last_mut() {
            Some((_, last)) if *last >= note.at_us => *last = end,
            _ => times.push((note.at_us, end)),
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(at_us: i64, closed: &[(&str, &str)]) -> Note {
        Note { at_us, closed: closed.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect() }
    }

    #[test]
    fn a_place_is_reached_while_packets_pass_both_ways_by_any_door() {
        let doors = BTreeSet::from(["east".to_owned(), "west".to_owned()]);
        let times = |notes: &[Note]| reachable(notes, "users", "west", &doors);
        assert_eq!(times(&[]), [(i64::MIN, i64::MAX)]);
        // The other facility passes it on, until it hears nothing either; one direction is enough for that.
        let alone = [("users", "west"), ("west", "east")];
        let notes = [note(10, &alone[..1]), note(20, &alone), note(30, &[("west", "east")]), note(40, &[])];
        assert_eq!(times(&notes), [(i64::MIN, 20), (30, i64::MAX)]);
        // Nobody passes on for a place that is no door.
        assert_eq!(reachable(&notes, "users", "west", &BTreeSet::new()), [(i64::MIN, 10), (30, i64::MAX)]);
    }

    #[test]
    fn a_change_is_noted_once_and_what_opens_from_its_beginning_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ways");
        assert_eq!(read(&file).unwrap(), []);
        let notebook = Notebook::new(file.clone());
        let began: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let closed = note(0, &[("west", "east")]).closed;
        for closed in [BTreeSet::new(), closed.clone(), closed.clone(), BTreeSet::new()] {
            notebook.note(began, closed).unwrap();
        }
        let notes = read(&file).unwrap();
        assert_eq!(notes.len(), 2);
        assert!(notes[0].at_us > began.as_microsecond() && notes[0].closed == closed);
        assert_eq!(notes[1], Note { at_us: began.as_microsecond(), closed: BTreeSet::new() });
    }
}
