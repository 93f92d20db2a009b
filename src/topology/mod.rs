//! The topology language: text → [`Topology`], with every finding at once. `docs/topology.md` is its reference.
//!
//! Text becomes a tree of values with places (`tree`), the tree becomes what the file says as it is written (`syntax`, by `serde`
//! through `decode` and `field`), and that becomes the topology (`resolve`). `schema` is the same for editors. `tree` says why `serde_yaml` is not used for this.
//!
//! May use `model` and `diagnostic`. Must not read files, clocks or the network: the text and the providers' settings checks come
//! in as values.

mod complaint;
mod decode;
mod field;
mod findings;
mod resolve;
mod schema;
mod syntax;
mod tree;
mod words;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use self::field::Reader;
use self::findings::Findings;
use self::tree::{NodeId, Tree};
use crate::diagnostic::{Diagnostic, SettingsCheck};
use crate::model::{
    Database, DatabaseName, Facility, FacilityName, Fence, Host, HostName, Job, JobName, Operator, Place, Policy,
    Pooler, Proxy, Service, ServiceName, Target, TargetId, Unit, Zone, ZoneName,
};

pub use self::schema::{ProviderSchema, schema};

/// The largest file that is read.
pub const LARGEST: usize = 256 << 20;

/// What `topology.yaml` says: names bound, defaults filled, every reference resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// Identity of the installation: state, locks and holds belong to it.
    pub name: String,
    /// The data centres.
    pub facilities: BTreeMap<FacilityName, Facility>,
    /// The DNS zones.
    pub zones: BTreeMap<ZoneName, Zone>,
    /// The proxies.
    pub proxies: BTreeMap<String, Proxy>,
    /// The services.
    pub services: BTreeMap<ServiceName, Service>,
    /// The databases.
    pub databases: BTreeMap<DatabaseName, Database>,
    /// The poolers.
    pub poolers: BTreeMap<String, Pooler>,
    /// The machines on which commands run.
    pub hosts: BTreeMap<HostName, Arc<Host>>,
    /// The jobs.
    pub jobs: BTreeMap<JobName, Job>,
    /// Hosts elsewhere that say which addresses they reach. They are none of [`targets`](Self::targets): nothing is ever done to them.
    pub vantages: BTreeMap<String, Arc<Target>>,
    /// How machines are cut off from outside, where that is declared.
    pub host_fences: BTreeMap<HostName, Fence>,
    /// What hosts stop and start by name, by their own commands.
    pub units: BTreeMap<TargetId, Unit>,
    /// What the operators decided once and for all.
    pub policy: Policy,
    /// Where runs are started and what they need, where that is declared.
    pub operator: Option<Operator>,
    /// Where runs, journal, lock and holds are kept.
    pub store: StoreKind,
    /// SHA-256 of the file's bytes, in lower-case hexadecimal.
    pub digest: String,
}

/// Where runs, journal, lock and holds are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// On the operator's machine.
    Embedded {
        /// The directory; without it, the one of the XDG base directory specification.
        directory: Option<String>,
    },
}

impl Default for StoreKind {
    fn default() -> Self {
        Self::Embedded { directory: None }
    }
}

/// A topology and what else its file says.
#[derive(Debug)]
pub struct Parsed<'t> {
    /// The topology.
    pub topology: Topology,
    /// Findings that leave the file usable, in the order of their places.
    pub warnings: Vec<Diagnostic>,
    /// Where everything stands.
    pub places: Places<'t>,
}

/// Where everything stands in a file.
#[derive(Debug)]
pub struct Places<'t>(Tree<'t>);

impl Places<'_> {
    /// The place of a value by the path of its keys, such as `facilities/west/state`; none where the file does not say it.
    pub fn of(&self, path: &str) -> Option<Place> {
        self.find(path).map(|node| self.0.place(node))
    }

    /// The place of the last key of a path, such as `west` in `facilities/west`.
    pub fn of_key(&self, path: &str) -> Option<Place> {
        let (map, key) = path
            .rsplit_once('/')
            .map_or((NodeId::ROOT, path), |(map, key)| (self.find(map).unwrap_or(NodeId::ROOT), key));
        self.0.entry(map, key).map(|entry| entry.place)
    }

    fn find(&self, path: &str) -> Option<NodeId> {
        path.split('/').try_fold(NodeId::ROOT, |node, key| self.0.entry(node, key).map(|entry| entry.value))
    }
}

/// Reads a topology. `checks` are the providers that this program has, each with its judge of settings.
///
/// # Errors
/// All findings, in the order of their places, where at least one of them makes the file unusable.
pub fn parse<'t>(text: &'t [u8], checks: &BTreeMap<&str, SettingsCheck>) -> Result<Parsed<'t>, Vec<Diagnostic>> {
    let findings = Findings::default();
    let tree = readable(text, &findings).and_then(|text| Tree::read(text, &findings));
    let topology =
        tree.as_ref().and_then(|tree| resolve::resolve(Reader { tree, findings: &findings }, checks, digest(text)));
    match (tree, topology) {
        (Some(tree), Some(topology)) if !findings.unusable() => {
            Ok(Parsed { topology, warnings: findings.sorted(), places: Places(tree) })
        }
        _ => Err(findings.sorted()),
    }
}

/// The text of a file that is neither too large nor of another encoding.
fn readable<'t>(text: &'t [u8], findings: &Findings) -> Option<&'t str> {
    if text.len() > LARGEST {
        let message = format!("the file has {} MB; at most {} MB are read", text.len() >> 20, LARGEST >> 20);
        findings.error("file-too-large", Place::default(), message);
        return None;
    }
    match std::str::from_utf8(text) {
        Ok(text) => Some(text),
        Err(error) => {
            let start = u32::try_from(error.valid_up_to()).unwrap_or(u32::MAX);
            let place = Place { start, end: start + 1 };
            let (line, _) = place.line_and_column(text);
            let byte = text.get(error.valid_up_to()).copied().unwrap_or_default();
            let message = format!("line {line} is not UTF-8: byte 0x{byte:02x} at offset {start}");
            let help = match text {
                [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the file looks like UTF-16; save it as UTF-8",
                _ => "save the file as UTF-8",
            };
            findings.add(Diagnostic::error("not-utf-8", place, message).help(help));
            None
        }
    }
}

/// SHA-256 in lower-case hexadecimal.
fn digest(text: &[u8]) -> String {
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a text cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl Topology {
    /// Every target that a provider speaks to, in the order of their identities within each kind.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        let servers = self.zones.values().flat_map(|zone| zone.servers.values().map(|server| &server.target));
        let proxies = self.proxies.values().map(|proxy| &proxy.target);
        let apps = self.services.values().flat_map(|service| service.servers.values().map(|server| &server.target));
        let members =
            self.databases.values().flat_map(|database| database.members.values().map(|member| &member.target));
        let poolers = self.poolers.values().map(|pooler| &pooler.target);
        let jobs = self.jobs.values().map(|job| &job.target);
        servers.chain(proxies).chain(apps).chain(members).chain(poolers).chain(jobs)
    }

    /// What can be done to machines and facilities from outside.
    pub fn fences(&self) -> impl Iterator<Item = &Arc<Target>> {
        let facilities = self.facilities.values();
        let of_facilities =
            facilities.flat_map(|facility| facility.fence.iter().map(|fence| &fence.target).chain(&facility.withdraw));
        let of_hosts = self.host_fences.values().map(|fence| &fence.target);
        of_facilities.chain(of_hosts)
    }
}
