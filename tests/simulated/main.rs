//! Properties of whole plans and runs on simulated worlds, over random topologies, live states, wishes and faults.
//!
//! A sample in `make test`, always the same; `make torture` runs as many as it is told to (CONTRIBUTING.md).

#![allow(clippy::disallowed_methods, reason = "tests read their environment")]

#[path = "../common/carry_out.rs"]
mod carry_out;
mod cases;
#[path = "../common/mod.rs"]
mod common;
mod crashes;
#[path = "../common/generated/mod.rs"]
mod generated;
#[path = "../common/healthy.rs"]
mod healthy;
#[path = "../common/mortal.rs"]
mod mortal;
mod plans;
#[path = "../common/rehearsal.rs"]
mod rehearsal;
mod runs;
mod story;
