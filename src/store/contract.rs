//! What every store must do: one test per clause and store, made by `store_contract!`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::journal::{
    Entry, Hold, HoldKind, Holder, How, Lock, MemberSighting, Moment, Process, Record, RunEnd, RunId, Sighting,
    Silence, Store, StoreError,
};
use crate::model::{Action, Condition, FromTo, Lineage, Position, RecordKey, RecordSet, RecordType, Role, TargetId};
use crate::plan::{Assumption, StepId};

/// A store's place; opening it again is what another process, or the next one, does.
pub trait Bench {
    /// A new, empty place.
    fn new() -> Self;
    /// Opens the store there for the topology `clickbank`.
    fn open(&self) -> Arc<dyn Store>;
}

macro_rules! store_contract {
    ($bench:ty) => {
        store_contract! { $bench:
            of_two_holders_one_wins
            what_would_stop_a_run_is_told_beforehand_and_nothing_is_taken
            of_many_at_once_one_wins
            an_expired_lease_is_taken_over_and_its_old_holder_stopped
            a_lease_that_ran_out_untaken_is_still_good
            a_lease_is_given_back_at_the_end
            somebody_elses_lock_can_be_given_back
            tokens_rise_with_every_holder
            a_run_without_a_holder_is_gone_on_with
            a_dead_holder_is_taken_over_from_and_a_living_one_is_not
            a_plan_is_used_once
            holds_are_made_with_the_first_record_and_released_with_the_last
            a_hold_on_the_same_subject_replaces_the_earlier_one
            what_was_appended_survives_a_holder_that_died
            records_read_back_as_written
            a_run_begins_and_ends_with_its_own_records
            what_was_seen_last_is_kept_of_each_target
            a_list_says_who_is_at_work_and_when_they_were_last_heard
            only_runs_that_are_over_are_pruned_and_their_plans_stay_used
        }
    };
    ($bench:ty: $($clause:ident)*) => {$(
        #[tokio::test]
        async fn $clause() {
            $crate::store::contract::$clause(<$bench as $crate::store::contract::Bench>::new()).await;
        }
    )*};
}
pub(crate) use store_contract;

/// So many seconds after the beginning of the test's time.
pub fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000).unwrap() + SignedDuration::from_secs(seconds)
}

/// A record at so many seconds.
pub fn entry(sequence: u64, seconds: i64, record: Record) -> Entry {
    Entry { sequence, at: moment(seconds), elapsed_ms: 7, record }
}

/// The first record of a run of the plan with this digest.
pub fn first(seconds: i64, digest: &str, holds: &[Hold]) -> Entry {
    let record = Record::RunStarted {
        plan: format!("plan-{digest}"),
        plan_digest: digest.to_owned(),
        operator: "ada@ops pid 4711".to_owned(),
        holds: holds.to_vec(),
        title: "drain west".to_owned(),
        document: None,
        overrides: crate::plan::Overrides::new(),
    };
    entry(0, seconds, record)
}

/// A record in the middle.
pub fn step(id: &str) -> Record {
    Record::StepDone { step: StepId(id.to_owned()), verified: "as demanded".to_owned() }
}

/// The last record.
pub fn end(released: &[HoldKind]) -> Record {
    Record::RunEnded { end: RunEnd::Done, summary: "west is drained".to_owned(), released: released.to_vec() }
}

fn run(name: &str) -> RunId {
    RunId(name.to_owned())
}

fn hold(kind: HoldKind, reason: &str) -> Hold {
    let reason = Some(reason.to_owned());
    Hold { kind, by: "ada@ops".to_owned(), since: moment(0), reason, review_by: Some(moment(86_400)), run: run("1") }
}

fn drained(facility: &str) -> HoldKind {
    HoldKind::Drained { facility: facility.into() }
}

