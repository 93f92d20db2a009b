use jiff::civil::{Weekday, time};
use proptest::prelude::*;

use super::*;
use crate::model::Freeze;
use crate::plan::Override;

fn window(days: &[Weekday], from: (i8, i8), to: (i8, i8), zone: &str) -> Window {
    let zone = TimeZone::get(zone).unwrap();
    Window { days: days.to_vec(), from: time(from.0, from.1, 0, 0), to: time(to.0, to.1, 0, 0), zone }
}

fn night() -> Window {
    window(&[Weekday::Tuesday], (23, 0), (2, 0), "America/Boise")
}

fn freeze(from: &str, to: &str) -> Freeze {
    Freeze { from: from.parse().unwrap(), to: to.parse().unwrap(), reason: "year-end closing".to_owned() }
}

/// When work may run.
struct Rules {
    windows: Vec<Window>,
    freezes: Vec<Freeze>,
}

fn rules(windows: Vec<Window>, freezes: Vec<Freeze>) -> Rules {
    Rules { windows, freezes }
}

fn minutes(minutes: u64) -> Span {
    Span::secs(minutes * 60)
}

/// What is said about work of so many minutes that begins at `now`.
fn refused(rules: &Rules, now: &str, length: u64) -> Option<String> {
    judge(&rules.windows, &rules.freezes, &Overrides::new(), now.parse().unwrap(), minutes(length)).refusal()
}

#[test]
fn work_that_fits_is_let_through_also_past_midnight() {
    let rules = rules(vec![night()], Vec::new());
    assert_eq!(refused(&rules, "2026-11-24T23:10:00-07:00", 60), None);
    assert_eq!(refused(&rules, "2026-11-25T01:00:00-07:00", 60), None);
}

#[test]
fn work_outside_or_too_long_is_told_when_to_come_back() {
    let rules = rules(vec![night()], vec![freeze("2026-11-30T00:00-07:00", "2026-12-03T00:00-07:00")]);
    insta::assert_snapshot!(refused(&rules, "2026-11-25T09:00:00-07:00", 5).unwrap(), @"no maintenance window of policy.windows is open now; it fits at Tue 2026-12-08 23:00 MST, before Wed 2026-12-09 02:00 MST");
    insta::assert_snapshot!(refused(&rules, "2026-11-25T01:00:00-07:00", 90).unwrap(), @"the work needs about 1h30m with its undo, and the maintenance window closes at Wed 2026-11-25 02:00 MST; it fits at Tue 2026-12-08 23:00 MST, before Wed 2026-12-09 02:00 MST");
    insta::assert_snapshot!(refused(&rules, "2026-12-01T23:30:00-07:00", 5).unwrap(), @"there is a freeze: year-end closing (until Thu 2026-12-03 00:00 MST); it fits at Tue 2026-12-08 23:00 MST, before Wed 2026-12-09 02:00 MST");
    insta::assert_snapshot!(refused(&rules, "2026-11-25T09:00:00-07:00", 181).unwrap(), @"no maintenance window of policy.windows is open now; no time that is long enough follows: lengthen a window");
}

#[test]
fn without_windows_only_freezes_stand_in_the_way() {
    assert_eq!(refused(&rules(Vec::new(), Vec::new()), "1970-01-01T00:00:00Z", 1), None);
    let frozen = rules(Vec::new(), vec![freeze("2026-12-20T00:00Z", "2027-01-04T00:00Z")]);
    assert_eq!(refused(&frozen, "2026-12-19T23:00:00Z", 60), None, "it ends when the freeze begins");
    insta::assert_snapshot!(refused(&frozen, "2026-12-19T23:00:00Z", 61).unwrap(), @"a freeze begins before the work would end: year-end closing (until Mon 2027-01-04 00:00 UTC); it may begin at Mon 2027-01-04 00:00 UTC");
}

#[test]
fn an_override_silences_its_own_gate_and_no_other() {
    let rules = rules(vec![night()], vec![freeze("2026-11-20T00:00Z", "2026-12-04T00:00Z")]);
    let closed = |gates: &[GateName]| -> Vec<GateName> {
        let passed = || Override { by: "ada@ops".to_owned(), reason: "the hall is on fire".to_owned() };
        let overrides = gates.iter().map(|gate| (*gate, passed())).collect();
        let now = "2026-11-25T16:00:00Z".parse().unwrap();
        let answer = judge(&rules.windows, &rules.freezes, &overrides, now, minutes(5));
        answer.closed.iter().map(|closed| closed.gate).collect()
    };
    assert_eq!(closed(&[]), [GateName::Windows, GateName::Freezes]);
    assert_eq!(closed(&[GateName::Windows]), [GateName::Freezes]);
    assert_eq!(closed(&[GateName::Windows, GateName::Freezes]), []);
}

#[test]
fn windows_that_touch_are_one() {
    let evening = window(&[Weekday::Saturday], (22, 0), (0, 0), "America/Boise");
    let morning = window(&[Weekday::Sunday], (0, 0), (4, 0), "America/Boise");
    assert_eq!(refused(&rules(vec![morning, evening], Vec::new()), "2026-11-21T22:00:00-07:00", 360), None);
}

