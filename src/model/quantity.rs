//! Quantities as operators write them: `30s`, `50%`, `1200 rps`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not the quantity that was asked for; reads as "`30`: …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {why}")]
pub struct QuantityError {
    text: String,
    why: &'static str,
}

fn error<T>(text: &str, why: &'static str) -> Result<T, QuantityError> {
    Err(QuantityError { text: text.to_owned(), why })
}

/// A share or proportion in hundredths of a percent, 0–10000: exact, ordered and hashable, unlike a float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Everything.
    pub const FULL: Self = Self(10_000);
    /// One percent.
    pub const ONE: Self = Self(100);

    /// Whole percents, at most 100.
    pub fn whole(percent: u32) -> Self {
        Self((percent * 100).min(10_000))
    }

    /// From hundredths of a percent, at most 10,000.
    pub fn from_basis_points(points: u32) -> Self {
        Self(points.min(10_000))
    }

    /// Hundredths of a percent.
    pub fn basis_points(self) -> u32 {
        self.0
    }

    /// As a fraction between 0 and 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// The nearest percentage to `part / whole`; zero where `whole` is zero.
    pub fn ratio(part: u64, whole: u64) -> Self {
        if whole == 0 {
            return Self::ZERO;
        }
        let points = (u128::from(part) * 10_000 + u128::from(whole) / 2) / u128::from(whole);
        Self(u32::try_from(points).unwrap_or(10_000).min(10_000))
    }

    /// This proportion of another: `50%` of `50%` is `25%`.
    pub fn of(self, other: Self) -> Self {
        Self((self.0 * other.0 + 5_000) / 10_000)
    }

    /// What is left of the whole.
    pub fn rest(self) -> Self {
        Self(10_000 - self.0)
    }

    /// The difference between two proportions, whichever is larger.
    pub fn distance(self, other: Self) -> Self {
        Self(self.0.abs_diff(other.0))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.0 / 100, self.0 % 100) {
            (whole, 0) => format!("{whole}%"),
            (whole, part) if part % 10 == 0 => format!("{whole}.{}%", part / 10),
            (whole, part) => format!("{whole}.{part:02}%"),
        };
        f.pad(&text)
    }
}

impl FromStr for Percent {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return error(text, "a percentage needs its sign, as in `50%`");
        };
        match decimal(number.trim_end(), 2) {
            Some(points) if points <= 10_000 => Ok(Self(points as u32)),
            Some(_) => error(text, "a percentage is at most `100%`"),
            None => error(text, "not a percentage such as `50%` or `12.5%`"),
        }
    }
}

/// Requests per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} rps", self.0))
    }
}

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(number) = text.trim().strip_suffix("rps") else {
            return error(text, "a rate needs its unit, as in `800 rps` (requests per second)");
        };
        match number.trim().parse() {
            Ok(rate) => Ok(Self(rate)),
            Err(_) => error(text, "not a rate such as `800 rps`"),
        }
    }
}

/// A span of time as text: `30s`, `500ms`, `1h30m`, `15m`, `2d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// Whole seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.pad("0s");
        }
        let mut text = String::new();
        for (unit, millis) in UNITS {
            if rest >= millis {
                text += &format!("{}{unit}", rest / millis);
                rest %= millis;
            }
        }
        f.pad(&text)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHY: &str = "not a duration such as `30s`, `500ms`, `15m` or `1h30m`";
        let mut rest = text.trim();
        let mut total: u64 = 0;
        if rest.is_empty() {
            return error(text, WHY);
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            if unit.is_empty() {
                return error(text, "a duration needs its unit, as in `30s` or `15m`");
            }
            let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return error(text, "the units of time are `ms`, `s`, `m`, `h` and `d`");
            };
            let Some(thousandths) = decimal(number, 3) else { return error(text, WHY) };
            let Some(sum) = thousandths.checked_mul(*factor).and_then(|part| total.checked_add(part / 1_000)) else {
                return error(text, "this duration is too long");
            };
            total = sum;
            rest = tail.trim_start();
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

/// Reads a decimal number and returns it times ten to the `places`; none for anything else or more places.
fn decimal(text: &str, places: usize) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty()
        || part.len() > places
        || !digits(whole)
        || !digits(part)
        || (part.is_empty() && text.contains('.'))
    {
        return None;
    }
    let scale = 10u64.checked_pow(places as u32)?;
    let part: u64 = format!("{part:0<places$}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(part)
}

macro_rules! as_text {
    ($($name:ident: $pattern:literal, $about:literal;)*) => {$(
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $about })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

pub(super) use as_text;

as_text! {
    Percent: "^([0-9]{1,2}(\\.[0-9]{1,2})?|100(\\.0{1,2})?) *%$", "A percentage such as `50%` or `12.5%`.";
    Rate: "^[0-9]+ *rps$", "Requests per second, such as `800 rps`.";
    Span: "^([0-9]+(\\.[0-9]{1,3})?(d|h|ms|m|s) *)+$", "A time span such as `30s`, `500ms` or `1h30m`.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back_as_written() {
        for text in ["30s", "500ms", "15m", "1h30m", "2d", "1s250ms", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("1.5s".parse::<Span>().unwrap(), Span::millis(1_500));
    }

    #[test]
    fn quantities_without_unit_say_what_is_missing() {
        assert_eq!(
            "30".parse::<Span>().unwrap_err().to_string(),
            "`30`: a duration needs its unit, as in `30s` or `15m`"
        );
        assert!("50".parse::<Percent>().unwrap_err().to_string().contains("needs its sign"));
        assert!("800".parse::<Rate>().unwrap_err().to_string().contains("needs its unit"));
        assert!("101%".parse::<Percent>().is_err());
        assert!("99999999999999999999d".parse::<Span>().is_err());
    }

    #[test]
    fn percentages_are_exact() {
        assert_eq!("12.5%".parse::<Percent>().unwrap().to_string(), "12.5%");
        assert_eq!(Percent::whole(50).of(Percent::whole(50)), Percent::whole(25));
        assert_eq!(Percent::ratio(1, 3).to_string(), "33.33%");
    }
}
