//! What several subcommands need: the topology, the providers, the store, the terminal.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use clap::ColorChoice;

use super::args::{Common, Output, StoreArgs};
use super::exit::Exit;
use super::voice::Voice;
use crate::diagnostic::{Diagnostic, SettingsCheck};
use crate::engine::Engine;
use crate::journal::{self, HoldKind, Store};
use crate::model::{Live, TargetKind};
use crate::plan::lost::evidence::Lost;
use crate::plan::lost::known::Known;
use crate::provider::{self, Registry, SystemClock};
use crate::report::{Style, diagnostic};
use crate::secret::SecretReader;
use crate::store::SqliteStore;
use crate::topology::{self, ProviderSchema, StoreKind, Topology};
use crate::transport::Transport;

/// Columns where no terminal says otherwise.
const WIDTH: usize = 100;

/// Columns beyond which lines are hard to read.
const WIDEST: usize = 120;

/// The judges of settings of every provider that this program has.
pub fn checks() -> BTreeMap<&'static str, SettingsCheck> {
    BTreeMap::from([
        ("rfc2136", provider::rfc2136::check as SettingsCheck),
        ("haproxy", provider::haproxy::check),
        ("http", provider::http::check),
        ("postgresql", provider::postgresql::check),
        ("pgbouncer", provider::pgbouncer::check),
        ("command", provider::command::check),
    ])
}

/// What the providers take as settings.
pub fn schemas() -> [ProviderSchema; 6] {
    let schema = |provider, kind, settings| ProviderSchema { provider, kind, settings };
    [
        schema("rfc2136", TargetKind::NameServer, provider::rfc2136::schema()),
        schema("haproxy", TargetKind::Proxy, provider::haproxy::schema()),
        schema("http", TargetKind::Server, provider::http::schema()),
        schema("postgresql", TargetKind::Member, provider::postgresql::schema()),
        schema("pgbouncer", TargetKind::Pooler, provider::pgbouncer::schema()),
        schema("command", TargetKind::Job, provider::command::schema()),
    ]
}

/// Every provider that this program has, without open connections.
pub fn registry(secrets: &Arc<SecretReader>, transport: &Arc<Transport>) -> Registry {
    let (secrets, transport) = (|| Arc::clone(secrets), || Arc::clone(transport));
    Registry::default()
        .with("rfc2136", Arc::new(provider::rfc2136::Rfc2136::new(secrets())))
        .with("haproxy", Arc::new(provider::haproxy::HaProxy::new(transport())))
        .with("http", Arc::new(provider::http::HttpHealth::new()))
        .with("postgresql", Arc::new(provider::postgresql::Postgresql::new(secrets(), transport())))
        .with("pgbouncer", Arc::new(provider::pgbouncer::Pgbouncer::new(secrets(), transport())))
        .with("command", Arc::new(provider::command::CommandJobs::new(transport())))
        .with("vantage", Arc::new(provider::vantage::Vantage::new(transport())))
}

/// A topology file as it was read.
pub struct Source {
    /// Its path as given.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read.
    #[expect(clippy::disallowed_methods, reason = "the command line reads the files it is given")]
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { name: path.display().to_string(), bytes })
    }

    /// Whether the file still holds what was read.
    pub fn is_as_it_was(&self) -> bool {
        Self::read(Path::new(&self.name)).is_ok_and(|now| now.bytes == self.bytes)
    }

    /// Prints findings about it.
    pub fn print(&self, findings: &[Diagnostic], output: Output) {
        let style = stderr_style(output);
        let style = diagnostic::Style { colour: style.colour, width: style.width };
        eprint(&diagnostic::render(&self.bytes, &self.name, findings, style));
    }
}

/// Everything that a command on a live system needs.
pub struct Context {
    /// What the file says.
    pub topology: Arc<Topology>,
    /// The file.
    pub source: Source,
    /// Observes and applies.
    pub engine: Engine,
    /// Where runs and holds are kept.
    pub store: Arc<dyn Store>,
    /// The state directory.
    pub state: PathBuf,
    transport: Arc<Transport>,
}

impl Context {
    /// Reads the topology and prepares everything; findings are printed.
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub fn open(common: &Common, voice: Voice) -> Result<Result<Self, Exit>> {
        let (source, topology) = match read_topology(&common.topology, voice) {
            Ok((source, topology)) => (source, Arc::new(topology)),
            Err(exit) => return Ok(Err(exit)),
        };
        let folder = common.topology.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let secrets = Arc::new(SecretReader::new(folder));
        let transport = Arc::new(Transport::new());
        let registry = registry(&secrets, &transport);
        let engine = Engine::new(Arc::clone(&topology), registry, Arc::new(SystemClock), common.timeout.0);
        let engine = engine.with_sockets(sockets());
        let state = state_directory(common.state_dir.as_deref(), &topology)?;
        let store = open_store(&state, &topology)?;
        Ok(Ok(Self { topology, source, engine, store, state, transport }))
    }

