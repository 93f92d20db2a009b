//! Whole runs on simulated targets, in virtual time.

#![allow(clippy::disallowed_methods, reason = "tests read their fixtures")]

mod common;
#[path = "common/healthy.rs"]
mod healthy;
#[path = "common/rehearsal.rs"]
mod rehearsal;

use std::sync::Arc;
use std::time::Duration;

use handover::journal::{HoldKind, RunEnd};
use handover::model::TargetId;
use handover::plan::{Intent, Plan, Planned};
use handover::rehearse::sim::{Fault, Harm, World};
use rehearsal::Rehearsal;
use tokio::time::Instant;

const EXAMPLE: &str = include_str!("../topology.yaml");

/// A rehearsal in a healthy world.
fn rehearsal(text: &str) -> Rehearsal {
    Rehearsal::of(World::healthy(Arc::new(healthy::read(text))).unwrap())
}

/// The plan; it must be one.
async fn plan(rehearsal: &Rehearsal, intent: &Intent, holds: &[HoldKind]) -> Plan {
    match rehearsal.planned(intent, holds).await {
        Planned::Plan(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

fn primaries(rehearsal: &Rehearsal, database: &str) -> Vec<String> {
    let names = |world: &mut World| world.writable(&database.into());
    rehearsal.simulation.change(names).iter().map(|id| id.name().to_owned()).collect()
}

fn drain() -> Intent {
    Intent { drain: ["west".into()].into(), ..Intent::default() }
}

fn patient() -> String {
    EXAMPLE.replace("ttl: 30s", "ttl: 2h").replace("soak: 30s", "soak: 5m")
}

/// Little waiting: each look at a proxy in virtual time is work all the same.
fn hasty() -> String {
    EXAMPLE.replace("ttl: 30s", "ttl: 2s").replace("soak: 30s", "soak: 1s")
}

/// Hours of plan, there and back, ends as a plan of the result says: nothing is left to do.
#[tokio::test(start_paused = true)]
async fn hours_of_drain_and_restore_take_no_time_and_end_as_wanted() {
    let rehearsal = rehearsal(&patient());
    let began = Instant::now();
    let off = plan(&rehearsal, &drain(), &[]).await;
    let holds = off.holds.clone();
    let expected = off.expected;
    let outcome = rehearsal.apply(off).await;
    assert_eq!(outcome.end, RunEnd::Done, "{}", outcome.summary);
    assert!(began.elapsed() >= Duration::from_secs(2 * 3600 + 3 * 300), "{:?} for {expected}", began.elapsed());
    assert_eq!(primaries(&rehearsal, "accounts"), ["east-pg1"]);
    let nothing = rehearsal.planned(&Intent::default(), &holds).await;
    assert!(matches!(nothing, Planned::Nothing(_)), "{nothing:?}");

    let intent = Intent { restore: ["west".into()].into(), failback: true, ..Intent::default() };
    let outcome = rehearsal.apply(plan(&rehearsal, &intent, &holds).await).await;
    assert_eq!(outcome.end, RunEnd::Done, "{}", outcome.summary);
    assert_eq!(primaries(&rehearsal, "accounts"), ["west-pg1"]);
    let nothing = rehearsal.planned(&Intent::default(), &[]).await;
    assert!(matches!(nothing, Planned::Nothing(_)), "{nothing:?}");
    assert_eq!(rehearsal.simulation.broken(), None);
}

/// Whatever goes wrong with whichever action at the old primary, the candidate, the pooler or a proxy: never two primaries, the run ends with
/// its reason, and clients are led to a primary that takes their writes.
#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_there_is_one_primary_at_most_and_the_run_says_why() {
    let member = |name: &str| TargetId::member(&"accounts".into(), name);
    let targets = [member("west-pg1"), member("east-pg1"), TargetId::pooler("west-pool1"), TargetId::proxy("east-lb1")];
    let (mut ended, mut undone) = (std::collections::BTreeMap::<String, usize>::new(), 0);
    for target in targets {
        for action in 1..6 {
            for harm in [Harm::Refuse, Harm::Ignore, Harm::Hang, Harm::Lose, Harm::Die, Harm::DieAfter] {
                let rehearsal = rehearsal(&hasty());
                let plan = plan(&rehearsal, &drain(), &[]).await;
                rehearsal.simulation.script(Fault { target: target.clone(), action, harm });
                let outcome = rehearsal.apply(plan).await;
                let what = format!("{harm:?} at action {action} of {target}: {}", outcome.summary);
                assert_eq!(rehearsal.simulation.broken(), None, "{what}");
                assert!(outcome.end == RunEnd::Done || !outcome.summary.is_empty(), "{what}");
                *ended.entry(format!("{:?}", outcome.end)).or_default() += 1;
                let dead = matches!(harm, Harm::Die | Harm::DieAfter);
                if outcome.end != RunEnd::Stuck && !dead {
                    let [primary] =
                        primaries(&rehearsal, "accounts").try_into().unwrap_or_else(|all| panic!("{what}: {all:?}"));
                    let address = rehearsal.simulation.change(|world| world.address_of(&member(&primary))).unwrap();
                    for pooler in ["west-pool1", "east-pool1"] {
                        let pool = rehearsal.simulation.change(|world| {
                            world.pool(&TargetId::pooler(pooler), &"accounts".into()).cloned().unwrap()
                        });
                        assert!(!pool.paused && pool.route == address, "{what}: {pooler} {pool:?}");
                    }
                }
                undone += usize::from(outcome.summary.contains("undone"));
            }
        }
    }
    println!("{ended:?}, {undone} sections undone");
    assert!(ended["Done"] > 10 && ended["Stopped"] > 10 && undone > 5, "{ended:?} {undone}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Several things go wrong in one run, anywhere: what must always hold does, the run ends with a reason, and once the faults are over
    /// plans that are applied one after the other end as wanted (or, where the candidate is out, as before), unless somebody has died or a
    /// human must look.
    #[test]
    fn any_faults_break_nothing_and_the_next_plans_end_as_wanted(
        faults in proptest::collection::vec((0usize..100, 1usize..6, 0usize..6), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let rehearsal = rehearsal(&hasty());
            let off = plan(&rehearsal, &drain(), &[]).await;
            let holds = off.holds.clone();
            let all: Vec<TargetId> = rehearsal.engine.topology().targets().map(|target| target.id.clone()).collect();
            let harms = [Harm::Refuse, Harm::Ignore, Harm::Hang, Harm::Lose, Harm::Die, Harm::DieAfter];
            let (mut dies, mut restored) = (false, false);
            for (target, action, harm) in &faults {
                dies |= *harm > 3;
                let target = all[target % all.len()].clone();
                rehearsal.simulation.script(Fault { target, action: *action, harm: harms[*harm] });
            }
            let mut outcome = rehearsal.apply(off).await;
            for _ in 0..faults.len() + 1 {
                assert_eq!(rehearsal.simulation.broken(), None, "{faults:?}: {}", outcome.summary);
                if outcome.end == RunEnd::Done || outcome.end == RunEnd::Stuck || dies {
                    break;
                }
                match rehearsal.planned(&drain(), &holds).await {
                    Planned::Plan(rest) => outcome = rehearsal.apply(*rest).await,
                    Planned::Nothing(_) => break,
                    // A candidate that was withdrawn and could not be led back: a plan repairs what follows a primary that stays.
                    Planned::Refused(refusals) => {
                        let told = format!("{faults:?}: {refusals:?} after {}", outcome.summary);
                        assert!(refusals.iter().all(|refusal| refusal.what.contains("is fenced, not a replica")), "{told}");
                        let back = Intent { restore: ["west".into()].into(), ..Intent::default() };
                        outcome = rehearsal.apply(plan(&rehearsal, &back, &holds).await).await;
                        restored = outcome.end == RunEnd::Done;
                        if restored {
                            break;
                        }
                    }
                }
            }
            assert_eq!(rehearsal.simulation.broken(), None, "{faults:?}: {}", outcome.summary);
            if !dies && outcome.end != RunEnd::Stuck {
                let holds = if restored { Vec::new() } else { holds };
                let rest = rehearsal.planned(&Intent::default(), &holds).await;
                assert!(matches!(rest, Planned::Nothing(_)), "{faults:?}: {} then {rest:?}", outcome.summary);
            }
        });
    }
}
