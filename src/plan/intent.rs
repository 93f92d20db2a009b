//! What the command line overrides for a while, and what stays of it: holds.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::diff::shares_text;
use super::lost::evidence::{Attestation, Lost};
use super::overrides::Overrides;
use crate::model::{
    DatabaseName, FacilityName, Percent, PrimaryPlace, ServiceName, Span, TargetId,
    text::{list, place},
};

/// What the command line overrides for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Facilities to take out of service.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drain: BTreeSet<FacilityName>,
    /// Facilities to bring back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub restore: BTreeSet<FacilityName>,
    /// With a restore: bring the primaries back as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failback: bool,
    /// Where primaries shall be; none: where the file says, which ends a hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub primary: BTreeMap<DatabaseName, Option<PrimaryPlace>>,
    /// The share of each facility by service; none: as the file says, which ends a hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub share: BTreeMap<ServiceName, Option<Shares>>,
    /// How far drains go.
    #[serde(default, skip_serializing_if = "Depth::is_traffic")]
    pub depth: Depth,
    /// Facilities whose servers are started after their power was off; not a flag: what a restore needs first.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub power_on: BTreeSet<FacilityName>,
    /// Services whose TTLs shall be short before something else is done.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lower_ttl: BTreeSet<ServiceName>,
    /// Services whose TTLs shall be again what the file says.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub raise_ttl: BTreeSet<ServiceName>,
    /// What is lost: nothing is expected of it any more.
    #[serde(default, skip_serializing_if = "Lost::is_empty")]
    pub lost: Lost,
    /// An operator's word that what is lost takes no writes, and will take none when it returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attestation>,
    /// How many bytes of log each database may lose; a plan that would lose more is refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub accept_loss: BTreeMap<DatabaseName, u64>,
    /// The member of each database that takes over from a lost primary where several could and none is ahead of all others; where nothing
    /// is lost, the primary that survives a split.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub survivor: BTreeMap<DatabaseName, String>,
    /// Publish who is in charge of each database although nobody has published it so far.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publish_epoch: bool,
    /// Gates that are passed whatever they say.
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    pub overrides: Overrides,
    /// Why, in the operator's words; kept with the holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When somebody should look at the holds again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_by: Option<Timestamp>,
}

/// How far a drain goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// No traffic, no job and no primary is left; everything goes on running.
    #[default]
    Traffic,
    /// The servers are stopped as well: the power may go.
    Power,
}

impl Depth {
    fn is_traffic(&self) -> bool {
        *self == Self::Traffic
    }
}

/// The part of a service's requests that each facility serves; sums to 100 %.
pub type Shares = BTreeMap<FacilityName, Percent>;

/// Longest identity of a plan that is made of an intent; it becomes a file name.
const LONGEST: usize = 120;

impl Intent {
    /// True if nothing is overridden: what the topology says.
    pub fn is_bare(&self) -> bool {
        let Self {
            drain, restore, primary, share, lower_ttl, raise_ttl, power_on, lost, survivor, publish_epoch, ..
        } = self;
        lost.is_empty()
            && survivor.is_empty()
            && !publish_epoch
            && drain.is_empty()
            && restore.is_empty()
            && primary.is_empty()
            && share.is_empty()
            && lower_ttl.is_empty()
            && raise_ttl.is_empty()
            && power_on.is_empty()
    }