    /// The same with what earlier observations have left to know.
    pub async fn remembering(self) -> Self {
        // What cannot be read is not known; whoever needs the store says what is wrong with it.
        let (sightings, now) = (self.store.sightings().await.unwrap_or_default(), self.engine.now());
        let holds = self.store.holds().await.unwrap_or_default();
        let settling = holds.iter().any(|hold| matches!(hold.kind, HoldKind::Settling { .. }));
        let runs = if settling { self.store.runs().await.unwrap_or_default() } else { Vec::new() };
        let known = Known { returned: journal::returned(&holds, &runs, now), ..journal::known(sightings, now) };
        let engine = self.engine.clone().knowing(known);
        Self { engine, ..self }
    }

    /// Observes everything. Where something is lost it is not waited for, and the hosts elsewhere are asked as well.
    pub async fn observe(&self, lost: &Lost) -> Live {
        let live = if lost.is_empty() { self.engine.observe().await } else { self.engine.observe_without(lost).await };
        self.note(&live).await;
        live
    }

    /// Notes who answered, and returns what is known with that.
    pub async fn note(&self, live: &Live) -> Known {
        let now = self.engine.now();
        let before = self.store.sightings().await.unwrap_or_default();
        let sightings = journal::sightings(before, live, now);
        // A store that cannot be written now keeps no observation from being told.
        let _ = self.store.saw(sightings.clone()).await;
        journal::known(sightings, now)
    }

    /// Closes connections that would outlive the program.
    pub async fn close(&self) {
        self.transport.close().await;
    }
}

/// Reads a topology and prints what is to be said of it.
///
/// # Errors
/// The exit code that goes with what keeps it from being used; that was told.
pub fn read_topology(file: &Path, voice: Voice) -> Result<(Source, Topology), Exit> {
    let source = Source::read(file).map_err(|error| {
        let advice =
            "Name the topology with --topology FILE or HANDOVER_TOPOLOGY; `topology.yaml` in this folder is the default.";
        voice.error(Exit::Invalid, &format!("{error:#}\n\n{advice}"))
    })?;
    let topology = match topology::parse(&source.bytes, &checks()) {
        Ok(parsed) => {
            if !parsed.warnings.is_empty() {
                source.print(&parsed.warnings, voice.output);
            }
            parsed.topology
        }
        Err(findings) => return Err(voice.findings(Exit::Invalid, &source, &findings)),
    };
    Ok((source, topology))
}

/// What commands need that speak to no target.
pub struct Records {
    /// Where runs and holds are kept.
    pub store: Arc<dyn Store>,
    /// The state directory.
    pub state: PathBuf,
}

/// The records of the topology in this file.
///
/// # Errors
/// If the store cannot be opened; a topology that cannot be used is an exit code.
pub fn store(args: &StoreArgs, voice: Voice) -> Result<Result<Records, Exit>> {
    match read_topology(&args.topology, voice) {
        Ok((_, topology)) => {
            let state = state_directory(args.state_dir.as_deref(), &topology)?;
            Ok(Ok(Records { store: open_store(&state, &topology)?, state }))
        }
        Err(exit) => Ok(Err(exit)),
    }
}

fn open_store(directory: &Path, topology: &Topology) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(SqliteStore::open(directory, &topology.name)?))
}

/// How many sockets there may be, with the limit raised as far as the system allows: hundreds of targets are spoken to at once, and
/// shells begin with 1024. A hundred are left for everything else.
fn sockets() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it cannot be raised, the old limit is still there.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(allowed).unwrap_or(usize::MAX).saturating_sub(100)
}

#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
fn state_directory(named: Option<&Path>, topology: &Topology) -> Result<PathBuf> {
    let StoreKind::Embedded { directory } = &topology.store;
    if let Some(directory) = named.map(Path::to_owned).or_else(|| directory.as_ref().map(PathBuf::from)) {
        return Ok(directory);
    }
    let absolute = |name: &str| std::env::var(name).ok().map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let state = state
        .ok_or_else(|| anyhow!("neither XDG_STATE_HOME nor HOME is set: name the state directory with --state-dir"))?;
    Ok(state.join("handover").join(&topology.name))
}

/// Runs a command that talks to live systems.
///
/// # Errors
/// What the command says, or if the runtime cannot be started.
pub fn block_on(command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    // Somebody else may have installed one already; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(command)
}

fn style(output: Output, terminal: bool) -> Style {
    let colour = match output.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => terminal && coloured(),
    };
    let width = if terminal { terminal_width().unwrap_or(WIDTH) } else { WIDTH };
    Style { width: width.min(WIDEST), colour }
}

#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
fn coloured() -> bool {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var("TERM").is_ok_and(|term| term != "dumb")
}

fn terminal_width() -> Option<usize> {
    // Either may lead elsewhere.
    let size = console::Term::stdout().size_checked().or_else(|| console::Term::stderr().size_checked());
    size.map(|(_, columns)| usize::from(columns))
}

/// How standard output is to be drawn.
pub fn stdout_style(output: Output) -> Style {
    style(output, std::io::stdout().is_terminal())
}

/// How messages are drawn: not broken into lines where a program may search them.
pub fn message_style(output: Output) -> Style {
    let style = stderr_style(output);
    if std::io::stderr().is_terminal() { style } else { Style { width: usize::MAX, ..style } }
}

/// How standard error is to be drawn.
pub fn stderr_style(output: Output) -> Style {
    style(output, std::io::stderr().is_terminal())
}

/// Prints to standard output. A reader that has gone away is no error.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints to standard error.
pub fn eprint(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
