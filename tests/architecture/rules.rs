//! What is allowed where.

use std::fmt;

use crate::source::{Path, Source};
use crate::table::Table;

/// Lines of a file, its tests apart.
pub const LONGEST: usize = 550;

/// The outside world and its clocks: nothing for layers 0 and 1. Addresses (`std::net::IpAddr`) are plain values.
const OUTSIDE: [&str; 17] = [
    "tokio",
    "reqwest",
    "rusqlite",
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Something that goes across the layers.
pub struct Finding {
    place: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Everything in a file that its row does not allow.
pub fn judge(source: &Source, table: &Table) -> Vec<Finding> {
    // The crate's root only names its modules.
    if source.module.is_empty() {
        return Vec::new();
    }
    let finding = |path: &Path, what| Finding { place: format!("{}:{}", source.name, path.line), what };
    let Some(room) = table.room(&source.module) else {
        return vec![Finding { place: source.name.clone(), what: "this module has no row".to_owned() }];
    };
    let mut findings = Vec::new();
    for path in &source.paths {
        let text = path.segments.join("::");
        let (first, rest) = (path.segments[0].as_str(), &path.segments[1..]);
        if first == "crate" {
            match table.room(rest) {
                Some(to) if to == room || table.allows(room, to) => {}
                Some(to) => findings.push(finding(path, format!("{room} uses {to} ({text})"))),
                None if rest.is_empty() => {}
                None => findings.push(finding(path, format!("{room} uses {text}, which has no row"))),
            }
        } else if first == "anyhow" && room != "cli" {
            findings.push(finding(path, format!("{room} uses anyhow; only cli may")));
        } else if table.layer(room) <= 1
            && let Some(outside) = OUTSIDE.iter().find(|outside| within(&text, outside))
        {
            findings.push(finding(path, format!("{room} is pure and uses {outside}")));
        }
    }
    findings
}

fn within(path: &str, outside: &str) -> bool {
    path.strip_prefix(outside).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Whether a file is too long without a reason; a reason that is not needed is wrong too.
pub fn too_long(source: &Source, reasons: &[(&str, &str)]) -> Option<Finding> {
    let excused = reasons.iter().any(|(name, _)| *name == source.name);
    let what = match (source.lines > LONGEST, excused) {
        (true, false) => format!("{} lines before its tests, more than {LONGEST}", source.lines),
        (false, true) => "it is short now: take it from the list".to_owned(),
        _ => return None,
    };
    Some(Finding { place: source.name.clone(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| layer | module | may use |\n|---|---|---|\n| 0 | `model` | – |\n| 1 | `plan` | 0 |\n\
        | 2 | `provider` | 0 |\n| 3 | `provider::{dns, http}` | 0, `provider` |\n| 3 | `engine` | 0–2 |\n| 4 | `cli` | all |\n";

    fn found(name: &str, text: &str) -> Vec<String> {
        let table = Table::read(TABLE).unwrap();
        judge(&Source::parse(name, text), &table).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn allowed_paths_are_allowed() {
        let allowed =
            "use crate::model::{Action, facts::{self, Facts}};\nuse crate::provider::Provider;\nuse super::Outcome;";
        assert_eq!(found("src/provider/dns/mod.rs", allowed), [""; 0]);
        assert_eq!(
            found("src/cli/apply.rs", "use anyhow::Result; use crate::provider::dns; use crate::engine;"),
            [""; 0]
        );
    }

    #[test]
    fn a_bad_edge_is_found_however_it_is_written() {
        let bad = |text| found("src/engine/run.rs", text);
        assert_eq!(
            bad("\nuse crate::provider::dns::Dns;"),
            ["src/engine/run.rs:2: engine uses provider::dns (crate::provider::dns::Dns)"]
        );
        assert_eq!(bad("use crate::{model, provider::{Provider,\n http}};").len(), 1);
        assert_eq!(bad("fn f() { crate::provider::dns::check() }").len(), 1);
        assert_eq!(bad("use crate::provider;\nfn f() { provider::dns::check() }").len(), 1);
        assert_eq!(bad("use crate::provider as p;\nfn f() { vec![p::dns::X] }").len(), 1);
        assert_eq!(bad("use super::super::provider::dns;").len(), 1);
        assert_eq!(bad("mod tests { use super::super::super::provider::dns; }").len(), 1);
        assert_eq!(bad("pub(crate) use crate::cli;").len(), 1);
        assert_eq!(
            bad("use crate::elsewhere::X;"),
            ["src/engine/run.rs:1: engine uses crate::elsewhere::X, which has no row"]
        );
        assert_eq!(found("src/provider/http.rs", "use super::dns;").len(), 1);
        assert_eq!(found("src/provider/mod.rs", "pub mod dns;\npub use dns::Dns;").len(), 1);
        assert_eq!(found("src/provider/mod.rs", "pub use self::dns::Dns;").len(), 1);
        assert_eq!(found("src/unlisted.rs", ""), ["src/unlisted.rs: this module has no row"]);
    }

    #[test]
    fn text_and_comments_are_no_paths() {
        let text = r##"
            // use crate::cli;
            /* crate::cli /* crate::cli */ crate::cli */
            /// [`crate::cli`]
            fn f<'a>(x: &'a str) -> char { let _ = ("\" crate::cli", r#"crate::cli " "#, b"crate::cli"); '"' }
        "##;
        assert_eq!(found("src/model/mod.rs", text), [""; 0]);
        assert_eq!(found("src/model/mod.rs", &format!("{text}\nuse crate::cli;")).len(), 1);
    }

    #[test]
    fn pure_layers_meet_no_outside() {
        let plan = |text| found("src/plan/diff.rs", text);
        assert_eq!(plan("use std::net::{IpAddr, SocketAddr}; use std::time::Duration;"), [""; 0]);
        assert_eq!(
            plan("use std::{collections::BTreeMap, fs};"),
            ["src/plan/diff.rs:1: plan is pure and uses std::fs"]
        );
        assert_eq!(plan("fn f() { std::env::var(\"X\"); }").len(), 1);
        assert_eq!(plan("use std::net::TcpStream;").len(), 1);
        assert_eq!(plan("async fn f() { tokio::time::sleep(x).await }").len(), 1);
        assert_eq!(plan("use anyhow::Result;"), ["src/plan/diff.rs:1: plan uses anyhow; only cli may"]);
        assert_eq!(found("src/engine/run.rs", "use tokio::time::Instant; use anyhow::Context;").len(), 1);
    }

    #[test]
    fn long_files_need_a_reason_and_short_ones_none() {
        let long = Source::parse("src/plan/a.rs", &"\n".repeat(LONGEST + 1));
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(LONGEST - 1), "\n".repeat(300));
        assert!(too_long(&long, &[]).is_some());
        assert!(too_long(&long, &[("src/plan/a.rs", "because")]).is_none());
        assert!(too_long(&Source::parse("src/plan/a.rs", &tests), &[]).is_none());
        assert!(too_long(&Source::parse("src/plan/a.rs", ""), &[("src/plan/a.rs", "because")]).is_some());
    }
}