    /// In the operator's words: `drain west`, `restore west with its primaries`, `what the topology says`.
    pub fn title(&self) -> String {
        let mut parts: Vec<String> = self.lost.names().map(|name| format!("go on without {name}")).collect();
        if self.lost.is_empty() {
            let survives = |(database, member)| format!("end the split of {database}: {member} survives");
            parts.extend(self.survivor.iter().map(survives));
        }
        parts.extend(self.power_on.iter().map(|facility| format!("power on {facility}")));
        let deep = if self.depth == Depth::Power { " until its power may go" } else { "" };
        parts.extend(self.drain.iter().map(|facility| format!("drain {facility}{deep}")));
        let back = if self.failback { " with its primaries" } else { "" };
        parts.extend(self.restore.iter().map(|facility| format!("restore {facility}{back}")));
        parts.extend(self.primary.iter().map(|(database, wish)| match wish {
            Some(at) => format!("move the primary of {database} to {}", place(at)),
            None => format!("keep the primary of {database} where the topology wants it"),
        }));
        parts.extend(self.share.iter().map(|(service, wish)| match wish {
            Some(shares) => format!("share {service} {}", shares_text(shares)),
            None => format!("share {service} as the topology says"),
        }));
        if !self.lower_ttl.is_empty() {
            parts.push(format!("lower the TTL of {}", list(&self.lower_ttl)));
        }
        if !self.raise_ttl.is_empty() {
            parts.push(format!("raise the TTL of {} again", list(&self.raise_ttl)));
        }
        if self.publish_epoch {
            parts.push("publish who is in charge of each database".to_owned());
        }
        if parts.is_empty() { "what the topology says".to_owned() } else { parts.join(", ") }
    }

    /// In a few letters that are fit for a file's name: `drain-west`, `restore-west-primary-accounts`.
    pub fn slug(&self) -> String {
        fn words<T: std::fmt::Display>(word: &str, names: impl IntoIterator<Item = T>) -> Vec<String> {
            names.into_iter().map(|name| format!("{word}-{name}")).collect()
        }
        let mut parts = words("lost", self.lost.names());
        if self.lost.is_empty() {
            parts.extend(words("survivor", self.survivor.values()));
        }
        parts.extend(self.publish_epoch.then(|| "publish-epoch".to_owned()));
        parts.extend(words("power-on", &self.power_on));
        parts.extend(words("drain", &self.drain));
        parts.extend(words("restore", &self.restore));
        parts.extend(words("primary", self.primary.keys()));
        parts.extend(words("share", self.share.keys()));
        parts.extend((!self.lower_ttl.is_empty()).then(|| "lower-ttl".to_owned()));
        parts.extend((!self.raise_ttl.is_empty()).then(|| "raise-ttl".to_owned()));
        let mut slug = String::new();
        for (index, part) in parts.iter().enumerate() {
            if slug.len() + part.len() >= LONGEST {
                slug += &format!("-and-{}-more", parts.len() - index);
                break;
            }
            let between = if slug.is_empty() { "" } else { "-" };
            slug += &format!("{between}{part}");
        }
        if slug.is_empty() { "converge".to_owned() } else { slug }
    }
}

/// A database whose commits no longer wait for members whose power goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LetGo {
    /// The member that was primary then.
    pub primary: String,
    /// The names that commits waited for before.
    pub synchronous: String,
}

/// Something that is lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum LostThing {
    /// A facility with everything in it.
    Facility(FacilityName),
    /// One target.
    Target(TargetId),
}

impl LostThing {
    /// What operators call it.
    pub fn name(&self) -> &str {
        match self {
            Self::Facility(facility) => facility.as_str(),
            Self::Target(target) => target.name(),
        }
    }
}

