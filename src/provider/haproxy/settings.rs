//! The settings of a proxy: `control`, where its runtime API listens, and `state_file`, where its weights and states are kept.

use std::fmt;

use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, NEEDS_HOST};
use crate::model::{Settings, TargetKind};

const HELP: &str =
    "write `control: \"tcp://HOST:PORT\"` or `control: \"unix:/PATH\"`, as in its `stats socket … level admin`";

/// The settings that there are.
const KNOWN: [&str; 2] = ["control", "state_file"];

/// Where the runtime API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// `host:port` or `[v6]:port`.
    Tcp(String),
    /// Absolute path of a socket on this machine.
    Unix(String),
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl Control {
    /// The control channel that settings name.
    pub fn of(settings: &Settings) -> Result<Self, Diagnostic> {
        let Some(setting) = settings.get("control") else {
            let message = "a proxy of provider haproxy needs the setting `control`";
            return Err(Diagnostic::error("missing-setting", settings.place, message).help(HELP));
        };
        let wrong = |message: String| Diagnostic::error("bad-setting", setting.place, message).help(HELP);
        let Some(text) = setting.as_text() else {
            return Err(wrong(format!("`control` is a text, not {}", setting.kind())));
        };
        Self::parse(text).ok_or_else(|| wrong(format!("`{text}` is no control channel")))
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.starts_with('/').then(|| Self::Unix(path.to_owned()));
        }
        let address = text.strip_prefix("tcp://")?;
        let (host, port) = address.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_is_one = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', '[', ']', ' ']),
        };
        (host_is_one && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| Self::Tcp(address.to_owned()))
    }
}

/// Judges a proxy's settings: `control` must be there and be a control channel, `state_file` may be, and there are no others.
pub fn check(_kind: TargetKind, settings: &Settings) -> Vec<Diagnostic> {
    let mut findings: Vec<Diagnostic> = Control::of(settings).err().into_iter().collect();
    let state_file = settings.get("state_file");
    if let Some(setting) = state_file
        && !setting.as_text().is_some_and(|path| path.starts_with('/') && !path.ends_with('/') && !path.contains('\0'))
    {
        let message = "`state_file` is the absolute path of a file on the proxy's host";
        let help =
            "write it as in `server-state-file` of the proxy's `global`, such as `/var/lib/haproxy/server-state`";
        findings.push(Diagnostic::error("bad-setting", setting.place, message).help(help));
    }
    findings.extend(state_file.map(|setting| {
        let message = "`state_file` is on the proxy's host, and the proxy names none: nothing is saved there";
        Diagnostic::warning(NEEDS_HOST, setting.place, message)
            .help("give the proxy a `host`, or take `state_file` away")
    }));
    for (key, (place, _)) in settings.entries.iter().filter(|(key, _)| !KNOWN.contains(&key.as_str())) {
        let message = format!("provider haproxy has no setting `{key}`");
        findings.push(
            Diagnostic::error("unknown-key", *place, message).help("its settings are `control` and `state_file`"),
        );
    }
    findings
}

/// JSON Schema of a proxy's settings.
pub fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "control": {
                "description": "Where its runtime API listens, with level admin: `tcp://HOST:PORT` or `unix:/PATH`.",
                "type": "string",
                "pattern": "^(tcp://.+:[0-9]+|unix:/.+)$",
            },
            "state_file": {
                "description": "File on the proxy's `host` in which its weights and states outlive a reload, as in its `server-state-file`.",
                "type": "string",
                "pattern": "^/.*[^/]$",
            },
        },
        "required": ["control"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Place, Setting, SettingValue};

    fn settings(entries: &[(&str, SettingValue)]) -> Settings {
        let place = |start| Place { start, end: start + 1 };
        let entries = entries.iter().enumerate().map(|(index, (key, value))| {
            let at = 10 * (index as u32 + 1);
            ((*key).to_owned(), (place(at), Setting { value: value.clone(), place: place(at + 5) }))
        });
        Settings { entries: entries.collect(), place: place(0) }
    }

    #[test]
    fn both_kinds_of_channel_read_back_as_written() {
        for text in
            ["tcp://10.10.0.80:9999", "tcp://[::1]:9999", "tcp://lb1.example:9999", "unix:/run/haproxy/admin.sock"]
        {
            let settings = settings(&[("control", SettingValue::Text(text.to_owned()))]);
            assert_eq!(Control::of(&settings).unwrap().to_string(), text);
            assert_eq!(check(TargetKind::Proxy, &settings), []);
        }
    }

    #[test]
    fn what_is_no_channel_is_found_at_its_place() {
        for text in [
            "10.10.0.80:9999",
            "tcp://10.10.0.80",
            "tcp://:9999",
            "tcp://::1:9999",
            "tcp://h:0",
            "tcp://h:x",
            "unix:s",
            "",
        ] {
            let settings = settings(&[("control", SettingValue::Text(text.to_owned()))]);
            let findings = check(TargetKind::Proxy, &settings);
            assert_eq!(findings.len(), 1, "{text}");
            assert_eq!((findings[0].code, findings[0].place.start), ("bad-setting", 15));
        }
    }

    #[test]
    fn a_state_file_is_an_absolute_path() {
        let text = |text: &str| SettingValue::Text(text.to_owned());
        let check = |state| check(TargetKind::Proxy, &settings(&[("control", text("unix:/s")), ("state_file", state)]));
        let codes = |findings: Vec<Diagnostic>| findings.iter().map(|it| (it.code, it.place.start)).collect::<Vec<_>>();
        assert_eq!(codes(check(text("/var/lib/haproxy/server-state"))), [(NEEDS_HOST, 25)]);
        for wrong in [text("server-state"), text("/var/lib/haproxy/"), SettingValue::Null] {
            assert_eq!(check(wrong)[0].place.start, 25);
        }
    }

    #[test]
    fn all_findings_come_at_once() {
        let findings = check(TargetKind::Proxy, &settings(&[("contrl", SettingValue::Null)]));
        let codes: Vec<_> = findings.iter().map(|finding| (finding.code, finding.place.start)).collect();
        assert_eq!(codes, [("missing-setting", 0), ("unknown-key", 10)]);
    }
}
