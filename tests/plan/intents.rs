//! Every wish of the command line, alone and together with others: what it plans, what it leaves, and how that ends.

use std::collections::BTreeSet;

use handover::model::{FacilityName, Percent, PrimaryPlace, Span};
use handover::plan::desired::desired;
use handover::plan::{HoldKind, Intent, Plan, Planned, Shares, Wait, Work, make, possible};
use proptest::prelude::*;

use super::steps::{chooser, holds_after};
use super::world::World;
use super::{EXAMPLE, carry_out, carry_out_until, intent, nothing_to_do, plan};

const THREE: &str = include_str!("../fixtures/topology-three.yaml");

fn shares(text: &str) -> Shares {
    text.split_whitespace()
        .map(|part| part.split_once(':').unwrap())
        .map(|(facility, share)| (FacilityName::new(facility), share.parse().unwrap()))
        .collect()
}

fn in_facility(name: &str) -> Option<PrimaryPlace> {
    Some(PrimaryPlace::Facility(name.into()))
}

fn at_member(name: &str) -> Option<PrimaryPlace> {
    Some(PrimaryPlace::Member(name.to_owned()))
}

impl Wishes for Intent {}

/// Wishes, one after the other.
trait Wishes: Into<Intent> {
    fn primary(self, database: &str, at: Option<PrimaryPlace>) -> Intent {
        let mut intent = self.into();
        intent.primary.insert(database.into(), at);
        intent
    }

    fn share(self, service: &str, text: &str) -> Intent {
        let mut intent = self.into();
        intent.share.insert(service.into(), (text != "file").then(|| shares(text)));
        intent
    }

    fn lower_ttl(self, service: &str) -> Intent {
        let mut intent = self.into();
        intent.lower_ttl.insert(service.into());
        intent
    }

    fn raise_ttl(self, service: &str) -> Intent {
        let mut intent = self.into();
        intent.raise_ttl.insert(service.into());
        intent
    }
}

/// What a run that ends well does to the holds.
fn after(holds: &[HoldKind], plan: &Plan) -> Vec<HoldKind> {
    holds_after(holds, &plan.holds, &plan.releases)
}

/// A world, what is held in it, and wishes that are carried out.
struct Story {
    world: World,
    holds: Vec<HoldKind>,
}

impl Story {
    fn of(text: &str) -> Self {
        Self { world: World::healthy(text), holds: Vec::new() }
    }

    /// Carries a wish out; then there is nothing left to do.
    fn wish(&mut self, intent: &Intent) -> Plan {
        let plan = plan(&self.world, intent, &self.holds);
        carry_out(&mut self.world, &plan, |_| 0);
        self.holds = after(&self.holds, &plan);
        nothing_to_do(&self.world, &self.holds);
        plan
    }

    fn moved(plan: &Plan) -> Vec<String> {
        plan.primaries.iter().map(|moved| format!("{} {}", moved.database, moved.to.name())).collect()
    }

    fn share_of(&self, service: &str) -> Shares {
        let wanted = desired(&self.world.topology, &Intent::default(), &self.holds, &self.world.live).unwrap();
        let mut shares = wanted.shares[service].clone();
        shares.retain(|_, share| *share > Percent::ZERO);
        shares
    }
}

/// How long a plan waits for resolvers.
fn waits(plan: &Plan) -> Option<Span> {
    plan.steps.iter().find_map(|step| match &step.work {
        Work::Wait { wait: Wait::OldTtl { time } } => Some(*time),
        _ => None,
    })
}

#[test]
fn a_primary_is_moved_stays_there_and_comes_back_when_the_file_decides_again() {
    let mut story = Story::of(THREE);
    let moved = story.wish(&Intent::default().primary("accounts", in_facility("b")));
    assert_eq!(Story::moved(&moved), ["accounts b-pg1"]);
    assert!(moved.steps.iter().all(|step| !step.id.0.starts_with("share.") && !step.id.0.starts_with("dns.")));
    assert_eq!(story.holds, [HoldKind::Placed { database: "accounts".into(), at: in_facility("b").unwrap() }]);
    // The same again changes nothing, and leaves nothing.
    let again = Intent::default().primary("accounts", in_facility("b"));
    let now = "2026-11-23T06:15:00Z".parse().unwrap();
    assert!(matches!(make(&story.world.topology, &again, &story.holds, &story.world.live, now), Planned::Nothing(_)));
    // Another place takes the place of the first one.
    let moved = story.wish(&Intent::default().primary("accounts", at_member("c-pg1")));
    assert_eq!(Story::moved(&moved), ["accounts c-pg1"]);
    assert_eq!(story.holds, [HoldKind::Placed { database: "accounts".into(), at: at_member("c-pg1").unwrap() }]);
    let back = story.wish(&Intent::default().primary("accounts", None));
    assert_eq!((Story::moved(&back), story.holds.len()), (vec!["accounts a-pg1".to_owned()], 0));
}

