//! The epoch: who is in charge of each database and what is lost, as name servers publish it (`docs/admit.md`). Text form and numbers; pure.

use std::collections::{BTreeMap, BTreeSet};

use super::compact::Compact;
use super::name::{DatabaseName, FacilityName, TargetId, ZoneName};

/// Octets of one character-string of a TXT record (RFC 1035 §3.3).
const LONGEST: usize = 255;

/// The label under which a zone holds its epoch.
const LABEL: &str = "_handover";

/// Who is in charge. Changed only by raising its number, everywhere or nowhere that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Rises with every change; the answer with the highest number is the newest.
    pub number: u64,
    /// Facilities that were declared lost and have not returned.
    pub lost: BTreeSet<FacilityName>,
    /// Single targets likewise.
    pub lost_targets: BTreeSet<TargetId>,
    /// Who is in charge of each database.
    pub databases: BTreeMap<DatabaseName, Charge>,
}

/// The member that may be primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Its name.
    pub member: String,
    /// Identity of its cluster, as in [`Lineage`](super::Lineage).
    pub system: String,
    /// The least number of its history: a promotion is announced before it happens, by the number that follows the one left behind.
    pub timeline: u32,
}

/// Why a text is no epoch, or an epoch cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EpochError(String);

fn wrong<T>(what: impl Into<String>) -> Result<T, EpochError> {
    Err(EpochError(what.into()))
}

impl Epoch {
    /// The name of the record set in a zone that holds it.
    pub fn owner(zone: &ZoneName) -> String {
        format!("{LABEL}.{zone}")
    }

    /// The character-strings of its TXT record, always the same for the same epoch: `v=1 epoch=N`, then one each for what is lost
    /// (`lost=west`, `lost=proxy/west-lb1`) and for databases (`db.accounts=SYSTEM/TIMELINE@MEMBER`).
    ///
    /// # Errors
    /// If a name has characters that would be read otherwise, or a string would have more than 255 octets.
    pub fn strings(&self) -> Result<Vec<String>, EpochError> {
        let strings = self.items();
        if let Some(long) = strings.iter().find(|text| text.len() > LONGEST) {
            return wrong(format!("`{long}` has more than {LONGEST} octets"));
        }
        match Self::read(&strings) {
            Ok(read) if read == *self => Ok(strings),
            Ok(_) => wrong(format!("`{}` would be read otherwise", strings.join(" "))),
            Err(error) => Err(error),
        }
    }

    /// Reads the character-strings of a TXT record.
    ///
    /// # Errors
    /// If they are not exactly what [`strings`](Self::strings) makes: what is understood by half protects nobody.
    pub fn parse(strings: &[String]) -> Result<Self, EpochError> {
        let epoch = Self::read(strings)?;
        if epoch.strings()? == strings { Ok(epoch) } else { wrong("it is not written as handover writes it") }
    }

    fn items(&self) -> Vec<String> {
        let mut items = vec![format!("v=1 epoch={}", self.number)];
        items.extend(self.lost.iter().map(|facility| format!("lost={facility}")));
        items.extend(self.lost_targets.iter().map(|target| format!("lost={target}")));
        let charge = |(name, charge): (&DatabaseName, &Charge)| {
            format!("db.{name}={}/{}@{}", charge.system, charge.timeline, charge.member)
        };
        items.extend(self.databases.iter().map(charge));
        items
    }

    fn read(strings: &[String]) -> Result<Self, EpochError> {
        let Some((head, items)) = strings.split_first() else { return wrong("it is empty") };
        let number = head.strip_prefix("v=1 epoch=").map(str::parse);
        let Some(Ok(number)) = number else {
            return wrong(format!("it begins with `{head}` instead of `v=1 epoch=N`"));
        };
        let mut epoch =
            Self { number, lost: BTreeSet::new(), lost_targets: BTreeSet::new(), databases: BTreeMap::new() };
        for item in items {
            epoch.add(item).ok_or_else(|| EpochError(format!("`{item}` is not understood")))?;
        }
        Ok(epoch)
    }

    fn add(&mut self, item: &str) -> Option<()> {
        let new = if let Some(lost) = item.strip_prefix("lost=") {
            match lost.contains('/') {
                true => self.lost_targets.insert(TargetId::parse(lost)?),
                false => self.lost.insert(FacilityName::new(word(lost)?)),
            }
        } else {
            let (name, charge) = item.strip_prefix("db.")?.split_once('=')?;
            let (lineage, member) = charge.split_once('@')?;
            let (system, timeline) = lineage.split_once('/')?;
            let charge = Charge {
                member: word(member)?.to_owned(),
                system: word(system)?.to_owned(),
                timeline: timeline.parse().ok()?,
            };
            self.databases.insert(DatabaseName::new(word(name)?), charge).is_none()
        };
        new.then_some(())
    }

    /// Whether `to` may take the place of `from`: a number never falls, and means one thing only.
    pub fn may_replace(from: Option<&Self>, to: Option<&Self>) -> bool {
        to.map(|epoch| epoch.number) > from.map(|epoch| epoch.number)
    }

    /// The same with the next number.
    #[must_use]
    pub fn raised(&self) -> Self {
        Self { number: self.number.saturating_add(1), ..self.clone() }
    }
}

