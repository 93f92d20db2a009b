//! Who survives? What is asked where a database is split and nobody can tell from here, with what each side has. Pure.

use super::found::apart;
use super::histories::{Own, Related, own, related};
use super::repair::{Repair, chief};
use crate::model::text::list;
use crate::model::{Database, Live, Member, MemberFacts, Role, Route, Span, TargetId};
use crate::plan::desired::{Desired, Refusal};
use crate::plan::lost::known::Known;
use crate::plan::{epoch, live};
use crate::topology::Topology;

/// What stands against a plan as long as nobody has said which side of a split survives, and against choices that cannot be followed.
pub(in crate::plan) fn questions(topology: &Topology, desired: &Desired, live: &Live, known: &Known) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for database in topology.databases.values() {
        let primaries = live::primaries(database, live);
        let sides = sides(database, &primaries, live);
        if let Some(name) = desired.survivors.get(&database.name) {
            refusals.extend(unfit(database, name, &sides));
            continue;
        }
        let settled = primaries.len() > 1 && chief(database, &primaries, desired, live).is_some();
        if sides.len() > 1 && !settled {
            refusals.extend(asked(topology, database, &sides, live, known));
        }
    }
    refusals
}

/// One side of a split.
struct Side<'a> {
    id: &'a TargetId,
    member: &'a Member,
    facts: &'a MemberFacts,
}

impl Side<'_> {
    fn name(&self) -> &str {
        self.id.name()
    }

    fn writes(&self) -> bool {
        self.facts.role == Role::Primary
    }
}

/// The members that take writes; where that is one, those as well that have a later timeline than it.
fn sides<'a>(database: &'a Database, primaries: &[&TargetId], live: &'a Live) -> Vec<Side<'a>> {
    let members = database.members.values().filter_map(|member| {
        let id = &member.target.id;
        Some(Side { id, member, facts: live::member(live, id)? })
    });
    let later = |side: &Side<'_>| match primaries {
        [primary] => live::member(live, primary).is_some_and(|facts| {
            side.facts.lineage.timeline > facts.lineage.timeline
                && matches!(apart(database, primary, facts, side.id, side.facts, live), Some(Own::From { .. }))
        }),
        _ => false,
    };
    members.filter(|side| side.writes() || later(side)).collect()
}

