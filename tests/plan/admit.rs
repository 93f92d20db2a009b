//! `handover admit`: who may start by itself. The property is the one that matters: whatever was lost, has returned or is silent, nobody
//! becomes primary by itself but the member that is in charge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use handover::model::{Charge, DatabaseName, Epoch, Lineage, Target};
use handover::plan::admit::{Ruling, Subject, Testimony, rule, witnesses};
use handover::plan::epoch::unprotected;
use handover::topology::Topology;

use super::*;

/// As many facilities as letters, each with a name server where the zone can be changed and a member of the database.
fn topology(facilities: &str) -> Topology {
    topology_of(facilities, 1)
}

/// The same with so many members in each.
fn topology_of(facilities: &str, members: usize) -> Topology {
    let each = |text: &dyn Fn(char) -> String| facilities.chars().map(text).collect::<Vec<_>>().join(", ");
    let member = |f: char, n: usize| {
        let number = f as usize - 96 + 10 * n;
        format!("{}-{f}: {{facility: {f}, host: here, address: '10.1.1.{number}:5432'}}", PREFIXES[n])
    };
    world::read(&format!(
        "{{topology: 1, name: test, facilities: {{{}}}, hosts: {{here: {{transport: local}}}}, zones: {{test.example: {{provider: rfc2136, \
         settings: {{key: k, algorithm: hmac-sha256, secret: {{file: s}}}}, servers: {{{}}}}}}}, databases: {{accounts: {{provider: \
         postgresql, primary: a, replication: {{mode: asynchronous}}, poolers: [pool], route: {{pooler_database: accounts}}, members: \
         {{{}}}}}}}, poolers: {{pool: {{facility: a, provider: pgbouncer, address: '10.1.0.9:6432'}}}}}}",
        each(&|f| format!("{f}: {{}}")),
        each(&|f| format!("ns-{f}: {{facility: {f}, address: '10.1.0.{}:53', updates: true}}", f as u32 - 96)),
        each(&|f| (0..members).map(|n| member(f, n)).collect::<Vec<_>>().join(", ")),
    ))
}

/// How members' names begin.
const PREFIXES: [&str; 2] = ["pg", "qg"];

fn epoch(number: u64, lost: &str, member: &str, timeline: u32) -> Epoch {
    let charge = Charge { member: member.to_owned(), system: "7".to_owned(), timeline };
    Epoch {
        number,
        lost: lost.chars().map(|facility| FacilityName::new(facility.to_string())).collect(),
        lost_targets: BTreeSet::new(),
        databases: [(DatabaseName::new("accounts"), charge)].into(),
    }
}

fn lineage(timeline: u32) -> Lineage {
    Lineage { system: "7".to_owned(), timeline }
}

/// Asks those witnesses that answer.
fn ask(topology: &Topology, name: &str, timeline: u32, answers: &BTreeMap<&str, Option<Epoch>>) -> Ruling {
    let subject = Subject::named(topology, name).unwrap();
    let heard: Vec<Testimony> = witnesses(topology, &subject)
        .into_iter()
        .map(|witness: Arc<Target>| {
            let answer = answers.get(witness.name()).cloned().ok_or_else(|| "no answer".to_owned());
            Testimony { witness, answer }
        })
        .collect();
    rule(&subject, subject.member().map(|_| lineage(timeline)).as_ref(), &heard, false)
}

fn admitted(ruling: &Ruling) -> bool {
    ruling.admitted
}

#[test]
fn a_primary_starts_only_on_the_word_of_another_facility() {
    let topology = topology("ab");
    let now = epoch(8, "", "pg-a", 5);
    let ruling = ask(&topology, "pg-a", 5, &[("ns-b", Some(now.clone()))].into());
    assert!(admitted(&ruling), "{ruling:?}");
    assert_eq!(ruling.why, "pg-a is in charge of accounts: epoch 8 (ns-b)");
    // Promoted meanwhile: at least this timeline.
    assert!(admitted(&ask(&topology, "pg-a", 6, &[("ns-b", Some(now.clone()))].into())));
    // The own name server confirms nothing.
    let alone = ask(&topology, "pg-a", 5, &[("ns-a", Some(now.clone()))].into());
    assert_eq!((alone.admitted, alone.open), (false, true));
    assert_eq!(alone.why, "b may know something newer, and nobody there confirms: ns-b: no answer");
    let old = ask(&topology, "pg-a", 4, &[("ns-b", Some(now.clone()))].into());
    assert!(!old.admitted && old.why.contains("its data end with timeline 4"), "{old:?}");
    let other = ask(&topology, "pg-b", 5, &[("ns-a", Some(now)), ("ns-b", None)].into());
    assert!(
        !other.admitted && other.why.contains("pg-a is in charge from timeline 5 on; pg-b (timeline 5)"),
        "{other:?}"
    );
    let lost = ask(&topology, "pg-a", 5, &[("ns-b", Some(epoch(9, "a", "pg-b", 6)))].into());
    assert!(!lost.admitted && lost.why.contains("a is lost since epoch 9 or before, says ns-b"), "{lost:?}");
    // The one that has not answered may know that it has returned.
    assert!(lost.open);
}