#[test]
fn an_hour_that_the_clocks_skip_is_in_no_window() {
    // On 2026-03-08 the clocks of Boise went from 02:00 to 03:00.
    let boise = |from, to| rules(vec![window(&[Weekday::Sunday], from, to, "America/Boise")], Vec::new());
    let until_half_past_two = boise((1, 0), (2, 30));
    assert_eq!(refused(&until_half_past_two, "2026-03-08T01:00:00-07:00", 60), None);
    assert!(refused(&until_half_past_two, "2026-03-08T01:00:00-07:00", 61).is_some(), "then it is three o'clock");
    let from_half_past_two = boise((2, 30), (4, 0));
    assert_eq!(refused(&from_half_past_two, "2026-03-08T03:00:00-06:00", 60), None);
    assert!(refused(&from_half_past_two, "2026-03-08T01:59:00-07:00", 1).is_some());
    let skipped = boise((2, 10), (2, 50));
    assert!(refused(&skipped, "2026-03-08T03:00:00-06:00", 1).unwrap().contains("fits at Sun 2026-03-15 02:10 MDT"));
}

#[test]
fn an_hour_that_comes_twice_counts_twice() {
    // On 2026-11-01 the clocks of Boise went from 02:00 back to 01:00.
    let rules = rules(vec![window(&[Weekday::Sunday], (1, 30), (3, 0), "America/Boise")], Vec::new());
    assert_eq!(refused(&rules, "2026-11-01T01:30:00-06:00", 30), None);
    let crossing = refused(&rules, "2026-11-01T01:30:00-06:00", 31).unwrap();
    assert!(crossing.contains("fits at Sun 2026-11-01 01:30 MST"), "between them it is one o'clock: {crossing}");
    assert_eq!(refused(&rules, "2026-11-01T01:30:00-07:00", 90), None);
}

const DAYS: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

/// Whether the clocks show a time in the window: day by day, as people read it.
fn is_open(window: &Window, at: Timestamp) -> bool {
    let clock = at.to_zoned(window.zone.clone()).datetime();
    [clock.date(), clock.date().yesterday().unwrap()].into_iter().any(|day| {
        let last = if window.to > window.from { day } else { day.tomorrow().unwrap() };
        let (from, to) = (DateTime::from_parts(day, window.from), DateTime::from_parts(last, window.to));
        window.days.contains(&day.weekday()) && from <= clock && clock < to
    })
}

prop_compose! {
    fn windows_of_any_zone()(
        zone in prop::sample::select(vec!["America/Boise", "Europe/London", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]),
        days in prop::sample::subsequence(DAYS.to_vec(), 1..=7),
        (from, to) in (0i8..48, 0i8..48).prop_filter("it ends when it begins", |(from, to)| from != to),
    ) -> Window {
        window(&days, (from / 2, from % 2 * 30), (to / 2, to % 2 * 30), zone)
    }
}

/// Moments within two days of a change of clocks in one of the zones, or any.
fn moments() -> impl Strategy<Value = Timestamp> {
    let near =
        prop::sample::select(vec!["2026-03-08T09:00Z", "2026-03-29T01:00Z", "2026-04-04T15:00Z", "2026-11-01T08:00Z"]);
    let near = near.prop_map(|text| text.parse::<Timestamp>().unwrap());
    let any = (0i64..525_600).prop_map(|minute| Timestamp::from_second(1_767_225_600 + minute * 60).unwrap());
    let offset = (-2_880i64..2_880).prop_map(SignedDuration::from_mins);
    prop_oneof![(near, offset).prop_map(|(at, offset)| at + offset), any]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn work_is_let_through_where_every_minute_of_it_is_allowed_and_sent_to_the_first_such_time(
        windows in prop::collection::vec(windows_of_any_zone(), 0..3),
        now in moments(),
        length in 1usize..400,
        frozen in prop::option::of((-600i64..2_000, 1i64..2_000)),
    ) {
        let after = |minutes: i64| now + SignedDuration::from_mins(minutes);
        let freezes: Vec<Freeze> = frozen
            .into_iter()
            .map(|(from, length)| Freeze { from: after(from), to: after(from + length), reason: "frozen".to_owned() })
            .collect();
        let rules = rules(windows, freezes);
        let allowed = |minute: i64| {
            let at = after(minute);
            let open = rules.windows.is_empty() || rules.windows.iter().any(|window| is_open(window, at));
            open && !rules.freezes.iter().any(|freeze| freeze.from <= at && at < freeze.to)
        };
        // A week and the longest work, minute by minute.
        let allowed: Vec<bool> = (0..7 * 1_440 + 400).map(allowed).collect();
        let first = allowed.windows(length).position(|minutes| minutes.iter().all(|allowed| *allowed));
        let length = minutes(length as u64);
        let answer = judge(&rules.windows, &rules.freezes, &Overrides::new(), now, length);
        prop_assert_eq!(answer.closed.is_empty(), first == Some(0), "{:?}", answer);
        match (first, answer.next) {
            (Some(0), next) => prop_assert_eq!(next, None),
            (Some(first), next) => prop_assert_eq!(next.map(|(from, _)| from), Some(after(first as i64)), "{:?}", answer),
            (None, Some((from, _))) => prop_assert!(from >= after(7 * 1_440 - 400), "{:?}", answer),
            (None, None) => {}
        }
    }
}
