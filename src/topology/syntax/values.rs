//! Single values that have a form of their own.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::Error;

/// How commands get to a host.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::topology) enum Transport {
    /// On the operator's machine.
    Local,
    /// By the operator's OpenSSH client.
    #[default]
    Ssh,
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

/// A date such as `2026-10-04`.
#[derive(Clone, Copy, Debug)]
pub(in crate::topology) struct Day(pub(in crate::topology) jiff::civil::Date);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        // A date alone: jiff would also take one with a time behind it.
        let date = (text.len() == 10).then(|| text.parse().ok()).flatten();
        date.map(Self).ok_or_else(|| Error::custom(format_args!("`{text}` is no date such as `2026-10-04`")))
    }
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
