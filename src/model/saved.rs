//! Whether what is set at a target at runtime outlives its process.

use serde::{Deserialize, Serialize};

use super::facts::Unreachable;

/// Whether what is set at a proxy at runtime is saved where it finds it after a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Saved {
    /// No place for it is configured.
    #[default]
    No,
    /// What is set now is saved.
    Yes,
    /// Something else is saved: what, as a fragment.
    Outdated(String),
    /// It could not be read or written.
    Unknown(Unreachable),
}
