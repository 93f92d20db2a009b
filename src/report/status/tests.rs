use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::journal::{self, Hold, RunId};
use crate::model::Live;
use crate::model::{Facts, Observed, Role, ServerFacts, TargetId, Unreachable};
use crate::plan::HoldKind;
use crate::report::sample::{live, member_facts, topology};

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn drained_west(review_by: &str) -> Hold {
    Hold {
        kind: HoldKind::Drained { facility: "west".into() },
        by: "ada@ops".to_owned(),
        since: "2026-11-20T06:15:00Z".parse().unwrap(),
        reason: Some("new core switches".to_owned()),
        review_by: Some(review_by.parse().unwrap()),
        run: RunId("20261120-061503-k3f9".to_owned()),
    }
}

fn unreachable(live: &mut Live, id: TargetId, why: &str, tried: &str) {
    live.insert(id, Observed::Unreachable(Unreachable::new(why, tried)));
}

#[test]
fn all_is_well() {
    let topology = topology();
    let view = StatusView::new(&topology, &live(&topology, 100, "west"), &[], Vec::new(), now());
    assert_eq!(view.level, ExitLevel::Healthy);
    for width in [80, 120] {
        insta::assert_snapshot!(format!("healthy_{width}"), status(&view, Style::plain(width)));
    }
    let coloured = status(&view, Style { width: 80, colour: true });
    assert_eq!(status(&view, Style::plain(80)), anstream::adapter::strip_str(&coloured).to_string());
}

#[test]
fn a_drained_facility_that_is_switched_off_alarms_nobody_but_a_missing_replica_does() {
    let topology = topology();
    let mut live = live(&topology, 0, "east");
    unreachable(&mut live, TargetId::proxy("west-lb1"), "no route to host", "show stat over TCP to 10.10.0.80:9999");
    let hold = [drained_west("2026-11-25T00:00:00Z")];
    let view = StatusView::new(&topology, &live, &hold, Vec::new(), now());
    assert_eq!((view.level, view.problems.len()), (ExitLevel::Healthy, 0));
    let member = TargetId::member(&"accounts".into(), "west-pg1");
    unreachable(&mut live, member, "no answer within 2s", "connecting to 10.10.0.100:5432");
    let view = StatusView::new(&topology, &live, &hold, Vec::new(), now());
    assert_eq!(view.level, ExitLevel::Degraded);
}

#[test]
fn a_replica_of_a_replica_is_as_far_behind_as_that_one_says() {
    let mut topology = topology();
    let name: crate::model::DatabaseName = "accounts".into();
    let database = topology.databases.get_mut(&name).unwrap();
    let (id, address) = (TargetId::member(&name, "east-pg9"), "10.20.0.109:5432".to_owned());
    let mut third = database.members["east-pg1"].clone();
    third.target = std::sync::Arc::new(crate::model::Target { id: id.clone(), address, ..(*third.target).clone() });
    let sender = database.members["east-pg1"].target.clone();
    database.members.insert("east-pg9".to_owned(), third);
    let mut live = live(&topology, 100, "west");
    let change = |live: &mut Live, id: &TargetId, change: &mut dyn FnMut(&mut crate::model::MemberFacts)| match live
        .get_mut(id)
    {
        Some(Observed::Known { value: Facts::Member(facts), .. }) => change(facts),
        other => panic!("{other:?}"),
    };
    let cell = |live: &Live| {
        let view = StatusView::new(&topology, live, &[], Vec::new(), now());
        (view.level, status(&view, Style::plain(200)))
    };
    // The primary does not see it, its sender does.
    let mut replica = None;
    change(&mut live, &TargetId::member(&name, "west-pg1"), &mut |facts| {
        let index = facts.replicas.iter().position(|replica| replica.name == "east_pg9").unwrap();
        replica = Some(facts.replicas.remove(index));
    });
    change(&mut live, &id, &mut |facts| facts.receives_from = Some(sender.address.clone()));
    let (level, text) = cell(&live);
    assert_eq!(level, ExitLevel::Degraded, "{text}");
    assert!(text.contains("east-pg9 is a replica that receives nothing"), "{text}");
    change(&mut live, &sender.id, &mut |facts| facts.replicas.push(replica.clone().unwrap()));
    let (level, text) = cell(&live);
    assert_eq!(level, ExitLevel::Healthy, "{text}");
    assert!(text.contains("east-pg9 replicates from east-pg1"), "{text}");
}

