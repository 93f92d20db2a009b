//! When each target was last seen, and where each database server was then: what is left to know of what is silent now. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::{Hold, RunEnd, RunSummary};
use crate::model::{FacilityName, Facts, Lineage, Live, MemberFacts, Position, Role, TargetId};
use crate::plan::HoldKind;
use crate::plan::lost::known::{Known, Seen};

/// A silence at which nobody has looked for longer than this may have been two: it begins anew.
const GAP: Duration = Duration::from_secs(60);

/// When a target last answered, and for how long it has been silent since. One is kept of each target; the later takes the place of the
/// earlier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The target.
    pub target: TargetId,
    /// When it last answered; none if it never has since somebody looks.
    pub at: Option<Timestamp>,
    /// Where a database server was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberSighting>,
    /// Its silence, where it has not answered when it was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
    /// When it was last asked in vain before it answered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Timestamp>,
}

/// A time in which a target was asked more than once and has never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// When it was first found silent.
    pub since: Timestamp,
    /// When it was last found silent.
    pub last: Timestamp,
}

/// Where a database server was when it last answered and ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSighting {
    /// What it was.
    pub role: Role,
    /// Its history.
    pub lineage: Lineage,
    /// The end of its log.
    pub position: Position,
    /// The names that its commits waited for.
    pub synchronous_names: String,
    /// On a replica: whom it received from, as `host:port` or by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_from: Option<String>,
}

impl Sighting {
    /// When it was last asked in vain, as far as that is known.
    fn in_vain(&self) -> Option<Timestamp> {
        self.silence.map(|silence| silence.last).or(self.quiet)
    }

    /// When the target was last looked at.
    pub fn looked(&self) -> Timestamp {
        let silent = self.silence.map_or(Timestamp::MIN, |silence| silence.last);
        self.at.unwrap_or(Timestamp::MIN).max(silent)
    }
}

/// The sightings of everybody who was asked, by what was known before and what was observed at `now`.
pub fn sightings(before: Vec<Sighting>, live: &Live, now: Timestamp) -> Vec<Sighting> {
    let mut before: BTreeMap<TargetId, Sighting> =
        before.into_iter().map(|sighting| (sighting.target.clone(), sighting)).collect();
    let seen = live.iter().map(|(target, observed)| match observed.known().filter(|facts| runs(facts)) {
        Some(facts) => {
            let member = facts.member().map(MemberSighting::of);
            let quiet = before.remove(target).and_then(|before| before.in_vain());
            Sighting { target: target.clone(), at: Some(now), member, silence: None, quiet }
        }
        None => {
            let before = before.remove(target);
            let begun =
                before.as_ref().and_then(|before| before.silence).filter(|silence| age(silence.last, now) <= GAP);
            let since = begun.map_or(now, |silence| silence.since);
            let (at, member) = before.map_or((None, None), |before| (before.at, before.member));
            let silence = Some(Silence { since, last: now });
            Sighting { target: target.clone(), at, member, silence, quiet: None }
        }
    });
    seen.collect()
}

/// What the sightings say, as ages at `now`.
pub fn known(sightings: Vec<Sighting>, now: Timestamp) -> Known {
    let mut known = Known::default();
    for sighting in sightings {
        let in_vain = sighting.in_vain();
        let Sighting { target, at, member, silence, .. } = sighting;
        if let Some(in_vain) = in_vain {
            known.quiet.insert(target.clone(), age(in_vain, now));
        }
        if let Some(silence) = silence.filter(|silence| age(silence.last, now) <= GAP) {
            known.before.silent.insert(target.clone(), age(silence.since, now));
        }
        let Some(at) = at else { continue };
        let age = age(at, now);
        known.before.answered.insert(target.clone(), age);
        let Some(member) = member else { continue };
        if let Some(from) = member.received_from {
            known.before.received_from.insert(target.clone(), from);
        }
        let MemberSighting { role, lineage, position, synchronous_names, .. } = member;
        known.members.insert(target, Seen { age, role, lineage, position, synchronous_names });
    }
    known
}

/// How long ago what was owed in each facility that came back after a loss had been done: the run that left the hold on it has ended well.
pub fn returned(holds: &[Hold], runs: &[RunSummary], now: Timestamp) -> BTreeMap<FacilityName, Duration> {
    let ended = |hold: &Hold| match runs.iter().find(|run| run.run == hold.run) {
        Some(run) => (run.end == Some(RunEnd::Done)).then_some(run.last),
        // Its records were removed since.
        None => Some(hold.since),
    };
    let settling = holds.iter().filter_map(|hold| match &hold.kind {
        HoldKind::Settling { facility } => Some((facility.clone(), age(ended(hold)?, now))),
        _ => None,
    });
    settling.collect()
}

