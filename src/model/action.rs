//! What can be done to a target, in neutral verbs, and what can be demanded of one. Both are data: they are planned, shown, saved,
//! journalled and undone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::facts::{RecordKey, RecordSet, Role, ServerSetting};
use super::name::{ForeignName, TargetId, ZoneName};
use super::position::{Lineage, Position};

/// The native verb of proxies that only saves what is set now, so that a reload finds it; its argument `backends` names those that are
/// looked at afterwards.
pub const SAVE_STATE: &str = "save_state";

/// The native verb of proxies that takes no new client and sends those that are there away with their next answer, so that no request
/// fails. Only a new start of the proxy takes it back.
pub const CLOSE_FRONTENDS: &str = "close_frontends";

/// A change of one value, carried by the action so that the write can be conditional and the undo exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromTo<T> {
    /// What must be there now.
    pub from: T,
    /// What shall be there.
    pub to: T,
}

impl<T: Clone> FromTo<T> {
    /// The way back.
    pub fn reversed(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone() }
    }
}

/// What is said of servers of a proxy, by backend. Most proxies are set alike, and a stage begins as the one before it ended: a large plan
/// says the same of a backend many times and keeps it once.
pub type Backends<T> = BTreeMap<ForeignName, Arc<BTreeMap<ForeignName, T>>>;

/// Servers of a proxy by backend; kept once likewise.
pub type BackendServers = BTreeMap<ForeignName, Arc<BTreeSet<ForeignName>>>;

/// A database member as its peers reach it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// The member.
    pub member: TargetId,
    /// `host:port`.
    pub address: String,
}

/// What a step does to its target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Name server: change record sets in one message, all or nothing, each under the condition that its present value is `from`.
    SetRecords {
        /// The zone.
        zone: ZoneName,
        /// The record sets; `null` is absence.
        sets: BTreeMap<RecordKey, FromTo<Option<RecordSet>>>,
    },
    /// Name server: publish who is in charge, under the condition that what is published now is `from`. Never lowered: taking it back
    /// means to raise it again.
    SetEpoch {
        /// The zone.
        zone: ZoneName,
        /// The epoch; none where there was none yet.
        epoch: Box<FromTo<Option<Epoch>>>,
    },
    /// Proxy: set weight and admission of servers in one session.
    SetShare {
        /// The servers by backend.
        backends: Backends<FromTo<ServerSetting>>,
    },
    /// Proxy: end the running sessions of servers.
    CutSessions {
        /// The servers by backend.
        backends: BackendServers,
    },
    /// Pooler: hold clients back once their transactions have ended.
    Pause {
        /// The pooler's database.
        database: ForeignName,
    },
    /// Pooler: let clients go on.
    Resume {
        /// The pooler's database.
        database: ForeignName,
    },
    /// Pooler: write a route into the configuration without loading it. A reload for another database would load it too: only while
    /// clients of this one are held back.
    WriteRoute {
        /// The pooler's database.
        database: ForeignName,
        /// `host:port`.
        route: FromTo<String>,
    },
    /// Pooler: load the written route.
    Route {
        /// The pooler's database.
        database: ForeignName,
        /// `host:port`.
        route: FromTo<String>,
    },
    /// Pooler: load the written route and let clients go on, in one go: a client that logs in between the two would make the pooler
    /// wait for its `server_login_retry`.
    Redirect {
        /// The pooler's database.
        database: ForeignName,
        /// `host:port`.
        route: FromTo<String>,
    },
    /// Pooler: put a route back after [`Action::WriteRoute`]: written, and loaded where a reload had loaded the other one.
    RestoreRoute {
        /// The pooler's database.
        database: ForeignName,
        /// `host:port`.
        route: FromTo<String>,
    },
    /// Pooler: write a marker the way clients do and see which member took it.
    Marker {
        /// The pooler's database.
        database: ForeignName,
        /// The member that must take it.
        primary: Peer,
    },
    /// Member: stop the primary so that it can take no more writes, also after a restart, and can only come back as a replica.
    Fence {
        /// Whom it will follow.
        successor: Peer,
    },
    /// Member: undo a fence of ours: start it as the primary that it was. Anything that we did not fence is left alone.
    Unfence {
        /// The history that it had as primary.
        lineage: Lineage,
    },
    /// Member: take it out after a promotion of which nobody knows whether it happened: stop it, primary or replica, so that it can only
    /// come back as a replica.
    Withdraw {
        /// Whom it will follow.
        successor: Peer,
    },
    /// Member that does not run, however it ended: let it come back as a replica only. Refused where it runs.
    Keep {
        /// Whom it will follow.
        successor: Peer,
    },
    /// Member: wait until a position is applied.
    CatchUp {
        /// The fenced member whose final position is meant.
        behind: TargetId,
        /// That position, known once the fence is verified.
        position: Option<Position>,
    },
    /// Member: become primary.
    Promote {
        /// The history that is left behind.
        lineage: Lineage,
    },
    /// Member: follow a primary: start a fenced member, or point a running replica elsewhere.
    Rejoin {
        /// Whom it follows.
        primary: Peer,
    },
    /// Member: become a replica of a primary whose history it does not share, or after an end that was not clean. What only it has is
    /// kept aside first; nothing takes this back.
    Rebuild {
        /// Whom it follows.
        primary: Peer,
        /// True where an operator has said that the primary's history counts, even where the member's timeline is the later one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        chosen: bool,
    },
    /// Job: stop it and wait until it has ended.
    Stop,
    /// Job: start it.
    Start,
    /// What only one provider knows how to do, by the verbs that its capabilities list.
    Native {
        /// The provider's verb, such as `prepare_promotion`.
        verb: String,
        /// Its arguments.
        args: BTreeMap<String, Vec<String>>,
    },
}