#[test]
fn the_survivor_starts_again_while_the_other_facility_is_lost() {
    let topology = topology("ab");
    let survivor = epoch(9, "a", "pg-b", 6);
    let ruling = ask(&topology, "pg-b", 6, &[("ns-b", Some(survivor.clone()))].into());
    assert!(admitted(&ruling), "{ruling:?}");
    let nobody = ask(&topology, "pg-b", 6, &[].into());
    assert!(!nobody.admitted);
    // The word of a lost facility about the others excuses nobody.
    let three = self::topology("abc");
    let ruling = ask(&three, "pg-b", 6, &[("ns-c", Some(survivor))].into());
    assert!(!ruling.admitted && ruling.why.contains("a is lost, and no name server here in b confirms"), "{ruling:?}");
}

#[test]
fn a_sibling_is_known_to_the_own_name_server_alone_while_all_others_are_lost() {
    let topology = topology_of("ab", 2);
    // b was lost and then b's name server came back; meanwhile qg-a was promoted, and a's name server is down.
    let stale = epoch(2, "", "pg-a", 2);
    let ruling = ask(&topology, "pg-a", 2, &[("ns-b", Some(stale.clone()))].into());
    assert!(!ruling.admitted && ruling.why.contains("ns-a may know of another member here in a"), "{ruling:?}");
    assert!(ask(&topology, "pg-a", 2, &[("ns-a", Some(stale.clone())), ("ns-b", Some(stale))].into()).admitted);
}

#[test]
fn a_survivor_that_is_lost_in_turn_while_the_first_returns_is_named_as_unprotected() {
    let topology = topology("ab");
    let (alone, swapped) = (epoch(2, "b", "pg-a", 2), epoch(3, "a", "pg-b", 3));
    assert_eq!(unprotected(&topology, Some(&alone), &swapped), [FacilityName::new("a")].into());
    assert_eq!(unprotected(&topology, Some(&epoch(2, "", "pg-a", 2)), &swapped), BTreeSet::new());
    // That is why.
    assert!(ask(&topology, "pg-a", 2, &[("ns-a", Some(alone.clone()))].into()).admitted);
    let three = self::topology("abc");
    assert_eq!(unprotected(&three, Some(&alone), &swapped), BTreeSet::new());
}

#[test]
fn contradictions_refuse_and_a_first_epoch_is_demanded() {
    let topology = topology("abc");
    let split = [("ns-b", Some(epoch(8, "", "pg-a", 5))), ("ns-c", Some(epoch(8, "", "pg-b", 6)))];
    let ruling = ask(&topology, "pg-a", 5, &split.into());
    assert!(!ruling.admitted && ruling.why.contains("publish different epochs 8"), "{ruling:?}");
    let none = BTreeMap::from([("ns-b", None), ("ns-c", None)]);
    let ruling = ask(&topology, "pg-a", 5, &none);
    assert!(!ruling.admitted && ruling.why.contains("no witness publishes an epoch yet"), "{ruling:?}");
    let subject = Subject::named(&topology, "accounts/pg-a").unwrap();
    let heard: Vec<Testimony> =
        witnesses(&topology, &subject).into_iter().map(|witness| Testimony { witness, answer: Ok(None) }).collect();
    assert!(rule(&subject, Some(&lineage(5)), &heard, true).admitted);
    // One that publishes nothing where others do has missed something.
    let ruling = ask(&topology, "pg-a", 5, &[("ns-b", Some(epoch(8, "", "pg-a", 5))), ("ns-c", None)].into());
    assert!(!ruling.admitted && ruling.why.contains("ns-c: it publishes no epoch"), "{ruling:?}");
}

