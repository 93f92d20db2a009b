//! The holds in force, by what they are about, and which of them a plan ends. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Desired;
use crate::model::{DatabaseName, FacilityName, PrimaryPlace, Service, ServiceName, Span, TargetId};
use crate::plan::lost::evidence::Lost;
use crate::plan::{HoldKind, Intent, LetGo, LostThing, Shares};
use crate::topology::Topology;

/// The holds in force. Of several about one thing the newest counts; the store lists the oldest first.
#[derive(Debug, Default)]
pub(super) struct Held<'a> {
    all: &'a [HoldKind],
    /// Where primaries stay.
    pub(super) primaries: BTreeMap<&'a DatabaseName, &'a HoldKind>,
    /// The shares that were given by a flag.
    pub(super) shares: BTreeMap<&'a ServiceName, &'a Shares>,
    /// The TTLs that were lowered.
    pub(super) ttls: BTreeMap<&'a ServiceName, Span>,
    /// The facilities whose servers were stopped.
    pub(super) powered_off: BTreeMap<FacilityName, BTreeMap<DatabaseName, LetGo>>,
    /// Those that a later one has taken the place of, and those about things that are no more.
    dead: BTreeSet<&'a HoldKind>,
    /// What is lost, and where work is owed.
    lost: BTreeMap<&'a LostThing, &'a BTreeSet<TargetId>>,
}

impl<'a> Held<'a> {
    pub(super) fn new(topology: &Topology, holds: &'a [HoldKind]) -> Self {
        let mut held = Self { all: holds, ..Self::default() };
        let mut newest: BTreeMap<String, &HoldKind> = BTreeMap::new();
        for hold in holds {
            let (about, known) = match hold {
                HoldKind::Drained { facility } => {
                    (format!("facility {facility}"), topology.facilities.contains_key(facility))
                }
                HoldKind::Primary { database, .. } | HoldKind::Placed { database, .. } => {
                    held.primaries.insert(database, hold);
                    (format!("database {database}"), topology.databases.contains_key(database))
                }
                HoldKind::Share { service, share } => {
                    held.shares.insert(service, share);
                    (format!("share {service}"), topology.services.contains_key(service))
                }
                HoldKind::Ttl { service, ttl } => {
                    held.ttls.insert(service, *ttl);
                    (format!("ttl {service}"), topology.services.contains_key(service))
                }
                HoldKind::Settling { facility } => (hold.subject(), topology.facilities.contains_key(facility)),
                HoldKind::PoweredOff { facility, let_go } => {
                    held.powered_off.insert(facility.clone(), let_go.clone());
                    (format!("power {facility}"), topology.facilities.contains_key(facility))
                }
                HoldKind::Lost { what, owed } => {
                    held.lost.insert(what, owed);
                    let known = match what {
                        LostThing::Facility(facility) => topology.facilities.contains_key(facility),
                        LostThing::Target(target) => topology.targets().any(|known| known.id == *target),
                    };
                    (hold.subject(), known)
                }
                // All of them count: the longest is waited for.
                HoldKind::OldTtl { service, .. } => (hold.subject(), topology.services.contains_key(service)),
            };
            held.dead.extend(newest.insert(about, hold));
            held.dead.extend((!known).then_some(hold));
        }
        held
    }

    /// True if this very hold is in force.
    pub(super) fn has(&self, hold: &HoldKind) -> bool {
        self.all.contains(hold) && !self.dead.contains(hold)
    }

    /// What is lost by holds, and by this flag.
    pub(super) fn lost_beside(&self, flag: &Lost) -> Lost {
        let mut lost = flag.clone();
        for what in self.lost.keys() {
            match what {
                LostThing::Facility(facility) => _ = lost.facilities.insert(facility.clone()),
                LostThing::Target(target) => _ = lost.targets.insert(target.clone()),
            }
        }
        lost
    }

