//! What was observed. A target that does not answer is an observation too, never "absent".

mod member;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::member::{
    ClientFacts, Diverged, KEPT, MemberCapabilities, MemberFacts, ReceiverFacts, ReplicaFacts, Role, SlotFacts,
    SwitchoverStyle, TransactionFacts,
};
use super::epoch::Epoch;
use super::name::{ForeignName, TargetId};
use super::pooler::PoolerFacts;
use super::saved::Saved;

/// The answer to a question asked of a target.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed<T> {
    /// It answered.
    Known {
        /// What it said.
        value: T,
        /// How long the question took.
        took: Duration,
    },
    /// It did not answer, or not to the point: nothing is known about it.
    Unreachable(Unreachable),
}

/// Why nothing is known about a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreachable {
    /// What went wrong, as a fragment: "connection refused".
    pub why: String,
    /// What was tried: "SOA query over TCP to 10.10.0.53:53".
    pub tried: String,
    /// What the operator can do next.
    pub advice: Option<String>,
}

impl Unreachable {
    /// A failure without advice.
    pub fn new(why: impl Into<String>, tried: impl Into<String>) -> Self {
        Self { why: why.into(), tried: tried.into(), advice: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.tried)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl<T> Observed<T> {
    /// What it said, where it answered.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known { value, .. } => Some(value),
            Self::Unreachable(_) => None,
        }
    }

    /// The value or the reason why there is none.
    pub fn as_result(&self) -> Result<&T, &Unreachable> {
        match self {
            Self::Known { value, .. } => Ok(value),
            Self::Unreachable(why) => Err(why),
        }
    }
}

/// What can be known about a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Facts {
    /// About an authoritative DNS server.
    NameServer(NameServerFacts),
    /// About a proxy.
    Proxy(ProxyFacts),
    /// About an application server.
    Server(ServerFacts),
    /// About a database member.
    Member(Box<MemberFacts>),
    /// About a pooler.
    Pooler(PoolerFacts),
    /// About a job.
    Job(JobFacts),
    /// What a host elsewhere reaches.
    Vantage(VantageFacts),
}

macro_rules! narrow {
    ($($method:ident $variant:ident $type:ty;)*) => {
        impl Facts {$(
            /// These facts, where they are of that kind.
            pub fn $method(&self) -> Option<&$type> {
                match self {
                    Self::$variant(facts) => Some(facts),
                    _ => None,
                }
            }
        )*}
    };
}

narrow! {
    name_server NameServer NameServerFacts;
    proxy Proxy ProxyFacts;
    server Server ServerFacts;
    member Member MemberFacts;
    pooler Pooler PoolerFacts;
    job Job JobFacts;
    vantage Vantage VantageFacts;
}

/// The type of an address record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordType {
    /// An IPv4 address (RFC 1035 §3.4.1).
    A,
    /// An IPv6 address (RFC 3596 §2.1).
    #[serde(rename = "AAAA")]
    Aaaa,
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
        })
    }
}

/// Which record set: owner name in lower case without the final dot, and type. As text: `pay.clickbank.example A`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// Owner name.
    pub name: String,
    /// Type.
    pub rtype: RecordType,
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.rtype)
    }
}

impl Serialize for RecordKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let rtype = |word: &str| match word {
            "A" => Some(RecordType::A),
            "AAAA" => Some(RecordType::Aaaa),
            _ => None,
        };
        text.split_once(' ')
            .and_then(|(name, word)| Some(Self { name: name.to_owned(), rtype: rtype(word)? }))
            .ok_or_else(|| {
                serde::de::Error::custom(format!("`{text}` is not a record set such as `www.example.com A`"))
            })
    }
}

/// A record set's data: all records of one name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSet {
    /// Time to live in seconds; one for the whole set (RFC 2181 §5.2).
    pub ttl: u32,
    /// The addresses.
    pub data: BTreeSet<std::net::IpAddr>,
}

/// About an authoritative DNS server of one zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameServerFacts {
    /// SOA serial; comparable by RFC 1982 inside one transfer tree only.
    pub serial: u32,
    /// SOA primary name (MNAME): identifies the transfer tree.
    pub primary_name: String,
    /// The record sets that were asked for; `None` means that the server says with authority that there is none.
    pub sets: BTreeMap<RecordKey, Option<RecordSet>>,
    /// How a write can carry the state that it assumes.
    pub conditional: Conditional,
    /// Why the server would reject what is signed with the zone's key, if so; matters only where the zone is changed at this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejects_key: Option<Unreachable>,
    /// The epoch that it publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Why what it publishes in the epoch's place cannot be read, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch_fault: Option<String>,
}

