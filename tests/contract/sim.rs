//! Targets in memory keep the same contract as the real ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use handover::model::{
    Action, Admission, Condition, Facts, FromTo, HealthCheck, Lineage, Observed, Peer, RecordKey, RecordSet,
    RecordType, Role, Scope, ServerSetting, Target, TargetId,
};
use handover::provider::{Outcome, Provider};
use handover::rehearse::sim::{Fault, Harm, Simulation, World};
use tokio::time::Instant;

use crate::{Subject, common, healthy, soon};

const TOPOLOGY: &str = include_str!("../fixtures/topology-small.yaml");

/// A healthy world, and one of its targets.
struct Sim {
    simulation: Simulation,
    target: Target,
}

impl Sim {
    fn of(id: &TargetId) -> Self {
        let topology = Arc::new(healthy::read(TOPOLOGY));
        let target = topology.targets().find(|target| target.id == *id).unwrap();
        let target = Target::clone(target);
        Self { simulation: Simulation::new(World::healthy(Arc::clone(&topology)).unwrap()), target }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(self.simulation.clone())
    }

    fn nobody(&self) -> Target {
        Target { address: "10.99.0.1:1".to_owned(), ..self.target.clone() }
    }
}

macro_rules! subject {
    ($subject:ident of $id:expr, $scope:expr, $action:expr, $condition:expr, $undo:expr, $undone:expr, $stale:expr) => {
        pub struct $subject(Sim);

        #[async_trait]
        impl Subject for $subject {
            async fn start() -> Self {
                Self(Sim::of(&$id))
            }

            fn provider(&self) -> Arc<dyn Provider> {
                self.0.provider()
            }

            fn target(&self) -> Target {
                self.0.target.clone()
            }

            fn nobody(&self) -> Target {
                self.0.nobody()
            }

            fn scope(&self) -> Scope {
                $scope
            }

            fn action(&self) -> Action {
                $action
            }

            fn condition(&self) -> Condition {
                $condition
            }

            fn undo(&self) -> Action {
                $undo
            }

            fn undone(&self) -> Condition {
                $undone
            }

            fn stale(&self) -> Option<Action> {
                $stale
            }

            async fn hang(&self) {
                self.0.simulation.silence(&self.0.target.id, true);
            }

            async fn unhang(&self) {
                self.0.simulation.silence(&self.0.target.id, false);
            }

            fn comparable(&self, facts: &Facts) -> String {
                let mut facts = facts.clone();
                if let Facts::NameServer(facts) = &mut facts {
                    facts.serial = 0;
                }
                format!("{facts:#?}")
            }
        }
    };
}

mod dns {
    use super::*;

    fn pay() -> RecordKey {
        RecordKey { name: "pay.shop.example".to_owned(), rtype: RecordType::A }
    }

    fn set(ttl: u32, data: &[&str]) -> Option<RecordSet> {
        Some(RecordSet { ttl, data: data.iter().map(|address| address.parse().unwrap()).collect() })
    }

    fn both() -> Option<RecordSet> {
        set(30, &["10.10.0.80", "10.20.0.80"])
    }

    fn change(from: Option<RecordSet>, to: Option<RecordSet>) -> Action {
        Action::SetRecords { zone: "shop.example".into(), sets: BTreeMap::from([(pay(), FromTo { from, to })]) }
    }

    fn is(set: Option<RecordSet>) -> Condition {
        Condition::Records { sets: BTreeMap::from([(pay(), set)]) }
    }

    subject!(Dns of TargetId::name_server(&"shop.example".into(), "ns1"),
        Scope::Records([pay()].into()),
        change(both(), set(60, &["10.20.0.80"])), is(set(60, &["10.20.0.80"])),
        change(set(60, &["10.20.0.80"]), both()), is(both()),
        Some(change(set(30, &["10.10.0.80"]), set(60, &["10.20.0.80"]))));

    crate::contract!(Dns);

    #[tokio::test(start_paused = true)]
    async fn a_secondary_serves_the_change_and_takes_none() {
        let ns2 = Sim::of(&TargetId::name_server(&"shop.example".into(), "ns2"));
        let drained = change(both(), set(30, &["10.20.0.80"]));
        let (provider, permit) = (ns2.provider(), common::permit().await);
        let outcome = provider.apply(&ns2.target, &drained, &permit, soon()).await;
        assert!(matches!(&outcome, Outcome::NotApplied(why) if why.why.contains("takes no updates")), "{outcome:?}");
        let ns1 = ns2.simulation.change(|world| world.topology.targets().next().unwrap().as_ref().clone());
        common::taken(&provider.apply(&ns1, &drained, &permit, soon()).await);
        let served = is(set(30, &["10.20.0.80"]));
        let seen = provider.verify(&ns2.target, &served, soon()).await;
        assert_eq!(served.holds(seen.known().unwrap()), Ok(()));
    }
}

