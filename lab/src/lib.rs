//! Runs the real servers of a topology inside private network namespaces: one for each facility and one for the operator and the
//! clients, joined by a router that can delay, lose and cut traffic per direction.
//!
//! ```text
//! lab up ── keeper (host) ── supervisor: process 1 of the lab's PID namespace; owns its mounts and network namespaces
//!                              ├─ router: one TUN device in each network namespace
//!                              ├─ west:     named ×2, haproxy ×2, postgres ×3, pgbouncer, sshd, applications, jobs
//!                              ├─ east:     …
//!                              └─ operator: unbound; `lab exec` runs here
//! ```
//!
//! Addresses are the topology's own, so several labs run side by side and the host sees nothing of them. Everything that a lab
//! writes is in one directory, which its servers see as `/srv`. Killing the supervisor, by whatever means, ends every process of the
//! lab; the kernel then drops its namespaces and mounts, and the keeper removes the directory.

pub mod app;
mod control;
pub mod demo;
mod directory;
mod enter;
mod keeper;
mod layout;
pub mod load;
mod machines;
mod namespace;
mod probe;
mod process;
mod router;
mod servers;
mod supervisor;
mod topology;
pub mod torture;
mod ways;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

pub use control::{LinkChange, LinkStatus, PowerOrder, Selection, ServerStatus, Status};
use control::{Reply, Request};
use directory::Directory;
pub use layout::OPERATOR;
use supervisor::{News, Orders};

/// How a lab shall be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The topology to run.
    pub topology: PathBuf,
    /// Its name; without one it gets a name of its own.
    pub name: Option<String>,
    /// Round trip between any two places.
    pub delay: Duration,
    /// Shorten TTLs, soaks and the drain deadline.
    pub fast: bool,
    /// Start servers again when they end.
    pub restart: bool,
    /// Run application servers and jobs too.
    pub applications: bool,
}

impl Options {
    /// The usual lab of a topology: 20 ms between any two places, nothing shortened.
    pub fn new(topology: impl Into<PathBuf>) -> Self {
        Self {
            topology: topology.into(),
            name: None,
            delay: Duration::from_millis(20),
            fast: false,
            restart: false,
            applications: true,
        }
    }
}

/// A lab that runs. One that [`Lab::up`] started ends with this value, or with the process that holds it; one that
/// [`Lab::attach`] found goes on.
#[derive(Debug)]
pub struct Lab {
    directory: Directory,
    keeper: Option<Child>,
}

impl Lab {
    /// Starts a lab and waits until every server is ready. It ends when the value is dropped or this process ends.
    ///
    /// # Errors
    /// If this is not root, a server is missing or does not become ready; nothing is left behind then.
    pub fn up(options: &Options) -> Result<Self> {
        Self::start(options, true, |_| ())
    }

