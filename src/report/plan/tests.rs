use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;
use crate::model::{
    Action, Admission, Condition, DrainThen, ForeignName, FromTo, Lineage, Peer, Percent, RecordKey, RecordSet,
    RecordType, ServerSetting, Span, TargetId,
};
use crate::plan::{Gate, Intent, PrimaryMove, Stage, StepId, TopologyRef, Wait};

const SERVICES: [(&str, &str); 3] = [("hoplinks", "hop"), ("orderform", "pay"), ("website", "www")];
const PROXIES: [&str; 4] = ["east-lb1", "east-lb2", "west-lb1", "west-lb2"];

fn step(id: &str, stage: usize, title: &str, why: &str, work: Work) -> Step {
    Step {
        id: StepId(id.to_owned()),
        stage,
        title: title.to_owned(),
        why: why.to_owned(),
        work,
        needs: BTreeSet::new(),
        before: Vec::new(),
        after: Vec::new(),
        undo: Undo::Nothing,
        section: None,
        point_of_no_return: false,
        expected: Span::millis(200),
        deadline: Span::secs(5),
    }
}

fn act(target: TargetId, action: Action) -> Work {
    Work::Act { target, action }
}

fn ready(weight: u32) -> ServerSetting {
    ServerSetting { weight, admission: Admission::Ready }
}

fn share(from: ServerSetting, to: ServerSetting) -> Action {
    let servers = |_: &str| -> BTreeMap<ForeignName, FromTo<ServerSetting>> {
        ["west-app1", "west-app2"].into_iter().map(|name| (name.into(), FromTo { from, to })).collect()
    };
    Action::SetShare { backends: SERVICES.iter().map(|(name, _)| ((*name).into(), servers(name).into())).collect() }
}

fn records() -> Action {
    let set = |addresses: &[&str]| {
        let data = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect();
        Some(RecordSet { ttl: 30, data })
    };
    let change = FromTo {
        from: set(&["10.10.0.80", "10.10.0.81", "10.20.0.80", "10.20.0.81"]),
        to: set(&["10.20.0.80", "10.20.0.81"]),
    };
    let key = |host: &str| RecordKey { name: format!("{host}.clickbank.example"), rtype: RecordType::A };
    Action::SetRecords {
        zone: "clickbank.example".into(),
        sets: SERVICES.iter().map(|(_, host)| (key(host), change.clone())).collect(),
    }
}

/// Adds steps after others, and returns their identities.
fn add(plan: &mut Plan, needs: &[StepId], steps: Vec<Step>) -> Vec<StepId> {
    let ids = steps.iter().map(|step| step.id.clone()).collect();
    plan.steps.extend(steps.into_iter().map(|step| Step { needs: needs.iter().cloned().collect(), ..step }));
    ids
}

fn undo(action: Action) -> Undo {
    Undo::Act { action, after: Condition::Running { running: true } }
}

fn shift(plan: &mut Plan, needs: &[StepId], stage: usize, part: &str, from: u32, to: u32) -> Vec<StepId> {
    let steps = PROXIES.map(|proxy| Step {
        undo: undo(share(ready(to), ready(from))),
        ..step(
            &format!("share.{part}.{proxy}"),
            stage,
            &format!("{part} of west's share has moved to east at {proxy}"),
            "New requests go to east; running ones end where they are. Clients notice nothing",
            act(TargetId::proxy(proxy), share(ready(from), ready(to))),
        )
    });
    let shifted = add(plan, needs, steps.to_vec());
    let watched = PROXIES.iter().map(|proxy| (TargetId::proxy(proxy), BTreeMap::new())).collect();
    let gate = Gate::Soak {
        window: Span::secs(30),
        max_error_rate: Percent::whole(1),
        max_queue: 50,
        min_sample: 20,
        watched,
    };
    let soak = step(
        &format!("soak.{part}"),
        stage,
        "east stays healthy for 30s",
        "If it does not, the share goes back at once",
        Work::Gate { gate },
    );
    add(plan, &shifted, vec![Step { expected: Span::secs(30), deadline: Span::secs(60), ..soak }])
}

