use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::journal::{Hold, RunId};
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
