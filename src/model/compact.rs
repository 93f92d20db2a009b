//! Values as one line of text, in plan files and journals: `ready 100 -> drain 0` is read in a pull request, twelve lines are not.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::action::FromTo;
use super::epoch::Epoch;
use super::facts::{Admission, RecordSet, ServerSetting};
use super::position::Lineage;
use super::quantity::Span;

/// A value that has a form of one line, without ` -> ` in it, that reads back as it was.
pub trait Compact: Sized {
    /// The line.
    fn to_line(&self) -> String;

    /// Reads the line; none if it is not one.
    fn from_line(line: &str) -> Option<Self>;
}

impl Compact for String {
    fn to_line(&self) -> String {
        self.clone()
    }

    fn from_line(line: &str) -> Option<Self> {
        Some(line.to_owned())
    }
}

/// `ready 100`, `drain 0`, `maint 0`.
impl Compact for ServerSetting {
    fn to_line(&self) -> String {
        format!("{} {}", self.admission, self.weight)
    }

    fn from_line(line: &str) -> Option<Self> {
        let (admission, weight) = line.split_once(' ')?;
        let admission = [Admission::Ready, Admission::Drain, Admission::Maint]
            .into_iter()
            .find(|known| known.to_string() == admission)?;
        Some(Self { weight: weight.parse().ok()?, admission })
    }
}

/// `30s 10.10.0.80 10.20.0.80`: TTL, then the addresses.
impl Compact for RecordSet {
    fn to_line(&self) -> String {
        let data: Vec<String> = self.data.iter().map(ToString::to_string).collect();
        format!("{} {}", Span::secs(u64::from(self.ttl)), data.join(" "))
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let ttl: Span = words.next()?.parse().ok()?;
        let data: BTreeSet<_> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        Some(Self { ttl: u32::try_from(ttl.0.as_secs()).ok()?, data })
    }
}

/// As the set, or `absent`.
impl Compact for Option<RecordSet> {
    fn to_line(&self) -> String {
        self.as_ref().map_or_else(|| "absent".to_owned(), Compact::to_line)
    }

    fn from_line(line: &str) -> Option<Self> {
        if line == "absent" { Some(None) } else { RecordSet::from_line(line).map(Some) }
    }
}

/// `7711268007983931462 timeline 3`.
impl Compact for Lineage {
    fn to_line(&self) -> String {
        format!("{} timeline {}", self.system, self.timeline)
    }

    fn from_line(line: &str) -> Option<Self> {
        let (system, timeline) = line.rsplit_once(" timeline ")?;
        Some(Self { system: system.to_owned(), timeline: timeline.parse().ok()? })
    }
}

/// `A -> B`.
impl<T: Compact> Compact for FromTo<T> {
    fn to_line(&self) -> String {
        format!("{} -> {}", self.from.to_line(), self.to.to_line())
    }

    fn from_line(line: &str) -> Option<Self> {
        let (from, to) = line.split_once(" -> ")?;
        Some(Self { from: T::from_line(from)?, to: T::from_line(to)? })
    }
}

fn read<'de, T: Compact, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let line = String::deserialize(deserializer)?;
    T::from_line(&line).ok_or_else(|| serde::de::Error::custom(format!("`{line}` is not what should be here")))
}

macro_rules! as_line {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.to_line())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                read(deserializer)
            }
        }
    )*};
}

as_line!(ServerSetting, RecordSet, Lineage, Epoch);

impl<T: Compact> Serialize for FromTo<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_line())
    }
}

impl<'de, T: Compact> Deserialize<'de> for FromTo<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn sets()(ttl in any::<u32>(), data in prop::collection::btree_set(any::<std::net::IpAddr>(), 1..5)) -> RecordSet {
            RecordSet { ttl, data }
        }
    }

    proptest! {
        #[test]
        fn changes_of_record_sets_read_back(from in prop::option::of(sets()), to in prop::option::of(sets())) {
            let change = FromTo { from, to };
            prop_assert_eq!(FromTo::from_line(&change.to_line()), Some(change));
        }

        #[test]
        fn anything_else_is_no_change(line in ".*") {
            if let Some(change) = FromTo::<ServerSetting>::from_line(&line) {
                prop_assert_eq!(FromTo::from_line(&change.to_line()), Some(change));
            }
        }
    }

    #[test]
    fn lines_are_what_people_read() {
        let setting = |weight, admission| ServerSetting { weight, admission };
        let change = FromTo { from: setting(100, Admission::Ready), to: setting(0, Admission::Drain) };
        assert_eq!(change.to_line(), "ready 100 -> drain 0");
        let lineage = Lineage { system: "7711268007983931462".to_owned(), timeline: 3 };
        assert_eq!(Lineage::from_line(&lineage.to_line()), Some(lineage));
    }
}
