//! The steps that move a primary whose old home is healthy (`docs/safety.md` S1, S2): prove, prepare, then one critical section from
//! pause to resume, then restore redundancy. Pure.

mod lead;

use std::collections::{BTreeMap, BTreeSet};

use lead::Names;

use super::build::{After, Builder, step};
use super::diff::PrimaryChange;
use super::followers::Followers;
use super::live;
use super::step::{Gate, StepId, Work};
use super::synchronous;
use crate::model::text::same_member;
use crate::model::{
    Action, Condition, Database, ForeignName, FromTo, Live, MemberFacts, Peer, ReplicationMode, Role, Route, Span,
    TargetId,
};
use crate::topology::Topology;

/// Name of the critical section of a database's switchover.
pub fn section_name(database: &Database) -> String {
    format!("switchover.{}", database.name)
}

/// The steps that end the critical section which used a pooler last. Sections that share a pooler follow one another: a reload for one
/// database makes what is written for another one true, and a client of that one who logs in then makes all its clients wait.
pub(super) type Alone = BTreeMap<TargetId, After>;

/// One switchover under construction.
struct Switchover<'a> {
    database: &'a Database,
    change: &'a PrimaryChange,
    followers: Followers,
    names: Names,
    entry: &'a ForeignName,
    poolers: Vec<&'a TargetId>,
    route: FromTo<String>,
    section: String,
    stage: usize,
    stall: Span,
}

/// The members that a switchover leads to the candidate before the pause.
pub(super) fn led(topology: &Topology, change: &PrimaryChange, live: &Live) -> BTreeSet<TargetId> {
    let Some(database) = topology.databases.get(&change.database) else { return BTreeSet::new() };
    Followers::of(database, &change.from.member, &change.to.member, live).led().cloned().collect()
}

/// Adds the switchover's steps to `builder` and returns the steps after which the database is redundant again.
pub(super) fn add(
    builder: &mut Builder,
    topology: &Topology,
    database: &Database,
    change: &PrimaryChange,
    live: &Live,
    needs: &After,
    alone: &mut Alone,
) -> After {
    // Preflight refuses every other kind of route before a plan is made.
    let Route::PoolerDatabase(entry) = &database.route else { return needs.clone() };
    let (old, new) = (change.from.member.name(), change.to.member.name());
    let stall = super::preflight::expected_stall(database, live);
    let followers = Followers::of(database, &change.from.member, &change.to.member, live);
    let primary = live::member(live, &change.from.member);
    let now = primary.map(|facts| facts.synchronous_names.as_str()).unwrap_or_default();
    let names = Names::new(now, old, new, &followers, database.confirmed_by);
    let windows = names.windows(old, new);
    let stage = builder.stage(format!("Database {}: primary {old} → {new}", database.name), Vec::new());
    let switchover = Switchover {
        database,
        change,
        followers,
        names,
        entry,
        poolers: database.poolers.iter().filter_map(|name| Some(&topology.poolers.get(name)?.target.id)).collect(),
        route: FromTo { from: change.from.address.clone(), to: change.to.address.clone() },
        section: section_name(database),
        stage,
        stall: topology.policy.max_write_stall,
    };
    let mut remains = vec![
        format!("writers of {} wait about {stall}, at most {}", database.name, topology.policy.max_write_stall),
        format!("{} has one member less from the fence until {old} follows {new} again", database.name),
    ];
    remains.extend(windows);
    remains.extend(switchover.lines());
    builder.remains(stage, remains);
    let ready = After::from([builder.push(switchover.ready(needs))]);
    let prepared = switchover.prepare(builder, live::member(live, &change.to.member), &ready);
    let prepared = switchover.lead(builder, primary, &prepared);
    let resumed = switchover.critical_section(builder, &prepared, alone);
    switchover.complete(builder, &resumed)
}

fn args(pairs: &[(&str, Vec<String>)]) -> BTreeMap<String, Vec<String>> {
    pairs.iter().map(|(key, values)| ((*key).to_owned(), values.clone())).collect()
}

