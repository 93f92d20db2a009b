//! From observed and desired to an ordered list of steps. Everything here is pure.
//!
//! May use `model`, `diagnostic` and `topology`. Must not know a protocol, a clock or a file: capabilities come in with the facts.

pub mod admit;
mod build;
pub mod candidate;
pub mod desired;
pub mod diff;
pub mod document;
pub mod epoch;
pub mod followers;
pub mod gate;
mod intent;
pub mod live;
pub mod lost;
mod make;
pub mod operator;
mod order;
pub mod overrides;
mod power;
pub mod preflight;
mod progress;
pub mod skeleton;
pub mod split;
mod stale;
mod step;
mod switchover;
pub mod synchronous;
mod ttl;
pub mod weights;
pub mod window;

pub use desired::{Desired, Refusal, possible, scopes};
pub use document::{DocumentError, FailoverMove, Plan, PrimaryMove, TopologyRef};
pub use intent::{Depth, HoldKind, Intent, LetGo, LostThing, Shares};
pub use live::backend_of;
pub use make::{Planned, drift, make, make_knowing};
pub use order::{Ordered, order};
pub use overrides::{GateName, Override, Overrides};
pub use stale::{Stale, stale};
pub use step::{Assumption, Gate, Stage, Step, StepId, Undo, Wait, Work};
pub use switchover::section_name;
