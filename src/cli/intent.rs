//! From the flags of `handover plan` to an intent. What cannot be understood, or names nothing that there is, comes out all at once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::args;
use crate::model::text::list;
use crate::model::{Database, DatabaseName, FacilityName, Percent, PrimaryPlace, ServiceName, Span, TargetKind};
use crate::plan::lost::evidence::{Attestation, Lost};
use crate::plan::lost::loss::Loss;
use crate::plan::{Depth, GateName, Intent, Override, Overrides, Shares};
use crate::topology::Topology;

/// Stands for what the topology says: it ends a hold.
const FILE: &str = "file";

/// Who knows most of the names.
const TOPOLOGY: (&str, &str) = ("the topology", "has");

/// How similar a name must be to be suggested.
const SIMILAR: f64 = 0.7;

/// The intent of the flags.
///
/// # Errors
/// Everything that is wrong with them, one sentence each.
pub(super) fn intent(args: &args::Plan, topology: &Topology, now: Timestamp) -> Result<Intent, Vec<String>> {
    let mut reader = Reader { topology, wrong: Vec::new() };
    let intent = Intent {
        drain: reader.facilities(&args.drain),
        restore: reader.facilities(&args.restore),
        failback: args.failback,
        depth: match args.depth {
            args::Depth::Traffic => Depth::Traffic,
            args::Depth::Power => Depth::Power,
        },
        power_on: BTreeSet::new(),
        primary: reader.each("--primary", &args.primary, Reader::primary),
        share: reader.each("--share", &args.share, Reader::share),
        lower_ttl: reader.services(args.lower_ttl.as_deref()),
        raise_ttl: reader.services(args.raise_ttl.as_deref()),
        publish_epoch: args.publish_epoch,
        reason: args.reason.clone(),
        review_by: args.review_by.as_deref().and_then(|text| reader.keep(moment(text, now))),
        ..reader.loss(&args.loss, &args.overrides, args.reason.as_deref())
    };
    let planned = [&args.drain, &args.restore, &args.primary, &args.share].into_iter().any(|flags| !flags.is_empty());
    let planned = planned || args.lower_ttl.is_some() || args.raise_ttl.is_some();
    if !intent.lost.is_empty() && planned {
        reader.wrong.push("--lost stands alone: planned work waits until the loss is dealt with".to_owned());
    } else if !intent.survivor.is_empty() && planned {
        reader.wrong.push("--survivor stands alone: planned work waits until the split is ended".to_owned());
    }
    if reader.wrong.is_empty() { Ok(intent) } else { Err(reader.wrong) }
}

/// The gates that the flags pass.
///
/// # Errors
/// Every name that no gate has.
pub(super) fn overrides(gates: &[String], reason: Option<&str>) -> Result<Overrides, Vec<String>> {
    let operator = super::process::holder().name;
    let by = operator.split(' ').next().unwrap_or(&operator);
    let (mut overrides, mut wrong) = (Overrides::new(), Vec::new());
    for text in gates {
        match GateName::ALL.into_iter().find(|gate| gate.word() == text) {
            Some(gate) => {
                let reason = reason.unwrap_or_default().to_owned();
                overrides.insert(gate, Override { by: by.to_owned(), reason });
            }
            None => {
                wrong.push(unknown(text, ("--override", "knows"), "gate", GateName::ALL.iter().map(|gate| gate.word())))
            }
        }
    }
    if gates.is_empty() || reason.is_some_and(|reason| !reason.trim().is_empty()) {
        if wrong.is_empty() { Ok(overrides) } else { Err(wrong) }
    } else {
        wrong.push("--override needs a reason: add --reason TEXT".to_owned());
        Err(wrong)
    }
}

/// The intent of the flags of `handover apply --lost`.
///
/// # Errors
/// Everything that is wrong with them, one sentence each.
pub(super) fn emergency(args: &args::Apply, topology: &Topology) -> Result<Intent, Vec<String>> {
    let mut reader = Reader { topology, wrong: Vec::new() };
    let intent = reader.loss(&args.loss, &args.overrides, args.reason.as_deref());
    if reader.wrong.is_empty() { Ok(intent) } else { Err(reader.wrong) }
}

/// The losses that are accepted.
///
/// # Errors
/// Everything that is wrong with them, one sentence each.
pub(super) fn accepted(texts: &[String], topology: &Topology) -> Result<BTreeMap<DatabaseName, u64>, Vec<String>> {
    let mut reader = Reader { topology, wrong: Vec::new() };
    let accepted = reader.each("--accept-loss", texts, Reader::accepted);
    if reader.wrong.is_empty() { Ok(accepted) } else { Err(reader.wrong) }
}