/// How a write can carry the state that it assumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditional {
    /// Per record set (RFC 2136 §2.4).
    RecordSet,
    /// Not at all: read just before, verify after.
    No,
}

/// Whether a proxy gives a server requests, as its administrator set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Gets requests according to its weight.
    Ready,
    /// Finishes what it has, gets nothing new; health checks go on.
    Drain,
    /// Gets nothing and is not checked.
    Maint,
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        })
    }
}

/// A server as a proxy's administrator sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSetting {
    /// Its weight among the servers of its backend.
    pub weight: u32,
    /// Whether it gets requests.
    pub admission: Admission,
}

impl ServerSetting {
    /// True if requests are given alike: the weight of a server that gets none does not matter, reloads may leave any there.
    pub fn same_effect(self, other: Self) -> bool {
        self.admission == other.admission && (self.admission != Admission::Ready || self.weight == other.weight)
    }
}

impl fmt::Display for ServerSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.admission {
            Admission::Ready => write!(f, "weight {}", self.weight),
            other => write!(f, "{other} (weight {})", self.weight),
        }
    }
}

/// What a proxy's own health check says of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operational {
    /// Passed.
    Up,
    /// Failed.
    Down,
    /// Between the two.
    Starting,
    /// No check runs, or it is in maintenance.
    Unchecked,
}

/// About a proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyFacts {
    /// Software and version.
    pub version: String,
    /// Age of its process: runtime changes older than this are lost.
    pub age: Duration,
    /// True where the control channel allows changes.
    pub writable: bool,
    /// Connections of clients at this moment, idle ones included; `None` where it cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Frontends that take no new client until its process is started anew, as a run leaves them that stops between sending clients away
    /// and stopping the proxy.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub closed: BTreeSet<ForeignName>,
    /// The backends that were asked for; `None` where the proxy has no such backend.
    pub backends: BTreeMap<ForeignName, Option<BackendFacts>>,
    /// What it can do.
    pub capabilities: ProxyCapabilities,
    /// Whether what is set now is saved for its next start.
    #[serde(default)]
    pub saved: Saved,
}

/// What a proxy can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyCapabilities {
    /// The largest weight.
    pub max_weight: u32,
    /// True where weight 0 means "nothing new".
    pub zero_drains: bool,
    /// True where running sessions of one server can be cut.
    pub cuts_sessions: bool,
    /// True where clients can be sent away without a failed request.
    #[serde(default)]
    pub closes_frontends: bool,
    /// True where it is configured that changes survive a reload of the proxy; whether they do, [`ProxyFacts::saved`] tells.
    pub persistent: bool,
}

/// About a backend of a proxy: counters since the process began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendFacts {
    /// Requests waiting for a server.
    pub queue: u64,
    /// Requests answered, by the first digit of the status code (`1`–`5`, others under `0`).
    pub responses: BTreeMap<u8, u64>,
    /// Requests that could not be connected to a server.
    pub connection_errors: u64,
    /// Requests whose server broke off.
    pub response_errors: u64,
    /// The servers by name.
    pub servers: BTreeMap<ForeignName, ProxyServerFacts>,
}

/// About a server as a proxy sees it: counters since the process began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyServerFacts {
    /// Where the proxy finds it: `host:port`.
    pub address: String,
    /// Weight and admission.
    pub setting: ServerSetting,
    /// What the proxy's health check says.
    pub operational: Operational,
    /// Of one that is down: for how long the proxy has found it so without interruption, at least. None where it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_for: Option<Duration>,
    /// Sessions at this moment.
    pub sessions: u64,
    /// Requests waiting for it.
    pub queue: u64,
    /// Requests that it was given.
    pub requests: u64,
    /// Requests given to it in the last second.
    pub rate: u64,
    /// Responses by the first digit of the status code.
    pub responses: BTreeMap<u8, u64>,
    /// Connection and response errors.
    pub errors: u64,
}

/// About an application server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// True if it answered as the topology expects.
    pub healthy: bool,
    /// Its status code.
    pub status: u16,
    /// How long the answer took.
    pub latency: Duration,
}

/// About a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFacts {
    /// True while it runs.
    pub running: bool,
}

/// What a host elsewhere reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VantageFacts {
    /// By address, as it was asked for: whether a TCP connection was made.
    pub reached: BTreeMap<String, bool>,
}

/// Everything that was observed in one go.
pub type Live = BTreeMap<TargetId, Observed<Facts>>;
