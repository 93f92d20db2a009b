//! Gates that an operator may pass, each by its name and for a reason. There is no way to pass all of them. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What can be overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateName {
    /// Planned work runs within `policy.windows`.
    Windows,
    /// No planned work runs during `policy.freezes`.
    Freezes,
    /// Nothing that the run needs lives in the facility that is drained.
    Operator,
    /// The servers that remain are healthy, and enough at peak with headroom.
    Capacity,
    /// A switchover is possible now; only what may pass by itself, such as a lag, can be overridden.
    Switchable,
    /// A request of each service through each proxy is answered before users are sent there.
    Synthetic,
    /// The survivors stay healthy while a stage is watched.
    Soak,
    /// The addresses of a facility that is cut off from us, and not from its users, are withdrawn.
    Published,
    /// What came back after a loss has settled before it is restored.
    Settle,
}

impl GateName {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Windows,
        Self::Freezes,
        Self::Operator,
        Self::Capacity,
        Self::Switchable,
        Self::Synthetic,
        Self::Soak,
        Self::Published,
        Self::Settle,
    ];

    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Freezes => "freezes",
            Self::Operator => "operator",
            Self::Capacity => "capacity",
            Self::Switchable => "switchable",
            Self::Synthetic => "synthetic",
            Self::Soak => "soak",
            Self::Published => "published",
            Self::Settle => "settle",
        }
    }
}

impl fmt::Display for GateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// That a gate is passed whatever it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// `user@host`.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "overridden by {}: {}", self.by, self.reason)
    }
}

/// The gates that are passed.
pub type Overrides = BTreeMap<GateName, Override>;
