//! What the topology declares: facilities, zones, proxies, services, databases, poolers, hosts and jobs, names resolved and
//! defaults filled. Plain values; nothing here was observed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name::{
    DatabaseName, FacilityName, ForeignName, HostName, JobName, ProviderName, ServiceName, TargetId, TargetKind,
    ZoneName,
};
use super::network::Network;
use super::quantity::{Percent, Rate, Span};
use super::settings::Settings;

/// What the file says that a facility's state should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FacilityState {
    /// Serves users.
    #[default]
    Active,
    /// Taken out of service on purpose.
    Drained,
    /// Recorded as lost; failing over needs the flag as well.
    Lost,
}

/// A data centre: a failure domain with its own power, network and cooling.
#[derive(Clone, Debug, PartialEq)]
pub struct Facility {
    /// Its name.
    pub name: FacilityName,
    /// Where it stands.
    pub location: Option<Location>,
    /// What the file says that its state should be.
    pub state: FacilityState,
    /// Its electricity.
    pub power: Power,
    /// Its ways to the network, in the file's order.
    pub uplinks: Vec<Uplink>,
    /// Its cooling.
    pub cooling: Option<Cooling>,
    /// How it is cut off as a whole.
    pub fence: Option<Fence>,
    /// How its addresses are taken off the Internet.
    pub withdraw: Option<Arc<Target>>,
}

/// How a machine or a facility is cut off by something outside of it, whatever it does itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Fence {
    /// How that is done: its settings are the commands `stop` and `check`, run where `handover` runs.
    pub target: Arc<Target>,
    /// True if it stays cut off when its power comes back.
    pub survives_power_on: bool,
}

/// Where a facility stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// The nearest city.
    pub city: String,
    /// Degrees north, −90 to 90.
    pub latitude: f64,
    /// Degrees east, −180 to 180.
    pub longitude: f64,
}

/// A facility's electricity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Power {
    /// Utility feeds.
    pub feeds: Vec<PowerFeed>,
    /// What bridges the time until the generator runs.
    pub battery: Option<Reserve>,
    /// What bridges a long outage.
    pub generator: Option<Reserve>,
}

/// One utility feed.
#[derive(Clone, Debug, PartialEq)]
pub struct PowerFeed {
    /// The company that delivers.
    pub utility: String,
    /// Where the line enters the building.
    pub entry: String,
}

/// A battery or generator.
#[derive(Clone, Debug, PartialEq)]
pub struct Reserve {
    /// How long it carries the load.
    pub runtime: Span,
    /// When it was last tested under load.
    pub tested: Option<Date>,
}

/// One way to the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Uplink {
    /// The company that carries the traffic.
    pub carrier: String,
    /// Where the line enters the building.
    pub entry: String,
}

/// A facility's cooling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cooling {
    /// Units installed.
    pub units: u32,
    /// Units needed to carry the load.
    pub needed: u32,
}

/// Anything with an address that a provider speaks to. Its provider's settings are merged: those of the zone or database, then its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its identity.
    pub id: TargetId,
    /// What kind of thing it is.
    pub kind: TargetKind,
    /// Where it stands.
    pub facility: FacilityName,
    /// Who speaks to it.
    pub provider: ProviderName,
    /// Where it listens: `host:port`, `[v6]:port`, or what its kind documents.
    pub address: String,
    /// The provider's own settings, checked by it.
    pub settings: Settings,
    /// How commands run on its machine, where that is configured.
    pub host: Option<Arc<Host>>,
}

impl Target {
    /// The target's own name, without kind and scope.
    pub fn name(&self) -> &str {
        self.id.name()
    }
}

/// A machine on which commands run.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// How it is reached.
    pub transport: TransportKind,
    /// Commands by name (`stop`, `start`, …), each an argument list; placeholders such as `{data_directory}` are the provider's.
    pub commands: BTreeMap<String, Vec<String>>,
}

/// How a machine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// Commands run on the operator's machine.
    Local,
    /// Commands run through the operator's own OpenSSH client, with its configuration.
    Ssh {
        /// Host name or address, as given to `ssh`.
        address: String,
        /// Login name; without it the client's configuration decides.
        user: Option<String>,
        /// TCP port; without it the client's configuration decides.
        port: Option<u16>,
    },
}

/// A DNS zone and the servers that are authoritative for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its name.
    pub name: ZoneName,
    /// Its authoritative servers, by name.
    pub servers: BTreeMap<String, NameServer>,
}

