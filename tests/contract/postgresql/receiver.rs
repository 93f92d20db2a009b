//! What a replica says of whom it receives from, while it does, while nothing comes, and when nobody sends any more.

use super::*;

/// Observes until `enough`.
async fn until(pair: &Pair, member: &Member, enough: impl Fn(&MemberFacts) -> bool) -> MemberFacts {
    let began = Instant::now();
    loop {
        let facts = pair.observe(member).await;
        if enough(&facts) {
            return facts;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{facts:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_tells_when_it_last_heard_of_its_sender_and_how_far_that_was() {
    let pair = Pair::start().await;
    pair.a.sql("INSERT INTO ledger (id) VALUES (-1)");
    let end = pair.observe(&pair.a).await.position;
    let facts = until(&pair, &pair.b, |b| b.receiver.as_ref().is_some_and(|receiver| receiver.told >= end)).await;
    assert_eq!(facts.receiver.unwrap().from, pair.a.address());
    assert_eq!(facts.set_to_follow, Some(pair.a.address()));
    assert_eq!(pair.observe(&pair.a).await.receiver, None);

    // A sender that has frozen, as one behind a cut line: the receiver lives, and what it was told last grows old.
    pair.a.signal("-STOP");
    let silent = |facts: &MemberFacts| {
        let receiver = facts.receiver.clone().expect("the receiver lives for wal_receiver_timeout");
        receiver.last_message > Duration::from_secs(1)
    };
    let frozen = until(&pair, &pair.b, silent).await.receiver.unwrap();
    pair.a.signal("-CONT");
    assert!(frozen.told >= end && frozen.told_age >= frozen.last_message, "{frozen:?}");

    // A sender that is gone takes the receiver with it; whom the replica would follow is known all the same.
    pair.a.kill();
    let alone = until(&pair, &pair.b, |facts| facts.receiver.is_none()).await;
    assert_eq!((alone.receives_from, alone.set_to_follow), (None, Some(pair.a.address())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_connection_that_a_member_is_set_to_only_hosts_and_ports_are_read() {
    let pair = Pair::start().await;
    for (connection, expected) in [
        ("host=10.0.0.1 port=5433 user=r password=geheim", Some("10.0.0.1:5433")),
        ("user = r password = 'geheim host=10.9.9.9 port=1' host = 10.0.0.1", Some("10.0.0.1:5432")),
        (r"password=geheim\ host=10.9.9.9 hostaddr=10.0.0.2 port='6000'", Some("10.0.0.2:6000")),
        (r"password='geheim\' host=10.9.9.9' host='fd00::1'", Some("[fd00::1]:5432")),
        ("host=10.0.0.1,10.0.0.2 port=1,2 password=geheim", Some("10.0.0.1:1,10.0.0.2:2")),
        ("host=10.9.9.9 password=geheim host=10.0.0.1", Some("10.0.0.1:5432")),
        (
            "postgresql://r:geheim@10.0.0.1:6000,[fd00::1]/postgres?password=geheim",
            Some("10.0.0.1:6000,[fd00::1]:5432"),
        ),
        ("postgres://10.0.0.1?user=r&password=geheim", Some("10.0.0.1:5432")),
        ("host=/run/geheim user=r", None),
        ("user=r password=geheim", None),
        ("", None),
    ] {
        pair.a.sql(&format!("ALTER SYSTEM SET primary_conninfo = '{}'", connection.replace('\'', "''")));
        pair.a.sql("SELECT pg_reload_conf()");
        pair.a
            .until(&format!("SELECT current_setting('primary_conninfo') = '{}'", connection.replace('\'', "''")), "t");
        let facts = pair.observe(&pair.a).await;
        assert_eq!(facts.set_to_follow.as_deref(), expected, "{connection}");
        assert!(!format!("{facts:?}").contains("geheim"), "{connection}");
    }
}
