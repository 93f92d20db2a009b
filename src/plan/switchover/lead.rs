//! Leading the other replicas over to the candidate before the pause, so that they follow through the promotion and commits have
//! replicas to wait for from its first moment on (`docs/adr/0007`). Everything here is taken back by leading them back. Pure.

use std::collections::BTreeSet;

use super::{After, Switchover, args, native, slots};
use crate::model::text::{list, same_member};
use crate::model::{Action, Condition, MemberFacts, Peer, Span, TargetId};
use crate::plan::build::{Builder, step};
use crate::plan::step::{Step, Work};
use crate::plan::{followers, synchronous};

/// Whom commits wait for, as the setting of whoever is primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// At the old primary, now.
    now: String,
    /// There, while only the candidate follows it.
    narrowed: String,
    /// There, if the others are led back: each under the name that it then gives.
    back: String,
    /// At the new primary from the promotion on.
    pub(super) first: String,
    /// There, once the old primary follows.
    pub(super) complete: String,
}

impl Names {
    /// `confirmed_by`: how many replicas should confirm each commit in the end, where that is declared.
    pub(super) fn new(
        now: &str,
        old: &str,
        new: &str,
        followers: &followers::Followers,
        confirmed_by: Option<usize>,
    ) -> Self {
        let led: BTreeSet<String> = followers.led().map(|id| id.name().to_owned()).collect();
        let counting = followers.counting();
        let wanted = synchronous::spelled(&synchronous::after(now, new, old), &counting);
        let returns = (!followers.below().keys().any(|id| id.name() == old)).then(|| old.to_owned());
        let all: BTreeSet<String> = counting.iter().cloned().chain(returns).collect();
        let complete = synchronous::reachable(&wanted, &all);
        let able: Vec<&String> = all.iter().collect();
        Self {
            now: now.trim().to_owned(),
            narrowed: if led.is_empty() { now.trim().to_owned() } else { synchronous::narrowed(now, new) },
            back: synchronous::spelled(now, &led),
            first: synchronous::reachable(&wanted, &counting),
            complete: match confirmed_by {
                Some(declared) => synchronous::as_declared(&complete, declared, &able),
                None => complete,
            },
        }
    }

    /// The windows in which commits wait for fewer replicas than they should, one line each.
    pub(super) fn windows(&self, old: &str, new: &str) -> Vec<String> {
        let demand = synchronous::demand;
        let (whole, narrowed) = (demand(&self.now), demand(&self.narrowed));
        let mut lines = Vec::new();
        if narrowed < whole {
            lines.push(format!("commits wait for {new} alone, not for {whole} replicas, until it is promoted"));
        }
        match demand(&self.first) {
            _ if whole == 0 => {}
            0 => lines.push(format!("commits wait for nobody from the promotion until {old} follows {new}")),
            first if first < demand(&self.complete) => {
                lines.push(format!(
                    "commits wait for {first} of {whole} replicas from the promotion until {old} follows {new}"
                ));
            }
            _ => lines.push("commits wait for replicas from the promotion on, as before".to_owned()),
        }
        if demand(&self.complete) < whole {
            lines.push(format!(
                "after it {} replicas are left to wait for, not {whole}: {}",
                demand(&self.complete),
                self.complete
            ));
        }
        lines
    }
}