pub async fn of_two_holders_one_wins(bench: impl Bench) {
    let (one, two) = (bench.open(), bench.open());
    one.begin(&run("1"), &"ada@ops pid 1".into(), &first(0, "a", &[])).await.unwrap();
    match two.begin(&run("2"), &"bob@ops pid 2".into(), &first(29, "b", &[])).await {
        Err(StoreError::Locked(lock)) => {
            let seen = (lock.holder.name.as_str(), lock.since, lock.until, lock.run.0.as_str());
            assert_eq!(seen, ("ada@ops pid 1", moment(0), moment(30), "1"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(two.runs().await.unwrap().len(), 1, "the loser leaves nothing behind");
}

pub async fn somebody_elses_lock_can_be_given_back(bench: impl Bench) {
    let (one, two) = (bench.open(), bench.open());
    assert_eq!(two.lock().await.unwrap(), None);
    let text = |text: &str| text.to_owned();
    let process =
        Process { machine: text("ops"), boot: text("b"), namespace: text("pid:[1]"), pid: 7, started: u64::MAX };
    let ada = Holder { name: text("ada@ops pid 7"), process: Some(process) };
    let lease = one.begin(&run("1"), &ada, &first(0, "a", &[])).await.unwrap();
    one.append(&lease, &entry(1, 1, step("a"))).await.unwrap();
    let lock = two.lock().await.unwrap().unwrap();
    assert_eq!((&lock.holder, lock.token, lock.until), (&ada, lease.token, moment(31)));
    // One who has taken it meanwhile keeps it.
    let newer = Lock { token: lock.token + 1, ..lock.clone() };
    assert!(!two.unlock(&newer, &"bob".into(), moment(2)).await.unwrap());
    one.append(&lease, &entry(2, 2, step("b"))).await.unwrap();
    assert!(two.unlock(&lock, &"bob".into(), moment(3)).await.unwrap());
    assert_eq!(two.lock().await.unwrap(), None);
    let lost = one.append(&lease, &entry(3, 4, step("c"))).await;
    assert!(matches!(lost, Err(StoreError::LeaseLost { .. })));
    let records = two.records(&run("1")).await.unwrap();
    assert_eq!(records.last().unwrap().record, Record::Unlocked { by: text("bob") });
    let next = two.begin(&run("2"), &"bob".into(), &first(5, "b", &[])).await.unwrap();
    assert!(next.token > lease.token);
    assert!(!one.unlock(&lock, &"ada".into(), moment(6)).await.unwrap());
}

pub async fn of_many_at_once_one_wins(bench: impl Bench) {
    let stores: Vec<_> = (0..8).map(|number| (number, bench.open())).collect();
    let attempts = stores.into_iter().map(|(number, store)| {
        tokio::spawn(async move {
            store.begin(&run(&format!("{number}")), &"ada".into(), &first(0, &format!("{number}"), &[])).await
        })
    });
    let mut won = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(StoreError::Locked(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 1);
}

pub async fn an_expired_lease_is_taken_over_and_its_old_holder_stopped(bench: impl Bench) {
    let (one, two) = (bench.open(), bench.open());
    let old = one.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    one.append(&old, &entry(1, 20, step("a"))).await.unwrap();
    assert!(
        matches!(two.begin(&run("2"), &"bob".into(), &first(45, "b", &[])).await, Err(StoreError::Locked(_))),
        "an append prolongs the lease"
    );
    one.renew(&old, moment(40)).await.unwrap();
    let new = two.begin(&run("2"), &"bob".into(), &first(70, "b", &[])).await.unwrap();
    let lost = |result| matches!(result, Err(StoreError::LeaseLost { run }) if run.0 == "1");
    assert!(lost(one.append(&old, &entry(2, 71, step("b"))).await));
    assert!(lost(one.renew(&old, moment(71)).await));
    assert!(lost(one.end(&old, &entry(2, 71, end(&[]))).await));
    two.end(&new, &entry(1, 72, end(&[]))).await.unwrap();
    assert!(lost(one.append(&old, &entry(2, 73, step("b"))).await), "also once the new holder has ended");
    assert_eq!(one.records(&run("1")).await.unwrap().len(), 2);
}

pub async fn a_lease_that_ran_out_untaken_is_still_good(bench: impl Bench) {
    let store = bench.open();
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    store.append(&lease, &entry(1, 3_600, step("a"))).await.unwrap();
    assert!(matches!(store.begin(&run("2"), &"bob".into(), &first(3_601, "b", &[])).await, Err(StoreError::Locked(_))));
}

pub async fn a_lease_is_given_back_at_the_end(bench: impl Bench) {
    let store = bench.open();
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    store.end(&lease, &entry(1, 1, end(&[]))).await.unwrap();
    store.begin(&run("2"), &"bob".into(), &first(1, "b", &[])).await.unwrap();
    let runs = store.runs().await.unwrap();
    let runs: Vec<_> = runs.iter().map(|run| (run.run.0.as_str(), run.plan.as_str(), run.end)).collect();
    assert_eq!(runs, [("2", "plan-b", None), ("1", "plan-a", Some(RunEnd::Done))]);
}

fn resumed(holds: &[Hold]) -> Record {
    let overrides = crate::plan::Overrides::new();
    Record::RunResumed { operator: "bob@ops pid 2".to_owned(), how: How::Resume, holds: holds.to_vec(), overrides }
}

fn at(seconds: i64) -> Moment {
    Moment { at: moment(seconds), elapsed: std::time::Duration::from_millis(7) }
}

pub async fn a_run_without_a_holder_is_gone_on_with(bench: impl Bench) {
    let (one, two) = (bench.open(), bench.open());
    let (bob, goes_on) = ("bob@ops pid 2".into(), resumed(&[hold(drained("east"), "again")]));
    let none = two.resume(&run("1"), &bob, None, at(0), &goes_on).await;
    assert!(matches!(none, Err(StoreError::NoRun { run }) if run.0 == "1"));
    let old = one.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    one.append(&old, &entry(1, 1, step("a"))).await.unwrap();
    one.end(&old, &entry(2, 2, end(&[]))).await.unwrap();
    let (new, number) = two.resume(&run("1"), &bob, None, at(3), &goes_on).await.unwrap();
    assert!(new.token > old.token && number == 3);
    assert_eq!(two.records(&run("1")).await.unwrap().last().unwrap(), &entry(3, 3, goes_on));
    assert_eq!(two.runs().await.unwrap()[0].end, None, "it has not ended any more");
    assert_eq!(two.holds().await.unwrap().len(), 1);
    assert!(matches!(one.append(&old, &entry(4, 4, step("b"))).await, Err(StoreError::LeaseLost { .. })));
    let other = one.resume(&run("1"), &"ada".into(), None, at(5), &resumed(&[])).await;
    assert!(matches!(other, Err(StoreError::Locked(lock)) if lock.holder.name == "bob@ops pid 2"));
    two.end(&new, &entry(4, 6, end(&[]))).await.unwrap();
    assert!(two.resume(&run("1"), &bob, None, at(7), &step("a")).await.is_err(), "it says what it is");
}

pub async fn a_dead_holder_is_taken_over_from_and_a_living_one_is_not(bench: impl Bench) {
    let (one, two) = (bench.open(), bench.open());
    let old = one.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    let dead = two.lock().await.unwrap().unwrap();
    let bob = "bob@ops pid 2".into();
    assert!(matches!(two.resume(&run("1"), &bob, None, at(1), &resumed(&[])).await, Err(StoreError::Locked(_))));
    let (new, _) = two.resume(&run("1"), &bob, Some(&dead), at(1), &resumed(&[])).await.unwrap();
    assert!(new.token > old.token);
    let again = one.resume(&run("1"), &"eve".into(), Some(&dead), at(2), &resumed(&[])).await;
    assert!(matches!(again, Err(StoreError::Locked(lock)) if lock.token == new.token), "only that holder was dead");
}

pub async fn tokens_rise_with_every_holder(bench: impl Bench) {
    let mut last = 0;
    for number in 0..3 {
        let store = bench.open();
        let digest = number.to_string();
        let lease = store.begin(&run(&digest), &"ada".into(), &first(number, &digest, &[])).await.unwrap();
        assert!(lease.token > last);
        last = lease.token;
        store.end(&lease, &entry(1, number, end(&[]))).await.unwrap();
    }
}

pub async fn a_plan_is_used_once(bench: impl Bench) {
    let store = bench.open();
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    store.end(&lease, &entry(1, 1, end(&[]))).await.unwrap();
    match store.begin(&run("2"), &"ada".into(), &first(2, "a", &[])).await {
        Err(StoreError::PlanUsed { run }) => assert_eq!(run.0, "1"),
        other => panic!("{other:?}"),
    }
    store.begin(&run("3"), &"ada".into(), &first(3, "b", &[])).await.expect("the refusal leaves no lock behind");
}

pub async fn what_would_stop_a_run_is_told_beforehand_and_nothing_is_taken(bench: impl Bench) {
    let (one, two) = (bench.open(), bench.open());
    two.may_begin("a", moment(0)).await.unwrap();
    let lease = one.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    assert!(matches!(two.may_begin("b", moment(29)).await, Err(StoreError::Locked(lock)) if lock.holder.name == "ada"));
    two.may_begin("b", moment(31)).await.expect("the lease has expired");
    one.end(&lease, &entry(1, 32, end(&[]))).await.unwrap();
    assert!(matches!(two.may_begin("a", moment(33)).await, Err(StoreError::PlanUsed { run }) if run.0 == "1"));
    two.may_begin("b", moment(33)).await.unwrap();
}

pub async fn holds_are_made_with_the_first_record_and_released_with_the_last(bench: impl Bench) {
    let store = bench.open();
    let primary = HoldKind::Primary {
        database: "accounts".into(),
        member: TargetId::member(&"accounts".into(), "east-pg1"),
        away_from: "west".into(),
    };
    let holds = [hold(drained("west"), "new switches"), hold(primary.clone(), "moved with the drain")];
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &holds)).await.unwrap();
    assert_eq!(bench.open().holds().await.unwrap(), holds, "in force from the first record on, oldest first");
    store.end(&lease, &entry(1, 1, end(&[]))).await.unwrap();
    let lease = store.begin(&run("2"), &"ada".into(), &first(2, "b", &[])).await.unwrap();
    store.end(&lease, &entry(1, 3, end(&[drained("west"), drained("east")]))).await.unwrap();
    let left: Vec<_> = store.holds().await.unwrap().into_iter().map(|hold| hold.kind).collect();
    assert_eq!(left, [primary]);
}

pub async fn a_hold_on_the_same_subject_replaces_the_earlier_one(bench: impl Bench) {
    let store = bench.open();
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &[hold(drained("west"), "first")])).await.unwrap();
    store.end(&lease, &entry(1, 1, end(&[]))).await.unwrap();
    store.begin(&run("2"), &"ada".into(), &first(2, "b", &[hold(drained("west"), "second")])).await.unwrap();
    let reasons: Vec<_> = store.holds().await.unwrap().into_iter().map(|hold| hold.reason.unwrap()).collect();
    assert_eq!(reasons, ["second"]);
}

pub async fn what_was_appended_survives_a_holder_that_died(bench: impl Bench) {
    let store = bench.open();
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &[hold(drained("west"), "x")])).await.unwrap();
    store.append(&lease, &entry(1, 1, step("a"))).await.unwrap();
    drop(store);
    let store = bench.open();
    assert_eq!(store.records(&run("1")).await.unwrap().len(), 2);
    assert_eq!(store.runs().await.unwrap()[0].end, None);
    assert_eq!(store.holds().await.unwrap().len(), 1);
    assert!(matches!(store.begin(&run("2"), &"ada".into(), &first(2, "b", &[])).await, Err(StoreError::Locked(_))));
    store.begin(&run("2"), &"ada".into(), &first(31, "b", &[])).await.expect("its lease runs out");
}

