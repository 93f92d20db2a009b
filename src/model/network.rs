//! A range of addresses.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Addresses that begin alike: `10.10.0.0/24`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Not an address or range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address or range such as `10.10.0.0/24` or `fd00::/64`")]
pub struct NetworkError(String);

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

impl Network {
    /// True if the address lies in the range.
    pub fn contains(self, address: IpAddr) -> bool {
        let ((own, length), (other, other_length)) = (bits(self.address), bits(address));
        let differing = u32::from(length - self.prefix);
        length == other_length && (own ^ other).checked_shr(differing).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (_, length) = bits(address);
        let prefix = prefix.map_or(Ok(length), |prefix| prefix.parse().map_err(|_| wrong()))?;
        if prefix > length { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, length) = bits(self.address);
        if self.prefix == length { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.prefix) }
    }
}

super::quantity::as_text! {
    Network: "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$", "An address, or a range of addresses such as `10.10.0.0/24` or `fd00::/64`.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_and_outside_of_a_range() {
        let contains =
            |range: &str, address: &str| range.parse::<Network>().unwrap().contains(address.parse().unwrap());
        for (range, inside, outside) in [
            ("10.10.0.0/16", "10.10.200.1", "10.11.0.1"),
            ("10.10.0.7", "10.10.0.7", "10.10.0.8"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("fd00::1", "fd00::1", "fd00::2"),
        ] {
            assert!(contains(range, inside) && !contains(range, outside), "{range}");
        }
        assert!(contains("0.0.0.0/0", "255.255.255.255") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1"));
        for text in ["10.10.0.0/16", "10.10.0.7", "fd00::/64"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for wrong in ["", "10.10.0", "10.0.0.0/33", "fd00::/129", "10.0.0.0/x", "db.example"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