    /// Starts a lab that goes on after this process; `progress` hears of each server that is ready.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_detached(options: &Options, progress: impl FnMut(&str)) -> Result<Self> {
        let mut lab = Self::start(options, false, progress)?;
        lab.keeper = None;
        Ok(lab)
    }

    /// The lab `name` that runs already.
    ///
    /// # Errors
    /// If it does not run.
    pub fn attach(name: &str) -> Result<Self> {
        root()?;
        let directory = Directory::named(name)?;
        directory.pids()?;
        Ok(Self { directory, keeper: None })
    }

    /// Ends the lab `name`, and removes what a killed lab of that name left.
    ///
    /// # Errors
    /// If there is none, or something is left.
    pub fn end_named(name: &str) -> Result<()> {
        root()?;
        let directory = Directory::named(name)?;
        ensure!(directory.path().exists(), "there is no lab `{name}`");
        Self { directory, keeper: None }.down()
    }

    fn start(options: &Options, owned: bool, mut progress: impl FnMut(&str)) -> Result<Self> {
        root()?;
        let path = &options.topology;
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = if options.fast { topology::fast(&text) } else { text };
        let directory = Directory::named(&options.name.clone().unwrap_or_else(own_name))?;
        directory.create()?;
        let started = Self::start_in(&directory, &text, options, owned, &mut progress);
        if started.is_err() {
            directory.wait_gone(Duration::from_secs(30))?;
        }
        started.map(|keeper| Self { directory, keeper: Some(keeper) })
    }

    fn start_in(
        directory: &Directory,
        text: &str,
        options: &Options,
        owned: bool,
        progress: &mut impl FnMut(&str),
    ) -> Result<Child> {
        std::fs::write(directory.srv().join("topology.yaml"), text)?;
        let orders = Orders {
            delay_ms: options.delay.as_secs_f64() * 1000.0,
            fast: options.fast,
            restart: options.restart,
            applications: options.applications,
        };
        std::fs::write(directory.orders(), serde_json::to_vec(&orders)?)?;
        let mut keeper = Command::new(program()?);
        keeper.arg("keep").arg(directory.path()).args(owned.then_some("--owned"));
        keeper.stdin(if owned { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped());
        keeper.stderr(std::fs::File::create(directory.log())?);
        let mut keeper = keeper.spawn().context("cannot start the lab's keeper")?;
        let news = keeper.stdout.take().context("no pipe to the keeper")?;
        for line in BufReader::new(news).lines() {
            match serde_json::from_str(&line?)? {
                News::Server(name) => progress(&name),
                News::Ready(_) => return Ok(keeper),
                News::Failed(why) => {
                    keeper.wait()?;
                    bail!("the lab could not be started: {why}");
                }
            }
        }
        let log = std::fs::read_to_string(directory.log()).unwrap_or_default();
        keeper.wait()?;
        bail!("the lab's supervisor ended unexpectedly: {}", log.trim_end());
    }

    /// The topology as programs inside the lab find it.
    pub fn topology_path(&self) -> &Path {
        Path::new("/srv/topology.yaml")
    }

    /// The lab's whole directory.
    pub fn home(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// What programs inside the lab see as `/srv`, as the host sees it.
    pub fn directory(&self) -> PathBuf {
        self.directory.srv()
    }

    /// A command that runs in the operator's place: `/srv`, the resolver, ssh and all addresses are those of the lab. Signals reach
    /// the program; it is killed when the spawned process is. Its working directory is the command's.
    ///
    /// # Errors
    /// If the lab does not run any more.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_in(OPERATOR, program)
    }

    /// The same in another place.
    ///
    /// # Errors
    /// If there is no such place, or the lab does not run any more.
    pub fn command_in(&self, place: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        self.directory.namespace(place)?;
        let mut command = Command::new(self::program()?);
        command.arg("enter").arg(self.directory.path()).args([place, "--"]).arg(program);
        Ok(command)
    }

    /// Runs a program in a place, in the foreground; returns its exit status, 128 + N after signal N. The process must be
    /// single-threaded and is of no other use afterwards.
    ///
    /// # Errors
    /// If there is no such place, or it cannot be entered.
    pub fn exec(&self, place: &str, argv: &[OsString]) -> Result<u8> {
        enter::run(&self.directory, place, argv)
    }

    /// Connects to an address inside, from the operator's place.
    ///
    /// # Errors
    /// If nothing accepts the connection within `patience`.
    pub fn connect(&self, address: SocketAddrV4, patience: Duration) -> Result<TcpStream> {
        let network = std::fs::File::open(self.directory.namespace(OPERATOR)?)?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<TcpStream> {
                setns(&network, CloneFlags::CLONE_NEWNET)?;
                Ok(TcpStream::connect_timeout(&address.into(), patience)?)
            });
            thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
        })
        .with_context(|| format!("cannot connect to {address} inside the lab"))
    }

    /// Relays connections that `listener` accepts to an address inside, until the process ends.
    ///
    /// # Errors
    /// If no more connections can be accepted.
    pub fn relay(&self, listener: &TcpListener, address: SocketAddrV4) -> Result<()> {
        for client in listener.incoming() {
            let client = client?;
            match self.connect(address, Duration::from_secs(5)) {
                Ok(server) => join(client, server)?,
                Err(error) => eprintln!("{error:#}"),
            }
        }
        Ok(())
    }

    /// Kills a server (by its name, or a target's identity as in plans) or everything in a facility, with SIGKILL.
    ///
    /// # Errors
    /// If there is no such thing.
    pub fn kill(&self, what: &Selection) -> Result<String> {
        self.done(&Request::Kill(what.clone()))
    }

    /// Starts what does not run.
    ///
    /// # Errors
    /// If there is no such thing, or it cannot be started.
    pub fn start_servers(&self, what: &Selection) -> Result<String> {
        self.done(&Request::Start(what.clone()))
    }

    /// Cuts the power of a facility or a machine: SIGKILL to everything there, whoever started it, after nothing leaves it any more. Nothing
    /// starts there until power returns.
    ///
    /// # Errors
    /// If there is no such thing, or a process does not end.
    pub fn power_off(&self, what: &str) -> Result<String> {
        self.order(what, PowerOrder::Off)
    }

    /// Gives power back, with the data as they were left: every server starts by itself, as what it was; or, without `servers`, only
    /// the machines (ssh).
    ///
    /// # Errors
    /// If there is no such thing, or a server cannot be started.
    pub fn power_on(&self, what: &str, servers: bool) -> Result<String> {
        self.order(what, PowerOrder::On { servers })
    }

    /// Lets nothing pass between a facility and any other place, whatever its links say; or again what they let through.
    ///
    /// # Errors
    /// If there is no such facility.
    pub fn isolate(&self, facility: &str, isolated: bool) -> Result<String> {
        self.order(facility, PowerOrder::Isolate(isolated))
    }

    fn order(&self, what: &str, order: PowerOrder) -> Result<String> {
        self.done(&Request::Power { what: what.to_owned(), order })
    }

    /// Changes the link between two places (`all`: every other one), both directions or only the one from `a` to `b`.
    ///
    /// # Errors
    /// If there is no such place.
    pub fn link(&self, a: &str, b: &str, one_way: bool, change: LinkChange) -> Result<String> {
        self.done(&Request::Link { a: a.to_owned(), b: b.to_owned(), one_way, change })
    }

    /// Lets nothing pass between two places.
    ///
    /// # Errors
    /// As [`Lab::link`].
    pub fn cut(&self, a: &str, b: &str) -> Result<String> {
        self.link(a, b, false, LinkChange::Cut(true))
    }

    /// Lets nothing pass from one place to another; the other direction stays as it is.
    ///
    /// # Errors
    /// As [`Lab::link`].
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<String> {
        self.link(from, to, true, LinkChange::Cut(true))
    }

    /// Lets everything pass again, in both directions.
    ///
    /// # Errors
    /// As [`Lab::link`].
    pub fn uncut(&self, a: &str, b: &str) -> Result<String> {
        self.link(a, b, false, LinkChange::Cut(false))
    }

    /// Sets the round trip between two places.
    ///
    /// # Errors
    /// As [`Lab::link`].
    pub fn delay(&self, a: &str, b: &str, round_trip: Duration) -> Result<String> {
        self.link(a, b, false, LinkChange::DelayMs(round_trip.as_secs_f64() * 1000.0))
    }

    /// Keeps the files of all servers as they are now, under a name. The servers are stopped for that time and started again.
    ///
    /// # Errors
    /// If a server does not stop or start, or the files cannot be copied.
    pub fn snapshot(&self, name: &str) -> Result<String> {
        self.done(&Request::Snapshot { name: name.to_owned() })
    }

    /// Kills everything that runs in the lab, commands of the operator's too, puts the files of a snapshot back and starts the servers
    /// that ran then; returns once they are as ready as they were.
    ///
    /// # Errors
    /// If there is no such snapshot, or a server does not start.
    pub fn restore(&self, name: &str) -> Result<String> {
        self.done(&Request::Restore { name: name.to_owned() })
    }

    /// What runs.
    ///
    /// # Errors
    /// If the lab does not answer.
    pub fn status(&self) -> Result<Status> {
        match control::ask(self.directory.path(), &Request::Status)? {
            Reply::Status(status) => Ok(status),
            _ => bail!("the lab did not understand the question"),
        }
    }

    fn done(&self, request: &Request) -> Result<String> {
        match control::ask(self.directory.path(), request)? {
            Reply::Done(what) => Ok(what),
            _ => bail!("the lab did not understand the request"),
        }
    }

    /// Ends the lab and waits until no process and no file of it is left.
    ///
    /// # Errors
    /// If something is left.
    pub fn down(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if let Ok(pids) = self.directory.pids() {
            process::kill(pids.init)?;
        }
        if let Some(mut keeper) = self.keeper.take() {
            keeper.wait()?;
        }
        self.directory.wait_gone(Duration::from_secs(30))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keeper.is_some()
            && let Err(error) = self.end()
        {
            eprintln!("the lab is not gone: {error:#}");
        }
    }
}

