//! DNS messages ↔ the model: pure. RFC 1035 (messages), 2136 (updates), 2181 §5.2 (one TTL for a set), 8945 (signatures).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType as WireType};

use super::change;
use crate::model::{Conditional, FromTo, NameServerFacts, RecordKey, RecordSet, RecordType, ZoneName, text};

/// The record sets of one update.
pub(super) type Sets = BTreeMap<RecordKey, FromTo<Option<RecordSet>>>;

/// What is wrong with a question, an answer or an update, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct Fault {
    /// As a fragment: "REFUSED for …".
    pub why: String,
    /// What the operator can do next.
    pub advice: Option<String>,
}

impl Fault {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), advice: None }
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// A name as the model writes it, with or without the final dot.
///
/// # Errors
/// If it is empty, too long (RFC 1035 §2.3.4: labels of 63 octets, names of 255) or has other characters than letters, digits,
/// hyphens, underscores and the asterisk.
pub(super) fn name(text: &str) -> Result<Name, Fault> {
    let wrong = |why: &str| Fault::new(format!("`{text}` is not a domain name: {why}"));
    let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    if labels.iter().any(|label| label.is_empty()) {
        return Err(wrong("a label is empty"));
    }
    if labels.iter().any(|label| label.len() > 63) {
        return Err(wrong("a label is longer than 63 characters"));
    }
    if !labels.iter().all(|label| label.bytes().all(plain)) {
        return Err(wrong("it has other characters than letters, digits, `-`, `_` and `*`"));
    }
    // As bytes: as text they would have to be names by IDNA's rules, which `_dmarc` and `a--b` are not.
    let labels = labels.into_iter().map(str::as_bytes);
    let mut name = Name::from_labels(labels).map_err(|_| wrong("it is longer than 253 characters"))?.to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}

/// What the names of the model are made of.
fn plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'*')
}

/// A name as the model writes it: lower case, no final dot. Other octets are escaped as in zone files (RFC 1035 §5.1); the library
/// escapes a leading hyphen as well, which would make `-` another name than it was.
pub(super) fn name_text(name: &Name) -> String {
    let octet = |octet: &u8| match plain(*octet) {
        true => char::from(octet.to_ascii_lowercase()).to_string(),
        false => format!("\\{octet:03}"),
    };
    let labels: Vec<String> = name.iter().map(|label| label.iter().map(octet).collect()).collect();
    labels.join(".")
}

fn wire_type(rtype: RecordType) -> WireType {
    match rtype {
        RecordType::A => WireType::A,
        RecordType::Aaaa => WireType::AAAA,
    }
}

/// The question for a record set of `zone`.
///
/// # Errors
/// If its name is none or lies outside the zone.
fn question(zone: &Name, key: &RecordKey) -> Result<Query, Fault> {
    let owner = name(&key.name)?;
    if zone.zone_of(&owner) {
        Ok(Query::query(owner, wire_type(key.rtype)))
    } else {
        Err(Fault::new(format!("{key} lies outside the zone {}", name_text(zone))))
    }
}

/// The questions for a zone's SOA, its epoch and these record sets, in this order.
///
/// # Errors
/// If a name is none or lies outside the zone.
pub(super) fn questions(zone: &ZoneName, keys: &BTreeSet<RecordKey>) -> Result<Vec<Query>, Fault> {
    let epoch = change::epoch_question(zone);
    let zone = name(zone.as_str())?;
    let soa = Query::query(zone.clone(), WireType::SOA);
    [Ok(soa), epoch].into_iter().chain(keys.iter().map(|key| question(&zone, key))).collect()
}

/// The message that asks a question of an authoritative server: no recursion wanted.
pub(super) fn query_message(id: u16, query: &Query) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = false;
    message.add_query(query.clone());
    message
}

/// The message that asks for a zone's SOA on its own, with a random identity.
///
/// # Errors
/// If the zone's name is none.
pub(super) fn soa_message(zone: &ZoneName) -> Result<Message, Fault> {
    let soa = Query::query(name(zone.as_str())?, WireType::SOA);
    Ok(query_message(Message::query().metadata.id, &soa))
}

