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

/// Among the settings of a member that does not run: it can come back as a replica only.
pub const KEPT: &str = "kept";

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
    /// The histories before its own, oldest first, each with where it ended; empty also where nobody may read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<(u32, Position)>,
    /// Right after a rebuild: what it had that the primary's history has not, and where that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<Diverged>,
}

/// What a member had written or received after its history and its primary's had parted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// Where they parted.
    pub from: Position,
    /// Log from there to the end of what was found.
    pub bytes: u64,
    /// Log records.
    pub records: u64,
    /// Transactions that were committed.
    pub transactions: u64,
    /// False where that part of the log could not be read: the numbers say nothing then.
    pub listed: bool,
    /// What they touched, `database.schema.table` where the new primary knows it, at most 40.
    pub relations: Vec<String>,
    /// The directory on the member's machine that holds this part of the log and the whole list of its records.
    pub kept_in: String,
    /// True where it holds the whole old data directory as well.
    pub data_kept: bool,
    /// How the member was rebuilt: `pg_rewind`, or a new copy and why.
    pub by: String,
}

impl fmt::Display for Diverged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, from) = (self.bytes, self.from);
        match (self.listed, self.transactions) {
            (false, _) => write!(f, "it had log of its own from {from} on, which could not be read")?,
            (true, 0) => write!(f, "it had {bytes} bytes of log of its own from {from} on, without any commit")?,
            (true, 1) => write!(f, "it had one committed transaction of its own, {bytes} bytes of log from {from} on")?,
            (true, n) => {
                write!(f, "it had {n} committed transactions of its own, {bytes} bytes of log from {from} on")?
            }
        }
        if !self.relations.is_empty() {
            let shown: Vec<&str> = self.relations.iter().take(5).map(String::as_str).collect();
            write!(f, ", touching {}", shown.join(", "))?;
            match self.relations.len() - shown.len() {
                0 => {}
                more => write!(f, " and {more} more")?,
            }
        }
        let kept = if self.data_kept {
            "the whole old data directory, that log and the list of its records are"
        } else {
            "that log and the list of its records are"
        };
        write!(f, "; {kept} kept in {}; rebuilt by {}", self.kept_in, self.by)
    }
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
