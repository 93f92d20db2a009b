//! `handover runs`: lists, shows, follows and prunes runs. It speaks to no target.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::args::{self, Format, NamedRun, RunsCommand};
use super::context::{self, Records, eprint, print, stdout_style};
use super::detach;
use super::exit::Exit;
use super::guard;
use super::unlock::{self, AtWork};
use super::voice::Voice;
use crate::journal::{Pruning, Record, RunEnd, RunId, RunSummary, Store};
use crate::provider::{Clock, SystemClock};
use crate::report::{self, RecordLine, RunLine, Story, Titles};

/// How often a followed run is asked for new records.
const POLL: Duration = Duration::from_millis(50);

/// How often it is asked whether anybody still carries it out.
const LOOK: Duration = Duration::from_secs(1);

/// Does what is asked with the runs.
///
/// # Errors
/// If the store fails.
pub async fn run(args: args::Runs) -> Result<Exit> {
    let voice = Voice { json: args.format == Format::Json, output: args.store.output };
    let Records { store, state } = match context::store(&args.store, voice)? {
        Ok(records) => records,
        Err(exit) => return Ok(exit),
    };
    match &args.command {
        None => list(&*store, voice).await,
        Some(RunsCommand::Show(named)) => show(&*store, named, voice).await,
        Some(RunsCommand::Follow(named)) => follow(&*store, named, voice).await,
        Some(RunsCommand::Prune(prune)) => self::prune(store, &state, prune, voice).await,
    }
}

fn code(end: RunEnd) -> u8 {
    Exit::from(end) as u8
}

async fn list(store: &dyn Store, voice: Voice) -> Result<Exit> {
    let (runs, now) = (all(store).await?, SystemClock.now());
    let lines: Vec<RunLine> = runs.iter().map(|run| RunLine::new(run, now, code)).collect();
    match voice.json {
        true => print(&report::runs_json(&lines)),
        false => print(&report::runs(&lines, stdout_style(voice.output))),
    }
    Ok(Exit::Success)
}

/// All runs, newest first. One whose process is certainly gone does not hold the lock, whatever its lease says.
///
/// # Errors
/// If the store fails.
async fn all(store: &dyn Store) -> Result<Vec<RunSummary>> {
    let mut runs = store.runs().await?;
    if let AtWork::Dead(lock) = unlock::at_work(store).await? {
        runs.iter_mut().filter(|run| run.run == lock.run).for_each(|run| run.leased_until = None);
    }
    Ok(runs)
}

/// The run that is meant: its identity, the beginning of it, or `last`. What keeps it from being found is told.
///
/// # Errors
/// If the store fails.
pub async fn find(store: &dyn Store, named: &NamedRun, voice: Voice) -> Result<Result<RunSummary, Exit>> {
    Ok(chosen(all(store).await?, &named.run).map_err(|why| voice.error(Exit::Error, &why)))
}

fn chosen(runs: Vec<RunSummary>, wanted: &str) -> Result<RunSummary, String> {
    let Some(newest) = runs.first() else {
        return Err("there is no run yet: `handover apply PLAN` makes one".to_owned());
    };
    let exact = runs.iter().find(|run| run.run.0 == wanted);
    if let Some(run) = exact.or((wanted == "last").then_some(newest)) {
        return Ok(run.clone());
    }
    let alike: Vec<&RunSummary> = runs.iter().filter(|run| run.run.0.starts_with(wanted)).collect();
    match alike.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(format!("there is no run `{wanted}`; `handover runs` lists them, the newest is {}", newest.run)),
        several => {
            let names: Vec<&str> = several.iter().take(5).map(|run| run.run.0.as_str()).collect();
            let more = if several.len() > 5 { " and others" } else { "" };
            Err(format!("`{wanted}` may be {} runs: {}{more}; write more of it", several.len(), names.join(", ")))
        }
    }
}

/// The story of a run.
///
/// # Errors
/// If the store fails or lacks the run's first record.
pub async fn read(store: &dyn Store, summary: &RunSummary) -> Result<Story> {
    let entries = store.records(&summary.run).await?;
    let story = Story::new(&summary.run, &entries, summary.is_running(SystemClock.now()));
    story.ok_or_else(|| anyhow::anyhow!("the first record of run {} is missing from its journal", summary.run))
}

async fn show(store: &dyn Store, named: &NamedRun, voice: Voice) -> Result<Exit> {
    let summary = match find(store, named, voice).await? {
        Ok(summary) => summary,
        Err(exit) => return Ok(exit),
    };
    let story = read(store, &summary).await?;
    match voice.json {
        true => print(&report::story_json(&story, summary.end.map(code))),
        false => print(&report::story(&story, stdout_style(voice.output))),
    }
    Ok(Exit::Success)
}

