//! What a step changes, line by line, as an operator reads it.

use std::collections::{BTreeMap, BTreeSet};

use similar::{Algorithm, ChangeTag, capture_diff_slices};

use super::text::{Text, Tone, count, duration};
use crate::model::{
    Action, Admission, DrainThen, ForeignName, FromTo, RecordSet, RecordType, ServerSetting, TargetId, text::list,
};
use crate::plan::{Gate, Step, Undo, Wait, Work};

/// The symbol of a step, with its tone.
pub(super) fn symbol(step: &Step) -> (&'static str, Tone) {
    match &step.work {
        Work::Act {
            action: Action::Start | Action::Unfence { .. } | Action::Resume { .. } | Action::Redirect { .. },
            ..
        } => ("+", Tone::Good),
        Work::Act { action: Action::Stop | Action::Fence { .. } | Action::CutSessions { .. }, .. } => ("-", Tone::Bad),
        Work::Act { action: Action::CatchUp { .. } | Action::Marker { .. }, .. } | Work::Verify => ("=", Tone::Good),
        Work::Act { .. } | Work::Release { .. } => ("~", Tone::Change),
        Work::Gate { .. } => ("?", Tone::Warn),
        Work::Wait { .. } => (".", Tone::Dim),
    }
}

/// From → to, one line per thing; things that change alike share a line.
pub(super) fn details(step: &Step) -> Vec<Text> {
    match &step.work {
        Work::Act { action, .. } => action_details(action),
        Work::Gate { gate } => gate_details(gate),
        Work::Wait { wait: Wait::Sessions { deadline, then, .. } } => {
            let then = match then {
                DrainThen::Leave => "then those that remain are left running and reported",
                DrainThen::Cut => "then those that remain are cut",
            };
            vec![format!("at most {}, {then}", duration(deadline.0)).into()]
        }
        Work::Wait { wait: Wait::Connections { deadline, .. } } => {
            vec![format!("at most {}, then each is closed with the client's next answer", duration(deadline.0)).into()]
        }
        Work::Wait { wait: Wait::OldTtl { .. } } | Work::Release { .. } => Vec::new(),
        // A check of the whole plan demands hundreds of things; each is in the plan file.
        Work::Verify if step.after.len() > 6 => {
            vec![
                format!("{} demands on {}", step.after.len(), kinds(step.after.iter().map(|demand| &demand.target)))
                    .into(),
            ]
        }
        Work::Verify => step
            .after
            .iter()
            .map(|demand| {
                let target = demand.target.name();
                format!("{target} {}", crate::model::text::condition(&demand.condition)).into()
            })
            .collect(),
    }
}

/// How a step is taken back.
pub(super) fn undo(step: &Step) -> String {
    match &step.undo {
        Undo::Nothing => "nothing to take back".to_owned(),
        Undo::Impossible { why } => format!("no way back: {why}"),
        Undo::Act { action, .. } => match action {
            Action::SetRecords { .. } => "the record sets as before".to_owned(),
            Action::SetEpoch { .. } => "raise it again, to what was said before".to_owned(),
            Action::SetShare { .. } => "weights and admission as before".to_owned(),
            Action::WriteRoute { route, .. } | Action::RestoreRoute { route, .. } => {
                format!("write {} again", route.to)
            }
            Action::Route { route, .. } => format!("load {} again", route.to),
            Action::Pause { .. } => "hold clients back again".to_owned(),
            Action::Resume { .. } => "let clients go on".to_owned(),
            Action::Unfence { .. } => "start it again as the primary that it was".to_owned(),
            Action::Start => "start it again".to_owned(),
            Action::Stop => "stop it again".to_owned(),
            Action::Native { .. } => "take it back, as it was before".to_owned(),
            other => words(other.verb()),
        },
    }
}

