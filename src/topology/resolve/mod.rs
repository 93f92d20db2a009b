//! From the file as written to [`Topology`]: names bound, defaults filled, every reference resolved.
//!
//! What is returned as `None` here has left a finding: the file is refused in the end, and what remains is judged all the same.

mod data;
mod dns;
mod edge;
mod facilities;
mod policy;
mod service;
mod units;
mod vantages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::field::{Field, Key, Raw, Reader, Section};
use super::findings::Findings;
use super::syntax::File;
use super::tree::NodeId;
use super::{Topology, words};
use crate::diagnostic::{Diagnostic, NEEDS_HOST, SettingsCheck};
use crate::model::{
    FacilityName, ForeignName, Host, HostName, Place, ProviderName, Settings, Target, TargetId, TargetKind,
};

/// The version of the language that this program reads.
const VERSION: u64 = 1;

/// A kind of thing that other things name.
#[derive(Clone, Copy)]
struct Noun {
    one: &'static str,
    many: &'static str,
}

const FACILITY: Noun = Noun { one: "facility", many: "facilities" };
const HOST: Noun = Noun { one: "host", many: "hosts" };
const DATABASE: Noun = Noun { one: "database", many: "databases" };
const POOLER: Noun = Noun { one: "pooler", many: "poolers" };
const SERVICE: Noun = Noun { one: "service", many: "services" };

/// The names that there are, also those of things that are otherwise wrong, so that one mistake makes one finding.
#[derive(Default)]
struct Names<'a> {
    facilities: BTreeSet<&'a str>,
    services: BTreeSet<&'a str>,
    databases: BTreeSet<&'a str>,
    poolers: BTreeSet<&'a str>,
    hosts: BTreeSet<&'a str>,
}

/// What everything here needs.
pub(super) struct Resolver<'a, 't> {
    reader: Reader<'a, 't>,
    checks: &'a BTreeMap<&'a str, SettingsCheck>,
    names: Names<'a>,
    hosts: BTreeMap<HostName, Arc<Host>>,
}

/// What a target is made of.
struct TargetParts<'p> {
    kind: TargetKind,
    id: TargetId,
    facility: Option<FacilityName>,
    provider: Option<ProviderName>,
    address: Option<String>,
    host: &'p Field<String>,
    settings: Settings,
}

/// Resolves the whole file.
pub(super) fn resolve<'a>(
    reader: Reader<'a, '_>,
    checks: &'a BTreeMap<&'a str, SettingsCheck>,
    digest: String,
) -> Option<Topology> {
    let top = reader.tree.place(NodeId::ROOT);
    let start = Place { start: top.start, end: top.start };
    if newer(&reader) {
        return None;
    }
    let file: File = reader.decode(NodeId::ROOT).get()?;
    check_version(file.topology, start, reader.findings);
    let mut this = Resolver { names: Names::read(&reader), reader, checks, hosts: BTreeMap::new() };
    let name = file.name.as_ref().required("name", "the topology", start, this.reader.findings);
    if let Field::Is(name, place) = &file.name {
        this.judged(words::name(name), *place);
    }
    let facilities = this.facilities(&file.facilities, start);
    let (hosts, host_fences) = this.hosts(&file.hosts);
    this.hosts = hosts;
    let zones = this.zones(&file.zones);
    let services = this.services(&file.services, &zones);
    let proxies = this.proxies(&file.proxies);
    let poolers = this.poolers(&file.poolers);
    let databases = this.databases(&file.databases, !proxies.is_empty());
    let jobs = this.jobs(&file.jobs);
    let vantages = this.vantages(&file.vantages);
    let policy = this.policy(&file.policy, facilities.len());
    let operator = this.operator(&file.operator);
    let store = this.store(&file.store);
    let mut topology = Topology {
        name: name?.clone(),
        facilities,
        zones,
        proxies,
        services,
        databases,
        poolers,
        host_fences,
        hosts: this.hosts,
        jobs,
        vantages,
        units: BTreeMap::new(),
        policy: policy?,
        operator,
        store: store?,
        digest,
    };
    topology.units = units::units(&topology);
    vantages::blind_spot(&file.vantages, &topology, this.reader.findings);
    Some(topology)
}