fn switchover(plan: &mut Plan, needs: &[StepId], database: &str, number: u32) {
    let member = |facility: &str| TargetId::member(&database.into(), &format!("{facility}-pg{number}"));
    let address = |facility: &str| format!("10.{}.0.100:543{}", if facility == "west" { 10 } else { 20 }, number + 1);
    let peer = |facility: &str| Peer { member: member(facility), address: address(facility) };
    let name: ForeignName = database.into();
    let poolers = ["east-pool1", "west-pool1"];
    let route = FromTo { from: address("west"), to: address("east") };
    let inside = |id: &str, title: String, why: &str, work: Work| Step {
        section: Some(database.to_owned()),
        expected: Span::millis(50),
        deadline: Span::millis(500),
        ..step(&format!("{database}.{id}"), 3, &title, why, work)
    };
    let at_poolers = |id: &str, title: &str, why: &str, make: &dyn Fn() -> Action, back: Undo| {
        poolers
            .map(|pooler| Step {
                undo: back.clone(),
                ..inside(
                    &format!("{id}.{pooler}"),
                    format!("{database}: {title} {pooler}"),
                    why,
                    act(TargetId::pooler(pooler), make()),
                )
            })
            .to_vec()
    };
    let written = poolers
        .map(|pooler| Step {
            undo: undo(Action::WriteRoute { database: name.clone(), route: route.reversed() }),
            ..step(
                &format!("{database}.write.{pooler}"),
                3,
                &format!("{database}: write the new route, not loaded yet, at {pooler}"),
                "So that loading it later takes no time",
                act(TargetId::pooler(pooler), Action::WriteRoute { database: name.clone(), route: route.clone() }),
            )
        })
        .to_vec();
    let after = add(plan, needs, written);
    let pause = || Action::Pause { database: name.clone() };
    let resume = || Action::Resume { database: name.clone() };
    let steps =
        at_poolers("pause", "hold clients back at", "Running transactions end, new ones wait", &pause, undo(resume()));
    let after = add(plan, &after, steps);
    let fence = Step {
        undo: undo(Action::Unfence { lineage: Lineage { system: "7301".to_owned(), timeline: 3 } }),
        ..inside(
            "fence",
            format!("{database}: stop west-pg{number} for good"),
            "No write can be lost there: it can only come back as a replica",
            act(member("west"), Action::Fence { successor: peer("east") }),
        )
    };
    let after = add(plan, &after, vec![fence]);
    let catch_up = inside(
        "catch_up",
        format!("{database}: east-pg{number} has everything"),
        "It has applied the final checkpoint of the old primary",
        act(member("east"), Action::CatchUp { behind: member("west"), position: None }),
    );
    let after = add(plan, &after, vec![catch_up]);
    let promote = Step {
        point_of_no_return: true,
        undo: Undo::Impossible { why: "two histories would exist; switch back with a new plan".to_owned() },
        ..inside(
            "promote",
            format!("{database}: east-pg{number} becomes primary"),
            "From here on the new primary takes writes",
            act(member("east"), Action::Promote { lineage: Lineage { system: "7301".to_owned(), timeline: 3 } }),
        )
    };
    let after = add(plan, &after, vec![promote]);
    let load = || Action::Route { database: name.clone(), route: route.clone() };
    let steps = at_poolers("route", "load the new route at", "Clients will meet the new primary", &load, Undo::Nothing);
    let after = add(plan, &after, steps);
    let after =
        add(plan, &after, at_poolers("resume", "let clients go on at", "The write stall ends", &resume, Undo::Nothing));
    let rejoin = step(
        &format!("{database}.rejoin"),
        3,
        &format!("{database}: west-pg{number} comes back as a replica"),
        "Two copies again: until here a loss of east would lose data",
        act(member("west"), Action::Rejoin { primary: peer("east") }),
    );
    add(plan, &after, vec![Step { expected: Span::secs(2), deadline: Span::secs(60), ..rejoin }]);
    plan.primaries.push(PrimaryMove {
        database: database.into(),
        from: member("west"),
        to: member("east"),
        expected_stall: Span::millis(300),
        max_stall: Span::secs(2),
    });
}

