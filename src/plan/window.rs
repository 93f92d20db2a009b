//! Maintenance windows and freezes: may planned work that begins now run to its end? Pure.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::document::Plan;
use super::overrides::{GateName, Overrides};
use crate::model::{Freeze, Policy, Span, Window};
use crate::topology::Topology;

/// A time during which work is allowed: from the first moment to just before the second.
type Opening = (Timestamp, Timestamp);

/// How far ahead of everything that the policy names an opening is looked for: every window comes within a week, and one that the
/// clocks skip comes in the next.
const AHEAD: i64 = 15;

/// How many days are looked at, at most: freezes may end in a far future.
const MOST: i64 = 800;

/// Why work must not begin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The gate that says so, by which it can be overridden.
    pub gate: GateName,
    /// Why.
    pub why: String,
}

/// An answer to whether work may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What stands against it; nothing means go.
    pub closed: Vec<Closed>,
    /// When it may begin at the earliest, and until when it then has time; none where it may begin now or never.
    pub next: Option<(Timestamp, Timestamp)>,
    /// Where that is told in, the zone of the first window.
    zone: TimeZone,
}

impl Answer {
    /// The whole answer as one sentence; none where work may begin.
    pub fn refusal(&self) -> Option<String> {
        let whys: Vec<&str> = self.closed.iter().map(|closed| closed.why.as_str()).collect();
        (!whys.is_empty()).then(|| format!("{}; {}", whys.join("; "), self.next_text()))
    }

    fn next_text(&self) -> String {
        match self.next {
            Some((from, to)) if to == Timestamp::MAX => format!("it may begin at {}", text(from, &self.zone)),
            Some((from, to)) => {
                format!("it fits at {}, before {}", text(from, &self.zone), text(to, &self.zone))
            }
            None => "no time that is long enough follows: lengthen a window".to_owned(),
        }
    }
}

/// May work that takes `needs`, its undo included, begin now? Windows and freezes that are overridden say nothing.
pub fn answer(policy: &Policy, overrides: &Overrides, now: Timestamp, needs: Span) -> Answer {
    judge(&policy.windows, &policy.freezes, overrides, now, needs)
}

fn judge(windows: &[Window], freezes: &[Freeze], overrides: &Overrides, now: Timestamp, needs: Span) -> Answer {
    let length = SignedDuration::try_from(needs.0).unwrap_or(SignedDuration::MAX);
    let windows = if overrides.contains_key(&GateName::Windows) { &[] } else { windows };
    let freezes = if overrides.contains_key(&GateName::Freezes) { &[] } else { freezes };
    let zone = windows.first().map_or(TimeZone::UTC, |window| window.zone.clone());
    let openings = openings(windows, now, freezes.iter().map(|freeze| freeze.to).max());
    let mut closed = Vec::new();
    let holds = |(from, to): &&Opening| *from <= now && now < *to;
    match openings.iter().find(holds) {
        Some(opening) if fits(*opening, now, length) => {}
        Some((_, to)) => closed.push(Closed {
            gate: GateName::Windows,
            why: format!(
                "the work needs about {needs} with its undo, and the maintenance window closes at {}",
                text(*to, &zone)
            ),
        }),
        None => closed.push(Closed {
            gate: GateName::Windows,
            why: "no maintenance window of policy.windows is open now".to_owned(),
        }),
    }
    let end = now.saturating_add(length).unwrap_or(Timestamp::MAX);
    let meets = |freeze: &&Freeze| (freeze.from <= now || freeze.from < end) && now < freeze.to;
    for freeze in freezes.iter().filter(meets) {
        let when = if freeze.from <= now { "there is a freeze" } else { "a freeze begins before the work would end" };
        let why = format!("{when}: {} (until {})", freeze.reason, text(freeze.to, &zone));
        closed.push(Closed { gate: GateName::Freezes, why });
    }
    let next = if closed.is_empty() { None } else { next(&openings, freezes, now, length) };
    Answer { closed, next, zone }
}

