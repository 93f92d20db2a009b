//! One case: the world is put back, a run is disturbed, somebody goes on with it, and everything is looked at.

use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use handover::event::Event;
use handover::journal::{Entry, Record, RunEnd};
use handover::plan::Plan;
use serde::Serialize;

use super::cases::{Blow, Case, Fault, Point, Story, Then, point_of};
use super::ill::{Patient, Server};
use super::lost::LostPlayed;
use super::stand::{Answer, Heard, Stand};
use super::watch::{Watch, Watched};
use crate::demo::clients::{Clients, check};

/// How long operators wait before they do something, where they do.
const WAITING: Duration = Duration::from_millis(2500);

/// How long a guard may take to end a `handover` that stands still, before one looks for another way.
const STANDING: Duration = Duration::from_secs(6);

/// How long a guard may hold the lock after the end of its run's process.
const GUARDED: Duration = Duration::from_secs(45);

/// How long clients may take to be served.
const SERVED: Duration = Duration::from_secs(40);

/// How often one tries to go on after a server was ill: replicas connect again, health checks pass.
const TRIES: u32 = 4;

/// What came out of one case.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Played {
    /// The case.
    pub case: String,
    /// How the disturbed run ended, and everything that was done about it.
    pub course: Vec<String>,
    /// Where it died: the last record of its journal, or the event.
    #[serde(skip)]
    pub died_at: Option<Point>,
    /// How the disturbed run ended by itself, if it did.
    #[serde(skip)]
    pub end: Option<RunEnd>,
    /// True if going on brought it to its end.
    #[serde(skip)]
    pub resumed: bool,
    /// True if it was taken back.
    #[serde(skip)]
    pub rolled_back: bool,
    /// True if a human had to look at any time.
    #[serde(skip)]
    pub stuck: bool,
    /// Acknowledged writes that are not on the final primary.
    pub lost_writes: u64,
    /// Questions of the checker that members answered.
    pub questions: u64,
    /// Times at which two members of one database took writes.
    pub two_writable: usize,
    /// The longest time without an acknowledged write.
    pub longest_stall_ms: u64,
    /// Reads and writes that failed.
    pub failed_requests: u64,
    /// How long it took.
    pub seconds: f64,
    /// What else came out where a facility was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_facility: Option<LostPlayed>,
    /// Everything that is not as it should be.
    pub problems: Vec<String>,
}

impl Played {
    /// Notes what was done.
    pub fn did(&mut self, what: impl Into<String>) {
        self.course.push(what.into());
    }

    /// Notes what is not as it should be.
    pub fn problem(&mut self, what: impl Into<String>) {
        self.problems.push(what.into());
    }

    /// Notes what the checker has seen.
    pub fn count_two(&mut self, watched: &Watched) {
        self.questions = watched.answers;
        self.two_writable = watched.two_writable.len();
        for two in &watched.two_writable {
            let members = two.members.join(" and ");
            self.problem(format!("two members took writes at once, for {:?}: {members}", two.time));
        }
    }
}

/// Plays a case. What is wrong with `handover` is in the answer.
///
/// # Errors
/// If the stand itself failed: the case says nothing then.
pub fn play(stand: &Stand, case: &Case) -> Result<Played> {
    let began = Instant::now();
    let mut played = Played { case: case.to_string(), ..Played::default() };
    stand.set(case.story.word())?;
    let watch = Watch::start(&stand.lab, &stand.topology)?;
    let mut clients = super::within(async { Clients::start(&stand.lab, &stand.script) })?;
    served(&mut clients, 20)?;

    disturb(stand, case, &mut played)?;
    if case.waits {
        std::thread::sleep(WAITING);
    }
    go_on(stand, case, &mut played)?;

    if let Err(error) = served(&mut clients, 20) {
        played.problem(format!("clients do not go on: {error:#}"));
    }
    let report = super::within(clients.stop())?;
    for (name, seen) in super::within(check(&stand.lab, &stand.script))? {
        match (seen.lost, seen.error) {
            (Some(lost), None) => played.lost_writes += lost,
            (_, error) => played.problem(format!("{name}: {}", error.unwrap_or_else(|| "not checked".to_owned()))),
        }
    }
    if played.lost_writes > 0 {
        played.problem(format!("acknowledged writes lost: {}", played.lost_writes));
    }
    played.longest_stall_ms = report.databases.values().map(|database| database.longest_stall_ms).max().unwrap_or(0);
    played.failed_requests =
        report.http.failed + report.databases.values().map(|database| database.failed).sum::<u64>();
    played.count_two(&watch.end()?);
    played.seconds = began.elapsed().as_secs_f64();
    Ok(played)
}

/// Waits until every client has been served so often more.
///
/// # Errors
/// If they are not.
pub fn served(clients: &mut Clients, more: u64) -> Result<()> {
    let before = clients.latest().ok();
    let wanted = |name: &str| {
        let database = before.as_ref().and_then(|report| report.databases.get(name));
        database.map_or(0, |database| database.writes) + more
    };
    let all = |report: &crate::load::Report| report.databases.iter().all(|(name, now)| now.writes >= wanted(name));
    super::within(clients.until("clients are served", SERVED, all)).map(drop)
}

