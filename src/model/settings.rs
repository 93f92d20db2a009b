//! Provider settings as the topology holds them: a tree of values that know where they stand in the file, so that a provider can
//! judge its own and point at the place.

use std::collections::BTreeMap;

use super::span::Place;

/// A value with its place in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// What it is.
    pub value: SettingValue,
    /// Where it stands.
    pub place: Place,
}

/// What a setting can be.
#[derive(Clone, Debug, PartialEq)]
pub enum SettingValue {
    /// Nothing written.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Setting>),
    /// A map; each key has its own place.
    Map(BTreeMap<String, (Place, Setting)>),
}

/// A provider's settings for one target: the map under `settings:`, empty where there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The settings by key, each with its key's place.
    pub entries: BTreeMap<String, (Place, Setting)>,
    /// The place of the whole map, or of the target where there is no map.
    pub place: Place,
}

impl Settings {
    /// The setting `key`.
    pub fn get(&self, key: &str) -> Option<&Setting> {
        self.entries.get(key).map(|(_, setting)| setting)
    }

    /// The setting `key` where it is a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Setting::as_text)
    }

    /// These settings with those of `over` put over them key by key.
    pub fn overlaid(&self, over: &Self) -> Self {
        let mut entries = self.entries.clone();
        entries.extend(over.entries.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        Self { entries, place: over.place }
    }
}

impl Setting {
    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            SettingValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, in the words of YAML, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            SettingValue::Null => "nothing",
            SettingValue::Bool(_) => "a boolean",
            SettingValue::Integer(_) | SettingValue::Float(_) => "a number",
            SettingValue::Text(_) => "a text",
            SettingValue::List(_) => "a list",
            SettingValue::Map(_) => "a map",
        }
    }
}
