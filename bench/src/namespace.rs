//! A network, process and mount namespace for a part of the benchmark: its servers listen on a loopback of their own, and when its
//! first process ends, by whatever means, all of them end.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::programs::own;

/// The first process: it waits for the benchmark, and for every orphan, which is its duty.
const INIT: &str = "ip link set lo up && { \"$0\" \"$@\" & wait $!; }";

/// Runs this program with `arguments` inside; what it prints at last is the result. Files go to a folder that is gone afterwards.
///
/// # Errors
/// If it fails.
pub async fn run<T: DeserializeOwned>(arguments: &[String]) -> Result<T> {
    let folder = tempfile::Builder::new().prefix("handover-bench-").tempdir()?;
    open_to_all(folder.path())?;
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--pid",
        "--ipc",
        "--mount",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
        "sh",
        "-c",
        INIT,
    ]);
    command.arg(own()?).args(arguments).env("TMPDIR", folder.path());
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await.context("cannot start unshare")?;
    ensure!(output.status.success(), "bench {}: {}", arguments.join(" "), output.status);
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().last().context("it printed nothing")?;
    serde_json::from_str(last).with_context(|| format!("it printed `{last}`"))
}

/// Servers run as users of their own.
fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?)
}
