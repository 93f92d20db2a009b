//! The settings of a job: `stop`, `start` and `check`, each `{command: [PROGRAM, ARGUMENT, …]}`.

use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::model::{SettingValue, Settings, TargetKind};

const HELP: &str = "write `{command: [PROGRAM, ARGUMENT, …]}`; no shell reads it";

/// What a job's commands are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Stop,
    Start,
    Check,
}

impl Verb {
    const ALL: [Self; 3] = [Self::Stop, Self::Start, Self::Check];

    pub fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Check => "check",
        }
    }
}

/// The command for a verb.
pub(super) fn command(settings: &Settings, verb: Verb) -> Result<Vec<String>, Diagnostic> {
    let word = verb.word();
    let Some(setting) = settings.get(word) else {
        let message = format!("a job needs the command `{word}`");
        return Err(Diagnostic::error("missing-setting", settings.place, message).help(HELP));
    };
    let wrong = |place, message: String| Diagnostic::error("bad-setting", place, message).help(HELP);
    let SettingValue::Map(map) = &setting.value else {
        return Err(wrong(setting.place, format!("`{word}` is a map with the key `command`, not {}", setting.kind())));
    };
    if let Some((key, (place, _))) = map.iter().find(|(key, _)| *key != "command") {
        return Err(Diagnostic::error("unknown-key", *place, format!("`{word}` has no key `{key}`")).help(HELP));
    }
    let Some((_, command)) = map.get("command") else {
        return Err(wrong(setting.place, format!("`{word}` needs the key `command`")));
    };
    let SettingValue::List(items) = &command.value else {
        return Err(wrong(command.place, format!("a command is a list of texts, not {}", command.kind())));
    };
    let texts = items.iter().map(|item| {
        let text = item.as_text().filter(|text| !text.contains('\0'));
        text.map(str::to_owned).ok_or_else(|| {
            let message = format!("an argument is a text without NUL, not {}; put it into quotes", item.kind());
            wrong(item.place, message)
        })
    });
    let argv = texts.collect::<Result<Vec<_>, _>>()?;
    match argv.first() {
        Some(program) if !program.is_empty() => Ok(argv),
        _ => Err(wrong(command.place, format!("the command of `{word}` names no program"))),
    }
}

/// Judges a job's settings: the three commands must be there, and there are no others.
pub fn check(_kind: TargetKind, settings: &Settings) -> Vec<Diagnostic> {
    let mut findings: Vec<Diagnostic> =
        Verb::ALL.into_iter().filter_map(|verb| command(settings, verb).err()).collect();
    let unknown = settings.entries.iter().filter(|(key, _)| Verb::ALL.iter().all(|verb| verb.word() != *key));
    for (key, (place, _)) in unknown {
        let message = format!("a job has no command `{key}`");
        findings.push(
            Diagnostic::error("unknown-key", *place, message).help("its commands are `stop`, `start` and `check`"),
        );
    }
    findings
}

/// JSON Schema of a job's settings.
pub fn schema() -> Value {
    let command = |about: &str| {
        json!({
            "description": about,
            "type": "object",
            "properties": {
                "command": {
                    "description": "Program and arguments; no shell reads them.",
                    "type": "array",
                    "items": { "type": "string" },
                    "minItems": 1,
                },
            },
            "required": ["command"],
            "additionalProperties": false,
        })
    };
    json!({
        "type": "object",
        "properties": {
            "stop": command("Stops the job; returns when it is stopped."),
            "start": command("Starts the job."),
            "check": command("Exit status 0 while the job runs, 1 while it does not."),
        },
        "required": ["stop", "start", "check"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Place, Setting};

    fn at(start: u32, value: SettingValue) -> Setting {
        Setting { value, place: Place { start, end: start } }
    }

    fn map(start: u32, entries: Vec<(&str, Setting)>) -> Setting {
        let entries = entries.into_iter().map(|(key, setting)| (key.to_owned(), (setting.place, setting)));
        at(start, SettingValue::Map(entries.collect()))
    }

    fn words(start: u32, words: &[&str]) -> Setting {
        let items = words.iter().map(|word| at(start + 1, SettingValue::Text((*word).to_owned())));
        at(start, SettingValue::List(items.collect()))
    }

    fn settings(entries: Vec<(&str, Setting)>) -> Settings {
        let entries: BTreeMap<_, _> =
            entries.into_iter().map(|(key, setting)| (key.to_owned(), (setting.place, setting))).collect();
        Settings { entries, place: Place::default() }
    }

    #[test]
    fn three_commands_are_what_a_job_needs() {
        let command = |start, verb| map(start, vec![("command", words(start + 1, &["/srv/billing", verb]))]);
        let all = settings(vec![
            ("stop", command(10, "stop")),
            ("start", command(20, "start")),
            ("check", command(30, "check")),
        ]);
        assert_eq!(check(TargetKind::Job, &all), []);
        assert_eq!(super::command(&all, Verb::Start).unwrap(), ["/srv/billing", "start"]);
    }

    #[test]
    fn all_findings_come_at_once_each_at_its_place() {
        let broken = settings(vec![
            ("stop", at(10, SettingValue::Text("systemctl stop billing".to_owned()))),
            ("start", map(20, vec![("command", words(21, &[]))])),
            ("check", map(30, vec![("command", at(31, SettingValue::List(vec![at(32, SettingValue::Integer(1))])))])),
            ("restart", at(40, SettingValue::Null)),
        ]);
        let findings: Vec<_> =
            check(TargetKind::Job, &broken).into_iter().map(|finding| (finding.code, finding.place.start)).collect();
        assert_eq!(findings, [("bad-setting", 10), ("bad-setting", 21), ("bad-setting", 32), ("unknown-key", 40)]);
        let missing = check(TargetKind::Job, &settings(vec![("stop", map(10, vec![("comand", words(11, &["x"]))]))]));
        let codes: Vec<_> = missing.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["unknown-key", "missing-setting", "missing-setting"]);
    }
}
