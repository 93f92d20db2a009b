//! PostgreSQL: a primary and a replica. What is done is the preparation of a promotion, the reversible part that touches most.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use handover::journal::Permit;
use handover::model::{Action, Condition, Facts, Lineage, MemberFacts, Observed, Role, Scope, Target};
use handover::provider::postgresql::{
    FINISH_PROMOTION, FOLLOW_LATER, MAKE_SLOTS, PREPARE_PROMOTION, Postgresql, RELEASE_REPLICAS, SET_SYNCHRONOUS,
    UNMAKE_SLOTS, UNPREPARE_PROMOTION, UNRELEASE_REPLICAS, UNSET_SYNCHRONOUS,
};
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use tokio::time::Instant;

use crate::servers::{Member, Site, as_postgres, free_port};
use crate::{Subject, common};

mod kept;
mod rebuild;
mod receiver;

pub struct Cluster {
    // Dropped in this order: the servers before their directory.
    replica: Member,
    _primary: Member,
    site: Site,
}

fn args() -> BTreeMap<String, Vec<String>> {
    BTreeMap::from([
        ("followers".to_owned(), vec!["west-pg1".to_owned()]),
        ("synchronous".to_owned(), vec!["FIRST 1 (\"south-pg1\")".to_owned()]),
    ])
}

#[async_trait]
impl Subject for Cluster {
    async fn start() -> Self {
        let site = Site::new();
        let primary = Member::primary(&site, "west-pg1");
        let replica = Member::replica(&site, "east-pg1", &primary);
        Self { replica, _primary: primary, site }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(Postgresql::new(self.site.secrets(), Arc::new(Transport::new())))
    }

    fn target(&self) -> Target {
        self.replica.target()
    }

    fn nobody(&self) -> Target {
        Target { address: format!("127.0.0.1:{}", free_port()), ..self.target() }
    }

    fn scope(&self) -> Scope {
        Scope::Member
    }

    fn action(&self) -> Action {
        Action::Native { verb: PREPARE_PROMOTION.to_owned(), args: args() }
    }

    fn condition(&self) -> Condition {
        Condition::Native { verb: PREPARE_PROMOTION.to_owned(), args: args(), done: true }
    }

    fn undo(&self) -> Action {
        Action::Native { verb: UNPREPARE_PROMOTION.to_owned(), args: args() }
    }

    fn undone(&self) -> Condition {
        Condition::Native { verb: PREPARE_PROMOTION.to_owned(), args: args(), done: false }
    }

    fn stale(&self) -> Option<Action> {
        // Another system: a promotion must not touch it.
        Some(Action::Promote { lineage: Lineage { system: "1".to_owned(), timeline: 1 } })
    }

    async fn hang(&self) {
        self.replica.signal("-STOP");
    }

    async fn unhang(&self) {
        self.replica.signal("-CONT");
    }

    fn comparable(&self, facts: &Facts) -> String {
        let mut facts = facts.member().unwrap().clone();
        facts.position = handover::model::Position::Lsn(0);
        facts.replayed = facts.position;
        facts.receiver = None;
        facts.slots.iter_mut().for_each(|slot| slot.retained_bytes = 0);
        format!("{facts:#?}")
    }
}

crate::contract!(Cluster);

fn within(seconds: f64) -> Instant {
    Instant::now() + Duration::from_secs_f64(seconds)
}

/// A primary `a-pg1` and its replica `b-pg1`.
struct Pair {
    // Dropped in this order: the servers before their directory.
    b: Member,
    a: Member,
    provider: Arc<dyn Provider>,
    permit: Permit,
    site: Site,
}

impl Pair {
    async fn start() -> Self {
        let site = Site::new();
        let a = Member::primary(&site, "a-pg1");
        let b = Member::replica(&site, "b-pg1", &a);
        let provider = Arc::new(Postgresql::new(site.secrets(), Arc::new(Transport::new())));
        Self { b, a, provider, permit: common::permit().await, site }
    }

