//! Whether a server may start by itself: the decision of `handover admit`. Pure; `docs/admit.md` has the argument why it is safe.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{Charge, DatabaseName, Epoch, FacilityName, Lineage, Target, TargetId, TargetKind, text};
use crate::topology::Topology;

/// What wants to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The targets that it is: several where an application server serves several services.
    pub targets: Vec<Arc<Target>>,
    /// It is a database member, and another one of that database stands in the same facility.
    pub has_sibling: bool,
}

/// What stands in the way of knowing what is meant by a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unnamed {
    /// Nothing is called so.
    #[error("nothing in the topology is called `{0}`")]
    Unknown(String),
    /// Several things are.
    #[error("`{name}` may be {candidates}: name one of them")]
    Ambiguous {
        /// The name.
        name: String,
        /// What it may be.
        candidates: String,
    },
}

impl Subject {
    /// What is called `name`: an identity (`member/accounts/west-pg1`), its end (`accounts/west-pg1`), or a bare name.
    ///
    /// # Errors
    /// If nothing is, or several things are.
    pub fn named(topology: &Topology, name: &str) -> Result<Self, Unnamed> {
        let end = format!("/{name}");
        let meant = |target: &&Arc<Target>| target.id.as_str() == name || target.id.as_str().ends_with(&end);
        let targets: Vec<Arc<Target>> = topology.targets().filter(meant).cloned().collect();
        let Some(first) = targets.first() else { return Err(Unnamed::Unknown(name.to_owned())) };
        let one = |target: &Arc<Target>| {
            (target.kind, &target.facility) == (first.kind, &first.facility)
                && (target.kind != TargetKind::Member || target.id == first.id)
        };
        if targets.iter().all(one) {
            let sibling = |other: &&Arc<Target>| {
                first.kind == TargetKind::Member
                    && (other.kind, other.id.scope(), &other.facility)
                        == (first.kind, first.id.scope(), &first.facility)
                    && other.id != first.id
            };
            let has_sibling = topology.targets().any(|other| sibling(&other));
            return Ok(Self { targets, has_sibling });
        }
        let candidates = text::list(targets.iter().map(|target| &target.id));
        Err(Unnamed::Ambiguous { name: name.to_owned(), candidates })
    }

    /// The database member that it is, if it is one.
    pub fn member(&self) -> Option<&Arc<Target>> {
        self.targets.first().filter(|target| target.kind == TargetKind::Member)
    }

    fn name(&self) -> &str {
        self.targets.first().map_or("nothing", |target| target.name())
    }

    fn facility(&self) -> Option<&FacilityName> {
        self.targets.first().map(|target| &target.facility)
    }

    fn is(&self, id: &TargetId) -> bool {
        self.targets.iter().any(|target| target.id == *id)
    }
}

/// The name servers that may know who is in charge: all where a zone is changed, but not the one that wants to start.
pub fn witnesses(topology: &Topology, subject: &Subject) -> Vec<Arc<Target>> {
    let servers = topology.zones.values().flat_map(|zone| zone.servers.values());
    let updatable = servers.filter(|server| server.updates && !subject.is(&server.target.id));
    updatable.map(|server| Arc::clone(&server.target)).collect()
}

/// What a witness said.
#[derive(Clone, Debug, PartialEq)]
pub struct Testimony {
    /// The name server.
    pub witness: Arc<Target>,
    /// The epoch that it publishes, or why nothing is known.
    pub answer: Result<Option<Epoch>, String>,
}

/// What is decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// It may start.
    pub admitted: bool,
    /// Why, in one line.
    pub why: String,
    /// True where the answer of a witness that has not answered yet could change a refusal.
    pub open: bool,
}

/// Decides. `primary` is the history of a member that would start as a primary; a member that would start as a replica is admitted
/// without asking anybody. `unpublished` admits as long as no witness publishes any epoch.
pub fn rule(subject: &Subject, primary: Option<&Lineage>, heard: &[Testimony], unpublished: bool) -> Ruling {
    let name = subject.name();
    let silent = heard.iter().any(|testimony| testimony.answer.is_err());
    let admit = |why: String| Ruling { admitted: true, why, open: false };
    let refuse = |why: String| Ruling { admitted: false, why, open: silent };
    let newest = match newest(heard) {
        Ok(newest) => newest,
        Err(why) => return refuse(why),
    };
    if let Some((epoch, witness)) = newest
        && let Some(lost) = lost(subject, epoch)
    {
        let number = epoch.number;
        return refuse(format!(
            "{lost} is lost since epoch {number} or before, says {witness}: `handover plan` brings it back"
        ));
    }
    let Some((member, lineage)) = subject.member().zip(primary) else {
        return admit(match newest {
            Some((epoch, witness)) => format!("nothing is known against {name} (epoch {}, {witness})", epoch.number),
            None => format!("nothing is known against {name}: no witness publishes an epoch or answers"),
        });
    };
    let uncovered = uncovered(&member.facility, subject.has_sibling, newest.map(|(epoch, _)| epoch), heard);
    let Some((epoch, witness)) = newest else {
        return match uncovered {
            Some(why) => refuse(why),
            None if unpublished => admit(format!("no witness publishes an epoch yet: {name} is admitted unseen")),
            None => refuse(
                "no witness publishes an epoch yet: `handover apply` of a plan publishes it; until then --allow-unpublished admits"
                    .to_owned(),
            ),
        };
    };
    let Some(database) = member.id.scope().map(DatabaseName::new) else {
        return refuse(format!("{name} belongs to no database"));
    };
    let told = format!("epoch {} ({witness})", epoch.number);
    match epoch.databases.get(&database) {
        None => refuse(format!("{told} does not say who is in charge of {database}")),
        Some(charge) => match (is_in_charge(charge, member.name(), lineage), uncovered) {
            (Err(why), _) => refuse(format!("{told}: {why}")),
            (Ok(()), Some(why)) => refuse(why),
            (Ok(()), None) => admit(format!("{name} is in charge of {database}: {told}")),
        },
    }
}

