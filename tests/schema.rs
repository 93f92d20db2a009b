//! `topology.schema.json`: the same as the program's, complete, and of one mind with the program about files.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use handover::diagnostic::SettingsCheck;
use handover::model::{Place, Setting, SettingValue, Settings, TargetKind};
use handover::provider::{command, haproxy, http, pgbouncer, postgresql, rfc2136};
use handover::topology::{Topology, parse};
use jsonschema::Validator;
use serde_json::{Map, Value};

/// A provider, its kind of targets, its judge and its schema.
type Provider = (&'static str, TargetKind, SettingsCheck, fn() -> Value);

const PROVIDERS: [Provider; 6] = [
    ("rfc2136", TargetKind::NameServer, rfc2136::check, rfc2136::schema),
    ("haproxy", TargetKind::Proxy, haproxy::check, haproxy::schema),
    ("http", TargetKind::Server, http::check, http::schema),
    ("postgresql", TargetKind::Member, postgresql::check, postgresql::schema),
    ("pgbouncer", TargetKind::Pooler, pgbouncer::check, pgbouncer::schema),
    ("command", TargetKind::Job, command::check, command::schema),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn printed() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_handover")).arg("schema").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&printed()).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft7::new(&schema()).unwrap()
}

/// A file as a program that knows nothing of this language reads it.
fn document(file: &Path) -> Option<Value> {
    // A key that is a list has no form in JSON.
    let text = fs::read_to_string(file).unwrap().replace("? [a, b]\n: c\n", "");
    serde_yaml::from_str(&text).ok()
}

fn errors(validator: &Validator, document: &Value) -> Vec<String> {
    validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn the_committed_schema_is_the_programs() {
    let committed = fs::read_to_string(path("topology.schema.json")).unwrap();
    assert!(committed == printed(), "run `handover schema >topology.schema.json` and commit it");
}

#[test]
fn every_key_has_a_description() {
    fn walk(at: &str, schema: &Value, keys: &mut usize) {
        if !schema.is_object() {
            return;
        }
        for (name, key) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}/{name}");
            *keys += 1;
            // What branches add to a key that was described before needs no second description.
            let described = key["description"].as_str().is_some_and(|text| text.len() > 5);
            assert!(described || at.contains('?'), "{at} has no description");
            walk(&at, key, keys);
        }
        for (name, key) in schema["then"]["properties"].as_object().into_iter().flatten() {
            walk(&format!("{at}/{name}?"), key, keys);
        }
        for part in ["items", "additionalProperties"] {
            walk(&format!("{at}/*"), &schema[part], keys);
        }
        for branch in schema["allOf"].as_array().into_iter().flatten() {
            walk(at, branch, keys);
        }
    }
    for (provider, _, _, settings) in PROVIDERS {
        walk(provider, &settings(), &mut 0);
    }
    let mut keys = 0;
    walk("", &schema(), &mut keys);
    assert!(keys > 120, "only {keys} keys");
}

#[test]
fn good_files_are_good() {
    let validator = validator();
    for name in ["topology.yaml", "tests/cmd/small.yaml"] {
        let text = fs::read(path(name)).unwrap();
        assert!(parse(&text, &checks()).is_ok(), "{name} is not good");
        assert_eq!(errors(&validator, &document(&path(name)).unwrap()), [""; 0], "{name}");
    }
}

#[test]
fn files_of_a_wrong_form_are_found_wrong() {
    const WRONG: [&str; 16] = [
        "invalid-names",
        "missing-key",
        "missing-unit",
        "missing-value",
        "missing-version",
        "newer-version",
        "no-map",
        "only-text",
        "policy",
        "route",
        "typo-in-key",
        "typo-in-value",
        "unknown-provider",
        "unknown-store",
        "unknown-version",
        "wrong-kinds",
    ];
    let validator = validator();
    // The fixtures are this file with mistakes; it leaves out what the providers demand.
    let small = errors(&validator, &document(&path("tests/fixtures/topology-small.yaml")).unwrap());
    for name in WRONG {
        let Some(document) = document(&path(&format!("tests/fixtures/topology/{name}.yaml"))) else {
            panic!("{name} is no YAML at all");
        };
        let found = errors(&validator, &document);
        assert!(found.iter().any(|error| !small.contains(error)), "{name}: nothing but {found:?}");
    }
}

