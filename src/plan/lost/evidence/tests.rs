//! Every combination of what can be known, against the table in `docs/safety.md`.

use super::*;

/// Nothing is taken from the code that is tested: the table is read from the page that operators read.
const SAFETY: &str = include_str!("../../../../docs/safety.md");

/// The first words of the table's heading.
const HEADING: &str = "| of what is said to be lost |";

/// One row: what it asks of each column (`–` is anything), and its verdict.
#[derive(Debug)]
struct Row {
    cells: Vec<String>,
    verdict: String,
}

fn table() -> Vec<Row> {
    let lines = SAFETY.lines().skip_while(|line| !line.starts_with(HEADING)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|')).map(|line| {
        let mut cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let verdict = cells.pop().unwrap().trim_matches('*').to_owned();
        Row { cells, verdict }
    });
    rows.collect()
}

/// What a witness of one kind is in a combination.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    Absent,
    Sees,
    SeesNotElsewhere,
    SeesNotBesideUs,
    CannotTell,
}

const WORDS: [Word; 5] = [Word::Absent, Word::Sees, Word::SeesNotElsewhere, Word::SeesNotBesideUs, Word::CannotTell];

/// What we have found ourselves of what is lost: answers, stopped, silent.
const OWN: [(bool, bool, bool); 8] = [
    (false, false, false),
    (false, false, true),
    (false, true, false),
    (false, true, true),
    (true, false, false),
    (true, false, true),
    (true, true, false),
    (true, true, true),
];

/// What has answered of a part of the rest: nothing was asked, nothing has answered, something has.
const REST: [Option<bool>; 3] = [None, Some(false), Some(true)];

const SECOND: Duration = Duration::from_secs(1);
const HOLD_DOWN: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug)]
struct Case {
    own: (bool, bool, bool),
    beside: Option<bool>,
    elsewhere: Option<bool>,
    /// Whether the topology says where we are.
    declared: bool,
    words: [Word; 3],
    /// The last witness reaches something else that does not answer us.
    reaches: bool,
    attested: bool,
    silent_for: Duration,
}

fn cases() -> impl Iterator<Item = Case> {
    let words = || WORDS.into_iter().flat_map(|a| WORDS.into_iter().flat_map(move |b| WORDS.map(|c| [a, b, c])));
    let both = [false, true];
    let rest = || REST.into_iter().flat_map(|beside| REST.map(|elsewhere| (beside, elsewhere)));
    let times = [HOLD_DOWN - SECOND, HOLD_DOWN, HOLD_DOWN + SECOND];
    OWN.into_iter().flat_map(move |own| {
        rest().flat_map(move |(beside, elsewhere)| {
            words().flat_map(move |words| {
                both.into_iter().flat_map(move |declared| {
                    both.into_iter().flat_map(move |reaches| {
                        both.into_iter().flat_map(move |attested| {
                            times.map(|silent_for| Case {
                                own,
                                beside,
                                elsewhere,
                                declared,
                                words,
                                reaches: reaches && words[2] != Word::Absent,
                                attested,
                                silent_for,
                            })
                        })
                    })
                })
            })
        })
    })
}

impl Case {
    fn evidence(&self) -> Evidence {
        let some = |is: bool, name: &str| if is { BTreeSet::from([TargetId::proxy(name)]) } else { BTreeSet::new() };
        let (answers, stopped, silent) = self.own;
        let count = |answers: bool| Count { asked: 3, answered: if answers { 2 } else { 0 } };
        let rest = [("haven", self.beside), ("east", self.elsewhere)];
        let kinds = [WitnessKind::Proxy, WitnessKind::Receiver, WitnessKind::Vantage];
        let witnesses = kinds.into_iter().zip(self.words).enumerate().filter_map(|(n, (kind, word))| {
            let (place, says) = match word {
                Word::Absent => return None,
                Word::Sees => ("east", Says::Sees("sees it".to_owned())),
                Word::SeesNotElsewhere => ("east", Says::SeesNot { how: "sees nothing".to_owned(), since: None }),
                Word::SeesNotBesideUs => ("haven", Says::SeesNot { how: "sees nothing".to_owned(), since: None }),
                Word::CannotTell => ("east", Says::CannotTell("does not answer".to_owned())),
            };
            let reaches = some(self.reaches && n == 2, "east-lb2");
            Some(Witness { who: format!("witness-{n}"), kind, place: place.into(), says, reaches })
        });
        Evidence {
            lost: Lost { facilities: BTreeSet::from(["west".into()]), targets: BTreeSet::new() },
            here: self.declared.then(|| "haven".into()),
            own: Own {
                answers: some(answers, "west-lb1"),
                stopped: some(stopped, "west-lb2"),
                silent: some(silent, "west-lb3"),
                last_answer: None,
                survivors: rest
                    .into_iter()
                    .filter_map(|(place, some)| Some((FacilityName::new(place), count(some?))))
                    .collect(),
            },
            witnesses: witnesses.collect(),
            attested: self.attested.then(|| Attestation { by: "ann".to_owned(), reason: "saw the fire".to_owned() }),
            silent_for: self.silent_for,
            hold_down: HOLD_DOWN,
        }
    }