/// Applies the plan and lets go wrong what is to go wrong.
fn disturb(stand: &Stand, case: &Case, played: &mut Played) -> Result<()> {
    let plan = stand.plan(case.story)?;
    let mut apply = stand.apply(&plan)?;
    let mark = stand.mark();
    match &case.fault {
        Fault::Orchestrator { point, moment, blow } => {
            stand.shim.strike(&mut apply, point, *moment, *blow, &mark);
            let mut standing = None;
            let answer = stand.end(apply, |heard| match heard {
                Heard::Nothing(child) if *blow == Blow::Stop && mark.exists() => {
                    wait_standing(stand, child, &mut standing)
                }
                _ => Ok(()),
            })?;
            if let Some(Some(problem)) = standing.map(|standing: Standing| standing.problem) {
                played.problem(problem);
            }
            let struck = mark.exists();
            played.did(format!("apply ended with {}{}", code(&answer), if struck { "" } else { ", not struck" }));
            let (died, end) = last(stand)?;
            played.end = end;
            let fatal = !matches!(blow, Blow::SyncFails | Blow::NoRoom);
            if struck && (fatal || end.is_none()) {
                played.died_at = if point.recorded { died } else { Some(point.clone()) };
            }
            if answer.code.is_none() {
                played.problem("apply did not end in time");
            }
        }
        Fault::Server { step, server, ill, .. } => {
            let server = Server::named(&stand.topology, server)?;
            let mut patient: Option<Patient<'_>> = None;
            let answer = stand.end(apply, |heard| {
                if let Heard::Event(Event::StepStarted { step: begun, .. }) = heard
                    && begun.0 == *step
                    && patient.is_none()
                {
                    patient = Some(server.infect(&stand.lab, *ill)?);
                }
                Ok(())
            })?;
            let struck = patient.is_some();
            played.did(format!("apply ended with {}{}", code(&answer), if struck { "" } else { ", not struck" }));
            played.end = last(stand)?.1;
            judge_end(&answer, &server, played);
            if let Some(patient) = patient {
                patient.cure()?;
            }
        }
    }
    Ok(())
}

/// A `handover` that stands still.
struct Standing {
    since: Instant,
    problem: Option<String>,
}

/// Nobody may take over from a `handover` that stands still outside of a section: it lives. So it is killed here, as an operator would.
fn wait_standing(stand: &Stand, child: &mut Child, standing: &mut Option<Standing>) -> Result<()> {
    let standing = standing.get_or_insert(Standing { since: Instant::now(), problem: None });
    if standing.since.elapsed() < STANDING || child.try_wait()?.is_some() {
        return Ok(());
    }
    let other = stand.run(stand.handover(&["apply", "--resume", "--auto-approve"])?)?;
    // It may have been killed by its guard just now: then this went on with it.
    if other.code != Some(5) && child.try_wait()?.is_none() {
        let said = code(&other);
        standing.problem = Some(format!("`apply --resume` ended with {said} while the run's own process stood still"));
    }
    Ok(child.kill()?)
}

/// How the newest run ended, and the last thing that it recorded.
fn last(stand: &Stand) -> Result<(Option<Point>, Option<RunEnd>)> {
    let Some((run, records)) = stand.journal()? else { return Ok((None, None)) };
    let plan = document(&records);
    let point = plan.and_then(|plan| records.last().and_then(|entry| point_of(&plan, &entry.record)));
    Ok((point, run.end))
}

/// The plan of a run.
pub fn document(records: &[Entry]) -> Option<Plan> {
    match &records.first()?.record {
        Record::RunStarted { document: Some(text), .. } => Plan::from_yaml(text).ok(),
        _ => None,
    }
}

fn code(answer: &Answer) -> String {
    answer.code.map_or_else(|| "no end".to_owned(), |code| code.to_string())
}

/// A run whose server was ill ends finished, undone, stopped or refused, and says why.
fn judge_end(answer: &Answer, server: &Server, played: &mut Played) {
    let Some(code) = answer.code else { return played.problem("apply did not end in time") };
    if !matches!(code, 0 | 3 | 4 | 6) {
        played.problem(format!("apply ended with {code}"));
    }
    played.stuck |= code == 6;
    let said: String = answer.events.iter().filter_map(|event| serde_json::to_string(event).ok()).collect();
    let why = answer.events.iter().find_map(|event| match event {
        Event::RunEnded { summary, .. } => Some(summary.clone()),
        _ => None,
    });
    if let Some(why) = &why {
        played.did(why.clone());
    }
    if code != 0 && !server.names().iter().any(|name| said.contains(name.as_str())) {
        played.problem(format!("the ill server is named nowhere: {why:?}"));
    }
}

