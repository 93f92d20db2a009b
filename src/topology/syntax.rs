//! The file as it is written: one struct for each map of the language, one field for each key. Nothing is judged here but the form
//! of single values; `docs/topology.md` is the reference.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::Error;

use super::field::{Field, Items, Raw, Section};
use super::schema::NAME;
use crate::model::{self, FacilityState, Failback, Percent, Rate, ReplicationMode, Span};

macro_rules! maps {
    ($($(#[$about:meta])* $name:ident { $($(#[$meta:meta])* $key:ident: $kind:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Debug, Default, Deserialize, JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub(in crate::topology) struct $name { $($(#[$meta])* pub(in crate::topology) $key: Field<$kind>,)* }
    )*};
}

mod policy;

pub(super) use policy::*;

// What stands here as documentation is what editors show: `schema` makes the JSON Schema of it.
maps! {
    /// What should be: facilities, DNS zones, proxies, services, databases, poolers, hosts, jobs and policy of one installation.
    File {
        /// Version of this language.
        #[schemars(required, range(min = 1, max = 1))]
        topology: u64,
        /// Identity of the installation: state, locks and holds belong to it.
        #[schemars(required, regex(pattern = NAME))]
        name: String,
        /// Data centres by name.
        #[schemars(required)]
        facilities: Section<Facility>,
        /// DNS zones by domain name.
        zones: Section<Zone>,
        /// Load-balancing proxies by name.
        proxies: Section<Proxy>,
        /// What users reach, by name.
        services: Section<Service>,
        /// Replicated clusters by name.
        databases: Section<Database>,
        /// Connection poolers by name.
        poolers: Section<Pooler>,
        /// Machines on which commands run, by name.
        hosts: Section<Host>,
        /// Cron jobs and queue workers by name: stopped before a switchover, started after it.
        jobs: Section<Job>,
        /// Hosts elsewhere that are asked what they reach when something is silent, by name.
        vantages: Section<Vantage>,
        /// What was decided once and for all.
        policy: Policy,
        /// Where runs are started and what they need there: none of it may live in a facility that is drained.
        operator: Operator,
        /// Where runs, journal, lock and holds are kept.
        store: Store,
    }
    /// A data centre: a failure domain with its own power, network and cooling.
    Facility {
        /// Where it stands.
        location: Location,
        /// What the facility should be.
        #[schemars(extend("default" = "active"))]
        state: FacilityState,
        /// Its feeds and reserves.
        power: Power,
        /// Its ways to the world.
        network: Network,
        /// Its cooling units.
        cooling: Cooling,
        /// Makes sure that nothing there takes writes any more, whatever it does: a power controller, a firewall, a router.
        fence: Fence,
        /// Takes the facility's addresses off the Internet when it is lost and still answers there: a delegation, a route.
        withdraw: Withdraw,
    }
    /// How a machine or a facility is cut off by something that stands outside of it. Run where handover runs; no shell reads it.
    Fence {
        /// Cuts it off; may be said again.
        #[schemars(required)]
        command: Items<String>,
        /// Exit status 0 once it is cut off, 1 while it is not.
        #[schemars(required)]
        check: Items<String>,
        /// True if it stays cut off when its power comes back.
        survives_power_on: bool,
    }
    /// How addresses are withdrawn. Run where handover runs; no shell reads it.
    Withdraw {
        /// Withdraws them; may be said again.
        #[schemars(required)]
        command: Items<String>,
        /// Exit status 0 once they are withdrawn, 1 while they are not.
        #[schemars(required)]
        check: Items<String>,
    }
    /// A place on earth.
    Location {
        /// The nearest city.
        #[schemars(required)]
        city: String,
        /// Degrees north.
        #[schemars(required, range(min = -90, max = 90))]
        latitude: f64,
        /// Degrees east.
        #[schemars(required, range(min = -180, max = 180))]
        longitude: f64,
    }
    /// Electric power.
    Power {
        /// Feeds of the utility.
        feeds: Items<Feed>,
        /// What bridges the time until the generator runs.
        battery: Reserve,
        /// What lasts until the utility is back.
        generator: Reserve,
    }
    /// A feed.
    Feed {
        /// The company that delivers the power.
        #[schemars(required)]
        utility: String,
        /// Where its line enters the building.
        #[schemars(required)]
        entry: String,
    }
    /// Power in reserve.
    Reserve {
        /// How long it lasts under load.
        #[schemars(required)]
        runtime: Span,
        /// The last test under load.
        tested: Day,
    }
    /// Network.
    Network {
        /// Lines to the world.
        uplinks: Items<Uplink>,
    }
    /// A line to the world.
    Uplink {
        /// The company that it belongs to.
        #[schemars(required)]
        carrier: String,
        /// Where it enters the building.
        #[schemars(required)]
        entry: String,
    }
    /// Cooling.
    Cooling {
        /// Units installed.
        #[schemars(required)]
        units: u32,
        /// Units needed to carry the load.
        #[schemars(required)]
        needed: u32,
    }
    /// A DNS zone.
    Zone {
        /// Who speaks to its servers.
        provider: String,
        /// Settings of all servers of the zone.
        settings: Raw,
        /// Authoritative servers by name; at least one of them with `updates: true`.
        #[schemars(required)]
        servers: Section<NameServer>,
    }
    /// An authoritative server.
    NameServer {
        /// The facility where it stands.
        #[schemars(required)]
        facility: String,
        /// `ADDRESS:PORT`; port 53 where none is given.
        #[schemars(required)]
        address: String,
        /// The host on which commands for it run.
        host: String,
        /// Put over the settings of the zone, key by key.
        settings: Raw,
        /// Whether the zone can be changed at this server.
        updates: bool,
        /// The server that it gets the zone from; required without `updates`.
        transfers_from: String,
    }
    /// A load-balancing proxy.
    Proxy {
        /// The facility where it stands.
        #[schemars(required)]
        facility: String,
        /// Who speaks to it.
        provider: String,
        /// Where it serves clients, `ADDRESS:PORT`; port 80 where none is given.
        #[schemars(required)]
        address: String,
        /// The host on which commands for it run.
        host: String,
        /// Such as where it is controlled.
        settings: Raw,
        /// Services whose backend has another name here: `SERVICE: BACKEND`.
        backends: Section<String>,
    }
    /// What users reach by its hostnames.
    Service {
        /// Its hostnames, each in one of `zones`.
        #[schemars(required)]
        hostnames: Items<String>,
        /// TTL of the published addresses, in whole seconds.
        #[schemars(extend("default" = "30s"))]
        ttl: Span,
        /// The addresses published for each facility.
        #[schemars(required)]
        addresses: Section<Items<String>>,
        /// The part of the requests that each facility's servers serve; sums to 100%.
        #[schemars(required)]
        share: Section<Percent>,
        /// Its name in the proxies; without it, the service's own.
        backend: String,
        /// Who asks its servers' health.
        provider: String,
        /// Settings of all servers of the service.
        settings: Raw,
        /// The application tier by name.
        #[schemars(required)]
        servers: Section<AppServer>,
        /// The highest load measured.
        peak: Peak,
        /// How a server's health is asked.
        #[schemars(required)]
        health: Health,
        /// Databases that it writes to.
        writes_to: Items<String>,
        /// Databases that it only reads from.
        reads_from: Items<String>,
    }
    /// An application server.
    AppServer {
        /// The facility where it stands.
        #[schemars(required)]
        facility: String,
        /// `ADDRESS:PORT`.
        #[schemars(required)]
        address: String,
        /// The host on which commands for it run.
        host: String,
        /// Put over the settings of the service, key by key.
        settings: Raw,
        /// What it can serve.
        capacity: Rate,
    }
    /// A load.
    Peak {
        /// Requests per second.
        #[schemars(required)]
        rate: Rate,
        /// The day on which it was measured.
        measured: Day,
    }
    /// An HTTP GET that a healthy server answers.
    Health {
        /// Its path.
        #[schemars(required, regex(pattern = r"^/"))]
        path: String,
        /// The status of a healthy server.
        #[schemars(extend("default" = 200))]
        expect: u16,
        /// The `Host` header sent along; without it, the first hostname in alphabetical order.
        host: String,
    }
    /// A replicated cluster.
    Database {
        /// Who speaks to its members.
        provider: String,
        /// Settings of all members.
        settings: Raw,
        /// Where the primary should live: a facility, or a member.
        #[schemars(required)]
        primary: String,
        /// Database servers by name.
        #[schemars(required)]
        members: Section<Member>,
        /// How replicas follow.
        replication: Replication,
        /// The poolers in front of it.
        poolers: Items<String>,
        /// Clients that use no pooler, knowingly: a switchover cuts them.
        direct: Items<Direct>,
        /// How clients are led to the primary.
        #[schemars(extend("oneOf" = [{"required": ["pooler_database"]}, {"required": ["backend"]}]))]
        route: Route,
        /// Whether a restore moves the primary back.
        #[schemars(extend("default" = "manual"))]
        failback: Failback,
    }
    /// A database server.
    Member {
        /// The facility where it stands.
        #[schemars(required)]
        facility: String,
        /// `ADDRESS:PORT`.
        #[schemars(required)]
        address: String,
        /// The host on which it is stopped and started.
        host: String,
        /// Put over the settings of the database, key by key.
        settings: Raw,
        /// The higher, the sooner it becomes primary; 0 means never.
        #[schemars(extend("default" = 100))]
        priority: u32,
        /// The member that it receives from while that is a replica too; the primary where none is named.
        follows: String,
    }
    /// Replication.
    Replication {
        /// Whether commits wait for a replica.
        #[schemars(extend("default" = "asynchronous"))]
        mode: ReplicationMode,
        /// How many replicas confirm each commit where they are synchronous; without it, as many as the primary asks for.
        #[schemars(range(min = 1))]
        confirmed_by: u32,
        /// The largest acceptable lag.
        #[schemars(extend("default" = "1s"))]
        max_lag: Span,
    }
    /// Clients that use no pooler: everything that is given fits.
    Direct {
        /// What they call themselves.
        application_name: String,
        /// Their login name.
        user: String,
        /// Where they come from.
        address: model::Network,
    }
    /// The way of clients to the primary.
    Route {
        /// The entry of each pooler's databases.
        pooler_database: String,
        /// The backend of each proxy.
        backend: String,
    }
    /// A connection pooler.
    Pooler {
        /// The facility where it stands.
        #[schemars(required)]
        facility: String,
        /// Who speaks to it.
        provider: String,
        /// `ADDRESS:PORT`.
        #[schemars(required)]
        address: String,
        /// The host on which its file of routes is written.
        host: String,
        /// How to log in, and which file holds the routes.
        settings: Raw,
        /// Where its connections to servers come from, where the servers see other addresses than it does.
        egress: Items<model::Network>,
    }
    /// A machine on which commands run.
    Host {
        /// How commands get there.
        #[schemars(required)]
        transport: Transport,
        /// Its name or address as given to `ssh`; required with `ssh`.
        address: String,
        /// The login name; without it, that of the client's configuration. Only with `ssh`.
        user: String,
        /// The TCP port; without it, that of the client's configuration. Only with `ssh`.
        port: u16,
        /// Commands by name, each a list of arguments; which ones there are is the providers' matter.
        commands: Section<Items<String>>,
        /// Makes sure that nothing on this machine takes writes any more; goes before the fence of its facility.
        fence: Fence,
    }
    /// A host elsewhere that says which addresses it reaches.
    Vantage {
        /// The facility where it stands: best one that it does not watch, and not the one that handover runs in.
        #[schemars(required)]
        facility: String,
        /// How it is asked: `ssh`.
        #[schemars(required)]
        transport: Transport,
        /// Its name or address as given to `ssh`.
        #[schemars(required)]
        address: String,
        /// The login name; without it, that of the client's configuration.
        user: String,
        /// The TCP port; without it, that of the client's configuration.
        port: u16,
    }
    /// A cron job or queue worker.
    Job {
        /// The facility where it runs.
        #[schemars(required)]
        runs_in: String,
        /// Who stops and starts it.
        provider: String,
        /// The host on which its commands run.
        #[schemars(required)]
        host: String,
        /// Databases that it writes to.
        writes_to: Items<String>,
        /// How it is stopped.
        stop: Raw,
        /// How it is started.
        start: Raw,
        /// How one finds out whether it runs.
        check: Raw,
    }
}

/// How commands get to a host.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transport {
    /// On the operator's machine.
    Local,
    /// By the operator's OpenSSH client.
    #[default]
    Ssh,
}

/// A date such as `2026-10-04`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Day(pub(super) jiff::civil::Date);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        // A date alone: jiff would also take one with a time behind it.
        let date = (text.len() == 10).then(|| text.parse().ok()).flatten();
        date.map(Self).ok_or_else(|| Error::custom(format_args!("`{text}` is no date such as `2026-10-04`")))
    }
}