impl Zone {
    /// The server at the top of a server's chain of transfers; itself, where it gets the zone from nobody.
    pub fn origin<'a>(&'a self, name: &'a str) -> &'a str {
        let mut origin = name;
        // A topology in which servers transfer from each other in a circle is refused; the bound only makes that plain here.
        for _ in 0..self.servers.len() {
            match self.servers.get(origin).and_then(|server| server.transfers_from.as_deref()) {
                Some(parent) => origin = parent,
                None => break,
            }
        }
        origin
    }
}

/// An authoritative server of one zone.
#[derive(Clone, Debug, PartialEq)]
pub struct NameServer {
    /// How it is reached.
    pub target: Arc<Target>,
    /// True where the zone can be changed at this server.
    pub updates: bool,
    /// The server that it transfers the zone from, where it cannot be changed itself.
    pub transfers_from: Option<String>,
}

/// A load-balancing proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// How it is reached; `address` is where it serves clients.
    pub target: Arc<Target>,
    /// Names of services' backends that differ at this proxy.
    pub backends: BTreeMap<ServiceName, ForeignName>,
}

/// What users reach by one hostname, or several that are always the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Hostnames, in lower case without the final dot, each with the zone that holds it.
    pub hostnames: BTreeMap<String, ZoneName>,
    /// TTL of the published addresses.
    pub ttl: Span,
    /// Addresses published for each facility.
    pub addresses: BTreeMap<FacilityName, BTreeSet<std::net::IpAddr>>,
    /// The share of requests that each facility's application tier serves; sums to 100 %.
    pub share: BTreeMap<FacilityName, Percent>,
    /// The name of the service's backend in the proxies.
    pub backend: ForeignName,
    /// The application tier, by server name.
    pub servers: BTreeMap<String, AppServer>,
    /// The highest load that was measured.
    pub peak: Option<Peak>,
    /// How a server's health is asked.
    pub health: HealthCheck,
    /// Databases that it writes to.
    pub writes_to: BTreeSet<DatabaseName>,
    /// Databases that it only reads from.
    pub reads_from: BTreeSet<DatabaseName>,
}

/// An application server of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct AppServer {
    /// How it is reached.
    pub target: Arc<Target>,
    /// What it can serve.
    pub capacity: Option<Rate>,
}

/// The highest load that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Requests per second.
    pub rate: Rate,
    /// When it was measured.
    pub measured: Option<Date>,
}

/// How a server's health is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Path of the HTTP GET.
    pub path: String,
    /// Status code of a healthy server.
    pub expect: u16,
    /// `Host` header sent along.
    pub host: String,
}

/// How a database's commits wait for its replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicationMode {
    /// A commit waits for a replica.
    Synchronous,
    /// It does not.
    #[default]
    Asynchronous,
}

/// When a restored facility gets its primaries back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Failback {
    /// Only with `--failback`.
    #[default]
    Manual,
    /// With every restore.
    Automatic,
}

/// Where a database's primary should live.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "in", content = "name", rename_all = "snake_case")]
pub enum PrimaryPlace {
    /// In a facility; its member of highest priority is preferred.
    Facility(FacilityName),
    /// At one member.
    Member(String),
}

/// A replicated cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    /// Its name.
    pub name: DatabaseName,
    /// Where its primary should live.
    pub primary: PrimaryPlace,
    /// Its members by name.
    pub members: BTreeMap<String, Member>,
    /// How commits wait for replicas.
    pub mode: ReplicationMode,
    /// How many replicas confirm each commit, where that is declared.
    pub confirmed_by: Option<usize>,
    /// The largest replication lag that is acceptable.
    pub max_lag: Span,
    /// The poolers in front of it, by name.
    pub poolers: BTreeSet<String>,
    /// Clients that use no pooler, knowingly: a switchover cuts them.
    pub direct: Vec<Direct>,
    /// How clients are led to its primary.
    pub route: Route,
    /// When a restored facility gets the primary back.
    pub failback: Failback,
}

/// How clients look that use no pooler: everything that is given fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// What they call themselves.
    pub application: Option<String>,
    /// Their login name.
    pub user: Option<String>,
    /// Where they come from.
    pub address: Option<Network>,
}

