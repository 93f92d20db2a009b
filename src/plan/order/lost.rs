//! When something is lost: everything at once, in parallel. What can be done for users without it does not wait for the databases, no
//! database waits for another one, and nothing waits for what is lost.

use std::collections::BTreeMap;

use super::Order;
use crate::model::{
    Action, Admission, Condition, Database, ForeignName, FromTo, Role, Route, ServerSetting, Span, TargetId, text::list,
};
use crate::plan::build::{After, step};
use crate::plan::diff::{RouteChange, ShareChange, shares_text};
use crate::plan::lost::decide::needs_evidence;
use crate::plan::lost::failover::{Failover, FenceBy, by_fence};
use crate::plan::lost::parting;
use crate::plan::step::{Gate, Work};
use crate::plan::weights::weights;
use crate::plan::{live, switchover};

/// How long a power controller or a firewall may take.
const FENCING: Span = Span::secs(60);

impl Order<'_> {
    /// Everything that is done without what is lost; returns what the end waits for.
    pub(super) fn emergency(&mut self) -> After {
        let judged = &self.evidence() | &self.quarantine();
        let mut done = self.edge_at_once(&judged);
        let published = self.records(true, &judged);
        done.extend(self.records(false, &published));
        done.extend(self.withdraw(&judged));
        let freed = self.let_go(&judged);
        done.extend(freed);
        let told = self.tell(&judged);
        done.extend(told.iter().cloned());
        // Whoever would admit the old primary is told first. Where nobody was ever told anything, nobody asks.
        let asked = self.changes.epoch.as_ref().is_some_and(|change| change.newest.is_some());
        let told = if asked { told } else { After::new() };
        let fenced = self.fence(&judged);
        for failover in &self.changes.failovers {
            let Some(database) = self.topology.databases.get(&failover.database) else { continue };
            let needs = match &failover.fence {
                FenceBy::Command { fence, .. } => fenced.get(fence).unwrap_or(&judged),
                FenceBy::Host => fenced.get(&failover.from.member).unwrap_or(&judged),
                FenceBy::Attested(_) => &judged,
            };
            done.extend(self.fail_over(database, failover, &judged, &(needs | &told)));
        }
        let mut repaired = After::new();
        self.repair_routes(&judged, &mut repaired);
        self.repair_replication(&judged, &mut repaired);
        done.extend(repaired);
        done
    }

    /// Nothing is done on one point of view alone.
    fn evidence(&mut self) -> After {
        if self.desired.flagged.is_empty() || !needs_evidence(self.desired, self.changes) {
            return After::new();
        }
        let lost = self.desired.flagged.clone();
        let stage = self.builder.stage(format!("Look once more whether {lost} is lost"), Vec::new());
        let fenced_by_command = self.changes.failovers.iter().all(|it| matches!(it.fence, FenceBy::Command { .. }));
        let title = format!("{lost} is dead, or is cut off before anything takes its place");
        let gate = Gate::Lost { lost, fenced_by_command };
        let deadline = Span(self.topology.policy.hold_down.0 + std::time::Duration::from_secs(30));
        let judge = step("gate.lost", stage, title, Work::Gate { gate })
            .why("Asked from here, from the proxies, the replicas and the vantages: never one of them alone.")
            .takes(Span::millis(500), deadline);
        After::from([self.builder.push(judge)])
    }

    /// True if shares change only at proxies of what was lost: no user is led there, and there is nothing to watch.
    pub(super) fn only_at_the_lost(&self) -> bool {
        let lost = |id: &TargetId| {
            self.topology.proxies.get(id.name()).is_some_and(|proxy| self.desired.lost.contains(&proxy.target))
        };
        let mut at = self.changes.shares.iter().flat_map(|change| &change.at).peekable();
        at.peek().is_some() && at.all(|(proxy, _)| lost(proxy))
    }

    /// Shares in one go; servers of what is lost get no request and are not checked.
    pub(super) fn edge_at_once(&mut self, needs: &After) -> After {
        let rest = ServerSetting { weight: 0, admission: Admission::Maint };
        let wanted = |change: &ShareChange| -> BTreeMap<ForeignName, ServerSetting> {
            let weights = weights(&change.shares.to, &change.participants, change.max_weight);
            let setting = |(server, weight): (ForeignName, u32)| {
                let serves = change.admissions.get(&server) == Some(&Admission::Ready);
                let setting = if serves { ServerSetting { weight, admission: Admission::Ready } } else { rest };
                (server, setting)
            };
            weights.into_iter().map(setting).collect()
        };
        let changes = &self.changes.shares;
        let texts: Vec<String> = changes.iter().map(|change| shares_text(&change.shares.to)).collect();
        let shares = self.share_texts(&texts);
        let moved = self.set_shares(changes.iter().map(wanted).collect());
        if moved.is_empty() {
            return needs.clone();
        }
        let stage = self.builder.stage("Edge: all at once", self.serving_line());
        let mut done = After::new();
        for (proxy, set) in moved {
            let Some(shares) = shares.get(proxy) else { continue };
            let title = format!("{}: {}", proxy.name(), shares.join("; "));
            let set = set
                .step(proxy, format!("share.lost.{}", proxy.name()), stage, title)
                .why("What is lost serves nobody; there is nothing to soak.")
                .needs(needs);
            done.insert(self.builder.push(set));
        }
        done
    }

    /// A facility that still answers the Internet goes on publishing its own addresses.
    fn withdraw(&mut self, needs: &After) -> After {
        let lost = &self.desired.flagged.facilities;
        let commands: Vec<_> = lost
            .iter()
            .filter_map(|name| Some((name, self.topology.facilities.get(name)?.withdraw.as_ref()?.id.clone())))
            .collect();
        if commands.is_empty() {
            return needs.clone();
        }
        let names = list(commands.iter().map(|(name, _)| name));
        let stage = self.builder.stage(format!("Addresses of {names} are withdrawn"), Vec::new());
        let mut done = After::new();
        for (name, id) in commands {
            let title = format!("withdraw the addresses of {name}");
            let step = cut(format!("withdraw.{name}"), stage, title, &id)
                .why("Its own name servers may still answer the Internet, and publish what no longer serves.")
                .needs(needs);
            done.insert(self.builder.push(step));
        }
        done
    }

    /// Primaries that stay wait for nobody who is lost, and keep no endless log for them.
    fn let_go(&mut self, needs: &After) -> After {
        let partings = parting::leaving(self.topology, self.desired, self.live);
        if partings.is_empty() {
            return needs.clone();
        }
        let stage = self.builder.stage("Databases whose primary stays let go of what is lost", Vec::new());
        let mut done = After::new();
        for parting in &partings {
            let title = parting::title(parting, self.live);
            let release = super::power::release(stage, parting, title)
                .why("A commit that waits for a member that is lost never returns, and its slot would fill the disk.")
                .needs(needs);
            done.insert(self.builder.push(release));
        }
        done
    }

    /// Log is kept without a bound again for members that were lost and are back.
    pub(super) fn regain(&mut self, needs: &After) -> After {
        let partings = parting::coming(self.topology, self.desired, self.live);
        if partings.is_empty() {
            return needs.clone();
        }
        let stage = self.builder.stage("Databases keep log for what is back, as before", Vec::new());
        let mut done = needs.clone();
        for (database, primary, members) in partings {
            let title = format!("{}: the log kept for {} is bounded no longer", primary.name(), list(&members));
            let args = BTreeMap::from([("released".to_owned(), members)]);
            let regain = switchover::native(
                database,
                stage,
                &primary,
                "unrelease_replicas",
                title,
                "It follows again: what it needs is kept for it.",
                args,
            )
            .irreversible("they are back")
            .needs(needs);
            done.insert(self.builder.push(regain));
        }
        done
    }

    /// One step for each thing that is cut off, whatever number of databases that serves.
    fn fence(&mut self, needs: &After) -> BTreeMap<TargetId, After> {
        let mut fenced = BTreeMap::new();
        let fences: Vec<(TargetId, Vec<String>)> = by_fence(&self.changes.failovers)
            .into_iter()
            .map(|(fence, of)| (fence.clone(), of.iter().map(|it| it.from.member.name().to_owned()).collect()))
            .collect();
        let by_host = || self.changes.failovers.iter().filter(|it| it.fence == FenceBy::Host);
        if fences.is_empty() && by_host().next().is_none() {
            return fenced;
        }
        let stage =
            self.builder.stage("Old primaries are cut off", vec!["nothing of them takes writes any more".to_owned()]);
        for (fence, members) in fences {
            let title = format!("cut {} off: {}", fence.name(), list(members));
            let id = format!("fence.{}.{}", fence.scope().unwrap_or_default(), fence.name());
            let cut = cut(id, stage, title, &fence)
                .why("Whatever it does, it can take no more writes: only then somebody else may.")
                .needs(needs);
            fenced.insert(fence, After::from([self.builder.push(cut)]));
        }
        for Failover { database, from, to, .. } in by_host() {
            let (id, name) = (&from.member, from.member.name());
            let role = live::member(self.live, id).map_or(Role::Stopped, |facts| facts.role);
            let keep = step(
                format!("fence.{database}.{name}"),
                stage,
                format!("{name} does not run: its machine lets it come back as a replica only"),
                Work::on(id, Action::Keep { successor: to.clone() }),
            )
            .why("Somebody or something may start it at any moment.")
            .before(id, Condition::Role { role, lineage: None })
            .after(id, Condition::Kept)
            .irreversible(format!("{} takes over: `handover plan` brings {name} back as its replica", to.member.name()))
            .takes(Span::secs(1), FENCING)
            .needs(needs);
            fenced.insert(id.clone(), After::from([self.builder.push(keep)]));
        }
        fenced
    }

    /// Promote, lead the clients, and go on with whom there is.
    fn fail_over(&mut self, database: &Database, failover: &Failover, judged: &After, fenced: &After) -> After {
        let Failover { from, to, lineage, followers, synchronous, .. } = failover;
        let (old, new, name) = (from.member.name(), to.member.name(), &database.name);
        let mut remains = vec![failover.loss.to_string()];
        remains.push(failover.fence_line());
        remains.extend(failover.why.clone());
        remains.push(match synchronous.to.as_str() {
            "" => format!("commits of {name} wait for nobody until a replica is back"),
            names => format!("commits of {name} wait for {names}"),
        });
        let stage = self.builder.stage(format!("Database {name}: primary {old} is lost, {new} takes over"), remains);
        let id = |what: &str| format!("db.{name}.{what}");
        let slots = live::member(self.live, &to.member).map(|facts| facts.slots.clone()).unwrap_or_default();
        let names: Vec<String> = followers.iter().map(|id| id.name().to_owned()).collect();
        let has_slot = |member: &String| slots.iter().any(|slot| crate::model::text::same_member(&slot.name, member));
        let args = BTreeMap::from([
            ("followers".to_owned(), names.clone()),
            ("kept".to_owned(), names.iter().filter(|name| has_slot(name)).cloned().collect()),
            ("synchronous".to_owned(), vec![synchronous.to.clone()]),
            ("synchronous_before".to_owned(), vec![synchronous.from.clone()]),
        ]);
        let prepared = switchover::native(
            database,
            stage,
            &to.member,
            "prepare_promotion",
            format!("prepare {new}: commits will wait for those that can follow it"),
            "A commit that waits for somebody who is lost would never return.",
            args,
        )
        .before(&to.member, Condition::Role { role: Role::Replica, lineage: Some(lineage.clone()) })
        .needs(judged);
        let prepared = self.builder.push(prepared);
        let mut promote = step(
            id("promote"),
            stage,
            format!("promote {new}"),
            Work::on(&to.member, Action::Promote { lineage: lineage.clone() }),
        )
        .why("Only after the old primary can take no more writes.")
        .after(&to.member, Condition::Promoted { beyond: lineage.clone() })
        .irreversible(format!("{old} has to be brought back as a replica first: `handover plan` once it answers"))
        .takes(Span::millis(100), Span::secs(30))
        .needs(fenced)
        .needs(&After::from([prepared]));
        promote.point_of_no_return = true;
        let promoted = After::from([self.builder.push(promote)]);
        let mut done = self.lead_clients(database, failover, stage, judged, &promoted);
        let follow = switchover::Follow {
            database,
            primary: to,
            rejoin: followers.iter().map(|id| (id, to)).collect(),
            rebuilt: After::new(),
            replicas: names.iter().cloned().collect(),
            later: Vec::new(),
            keeping: Vec::new(),
            left: Vec::new(),
            stale: BTreeMap::new(),
            synchronous: synchronous.to.clone(),
        };
        done.extend(follow.add(&mut self.builder, stage, &promoted));
        done
    }

    /// The poolers that answer lead to the new primary.
    fn lead_clients(
        &mut self,
        database: &Database,
        failover: &Failover,
        stage: usize,
        judged: &After,
        promoted: &After,
    ) -> After {
        let to = &failover.to;
        let Route::PoolerDatabase(entry) = &database.route else { return promoted.clone() };
        let mut done = promoted.clone();
        for pooler in database.poolers.iter().filter_map(|name| self.topology.poolers.get(name)) {
            let target = &pooler.target;
            let Some(pool) = live::pool(self.live, &target.id, entry) else { continue };
            let change = |from: &String| FromTo { from: from.clone(), to: to.address.clone() };
            let route = RouteChange {
                pooler: target.id.clone(),
                database: entry.clone(),
                written: change(pool.written_route.as_ref().unwrap_or(&pool.route)),
                loaded: change(&pool.route),
                primary: to.member.clone(),
                paused: pool.paused || pool.pausing,
            };
            let mut ready = promoted.clone();
            if route.written.from != route.written.to {
                let write = super::data::write(&route, stage);
                ready.insert(self.builder.push(write.needs(judged)));
            }
            let load = super::data::load(&route, stage, format!("db.{}.load.{}", database.name, target.name()));
            let loaded = self.builder.push(load.needs(&ready));
            let marker = Action::Marker { database: entry.clone(), primary: to.clone() };
            let marker = step(
                format!("db.{}.marker.{}", database.name, target.name()),
                stage,
                format!("write a marker through {} and see {} take it", target.name(), to.member.name()),
                Work::on(&target.id, marker),
            )
            .why("The proof by the clients' own path.")
            .takes(Span::millis(200), Span::secs(20))
            .needs(&After::from([loaded]));
            done.insert(self.builder.push(marker));
        }
        done
    }
}

/// A command from outside that cuts something off.
fn cut(id: String, stage: usize, title: String, fence: &TargetId) -> crate::plan::step::Step {
    step(id, stage, title, Work::on(fence, Action::Stop))
        .after(fence, Condition::Running { running: false })
        .irreversible("what was cut off from outside is brought back by hand")
        .takes(Span::secs(1), FENCING)
}
