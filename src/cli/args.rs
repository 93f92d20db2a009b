//! The command line.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::voice::Voice;
use crate::model::Span;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, nothing to do, or healthy     6  stuck: a human must look
  1  error, or lint findings            10  status: drift
  2  differences (--detailed-exitcode)  11  status: degraded
  3  refused: gate, stale plan, policy  12  status: split
  4  stopped midway                     64  usage
  5  locked by another run              65  invalid topology or plan";

/// Plan and apply for moving live traffic and databases between data-centre facilities.
#[derive(Debug, Parser)]
#[command(name = "handover", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check topology files: every finding at once, each with its place
    Lint(Lint),
    /// Show how things are: health, shares, primaries, lag, drift, holds
    Status(Status),
    /// Compare the topology with what is live and save the ordered steps between them
    Plan(Plan),
    /// Print a saved plan again
    Show(Show),
    /// Carry out a saved plan, or go on with a run that died or stopped
    Apply(Apply),
    /// Take back what a run has done, stage by stage, as long as no new primary has taken over
    Rollback(Rollback),
    /// Free the clients that a run holds back if the process that carries it out dies: `apply` starts this
    #[command(hide = true)]
    Guard(Guard),
    /// List runs, newest first; show, follow or prune them
    Runs(Runs),
    /// Write a report of a run for a review: what happened, what clients felt, timeline, every record
    Report(Report),
    /// Give the lock of a run back that has died and cannot do so itself
    Unlock(Unlock),
    /// Let a server start by itself only if nothing newer than what it knows is in charge: for systemd's ExecCondition
    Admit(Admit),
    /// Print the JSON Schema of topology files, for editors and CI
    Schema,
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the manual page, or write the pages of all subcommands
    Man(Man),
}

impl Command {
    /// How its errors are told.
    pub fn voice(&self) -> Voice {
        let plain = Output { color: ColorChoice::Auto };
        let (json, output) = match self {
            Self::Lint(args) => (args.format == Format::Json, args.output),
            Self::Status(args) => (args.format == StatusFormat::Json, args.common.output),
            Self::Plan(args) => (args.format == PlanFormat::Json, args.common.output),
            Self::Show(args) => (args.format == PlanFormat::Json, args.output),
            Self::Apply(args) => (args.format == Format::Json, args.common.output),
            Self::Rollback(args) => (args.format == Format::Json, args.common.output),
            Self::Guard(args) => (false, args.common.output),
            Self::Runs(args) => (args.format == Format::Json, args.store.output),
            Self::Report(args) => (false, args.store.output),
            Self::Unlock(args) => (false, args.store.output),
            Self::Admit(args) => (false, args.output),
            Self::Schema | Self::Completions(_) | Self::Man(_) => (false, plain),
        };
        Voice { json, output }
    }
}

/// How the program prints.
#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    pub color: ColorChoice,
}

/// What most commands need.
#[derive(Debug, Args)]
pub struct Common {
    /// The topology file
    #[arg(long, short, value_name = "FILE", env = "HANDOVER_TOPOLOGY", default_value = "topology.yaml")]
    pub topology: PathBuf,
    /// Where runs, journal, lock and holds are kept
    /// [default: $XDG_STATE_HOME/handover/NAME, NAME being the topology's]
    #[arg(long, value_name = "DIR", env = "HANDOVER_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// How long a target may take to answer a question
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub timeout: Span,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `handover lint`.
#[derive(Debug, Args)]
pub struct Lint {
    /// Topology files
    #[arg(value_name = "FILE", default_value = "topology.yaml")]
    pub files: Vec<PathBuf>,
    /// How findings are told
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `handover status`.
#[derive(Debug, Args)]
pub struct Status {
    /// How it is told
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: StatusFormat,
    /// Write it into this file, whole or not at all, instead of to standard output
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Observe again and again, this long after the last time began, until Ctrl-C; the exit code is the last state's
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "2s", value_parser = interval)]
    pub watch: Option<Span>,
    /// What most commands need.
    #[command(flatten)]
    pub common: Common,
}

/// What is lost, and what an operator says of it.
#[derive(Debug, Default, Args)]
pub struct Loss {
    /// Go on without a facility, or a single target, that is lost: everything at once, whatever the windows say (may be given several
    /// times)
    #[arg(long, value_name = "NAME")]
    pub lost: Vec<String>,
    /// How many bytes of log a database may lose with its lost primary, or with the side of a split that does not survive, or `unknown`;
    /// a plan that would lose more is not applied (may be given several times)
    #[arg(long, value_name = "DB=BYTES")]
    pub accept_loss: Vec<String>,
    /// Your word that what is lost takes no writes, and will take none when it returns, where no `fence` command proves it; the plan
    /// keeps who gave it and why
    #[arg(long, requires_all = ["lost", "reason"])]
    pub attest_fenced: bool,
    /// Which primary of a split database survives; the others are fenced first, and rebuilt. With --lost: who takes over a database
    /// whose replicas have different histories (may be given several times)
    #[arg(long, value_name = "DB=MEMBER")]
    pub survivor: Vec<String>,
}