mod epoch {
    use super::*;
    use handover::model::{Charge, Epoch};

    fn epoch(number: u64, member: &str) -> Option<Epoch> {
        let charge = Charge { member: member.to_owned(), system: "1".to_owned(), timeline: 1 };
        let databases = [("accounts".into(), charge)].into();
        Some(Epoch { number, lost: Default::default(), lost_targets: Default::default(), databases })
    }

    fn raise(from: Option<Epoch>, to: Option<Epoch>) -> Action {
        Action::SetEpoch { zone: "shop.example".into(), epoch: Box::new(FromTo { from, to }) }
    }

    fn is(epoch: Option<Epoch>) -> Condition {
        Condition::Epoch { epoch }
    }

    subject!(Epochs of TargetId::name_server(&"shop.example".into(), "ns1"),
        Scope::Records(Default::default()),
        raise(None, epoch(1, "west-pg1")), is(epoch(1, "west-pg1")),
        raise(epoch(1, "west-pg1"), epoch(2, "west-pg1")), is(epoch(2, "west-pg1")),
        Some(raise(epoch(1, "east-pg1"), epoch(2, "west-pg1"))));

    // Taken back it is not as before: its number has risen. So not every clause can be kept.
    crate::contract!(@clauses Epochs:
        reading_changes_nothing
        verify_is_false_before_and_true_after
        applying_twice_equals_once
        a_stale_assumption_touches_nothing
        a_deadline_is_unknown_and_never_a_hang
        unreachable_is_not_absent
    );

    #[tokio::test(start_paused = true)]
    async fn no_word_lowers_it() {
        let ns1 = Sim::of(&TargetId::name_server(&"shop.example".into(), "ns1"));
        let (provider, permit) = (ns1.provider(), common::permit().await);
        common::taken(&provider.apply(&ns1.target, &raise(None, epoch(2, "west-pg1")), &permit, soon()).await);
        for to in [epoch(1, "east-pg1"), epoch(2, "east-pg1"), None] {
            let outcome = provider.apply(&ns1.target, &raise(epoch(2, "west-pg1"), to), &permit, soon()).await;
            assert!(matches!(&outcome, Outcome::NotApplied(why) if why.why.contains("never lowered")), "{outcome:?}");
        }
    }
}

mod proxy {
    use super::*;

    fn ready(weight: u32) -> ServerSetting {
        ServerSetting { weight, admission: Admission::Ready }
    }

    fn drain() -> ServerSetting {
        ServerSetting { weight: 0, admission: Admission::Drain }
    }

    fn set<const N: usize>(servers: [(&str, ServerSetting, ServerSetting); N]) -> Action {
        let servers = servers.map(|(name, from, to)| (name.into(), FromTo { from, to }));
        Action::SetShare { backends: BTreeMap::from([("orders".into(), Arc::new(servers.into()))]) }
    }

    fn are<const N: usize>(servers: [(&str, ServerSetting); N]) -> Condition {
        let servers = servers.map(|(name, setting)| (name.into(), setting));
        Condition::Servers { backends: BTreeMap::from([("orders".into(), Arc::new(servers.into()))]) }
    }

    const W: u32 = 100;

    pub fn target(simulation: &Simulation) -> Target {
        simulation.change(|world| Target::clone(&world.topology.proxies["west-lb1"].target))
    }

    /// A server gets less, and its health is looked at again.
    pub fn shifted() -> Action {
        set([("west-app1", ready(W), ready(W - 1))])
    }

    subject!(Proxy of TargetId::proxy("west-lb1"),
        Scope::Backends(["orders".into(), "nowhere".into()].into()),
        set([("west-app1", ready(W), drain()), ("east-app1", ready(W), ready(7))]),
        are([("west-app1", drain()), ("east-app1", ready(7))]),
        set([("west-app1", drain(), ready(W)), ("east-app1", ready(7), ready(W))]),
        are([("west-app1", ready(W)), ("east-app1", ready(W))]),
        Some(set([("west-app1", ready(W), ready(1)), ("east-app1", ready(3), ready(7))])));

    crate::contract!(Proxy);
}

mod member {
    use super::*;

    fn args() -> BTreeMap<String, Vec<String>> {
        let one = |text: &str| vec![text.to_owned()];
        BTreeMap::from([
            ("followers".to_owned(), one("west-pg1")),
            ("synchronous".to_owned(), one("FIRST 1 (\"west-pg1\")")),
        ])
    }