/// What a plan says of windows and freezes when it is made: when it may be applied, where that is not now.
pub(super) fn note(topology: &Topology, plan: &Plan) -> Option<String> {
    let answer = answer(&topology.policy, &plan.intent.overrides, plan.created, plan.needs());
    let refusal = answer.refusal()?;
    let late = answer.next.is_some_and(|(from, _)| from >= plan.expires);
    let late = if late { ", when this plan has expired: make a new one then" } else { "" };
    Some(format!("apply would refuse now: {refusal}{late}"))
}

fn fits((from, to): Opening, begin: Timestamp, length: SignedDuration) -> bool {
    from <= begin && begin.saturating_add(length).is_ok_and(|end| end <= to)
}

/// The first time of this length within an opening and outside of every freeze, with its end.
fn next(openings: &[Opening], freezes: &[Freeze], now: Timestamp, length: SignedDuration) -> Option<Opening> {
    let mut freezes: Vec<Opening> = freezes.iter().map(|freeze| (freeze.from, freeze.to)).collect();
    freezes.sort();
    openings.iter().filter(|(_, to)| *to > now).find_map(|(from, to)| {
        let mut begin = (*from).max(now);
        for (frozen, thawed) in &freezes {
            if *thawed <= begin {
                continue;
            }
            // What is between the end of one freeze and the beginning of the next.
            if fits((begin, (*to).min(*frozen)), begin, length) {
                return Some((begin, (*to).min(*frozen)));
            }
            begin = begin.max(*thawed);
        }
        fits((begin, *to), begin, length).then_some((begin, *to))
    })
}

/// When work is allowed, in order and without overlap, from the openings around `now` to some that follow the last freeze. Without
/// windows that is always.
fn openings(windows: &[Window], now: Timestamp, thawed: Option<Timestamp>) -> Vec<Opening> {
    if windows.is_empty() {
        return vec![(Timestamp::MIN, Timestamp::MAX)];
    }
    let last = thawed.unwrap_or(now).max(now);
    let days = (last.duration_since(now).as_hours() / 24 + AHEAD).min(MOST);
    let mut openings: Vec<Opening> = windows
        .iter()
        .flat_map(|window| {
            let today = now.to_zoned(window.zone.clone()).date();
            // Yesterday's window may still be open.
            (-1..=days).filter_map(move |day| today.checked_add(day.days()).ok()).flat_map(|day| opening(window, day))
        })
        .collect();
    openings.sort();
    let mut merged: Vec<Opening> = Vec::new();
    for (from, to) in openings {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// When the window that begins on this day is open: whenever the clocks of its zone show a time in it. Where they are put back that can
/// be twice; of a time that they skip nothing is left.
fn opening(window: &Window, day: Date) -> Vec<Opening> {
    if !window.days.contains(&day.weekday()) {
        return Vec::new();
    }
    let last = if window.to > window.from { Ok(day) } else { day.checked_add(1.day()) };
    let Ok(last) = last else { return Vec::new() };
    let (from, to) = (DateTime::from_parts(day, window.from), DateTime::from_parts(last, window.to));
    // No offset from UTC is as large as a day and two hours.
    let far = SignedDuration::from_hours(26);
    let utc = |moment: DateTime| TimeZone::UTC.to_timestamp(moment);
    let (Ok(begin), Ok(end)) =
        (utc(from).and_then(|at| at.checked_sub(far)), utc(to).and_then(|at| at.checked_add(far)))
    else {
        return Vec::new();
    };
    let mut changes: Vec<Timestamp> =
        window.zone.following(begin).map(|change| change.timestamp()).take_while(|at| *at < end).collect();
    changes.insert(0, begin);
    let ends = changes.iter().skip(1).copied().chain([end]);
    let periods = changes.iter().copied().zip(ends);
    let open = periods.filter_map(|(since, until)| {
        let offset = window.zone.to_offset(since);
        let (from, to) = (offset.to_timestamp(from).ok()?.max(since), offset.to_timestamp(to).ok()?.min(until));
        (from < to).then_some((from, to))
    });
    open.collect()
}

fn text(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string()
}

#[cfg(test)]
mod tests;