/// What stays as an operator left it until somebody releases it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "snake_case")]
pub enum HoldKind {
    /// This facility stays drained until it is restored.
    Drained {
        /// The facility.
        facility: FacilityName,
    },
    /// This database keeps its primary until a restore with `--failback`.
    Primary {
        /// The database.
        database: DatabaseName,
        /// The member that keeps it.
        member: TargetId,
        /// The facility whose drain moved it.
        away_from: FacilityName,
    },
    /// This database keeps its primary where `--primary` put it.
    Placed {
        /// The database.
        database: DatabaseName,
        /// Where.
        at: PrimaryPlace,
    },
    /// This service keeps the share that `--share` gave it.
    Share {
        /// The service.
        service: ServiceName,
        /// Its share.
        share: Shares,
    },
    /// The TTL of this service stays as low as `--lower-ttl` made it.
    Ttl {
        /// The service.
        service: ServiceName,
        /// The TTL.
        ttl: Span,
    },
    /// The servers of this facility are stopped, and the others do not wait for it.
    PoweredOff {
        /// The facility.
        facility: FacilityName,
        /// What was changed at the primaries that stay, to be put back.
        let_go: BTreeMap<DatabaseName, LetGo>,
    },
    /// This is lost: it stays out, and what could not be done there is owed.
    Lost {
        /// The facility or target.
        what: LostThing,
        /// The targets at which work is owed.
        owed: BTreeSet<TargetId>,
    },
    /// This facility came back after a loss: it serves again only once it has been well for a while.
    Settling {
        /// The facility.
        facility: FacilityName,
    },
    /// Resolvers may still remember what they learnt while the TTL was so long: a plan that lowered it has not waited to its end.
    OldTtl {
        /// The service.
        service: ServiceName,
        /// The TTL that was live.
        ttl: Span,
    },
}

impl HoldKind {
    /// What is held, as a sentence without its full stop: `west stays drained`.
    pub fn what(&self) -> String {
        match self {
            Self::Drained { facility } => format!("{facility} stays drained"),
            Self::Primary { database, member, .. } => format!("the primary of {database} stays at {}", member.name()),
            Self::Placed { database, at } => format!("the primary of {database} stays at {}", place(at)),
            Self::Share { service, share } => format!("the share of {service} stays {}", shares_text(share)),
            Self::Ttl { service, ttl } => format!("the TTL of {service} stays {ttl}"),
            Self::PoweredOff { facility, .. } => format!("the servers of {facility} stay stopped"),
            Self::Lost { what, .. } => format!("{} is lost and stays out", what.name()),
            Self::Settling { facility } => format!("{facility} came back after a loss and settles before it serves"),
            Self::OldTtl { service, ttl } => {
                format!("resolvers may remember addresses of {service} for {ttl}, its TTL before it was lowered")
            }
        }
    }

    /// The command that ends it.
    pub fn ended_by(&self) -> String {
        match self {
            Self::Drained { facility } | Self::PoweredOff { facility, .. } | Self::Settling { facility } => {
                format!("handover plan --restore {facility}")
            }
            Self::Primary { away_from, .. } => format!("handover plan --restore {away_from} --failback"),
            Self::Placed { database, .. } => format!("handover plan --primary {database}=file"),
            Self::Share { service, .. } => format!("handover plan --share {service}=file"),
            Self::Ttl { service, .. } => format!("handover plan --raise-ttl {service}"),
            // Every plan that is not a restore waits for it; once what was lost answers, it begins with what is owed there.
            Self::OldTtl { .. } | Self::Lost { .. } => "handover plan".to_owned(),
        }
    }

    /// What it is about: a later hold on the same subject takes the place of the earlier one in the store.
    ///
    /// Those of `--primary`, `--share` and `--lower-ttl` stand beside each other until the run that made the later one has ended
    /// well: one that takes everything back must leave the earlier one. Until then the later one counts.
    pub fn subject(&self) -> String {
        match self {
            Self::Drained { facility } => format!("facility/{facility}"),
            Self::Primary { database, .. } => format!("database/{database}"),
            Self::Placed { database, at } => format!("database/{database}/{}", place(at)),
            Self::Share { service, share } => format!("share/{service}/{}", shares_text(share)),
            Self::Ttl { service, ttl } => format!("ttl/{service}/{ttl}"),
            Self::PoweredOff { facility, .. } => format!("power/{facility}"),
            Self::Lost { what: LostThing::Facility(facility), .. } => format!("lost/facility/{facility}"),
            Self::Lost { what: LostThing::Target(target), .. } => format!("lost/{target}"),
            Self::Settling { facility } => format!("settling/{facility}"),
            Self::OldTtl { service, ttl } => format!("old-ttl/{service}/{ttl}"),
        }
    }
}