/// Goes on as the case says, until everything is as it would have been without the disturbance.
fn go_on(stand: &Stand, case: &Case, played: &mut Played) -> Result<()> {
    let ill = matches!(case.fault, Fault::Server { .. });
    let done = played.end == Some(RunEnd::Done);
    let begun = stand.journal()?.is_some_and(|(run, _)| !matches!(run.end, Some(RunEnd::Refused | RunEnd::Undone)));
    let back = case.then == Then::Rollback && begun;
    let finished = match case.then {
        _ if done && !back => true,
        Then::Resume | Then::ResumeTwice if begun => resume(stand, case, played, ill)?,
        Then::Rollback if begun => {
            let answer = unlocked(stand, || rollback(stand))?;
            played.did(format!("rollback ended with {}", code(&answer)));
            played.stuck |= answer.code == Some(6);
            match answer.code {
                Some(0) => {
                    played.rolled_back = true;
                    true
                }
                // Behind a point of no return there is only forward.
                Some(3 | 4) if irreversible(stand)? => done || resume(stand, case, played, ill)?,
                _ => false,
            }
        }
        _ => replan(stand, case.story, played)?,
    };
    if !finished {
        let problem = format!("it could not be gone on with: {}", played.course.join("; "));
        let converged = replan(stand, case.story, played)?;
        // After a server was ill, a new plan is as good.
        if !(ill && converged) {
            played.problem(format!(
                "{problem}; a new plan {}",
                if converged { "did it" } else { "did not do it either" }
            ));
        }
    }
    let expected = if played.rolled_back { stand.before(case.story.word())? } else { stand.after(case.story)? };
    for difference in stand.differences(expected)? {
        played.problem(difference);
    }
    let again = || stand.run(stand.handover(&["plan", "--detailed-exitcode"])?);
    let mut nothing = again()?;
    if ill && nothing.code == Some(2) {
        // What was only told of a server that was ill, such as weights that its host could not save, is for the next plan.
        played.did("a bare plan did the rest");
        stand.converge()?;
        nothing = again()?;
    }
    if nothing.code != Some(0) {
        played.problem(format!("a plan of the result is not empty: it ended with {}", code(&nothing)));
    }
    Ok(())
}

/// Runs a command, and again while the guard of the run is still at work: it holds the lock, and says so.
fn unlocked(stand: &Stand, command: impl Fn() -> Result<std::process::Command>) -> Result<Answer> {
    let deadline = Instant::now() + GUARDED;
    loop {
        let answer = stand.run(command()?)?;
        if answer.code != Some(5) || Instant::now() >= deadline {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn rollback(stand: &Stand) -> Result<std::process::Command> {
    stand.handover(&["rollback", "--auto-approve", "--format", "json"])
}

/// True if the newest run has begun something that cannot be taken back.
fn irreversible(stand: &Stand) -> Result<bool> {
    let (_, records) = stand.journal()?.context("no run")?;
    let plan = document(&records).context("a run without its plan")?;
    Ok(records.iter().any(|entry| match &entry.record {
        Record::StepStarted { step, .. } => plan.step(step).is_some_and(|step| step.point_of_no_return),
        _ => false,
    }))
}

/// Goes on with the newest run; true once it is done.
fn resume(stand: &Stand, case: &Case, played: &mut Played, ill: bool) -> Result<bool> {
    let command = || stand.handover(&["apply", "--resume", "--auto-approve", "--format", "json"]);
    if case.then == Then::ResumeTwice
        && let Fault::Orchestrator { point, moment, .. } = &case.fault
    {
        let mut again = command()?;
        let mark = stand.mark();
        std::fs::remove_file(&mark)
            .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        // The first thing that it records, and so much later as before.
        let first =
            Point { recorded: true, kind: "run_resumed".to_owned(), name: String::new(), verb: point.verb.clone() };
        stand.shim.strike(&mut again, &first, *moment, Blow::Kill, &mark);
        let answer = stand.run(again)?;
        played.did(format!("resume, struck as well, ended with {}", code(&answer)));
        if answer.code == Some(0) {
            played.resumed = true;
            return Ok(true);
        }
        ensure!(mark.exists() || answer.code != Some(137), "it was killed by somebody else");
    }
    for attempt in 1..=if ill { TRIES } else { 1 } {
        let answer = unlocked(stand, command)?;
        played.did(format!("resume ended with {}", code(&answer)));
        played.stuck |= answer.code == Some(6);
        if answer.code == Some(0) {
            played.resumed = true;
            return Ok(true);
        }
        if attempt < TRIES && ill {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    Ok(false)
}

/// Makes a new plan and applies it; true once it is done.
fn replan(stand: &Stand, story: Story, played: &mut Played) -> Result<bool> {
    let file = stand.mark().with_file_name("again.yaml");
    for attempt in 1..=TRIES {
        let planned = stand.plan_to(story, &file)?;
        played.did(format!("a new plan ended with {planned:?}"));
        if planned == Some(3) {
            // What a dead run has left in the middle is put right by a bare plan first.
            let said = stand.converge()?;
            played.did(format!("a bare plan and its apply ended with {said:?}"));
        }
        if planned == Some(0) {
            if !file.exists() {
                return Ok(true);
            }
            let answer = stand.run(stand.apply(&file)?)?;
            played.did(format!("apply of it ended with {}", code(&answer)));
            if answer.code == Some(0) {
                return Ok(true);
            }
        }
        if attempt < TRIES {
            std::thread::sleep(Duration::from_secs(2));
        }
    }
    Ok(false)
}
