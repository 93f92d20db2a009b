//! The demo: drain a facility and bring it back, under load, on real servers; then say what clients saw.
//!
//! Everything that speaks to the lab runs inside it, as programs of their own: `handover` and the clients, in the operator's place.

pub(crate) mod clients;
mod run;
pub mod soak;
mod view;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use handover::topology::Topology;
use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;

pub(crate) use self::run::beside;
pub use self::run::run;

use self::clients::{Checked, Clients, check};
use crate::app::Endpoint;
use crate::load::{DatabaseReport, Report};
use crate::servers::{APP, APP_PASSWORD};

/// How long the first requests and writes may take to arrive.
const FIRST_REQUESTS: Duration = Duration::from_secs(30);

/// How long one `handover` command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(600);

/// For how long clients are watched to say who serves them now.
const WATCHED: f64 = 2.0;

/// Drains a facility of the lab and brings it back, under load, and says what clients saw. Needs root.
///
/// Exit status 1 if a request or a write failed, or an acknowledged write is lost.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The topology.
    #[arg(long, default_value = "topology.yaml", value_name = "PATH")]
    pub topology: PathBuf,
    /// The facility to drain.
    #[arg(long, default_value = "west")]
    pub facility: String,
    /// The program `handover`; by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    pub handover: Option<PathBuf>,
    /// Folder for the plans, the report and the lists of acknowledged writes. What an earlier demo left there is removed.
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    pub folder: PathBuf,
}

/// Where the demo is played: a running lab.
pub trait Stage: Send + Sync {
    /// The topology that the lab runs.
    fn topology_path(&self) -> &Path;
    /// A command that will run in the operator's place.
    ///
    /// # Errors
    /// If the lab does not run any more.
    fn command(&self, program: &Path) -> Result<Command>;
}

/// What the demo needs to know.
#[derive(Clone, Debug)]
pub struct Script {
    /// The program `handover`.
    pub handover: PathBuf,
    /// This program.
    pub lab: PathBuf,
    /// The facility to drain.
    pub facility: String,
    /// Folder for everything that is written.
    pub folder: PathBuf,
    /// URL of each service.
    pub services: BTreeMap<String, String>,
    /// URL of a service that writes to it, for each database.
    pub writers: BTreeMap<String, String>,
    /// Every member of every database.
    pub members: Vec<Endpoint>,
    /// Role that may read the tables.
    pub user: String,
    /// File with its password, where the clients live.
    pub password_file: PathBuf,
    /// How long clients wait for an answer.
    pub patience: Duration,
}

impl Script {
    /// Before the topology is known: nobody plays yet.
    ///
    /// # Errors
    /// If this program cannot be found.
    pub fn beginning(handover: PathBuf, facility: String, folder: PathBuf) -> Result<Self> {
        Ok(Self {
            handover,
            lab: std::env::current_exe().context("cannot find this program")?,
            facility,
            folder,
            services: BTreeMap::new(),
            writers: BTreeMap::new(),
            members: Vec::new(),
            user: APP.to_owned(),
            password_file: APP_PASSWORD.into(),
            patience: Duration::from_secs(10),
        })
    }

    /// Services, writers and members as the topology says; each database is written to by a service that has few others.
    ///
    /// # Errors
    /// If the facility is unknown, a service has no hostname, or a database is written to by no service.
    pub fn cast(mut self, topology: &Topology) -> Result<Self> {
        ensure!(
            topology.facilities.keys().any(|name| name.as_str() == self.facility),
            "there is no facility `{}`",
            self.facility
        );
        for (name, service) in &topology.services {
            let hostname = service.hostnames.keys().next().with_context(|| format!("{name} has no hostname"))?;
            self.services.insert(name.to_string(), format!("http://{hostname}/"));
        }
        for (name, database) in &topology.databases {
            let others = |url: &str| self.writers.values().filter(|writer| *writer == url).count();
            let candidates = topology.services.iter().filter(|(_, service)| service.writes_to.contains(name));
            let urls = candidates.filter_map(|(service, _)| self.services.get(service.as_str()));
            let url = urls.min_by_key(|url| others(url)).with_context(|| format!("no service writes to {name}"))?;
            self.writers.insert(name.to_string(), url.clone());
            for member in database.members.values() {
                let text = format!("{name}={}/{name}", member.target.address);
                self.members.push(text.parse().map_err(anyhow::Error::msg)?);
            }
        }
        Ok(self)
    }

    pub(crate) fn acknowledged(&self) -> PathBuf {
        self.folder.join("acknowledged")
    }
}

/// What came out of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What clients saw; `lost` is filled in.
    pub report: Report,
    /// Seconds that applying the drain took.
    pub drain_s: Option<f64>,
    /// Seconds that applying the restore took.
    pub restore_s: Option<f64>,
    /// Everything that is not as it should be.
    pub problems: Vec<String>,
}

/// `report.json`.
#[derive(Serialize)]
struct Summary<'a> {
    http: HttpSummary,
    databases: BTreeMap<&'a str, DatabaseSummary>,
    drain_s: Option<f64>,
    restore_s: Option<f64>,
}

