//! Facilities and hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Resolver;
use crate::model::{
    Cooling, Facility, FacilityName, Fence, Host, HostName, Location, Place, Power, PowerFeed, ProviderName, Reserve,
    Setting, SettingValue, Settings, Target, TargetId, TargetKind, TransportKind, Uplink,
};
use crate::topology::field::{Field, Items, Section};
use crate::topology::syntax::{self, Transport};

/// What cuts machines off, by host.
pub(super) type Fences = BTreeMap<HostName, Fence>;

/// The machine where `handover` runs, as a host.
const HERE: &str = "here";

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
                fence: facility
                    .fence
                    .placed()
                    .and_then(|(fence, at)| self.fence(fence, TargetId::facility_fence(&name), &name, &whose, at)),
                withdraw: facility.withdraw.placed().and_then(|(withdraw, at)| {
                    let whose = format!("`withdraw` of {whose}");
                    let command = self.argv(&withdraw.command, "command", &whose, at);
                    let check = self.argv(&withdraw.check, "check", &whose, at);
                    Some(outside(TargetId::withdrawal(&name), &name, command?, check?))
                }),
                name: name.clone(),
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

    /// The hosts, and what cuts them off.
    pub(super) fn hosts(&self, section: &Field<Section<syntax::Host>>) -> (BTreeMap<HostName, Arc<Host>>, Fences) {
        let mut fences = Fences::new();
        let hosts = self.named(section).into_iter().filter_map(|(key, mut host)| {
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
            if let Some((fence, at)) = std::mem::take(&mut host.fence).placed() {
                // Where it stands does not matter: it is run here.
                let here = FacilityName::new(HERE);
                let fence = self.fence(fence, TargetId::host_fence(&name), &here, &whose, at);
                fences.extend(fence.map(|fence| (name.clone(), fence)));
            }
            let transport = self.transport(host, &whose, key.place)?;
            Some((name.clone(), Arc::new(Host { name, transport, commands })))
        });
        (hosts.collect(), fences)
    }

    fn fence(
        &self,
        fence: syntax::Fence,
        id: TargetId,
        facility: &FacilityName,
        whose: &str,
        at: Place,
    ) -> Option<Fence> {
        let whose = format!("the fence of {whose}");
        let command = self.argv(&fence.command, "command", &whose, at);
        let check = self.argv(&fence.check, "check", &whose, at);
        let target = outside(id, facility, command?, check?);
        Some(Fence { target, survives_power_on: fence.survives_power_on.get().unwrap_or_default() })
    }

    /// A program and its arguments.
    fn argv(&self, field: &Field<Items<String>>, key: &str, whose: &str, at: Place) -> Option<Vec<String>> {
        field.as_ref().required(key, whose, at, self.reader.findings)?;
        let words: Vec<String> = self.reader.list(field).into_iter().map(|(word, _)| word).collect();
        if words.first().is_none_or(String::is_empty) {
            let place = field.place().unwrap_or(at);
            self.error("missing-value", place, format!("`{key}` of {whose} names no program"));
            return None;
        }
        Some(words)
    }

    pub(super) fn transport(&self, host: syntax::Host, whose: &str, at: Place) -> Option<TransportKind> {
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

/// What is done by commands that run where `handover` runs.
fn outside(id: TargetId, facility: &FacilityName, command: Vec<String>, check: Vec<String>) -> Arc<Target> {
    let place = Place::default();
    let text = |word: String| Setting { value: SettingValue::Text(word), place };
    let entry = |verb: &str, argv: Vec<String>| {
        let list = Setting { value: SettingValue::List(argv.into_iter().map(text).collect()), place };
        let map = SettingValue::Map(BTreeMap::from([("command".to_owned(), (place, list))]));
        (verb.to_owned(), (place, Setting { value: map, place }))
    };
    let here = Host { name: HostName::new(HERE), transport: TransportKind::Local, commands: BTreeMap::new() };
    Arc::new(Target {
        id,
        kind: TargetKind::Fence,
        facility: facility.clone(),
        provider: ProviderName::new("command"),
        address: String::new(),
        settings: Settings { entries: BTreeMap::from([entry("stop", command), entry("check", check)]), place },
        host: Some(Arc::new(here)),
    })
}
