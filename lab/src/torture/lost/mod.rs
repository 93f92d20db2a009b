//! A facility is lost and comes back: what happens to it, as data. Pure, and the same for the same seed.

mod back;
mod loss;
mod operator;
mod play;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::cases::{Random, one_of_each_kind};
use super::play::Played;
use super::report::Tally;
use super::stand::Stand;
use super::{Args, Playable};

/// The facilities that can be lost, with the other one each.
const FACILITIES: [[&str; 2]; 2] = [["west", "east"], ["east", "west"]];

/// Round trip between the two.
const BETWEEN: Duration = Duration::from_millis(60);

/// How long clients wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where `handover` runs.
const HERE: &str = "haven";

/// The name of the snapshot from which every case begins.
const START: &str = "lost";

/// With what their names begin.
pub const PREFIX: &str = "lost/";

/// What happens to the facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disaster {
    /// Its power goes: SIGKILL to everything at once.
    Power,
    /// Nothing passes between it and any other place; everything in it goes on.
    CutOff,
    /// Nothing leaves it.
    Mute,
    /// Nothing reaches it.
    Deaf,
    /// Nothing passes between it and the other facility; everybody else sees both.
    Parted,
    /// Nothing passes between it and where `handover` runs; users and all others see it.
    Unseen,
    /// The same, and the operator accepts that it may go on publishing its addresses.
    UnseenAccepted,
    /// Nothing passes between where `handover` runs and any other place.
    Blind,
}

/// By what it is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    /// Its power is switched off. That does not outlive the return of its power.
    Off,
    /// A firewall lets nothing pass. Everything in it goes on, also after its power has returned.
    Isolate,
}

/// When what happened is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Before anything is done about it.
    Before,
    /// While `handover` carries the emergency out: when it looks whether the facility is dead.
    Looking,
    /// The same, when the old primaries are cut off.
    Fenced,
    /// The same, when the first new primary is promoted.
    Promoted,
    /// Once the service runs without it.
    After,
}

/// How its servers start once there is power again and somebody else has become primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// An operator starts everything but the database servers.
    ByHand,
    /// Everything starts by itself, if `handover admit` lets it.
    Asking,
    /// Everything by itself, as what it was, unasked: behind a fence that outlives the power.
    Unasked,
}

/// What a case should come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// The service runs without the facility.
    Done,
    /// Nothing is done: the facility serves, or nobody here can tell.
    Refused,
    /// The one or the other: it is over at about the time at which `handover` looks.
    Either,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostCase {
    facility: &'static str,
    other: &'static str,
    disaster: Disaster,
    fence: Fence,
    over: Over,
    start: Start,
}

/// What came out of one case, beside what every case has.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LostPlayed {
    /// Somebody else became primary.
    pub taken_over: bool,
    /// Acknowledged writes of synchronous databases that are not on the final primary.
    pub lost_writes_sync: u64,
    /// The same of asynchronous databases.
    pub lost_writes_async: u64,
    /// Asynchronous databases that lost what no plan had stated.
    pub beyond_stated: usize,
    /// True if it did not end in full redundancy.
    pub not_redundant: bool,
}

impl fmt::Display for LostCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disaster = match self.disaster {
            Disaster::Power => "power",
            Disaster::CutOff => "cut-off",
            Disaster::Mute => "mute",
            Disaster::Deaf => "deaf",
            Disaster::Parted => "parted",
            Disaster::Unseen => "unseen",
            Disaster::UnseenAccepted => "unseen-accepted",
            Disaster::Blind => "blind",
        };
        let fence = match self.fence {
            Fence::Off => "off",
            Fence::Isolate => "isolate",
        };
        let over = match self.over {
            Over::Before => "over-before",
            Over::Looking => "over-while-looking",
            Over::Fenced => "over-when-fenced",
            Over::Promoted => "over-when-promoted",
            Over::After => "over-after",
        };
        let start = match self.start {
            Start::ByHand => "by-hand",
            Start::Asking => "asking",
            Start::Unasked => "unasked",
        };
        write!(f, "{PREFIX}{}/{disaster}/{fence}/{over}/{start}", self.facility)
    }
}

impl Playable for LostCase {
    fn play(&self, stand: &Stand) -> Result<Played> {
        play::play(stand, self)
    }

    fn count(&self, tally: &mut Tally, played: &Played) {
        tally.add_lost(played);
    }
}

impl LostCase {
    /// What it should come to.
    fn wanted(&self) -> Wanted {
        match (self.disaster, self.over) {
            (Disaster::Parted | Disaster::Unseen | Disaster::Blind, _) => Wanted::Refused,
            (_, Over::Before | Over::Looking) => Wanted::Either,
            _ => Wanted::Done,
        }
    }