    fn native(verb: &str) -> Action {
        Action::Native { verb: verb.to_owned(), args: args() }
    }

    fn prepared(done: bool) -> Condition {
        Condition::Native { verb: "prepare_promotion".to_owned(), args: args(), done }
    }

    fn id(name: &str) -> TargetId {
        TargetId::member(&"accounts".into(), name)
    }

    subject!(Member of id("east-pg1"),
        Scope::Member,
        native("prepare_promotion"), prepared(true),
        native("unprepare_promotion"), prepared(false),
        // Another system: a promotion must not touch it.
        Some(Action::Promote { lineage: Lineage { system: "1".to_owned(), timeline: 1 } }));

    crate::contract!(Member);

    /// What the real one shows in `a_fenced_primary_refuses_writes_and_returns_only_as_a_replica_until_the_fence_is_undone` and beside it.
    #[tokio::test(start_paused = true)]
    async fn a_switchover_goes_there_and_back_and_is_refused_out_of_order() {
        let sim = Sim::of(&id("west-pg1"));
        let (provider, permit) = (sim.provider(), common::permit().await);
        let target = |name: &str| {
            let (target, id) = (sim.simulation.clone(), id(name));
            target.change(|world| {
                world.topology.targets().find(|target| target.id == id).map(|target| Target::clone(target)).unwrap()
            })
        };
        let (old, new) = (target("west-pg1"), target("east-pg1"));
        let peer = |target: &Target| Peer { member: target.id.clone(), address: target.address.clone() };
        let lineage = Lineage { system: "accounts".to_owned(), timeline: 1 };
        let act =
            async |target: &Target, action: Action| provider.apply(target, &action, &permit, soon()).await.taken();
        let is = async |target: &Target, role: Role| {
            let condition = Condition::Role { role, lineage: None };
            let seen = provider.verify(target, &condition, soon()).await;
            condition.holds(seen.known().unwrap()).is_ok()
        };
        let fence = || Action::Fence { successor: peer(&new) };
        let unfence = || Action::Unfence { lineage: lineage.clone() };
        let promote = || Action::Promote { lineage: lineage.clone() };
        assert!(!act(&new, Action::Fence { successor: peer(&old) }).await, "a replica is not fenced");
        assert!(!act(&old, Action::Rejoin { primary: peer(&new) }).await, "a primary follows nobody");
        assert!(act(&old, fence()).await && act(&old, fence()).await && is(&old, Role::Fenced).await);
        assert!(act(&old, unfence()).await && is(&old, Role::Primary).await);
        assert!(act(&old, fence()).await);
        assert!(act(&new, promote()).await && act(&new, promote()).await && is(&new, Role::Primary).await);
        assert!(!act(&old, Action::Rejoin { primary: peer(&new) }).await, "it has no slot there");
        let slots = BTreeMap::from([("followers".to_owned(), vec!["west-pg1".to_owned()])]);
        assert!(act(&new, Action::Native { verb: "make_slots".to_owned(), args: slots }).await);
        assert!(act(&old, Action::Rejoin { primary: peer(&new) }).await && is(&old, Role::Replica).await);
        assert!(!act(&old, unfence()).await && is(&old, Role::Replica).await, "its history has gone on");
        assert_eq!(sim.simulation.broken(), None);
    }

    /// The simulation takes what a real replica would take, and sees that it must never have been asked for.
    #[tokio::test(start_paused = true)]
    async fn a_promotion_beside_a_living_primary_is_seen() {
        let sim = Sim::of(&id("east-pg1"));
        let promote = Action::Promote { lineage: Lineage { system: "accounts".to_owned(), timeline: 1 } };
        let outcome = sim.provider().apply(&sim.target, &promote, &common::permit().await, soon()).await;
        assert!(outcome.taken(), "{outcome:?}");
        let broken = sim.simulation.broken().unwrap();
        assert_eq!(broken, "accounts has 2 primaries, after promote at member/accounts/east-pg1");
    }
}

mod pooler {
    use super::*;

    subject!(Pooler of TargetId::pooler("west-pool1"),
    Scope::PoolerDatabases(["accounts".into(), "none".into()].into()),
    Action::Pause { database: "accounts".into() },
    Condition::Paused { database: "accounts".into(), paused: true },
    Action::Resume { database: "accounts".into() },
    Condition::Paused { database: "accounts".into(), paused: false },
    Some(Action::WriteRoute {
        database: "accounts".into(),
        route: FromTo { from: "127.0.0.1:2".to_owned(), to: "127.0.0.1:3".to_owned() },
    }));

    crate::contract!(Pooler);
}

mod job {
    use super::*;

