//! Exit codes: the same for every command.

use std::process::ExitCode;

use crate::journal::RunEnd;
use crate::report::ExitLevel;

/// What the program's exit status means. Listed in `handover --help` and the README; numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, nothing to do, or healthy.
    Success = 0,
    /// An error, or findings of `lint`.
    Error = 1,
    /// There are differences (`plan --detailed-exitcode`).
    Differences = 2,
    /// Refused: a gate, a stale plan, a policy, a hold.
    Refused = 3,
    /// Stopped midway; what was done stays.
    Stopped = 4,
    /// Somebody else runs a plan.
    Locked = 5,
    /// A human must look.
    Stuck = 6,
    /// `status`: something differs from the topology.
    Drift = 10,
    /// `status`: something is broken and users are still served.
    Degraded = 11,
    /// `status`: two primaries, or servers that contradict each other.
    Split = 12,
    /// The command line cannot be understood.
    Usage = 64,
    /// The topology or the plan cannot be read or is invalid.
    Invalid = 65,
}

impl Exit {
    /// What a process of this program has exited with.
    pub fn of(code: u8) -> Option<Self> {
        let all = [
            Self::Success,
            Self::Error,
            Self::Differences,
            Self::Refused,
            Self::Stopped,
            Self::Locked,
            Self::Stuck,
            Self::Drift,
            Self::Degraded,
            Self::Split,
            Self::Usage,
            Self::Invalid,
        ];
        all.into_iter().find(|exit| *exit as u8 == code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<RunEnd> for Exit {
    fn from(end: RunEnd) -> Self {
        match end {
            RunEnd::Done => Self::Success,
            RunEnd::Refused | RunEnd::Undone => Self::Refused,
            RunEnd::Stopped => Self::Stopped,
            RunEnd::Stuck => Self::Stuck,
        }
    }
}

impl From<ExitLevel> for Exit {
    fn from(level: ExitLevel) -> Self {
        match level {
            ExitLevel::Healthy => Self::Success,
            ExitLevel::Drift => Self::Drift,
            ExitLevel::Degraded => Self::Degraded,
            ExitLevel::Split => Self::Split,
        }
    }
}
