//! Where primaries may be.

use super::holds::{Held, is_declared_place};
use super::{Desired, Refusal};
use crate::model::{Database, FacilityName, Failback, Live, Member, PrimaryPlace, TargetId, text};
use crate::plan::{HoldKind, Intent, live};
use crate::topology::Topology;

/// Whether a member is at this place.
fn is_at(at: &PrimaryPlace, name: &str, member: &Member) -> bool {
    match at {
        PrimaryPlace::Facility(facility) => member.target.facility == *facility,
        PrimaryPlace::Member(wanted) => name == wanted,
    }
}

/// The members that may be primary, best first, among those that `may`.
fn candidates(database: &Database, may: impl Fn(&str, &Member) -> bool) -> Vec<&TargetId> {
    let mut order: Vec<(&String, &Member)> =
        database.members.iter().filter(|(name, member)| member.priority > 0 && may(name, member)).collect();
    order.sort_by(|(a_name, a), (b_name, b)| b.priority.cmp(&a.priority).then_with(|| a_name.cmp(b_name)));
    order.into_iter().map(|(_, member)| &member.target.id).collect()
}

impl Desired {
    pub(super) fn fill_databases(
        &mut self,
        topology: &Topology,
        intent: &Intent,
        held: &Held<'_>,
        live: &Live,
        refusals: &mut Vec<Refusal>,
    ) {
        for database in topology.databases.values() {
            if let Some(survivor) = self.survivors.get(&database.name).and_then(|name| database.members.get(name)) {
                let id = survivor.target.id.clone();
                self.stays(database, survivor, held);
                self.primaries.insert(database.name.clone(), vec![id]);
                continue;
            }
            let wish = match intent.primary.get(&database.name) {
                Some(Some(at)) => self.placed_by_flag(topology, database, at, held, refusals),
                Some(None) => self.by_file(database, live),
                None => {
                    let hold = self.placed_by_hold(database, intent, held);
                    hold.unwrap_or_else(|| self.by_restore(database, intent, live))
                }
            };
            self.primaries.insert(database.name.clone(), wish);
        }
    }

    /// The members at a place, best first, that are in service.
    fn members_at(&self, database: &Database, at: &PrimaryPlace) -> Vec<TargetId> {
        let may = |name: &str, member: &Member| is_at(at, name, member) && self.is_in_service(member);
        candidates(database, may).into_iter().cloned().collect()
    }

    fn placed_by_flag(
        &mut self,
        topology: &Topology,
        database: &Database,
        at: &PrimaryPlace,
        held: &Held<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> Vec<TargetId> {
        let (name, place) = (&database.name, text::place(at));
        let what = format!("the primary of {name} is to be at {place}");
        let there: Vec<&Member> = database
            .members
            .iter()
            .filter(|(name, member)| is_at(at, name, member))
            .map(|(_, member)| member)
            .collect();
        let able = candidates(database, |name, member| is_at(at, name, member));
        if there.is_empty() {
            let members = database
                .members
                .values()
                .map(|member| format!("{} ({})", member.target.name(), member.target.facility));
            refusals.push(Refusal::new(
                format!("{what}, and {name} has no member there"),
                format!("its members are {}", text::list(members)),
            ));
        } else if able.is_empty() {
            refusals.push(Refusal::new(
                format!("{what}, and no member there may ever be primary: their priority is 0"),
                "choose another place, or give a member a priority in the topology",
            ));
        }
        let mut facilities: Vec<&FacilityName> = there.iter().map(|member| &member.target.facility).collect();
        facilities.dedup();
        refusals.extend(facilities.into_iter().filter_map(|facility| self.is_out(facility, &what)));
        let hold = HoldKind::Placed { database: name.clone(), at: at.clone() };
        if is_declared_place(topology, name, at) {
            self.notes.push(format!("the topology itself wants the primary of {name} at {place}: no hold is left"));
        } else if !held.has(&hold) {
            self.holds.push(hold);
        }
        self.members_at(database, at)
    }

    /// The survivor of a split stays primary until somebody moves it, wherever the topology wants it, as long as it can stay.
    fn stays(&mut self, database: &Database, survivor: &Member, held: &Held<'_>) {
        let name = survivor.target.name();
        let at = PrimaryPlace::Member(name.to_owned());
        let hold = HoldKind::Placed { database: database.name.clone(), at };
        let earlier = held.primaries.get(&database.name).copied();
        if is_at(&database.primary, name, survivor) || survivor.priority == 0 || !self.is_in_service(survivor) {
            self.releases.extend(earlier.cloned());
        } else if earlier != Some(&hold) {
            self.holds.push(hold);
        }
    }

    /// Where a hold keeps the primary; none if there is no hold, or it ends with this plan.
    fn placed_by_hold(&mut self, database: &Database, intent: &Intent, held: &Held<'_>) -> Option<Vec<TargetId>> {
        let hold = *held.primaries.get(&database.name)?;
        let at = match hold {
            HoldKind::Primary { away_from, .. } if intent.failback && intent.restore.contains(away_from) => {
                return None;
            }
            HoldKind::Primary { member, .. } => PrimaryPlace::Member(member.name().to_owned()),
            HoldKind::Placed { at, .. } => at.clone(),
            _ => return None,
        };
        let wish = self.members_at(database, &at);
        if wish.is_empty() {
            // The primary has to leave the place that the hold names: it must not be moved back there unasked later.
            self.releases.push(hold.clone());
            self.notes.push(format!("{}: this hold ends, because nothing there is in service", hold.what()));
            return None;
        }
        if matches!(hold, HoldKind::Placed { .. }) {
            self.note_hold(hold);
        }
        Some(wish)
    }

    /// A restored facility gets its primaries back only when that is asked for; a hold keeps them where they are.
    fn by_restore(&mut self, database: &Database, intent: &Intent, live: &Live) -> Vec<TargetId> {
        let at_home = self.members_at(database, &database.primary);
        let wish = self.by_file(database, live);
        let home = at_home.first().and_then(|id| database.members.get(id.name())).map(|member| &member.target.facility);
        let current = live::primary(database, live);
        let stays = current.filter(|id| !at_home.contains(id) && self.members_in_service(database).contains(id));
        match (home, stays) {
            (Some(facility), Some(current))
                if intent.restore.contains(facility) && !intent.failback && database.failback == Failback::Manual =>
            {
                self.notes.push(format!(
                    "the primary of {} stays at {}; `handover plan --restore {facility} --failback` moves it back",
                    database.name,
                    current.name()
                ));
                self.holds.push(HoldKind::Primary {
                    database: database.name.clone(),
                    member: current.clone(),
                    away_from: facility.clone(),
                });
                vec![current]
            }
            _ => wish,
        }
    }

    fn members_in_service(&self, database: &Database) -> Vec<TargetId> {
        candidates(database, |_, member| self.is_in_service(member)).into_iter().cloned().collect()
    }

    /// Neither in a facility that is out, nor lost itself.
    pub(in crate::plan) fn is_in_service(&self, member: &Member) -> bool {
        !self.out.contains_key(&member.target.facility) && !self.lost.contains(&member.target)
    }

    /// Where the file wants it; where it is if that is out of service; anywhere if it has to leave that too.
    fn by_file(&self, database: &Database, live: &Live) -> Vec<TargetId> {
        let at_home = self.members_at(database, &database.primary);
        if !at_home.is_empty() {
            return at_home;
        }
        let anywhere = self.members_in_service(database);
        match live::primary(database, live) {
            Some(current) if anywhere.contains(&current) => vec![current],
            _ => anywhere,
        }
    }
}
