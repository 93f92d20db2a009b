//! One case: a facility is lost under load, the service goes on without it or rightly does not, the facility comes back, and everything
//! is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use handover::event::Event;
use handover::model::ReplicationMode;
use handover::plan::Plan;

use super::loss::{Gone, Promise, fork, promises};
use super::operator::{Operator, why};
use super::{Disaster, Fence, HERE, LostCase, LostPlayed, Over, START, Wanted};
use crate::demo::clients::{Clients, check};
use crate::torture::play::{Played, document, served};
use crate::torture::stand::{Answer, Heard, Stand};
use crate::torture::watch::{Watch, Watched};

/// How long it may take until a facility counts as dead and the service goes on without it.
const GOES_ON: Duration = Duration::from_secs(90);

/// How long one waits before one tries again.
pub const AGAIN: Duration = Duration::from_millis(500);

/// A case while it is played.
pub struct Course<'a> {
    pub stand: &'a Stand,
    pub case: &'a LostCase,
    pub operator: Operator<'a>,
    pub played: Played,
    /// What was stated of each primary that somebody took over from, by database.
    pub promises: BTreeMap<String, Promise>,
    /// True once what happened is over.
    pub over: bool,
    /// Members that may be taking writes behind a fence though somebody else does: until they are fenced, nobody but `handover` gets there.
    pub writing: BTreeSet<String>,
    /// True while clients are kept out of the facility.
    pub closed: bool,
    /// Servers of the facility that were let in when they asked.
    pub admitted: BTreeSet<String>,
}

/// Plays a case. What is wrong with `handover` is in the answer.
///
/// # Errors
/// If the stand itself failed: the case says nothing then.
pub fn play(stand: &Stand, case: &LostCase) -> Result<Played> {
    let began = Instant::now();
    for place in stand.topology.facilities.keys() {
        stand.lab.uncut(place.as_str(), "all")?;
    }
    stand.set(START)?;
    let operator = Operator::new(stand, case.fence);
    // Whoever is asked once knows how far every primary was, and what its commits waited for.
    if let Err(why) = operator.until_healthy()? {
        bail!("not healthy at the beginning: {why}");
    }
    let watch = Watch::start(&stand.lab, &stand.topology)?;
    let mut clients = crate::torture::within(async { Clients::start(&stand.lab, &stand.script) })?;
    served(&mut clients, 20)?;

    let mut course = Course {
        stand,
        case,
        operator,
        played: Played { case: case.to_string(), ..Played::default() },
        promises: BTreeMap::new(),
        over: false,
        writing: BTreeSet::new(),
        closed: false,
        admitted: BTreeSet::new(),
    };
    course.strike()?;
    if case.over == Over::Before {
        // Somebody looks, and it is noted that nothing answers.
        course.operator.plan(&[])?;
        course.is_over()?;
    }
    if course.emergency()? {
        course.serves(&mut clients, "without it");
        course.find_forks()?;
    }
    course.come_back()?;
    let whole = course.make_whole()?;
    course.serves(&mut clients, "at the end");
    let report = crate::torture::within(clients.stop())?;
    course.played.failed_requests =
        report.http.failed + report.databases.values().map(|database| database.failed).sum::<u64>();
    course.account(&watch.end()?, whole)?;
    let mut played = course.played;
    played.seconds = began.elapsed().as_secs_f64();
    Ok(played)
}

