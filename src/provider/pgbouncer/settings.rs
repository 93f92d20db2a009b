//! The settings of a pooler: pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, NEEDS_HOST};
use crate::model::text;
use crate::model::{Place, Setting, SettingValue, Settings, TargetKind};
use crate::provider::pgwire::split_address;
use crate::secret::Reference;

const KEYS: [&str; 5] = ["admin", "password", "consoles", "databases", "probe"];

const CONSOLE: &str =
    "write `tcp://HOST:PORT`, an address of that process alone, or `unix:/PATH`, a socket of this machine";

/// Where the consoles of a pooler's processes are, as the setting `consoles` lists them: `host:port` or `unix:/PATH`.
pub(super) fn consoles(settings: &Settings) -> Vec<String> {
    match settings.get("consoles").map(|setting| &setting.value) {
        Some(SettingValue::List(items)) => items.iter().filter_map(|item| console(item.as_text()?)).collect(),
        _ => Vec::new(),
    }
}

fn console(text: &str) -> Option<String> {
    match text.strip_prefix("tcp://") {
        Some(address) => split_address(address).filter(|(_, port)| *port > 0).map(|_| address.to_owned()),
        None => text.strip_prefix("unix:/").map(|_| text.to_owned()),
    }
}

/// Judges a pooler's settings, all at once.
pub fn check(_kind: TargetKind, settings: &Settings) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    if settings.get("admin").is_none() {
        let message = "`admin` is missing: a user of `admin_users` for pgbouncer's console";
        findings.push(Diagnostic::error("missing-setting", settings.place, message));
    }
    if settings.get("databases").is_none() {
        let message = "`databases` is missing: the file on the pooler's machine that holds the section [databases]";
        findings.push(
            Diagnostic::warning("missing-setting", settings.place, message)
                .help("without it, and a `host`, the pooler can be read, but not led to another primary"),
        );
    }
    for (key, (place, setting)) in &settings.entries {
        match key.as_str() {
            "admin" => findings.extend(wrong_text(key, setting)),
            "databases" => {
                findings.extend(wrong_text(key, setting));
                let message = "`databases` is on the pooler's machine, and the pooler names no `host`";
                let needs_host = Diagnostic::warning(NEEDS_HOST, setting.place, message);
                findings.push(needs_host.help("without it the pooler can be read, but not led to another primary"));
                if setting.as_text().is_some_and(|path| !path.starts_with('/')) {
                    let message = "`databases` is a path on the pooler's machine: it begins with `/`";
                    findings.push(Diagnostic::error("wrong-setting", setting.place, message));
                }
            }
            "password" => findings.extend(Reference::parse(setting).err()),
            "consoles" => wrong_consoles(setting, &mut findings),
            "probe" => probe(setting, &mut findings),
            _ => findings.push(unknown("the provider `pgbouncer`", key, *place, &KEYS)),
        }
    }
    findings
}

/// JSON Schema of a pooler's settings.
pub fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "admin": { "description": "A user of `admin_users`, for the pooler's console.", "type": "string", "minLength": 1 },
            "password": Reference::schema("The password of that user."),
            "consoles": {
                "description": "Where several processes share a port: the console of each, tcp://HOST:PORT (an address of that process \
                                alone) or unix:/PATH (a socket of this machine).",
                "type": "array",
                "items": { "type": "string", "pattern": "^(tcp://.+:[0-9]+|unix:/.+)$" },
                "minItems": 1,
                "uniqueItems": true,
            },
            "databases": {
                "description": "The file on the pooler's machine that holds the section [databases]; an absolute path.",
                "type": "string",
                "pattern": "^/",
            },
            "probe": {
                "description": "How the marker is written, the way clients do it.",
                "type": "object",
                "properties": {
                    "user": { "description": "The role that writes it.", "type": "string", "minLength": 1 },
                    "password": Reference::schema("The password of that role."),
                },
                "required": ["user"],
                "additionalProperties": false,
            },
        },
        "required": ["admin"],
        "additionalProperties": false,
    })
}

fn wrong_text(key: &str, setting: &Setting) -> Option<Diagnostic> {
    let fits = setting.as_text().is_some_and(|text| !text.is_empty() && !text.contains(['\0', '\n']));
    (!fits).then(|| {
        let message = format!("`{key}` is one line of text, not {}", setting.kind());
        Diagnostic::error("wrong-setting", setting.place, message)
    })
}