/// Whether the file is made for a newer version of the language, which would be full of unknown keys.
fn newer(reader: &Reader<'_, '_>) -> bool {
    let entry = reader.tree.entry(NodeId::ROOT, "topology");
    let version = entry.and_then(|entry| reader.tree.text(entry.value)?.parse::<u64>().ok());
    let Some((entry, version)) = entry.zip(version).filter(|(_, version)| *version > VERSION) else { return false };
    let place = reader.tree.place(entry.value);
    let message = format!("version {version} of the language is made for a newer handover");
    reader.findings.add(
        Diagnostic::error("unsupported-version", place, message)
            .help(format!("this one reads version {VERSION}; update handover")),
    );
    true
}

/// Judges the version of the language.
fn check_version(field: Field<u64>, start: Place, findings: &Findings) {
    match field {
        Field::Absent => findings.add(
            Diagnostic::error("missing-key", start, "the topology has no `topology`, the version of its language")
                .help(format!("begin the file with `topology: {VERSION}`")),
        ),
        Field::Is(version, place) if version != VERSION => findings.add(
            Diagnostic::error("unsupported-version", place, format!("there is no version {version} of the language"))
                .help(format!("write `topology: {VERSION}`")),
        ),
        Field::Empty(place) => {
            findings.error("missing-value", place, "`topology` has no value, the version of the language");
        }
        Field::Is(..) | Field::Wrong => {}
    }
}

impl<'a> Names<'a> {
    fn read(reader: &Reader<'a, '_>) -> Self {
        let names = |section: &str| {
            let section = reader.tree.entry(NodeId::ROOT, section);
            section
                .map(|section| reader.tree.entries(section.value).map(|entry| entry.key).collect())
                .unwrap_or_default()
        };
        Self {
            facilities: names("facilities"),
            services: names("services"),
            databases: names("databases"),
            poolers: names("poolers"),
            hosts: names("hosts"),
        }
    }
}

