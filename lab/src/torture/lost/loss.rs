//! What a plan stated of a loss, and what was really lost.
//!
//! A plan says of a lost primary how far its log was when somebody last heard of it, for how long it may have written since then, and how far
//! the candidate is. The checker asks from within the facility, so it knows where that log ended at every moment. What is lost is within
//! the statement if
//!
//! - the log had not passed the stated position when the plan says that it was last heard of: what came later is what the plan calls the
//!   last seconds, of which nobody knows;
//! - the candidate had all that is stated: the new history leaves the old one not before that position;
//! - no write is lost that was acknowledged after somebody else had taken over: nobody has stated that;
//! - and no acknowledged write at all, where the plan says that none is.
//!
//! A loss that is stated as unknown covers everything but the last two.

use handover::journal::{Entry, Record};
use handover::model::Position;
use handover::plan::Plan;
use handover::plan::lost::loss::Loss;

/// How much a moment of the plan may be off: the message that told the position was on its way, and processes wait for a core.
const SLACK_US: i64 = 250_000;

/// How long an acknowledgement may be on its way: what a fence does not drop arrives with the link's delay, on a busy machine later.
const ON_ITS_WAY_US: i64 = 1_000_000;

/// What was stated of a primary that somebody took over from.
#[derive(Clone, Debug)]
pub struct Promise {
    /// The database.
    pub database: String,
    /// The primary that was lost.
    pub from: String,
    /// Who took over.
    pub to: String,
    /// What was stated.
    pub loss: Loss,
    /// When, in microseconds since 1970.
    pub made_us: i64,
    /// When the promotion began.
    pub promoted_us: i64,
    /// Where the new history leaves the old one.
    pub fork: Option<Position>,
}

/// Acknowledged writes that are not on the final primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// How many.
    pub writes: u64,
    /// When the last one of them was acknowledged.
    pub last_us: Option<i64>,
}

/// What a run has promised: of each primary whose successor it has begun to promote.
pub fn promises(plan: &Plan, records: &[Entry]) -> Vec<Promise> {
    let promised = plan.failovers.iter().filter_map(|failover| {
        let step = format!("db.{}.promote", failover.database);
        let promoted = records.iter().find_map(|entry| match &entry.record {
            Record::StepStarted { step: begun, .. } if begun.0 == step => Some(entry.at),
            _ => None,
        })?;
        Some(Promise {
            database: failover.database.to_string(),
            from: failover.from.name().to_owned(),
            to: failover.to.name().to_owned(),
            loss: failover.loss.clone(),
            made_us: plan.created.as_microsecond(),
            promoted_us: promoted.as_microsecond(),
            fork: None,
        })
    });
    promised.collect()
}

/// Where the last line of a timeline's history says that it leaves the one before (PostgreSQL, `StartupXLOG`: number, position, reason).
pub fn fork(history: &str) -> Option<Position> {
    let line = history.lines().rfind(|line| !line.trim().is_empty())?;
    line.split_whitespace().nth(1)?.parse().ok()
}

impl Promise {
    /// Bytes of log that the old primary had written before somebody took over, and that nobody else has. `ends` are those of its log.
    pub fn bytes_lost(&self, ends: &[(i64, Position)]) -> Option<u64> {
        let (_, end) = ends.iter().rfind(|(at, _)| *at <= self.promoted_us)?;
        Some(end.bytes_since(self.fork?))
    }