fn wrong_consoles(setting: &Setting, findings: &mut Vec<Diagnostic>) {
    let items = match &setting.value {
        SettingValue::List(items) if !items.is_empty() => items,
        _ => {
            let message = format!("`consoles` is a list with a console for each process, not {}", setting.kind());
            findings.push(Diagnostic::error("wrong-setting", setting.place, message).help(CONSOLE));
            return;
        }
    };
    let mut seen = BTreeSet::new();
    for item in items {
        let Some(address) = item.as_text().and_then(console) else {
            let what = item.as_text().map_or_else(|| item.kind().to_owned(), |text| format!("`{text}`"));
            findings
                .push(Diagnostic::error("wrong-setting", item.place, format!("{what} is no console")).help(CONSOLE));
            continue;
        };
        if !seen.insert(address) {
            let message = "this console is listed twice: every process has its own";
            findings.push(Diagnostic::error("wrong-setting", item.place, message));
        }
    }
}

fn unknown(whose: &str, key: &str, place: Place, known: &[&str]) -> Diagnostic {
    Diagnostic::error("unknown-key", place, format!("{whose} has no setting `{key}`"))
        .help(format!("it has {}", text::list(known.iter().map(|key| format!("`{key}`")))))
}

fn probe(setting: &Setting, findings: &mut Vec<Diagnostic>) {
    let SettingValue::Map(map) = &setting.value else {
        let message = format!("`probe` is a map with `user` and `password`, not {}", setting.kind());
        findings.push(Diagnostic::error("wrong-setting", setting.place, message));
        return;
    };
    if !map.contains_key("user") {
        let message = "`user` is missing: the role that writes the marker the way clients do";
        findings.push(Diagnostic::error("missing-setting", setting.place, message));
    }
    for (key, (place, setting)) in map {
        match key.as_str() {
            "user" => findings.extend(wrong_text(key, setting)),
            "password" => findings.extend(Reference::parse(setting).err()),
            _ => findings.push(unknown("`probe`", key, *place, &["user", "password"])),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::diagnostic::Severity;

    fn setting(value: SettingValue) -> Setting {
        Setting { value, place: Place::default() }
    }

    fn map(entries: &[(&str, SettingValue)]) -> BTreeMap<String, (Place, Setting)> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (Place::default(), setting(value.clone())))).collect()
    }

    fn list(items: &[&str]) -> SettingValue {
        SettingValue::List(items.iter().map(|item| setting(SettingValue::Text((*item).to_owned()))).collect())
    }

    #[test]
    fn consoles_are_addresses_or_sockets() {
        let entries =
            map(&[("consoles", list(&["tcp://10.0.0.1:6432", "unix:/run/1/.s.PGSQL.6432", "tcp://[fd00::1]:1"]))]);
        let found = consoles(&Settings { entries, place: Place::default() });
        assert_eq!(found, ["10.0.0.1:6432", "unix:/run/1/.s.PGSQL.6432", "[fd00::1]:1"]);
        for wrong in ["10.0.0.1:6432", "tcp://10.0.0.1", "tcp://10.0.0.1:0", "unix:run", ""] {
            assert_eq!(console(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_wrong_setting_is_found_at_once() {
        let text = |text: &str| SettingValue::Text(text.to_owned());
        let wrong = [
            ("databases", text("databases.ini")),
            ("password", text("geheim")),
            ("consoles", list(&["tcp://h:6432", "h:6432", "tcp://h:6432"])),
            ("probe", SettingValue::Map(map(&[("login", text("app"))]))),
            ("port", SettingValue::Integer(6432)),
        ];
        let findings = check(TargetKind::Pooler, &Settings { entries: map(&wrong), place: Place::default() });
        let codes: Vec<&str> = findings.iter().map(|finding| finding.code).collect();
        assert_eq!(
            codes,
            [
                "missing-setting",
                "wrong-setting",
                "wrong-setting",
                NEEDS_HOST,
                "wrong-setting",
                "secret-reference",
                "unknown-key",
                "missing-setting",
                "unknown-key"
            ]
        );
        assert!(findings.iter().all(|finding| !finding.message.contains("geheim")));
        let right = [
            ("admin", text("handover")),
            ("password", SettingValue::Map(map(&[("file", text("secrets/pgbouncer"))]))),
            ("databases", text("/srv/pool/databases.ini")),
        ];
        // Without the file, or the machine that it is on, it can be read, but not led elsewhere.
        for (right, code) in [(&right[..], NEEDS_HOST), (&right[..2], "missing-setting")] {
            let warned = check(TargetKind::Pooler, &Settings { entries: map(right), place: Place::default() });
            let found: Vec<_> = warned.iter().map(|it| (it.code, it.severity)).collect();
            assert_eq!(found, [(code, Severity::Warning)]);
        }
    }
}