#[test]
fn what_the_schema_says_of_absent_keys_is_what_the_program_does() {
    fn fill(schema: &Value, document: &mut Value, filled: &mut usize) {
        let children: Vec<(String, &Value)> = match (&schema["properties"], &schema["additionalProperties"]) {
            (Value::Object(properties), _) => properties.iter().map(|(key, schema)| (key.clone(), schema)).collect(),
            (_, Value::Object(_)) => {
                let names = document.as_object().into_iter().flatten().map(|(name, _)| name.clone());
                names.map(|name| (name, &schema["additionalProperties"])).collect()
            }
            _ => Vec::new(),
        };
        let Some(map) = document.as_object_mut() else { return };
        for (key, schema) in children {
            let of_defaults = schema["properties"].as_object().is_some_and(|keys| keys.iter().any(has_default));
            match (&schema["default"], map.contains_key(&key)) {
                (Value::Null, false) if of_defaults => {
                    map.insert(key.clone(), Map::new().into());
                }
                (default, false) if !default.is_null() => {
                    *filled += 1;
                    map.insert(key.clone(), default.clone());
                }
                _ => {}
            }
            if let Some(value) = map.get_mut(&key) {
                fill(schema, value, filled);
            }
        }
    }
    fn has_default((_, schema): (&String, &Value)) -> bool {
        !schema["default"].is_null()
    }
    fn read(document: &Value) -> Topology {
        // JSON is YAML.
        let text = document.to_string();
        let parsed = parse(text.as_bytes(), &checks()).map_err(|findings| panic!("{findings:?} in {text}"));
        let mut topology = parsed.unwrap().topology;
        topology.digest.clear();
        topology
    }
    let mut document = document(&path("tests/cmd/small.yaml")).unwrap();
    document.as_object_mut().unwrap().remove("policy");
    let terse = without_places(&read(&document));
    let mut filled = 0;
    fill(&schema(), &mut document, &mut filled);
    assert!(filled > 20, "only {filled} defaults");
    assert_eq!(without_places(&read(&document)), terse);
}

/// Settings know where they stand, which differs from file to file.
fn without_places(topology: &Topology) -> String {
    let debug = format!("{topology:?}");
    let mut text = String::new();
    for part in debug.split("Place {") {
        text += part.split_once('}').filter(|_| !text.is_empty()).map_or(part, |(_, rest)| rest);
    }
    text
}

fn checks() -> BTreeMap<&'static str, SettingsCheck> {
    PROVIDERS.map(|(name, _, check, _)| (name, check)).into()
}

#[test]
fn schemas_and_judges_of_settings_know_the_same_keys() {
    for (provider, kind, check, schema) in PROVIDERS {
        let schema = schema();
        assert_eq!(schema["additionalProperties"], false, "{provider}");
        let complaints = |keys: &[&str]| -> Vec<(&str, String)> {
            let place = Place::default();
            let entry = |key: &&str| ((*key).to_owned(), (place, Setting { value: SettingValue::Null, place }));
            let settings = Settings { entries: keys.iter().map(entry).collect(), place };
            check(kind, &settings).into_iter().map(|finding| (finding.code, finding.message)).collect()
        };
        let unknown = |key: &str| complaints(&[key]).iter().any(|(code, _)| code.starts_with("unknown"));
        assert!(unknown("no-such-setting"), "{provider}");
        let known: Vec<&str> =
            schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        for key in &known {
            assert!(!unknown(key), "{provider} does not know {key}");
        }
        let demanded = complaints(&[]).iter().filter(|(code, _)| *code == "missing-setting").count();
        let required = schema["required"].as_array().map_or(0, Vec::len);
        // A pooler without `databases` is a warning.
        assert_eq!(required + usize::from(provider == "pgbouncer"), demanded, "{provider}");
    }
}