impl Course<'_> {
    /// What happens to the facility.
    fn strike(&self) -> Result<()> {
        let (lab, facility) = (&self.stand.lab, self.case.facility);
        let struck = match self.case.disaster {
            Disaster::Power => lab.power_off(facility),
            Disaster::CutOff => lab.cut(facility, "all"),
            Disaster::Mute => lab.cut_one_way(facility, "all"),
            Disaster::Deaf => lab.cut_one_way("all", facility),
            Disaster::Parted => lab.cut(facility, self.case.other),
            Disaster::Unseen | Disaster::UnseenAccepted => lab.cut(facility, HERE),
            Disaster::Blind => lab.cut(HERE, "all"),
        };
        struck.map(drop)
    }

    /// Goes on without the facility, if that is right; true once the service does.
    fn emergency(&mut self) -> Result<bool> {
        let (facility, wanted) = (self.case.facility, self.case.wanted());
        let deadline = Instant::now() + GOES_ON;
        let accepted: &[&str] = match self.case.disaster {
            Disaster::UnseenAccepted => &["--override", "published", "--reason", "torture"],
            _ => &[],
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let planned = self.operator.plan(&[&["--lost", facility], accepted].concat())?;
            let (code, said, promoted) = match planned.plan {
                Some((_, plan)) => {
                    let answer = self.go_on(&plan, accepted)?;
                    self.note_promises()?;
                    let promoted = plan.failovers.iter().all(|it| self.promises.contains_key(it.database.as_str()));
                    (answer.code, why(&answer), promoted)
                }
                None => (planned.code, planned.why, false),
            };
            let told = format!("--lost {facility}, try {tries}: {code:?} {said}");
            match (code, wanted) {
                (Some(0), Wanted::Refused) => {
                    self.played.did(told);
                    self.played.problem(format!("it went on without {facility}, which serves or nobody here can see"));
                    return Ok(true);
                }
                // Where power came back in the middle, the run ends by saying so.
                (Some(0), _) | (Some(4), _) if code == Some(0) || (self.over && promoted) => {
                    self.played.did(told);
                    return Ok(true);
                }
                (Some(3), wanted) if wanted == Wanted::Refused || (wanted == Wanted::Either && self.over) => {
                    self.played.did(told);
                    return Ok(false);
                }
                // Replicas may still hear something, checks may not have failed yet; or it was over in the middle.
                (Some(3 | 4), _) if Instant::now() < deadline => {}
                _ => {
                    self.played.did(told.clone());
                    self.played.problem(told);
                    return Ok(false);
                }
            }
            if wanted == Wanted::Either && self.over && code == Some(4) {
                self.played.did(told);
                return Ok(false);
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// One command, with the loss accepted as it was stated; what happened may be over in the middle of it.
    fn go_on(&mut self, plan: &Plan, accepted: &[&str]) -> Result<Answer> {
        let loss: Vec<String> = plan
            .failovers
            .iter()
            .filter(|failover| !failover.loss.is_nothing())
            .map(|failover| {
                let bytes = failover.loss.bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
                format!("{}={bytes}", failover.database)
            })
            .collect();
        let mut arguments = vec!["--lost", self.case.facility];
        arguments.extend(accepted);
        arguments.extend(loss.iter().flat_map(|loss| ["--accept-loss", loss.as_str()]));
        let (stand, case) = (self.stand, self.case);
        let operator = Operator::new(stand, case.fence);
        operator.apply(&arguments, |heard| match heard {
            Heard::Event(event) if !self.over && is_moment(case.over, event) => self.is_over(),
            _ => Ok(()),
        })
    }

    /// What the newest run has stated, if it has begun to promote anybody.
    fn note_promises(&mut self) -> Result<()> {
        let Some((_, records)) = self.stand.journal()? else { return Ok(()) };
        let Some(plan) = document(&records) else { return Ok(()) };
        for promise in promises(&plan, &records) {
            self.promises.insert(promise.database.clone(), promise);
        }
        Ok(())
    }

    /// Where the histories of the new primaries leave the old ones.
    fn find_forks(&mut self) -> Result<()> {
        const HISTORY: &str = "select pg_read_file('pg_wal/' || name) from pg_ls_waldir() where name like '%.history' order by name desc limit 1";
        for promise in self.promises.values_mut() {
            let history = self.operator.sql(&promise.to, HISTORY)?;
            promise.fork = Some(fork(&history).with_context(|| format!("no history of {}: {history}", promise.to))?);
        }
        Ok(())
    }

    /// Clients of every database are served from here on.
    fn serves(&mut self, clients: &mut Clients, when: &str) {
        if let Err(error) = served(clients, 20) {
            self.played.problem(format!("clients are not served {when}: {error:#}"));
        }
    }

    /// Accounts for every acknowledged write and for every moment.
    fn account(&mut self, watched: &Watched, whole: bool) -> Result<()> {
        let mut lost =
            LostPlayed { taken_over: !self.promises.is_empty(), not_redundant: !whole, ..LostPlayed::default() };
        for (name, seen) in crate::torture::within(check(&self.stand.lab, &self.stand.script))? {
            let (Some(writes), None) = (seen.lost, &seen.error) else {
                self.played.problem(format!("{name}: {}", seen.error.unwrap_or_else(|| "not checked".to_owned())));
                continue;
            };
            let gone = Gone { writes, last_us: seen.last_lost_at_us };
            let promise = self.promises.get(&name);
            let ends =
                promise.and_then(|promise| watched.ends.get(&promise.from)).map(Vec::as_slice).unwrap_or_default();
            if let Some(bytes) = promise.and_then(|promise| promise.bytes_lost(ends)) {
                self.played.did(format!("{name}: {bytes} bytes and {writes} writes lost"));
            }
            let mode = self.stand.topology.databases.iter().find(|(database, _)| database.as_str() == name);
            let synchronous = mode.is_some_and(|(_, database)| database.mode == ReplicationMode::Synchronous);
            self.played.lost_writes += writes;
            if synchronous {
                lost.lost_writes_sync += writes;
            } else {
                lost.lost_writes_async += writes;
            }
            let mut beyond = match promise {
                Some(promise) => promise.beyond(&gone, ends),
                None if writes > 0 => vec![format!("{name}: {writes} writes are lost though nobody took over")],
                None => Vec::new(),
            };
            lost.beyond_stated += usize::from(!synchronous && !beyond.is_empty());
            if synchronous && writes > 0 {
                beyond
                    .push(format!("{name}: {writes} writes are lost though a synchronous replica had confirmed them"));
            }
            beyond.into_iter().for_each(|problem| self.played.problem(problem));
        }
        self.played.count_two(watched);
        self.played.lost_facility = Some(lost);
        Ok(())
    }

    /// True if power is cut by whatever cuts the facility off.
    pub fn powered_off(&self) -> bool {
        self.case.disaster == Disaster::Power || self.case.fence == Fence::Off
    }
}

/// True for the event at which what happened is over.
fn is_moment(over: Over, event: &Event) -> bool {
    match (over, event) {
        (Over::Looking, Event::StepStarted { step, .. }) => step.0 == "gate.lost",
        (Over::Fenced, Event::StepDone { step, .. }) => step.0.starts_with("fence."),
        (Over::Promoted, Event::StepDone { step, .. }) => step.0.starts_with("db.") && step.0.ends_with(".promote"),
        _ => false,
    }
}