fn drain() -> Plan {
    let stage = |title: &str, remains: &[&str]| Stage {
        title: title.to_owned(),
        remains: remains.iter().map(|line| (*line).to_owned()).collect(),
    };
    let mut plan = Plan {
        format: 1,
        id: "20261123-0615-drain-west".to_owned(),
        intent: Intent {
            drain: ["west".into()].into(),
            reason: Some("new core switches".to_owned()),
            ..Intent::default()
        },
        topology: TopologyRef { name: "clickbank".to_owned(), digest: "4f3a91c2d7e8".repeat(5) },
        created: "2026-11-23T06:15:00Z".parse().unwrap(),
        expires: "2026-11-24T06:15:00Z".parse().unwrap(),
        notes: vec!["west-lb1, west-lb2, east-lb1 and east-lb2 forget weights and admissions when they are reloaded: no state file is configured for them".to_owned()],
        expected: Span::secs(138),
        primaries: Vec::new(),
        failovers: Vec::new(),
        splits: Vec::new(),
        holds: serde_json::from_value(serde_json::json!([
            {"hold": "drained", "facility": "west"},
            {"hold": "primary", "database": "accounts", "member": "member/accounts/east-pg1", "away_from": "west"},
        ]))
        .unwrap(),
        releases: Vec::new(),
        facts: Vec::new(),
        stages: vec![
            stage("Proofs: nothing is touched yet", &[]),
            stage("Edge: 10% of west's share moves away", &["orderform 1600 of 1600 rps healthy in east for a peak of 1200 rps, 25% free", "two facilities serve"]),
            stage("Edge: all of west's share moves away", &["orderform 1600 rps in east for a peak of 1200 rps, 25% free", "one facility serves; west can take over again within seconds"]),
            stage("DNS and databases leave west", &["one facility serves", "accounts and products have one copy each from fence to rejoin"]),
            stage("West's servers are taken out", &["one facility serves; accounts, products and prices have a replica in west"]),
        ],
        steps: Vec::new(),
    };
    let switchable = |database: &str, number: u32| {
        let member = |facility: &str| TargetId::member(&database.into(), &format!("{facility}-pg{number}"));
        let followers = BTreeSet::new();
        let gate = Gate::Switchable {
            database: database.into(),
            primary: member("west"),
            candidate: member("east"),
            followers,
        };
        step(
            &format!("gate.{database}"),
            0,
            &format!("{database} can be switched from west-pg{number} to east-pg{number}"),
            "Same history, replay close behind, no long transaction, every client comes through a pooler",
            Work::Gate { gate },
        )
    };
    let mut gates = vec![switchable("accounts", 1), switchable("products", 2)];
    gates.extend(SERVICES.map(|(service, _)| {
        let servers = ["east-app1", "east-app2"].map(|name| TargetId::server(&service.into(), name)).into();
        let gate = Gate::Capacity { service: service.into(), shares: [("east".into(), Percent::FULL)].into(), servers };
        step(
            &format!("capacity.{service}"),
            0,
            &format!("{service}: east alone carries the peak"),
            "With at least 20% free",
            Work::Gate { gate },
        )
    }));
    let after = add(&mut plan, &[], gates);
    let after = shift(&mut plan, &after, 1, "10%", 100, 90);
    let after = shift(&mut plan, &after, 2, "100%", 90, 0);
    let removed = ["east-ns1", "west-ns1"].map(|server| Step {
        undo: undo(records()),
        ..step(
            &format!("dns.remove.{server}"),
            3,
            &format!("west's addresses leave clickbank.example at {server}"),
            "New clients are led to east only",
            act(TargetId::name_server(&"clickbank.example".into(), server), records()),
        )
    });
    let dns = add(&mut plan, &after, removed.to_vec());
    let ttl = step(
        "dns.ttl",
        3,
        "caches forget west's addresses",
        "They may answer with the old ones for as long as the TTL that was live",
        Work::Wait { wait: Wait::OldTtl { time: Span::secs(30) } },
    );
    add(&mut plan, &dns, vec![Step { expected: Span::secs(30), deadline: Span::secs(35), ..ttl }]);
    let stopped = Step {
        undo: undo(Action::Start),
        ..step(
            "job.billing",
            3,
            "billing stops in west",
            "It writes to accounts",
            act(TargetId::job(&"billing".into()), Action::Stop),
        )
    };
    let job = add(&mut plan, &after, vec![stopped]);
    switchover(&mut plan, &job, "accounts", 1);
    switchover(&mut plan, &after, "products", 2);
    let all: Vec<StepId> = plan.steps.iter().map(|step| step.id.clone()).collect();
    let sessions = step(
        "sessions",
        4,
        "running sessions in west end",
        "Nobody is cut off",
        Work::Wait {
            wait: Wait::Sessions { servers: BTreeMap::new(), deadline: Span::secs(600), then: DrainThen::Leave },
        },
    );
    let after = add(&mut plan, &all, vec![Step { expected: Span::secs(5), deadline: Span::secs(600), ..sessions }]);
    let maint = ServerSetting { weight: 0, admission: Admission::Maint };
    let out = PROXIES.map(|proxy| Step {
        undo: undo(share(maint, ready(0))),
        ..step(
            &format!("maint.{proxy}"),
            4,
            &format!("west's servers get nothing and are not checked at {proxy}"),
            "West can be worked on",
            act(TargetId::proxy(proxy), share(ready(0), maint)),
        )
    });
    add(&mut plan, &after, out.to_vec());
    plan
}