    /// The longest TTL that resolvers may still remember, because the plan that lowered it was cut short.
    pub(super) fn old_ttl(&self) -> Option<Span> {
        let ttls = self.all.iter().filter_map(|hold| match hold {
            HoldKind::OldTtl { ttl, .. } => Some(*ttl),
            _ => None,
        });
        ttls.max()
    }
}

impl Desired {
    /// Which holds the plan ends.
    pub(super) fn fill_releases(&mut self, topology: &Topology, intent: &Intent, held: &Held<'_>) {
        let ended: Vec<HoldKind> = held
            .all
            .iter()
            .filter(|hold| held.dead.contains(hold) || self.ends(topology, intent, hold))
            .filter(|hold| !self.holds.contains(hold))
            .cloned()
            .collect();
        self.releases.extend(ended);
        self.releases.sort();
        self.releases.dedup();
    }

    /// Adds holds for the case that the plan is cut short: they end with the run that makes them.
    pub(in crate::plan) fn remember(&mut self, holds: Vec<HoldKind>) {
        self.releases.extend(holds.iter().cloned());
        self.releases.sort();
        self.releases.dedup();
        self.holds.extend(holds);
    }

    fn ends(&self, topology: &Topology, intent: &Intent, hold: &HoldKind) -> bool {
        match hold {
            HoldKind::Drained { facility } => intent.restore.contains(facility) || self.serving.contains(facility),
            HoldKind::Settling { facility } => {
                let again = self.flagged.facilities.contains(facility);
                again || intent.restore.contains(facility) || self.serving.contains(facility)
            }
            // With the work that is owed: `plan::lost::returned`.
            HoldKind::Lost { .. } => false,
            HoldKind::Primary { database, away_from, .. } => {
                intent.primary.contains_key(database) || (intent.failback && intent.restore.contains(away_from))
            }
            HoldKind::Placed { database, at } => match intent.primary.get(database) {
                None => false,
                Some(wish) => wish.as_ref() != Some(at) || is_declared_place(topology, database, at),
            },
            HoldKind::Share { service, share } => match intent.share.get(service) {
                None => false,
                Some(wish) => wish.as_ref() != Some(share) || is_declared_share(topology, service, share),
            },
            HoldKind::Ttl { service, ttl } => {
                topology.services.get(service).is_none_or(|declared| self.ttl_ends(intent, declared, *ttl))
            }
            HoldKind::PoweredOff { facility, .. } => self.power_up.contains(facility),
            HoldKind::OldTtl { .. } => self.waits_for_old_ttl(intent),
        }
    }

    /// A TTL that was lowered is raised again on demand, where the file caught up, and by the restore after which every facility of
    /// the service serves.
    pub(super) fn ttl_ends(&self, intent: &Intent, service: &Service, held: Span) -> bool {
        if intent.lower_ttl.contains(&service.name) {
            return false;
        }
        let of_service = |facility| service.addresses.contains_key(facility);
        let restored = intent.restore.iter().any(of_service) && !self.out.keys().any(of_service);
        intent.raise_ttl.contains(&service.name) || restored || service.ttl <= held
    }

    /// Whether this plan waits for resolvers to forget what an earlier one left: a restore has no reason to.
    pub(super) fn waits_for_old_ttl(&self, intent: &Intent) -> bool {
        intent.is_bare() || !intent.drain.is_empty() || !intent.lower_ttl.is_empty()
    }
}

/// Whether the file itself says so: then no hold is needed.
pub(super) fn is_declared_place(topology: &Topology, database: &DatabaseName, at: &PrimaryPlace) -> bool {
    topology.databases.get(database).is_some_and(|declared| declared.primary == *at)
}

/// Whether the file itself says so: then no hold is needed.
pub(super) fn is_declared_share(topology: &Topology, service: &ServiceName, share: &Shares) -> bool {
    topology.services.get(service).is_some_and(|declared| {
        let of = |shares: &Shares, facility| shares.get(facility).copied().unwrap_or_default();
        declared.share.keys().chain(share.keys()).all(|facility| of(&declared.share, facility) == of(share, facility))
    })
}