    /// What was lost beyond what was stated, a sentence each. `ends` are those of the old primary's log.
    pub fn beyond(&self, gone: &Gone, ends: &[(i64, Position)]) -> Vec<String> {
        let (database, old) = (&self.database, &self.from);
        let mut beyond = Vec::new();
        if let (Some(why), true) = (&self.loss.nothing_because, gone.writes > 0) {
            beyond.push(format!("{database}: {} writes are lost, and the plan says none: {why}", gone.writes));
        }
        if gone.last_us.is_some_and(|last| last > self.promoted_us + ON_ITS_WAY_US) {
            beyond.push(format!("{database}: a write is lost that was acknowledged after {} had taken over", self.to));
        }
        if let Some(fork) = self.fork.filter(|fork| *fork < self.loss.candidate) {
            let stated = self.loss.candidate;
            beyond
                .push(format!("{database}: the plan says that {} has {stated}, its history begins at {fork}", self.to));
        }
        if let (Some(known), Some(unheard)) = (&self.loss.last_known, self.loss.unheard) {
            let unheard = i64::try_from(unheard.as_micros()).unwrap_or(i64::MAX);
            let heard = self.made_us.saturating_sub(unheard).saturating_sub(SLACK_US);
            let then = ends.iter().rfind(|(at, _)| *at <= heard);
            if let Some((_, end)) = then.filter(|(_, end)| *end > known.position) {
                let more = end.bytes_since(known.position);
                beyond.push(format!(
                    "{database}: {old} had written {more} bytes more than the plan says that were heard of"
                ));
            }
        }
        beyond
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use handover::plan::lost::loss::LastKnown;

    use super::*;

    fn position(lsn: u64) -> Position {
        Position::Lsn(lsn)
    }

    /// Made at 10 s: three seconds ago the old primary was at 1000, the candidate has 900.
    fn promise() -> Promise {
        let last_known = LastKnown { position: position(1000), age: Duration::from_secs(3), by: "east-pg2".to_owned() };
        let loss = Loss {
            last_known: Some(last_known),
            candidate: position(900),
            bytes: Some(100),
            unheard: Some(Duration::from_secs(3)),
            nothing_because: None,
        };
        let [database, from, to] = ["products", "west-pg2", "east-pg2"].map(str::to_owned);
        let fork = Some(position(900));
        Promise { database, from, to, loss, made_us: 10_000_000, promoted_us: 12_000_000, fork }
    }

    fn lost(writes: u64, last_us: i64) -> Gone {
        Gone { writes, last_us: Some(last_us) }
    }

    #[test]
    fn what_was_written_after_the_last_word_of_it_is_stated_and_what_was_before_is_not() {
        let ends = [(6_000_000, position(990)), (7_100_000, position(2000)), (13_000_000, position(3000))];
        assert_eq!(promise().beyond(&lost(5, 7_100_000), &ends), Vec::<String>::new());
        assert_eq!(promise().bytes_lost(&ends), Some(1100));
        let early = [(6_000_000, position(1001))];
        assert_eq!(promise().beyond(&Gone::default(), &early).len(), 1);
        let unknown =
            Promise { loss: Loss { last_known: None, bytes: None, unheard: None, ..promise().loss }, ..promise() };
        assert_eq!(unknown.beyond(&lost(5, 7_100_000), &early), Vec::<String>::new());
    }

    #[test]
    fn nobody_states_what_is_lost_after_somebody_took_over_or_that_none_is_lost_where_some_is() {
        assert_eq!(promise().beyond(&lost(1, 13_500_000), &[]).len(), 1);
        let none = Promise { loss: Loss { nothing_because: Some("proven".to_owned()), ..promise().loss }, ..promise() };
        assert_eq!(none.beyond(&lost(1, 7_000_000), &[]).len(), 1);
        assert_eq!(none.beyond(&Gone::default(), &[]), Vec::<String>::new());
        let less = Promise { fork: Some(position(899)), ..promise() };
        assert_eq!(less.beyond(&Gone::default(), &[]).len(), 1);
    }

    #[test]
    fn the_last_line_of_a_history_tells_the_fork() {
        let history = "1\t0/5000148\tno recovery target specified\n\n2\t0/6000000\tno recovery target specified\n";
        assert_eq!(fork(history), Some(position(0x600_0000)));
        assert_eq!(fork(""), None);
    }
}
