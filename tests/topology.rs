//! The topology language: the worked example, findings in bad files, limits, and anything at all as input.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use handover::diagnostic::{Diagnostic, NEEDS_HOST, SettingsCheck};
use handover::model::{Percent, SettingValue, Settings, TargetKind};
use handover::report::diagnostic::{Style, render};
use handover::topology::{Parsed, parse};
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../topology.yaml");
const SMALL: &str = include_str!("fixtures/topology-small.yaml");
/// Far more than any of these inputs takes, far less than a hang.
const SOON: Duration = Duration::from_secs(60);

/// A provider's check that knows one key, and one value that it does not like.
fn check(_: TargetKind, settings: &Settings) -> Vec<Diagnostic> {
    let unknown = settings.entries.iter().filter(|(key, _)| key.starts_with("con") && *key != "control");
    let mut findings: Vec<Diagnostic> = unknown
        .map(|(key, (place, _))| Diagnostic::error("unknown-setting", *place, format!("unknown setting `{key}`")))
        .collect();
    if let Some(file) = settings.get("state_file") {
        findings.push(Diagnostic::warning(NEEDS_HOST, file.place, "`state_file` is of no use without a host"));
    }
    if settings.text("refuse").is_some() {
        findings.push(Diagnostic::warning("refused-setting", settings.place, "these settings refuse all"));
    }
    findings
}

fn checks() -> BTreeMap<&'static str, SettingsCheck> {
    let names = ["rfc2136", "haproxy", "postgresql", "pgbouncer", "http", "command"];
    names.map(|name| (name, check as SettingsCheck)).into()
}

fn read(text: &[u8]) -> Result<Parsed<'_>, Vec<Diagnostic>> {
    parse(text, &checks())
}

fn shown(text: &[u8], findings: &[Diagnostic]) -> String {
    render(text, "topology.yaml", findings, Style::PLAIN)
}

#[test]
fn the_worked_example_is_clean() {
    let text = EXAMPLE.as_bytes();
    let parsed = read(text).unwrap_or_else(|findings| panic!("{}", shown(text, &findings)));
    assert_eq!(shown(text, &parsed.warnings), "topology.yaml: no findings\n");
    let topology = parsed.topology;
    assert_eq!(topology.facilities.len(), 3);
    assert_eq!(topology.targets().count(), 4 + 4 + 12 + 6 + 2 + 1);
    assert_eq!(topology.policy.stages.last(), Some(&Percent::FULL));
}

#[test]
fn a_setting_that_needs_a_host_is_found_where_there_is_none() {
    let proxy = "west-lb1: {facility: west, address: 10.10.0.80, settings: {";
    let with = |start: &str| SMALL.replacen(proxy, &format!("{start}state_file: /var/state, "), 1);
    let hosted = with("west-lb1: {facility: west, address: 10.10.0.80, host: west-db1, settings: {");
    assert_eq!(read(hosted.as_bytes()).unwrap().warnings, []);
    let homeless = with(proxy);
    let warnings = read(homeless.as_bytes()).unwrap().warnings;
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    let shown = shown(homeless.as_bytes(), &warnings);
    assert!(warning.code == NEEDS_HOST && shown.contains("topology.yaml:12:"), "{shown}");
}

#[test]
fn a_small_file_is_bound_and_filled() {
    let mut topology = read(SMALL.as_bytes()).map(|parsed| parsed.topology).unwrap();
    topology.digest.clear();
    insta::assert_debug_snapshot!("small", topology);
}

#[test]
fn the_digest_is_the_sha_256_of_the_bytes() {
    let digest = |text: &str| read(text.as_bytes()).unwrap().topology.digest;
    let expected =
        Command::new("sha256sum").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/topology.yaml")).output().unwrap();
    assert!(String::from_utf8(expected.stdout).unwrap().starts_with(&digest(EXAMPLE)));
    assert_ne!(digest(EXAMPLE), digest(&format!("{EXAMPLE}#")));
}

#[test]
fn places_are_found_by_paths() {
    let text = SMALL.replace("west: {state: active}", "west: {state: drained}");
    let parsed = read(text.as_bytes()).unwrap();
    let place = parsed.places.of("facilities/west/state").unwrap();
    assert_eq!(&text[place.start as usize..place.end as usize], "drained");
    assert_eq!(place.line_and_column(text.as_bytes()), (4, 17));
    let place = parsed.places.of_key("databases/accounts/members/east-pg1").unwrap();
    assert_eq!(&text[place.start as usize..place.end as usize], "east-pg1");
    assert_eq!(parsed.places.of_key("facilities").unwrap().line_and_column(text.as_bytes()), (3, 1));
    assert_eq!(parsed.places.of("facilities/north/state"), None);
    assert_eq!(parsed.places.of_key("facilities/north/state"), None);
    assert_eq!(parsed.places.of_key("north/state"), None);
}

