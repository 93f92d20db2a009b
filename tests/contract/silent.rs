//! Targets that accept and never answer: each provider gives up by its deadline, and says what it tried, where, and what to look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use handover::model::{
    HealthCheck, Host, JobName, Observed, Place, Scope, Setting, SettingValue, Settings, Target, TargetId, TargetKind,
    TransportKind,
};
use handover::provider::{Provider, command, haproxy, http, pgbouncer, postgresql, rfc2136, vantage};
use handover::secret::SecretReader;
use handover::transport::Transport;
use tokio::time::Instant;

fn setting(value: SettingValue) -> (Place, Setting) {
    (Place::default(), Setting { value, place: Place::default() })
}

fn text(text: &str) -> (Place, Setting) {
    setting(SettingValue::Text(text.to_owned()))
}

fn settings<const N: usize>(entries: [(&str, (Place, Setting)); N]) -> Settings {
    let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), value));
    Settings { entries: entries.collect(), place: Place::default() }
}

fn target(id: TargetId, kind: TargetKind, address: &str, settings: Settings) -> Target {
    let (facility, provider) = ("west".into(), "any".into());
    Target { id, kind, facility, provider, address: address.to_owned(), settings, host: None }
}

#[tokio::test]
async fn a_target_that_accepts_and_never_answers_costs_its_deadline_and_is_named() {
    // Nobody ever takes a connection out of its queue.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, port) = (listener.local_addr().unwrap().to_string(), listener.local_addr().unwrap().port());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "aGFuZG92ZXIgY29udHJhY3QgdGVzdCBzZWNyZXQgMDE=").unwrap();
    let secret = || setting(SettingValue::Map(BTreeMap::from([("file".to_owned(), text("secret"))])));
    let secrets = || Arc::new(SecretReader::new(folder.path()));
    let transport = || Arc::new(Transport::with_options(vec!["-F".to_owned(), "none".to_owned()]));
    let words = |words: &[&str]| {
        let items = words.iter().map(|word| text(word).1).collect();
        setting(SettingValue::Map(BTreeMap::from([("command".to_owned(), setting(SettingValue::List(items)))])))
    };

    let job = {
        let commands = [("stop", words(&["true"])), ("start", words(&["true"])), ("check", words(&["true"]))];
        let mut job = target(TargetId::job(&JobName::new("billing")), TargetKind::Job, "", settings(commands));
        let transport = TransportKind::Ssh { address: "127.0.0.1".to_owned(), user: None, port: Some(port) };
        job.host = Some(Arc::new(Host { name: "mute".into(), transport, commands: BTreeMap::new() }));
        job
    };
    let health = HealthCheck { path: "/health".to_owned(), expect: 200, host: "www.shop.example".to_owned() };
    let control = text(&format!("tcp://{address}"));
    let subjects: Vec<(Box<dyn Provider>, Target, Scope, &str)> = vec![
        (
            Box::new(rfc2136::Rfc2136::new(secrets())),
            target(
                TargetId::name_server(&"shop.example".into(), "west-ns1"),
                TargetKind::NameServer,
                &address,
                settings([("key", text("handover-key")), ("secret", secret())]),
            ),
            Scope::Records(Default::default()),
            "no answer within",
        ),
        (
            Box::new(haproxy::HaProxy::new(transport())),
            target(TargetId::proxy("west-lb1"), TargetKind::Proxy, &address, settings([("control", control)])),
            Scope::Backends(["web".into()].into()),
            "no answer before the deadline",
        ),
        (
            Box::new(http::HttpHealth::new()),
            target(TargetId::server(&"web".into(), "west-app1"), TargetKind::Server, &address, Settings::default()),
            Scope::Health(health),
            "no answer within",
        ),
        (
            Box::new(postgresql::Postgresql::new(secrets(), transport())),
            target(
                TargetId::member(&"accounts".into(), "west-pg1"),
                TargetKind::Member,
                &address,
                settings([("user", text("handover"))]),
            ),
            Scope::Member,
            "no session before the deadline",
        ),
        (
            Box::new(pgbouncer::Pgbouncer::new(secrets(), transport())),
            target(
                TargetId::pooler("west-pool1"),
                TargetKind::Pooler,
                &address,
                settings([("admin", text("handover")), ("password", secret())]),
            ),
            Scope::PoolerDatabases(["accounts".into()].into()),
            "no session before the deadline",
        ),
        (Box::new(command::CommandJobs::new(transport())), job.clone(), Scope::Job, "no connection within"),
        (
            Box::new(vantage::Vantage::new(transport())),
            Target { id: TargetId::vantage("mute"), kind: TargetKind::Vantage, ..job },
            Scope::Reach(["127.0.0.1:1".to_owned()].into()),
            "no connection within",
        ),
    ];
    for (provider, target, scope, why) in subjects {
        let began = Instant::now();
        let observed = provider.observe(&target, &scope, began + Duration::from_millis(700)).await;
        let took = began.elapsed();
        let Observed::Unreachable(unreachable) = observed else { panic!("{}: {observed:?}", target.id) };
        let told = unreachable.to_string();
        assert!(told.contains(why), "{}: {told}", target.id);
        assert!(told.contains(&address) || told.contains(&port.to_string()), "{}: {told}", target.id);
        assert!(unreachable.advice.is_some(), "{}: {told}", target.id);
        assert!(took < Duration::from_secs(5), "{}: {took:?}", target.id);
    }
}
