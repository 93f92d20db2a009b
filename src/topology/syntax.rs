//! The file as it is written: one struct for each map of the language, one field for each key. Nothing is judged here but the form
//! of single values; `docs/topology.md` is the reference.

use serde::Deserialize;
use serde::de::Error;

use super::field::{Field, Items, Raw, Section};
use crate::model::{DrainThen, FacilityState, Failback, Percent, Rate, ReplicationMode, Span};

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident { $($key:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        pub(super) struct $name { $(pub(super) $key: Field<$kind>,)* }
    )*};
}

maps! {
    /// The whole file.
    File {
        topology: u64,
        name: String,
        facilities: Section<Facility>,
        zones: Section<Zone>,
        proxies: Section<Proxy>,
        services: Section<Service>,
        databases: Section<Database>,
        poolers: Section<Pooler>,
        hosts: Section<Host>,
        jobs: Section<Job>,
        policy: Policy,
        store: Store,
    }
    /// `facilities.F`
    Facility {
        location: Location,
        state: FacilityState,
        power: Power,
        network: Network,
        cooling: Cooling,
    }
    /// `facilities.F.location`
    Location {
        city: String,
        latitude: f64,
        longitude: f64,
    }
    /// `facilities.F.power`
    Power {
        feeds: Items<Feed>,
        battery: Reserve,
        generator: Reserve,
    }
    /// An item of `facilities.F.power.feeds`
    Feed {
        utility: String,
        entry: String,
    }
    /// `facilities.F.power.battery` and `generator`
    Reserve {
        runtime: Span,
        tested: Day,
    }
    /// `facilities.F.network`
    Network {
        uplinks: Items<Uplink>,
    }
    /// An item of `facilities.F.network.uplinks`
    Uplink {
        carrier: String,
        entry: String,
    }
    /// `facilities.F.cooling`
    Cooling {
        units: u32,
        needed: u32,
    }
    /// `zones.Z`
    Zone {
        provider: String,
        settings: Raw,
        servers: Section<NameServer>,
    }
    /// `zones.Z.servers.N`
    NameServer {
        facility: String,
        address: String,
        host: String,
        settings: Raw,
        updates: bool,
        transfers_from: String,
    }
    /// `proxies.P`
    Proxy {
        facility: String,
        provider: String,
        address: String,
        host: String,
        settings: Raw,
        backends: Section<String>,
    }
    /// `services.S`
    Service {
        hostnames: Items<String>,
        ttl: Span,
        addresses: Section<Items<String>>,
        share: Section<Percent>,
        backend: String,
        provider: String,
        settings: Raw,
        servers: Section<AppServer>,
        peak: Peak,
        health: Health,
        writes_to: Items<String>,
        reads_from: Items<String>,
    }
    /// `services.S.servers.A`
    AppServer {
        facility: String,
        address: String,
        host: String,
        settings: Raw,
        capacity: Rate,
    }
    /// `services.S.peak`
    Peak {
        rate: Rate,
        measured: Day,
    }
    /// `services.S.health`
    Health {
        path: String,
        expect: u16,
        host: String,
    }
    /// `databases.D`
    Database {
        provider: String,
        settings: Raw,
        primary: String,
        members: Section<Member>,
        replication: Replication,
        poolers: Items<String>,
        route: Route,
        failback: Failback,
    }
    /// `databases.D.members.M`
    Member {
        facility: String,
        address: String,
        host: String,
        settings: Raw,
        priority: u32,
    }
    /// `databases.D.replication`
    Replication {
        mode: ReplicationMode,
        max_lag: Span,
    }
    /// `databases.D.route`
    Route {
        pooler_database: String,
        backend: String,
    }
    /// `poolers.P`
    Pooler {
        facility: String,
        provider: String,
        address: String,
        host: String,
        settings: Raw,
    }
    /// `hosts.H`
    Host {
        transport: Transport,
        address: String,
        user: String,
        port: u16,
        commands: Section<Items<String>>,
    }
    /// `jobs.J`
    Job {
        runs_in: String,
        provider: String,
        host: String,
        writes_to: Items<String>,
        stop: Raw,
        start: Raw,
        check: Raw,
    }
    /// `policy`
    Policy {
        min_active_facilities: u32,
        headroom: Percent,
        shift: Shift,
        gates: Gates,
        drain_deadline: DrainDeadline,
        max_write_stall: Span,
        max_transaction_age: Span,
        dns_recovery_target: Span,
        plan_expiry: Span,
        parallel_switchovers: u32,
        windows: Items<Window>,
    }
    /// `policy.shift`
    Shift {
        stages: Items<Percent>,
        soak: Span,
    }
    /// `policy.gates`
    Gates {
        max_error_rate: Percent,
        max_replication_lag: Span,
        max_queue: u64,
        min_sample: u64,
    }
    /// `policy.drain_deadline`
    DrainDeadline {
        after: Span,
        then: DrainThen,
    }
    /// An item of `policy.windows`
    Window {
        days: Items<DayOfWeek>,
        from: TimeOfDay,
        to: TimeOfDay,
        zone: String,
    }
    /// `store`
    Store {
        embedded: Embedded,
    }
    /// `store.embedded`
    Embedded {
        directory: String,
    }
}

/// `hosts.H.transport`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transport {
    /// On the operator's machine.
    Local,
    /// By the operator's OpenSSH client.
    #[default]
    Ssh,
}

/// A day of the week by its first three letters.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DayOfWeek {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
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

/// A time of the day such as `02:00`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeOfDay(pub(super) jiff::civil::Time);

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let parts = text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2);
        let time = parts
            .and_then(|(hour, minute)| jiff::civil::Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok());
        time.map(Self).ok_or_else(|| Error::custom(format_args!("`{text}` is no time of day such as `02:00`")))
    }
}