/// The facts that the answers to [`questions`] hold, in the same order.
///
/// # Errors
/// If an answer is not to the point: an error code, no authority, an alias instead of addresses.
pub(super) fn facts(
    keys: &BTreeSet<RecordKey>,
    asked: &[Query],
    answers: &[Message],
) -> Result<NameServerFacts, Fault> {
    let mut pairs = asked.iter().zip(answers);
    let Some((query, answer)) = pairs.next() else { return Err(Fault::new("the zone's SOA was not asked for")) };
    let (serial, primary_name) = soa(query, answer)?;
    let Some((query, answer)) = pairs.next() else { return Err(Fault::new("the zone's epoch was not asked for")) };
    // Somebody else's record there is no reason to know nothing of the zone.
    let (epoch, epoch_fault) = match change::epoch(query, answer) {
        Ok(epoch) => (epoch, None),
        Err(why) => (None, Some(why)),
    };
    let mut sets = BTreeMap::new();
    for (key, (query, answer)) in keys.iter().zip(pairs) {
        sets.insert(key.clone(), record_set(query, answer)?);
    }
    let conditional = Conditional::RecordSet;
    Ok(NameServerFacts { serial, primary_name, sets, conditional, rejects_key: None, epoch, epoch_fault })
}

/// Serial and primary name of the SOA in an answer.
fn soa(query: &Query, answer: &Message) -> Result<(u32, String), Fault> {
    authoritative(query, answer)?;
    let soa = records_of(query, answer).find_map(|record| match &record.data {
        RData::SOA(soa) => Some((soa.serial, name_text(&soa.mname))),
        _ => None,
    });
    soa.ok_or_else(|| {
        let zone = name_text(query.name());
        Fault::new(format!("{zone} is no zone of this server, only a name in one"))
            .advice("check the zone's name in the topology and in the server's configuration")
    })
}

/// The record set in an answer; none where the server says with authority that there is none (NXDOMAIN, or no data).
fn record_set(query: &Query, answer: &Message) -> Result<Option<RecordSet>, Fault> {
    // An alias comes first: the code of the answer is that of the alias's target.
    for record in records_of(query, answer) {
        if let RData::CNAME(target) = &record.data {
            let (owner, target) = (name_text(query.name()), name_text(&target.0));
            return Err(Fault::new(format!("{owner} is an alias (CNAME) of {target}, not a record set of addresses"))
                .advice(format!("replace the alias by addresses, or name {target} in the topology instead")));
        }
    }
    authoritative(query, answer)?;
    let mut set: Option<RecordSet> = None;
    for record in records_of(query, answer) {
        let address = match &record.data {
            RData::A(a) if query.query_type() == WireType::A => IpAddr::V4(a.0),
            RData::AAAA(aaaa) if query.query_type() == WireType::AAAA => IpAddr::V6(aaaa.0),
            _ => continue,
        };
        let set = set.get_or_insert_with(|| RecordSet { ttl: record.ttl, data: BTreeSet::new() });
        // RFC 2181 §5.2: where the TTLs of a set differ, the lowest counts.
        set.ttl = set.ttl.min(record.ttl);
        set.data.insert(address);
    }
    Ok(set)
}

pub(super) fn records_of<'a>(query: &'a Query, answer: &'a Message) -> impl Iterator<Item = &'a Record> {
    answer.answers.iter().filter(|record| record.name == *query.name() && record.dns_class == DNSClass::IN)
}

/// Judges whether an answer is one of an authoritative server to this question.
pub(super) fn authoritative(query: &Query, answer: &Message) -> Result<(), Fault> {
    let what = format!("{} {}", name_text(query.name()), query.query_type());
    if answer.metadata.message_type != MessageType::Response || answer.queries.iter().any(|echo| echo != query) {
        return Err(Fault::new(format!("it answered another question than {what}")));
    }
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        ResponseCode::Refused => {
            return Err(Fault::new(format!("it refused the question for {what} (REFUSED)"))
                .advice("check that the zone is configured there and that `allow-query` admits this machine"));
        }
        ResponseCode::ServFail => {
            return Err(Fault::new(format!("it cannot answer for {what} (SERVFAIL)"))
                .advice("the zone is not loaded or has expired there: see the server's log"));
        }
        other => return Err(Fault::new(format!("it answered {what} with {}", code(other)))),
    }
    if answer.metadata.truncation {
        return Err(Fault::new(format!("it cut the answer for {what} short, over TCP")));
    }
    if !answer.metadata.authoritative {
        return Err(Fault::new(format!("it is not authoritative for {what}")).advice(
            "check that the address is that of an authoritative server, not of a resolver, and that the name is not delegated to \
             another zone",
        ));
    }
    Ok(())
}