#[test]
fn what_holds_no_data_starts_unless_it_is_called_lost() {
    let topology = topology("ab");
    for name in ["pool", "ns-a"] {
        assert!(ask(&topology, name, 0, &[].into()).admitted);
        assert!(ask(&topology, name, 0, &[("ns-b", Some(epoch(8, "b", "pg-a", 5)))].into()).admitted);
        let lost = ask(&topology, name, 0, &[("ns-b", Some(epoch(8, "a", "pg-b", 6)))].into());
        assert!(!lost.admitted && lost.why.contains("a is lost"), "{lost:?}");
        let single = Epoch {
            lost_targets: [Subject::named(&topology, name).unwrap().targets[0].id.clone()].into(),
            ..epoch(8, "", "pg-a", 5)
        };
        // A name server that missed a raise is called lost by itself: it must start to be told.
        assert_eq!(ask(&topology, name, 0, &[("ns-b", Some(single))].into()).admitted, name == "ns-a");
    }
    assert!(
        Subject::named(&topology, "nobody")
            .unwrap_err()
            .to_string()
            .contains("nothing in the topology is called `nobody`")
    );
    let example = world::read(EXAMPLE);
    assert_eq!(Subject::named(&example, "west-app1").unwrap().targets.len(), 3);
}

/// What happens to an installation.
#[derive(Clone, Debug)]
enum Happens {
    /// These facilities are lost; the rest goes on, with a primary in this one of them.
    Lose(Vec<usize>, usize),
    /// A lost one is told that it may start again. It follows.
    Return(usize),
    /// This one is lost, that one returns, and a primary is promoted, all under one number.
    Swap(usize, usize, usize),
    /// A switchover to one of those that are there.
    Switch(usize),
    /// A run that dies while it publishes what it is about to do: these have it.
    Half(Vec<usize>, usize),
}

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let some = || prop::collection::vec(0usize..4, 1..3);
    let one = prop_oneof![
        (some(), 0usize..8).prop_map(|(lost, to)| Happens::Lose(lost, to)),
        (0usize..4).prop_map(Happens::Return),
        (0usize..4, 0usize..4, 0usize..8).prop_map(|(lost, back, to)| Happens::Swap(lost, back, to)),
        (0usize..8).prop_map(Happens::Switch),
        (some(), 0usize..8).prop_map(|(written, to)| Happens::Half(written, to)),
    ];
    prop::collection::vec(one, 0..12)
}

/// An installation of some facilities, numbered.
struct Model {
    topology: Topology,
    records: Vec<Epoch>,
    /// What holds: the last epoch that was published wherever it must be.
    truth: Epoch,
    /// The timeline that each member's data end with: two members in each facility, one after the other.
    timelines: Vec<u32>,
}

/// One of the members that stand in these facilities.
fn member_in(facilities: &[usize], choice: usize) -> usize {
    2 * facilities[choice % facilities.len()] + choice / 4 % 2
}

fn member_name(member: usize) -> String {
    format!("{}-{}", PREFIXES[member % 2], name(member / 2))
}

fn name(facility: usize) -> String {
    char::from(b'a' + facility as u8).to_string()
}

impl Model {
    fn new(facilities: usize) -> Self {
        let truth = epoch(1, "", "pg-a", 1);
        let topology = topology_of(&(0..facilities).map(name).collect::<String>(), 2);
        Self { topology, records: vec![truth.clone(); facilities], truth, timelines: vec![1; 2 * facilities] }
    }