fn action_details(action: &Action) -> Vec<Text> {
    match action {
        Action::SetRecords { sets, .. } => {
            let alike = alike(sets.iter().map(|(key, change)| (key.name.as_str(), (key.rtype, change))));
            alike.into_iter().map(|(names, (rtype, change))| record_sets(rtype, &names, change)).collect()
        }
        Action::SetEpoch { epoch, .. } => {
            let text = |epoch: &Option<crate::model::Epoch>| crate::model::text::epoch(epoch.as_ref());
            vec![from_to(Text::from(String::new()), &text(&epoch.from), &text(&epoch.to))]
        }
        Action::SetShare { backends } => {
            // Servers that change alike first, then backends in which the same servers change alike.
            let changes = backends.iter().map(|(backend, servers)| (backend, alike(servers.iter())));
            alike(changes).into_iter().map(|(backends, changes)| settings(&backends, &changes)).collect()
        }
        Action::CutSessions { backends } => {
            backends.iter().map(|(backend, servers)| format!("{backend}: {}", list(servers.iter())).into()).collect()
        }
        Action::WriteRoute { database, route }
        | Action::RestoreRoute { database, route }
        | Action::Redirect { database, route }
        | Action::Route { database, route } => {
            vec![from_to(Text::from(format!("{database} ")), &route.from, &route.to)]
        }
        Action::Fence { successor } => {
            vec![
                format!("can only come back as a replica of {} ({})", successor.member.name(), successor.address)
                    .into(),
            ]
        }
        Action::Promote { lineage } => {
            vec![from_to(
                Text::from("timeline "),
                &lineage.timeline.to_string(),
                &lineage.timeline.saturating_add(1).to_string(),
            )]
        }
        Action::Rebuild { primary, .. } => vec![
            format!("becomes a replica of {} ({})", primary.member.name(), primary.address).into(),
            "what only it has is kept beside its data directory and listed; then pg_rewind, or a new copy".into(),
        ],
        Action::Rejoin { primary } => vec![format!("follows {} ({})", primary.member.name(), primary.address).into()],
        Action::Native { args, .. } => {
            let told = args.iter().filter(|(_, values)| values.iter().any(|value| !value.is_empty()));
            let told: Vec<String> =
                told.map(|(name, values)| format!("{} {}", words(name), values.join(", "))).collect();
            if told.is_empty() { Vec::new() } else { vec![told.join("; ").into()] }
        }
        Action::CatchUp { .. }
        | Action::Pause { .. }
        | Action::Resume { .. }
        | Action::Marker { .. }
        | Action::Unfence { .. }
        | Action::Withdraw { .. }
        | Action::Keep { .. }
        | Action::Stop
        | Action::Start => Vec::new(),
    }
}

/// Things that change alike, together.
fn alike<K, V: PartialEq>(changes: impl IntoIterator<Item = (K, V)>) -> Vec<(Vec<K>, V)> {
    let mut alike: Vec<(Vec<K>, V)> = Vec::new();
    for (name, change) in changes {
        match alike.iter_mut().find(|(_, other)| *other == change) {
            Some((names, _)) => names.push(name),
            None => alike.push((vec![name], change)),
        }
    }
    alike
}

fn gate_details(gate: &Gate) -> Vec<Text> {
    match gate {
        Gate::Switchable { .. } => Vec::new(),
        Gate::Capacity { servers, .. } => vec![format!("{} must be healthy", count(servers.len(), "server")).into()],
        Gate::Soak { window, max_error_rate, max_queue, min_sample, watched } => {
            let proxies = list(watched.keys().map(|id| id.name()));
            vec![
                format!("watched for {} at {proxies}", duration(window.0)).into(),
                format!(
                    "failed requests at most {max_error_rate}, queue at most {max_queue}; fewer than {min_sample} requests: probes are the sample"
                )
                .into(),
            ]
        }
        Gate::Lost { fenced_by_command: false, .. } => vec!["it must be dead: nothing cuts it off".into()],
        Gate::Lost { fenced_by_command: true, .. } => Vec::new(),
        Gate::Off { targets } => vec![format!("{} must be silent", kinds(targets.iter())).into()],
        Gate::Synthetic { services, addresses } => {
            vec![format!("{} at {}", list(services), list(addresses)).into()]
        }
    }
}

