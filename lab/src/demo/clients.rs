//! The demo's clients: `lab load` and `lab lost`, where the clients live.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Script, Stage};
use crate::load::Report;

/// How long the last requests may take to end; longer than the longest of them.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// How long the lost check may take.
const CHECK_DEADLINE: Duration = Duration::from_secs(120);

/// Clients that run until told to stop, or until the demo is gone.
pub(crate) struct Clients {
    child: Child,
    /// They end when this is closed.
    input: ChildStdin,
    latest: watch::Receiver<Option<Report>>,
    reader: JoinHandle<Result<()>>,
}

impl Clients {
    pub(crate) fn start(stage: &dyn Stage, script: &Script) -> Result<Self> {
        let mut command = stage.command(&script.lab)?;
        command.args(["load", "--every", "250", "--until-eof", "--acknowledged"]).arg(script.acknowledged());
        command.arg("--timeout").arg(script.patience.as_secs().to_string());
        for (service, url) in &script.services {
            command.arg("--service").arg(format!("{service}={url}"));
        }
        for (database, url) in &script.writers {
            command.arg("--writer").arg(format!("{database}={url}"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the load")?;
        let input = child.stdin.take().context("the load has no input")?;
        let mut lines = BufReader::new(child.stdout.take().context("the load has no output")?).lines();
        let (sender, latest) = watch::channel(None);
        let reader = tokio::spawn(async move {
            while let Some(line) = lines.next_line().await? {
                sender
                    .send_replace(Some(serde_json::from_str(&line).with_context(|| format!("the load says: {line}"))?));
            }
            Ok(())
        });
        Ok(Self { child, input, latest, reader })
    }

    /// What they have seen so far.
    pub(crate) fn latest(&self) -> Result<Report> {
        self.latest.borrow().clone().context("the load has not said anything yet")
    }

    /// Waits until the account says so.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Report) -> bool,
    ) -> Result<Report> {
        let reached = self.latest.wait_for(|report| report.as_ref().is_some_and(&mut condition));
        let outcome = timeout(deadline, reached).await.map(|outcome| outcome.map(|report| report.clone()));
        match outcome {
            Ok(Ok(Some(report))) => Ok(report),
            Ok(_) => bail!("the load ended before {what}"),
            Err(_) => {
                let errors = self.latest().map(|report| super::view::errors(&report)).unwrap_or_default();
                bail!("not within {} s: {what}\n{errors}", deadline.as_secs())
            }
        }
    }

    /// Ends them; returns all that they saw.
    pub(crate) async fn stop(mut self) -> Result<Report> {
        drop(self.input);
        match timeout(END_DEADLINE, self.reader).await {
            Ok(ended) => ended??,
            Err(_) => bail!("the load did not end within {} s", END_DEADLINE.as_secs()),
        }
        timeout(END_DEADLINE, self.child.wait()).await.context("the load does not end")??;
        let report = self.latest.borrow().clone();
        report.filter(|report| report.finished).context("the load ended without its report")
    }
}

/// What `lab lost` says of one database.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Checked {
    pub(crate) primary: Option<String>,
    pub(crate) lost: Option<u64>,
    /// When the last one of them was acknowledged, in microseconds since 1970.
    pub(crate) last_lost_at_us: Option<i64>,
    pub(crate) error: Option<String>,
}

/// Looks for every acknowledged write on the primary that there is now.
pub(crate) async fn check(stage: &dyn Stage, script: &Script) -> Result<BTreeMap<String, Checked>> {
    let mut command = stage.command(&script.lab)?;
    command.args(["lost", "--user", &script.user, "--acknowledged"]).arg(script.acknowledged());
    command.arg("--password-file").arg(&script.password_file);
    for member in &script.members {
        command.arg("--member").arg(member.to_string());
    }
    // Its errors are in its answer too.
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(CHECK_DEADLINE, command.output())
        .await
        .with_context(|| format!("the lost check did not end within {} s", CHECK_DEADLINE.as_secs()))?
        .context("cannot start the lost check")?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("the lost check ended with {}", output.status))
}