/// The update that turns every set from `from` into `to`, each under the condition that it is exactly `from`: the value-dependent
/// prerequisite of RFC 2136 §2.4.2, or §2.4.3 where there is none. Prerequisites do not look at TTLs: the caller compares those.
///
/// # Errors
/// If a name is none or outside the zone, a set is empty, or has an address of another type.
pub(super) fn update(zone: &ZoneName, sets: &Sets) -> Result<Message, Fault> {
    let mut message = update_of(zone)?;
    let zone = name(zone.as_str())?;
    for (key, change) in sets {
        let owner = question(&zone, key)?.name().clone();
        let from = change.from.as_ref().map(|from| records(&owner, key, from, 0)).transpose()?;
        let to = change.to.as_ref().map(|to| records(&owner, key, to, to.ttl)).transpose()?;
        replace(&mut message, &owner, wire_type(key.rtype), from, to);
    }
    Ok(message)
}

/// An update of a zone that changes nothing yet.
///
/// # Errors
/// If the zone's name is none.
pub(super) fn update_of(zone: &ZoneName) -> Result<Message, Fault> {
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Update;
    message.metadata.recursion_desired = false;
    message.add_query(Query::query(name(zone.as_str())?, WireType::SOA));
    Ok(message)
}

/// Adds to an update: where the set is exactly `from`, it becomes `to`.
pub(super) fn replace(
    message: &mut Message,
    owner: &Name,
    rtype: WireType,
    from: Option<Vec<Record>>,
    to: Option<Vec<Record>>,
) {
    let empty = |class: DNSClass| {
        let mut record = Record::update0(owner.clone(), 0, rtype);
        record.dns_class = class;
        record.into_record_of_rdata()
    };
    match from {
        None => {
            message.add_answer(empty(DNSClass::NONE));
        }
        Some(from) => {
            message.add_answers(from);
            message.add_authority(empty(DNSClass::ANY));
        }
    }
    message.add_authorities(to.unwrap_or_default());
}

/// So many record sets, in words.
pub(super) fn counted(count: usize) -> String {
    if count == 1 { "1 record set".to_owned() } else { format!("{count} record sets") }
}

fn records(owner: &Name, key: &RecordKey, set: &RecordSet, ttl: u32) -> Result<Vec<Record>, Fault> {
    if set.data.is_empty() {
        return Err(Fault::new(format!("{key} would be a record set without records")));
    }
    let record = |address: &IpAddr| match (key.rtype, address) {
        (RecordType::A, IpAddr::V4(a)) => Ok(Record::from_rdata(owner.clone(), ttl, RData::A((*a).into()))),
        (RecordType::Aaaa, IpAddr::V6(aaaa)) => Ok(Record::from_rdata(owner.clone(), ttl, RData::AAAA((*aaaa).into()))),
        _ => Err(Fault::new(format!("{address} is no data for {key}"))),
    };
    set.data.iter().map(record).collect()
}

/// The bytes of a message.
///
/// # Errors
/// If it does not fit the 64 KiB of a DNS message over TCP.
pub(super) fn encode(message: &Message) -> Result<Vec<u8>, Fault> {
    // The encoder leaves out what does not fit and sets TC; an update without its end must never be sent.
    let truncated = |bytes: &Vec<u8>| bytes.get(2).is_none_or(|flags| flags & 0b10 != 0);
    match message.to_vec() {
        Ok(bytes) if !truncated(&bytes) => Ok(bytes),
        _ => Err(Fault::new(
            "the change does not fit one DNS message of 64 KiB, and in several it would not be all or nothing",
        )
        .advice(
            "spread the hostnames over several zones (each is a message of its own), or publish fewer \
                         addresses for each",
        )),
    }
}

/// How live record sets stand to a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// All are as the change would leave them.
    Done,
    /// All are as the change assumes.
    AsAssumed,
    /// Neither: what was found.
    Other(String),
}