#[test]
fn settings_are_merged_and_keep_their_places() {
    let text = SMALL
        .replace(
            "  shop.example:\n",
            "  shop.example:\n    settings: {key: a, port: 53, ratio: 0.5, on: true, no: no, list: [1, x]}\n",
        )
        .replace("updates: true", "updates: true, settings: {key: b}");
    let parsed = read(text.as_bytes()).map_err(|findings| shown(text.as_bytes(), &findings)).unwrap();
    let servers = &parsed.topology.zones["shop.example"].servers;
    let settings = &servers["ns1"].target.settings;
    assert_eq!((settings.text("key"), servers["ns2"].target.settings.text("key")), (Some("b"), Some("a")));
    let value = |key: &str| settings.get(key).unwrap().value.clone();
    assert_eq!(value("port"), SettingValue::Integer(53));
    assert_eq!(value("ratio"), SettingValue::Float(0.5));
    assert_eq!(value("on"), SettingValue::Bool(true));
    assert_eq!(value("no"), SettingValue::Text("no".to_owned()));
    let SettingValue::List(items) = value("list") else { panic!("no list") };
    let texts = items.iter().map(|item| &text[item.place.start as usize..item.place.end as usize]);
    assert_eq!(texts.collect::<Vec<_>>(), ["1", "x"]);
    let (key, _) = &settings.entries["key"];
    assert_eq!(key.line_and_column(text.as_bytes()).0, 10);
}

#[test]
fn settings_common_to_many_targets_are_found_wrong_once() {
    let text = SMALL.replace("  shop.example:\n", "  shop.example:\n    settings: {contorl: x}\n");
    let findings = read(text.as_bytes()).unwrap_err();
    assert_eq!(findings.len(), 1, "{}", shown(text.as_bytes(), &findings));
}

#[test]
fn warnings_leave_the_file_usable() {
    let text = SMALL.replace("  shop.example:\n", "  shop.example:\n    settings: {refuse: x}\n");
    let parsed = read(text.as_bytes()).unwrap();
    assert_eq!(parsed.warnings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["refused-setting"]);
}

#[test]
fn every_prefix_of_the_file_is_judged() {
    // Cut within a word, a quote, a bracket, a character: never a panic, and no prefix is a whole topology but the last lines.
    let usable = (0..SMALL.len()).filter(|end| read(&SMALL.as_bytes()[..*end]).is_ok()).count();
    assert!(usable < SMALL.len() / 3, "{usable} prefixes are usable");
}

#[test]
fn bad_files_are_shown_with_their_places() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/topology");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20, "only {} fixtures", files.len());
    for file in files {
        let text = fs::read(&file).unwrap();
        let findings = read(&text).map(|_| ()).expect_err(&format!("{} has no finding", file.display()));
        let name = file.file_stem().unwrap().to_str().unwrap();
        insta::assert_snapshot!(name, render(&text, "topology.yaml", &findings, Style::PLAIN));
    }
}

/// Findings of a text that must be refused soon, and must be shown without a panic.
fn refused(text: &[u8]) -> Vec<&'static str> {
    let started = Instant::now();
    let findings = read(text).map(|_| ()).expect_err("it is refused");
    assert!(!shown(text, &findings).is_empty());
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    findings.into_iter().map(|finding| finding.code).collect()
}

#[test]
fn nesting_has_a_limit() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("[{a: ", "}]")] {
        let text = format!("topology: {}{}", open.repeat(10_000), close.repeat(10_000));
        assert_eq!(refused(text.as_bytes()), ["too-deep"], "{open}");
    }
    let mut block = String::new();
    for depth in 0..2_000 {
        block += &format!("{}a:\n", " ".repeat(depth));
    }
    assert_eq!(refused(block.as_bytes()), ["too-deep"]);
    assert_eq!(refused(format!("a: {}", "- ".repeat(10_000)).as_bytes()).len(), 1);
    assert!(refused("? ".repeat(10_000).as_bytes()).contains(&"too-deep"));
}

#[test]
fn bombs_do_not_grow() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='z').zip('a'..) {
        text += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(", "));
    }
    let codes = refused(text.as_bytes());
    assert!(codes.iter().filter(|code| **code == "anchor").count() > 100);
}