    fn is_lost(&self, facility: usize) -> bool {
        self.truth.lost.contains(name(facility).as_str())
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.records.len()).filter(|facility| !self.is_lost(*facility)).collect()
    }

    /// Whoever of these is there has to be written to; a run sees what they publish, and nothing else.
    fn raise(&mut self, mut next: Epoch, written: &[usize], to: Option<usize>) -> Epoch {
        next.number =
            self.alive().iter().map(|facility| self.records[*facility].number).max().unwrap_or(0).max(next.number) + 1;
        if let Some(to) = to {
            let timeline = self.timelines.iter().max().unwrap() + 1;
            next.databases = epoch(0, "", &member_name(to), timeline).databases;
        }
        for facility in written {
            self.records[*facility] = next.clone();
        }
        next
    }

    fn complete(&mut self, next: Epoch, to: Option<usize>) {
        let written: Vec<usize> =
            (0..self.records.len()).filter(|facility| !next.lost.contains(name(*facility).as_str())).collect();
        self.truth = self.raise(next, &written, to);
        if let Some(to) = to {
            self.timelines[to] = self.truth.databases["accounts"].timeline;
        }
    }

    fn happens(&mut self, what: &Happens) {
        let next = self.truth.clone();
        let alive = self.alive();
        let here = |wanted: usize, of: &[usize]| of[wanted % of.len()];
        match what {
            Happens::Lose(lost, to) => {
                let lost: Vec<usize> = lost.iter().map(|facility| facility % self.records.len()).collect();
                let survivors: Vec<usize> = alive.into_iter().filter(|facility| !lost.contains(facility)).collect();
                if survivors.is_empty() {
                    return;
                }
                let mut next = next;
                next.lost.extend(lost.iter().map(|facility| FacilityName::new(name(*facility))));
                let in_charge = &next.databases["accounts"].member;
                let primary_lost = lost.iter().any(|facility| in_charge.ends_with(&format!("-{}", name(*facility))));
                self.complete(next, primary_lost.then(|| member_in(&survivors, *to)));
            }
            Happens::Return(facility) => {
                let mut next = next;
                if next.lost.remove(name(facility % self.records.len()).as_str()) {
                    self.complete(next, None);
                }
            }
            Happens::Swap(lost, back, to) => {
                let mut next = next;
                let (lost, back) = (lost % self.records.len(), back % self.records.len());
                if lost == back || !next.lost.remove(name(back).as_str()) {
                    return;
                }
                next.lost.insert(FacilityName::new(name(lost)));
                // What this cannot protect is told, and must be fenced for good.
                if unprotected(&self.topology, Some(&self.truth), &next).is_empty() {
                    let there: Vec<usize> =
                        (0..self.records.len()).filter(|at| !next.lost.contains(name(*at).as_str())).collect();
                    self.complete(next, Some(member_in(&there, *to)));
                }
            }
            Happens::Switch(to) => {
                let to = member_in(&alive, *to);
                self.complete(next, Some(to));
            }
            Happens::Half(written, to) => {
                let written: Vec<usize> = written.iter().map(|facility| here(*facility, &alive)).collect();
                let to = member_in(&alive, *to);
                if written.len() < alive.len() {
                    self.raise(next, &written, Some(to));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nobody_becomes_primary_by_itself_but_who_is_in_charge(
        facilities in 2usize..5, happenings in happenings(), silent in prop::collection::vec(prop::bool::weighted(0.3), 4),
    ) {
        let mut model = Model::new(facilities);
        happenings.iter().for_each(|what| model.happens(what));
        let names: Vec<String> = (0..facilities).map(|facility| format!("ns-{}", name(facility))).collect();
        let answers: BTreeMap<&str, Option<Epoch>> = (0..facilities)
            .filter(|facility| !silent[*facility])
            .map(|facility| (names[facility].as_str(), Some(model.records[facility].clone())))
            .collect();
        for (number, timeline) in model.timelines.iter().enumerate() {
            let member = member_name(number);
            let ruling = ask(&model.topology, &member, *timeline, &answers);
            let in_charge = model.truth.databases["accounts"].member == member;
            prop_assert!(!ruling.admitted || in_charge, "{member} is admitted: {ruling:?}; {:?}", model.truth);
        }
    }

    /// It would be safe to admit nobody.
    #[test]
    fn who_is_in_charge_starts_where_everybody_answers(facilities in 2usize..5, happenings in happenings()) {
        let mut model = Model::new(facilities);
        happenings.iter().filter(|what| !matches!(what, Happens::Half(..))).for_each(|what| model.happens(what));
        let names: Vec<String> = (0..facilities).map(|facility| format!("ns-{}", name(facility))).collect();
        let there = model.alive();
        let answers: BTreeMap<&str, Option<Epoch>> =
            there.iter().map(|facility| (names[*facility].as_str(), Some(model.records[*facility].clone()))).collect();
        let member = model.truth.databases["accounts"].member.clone();
        let number = (0..2 * facilities).find(|number| member == member_name(*number)).unwrap();
        let ruling = ask(&model.topology, &member, model.timelines[number], &answers);
        prop_assert!(ruling.admitted, "{member}: {ruling:?}; {:?}", model.truth);
    }
}