#[derive(Serialize)]
struct HttpSummary {
    requests: u64,
    failed: u64,
}

#[derive(Serialize)]
struct DatabaseSummary {
    writes: u64,
    failed: u64,
    /// Null if it could not be checked.
    lost: Option<u64>,
    longest_stall_ms: u64,
}

impl Outcome {
    fn summary(&self) -> Summary<'_> {
        let database = |report: &DatabaseReport| {
            let DatabaseReport { writes, failed, lost, longest_stall_ms, .. } = *report;
            DatabaseSummary { writes, failed, lost, longest_stall_ms }
        };
        let databases = &self.report.databases;
        Summary {
            http: HttpSummary { requests: self.report.http.requests, failed: self.report.http.failed },
            databases: databases.iter().map(|(name, report)| (name.as_str(), database(report))).collect(),
            drain_s: self.drain_s,
            restore_s: self.restore_s,
        }
    }
}

/// Plays the story on a running lab, says what clients saw, and writes `report.json`. Dropped, it ends all that it started.
///
/// # Errors
/// If the clients could not be run at all. What else went wrong is in [`Outcome::problems`].
pub async fn perform(stage: &dyn Stage, script: &Script) -> Result<Outcome> {
    clear(&script.folder).await?;
    let mut clients = Clients::start(stage, script)?;
    let mut play = Play::new(stage, script);
    if let Err(error) = play.story(&mut clients).await {
        println!("\n{error:#}");
        play.problems.push(format!("{error:#}"));
    }
    play.judge(clients).await
}

/// Removes what an earlier demo left.
async fn clear(folder: &Path) -> Result<()> {
    let context = || format!("cannot prepare {}", folder.display());
    for name in ["acknowledged", "state"] {
        match tokio::fs::remove_dir_all(folder.join(name)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(context),
            _ => {}
        }
    }
    tokio::fs::create_dir_all(folder).await.with_context(context)?;
    let mut left = tokio::fs::read_dir(folder).await.with_context(context)?;
    while let Some(entry) = left.next_entry().await.with_context(context)? {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let plan = ["drain", "restore"].iter().any(|kind| name.starts_with(kind)) && name.ends_with(".yaml");
        if plan || name == "report.json" {
            tokio::fs::remove_file(entry.path()).await.with_context(context)?;
        }
    }
    Ok(())
}

/// One performance.
struct Play<'a> {
    stage: &'a dyn Stage,
    script: &'a Script,
    drain_s: Option<f64>,
    restore_s: Option<f64>,
    problems: Vec<String>,
    /// Where the commands' output goes, if not to the terminal.
    log: Option<std::fs::File>,
}

/// True once every client has been served a while.
fn everybody(report: &Report) -> bool {
    let reads = report.services.values().all(|service| service.requests - service.failed >= 50);
    reads && report.databases.values().all(|database| database.writes >= 20)
}

impl<'a> Play<'a> {
    fn new(stage: &'a dyn Stage, script: &'a Script) -> Self {
        Self { stage, script, drain_s: None, restore_s: None, problems: Vec::new(), log: None }
    }

    async fn story(&mut self, clients: &mut Clients) -> Result<()> {
        let facility = &self.script.facility;
        let (drain, restore) = (self.plan_file("drain.yaml"), self.plan_file("restore.yaml"));

        scene(&format!(
            "Clients: readers on {}; writers on {}",
            names(&self.script.services),
            names(&self.script.writers)
        ));
        let first = clients.until("every client is served", FIRST_REQUESTS, everybody);
        println!("Clients so far: {}", view::so_far(&first.await?));

        scene("What there is");
        self.status().await?;

        scene(&format!("Drain {facility}: the plan"));
        self.handover(&["plan", "--drain", facility, "--out", &drain]).await?;
        scene(&format!("Drain {facility}: done for real, under load"));
        self.drain_s = Some(self.apply(&drain, clients).await?);

        scene(&format!("What there is now, with {facility} drained"));
        self.status().await?;

        scene(&format!("Bring {facility} back, and its databases with it: the plan"));
        self.handover(&["plan", "--restore", facility, "--failback", "--brief", "--out", &restore]).await?;
        scene(&format!("Bring {facility} back: done for real, under load"));
        self.restore_s = Some(self.apply(&restore, clients).await?);

        scene("What there is in the end");
        self.status().await
    }

    fn plan_file(&self, name: &str) -> String {
        self.script.folder.join(name).to_string_lossy().into_owned()
    }

    /// Applies a plan; returns the seconds that it took.
    async fn apply(&self, plan: &str, clients: &mut Clients) -> Result<f64> {
        let before = clients.latest()?;
        let started = Instant::now();
        self.handover(&["apply", plan, "--auto-approve"]).await?;
        let took = started.elapsed().as_secs_f64();
        let after = clients.latest()?;
        println!("\nClients meanwhile ({took:.1} s): {}", view::meanwhile(&before, &after));
        let later = after.seconds + WATCHED;
        let watched = clients.until("clients go on", FIRST_REQUESTS, |report| report.seconds >= later);
        let watched = watched.await?;
        println!("Clients now       ({WATCHED:.1} s): {}", view::meanwhile(&after, &watched));
        Ok(took)
    }

