use hickory_proto::rr::rdata::tsig::{TSIG, TsigAlgorithm, make_tsig_record};
use hickory_proto::rr::rdata::{CNAME, SOA};
use proptest::prelude::*;

use super::*;

fn key(name: &str) -> RecordKey {
    RecordKey { name: name.to_owned(), rtype: RecordType::A }
}

fn set(ttl: u32, data: &[&str]) -> RecordSet {
    RecordSet { ttl, data: data.iter().map(|text| text.parse().unwrap()).collect() }
}

fn zone() -> ZoneName {
    ZoneName::new("clickbank.example")
}

/// The answer of an authoritative server to `query`.
fn answer(query: &Query, code: ResponseCode, records: Vec<Record>) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = true;
    message.metadata.response_code = code;
    message.add_query(query.clone());
    message.add_answers(records);
    message
}

fn a(owner: &str, ttl: u32, address: &str) -> Record {
    Record::from_rdata(name(owner).unwrap(), ttl, RData::A(address.parse().unwrap()))
}

fn asked() -> Query {
    question(&name("clickbank.example").unwrap(), &key("pay.clickbank.example")).unwrap()
}

proptest! {
    #[test]
    fn names_come_back_in_lower_case_without_the_final_dot(
        labels in prop::collection::vec("[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62}", 1..4), dot: bool,
    ) {
        let text = labels.join(".");
        let written = if dot { format!("{text}.") } else { text.clone() };
        let parsed = name(&written).unwrap();
        prop_assert_eq!(name_text(&parsed), text.to_ascii_lowercase());
    }

    #[test]
    fn any_text_is_a_name_or_a_fault(text in "[-_*a-zA-Z0-9.]{0,8}|.{0,300}") {
        if let Ok(name) = name(&text) {
            prop_assert_eq!(name_text(&name), text.strip_suffix('.').unwrap_or(&text).to_lowercase());
        }
    }

    #[test]
    fn record_sets_survive_the_wire(ttl in 0u32..=0x7fff_ffff, v4: BTreeSet<std::net::Ipv4Addr>, v6: BTreeSet<std::net::Ipv6Addr>) {
        let owner = name("pay.clickbank.example").unwrap();
        let pairs = [
            (RecordType::A, v4.into_iter().map(IpAddr::V4).collect::<BTreeSet<_>>()),
            (RecordType::Aaaa, v6.into_iter().map(IpAddr::V6).collect()),
        ];
        for (rtype, data) in pairs {
            let key = RecordKey { name: "pay.clickbank.example".to_owned(), rtype };
            let query = question(&name("clickbank.example").unwrap(), &key).unwrap();
            let set = (!data.is_empty()).then_some(RecordSet { ttl, data });
            let records = set.as_ref().map_or(Vec::new(), |set| records(&owner, &key, set, set.ttl).unwrap());
            let bytes = encode(&answer(&query, ResponseCode::NoError, records)).unwrap();
            prop_assert_eq!(record_set(&query, &Message::from_vec(&bytes).unwrap()).unwrap(), set);
        }
    }
}

