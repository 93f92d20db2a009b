//! Splits: two sides of what should be one, each of which goes on by itself. They are found in what was observed; which side survives an
//! operator says, and everything else follows from that. Pure.

mod found;
mod histories;
mod question;
mod repair;

pub use found::{Split, SplitKind, find};
pub(in crate::plan) use histories::ends_at;
pub use histories::{Own, Related, own, related};
pub(in crate::plan) use question::questions;
pub use repair::{Discard, Repair, grown};
pub(in crate::plan) use repair::{alone, chief, need, notes, repairs};