/// Who gives a word for what nothing proves.
fn attestation(reason: Option<&str>) -> Attestation {
    let operator = super::process::holder().name;
    let by = operator.split(' ').next().unwrap_or(&operator).to_owned();
    Attestation { by, reason: reason.unwrap_or_default().to_owned() }
}

struct Reader<'a> {
    topology: &'a Topology,
    wrong: Vec<String>,
}

impl Reader<'_> {
    fn all<T: Default>(&mut self, result: Result<T, Vec<String>>) -> T {
        result.map_err(|wrong| self.wrong.extend(wrong)).unwrap_or_default()
    }

    fn keep<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.wrong.push(why)).ok()
    }

    fn facilities(&mut self, names: &[String]) -> BTreeSet<FacilityName> {
        let topology = self.topology;
        names.iter().filter_map(|name| self.keep(known(name, "facility", topology.facilities.keys()))).collect()
    }

    /// What is lost, and what an operator says of it.
    fn loss(&mut self, args: &args::Loss, gates: &[String], reason: Option<&str>) -> Intent {
        Intent {
            lost: self.lost(&args.lost),
            attested: args.attest_fenced.then(|| attestation(reason)),
            accept_loss: self.each("--accept-loss", &args.accept_loss, Reader::accepted),
            survivor: self.each("--survivor", &args.survivor, Reader::survivor),
            overrides: self.all(overrides(gates, reason)),
            reason: reason.map(str::to_owned),
            ..Intent::default()
        }
    }

    /// Facilities and targets, by the names that operators use.
    fn lost(&mut self, names: &[String]) -> Lost {
        let mut lost = Lost::default();
        let topology = self.topology;
        for name in names {
            if let Some(facility) = topology.facilities.keys().find(|facility| facility.as_str() == name) {
                lost.facilities.insert(facility.clone());
                continue;
            }
            // Application servers are not lost one by one: the proxies know who serves.
            let targets = || topology.targets().filter(|target| target.kind != TargetKind::Server);
            let named: Vec<_> =
                targets().filter(|it| it.name() == name || it.id.as_str() == name).map(|it| it.id.clone()).collect();
            if named.is_empty() {
                let known = topology.facilities.keys().map(FacilityName::as_str).chain(targets().map(|it| it.name()));
                let known: BTreeSet<&str> = known.collect();
                self.wrong.push(unknown(name, TOPOLOGY, "facility or target", known.iter().copied()));
            }
            lost.targets.extend(named);
        }
        lost
    }

    fn accepted(topology: &Topology, name: &str, text: &str) -> Result<(DatabaseName, u64), String> {
        let name = known(name, "database", topology.databases.keys())?;
        if text == "unknown" {
            return Ok((name, Loss::UNKNOWN));
        }
        let digits: String = text.chars().filter(|c| *c != '_').collect();
        let bytes = digits.parse().map_err(|_| {
            format!(
                "--accept-loss {name}={text}: write a number of bytes, such as --accept-loss {name}=65536, or `unknown`"
            )
        })?;
        Ok((name, bytes))
    }

    fn survivor(topology: &Topology, name: &str, text: &str) -> Result<(DatabaseName, String), String> {
        let name = known(name, "database", topology.databases.keys())?;
        let members = topology.databases.get(&name).map(|database| database.members.keys().map(String::as_str));
        let members: Vec<&str> = members.into_iter().flatten().collect();
        if members.contains(&text) {
            return Ok((name, text.to_owned()));
        }
        Err(unknown(text, TOPOLOGY, &format!("member of {name}"), members.into_iter()))
    }

    /// The named services; all where the flag stands alone.
    fn services(&mut self, names: Option<&[String]>) -> BTreeSet<ServiceName> {
        let topology = self.topology;
        match names {
            None => BTreeSet::new(),
            Some([]) => topology.services.keys().cloned().collect(),
            Some(names) => {
                names.iter().filter_map(|name| self.keep(known(name, "service", topology.services.keys()))).collect()
            }
        }
    }

    /// `NAME=VALUE`, each name once.
    fn each<K: Ord + std::fmt::Display, V>(
        &mut self,
        flag: &str,
        texts: &[String],
        read: impl Fn(&Topology, &str, &str) -> Result<(K, V), String>,
    ) -> BTreeMap<K, V> {
        let mut values = BTreeMap::new();
        for text in texts {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let Some((name, value)) = self.keep(read(self.topology, name.trim(), value.trim())) else { continue };
            if values.contains_key(&name) {
                self.wrong.push(format!("{flag} is given more than once for {name}: leave one"));
            }
            values.insert(name, value);
        }
        values
    }

    fn primary(
        topology: &Topology,
        name: &str,
        place: &str,
    ) -> Result<(crate::model::DatabaseName, Option<PrimaryPlace>), String> {
        let name = known(name, "database", topology.databases.keys())?;
        let Some(database) = topology.databases.get(&name) else { return Err(format!("there is no database {name}")) };
        let place = match place {
            "" => {
                return Err(format!(
                    "--primary {name} says not where: write --primary {name}=FACILITY, --primary {name}=MEMBER, or \
                     --primary {name}={FILE} for where the topology wants it"
                ));
            }
            FILE => None,
            place => Some(self::place(topology, database, place)?),
        };
        Ok((name, place))
    }

    fn share(topology: &Topology, name: &str, text: &str) -> Result<(ServiceName, Option<Shares>), String> {
        let name = known(name, "service", topology.services.keys())?;
        let form =
            format!("write --share {name}=FACILITY:PERCENT%,…, or --share {name}={FILE} for what the topology says");
        match text {
            "" => return Err(format!("--share {name} says not which: {form}")),
            FILE => return Ok((name, None)),
            _ => {}
        }
        let mut shares = Shares::new();
        for part in text.split(',') {
            let Some((facility, share)) = part.trim().split_once(':') else {
                return Err(format!("`{}` in --share {name} is no FACILITY:PERCENT%: {form}", part.trim()));
            };
            let facility = known(facility.trim(), "facility", topology.facilities.keys())?;
            let share: Percent = share.trim().parse().map_err(|why| format!("--share {name}: {why}"))?;
            if shares.insert(facility.clone(), share).is_some() {
                return Err(format!("--share {name} names {facility} more than once: leave one"));
            }
        }
        let sum: u64 = shares.values().map(|share| u64::from(share.basis_points())).sum();
        if sum != u64::from(Percent::FULL.basis_points()) {
            let sum = format!("{}.{:02}", sum / 100, sum % 100);
            let sum = sum.trim_end_matches('0').trim_end_matches('.');
            return Err(format!("the shares in --share {name} sum to {sum}%, not to 100%"));
        }
        Ok((name, Some(shares)))
    }
}