#[test]
fn ten_thousand_mistakes_are_not_ten_thousand_pages() {
    let wrong: String = (0..10_000).map(|i| format!("  f{i}: {{stat: active}}\n")).collect();
    let codes = refused(format!("topology: 1\nname: x\nfacilities:\n{wrong}").as_bytes());
    assert!(codes.len() <= 1_001, "{}", codes.len());
    assert_eq!(codes.last(), Some(&"too-many-findings"));
    // Suggestions for unknown names are a matter of every name with every name.
    let servers: String =
        (0..10_000).map(|i| format!("      s{i}: {{facility: nowhere{i}, address: \"a:1\"}}\n")).collect();
    let facilities: String = (0..10_000).map(|i| format!("  somewhere{i}:  {{}}\n")).collect();
    let text = format!(
        "topology: 1\nname: x\nfacilities:\n{facilities}services:\n  s:\n    hostnames: [a.example]\n    servers:\n{servers}"
    );
    assert!(refused(text.as_bytes()).len() > 100);
}

#[test]
fn a_large_file_is_read() {
    let mut servers = String::new();
    let mut count = 0;
    while servers.len() < 20 << 20 {
        servers += &format!(
            "      west-app{count}: {{facility: west, address: \"10.{}.{}.{}:8080\", capacity: 800 rps}}\n",
            count >> 16 & 255,
            count >> 8 & 255,
            count & 255
        );
        count += 1;
    }
    let text = SMALL.replace("    health: {path", &format!("{servers}    health: {{path")).replacen(
        "      west-app1: ",
        "      first: ",
        1,
    );
    let started = Instant::now();
    let parsed = read(text.as_bytes()).map_err(|findings| shown(text.as_bytes(), &findings)).unwrap();
    assert_eq!(parsed.topology.services["orders"].servers.len(), count + 2);
    assert!(started.elapsed() < 3 * SOON, "{:?}", started.elapsed());
}

#[test]
fn the_reference_names_every_key_and_every_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = fs::read_to_string(root.join("docs/topology.md")).unwrap();
    let syntax = fs::read_to_string(root.join("src/topology/syntax.rs")).unwrap();
    let maps = syntax.split("maps! {").nth(1).unwrap().split("\n}\n").next().unwrap();
    let keys: Vec<&str> = maps
        .lines()
        .filter(|line| line.ends_with(',') && !line.contains("///"))
        .map(|line| line.trim().split(':').next().unwrap())
        .collect();
    assert!(keys.len() > 80, "{keys:?}");
    for key in keys {
        let named = reference.contains(&format!("`{key}`")) || reference.contains(&format!(".{key}`"));
        assert!(named, "docs/topology.md does not name the key `{key}`");
    }
    let folder = root.join("src/topology");
    for file in [folder.clone(), folder.join("resolve")].iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let code = fs::read_to_string(&file).unwrap();
        let code = code.split("#[cfg(test)]").next().unwrap().replace(char::is_whitespace, "");
        for constructor in ["Diagnostic::error(\"", "findings.error(\"", "self.error(\""] {
            for code in code.split(constructor).skip(1) {
                let code = code.split('"').next().unwrap();
                assert!(reference.contains(&format!("`{code}`")), "docs/topology.md does not name the code `{code}`");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_judged(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Err(findings) = read(&text) {
            prop_assert!(!findings.is_empty());
            shown(&text, &findings);
        }
    }

    #[test]
    fn any_yaml_like_text_is_judged(text in "([a-c]{0,2}|[-:?,#&*!|>'\"%@`\\[\\]{}~<]|\n|  |\t| |\u{e9}|\u{feff}|---|topology: 1|\r\n){0,60}") {
        if let Err(findings) = read(text.as_bytes()) {
            prop_assert!(!findings.is_empty());
            shown(text.as_bytes(), &findings);
        }
    }

    #[test]
    fn a_changed_example_is_judged(
        whole in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0..4_usize, 0..24_usize, any::<u8>()), 1..4),
    ) {
        let mut text = if whole { EXAMPLE } else { SMALL }.as_bytes().to_vec();
        for (at, kind, length, byte) in changes {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            match kind {
                0 => text[at] = byte,
                1 => drop(text.drain(at..end)),
                2 => text.truncate(at),
                _ => {
                    let again = text[at..end].to_vec();
                    text.splice(at..at, again);
                }
            }
        }
        if let Err(findings) = read(&text) {
            prop_assert!(!findings.is_empty());
            let end = u32::try_from(text.len()).unwrap();
            for finding in &findings {
                prop_assert!(finding.place.start <= end, "{:?}", finding);
                prop_assert!(finding.place.start <= finding.place.end, "{:?}", finding);
            }
            // Sorted by place, errors there.
            prop_assert!(findings.is_sorted_by_key(|finding| finding.place));
            shown(&text, &findings);
        }
    }
}
