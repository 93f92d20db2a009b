//! Both families, and what is as large as DNS allows.

use super::*;

#[tokio::test]
async fn both_families_change_in_one_message_over_ipv6() {
    let bind = Bind::primary().await;
    let target = target(&format!("[::1]:{}", bind.port), "handover-key", "tsig");
    let aaaa = |name: &str| RecordKey { rtype: RecordType::Aaaa, ..a(name) };
    let both = change([
        (pay(), all_of_pay(), Some(set(30, &["10.20.0.80"]))),
        (aaaa("pay"), None, Some(set(30, &["fd00:10:20::80", "fd00:10:20::81"]))),
        (aaaa("www"), None, Some(set(60, &["2001:db8::1"]))),
    ]);
    assert_eq!(bind.apply(&target, &both).await, Outcome::Applied);
    let facts = observe(&bind.provider(), &target, &[pay(), aaaa("pay"), aaaa("www")]).await.unwrap();
    assert_eq!(facts.serial, 2, "one message");
    assert_eq!(facts.sets[&pay()], Some(set(30, &["10.20.0.80"])));
    assert_eq!(facts.sets[&aaaa("pay")], Some(set(30, &["fd00:10:20::80", "fd00:10:20::81"])));
    // The drain of the other family, and a stale assumption about it.
    let stale = change([(aaaa("pay"), Some(set(30, &["fd00:10:20::80"])), None)]);
    assert!(matches!(bind.apply(&target, &stale).await, Outcome::NotApplied(_)));
    let fewer = Some(set(30, &["fd00:10:20::81"]));
    let drain = change([(aaaa("pay"), Some(set(30, &["fd00:10:20::80", "fd00:10:20::81"])), fewer.clone())]);
    assert_eq!(bind.apply(&target, &drain).await, Outcome::Applied);
    // The same server by its other address.
    assert_eq!(bind.observe(&[aaaa("pay")]).await.unwrap().sets[&aaaa("pay")], fewer);
}

#[tokio::test]
async fn names_at_the_limits_of_dns_are_published() {
    let bind = Bind::primary().await;
    let key = a(LONG);
    assert_eq!((key.name.len(), LONG.split('.').next().unwrap().len()), (253, 63));
    let to = Some(set(30, &["10.20.0.80"]));
    assert_eq!(bind.apply(&bind.target(), &change([(key.clone(), None, to.clone())])).await, Outcome::Applied);
    assert_eq!(bind.observe(std::slice::from_ref(&key)).await.unwrap().sets[&key], to);
    let too_long = bind.observe(&[a(&format!("d{LONG}"))]).await.unwrap_err();
    assert!(too_long.contains("longer than"), "{too_long}");
}

#[tokio::test]
async fn a_change_too_large_for_one_message_is_refused() {
    let bind = Bind::primary().await;
    let data = (0..5_000u32).map(|n| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n))).collect();
    let huge = change([(pay(), all_of_pay(), Some(RecordSet { ttl: 30, data }))]);
    // Known before anything is asked, so that no plan has it.
    let impossible = bind.provider().impossible(&bind.target(), &huge).unwrap().to_string();
    assert!(impossible.contains("does not fit one DNS message of 64 KiB"), "{impossible}");
    assert!(impossible.contains("updating 1 record set of clickbank.test"), "{impossible}");
    assert!(impossible.contains("spread the hostnames over several zones"), "{impossible}");
    assert_eq!(bind.provider().impossible(&bind.target(), &drained_pay()), None);
    let refused = refusal(bind.apply(&bind.target(), &huge).await);
    assert!(refused.contains("does not fit one DNS message of 64 KiB"), "{refused}");
    assert_eq!(bind.observe(&[]).await.unwrap().serial, 1);
}

/// The last change that is called possible reaches the server (which has a limit of its own for the records of one name: 100 in newer
/// BIND), and the next one is refused.
#[tokio::test]
async fn the_largest_change_that_fits_is_sent() {
    let bind = Bind::primary().await;
    let sized = |count: u32| {
        let data = (0..count).map(|n| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n))).collect();
        change([(pay(), all_of_pay(), Some(RecordSet { ttl: 30, data }))])
    };
    let (provider, target) = (bind.provider(), bind.target());
    let counts: Vec<u32> = (1_000..5_000).collect();
    let possible = counts.partition_point(|count| provider.impossible(&target, &sized(*count)).is_none());
    let largest = counts[possible - 1];
    assert!((1_500..4_200).contains(&largest), "{largest}");
    assert!(refusal(bind.apply(&target, &sized(largest + 1)).await).contains("does not fit one DNS message"));
    let sent = bind.apply(&target, &sized(largest)).await;
    assert!(!matches!(sent, Outcome::NotApplied(_)), "{sent:?}");
}
