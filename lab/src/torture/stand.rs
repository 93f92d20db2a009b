//! A lab with snapshots, from which every case begins; and the runs that nobody disturbed, with which the others are compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use handover::event::Event;
use handover::journal::{Entry, RunSummary, Store};
use handover::plan::Plan;
use handover::store::SqliteStore;
use handover::topology::Topology;

use super::cases::{Story, Undisturbed};
use super::facts::{self, Facts};
use super::shim::Shim;
use crate::demo::Script;
use crate::{Lab, OPERATOR, Options};

/// The facility that is drained and brought back.
const FACILITY: &str = "west";

/// How long one command may take, whatever is ill.
const COMMAND_DEADLINE: Duration = Duration::from_secs(180);

/// How long a plan may be refused after all servers were started.
const READY: Duration = Duration::from_secs(30);

/// How long a target may take to answer `handover` a question: two cores are shared by two labs.
const TIMEOUT: &str = "5s";

/// How a `handover` command ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its exit status, 128 + N after signal N; none if it was still there at the deadline.
    pub code: Option<i32>,
    /// What it told.
    pub events: Vec<Event>,
    /// What else it printed, line by line: answers in JSON such as refusals.
    pub lines: Vec<String>,
}

/// A lab, and everything that a case needs.
pub struct Stand {
    /// The lab.
    pub lab: Lab,
    /// What it runs.
    pub topology: Topology,
    /// The shim.
    pub shim: Shim,
    /// The clients' parts.
    pub script: Script,
    folder: PathBuf,
    handover: PathBuf,
    /// Where `handover` runs.
    place: &'static str,
    /// How things are where a snapshot was made, by its name.
    before: BTreeMap<&'static str, Facts>,
    /// How they are after the story that begins there, if nobody disturbs it.
    after: BTreeMap<&'static str, Facts>,
}

impl Stand {
    /// Starts a lab, plays both stories undisturbed, and makes a snapshot before each.
    ///
    /// # Errors
    /// If the lab does not start, or an undisturbed run fails.
    pub fn up(topology: &Path, handover: &Path, folder: PathBuf) -> Result<(Self, Vec<Undisturbed>)> {
        let mut stand = Self::begun(topology, handover, folder, OPERATOR)?;
        let mut undisturbed = Vec::new();
        for story in Story::ALL {
            stand.keep(story.word())?;
            undisturbed.push(stand.undisturbed(story)?);
            let after = facts::read(&stand.lab, &stand.topology, &stand.state())?;
            stand.after.insert(story.word(), after);
        }
        Ok((stand, undisturbed))
    }

    /// Starts a lab that is as its topology says; `handover` runs in `place`.
    ///
    /// # Errors
    /// If the lab does not start, or does not come to what the topology says.
    pub fn begun(topology: &Path, handover: &Path, folder: PathBuf, place: &'static str) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        let options = Options { fast: true, delay: Duration::from_millis(4), ..Options::new(topology) };
        let lab = Lab::up(&options)?;
        let topology = crate::topology::read(&lab.directory().join("topology.yaml"))?;
        let script = Script::beginning(handover.to_owned(), FACILITY.to_owned(), folder.clone())?;
        let script = Script { lab: crate::program()?, ..script }.cast(&topology)?;
        let shim = Shim::build(&folder)?;
        let (handover, before, after) = (handover.to_owned(), BTreeMap::new(), BTreeMap::new());
        let stand = Self { lab, topology, shim, script, folder, handover, place, before, after };
        remove(&stand.state())?;
        stand.begin()?;
        Ok(stand)
    }

    /// Makes a snapshot of everything, from which cases begin.
    ///
    /// # Errors
    /// If anything changes by it.
    pub fn keep(&mut self, name: &'static str) -> Result<()> {
        let left = facts::read(&self.lab, &self.topology, &self.state())?;
        self.lab.snapshot(name)?;
        copy(&self.state(), &self.state_before(name))?;
        let changed = self.differences(&left)?;
        ensure!(changed.is_empty(), "all servers were restarted, and that changed: {changed:#?}");
        self.before.insert(name, left);
        Ok(())
    }

