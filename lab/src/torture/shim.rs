//! The shim by which an unmodified `handover` ends or fails exactly at a record of its journal or an event of its output (`shim.c`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::cases::{Blow, Moment, Point};

const SOURCE: &str = include_str!("shim.c");

/// The compiled shim.
#[derive(Clone, Debug)]
pub struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Compiles it into a folder with `cc`, which every machine that links Rust programs has.
    ///
    /// # Errors
    /// If `cc` is missing or fails.
    pub fn build(folder: &Path) -> Result<Self> {
        let library = folder.join("shim.so");
        let mut cc = Command::new("cc");
        cc.args(["-x", "c", "-O2", "-shared", "-fPIC", "-o"]).arg(&library).args(["-", "-ldl", "-lpthread"]);
        let mut child = cc.stdin(Stdio::piped()).spawn().context("cannot start `cc`")?;
        child.stdin.take().context("`cc` has no input")?.write_all(SOURCE.as_bytes())?;
        ensure!(child.wait()?.success(), "`cc` could not compile the shim");
        Ok(Self { library: library.canonicalize()? })
    }

    /// Lets a `handover` that `command` starts end or fail at a point; it makes the file `mark` then.
    pub fn strike(&self, command: &mut Command, point: &Point, moment: Moment, blow: Blow, mark: &Path) {
        command.env("LD_PRELOAD", &self.library).env("TORTURE_IN", "apply,rollback").env("TORTURE_MARK", mark);
        command.env("TORTURE_PATTERN", point.pattern());
        let at = match moment {
            Moment::Before => "before".to_owned(),
            Moment::After => "after".to_owned(),
            Moment::Later(ms) => ms.to_string(),
        };
        let what = match blow {
            Blow::Kill | Blow::KillBoth => "kill",
            Blow::Stop => "stop",
            Blow::SyncFails => "eio",
            Blow::NoRoom => "enospc",
        };
        command.env("TORTURE_AT", at).env("TORTURE_DO", what);
        if blow == Blow::KillBoth {
            command.env("TORTURE_WITH", "guard");
        }
    }
}