fn record_sets(rtype: RecordType, names: &[&str], change: &FromTo<Option<RecordSet>>) -> Text {
    let data = |set: &Option<RecordSet>| -> Vec<String> {
        set.iter().flat_map(|set| set.data.iter().map(ToString::to_string)).collect()
    };
    let (from, to) = (data(&change.from), data(&change.to));
    let mut text = Text::of(Tone::Strong, format!("{rtype} of {}", list(names)));
    match (change.from.as_ref().map(|set| set.ttl), change.to.as_ref().map(|set| set.ttl)) {
        (Some(from), Some(to)) if from != to => {
            text = text
                .and(", TTL ")
                .with(Tone::Bad, format!("{from}s"))
                .and("\u{a0}→\u{a0}")
                .with(Tone::Good, format!("{to}s"));
        }
        (Some(ttl), _) | (None, Some(ttl)) => text = text.and(format!(", TTL {ttl}s")),
        (None, None) => {}
    }
    text.push(Tone::Plain, ":");
    for operation in capture_diff_slices(Algorithm::Myers, &from, &to) {
        for part in operation.iter_changes(&from, &to) {
            match part.tag() {
                ChangeTag::Equal => text.push(Tone::Dim, format!(" {}", part.value())),
                ChangeTag::Delete => text.push(Tone::Bad, format!(" -{}", part.value())),
                ChangeTag::Insert => text.push(Tone::Good, format!(" +{}", part.value())),
            }
        }
    }
    text
}

fn settings(backends: &[&ForeignName], changes: &[(Vec<&ForeignName>, &FromTo<ServerSetting>)]) -> Text {
    let mut text = Text::of(Tone::Strong, list(backends)).and(":");
    for (index, (servers, change)) in changes.iter().enumerate() {
        let between = if index > 0 { "; " } else { " " };
        let (from, to) = match (change.from.admission, change.to.admission) {
            (Admission::Ready, Admission::Ready) => {
                (format!("weight\u{a0}{}", change.from.weight), change.to.weight.to_string())
            }
            _ => (change.from.to_string(), change.to.to_string()),
        };
        text = from_to(text.and(format!("{between}{} ", list(servers))), &from, &to);
    }
    text
}

fn from_to(before: Text, from: &str, to: &str) -> Text {
    before.with(Tone::Dim, from).and("\u{a0}→\u{a0}").with(Tone::Change, to)
}

/// A verb of the plan file as words.
fn words(verb: &str) -> String {
    verb.replace('_', " ")
}

/// Targets by kind: "4 proxies and 2 poolers"; each counts once.
pub(super) fn kinds<'a>(targets: impl Iterator<Item = &'a TargetId>) -> String {
    let mut kinds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for target in targets {
        let kind = match target.as_str().split('/').next() {
            Some("dns") => "name server",
            Some("proxy") => "proxy",
            Some("app") => "application server",
            Some("member") => "database server",
            Some("pooler") => "pooler",
            Some("job") => "job",
            Some("unit") => "server process",
            _ => "target",
        };
        kinds.entry(kind).or_default().insert(target.as_str());
    }
    list(kinds.iter().map(|(kind, names)| count(names.len(), kind)))
}

/// How long a plan waits by design: soaks add up, old answers are forgotten side by side.
pub(super) fn waits(steps: &[Step]) -> BTreeMap<&'static str, std::time::Duration> {
    let mut waits: BTreeMap<&'static str, std::time::Duration> = BTreeMap::new();
    for step in steps {
        match &step.work {
            Work::Gate { gate: Gate::Soak { window, .. } } => *waits.entry("soak").or_default() += window.0,
            Work::Wait { wait: Wait::OldTtl { time } } => {
                let longest = waits.entry("old DNS answers").or_default();
                *longest = (*longest).max(time.0);
            }
            _ => {}
        }
    }
    waits
}