/// What only the member's provider knows how to do, and what takes it back.
pub(super) fn native(
    database: &Database,
    stage: usize,
    target: &TargetId,
    verb: &str,
    title: String,
    why: &str,
    args: BTreeMap<String, Vec<String>>,
) -> super::step::Step {
    let condition = |done| Condition::Native { verb: verb.to_owned(), args: args.clone(), done };
    let act = |verb: String| Action::Native { verb, args: args.clone() };
    let id = format!("db.{}.{verb}.{}", database.name, target.name());
    step(id, stage, title, Work::on(target, act(verb.to_owned())))
        .why(why)
        .after(target, condition(true))
        .undone_by(act(format!("un{verb}")), condition(false))
        .takes(Span::secs(1), Span::secs(30))
}

/// Slots at a member for others that are to receive from it.
pub(super) fn slots(database: &Database, stage: usize, at: &TargetId, members: &[&TargetId]) -> super::step::Step {
    let names: Vec<String> = members.iter().map(|id| id.name().to_owned()).collect();
    let title = format!("a slot for {} at {}", crate::model::text::list(&names), at.name());
    let why = "It keeps the log that they still need; without it they would be refused.";
    native(database, stage, at, "make_slots", title, why, args(&[("followers", names)]))
}

/// The end of a switchover, and the repair of one that was cut short.
pub(super) struct Follow<'a> {
    pub(super) database: &'a Database,
    pub(super) primary: &'a Peer,
    /// Members that are started or pointed elsewhere, with whom they then receive from: those of the primary come first.
    pub(super) rejoin: Vec<(&'a TargetId, &'a Peer)>,
    /// The steps by which others that must stream in the end become replicas anew.
    pub(super) rebuilt: After,
    /// Names of all that must stream from the primary in the end.
    pub(super) replicas: BTreeSet<String>,
    /// Names of those that follow it once they can: a slot waits for them.
    pub(super) later: Vec<String>,
    /// Those that must stream from another replica, with it.
    pub(super) keeping: Vec<(&'a TargetId, &'a Peer)>,
    /// Names of those that have left the primary: their slots there are of no more use.
    pub(super) left: Vec<String>,
    /// Members at which slots are of no more use, and whose.
    pub(super) stale: BTreeMap<TargetId, Vec<String>>,
    /// Whom commits wait for in the end.
    pub(super) synchronous: String,
}

impl Follow<'_> {
    /// Adds the steps by which members follow a primary and its redundancy is complete.
    pub(super) fn add(self, builder: &mut Builder, stage: usize, needs: &After) -> After {
        const WHY_FORWARD: &str = "the primary is where it should be";
        let (database, primary) = (self.database, self.primary);
        let name = primary.member.name();
        let rejoin = |what: &str, member: &TargetId, upstream: &Peer, needs: &After| {
            step(
                format!("db.{}.{what}.{}", database.name, member.name()),
                stage,
                format!("{} follows {}", member.name(), upstream.member.name()),
                Work::on(member, Action::Rejoin { primary: upstream.clone() }),
            )
            .why("Redundancy returns.")
            .after(member, Condition::Follows { primary: upstream.clone() })
            .irreversible(WHY_FORWARD)
            .takes(Span::millis(500), Span::secs(120))
            .needs(needs)
        };
        let (direct, below): (Vec<_>, Vec<_>) = self.rejoin.iter().partition(|(_, upstream)| *upstream == primary);
        let mut following = needs.clone();
        following.extend(self.rebuilt);
        following.extend(
            direct.into_iter().map(|(member, upstream)| builder.push(rejoin("rejoin", member, upstream, needs))),
        );
        // Replicas of replicas, once those follow, each with a slot there.
        let mut senders: BTreeMap<&TargetId, Vec<&TargetId>> = BTreeMap::new();
        for (member, upstream) in &below {
            senders.entry(&upstream.member).or_default().push(member);
        }
        let returned = following.clone();
        for (sender, members) in senders {
            let mut slot = slots(database, stage, sender, &members).irreversible(WHY_FORWARD).needs(&returned);
            // The same member may have made a slot for the candidate before the pause.
            slot.id = StepId(format!("db.{}.below.slots.{}", database.name, sender.name()));
            let slot = After::from([builder.push(slot)]);
            let of_sender = below.iter().filter(|(_, upstream)| upstream.member == *sender);
            following
                .extend(of_sender.map(|(member, upstream)| builder.push(rejoin("below", member, upstream, &slot))));
        }
        let confirmed = database.mode == ReplicationMode::Synchronous && !self.synchronous.is_empty();
        let followers = self.replicas.iter().chain(&self.later).cloned().collect();
        let mut arguments = synchronous::awaiting(&self.synchronous);
        arguments.extend([("followers", followers), ("stale", self.left), ("synchronous", vec![self.synchronous])]);
        let mut finish = native(
            database,
            stage,
            &primary.member,
            "finish_promotion",
            format!("finish at {name}: commits wait for its followers again, temporary settings go"),
            "Ends the window without redundancy.",
            args(&arguments),
        )
        .after(&primary.member, Condition::Redundant { replicas: self.replicas, synchronous: confirmed })
        .irreversible(WHY_FORWARD)
        .needs(&following);
        for (member, upstream) in self.keeping {
            finish = finish.after(member, Condition::Follows { primary: upstream.clone() });
        }
        finish.deadline = Span::secs(60);
        let mut finished = After::from([builder.push(finish)]);
        for (member, stale) in self.stale {
            let cleaned = native(
                database,
                stage,
                &member,
                "finish_demotion",
                format!("finish at {}: temporary settings and stale slots go", member.name()),
                "What is left over would bite at the next switchover.",
                args(&[("stale", stale)]),
            )
            .irreversible(WHY_FORWARD)
            .needs(&following);
            finished.insert(builder.push(cleaned));
        }
        finished
    }
}

