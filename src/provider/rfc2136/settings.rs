//! The settings of a name server: which key signs the updates.

use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;

use super::convert;
use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::model::{Settings, TargetKind};
use crate::secret::Reference;

/// The settings that there are.
const KNOWN: [&str; 3] = ["key", "algorithm", "secret"];

/// The algorithms that are offered; RFC 8945 §6 advises against all others.
const ALGORITHMS: [(&str, TsigAlgorithm); 3] = [
    ("hmac-sha256", TsigAlgorithm::HmacSha256),
    ("hmac-sha384", TsigAlgorithm::HmacSha384),
    ("hmac-sha512", TsigAlgorithm::HmacSha512),
];

/// The key that signs updates, without its secret.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    /// Its name, as the server knows it.
    pub name: Name,
    /// Its algorithm.
    pub algorithm: TsigAlgorithm,
}

/// Judges the settings of a name server: `key` and `secret` must be there, `algorithm` may be. All findings at once.
pub fn check(kind: TargetKind, settings: &Settings) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    if kind != TargetKind::NameServer {
        let message = format!("provider `rfc2136` speaks to name servers, not to a target of kind `{}`", kind.word());
        findings.push(Diagnostic::error("provider-kind", settings.place, message));
        return findings;
    }
    for (name, (place, _)) in &settings.entries {
        if !KNOWN.contains(&name.as_str()) {
            let finding = Diagnostic::error("unknown-setting", *place, format!("`rfc2136` has no setting `{name}`"));
            findings.push(finding.help(format!("did you mean `{}`?", nearest(name, KNOWN))));
        }
    }
    if let Err(finding) = key(settings) {
        findings.push(*finding);
    }
    if let Err(finding) = algorithm(settings) {
        findings.push(*finding);
    }
    match settings.get("secret") {
        Some(secret) => findings.extend(Reference::parse(secret).err()),
        None => {
            findings.push(*missing(settings, "secret", "where its secret is, such as `secret: {file: secrets/tsig}`"))
        }
    }
    findings
}

/// JSON Schema of the settings of a name server.
pub fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "key": {
                "description": "The TSIG key that signs updates, named as in the server's configuration.",
                "type": "string",
                "minLength": 1,
            },
            "algorithm": {
                "description": "The key's algorithm.",
                "enum": ALGORITHMS.map(|(name, _)| name),
                "default": "hmac-sha256",
            },
            "secret": Reference::schema("The key's secret."),
        },
        "required": ["key", "secret"],
        "additionalProperties": false,
    })
}

/// The key that the settings name.
///
/// # Errors
/// The first finding; [`check`] has said all of them before.
pub(super) fn credentials(settings: &Settings) -> Result<Key, Box<Diagnostic>> {
    Ok(Key { name: key(settings)?, algorithm: algorithm(settings)? })
}

fn key(settings: &Settings) -> Result<Name, Box<Diagnostic>> {
    const HELP: &str = "write the key's name as in the server's configuration, such as `key: handover-key`";
    let Some(setting) = settings.get("key") else { return Err(missing(settings, "key", "the TSIG key's name")) };
    let wrong = |message: String| Box::new(Diagnostic::error("tsig-key", setting.place, message).help(HELP));
    let Some(text) = setting.as_text() else {
        return Err(wrong(format!("the name of a key is a text, not {}", setting.kind())));
    };
    convert::name(text).map_err(|fault| wrong(fault.why))
}

fn algorithm(settings: &Settings) -> Result<TsigAlgorithm, Box<Diagnostic>> {
    let Some(setting) = settings.get("algorithm") else { return Ok(TsigAlgorithm::HmacSha256) };
    let wrong = |message: String| Box::new(Diagnostic::error("tsig-algorithm", setting.place, message));
    let Some(text) = setting.as_text() else {
        return Err(wrong(format!("an algorithm is a text, not {}", setting.kind())));
    };
    let lower = text.to_ascii_lowercase();
    let known = ALGORITHMS.iter().find(|(name, _)| *name == lower);
    known.map(|(_, algorithm)| algorithm.clone()).ok_or_else(|| {
        let near = nearest(&lower, ALGORITHMS.map(|(name, _)| name));
        Box::new(
            wrong(format!("`{text}` is not an algorithm that `rfc2136` signs with"))
                .help(format!("did you mean `{near}`? There are hmac-sha256, hmac-sha384 and hmac-sha512")),
        )
    })
}

fn missing(settings: &Settings, key: &str, what: &str) -> Box<Diagnostic> {
    let message = format!("`rfc2136` needs the setting `{key}`: updates are always signed");
    Box::new(Diagnostic::error("missing-setting", settings.place, message).help(format!("add {what}")))
}

fn nearest<const N: usize>(text: &str, known: [&'static str; N]) -> &'static str {
    known.into_iter().min_by_key(|candidate| strsim::damerau_levenshtein(text, candidate)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Place, Setting, SettingValue};

    fn setting(value: SettingValue) -> (Place, Setting) {
        (Place::default(), Setting { value, place: Place::default() })
    }

    fn text(text: &str) -> (Place, Setting) {
        setting(SettingValue::Text(text.to_owned()))
    }

    fn settings(entries: &[(&str, (Place, Setting))]) -> Settings {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Settings { entries, place: Place::default() }
    }

    fn reference() -> (Place, Setting) {
        setting(SettingValue::Map([("file".to_owned(), text("secrets/tsig"))].into()))
    }

    #[test]
    fn good_settings_have_no_findings_and_name_the_key() {
        let settings =
            settings(&[("key", text("Handover-Key.")), ("algorithm", text("hmac-sha512")), ("secret", reference())]);
        assert_eq!(check(TargetKind::NameServer, &settings), []);
        let key = credentials(&settings).unwrap();
        assert_eq!(key.name, Name::from_ascii("handover-key.").unwrap());
        assert_eq!(key.algorithm, TsigAlgorithm::HmacSha512);
    }

    #[test]
    fn every_finding_is_told_at_once() {
        let settings = settings(&[
            ("key", text("a..b")),
            ("algoritm", text("hmac-sha256")),
            ("algorithm", text("hmac-md5")),
            ("secret", text("c2VjcmV0")),
        ]);
        let findings: Vec<String> = check(TargetKind::NameServer, &settings)
            .into_iter()
            .map(|f| format!("{}: {} ({})", f.code, f.message, f.help.unwrap_or_default()))
            .collect();
        insta::assert_snapshot!(findings.join("\n"), @r"
        unknown-setting: `rfc2136` has no setting `algoritm` (did you mean `algorithm`?)
        tsig-key: `a..b` is not a domain name: a label is empty (write the key's name as in the server's configuration, such as `key: handover-key`)
        tsig-algorithm: `hmac-md5` is not an algorithm that `rfc2136` signs with (did you mean `hmac-sha256`? There are hmac-sha256, hmac-sha384 and hmac-sha512)
        secret-reference: a secret is only ever a reference, never written into the topology (write `{file: PATH}`, `{env: NAME}` or `{command: [PROGRAM, ARGUMENT, …]}`)
        ");
        assert!(!findings.join("\n").contains("c2VjcmV0"), "the secret is repeated");
    }

    #[test]
    fn what_is_missing_is_named() {
        let codes: Vec<_> = check(TargetKind::NameServer, &Settings::default()).iter().map(|f| f.code).collect();
        assert_eq!(codes, ["missing-setting", "missing-setting"]);
        assert_eq!(check(TargetKind::Proxy, &Settings::default())[0].code, "provider-kind");
    }
}
