//! Power: what a facility's servers need before they are stopped and after they are started.

use std::collections::{BTreeMap, BTreeSet};

use super::Order;
use crate::model::{Action, Condition, ReplicationMode, Span, TargetId, TargetKind, text::list};
use crate::plan::build::{After, step};
use crate::plan::power::{Parting, by_hand, coming, leaving, units};
use crate::plan::step::{Assumption, Gate, Step, Wait, Work};
use crate::plan::{live, synchronous};

/// How long a server may take to stop: a database writes everything that is in memory first.
const STOPPING: Span = Span::secs(120);

/// How long it may take to start, and a replica to catch up with what it missed.
const STARTING: Span = Span::secs(300);

/// How long a plan waits until an operator has stopped by hand what it cannot stop.
const BY_HAND: Span = Span::secs(600);

/// Commits wait for members no longer, and the log that is kept for them is bounded; or all that is put back.
const RELEASE: &str = "release_replicas";
const UNRELEASE: &str = "unrelease_replicas";

fn lets_go(stage: usize, parting: &Parting<'_>, verb: &'static str, other: &'static str, title: String) -> Step {
    let members: Vec<String> = parting.members.iter().map(|target| target.name().to_owned()).collect();
    let (with, without) = match verb {
        RELEASE => (&parting.synchronous.from, &parting.synchronous.to),
        _ => (&parting.synchronous.to, &parting.synchronous.from),
    };
    let mut args = BTreeMap::from([
        ("released".to_owned(), members),
        ("synchronous".to_owned(), vec![without.clone()]),
        ("synchronous_before".to_owned(), vec![with.clone()]),
    ]);
    args.extend(synchronous::awaiting(with).into_iter().map(|(key, values)| (key.to_owned(), values)));
    let act = |verb: &str| Action::Native { verb: verb.to_owned(), args: args.clone() };
    let done = |verb: &str| Condition::Native { verb: verb.to_owned(), args: args.clone(), done: true };
    let primary = &parting.primary.member;
    step(format!("power.{verb}.{}", parting.database.name), stage, title, Work::on(primary, act(verb)))
        .after(primary, done(verb))
        .undone_by(act(other), done(other))
        .takes(Span::millis(300), Span::secs(30))
}

/// The step by which a primary waits no longer for members, and bounds the log that it keeps for them.
pub(super) fn release(stage: usize, parting: &Parting<'_>, title: String) -> Step {
    lets_go(stage, parting, RELEASE, UNRELEASE, title)
}

fn runs(stage: usize, unit: &TargetId, run: bool) -> Step {
    let (word, action, back, deadline) = if run {
        ("start", Action::Start, Action::Stop, STARTING)
    } else {
        ("stop", Action::Stop, Action::Start, STOPPING)
    };
    let id = format!("power.{word}.{}", unit.name());
    step(id, stage, format!("{word} {}", unit.name()), Work::on(unit, action))
        .after(unit, Condition::Running { running: run })
        .undone_by(back, Condition::Running { running: !run })
        .takes(Span::secs(1), deadline)
}

