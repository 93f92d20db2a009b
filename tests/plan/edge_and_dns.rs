//! Layouts of DNS and proxies other than the worked example's.

use handover::model::{RecordKey, RecordSet, RecordType, Saved, ServiceName, TargetId, Unreachable, ZoneName};
use handover::plan::{Intent, Planned, make};

use super::world::World;
use super::{EXAMPLE, carry_out, intent, nothing_to_do, plan};

/// The worked example with some texts replaced, each of which must be there.
fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(EXAMPLE.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

/// One server that takes updates, in the west; a chain of transfers behind it.
fn single() -> String {
    let server = |name: &str, address: &str| format!("{name}: {{facility: east, address: \"{address}:53\", ");
    let (east1, east2) = (server("east-ns1", "10.20.0.53"), server("east-ns2", "10.20.0.54"));
    edited(&[
        (&format!("{east1}updates: true}}"), &format!("{east1}transfers_from: west-ns1}}")),
        (&format!("{east2}transfers_from: east-ns1}}"), &format!("{east2}transfers_from: east-ns1}}")),
    ])
}

fn name_server(name: &str) -> TargetId {
    TargetId::name_server(&ZoneName::new("clickbank.example"), name)
}

fn refusals(world: &World, intent: &Intent) -> String {
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    match make(&world.topology, intent, &[], &world.live, now) {
        Planned::Refused(refusals) => {
            refusals.iter().map(|refusal| format!("{}: {}\n", refusal.what, refusal.advice)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn notes(world: &World, intent: &Intent) -> Vec<String> {
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    match make(&world.topology, intent, &[], &world.live, now) {
        Planned::Plan(plan) => plan.notes,
        Planned::Nothing(notes) => notes,
        Planned::Refused(refusals) => panic!("{refusals:?}"),
    }
}

#[test]
fn a_zone_with_one_updatable_server_is_changed_there_and_verified_everywhere() {
    let mut world = World::healthy(&single());
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    let dns: Vec<_> = drain.steps.iter().filter(|step| step.id.0.starts_with("dns.")).collect();
    assert_eq!(dns.len(), 1, "{dns:#?}");
    let verified: Vec<&str> = dns[0].after.iter().map(|after| after.target.name()).collect();
    assert_eq!(verified, ["west-ns1", "east-ns1", "east-ns2", "west-ns2"]);
    carry_out(&mut world, &drain, |_| 0);
    nothing_to_do(&world, &drain.holds);
    let restore = plan(&world, &intent(&[], &["west"], true), &drain.holds);
    carry_out(&mut world, &restore, |_| 0);
    nothing_to_do(&world, &restore.holds);
}

/// Servers of a facility that is drained may be silent, but for the only one that could take its addresses away.
#[test]
fn a_zone_that_cannot_be_changed_is_no_drain() {
    let mut world = World::healthy(&single());
    world.silence(&name_server("west-ns1"));
    let told = refusals(&world, &intent(&["west"], &[], false));
    assert!(
        told.contains("clickbank.example cannot be changed: no answer from west-ns1, where alone it takes updates"),
        "{told}"
    );
    assert!(told.contains("users are sent to addresses that should leave"), "{told}");
    // With another updatable server the zone is changed there.
    let mut world = World::healthy(EXAMPLE);
    world.silence(&name_server("west-ns1"));
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    assert!(drain.steps.iter().any(|step| step.id.0 == "dns.clickbank.example.remove.east-ns1"));
    assert!(drain.notes.iter().any(|note| note.contains("west-ns1 does not answer")), "{:?}", drain.notes);
}

#[test]
fn name_servers_that_disagree_are_named_with_what_each_serves() {
    let mut world = World::healthy(EXAMPLE);
    let pay = RecordKey { name: "pay.clickbank.example".to_owned(), rtype: RecordType::A };
    let old = RecordSet { ttl: 30, data: ["10.99.0.1".parse().unwrap()].into() };
    world.publish(&name_server("east-ns2"), &pay, Some(old));
    for wish in [intent(&["west"], &[], false), Intent::default()] {
        let told = refusals(&world, &wish);
        let words = "east-ns2 and east-ns1, from which it gets clickbank.example, disagree: pay.clickbank.example A is 10.99.0.1 (TTL 30s)";
        assert!(told.contains(words) && told.contains("repair the transfer to east-ns2"), "{told}");
    }
}

#[test]
fn services_with_several_hostnames_and_both_families_move_as_one() {
    let both = |facility: u8| {
        format!("[10.{facility}.0.80, 10.{facility}.0.81, \"fd00:{facility}::80\", \"fd00:{facility}::81\"]")
    };
    let text = edited(&[
        (
            "hostnames: [pay.clickbank.example]",
            "hostnames: [pay.clickbank.example, orders.clickbank.example, a.b.clickbank.example]",
        ),
        ("west: [10.10.0.80, 10.10.0.81]", &format!("west: {}", both(10))),
        ("east: [10.20.0.80, 10.20.0.81]", &format!("east: {}", both(20))),
        ("\"10.20.0.91:8080\"", "\"[fd00:20::91]:8080\""),
        ("tcp://10.20.0.80:9999", "tcp://[fd00:20::80]:9999"),
        ("\"10.20.0.54:53\"", "\"[fd00:20::54]:53\""),
    ]);
    let mut world = World::healthy(&text);
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    let remove = drain.steps.iter().find(|step| step.id.0 == "dns.clickbank.example.remove.east-ns1").unwrap();
    for (name, rtype) in
        ["pay", "orders", "a.b"].into_iter().flat_map(|name| [(name, RecordType::A), (name, RecordType::Aaaa)])
    {
        let key = RecordKey { name: format!("{name}.clickbank.example"), rtype };
        assert!(remove.title.contains(&key.to_string()), "{}", remove.title);
    }
    carry_out(&mut world, &drain, |_| 0);
    let facts = world.live[&name_server("west-ns2")].known().unwrap().name_server().unwrap();
    let aaaa = RecordKey { name: "orders.clickbank.example".to_owned(), rtype: RecordType::Aaaa };
    let left: Vec<String> = facts.sets[&aaaa].as_ref().unwrap().data.iter().map(ToString::to_string).collect();
    assert_eq!(left, ["fd00:20::80", "fd00:20::81"]);
    nothing_to_do(&world, &drain.holds);
    let restore = plan(&world, &intent(&[], &["west"], true), &drain.holds);
    carry_out(&mut world, &restore, |_| 0);
    nothing_to_do(&world, &restore.holds);
}

#[test]
fn a_share_that_dns_cannot_express_is_said() {
    let orderform = "share: {west: 50%, east: 50%}               # of the requests";
    let text = edited(&[(orderform, "share: {west: 20%, east: 80%}  # of the requests")]);
    let mut world = World::healthy(EXAMPLE).with_topology(&text);
    let told = notes(&world, &Intent::default());
    let words = "orderform: DNS can only say present or absent: it publishes 2 of east and 2 of west alike; the share east 80%, west 20%";
    assert!(told.iter().any(|note| note.starts_with(words)), "{told:?}");
    let shift = plan(&world, &Intent::default(), &[]);
    carry_out(&mut world, &shift, |_| 0);
    nothing_to_do(&world, &[]);
    // All or nothing is what DNS can say.
    assert!(notes(&world, &intent(&["west"], &[], false)).iter().all(|note| !note.contains("present or absent")));
}

#[test]
fn shares_too_small_for_all_servers_are_said_and_stay_as_planned() {
    let service = ServiceName::new("orderform");
    let first = "      east-app1: {facility: east, address: \"10.20.0.91:8080\", capacity: 800 rps}\n";
    let many: String = (3..=14)
        .map(|n| {
            format!("      west-app{n}: {{facility: west, address: \"10.10.0.{}:8080\", capacity: 100 rps}}\n", 100 + n)
        })
        .collect();
    let east2 = "      east-app2: {facility: east, address: \"10.20.0.92:8080\", capacity: 800 rps}\n";
    let with_many = edited(&[(first, &format!("{many}{}", first.replace("800", "4000"))), (east2, "")]);
    let small = with_many.replacen("share: {west: 50%, east: 50%}", "share: {west: 1%, east: 99%}", 1);
    assert_ne!(small, with_many);
    let mut world = World::healthy(&with_many).with_topology(&small);
    assert_eq!(world.topology.services[&service].servers.len(), 15);
    let told = notes(&world, &Intent::default());
    assert!(
        told.iter().any(|note| note.contains("of orderform get no requests: the share of their facility is too small")),
        "{told:?}"
    );
    let shift = plan(&world, &Intent::default(), &[]);
    carry_out(&mut world, &shift, |_| 0);
    nothing_to_do(&world, &[]);
}

#[test]
fn what_a_reload_would_forget_is_saved_by_the_next_plan() {
    let mut world = World::healthy(EXAMPLE);
    let (west, east) = (TargetId::proxy("west-lb1"), TargetId::proxy("east-lb1"));
    world.saved(&west, Saved::Outdated("its state file is empty or not there".to_owned()));
    let why = Unreachable::new("no connection within 2s", "ssh 10.20.0.80").advice("check the host");
    world.saved(&east, Saved::Unknown(why));
    let save = plan(&world, &Intent::default(), &[]);
    let ids: Vec<&str> = save.steps.iter().map(|step| step.id.0.as_str()).collect();
    assert_eq!(ids, ["share.save.west-lb1", "verify"]);
    let note = "east-lb1: it is not known what it would find after a reload: no connection within 2s (ssh 10.20.0.80); check the host";
    assert!(save.notes.iter().any(|told| told == note), "{:?}", save.notes);
    let (drift, told) = handover::plan::drift(&world.topology, &[], &world.live);
    assert_eq!(drift, ["west-lb1: its state file is empty or not there"]);
    assert!(told.iter().any(|told| told == note), "{told:?}");
    carry_out(&mut world, &save, |_| 0);
    nothing_to_do(&world, &[]);
    // A proxy whose weights change is saved with them.
    world.saved(&west, Saved::Outdated("its state file is empty or not there".to_owned()));
    let drain = plan(&world, &intent(&["west"], &[], false), &[]);
    assert!(drain.steps.iter().all(|step| !step.id.0.starts_with("share.save")));
}