#[test]
fn names_at_the_limits_of_dns() {
    let label = "a".repeat(63);
    assert!(name(&label).is_ok());
    assert!(name(&format!("{label}a")).is_err());
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    assert_eq!(name_text(&name(&longest).unwrap()), longest);
    assert!(name(&format!("{longest}a")).unwrap_err().why.contains("longer than 253"));
    for wrong in ["", ".", "a..b", ".a", "a b.c", "ä.example", "a\\046b"] {
        assert!(name(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn answers_in_another_case_are_understood_and_the_lowest_ttl_counts() {
    let records = vec![a("PAY.Clickbank.Example", 60, "10.0.0.2"), a("pay.clickbank.example", 30, "10.0.0.1")];
    let found = record_set(&asked(), &answer(&asked(), ResponseCode::NoError, records)).unwrap();
    assert_eq!(found, Some(set(30, &["10.0.0.1", "10.0.0.2"])));
}

#[test]
fn absence_needs_authority() {
    for code in [ResponseCode::NXDomain, ResponseCode::NoError] {
        let mut message = answer(&asked(), code, Vec::new());
        assert_eq!(record_set(&asked(), &message), Ok(None));
        message.metadata.authoritative = false;
        assert!(record_set(&asked(), &message).unwrap_err().why.contains("not authoritative"));
    }
}

#[test]
fn whatever_is_no_answer_to_the_point_is_a_fault() {
    let fault = |message: &Message| record_set(&asked(), message).unwrap_err();
    assert!(fault(&answer(&asked(), ResponseCode::Refused, vec![])).why.contains("REFUSED"));
    assert!(fault(&answer(&asked(), ResponseCode::ServFail, vec![])).advice.unwrap().contains("expired"));
    let other = Query::query(name("www.clickbank.example").unwrap(), WireType::A);
    assert!(fault(&answer(&other, ResponseCode::NoError, vec![])).why.contains("another question"));
    let owner = name("pay.clickbank.example").unwrap();
    let alias = Record::from_rdata(owner, 30, RData::CNAME(CNAME(name("cdn.example").unwrap())));
    // The code is that of the alias's target.
    let alias = fault(&answer(&asked(), ResponseCode::NXDomain, vec![alias]));
    assert_eq!(alias.why, "pay.clickbank.example is an alias (CNAME) of cdn.example, not a record set of addresses");
}

#[test]
fn the_soa_gives_serial_and_transfer_tree() {
    let query = Query::query(name("clickbank.example").unwrap(), WireType::SOA);
    let soa_data = SOA::new(name("West-NS1.clickbank.example").unwrap(), name("h.example").unwrap(), 7, 1, 1, 1, 30);
    let record = Record::from_rdata(name("clickbank.example").unwrap(), 30, RData::SOA(soa_data));
    let found = soa(&query, &answer(&query, ResponseCode::NoError, vec![record])).unwrap();
    assert_eq!(found, (7, "west-ns1.clickbank.example".to_owned()));
    assert!(soa(&query, &answer(&query, ResponseCode::NoError, vec![])).unwrap_err().why.contains("no zone"));
}

#[test]
fn an_update_carries_what_it_assumes() {
    let (www, pay) = (key("www.clickbank.example"), key("pay.clickbank.example"));
    let sets = Sets::from([
        (pay.clone(), FromTo { from: Some(set(60, &["10.0.0.1", "10.0.0.2"])), to: Some(set(30, &["10.0.0.2"])) }),
        (www.clone(), FromTo { from: None, to: Some(set(30, &["10.0.0.3"])) }),
        (key("hop.clickbank.example"), FromTo { from: Some(set(30, &["10.0.0.4"])), to: None }),
    ]);
    let message = update(&zone(), &sets).unwrap();
    let line = |r: &Record| format!("{} {} {} {} {}", name_text(&r.name), r.ttl, r.dns_class, r.record_type(), r.data);
    let lines: Vec<String> = std::iter::once("prerequisites".to_owned())
        .chain(message.answers.iter().map(line))
        .chain(["updates".to_owned()])
        .chain(message.authorities.iter().map(line))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    prerequisites
    hop.clickbank.example 0 IN A 10.0.0.4
    pay.clickbank.example 0 IN A 10.0.0.1
    pay.clickbank.example 0 IN A 10.0.0.2
    www.clickbank.example 0 NONE A UPDATE
    updates
    hop.clickbank.example 0 ANY A UPDATE
    pay.clickbank.example 0 ANY A UPDATE
    pay.clickbank.example 30 IN A 10.0.0.2
    www.clickbank.example 30 IN A 10.0.0.3
    ");
}

#[test]
fn what_no_update_may_hold_is_refused() {
    let change = |name: &str, to: RecordSet| Sets::from([(key(name), FromTo { from: None, to: Some(to) })]);
    let refused = |sets: &Sets| update(&zone(), sets).unwrap_err().why;
    assert!(refused(&change("pay.clickbank.example", set(30, &[]))).contains("without records"));
    assert!(refused(&change("pay.clickbank.example", set(30, &["::1"]))).contains("no data for"));
    assert!(refused(&change("pay.clickbank.test", set(30, &["10.0.0.1"]))).contains("outside the zone"));
    let many: Vec<String> = (0..5_000u32).map(|n| std::net::Ipv4Addr::from(n).to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let large = update(&zone(), &change("pay.clickbank.example", set(30, &many))).unwrap();
    assert!(encode(&large).unwrap_err().why.contains("64 KiB"));
}

#[test]
fn a_change_of_the_ttl_alone_is_a_difference() {
    let pay = key("pay.clickbank.example");
    let (short, long) = (set(30, &["10.0.0.1"]), set(300, &["10.0.0.1"]));
    let sets = Sets::from([(pay.clone(), FromTo { from: Some(short.clone()), to: None })]);
    let live = |set: Option<RecordSet>| NameServerFacts {
        serial: 1,
        primary_name: String::new(),
        sets: [(pay.clone(), set)].into(),
        conditional: Conditional::RecordSet,
        rejects_key: None,
        epoch: None,
        epoch_fault: None,
    };
    assert_eq!(standing(&sets, &live(Some(short))), Standing::AsAssumed);
    assert_eq!(standing(&sets, &live(None)), Standing::Done);
    let found = "pay.clickbank.example A is 10.0.0.1 (TTL 5m), not 10.0.0.1 (TTL 30s) as planned";
    assert_eq!(standing(&sets, &live(Some(long))), Standing::Other(found.to_owned()));
}

#[test]
fn rejected_signatures_say_which_remedy_they_need() {
    let owner = name("handover-key").unwrap();
    let said = |error: Option<TsigError>, other: Vec<u8>| {
        let tsig = TSIG::new(TsigAlgorithm::HmacSha256, 1_000, 300, Vec::new(), 0, error, other);
        let mut message = Message::response(0, OpCode::Update);
        message.set_signature(Box::new(make_tsig_record(owner.clone(), tsig)));
        signature_fault(&message, &owner, 1_000).map(|fault| fault.why)
    };
    assert_eq!(said(None, vec![]), None);
    assert!(said(Some(TsigError::BadKey), vec![]).unwrap().contains("does not know the key handover-key"));
    assert!(said(Some(TsigError::BadSig), vec![]).unwrap().contains("another secret"));
    let ahead = said(Some(TsigError::BadTime), vec![0, 0, 0, 0, 6, 64]);
    assert_eq!(ahead.unwrap(), "the server's clock is 600 s ahead of this machine's (BADTIME)");
    let behind = said(Some(TsigError::BadTime), vec![0, 0, 0, 0, 1, 144]);
    assert_eq!(behind.unwrap(), "the server's clock is 600 s behind this machine's (BADTIME)");
}