    async fn apply(&self, member: &Member, action: &Action, seconds: f64) -> Outcome {
        self.provider.apply(&member.target(), action, &self.permit, within(seconds)).await
    }

    async fn observe(&self, member: &Member) -> MemberFacts {
        match self.provider.observe(&member.target(), &Scope::Member, within(5.0)).await {
            Observed::Known { value, .. } => value.member().unwrap().clone(),
            Observed::Unreachable(why) => panic!("{}: {why}", member.name),
        }
    }

    async fn holds(&self, member: &Member, condition: &Condition) -> bool {
        crate::holds(&self.provider, &member.target(), condition, Duration::from_secs(10)).await
    }
}

fn marked(member: &Member) -> bool {
    member.data.join("handover.fenced").exists()
}

const FENCED: Condition = Condition::Role { role: Role::Fenced, lineage: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_we_fenced_is_made_a_primary_again() {
    let pair = Pair::start().await;
    let lineage = pair.observe(&pair.a).await.lineage;
    let unfence = Action::Unfence { lineage: lineage.clone() };
    // Running, it is a replica, or a primary that nobody fenced; stopped, it is not ours to start.
    let refused = pair.apply(&pair.b, &unfence, 5.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("replica")), "{refused:?}");
    common::taken(&pair.apply(&pair.a, &unfence, 5.0).await);
    assert_eq!(pair.b.sql("SELECT status FROM pg_stat_wal_receiver"), "streaming");
    pair.b.stop();
    assert!(matches!(pair.apply(&pair.b, &unfence, 5.0).await, Outcome::NotApplied(_)));
    // Nor does a fence that finds a stopped replica make it ours.
    let fence = Action::Fence { successor: pair.a.peer() };
    assert!(matches!(pair.apply(&pair.b, &fence, 5.0).await, Outcome::NotApplied(_)));
    assert!(!marked(&pair.b) && matches!(pair.apply(&pair.b, &unfence, 5.0).await, Outcome::NotApplied(_)));
    pair.b.start();
    // That undo called off fences of the same permit; a later one is another matter.
    let fence = Action::Fence { successor: pair.b.peer() };
    let refused = pair.apply(&pair.a, &fence, 5.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("called off")), "{refused:?}");
    let permits = common::Permits::new().await;
    permits.next().await;
    let pair = Pair { permit: permits.next().await, ..pair };
    // We fenced it, and then somebody else promoted the other one and started this one as its replica.
    common::taken(&pair.apply(&pair.a, &fence, 10.0).await);
    assert!(marked(&pair.a));
    pair.b.sql("SELECT pg_promote()");
    pair.b.sql("SELECT pg_create_physical_replication_slot('a_pg1', true)");
    pair.a.start();
    pair.a.until("SELECT status FROM pg_stat_wal_receiver", "streaming");
    let refused = pair.apply(&pair.a, &unfence, 5.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("history")), "{refused:?}");
    assert_eq!(pair.a.sql("SELECT pg_is_in_recovery()"), "t");
    // Once it has rejoined, there is nothing left to undo.
    common::taken(&pair.apply(&pair.a, &Action::Rejoin { primary: pair.b.peer() }, 5.0).await);
    assert!(!marked(&pair.a));
    assert!(matches!(pair.apply(&pair.a, &unfence, 5.0).await, Outcome::NotApplied(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_waits_for_the_word_changes_nothing_before_it() {
    let pair = Pair::start().await;
    let fence = Action::Fence { successor: pair.b.peer() };
    let prepare = async |provider: &dyn Provider| {
        let deadline = Instant::now() + Duration::from_secs(5);
        assert_eq!(provider.prepare(&pair.a.target(), &fence, &pair.permit, deadline).await, None);
    };
    // The word never comes: its provider is gone.
    let provider = Postgresql::new(pair.site.secrets(), Arc::new(Transport::new()));
    prepare(&provider).await;
    let waiting = Waiting::of(&pair.a).await;
    drop(provider);
    waiting.end().await;
    assert!(!marked(&pair.a) && !pair.a.data.join("standby.signal").exists());
    pair.a.sql("INSERT INTO ledger (id) VALUES (-9)");
    // It comes too late: whoever sent it has gone back meanwhile, and the script, which outlives that one behind ssh, judges by its clock.
    let text = concat!(
        include_str!("../../src/provider/postgresql/member.sh"),
        include_str!("../../src/provider/postgresql/host.sh")
    );
    let data = pair.a.data.display().to_string();
    let fixed = ["", "/dev/null", "100", "host=nowhere", "a_pg1", "", "", "", "", "", "0", "0", "0", "0", "0"];
    let mut script = as_postgres("sh");
    script.args(["-c", text, "handover", "fence", &data]).args(fixed);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    script.stdin.take().unwrap().write_all(b"go 0 0 run-1 7\n").unwrap();
    let output = script.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.trim()), (Some(3), "it was told to go on too late"));
    assert!(!marked(&pair.a) && !pair.a.data.join("standby.signal").exists());
    // It comes.
    prepare(&*pair.provider).await;
    let waiting = Waiting::of(&pair.a).await;
    pair.a.sql("INSERT INTO ledger (id) VALUES (-10)");
    let outcome = pair.apply(&pair.a, &fence, 10.0).await;
    let Outcome::Seen(facts) = &outcome else { panic!("{outcome:?}") };
    assert_eq!(facts.member().unwrap().role, Role::Fenced);
    assert!(marked(&pair.a));
    waiting.end().await;
}

/// The process of a fence that waits for the word.
struct Waiting(String);

impl Waiting {
    /// Waits until it waits: it reads from its standard input, and has no child.
    async fn of(member: &Member) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut search = std::process::Command::new("pgrep");
            let found = search.args(["-f", &format!("fence {}", member.data.display())]).output().unwrap().stdout;
            let found = String::from_utf8(found).unwrap();
            if let [pid] = found.lines().collect::<Vec<_>>().as_slice() {
                let at = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
                // read(2), by its number on x86-64 or on the others, from file 0.
                if at.starts_with("0 0x0 ") || at.starts_with("63 0x0 ") {
                    return Self((*pid).to_owned());
                }
            }
            assert!(Instant::now() < deadline, "no fence waits: {found}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it has ended.
    async fn end(self) {
        while std::path::Path::new(&format!("/proc/{}", self.0)).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_did_not_end_in_time_is_undone_soon() {
    let pair = Pair::start().await;
    let lineage = pair.observe(&pair.a).await.lineage;
    // The successor's walsender is never cut off: frozen, it delays a clean stop for `wal_sender_timeout`.
    pair.b.signal("-STOP");
    pair.a.sql("INSERT INTO ledger (id) VALUES (-2)");
    let outcome = pair.apply(&pair.a, &Action::Fence { successor: pair.b.peer() }, 1.0).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert!(marked(&pair.a));
    let began = Instant::now();
    let undone = pair.apply(&pair.a, &Action::Unfence { lineage: lineage.clone() }, 15.0).await;
    let took = began.elapsed();
    pair.b.signal("-CONT");
    common::taken(&undone);
    println!("undone in {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(pair.holds(&pair.a, &Condition::Role { role: Role::Primary, lineage: Some(lineage) }).await);
    assert_eq!(pair.a.sql("SELECT count(*) FROM ledger WHERE id = -2"), "1");
    assert!(!marked(&pair.a));
    pair.b.until("SELECT status FROM pg_stat_wal_receiver", "streaming");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_candidate_returns_as_a_replica_unless_it_was_promoted() {
    let pair = Pair::start().await;
    let lineage = pair.observe(&pair.a).await.lineage;
    let withdraw = Action::Withdraw { successor: pair.a.peer() };
    let rejoin = Action::Rejoin { primary: pair.a.peer() };
    for _ in 0..2 {
        common::taken(&pair.apply(&pair.b, &withdraw, 10.0).await);
        assert!(pair.holds(&pair.b, &FENCED).await);
    }
    // It was a replica: it is nobody's primary.
    let unfence = Action::Unfence { lineage };
    assert!(matches!(pair.apply(&pair.b, &unfence, 5.0).await, Outcome::NotApplied(_)));
    common::taken(&pair.apply(&pair.b, &rejoin, 10.0).await);
    assert!(pair.holds(&pair.b, &Condition::Follows { primary: pair.a.peer() }).await);
    assert!(!marked(&pair.b));
    pair.b.sql("SELECT pg_promote()");
    common::taken(&pair.apply(&pair.b, &withdraw, 10.0).await);
    assert!(pair.holds(&pair.b, &FENCED).await);
    let refused = pair.apply(&pair.b, &rejoin, 10.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("pg_rewind")), "{refused:?}");
    // Whoever starts it all the same gets no second primary.
    pair.b.start_without_waiting();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let control = pair.provider.verify(&pair.b.target(), &FENCED, within(0.5)).await;
    assert!(!matches!(control, Observed::Known { value, .. } if value.member().unwrap().role == Role::Primary));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_run_is_known_by_its_files() {
    let pair = Pair::start().await;
    let before = pair.observe(&pair.a).await;
    pair.b.stop();
    let stopped = pair.observe(&pair.b).await;
    // It was a replica and ended cleanly: it comes back as one.
    assert_eq!((stopped.role, &stopped.lineage), (Role::Fenced, &before.lineage));
    pair.b.start();
    common::taken(&pair.apply(&pair.a, &Action::Fence { successor: pair.b.peer() }, 10.0).await);
    let fenced = pair.observe(&pair.a).await;
    assert_eq!((fenced.role, &fenced.lineage), (Role::Fenced, &before.lineage));
    common::taken(&pair.apply(&pair.a, &Action::Unfence { lineage: before.lineage.clone() }, 10.0).await);
    pair.a.stop();
    assert_eq!(pair.observe(&pair.a).await.role, Role::Stopped);
    // Who cannot ask its machine, or gets no answer at its address, knows nothing.
    let scope = Scope::Member;
    let unasked = Target { host: None, ..pair.a.target() };
    assert!(matches!(pair.provider.observe(&unasked, &scope, within(3.0)).await, Observed::Unreachable(_)));
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = Target { address: hole.local_addr().unwrap().to_string(), ..pair.a.target() };
    assert!(matches!(pair.provider.observe(&silent, &scope, within(1.0)).await, Observed::Unreachable(_)));
    // A wrong address of a member that runs is no fact about it.
    let elsewhere = Target { address: format!("127.0.0.1:{}", free_port()), ..pair.b.target() };
    assert!(matches!(pair.provider.observe(&elsewhere, &scope, within(3.0)).await, Observed::Unreachable(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_had_configured_is_there_after_the_undo() {
    let pair = Pair::start().await;
    let mut conf = std::fs::OpenOptions::new().append(true).open(pair.b.data.join("postgresql.conf")).unwrap();
    std::io::Write::write_all(&mut conf, b"wal_retrieve_retry_interval = 20ms\n").unwrap();
    pair.b.sql("SELECT pg_create_physical_replication_slot('a_pg1', true)");
    pair.b.sql("ALTER SYSTEM SET synchronous_standby_names = 'theirs'");
    pair.b.sql("SELECT pg_reload_conf()");
    pair.b.until("SHOW wal_retrieve_retry_interval", "20ms");
    let args = BTreeMap::from([
        ("followers".to_owned(), list(&["a-pg1", "c-pg1"])),
        ("kept".to_owned(), list(&["a-pg1"])),
        ("synchronous".to_owned(), list(&[""])),
        ("synchronous_before".to_owned(), list(&["theirs"])),
    ]);
    for verb in [PREPARE_PROMOTION, UNPREPARE_PROMOTION] {
        let action = Action::Native { verb: verb.to_owned(), args: args.clone() };
        common::taken(&pair.apply(&pair.b, &action, 10.0).await);
        let done = Condition::Native { verb: verb.to_owned(), args: args.clone(), done: true };
        assert!(pair.holds(&pair.b, &done).await, "{verb}");
    }
    let undone = Condition::Native { verb: PREPARE_PROMOTION.to_owned(), args, done: false };
    assert!(pair.holds(&pair.b, &undone).await);
    let facts = pair.observe(&pair.b).await;
    assert_eq!(facts.slots.iter().map(|slot| slot.name.as_str()).collect::<Vec<_>>(), ["a_pg1"]);
    assert_eq!(
        (facts.synchronous_names.as_str(), facts.settings["wal_retrieve_retry_interval"].as_str()),
        ("theirs", "20ms")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_whose_power_goes_are_let_go_and_taken_back_and_a_bound_that_somebody_has_set_stays() {
    const NAMES: &str = "FIRST 1 (\"b-pg1\")";
    let pair = Pair::start().await;
    pair.a.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{NAMES}'"));
    pair.a.sql("SELECT pg_reload_conf()");
    pair.a.until("SHOW synchronous_standby_names", NAMES);
    let one = |text: &str| vec![text.to_owned()];
    let args = BTreeMap::from([
        ("released".to_owned(), one("b-pg1")),
        ("synchronous".to_owned(), one("")),
        ("synchronous_before".to_owned(), one(NAMES)),
    ]);
    for (unbounded, bounded) in [("-1", "10239MB"), ("10GB", "10GB")] {
        for (verb, names, bound) in [(RELEASE_REPLICAS, "", bounded), (UNRELEASE_REPLICAS, NAMES, unbounded)] {
            let action = Action::Native { verb: verb.to_owned(), args: args.clone() };
            let done = Condition::Native { verb: verb.to_owned(), args: args.clone(), done: true };
            // Twice is once.
            for _ in 0..2 {
                common::taken(&pair.apply(&pair.a, &action, 10.0).await);
            }
            assert!(pair.holds(&pair.a, &done).await, "{verb}");
            let facts = pair.observe(&pair.a).await;
            let found = (facts.synchronous_names.as_str(), facts.settings["max_slot_wal_keep_size"].as_str());
            assert_eq!(found, (names, bound), "{verb}");
        }
        pair.a.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'");
        pair.a.sql("SELECT pg_reload_conf()");
        pair.a.until("SHOW max_slot_wal_keep_size", "10GB");
    }
    // What somebody has set while the power was off stays, in a plan that is older than that too.
    let action = |verb: &str| Action::Native { verb: verb.to_owned(), args: args.clone() };
    common::taken(&pair.apply(&pair.a, &action(RELEASE_REPLICAS), 10.0).await);
    pair.a.sql("ALTER SYSTEM SET synchronous_standby_names = '\"b-pg1\", theirs'");
    pair.a.sql("SELECT pg_reload_conf()");
    pair.a.until("SHOW synchronous_standby_names", "\"b-pg1\", theirs");
    let refused = pair.apply(&pair.a, &action(UNRELEASE_REPLICAS), 5.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("somebody")), "{refused:?}");
    assert_eq!(pair.observe(&pair.a).await.synchronous_names, "\"b-pg1\", theirs");
    // Without the right for it nothing is touched, and the plan would have said so.
    pair.a.sql("REVOKE ALTER SYSTEM ON PARAMETER max_slot_wal_keep_size FROM handover");
    let settings = pair.observe(&pair.a).await.settings;
    let rights = [settings["rights"].as_str(), settings["rights_to_release"].as_str()];
    assert_eq!(rights, ["complete", "missing: ALTER SYSTEM on max_slot_wal_keep_size"]);
}
fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// A native action, and the condition of its verb (that of what it takes back, for an undo).
fn native<const N: usize>(verb: &str, args: [(&str, Vec<String>); N]) -> (Action, impl Fn(bool) -> Condition) {
    let args = BTreeMap::from(args.map(|(key, values)| (key.to_owned(), values)));
    let action = Action::Native { verb: verb.to_owned(), args: args.clone() };
    let of = verb.strip_prefix("un").unwrap_or(verb).to_owned();
    (action, move |done| Condition::Native { verb: of.clone(), args: args.clone(), done })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_names_are_set_back_only_once_those_that_commits_would_wait_for_stream() {
    let pair = Pair::start().await;
    let args = |awaited: &str| {
        [
            ("synchronous", list(&["FIRST 1 (\"b-pg1\")"])),
            ("synchronous_before", list(&[""])),
            ("awaited", list(&[awaited])),
        ]
    };
    let (set, is) = native(SET_SYNCHRONOUS, args("b-pg1"));
    assert!(pair.holds(&pair.a, &is(false)).await);
    for _ in 0..2 {
        common::taken(&pair.apply(&pair.a, &set, 10.0).await);
        assert!(pair.holds(&pair.a, &is(true)).await);
    }
    // Commits go on, with what was set and nothing else.
    pair.a.until("SELECT sync_state FROM pg_stat_replication", "sync");
    pair.a.sql("INSERT INTO ledger (id) VALUES (-7)");
    // Somebody who does not stream would be waited for: nothing is changed, and the message says how it goes on.
    let (unset, _) = native(UNSET_SYNCHRONOUS, args("c-pg1"));
    let refused = pair.apply(&pair.a, &unset, 1.0).await;
    let Outcome::NotApplied(why) = &refused else { panic!("{refused:?}") };
    for text in ["c-pg1", "commits would wait", "ALTER SYSTEM SET synchronous_standby_names"] {
        assert!(why.to_string().contains(text), "{why}");
    }
    assert!(pair.holds(&pair.a, &is(true)).await);
    // What somebody else has set meanwhile stays.
    pair.a.sql("ALTER SYSTEM SET synchronous_standby_names = 'theirs, \"b-pg1\"'");
    pair.a.sql("SELECT pg_reload_conf()");
    pair.a.until("SHOW synchronous_standby_names", "theirs, \"b-pg1\"");
    let (unset, _) = native(UNSET_SYNCHRONOUS, args("b-pg1"));
    let refused = pair.apply(&pair.a, &unset, 5.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("somebody")), "{refused:?}");
    common::taken(&pair.apply(&pair.a, &set, 10.0).await);
    for _ in 0..2 {
        common::taken(&pair.apply(&pair.a, &unset, 10.0).await);
        assert!(pair.holds(&pair.a, &is(false)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_would_make_commits_hang_are_not_set_at_the_end_either() {
    let pair = Pair::start().await;
    let finish = |needed: &str, names: &[&str]| {
        let setting = format!("FIRST {needed} (\"{}\")", names.join("\", \""));
        let args = [
            ("awaited", list(names)),
            ("needed", list(&[needed])),
            ("followers", list(&["b-pg1"])),
            ("synchronous", vec![setting.clone()]),
        ];
        (native(FINISH_PROMOTION, args).0, setting)
    };
    for (needed, names) in [("1", &["c-pg1"][..]), ("2", &["b-pg1", "c-pg1"])] {
        let refused = pair.apply(&pair.a, &finish(needed, names).0, 1.0).await;
        let Outcome::NotApplied(why) = &refused else { panic!("{refused:?}") };
        for text in ["c-pg1", "commits would wait", "handover plan"] {
            assert!(why.to_string().contains(text), "{why}");
        }
        assert_eq!(pair.observe(&pair.a).await.synchronous_names, "", "commits go on");
    }
    // One of two is enough, however it writes its name; what is set already is no reason to wait.
    let (enough, setting) = finish("1", &["c-pg1", "B-pg1"]);
    for _ in 0..2 {
        common::taken(&pair.apply(&pair.a, &enough, 30.0).await);
        assert_eq!(pair.observe(&pair.a).await.synchronous_names, setting);
    }
    pair.a.sql("INSERT INTO ledger (id) VALUES (-8)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_made_and_dropped_and_a_replica_is_told_whom_to_follow() {
    let pair = Pair::start().await;
    let args = || [("followers", list(&["c-pg1", "d-pg1"])), ("kept", list(&["d-pg1"]))];
    pair.b.sql("SELECT pg_create_physical_replication_slot('d_pg1', true)");
    let ((make, is), (unmake, _)) = (native(MAKE_SLOTS, args()), native(UNMAKE_SLOTS, args()));
    assert!(pair.holds(&pair.b, &is(false)).await);
    for (action, done) in [(&make, true), (&make, true), (&unmake, false), (&unmake, false)] {
        common::taken(&pair.apply(&pair.b, action, 10.0).await);
        assert!(pair.holds(&pair.b, &is(done)).await);
    }
    assert_eq!(pair.b.sql("SELECT string_agg(slot_name, ',') FROM pg_replication_slots"), "d_pg1");

    // A replica that cannot follow now is told all the same; a primary is not.
    pair.b.sql("SELECT pg_wal_replay_pause()");
    let (tell, is) = native(FOLLOW_LATER, [("primary", list(&["c-pg1", "127.0.0.1:1"]))]);
    assert!(pair.holds(&pair.b, &is(false)).await);
    common::taken(&pair.apply(&pair.b, &tell, 10.0).await);
    assert!(pair.holds(&pair.b, &is(true)).await);
    let refused = pair.apply(&pair.a, &tell, 5.0).await;
    assert!(matches!(&refused, Outcome::NotApplied(why) if why.to_string().contains("primary")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_somebody_starts_at_the_same_moment_follows_as_it_was_told() {
    let pair = Pair::start().await;
    pair.b.sql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'");
    pair.b.stop();
    let (b, rejoin) = (&pair.b, Action::Rejoin { primary: pair.a.peer() });
    std::thread::scope(|scope| {
        scope.spawn(|| b.start_without_waiting());
        // Whoever starts it, and whatever it had read by then: once it is done, it is so. What did nothing is said again.
        let told = async {
            let until = within(20.0);
            while !pair.apply(b, &rejoin, 10.0).await.taken() {
                assert!(Instant::now() < until);
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(told));
    });
    assert!(pair.holds(b, &Condition::Follows { primary: pair.a.peer() }).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_receiver_hangs_is_seen_by_its_silence() {
    let pair = Pair::start().await;
    let replica = |facts: &MemberFacts| facts.replicas[0].clone();
    // One that is stopped while it logs in is seen by nobody.
    pair.a.until("SELECT state FROM pg_stat_replication", "streaming");
    let receiver = pair.b.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'");
    let signal = |signal: &str| {
        assert!(std::process::Command::new("kill").args([signal, &receiver]).status().unwrap().success());
    };
    signal("-STOP");
    pair.a.sql("INSERT INTO ledger (id) VALUES (-8)");
    pair.a.until("SELECT now() - reply_time > interval '2 seconds' FROM pg_stat_replication", "t");
    let seen = replica(&pair.observe(&pair.a).await);
    signal("-CONT");
    assert!(seen.silence.is_some_and(|silence| silence > Duration::from_secs(2)), "{seen:?}");
    pair.a.until("SELECT flush_lsn = pg_current_wal_lsn() FROM pg_stat_replication", "t");
    // None, unless the server has just written something of its own.
    let seen = replica(&pair.observe(&pair.a).await);
    assert!(seen.silence.is_none_or(|silence| silence < Duration::from_secs(2)), "{seen:?}");
}