/// A facility or a member of this database.
fn place(topology: &Topology, database: &Database, name: &str) -> Result<PrimaryPlace, String> {
    let facility = topology.facilities.keys().find(|facility| facility.as_str() == name);
    match (facility, database.members.contains_key(name)) {
        (Some(_), true) => {
            Err(format!("`{name}` is both a facility and a member of {}: name another member", database.name))
        }
        (Some(facility), false) => Ok(PrimaryPlace::Facility(facility.clone())),
        (None, true) => Ok(PrimaryPlace::Member(name.to_owned())),
        (None, false) => {
            let names = topology.facilities.keys().map(FacilityName::as_str);
            let names = names.chain(database.members.keys().map(String::as_str));
            Err(unknown(name, TOPOLOGY, &format!("facility or member of {}", database.name), names))
        }
    }
}

/// A name that there is.
fn known<'a, N>(name: &str, noun: &str, names: impl Iterator<Item = &'a N> + Clone) -> Result<N, String>
where
    N: std::borrow::Borrow<str> + Clone + 'a,
{
    let found = names.clone().find(|known| known.borrow() == name);
    found.cloned().ok_or_else(|| unknown(name, TOPOLOGY, noun, names.map(std::borrow::Borrow::borrow)))
}

fn unknown<'a>(
    name: &str,
    (whose, has): (&str, &str),
    noun: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let similarity = |known: &str| strsim::jaro_winkler(known, name);
    let nearest = names.clone().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let nearest = nearest.filter(|known| similarity(known) >= SIMILAR);
    let nearest = nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    format!("{whose} {has} no {noun} `{name}`{nearest} (it {has} {})", list(names))
}

/// A moment as given, or a time from now.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(span) = text.parse::<Span>() {
        return now.checked_add(span.0).map_err(|_| format!("`{text}` is too far away"));
    }
    text.parse().map_err(|why| {
        format!("`{text}` is neither a time from now such as `2d` nor a moment such as `2026-11-30T06:00Z`: {why}")
    })
}
