//! When something is lost: what is known about it, and what follows. Pure.

pub mod evidence;
mod reach;

pub use reach::vantages;
