//! `lab`: starts, breaks and stops the real servers of a topology.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::{Lab, LinkChange, OPERATOR, Options, PowerOrder, Selection, app, demo, load, torture};

/// Runs the real servers of a handover topology inside private network namespaces.
#[derive(Parser)]
#[command(name = "lab", version, max_term_width = 100)]
struct Cli {
    /// Which lab, where several run.
    #[arg(long, global = true, default_value = "lab", env = "LAB_NAME")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the lab and wait until every server is ready.
    Up {
        /// The topology to run.
        #[arg(long, default_value = "topology.yaml")]
        topology: PathBuf,
        /// Shorten TTLs, soaks and the drain deadline; everything else stays.
        #[arg(long)]
        fast: bool,
        /// Round trip between any two places, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 20)]
        delay: u64,
        /// Start servers again when they end, as a host's supervisor would.
        #[arg(long)]
        restart: bool,
        /// Leave the application servers and jobs out.
        #[arg(long)]
        no_applications: bool,
    },
    /// End the lab; nothing of it is left.
    Down,
    /// Show servers and links.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a command inside: where the operator is, or in a facility.
    Exec {
        /// The facility.
        #[arg(long = "in", value_name = "FACILITY", default_value = OPERATOR)]
        place: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Relay an address inside to 127.0.0.1 until interrupted.
    Open {
        /// The address, such as 10.30.0.80:80.
        address: SocketAddrV4,
        /// The port here; without it any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Kill a server, or everything in a facility, at once (SIGKILL).
    Kill(Which),
    /// Start what does not run, as when power returns.
    Start(Which),
    /// Switch the power of a facility or a machine off and on, or isolate a facility; `/srv/power` inside.
    Power(Power),
    /// Let nothing pass between two places; `all` means every other place.
    Cut(Link),
    /// Let everything pass again.
    Uncut(Link),
    /// Set the round trip between two places; with --one-way the time of that direction.
    Delay {
        #[command(flatten)]
        link: Link,
        /// Milliseconds.
        ms: f64,
    },
    /// Lose packets between two places.
    Loss {
        #[command(flatten)]
        link: Link,
        /// How many of a hundred.
        percent: f64,
    },
    /// Keep the files of all servers as they are now, under a name; the servers rest for that time.
    Snapshot {
        /// Its name.
        snapshot: String,
    },
    /// Kill everything, put the files of a snapshot back, and start the servers that ran then.
    Restore {
        /// Its name.
        snapshot: String,
    },
    App(app::Args),
    Load(load::Args),
    Lost(load::LostArgs),
    Demo(demo::Args),
    Soak(demo::soak::Args),
    Torture(torture::Args),
    #[command(hide = true)]
    Liar {
        address: SocketAddrV4,
    },
    #[command(hide = true)]
    Enter {
        directory: PathBuf,
        place: String,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    #[command(hide = true)]
    Keep {
        directory: PathBuf,
        #[arg(long)]
        owned: bool,
    },
    #[command(hide = true)]
    Init {
        directory: PathBuf,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// A server such as west-ns1, or a target such as app/orderform/west-app1.
    target: Option<String>,
    /// Everything in this facility.
    #[arg(long)]
    facility: Option<String>,
}

impl Which {
    fn selection(self) -> Result<Selection> {
        let facility = self.facility.map(Selection::Facility);
        facility.or(self.target.map(Selection::Target)).context("name a target or a facility")
    }
}

#[derive(Args)]
struct Power {
    #[command(subcommand)]
    order: Order,
    /// The lab's directory, for a call from inside it.
    #[arg(long, hide = true)]
    directory: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Order {
    /// Everything there ends at once (SIGKILL), nothing leaves it, and nothing starts there until power returns.
    Off { what: String },
    /// Power returns; the data are as they were left.
    On {
        what: String,
        /// Which servers start by themselves: all, as what they were, or none but ssh.
        #[arg(long, value_enum, default_value = "all")]
        servers: Starts,
    },
    /// Exit status 0 exactly if it is off and nothing runs there.
    Check { what: String },
    /// Let nothing pass between a facility and any other place; what runs there goes on.
    Isolate { facility: String },
    /// Let pass again what the links let through.
    Join { facility: String },
    /// Exit status 0 exactly if it is isolated.
    CheckIsolated { facility: String },
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Starts {
    All,
    None,
}

impl Order {
    fn parts(self) -> (String, PowerOrder) {
        match self {
            Self::Off { what } => (what, PowerOrder::Off),
            Self::On { what, servers } => (what, PowerOrder::On { servers: servers == Starts::All }),
            Self::Check { what } => (what, PowerOrder::Check),
            Self::Isolate { facility } => (facility, PowerOrder::Isolate(true)),
            Self::Join { facility } => (facility, PowerOrder::Isolate(false)),
            Self::CheckIsolated { facility } => (facility, PowerOrder::CheckIsolated),
        }
    }
}

#[derive(Args)]
struct Link {
    /// One place: a facility, or `operator`.
    a: String,
    /// The other one.
    b: String,
    /// Only packets from the first to the second.
    #[arg(long)]
    one_way: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let attach = || Lab::attach(&cli.name);
    let link = |link: Link, change| -> Result<()> {
        println!("{}", attach()?.link(&link.a, &link.b, link.one_way, change)?);
        Ok(())
    };
    match cli.command {
        Command::Up { topology, fast, delay, restart, no_applications } => {
            let options = Options {
                name: Some(cli.name.clone()),
                delay: Duration::from_millis(delay),
                fast,
                restart,
                applications: !no_applications,
                ..Options::new(topology)
            };
            let begin = Instant::now();
            let lab = Lab::up_detached(&options, |_| ())?;
            let status = lab.status()?;
            println!(
                "{} servers are ready after {:.1} s ({} MiB); {} ms between any two places",
                status.servers.len(),
                begin.elapsed().as_secs_f64(),
                status.memory_mib,
                delay
            );
            println!("Inside, the topology is {}: lab exec -- COMMAND …", lab.topology_path().display());
        }
        Command::Down => Lab::end_named(&cli.name)?,
        Command::Status { json } => {
            let status = attach()?.status()?;
            if json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                show(&status);
            }
        }
        Command::Exec { place, command } => {
            return Ok(ExitCode::from(attach()?.exec(&place, &command)?));
        }
        Command::Open { address, port } => {
            let lab = attach()?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            println!("http://{} is {address} inside; Ctrl-C ends", listener.local_addr()?);
            lab.relay(&listener, address)?;
        }
        Command::Kill(which) => {
            println!("{}", attach()?.kill(&which.selection()?)?);
        }
        Command::Start(which) => {
            println!("{}", attach()?.start_servers(&which.selection()?)?);
        }
        Command::Power(power) => {
            let directory = match power.directory {
                Some(directory) => directory,
                None => attach()?.home(),
            };
            let (what, order) = power.order.parts();
            match lab::internal::power(&directory, what, order)? {
                Ok(text) => println!("{text}"),
                Err(text) => {
                    println!("{text}");
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Command::Cut(places) => link(places, LinkChange::Cut(true))?,
        Command::Uncut(places) => link(places, LinkChange::Cut(false))?,
        Command::Delay { link: places, ms } => link(places, LinkChange::DelayMs(ms))?,
        Command::Loss { link: places, percent } => link(places, LinkChange::LossPercent(percent))?,
        Command::Snapshot { snapshot } => println!("{}", attach()?.snapshot(&snapshot)?),
        Command::Restore { snapshot } => println!("{}", attach()?.restore(&snapshot)?),
        Command::App(args) => runtime()?.block_on(app::run(args))?,
        Command::Load(args) => runtime()?.block_on(load::run(args))?,
        Command::Lost(args) => runtime()?.block_on(load::run_lost(args))?,
        Command::Demo(args) => runtime()?.block_on(demo::run(args))?,
        Command::Soak(args) => runtime()?.block_on(demo::soak::run(args))?,
        Command::Torture(args) => torture::run(&args)?,
        Command::Liar { address } => torture::lie(address)?,
        Command::Keep { directory, owned } => lab::internal::keep(directory, owned)?,
        Command::Init { directory } => lab::internal::init(directory)?,
        Command::Enter { directory, place, command } => {
            return Ok(ExitCode::from(lab::internal::enter(directory, &place, &command)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Made only where it is needed: namespaces can be entered only while there is one thread.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn show(status: &lab::Status) {
    for server in &status.servers {
        let pid = server.pid.map_or_else(|| "down".to_owned(), |pid| pid.to_string());
        println!("{:<10} {:<12} {:<10} {pid:>6}  {}", server.place, server.name, server.kind, server.targets.join(" "));
    }
    println!();
    for link in &status.links {
        let state = match (link.cut, link.loss_percent > 0.0) {
            (true, _) => "cut".to_owned(),
            (false, true) => format!("{} ms, loses {}%", link.delay_ms, link.loss_percent),
            (false, false) => format!("{} ms", link.delay_ms),
        };
        println!("{:<10} → {:<10} {state}", link.from, link.to);
    }
    for (what, names) in [("no power", &status.off), ("isolated", &status.isolated)] {
        if !names.is_empty() {
            println!("\n{what}: {}", names.join(", "));
        }
    }
    println!("\nready after {:.1} s, {} MiB", status.ready_after_s, status.memory_mib);
}