    /// Makes a new lab as the topology says: proxies save their weights. From here on a bare plan is empty.
    fn begin(&self) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            match self.converge()? {
                Some(0) => return remove(&self.state()),
                code if Instant::now() >= deadline => {
                    bail!("a new lab does not come to what the topology says: {code:?}")
                }
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Makes a bare plan and applies it; returns the exit status of what did not succeed, or 0.
    ///
    /// # Errors
    /// If a command cannot be started.
    pub fn converge(&self) -> Result<Option<i32>> {
        let file = self.folder.join("again.yaml");
        remove(&file)?;
        let mut command = self.handover(&["plan"])?;
        command.arg("--out").arg(&file);
        match self.run(command)?.code {
            Some(0) if file.exists() => Ok(self.run(self.apply(&file)?)?.code),
            code => Ok(code),
        }
    }

    fn undisturbed(&self, story: Story) -> Result<Undisturbed> {
        let plan = self.plan(story)?;
        let answer = self.end(self.apply(&plan)?, |_| Ok(()))?;
        ensure!(answer.code == Some(0), "an undisturbed {} ended with {:?}", story.word(), answer.code);
        let (_, records) = self.journal()?.context("an undisturbed run without a journal")?;
        Ok(Undisturbed { story, plan: Plan::from_yaml(&fs::read_to_string(plan)?)?, records, events: answer.events })
    }

    /// Puts everything back as it was when a snapshot was made, and waits until it is so.
    ///
    /// # Errors
    /// If that does not succeed.
    pub fn set(&self, name: &str) -> Result<()> {
        self.lab.restore(name)?;
        copy(&self.state_before(name), &self.state())?;
        for file in ["acknowledged", "plan.yaml", "again.yaml", "mark"] {
            remove(&self.folder.join(file))?;
        }
        let wrong = facts::settle(&self.lab, &self.topology, &self.state(), self.before(name)?)?;
        ensure!(wrong.is_empty(), "the snapshot did not bring everything back: {wrong:#?}");
        Ok(())
    }

    /// How everything was when a snapshot was made.
    ///
    /// # Errors
    /// If there is no such snapshot.
    pub fn before(&self, name: &str) -> Result<&Facts> {
        self.before.get(name).context("no such snapshot")
    }

    /// How everything is after a story that nobody disturbs.
    ///
    /// # Errors
    /// If it was never played.
    pub fn after(&self, story: Story) -> Result<&Facts> {
        self.after.get(story.word()).context("no such story")
    }

    /// What differs from the facts that are expected, once everything has settled.
    ///
    /// # Errors
    /// If the lab does not run.
    pub fn differences(&self, expected: &Facts) -> Result<Vec<String>> {
        facts::settle(&self.lab, &self.topology, &self.state(), expected)
    }

    /// What differs from when a snapshot was made, once everything has settled, whatever timelines the databases are on.
    ///
    /// # Errors
    /// If the lab does not run, or there is no such snapshot.
    pub fn differences_in_any_history(&self, name: &str) -> Result<Vec<String>> {
        facts::settle_in_any_history(&self.lab, &self.topology, &self.state(), self.before(name)?)
    }

    /// Where `handover` keeps its journal.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn state_before(&self, name: &str) -> PathBuf {
        self.folder.join(format!("state-before-{name}"))
    }

    /// A file of this stand.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file that the shim makes.
    pub fn mark(&self) -> PathBuf {
        self.folder.join("mark")
    }

    /// What every command has said.
    pub fn log(&self) -> PathBuf {
        self.folder.join("handover.log")
    }

    /// A `handover` command where it runs.
    ///
    /// # Errors
    /// If the lab does not run any more.
    pub fn handover(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.lab.command_in(self.place, &self.handover)?;
        command.args(arguments).stdin(Stdio::null()).current_dir(&self.folder);
        if arguments.first().is_some_and(|first| ["plan", "apply", "rollback"].contains(first)) {
            command.args(["--timeout", TIMEOUT]);
        }
        command.env("HANDOVER_TOPOLOGY", self.lab.topology_path()).env("HANDOVER_STATE_DIR", self.state());
        Ok(command)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&self, command: Command) -> Result<Answer> {
        self.end(command, |_| Ok(()))
    }

