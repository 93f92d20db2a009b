//! Provider `rfc2136` against BIND.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use handover::model::{
    Action, Condition, FacilityName, Facts, FromTo, NameServerFacts, Observed, Place, ProviderName, RecordKey,
    RecordSet, RecordType, Scope, Setting, SettingValue, Settings, Target, TargetId, TargetKind, ZoneName,
};
use handover::provider::rfc2136::Rfc2136;
use handover::provider::{Outcome, Provider};
use handover::secret::SecretReader;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::servers::free_port;
use crate::{Subject, common};

mod admit;
mod between;
mod epoch;
mod keys;
mod limits;

const ZONE: &str = "clickbank.test";
const SECRET: &str = "aGFuZG92ZXIgY29udHJhY3QgdGVzdCBzZWNyZXQgMDE=";
const OTHER_SECRET: &str = "c29tZSBvdGhlciBzZWNyZXQgb2YgdGhlIHNhbWUgc2k=";

/// A host whose whole name has the 253 characters that DNS allows, of labels with its 63 octets.
const LONG: &str = "\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.\
    ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc.dddddddddddddddddddddddddddddddddddddddddddddd";

const RECORDS: &str = "\
$TTL 30
@ IN SOA west-ns1 hostmaster 1 3600 600 86400 30
@ IN NS west-ns1
west-ns1 IN A 127.0.0.1
pay IN A 10.10.0.80
pay IN A 10.10.0.81
pay IN A 10.20.0.80
hop IN TXT \"no address\"
alias IN CNAME pay
dangling IN CNAME nothing
*.wild IN A 10.9.9.9
sub IN NS ns.elsewhere.test.
";

crate::contract!(Bind);

/// A running `named` in a directory of its own.
struct Bind {
    named: Child,
    port: u16,
    dir: TempDir,
}

impl Bind {
    async fn primary() -> Self {
        Self::run(|dir| {
            let many: String = (0..300).map(|n| format!("many{n} IN A 10.30.{}.{}\n", n / 250, n % 250)).collect();
            write(dir, "zone.db", &format!("{RECORDS}{many}"));
            // As narrow as docs/providers.md recommends.
            let grant = |host| format!("grant handover-key name {host}.{ZONE}. A AAAA;");
            let grants = ["pay", "www", "alias", "x.wild", LONG].map(grant).concat();
            let grants = format!("{grants} grant handover-key name _handover.{ZONE}. TXT;");
            format!(
                "zone \"{ZONE}\" {{ type primary; file \"zone.db\"; update-policy {{ {grants} }}; \
                 allow-transfer {{ any; }}; }};"
            )
        })
        .await
    }

    async fn secondary(primary: u16) -> Self {
        Self::run(|_| {
            format!(
                "zone \"{ZONE}\" {{ type secondary; file \"copy.db\"; primaries port {primary} {{ 127.0.0.1; }}; }};"
            )
        })
        .await
    }

    /// Starts `named` with this zone and waits until it serves it.
    async fn run(zone: impl Fn(&Path) -> String) -> Self {
        Self::run_by(&["/usr/sbin/named"], zone).await
    }

