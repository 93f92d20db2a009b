//! The nouns: facilities, services, databases, targets; what was observed of them; what can be done to them.
//!
//! May use nothing of this crate. Must not know a protocol, a clock, a file or a socket.

pub mod action;
pub mod compact;
pub mod declared;
pub mod epoch;
pub mod facts;
pub mod judge;
pub mod name;
pub mod network;
pub mod pooler;
pub mod position;
pub mod quantity;
pub mod saved;
pub mod settings;
pub mod span;
pub mod text;

pub use action::{Action, BackendServers, Backends, CLOSE_FRONTENDS, Condition, FromTo, Peer, SAVE_STATE, Scope};
pub use declared::*;
pub use epoch::{Charge, Epoch, EpochError};
pub use facts::*;
pub use judge::Mismatch;
pub use name::*;
pub use network::{Network, NetworkError};
pub use pooler::{PoolFacts, PoolMode, PoolerFacts};
pub use position::{Lineage, Position};
pub use quantity::{Percent, QuantityError, Rate, Span};
pub use saved::Saved;
pub use settings::{Setting, SettingValue, Settings};
pub use span::Place;
