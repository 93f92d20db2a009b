//! A finding about a file: what, how bad, where, and what to do. Rendering is elsewhere.
//!
//! May use nothing but `model`. Must not print.

use crate::model::{Place, Settings, TargetKind};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth changing.
    Warning,
    /// The file cannot be used as it is.
    Error,
}

impl Severity {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code, such as `unknown-key`; never reused for something else.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence without a final full stop that names the things concerned.
    pub message: String,
    /// Where it is.
    pub place: Place,
    /// Other places that explain it, each with a short text.
    pub related: Vec<(Place, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `place`.
    pub fn error(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, message: message.into(), place, related: Vec::new(), help: None }
    }

    /// A warning at `place`.
    pub fn warning(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, place, message) }
    }

    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with another place that explains it.
    #[must_use]
    pub fn related(mut self, place: Place, text: impl Into<String>) -> Self {
        self.related.push((place, text.into()));
        self
    }
}

/// The code of findings about a setting that is of no use to a target without a `host`. A provider's check, which sees the settings
/// only, reports them always; the topology's check drops them where the target names a host.
pub const NEEDS_HOST: &str = "needs-host";

/// Judges a target's settings: pure, all findings at once. Its `kind` tells what the settings are for. Each provider has one; the
/// topology's check calls them, and knows of [`NEEDS_HOST`].
pub type SettingsCheck = fn(kind: TargetKind, settings: &Settings) -> Vec<Diagnostic>;