    /// Starts `named` by this command.
    async fn run_by(command: &[&str], zone: impl Fn(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let path = dir.path().display();
        let zone = zone(dir.path());
        write(dir.path(), "tsig", SECRET);
        write(dir.path(), "wrong", OTHER_SECRET);
        write(
            dir.path(),
            "named.conf",
            &format!(
                "options {{ directory \"{path}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 port {port} {{ ::1; }}; \
                 pid-file \"{path}/named.pid\"; session-keyfile \"{path}/session.key\"; lock-file none; \
                 query-source address 127.0.0.1; transfer-source 127.0.0.1; notify-source 127.0.0.1; notify no; \
                 recursion no; dnssec-validation no; empty-zones-enable no; }};\n\
                 controls {{ }};\n\
                 key \"handover-key\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
                 {zone}\n"
            ),
        );
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let named = Command::new(command[0])
            .args(&command[1..])
            .args(["-g", "-n", "1", "-c"])
            .arg(dir.path().join("named.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("these tests need BIND: install the package bind9");
        let bind = Self { named, port, dir };
        let log = || std::fs::read_to_string(bind.dir.path().join("log")).unwrap();
        assert!(bind.serves(Instant::now() + Duration::from_secs(20)).await, "named does not start: {}", log());
        bind
    }

    async fn serves(&self, deadline: Instant) -> bool {
        let provider = self.provider();
        while Instant::now() < deadline {
            let soon = Instant::now() + Duration::from_millis(200);
            if provider.observe(&self.target(), &Scope::Records(BTreeSet::new()), soon).await.known().is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.named.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    async fn observe(&self, keys: &[RecordKey]) -> Result<NameServerFacts, String> {
        observe(&self.provider(), &self.target(), keys).await
    }

    async fn apply(&self, target: &Target, action: &Action) -> Outcome {
        self.provider().apply(target, action, &common::permit().await, soon()).await
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        self.named.kill().unwrap();
        self.named.wait().unwrap();
    }
}

#[async_trait]
impl Subject for Bind {
    async fn start() -> Self {
        Self::primary().await
    }

    fn provider(&self) -> Arc<dyn Provider> {
        Arc::new(Rfc2136::new(Arc::new(SecretReader::new(self.dir.path()))))
    }

    fn target(&self) -> Target {
        target(&format!("127.0.0.1:{}", self.port), "handover-key", "tsig")
    }

    fn nobody(&self) -> Target {
        target("127.0.0.1:1", "handover-key", "tsig")
    }

    fn scope(&self) -> Scope {
        Scope::Records([pay(), a("www"), a("hop")].into())
    }

    fn action(&self) -> Action {
        change([
            (pay(), all_of_pay(), Some(set(60, &["10.20.0.80"]))),
            (a("www"), None, Some(set(30, &["10.20.0.80"]))),
        ])
    }

    fn condition(&self) -> Condition {
        is([(pay(), Some(set(60, &["10.20.0.80"]))), (a("www"), Some(set(30, &["10.20.0.80"])))])
    }

    fn undo(&self) -> Action {
        change([
            (pay(), Some(set(60, &["10.20.0.80"])), all_of_pay()),
            (a("www"), Some(set(30, &["10.20.0.80"])), None),
        ])
    }

    fn undone(&self) -> Condition {
        is([(pay(), all_of_pay()), (a("www"), None)])
    }

    fn stale(&self) -> Option<Action> {
        Some(change([
            (a("www"), None, Some(set(30, &["10.20.0.80"]))),
            (pay(), Some(set(30, &["10.10.0.80"])), Some(set(60, &["10.20.0.80"]))),
        ]))
    }

    async fn hang(&self) {
        self.signal("-STOP");
    }

    async fn unhang(&self) {
        self.signal("-CONT");
    }

    fn comparable(&self, facts: &Facts) -> String {
        format!("{:#?}", facts.name_server().unwrap().sets)
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn target(address: &str, key: &str, secret: &str) -> Target {
    let setting = |value| Setting { value, place: Place::default() };
    let text = |text: &str| setting(SettingValue::Text(text.to_owned()));
    let file = SettingValue::Map([("file".to_owned(), (Place::default(), text(secret)))].into());
    let entries = [("key", text(key)), ("algorithm", text("hmac-sha256")), ("secret", setting(file))]
        .map(|(key, setting)| (key.to_owned(), (Place::default(), setting)));
    Target {
        id: TargetId::name_server(&ZoneName::new(ZONE), "west-ns1"),
        kind: TargetKind::NameServer,
        facility: FacilityName::new("west"),
        provider: ProviderName::new("rfc2136"),
        address: address.to_owned(),
        settings: Settings { entries: entries.into(), place: Place::default() },
        host: None,
    }
}

fn a(host: &str) -> RecordKey {
    RecordKey { name: format!("{host}.{ZONE}"), rtype: RecordType::A }
}

fn pay() -> RecordKey {
    a("pay")
}

fn set(ttl: u32, data: &[&str]) -> RecordSet {
    RecordSet { ttl, data: data.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect() }
}

fn all_of_pay() -> Option<RecordSet> {
    Some(set(30, &["10.10.0.80", "10.10.0.81", "10.20.0.80"]))
}

fn change<const N: usize>(sets: [(RecordKey, Option<RecordSet>, Option<RecordSet>); N]) -> Action {
    let sets = sets.map(|(key, from, to)| (key, FromTo { from, to }));
    Action::SetRecords { zone: ZoneName::new(ZONE), sets: sets.into() }
}

fn is<const N: usize>(sets: [(RecordKey, Option<RecordSet>); N]) -> Condition {
    Condition::Records { sets: sets.into() }
}

async fn observe(provider: &Arc<dyn Provider>, target: &Target, keys: &[RecordKey]) -> Result<NameServerFacts, String> {
    match provider.observe(target, &Scope::Records(keys.iter().cloned().collect()), soon()).await {
        Observed::Known { value: Facts::NameServer(facts), .. } => Ok(facts),
        Observed::Known { value, .. } => panic!("{value:?}"),
        Observed::Unreachable(why) => Err(why.to_string()),
    }
}

fn refusal(outcome: Outcome) -> String {
    match outcome {
        Outcome::NotApplied(why) => {
            let text = why.to_string();
            assert!(text.contains("updating 1 record set of clickbank.test at 127.0.0.1:"), "{text}");
            assert!(!text.contains(SECRET) && !text.contains(OTHER_SECRET), "{text}");
            text
        }
        other => panic!("{other:?}"),
    }
}

fn drained_pay() -> Action {
    change([(pay(), all_of_pay(), Some(set(30, &["10.20.0.80"])))])
}

#[tokio::test]
async fn it_tells_sets_from_absence_and_who_it_is() {
    let bind = Bind::primary().await;
    let upper = RecordKey { name: "PAY.ClickBank.test".to_owned(), rtype: RecordType::A };
    let aaaa = RecordKey { rtype: RecordType::Aaaa, ..pay() };
    let facts = bind.observe(&[pay(), upper.clone(), aaaa.clone(), a("hop"), a("nothing")]).await.unwrap();
    assert_eq!((facts.serial, facts.primary_name.as_str()), (1, "west-ns1.clickbank.test"));
    // NODATA at `pay AAAA` and `hop A`, NXDOMAIN at `nothing A`.
    let expected = [(pay(), all_of_pay()), (upper, all_of_pay()), (aaaa, None), (a("hop"), None), (a("nothing"), None)];
    assert_eq!(facts.sets, BTreeMap::from(expected));
}

#[tokio::test]
async fn answers_without_authority_or_with_an_alias_are_none() {
    let bind = Bind::primary().await;
    let alias = bind.observe(&[a("alias")]).await.unwrap_err();
    assert!(alias.contains("alias.clickbank.test is an alias (CNAME) of pay.clickbank.test"), "{alias}");
    let dangling = bind.observe(&[a("dangling")]).await.unwrap_err();
    assert!(dangling.contains("is an alias (CNAME) of nothing.clickbank.test"), "{dangling}");
    let delegated = bind.observe(&[a("x.sub")]).await.unwrap_err();
    assert!(delegated.contains("it is not authoritative for x.sub.clickbank.test A"), "{delegated}");

    let mut elsewhere = bind.target();
    elsewhere.id = TargetId::name_server(&ZoneName::new("elsewhere.test"), "west-ns1");
    let refused = observe(&bind.provider(), &elsewhere, &[]).await.unwrap_err();
    assert!(refused.contains("it refused the question for elsewhere.test SOA (REFUSED)"), "{refused}");
    assert!(refused.contains("check that the zone is configured there"), "{refused}");
    elsewhere.id = TargetId::name_server(&ZoneName::new("pay.clickbank.test"), "west-ns1");
    let inside = observe(&bind.provider(), &elsewhere, &[]).await.unwrap_err();
    assert!(inside.contains("pay.clickbank.test is no zone of this server"), "{inside}");
}

#[tokio::test]
async fn a_secondary_serves_the_change_and_takes_none() {
    let primary = Bind::primary().await;
    let secondary = Bind::secondary(primary.port).await;
    assert_eq!(secondary.observe(&[pay()]).await.unwrap().sets[&pay()], all_of_pay());
    let refused = refusal(secondary.apply(&secondary.target(), &drained_pay()).await);
    assert!(refused.contains("check `allow-update`") || refused.contains("takes no updates"), "{refused}");
    assert_eq!(primary.observe(&[]).await.unwrap().serial, 1);
}

#[tokio::test]
async fn somebody_elses_change_is_named_and_kept() {
    let bind = Bind::primary().await;
    let theirs = change([(pay(), all_of_pay(), Some(set(30, &["10.99.0.1"])))]);
    assert_eq!(bind.apply(&bind.target(), &theirs).await, Outcome::Applied);
    let conflict = refusal(bind.apply(&bind.target(), &drained_pay()).await);
    assert!(
        conflict.contains("somebody else changed it: pay.clickbank.test A is 10.99.0.1 (TTL 30s), not 10.10.0.80, "),
        "{conflict}"
    );
    assert_eq!(bind.observe(&[pay()]).await.unwrap().sets[&pay()], Some(set(30, &["10.99.0.1"])));

    // Prerequisites do not see a TTL; the reading before does.
    let longer = change([(pay(), Some(set(30, &["10.99.0.1"])), Some(set(300, &["10.99.0.1"])))]);
    assert_eq!(bind.apply(&bind.target(), &longer).await, Outcome::Applied);
    let assumes_short = change([(pay(), Some(set(30, &["10.99.0.1"])), None)]);
    let conflict = refusal(bind.apply(&bind.target(), &assumes_short).await);
    assert!(conflict.contains("is 10.99.0.1 (TTL 5m), not 10.99.0.1 (TTL 30s) as planned"), "{conflict}");
}

/// BIND answers NOERROR to an address next to an alias and ignores it.
#[tokio::test]
async fn an_address_next_to_an_alias_is_refused_and_never_verified() {
    let bind = Bind::primary().await;
    let refused =
        refusal(bind.apply(&bind.target(), &change([(a("alias"), None, Some(set(30, &["10.0.0.1"])))])).await);
    assert!(refused.contains("is an alias (CNAME) of pay.clickbank.test"), "{refused}");
    let condition = is([(a("alias"), Some(set(30, &["10.0.0.1"])))]);
    let deadline = Instant::now() + Duration::from_millis(300);
    let seen = bind.provider().verify(&bind.target(), &condition, deadline).await;
    assert!(matches!(&seen, Observed::Unreachable(why) if why.why.contains("is an alias")), "{seen:?}");
}

/// The prerequisite fails at the server although the answer before looked right.
#[tokio::test]
async fn a_wildcards_answer_is_not_a_record_set() {
    let bind = Bind::primary().await;
    let action = change([(a("x.wild"), Some(set(30, &["10.9.9.9"])), Some(set(30, &["10.20.0.80"])))]);
    let refused = refusal(bind.apply(&bind.target(), &action).await);
    assert!(refused.contains("a wildcard record answers for the name"), "{refused}");
    assert_eq!(bind.observe(&[]).await.unwrap().serial, 1);
}

#[tokio::test]
async fn verify_waits_for_somebody_elses_change() {
    let bind = Bind::primary().await;
    let (provider, target) = (bind.provider(), bind.target());
    let condition = is([(pay(), Some(set(30, &["10.20.0.80"])))]);
    let (waited, applied) = tokio::join!(provider.verify(&target, &condition, soon()), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bind.apply(&bind.target(), &drained_pay()).await
    });
    assert_eq!(applied, Outcome::Applied);
    assert_eq!(condition.holds(waited.known().unwrap()), Ok(()));
}