impl Switchover<'_> {
    /// Adds the steps that lead the other replicas to the candidate, each once its slot is there, and returns what the pause needs.
    pub(super) fn lead(&self, builder: &mut Builder, primary: Option<&MemberFacts>, prepared: &After) -> After {
        let mut ready = prepared.clone();
        if let Some(upstream) = &self.followers.upstream {
            ready.insert(self.lead_candidate(builder, upstream, primary, prepared));
        }
        if self.names.narrowed != self.names.now {
            // Once the candidate receives from the old primary itself: before that it could not confirm anything to it.
            ready.insert(builder.push(self.narrow(&ready)));
        }
        let mut led = ready.clone();
        led.extend(self.followers.led().map(|id| builder.push(self.lead_one(id, &ready))));
        led
    }

    /// A candidate that receives from another replica is led to the primary first: a clean stop waits for whoever receives from it.
    fn lead_candidate(
        &self,
        builder: &mut Builder,
        upstream: &Peer,
        primary: Option<&MemberFacts>,
        needs: &After,
    ) -> crate::plan::StepId {
        let (from, to) = (&self.change.from, &self.change.to);
        let (old, new) = (from.member.name(), to.member.name());
        let has_slot = primary.is_some_and(|facts| facts.slots.iter().any(|slot| same_member(&slot.name, new)));
        let ready = match has_slot {
            true => needs.clone(),
            false => {
                After::from([builder.push(slots(self.database, self.stage, &from.member, &[&to.member]).needs(needs))])
            }
        };
        let follows = |peer: &Peer| Action::Rejoin { primary: peer.clone() };
        let candidate = BTreeSet::from([new.to_owned()]);
        builder.push(
            step(
                self.id(&format!("lead.{new}")),
                self.stage,
                format!("{new} receives from {old} itself, no longer from {}", upstream.member.name()),
                Work::on(&to.member, follows(from)),
            )
            .why("A clean stop waits for whoever receives from the old primary itself.")
            .before(&to.member, Condition::KeepsUp { upstream: upstream.clone() })
            .after(&from.member, Condition::FollowedBy { replicas: candidate })
            .undone_by(follows(upstream), Condition::Follows { primary: upstream.clone() })
            .takes(Span::millis(500), Span::secs(20))
            .needs(&ready),
        )
    }

    /// Before replicas leave the old primary, so that no commit waits for one that has left.
    fn narrow(&self, needs: &After) -> Step {
        let (old, new) = (self.change.from.member.name(), self.change.to.member.name());
        let listed =
            |id: &&TargetId| synchronous::counting(&self.names.now, &BTreeSet::from([id.name().to_owned()])) > 0;
        let awaited = self.followers.led().filter(listed).map(|id| id.name().to_owned()).collect();
        native(
            self.database,
            self.stage,
            &self.change.from.member,
            "set_synchronous",
            format!("commits at {old} wait for {new} alone"),
            "The others are about to receive from the candidate; whatever is acknowledged is there.",
            args(&[
                ("awaited", awaited),
                ("synchronous", vec![self.names.narrowed.clone()]),
                ("synchronous_before", vec![self.names.back.clone()]),
            ]),
        )
        .needs(needs)
    }

    fn lead_one(&self, id: &TargetId, needs: &After) -> Step {
        let (from, to) = (&self.change.from, &self.change.to);
        let (old, new, name) = (from.member.name(), to.member.name(), id.name());
        let follows = |peer: &Peer| Action::Rejoin { primary: peer.clone() };
        step(
            self.id(&format!("lead.{name}")),
            self.stage,
            format!("{name} receives from {new}, no longer from {old}"),
            Work::on(id, follows(to)),
        )
        .why("It then follows through the promotion by itself.")
        .before(id, Condition::KeepsUp { upstream: from.clone() })
        .after(id, Condition::Follows { primary: to.clone() })
        .after(&to.member, Condition::FollowedBy { replicas: BTreeSet::from([name.to_owned()]) })
        .undone_by(follows(from), Condition::Follows { primary: from.clone() })
        .takes(Span::millis(500), Span::secs(20))
        .needs(needs)
    }

    /// What must hold right before the pause, so that commits go on right after the promotion.
    pub(super) fn followed(&self, mut step: Step) -> Step {
        let to = &self.change.to;
        let replicas: BTreeSet<String> = self.followers.through().map(|id| id.name().to_owned()).collect();
        if self.names.first.is_empty() || replicas.is_empty() {
            return step;
        }
        for id in self.followers.through() {
            step = step.before(id, Condition::KeepsUp { upstream: to.clone() });
        }
        step.before(&to.member, Condition::FollowedBy { replicas })
    }

    /// What an operator reads above the steps, where there are more than two members.
    pub(super) fn lines(&self) -> Vec<String> {
        let new = self.change.to.member.name();
        let mut lines: Vec<String> = self.change.why.iter().cloned().collect();
        let led: Vec<&str> = self.followers.led().map(TargetId::name).collect();
        if !led.is_empty() {
            let verb = if led.len() == 1 { "receives" } else { "receive" };
            lines.push(format!("{} {verb} from {new} before the pause already", list(led)));
        }
        for (id, upstream) in self.followers.below() {
            let (name, upstream) = (id.name(), upstream.member.name());
            lines.push(format!("{name} receives from {upstream} in the end, as the topology says"));
        }
        for (id, upstream) in self.followers.keeping() {
            lines.push(format!("{} goes on receiving from {}", id.name(), upstream.member.name()));
        }
        lines
    }

    /// Adds the steps for those that could not be led over: they are told whom to follow, and nobody waits for them.
    pub(super) fn tell_later(&self, builder: &mut Builder, needs: &After) -> After {
        let to = &self.change.to;
        let tell = |(id, why): (&TargetId, &str)| {
            let told = native(
                self.database,
                self.stage,
                id,
                "follow_later",
                format!("{} is told to follow {}, once it can", id.name(), to.member.name()),
                &format!("Nobody waits for it: {why}."),
                args(&[("primary", vec![to.member.name().to_owned(), to.address.clone()])]),
            );
            builder.push(told.irreversible("the new primary has taken over").needs(needs))
        };
        self.followers.later().map(tell).collect()
    }
}
