//! What the tiers look like, one after the other, and what is wrong with them.

mod data;

use std::collections::{BTreeMap, BTreeSet};

use super::view::{Cell, Column, ExitLevel, Mark, Problem, Row};
use crate::journal::{Hold, HoldKind};
use crate::model::{
    Admission, FacilityName, FacilityState, Facts, ForeignName, Live, Observed, Operational, Percent, Service,
    TargetId, TargetKind, Unreachable, text::list,
};
use crate::topology::Topology;

/// Requests per second, over all proxies, below which shares are told from weights instead.
pub(super) const MIN_RATE: u64 = 10;

/// Walks through the tiers and gathers what is wrong on its way.
pub(super) struct Observer<'a> {
    topology: &'a Topology,
    live: &'a Live,
    held: BTreeSet<&'a FacilityName>,
    drained: BTreeSet<FacilityName>,
    serving: BTreeSet<FacilityName>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
    pub(super) measured: BTreeSet<String>,
    pub(super) by_weight: BTreeSet<String>,
}

impl<'a> Observer<'a> {
    pub(super) fn new(topology: &'a Topology, live: &'a Live, holds: &'a [Hold]) -> Self {
        let held: BTreeSet<&FacilityName> = holds
            .iter()
            .filter_map(|hold| match &hold.kind {
                HoldKind::Drained { facility } => Some(facility),
                _ => None,
            })
            .collect();
        let declared = topology.facilities.values().filter(|facility| facility.state != FacilityState::Active);
        let drained = declared.map(|facility| facility.name.clone()).chain(held.iter().map(|name| (*name).clone()));
        Self {
            topology,
            live,
            drained: drained.collect(),
            held,
            serving: BTreeSet::new(),
            problems: Vec::new(),
            notes: Vec::new(),
            measured: BTreeSet::new(),
            by_weight: BTreeSet::new(),
        }
    }

