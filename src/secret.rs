//! References to secrets, read at use and kept out of every plan, log, journal and error.
//!
//! May use `model` and `diagnostic`. Together with `transport` and `cli` the only place that reads files, the environment or runs
//! commands.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::model::{Setting, SettingValue, Settings};

/// Where a secret is to be found; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The content of a file, without trailing line breaks; a relative path is meant from the topology file's folder.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
    /// What a command prints, without trailing line breaks.
    Command(Vec<String>),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Command(argv) => write!(f, "command {}", argv.first().map_or("", String::as_str)),
        }
    }
}

/// A secret. It has no `Display`, and its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret in {reference} cannot be read: {why}")]
pub struct SecretError {
    reference: String,
    why: String,
}

impl Reference {
    /// JSON Schema of a setting that holds a reference, described by `about`.
    pub fn schema(about: &str) -> Value {
        let text = json!({ "type": "string", "minLength": 1 });
        json!({
            "description": format!("{about} A secret is only ever a reference: `{{file: PATH}}`, `{{env: NAME}}` or `{{command: [PROGRAM, ARGUMENT, …]}}`."),
            "type": "object",
            "properties": {
                "file": { "description": "A file that holds it; a relative path is meant from the topology's folder.", "type": "string" },
                "env": { "description": "An environment variable that holds it.", "type": "string" },
                "command": { "description": "A command that prints it; no shell reads it.", "type": "array", "items": text, "minItems": 1 },
            },
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false,
        })
    }

    /// Reads a setting such as `{file: secrets/tsig}`.
    ///
    /// # Errors
    /// A finding at the setting: not a reference, or a secret written into the file itself.
    pub fn parse(setting: &Setting) -> Result<Self, Diagnostic> {
        const HELP: &str = "write `{file: PATH}`, `{env: NAME}` or `{command: [PROGRAM, ARGUMENT, …]}`";
        let wrong = |message: &str| Diagnostic::error("secret-reference", setting.place, message).help(HELP);
        let map = match &setting.value {
            SettingValue::Map(map) => map,
            SettingValue::Text(_) | SettingValue::Integer(_) => {
                return Err(wrong("a secret is only ever a reference, never written into the topology"));
            }
            _ => return Err(wrong(&format!("a reference to a secret is a map, not {}", setting.kind()))),
        };
        let mut entries = map.iter();
        let (Some((key, (place, value))), None) = (entries.next(), entries.next()) else {
            return Err(wrong("a reference to a secret has exactly one key"));
        };
        let command = |value: &Setting| match &value.value {
            SettingValue::List(items) if !items.is_empty() => {
                items.iter().map(|item| item.as_text().map(str::to_owned)).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        let reference = match key.as_str() {
            "file" => value.as_text().map(|path| Self::File(path.into())),
            "env" => value.as_text().map(|name| Self::Env(name.to_owned())),
            "command" => command(value).map(Self::Command),
            _ => {
                return Err(
                    Diagnostic::error("secret-reference", *place, format!("unknown kind of secret `{key}`")).help(HELP)
                );
            }
        };
        reference.ok_or_else(|| wrong(&format!("`{key}` does not hold what it should")))
    }
}

/// Reads secrets at use.
#[derive(Clone, Debug)]
pub struct SecretReader {
    base: PathBuf,
}

/// How long a secret's command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

impl SecretReader {
    /// A reader whose relative paths are meant from `base`, the topology file's folder.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// The secret that the setting `key` refers to.
    ///
    /// # Errors
    /// If there is no such setting, it is no reference, or what it refers to cannot be read.
    pub async fn setting(&self, settings: &Settings, key: &str) -> Result<Secret, SecretError> {
        let missing = |why: String| SecretError { reference: format!("setting `{key}`"), why };
        let setting = settings.get(key).ok_or_else(|| missing("there is no such setting".to_owned()))?;
        let reference = Reference::parse(setting).map_err(|finding| missing(finding.message))?;
        self.read(&reference).await
    }

    /// Reads a secret.
    ///
    /// # Errors
    /// If what it refers to cannot be read or is empty; the message holds nothing of the content.
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads secrets")]
    pub async fn read(&self, reference: &Reference) -> Result<Secret, SecretError> {
        let error = |why: String| SecretError { reference: reference.to_string(), why };
        let text = match reference {
            Reference::File(path) => {
                let bytes = tokio::fs::read(self.base.join(path)).await.map_err(|e| error(e.to_string()))?;
                String::from_utf8(bytes).map_err(|_| error("it is not UTF-8 text".to_owned()))?
            }
            Reference::Env(name) => {
                std::env::var(name).map_err(|_| error("it is not set, or not UTF-8 text".to_owned()))?
            }
            Reference::Command(argv) => {
                let (program, arguments) =
                    argv.split_first().ok_or_else(|| error("the command is empty".to_owned()))?;
                let child = tokio::process::Command::new(program)
                    .args(arguments)
                    .stdin(std::process::Stdio::null())
                    .kill_on_drop(true)
                    .output();
                let output = tokio::time::timeout(COMMAND_DEADLINE, child)
                    .await
                    .map_err(|_| error("it did not end within 10 s".to_owned()))?
                    .map_err(|e| error(e.to_string()))?;
                if !output.status.success() {
                    return Err(error(format!("it ended with {}", output.status)));
                }
                String::from_utf8(output.stdout).map_err(|_| error("it printed no UTF-8 text".to_owned()))?
            }
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(error("it is empty".to_owned()));
        }
        Ok(Secret(text.to_owned()))
    }
}
