//! Services: hostnames, published addresses, shares, application servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{DATABASE, FACILITY, Noun, Resolver, TargetParts};
use crate::diagnostic::Diagnostic;
use crate::model::{
    AppServer, DatabaseName, FacilityName, ForeignName, HealthCheck, Peak, Percent, Place, Service, ServiceName,
    Settings, Span, TargetId, TargetKind, Zone, ZoneName,
};
use crate::topology::field::{Field, Items, Key, Section};
use crate::topology::{syntax, words};

/// TTL of the published addresses where the file names none.
const TTL: Span = Span::secs(30);
/// Largest TTL, RFC 2181 §8.
const LARGEST_TTL: Span = Span::secs(i32::MAX as u64);
const SERVING: Noun =
    Noun { one: "server of this service in facility", many: "facilities with servers of this service" };

type Zones = BTreeMap<ZoneName, Zone>;

impl Resolver<'_, '_> {
    pub(super) fn services(
        &self,
        section: &Field<Section<syntax::Service>>,
        zones: &Zones,
    ) -> BTreeMap<ServiceName, Service> {
        let mut hostnames: BTreeMap<String, Place> = BTreeMap::new();
        let services = self.named(section).into_iter().filter_map(|(key, service)| {
            let name = ServiceName::new(key.text);
            Some((name.clone(), self.service(name, key.place, service, zones, &mut hostnames)?))
        });
        services.collect()
    }

    fn service(
        &self,
        name: ServiceName,
        at: Place,
        service: syntax::Service,
        zones: &Zones,
        taken: &mut BTreeMap<String, Place>,
    ) -> Option<Service> {
        let whose = format!("service `{name}`");
        let needed = |key: &str| (format!("`{key}` of {whose} is empty"), self.reader.findings);
        let hostnames = self.hostnames(&service.hostnames, &whose, at, zones, taken);
        service.servers.as_ref().required("servers", &whose, at, self.reader.findings);
        if let Field::Is(_, place) = &service.servers
            && self.reader.names(&service.servers).next().is_none()
        {
            let (message, findings) = needed("servers");
            findings.error("missing-value", *place, message);
        }
        let serving = self.serving(&service.servers);
        let addresses = self.addresses(&service.addresses, &whose, at);
        let share = self.share(&service.share, &whose, at, serving);
        let backend = match &service.backend {
            Field::Absent | Field::Empty(_) => Some(ForeignName::new(name.as_str())),
            field => self.foreign(field),
        };
        let ttl = self.ttl(&service.ttl);
        let health = self.health(service.health, &whose, at, hostnames.keys().next());
        let peak = service.peak.placed().and_then(|(peak, place)| {
            let rate = peak.rate.required("rate", &format!("the peak of {whose}"), place, self.reader.findings)?;
            Some(Peak { rate, measured: peak.measured.get().map(|day| day.0) })
        });
        let provider = self.provider(&service.provider, "http", at);
        let common = self.settings(&service.settings, at);
        let servers = self.named(&service.servers).into_iter().filter_map(|(key, server)| {
            self.server(&name, key, server, provider.clone(), &common).map(|server| (key.text.to_owned(), server))
        });
        let servers = servers.collect();
        let databases = |list: &Field<Items<String>>| -> BTreeSet<DatabaseName> {
            let names = self.references(list, DATABASE, &self.names.databases);
            names.into_iter().map(|(name, _)| DatabaseName::new(name)).collect()
        };
        let (writes_to, reads_from) = (databases(&service.writes_to), databases(&service.reads_from));
        let (backend, health) = (backend?, health?);
        Some(Service { name, hostnames, ttl, addresses, share, backend, servers, peak, health, writes_to, reads_from })
    }

