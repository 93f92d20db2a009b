//! The members beside the two that change places: how each of them comes to follow the new primary, and on which of them commits can
//! count from the promotion on. Pure; why it is done this way: `docs/adr/0007`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::live;
use crate::model::text::same_member;
use crate::model::{Database, Live, MemberFacts, Peer, ReplicaFacts, Role, Span, TargetId};

/// A replica that has confirmed nothing for so long, with something to confirm, hangs.
const SILENT: Duration = Duration::from_secs(5);

/// How a member comes to follow the new primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Led to the candidate before the pause: it follows through the promotion, and commits can count on it.
    Led,
    /// It receives from the candidate already; why commits cannot count on it at once, if so.
    There(Option<String>),
    /// It goes on receiving from this other replica.
    Keeps(Peer),
    /// It is fenced: started as a replica after the promotion.
    Returns,
    /// It cannot follow through the promotion, and why: it is told whom to follow afterwards, and nobody waits for it.
    Later(String),
    /// It is left as it is, and why.
    Left(String),
}

/// The members beside old and new primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followers {
    /// By member.
    pub ways: BTreeMap<TargetId, Way>,
    /// The replica that the candidate receives from, where that is not the old primary.
    pub upstream: Option<Peer>,
    /// Members that the topology wants under another replica in the end, and under which.
    below: BTreeMap<TargetId, Peer>,
    /// Names that replicas of the candidate give now.
    given: BTreeMap<TargetId, String>,
}

impl Followers {
    /// How every member of `database` but `from` and `to` comes to follow `to`.
    pub fn of(database: &Database, from: &TargetId, to: &TargetId, live: &Live) -> Self {
        let others = database.members.values().map(|member| &member.target.id).filter(|id| *id != from && *id != to);
        let candidate = live::member(live, to);
        let given = |id: &TargetId| {
            let replica = candidate.and_then(|facts| replica(facts, id.name()));
            replica.map_or_else(|| id.name().to_owned(), |replica| replica.name.clone())
        };
        let ways: BTreeMap<_, _> = others.clone().map(|id| (id.clone(), way(database, from, to, id, live))).collect();
        let goes = |id: &TargetId| {
            let through = |id: &TargetId| matches!(ways.get(id), Some(Way::Led | Way::There(None)));
            let reaches = |id: &TargetId| {
                let sender = |id: &TargetId| match ways.get(id) {
                    Some(Way::Keeps(peer)) => Some(peer.member.clone()),
                    _ => None,
                };
                let senders: Vec<TargetId> =
                    std::iter::successors(Some(id.clone()), sender).take(database.members.len()).collect();
                let away = |id: &TargetId| self::wanted(database, id, to).is_none_or(|peer| peer.member != *from);
                senders.iter().all(away) && senders.last().is_some_and(through)
            };
            let wanted = wanted(database, id, to)?;
            // Under the old primary, once it has returned; and the old primary itself under whoever follows the new one, itself or
            // through others that stay away from the old one.
            let fit = if id == from { reaches(&wanted.member) } else { wanted.member == *from && through(id) };
            fit.then(|| (id.clone(), wanted))
        };
        Self {
            below: others.clone().chain([from]).filter_map(goes).collect(),
            ways,
            upstream: candidate.and_then(|facts| upstream(database, facts)).filter(|peer| peer.member != *from),
            given: others.map(|id| (id.clone(), given(id))).collect(),
        }
    }

    fn of_way(&self, wanted: impl Fn(&Way) -> bool) -> impl Iterator<Item = &TargetId> {
        self.ways.iter().filter(move |(_, way)| wanted(way)).map(|(id, _)| id)
    }

    /// Those that are led over before the pause.
    pub fn led(&self) -> impl Iterator<Item = &TargetId> {
        self.of_way(|way| *way == Way::Led)
    }

    /// Those that are started after the promotion.
    pub fn returning(&self) -> impl Iterator<Item = &TargetId> {
        self.of_way(|way| *way == Way::Returns)
    }

    /// Those that are told afterwards, and why.
    pub fn later(&self) -> impl Iterator<Item = (&TargetId, &str)> {
        self.ways.iter().filter_map(|(id, way)| match way {
            Way::Later(why) => Some((id, why.as_str())),
            _ => None,
        })
    }

    /// Those that go on receiving from another replica.
    pub fn keeping(&self) -> impl Iterator<Item = (&TargetId, &Peer)> {
        self.ways.iter().filter_map(|(id, way)| match way {
            Way::Keeps(upstream) => Some((id, upstream)),
            _ => None,
        })
    }

    /// Names of those that will receive from the new primary itself, once they can.
    pub fn direct(&self) -> impl Iterator<Item = &str> {
        self.of_way(|way| !matches!(way, Way::Keeps(_) | Way::Left(_))).map(TargetId::name)
    }

    /// Names of those that must stream from the new primary in the end.
    pub fn expected(&self) -> impl Iterator<Item = &str> {
        let direct = self.of_way(|way| matches!(way, Way::Led | Way::There(_) | Way::Returns));
        direct.filter(|id| !self.below.contains_key(*id)).map(TargetId::name)
    }

    /// Those that receive from the new primary at first, and in the end from another replica, as the topology wants it; the old
    /// primary may be among them, and be that replica.
    pub fn below(&self) -> &BTreeMap<TargetId, Peer> {
        &self.below
    }

    /// Those that follow through the promotion.
    pub fn through(&self) -> impl Iterator<Item = &TargetId> {
        self.of_way(|way| matches!(way, Way::Led | Way::There(None)))
    }