/// The epoch with the highest number, and who publishes it.
fn newest(heard: &[Testimony]) -> Result<Option<(&Epoch, &str)>, String> {
    let published = || heard.iter().filter_map(|it| Some((it.answer.as_ref().ok()?.as_ref()?, it.witness.name())));
    let newest = published().max_by_key(|(epoch, _)| epoch.number);
    if let Some((epoch, witness)) = newest
        && let Some((_, other)) = published().find(|(other, _)| other.number == epoch.number && *other != epoch)
    {
        let number = epoch.number;
        return Err(format!(
            "{witness} and {other} publish different epochs {number}: `handover plan` sets that right"
        ));
    }
    Ok(newest)
}

/// What of the subject an epoch calls lost.
fn lost(subject: &Subject, epoch: &Epoch) -> Option<String> {
    let facility = subject.facility().filter(|facility| epoch.lost.contains(*facility)).map(ToString::to_string);
    // A name server that missed a raise is called lost as a target. It must start to be told, and whoever asks goes by the newest word.
    let may_be_told = |target: &Target| target.kind == TargetKind::NameServer;
    let missing = |target: &&Arc<Target>| epoch.lost_targets.contains(&target.id) && !may_be_told(target);
    let target = || subject.targets.iter().find(missing);
    facility.or_else(|| target().map(|target| target.name().to_owned()))
}

/// Why it is possible that something newer is in charge than what was heard, if so. Every raise is written to all name servers that are not
/// lost. So every other facility must have been heard; one that the newest epoch calls lost need not, but only where the own facility's
/// name server was heard too: that one would know if the lost one had returned.
fn uncovered(own: &FacilityName, has_sibling: bool, newest: Option<&Epoch>, heard: &[Testimony]) -> Option<String> {
    // Where nobody publishes anything, an answer that says so is all that can be had.
    let speaks = |it: &&Testimony| matches!((&it.answer, newest), (Ok(Some(_)), _) | (Ok(None), None));
    let heard_from: BTreeSet<&FacilityName> = heard.iter().filter(speaks).map(|it| &it.witness.facility).collect();
    let is_lost = |it: &&Testimony| {
        newest.is_some_and(|epoch| {
            epoch.lost.contains(&it.witness.facility) || epoch.lost_targets.contains(&it.witness.id)
        })
    };
    let others = || heard.iter().filter(|it| it.witness.facility != *own);
    if others().next().is_none() {
        return Some("no name server of another facility takes updates: nobody could confirm anything".to_owned());
    }
    let missing: Vec<&Testimony> = others().filter(|it| !heard_from.contains(&it.witness.facility)).collect();
    if let Some(silent) = missing.iter().find(|it| !is_lost(it)) {
        let why = match &silent.answer {
            Err(why) => why.clone(),
            Ok(_) => "it publishes no epoch".to_owned(),
        };
        let (name, facility) = (silent.witness.name(), &silent.witness.facility);
        return Some(format!("{facility} may know something newer, and nobody there confirms: {name}: {why}"));
    }
    if heard_from.contains(own) {
        return None;
    }
    if let Some(excused) = missing.first() {
        let facility = &excused.witness.facility;
        return Some(format!(
            "{facility} is lost, and no name server here in {own} confirms that it has not returned since"
        ));
    }
    // While everything else was lost, nobody but the own name server was told of a sibling's promotion.
    let knows = heard.iter().find(|it| it.witness.facility == *own).filter(|_| has_sibling)?;
    Some(format!("{} may know of another member here in {own}, and does not answer", knows.witness.name()))
}

/// Whether this member with this history is the one that is meant.
fn is_in_charge(charge: &Charge, member: &str, lineage: &Lineage) -> Result<(), String> {
    let other = charge.member != member;
    let Lineage { system, timeline } = lineage;
    if other {
        Err(format!(
            "{} is in charge from timeline {} on; {member} (timeline {timeline}) can come back only as its replica: `handover plan`",
            charge.member, charge.timeline
        ))
    } else if charge.system != *system {
        Err(format!("{member} is meant with system {}, but its data are of system {system}", charge.system))
    } else if charge.timeline > *timeline {
        Err(format!(
            "{member} is meant from timeline {} on, but its data end with timeline {timeline}",
            charge.timeline
        ))
    } else {
        Ok(())
    }
}