impl<'a> Resolver<'a, '_> {
    fn error(&self, code: &'static str, place: Place, message: impl Into<String>) {
        self.reader.findings.error(code, place, message);
    }

    /// The value of a judgement; its error is a finding at `place`.
    fn judged<T>(&self, judgement: Result<T, String>, place: Place) -> Option<T> {
        judgement.map_err(|message| self.error("invalid-value", place, message)).ok()
    }

    /// The entries of a section whose names and values can be used.
    fn named<T: serde::Deserialize<'a>>(&self, section: &Field<Section<T>>) -> Vec<(Key<'a>, T)> {
        let entries = self.reader.section(section);
        entries
            .filter_map(|(key, value)| {
                let named = self.judged(words::name(key.text), key.place);
                match value {
                    Field::Empty(_) => {
                        self.error("missing-value", key.place, format!("`{}` has no value", key.text));
                        None
                    }
                    value => named.and(value.get()).map(|value| (key, value)),
                }
            })
            .collect()
    }

    /// A name that must be among `names`.
    fn known(&self, name: &str, place: Place, noun: Noun, names: &BTreeSet<&str>) -> bool {
        if names.contains(name) {
            return true;
        }
        let help = self.reader.findings.advice(name, noun.many, names.iter().copied());
        self.reader
            .findings
            .add(Diagnostic::error("unknown-name", place, format!("there is no {} `{name}`", noun.one)).help(help));
        false
    }

    /// The facility that `key` of `whose` names.
    fn facility(&self, field: &Field<String>, key: &str, whose: &str, at: Place) -> Option<FacilityName> {
        field.as_ref().required(key, whose, at, self.reader.findings)?;
        let (name, place) = field.as_ref().placed()?;
        self.known(name, place, FACILITY, &self.names.facilities).then(|| FacilityName::new(name))
    }

    /// The names of a list that must be among `names`.
    fn references(
        &self,
        list: &Field<super::field::Items<String>>,
        noun: Noun,
        names: &BTreeSet<&str>,
    ) -> Vec<(String, Place)> {
        let mut seen: BTreeMap<String, Place> = BTreeMap::new();
        let mut found = Vec::new();
        for (name, place) in self.reader.list(list) {
            if !self.known(&name, place, noun, names) {
                continue;
            }
            if let Some(first) = seen.insert(name.clone(), place) {
                self.reader.findings.add(
                    Diagnostic::error("duplicate-name", place, format!("{} `{name}` is listed twice", noun.one))
                        .related(first, "it is listed first here"),
                );
            } else {
                found.push((name, place));
            }
        }
        found
    }

    /// The provider that `field` names, or the usual one of its kind.
    fn provider(&self, field: &Field<String>, usual: &str, at: Place) -> Option<ProviderName> {
        let (name, place) = match field {
            Field::Is(name, place) => (name.as_str(), *place),
            Field::Absent | Field::Empty(_) => (usual, at),
            Field::Wrong => return None,
        };
        if self.checks.contains_key(name) {
            return Some(ProviderName::new(name));
        }
        let help = self.reader.findings.advice(name, "providers", self.checks.keys().copied());
        let message = format!("there is no provider `{name}`");
        self.reader.findings.add(Diagnostic::error("unknown-provider", place, message).help(help));
        None
    }

    /// The address that `field` holds; `port` is for one without.
    fn address(&self, field: &Field<String>, whose: &str, at: Place, port: Option<u16>) -> Option<String> {
        let text = field.as_ref().required("address", whose, at, self.reader.findings)?;
        let (_, place) = field.as_ref().placed()?;
        self.judged(words::address(text, port), place)
    }

    /// A name that belongs to a target.
    fn foreign(&self, field: &Field<String>) -> Option<ForeignName> {
        let (name, place) = field.as_ref().placed()?;
        self.judged(words::foreign_name(name), place).map(|()| ForeignName::new(name))
    }

    /// Settings as written; without any, an empty map at `at`.
    fn settings(&self, field: &Field<Raw>, at: Place) -> Settings {
        match field {
            Field::Is(Raw(node), place) => {
                if !self.reader.is_map(*node) {
                    let what = self.reader.tree.describe(*node);
                    self.error("wrong-kind", *place, format!("a map should stand here, not {what}"));
                }
                self.reader.tree.settings(*node)
            }
            Field::Absent | Field::Empty(_) | Field::Wrong => Settings { place: at, ..Settings::default() },
        }
    }

    /// Settings of a zone, service or database with those of one of its targets put over them.
    fn overlaid(&self, common: &Settings, own: &Field<Raw>, at: Place) -> Settings {
        match own {
            // Without settings of its own, what is wrong is wrong in the common ones, once.
            Field::Absent | Field::Empty(_) | Field::Wrong => common.clone(),
            Field::Is(..) => common.overlaid(&self.settings(own, at)),
        }
    }

    /// Makes a target of its parts and has its settings judged by its provider.
    fn target(&self, parts: TargetParts<'_>) -> Option<Arc<Target>> {
        let TargetParts { kind, id, facility, provider, address, host, settings } = parts;
        if let Some(check) = provider.as_ref().and_then(|provider| self.checks.get(provider.as_str())) {
            let hosted = !matches!(host, Field::Absent | Field::Empty(_));
            for finding in check(kind, &settings).into_iter().filter(|finding| !hosted || finding.code != NEEDS_HOST) {
                self.reader.findings.add(finding);
            }
        }
        let host = match host {
            Field::Is(name, place) => {
                self.known(name, *place, HOST, &self.names.hosts).then(|| self.hosts.get(name.as_str()).cloned())?
            }
            Field::Absent | Field::Empty(_) => None,
            Field::Wrong => return None,
        };
        Some(Arc::new(Target { id, kind, facility: facility?, provider: provider?, address: address?, settings, host }))
    }
}