async fn follow(store: &dyn Store, named: &NamedRun, voice: Voice) -> Result<Exit> {
    let run = match find(store, named, voice).await? {
        Ok(summary) => summary.run,
        Err(exit) => return Ok(exit),
    };
    let (mut titles, mut next, mut looked) = (Titles::default(), 0, Instant::now());
    loop {
        let entries = store.records_from(&run, next).await?;
        let mut text = String::new();
        for entry in &entries {
            titles.learn(&entry.record);
            let line = RecordLine { run: &run, entry };
            text += &if voice.json { line.json() } else { line.text(&titles) };
            next = entry.sequence + 1;
        }
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            // Whoever read it has gone away.
            return Ok(Exit::Success);
        }
        drop(stdout);
        match entries.last().map(|entry| &entry.record) {
            Some(Record::RunEnded { end, .. }) => return Ok((*end).into()),
            Some(_) => looked = Instant::now(),
            None if looked.elapsed() >= LOOK => {
                looked = Instant::now();
                if !is_carried_out(store, &run).await? {
                    let why = format!(
                        "nobody carries out run {run} any more, and it has no end: `handover runs show {run}` says how to go on"
                    );
                    return Ok(voice.error(Exit::Stopped, &why));
                }
            }
            None => {}
        }
        sleep(POLL).await;
    }
}

async fn is_carried_out(store: &dyn Store, run: &RunId) -> Result<bool> {
    let now = SystemClock.now();
    Ok(all(store).await?.iter().any(|summary| summary.run == *run && summary.is_running(now)))
}

async fn prune(store: Arc<dyn Store>, state: &Path, args: &args::Prune, voice: Voice) -> Result<Exit> {
    let (runs, holds, now) = (store.runs().await?, store.holds().await?, SystemClock.now());
    let pruned = Pruning { older_than: args.older_than, keep: args.keep }.of(&runs, &holds, now);
    let go: Vec<RunLine> = pruned.go.iter().map(|run| RunLine::new(run, now, code)).collect();
    let stay: Vec<(&RunId, &str)> = pruned.stay.iter().map(|(run, why)| (&run.run, *why)).collect();
    let acts = !args.dry_run && !go.is_empty();
    let terminal = std::io::stdin().is_terminal();
    if acts && !args.yes && (voice.json || !terminal) {
        let why = "there is no terminal to ask on: look with --dry-run, then add --yes";
        return Ok(voice.error(Exit::Usage, why));
    }
    if !voice.json {
        print(&report::prunable(&go, &stay, stdout_style(voice.output)));
    }
    if acts && !args.yes && !confirmed(go.len())? {
        eprint("Nothing was removed.\n");
        return Ok(Exit::Refused);
    }
    let wanted: Vec<RunId> = go.iter().map(|line| line.run.clone()).collect();
    let removed = if acts { store.prune(&wanted).await? } else { Vec::new() };
    for run in &removed {
        // Only runs without a terminal, and those that died, have one.
        for log in [detach::log(state, run), guard::log(state, run)] {
            let _ = std::fs::remove_file(log);
        }
    }
    match voice.json {
        true => print(&report::pruned_json(&wanted, &removed, &stay)),
        false if acts => print(&format!("Removed {} of {}.\n", removed.len(), wanted.len())),
        false => {}
    }
    Ok(Exit::Success)
}

fn confirmed(number: usize) -> Result<bool> {
    eprint(&format!("\nRemove {number}? What they tell is gone then. Only `yes` is a yes: "));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_by_the_beginning_of_their_names() {
        let run = |name: &str| RunSummary {
            run: RunId(name.to_owned()),
            plan: String::new(),
            started: jiff::Timestamp::UNIX_EPOCH,
            operator: String::new(),
            end: None,
            title: String::new(),
            last: jiff::Timestamp::UNIX_EPOCH,
            leased_until: None,
        };
        let runs = || vec![run("20261124-1"), run("20261123-22"), run("20261123-2")];
        let name = |wanted: &str| chosen(runs(), wanted).map(|run| run.run.0);
        assert_eq!(name("last").unwrap(), "20261124-1");
        assert_eq!(name("20261124").unwrap(), "20261124-1");
        assert_eq!(name("20261123-2").unwrap(), "20261123-2", "a whole name wins over longer ones");
        let several = name("20261123").unwrap_err();
        assert!(several.contains("may be 2 runs: 20261123-22, 20261123-2;"), "{several}");
        assert!(name("2027").unwrap_err().contains("the newest is 20261124-1"));
        assert!(chosen(Vec::new(), "last").unwrap_err().contains("no run yet"));
    }
}
