//! What one update changes: record sets, or the epoch. Pure.

use std::collections::BTreeSet;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, Record, RecordType as WireType};

use super::convert::{self, Fault, Sets, Standing};
use crate::model::{Action, Epoch, FromTo, NameServerFacts, RecordKey, ZoneName, text};

/// Seconds for which an epoch may be remembered: whoever asks for it asks the authoritative servers (RFC 1035 §3.2.1: zero is "now only").
const EPOCH_TTL: u32 = 0;

/// What is changed in one message, each under the condition that it is what is assumed.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    /// Record sets.
    Sets(&'a Sets),
    /// The epoch.
    Epoch(&'a FromTo<Option<Epoch>>),
}

impl<'a> Change<'a> {
    /// What an action changes, and where; none where it is none for a name server.
    pub fn of(action: &'a Action) -> Option<(&'a ZoneName, Self)> {
        match action {
            Action::SetRecords { zone, sets } => Some((zone, Self::Sets(sets))),
            Action::SetEpoch { zone, epoch } => Some((zone, Self::Epoch(epoch))),
            _ => None,
        }
    }

    /// The record sets that must be read to judge it. The epoch is always read.
    pub fn keys(self) -> BTreeSet<RecordKey> {
        match self {
            Self::Sets(sets) => sets.keys().cloned().collect(),
            Self::Epoch(_) => BTreeSet::new(),
        }
    }

    /// The update (RFC 2136 §2.4.2: the whole record set is what is assumed; §2.4.3: there is none).
    ///
    /// # Errors
    /// If it cannot be written, or would lower an epoch.
    pub fn update(self, zone: &ZoneName) -> Result<Message, Fault> {
        match self {
            Self::Sets(sets) => convert::update(zone, sets),
            Self::Epoch(change) => epoch_update(zone, change),
        }
    }

    /// Compares what is live with what the change assumes and wants.
    pub fn standing(self, live: &NameServerFacts) -> Standing {
        match self {
            Self::Sets(sets) => convert::standing(sets, live),
            Self::Epoch(change) => match &live.epoch_fault {
                Some(fault) => Standing::Other(format!("what stands in the epoch's place cannot be read: {fault}")),
                None if live.epoch == change.to => Standing::Done,
                None if live.epoch == change.from => Standing::AsAssumed,
                None => {
                    let (is, was) = (text::epoch(live.epoch.as_ref()), text::epoch(change.from.as_ref()));
                    Standing::Other(format!("it publishes {is}, not {was} as planned"))
                }
            },
        }
    }

    /// What is changed, in words.
    pub fn text(self) -> String {
        match self {
            Self::Sets(sets) => convert::counted(sets.len()),
            Self::Epoch(change) => format!("the epoch ({})", text::epoch(change.to.as_ref())),
        }
    }
}

fn epoch_update(zone: &ZoneName, change: &FromTo<Option<Epoch>>) -> Result<Message, Fault> {
    if !Epoch::may_replace(change.from.as_ref(), change.to.as_ref()) {
        return Err(Fault::new(format!(
            "{} would replace {}: an epoch is never lowered",
            text::epoch(change.to.as_ref()),
            text::epoch(change.from.as_ref())
        )));
    }
    let owner = convert::name(&Epoch::owner(zone))?;
    let record = |epoch: &Epoch, ttl| {
        let strings = epoch.strings().map_err(|error| Fault::new(format!("the epoch cannot be written: {error}")))?;
        Ok(vec![Record::from_rdata(owner.clone(), ttl, RData::TXT(TXT::new(strings)))])
    };
    let from = change.from.as_ref().map(|epoch| record(epoch, 0)).transpose()?;
    let to = change.to.as_ref().map(|epoch| record(epoch, EPOCH_TTL)).transpose()?;
    let mut message = convert::update_of(zone)?;
    convert::replace(&mut message, &owner, WireType::TXT, from, to);
    Ok(message)
}

/// The question for a zone's epoch.
///
/// # Errors
/// If the zone's name is none.
pub(super) fn epoch_question(zone: &ZoneName) -> Result<Query, Fault> {
    Ok(Query::query(convert::name(&Epoch::owner(zone))?, WireType::TXT))
}

/// The epoch in an answer to [`epoch_question`]; none where the server says with authority that there is none.
///
/// # Errors
/// Why what is there is no epoch.
pub(super) fn epoch(query: &Query, answer: &Message) -> Result<Option<Epoch>, String> {
    convert::authoritative(query, answer).map_err(|fault| fault.why)?;
    let texts: Vec<&TXT> = convert::records_of(query, answer)
        .filter_map(|record| match &record.data {
            RData::TXT(text) => Some(text),
            _ => None,
        })
        .collect();
    match texts.as_slice() {
        [] => Ok(None),
        [text] => {
            let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "it is not text".to_owned());
            let strings: Vec<String> = text.txt_data.iter().map(|bytes| string(bytes)).collect::<Result<_, _>>()?;
            Epoch::parse(&strings).map(Some).map_err(|error| error.to_string())
        }
        several => Err(format!("there are {} TXT records instead of one", several.len())),
    }
}
