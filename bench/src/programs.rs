//! Other programs: where they are, and what version they have.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The programs of this repository are built side by side.
fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.is_file(), "{} is not there: cargo build --release --workspace", path.display());
    Ok(path)
}

/// `handover`.
pub fn handover() -> Result<PathBuf> {
    beside("handover")
}

/// This program.
pub fn own() -> Result<PathBuf> {
    beside("bench")
}

/// Runs a program to its end.
///
/// # Errors
/// If it fails: what it wrote.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}{complained}", output.status);
    Ok(said)
}

/// A program that runs as the user `postgres`: PostgreSQL refuses to run as root.
pub fn as_postgres(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program.as_ref());
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// A server that is killed when this value goes.
pub struct Server(std::process::Child);

impl Server {
    /// Starts it; what it says goes to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }
}

impl Server {
    /// Kills it.
    pub fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The first word with a digit of what a program says of its version.
pub fn version(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let numbered =
        |word: &&str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    text.split_whitespace().find(numbered).unwrap_or("unknown").trim_end_matches([',', ';']).to_owned()
}
