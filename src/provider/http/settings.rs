//! The settings of an application server: there are none.

use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::model::{Settings, TargetKind};

/// Judges the settings of an application server: how its health is asked belongs to the service. All findings at once.
pub fn check(kind: TargetKind, settings: &Settings) -> Vec<Diagnostic> {
    if kind != TargetKind::Server {
        let message =
            format!("provider `http` speaks to application servers, not to a target of kind `{}`", kind.word());
        return vec![Diagnostic::error("provider-kind", settings.place, message)];
    }
    let unknown = |(name, (place, _)): (&String, &(crate::model::Place, _))| {
        Diagnostic::error("unknown-setting", *place, format!("`http` has no setting `{name}`"))
            .help("path, expected status and host are the service's `health`")
    };
    settings.entries.iter().map(unknown).collect()
}

/// JSON Schema of the settings of an application server: an empty map.
pub fn schema() -> Value {
    json!({ "type": "object", "additionalProperties": false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Place, Setting, SettingValue};

    #[test]
    fn every_setting_is_unknown() {
        let setting = Setting { value: SettingValue::Text("/health".to_owned()), place: Place::default() };
        let entries = [("path".to_owned(), (Place { start: 3, end: 7 }, setting))].into();
        let findings = check(TargetKind::Server, &Settings { entries, place: Place::default() });
        assert_eq!((findings[0].code, findings[0].place), ("unknown-setting", Place { start: 3, end: 7 }));
        assert_eq!(check(TargetKind::Server, &Settings::default()), []);
        assert_eq!(check(TargetKind::Member, &Settings::default())[0].code, "provider-kind");
    }
}
