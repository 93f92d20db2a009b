//! Rehearsals: plans are applied to targets that exist in memory only.
//!
//! May use everything below it but the real adapters. Nothing of the program uses it yet; tests do.

pub mod sim;
