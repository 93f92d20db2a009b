//! What hosts stop and start by name: every target whose host has the commands for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Place, ProviderName, Setting, SettingValue, Settings, Target, TargetId, TargetKind, Unit};
use crate::topology::Topology;

/// The host's commands, and what they are to the provider that runs them.
const COMMANDS: [(&str, &str); 3] = [("stop_server", "stop"), ("start_server", "start"), ("check_server", "check")];

/// Stands for the target's name in a command.
const NAME: &str = "{name}";

/// The units of a topology. Targets of one name on one host, such as one application server of several services, are one unit.
pub(super) fn units(topology: &Topology) -> BTreeMap<TargetId, Unit> {
    let mut units: BTreeMap<TargetId, Unit> = BTreeMap::new();
    for target in topology.targets().filter(|target| target.kind != TargetKind::Job) {
        let Some((host, settings)) = target.host.as_ref().and_then(|host| Some((host, settings(host, target.name())?)))
        else {
            continue;
        };
        let id = TargetId::unit(&host.name, target.name());
        let unit = units.entry(id.clone()).or_insert_with(|| Unit {
            target: Arc::new(Target {
                id,
                kind: TargetKind::Unit,
                facility: target.facility.clone(),
                provider: ProviderName::new("command"),
                address: String::new(),
                settings,
                host: Some(Arc::clone(host)),
            }),
            of: BTreeSet::new(),
            kind: target.kind,
        });
        unit.of.insert(target.id.clone());
    }
    units
}

/// The commands with the name filled in; none where the host lacks one of them.
fn settings(host: &crate::model::Host, name: &str) -> Option<Settings> {
    let place = Place::default();
    let entries = COMMANDS.iter().map(|(command, verb)| {
        let words = host.commands.get(*command)?.iter();
        let text = |word: &String| Setting { value: SettingValue::Text(word.replace(NAME, name)), place };
        let list = Setting { value: SettingValue::List(words.map(text).collect()), place };
        let map = SettingValue::Map(BTreeMap::from([("command".to_owned(), (place, list))]));
        Some(((*verb).to_owned(), (place, Setting { value: map, place })))
    });
    Some(Settings { entries: entries.collect::<Option<_>>()?, place })
}