    fn facts(&self, id: &TargetId) -> Option<&'a Facts> {
        self.live.get(id).and_then(Observed::known)
    }

    /// A row with one cell per facility.
    fn row(&mut self, tier: &'static str, name: &str, cell: impl Fn(&mut Self, &FacilityName) -> Cell) -> Row {
        let facilities: Vec<FacilityName> = self.topology.facilities.keys().cloned().collect();
        Row { tier, name: name.to_owned(), cells: facilities.iter().map(|facility| cell(self, facility)).collect() }
    }

    /// Records what is wrong, unless it is what one expects of a drained facility.
    fn wrong(&mut self, facility: &FacilityName, text: String) -> Mark {
        if self.drained.contains(facility) {
            return Mark::Quiet;
        }
        self.problems.push(Problem { level: ExitLevel::Degraded, text });
        Mark::Bad
    }

    /// "2 of 2 answer", and what is wrong if not.
    fn answers(&mut self, facility: &FacilityName, what: &str, targets: &[&TargetId]) -> (Mark, String) {
        let silent: Vec<&str> = targets.iter().filter(|id| self.facts(id).is_none()).map(|id| id.name()).collect();
        let verb = if targets.len() == 1 { "answers" } else { "answer" };
        let text = format!("{} of {} {verb}", targets.len() - silent.len(), targets.len());
        if silent.is_empty() {
            return (Mark::Good, text);
        }
        let verb = if silent.len() == 1 { "does" } else { "do" };
        let mark = self.wrong(facility, format!("{what} {} of {facility} {verb} not answer", list(silent)));
        (mark, text)
    }

    pub(super) fn dns(&mut self) -> Vec<Row> {
        let topology = self.topology;
        let mut rows = Vec::new();
        for zone in topology.zones.values() {
            // Serials say something only among servers that get the zone from the same one.
            let mut newest: BTreeMap<&str, u32> = BTreeMap::new();
            for name in zone.servers.keys() {
                let Some(facts) =
                    zone.servers.get(name).and_then(|server| self.facts(&server.target.id)?.name_server())
                else {
                    continue;
                };
                let serial = newest.entry(zone.origin(name)).or_insert(facts.serial);
                // RFC 1982 §3.2: serials compare by the sign of their difference.
                if facts.serial.wrapping_sub(*serial) as i32 > 0 {
                    *serial = facts.serial;
                }
            }
            rows.push(self.row(
                "dns",
                if topology.zones.len() > 1 { zone.name.as_str() } else { "" },
                |this, facility| {
                    let servers: Vec<&TargetId> = zone
                        .servers
                        .values()
                        .map(|server| &server.target)
                        .filter(|target| target.facility == *facility)
                        .map(|target| &target.id)
                        .collect();
                    if servers.is_empty() {
                        return Cell::new();
                    }
                    let mut cell = vec![this.answers(facility, "name server", &servers)];
                    for id in &servers {
                        let Some(facts) = this.facts(id).and_then(Facts::name_server) else { continue };
                        if newest.get(zone.origin(id.name())).is_some_and(|newest| *newest != facts.serial) {
                            let text = format!("{} is behind: serial {}", id.name(), facts.serial);
                            let mark = this.wrong(facility, format!("name server {text}"));
                            cell.push((mark, text));
                        }
                    }
                    cell.extend(this.published(zone, facility));
                    cell
                },
            ));
        }
        rows
    }

    /// How many of a facility's addresses the zone's servers publish.
    fn published(&self, zone: &crate::model::Zone, facility: &FacilityName) -> Option<(Mark, String)> {
        let mut addresses = BTreeSet::new();
        for service in self.topology.services.values() {
            for (hostname, _) in service.hostnames.iter().filter(|(_, name)| **name == zone.name) {
                addresses
                    .extend(service.addresses.get(facility).into_iter().flatten().map(|address| (hostname, address)));
            }
        }
        if addresses.is_empty() {
            return None;
        }
        let served = |server: &crate::model::NameServer| {
            let facts = self.facts(&server.target.id)?.name_server()?;
            let is = |(hostname, address): &&(&String, &std::net::IpAddr)| {
                facts.sets.iter().any(|(key, set)| {
                    key.name == **hostname && set.as_ref().is_some_and(|set| set.data.contains(address))
                })
            };
            Some(addresses.iter().filter(is).count())
        };
        let counts: BTreeSet<usize> = zone.servers.values().filter_map(served).collect();
        let text = match (counts.first()?, counts.last()?) {
            (0, 0) => "not published".to_owned(),
            (least, most) if least == most => format!("{most} of {} addresses published", addresses.len()),
            (least, most) => {
                return Some((
                    Mark::Note,
                    format!("servers differ: {least} to {most} of {} addresses published", addresses.len()),
                ));
            }
        };
        Some((Mark::Plain, text))
    }

    pub(super) fn edge(&mut self) -> Vec<Row> {
        let topology = self.topology;
        let volatile: Vec<&str> = topology
            .proxies
            .values()
            .filter(|proxy| {
                let facts = self.facts(&proxy.target.id).and_then(Facts::proxy);
                facts.is_some_and(|facts| !facts.capabilities.persistent)
            })
            .map(|proxy| proxy.target.name())
            .collect();
        if !volatile.is_empty() {
            let what = if volatile.len() == 1 { "loses its" } else { "lose their" };
            self.notes.push(format!("{} {what} weights and admissions when reloaded", list(&volatile)));
        }
        if topology.proxies.is_empty() {
            return Vec::new();
        }
        vec![self.row("edge", "", |this, facility| {
            let proxies: Vec<&TargetId> = topology
                .proxies
                .values()
                .filter(|proxy| proxy.target.facility == *facility)
                .map(|proxy| &proxy.target.id)
                .collect();
            if proxies.is_empty() {
                return Cell::new();
            }
            let mut cell = vec![this.answers(facility, "proxy", &proxies)];
            let mut queue = 0;
            for id in &proxies {
                let Some(facts) = this.facts(id).and_then(Facts::proxy) else { continue };
                queue += facts.backends.values().flatten().map(|backend| backend.queue).sum::<u64>();
                if !facts.writable {
                    let text = format!("{} cannot be changed from here", id.name());
                    this.notes.push(format!("proxy {text}: its control channel only reads"));
                    cell.push((Mark::Note, text));
                }
            }
            if queue > 0 {
                cell.push((Mark::Note, format!("{queue} requests queued")));
            }
            cell
        })]
    }

    pub(super) fn apps(&mut self) -> Vec<Row> {
        let topology = self.topology;
        let mut rows = Vec::new();
        for service in topology.services.values() {
            let shares = self.shares(service);
            rows.push(self.row("app", service.name.as_str(), |this, facility| {
                let here = service.servers.values().filter(|server| server.target.facility == *facility);
                let servers: Vec<&TargetId> = here.map(|server| &server.target.id).collect();
                if servers.is_empty() {
                    return Cell::new();
                }
                let sick: Vec<&str> = servers
                    .iter()
                    .filter(|id| !this.facts(id).and_then(Facts::server).is_some_and(|facts| facts.healthy))
                    .map(|id| id.name())
                    .collect();
                let text = format!("{} of {} healthy", servers.len() - sick.len(), servers.len());
                let mark = match sick.is_empty() {
                    true => Mark::Good,
                    false => {
                        let verb = if sick.len() == 1 { "is" } else { "are" };
                        this.wrong(facility, format!("{} of {} {verb} not healthy", list(&sick), service.name))
                    }
                };
                let mut cell = vec![(mark, text)];
                match &shares {
                    Shares::Measured(rates) => {
                        let total: u64 = rates.values().sum();
                        let rate = rates.get(facility).copied().unwrap_or(0);
                        let share = Percent::ratio(rate, total);
                        let text = match rate {
                            0 => "serves nothing".to_owned(),
                            rate => format!("serves {} ({rate} rps)", rounded(share)),
                        };
                        cell.push((Mark::Plain, text));
                    }
                    Shares::Weights(shares) => {
                        let share = shares.get(facility).copied().unwrap_or_default();
                        cell.push((Mark::Plain, format!("gets {} by weight", rounded(share))));
                    }
                    Shares::Unknown => cell.push((Mark::Note, "share unknown: no proxy answers".to_owned())),
                }
                if let Some(down) = this.down(service, facility) {
                    let mark = this.wrong(facility, format!("proxies find {} of {} down", list(&down), service.name));
                    cell.push((mark, format!("down for proxies: {}", list(&down))));
                }
                cell
            }));
        }
        rows
    }

    /// Servers of a facility that some proxy gives requests to and finds down.
    fn down(&self, service: &Service, facility: &FacilityName) -> Option<BTreeSet<String>> {
        let mut down = BTreeSet::new();
        for (_, name, server) in self.seen(service) {
            let here = service.servers.get(name.as_str()).is_some_and(|server| server.target.facility == *facility);
            if here && server.setting.admission == Admission::Ready && server.operational == Operational::Down {
                down.insert(name.to_string());
            }
        }
        (!down.is_empty()).then_some(down)
    }

    /// A service's servers as each proxy that answers sees them.
    fn seen(&self, service: &Service) -> Vec<(&'a TargetId, &'a ForeignName, &'a crate::model::ProxyServerFacts)> {
        let topology: &'a Topology = self.topology;
        let mut seen = Vec::new();
        for proxy in topology.proxies.values() {
            let Some(facts) = self.facts(&proxy.target.id).and_then(Facts::proxy) else { continue };
            let backend = proxy.backends.get(&service.name).unwrap_or(&service.backend);
            let Some(Some(backend)) = facts.backends.get(backend) else { continue };
            seen.extend(backend.servers.iter().map(|(name, server)| (&proxy.target.id, name, server)));
        }
        seen
    }

    pub(super) fn shares(&mut self, service: &Service) -> Shares {
        let seen = self.seen(service);
        let facility =
            |name: &ForeignName| service.servers.get(name.as_str()).map(|server| server.target.facility.clone());
        let mut rates: BTreeMap<FacilityName, u64> = BTreeMap::new();
        for (_, name, server) in &seen {
            if let Some(facility) = facility(name) {
                *rates.entry(facility).or_default() += server.rate;
            }
        }
        if rates.values().sum::<u64>() >= MIN_RATE {
            self.measured.insert(service.name.to_string());
            self.serving.extend(rates.iter().filter(|(_, rate)| **rate > 0).map(|(facility, _)| facility.clone()));
            return Shares::Measured(rates);
        }
        let mut by_proxy: BTreeMap<&TargetId, BTreeMap<FacilityName, u64>> = BTreeMap::new();
        for (proxy, name, server) in &seen {
            let gets = server.setting.admission == Admission::Ready && server.operational != Operational::Down;
            if let Some(facility) = facility(name) {
                *by_proxy.entry(proxy).or_default().entry(facility).or_default() +=
                    if gets { u64::from(server.setting.weight) } else { 0 };
            }
        }
        if by_proxy.is_empty() {
            return Shares::Unknown;
        }
        self.by_weight.insert(service.name.to_string());
        // Each proxy counts alike: without traffic nothing says which one gets more.
        let mut points: BTreeMap<FacilityName, u64> = BTreeMap::new();
        for weights in by_proxy.values() {
            let total = weights.values().sum();
            for (facility, weight) in weights {
                *points.entry(facility.clone()).or_default() +=
                    u64::from(Percent::ratio(*weight, total).basis_points());
            }
        }
        self.serving.extend(points.iter().filter(|(_, points)| **points > 0).map(|(facility, _)| facility.clone()));
        let total = 10_000 * by_proxy.len() as u64;
        Shares::Weights(
            points.into_iter().map(|(facility, points)| (facility, Percent::ratio(points, total))).collect(),
        )
    }

    pub(super) fn jobs(&mut self) -> Vec<Row> {
        let topology = self.topology;
        if topology.jobs.is_empty() {
            return Vec::new();
        }
        vec![self.row("jobs", "", |this, facility| {
            let mut cell = Cell::new();
            for job in topology.jobs.values().filter(|job| job.target.facility == *facility) {
                cell.push(match this.facts(&job.target.id).and_then(Facts::job) {
                    Some(facts) if facts.running => (Mark::Good, format!("{} runs", job.name)),
                    Some(_) => (Mark::Quiet, format!("{} does not run", job.name)),
                    None => (
                        this.wrong(facility, format!("job {} does not answer", job.name)),
                        format!("{} unknown", job.name),
                    ),
                });
            }
            cell
        })]
    }

    pub(super) fn unreachable(&self) -> Vec<(TargetId, Unreachable)> {
        let mut unreachable: Vec<(TargetKind, TargetId, Unreachable)> = Vec::new();
        for target in self.topology.targets() {
            let why = match self.live.get(&target.id) {
                Some(Observed::Known { .. }) => continue,
                Some(Observed::Unreachable(why)) => why.clone(),
                None => Unreachable::new("it was not asked", "nothing"),
            };
            unreachable.push((target.kind, target.id.clone(), why));
        }
        unreachable.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        unreachable.into_iter().map(|(_, id, why)| (id, why)).collect()
    }

    pub(super) fn columns(&self) -> Vec<Column> {
        self.topology
            .facilities
            .keys()
            .map(|name| {
                let serves = self.serving.contains(name);
                let state = match (self.drained.contains(name), serves) {
                    (true, true) => "to be drained, still serving",
                    (true, false) if self.held.contains(name) => "drained (held)",
                    (true, false) => "drained (by the file)",
                    (false, true) => "serving",
                    (false, false) => "serves nothing",
                };
                Column {
                    facility: name.clone(),
                    state: state.to_owned(),
                    drained: self.drained.contains(name),
                    held: self.held.contains(name),
                    serving: serves,
                }
            })
            .collect()
    }
}

/// Which part of a service's requests each facility serves.
pub(super) enum Shares {
    /// Requests per second, as the proxies count them.
    Measured(BTreeMap<FacilityName, u64>),
    /// By weights, each proxy counting alike.
    Weights(BTreeMap<FacilityName, Percent>),
    /// No proxy answers.
    Unknown,
}

/// To whole percents, except close to none and all, where the difference matters.
fn rounded(share: Percent) -> String {
    let points = share.basis_points();
    match (points + 50) / 100 {
        0 if points > 0 => "under 1%".to_owned(),
        100 if points < 10_000 => "over 99%".to_owned(),
        whole => format!("{whole}%"),
    }
}
