//! A real HAProxy with three small HTTP servers in the test's own process.

#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use handover::model::{
    Action, Admission, CLOSE_FRONTENDS, Condition, Facts, ForeignName, FromTo, Host, Observed, Operational, Percent,
    Place, ProxyFacts, Rate, SAVE_STATE, Saved, Scope, ServerSetting, Setting, SettingValue, Settings, Target,
    TargetId, TargetKind, TransportKind,
};
use handover::plan::weights::{self, Participant};
use handover::provider::haproxy::HaProxy;
use handover::provider::{Outcome, Provider};
use handover::transport::Transport;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::servers::free_port;
use crate::{Subject, common, soon};

mod clients;
mod down;
mod saved;
mod shares;

fn provider() -> HaProxy {
    HaProxy::new(Arc::new(Transport::new()))
}

fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

fn free_v6() -> SocketAddr {
    (Ipv6Addr::LOCALHOST, free_port()).into()
}

/// An application server: `GET /slow` takes half a second, `GET /endless` never ends, all else is answered at once with its name.
async fn application(name: &'static str) -> SocketAddr {
    application_at(free_address(), name).await
}

async fn application_at(address: SocketAddr, name: &'static str) -> SocketAddr {
    serving(address, name).await;
    address
}

/// The same, with the task that listens: where it ends, connections are refused.
async fn serving(address: SocketAddr, name: &'static str) -> JoinHandle<()> {
    let listener = TcpListener::bind(address).await.unwrap();
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
    })
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
    /// One without anything but two servers, reached by either version of IP.
    async fn of_two(directory: TempDir, front: SocketAddr, control: SocketAddr, [a, b]: [SocketAddr; 2]) -> Self {
        let family = if control.is_ipv6() { "ipv6" } else { "ipv4" };
        let config = format!(
            "global\n stats socket {family}@{control} level admin\n\
             defaults\n mode http\n timeout connect 1s\n timeout client 30s\n timeout server 30s\n\
             frontend front\n bind {front}\n default_backend web\n\
             backend web\n option httpchk GET /health\n default-server check inter 50ms fastinter 20ms\n \
             server a {a} weight 50\n server b {b} weight 50\n"
        );
        let process = run(&directory, &config);
        let proxy = Self { process, directory, front, control, operator: control };
        proxy.up().await;
        proxy
    }

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

/// A proxy whose control, clients and servers are all reached by IPv6.
#[tokio::test]
async fn everything_works_over_ipv6() {
    let directory = tempfile::tempdir().unwrap();
    let (front, control) = (free_v6(), free_v6());
    let (a, b) = (application_at(free_v6(), "a").await, application_at(free_v6(), "b").await);
    let proxy = Proxy::of_two(directory, front, control, [a, b]).await;
    let facts = proxy.facts().await;
    assert_eq!(facts.backends["web"].as_ref().unwrap().servers["a"].address, a.to_string());
    let drain_a = set("web", [("a", ready(50), drain(0))]);
    assert_eq!(proxy.apply(&drain_a).await, Outcome::Applied);
    for _ in 0..4 {
        assert!(proxy.get("/").await.ends_with('b'));
    }
}