#[test]
fn a_primary_that_is_there_already_is_held_without_a_step() {
    let mut story = Story::of(THREE);
    let held = story.wish(&Intent::default().primary("catalog", at_member("b-pg2")));
    assert!(held.steps.is_empty(), "{:?}", held.steps);
    assert_eq!(story.holds.len(), 1);
    // What the file says needs no hold, and ends one.
    let released = story.wish(&Intent::default().primary("catalog", in_facility("b")));
    assert_eq!((released.holds.len(), released.releases.len(), story.holds.len()), (0, 1, 0));
}

#[test]
fn a_primary_that_has_to_leave_its_place_is_not_moved_back_there_unasked() {
    let mut story = Story::of(THREE);
    story.wish(&Intent::default().primary("accounts", in_facility("b")));
    let drain = story.wish(&intent(&["b"], &[], false));
    assert_eq!(Story::moved(&drain), ["accounts a-pg1", "catalog a-pg2"]);
    assert_eq!(story.holds, [HoldKind::Drained { facility: "b".into() }]);
    let restore = story.wish(&intent(&[], &["b"], true));
    assert_eq!(Story::moved(&restore), ["catalog b-pg2"], "accounts belongs to a, by the file");
}

#[test]
fn a_share_stays_moves_with_drains_and_ends_with_the_file() {
    let mut story = Story::of(THREE);
    assert_eq!(story.share_of("orders"), shares("a:50% b:30% c:20%"));
    story.wish(&Intent::default().share("orders", "a:20% b:20% c:60%"));
    assert_eq!(story.share_of("orders"), shares("a:20% b:20% c:60%"));
    assert_eq!(story.share_of("prices"), shares("a:100%"), "another service is left alone");
    story.wish(&intent(&["a"], &[], false));
    assert_eq!(story.share_of("orders"), shares("b:25% c:75%"), "in proportion to the hold, not to the file");
    assert_eq!(story.share_of("prices"), shares("b:75% c:25%"), "by capacity, where those that remain have no share");
    story.wish(&intent(&[], &["a"], true));
    assert_eq!(story.share_of("orders"), shares("a:20% b:20% c:60%"));
    story.wish(&Intent::default().share("orders", "file"));
    assert_eq!((story.share_of("orders"), story.holds.len()), (shares("a:50% b:30% c:20%"), 0));
}

#[test]
fn several_wishes_are_one_plan() {
    let mut story = Story::of(THREE);
    let all = intent(&["a"], &[], false).share("orders", "b:10% c:90%").primary("accounts", at_member("c-pg1"));
    let first = story.wish(&all.share("prices", "b:100%"));
    assert_eq!(Story::moved(&first), ["accounts c-pg1"]);
    assert_eq!(story.share_of("orders"), shares("b:10% c:90%"));
    assert_eq!(story.holds.len(), 4);
    // One in, one out, and one wish ends.
    let second = story.wish(&intent(&["b"], &["a"], false).share("orders", "file"));
    assert_eq!(Story::moved(&second), ["catalog a-pg2"], "accounts is held");
    assert_eq!(story.share_of("orders"), shares("a:71.43% c:28.57%"));
    let stopped: BTreeSet<&str> =
        second.steps.iter().map(|step| step.id.0.as_str()).filter(|id| id.starts_with("job.")).collect();
    assert!(stopped.contains("job.stop.exports") && stopped.contains("job.start.billing"), "{stopped:?}");
    assert_eq!(second.title(), "drain b, restore a, share orders as the topology says");
    let ended = intent(&[], &["b"], true).primary("accounts", None).share("prices", "file");
    story.wish(&ended);
    assert_eq!(story.holds, []);
}

trait Titled {
    fn title(&self) -> String;
}

impl Titled for Plan {
    fn title(&self) -> String {
        self.intent.title()
    }
}

