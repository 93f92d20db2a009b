//! Of proxies: services whose requests are shared otherwise than they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Changes, Diff, SaveChange, ShareChange};
use crate::model::{
    Admission, BackendFacts, FacilityName, ForeignName, FromTo, Percent, Saved, ServerSetting, Service,
};
use crate::plan::Shares;
use crate::plan::live::{self, backend_of};
use crate::plan::weights::{Participant, effective, nearest};

/// A proxy's share that is off by so much is different: weights are whole numbers, so that some distance there always is.
const SHARE_OFF: Percent = Percent::ONE;

/// A service as its proxies should serve it.
struct Share<'a> {
    service: &'a Service,
    participants: Arc<BTreeMap<ForeignName, Participant>>,
    /// Which of its servers are to get requests.
    admissions: Arc<BTreeMap<ForeignName, Admission>>,
    /// How the proxies are set, and what differs there: most are set as the one before them.
    found: Vec<SetAlike>,
}

/// Proxies whose servers of a service are set alike.
struct SetAlike {
    settings: Arc<BTreeMap<ForeignName, ServerSetting>>,
    max_weight: u32,
    /// None where they are as they should be.
    change: Option<ShareChange>,
}

impl Share<'_> {
    /// What differs at a proxy whose backend was found so, if anything does.
    fn found_at(&mut self, found: &BackendFacts, max_weight: u32, to: &Shares) -> Option<&mut ShareChange> {
        let setting = |server: &ForeignName| found.servers.get(server).map(|facts| facts.setting);
        let now = || self.participants.keys().map(setting);
        let as_before = |last: &SetAlike| {
            last.max_weight == max_weight && now().eq(last.settings.values().map(|setting| Some(*setting)))
        };
        if !self.found.last().is_some_and(as_before) {
            let settings = self.participants.keys().zip(now());
            let settings = settings.filter_map(|(server, setting)| Some((server.clone(), setting?))).collect();
            let settings = Arc::new(settings);
            let change = self.difference(&settings, max_weight, to);
            self.found.push(SetAlike { settings, max_weight, change });
        }
        self.found.last_mut()?.change.as_mut()
    }

    fn difference(
        &self,
        settings: &Arc<BTreeMap<ForeignName, ServerSetting>>,
        max_weight: u32,
        to: &Shares,
    ) -> Option<ShareChange> {
        let (participants, admissions) = (&self.participants, &self.admissions);
        let from = effective(participants, settings);
        let off = to.iter().any(|(facility, share)| {
            let found = from.get(facility).copied().unwrap_or_default();
            found.distance(*share) >= SHARE_OFF || (found == Percent::ZERO) != (*share == Percent::ZERO)
        });
        // What no weights come nearer to is as it should be.
        let off = off && from != nearest(participants, to, max_weight);
        let differs = settings
            .iter()
            .any(|(server, setting)| admissions.get(server).is_some_and(|wanted| *wanted != setting.admission));
        (off || differs).then(|| ShareChange {
            at: Vec::new(),
            service: self.service.name.clone(),
            participants: Arc::clone(participants),
            settings: Arc::clone(settings),
            shares: FromTo { from, to: to.clone() },
            admissions: Arc::clone(admissions),
            max_weight,
        })
    }
}

impl Diff<'_> {
    pub(super) fn shares(&mut self) {
        let mut shares: Vec<Share<'_>> = self.topology.services.values().map(|service| self.share(service)).collect();
        for proxy in self.topology.proxies.values() {
            let Some(facts) = live::proxy(self.live, &proxy.target.id) else { continue };
            let (id, name) = (&proxy.target.id, proxy.target.id.name());
            let mut changed = false;
            for share in &mut shares {
                let backend = backend_of(proxy, share.service);
                let Some(Some(found)) = facts.backends.get(backend) else {
                    self.refuse(
                        format!("{name} has no backend {backend} for {}", share.service.name),
                        format!("name it under `proxies.{name}.backends`, or configure it at the proxy"),
                    );
                    continue;
                };
                let missing: Vec<&ForeignName> =
                    share.participants.keys().filter(|server| !found.servers.contains_key(*server)).collect();
                if !missing.is_empty() {
                    self.refuse(
                        format!("backend {backend} of {name} lacks {}", crate::model::text::list(missing)),
                        "every proxy lists the servers of all facilities: add them there, under the names of the topology",
                    );
                    continue;
                }
                let Some(to) = self.desired.shares.get(&share.service.name) else { continue };
                let Some(change) = share.found_at(found, facts.capabilities.max_weight, to) else { continue };
                if !facts.writable {
                    self.refuse(
                        format!("the runtime API of {name} lets us look, not change anything"),
                        "add `level admin` to its `stats socket` line and reload it",
                    );
                    break;
                }
                change.at.push((id.clone(), backend.clone()));
                changed = true;
            }
            if let (Saved::Outdated(why), false) = (&facts.saved, changed) {
                let backends = facts.backends.keys().cloned().collect();
                self.changes.saves.push(SaveChange { proxy: id.clone(), backends, why: why.clone() });
            }
        }
        let found = shares.into_iter().flat_map(|share| share.found).filter_map(|alike| alike.change);
        self.changes.shares.extend(found.filter(|change| !change.at.is_empty()));
    }

    fn share<'a>(&self, service: &'a Service) -> Share<'a> {
        let participants = live::participants(service);
        let admission = |participant: &Participant| {
            let serves = self.desired.serving.contains(&participant.facility);
            if serves { Admission::Ready } else { Admission::Maint }
        };
        let admissions =
            participants.iter().map(|(server, participant)| (server.clone(), admission(participant))).collect();
        Share { service, participants: Arc::new(participants), admissions: Arc::new(admissions), found: Vec::new() }
    }
}

/// The facilities whose servers gain or lose admission by these changes: (entering, leaving).
pub fn movements(changes: &Changes) -> (BTreeSet<FacilityName>, BTreeSet<FacilityName>) {
    let (mut entering, mut leaving) = (BTreeSet::new(), BTreeSet::new());
    for change in &changes.shares {
        for (server, participant) in change.participants.iter() {
            let Some(now) = change.settings.get(server) else { continue };
            match (now.admission, change.admissions.get(server)) {
                (Admission::Drain | Admission::Maint, Some(Admission::Ready)) => {
                    entering.insert(participant.facility.clone());
                }
                // One that is drained already still has sessions to end, and is to rest.
                (Admission::Ready | Admission::Drain, Some(Admission::Maint)) => {
                    leaving.insert(participant.facility.clone());
                }
                _ => {}
            }
        }
    }
    (entering, leaving)
}