/// Copies both ways between two connections, on threads of their own.
fn join(client: TcpStream, server: TcpStream) -> Result<()> {
    let pairs = [(client.try_clone()?, server.try_clone()?), (server, client)];
    for (mut from, mut to) in pairs {
        std::thread::spawn(move || {
            // Either end may close at any time.
            let _ = std::io::copy(&mut from.by_ref(), &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
    Ok(())
}

fn root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab needs root: it makes network namespaces and mounts of its own (nothing of the host is changed); try sudo"
    );
    Ok(())
}

/// A name that no other lab of this machine has.
fn own_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("lab-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The `lab` program: this one, or the one beside this test or example; `LAB_PROGRAM` overrides it.
fn program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("LAB_PROGRAM") {
        return Ok(program.into());
    }
    let own = std::env::current_exe()?;
    if own.file_name().is_some_and(|name| name == "lab") {
        return Ok(own);
    }
    let beside = own.ancestors().skip(1).take(3).map(|directory| directory.join("lab"));
    beside.into_iter().find(|program| program.is_file()).context("the program `lab` is not built: cargo build -p lab")
}

/// What the program `lab` runs for itself.
#[doc(hidden)]
pub mod internal {
    use super::*;

    /// `/srv/power`: an order to the supervisor of the lab in `directory`, from inside; none for a question that is denied.
    pub fn power(directory: &Path, what: String, order: PowerOrder) -> Result<Result<String, String>> {
        match control::ask(directory, &Request::Power { what, order })? {
            Reply::Done(text) | Reply::Checked { holds: true, text } => Ok(Ok(text)),
            Reply::Checked { holds: false, text } => Ok(Err(text)),
            _ => bail!("the lab did not understand the order"),
        }
    }

    /// `lab enter`: see the module `enter`.
    pub fn enter(directory: PathBuf, place: &str, argv: &[OsString]) -> Result<u8> {
        enter::run(&Directory::at(directory), place, argv)
    }

    /// `lab keep`: see the module `keeper`.
    pub fn keep(directory: PathBuf, owned: bool) -> Result<()> {
        keeper::run(&Directory::at(directory), owned)
    }

    /// `lab init`: see the module `supervisor`.
    pub fn init(directory: PathBuf) -> Result<()> {
        supervisor::run(&Directory::at(directory))
    }
}
