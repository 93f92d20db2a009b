//! The fault suite on real servers: `handover` is killed, stopped or robbed of its disk at every kind of record of its journal, servers
//! die, hang, crawl and lie at every step; then somebody goes on, and the result is compared with a run that nobody disturbed. An
//! independent checker asks all members all the time whether they take writes, and every acknowledged write is looked for. Facilities are
//! lost too, and come back.
//!
//! See `docs/torture.md`.

pub mod cases;
mod facts;
mod ill;
mod lost;
mod play;
mod report;
mod shim;
mod stand;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

pub use self::ill::lie;
use self::play::Played;
pub use self::report::Report;
use self::report::Tally;
use self::stand::Stand;

/// Kills handover, and makes servers ill, at every kind of moment of a drain and a restore; then goes on and compares. Loses facilities and
/// brings them back. Needs root.
///
/// Exit status 1 if a run did not come to the end that an undisturbed one has, an acknowledged write was lost, or two members of a
/// database took writes at once.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The topology.
    #[arg(long, default_value = "lab/layouts/torture.yaml", value_name = "PATH")]
    pub topology: PathBuf,
    /// The program `handover`; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    pub handover: Option<PathBuf>,
    /// The topology of the cases in which a facility is lost.
    #[arg(long, default_value = "lab/layouts/lost.yaml", value_name = "PATH")]
    pub lost_topology: PathBuf,
    /// Folder for the report and the output of every command.
    #[arg(long, default_value = "target/torture", value_name = "DIR")]
    pub folder: PathBuf,
    /// Seconds after which no further case is begun.
    #[arg(long, default_value_t = 2400, env = "TORTURE_S", value_name = "SECONDS")]
    pub seconds: u64,
    /// Repeats the order of the cases; without it, another one each time.
    #[arg(long, env = "TORTURE_SEED")]
    pub seed: Option<u64>,
    /// Labs side by side.
    #[arg(long, default_value_t = 2, env = "TORTURE_LABS")]
    pub labs: usize,
    /// Only cases whose names contain this; may be repeated.
    #[arg(long = "case", value_name = "TEXT")]
    pub cases: Vec<String>,
    /// Only so many cases, as different as can be, beside those in which a facility is lost.
    #[arg(long, value_name = "NUMBER")]
    pub sample: Option<usize>,
    /// So many cases in which a facility is lost; they are played first.
    #[arg(long, default_value_t = 20, value_name = "NUMBER")]
    pub lost: usize,
    /// Only tell the names of the cases, in their order.
    #[arg(long)]
    pub list: bool,
    /// What the property tests on simulated targets have reported (`SIMULATED_REPORT`): its number of cases goes into the report.
    #[arg(long, value_name = "PATH")]
    pub simulated: Option<PathBuf>,
}

impl Args {
    /// True if this case is asked for by its name.
    fn names(&self, case: &dyn fmt::Display) -> bool {
        let name = case.to_string();
        self.cases.iter().any(|text| name.contains(text.as_str()))
    }

    /// True if only facilities are to be lost.
    fn loses_only(&self) -> bool {
        let named = !self.cases.is_empty() && self.cases.iter().all(|text| text.starts_with(lost::PREFIX));
        named || self.sample == Some(0)
    }
}

/// A case of either kind.
trait Playable: fmt::Display + Send {
    /// Plays it. What is wrong with `handover` is in the answer.
    fn play(&self, stand: &Stand) -> Result<Played>;

    /// Adds what came out to all that came out.
    fn count(&self, tally: &mut Tally, played: &Played);
}

/// The cases that are left, and what came of the others.
struct Work<C> {
    left: std::vec::IntoIter<C>,
    tally: Tally,
    began: Instant,
    deadline: Instant,
}

/// Runs the suite.
///
/// # Errors
/// If a lab could not be started, or a case did not go as it should.
pub fn run(args: &Args) -> Result<()> {
    let report = play(args)?;
    if !args.list {
        ensure!(report.is_good(), "the torture found {} problem(s)", report.failures.len() + report.not_played.len());
    }
    Ok(())
}

