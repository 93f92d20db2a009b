//! Other layouts than the worked example's, each with the whole story: drained and brought back under load.

use std::path::Path;
use std::process::{Command, Stdio};

/// Plays `lab demo` on a layout of `lab/layouts`; nothing may have failed or be lost, and in the end all is as the file says.
fn plays(layout: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::Builder::new().prefix("handover-layout-").tempdir().unwrap();
    let handover = Path::new(env!("CARGO_BIN_EXE_handover"));
    let mut demo = Command::new(handover.with_file_name("lab"));
    demo.args(["demo", "--name", &format!("{layout}-{}", std::process::id()), "--topology"]);
    demo.arg(root.join(format!("lab/layouts/{layout}.yaml"))).arg("--folder").arg(folder.path());
    demo.arg("--handover").arg(handover).stdin(Stdio::null());
    let output = demo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let report = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["http"]["requests"].as_u64().unwrap() > 500, "{report}");
    assert_eq!(report["http"]["failed"], 0, "{report}");
    for (name, database) in report["databases"].as_object().unwrap() {
        assert_eq!((&database["failed"], &database["lost"]), (&0.into(), &0.into()), "{name}: {report}");
    }
    let last = said.lines().rfind(|line| line.starts_with("HEALTHY"));
    assert!(last.is_some(), "the last status is not healthy:\n{said}");
}

#[test]
fn three_facilities_with_unequal_shares_and_databases_of_three_and_five_members() {
    plays("three");
}
