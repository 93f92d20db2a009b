//! Random topologies, live states and wishes, for property tests.
//!
//! Everything refers to other things by index, counted modulo what is there: whatever a generator yields is valid, and so is everything
//! that it shrinks to.
#![allow(dead_code, reason = "each test program uses a part")]

mod state;
mod topology;
mod wishes;

pub use state::{Quirk, disturb, quirks};
pub use topology::{Sketch, sketches};
pub use wishes::{Wish, wishes};

/// The element at an index, whatever the index.
pub fn pick<T>(from: &[T], index: usize) -> Option<&T> {
    from.get(index.checked_rem(from.len())?)
}

/// The whole divided in proportion to parts, in hundredths of a percent; the first gets what rounding leaves, or all of it where all
/// parts are 0.
pub fn divided(parts: &[u32]) -> Vec<u32> {
    let whole: u32 = parts.iter().sum();
    let mut points: Vec<u32> =
        parts.iter().map(|part| (part * 10_000).checked_div(whole).unwrap_or_default()).collect();
    let left = 10_000 - points.iter().sum::<u32>();
    if let Some(first) = points.first_mut() {
        *first += left;
    }
    points
}