impl Switchover<'_> {
    fn id(&self, what: &str) -> String {
        format!("db.{}.{what}", self.database.name)
    }

    /// The members that will receive from the new primary itself.
    fn followers(&self) -> Vec<String> {
        let direct: BTreeSet<&str> = self.followers.direct().chain([self.change.from.member.name()]).collect();
        direct.into_iter().map(str::to_owned).collect()
    }

    fn native(
        &self,
        target: &TargetId,
        verb: &str,
        title: String,
        why: &str,
        args: BTreeMap<String, Vec<String>>,
    ) -> super::step::Step {
        native(self.database, self.stage, target, verb, title, why, args)
    }

    /// What was proven at the beginning may have changed while traffic was shifted.
    fn ready(&self, needs: &After) -> super::step::Step {
        let (primary, candidate) = (self.change.from.member.clone(), self.change.to.member.clone());
        let title = format!("{} can still hand over to {}", primary.name(), candidate.name());
        let followers = self.followers.led().cloned().collect();
        let gate = Gate::Switchable { database: self.database.name.clone(), primary, candidate, followers };
        step(self.id("gate.ready"), self.stage, title, Work::Gate { gate })
            .why("Lag and transactions may have changed since the beginning.")
            .takes(Span::millis(100), Span::secs(30))
            .needs(needs)
    }

    fn prepare(&self, builder: &mut Builder, candidate: Option<&MemberFacts>, needs: &After) -> After {
        let (from, to) = (&self.change.from, &self.change.to);
        let (old, new) = (from.member.name(), to.member.name());
        // What the candidate has of its own is left there by an undo.
        let slots = candidate.map(|facts| facts.slots.as_slice()).unwrap_or_default();
        let has_slot = |member: &String| slots.iter().any(|slot| same_member(&slot.name, member));
        let kept = self.followers().into_iter().filter(has_slot).collect();
        let before = candidate.map(|facts| facts.synchronous_names.clone()).unwrap_or_default();
        let candidate = self
            .native(
                &to.member,
                "prepare_promotion",
                format!("prepare {new}: slots for its followers, checkpoint"),
                if self.names.first.is_empty() {
                    "A checkpoint now makes the promotion short; commits will wait for nobody until its followers are back."
                } else {
                    "A checkpoint now makes the promotion short; commits will wait for those that follow through it."
                },
                args(&[
                    ("followers", self.followers()),
                    ("kept", kept),
                    ("synchronous", vec![self.names.first.clone()]),
                    ("synchronous_before", vec![before]),
                ]),
            )
            .before(&to.member, Condition::Role { role: Role::Replica, lineage: Some(self.change.lineage.clone()) })
            .needs(needs);
        let primary = self
            .native(
                &from.member,
                "prepare_demotion",
                format!("prepare {old}: where it will follow, checkpoint"),
                "So that the old primary can only come back as a replica, and stops quickly.",
                args(&[("primary", vec![to.member.name().to_owned(), to.address.clone()])]),
            )
            .before(&from.member, Condition::Role { role: Role::Primary, lineage: Some(self.change.lineage.clone()) })
            .needs(needs);
        After::from([builder.push(candidate), builder.push(primary)])
    }

    /// From pause to resume: stands or falls as one, under one permit.
    fn critical_section(&self, builder: &mut Builder, prepared: &After, alone: &mut Alone) -> After {
        let mut needs = prepared.clone();
        needs.extend(self.poolers.iter().filter_map(|pooler| alone.get(*pooler)).flatten().cloned());
        let needs = &needs;
        let (from, to) = (&self.change.from, &self.change.to);
        let (old, new) = (from.member.name(), to.member.name());
        let lineage = &self.change.lineage;
        let paused = |paused| Condition::Paused { database: self.entry.clone(), paused };
        let (mut last, mut written) = (After::new(), After::new());
        for pooler in &self.poolers {
            let (pause, resume) =
                (Action::Pause { database: self.entry.clone() }, Action::Resume { database: self.entry.clone() });
            let pause = step(
                self.id(&format!("pause.{}", pooler.name())),
                self.stage,
                format!("pause {} at {}", self.entry, pooler.name()),
                Work::on(pooler, pause),
            )
            .why("Clients wait from here on; running transactions end first.")
            .before(pooler, Condition::Routed { database: self.entry.clone(), to: self.route.from.clone() })
            .after(pooler, paused(true))
            .undone_by(resume, paused(false))
            .section(&self.section)
            .takes(Span::millis(20), Span(self.stall.0 * 2 / 5))
            .needs(needs);
            let pause = builder.push(pause);
            written.insert(self.write_route(builder, pooler, &After::from([pause.clone()])));
            last.insert(pause);
        }
        let fence = step(
            self.id("fence"),
            self.stage,
            format!("fence {old}: a clean stop"),
            Work::on(&from.member, Action::Fence { successor: to.clone() }),
        )
        .why("A stopped primary takes no writes; its control data proves that it ended cleanly.")
        .before(&from.member, Condition::Role { role: Role::Primary, lineage: Some(lineage.clone()) })
        .after(&from.member, Condition::Role { role: Role::Fenced, lineage: None })
        .undone_by(
            Action::Unfence { lineage: lineage.clone() },
            Condition::Role { role: Role::Primary, lineage: Some(lineage.clone()) },
        )
        .section(&self.section)
        .takes(Span::millis(60), Span(self.stall.0 / 2));
        last = After::from([builder.push(self.followed(fence).needs(&last))]);
        let catch_up = step(
            self.id("catch_up"),
            self.stage,
            format!("wait until {new} has applied everything that {old} wrote"),
            Work::on(&to.member, Action::CatchUp { behind: from.member.clone(), position: None }),
        )
        .why("Nothing that was acknowledged may be missing.")
        .after(&to.member, Condition::AppliedBeyond { position: None })
        .section(&self.section)
        .takes(Span::millis(10), Span(self.stall.0 / 2));
        last = After::from([builder.push(catch_up.needs(&last))]);
        let mut promote = step(
            self.id("promote"),
            self.stage,
            format!("promote {new}"),
            Work::on(&to.member, Action::Promote { lineage: lineage.clone() }),
        )
        .why("From here on there is a new history: the way back is another switchover.")
        .after(&to.member, Condition::Promoted { beyond: lineage.clone() })
        .irreversible(format!(
            "a new switchover moves the primary back: `handover plan` with {old}'s facility in service"
        ))
        .section(&self.section)
        .takes(Span::millis(50), Span::secs(5));
        promote.point_of_no_return = true;
        last = After::from([builder.push(promote.needs(&last).needs(&written))]);
        let mut resumed = After::new();
        for pooler in &self.poolers {
            let redirect = Action::Redirect { database: self.entry.clone(), route: self.route.clone() };
            let redirect = step(
                self.id(&format!("redirect.{}", pooler.name())),
                self.stage,
                format!("load the route of {} at {} and resume", self.entry, pooler.name()),
                Work::on(pooler, redirect),
            )
            .why("Clients go on, at the new primary; both in one go, because a login in between would make all of them wait.")
            .after(pooler, Condition::Routed { database: self.entry.clone(), to: self.route.to.clone() })
            .after(pooler, paused(false))
            .irreversible("the new primary has taken over")
            .section(&self.section)
            .takes(Span::millis(40), Span::secs(20));
            resumed.insert(builder.push(redirect.needs(&last)));
        }
        alone.extend(self.poolers.iter().map(|pooler| ((*pooler).clone(), resumed.clone())));
        resumed
    }

    /// Beside the fence, so that it costs no time; and not before the pause, because a reload for another database would load it.
    fn write_route(&self, builder: &mut Builder, pooler: &TargetId, paused: &After) -> StepId {
        let database = || self.entry.clone();
        let written = |to: &str| Condition::RouteWritten { database: database(), to: to.to_owned() };
        let write = Action::WriteRoute { database: database(), route: self.route.clone() };
        let restore = Action::RestoreRoute { database: database(), route: self.route.reversed() };
        builder.push(
            step(
                self.id(&format!("write_route.{}", pooler.name())),
                self.stage,
                format!("write the route of {} at {}, not yet loaded", self.entry, pooler.name()),
                Work::on(pooler, write),
            )
            .why("Beside the fence: it makes nobody wait longer.")
            .after(pooler, written(&self.route.to))
            .undone_by(restore, written(&self.route.from))
            .section(&self.section)
            .takes(Span::millis(60), Span(self.stall.0 / 2))
            .needs(paused),
        )
    }

    fn complete(&self, builder: &mut Builder, needs: &After) -> After {
        let (from, to) = (&self.change.from, &self.change.to);
        let (old, new) = (from.member.name(), to.member.name());
        let mut done = After::new();
        for pooler in &self.poolers {
            let marker = Action::Marker { database: self.entry.clone(), primary: to.clone() };
            let marker = step(
                self.id(&format!("marker.{}", pooler.name())),
                self.stage,
                format!("write a marker through {} and see {new} take it", pooler.name()),
                Work::on(pooler, marker),
            )
            .why("The proof by the clients' own path.")
            .takes(Span::millis(200), Span::secs(20))
            .needs(needs);
            done.insert(builder.push(marker));
        }
        let later = self.tell_later(builder, needs);
        let below = self.followers.below();
        let stays = |id: &&TargetId| below.get(*id).is_none_or(|upstream| upstream.member != from.member);
        let others = self.database.members.values().map(|member| &member.target.id).filter(stays);
        let others = others.map(|id| id.name().to_owned()).filter(|name| name != old).collect();
        let direct = (!below.contains_key(&from.member)).then_some(old);
        let mut stale = BTreeMap::from([(from.member.clone(), others)]);
        stale.extend(self.followers.upstream.iter().map(|peer| (peer.member.clone(), vec![new.to_owned()])));
        let follow = Follow {
            database: self.database,
            primary: to,
            rejoin: std::iter::once(&from.member)
                .chain(self.followers.returning())
                .map(|id| (id, to))
                .chain(below)
                .collect(),
            left: below.keys().map(|id| id.name().to_owned()).collect(),
            rebuilt: After::new(),
            replicas: self.followers.expected().chain(direct).map(str::to_owned).collect(),
            later: self.followers.later().map(|(id, _)| id.name().to_owned()).collect(),
            keeping: self.followers.keeping().collect(),
            stale,
            synchronous: self.names.complete.clone(),
        };
        done.extend(follow.add(builder, self.stage, needs));
        done.extend(later);
        done
    }
}
