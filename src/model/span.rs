//! Places in a file.

/// Byte offsets of a piece of the topology file; `start == end` where only the beginning is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset after the last byte.
    pub end: u32,
}

impl Place {
    /// Line and column of the beginning, both counted from 1, the column in characters. `text` is the whole file.
    pub fn line_and_column(self, text: &[u8]) -> (usize, usize) {
        let start = (self.start as usize).min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, String::from_utf8_lossy(before.get(line_start..).unwrap_or_default()).chars().count() + 1)
    }
}