    /// Makes the story's plan; returns its file.
    ///
    /// # Errors
    /// If there is none.
    pub fn plan(&self, story: Story) -> Result<PathBuf> {
        let file = self.folder.join("plan.yaml");
        let deadline = Instant::now() + READY;
        loop {
            match self.plan_to(story, &file)? {
                Some(0) => return Ok(file),
                code if Instant::now() >= deadline => bail!("no plan could be made: {code:?}"),
                // Health checks have not passed yet.
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Makes the story's plan as a file; returns the exit status.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn plan_to(&self, story: Story, file: &Path) -> Result<Option<i32>> {
        let mut command = match story {
            Story::Drain => self.handover(&["plan", "--drain", FACILITY])?,
            Story::Restore => self.handover(&["plan", "--restore", FACILITY, "--failback"])?,
        };
        remove(file)?;
        command.arg("--out").arg(file);
        Ok(self.run(command)?.code)
    }

    /// The command that applies a plan.
    ///
    /// # Errors
    /// If the lab does not run any more.
    pub fn apply(&self, plan: &Path) -> Result<Command> {
        let mut command = self.handover(&["apply", "--auto-approve", "--format", "json"])?;
        command.arg(plan);
        Ok(command)
    }

    /// The newest run and its records.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn journal(&self) -> Result<Option<(RunSummary, Vec<Entry>)>> {
        let store = SqliteStore::open(&self.state(), &self.topology.name)?;
        super::within(async {
            let Some(run) = store.runs().await?.into_iter().next() else { return Ok(None) };
            let records = store.records(&run.run).await?;
            Ok(Some((run, records)))
        })
    }

    /// Runs a command to its end and hears what it tells; `heard` may interfere. One that does not end in time is killed.
    ///
    /// # Errors
    /// If it cannot be started, or `heard` fails.
    pub fn end(&self, mut command: Command, mut heard: impl FnMut(Heard<'_>) -> Result<()>) -> Result<Answer> {
        self.note(&command)?;
        let log = self.open_log()?;
        let mut child = command.stdout(Stdio::piped()).stderr(log.try_clone()?).spawn()?;
        let heard_lines = listen(&mut child, log)?;
        let deadline = Instant::now() + COMMAND_DEADLINE;
        let (mut events, mut lines) = (Vec::new(), Vec::new());
        let result = loop {
            match heard_lines.recv_timeout(Duration::from_millis(50)) {
                Ok(Line::Other(line)) => lines.push(line),
                Ok(Line::Event(event)) => {
                    if let Err(error) = heard(Heard::Event(&event)) {
                        break Err(error);
                    }
                    events.push(event);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = heard(Heard::Nothing(&mut child)) {
                        break Err(error);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            }
            if Instant::now() >= deadline {
                break Ok(());
            }
        };
        // With what stands for it outside, the program inside dies too.
        let late = Instant::now() >= deadline || result.is_err();
        if late {
            child.kill()?;
        }
        let status = child.wait()?;
        result?;
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).filter(|_| !late);
        Ok(Answer { code, events, lines })
    }

    fn open_log(&self) -> Result<File> {
        Ok(File::options().create(true).append(true).open(self.log())?)
    }

    fn note(&self, command: &Command) -> Result<()> {
        use std::io::Write;
        let words: Vec<_> = command.get_args().skip(4).map(|word| word.to_string_lossy()).collect();
        Ok(writeln!(self.open_log()?, "\n$ {}", words.join(" "))?)
    }
}

/// What may be heard of a command that runs.
pub enum Heard<'a> {
    /// It tells something.
    Event(&'a Event),
    /// Nothing for a moment.
    Nothing(&'a mut Child),
}

/// A line that a command prints.
enum Line {
    Event(Event),
    Other(String),
}

/// Everything that a command prints goes to the log too.
fn listen(child: &mut Child, mut log: File) -> Result<Receiver<Line>> {
    use std::io::Write;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let (sender, heard) = channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = writeln!(log, "{line}");
            let _ = sender.send(serde_json::from_str(&line).map_or(Line::Other(line), Line::Event));
        }
    });
    Ok(heard)
}

/// Removes a file or folder, where there is one.
///
/// # Errors
/// If it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Puts a copy of a folder in the place of another one.
fn copy(from: &Path, to: &Path) -> Result<()> {
    remove(to)?;
    if !from.exists() {
        return Ok(());
    }
    let status = Command::new("cp").arg("-a").args([from, to]).status()?;
    if !status.success() {
        bail!("cannot copy {} to {}", from.display(), to.display());
    }
    Ok(())
}
