//! Maintenance windows: may planned work that begins now run to its end? Pure.

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, ToSpan, Zoned};

use crate::model::{Span, Window};

/// Why work of this length must not begin now; none where there are no windows or it fits into one.
pub fn outside(windows: &[Window], now: Timestamp, expected: Span) -> Option<String> {
    if windows.is_empty() {
        return None;
    }
    let end = now.checked_add(expected.0).unwrap_or(Timestamp::MAX);
    // Yesterday's window may still be open.
    let spans = || {
        windows.iter().flat_map(|window| {
            let today = now.to_zoned(window.zone.clone()).date();
            (-1..=7).filter_map(move |days| occurrence(window, today.checked_add(days.days()).ok()?))
        })
    };
    if spans().any(|(from, to)| from.timestamp() <= now && end <= to.timestamp()) {
        return None;
    }
    let open = spans().find(|(from, to)| from.timestamp() <= now && now < to.timestamp());
    let next = spans().filter(|(from, _)| from.timestamp() > now).min_by_key(|(from, _)| from.timestamp());
    let next = next
        .map(|(from, to)| format!("; the next one opens at {} and closes at {}", text(&from), text(&to)))
        .unwrap_or_default();
    Some(match open {
        Some((_, to)) => {
            format!("the plan needs about {expected}, and the maintenance window closes at {}{next}", text(&to))
        }
        None => format!("no maintenance window of policy.windows is open now{next}"),
    })
}

fn text(moment: &Zoned) -> String {
    moment.strftime("%a %Y-%m-%d %H:%M %Z").to_string()
}

/// The window that begins on this day, if it does.
fn occurrence(window: &Window, day: Date) -> Option<(Zoned, Zoned)> {
    if !window.days.contains(&day.weekday()) {
        return None;
    }
    let at = |date: Date, time| DateTime::from_parts(date, time).to_zoned(window.zone.clone()).ok();
    let last = if window.to > window.from { day } else { day.checked_add(1.day()).ok()? };
    Some((at(day, window.from)?, at(last, window.to)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::{Weekday, time};
    use jiff::tz::TimeZone;

    fn night() -> Window {
        let zone = TimeZone::get("America/Boise").unwrap();
        Window { days: vec![Weekday::Tuesday], from: time(23, 0, 0, 0), to: time(2, 0, 0, 0), zone }
    }

    fn check(now: &str, minutes: u64) -> Option<String> {
        outside(&[night()], now.parse().unwrap(), Span::secs(minutes * 60))
    }

    #[test]
    fn work_that_fits_is_let_through_also_past_midnight() {
        assert_eq!(check("2026-11-24T23:10:00-07:00", 60), None);
        assert_eq!(check("2026-11-25T01:00:00-07:00", 30), None);
    }

    #[test]
    fn work_outside_or_too_long_is_told_when_to_come_back() {
        let closed = check("2026-11-25T09:00:00-07:00", 5).unwrap();
        assert!(closed.contains("opens at Tue 2026-12-01 23:00 MST"), "{closed}");
        let long = check("2026-11-25T01:00:00-07:00", 90).unwrap();
        assert!(long.contains("closes at Wed 2026-11-25 02:00 MST"), "{long}");
    }

    #[test]
    fn no_windows_means_always() {
        assert_eq!(outside(&[], Timestamp::UNIX_EPOCH, Span::secs(1)), None);
    }
}
