//! Where runs, records, holds and the lock are kept.
//!
//! May use `model`, `plan` and `journal`. Must not decide anything: what a record means is the journal's business.

#[cfg(test)]
mod contract;
mod sqlite;

pub use sqlite::{LEASE, SqliteStore};