impl Order<'_> {
    /// Proof, before anything is touched, that what will be stopped can be asked at least.
    pub(super) fn prove_power(&mut self) -> After {
        let facilities = self.desired.power_down.iter().flat_map(|facility| units(self.topology, facility));
        let after: Vec<Assumption> =
            facilities.map(|unit| Assumption::on(&unit.target.id, Condition::Answers)).collect();
        if after.is_empty() {
            return After::new();
        }
        let names = list(&self.desired.power_down);
        let stage = self.builder.stage(format!("Prove that the servers of {names} can be stopped"), Vec::new());
        let title = format!("the hosts of {names} say of every server whether it runs");
        let mut prove = step("power.ready", stage, title, Work::Verify)
            .why("Commands that are missing or not allowed show now, not after everything has moved.")
            .takes(Span::secs(1), Span::secs(30));
        prove.after = after;
        After::from([self.builder.push(prove)])
    }

    /// The last part of a drain until the power may go: primaries elsewhere let go of the members, then everything stops, and that is
    /// verified.
    pub(super) fn power_down(&mut self, needs: &After) -> After {
        let mut needs = needs.clone();
        if self.desired.power_down.is_empty() {
            return needs;
        }
        let names = list(&self.desired.power_down);
        // While commits still wait for the members there: this may take minutes.
        needs = self.clients_leave(&names, &needs);
        let partings = leaving(self.topology, self.desired, self.changes, self.live);
        if !partings.is_empty() {
            let remains = partings.iter().map(|parting| match parting.synchronous.to.as_str() {
                "" => format!("commits of {} wait for no replica", parting.database.name),
                names => format!("commits of {} wait for {names}", parting.database.name),
            });
            let stage = self.builder.stage(format!("Databases let go of their members in {names}"), remains.collect());
            let mut done = After::new();
            for parting in &partings {
                let members = list(parting.members.iter().map(|target| target.name()));
                let waits = match parting.synchronous.from == parting.synchronous.to {
                    true => String::new(),
                    false => format!("commits do not wait for {members}, "),
                };
                let title = format!("{}: {waits}the log kept for {members} is bounded", parting.primary.member.name());
                let release = release(stage, parting, title)
                    .why("A commit that waits for a member without power never returns, and its slot would fill the disk.")
                    .needs(&needs);
                done.insert(self.builder.push(release));
            }
            needs = done;
        }
        for facility in self.desired.power_down.clone() {
            needs = self.stop_all(&facility, &needs);
        }
        needs
    }

    /// Clients keep connections to proxies for longer than resolvers remember addresses. A proxy that does not answer now has none.
    fn clients_leave(&mut self, names: &str, needs: &After) -> After {
        let here = self.topology.proxies.values().filter(|it| self.desired.power_down.contains(&it.target.facility));
        let counted = |id: &TargetId| live::proxy(self.live, id).is_some_and(|facts| facts.connections.is_some());
        let proxies: BTreeSet<TargetId> = here.map(|proxy| proxy.target.id.clone()).filter(counted).collect();
        if proxies.is_empty() {
            return needs.clone();
        }
        let deadline = self.topology.policy.drain_deadline;
        let remains = vec![format!("connections older than {deadline} are closed with their next answer")];
        let stage = self.builder.stage(format!("Clients leave the proxies of {names}"), remains);
        let title = format!("wait until no client is connected to the proxies of {names}, at most {deadline}");
        let wait =
            step("power.connections", stage, title, Work::Wait { wait: Wait::Connections { proxies, deadline } })
                .why("A request on a connection whose proxy stops would fail.")
                .takes(Span::secs(1), Span(deadline.0 + std::time::Duration::from_secs(60)))
                .needs(needs);
        After::from([self.builder.push(wait)])
    }

    fn stop_all(&mut self, facility: &crate::model::FacilityName, needs: &After) -> After {
        let remains = vec![format!("nothing of {facility} is needed any more")];
        let stage = self.builder.stage(format!("Servers of {facility} stop"), remains);
        let units = units(self.topology, facility);
        let (mut all, mut last, mut kind) = (After::new(), needs.clone(), None::<TargetKind>);
        let mut tier = After::new();
        let mut after = Vec::new();
        for unit in units {
            if kind.is_some_and(|kind| kind != unit.kind) {
                last = std::mem::take(&mut tier);
            }
            kind = Some(unit.kind);
            let stop = runs(stage, &unit.target.id, false)
                .why("Stopped cleanly, it needs no repair when the power is back.")
                .needs(&last);
            after.extend(stop.after.iter().cloned());
            let id = self.builder.push(stop);
            tier.insert(id.clone());
            all.insert(id);
        }
        let needs = if all.is_empty() { needs.clone() } else { all };
        let mut stopped = step(
            format!("power.stopped.{facility}"),
            stage,
            format!("the hosts of {facility} say that all is stopped"),
            Work::Verify,
        )
        .why("Asked once more, all together.")
        .takes(Span::secs(1), Span::secs(60))
        .needs(&needs);
        stopped.after = after;
        let stopped = After::from([self.builder.push(stopped)]);
        let hand = by_hand(self.topology, facility);
        let (title, deadline) = if hand.is_empty() {
            (format!("safe to power off {facility}: nothing there answers any more"), Span::secs(60))
        } else {
            let title =
                format!("safe to power off {facility}: nothing there answers any more; stop {} by hand", list(hand));
            (title, BY_HAND)
        };
        let here = self.topology.targets().filter(|it| it.facility == *facility && it.kind != TargetKind::Job);
        let targets = here.map(|target| target.id.clone()).collect();
        let safe = step(format!("power.safe.{facility}"), stage, title, Work::Gate { gate: Gate::Off { targets } })
            .why("By their own protocols: a command on a host may be mistaken about what runs there.")
            .takes(Span::secs(2), deadline)
            .needs(&stopped);
        After::from([self.builder.push(safe)])
    }

    /// The first part of what follows a power cut by plan: servers run, replicas have caught up, commits wait for them again.
    pub(super) fn power_up(&mut self) -> After {
        let mut needs = After::new();
        if self.desired.power_up.is_empty() {
            return needs;
        }
        let names = list(&self.desired.power_up);
        let remains = vec![format!("nothing changes for users: {names} gets no requests")];
        let stage = self.builder.stage(format!("Servers of {names} start"), remains);
        let mut units: Vec<_> =
            self.desired.power_up.iter().flat_map(|facility| units(self.topology, facility)).collect();
        // The other way round: names and data first, users last.
        units.reverse();
        let (mut tier, mut all, mut kind) = (After::new(), After::new(), None::<TargetKind>);
        for unit in units {
            if kind.is_some_and(|kind| kind != unit.kind) {
                needs = std::mem::take(&mut tier);
            }
            kind = Some(unit.kind);
            let start = runs(stage, &unit.target.id, true).why("It was stopped with its facility.").needs(&needs);
            let id = self.builder.push(start);
            tier.insert(id.clone());
            all.insert(id);
        }
        let partings = coming(self.topology, self.desired, self.live);
        if partings.is_empty() {
            return all;
        }
        let stage = self.builder.stage(format!("Databases have their members in {names} again"), Vec::new());
        let mut done = After::new();
        for parting in &partings {
            let (primary, database) = (&parting.primary, &parting.database.name);
            let mut following = After::new();
            for member in &parting.members {
                let rejoin = step(
                    format!("power.rejoin.{database}.{}", member.name()),
                    stage,
                    format!("{} follows {}", member.name(), primary.member.name()),
                    Work::on(&member.id, Action::Rejoin { primary: primary.clone() }),
                )
                .why("It catches up with what it missed.")
                .after(&member.id, Condition::Follows { primary: primary.clone() })
                .takes(Span::secs(2), STARTING)
                .needs(&all);
                following.insert(self.builder.push(rejoin));
            }
            let confirmed = parting.database.mode == ReplicationMode::Synchronous && !parting.synchronous.to.is_empty();
            let replicas = parting.members.iter().map(|target| target.name().to_owned()).collect();
            let title = match parting.overruled {
                None => format!("{}: its members are waited for and kept log for as before", primary.member.name()),
                Some(_) => format!("{}: log is kept for its members as before", primary.member.name()),
            };
            let mut regain = lets_go(stage, parting, UNRELEASE, RELEASE, title)
                .why("Redundancy is complete.")
                .after(&primary.member, Condition::Redundant { replicas, synchronous: confirmed })
                .needs(&following);
            regain.deadline = STARTING;
            done.insert(self.builder.push(regain));
        }
        done.extend(all);
        done
    }
}
