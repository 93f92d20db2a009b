//! Facilities and hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Resolver;
use crate::model::{
    Cooling, Facility, FacilityName, Host, HostName, Location, Place, Power, PowerFeed, Reserve, TransportKind, Uplink,
};
use crate::topology::field::{Field, Section};
use crate::topology::syntax::{self, Transport};

impl Resolver<'_, '_> {
    pub(super) fn facilities(
        &self,
        section: &Field<Section<syntax::Facility>>,
        start: Place,
    ) -> BTreeMap<FacilityName, Facility> {
        section.as_ref().required("facilities", "the topology", start, self.reader.findings);
        if let (Field::Is(_, place), true) = (section, self.names.facilities.is_empty()) {
            self.error("missing-value", *place, "there is no facility here");
        }
        let facilities = self.named(section).into_iter().map(|(key, facility)| {
            let whose = format!("facility `{}`", key.text);
            let power = facility.power.get().unwrap_or_default();
            let network = facility.network.get().unwrap_or_default();
            let name = FacilityName::new(key.text);
            let facility = Facility {
                name: name.clone(),
                location: facility.location.placed().and_then(|(location, at)| self.location(location, &whose, at)),
                state: facility.state.get().unwrap_or_default(),
                power: self.power(power, &whose),
                uplinks: self.uplinks(&network, &whose),
                cooling: facility.cooling.placed().and_then(|(cooling, at)| {
                    let whose = format!("the cooling of {whose}");
                    let units = cooling.units.required("units", &whose, at, self.reader.findings);
                    let needed = cooling.needed.required("needed", &whose, at, self.reader.findings);
                    Some(Cooling { units: units?, needed: needed? })
                }),
            };
            (name, facility)
        });
        facilities.collect()
    }

    fn location(&self, location: syntax::Location, whose: &str, at: Place) -> Option<Location> {
        let whose = format!("the location of {whose}");
        let degrees = |field: Field<f64>, key: &str, most: f64| {
            if let Field::Is(value, place) = field
                && value.abs() > most
            {
                self.error("invalid-value", place, format!("a {key} is between -{most} and {most} degrees"));
            }
            field.required(key, &whose, at, self.reader.findings)
        };
        let latitude = degrees(location.latitude, "latitude", 90.0);
        let longitude = degrees(location.longitude, "longitude", 180.0);
        let city = location.city.required("city", &whose, at, self.reader.findings);
        Some(Location { city: city?, latitude: latitude?, longitude: longitude? })
    }

    fn power(&self, power: syntax::Power, whose: &str) -> Power {
        let feeds = self.reader.list(&power.feeds).into_iter().filter_map(|(feed, at)| {
            let whose = format!("a power feed of {whose}");
            let utility = feed.utility.required("utility", &whose, at, self.reader.findings);
            let entry = feed.entry.required("entry", &whose, at, self.reader.findings);
            Some(PowerFeed { utility: utility?, entry: entry? })
        });
        let reserve = |field: Field<syntax::Reserve>, what: &str| {
            let (reserve, at) = field.placed()?;
            let whose = format!("the {what} of {whose}");
            let runtime = reserve.runtime.required("runtime", &whose, at, self.reader.findings)?;
            Some(Reserve { runtime, tested: reserve.tested.get().map(|day| day.0) })
        };
        Power {
            feeds: feeds.collect(),
            battery: reserve(power.battery, "battery"),
            generator: reserve(power.generator, "generator"),
        }
    }

    fn uplinks(&self, network: &syntax::Network, whose: &str) -> Vec<Uplink> {
        let uplinks = self.reader.list(&network.uplinks).into_iter().filter_map(|(uplink, at)| {
            let whose = format!("an uplink of {whose}");
            let carrier = uplink.carrier.required("carrier", &whose, at, self.reader.findings);
            let entry = uplink.entry.required("entry", &whose, at, self.reader.findings);
            Some(Uplink { carrier: carrier?, entry: entry? })
        });
        uplinks.collect()
    }

    pub(super) fn hosts(&self, section: &Field<Section<syntax::Host>>) -> BTreeMap<HostName, Arc<Host>> {
        let hosts = self.named(section).into_iter().filter_map(|(key, host)| {
            let whose = format!("host `{}`", key.text);
            let commands: BTreeMap<String, Vec<String>> = self
                .named(&host.commands)
                .into_iter()
                .map(|(name, words)| {
                    let words = self.reader.list(&Field::Is(words, name.place));
                    if words.is_empty() {
                        self.error("missing-value", name.place, format!("command `{}` is an empty list", name.text));
                    }
                    (name.text.to_owned(), words.into_iter().map(|(word, _)| word).collect())
                })
                .collect();
            let name = HostName::new(key.text);
            let transport = self.transport(host, &whose, key.place)?;
            Some((name.clone(), Arc::new(Host { name, transport, commands })))
        });
        hosts.collect()
    }

    fn transport(&self, host: syntax::Host, whose: &str, at: Place) -> Option<TransportKind> {
        match host.transport.required("transport", whose, at, self.reader.findings)? {
            Transport::Local => {
                let ssh = [("address", host.address.place()), ("user", host.user.place()), ("port", host.port.place())];
                for (key, place) in ssh {
                    if let Some(place) = place {
                        self.error("invalid-value", place, format!("`{key}` means nothing with `transport: local`"));
                    }
                }
                Some(TransportKind::Local)
            }
            Transport::Ssh => {
                for field in [&host.address, &host.user] {
                    // Words of the ssh command line: a leading `-` would be taken for an option.
                    if let Field::Is(word, place) = field
                        && (word.is_empty()
                            || word.starts_with('-')
                            || word.contains(|c: char| c.is_whitespace() || c.is_control()))
                    {
                        self.error(
                            "invalid-value",
                            *place,
                            format!("`{}` cannot be given to ssh", word.escape_debug()),
                        );
                    }
                }
                if let Field::Is(0, place) = host.port {
                    self.error("invalid-value", place, "port 0 cannot be reached");
                }
                let address = host.address.required("address", whose, at, self.reader.findings)?;
                Some(TransportKind::Ssh { address, user: host.user.get(), port: host.port.get() })
            }
        }
    }
}