    fn server(
        &self,
        service: &ServiceName,
        key: Key<'_>,
        server: syntax::AppServer,
        provider: Option<crate::model::ProviderName>,
        common: &Settings,
    ) -> Option<AppServer> {
        let whose = format!("server `{}`", key.text);
        let target = self.target(TargetParts {
            kind: TargetKind::Server,
            id: TargetId::server(service, key.text),
            facility: self.facility(&server.facility, "facility", &whose, key.place),
            provider,
            address: self.address(&server.address, &whose, key.place, None),
            host: &server.host,
            settings: self.overlaid(common, &server.settings, key.place),
        })?;
        Some(AppServer { target, capacity: server.capacity.get() })
    }

    /// Hostnames, each with the listed zone that holds it: the longest one that it ends with.
    fn hostnames(
        &self,
        list: &Field<Items<String>>,
        whose: &str,
        at: Place,
        zones: &Zones,
        taken: &mut BTreeMap<String, Place>,
    ) -> BTreeMap<String, ZoneName> {
        list.as_ref().required("hostnames", whose, at, self.reader.findings);
        let texts = self.reader.list(list);
        if let (Field::Is(_, place), true) = (list, texts.is_empty() && self.reader.is_empty(list)) {
            self.error("missing-value", *place, format!("`hostnames` of {whose} is empty"));
        }
        let mut hostnames = BTreeMap::new();
        for (text, place) in texts {
            let Some(hostname) = self.judged(words::domain_name(&text), place) else { continue };
            if let Some(first) = taken.insert(hostname.clone(), place) {
                self.reader.findings.add(
                    Diagnostic::error("duplicate-name", place, format!("hostname `{hostname}` is listed twice"))
                        .related(first, "it is listed first here"),
                );
                continue;
            }
            let suffixes = std::iter::successors(Some(hostname.as_str()), |name| Some(name.split_once('.')?.1));
            match suffixes.into_iter().find_map(|suffix| zones.get_key_value(suffix)) {
                Some((zone, _)) => {
                    hostnames.insert(hostname, zone.clone());
                }
                None => {
                    let help = match zones.len() {
                        0 => "list its zone under `zones`".to_owned(),
                        _ => {
                            let zones = zones.keys().take(16).map(|zone| format!("`{zone}`"));
                            format!("the zones are {}", crate::model::text::list(zones))
                        }
                    };
                    self.reader.findings.add(
                        Diagnostic::error(
                            "outside-zones",
                            place,
                            format!("`{hostname}` is in none of the listed zones"),
                        )
                        .help(help),
                    );
                }
            }
        }
        hostnames
    }

    fn addresses(
        &self,
        section: &Field<Section<Items<String>>>,
        whose: &str,
        at: Place,
    ) -> BTreeMap<FacilityName, BTreeSet<IpAddr>> {
        section.as_ref().required("addresses", whose, at, self.reader.findings);
        if let Field::Is(_, place) = section
            && self.reader.names(section).next().is_none()
        {
            self.error("missing-value", *place, format!("`addresses` of {whose} is empty"));
        }
        let mut addresses = BTreeMap::new();
        let mut taken: BTreeMap<IpAddr, Place> = BTreeMap::new();
        for (Key { text, place: at }, list) in self.reader.section(section) {
            let known = self.known(text, at, FACILITY, &self.names.facilities);
            if matches!(list, Field::Empty(_)) || (matches!(list, Field::Is(..)) && self.reader.is_empty(&list)) {
                self.error("missing-value", at, format!("facility `{text}` has no address here"));
            }
            let mut here = BTreeSet::new();
            for (text, place) in self.reader.list(&list) {
                let Some(address) = self.judged(words::ip(&text), place) else { continue };
                if let Some(first) = taken.insert(address, place) {
                    self.reader.findings.add(
                        Diagnostic::error("duplicate-name", place, format!("address `{address}` is listed twice"))
                            .related(first, "it is listed first here"),
                    );
                }
                here.insert(address);
            }
            if known {
                addresses.insert(FacilityName::new(text), here);
            }
        }
        addresses
    }

