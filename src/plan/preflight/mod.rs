//! Can this database be switched over, now? Pure: asked when planning and again by the gate before anything is touched.

mod followers;
mod members;
mod poolers;

use std::time::Duration;

pub use followers::{led, rewind_note};

use super::live;
use crate::model::{Database, Live, Observed, Span, TargetId};
use crate::topology::Topology;

/// What stands against a switchover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// One sentence that names the things concerned.
    pub what: String,
    /// What to do about it.
    pub advice: String,
    /// True where waiting may be enough: a lag, a long transaction.
    pub may_pass: bool,
}

/// Everything that stands against moving the primary of `database` from one member to another.
pub fn objections(
    topology: &Topology,
    database: &Database,
    from: &TargetId,
    to: &TargetId,
    live: &Live,
) -> Vec<Objection> {
    let mut found = Found::default();
    let (primary, candidate) = match (live::member(live, from), live::member(live, to)) {
        (Some(primary), Some(candidate)) => (primary, candidate),
        _ => {
            for id in [from, to] {
                if let Err(why) = live::facts(live, id) {
                    found.fixed(format!("{} does not answer: {why}", id.name()), "repair it");
                }
            }
            return found.0;
        }
    };
    found.members(database, from, to, primary, candidate);
    found.followers(database, from, to, live);
    found.lag(database, &topology.policy, to, primary, candidate, live);
    found.transactions(&topology.policy, from, to, primary, candidate);
    found.poolers(topology, database, from, live);
    let expected = expected_stall(database, live);
    if expected.0 > topology.policy.max_write_stall.0 / 2 {
        found.fixed(
            format!(
                "writers of {} would wait about {expected}; half of `policy.max_write_stall` ({}) is kept for an undo",
                database.name, topology.policy.max_write_stall
            ),
            "run handover nearer to the databases, or allow a longer stall",
        );
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Objection>);

impl Found {
    fn fixed(&mut self, what: String, advice: &str) {
        self.0.push(Objection { what, advice: advice.to_owned(), may_pass: false });
    }

    fn passing(&mut self, what: String, advice: &str) {
        self.0.push(Objection { what, advice: advice.to_owned(), may_pass: true });
    }
}

/// How long writers should wait: the measured phases beside the servers, and the round trips between them. Observing a member takes
/// about as many (connect, log in, ask) as the critical section does between its phases.
pub fn expected_stall(database: &Database, live: &Live) -> Span {
    const PHASES: Duration = Duration::from_millis(120);
    let took = |id: &TargetId| match live.get(id) {
        Some(Observed::Known { took, .. }) => Some(*took),
        _ => None,
    };
    let slowest = database.members.values().filter_map(|member| took(&member.target.id)).max().unwrap_or_default();
    let stall = u64::try_from((PHASES + slowest).as_millis()).unwrap_or(u64::MAX);
    Span(Duration::from_millis(stall.next_multiple_of(50)))
}