/// A database server whose machine says that it does not run gives no sign of life.
fn runs(facts: &Facts) -> bool {
    facts.member().is_none_or(|member| !matches!(member.role, Role::Fenced | Role::Stopped))
}

/// Nothing where a clock was set back.
fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

impl MemberSighting {
    fn of(facts: &MemberFacts) -> Self {
        Self {
            role: facts.role,
            lineage: facts.lineage.clone(),
            position: facts.position,
            synchronous_names: facts.synchronous_names.clone(),
            received_from: facts.receives_from.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::journal::RunId;
    use crate::model::{JobFacts, Observed, Unreachable};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn id() -> TargetId {
        TargetId::job(&"billing".into())
    }

    fn live(answers: bool) -> Live {
        let facts = Observed::Known { value: Facts::Job(JobFacts { running: true }), took: Duration::ZERO };
        [(id(), if answers { facts } else { Observed::Unreachable(Unreachable::new("no answer", "test")) })].into()
    }

    /// Looks at these seconds; what is known at the last of them.
    fn looked(looks: &[(i64, bool)]) -> Known {
        let mut kept = Vec::new();
        for (seconds, answers) in looks {
            kept = sightings(kept, &live(*answers), at(*seconds));
        }
        known(kept, at(looks.last().unwrap().0))
    }

    #[test]
    fn a_silence_counts_from_its_first_to_its_last_look() {
        let known = looked(&[(0, true), (10, false), (40, false), (70, false)]);
        assert_eq!(known.before.silent[&id()], Duration::from_secs(60));
        assert_eq!(known.before.answered[&id()], Duration::from_secs(70));
    }

    #[test]
    fn an_answer_ends_it_and_a_long_time_without_a_look_does_so_too() {
        assert_eq!(looked(&[(0, false), (10, true)]).before.silent, BTreeMap::new());
        assert_eq!(looked(&[(0, false), (10, true), (20, false)]).before.silent[&id()], Duration::ZERO);
        assert_eq!(looked(&[(0, false), (600, false), (610, false)]).before.silent[&id()], Duration::from_secs(10));
        let kept = sightings(Vec::new(), &live(false), at(0));
        assert_eq!(known(kept, at(600)).before.silent, BTreeMap::new(), "nobody has looked for ten minutes");
        // That it was asked in vain is remembered.
        let quiet = |looks: &[(i64, bool)]| looked(looks).quiet.get(&id()).copied();
        assert_eq!(
            quiet(&[(0, true), (10, false), (20, false), (30, true), (50, true)]),
            Some(Duration::from_secs(30))
        );
        assert_eq!(quiet(&[(0, false), (10, false)]), Some(Duration::ZERO));
        assert_eq!(quiet(&[(0, true), (10, true)]), None);
    }

    #[test]
    fn who_never_answered_and_a_clock_that_was_set_back_are_no_trouble() {
        let known_of = looked(&[(100, false), (50, false)]);
        assert_eq!(known_of.before.silent[&id()], Duration::ZERO);
        assert_eq!(known_of.before.answered, BTreeMap::new());
        let kept = sightings(Vec::new(), &live(true), at(100));
        assert_eq!(known(kept, at(50)).before.answered[&id()], Duration::ZERO);
    }

    #[test]
    fn what_came_back_counts_from_the_end_of_the_run_that_did_what_was_owed() {
        let run = |name: &str| RunId(name.to_owned());
        let hold = Hold {
            kind: HoldKind::Settling { facility: "west".into() },
            by: "ada@ops".to_owned(),
            since: at(100),
            reason: None,
            review_by: None,
            run: run("back"),
        };
        let ended = |end| RunSummary {
            run: run("back"),
            plan: "p".to_owned(),
            started: at(100),
            operator: "ada@ops".to_owned(),
            end,
            title: String::new(),
            last: at(160),
            leased_until: None,
        };
        let since = |runs: &[RunSummary]| {
            returned(std::slice::from_ref(&hold), runs, at(200)).get("west").map(Duration::as_secs)
        };
        assert_eq!(since(&[ended(Some(RunEnd::Done))]), Some(40));
        assert_eq!(since(&[ended(Some(RunEnd::Stopped))]), None);
        assert_eq!(since(&[ended(None)]), None);
        assert_eq!(since(&[]), Some(100), "its records are gone");
    }
}