/// Why a choice cannot be followed.
fn unfit(database: &Database, chosen: &str, sides: &[Side<'_>]) -> Vec<Refusal> {
    let name = &database.name;
    let writing: Vec<&str> = sides.iter().filter(|side| side.writes()).map(Side::name).collect();
    let Some(survivor) = sides.iter().find(|side| side.name() == chosen && side.writes()) else {
        return vec![Refusal::new(
            format!("{chosen} cannot survive in {name}: it takes no writes, as far as it can be asked"),
            format!(
                "{} does; what only {chosen} has: stop that one first, then `handover plan --lost` promotes",
                list(&writing)
            ),
        )];
    };
    if sides.len() < 2 {
        return vec![Refusal::new(
            format!("{name} is not split: {chosen} is its only primary"),
            "leave --survivor out; --primary moves a primary",
        )];
    }
    let mut refusals = Vec::new();
    for side in sides.iter().filter(|side| side.id != survivor.id) {
        let other = side.name();
        let by_hand = || {
            format!(
                "stop {other} at once, by hand, and lead its clients to {chosen}; keep its data directory, and make it anew with \
                 pg_basebackup"
            )
        };
        match related(survivor.facts, side.facts) {
            Related::Same => refusals.push(Refusal::new(
                format!(
                    "{other} and {chosen} both write on timeline {}: nobody can tell where they part",
                    side.facts.lineage.timeline
                ),
                by_hand(),
            )),
            Related::Not => refusals.push(Refusal::new(
                format!(
                    "{other} ({}) and {chosen} ({}) are not of one cluster",
                    side.facts.lineage, survivor.facts.lineage
                ),
                by_hand(),
            )),
            Related::Until(_) | Related::Unknown => {}
        }
        if let Some(why) = side.facts.capabilities.no_control.as_ref().filter(|_| side.writes()) {
            refusals.push(Refusal::new(format!("{other} cannot be fenced from here: {why}"), by_hand()));
        }
    }
    refusals
}

/// The question, and what each side has.
fn asked(topology: &Topology, database: &Database, sides: &[Side<'_>], live: &Live, known: &Known) -> Vec<Refusal> {
    let name = &database.name;
    let (writing, later): (Vec<&Side<'_>>, Vec<&Side<'_>>) = sides.iter().partition(|side| side.writes());
    let names = |sides: &[&Side<'_>]| list(sides.iter().map(|side| side.name()));
    let what = match later.as_slice() {
        [] => format!("{name} is split: {} take writes, each by itself", names(&writing)),
        later => {
            format!(
                "{name} is split: {} takes writes, and {} went on from a later timeline",
                names(&writing),
                names(later)
            )
        }
    };
    let advice = format!(
        "say which side survives: `handover plan --survivor {name}=MEMBER`. That plan begins by fencing the others; nothing is done before, \
         and nobody is chosen for you"
    );
    let mut refusals = vec![Refusal::new(what, advice)];
    for side in sides {
        let told = evidence(topology, database, side, sides, live, known);
        refusals
            .push(Refusal::new(format!("{name}, {}: {}", side.name(), told.join("; ")), choice(database, side, live)));
    }
    refusals
}

/// How this side is chosen, and what that gives up.
fn choice(database: &Database, side: &Side<'_>, live: &Live) -> String {
    if !side.writes() {
        return "it takes no writes and cannot be chosen as it is: stop who does, then `handover plan --lost` promotes it".to_owned();
    }
    let Some(repair) = Repair::of(database, side.id, live) else { return String::new() };
    let bytes = repair.bytes().map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
    format!("--survivor {0}={1} --accept-loss {0}={bytes}: {repair}", database.name, side.name())
}

/// What speaks for a side.
fn evidence(
    topology: &Topology,
    database: &Database,
    side: &Side<'_>,
    sides: &[Side<'_>],
    live: &Live,
    known: &Known,
) -> Vec<String> {
    let Side { id, member, facts } = side;
    let mut told = vec![format!(
        "in {}, {}, timeline {}, at {}",
        member.target.facility, facts.role, facts.lineage.timeline, facts.position
    )];
    for other in sides.iter().filter(|other| other.id != *id) {
        told.push(match own(other.facts, facts) {
            Own::From { fork, bytes } => format!("{bytes} bytes after {fork}, where it parts from {}", other.name()),
            Own::Everything => format!("of another cluster than {}", other.name()),
            Own::Nothing | Own::Unknown => format!("where it parts from {} is not told", other.name()),
        });
    }
    told.extend(written(id, facts, known));
    told.push(poolers(topology, database, member, live));
    let receivers: Vec<&str> = facts.replicas.iter().filter(|it| it.streaming).map(|it| it.name.as_str()).collect();
    told.push(match receivers.as_slice() {
        [] => "nobody receives from it".to_owned(),
        names => format!("{} from it", receive(names)),
    });
    let clients: u64 = facts.clients.iter().map(|client| client.count).sum();
    told.push(format!("{clients} client connections"));
    let newest = epoch::newest(topology, live);
    if let Some(epoch) = newest.filter(|it| it.databases.get(&database.name).is_some_and(|it| it.member == id.name())) {
        told.push(format!("epoch {} says that it is in charge", epoch.number));
    }
    told
}

fn receive(names: &[&str]) -> String {
    format!("{} {}", list(names), if names.len() == 1 { "receives" } else { "receive" })
}

/// What it has written since it was last looked at.
fn written(id: &TargetId, facts: &MemberFacts, known: &Known) -> Option<String> {
    let seen = known.members.get(id).filter(|seen| seen.lineage.system == facts.lineage.system)?;
    let ago = Span::secs(seen.age.as_secs());
    Some(match facts.position.bytes_since(seen.position) {
        0 => format!("nothing written since {ago} ago"),
        bytes => format!("{bytes} bytes written since {ago} ago, when it was {}", seen.role),
    })
}

/// Which poolers lead their clients to it.
fn poolers(topology: &Topology, database: &Database, member: &Member, live: &Live) -> String {
    let Route::PoolerDatabase(entry) = &database.route else { return "nobody says where clients are led".to_owned() };
    let led = database.poolers.iter().filter_map(|name| {
        let pool = live::pool(live, &topology.poolers.get(name)?.target.id, entry)?;
        (pool.route == member.target.address).then_some((name, pool.active + pool.waiting))
    });
    let led: Vec<(&String, u64)> = led.collect();
    match led.as_slice() {
        [] => "no pooler leads to it".to_owned(),
        [(one, clients)] => format!("{one} leads {clients} clients to it"),
        many => {
            let clients: u64 = many.iter().map(|(_, clients)| clients).sum();
            format!("{} lead {clients} clients to it", list(many.iter().map(|(name, _)| name)))
        }
    }
}
