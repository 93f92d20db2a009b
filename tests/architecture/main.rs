//! The layers of `docs/architecture.md`, enforced: its table is read, and everything in `src` that goes across them is found.
#![allow(clippy::disallowed_methods, reason = "tests read files")]

mod rules;
mod source;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use rules::{Finding, judge, too_long};
use source::Source;
use table::Table;

/// Files that may be longer than [`rules::LONGEST`] lines, and why. Empty is best.
const LONG: [(&str, &str); 0] = [];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn table() -> Table {
    let document = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    Table::read(&document).unwrap_or_else(|error| panic!("docs/architecture.md: {error}"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every file of `src`, with its name as in the repository.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    files(&root().join("src"), &mut paths);
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        Source::parse(name, &fs::read_to_string(path).unwrap())
    };
    paths.iter().map(read).collect()
}

fn told(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let (table, sources) = (table(), sources());
    assert!(sources.len() > 50, "src has few files: is this the right folder?");
    let edges: usize = sources.iter().map(|source| source.paths.len()).sum();
    assert!(edges > 500, "only {edges} paths found: does the scanner work?");
    let findings: Vec<_> = sources.iter().flat_map(|source| judge(source, &table)).collect();
    assert!(findings.is_empty(), "against the table of docs/architecture.md:{}", told(&findings));
}

#[test]
fn every_module_of_the_table_exists() {
    let sources = sources();
    for room in table().rooms() {
        let path = room.replace("::", "/");
        let names = [format!("src/{path}.rs"), format!("src/{path}/mod.rs")];
        assert!(sources.iter().any(|source| names.contains(&source.name)), "{room} is in the table, but not in src");
    }
}

#[test]
fn files_are_short() {
    let findings: Vec<_> = sources().iter().filter_map(|source| too_long(source, &LONG)).collect();
    assert!(findings.is_empty(), "split it, or give a reason in LONG:{}", told(&findings));
}

/// Whatever `docs/safety.md` says shows an invariant is a test, or a clause of a contract.
#[test]
fn tests_that_safety_names_exist() {
    let document = fs::read_to_string(root().join("docs/safety.md")).unwrap();
    let mut paths = Vec::new();
    for folder in ["src", "tests", "lab"] {
        files(&root().join(folder), &mut paths);
    }
    let code: String = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let shown = document.split("*Shown by* ").skip(1).map(|rest| rest.split("\n\n").next().unwrap());
    let names: Vec<&str> = shown.flat_map(|text| text.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 20, "few tests are named: {names:?}");
    let is_test = |name: &&str| [format!("fn {name}("), format!("fn {name}<")].iter().any(|text| code.contains(text));
    let others = ["make demo", "journal"];
    let missing: Vec<&&str> = names.iter().filter(|name| !others.contains(*name) && !is_test(name)).collect();
    assert!(missing.is_empty(), "docs/safety.md names tests that are not there: {missing:?}");
}
