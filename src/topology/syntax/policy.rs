//! Policy, operator and store: what was decided once and for all, and where runs are made.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::Error;

use crate::model::{DrainThen, Percent, Span};
use crate::topology::field::{Field, Items, Section};
use crate::topology::schema::NAME;

maps! {
    /// What was decided once and for all.
    Policy {
        /// At no moment do fewer facilities serve.
        #[schemars(extend("default" = 1))]
        min_active_facilities: u32,
        /// Capacity that must remain free at peak after a drain.
        #[schemars(extend("default" = "20%"))]
        headroom: Percent,
        /// How shares move.
        shift: Shift,
        /// Limits between stages.
        gates: Gates,
        /// What happens to sessions that never end.
        drain_deadline: DrainDeadline,
        /// The longest time for which a switchover may make writers wait.
        #[schemars(extend("default" = "2s"))]
        max_write_stall: Span,
        /// An older open transaction on the old primary refuses the switchover.
        #[schemars(extend("default" = "5s"))]
        max_transaction_age: Span,
        /// A live TTL above it is called out in every plan.
        #[schemars(extend("default" = "5m"))]
        dns_recovery_target: Span,
        /// How long something must have been silent before it counts as dead; what was watched already counts.
        #[schemars(extend("default" = "15s"))]
        hold_down: Span,
        /// How long everything of a facility that came back after a loss must have been well before it is restored.
        #[schemars(extend("default" = "10m"))]
        settle: Span,
        /// How long a saved plan may be applied.
        #[schemars(extend("default" = "1d"))]
        plan_expiry: Span,
        /// Databases switched over at the same time.
        #[schemars(range(min = 1), extend("default" = 3))]
        parallel_switchovers: u32,
        /// Times of the week in which planned work may run; without any, always.
        windows: Items<Window>,
        /// Times during which no planned work may run.
        freezes: Items<Freeze>,
        /// Services that can be done without when capacity is short after a loss, the first one first.
        shed: Items<String>,
    }
    /// The way of shares from one facility to the others.
    Shift {
        /// Parts of a facility's share that have left it after each stage: ascending, the last one 100%.
        #[schemars(extend("default" = ["10%", "50%", "100%"]))]
        stages: Items<Percent>,
        /// How long each stage is watched.
        #[schemars(extend("default" = "30s"))]
        soak: Span,
    }
    /// Limits beyond which a run waits or goes back.
    Gates {
        /// The largest share of failed requests.
        #[schemars(extend("default" = "1%"))]
        max_error_rate: Percent,
        /// The largest replication lag.
        #[schemars(extend("default" = "1s"))]
        max_replication_lag: Span,
        /// The longest queue of a proxy's backend.
        #[schemars(extend("default" = 50))]
        max_queue: u64,
        /// Requests that a sample needs; below it, probes through each proxy are the sample.
        #[schemars(extend("default" = 20))]
        min_sample: u64,
    }
    /// The end of patience with sessions that go on.
    DrainDeadline {
        /// How long running sessions may take to end.
        #[schemars(extend("default" = "10m"))]
        after: Span,
        /// What happens to those that do not.
        #[schemars(extend("default" = "leave"))]
        then: DrainThen,
    }
    /// A time of the week in which planned work may run.
    Window {
        /// The days on which it begins.
        #[schemars(required)]
        days: Items<DayOfWeek>,
        /// When it begins.
        #[schemars(required)]
        from: TimeOfDay,
        /// When it ends; an end before the beginning is on the next day.
        #[schemars(required)]
        to: TimeOfDay,
        /// The IANA time zone that days and times are meant in, such as `America/Boise`.
        #[schemars(required)]
        zone: String,
    }
    /// A time during which no planned work may run, whatever the windows say.
    Freeze {
        /// Its first moment: date and time with offset, such as `2026-12-20T00:00-07:00`.
        #[schemars(required)]
        from: Moment,
        /// The first moment after it.
        #[schemars(required)]
        to: Moment,
        /// Why; it is shown wherever the freeze stands in the way.
        #[schemars(required)]
        reason: String,
    }
    /// Where runs are started.
    Operator {
        /// The facility of the operator's machine; the embedded store lives there too.
        #[schemars(required, regex(pattern = NAME))]
        runs_in: String,
        /// The facilities of what a run needs, such as `bastion`, `vpn`, `resolver` or `secrets`, by name.
        needs: Section<String>,
    }
    /// Where runs, journal, lock and holds are kept.
    Store {
        /// On the operator's machine; covers one operator at a time.
        embedded: Embedded,
    }
    /// A store on the operator's machine.
    Embedded {
        /// The directory where it lies; without it, the one of the XDG base directory specification.
        directory: String,
    }
}

/// A day of the week by its first three letters.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::topology) enum DayOfWeek {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A moment such as `2026-12-20T00:00-07:00`.
#[derive(Clone, Copy, Debug)]
pub(in crate::topology) struct Moment(pub(in crate::topology) jiff::Timestamp);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| {
            Error::custom(format_args!("`{text}` is no date and time with offset such as `2026-12-20T00:00-07:00`"))
        })
    }
}

/// A time of the day such as `02:00`.
#[derive(Clone, Copy, Debug)]
pub(in crate::topology) struct TimeOfDay(pub(in crate::topology) jiff::civil::Time);

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let parts = text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2);
        let time = parts
            .and_then(|(hour, minute)| jiff::civil::Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok());
        time.map(Self).ok_or_else(|| Error::custom(format_args!("`{text}` is no time of day such as `02:00`")))
    }
}
