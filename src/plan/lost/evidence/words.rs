//! Evidence and verdict as an operator reads them.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::{Evidence, Lost, Own, Says, Verdict, Witness, WitnessKind};
use crate::model::{FacilityName, Span, TargetId, text};

impl fmt::Display for Lost {
    /// `west`, or `west-ns1 and west-pg1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::list(self.names()))
    }
}

/// A time span to the second, below ten seconds to the tenth.
pub(super) fn span(time: Duration) -> Span {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let step = if millis < 10_000 { 100 } else { 1_000 };
    Span::millis(millis / step * step)
}

/// A witness that reaches what does not answer us: then it is our path that is broken.
pub(super) fn reaches_what_we_do_not(witness: &Witness) -> String {
    let names: BTreeSet<&str> = witness.reaches.iter().map(TargetId::name).collect();
    format!(
        "only what stands beside us answers us, and {} in {} reaches {}, which is not lost and does not answer us",
        witness.who,
        witness.place,
        few(&names)
    )
}

impl Witness {
    /// How it sees what is lost, if it does.
    pub(super) fn sees(&self) -> Option<String> {
        matches!(self.says, Says::Sees(_)).then(|| self.sentence())
    }

    /// What it says: `east-lb1 in east finds none of its 6 servers up, for 32s`.
    pub fn sentence(&self) -> String {
        let (who, place) = (&self.who, &self.place);
        match &self.says {
            Says::Sees(how) | Says::SeesNot { how, since: None } | Says::CannotTell(how) => {
                format!("{who} in {place} {how}")
            }
            Says::SeesNot { how, since: Some(since) } => format!("{who} in {place} {how}, for {}", span(*since)),
        }
    }
}

impl Own {
    /// What the machines say whose servers have died.
    pub(super) fn stopped_sentences(&self) -> Vec<String> {
        self.stopped
            .iter()
            .map(|id| format!("the machine of {} answers and says that it does not run", id.name()))
            .collect()
    }
}

impl Evidence {
    /// What would give us a witness in another place.
    pub(super) fn what_would_witness(&self) -> Vec<String> {
        let lost = &self.lost;
        let mut ways = Vec::new();
        let cannot_tell = |witness: &&Witness| matches!(witness.says, Says::CannotTell(_));
        for witness in self.witnesses.iter().filter(cannot_tell) {
            ways.push(format!("a word of {}: it {}", witness.who, witness.sentence_without_name()));
        }
        let elsewhere = |witness: &&Witness| self.here.as_ref() != Some(&witness.place);
        match &self.here {
            None => ways.push(format!(
                "the place where handover runs, in the topology (`operator: {{runs_in: …}}`): what sees no more of {lost} may be beside us"
            )),
            Some(here) if !self.witnesses.iter().filter(elsewhere).any(|w| w.kind == WitnessKind::Vantage) => {
                ways.push(format!(
                    "a host that is neither in {lost} nor in {here}, where handover runs, declared under `vantages:`"
                ));
            }
            Some(_) => {}
        }
        ways.push(format!("a human's word that nothing of {lost} runs (attested: trust, not proof)"));
        ways
    }

    /// How much longer nothing of it must be heard.
    pub(super) fn must_wait(&self, missing: Duration) -> String {
        format!(
            "{} more without a sign of life: it is known to be silent for {}, and `policy.hold_down` asks for {}",
            span(missing + Duration::from_millis(99)),
            span(self.silent_for),
            span(self.hold_down)
        )
    }
}

impl Witness {
    fn sentence_without_name(&self) -> &str {
        match &self.says {
            Says::Sees(how) | Says::SeesNot { how, .. } | Says::CannotTell(how) => how,
        }
    }
}

impl Verdict {
    /// One word: `dead`, `partitioned`, …
    pub fn word(&self) -> &'static str {
        match self {
            Self::Answers { .. } => "answers",
            Self::OwnPathBroken { .. } => "own path broken",
            Self::Partitioned { .. } => "partitioned",
            Self::Undecided { .. } => "undecided",
            Self::Dead { .. } => "dead",
        }
    }

    /// What it means and why, for an operator: the first line is the verdict, each further one a reason or a way on.
    pub fn lines(&self) -> Vec<String> {
        let (first, more): (String, Vec<String>) = match self {
            Self::Answers { lost, who, silent } => {
                (format!("{lost} is not lost: {}", answering(who)), ways_on(lost, silent))
            }
            Self::OwnPathBroken { lost, why } => {
                let mut more = why.clone();
                more.push(
                    "repair the way from here, or run handover from another place; nothing is done from here"
                        .to_owned(),
                );
                (format!("our own path is broken: nothing can be said of {lost}"), more)
            }
            Self::Partitioned { lost, seen_by } => {
                let mut more = seen_by.clone();
                more.push("its primaries may be taking writes: only a fence makes a promotion safe".to_owned());
                (format!("{lost} is partitioned: it does not answer us, but it is alive for others"), more)
            }
            Self::Undecided { lost, would_decide, wait } => {
                let more = would_decide.iter().map(|way| format!("would decide: {way}")).collect();
                let first = match wait {
                    Some(_) => format!("undecided yet: nobody sees {lost}, but that is too new"),
                    None => format!("undecided: no answer from {lost}, and that alone proves nothing"),
                };
                (first, more)
            }
            Self::Dead { lost, witnesses, attested, silent_for } => {
                let mut more = witnesses.clone();
                if let Some(attested) = attested {
                    let (by, reason) = (&attested.by, &attested.reason);
                    more.push(format!("no witness in another place; {by} attests it: {reason} (trust, not proof)"));
                }
                (format!("{lost} is dead: nobody who was asked sees it, silent for {}", span(*silent_for)), more)
            }
        };
        std::iter::once(first).chain(more).collect()
    }
}

fn answering(who: &BTreeSet<TargetId>) -> String {
    let names: BTreeSet<&str> = who.iter().map(TargetId::name).collect();
    format!("{} {} us", few(&names), if names.len() == 1 { "answers" } else { "answer" })
}

/// The first of these names, and how many more there are.
pub(super) fn few(names: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 4;
    if names.len() <= SHOWN + 1 {
        return text::list(names);
    }
    let shown: Vec<&str> = names.iter().take(SHOWN).copied().collect();
    format!("{} and {} more", shown.join(", "), names.len() - SHOWN)
}

/// What is done instead: what answers is not lost.
fn ways_on(lost: &Lost, silent: &BTreeSet<TargetId>) -> Vec<String> {
    let flags = |flag: &str, names: BTreeSet<&str>| -> String {
        names.into_iter().map(|name| format!(" {flag} {name}")).collect()
    };
    let mut ways = Vec::new();
    if !lost.facilities.is_empty() {
        let drain = flags("--drain", lost.facilities.iter().map(FacilityName::as_str).collect());
        ways.push(format!("what answers goes out of service without loss: `handover plan{drain}`"));
    }
    if !silent.is_empty() {
        let lost = flags("--lost", silent.iter().map(TargetId::name).collect());
        ways.push(format!("what is silent can be lost by itself: `handover plan{lost}`"));
    }
    ways
}
