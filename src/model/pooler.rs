//! What was observed of a pooler.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::ForeignName;

/// How a pooler lends server connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// For a client's whole session: cannot be paused without ending it.
    Session,
    /// For a transaction.
    Transaction,
    /// For a statement.
    Statement,
}

/// About a pooler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolerFacts {
    /// Software and version.
    pub version: String,
    /// True where its console obeys us.
    pub writable: bool,
    /// Longest time for which a client's query may wait before the pooler ends it; zero means for ever.
    pub query_wait_timeout: Duration,
    /// How long it waits after a failed login at a server before it tries again; all clients wait with it.
    #[serde(default)]
    pub login_retry: Duration,
    /// Why some of its clients would not be held back: processes of it that are not listed, or are listed twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
    /// The databases that were asked for; `None` where the pooler has no such database.
    pub databases: BTreeMap<ForeignName, Option<PoolFacts>>,
}

/// About one database of a pooler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolFacts {
    /// Where it points now: `host:port`.
    pub route: String,
    /// Where its configuration file points, which the next reload makes true; none where the file cannot be read from here.
    pub written_route: Option<String>,
    /// How it lends connections.
    pub mode: PoolMode,
    /// True while clients are held back and no transaction runs any more.
    pub paused: bool,
    /// True from the moment that somebody asked to hold clients back.
    #[serde(default)]
    pub pausing: bool,
    /// Clients with a server connection.
    pub active: u64,
    /// Clients that wait for one.
    pub waiting: u64,
    /// How many server connections its own settings keep open (`min_pool_size` of the entry), which the pooler opens also while
    /// clients are held back.
    #[serde(default)]
    pub own_min_size: u64,
    /// Where its connections to servers come from: `host:port`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub servers: BTreeSet<String>,
}