    /// True if there is such a case.
    fn is_possible(&self) -> bool {
        let Self { disaster, fence, over, start, .. } = *self;
        match disaster {
            // Nobody is cut off: neither fence nor start matters.
            Disaster::Parted | Disaster::Unseen | Disaster::Blind => {
                (fence, over, start) == (Fence::Off, Over::After, Start::ByHand)
            }
            // What was never without power only opens again.
            _ if disaster != Disaster::Power && fence == Fence::Isolate => start == Start::Unasked,
            // Where nobody has taken over yet, everything starts as it was.
            _ if matches!(over, Over::Before | Over::Looking) => start == Start::Unasked,
            // Two would take writes: only what asks, or what is started by hand.
            _ if fence == Fence::Off => start != Start::Unasked,
            _ => true,
        }
    }

    /// Cases that are alike, whichever facility it is and however it is cut off and started.
    fn kind(&self) -> String {
        let over = match self.over {
            Over::Before | Over::Looking => "early",
            Over::Fenced | Over::Promoted => "midway",
            Over::After => "late",
        };
        format!("{:?} {over}", self.disaster)
    }

    /// True for what comes first: the ends of most stories, and old primaries that come back taking writes, as quick as can be.
    fn is_plain(&self) -> bool {
        let plain = match (self.disaster, self.over) {
            (Disaster::Power, Over::After) => self.fence == Fence::Off,
            (Disaster::Power, Over::Fenced) => self.start == Start::Unasked,
            (disaster, over) => (disaster, over) == (Disaster::CutOff, Over::After),
        };
        plain && self.facility == FACILITIES[0][0]
    }
}

/// Every case that there is, in the seed's order: plain ones first.
fn all(seed: u64) -> Vec<LostCase> {
    use Disaster::{Blind, CutOff, Deaf, Mute, Parted, Power, Unseen, UnseenAccepted};
    let mut all = Vec::new();
    for [facility, other] in FACILITIES {
        for disaster in [Power, CutOff, Mute, Deaf, Parted, Unseen, UnseenAccepted, Blind] {
            for fence in [Fence::Off, Fence::Isolate] {
                for over in [Over::Before, Over::Looking, Over::Fenced, Over::Promoted, Over::After] {
                    for start in [Start::ByHand, Start::Asking, Start::Unasked] {
                        all.push(LostCase { facility, other, disaster, fence, over, start });
                    }
                }
            }
        }
    }
    all.retain(LostCase::is_possible);
    Random(seed).shuffle(&mut all);
    all.sort_by_key(|case| !case.is_plain());
    all
}

/// The cases that the arguments ask for, in their order.
pub fn chosen(args: &Args, seed: u64) -> Vec<LostCase> {
    let mut all = all(seed);
    if args.cases.is_empty() {
        return one_of_each_kind(&all, args.lost, LostCase::kind);
    }
    all.retain(|case| args.names(case));
    all
}

/// Starts a lab for such cases.
///
/// # Errors
/// If the lab does not start.
pub fn stand(args: &Args, handover: &std::path::Path, number: usize) -> Result<Stand> {
    let folder = args.folder.join(format!("lost-{number}"));
    let mut stand = Stand::begun(&args.lost_topology, handover, folder, HERE)?;
    // Whoever asks a server that has just lost its power hears nothing: others need not wait for that longer than they must.
    stand.script.patience = PATIENCE;
    operator::isolating(&stand)?;
    operator::publish(&stand)?;
    // What an asynchronous replica has not yet heard is lost: far enough away for that to be something.
    let [one, other] = FACILITIES[0];
    stand.lab.delay(one, other, BETWEEN)?;
    stand.keep(START)?;
    Ok(stand)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_names_tell_everything_and_the_same_seed_gives_the_same_order() {
        let names = |seed| all(seed).iter().map(ToString::to_string).collect::<Vec<_>>();
        let different: BTreeSet<String> = names(7).into_iter().collect();
        assert_eq!(different.len(), names(7).len());
        assert_eq!(names(7), names(7));
        assert_ne!(names(7), names(8));
        assert!(different.contains("lost/west/power/off/over-when-fenced/asking"));
        // Unasked beside a new primary: two would take writes.
        assert!(!different.contains("lost/west/power/off/over-after/unasked"));
    }

    #[test]
    fn the_first_three_are_plain_and_twenty_have_every_kind() {
        let twenty = one_of_each_kind(&all(7), 20, LostCase::kind);
        let kinds: BTreeSet<String> = all(7).iter().map(LostCase::kind).collect();
        assert!(twenty[..3].iter().all(LostCase::is_plain), "{twenty:?}");
        let seen: BTreeSet<String> = twenty.iter().map(LostCase::kind).collect();
        assert_eq!(seen, kinds);
    }
}