pub async fn records_read_back_as_written(bench: impl Bench) {
    let store = bench.open();
    let key = RecordKey { name: "pay.clickbank.example".to_owned(), rtype: RecordType::A };
    let set = |address: &str| RecordSet { ttl: 30, data: [address.parse().unwrap()].into() };
    let change = FromTo { from: Some(set("10.10.0.80")), to: None };
    let assumed = Assumption {
        target: TargetId::name_server(&"clickbank.example".into(), "west-ns1"),
        condition: Condition::Records { sets: BTreeMap::from([(key.clone(), Some(set("10.10.0.80")))]) },
    };
    let started = Record::StepStarted {
        step: StepId("dns.remove".to_owned()),
        assumed: vec![assumed],
        intended: Some(Action::SetRecords { zone: "clickbank.example".into(), sets: BTreeMap::from([(key, change)]) }),
    };
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    let written = [first(0, "a", &[]), entry(1, 1, started), entry(2, 2, step("dns.remove")), entry(3, 3, end(&[]))];
    store.append(&lease, &written[1]).await.unwrap();
    store.append(&lease, &written[2]).await.unwrap();
    store.end(&lease, &written[3]).await.unwrap();
    assert_eq!(store.records(&run("1")).await.unwrap(), written);
    assert_eq!(store.records(&run("none")).await.unwrap(), []);
}

