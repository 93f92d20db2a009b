//! When something is lost: what is known about it, and what follows. Pure.

pub mod decide;
pub mod evidence;
pub mod failover;
pub mod known;
pub mod loss;
pub(super) mod owed;
pub(super) mod parting;
mod reach;

pub use reach::vantages;
pub mod returned;
pub(super) mod settle;
