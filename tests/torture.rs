//! A small sample of the fault suite (`make torture`, `docs/torture.md`), always the same: one case of each kind that there is, as far as
//! a few minutes go, and facilities that are lost. `TORTURE_SEED` takes others.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests start programs and read their files")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// How many cases; ten seconds each, and a minute where a server hangs.
const SAMPLE: &str = "3";

/// In how many more a facility is lost; forty seconds each.
const LOST: &str = "3";

#[test]
fn a_sample_of_the_fault_suite_goes_as_it_should() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let handover = Path::new(env!("CARGO_BIN_EXE_handover"));
    let mut lab = Command::new(handover.with_file_name("lab"));
    lab.args(["torture", "--sample", SAMPLE, "--lost", LOST, "--labs", "1"]);
    lab.arg("--topology").arg(root.join("lab/layouts/torture.yaml"));
    lab.arg("--lost-topology").arg(root.join("lab/layouts/lost.yaml"));
    lab.arg("--handover").arg(handover).arg("--folder").arg(folder.path());
    if std::env::var_os("TORTURE_SEED").is_none() {
        lab.args(["--seed", "1"]);
    }
    let output = lab.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(folder.path().join("report.json")).unwrap()).unwrap();
    let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report:#}"));
    assert_eq!(number("cases").to_string(), SAMPLE, "{report:#}");
    assert!(number("kills") > 0 && number("resumed") > 0 && number("questions") > 1000, "{report:#}");
    assert_eq!((number("lost_writes"), number("two_writable")), (0, 0), "{report:#}");
    let lost = |key: &str| report["lost_facility"][key].as_u64().unwrap_or_else(|| panic!("{key}: {report:#}"));
    assert_eq!((lost("runs").to_string().as_str(), lost("taken_over")), (LOST, 3), "{report:#}");
    for key in ["two_writable", "lost_writes_sync", "loss_beyond_stated", "not_redundant_after_return"] {
        assert_eq!(lost(key), 0, "{key}: {report:#}");
    }
}
