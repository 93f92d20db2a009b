//! `lab demo`: the story on a lab of its own, which is gone afterwards whatever happened.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use super::{Args, Outcome, Script, Stage, perform, scene};
use crate::{Lab, Options};

impl Stage for Lab {
    fn topology_path(&self) -> &Path {
        Self::topology_path(self)
    }

    fn command(&self, program: &Path) -> Result<Command> {
        Ok(Self::command(self, program)?.into())
    }
}

/// Runs the demo.
///
/// # Errors
/// If the lab could not be started, it was interrupted, or clients saw a failure.
pub async fn run(args: Args) -> Result<()> {
    // From here on signals end the story, not this program: the lab is taken down in any case.
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let handover = beside(args.handover.as_deref())?;

    scene("A lab: every server of the topology, for real, in network namespaces of its own");
    let started = Instant::now();
    let options = Options { fast: true, ..Options::new(&args.topology) };
    let delay = options.delay.as_millis();
    let lab = spawn_blocking(move || Lab::up(&options)).await??;
    let outcome = tokio::select! {
        biased;
        _ = term.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = int.recv() => Err(anyhow::anyhow!("interrupted")),
        outcome = story(&lab, &args, handover, started, delay) => outcome,
    };
    spawn_blocking(move || lab.down()).await??;
    let problems = outcome?.problems.len();
    ensure!(problems == 0, "the demo found {problems} problem(s)");
    Ok(())
}

/// The program `handover`: the one that is named, or the one beside this program.
pub(crate) fn beside(named: Option<&Path>) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let handover = named.map_or_else(|| own.with_file_name("handover"), Path::to_owned);
    ensure!(handover.is_file(), "{} is not there: cargo build", handover.display());
    Ok(handover.canonicalize()?)
}

async fn story(lab: &Lab, args: &Args, handover: PathBuf, started: Instant, delay: u128) -> Result<Outcome> {
    let servers = lab.status()?.servers.len();
    let took = started.elapsed().as_secs_f64();
    println!(
        "{servers} servers are ready after {took:.1} s, {delay} ms between facilities; TTLs and soaks are shortened."
    );
    let topology = crate::topology::read(&lab.directory().join("topology.yaml"))?;
    let script = Script::beginning(handover, args.facility.clone(), args.folder.clone())?;
    perform(lab, &script.cast(&topology)?).await
}
