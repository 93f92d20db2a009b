//! How to go on after a run: the one place that says so, for whoever tells of its end.

use super::WayOn;
use crate::journal::RunEnd;
use crate::plan::Intent;

/// The ways on, the safest first; none after a run that did what it should. A run without an end died, or somebody lost sight of it.
pub fn ways_on(intent: &Intent, end: Option<RunEnd>) -> Vec<WayOn> {
    let way = |what: &str, command: Option<String>| WayOn { what: what.to_owned(), command };
    let flags = intent.drain.iter().map(|facility| format!(" --drain {facility}"));
    let flags = flags.chain(intent.restore.iter().map(|facility| format!(" --restore {facility}")));
    let flags: Vec<String> = flags.chain(intent.failback.then(|| " --failback".to_owned())).collect();
    let again = Some(format!("handover plan{}", flags.concat()));
    let mut ways = vec![way("see how things are now", Some("handover status".to_owned()))];
    match end {
        Some(RunEnd::Done) => return Vec::new(),
        Some(RunEnd::Stuck) => {
            ways.push(way("look at the target by hand before anything else is applied", None));
            ways.push(way("once it is repaired, go on", Some("handover apply --resume".to_owned())));
        }
        Some(RunEnd::Refused | RunEnd::Undone) => ways.push(way("once the cause is gone, plan again", again)),
        Some(RunEnd::Stopped) | None => {
            ways.push(way("go on from here", Some("handover apply --resume".to_owned())));
            ways.push(way("go back, as long as no new primary has taken over", Some("handover rollback".to_owned())));
            ways.push(way("or make a new plan: it holds only what is left", again));
            let back: Vec<String> = intent.drain.iter().map(|facility| format!(" --restore {facility}")).collect();
            if !back.is_empty() {
                ways.push(way("and to bring the facility back", Some(format!("handover plan{}", back.concat()))));
            }
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_that_stopped_can_be_finished_or_taken_back() {
        let intent = Intent { drain: ["west".into()].into(), ..Intent::default() };
        let commands = |end| ways_on(&intent, end).into_iter().filter_map(|way| way.command).collect::<Vec<_>>();
        let both = [
            "handover status",
            "handover apply --resume",
            "handover rollback",
            "handover plan --drain west",
            "handover plan --restore west",
        ];
        assert_eq!(commands(Some(RunEnd::Stopped)), both);
        assert_eq!(commands(None), both);
        assert_eq!(commands(Some(RunEnd::Stuck)), ["handover status", "handover apply --resume"]);
        assert_eq!(commands(Some(RunEnd::Done)), [""; 0]);
    }
}
