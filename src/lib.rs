//! `handover` moves a service between data-centre facilities: plan, review, apply.
//!
//! One file says what should be (`topology`), providers read what is (`provider`), the difference becomes an ordered list of steps
//! (`plan`), and the engine applies it, journalled (`engine`, `journal`). `docs/architecture.md` follows one drain through these
//! modules and holds the table of who may use whom, which `tests/architecture.rs` enforces.

pub mod cli;
pub mod diagnostic;
pub mod engine;
pub mod event;
pub mod journal;
pub mod model;
pub mod plan;
pub mod provider;
pub mod rehearse;
pub mod report;
pub mod secret;
pub mod store;
pub mod topology;
pub mod transport;