pub async fn what_was_seen_last_is_kept_of_each_target(bench: impl Bench) {
    let (store, other) = (bench.open(), bench.open());
    assert_eq!(store.sightings().await.unwrap(), []);
    let (proxy, member) = (TargetId::proxy("west-lb1"), TargetId::member(&"accounts".into(), "west-pg1"));
    let place = |position| MemberSighting {
        role: Role::Primary,
        lineage: Lineage { system: "7".to_owned(), timeline: 1 },
        position: Position::Lsn(position),
        synchronous_names: "ANY 1 (east_pg1)".to_owned(),
        received_from: None,
    };
    let seen = |target: &TargetId, seconds, member| Sighting {
        target: target.clone(),
        at: Some(moment(seconds)),
        member,
        silence: None,
        quiet: None,
    };
    let silent = |before: &Sighting, since, last| Sighting {
        silence: Some(Silence { since: moment(since), last: moment(last) }),
        ..before.clone()
    };
    let (first_proxy, first_member) = (seen(&proxy, 0, None), seen(&member, 0, Some(place(100))));
    store.saw(vec![first_proxy.clone(), first_member.clone()]).await.unwrap();
    assert_eq!(other.sightings().await.unwrap(), [first_member.clone(), first_proxy.clone()]);

    // The later look counts, whoever writes later.
    let later = silent(&first_member, 20, 30);
    other.saw(vec![later.clone()]).await.unwrap();
    store.saw(vec![seen(&member, 10, Some(place(200)))]).await.unwrap();
    assert_eq!(store.sightings().await.unwrap(), [later, first_proxy]);
}