/// How far a drain goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Depth {
    /// No traffic, no job and no primary is left; everything goes on running
    Traffic,
    /// Also commits wait for nobody there, and the servers there are stopped: the power may go
    Power,
}

/// `handover plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// Take a facility out of service (may be given several times)
    #[arg(long, value_name = "FACILITY")]
    pub drain: Vec<String>,
    /// How far --drain goes: until no traffic is left, or until the power may go, with all servers stopped
    #[arg(long, value_name = "DEPTH", default_value = "traffic", requires = "drain")]
    pub depth: Depth,
    /// Bring a facility back (may be given several times)
    #[arg(long, value_name = "FACILITY")]
    pub restore: Vec<String>,
    /// With --restore: bring the primaries back as well
    #[arg(long, requires = "restore")]
    pub failback: bool,
    /// Move a primary to a facility or member, where it stays; `DB=file` ends that (may be given several times)
    #[arg(long, value_name = "DB=PLACE")]
    pub primary: Vec<String>,
    /// Give a service other shares, such as `orderform=west:20%,east:80%`, which stay; `SERVICE=file` ends that (may be given several
    /// times)
    #[arg(long, value_name = "SERVICE=SHARES")]
    pub share: Vec<String>,
    /// Lower the TTLs of services (all, without a name) to `policy.dns_recovery_target` and wait until resolvers have forgotten the
    /// old ones, so that a later drain is short. They stay low until a restore or --raise-ttl
    #[arg(long, value_name = "SERVICE", num_args = 0..)]
    pub lower_ttl: Option<Vec<String>>,
    /// Give services (all, without a name) the TTLs of the topology again
    #[arg(long, value_name = "SERVICE", num_args = 0..)]
    pub raise_ttl: Option<Vec<String>>,
    /// Publish who is in charge of each database at the name servers, which `handover admit` asks (docs/admit.md). Needed once: later plans
    /// keep it true
    #[arg(long)]
    pub publish_epoch: bool,
    /// What is lost.
    #[command(flatten)]
    pub loss: Loss,
    /// Pass a gate whatever it says: windows, freezes, operator, capacity, switchable, synthetic, soak, published or settle (may be given
    /// several times). The plan and the run's journal keep who passed it and why
    #[arg(long = "override", value_name = "GATE", requires = "reason")]
    pub overrides: Vec<String>,
    /// Why; kept with the holds that these flags leave, and with what they override
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// When somebody should look at the holds again: a date and time with offset, or a time from now such as `2d`
    #[arg(long, value_name = "WHEN")]
    pub review_by: Option<String>,
    /// Where to save the plan [default: plans/ID.yaml]
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Exit with 2 if there are differences
    #[arg(long)]
    pub detailed_exitcode: bool,
    /// How the plan is printed
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: PlanFormat,
    /// Print a line for each stage instead of every step
    #[arg(long)]
    pub brief: bool,
    /// What most commands need.
    #[command(flatten)]
    pub common: Common,
}

/// `handover show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The plan file
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// How it is printed
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: PlanFormat,
    /// Print a line for each stage instead of every step
    #[arg(long)]
    pub brief: bool,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `handover completions`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// `handover man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write the page of each subcommand into this folder
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// How something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs: one JSON object per line (docs/json.md)
    Json,
}

/// What commands need that only read the store.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The topology file
    #[arg(long, short, value_name = "FILE", env = "HANDOVER_TOPOLOGY", default_value = "topology.yaml", global = true)]
    pub topology: PathBuf,
    /// Where runs, journal, lock and holds are kept
    /// [default: $XDG_STATE_HOME/handover/NAME, NAME being the topology's]
    #[arg(long, value_name = "DIR", env = "HANDOVER_STATE_DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `handover runs`.
#[derive(Debug, Args)]
pub struct Runs {
    /// What to do with them instead of listing them.
    #[command(subcommand)]
    pub command: Option<RunsCommand>,
    /// How they are told
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    pub format: Format,
    /// Where they are.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What to do with runs.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Tell the story of a run: its steps, gates, stalls, why it ended and how to go on
    Show(NamedRun),
    /// Print the records of a run as they arrive, until it ends; exits as the run does
    Follow(NamedRun),
    /// Remove old runs; never one that runs, can be gone on with, is stuck or has a hold in force
    Prune(Prune),
}

