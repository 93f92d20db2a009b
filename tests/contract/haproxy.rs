//! A real HAProxy with three small HTTP servers in the test's own process.

#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use handover::model::{
    Action, Admission, Condition, Facts, ForeignName, FromTo, Host, Observed, Operational, Percent, Place, ProxyFacts,
    Rate, SAVE_STATE, Saved, Scope, ServerSetting, Setting, SettingValue, Settings, Target, TargetId, TargetKind,
    TransportKind,
};
use handover::plan::weights::{self, Participant};
use handover::provider::haproxy::HaProxy;
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::{Subject, common, soon};

fn provider() -> HaProxy {
    HaProxy::new(Arc::new(Transport::new()))
}

/// A loopback address of this test program's own, so that free ports are not taken by another one.
fn free_address() -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 64 + high % 64, middle, low.max(1));
    std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

/// A free port of the IPv6 loopback, of which there is one address only.
fn free_v6() -> SocketAddr {
    std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// An application server: `GET /slow` takes half a second, `GET /endless` never ends, all else is answered at once with its name.
async fn application(name: &'static str) -> SocketAddr {
    application_at(free_address().ip(), name).await
}

async fn application_at(ip: IpAddr, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let Ok(count) = stream.read(&mut request).await else { return };
                let request = String::from_utf8_lossy(&request[..count]).into_owned();
                if request.starts_with("GET /slow") {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                if request.starts_with("GET /endless") {
                    let _ = stream.read(&mut [0]).await;
                    return;
                }
                let length = name.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

pub struct Proxy {
    process: Child,
    directory: TempDir,
    front: SocketAddr,
    control: SocketAddr,
    operator: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts HAProxy with this configuration.
fn run(directory: &TempDir, config: &str) -> Child {
    let path = directory.path().join("haproxy.cfg");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-q", "-f"]).arg(path).stdin(Stdio::null()).spawn().expect("install haproxy")
}

/// This machine as a host.
fn here() -> Option<Arc<Host>> {
    let transport = TransportKind::Local;
    Some(Arc::new(Host { name: "west-lb1".into(), transport, commands: BTreeMap::new() }))
}

impl Proxy {
    /// Waits until it answers and finds its servers up.
    async fn up(&self) {
        let up = Condition::ServersUp {
            backends: BTreeMap::from([("web".into(), BTreeSet::from(["a".into(), "b".into()]).into())]),
        };
        match provider().verify(&self.target(), &up, soon()).await {
            Observed::Known { value, .. } => up.holds(&value).unwrap(),
            Observed::Unreachable(why) => panic!("haproxy does not start: {why}"),
        }
    }

    /// The process ends and another one begins.
    async fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let config = std::fs::read_to_string(self.directory.path().join("haproxy.cfg")).unwrap();
        self.process = run(&self.directory, &config);
        self.up().await;
    }

    /// The target with a state file on this machine.
    fn with_file(&self, name: &str) -> Target {
        let mut target = self.target();
        let place = Place::default();
        let path = self.directory.path().join(name).display().to_string();
        let setting = Setting { value: SettingValue::Text(path), place };
        target.settings.entries.insert("state_file".to_owned(), (place, setting));
        target.host = here();
        target
    }

    fn at(control: String) -> Target {
        let place = Place::default();
        let setting = Setting { value: SettingValue::Text(control), place };
        Target {
            id: TargetId::proxy("west-lb1"),
            kind: TargetKind::Proxy,
            facility: "west".into(),
            provider: "haproxy".into(),
            address: String::new(),
            settings: Settings { entries: BTreeMap::from([("control".to_owned(), (place, setting))]), place },
            host: None,
        }
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }

    fn unix(&self) -> String {
        format!("unix:{}", self.directory.path().join("s").display())
    }

    async fn facts(&self) -> ProxyFacts {
        match provider().observe(&self.target(), &self.scope(), soon()).await {
            Observed::Known { value: Facts::Proxy(facts), .. } => facts,
            other => panic!("{other:?}"),
        }
    }

    async fn apply(&self, action: &Action) -> Outcome {
        provider().apply(&self.target(), action, &common::permit().await, soon()).await
    }

    /// The status line and body of the answer to a request; empty where the connection was cut.
    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.front).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    /// Waits until a server has this many sessions.
    async fn sessions(&self, server: &str, count: u64) {
        let deadline = soon();
        while self.facts().await.backends["web"].as_ref().unwrap().servers[server].sessions != count {
            assert!(Instant::now() < deadline, "{server} never has {count} sessions");
        }
    }
}

fn ready(weight: u32) -> ServerSetting {
    ServerSetting { weight, admission: Admission::Ready }
}

fn drain(weight: u32) -> ServerSetting {
    ServerSetting { weight, admission: Admission::Drain }
}

fn maint(weight: u32) -> ServerSetting {
    ServerSetting { weight, admission: Admission::Maint }
}

fn set<const N: usize>(backend: &str, servers: [(&str, ServerSetting, ServerSetting); N]) -> Action {
    let servers: BTreeMap<_, _> =
        servers.into_iter().map(|(name, from, to)| (name.into(), FromTo { from, to })).collect();
    Action::SetShare { backends: BTreeMap::from([(backend.into(), servers.into())]) }
}

fn are<const N: usize>(servers: [(&str, ServerSetting); N]) -> Condition {
    let servers: BTreeMap<_, _> = servers.into_iter().map(|(name, setting)| (name.into(), setting)).collect();
    Condition::Servers { backends: BTreeMap::from([("web".into(), servers.into())]) }
}

#[async_trait]
impl Subject for Proxy {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (front, control, operator) = (free_address(), free_address(), free_address());
        let (a, b, c) = (application("a").await, application("b").await, application("c").await);
        let path = |name: &str| directory.path().join(name).display().to_string();
        let config = format!(
            "global\n server-state-file {}\n stats socket ipv4@{control} level admin\n stats socket ipv4@{operator} level operator\n \
             stats socket {} level admin\n\
             defaults\n load-server-state-from-file global\n mode http\n timeout connect 1s\n timeout client 30s\n \
             timeout server 30s\n\
             frontend front\n bind {front}\n default_backend web\n\
             backend web\n option httpchk GET /health\n default-server check inter 50ms fastinter 20ms\n \
             server a {a} weight 50\n server b {b} weight 50\n server c {c} weight 50 disabled\n\
             backend fixed\n balance static-rr\n server a {a} weight 1\n server b {b} weight 1\n",
            path("state"),
            path("s"),
        );
        let process = run(&directory, &config);
        let proxy = Self { process, directory, front, control, operator };
        proxy.up().await;
        proxy
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(provider())
    }

    fn target(&self) -> Target {
        Self::at(format!("tcp://{}", self.control))
    }

    fn nobody(&self) -> Target {
        Self::at(format!("tcp://{}", free_address()))
    }

    fn scope(&self) -> Scope {
        Scope::Backends(["web", "fixed", "nowhere"].map(Into::into).into())
    }

    fn action(&self) -> Action {
        set("web", [("a", ready(50), drain(0)), ("b", ready(50), ready(100)), ("c", maint(50), ready(10))])
    }

    fn condition(&self) -> Condition {
        are([("a", drain(0)), ("b", ready(100)), ("c", ready(10))])
    }

    fn undo(&self) -> Action {
        set("web", [("a", drain(0), ready(50)), ("b", ready(100), ready(50)), ("c", ready(10), maint(50))])
    }

    fn undone(&self) -> Condition {
        are([("a", ready(50)), ("b", ready(50)), ("c", maint(50))])
    }

    fn stale(&self) -> Option<Action> {
        // One of them is as assumed: it must not be touched either.
        Some(set("web", [("a", ready(50), ready(1)), ("b", ready(77), ready(100))]))
    }

    async fn hang(&self) {
        self.signal("-STOP");
        // Each thread stops when it is scheduled next.
        let running = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
            tasks.flatten().any(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                !stat.rsplit(") ").next().unwrap_or_default().starts_with('T')
            })
        };
        let deadline = soon();
        while running() {
            assert!(Instant::now() < deadline, "haproxy does not stop");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn unhang(&self) {
        self.signal("-CONT");
    }

    fn comparable(&self, facts: &Facts) -> String {
        let facts = facts.proxy().unwrap();
        let mut text = format!("{} {} {:?}", facts.version, facts.writable, facts.capabilities);
        for (name, backend) in &facts.backends {
            let servers = backend.iter().flat_map(|backend| &backend.servers);
            let servers: Vec<_> = servers.map(|(name, server)| (name, &server.address, server.setting)).collect();
            text += &format!("\n{name}: {} {servers:?}", backend.is_some());
        }
        text
    }
}

crate::contract!(Proxy);

#[tokio::test]
async fn what_is_observed_is_what_was_configured() {
    let proxy = Proxy::start().await;
    let facts = proxy.facts().await;
    assert!(facts.version.starts_with("HAProxy ") && facts.writable && facts.age < Duration::from_secs(60));
    assert_eq!(facts.backends["nowhere"], None);
    let web = facts.backends["web"].as_ref().unwrap();
    let settings: Vec<_> = web.servers.iter().map(|(name, s)| (name.as_str(), s.setting, s.operational)).collect();
    let (up, unchecked) = (Operational::Up, Operational::Unchecked);
    assert_eq!(settings, [("a", ready(50), up), ("b", ready(50), up), ("c", maint(50), unchecked)]);
    let fixed = facts.backends["fixed"].as_ref().unwrap();
    assert!(fixed.servers.values().all(|server| server.operational == unchecked));

    let requests = |facts: &ProxyFacts| facts.backends["web"].as_ref().unwrap().servers["a"].requests;
    for _ in 0..4 {
        assert!(proxy.get("/").await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(requests(&proxy.facts().await) - requests(&facts), 2);
    // A response is counted a moment after its client has it.
    let (expected, deadline) = (BTreeMap::from([(2, 4)]), soon());
    while proxy.facts().await.backends["web"].as_ref().unwrap().responses != expected {
        assert!(Instant::now() < deadline, "{:?}", proxy.facts().await);
    }
}

#[tokio::test]
async fn a_unix_socket_does_as_well() {
    let proxy = Proxy::start().await;
    let (target, permit) = (Proxy::at(proxy.unix()), common::permit().await);
    assert_eq!(provider().apply(&target, &proxy.action(), &permit, soon()).await, Outcome::Applied);
    let facts = provider().observe(&target, &proxy.scope(), soon()).await;
    assert_eq!(proxy.condition().holds(facts.known().unwrap()), Ok(()));

    let nobody = provider().observe(&Proxy::at("unix:/nowhere/s".to_owned()), &proxy.scope(), soon()).await;
    let Observed::Unreachable(why) = nobody else { panic!("{nobody:?}") };
    assert_eq!(why.why, "there is no such socket");
    assert!(why.to_string().contains("runs on this machine"), "{why}");
}

#[tokio::test]
async fn without_admin_level_it_reads_and_says_what_is_missing() {
    let proxy = Proxy::start().await;
    let (target, permit) = (Proxy::at(format!("tcp://{}", proxy.operator)), common::permit().await);
    let facts = provider().observe(&target, &proxy.scope(), soon()).await;
    assert!(!facts.known().unwrap().proxy().unwrap().writable);
    let Outcome::NotApplied(why) = provider().apply(&target, &proxy.action(), &permit, soon()).await else { panic!() };
    assert!(why.to_string().contains("add `level admin` to its `stats socket` line"), "{why}");
}

#[tokio::test]
async fn what_cannot_be_set_is_refused_by_name() {
    let proxy = Proxy::start().await;
    let cut = |servers: [&str; 1]| Action::CutSessions {
        backends: BTreeMap::from([("web".into(), BTreeSet::from(servers.map(Into::into)).into())]),
    };
    let before = proxy.comparable(&Facts::Proxy(proxy.facts().await));
    for (action, expected) in [
        (set("nowhere", [("a", ready(50), ready(1))]), "there is no backend nowhere"),
        (set("web", [("z", ready(50), ready(1))]), "backend web has no server z"),
        (set("web", [("a", ready(50), ready(257))]), "weight 257 for a is above HAProxy's 256"),
        (set("web", [("a", ready(40), ready(1))]), "expected web/a with weight 40, but it has weight 50"),
        (set("web", [("a", drain(50), ready(1))]), "expected web/a with drain (weight 50), but it has weight 50"),
        (set("web; show info", [("a", ready(50), ready(1))]), "cannot be the name of a backend"),
        // It takes the maintenance and refuses the weight: the maintenance is taken back.
        (set("fixed", [("a", ready(1), maint(1)), ("b", ready(1), ready(2))]), "static LB algorithm"),
        (cut(["z"]), "backend web has no server z"),
        (Action::Stop, "a proxy cannot stop"),
    ] {
        let outcome = proxy.apply(&action).await;
        assert!(
            matches!(&outcome, Outcome::NotApplied(why) if why.why.contains(expected)),
            "{action:?}: {outcome:?}, not {expected}"
        );
        assert_eq!(proxy.comparable(&Facts::Proxy(proxy.facts().await)), before, "{action:?}");
    }
}

#[tokio::test]
async fn half_of_it_done_already_is_no_obstacle() {
    let proxy = Proxy::start().await;
    assert_eq!(proxy.apply(&set("web", [("b", ready(50), ready(100))])).await, Outcome::Applied);
    assert_eq!(proxy.apply(&proxy.action()).await, Outcome::Applied);
    assert_eq!(proxy.condition().holds(&Facts::Proxy(proxy.facts().await)), Ok(()));
}

#[tokio::test]
async fn a_drain_lets_running_requests_finish_and_sends_no_new_ones() {
    let proxy = Proxy::start().await;
    assert_eq!(proxy.apply(&set("web", [("b", ready(50), maint(50))])).await, Outcome::Applied);
    let none_left = Condition::SessionsAtMost {
        backends: BTreeMap::from([("web".into(), BTreeSet::from(["a".into()]).into())]),
        limit: 0,
    };
    let drained = async {
        proxy.sessions("a", 1).await;
        let drain = set("web", [("a", ready(50), drain(50)), ("b", maint(50), ready(50))]);
        assert_eq!(proxy.apply(&drain).await, Outcome::Applied);
        for _ in 0..6 {
            assert!(proxy.get("/").await.ends_with('b'));
        }
        assert!(none_left.holds(&Facts::Proxy(proxy.facts().await)).is_err(), "the slow request still runs");
        let facts = provider().verify(&proxy.target(), &none_left, soon()).await;
        assert_eq!(none_left.holds(facts.known().unwrap()), Ok(()));
    };
    let (answer, ()) = tokio::join!(proxy.get("/slow"), drained);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('a'), "{answer}");
}

#[tokio::test]
async fn cut_sessions_end() {
    let proxy = Proxy::start().await;
    assert_eq!(proxy.apply(&set("web", [("b", ready(50), maint(50))])).await, Outcome::Applied);
    let cut = async {
        proxy.sessions("a", 1).await;
        let servers = BTreeSet::from(["a".into()]);
        assert_eq!(
            proxy.apply(&Action::CutSessions { backends: BTreeMap::from([("web".into(), servers.into())]) }).await,
            Outcome::Applied
        );
        proxy.sessions("a", 0).await;
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(proxy.get("/endless"), cut);
    assert!(!answer.starts_with("HTTP/1.1 200") && began.elapsed() < Duration::from_secs(5), "{answer}");
}

fn saved(observed: &Observed<Facts>) -> Saved {
    observed.known().unwrap_or_else(|| panic!("{observed:?}")).proxy().unwrap().saved.clone()
}

#[tokio::test]
async fn what_is_set_survives_a_restart_where_a_state_file_is_configured() {
    let mut proxy = Proxy::start().await;
    let (provider, target, permit) = (provider(), proxy.with_file("state"), common::permit().await);
    let scope = Scope::Backends(["web".into()].into());
    let before = provider.observe(&target, &scope, soon()).await;
    assert!(before.known().unwrap().proxy().unwrap().capabilities.persistent);
    assert_eq!(saved(&before), Saved::Outdated("its state file is empty or not there".to_owned()));

    let shift = set("web", [("a", ready(50), drain(0)), ("b", ready(50), ready(100))]);
    assert_eq!(provider.apply(&target, &shift, &permit, soon()).await, Outcome::Applied);
    let file = proxy.directory.path().join("state");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644);
    let is = are([("a", drain(0)), ("b", ready(100))]);
    let facts = provider.verify(&target, &is, soon()).await;
    assert_eq!((saved(&facts), is.holds(facts.known().unwrap())), (Saved::Yes, Ok(())));

    proxy.restart().await;
    let facts = self::provider().observe(&target, &scope, soon()).await;
    assert_eq!((is.holds(facts.known().unwrap()), saved(&facts)), (Ok(()), Saved::Yes));

    // Somebody sets another weight and saves nothing: that is seen, and can be made good by saving alone.
    let by_hand = set("web", [("b", ready(100), ready(70))]);
    assert_eq!(self::provider().apply(&proxy.target(), &by_hand, &permit, soon()).await, Outcome::Applied);
    let outdated = self::provider().observe(&target, &scope, soon()).await;
    let differs = "its state file has web/b with weight 100, now it has weight 70";
    assert_eq!(saved(&outdated), Saved::Outdated(differs.to_owned()));
    let args = BTreeMap::from([("backends".to_owned(), vec!["web".to_owned()])]);
    let save = Action::Native { verb: SAVE_STATE.to_owned(), args: args.clone() };
    let done = Condition::Native { verb: SAVE_STATE.to_owned(), args, done: true };
    assert!(done.holds(outdated.known().unwrap()).is_err());
    assert_eq!(provider.apply(&target, &save, &permit, soon()).await, Outcome::Applied);
    let facts = self::provider().verify(&target, &done, soon()).await;
    assert_eq!(done.holds(facts.known().unwrap()), Ok(()));
    proxy.restart().await;
    let is = are([("a", drain(0)), ("b", ready(70))]);
    let facts = self::provider().observe(&target, &scope, soon()).await;
    assert_eq!(is.holds(facts.known().unwrap()), Ok(()));
}

#[tokio::test]
async fn a_state_that_cannot_be_saved_is_told_and_keeps_nothing_from_being_set() {
    let proxy = Proxy::start().await;
    let permit = common::permit().await;
    let scope = Scope::Backends(["web".into()].into());
    let nowhere = proxy.with_file("no/such/folder/state");
    let mut homeless = proxy.with_file("state");
    homeless.host = None;
    // A host that accepts and never answers costs a part of the time only.
    let mut silent = proxy.with_file("state");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Some(listener.local_addr().unwrap().port());
    let transport = TransportKind::Ssh { address: "127.0.0.1".to_owned(), user: None, port };
    silent.host = Some(Arc::new(Host { name: "mute".into(), transport, commands: BTreeMap::new() }));
    let (mut from, mut weight) = (ready(50), 50);
    for (target, words) in [
        (nowhere, ["its folder is not there", "let the host's login write the file"]),
        (homeless, ["has no host", "give west-lb1 a `host`"]),
        (silent, ["no connection within", "check the host"]),
    ] {
        weight += 1;
        let provider = HaProxy::new(Arc::new(Transport::with_options(vec!["-F".to_owned(), "none".to_owned()])));
        let to = ready(weight);
        let began = Instant::now();
        let outcome = provider.apply(&target, &set("web", [("a", from, to)]), &permit, soon()).await;
        assert_eq!(outcome, Outcome::Applied);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        let facts = provider.verify(&target, &are([("a", to)]), soon()).await;
        let Saved::Unknown(why) = saved(&facts) else { panic!("{facts:?}") };
        for word in words {
            assert!(why.to_string().contains(word), "{why}");
        }
        // The next program that looks finds out by itself.
        let deadline = Instant::now() + Duration::from_secs(2);
        let seen = HaProxy::new(Arc::new(Transport::with_options(vec!["-F".to_owned(), "none".to_owned()])));
        let seen = saved(&seen.observe(&target, &scope, deadline).await);
        assert!(matches!(seen, Saved::Unknown(_) | Saved::Outdated(_)), "{seen:?}");
        from = to;
    }
}

/// A proxy whose control, clients and servers are all reached by IPv6.
#[tokio::test]
async fn everything_works_over_ipv6() {
    let directory = tempfile::tempdir().unwrap();
    let (front, control) = (free_v6(), free_v6());
    let (a, b) = (application_at(front.ip(), "a").await, application_at(front.ip(), "b").await);
    let config = format!(
        "global\n stats socket ipv6@{control} level admin\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 30s\n timeout server 30s\n\
         frontend front\n bind {front}\n default_backend web\n\
         backend web\n option httpchk GET /health\n default-server check inter 50ms fastinter 20ms\n \
         server a {a} weight 50\n server b {b} weight 50\n"
    );
    let process = run(&directory, &config);
    let proxy = Proxy { process, directory, front, control, operator: control };
    proxy.up().await;
    let facts = proxy.facts().await;
    assert_eq!(facts.backends["web"].as_ref().unwrap().servers["a"].address, a.to_string());
    let drain_a = set("web", [("a", ready(50), drain(0))]);
    assert_eq!(proxy.apply(&drain_a).await, Outcome::Applied);
    for _ in 0..4 {
        assert!(proxy.get("/").await.ends_with('b'));
    }
}

/// The shares that weights make, counted at a real proxy: several servers of unequal capacity in each facility.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_share_comes_out_within_one_percentage_point() {
    const REQUESTS: u64 = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let (front, control) = (free_address(), free_address());
    let capacities =
        [("west", 800), ("west", 300), ("east", 500), ("east", 500), ("east", 170), ("south", 90), ("south", 400)];
    let mut config = format!(
        "global\n stats socket ipv4@{control} level admin\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 30s\n timeout server 30s\n\
         frontend front\n bind {front}\n default_backend web\nbackend web\n balance roundrobin\n"
    );
    let mut servers: BTreeMap<ForeignName, Participant> = BTreeMap::new();
    for (index, (facility, capacity)) in capacities.into_iter().enumerate() {
        let name = format!("s{index}");
        config += &format!(" server {name} {} weight 1\n", application("ok").await);
        let participant = Participant { facility: facility.into(), capacity: Some(Rate(capacity)) };
        servers.insert(ForeignName::new(name), participant);
    }
    let process = run(&directory, &config);
    let proxy = Proxy { process, directory, front, control, operator: control };
    let (provider, permit) = (provider(), common::permit().await);
    let ready_at = |weight| ServerSetting { weight, admission: Admission::Ready };
    let one: BTreeMap<ForeignName, ServerSetting> = servers.keys().map(|name| (name.clone(), ready_at(1))).collect();
    let started = Condition::Servers { backends: BTreeMap::from([("web".into(), one.clone().into())]) };
    assert_eq!(started.holds(provider.verify(&proxy.target(), &started, soon()).await.known().unwrap()), Ok(()));
    let mut present = one;
    for shares in [
        [("west", 1), ("east", 99), ("south", 0)],
        [("west", 33), ("east", 67), ("south", 0)],
        [("west", 20), ("east", 30), ("south", 50)],
    ] {
        let wanted = shares.map(|(facility, share)| (facility.into(), Percent::whole(share))).into();
        let to: BTreeMap<ForeignName, ServerSetting> = weights::weights(&wanted, &servers, 256)
            .into_iter()
            .map(|(name, weight)| (name, ready_at(weight)))
            .collect();
        let change = |name: &ForeignName| (name.clone(), FromTo { from: present[name], to: to[name] });
        let changes: BTreeMap<_, _> = servers.keys().map(change).collect();
        let backends = BTreeMap::from([("web".into(), changes.into())]);
        let outcome = provider.apply(&proxy.target(), &Action::SetShare { backends }, &permit, soon()).await;
        assert_eq!(outcome, Outcome::Applied);
        present = to;
        let counted = async || -> BTreeMap<ForeignName, u64> {
            let facts = proxy.facts().await;
            let servers = &facts.backends["web"].as_ref().unwrap().servers;
            servers.iter().map(|(name, server)| (name.clone(), server.requests)).collect()
        };
        let before = counted().await;
        let clients = (0..8).map(|_| async {
            for _ in 0..REQUESTS / 8 {
                assert!(proxy.get("/").await.starts_with("HTTP/1.1 200"));
            }
        });
        futures_util::future::join_all(clients).await;
        let after = counted().await;
        for (facility, share) in shares {
            let of = |counts: &BTreeMap<ForeignName, u64>| -> u64 {
                counts
                    .iter()
                    .filter(|(name, _)| servers[*name].facility.as_str() == facility)
                    .map(|(_, count)| count)
                    .sum()
            };
            let (got, wanted) = (Percent::ratio(of(&after) - of(&before), REQUESTS), Percent::whole(share));
            assert!(got.distance(wanted) <= Percent::ONE, "{facility} got {got} instead of {wanted}");
            println!("{facility}: {got} for {wanted}");
        }
    }
}