#[test]
fn contradictions_are_refused_before_anything_is_observed() {
    let mut told = String::new();
    let mut refuse = |text: &str, intent: Intent, holds: &[HoldKind]| {
        let world = World::healthy(text);
        let refusals = possible(&world.topology, &intent, holds).expect_err(&intent.title());
        told += &format!("{}\n", intent.title());
        for refusal in refusals {
            told += &format!("  {}\n    {}\n", refusal.what, refusal.advice);
        }
    };
    let bare = Intent::default;
    let drained = [HoldKind::Drained { facility: "b".into() }];
    refuse(THREE, intent(&["a"], &["a"], false), &[]);
    refuse(THREE, intent(&["a", "b", "c"], &[], false), &[]);
    refuse(THREE, intent(&["a"], &[], false).primary("accounts", in_facility("a")), &[]);
    refuse(THREE, intent(&["a"], &[], false).primary("accounts", at_member("a-pg1")), &[]);
    refuse(THREE, bare().primary("accounts", in_facility("b")), &drained);
    refuse(
        &THREE.replace("b: {state: active}", "b: {state: drained}"),
        bare().primary("catalog", at_member("b-pg2")),
        &[],
    );
    refuse(EXAMPLE, bare().primary("accounts", in_facility("haven")), &[]);
    refuse(THREE, bare().primary("catalog", in_facility("c")), &[]);
    refuse(THREE, intent(&["a"], &[], false).share("orders", "a:20% b:80%"), &[]);
    refuse(THREE, bare().share("orders", "a:50% b:50%"), &drained);
    refuse(EXAMPLE, bare().share("website", "west:50% haven:50%"), &[]);
    refuse(THREE, bare().lower_ttl("orders").raise_ttl("orders"), &[]);
    insta::assert_snapshot!(told);
}

#[test]
fn a_hold_on_what_is_no_more_ends() {
    let story = Story::of(THREE);
    let holds = [
        HoldKind::Drained { facility: "z".into() },
        HoldKind::Placed { database: "gone".into(), at: in_facility("a").unwrap() },
        HoldKind::Share { service: "gone".into(), share: shares("a:100%") },
        HoldKind::Share { service: "prices".into(), share: shares("z:100%") },
    ];
    let end = plan(&story.world, &Intent::default(), &holds);
    assert_eq!((end.steps.len(), end.releases.len()), (4, 3), "{:?}", end.steps);
    assert_eq!(
        after(&holds, &end),
        [holds[3].clone()],
        "a share of a facility that is no more: the file's proportions"
    );
}

/// A TTL of two days in the file; what a plan says about it.
fn two_days() -> String {
    THREE.replace("share: {a: 50%", "ttl: 2d\n    share: {a: 50%")
}

#[test]
fn a_drain_with_a_long_ttl_is_honest_and_names_the_way_to_a_short_one() {
    let story = Story::of(&two_days());
    let drain = plan(&story.world, &intent(&["a"], &[], false), &[]);
    assert_eq!(waits(&drain), Some(Span::secs(172_800)));
    assert!(drain.expected > Span::secs(172_800));
    let note = drain.notes.iter().find(|note| note.contains("--lower-ttl orders")).expect("a note");
    assert!(note.contains("only after 2d") && note.contains("(1m)"), "{note}");
}

#[test]
fn a_ttl_is_lowered_first_stays_low_and_comes_back_with_the_restore() {
    let mut story = Story::of(&two_days());
    let lower = story.wish(&Intent::default().lower_ttl("orders").lower_ttl("prices"));
    assert_eq!(waits(&lower), Some(Span::secs(172_800)), "one old TTL");
    assert!(lower.acts_for() < Span::secs(10), "a maintenance window need not be open while resolvers forget");
    assert_eq!(story.holds, [HoldKind::Ttl { service: "orders".into(), ttl: Span::secs(60) }]);
    assert!(lower.notes.iter().any(|note| note.contains("nothing to lower") && note.contains("prices (30s)")));
    let acts = lower.steps.iter().filter(|step| matches!(step.work, Work::Act { .. })).map(|step| step.id.0.as_str());
    let acts: Vec<&str> = acts.collect();
    assert_eq!(
        acts,
        ["dns.shop.example.lower_ttl.a-ns1", "dns.shop.example.lower_ttl.b-ns1", "dns.shop.test.lower_ttl.a-ns1"]
    );

    let drain = story.wish(&intent(&["a"], &[], false));
    assert_eq!(waits(&drain), Some(Span::secs(60)), "that is what it was for");
    let restore = story.wish(&intent(&[], &["a"], true));
    assert_eq!(story.holds, []);
    // Quick to undo until the end: the long TTL comes last.
    let place = |id: &str| restore.steps.iter().position(|step| step.id.0.starts_with(id)).unwrap();
    assert!(
        place("dns.shop.example.add") < place("share.100%")
            && place("gate.soak.100%") < place("dns.shop.example.raise_ttl")
    );
}

