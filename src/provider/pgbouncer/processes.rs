//! A pooler of several processes that share a port, as one. Pure.
//!
//! With `so_reuseport` the kernel gives every connection to one of the processes, consoles too: over the shared port nobody can tell
//! which one listens. So each process has a console of its own, and all of them must say the same.

use std::collections::BTreeSet;

use crate::model::{PoolFacts, PoolMode, PoolerFacts, Unreachable};
use crate::provider::Outcome;

/// What one process says.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// Where it was asked.
    pub console: String,
    /// The names of our own sessions that it has; a console's sessions bear the console's address.
    pub sessions: BTreeSet<String>,
    /// True where other processes may listen on its port.
    pub shares_port: bool,
    /// The rest.
    pub facts: PoolerFacts,
}

/// The name of a session at the shared port.
pub(super) fn knock_name(number: usize) -> String {
    format!("knock {number}")
}

/// What the processes say together: what all say, and else the worst. `knocks` sessions were open at the shared port meanwhile.
pub(super) fn merged(processes: Vec<Process>, listed: bool, knocks: usize) -> Option<PoolerFacts> {
    let gaps = gaps(&processes, listed, knocks);
    let merged = processes.into_iter().map(|process| process.facts).reduce(|mut all, one| {
        all.writable &= one.writable;
        all.query_wait_timeout = match (all.query_wait_timeout, one.query_wait_timeout) {
            // Zero is for ever.
            (all, one) if all.is_zero() || one.is_zero() => all.max(one),
            (all, one) => all.min(one),
        };
        all.login_retry = all.login_retry.max(one.login_retry);
        for (name, pool) in one.databases {
            let both = all.databases.remove(&name).flatten().zip(pool).map(|(all, one)| together(all, one));
            all.databases.insert(name, both);
        }
        all
    })?;
    Some(PoolerFacts { gaps, ..merged })
}

fn together(all: PoolFacts, one: PoolFacts) -> PoolFacts {
    let session = all.mode == PoolMode::Session || one.mode == PoolMode::Session;
    PoolFacts {
        // Never equal to an address, so that it is nowhere taken for the right one.
        route: if all.route == one.route { all.route } else { format!("{} and {}", all.route, one.route) },
        written_route: None,
        mode: if session { PoolMode::Session } else { all.mode },
        paused: all.paused && one.paused,
        pausing: all.pausing || one.pausing,
        active: all.active + one.active,
        waiting: all.waiting + one.waiting,
        own_min_size: all.own_min_size.max(one.own_min_size),
        servers: all.servers.into_iter().chain(one.servers).collect(),
    }
}

fn gaps(processes: &[Process], listed: bool, knocks: usize) -> Vec<String> {
    if !listed {
        let shared = processes.iter().any(|process| process.shares_port);
        return shared
            .then(|| {
                "it may be several processes on one port (so_reuseport = 1), and their consoles are not listed"
                    .to_owned()
            })
            .into_iter()
            .collect();
    }
    let mut gaps = Vec::new();
    for (index, process) in processes.iter().enumerate() {
        for other in &processes[index + 1..] {
            if process.sessions.contains(&other.console) || other.sessions.contains(&process.console) {
                gaps.push(format!("the consoles {} and {} are of one process", process.console, other.console));
            }
        }
    }
    let known = |name: &String| processes.iter().any(|process| process.sessions.contains(name));
    if !(0..knocks).all(|number| known(&knock_name(number))) {
        gaps.push("clients also reach a process whose console is not listed".to_owned());
    }
    gaps
}

/// What became of an action at all processes: applied only if all took it, "not applied" only if none did.
pub(super) fn all(outcomes: Vec<Outcome>) -> Outcome {
    let count = outcomes.len();
    let untouched = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::NotApplied(_))).count();
    let worst = outcomes.into_iter().max_by_key(|outcome| match outcome {
        Outcome::Applied | Outcome::Seen(_) => 0,
        Outcome::NotApplied(_) => 1,
        Outcome::Unknown(_) => 2,
    });
    match worst {
        None | Some(Outcome::Applied | Outcome::Seen(_)) => Outcome::Applied,
        Some(Outcome::NotApplied(why)) if untouched < count => {
            let text = format!("{}; {} of {count} processes took it", why.why, count - untouched);
            Outcome::Unknown(Unreachable { why: text, ..why })
        }
        Some(outcome) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn process(console: &str, sessions: &[&str], route: &str) -> Process {
        let pool = PoolFacts {
            route: route.to_owned(),
            written_route: None,
            mode: PoolMode::Transaction,
            paused: true,
            pausing: true,
            active: 1,
            waiting: 2,
            own_min_size: 0,
            servers: BTreeSet::new(),
        };
        Process {
            console: console.to_owned(),
            sessions: sessions.iter().map(|name| (*name).to_owned()).collect(),
            shares_port: true,
            facts: PoolerFacts {
                version: "PgBouncer 1.18.0".to_owned(),
                writable: true,
                query_wait_timeout: Duration::from_secs(120),
                login_retry: Duration::from_secs(15),
                gaps: Vec::new(),
                databases: BTreeMap::from([("accounts".into(), Some(pool))]),
            },
        }
    }

    #[test]
    fn only_what_all_say_is_true_of_the_pooler() {
        let (one, mut two) = (process("a:1", &[], "h:1"), process("b:1", &[], "h:2"));
        two.facts.query_wait_timeout = Duration::ZERO;
        let pool = two.facts.databases.get_mut("accounts").unwrap().as_mut().unwrap();
        (pool.paused, pool.mode) = (false, PoolMode::Session);
        let facts = merged(vec![one.clone(), two.clone()], true, 0).unwrap();
        let pool = facts.databases["accounts"].as_ref().unwrap();
        assert_eq!((pool.route.as_str(), pool.paused, pool.pausing, pool.waiting), ("h:1 and h:2", false, true, 4));
        assert_eq!((pool.mode, facts.query_wait_timeout), (PoolMode::Session, Duration::from_secs(120)));
        two.facts.databases.insert("accounts".into(), None);
        assert_eq!(merged(vec![one, two], true, 0).unwrap().databases["accounts"], None);
    }

    #[test]
    fn processes_that_would_not_be_paused_are_found() {
        let found = |processes: &[Process], listed, knocks| merged(processes.to_vec(), listed, knocks).unwrap().gaps;
        let (a, b) = (process("a:1", &["a:1", "knock 0"], "h:1"), process("b:1", &["b:1", "knock 1"], "h:1"));
        assert_eq!(found(&[a.clone(), b.clone()], true, 2), [""; 0]);
        assert_eq!(
            found(&[a.clone(), b.clone()], true, 3),
            ["clients also reach a process whose console is not listed"]
        );
        let same = process("b:1", &["a:1", "b:1", "knock 1"], "h:1");
        assert_eq!(found(&[a.clone(), same], true, 2), ["the consoles a:1 and b:1 are of one process"]);
        let alone = found(&[a], false, 0);
        assert!(alone.len() == 1 && alone[0].contains("so_reuseport"), "{alone:?}");
    }

    #[test]
    fn a_part_is_neither_all_nor_nothing() {
        let no = || Outcome::NotApplied(Unreachable::new("refused", "PAUSE"));
        assert_eq!(all(vec![Outcome::Applied, Outcome::Applied]), Outcome::Applied);
        assert_eq!(all(vec![no(), no()]), no());
        let Outcome::Unknown(why) = all(vec![no(), Outcome::Applied]) else { panic!() };
        assert_eq!(why.why, "refused; 1 of 2 processes took it");
    }
}
