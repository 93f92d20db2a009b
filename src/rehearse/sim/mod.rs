//! Targets in memory behind the traits of the real providers: one [`World`] that all of them share, and a [`Simulation`] that speaks for
//! it. Waiting is by the runtime's clock, so that under tokio's paused time an apply of hours takes milliseconds.
//!
//! What it models: record sets with their conditions and transfers within a zone; weights, admissions, health and saved state of proxies;
//! application servers; roles, histories, receivers, slots and synchronous names of members; routes and pauses of poolers; jobs; and
//! servers that are stopped and started with their hosts. Actions are refused where the real targets refuse them, and done already where
//! there is nothing left to do. A [`Fault`] makes an action go wrong. An action that has left its caller is carried out though the caller
//! dies, at once or later ([`Orphans`]).
//!
//! What it does not model:
//!
//! - traffic: counters stand still and nobody is connected, so that gates judge by probes; no query is lost, delayed or counted;
//! - time within a target: an action has its effect at once after [`LATENCY`], transfers and replication take none, health checks
//!   follow at once, a TTL is nobody's memory;
//! - bytes: messages have no size, logs no content, positions only rise;
//! - what makes an operator's life hard: rights, passwords, keys, clocks, transactions, other managers, disks. Put those into the facts
//!   by [`Simulation::change`];
//! - partitions of a network between targets: a target answers everybody or nobody.

mod data;
mod fault;
mod healthy;
mod invariants;
mod provider;
mod world;

pub use fault::{Fault, Harm, Orphans};
pub use healthy::{replica, slot};
pub use provider::{LATENCY, SimClock, Simulation};
pub use world::World;
