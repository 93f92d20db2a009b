//! Positions and histories of replicated databases.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place in a database's log. Only positions of one kind can be compared, hence no `Ord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Position {
    /// PostgreSQL's log sequence number: bytes since the cluster began (PostgreSQL manual, `pg_lsn`).
    Lsn(u64),
}

impl Position {
    /// Bytes from `earlier` to here; zero where `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Self) -> u64 {
        match (self, earlier) {
            (Self::Lsn(here), Self::Lsn(there)) => here.saturating_sub(there),
        }
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Lsn(a), Self::Lsn(b)) => a.partial_cmp(b),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lsn(lsn) => write!(f, "{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff),
        }
    }
}

/// Why a text is no position.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log position such as `0/3000148`")]
pub struct PositionError(String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| u32::from_str_radix(part, 16).ok().map(u64::from);
        text.split_once('/')
            .and_then(|(high, low)| Some(Self::Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| PositionError(text.to_owned()))
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which history a member has: what it says of itself, never a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Identity of the cluster (PostgreSQL: `system_identifier`).
    pub system: String,
    /// Number of the history, raised by each promotion (PostgreSQL: timeline).
    pub timeline: u32,
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system {} timeline {}", self.system, self.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back_as_written() {
        let position: Position = "16/B374D848".parse().unwrap();
        assert_eq!(position.to_string(), "16/B374D848");
        assert!("0/1".parse::<Position>().unwrap() < position);
        assert!("16".parse::<Position>().is_err());
    }
}