/// Its strings, one after the other.
impl Compact for Epoch {
    fn to_line(&self) -> String {
        self.items().join(" ")
    }

    fn from_line(line: &str) -> Option<Self> {
        let end = line.match_indices(' ').nth(1).map_or(line.len(), |(at, _)| at);
        let (head, items) = line.split_at(end);
        let items = items.split(' ').skip(1).map(str::to_owned);
        let strings: Vec<String> = std::iter::once(head.to_owned()).chain(items).collect();
        Self::parse(&strings).ok()
    }
}

/// As the epoch, or `absent`.
impl Compact for Option<Epoch> {
    fn to_line(&self) -> String {
        self.as_ref().map_or_else(|| "absent".to_owned(), Compact::to_line)
    }

    fn from_line(line: &str) -> Option<Self> {
        if line == "absent" { Some(None) } else { Epoch::from_line(line).map(Some) }
    }
}

/// What a name may be made of.
fn word(text: &str) -> Option<&str> {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b':');
    (!text.is_empty() && text.bytes().all(plain)).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_text_says_who_is_in_charge_and_what_is_lost() {
        let text = strings(&[
            "v=1 epoch=8",
            "lost=west",
            "lost=proxy/east-lb2",
            "db.accounts=7312345678901234567/6@east-pg1",
            "db.prices=7312345678901234569/1@east-pg3",
        ]);
        let epoch = Epoch::parse(&text).unwrap();
        assert_eq!(epoch.number, 8);
        assert!(epoch.lost.contains("west") && epoch.lost_targets.contains(&TargetId::proxy("east-lb2")));
        let charge = &epoch.databases["accounts"];
        assert_eq!((charge.member.as_str(), charge.timeline), ("east-pg1", 6));
        assert_eq!(epoch.strings().unwrap(), text);
    }

    #[test]
    fn what_is_not_wholly_understood_is_no_epoch() {
        for text in [
            &[][..],
            &["v=2 epoch=8"],
            &["v=1"],
            &["v=1 epoch=-1"],
            &["v=1 epoch=08"],
            &["v=1 epoch=8 lost=west"],
            &["v=1 epoch=8", ""],
            &["v=1 epoch=8", "lost="],
            &["v=1 epoch=8", "lost=ghost/west"],
            &["v=1 epoch=8", "lost=west", "lost=west"],
            &["v=1 epoch=8", "lost=west", "lost=east"],
            &["v=1 epoch=8", "db.accounts=1/2"],
            &["v=1 epoch=8", "db.accounts=1/two@a"],
            &["v=1 epoch=8", "db.accounts=1/2@a", "db.accounts=1/2@b"],
            &["v=1 epoch=8", "db.accounts=1/2@a b"],
            &["v=1 epoch=8", "pooler.west=paused"],
        ] {
            assert!(Epoch::parse(&strings(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_would_not_be_read_back_is_not_written() {
        let charge = |member: &str| Charge { member: member.to_owned(), system: "1".to_owned(), timeline: 1 };
        let with = |member: &str| Epoch {
            number: 1,
            lost: BTreeSet::new(),
            lost_targets: BTreeSet::new(),
            databases: BTreeMap::from([("accounts".into(), charge(member))]),
        };
        assert!(with("east-pg1").strings().is_ok());
        assert!(with("a b").strings().is_err());
        assert!(with(&"a".repeat(256)).strings().is_err());
        let lost = Epoch { lost: BTreeSet::from(["proxy/west-lb1".into()]), ..with("a") };
        assert!(lost.strings().is_err());
    }

    fn any_epoch() -> impl Strategy<Value = Epoch> {
        let name = || "[a-z0-9][a-zA-Z0-9_.-]{0,20}";
        let charge = (name(), "[0-9]{1,20}", any::<u32>()).prop_map(|(member, system, timeline)| Charge {
            member,
            system,
            timeline,
        });
        let lost = prop::collection::btree_set(name().prop_map(FacilityName::new), 0..3);
        let targets = prop::collection::btree_set(
            (name(), name()).prop_map(|(database, member)| TargetId::member(&DatabaseName::new(database), &member)),
            0..3,
        );
        let databases = prop::collection::btree_map(name().prop_map(DatabaseName::new), charge, 0..4);
        (any::<u64>(), lost, targets, databases).prop_map(|(number, lost, lost_targets, databases)| Epoch {
            number,
            lost,
            lost_targets,
            databases,
        })
    }

    proptest! {
        #[test]
        fn every_epoch_reads_back_as_written(epoch in any_epoch()) {
            let strings = epoch.strings().unwrap();
            prop_assert!(strings.iter().all(|text| text.len() <= LONGEST));
            prop_assert_eq!(&Epoch::parse(&strings).unwrap(), &epoch);
            prop_assert_eq!(Epoch::from_line(&epoch.to_line()), Some(epoch));
        }

        #[test]
        fn whatever_is_taken_for_an_epoch_is_written_the_same_way(
            texts in prop::collection::vec("(v=1 epoch=[0-9]{1,3}|lost=[a-z/]{0,12}|db\\.[a-z]{0,3}=[0-9/@a-z]{0,9}|.{0,12})", 0..5)
        ) {
            if let Ok(epoch) = Epoch::parse(&texts) {
                prop_assert_eq!(epoch.strings().unwrap(), texts);
            }
        }
    }
}