#[test]
fn a_drained_facility_with_a_forgotten_hold() {
    let topology = topology();
    let hold = [drained_west("2026-11-22T00:00:00Z")];
    let drift = vec!["orderform: west-app1 at west-lb1 has weight 100, should be drained".to_owned()];
    let view = StatusView::new(&topology, &live(&topology, 0, "east"), &hold, drift, now());
    assert_eq!(view.level, ExitLevel::Drift);
    insta::assert_snapshot!("drained", status(&view, Style::plain(100)));
}

#[test]
fn much_is_wrong() {
    let topology = topology();
    let mut live = live(&topology, 100, "west");
    unreachable(&mut live, TargetId::proxy("east-lb2"), "connection refused", "show stat over TCP to 10.20.0.81:9999");
    let server = TargetId::server(&"orderform".into(), "east-app1");
    live.insert(server, known(Facts::Server(ServerFacts { healthy: false, status: 503, latency: Duration::ZERO })));
    let split = member_facts(Role::Primary, Vec::new());
    live.insert(TargetId::member(&"products".into(), "east-pg2"), known(Facts::Member(Box::new(split))));
    let view = StatusView::new(&topology, &live, &[], Vec::new(), now());
    assert_eq!((view.level, view.level.exit_code()), (ExitLevel::Split, 12));
    for width in [60, 100] {
        insta::assert_snapshot!(format!("split_{width}"), status(&view, Style::plain(width)));
    }
}

#[test]
fn shares_come_from_weights_where_there_is_no_traffic() {
    let topology = topology();
    let mut live = live(&topology, 25, "west");
    for observed in live.values_mut() {
        if let Observed::Known { value: Facts::Proxy(facts), .. } = observed {
            for server in facts.backends.values_mut().flatten().flat_map(|backend| backend.servers.values_mut()) {
                server.rate = 0;
            }
        }
    }
    let text = status(&StatusView::new(&topology, &live, &[], Vec::new(), now()), Style::plain(100));
    assert!(text.contains("gets 20% by weight") && text.contains("gets 80% by weight"), "{text}");
    assert!(text.contains("Shares: by the proxies' weights"), "{text}");
}

fn known(value: Facts) -> Observed<Facts> {
    Observed::Known { value, took: Duration::from_millis(1) }
}

fn data(topology: &crate::topology::Topology, live: &Live, holds: &[Hold], drift: Vec<String>) -> StatusData {
    let view = StatusView::new(topology, live, holds, drift, now());
    let kinds: Vec<_> = holds.iter().map(|hold| hold.kind.clone()).collect();
    let desired = crate::plan::desired::desired(topology, &crate::plan::Intent::default(), &kinds, live).unwrap();
    StatusData::new(&view, topology, live, Some(&desired.shares), now(), Duration::from_millis(42))
}

#[test]
fn programs_get_everything_as_data() {
    let topology = topology();
    let mut live = live(&topology, 100, "west");
    unreachable(&mut live, TargetId::proxy("west-lb1"), "no route to host", "show stat over TCP to 10.10.0.80:9999");
    let drift = vec!["orderform: west-app1 at west-lb2 has weight 50, should be 100".to_owned()];
    let data = data(&topology, &live, &[drained_west("2026-11-22T00:00:00Z")], drift);
    let json = data.json();
    assert_eq!(json.lines().count(), 1);
    insta::assert_json_snapshot!("data", serde_json::from_str::<serde_json::Value>(&json).unwrap());
}

