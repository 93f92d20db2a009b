//! What a database server says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::position::{Lineage, Position};

/// What a database member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows another member.
    Replica,
    /// Does not run, ended cleanly, and will come back as a replica if it is started.
    Fenced,
    /// Does not run.
    Stopped,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Fenced => "fenced",
            Self::Stopped => "stopped",
        })
    }
}

/// About a database member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberFacts {
    /// Software and version.
    pub version: String,
    /// What it is.
    pub role: Role,
    /// Which history it has.
    pub lineage: Lineage,
    /// Written here (primary) or received (replica); the final checkpoint where it is fenced.
    pub position: Position,
    /// Applied and visible here.
    pub replayed: Position,
    /// True where replay is paused on a replica.
    pub replay_paused: bool,
    /// On a replica: the member or `host:port` that it receives from, while it does.
    pub receives_from: Option<String>,
    /// On a replica: what its receiver has heard, also while the stream is broken or silent, as long as there is a receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<ReceiverFacts>,
    /// Whom it is configured to receive from, `host:port`, whether it does or not; several are separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_to_follow: Option<String>,
    /// Who receives from it: from a primary, or from a replica that passes the log on.
    pub replicas: Vec<ReplicaFacts>,
    /// Replication slots.
    pub slots: Vec<SlotFacts>,
    /// The names that commits wait for, as set (PostgreSQL: `synchronous_standby_names`).
    pub synchronous_names: String,
    /// Clients by application, user and address.
    pub clients: Vec<ClientFacts>,
    /// Transactions open for longer than a second, longest first.
    pub long_transactions: Vec<TransactionFacts>,
    /// Settings that matter to a switchover, by name.
    pub settings: BTreeMap<String, String>,
    /// Log segments waiting to be archived; a clean stop waits for them.
    pub archive_backlog: u64,
    /// What it can do.
    pub capabilities: MemberCapabilities,
}

/// What a database member can do in a switchover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCapabilities {
    /// How its primary is changed.
    pub switchover: SwitchoverStyle,
    /// True where a fenced old primary can be brought back without copying everything.
    pub rewind: bool,
    /// Why it cannot be stopped and started from here, if so.
    pub no_control: Option<String>,
}

/// How a database's primary is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchoverStyle {
    /// Pause, fence, catch up, promote, route, resume: led from outside.
    Phased,
    /// One command that does it all.
    Atomic,
}

/// What a replica's receiver has heard of its sender. Ages are by the replica's clock alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverFacts {
    /// `host:port` of the sender.
    pub from: String,
    /// How long ago the sender said anything; it says something at least every half of its `wal_sender_timeout`, and whenever it writes.
    pub last_message: Duration,
    /// The end of the sender's log, as it said last: no record that it had acknowledged by then lies beyond this.
    pub told: Position,
    /// How long ago the sender's log had grown to there. Beyond `last_message` it is the time for which the sender wrote nothing.
    pub told_age: Duration,
}

/// A replica as its primary sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaFacts {
    /// What it calls itself (PostgreSQL: `application_name`): the member's name by convention.
    pub name: String,
    /// Its address.
    pub address: Option<String>,
    /// True while it receives the live stream.
    pub streaming: bool,
    /// True where commits wait for it now.
    pub synchronous: bool,
    /// Bytes written but not yet replayed there.
    pub lag_bytes: u64,
    /// Time from writing here to replay there.
    pub lag: Option<Duration>,
    /// How long it has confirmed nothing although there is something to confirm, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Duration>,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotFacts {
    /// Its name.
    pub name: String,
    /// True for logical replication.
    pub logical: bool,
    /// True while somebody reads from it.
    pub active: bool,
    /// Log that it retains, in bytes.
    pub retained_bytes: u64,
}

/// Clients that look alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientFacts {
    /// What it calls itself.
    pub application: String,
    /// Login name.
    pub user: String,
    /// Where it comes from; none for the server's own machine.
    pub address: Option<String>,
    /// How many.
    pub count: u64,
    /// The ports that they come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

/// A transaction that is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransactionFacts {
    /// Number of the server process.
    pub pid: i32,
    /// What the client calls itself.
    pub application: String,
    /// For how long.
    pub age: Duration,
    /// True where it only reads.
    pub state: String,
}