/// Plays the cases that the arguments ask for, and writes `report.json`.
///
/// # Errors
/// If a lab could not be started.
pub fn play(args: &Args) -> Result<Report> {
    let handover = crate::demo::beside(args.handover.as_deref())?;
    let seed =
        args.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ jiff::Timestamp::now().as_microsecond() as u64);
    let began = Instant::now();
    println!("Seed {seed}");
    std::fs::create_dir_all(&args.folder)?;
    let mut tally = Tally::new(seed);
    let lost = lost::chosen(args, seed);
    if args.list {
        lost.iter().for_each(|case| println!("{case}"));
    } else if !lost.is_empty() {
        println!("{} cases in which a facility is lost", lost.len());
        let up = |number| lost::stand(args, &handover, number);
        tally = side_by_side(args, up(0)?, &up, began, lost, tally)?;
    }
    if !args.loses_only() {
        let up = |number| Stand::up(&args.topology, &handover, args.folder.join(format!("lab-{number}")));
        let (first, undisturbed) = up(0)?;
        let topology = &first.topology;
        let mut cases = cases::cases(&undisturbed, &|target| ill::servers(topology, target), seed);
        let known = cases.len();
        tally.know(&undisturbed, known);
        if !args.cases.is_empty() {
            cases.retain(|case| args.names(case));
        }
        if let Some(number) = args.sample {
            cases = cases::sample(&cases, number);
        }
        println!("{known} cases; {} to be played within {} s", cases.len(), args.seconds);
        if args.list {
            cases.iter().for_each(|case| println!("{case}"));
            first.lab.down()?;
        } else {
            tally = side_by_side(args, first, &|number| Ok(up(number)?.0), began, cases, tally)?;
        }
    }
    if args.list {
        return Ok(tally.report());
    }
    let mut report = tally.report();
    report.simulated_cases = simulated(args)?;
    let path = args.folder.join("report.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")?;
    print!("\n{}", tally.text());
    println!("\nReport: {}", path.display());
    Ok(report)
}

/// Plays cases in several labs at once, of which the first is there.
fn side_by_side<C: Playable>(
    args: &Args,
    first: Stand,
    up: &(dyn Fn(usize) -> Result<Stand> + Sync),
    began: Instant,
    cases: Vec<C>,
    tally: Tally,
) -> Result<Tally> {
    let labs = args.labs.clamp(1, cases.len().max(1));
    let deadline = began + Duration::from_secs(args.seconds);
    let work = Mutex::new(Work { left: cases.into_iter(), tally, began, deadline });
    std::thread::scope(|scope| -> Result<()> {
        let work = &work;
        let others: Vec<_> =
            (1..labs).map(|number| scope.spawn(move || up(number).and_then(|stand| worker(stand, work)))).collect();
        worker(first, work)?;
        others.into_iter().try_for_each(|other| other.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })?;
    Ok(work.into_inner().unwrap_or_else(PoisonError::into_inner).tally)
}

/// What the property tests have written.
fn simulated(args: &Args) -> Result<Option<u64>> {
    let Some(file) = &args.simulated else { return Ok(None) };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let cases = report.get("cases").and_then(serde_json::Value::as_u64);
    Ok(Some(cases.with_context(|| format!("{} says no number of cases", file.display()))?))
}

/// Plays cases until there are none or the time is over.
fn worker<C: Playable>(stand: Stand, work: &Mutex<Work<C>>) -> Result<()> {
    let lock = || work.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let next = {
            let mut work = lock();
            if Instant::now() < work.deadline { work.left.next() } else { None }
        };
        let Some(case) = next else { break };
        let played = case.play(&stand);
        let mut work = lock();
        let at = work.began.elapsed().as_secs();
        match played {
            Ok(played) => {
                let verdict = if played.problems.is_empty() { "good" } else { "BAD " };
                println!("{at:5} s  {verdict} {case}  ({:.1} s; {})", played.seconds, played.course.join("; "));
                for problem in &played.problems {
                    println!("              {problem}");
                }
                if !played.problems.is_empty() {
                    keep(&stand, &case, work.tally.report().failures.len())?;
                }
                case.count(&mut work.tally, &played);
            }
            Err(error) => {
                println!("{at:5} s  NOT PLAYED {case}: {error:#}");
                work.tally.not_played(&case, &error);
            }
        }
    }
    stand.lab.down()
}

/// Keeps what the commands of a bad case said, and the journal.
fn keep(stand: &Stand, case: &dyn fmt::Display, number: usize) -> Result<()> {
    let folder = stand.log().with_file_name("..").join(format!("bad-{number}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("case"), format!("{case}\n"))?;
    std::fs::copy(stand.log(), folder.join("handover.log"))?;
    let status = std::process::Command::new("cp").arg("-a").arg(stand.state()).arg(&folder).status()?;
    ensure!(status.success(), "the journal of a bad case could not be kept");
    Ok(())
}

/// The runtime of everything here that is asynchronous.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lab: there is no runtime: {error}");
            std::process::exit(1);
        }
    })
}

/// Waits for something asynchronous.
fn within<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(work)
}