#[test]
fn a_lowered_ttl_is_raised_on_demand_and_not_while_a_facility_is_out() {
    let mut story = Story::of(&two_days());
    story.wish(&Intent::default().lower_ttl("orders"));
    let both = story.wish(&intent(&["a"], &[], false).raise_ttl("orders"));
    assert!(both.notes.iter().any(|note| note.contains("stays 1m, below 2d of the topology, until a is back")));
    assert!(both.releases.contains(&HoldKind::Ttl { service: "orders".into(), ttl: Span::secs(60) }));
    let restore = story.wish(&intent(&[], &["a"], true));
    assert!(restore.steps.iter().any(|step| step.id.0.starts_with("dns.shop.test.raise_ttl")));
}

#[test]
fn a_plan_that_was_cut_short_before_resolvers_forgot_is_waited_for_by_the_next() {
    let mut story = Story::of(&two_days());
    let lower = plan(&story.world, &Intent::default().lower_ttl("orders"), &[]);
    carry_out_until(&mut story.world, &lower, "dns.shop.test.lower_ttl.a-ns1");
    story.holds = lower.holds.clone();
    let old = HoldKind::OldTtl { service: "orders".into(), ttl: Span::secs(172_800) };
    assert!(story.holds.contains(&old));
    // A drain now would take as long as before, and says so.
    let drain = plan(&story.world, &intent(&["a"], &[], false), &story.holds);
    assert_eq!(waits(&drain), Some(Span::secs(172_800)));
    let rest = story.wish(&Intent::default());
    assert_eq!((waits(&rest), rest.releases), (Some(Span::secs(172_800)), vec![old]));
    assert_eq!(story.holds, [HoldKind::Ttl { service: "orders".into(), ttl: Span::secs(60) }]);
}

prop_compose! {
    fn some_shares(of: &'static [&'static str])(parts in prop::collection::vec(0u32..=10, of.len())) -> Shares {
        let whole: u32 = parts.iter().sum();
        let mut left = 10_000;
        let mut shares = Shares::new();
        for (facility, part) in of.iter().zip(&parts) {
            let points = (part * 10_000).checked_div(whole).unwrap_or_default();
            left -= points;
            shares.insert((*facility).into(), Percent::from_basis_points(points));
        }
        let last = shares.values_mut().last().unwrap();
        *last = Percent::from_basis_points(last.basis_points() + left);
        shares
    }
}

fn facilities() -> impl Strategy<Value = BTreeSet<FacilityName>> {
    prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c"]).prop_map(FacilityName::new), 0..2)
}

fn rarely<T: Clone + std::fmt::Debug>(wish: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.3, wish)
}

prop_compose! {
    fn intents()(
        drain in facilities(),
        restore in facilities(),
        failback in any::<bool>(),
        accounts in rarely(prop::sample::select(vec![None, in_facility("a"), in_facility("b"), at_member("c-pg1")])),
        catalog in rarely(prop::sample::select(vec![None, in_facility("a"), at_member("b-pg2")])),
        orders in rarely(prop::option::weighted(0.7, some_shares(&["a", "b", "c"]))),
        lower in prop::bool::weighted(0.2),
        raise in prop::bool::weighted(0.2),
    ) -> Intent {
        let named = |yes: bool| yes.then(|| "orders".into()).into_iter().collect();
        Intent {
            drain,
            failback: failback && !restore.is_empty(),
            restore,
            primary: [("accounts", accounts), ("catalog", catalog)]
                .into_iter()
                .filter_map(|(name, wish)| Some((name.into(), wish?)))
                .collect(),
            share: orders.into_iter().map(|wish| ("orders".into(), wish)).collect(),
            lower_ttl: named(lower),
            raise_ttl: named(raise),
            ..Intent::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_wishes_one_after_the_other_keep_the_invariants_and_end_as_wanted(
        wishes in prop::collection::vec(intents(), 1..6),
        seed in any::<u64>(),
    ) {
        let mut choose = chooser(seed);
        let mut story = Story::of(&two_days());
        let now = "2026-11-23T06:15:00Z".parse().unwrap();
        for intent in &wishes {
            let Story { world, holds } = &mut story;
            let made = make(&world.topology, intent, holds, &world.live, now);
            prop_assert_eq!(&made, &make(&world.topology, intent, holds, &world.live, now));
            match made {
                Planned::Refused(refusals) => {
                    prop_assert!(refusals.iter().all(|refusal| !refusal.advice.is_empty()));
                    continue;
                }
                Planned::Nothing(_) => {}
                Planned::Plan(plan) => {
                    carry_out(world, &plan, &mut choose);
                    story.holds = after(&story.holds, &plan);
                }
            }
            let wanted = desired(&story.world.topology, &Intent::default(), &story.holds, &story.world.live).unwrap();
            for shares in wanted.shares.values() {
                prop_assert_eq!(shares.values().map(|share| share.basis_points()).sum::<u32>(), 10_000);
            }
            nothing_to_do(&story.world, &story.holds);
        }
    }
}