    /// The case in the words of the table's columns.
    fn cells(&self) -> Vec<&'static str> {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let of_it = match self.own {
            (true, _, _) => "something answers",
            (_, _, true) => "all is silent",
            (_, true, false) => "its own machine says that it does not run",
            (false, false, false) => "nothing can be asked",
        };
        let answers = [self.beside, self.elsewhere].contains(&Some(true));
        let rest = match (self.beside, self.elsewhere) {
            (None, None) => "nothing was asked",
            _ if !answers => "nothing",
            (Some(true), Some(false)) if self.declared => "only what stands beside us",
            _ => "something",
        };
        let says = |word| self.words.contains(&word);
        let witness = if self.declared {
            says(Word::SeesNotElsewhere)
        } else {
            says(Word::SeesNotElsewhere) && says(Word::SeesNotBesideUs)
        };
        vec![
            of_it,
            rest,
            yes(self.reaches),
            yes(says(Word::Sees)),
            yes(witness),
            yes(self.attested),
            yes(self.silent_for >= HOLD_DOWN),
        ]
    }
}

#[test]
fn every_combination_gets_the_verdict_of_the_table_in_the_docs() {
    let table = table();
    assert!(table.len() >= 8, "{table:?}");
    let (mut seen, mut used) = (0, BTreeSet::new());
    for case in cases() {
        let (evidence, cells) = (case.evidence(), case.cells());
        let fits = |row: &Row| {
            assert_eq!(row.cells.len(), cells.len(), "{row:?}");
            row.cells.iter().zip(&cells).all(|(asked, is)| asked == "–" || asked == is)
        };
        let Some(number) = table.iter().position(fits) else { panic!("no row fits {cells:?}") };
        used.insert(number);
        let verdict = judge(&evidence);
        assert_eq!(verdict.word(), table[number].verdict, "row {}: {cells:?}\n{case:?}", number + 1);

        // And what must hold whatever any table says.
        let sees = evidence.witnesses.iter().any(|witness| matches!(witness.says, Says::Sees(_)));
        let elsewhere = case.words.contains(&Word::SeesNotElsewhere) || case.own.1;
        if let Verdict::Dead { attested, .. } = &verdict {
            assert!(!sees && !case.own.0 && case.silent_for >= HOLD_DOWN, "{case:?}");
            assert!(elsewhere || attested.is_some(), "on one point of view only: {case:?}");
        }
        if let Verdict::Undecided { would_decide, .. } = &verdict {
            assert!(!would_decide.is_empty(), "{case:?}");
        }
        assert!(verdict.lines().len() > 1 && verdict.lines().iter().all(|line| !line.is_empty()), "{case:?}");
        seen += 1;
    }
    assert_eq!(seen, 8 * 9 * 125 * 2 * 2 * 2 * 3);
    let unused: Vec<usize> = (0..table.len()).filter(|number| !used.contains(number)).collect();
    assert!(unused.is_empty(), "rows that no case reaches: {unused:?}");
    let words: BTreeSet<&str> = table.iter().map(|row| row.verdict.as_str()).collect();
    assert_eq!(words, BTreeSet::from(["answers", "dead", "own path broken", "partitioned", "undecided"]));
}

#[test]
fn a_verdict_reads_back_as_written() {
    for case in cases().step_by(997) {
        let verdict = judge(&case.evidence());
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict);
    }
}
