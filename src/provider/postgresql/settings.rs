//! The settings of a member: pure.

use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::model::{Settings, Target, TargetKind};
use crate::secret::Reference;

const KEYS: [&str; 9] =
    ["user", "password", "replication", "data_directory", "bin_directory", "database", "log", "keep_old", "keep_free"];

/// Disk space in MiB that a rebuild leaves free, where nothing is set.
const KEEP_FREE: u64 = 1024;

/// What a rebuild keeps aside: `data` or `wal`, and the MiB of disk that it leaves free.
pub(super) fn keeps(target: &Target) -> (&str, u64) {
    let free = target.settings.text("keep_free").and_then(mebibytes).unwrap_or(KEEP_FREE);
    (target.settings.text("keep_old").unwrap_or("data"), free)
}

/// `10 GiB` or `500 MiB`.
fn mebibytes(text: &str) -> Option<u64> {
    let (number, factor) = match text.strip_suffix("GiB") {
        Some(number) => (number, 1024),
        None => (text.strip_suffix("MiB")?, 1),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

/// Keywords of a connection text that `replication` must not hold: the first is a secret, the others are ours.
const NOT_IN_REPLICATION: [(&str, &str); 5] = [
    ("password", "a secret is never written into the topology: use `passfile=PATH` on the members' machines"),
    ("host", "it is the primary's address"),
    ("hostaddr", "it is the primary's address"),
    ("port", "it is the primary's address"),
    ("application_name", "it is the replica's name"),
];

/// Judges a member's settings, all at once.
pub fn check(_kind: TargetKind, settings: &Settings) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    if settings.get("user").is_none() {
        findings.push(
            Diagnostic::error(
                "missing-setting",
                settings.place,
                "`user` is missing: the role that `handover` logs in as",
            )
            .help("docs/providers.md lists the rights that it needs"),
        );
    }
    for (key, (place, setting)) in &settings.entries {
        match key.as_str() {
            "password" => findings.extend(Reference::parse(setting).err()),
            known if KEYS.contains(&known) => {
                let Some(text) = setting.as_text().filter(|text| !text.is_empty()) else {
                    let message = format!("`{key}` is a text, not {}", setting.kind());
                    findings.push(Diagnostic::error("wrong-setting", setting.place, message));
                    continue;
                };
                if text.contains(['\0', '\n']) {
                    findings.push(Diagnostic::error("wrong-setting", setting.place, format!("`{key}` is one line")));
                }
                if key.ends_with("directory") || key == "log" {
                    if !text.starts_with('/') {
                        let message = format!("`{key}` is a path on the member's machine: it begins with `/`");
                        findings.push(Diagnostic::error("wrong-setting", setting.place, message));
                    }
                } else if key == "keep_old" && !["data", "wal"].contains(&text) {
                    let message = "`keep_old` is `data` (the whole old data directory, where there is space) or `wal`";
                    findings.push(Diagnostic::error("wrong-setting", setting.place, message));
                } else if key == "keep_free" && mebibytes(text).is_none() {
                    let message = "`keep_free` is a size such as `10 GiB` or `500 MiB`";
                    findings.push(Diagnostic::error("wrong-setting", setting.place, message));
                } else if key == "replication" {
                    for (word, why) in NOT_IN_REPLICATION {
                        if keywords(text).any(|keyword| keyword == word) {
                            let message = format!("`replication` must not hold `{word}`: {why}");
                            findings.push(Diagnostic::error("wrong-setting", setting.place, message));
                        }
                    }
                }
            }
            _ => findings.push(
                Diagnostic::error("unknown-key", *place, format!("the provider `postgresql` has no setting `{key}`"))
                    .help(format!("it has {}", crate::model::text::list(KEYS.map(|key| format!("`{key}`"))))),
            ),
        }
    }
    findings
}

/// JSON Schema of a member's settings.
pub fn schema() -> Value {
    let text = |about: &str| json!({ "description": about, "type": "string", "minLength": 1 });
    let path = |about: &str| json!({ "description": about, "type": "string", "pattern": "^/" });
    json!({
        "type": "object",
        "properties": {
            "user": text("The role that `handover` logs in as."),
            "password": Reference::schema("The password of that role."),
            "replication": text(
                "How replicas log in at the primary, such as `user=replicator passfile=/srv/pgpass`; no secret, no address."
            ),
            "data_directory": path("The data directory on the member's machine."),
            "bin_directory": path("Where `pg_ctl` and the other programs are."),
            "database": text("The database that `handover` logs in to."),
            "keep_old": json!({
                "description": "What a rebuild keeps aside of a diverged member: the whole old `data` directory where there is space, or its `wal` only.",
                "enum": ["data", "wal"],
            }),
            "keep_free": text("Disk space that a rebuild leaves free, such as `10 GiB`."),
            "log": path("The file that the server's messages go to when it is started from here."),
        },
        "required": ["user"],
        "additionalProperties": false,
    })
}

/// The words before each `=`; blanks are allowed around it.
fn keywords(connection: &str) -> impl Iterator<Item = &str> {
    connection.match_indices('=').filter_map(|(at, _)| connection[..at].split_whitespace().next_back())
}

/// Why a member cannot be stopped and started from here, if so.
pub(super) fn no_control(target: &Target) -> Option<String> {
    if target.host.is_none() {
        return Some(format!("{} has no `host`, so that it cannot be stopped and started from here", target.name()));
    }
    if target.settings.text("data_directory").is_none() {
        return Some(format!("{} has no setting `data_directory`", target.name()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Place, Setting, SettingValue};

    fn settings(entries: &[(&str, SettingValue)]) -> Settings {
        let place = Place::default();
        let entry =
            |(key, value): &(&str, SettingValue)| ((*key).to_owned(), (place, Setting { value: value.clone(), place }));
        Settings { entries: entries.iter().map(entry).collect(), place }
    }

    fn text(text: &str) -> SettingValue {
        SettingValue::Text(text.to_owned())
    }

    #[test]
    fn every_wrong_setting_is_found_at_once() {
        let wrong = settings(&[
            ("password", text("geheim")),
            ("replication", text("user=r password = x host=a")),
            ("data_directory", text("srv/data")),
            ("database", SettingValue::Integer(1)),
            ("datadir", text("/x")),
            ("keep_free", text("10")),
            ("keep_old", text("all")),
        ]);
        let findings = check(TargetKind::Member, &wrong);
        let codes: Vec<&str> = findings.iter().map(|finding| finding.code).collect();
        assert_eq!(
            codes,
            [
                "missing-setting",
                "wrong-setting",
                "wrong-setting",
                "unknown-key",
                "wrong-setting",
                "wrong-setting",
                "secret-reference",
                "wrong-setting",
                "wrong-setting"
            ]
        );
        assert!(findings.iter().all(|finding| !finding.message.contains("geheim")));
    }

    #[test]
    fn the_worked_example_is_right() {
        let right = settings(&[
            ("user", text("handover")),
            ("replication", text("user=replicator passfile=/srv/secrets/pgpass")),
            ("data_directory", text("/srv/west-pg1/data")),
        ]);
        assert_eq!(check(TargetKind::Member, &right), Vec::new());
    }
}
