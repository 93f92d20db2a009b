//! A real host elsewhere: an ssh server on this machine, asked which loopback addresses it reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use handover::model::{
    Action, Condition, Facts, Host, Observed, Scope, Settings, Target, TargetId, TargetKind, VantageFacts,
};
use handover::provider::vantage::Vantage;
use handover::provider::{Outcome, Provider};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::servers::free_port;
use crate::sshd::Sshd;
use crate::{common, soon};

fn target(host: Option<Host>) -> Target {
    Target {
        id: TargetId::vantage("toronto"),
        kind: TargetKind::Vantage,
        facility: "haven".into(),
        provider: "vantage".into(),
        address: String::new(),
        settings: Settings::default(),
        host: host.map(Arc::new),
    }
}

fn provider(sshd: &Sshd) -> Vantage {
    Vantage::new(Arc::new(sshd.transport("login", "known_hosts")))
}

async fn ask(provider: &Vantage, target: &Target, asked: &BTreeSet<String>) -> Result<VantageFacts, String> {
    match provider.observe(target, &Scope::Reach(asked.clone()), soon()).await {
        Observed::Known { value: Facts::Vantage(facts), .. } => Ok(facts),
        Observed::Known { value, .. } => panic!("{value:?}"),
        Observed::Unreachable(why) => Err(why.to_string()),
    }
}

/// Asks until this is the answer: on a machine that is busy enough any address may miss its time.
async fn becomes(provider: &Vantage, target: &Target, asked: &BTreeSet<String>, expected: &BTreeMap<String, bool>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let reached = ask(provider, target, asked).await.unwrap().reached;
        let wrong: Vec<&String> =
            reached.iter().filter(|(address, is)| **is && !expected[*address]).map(|(a, _)| a).collect();
        assert!(wrong.is_empty(), "reached though nobody takes connections: {wrong:?}");
        if reached == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{reached:?} instead of {expected:?}");
    }
}

/// An address that takes no connection and refuses none, as those of a facility do whose power is gone.
async fn black_hole() -> (Vec<tokio::task::JoinHandle<()>>, tokio::net::TcpListener, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // Whoever waits in its queue lets nobody else in: the kernel drops what more comes.
    let wait = move || async move {
        let _stream = TcpStream::connect(address).await;
        std::future::pending::<()>().await;
    };
    let waiting = (0..4).map(|_| tokio::spawn(wait())).collect();
    let full = |address: std::net::SocketAddr| async move {
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await.is_err()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !full(address).await {
        assert!(Instant::now() < deadline, "its queue does not fill");
    }
    (waiting, listener, address.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_which_addresses_take_a_connection_and_which_do_not() {
    let sshd = Sshd::start(free_port());
    let (provider, target) = (provider(&sshd), target(Some(sshd.host())));
    let open: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let open: Vec<(String, TcpListener)> =
        open.into_iter().map(|listener| (listener.local_addr().unwrap().to_string(), listener)).collect();
    let closed = format!("127.0.0.1:{}", free_port());
    let (waiting, _listener, silent) = black_hole().await;
    let mut expected: BTreeMap<String, bool> = open.iter().map(|(address, _)| (address.clone(), true)).collect();
    expected.extend([(closed, false), (silent, false)]);
    let asked: BTreeSet<String> = expected.keys().cloned().collect();
    becomes(&provider, &target, &asked, &expected).await;
    // One that ends is not reached any more.
    let mut open = open;
    let (gone, listener) = open.remove(0);
    drop(listener);
    expected.insert(gone, false);
    becomes(&provider, &target, &asked, &expected).await;
    assert_eq!(ask(&provider, &target, &BTreeSet::new()).await.unwrap(), VantageFacts::default());
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn one_that_cannot_be_asked_has_reached_nothing_and_says_why() {
    let sshd = Sshd::start(free_port());
    let provider = provider(&sshd);
    let asked = BTreeSet::from(["127.0.0.1:1".to_owned()]);
    let mut nobody = sshd.host();
    nobody.transport =
        handover::model::TransportKind::Ssh { address: "127.0.0.1".to_owned(), user: None, port: Some(free_port()) };
    let why = ask(&provider, &target(Some(nobody)), &asked).await.unwrap_err();
    assert!(why.contains("refused"), "{why}");
    let why = ask(&provider, &target(None), &asked).await.unwrap_err();
    assert!(why.contains("no host"), "{why}");
}

#[tokio::test]
async fn nothing_is_ever_done_to_it() {
    let sshd = Sshd::start(free_port());
    let (provider, target, permit) = (provider(&sshd), target(Some(sshd.host())), common::permit().await);
    let outcome = provider.apply(&target, &Action::Stop, &permit, soon()).await;
    assert!(matches!(outcome, Outcome::NotApplied(_)), "{outcome:?}");
    assert!(provider.observe(&target, &Scope::Job, soon()).await.known().is_none());
    assert!(provider.verify(&target, &Condition::Answers, soon()).await.known().is_none());
    assert_eq!(sshd.logins(), 0, "{}", sshd.log());
}

/// A folder of programs, as the only one to be searched.
fn only(programs: &[&str], folder: &Path) {
    for program in programs {
        let found =
            ["/bin", "/usr/bin"].map(|path| Path::new(path).join(program)).into_iter().find(|path| path.exists());
        symlink(found.unwrap_or_else(|| panic!("install {program}")), folder.join(program)).unwrap();
    }
}

/// The script as a host runs it that has these programs only.
fn tried(folder: &Path, address: &str) -> (Option<i32>, String, String) {
    let (host, port) = address.rsplit_once(':').unwrap();
    let script = include_str!("../../src/provider/vantage/reach.sh");
    let output = Command::new(folder.join("sh"))
        .args(["-c", script, "sh", "2000", host, port])
        .env("PATH", folder)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_host_without_bash_uses_nc_and_one_without_either_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    only(&["sh", "sleep", "grep"], folder.path());
    let (status, _, said) = tried(folder.path(), &open);
    assert_eq!((status, said.as_str()), (Some(3), "neither bash with /dev/tcp nor nc is installed"));
    only(&["nc"], folder.path());
    let (host, port) = open.rsplit_once(':').unwrap();
    let (status, reached, said) = tried(folder.path(), &open);
    assert_eq!((status, reached), (Some(0), format!("{host} {port}")), "{said}");
    drop(listener);
    let (status, reached, said) = tried(folder.path(), &open);
    assert_eq!((status, reached.as_str()), (Some(0), ""), "{said}");
}