/// One member of a database.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// How it is reached.
    pub target: Arc<Target>,
    /// The higher, the sooner it becomes primary; 0 means never.
    pub priority: u32,
    /// The member that it should receive from while that is a replica too; the primary where none is named.
    pub follows: Option<String>,
}

/// How clients are led to a database's primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By this entry of each pooler's `[databases]`.
    PoolerDatabase(ForeignName),
    /// By this backend of each proxy.
    Backend(ForeignName),
}

/// A connection pooler.
#[derive(Clone, Debug, PartialEq)]
pub struct Pooler {
    /// How it is reached.
    pub target: Arc<Target>,
    /// Where its connections to servers come from, where that is not what it says itself: an address that is translated.
    pub egress: Vec<Network>,
}

/// A cron job or queue worker: stopped before a switchover, started after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// How it is reached: its settings are the commands `stop`, `start` and `check`, which run on its `host`; `address` is unused.
    pub target: Arc<Target>,
    /// Its name.
    pub name: JobName,
    /// The databases that it writes to.
    pub writes_to: BTreeSet<DatabaseName>,
}

/// What runs on a host under one name, stopped and started by the host's own commands before and after its power goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// How it is reached, as a job is.
    pub target: Arc<Target>,
    /// The targets that it is: several where one name serves several services.
    pub of: BTreeSet<TargetId>,
    /// What kind of thing those are.
    pub kind: TargetKind,
}

/// What happens to sessions that never end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainThen {
    /// They stay; the drain goes on and reports them.
    #[default]
    Leave,
    /// They are cut.
    Cut,
}

/// What the operators have decided once and for all.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// At no moment do fewer facilities than this serve.
    pub min_active_facilities: u32,
    /// Capacity that must remain free at peak after a drain.
    pub headroom: Percent,
    /// The parts of a facility's share that have left it after each stage; ends with 100 %.
    pub stages: Vec<Percent>,
    /// How long each stage is watched before the next.
    pub soak: Span,
    /// Limits of the gates.
    pub gates: GateLimits,
    /// How long running sessions may take to end.
    pub drain_deadline: Span,
    /// What happens to those that do not.
    pub drain_then: DrainThen,
    /// The longest time for which a switchover may make writers wait.
    pub max_write_stall: Span,
    /// Largest TTL for which DNS counts as movable in time; a longer live TTL is called out in the plan.
    pub dns_recovery_target: Span,
    /// How long a transaction may be open on an old primary before a switchover is refused.
    pub max_transaction_age: Span,
    /// How long something must have been silent, for us and for everybody else, before it counts as dead.
    pub hold_down: Span,
    /// How long everything of a facility that came back after a loss must have been well before it serves again.
    pub settle: Span,
    /// How long a saved plan may be applied.
    pub plan_expiry: Span,
    /// Databases that may be switched over at the same time; the others wait their turn.
    pub parallel_switchovers: u32,
    /// When planned work may run; always, where there is none.
    pub windows: Vec<Window>,
    /// When no planned work may run.
    pub freezes: Vec<Freeze>,
    /// Services that can be done without when capacity is short after a loss, the first one first.
    pub shed: Vec<ServiceName>,
}

/// A time during which no planned work may run, whatever the windows say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Its first moment.
    pub from: jiff::Timestamp,
    /// The first moment after it.
    pub to: jiff::Timestamp,
    /// Why.
    pub reason: String,
}

/// Where runs are started, and what they need there: none of it may live in a facility that is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The facility of the operator's machine, and so of the embedded store.
    pub runs_in: FacilityName,
    /// The facilities of what it needs, such as a bastion or a resolver, by name.
    pub needs: BTreeMap<String, FacilityName>,
}

/// A time of the week in which planned work may run. One whose end is before its beginning ends on the next day.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The days on which it begins.
    pub days: Vec<jiff::civil::Weekday>,
    /// When it begins.
    pub from: jiff::civil::Time,
    /// When it ends.
    pub to: jiff::civil::Time,
    /// The IANA time zone that days and times are meant in.
    pub zone: jiff::tz::TimeZone,
}

/// Limits of the gates between stages.
#[derive(Clone, Debug, PartialEq)]
pub struct GateLimits {
    /// Largest share of failed requests.
    pub max_error_rate: Percent,
    /// Largest replication lag.
    pub max_replication_lag: Span,
    /// Longest queue at a proxy's backend.
    pub max_queue: u64,
    /// Requests that a sample needs to be worth judging.
    pub min_sample: u64,
}