#[test]
fn a_drain_reads_well() {
    for width in [80, 120] {
        let text = text(&drain(), Some("plans/20261123-0615-drain-west.yaml"), Detail::Full, Style::plain(width));
        assert!(text.lines().all(|line| unicode_width::UnicodeWidthStr::width(line) <= width), "{text}");
        insta::assert_snapshot!(format!("drain_{width}"), text);
    }
}

#[test]
fn colours_add_nothing_but_colour() {
    let coloured = text(&drain(), None, Detail::Full, Style { width: 100, colour: true });
    assert_eq!(
        text(&drain(), None, Detail::Full, Style::plain(100)),
        anstream::adapter::strip_str(&coloured).to_string()
    );
    insta::assert_snapshot!(
        "drain_coloured",
        coloured.lines().take(24).collect::<Vec<_>>().join("\n").replace('\u{1b}', "␛")
    );
}

#[test]
fn a_plan_without_steps_says_that_it_touches_nothing() {
    let mut empty = drain();
    (empty.steps, empty.stages, empty.primaries, empty.holds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    assert!(text(&empty, None, Detail::Full, Style::plain(80)).contains("nothing; it only checks"));
}

#[test]
fn what_is_planned_for_the_sample_reads_well() {
    use crate::report::sample::{live, topology};
    let topology = topology();
    let intent = Intent { drain: ["west".into()].into(), ..Intent::default() };
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    match crate::plan::make(&topology, &intent, &[], &live(&topology, 100, "west"), now) {
        crate::plan::Planned::Plan(planned) => {
            insta::assert_snapshot!("planned", text(&planned, None, Detail::Full, Style::plain(110)));
            insta::assert_snapshot!("brief", text(&planned, None, Detail::Brief, Style::plain(100)));
        }
        other => panic!("{other:#?}"),
    }
}

#[test]
fn every_form_tells_the_same_plan() {
    let plan = drain();
    let file = Some("plans/20261123-0615-drain-west.yaml");
    let told = |form| answer(PlanAnswer::Plan { plan: &plan, file, digest: "0123abcd" }, form);
    insta::assert_snapshot!("drain_markdown", told(Form::Markdown(Detail::Full)));
    insta::assert_snapshot!("brief_markdown", told(Form::Markdown(Detail::Brief)));
    let mermaid = told(Form::Mermaid);
    insta::assert_snapshot!("drain_mermaid", mermaid);
    let json = told(Form::Json);
    assert_eq!(json.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["format"], &json["result"]), (&1.into(), &"plan".into()));
    assert_eq!(json["plan"]["steps"].as_array().unwrap().len(), plan.steps.len());
    insta::assert_json_snapshot!("drain_summary", json["summary"]);

    // Each step of a section stands in its box, and both points of no return are marked.
    assert_eq!(mermaid.matches(":::noreturn").count(), 2, "{mermaid}");
    assert_eq!(mermaid.matches("stand or fall together").count(), 2, "{mermaid}");
    assert_eq!(mermaid.matches("  subgraph ").count(), plan.stages.len() + 2, "{mermaid}");
}

#[test]
fn refusals_and_nothing_to_do_have_every_form_too() {
    let refusal = |what: &str| crate::plan::Refusal::new(what, "choose one <script>alert(1)</script> | or the other");
    let refusals = [refusal("west is to be drained and restored at once"), refusal("no *facility* would serve")];
    let notes = ["west is held".to_owned()];
    let mut told = String::new();
    let forms = [Form::Text(Detail::Full, Style::plain(60)), Form::Json, Form::Markdown(Detail::Full), Form::Mermaid];
    for form in forms {
        told += &answer(PlanAnswer::Nothing(&notes), form);
        told += &answer(PlanAnswer::Refused { wish: "drain west", refusals: &refusals, exit_code: 3 }, form);
    }
    insta::assert_snapshot!("no_plan", told);
}

#[test]
fn what_makes_a_plan_stale_keeps_to_the_width() {
    let fact = |found: &str| crate::plan::Stale {
        target: TargetId::name_server(&"clickbank.example".into(), "east-ns1"),
        planned: "publishes pay.clickbank.example A TTL 30s 10.10.0.80 10.10.0.81 10.20.0.80 10.20.0.81".to_owned(),
        found: found.to_owned(),
    };
    let facts = [fact("it publishes TTL 30s 10.10.0.80 10.20.0.80 10.20.0.99"), fact("no answer: timed out")];
    let text = stale(&facts, Style::plain(60));
    assert!(text.lines().all(|line| unicode_width::UnicodeWidthStr::width(line) <= 60), "{text}");
    insta::assert_snapshot!("stale", text);
}