pub async fn a_list_says_who_is_at_work_and_when_they_were_last_heard(bench: impl Bench) {
    let store = bench.open();
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    store.append(&lease, &entry(1, 20, step("a"))).await.unwrap();
    let [listed] = store.runs().await.unwrap().try_into().unwrap();
    assert_eq!((listed.title.as_str(), listed.started, listed.last), ("drain west", moment(0), moment(20)));
    assert!(listed.is_running(moment(49)) && !listed.is_running(moment(51)), "{listed:?}");
    let sequences = |entries: Vec<Entry>| entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(store.records_from(&run("1"), 1).await.unwrap()), [1]);
    assert_eq!(sequences(store.records_from(&run("1"), 2).await.unwrap()), [0; 0]);
    store.end(&lease, &entry(2, 21, end(&[]))).await.unwrap();
    let [listed] = store.runs().await.unwrap().try_into().unwrap();
    assert_eq!((listed.last, listed.end, listed.leased_until), (moment(21), Some(RunEnd::Done), None));
}

pub async fn only_runs_that_are_over_are_pruned_and_their_plans_stay_used(bench: impl Bench) {
    let store = bench.open();
    let ended = |run_end, released: &[HoldKind]| {
        let released = released.to_vec();
        entry(1, 1, Record::RunEnded { end: run_end, summary: String::new(), released })
    };
    let ends = [RunEnd::Done, RunEnd::Undone, RunEnd::Refused, RunEnd::Stopped, RunEnd::Stuck, RunEnd::Done];
    for (number, end) in ends.into_iter().enumerate() {
        let name = number.to_string();
        let holds = if number == 5 { vec![Hold { run: run("5"), ..hold(drained("west"), "x") }] } else { Vec::new() };
        let lease = store.begin(&run(&name), &"ada".into(), &first(number as i64, &name, &holds)).await.unwrap();
        store.end(&lease, &ended(end, &[])).await.unwrap();
    }
    store.begin(&run("6"), &"ada".into(), &first(6, "6", &[])).await.unwrap();
    let all: Vec<RunId> = (0..8).map(|number: usize| run(&number.to_string())).collect();
    let names = |runs: Vec<RunId>| runs.into_iter().map(|run| run.0).collect::<Vec<_>>();
    assert_eq!(names(store.prune(&all).await.unwrap()), ["0", "1", "2"]);
    assert_eq!(names(store.prune(&all).await.unwrap()), [""; 0], "once is enough");
    let left = store.runs().await.unwrap().into_iter().map(|summary| summary.run).collect();
    assert_eq!(names(left), ["6", "5", "4", "3"]);
    assert_eq!(store.records(&run("0")).await.unwrap(), []);
    assert_eq!(store.records(&run("3")).await.unwrap().len(), 2);
    let again = store.may_begin("0", moment(60)).await;
    assert!(matches!(again, Err(StoreError::PlanUsed { run }) if run.0 == "0"));
}

pub async fn a_run_begins_and_ends_with_its_own_records(bench: impl Bench) {
    let store = bench.open();
    assert!(store.begin(&run("1"), &"ada".into(), &entry(0, 0, step("a"))).await.is_err());
    let lease = store.begin(&run("1"), &"ada".into(), &first(0, "a", &[])).await.unwrap();
    assert!(store.end(&lease, &entry(1, 1, step("a"))).await.is_err());
    store.end(&lease, &entry(1, 1, end(&[]))).await.unwrap();
}