    /// The facilities with application servers of a service, also of servers that are otherwise wrong.
    fn serving(&self, servers: &Field<Section<syntax::AppServer>>) -> BTreeSet<String> {
        self.reader.texts(servers, "facility").map(str::to_owned).collect()
    }

    /// Shares: they name facilities that have servers, and sum to 100 %. Facilities with servers and no share get nothing.
    fn share(
        &self,
        section: &Field<Section<Percent>>,
        whose: &str,
        at: Place,
        serving: BTreeSet<String>,
    ) -> BTreeMap<FacilityName, Percent> {
        let serving: BTreeSet<&str> = serving.iter().map(String::as_str).collect();
        let mut share: BTreeMap<FacilityName, Percent> =
            serving.iter().map(|facility| (FacilityName::new(facility), Percent::ZERO)).collect();
        section.as_ref().required("share", whose, at, self.reader.findings);
        let Field::Is(_, place) = section else { return share };
        let mut sum = Some(0);
        for (key, percent) in self.reader.section(section) {
            if let Field::Empty(_) = percent {
                self.error("missing-value", key.place, format!("the share of `{}` has no value", key.text));
            }
            let percent = percent.get();
            sum = sum.zip(percent).map(|(sum, percent)| sum + percent.basis_points());
            let known = self.known(key.text, key.place, FACILITY, &self.names.facilities)
                && self.known(key.text, key.place, SERVING, &serving);
            if let (true, Some(percent)) = (known, percent) {
                share.insert(FacilityName::new(key.text), percent);
            }
        }
        if let Some(sum) = sum.filter(|sum| *sum != Percent::FULL.basis_points()) {
            // Beyond what a `Percent` can hold.
            let sum = format!("{}.{:02}", sum / 100, sum % 100);
            let sum = sum.trim_end_matches('0').trim_end_matches('.');
            let message = format!("the shares of {whose} sum to {sum}%, not to 100%");
            self.error("share-sum", *place, message);
        }
        share
    }

    fn ttl(&self, field: &Field<Span>) -> Span {
        let Field::Is(ttl, place) = *field else { return TTL };
        if ttl.0.subsec_nanos() != 0 {
            self.error("invalid-value", place, format!("`{ttl}`: a TTL has whole seconds"));
        } else if ttl > LARGEST_TTL {
            self.error("invalid-value", place, format!("`{ttl}`: a TTL has at most {LARGEST_TTL}"));
        }
        ttl
    }

    /// How a server's health is asked; `hostname` is sent along where the file names none.
    fn health(
        &self,
        field: Field<syntax::Health>,
        whose: &str,
        at: Place,
        hostname: Option<&String>,
    ) -> Option<HealthCheck> {
        field.as_ref().required("health", whose, at, self.reader.findings);
        let (health, at) = field.placed()?;
        if let Field::Is(path, place) = &health.path
            && (!path.starts_with('/') || path.contains(|c: char| !c.is_ascii_graphic()))
        {
            self.error(
                "invalid-value",
                *place,
                format!("`{}`: a path begins with `/`, without spaces", path.escape_debug()),
            );
        }
        if let Field::Is(status, place) = health.expect
            && !(100..=599).contains(&status)
        {
            self.error("invalid-value", place, format!("`{status}` is no HTTP status (100 to 599)"));
        }
        let path = health.path.required("path", &format!("the health check of {whose}"), at, self.reader.findings);
        let host = match health.host.placed() {
            Some((host, place)) => {
                let (name, port) =
                    host.rsplit_once(':').map_or((host.as_str(), None), |(name, port)| (name, Some(port)));
                if port.is_some_and(|port| port.parse::<u16>().is_err()) {
                    self.error("invalid-value", place, format!("`{}` is no host", host.escape_debug()));
                }
                self.judged(words::domain_name(name), place)?;
                host
            }
            None => hostname.cloned().unwrap_or_default(),
        };
        let expect = match health.expect {
            Field::Wrong => return None,
            field => field.get().unwrap_or(200),
        };
        Some(HealthCheck { path: path?, expect, host })
    }
}