    /// The names under which those that follow through the promotion are known to the new primary.
    pub fn counting(&self) -> BTreeSet<String> {
        let given = |id: &TargetId| match self.ways.get(id) {
            Some(Way::There(_)) => self.given.get(id).cloned(),
            // Whoever is led gives its member name.
            _ => Some(id.name().to_owned()),
        };
        self.through().filter(|id| !self.below.contains_key(*id)).filter_map(given).collect()
    }

    /// What an operator should know about those that do not simply follow.
    pub fn notes(&self, to: &TargetId) -> Vec<String> {
        let to = to.name();
        let note = |(id, way): (&TargetId, &Way)| {
            let name = id.name();
            match way {
                Way::Later(why) => Some(format!(
                    "{name} is not led to {to} before the promotion: {why}; it is told to follow afterwards, and nobody waits for it"
                )),
                Way::There(Some(why)) => {
                    Some(format!("commits do not wait for {name} right after the promotion: {why}"))
                }
                Way::Left(why) => Some(format!("{name} is left alone: {why}")),
                _ => None,
            }
        };
        self.ways.iter().filter_map(note).collect()
    }
}

/// Whom a member should receive from by the topology, where that is a replica while `primary` is primary.
pub fn wanted(database: &Database, id: &TargetId, primary: &TargetId) -> Option<Peer> {
    let member = database.members.get(database.members.get(id.name())?.follows.as_ref()?)?;
    let target = &member.target;
    (target.id != *primary && id != primary)
        .then(|| Peer { member: target.id.clone(), address: target.address.clone() })
}

/// Whether a member receives from `sender`, itself or through others.
pub fn receives_through(database: &Database, member: &TargetId, sender: &TargetId, live: &Live) -> bool {
    let up = |id: &TargetId| Some(upstream(database, live::member(live, id)?)?.member);
    std::iter::successors(up(member), up).take(database.members.len()).any(|id| id == *sender)
}

/// A replica in its sender's list.
pub fn replica<'a>(sender: &'a MemberFacts, name: &str) -> Option<&'a ReplicaFacts> {
    sender.replicas.iter().find(|replica| same_member(&replica.name, name))
}

/// A replica in its sender's list that confirms what it gets: it streams, and does not hang.
pub fn confirming<'a>(sender: &'a MemberFacts, name: &str) -> Option<&'a ReplicaFacts> {
    let hangs = |replica: &&ReplicaFacts| replica.silence.is_some_and(|silence| silence > SILENT);
    replica(sender, name).filter(|replica| replica.streaming).filter(|replica| !hangs(replica))
}

/// The member that a replica receives from.
pub fn upstream(database: &Database, facts: &MemberFacts) -> Option<Peer> {
    let address = facts.receives_from.as_ref()?;
    let member = database.members.values().find(|member| member.target.address == *address)?;
    Some(Peer { member: member.target.id.clone(), address: address.clone() })
}

fn way(database: &Database, from: &TargetId, to: &TargetId, id: &TargetId, live: &Live) -> Way {
    let facts = match live::facts(live, id) {
        Ok(facts) => facts.member(),
        Err(why) => return Way::Left(format!("it does not answer: {why}")),
    };
    let (Some(facts), Some(primary)) = (facts, live::member(live, from)) else {
        return Way::Left("it answered as something else".to_owned());
    };
    if facts.lineage.system != primary.lineage.system {
        return Way::Left(format!("it is of another cluster ({})", facts.lineage));
    }
    match facts.role {
        Role::Fenced => return Way::Returns,
        Role::Stopped => {
            return Way::Left(
                "it is stopped and did not end cleanly; `handover plan` rebuilds it afterwards".to_owned(),
            );
        }
        Role::Primary => return Way::Left("it is a primary itself".to_owned()),
        Role::Replica => {}
    }
    if facts.receives_from.is_none() {
        return Way::Later("it does not stream".to_owned());
    }
    match upstream(database, facts) {
        Some(peer) if peer.member == *to => {
            let seen = live::member(live, to).and_then(|candidate| replica(candidate, id.name()));
            Way::There(unfit(facts, seen, primary, database.max_lag))
        }
        Some(peer) if peer.member != *from => Way::Keeps(peer),
        // An address that the topology does not know may be another name of the primary: whether it streams, the primary says.
        _ => match unfit(facts, replica(primary, id.name()), primary, database.max_lag) {
            None => Way::Led,
            Some(why) => Way::Later(why),
        },
    }
}

/// Why a replica would not follow a promotion of its sender at once; `seen` is what the sender sees of it.
pub fn unfit(facts: &MemberFacts, seen: Option<&ReplicaFacts>, primary: &MemberFacts, max_lag: Span) -> Option<String> {
    if facts.lineage.timeline != primary.lineage.timeline {
        return Some(format!(
            "it is on timeline {}, the primary on {}",
            facts.lineage.timeline, primary.lineage.timeline
        ));
    }
    let Some(seen) = seen else {
        return Some("its walreceiver does not give the member's name as application_name".to_owned());
    };
    if !seen.streaming {
        return Some("it is catching up, not streaming".to_owned());
    }
    if let Some(silence) = seen.silence.filter(|silence| *silence > SILENT) {
        return Some(format!(
            "it has confirmed nothing for {}: its walreceiver hangs, or its clock is wrong",
            Span(Duration::from_secs(silence.as_secs()))
        ));
    }
    if let Some(why) = facts.held_back() {
        return Some(why);
    }
    let late = seen.lag.filter(|lag| *lag > max_lag.0);
    late.map(|lag| {
        format!("it lags by {}", Span(Duration::from_millis(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX))))
    })
}