/// Compares live record sets, TTLs included, with what a change assumes and wants.
pub(super) fn standing(sets: &Sets, live: &NameServerFacts) -> Standing {
    let found = |key: &RecordKey| live.sets.get(key).and_then(Option::as_ref);
    if sets.iter().all(|(key, change)| found(key) == change.to.as_ref()) {
        return Standing::Done;
    }
    let differs = |(key, change): (&RecordKey, &FromTo<Option<RecordSet>>)| {
        (found(key) != change.from.as_ref()).then(|| {
            let (is, was) = (text::record_set(found(key)), text::record_set(change.from.as_ref()));
            format!("{key} is {is}, not {was} as planned")
        })
    };
    let differences: Vec<String> = sets.iter().filter_map(differs).collect();
    if differences.is_empty() { Standing::AsAssumed } else { Standing::Other(differences.join("; ")) }
}

/// What a server says of the signature of an update (RFC 8945 §5.2), as a fault; none where it says nothing of it. `now` is the
/// time that the update was signed with, in seconds since 1970.
pub(super) fn signature_fault(answer: &Message, key: &Name, now: u64) -> Option<Fault> {
    let tsig = &answer.signature()?.data;
    let key = name_text(key);
    Some(match tsig.error? {
        TsigError::BadKey => Fault::new(format!("the server does not know the key {key} with this algorithm (BADKEY)"))
            .advice("compare the settings `key` and `algorithm` with the server's configuration"),
        TsigError::BadSig => Fault::new(format!("the server has another secret for the key {key} (BADSIG)"))
            .advice("compare the secret, base64 as in the server's configuration, without quotes"),
        TsigError::BadTime => Fault::new(clock_difference(&tsig.other, now))
            .advice("set the clocks of both machines by NTP; a signature is valid for 300 s"),
        other => Fault::new(format!("the server rejects the signature (TSIG error {})", u16::from(other))),
    })
}

/// RFC 8945 §5.2.3: a BADTIME answer carries the server's time, 48 bits.
fn clock_difference(other: &[u8], now: u64) -> String {
    let Ok(bytes) = <[u8; 6]>::try_from(other) else {
        return "the clocks of this machine and the server differ by more than 300 s (BADTIME)".to_owned();
    };
    let server = bytes.iter().fold(0u64, |time, byte| time << 8 | u64::from(*byte));
    let word = if server > now { "ahead of" } else { "behind" };
    format!("the server's clock is {} s {word} this machine's (BADTIME)", server.abs_diff(now))
}

/// What a verified answer to an update means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// NOERROR: taken; whether it had the effect only reading tells.
    Taken,
    /// A prerequisite did not hold; nothing was touched.
    Unmet,
    /// Nothing was touched.
    Refused(Fault),
    /// The server failed midway.
    Failed(Fault),
}

/// Judges the code of an answer to an update (RFC 2136 §2.2).
pub(super) fn verdict(answer: &Message, zone: &ZoneName, key: &Name) -> Verdict {
    let key = name_text(key);
    match answer.metadata.response_code {
        ResponseCode::NoError => Verdict::Taken,
        ResponseCode::YXRRSet | ResponseCode::NXRRSet | ResponseCode::YXDomain | ResponseCode::NXDomain => Verdict::Unmet,
        ResponseCode::Refused => Verdict::Refused(
            Fault::new(format!("the server refuses to change {zone} for the key {key} (REFUSED)")).advice(format!(
                "check `allow-update` or `update-policy` there, that the zone is not frozen (`rndc thaw {zone}`), and that the server \
                 is a primary: only those have `updates: true`"
            )),
        ),
        ResponseCode::NotAuth => Verdict::Refused(
            Fault::new(format!("the server does not serve {zone} (NOTAUTH)"))
                .advice("check the zone's name, and which view of the server the key and this machine's address select"),
        ),
        ResponseCode::NotZone => {
            Verdict::Refused(Fault::new(format!("a name of the update lies outside {zone} for the server (NOTZONE)")))
        }
        ResponseCode::NotImp => Verdict::Refused(
            Fault::new("the server takes no updates (NOTIMP)").advice("take `updates: true` away from it in the topology"),
        ),
        ResponseCode::FormErr => Verdict::Refused(Fault::new("the server does not understand the update (FORMERR)")),
        ResponseCode::ServFail => Verdict::Failed(
            Fault::new("the server failed while updating (SERVFAIL)")
                .advice("see its log: often it cannot write the zone's journal file"),
        ),
        other => Verdict::Failed(Fault::new(format!("the server answered the update with {}", code(other)))),
    }
}

/// A response code by its number: the library's words for them vary.
fn code(code: ResponseCode) -> String {
    format!("response code {}", u16::from(code))
}

#[cfg(test)]
mod tests;