    // The protocol carries no assumption.
    subject!(Job of TargetId::job(&"billing".into()),
        Scope::Job,
        Action::Stop, Condition::Running { running: false },
        Action::Start, Condition::Running { running: true },
        None);

    crate::contract!(Job);
}

/// What a run depends on: each fault is the outcome that the real fault has, and leaves what it would leave.
#[tokio::test(start_paused = true)]
async fn faults_go_wrong_as_their_script_says() {
    let action = Action::SetShare {
        backends: BTreeMap::from([(
            "orders".into(),
            Arc::new([("west-app1".into(), FromTo { from: setting(100), to: setting(1) })].into()),
        )]),
    };
    fn setting(weight: u32) -> ServerSetting {
        ServerSetting { weight, admission: Admission::Ready }
    }
    for (harm, known, acted) in [
        (Harm::Refuse, Some(false), false),
        (Harm::Ignore, Some(true), false),
        (Harm::Hang, None, false),
        (Harm::Lose, None, true),
        (Harm::Die, None, false),
        (Harm::DieAfter, None, true),
    ] {
        let sim = Sim::of(&TargetId::proxy("west-lb1"));
        sim.simulation.script(Fault { target: sim.target.id.clone(), action: 2, harm });
        let (provider, permit) = (sim.provider(), common::permit().await);
        let same = Action::SetShare { backends: BTreeMap::new() };
        common::taken(&provider.apply(&sim.target, &same, &permit, soon()).await);
        let (began, deadline) = (Instant::now(), soon());
        let outcome = provider.apply(&sim.target, &action, &permit, deadline).await;
        let found = match &outcome {
            Outcome::Applied | Outcome::Seen(_) => Some(true),
            Outcome::NotApplied(_) => Some(false),
            Outcome::Unknown(_) => None,
        };
        assert_eq!(found, known, "{harm:?}: {outcome:?}");
        let late = matches!(harm, Harm::Hang | Harm::Lose);
        assert_eq!(Instant::now() >= deadline, late, "{harm:?} took {:?}", began.elapsed());
        assert_eq!(sim.simulation.acted().len(), 1 + usize::from(acted), "{harm:?}");
        let dead = matches!(harm, Harm::Die | Harm::DieAfter);
        let scope = Scope::Backends(["orders".into()].into());
        let observed = provider.observe(&sim.target, &scope, soon()).await;
        assert_eq!(matches!(observed, Observed::Unreachable(_)), dead, "{harm:?}: {observed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_server_is_only_read_and_its_health_shows_at_the_proxies() {
    let app = Sim::of(&TargetId::server(&"orders".into(), "west-app1"));
    let (provider, permit) = (app.provider(), common::permit().await);
    let check = HealthCheck { path: "/health".to_owned(), expect: 200, host: "pay.shop.example".to_owned() };
    let healthy = Condition::Healthy { check: check.clone() };
    let seen = provider.observe(&app.target, &Scope::Health(check.clone()), soon()).await;
    assert_eq!(healthy.holds(seen.known().unwrap()), Ok(()));
    let outcome = provider.apply(&app.target, &Action::Stop, &permit, soon()).await;
    assert!(matches!(outcome, Outcome::NotApplied(_)), "{outcome:?}");
    let nobody = provider.observe(&app.nobody(), &Scope::Health(check.clone()), soon()).await;
    assert!(matches!(nobody, Observed::Unreachable(_)), "{nobody:?}");

    app.simulation.change(|world| {
        let Facts::Server(facts) = world.known(&app.target.id).unwrap() else { panic!() };
        (facts.healthy, facts.status) = (false, 503);
    });
    let seen = provider.verify(&app.target, &healthy, soon()).await;
    assert!(healthy.holds(seen.known().unwrap()).is_err());
    let proxy = Sim { target: proxy::target(&app.simulation), simulation: app.simulation.clone() };
    common::taken(&provider.apply(&proxy.target, &proxy::shifted(), &permit, soon()).await);
    let servers = Arc::new(["west-app1".into()].into());
    let up = Condition::ServersUp { backends: BTreeMap::from([("orders".into(), servers)]) };
    let seen = provider.verify(&proxy.target, &up, soon()).await;
    assert_eq!(up.holds(seen.known().unwrap()).unwrap_err().to_string(), "orders/west-app1 fails its health check");
    // The other server of the backend still answers a request through the proxy.
    let door = Target { id: TargetId::server(&"orders".into(), "probe"), ..app.target.clone() };
    let door = Target { address: format!("{}:80", proxy.target.address), ..door };
    let probed = provider.observe(&door, &Scope::Health(check), soon()).await;
    assert_eq!(healthy.holds(probed.known().unwrap()), Ok(()));
}