/// `handover unlock`.
#[derive(Debug, Args)]
pub struct Unlock {
    /// The run whose lock is given back although it cannot be seen from here whether it has ended: make sure that it has
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Where it is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// A run that is named.
#[derive(Debug, Args)]
pub struct NamedRun {
    /// The run: its identity, the beginning of it, or `last`
    #[arg(value_name = "RUN", default_value = "last")]
    pub run: String,
}

/// `handover runs prune`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["older_than", "keep"]))]
pub struct Prune {
    /// Those whose last record is older, such as `90d`
    #[arg(long, value_name = "TIME")]
    pub older_than: Option<Span>,
    /// All but the newest N; with --older-than, only those of them that are older
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// GitHub flavoured, for an issue
    Markdown,
    /// One page with a picture of the timeline; no script, nothing from elsewhere
    Html,
}

/// `handover report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Which run.
    #[command(flatten)]
    pub named: NamedRun,
    /// How it is written [default: html for a FILE that ends in .html, else markdown]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<ReportFormat>,
    /// Write it into this file, whole or not at all, instead of to standard output
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where the run is.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// How the status is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// For people
    Text,
    /// For programs: one JSON object on one line (docs/json.md)
    Json,
    /// For the textfile collector of Prometheus's node_exporter
    Prometheus,
}

/// Time between observations.
fn interval(text: &str) -> Result<Span, String> {
    let every: Span = text.parse().map_err(|error: crate::model::QuantityError| error.to_string())?;
    if every < Span::millis(100) { Err("at least 100ms must lie between observations".to_owned()) } else { Ok(every) }
}

/// How a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people
    Text,
    /// For programs: one JSON object on one line (docs/json.md)
    Json,
    /// For a pull request: GitHub flavoured
    Markdown,
    /// The graph of its steps
    Mermaid,
}

/// `handover apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The plan file
    #[arg(value_name = "PLAN", required_unless_present_any = ["resume", "lost"], conflicts_with_all = ["resume", "lost"])]
    pub plan: Option<PathBuf>,
    /// Go on with a run that died or stopped, to its end: what it left in the middle is first completed or undone, by what its targets
    /// say. The run's identity, the beginning of it, or the newest
    #[arg(long, value_name = "RUN", num_args = 0..=1, default_missing_value = "last")]
    pub resume: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub auto_approve: bool,
    /// Return as soon as the run has begun, which goes on without this terminal; `handover runs follow` watches it
    #[arg(long)]
    pub detach: bool,
    /// The identity of the run, chosen by whoever started this process for it
    #[arg(long, value_name = "RUN", hide = true)]
    pub detached: Option<String>,
    /// Pass a gate whatever it says, beside those that the plan passes (may be given several times). The run's journal keeps who
    /// passed it and why
    #[arg(long = "override", value_name = "GATE", requires = "reason")]
    pub overrides: Vec<String>,
    /// Why gates are passed, or why you attest something
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// What is lost.
    #[command(flatten)]
    pub loss: Loss,
    /// How the run is told
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// What most commands need.
    #[command(flatten)]
    pub common: Common,
}

/// `handover guard`.
#[derive(Debug, Args)]
pub struct Guard {
    /// The run of the process that has started this one
    #[arg(value_name = "RUN")]
    pub run: String,
    /// What most commands need.
    #[command(flatten)]
    pub common: Common,
}

const ADMIT: &str = "\
Exit codes: 0 it may start; 3 it may not, or nobody can confirm that it may; anything else: it may not, because the
question cannot be asked. See docs/admit.md.";

/// `handover admit`.
#[derive(Debug, Args)]
#[command(after_help = ADMIT)]
pub struct Admit {
    /// What is about to start on this machine: a database member, name server, proxy or pooler of the topology, such as
    /// accounts/west-pg1 or west-lb1
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The topology file
    #[arg(long, short, value_name = "FILE", env = "HANDOVER_TOPOLOGY", default_value = "topology.yaml")]
    pub topology: PathBuf,
    /// For how long witnesses are asked, again and again, until they admit it or have all answered
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub timeout: Span,
    /// Admit a primary as long as no witness publishes an epoch: until the first one is published
    #[arg(long)]
    pub allow_unpublished: bool,
    /// How to print
    #[command(flatten)]
    pub output: Output,
}

/// `handover rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Which run.
    #[command(flatten)]
    pub named: NamedRun,
    /// Do not ask
    #[arg(long)]
    pub auto_approve: bool,
    /// How the run is told
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// What most commands need.
    #[command(flatten)]
    pub common: Common,
}