impl Action {
    /// The verb, as in the plan file.
    pub fn verb(&self) -> &str {
        match self {
            Self::SetRecords { .. } => "set_records",
            Self::SetEpoch { .. } => "set_epoch",
            Self::SetShare { .. } => "set_share",
            Self::CutSessions { .. } => "cut_sessions",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::WriteRoute { .. } => "write_route",
            Self::Route { .. } => "route",
            Self::Redirect { .. } => "redirect",
            Self::RestoreRoute { .. } => "restore_route",
            Self::Marker { .. } => "marker",
            Self::Fence { .. } => "fence",
            Self::Unfence { .. } => "unfence",
            Self::Withdraw { .. } => "withdraw",
            Self::Keep { .. } => "keep",
            Self::CatchUp { .. } => "catch_up",
            Self::Promote { .. } => "promote",
            Self::Rejoin { .. } => "rejoin",
            Self::Rebuild { .. } => "rebuild",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Native { verb, .. } => verb,
        }
    }
}

/// What can be demanded of a target. [`Condition::holds`] judges it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Condition {
    /// Name server: the record sets are these; `null` is absence.
    Records {
        /// The record sets.
        sets: BTreeMap<RecordKey, Option<RecordSet>>,
    },
    /// Name server: this epoch is published; `null` is none.
    Epoch {
        /// The epoch.
        epoch: Option<Epoch>,
    },
    /// Proxy: servers are set so.
    Servers {
        /// The servers by backend.
        backends: Backends<ServerSetting>,
    },
    /// Proxy: its own health check finds the servers up.
    ServersUp {
        /// The servers by backend.
        backends: BackendServers,
    },
    /// Proxy: at most so many sessions run on servers, all together.
    SessionsAtMost {
        /// The servers by backend.
        backends: BackendServers,
        /// How many.
        limit: u64,
    },
    /// Application server: it answers its health check as the topology expects.
    Healthy {
        /// What is asked, and the answer that is expected.
        check: super::declared::HealthCheck,
    },
    /// Member: it has this role and, where named, this history.
    Role {
        /// The role.
        role: Role,
        /// The history.
        lineage: Option<Lineage>,
    },
    /// Member: it does not run, however it ended, and can come back as a replica only.
    Kept,
    /// Member: it is a primary whose history began after this one.
    Promoted {
        /// The history that was left behind.
        beyond: Lineage,
    },
    /// Member: it has applied the log beyond this position.
    AppliedBeyond {
        /// The position; none where it is known only during the run.
        position: Option<Position>,
    },
    /// Member: it is a replica that receives from this one.
    Follows {
        /// Whom it follows.
        primary: Peer,
    },
    /// Member: it is a replica that receives from this one and will follow it through its promotion: it replays, and has little left to.
    KeepsUp {
        /// Whom it follows, a primary or not.
        upstream: Peer,
    },
    /// Member, primary or not: these replicas receive the live stream from it.
    FollowedBy {
        /// The replicas' member names.
        replicas: BTreeSet<String>,
    },
    /// Member: it is a primary that these replicas follow, with as many synchronous ones as its setting asks for.
    Redundant {
        /// The replicas' member names.
        replicas: BTreeSet<String>,
        /// True where at least one of them must be synchronous.
        synchronous: bool,
    },
    /// What the named native verb leaves behind is in place (or, `done: false`, is gone).
    Native {
        /// The provider's verb.
        verb: String,
        /// Its arguments.
        args: BTreeMap<String, Vec<String>>,
        /// In place or gone.
        done: bool,
    },
    /// Pooler: clients of a database are held back, or not.
    Paused {
        /// The pooler's database.
        database: ForeignName,
        /// Held back or not.
        paused: bool,
    },
    /// Pooler: the loaded route is this.
    Routed {
        /// The pooler's database.
        database: ForeignName,
        /// `host:port`.
        to: String,
    },
    /// Pooler: the written route is this, loaded or not.
    RouteWritten {
        /// The pooler's database.
        database: ForeignName,
        /// `host:port`.
        to: String,
    },
    /// Whatever it is: it answers a question about its state.
    Answers,
    /// Job: it runs, or not.
    Running {
        /// Runs or not.
        running: bool,
    },
}

/// What is asked of a target when it is observed.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    /// Name server: these record sets and the SOA.
    Records(BTreeSet<RecordKey>),
    /// Proxy: these backends.
    Backends(BTreeSet<ForeignName>),
    /// Application server: this health check.
    Health(super::declared::HealthCheck),
    /// Member: all that a switchover needs.
    Member,
    /// Pooler: these databases.
    PoolerDatabases(BTreeSet<ForeignName>),
    /// Job: whether it runs.
    Job,
    /// Vantage: which of these addresses (`host:port`) it reaches.
    Reach(BTreeSet<String>),
}