/// A metric's name, its labels and its value.
type Sample = (String, Vec<(String, String)>, f64);

/// The samples of a text in Prometheus's format; panics where it is none.
fn samples(text: &str) -> Vec<Sample> {
    let (mut samples, mut family, mut seen) = (Vec::new(), "", std::collections::BTreeSet::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').expect("a help without text").0;
            assert!(seen.insert(family), "{family} is not in one piece");
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            assert_eq!(typed, format!("{family} gauge"));
        } else {
            let (name, mut rest) = line.split_once('{').unwrap();
            assert_eq!(name, family);
            let mut labels = Vec::new();
            while !rest.starts_with('}') {
                let (label, quoted) = rest.trim_start_matches(',').split_once("=\"").unwrap();
                let (mut value, mut characters) = (String::new(), quoted.char_indices());
                let end = loop {
                    match characters.next().unwrap() {
                        (at, '"') => break at,
                        (_, '\\') => value.push(match characters.next().unwrap().1 {
                            'n' => '\n',
                            other => other,
                        }),
                        (_, c) => value.push(c),
                    }
                };
                labels.push((label.to_owned(), value));
                rest = &quoted[end + 1..];
            }
            let value = rest.strip_prefix("} ").unwrap();
            assert!(!value.contains(' '), "a time, which the textfile collector refuses: {line}");
            samples.push((name.to_owned(), labels, value.parse().unwrap()));
        }
    }
    samples
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let mut topology = topology();
    let live = live(&topology, 100, "west");
    let hold = [drained_west("2026-11-22T00:00:00Z")];
    let text = prometheus(&data(&topology, &live, &hold, vec!["a".to_owned(), "b".to_owned()]));
    insta::assert_snapshot!("prometheus", text);
    let samples_of = |text: &str, name: &str| -> Vec<f64> {
        samples(text).into_iter().filter(|(sample, ..)| sample == name).map(|(_, _, value)| value).collect()
    };
    assert_eq!(samples_of(&text, "handover_drift"), [2.0]);
    assert_eq!(samples_of(&text, "handover_observation_timestamp_seconds"), [1_795_435_200.0]);

    // Whatever a name holds, it reads back, and no two series are the same.
    topology.name = "a\\b\"c\nd{},".to_owned();
    let text = prometheus(&data(&topology, &live, &hold, Vec::new()));
    let mut series = std::collections::BTreeSet::new();
    for (name, labels, _) in samples(&text) {
        assert_eq!(labels[0], ("topology".to_owned(), topology.name.clone()));
        assert!(series.insert((name, labels)));
    }
}

#[test]
fn what_is_silent_is_told_with_what_is_known_from_before_and_what_others_say_of_it() {
    let topology = topology();
    let mut live = live(&topology, 0, "west");
    let gone: Vec<TargetId> =
        topology.targets().filter(|it| it.facility.as_str() == "west").map(|it| it.id.clone()).collect();
    let before = journal::sightings(Vec::new(), &live, now());
    for id in &gone {
        unreachable(&mut live, id.clone(), "no answer within 1s", "test");
    }
    let later = now() + jiff::SignedDuration::from_secs(200);
    let kept = journal::sightings(before, &live, later);
    let known = journal::known(kept, later + jiff::SignedDuration::from_secs(20));
    let mut view = StatusView::new(&topology, &live, &[], Vec::new(), now());
    view.notes.extend(seen_from_elsewhere(&topology, &live, &known.before));
    view.remember(&known);
    let text = status(&view, Style::plain(200));
    assert!(text.contains("last answered 3m 40s ago, as primary of timeline 3 at "), "{text}");
    assert!(text.contains("west is partitioned: it does not answer us"), "{text}");
    assert!(text.contains("east-pg1 in east still receives from west-pg1"), "{text}");
}
