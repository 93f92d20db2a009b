//! The side of the process that is watched over: starts the guard when it is first needed, and gives it beats.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::watch::Word;
use super::{ARMED, log};
use crate::cli::args::Common;
use crate::engine::Guard;
use crate::journal::RunId;
use crate::model::Span;

/// The time between two beats.
const BEAT: Duration = Duration::from_millis(100);

/// How long a guard with nothing to watch over may take to end.
const ENDING: Duration = Duration::from_secs(2);

/// The guard of this process's run, once it is started.
pub struct GuardProcess {
    topology: PathBuf,
    state: PathBuf,
    timeout: Span,
    process: Mutex<Option<Started>>,
}

struct Started {
    child: Child,
    /// Beats come in between.
    input: Arc<Mutex<ChildStdin>>,
    answers: Lines<BufReader<ChildStdout>>,
    /// Ends with this.
    beats: JoinSet<()>,
}

impl GuardProcess {
    /// Nothing is started yet. `state` is the state directory.
    ///
    /// # Errors
    /// If the topology's path has no absolute form.
    pub fn new(common: &Common, state: &Path) -> Result<Arc<Self>> {
        let absolute = |path: &Path| std::path::absolute(path).context("this folder has no name any more");
        let (topology, state) = (absolute(&common.topology)?, absolute(state)?);
        Ok(Arc::new(Self { topology, state, timeout: common.timeout, process: Mutex::default() }))
    }

    /// The end of the run. One that watches over nothing ends with its input.
    pub async fn end(&self) {
        let Some(Started { mut child, input, beats, .. }) = self.process.lock().await.take() else { return };
        drop((input, beats));
        if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
            let _ = child.start_kill();
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the guard is this program again, as it is now, whatever its file is"
    )]
    fn start(&self, run: &RunId) -> Result<Started> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log(&self.state, run));
        let log = log.context("its log cannot be written")?;
        let mut child = tokio::process::Command::new("/proc/self/exe")
            .arg0("handover")
            .args(["guard", &run.0, "--timeout", &self.timeout.to_string(), "--color", "never"])
            .arg("--topology")
            .arg(&self.topology)
            .arg("--state-dir")
            .arg(&self.state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("it cannot be started")?;
        let input = child.stdin.take().context("it has no input")?;
        let answers = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        let input = Arc::new(Mutex::new(input));
        let mut beats = JoinSet::new();
        beats.spawn(beat(Arc::clone(&input)));
        Ok(Started { child, input, answers, beats })
    }

    async fn try_arm(&self, run: &RunId, word: &Word) -> Result<()> {
        let mut process = self.process.lock().await;
        if process.as_mut().and_then(Started::alive).is_none() {
            *process = Some(self.start(run)?);
        }
        let started = process.as_mut().context("it has ended")?;
        started.say(word).await?;
        match started.answers.next_line().await? {
            Some(answer) if answer == ARMED => Ok(()),
            Some(why) => anyhow::bail!(why),
            None => anyhow::bail!("it has ended; see {}", log(&self.state, run).display()),
        }
    }
}

impl Started {
    /// It, if it has not ended.
    fn alive(&mut self) -> Option<&mut Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    async fn say(&self, word: &Word) -> std::io::Result<()> {
        let mut input = self.input.lock().await;
        input.write_all(word.line().as_bytes()).await
    }
}

/// Beats come from the runtime that carries the run out: when it hangs, they stop.
async fn beat(input: Arc<Mutex<ChildStdin>>) {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        if input.lock().await.write_all(b".\n").await.is_err() {
            return;
        }
    }
}

#[async_trait]
impl Guard for GuardProcess {
    async fn arm(&self, run: &RunId, section: &str, silence: Duration, deadline: Instant) -> Result<(), String> {
        let word = Word::Arm { section: section.to_owned(), silence };
        match tokio::time::timeout_at(deadline, self.try_arm(run, &word)).await {
            Ok(armed) => armed.map_err(|why| format!("{why:#}")),
            Err(_) => {
                // Its answer would be taken for that to the next question.
                if let Some(mut started) = self.process.lock().await.take() {
                    let _ = started.child.start_kill();
                }
                Err("it does not answer".to_owned())
            }
        }
    }

    async fn disarm(&self, section: &str) -> Result<(), String> {
        let word = Word::Disarm { section: section.to_owned() };
        let mut process = self.process.lock().await;
        match process.as_mut().and_then(Started::alive) {
            Some(started) => started.say(&word).await.map_err(|why| why.to_string()),
            None => Err("the guard has ended before".to_owned()),
        }
    }
}