    /// Shows the matrix. A status that is not all well is for the reader to judge: `apply` has its own gates.
    async fn status(&self) -> Result<()> {
        const DRIFT_DEGRADED_SPLIT: [i32; 3] = [10, 11, 12];
        match self.command(&["status"]).await?.code() {
            Some(0) => Ok(()),
            Some(code) if DRIFT_DEGRADED_SPLIT.contains(&code) => {
                println!("(exit status {code})");
                Ok(())
            }
            _ => bail!("`handover status` failed"),
        }
    }

    /// Runs a `handover` command that must succeed.
    async fn handover(&self, arguments: &[&str]) -> Result<()> {
        let status = self.command(arguments).await?;
        ensure!(status.success(), "`handover {}` ended with {status}", arguments.join(" "));
        Ok(())
    }

    async fn command(&self, arguments: &[&str]) -> Result<ExitStatus> {
        let mut command = self.stage.command(&self.script.handover)?;
        match &self.log {
            None => println!("$ handover {}", arguments.join(" ")),
            Some(log) => {
                writeln!(&*log, "\n$ handover {}", arguments.join(" "))?;
                command.stdout(log.try_clone()?).stderr(log.try_clone()?);
            }
        }
        command.args(arguments).arg("--topology").arg(self.stage.topology_path());
        command.arg("--state-dir").arg(self.script.folder.join("state"));
        let mut child = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.script.handover.display()))?;
        let ended = timeout(COMMAND_DEADLINE, child.wait()).await;
        let late = || format!("`handover {}` did not end within {} s", arguments.join(" "), COMMAND_DEADLINE.as_secs());
        Ok(ended.with_context(late)??)
    }

    /// Stops the clients, looks for every acknowledged write, and says what clients saw.
    async fn judge(mut self, clients: Clients) -> Result<Outcome> {
        scene("What clients saw");
        let mut report = clients.stop().await?;
        let mut checked = check(self.stage, self.script).await.unwrap_or_else(|error| {
            self.problems.push(format!("acknowledged writes could not be checked: {error:#}"));
            BTreeMap::new()
        });
        let mut primaries = BTreeMap::new();
        for (name, database) in &mut report.databases {
            let Checked { primary, lost, error, .. } = checked.remove(name).unwrap_or_default();
            database.lost = lost;
            primaries.extend(primary.map(|primary| (name.clone(), primary)));
            match (lost, error) {
                (Some(0), None) => {}
                (Some(lost), None) => self.problems.push(format!("{name}: acknowledged writes lost: {lost}")),
                (_, Some(error)) => self.problems.push(format!("{name}: {error}")),
                (None, None) => self.problems.push(format!("{name}: its writes were not checked")),
            }
            if database.failed > 0 {
                self.problems.push(format!("{name}: writes failed: {}", database.failed));
            }
        }
        if report.http.failed > 0 {
            self.problems.push(format!("requests failed: {}", report.http.failed));
        }
        let outcome = Outcome { report, drain_s: self.drain_s, restore_s: self.restore_s, problems: self.problems };
        let path = self.script.folder.join("report.json");
        let text = serde_json::to_string_pretty(&outcome.summary())? + "\n";
        tokio::fs::write(&path, text).await.with_context(|| format!("cannot write {}", path.display()))?;
        print!("{}", view::table(&outcome.report, &primaries));
        print!("{}", view::errors(&outcome.report));
        println!("\n{}\nReport: {}", view::verdict(&outcome), path.display());
        Ok(outcome)
    }
}

fn scene(title: &str) {
    println!("\n══ {title} ══");
}

fn names(map: &BTreeMap<String, String>) -> String {
    map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_example_has_a_part_for_everybody() {
        let topology = crate::topology::read(Path::new("../topology.yaml")).unwrap();
        let script = |facility: &str| Script {
            handover: PathBuf::new(),
            lab: PathBuf::new(),
            facility: facility.to_owned(),
            folder: PathBuf::new(),
            services: BTreeMap::new(),
            writers: BTreeMap::new(),
            members: Vec::new(),
            user: String::new(),
            password_file: PathBuf::new(),
            patience: Duration::ZERO,
        };
        let cast = script("west").cast(&topology).unwrap();
        assert_eq!(cast.services["orderform"], "http://pay.clickbank.example/");
        let writers: Vec<_> = cast.writers.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();
        let expected = [
            ("accounts", "http://hop.clickbank.example/"),
            ("prices", "http://www.clickbank.example/"),
            ("products", "http://www.clickbank.example/"),
        ];
        assert_eq!(writers, expected);
        assert_eq!(cast.members.len(), 6);
        assert!(cast.members.iter().any(|member| member.to_string() == "prices=10.20.0.100:5434/prices"));
        assert_eq!(script("wets").cast(&topology).unwrap_err().to_string(), "there is no facility `wets`");
    }
}
