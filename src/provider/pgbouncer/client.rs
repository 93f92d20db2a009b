//! All input and output of the adapter: console sessions, clients' sessions, and the configuration file on the pooler's machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::convert;
use crate::model::{ForeignName, Host, PoolFacts, PoolerFacts, Setting, SettingValue, Target, Unreachable};
use crate::provider::pgwire::{Answer, Login, Session, Sessions, WireError, column};
use crate::secret::{Reference, Secret, SecretReader};
use crate::transport::{Command, Transport, TransportError};

/// Prints a file.
const READ: &str = r#"exec cat -- "$1""#;

/// Replaces the file `$1` by the standard input if its SHA-256 is still `$2`, in one step, with its owner and mode. The text itself is
/// no argument: it may hold passwords, and other users see arguments. Exit status 3: certainly unchanged.
const WRITE: &str = r#"
set -u
file=$(readlink -f -- "$1") || exit 3
[ -O "$file" ] || [ "$(id -u)" = 0 ] || { echo "$file belongs to somebody else than $(id -un)" >&2; exit 3; }
now=$(sha256sum <"$file") || exit 3
[ "${now%% *}" = "$2" ] || { echo "$file changed meanwhile" >&2; exit 3; }
new=$(mktemp -- "$file.XXXXXX") || exit 3
cp -p -- "$file" "$new" && cat >"$new" && { sync "$new" 2>/dev/null || sync; } || { rm -f -- "$new"; exit 3; }
mv -f -- "$new" "$file"
"#;

/// How soon a session that broke is replaced.
const AGAIN: Duration = Duration::from_millis(5);

/// A configuration file's text as last seen.
type File = Arc<tokio::sync::Mutex<Option<String>>>;

/// Speaks to poolers.
pub(super) struct Client {
    secrets: Arc<SecretReader>,
    transport: Arc<Transport>,
    consoles: Sessions,
    files: Mutex<BTreeMap<String, File>>,
}

impl Client {
    pub fn new(secrets: Arc<SecretReader>, transport: Arc<Transport>) -> Self {
        Self { secrets, transport, consoles: Sessions::default(), files: Mutex::default() }
    }

    fn key(target: &Target) -> String {
        format!("{} {} {}", target.id, target.address, target.settings.text("admin").unwrap_or_default())
    }

    /// A session of the console: a kept one, or a new one.
    pub async fn console(&self, target: &Target, deadline: Instant) -> Result<Session, WireError> {
        match self.consoles.take(&Self::key(target)) {
            Some(session) => Ok(session),
            None => self.open(target, deadline).await,
        }
    }

    async fn open(&self, target: &Target, deadline: Instant) -> Result<Session, WireError> {
        let login = self.login(target, "pgbouncer", None).await?;
        Session::open(&login, deadline).await
    }

    /// Keeps a session for the next question.
    pub fn keep(&self, target: &Target, session: Session) {
        self.consoles.keep(&Self::key(target), session);
    }

    /// Says at the console, in one go, what may be said twice. A session that turns out to be dead is replaced until the deadline; the
    /// answers are rows or refusals.
    pub async fn say(&self, target: &Target, statements: &[&str], deadline: Instant) -> Result<Vec<Answer>, WireError> {
        let mut lost = None;
        loop {
            let kept = self.consoles.take(&Self::key(target));
            let now = Instant::now();
            // Nobody tells us of a kept session whose way has vanished: it has only a part of the time.
            let limit = if kept.is_some() { now + deadline.saturating_duration_since(now) / 3 } else { deadline };
            let session = match kept {
                Some(session) => Ok(session),
                None => self.open(target, deadline).await,
            };
            let error = match session {
                Ok(session) => {
                    let answers = session.together(statements, limit).await;
                    self.keep(target, session);
                    match answers {
                        Err(error @ (WireError::Broken(_) | WireError::Deadline)) => error,
                        answers => return answers,
                    }
                }
                // What broke a session may keep the next one away for a moment.
                Err(error @ WireError::NoSession { code: None, .. }) if lost.is_some() => error,
                Err(error) => return Err(lost.unwrap_or(error)),
            };
            // A statement that was sent may have been carried out: that no session could be opened later does not make it certain.
            if !error.certain() {
                // Where one kept session has died, so have the others.
                self.consoles.forget(&Self::key(target));
                lost = Some(error);
            }
            if Instant::now() + AGAIN >= deadline {
                return Err(lost.unwrap_or(WireError::Deadline));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// A client's session, through the pooler.
    pub async fn as_client(&self, target: &Target, database: &str, deadline: Instant) -> Result<Session, WireError> {
        let login = self.login(target, database, target.settings.get("probe")).await?;
        Session::open(&login, deadline).await
    }

    /// As whom to log in: as `probe` says, or as the administrator.
    async fn login(&self, target: &Target, database: &str, probe: Option<&Setting>) -> Result<Login, WireError> {
        let none = |why: String| WireError::NoSession { why, code: None };
        let settings = &target.settings;
        let part = |key: &str| match probe.map(|probe| &probe.value) {
            Some(SettingValue::Map(map)) => map.get(key).map(|(_, setting)| setting),
            _ => settings.get(if key == "user" { "admin" } else { key }),
        };
        let user = part("user").and_then(Setting::as_text).ok_or_else(|| none("no user is configured".to_owned()))?;
        let password: Option<Secret> = match part("password") {
            Some(setting) => {
                let reference = Reference::parse(setting).map_err(|finding| none(finding.message))?;
                Some(self.secrets.read(&reference).await.map_err(|error| none(error.to_string()))?)
            }
            None => None,
        };
        Ok(Login { address: target.address.clone(), user: user.to_owned(), database: database.to_owned(), password })
    }

    /// Asks the console, and reads the configuration file beside it.
    pub async fn facts(
        &self,
        target: &Target,
        databases: &BTreeSet<ForeignName>,
        with_file: bool,
        deadline: Instant,
    ) -> Result<PoolerFacts, Unreachable> {
        // Sent together, answered in order: one round trip.
        let console = self.say(target, &["SHOW VERSION", "SHOW CONFIG", "SHOW DATABASES", "SHOW POOLS"], deadline);
        let file = async { if with_file { self.read_file(target, deadline).await.ok() } else { None } };
        let (console, file) = tokio::join!(console, file);
        let answers = console.and_then(|answers| answers.into_iter().collect::<Result<Vec<_>, _>>());
        let answers = answers.map_err(|error| explain(target, &error))?;
        let [version, config, listed, pools] = answers.as_slice() else {
            return Err(Unreachable::new("an incomplete answer", format!("console of {}", target.name())));
        };
        let config: BTreeMap<&str, &str> =
            config.iter().filter_map(|row| Some((column(row, "key")?, column(row, "value")?))).collect();
        let setting = |name: &str| config.get(name).copied().unwrap_or_default();
        let user = target.settings.text("admin").unwrap_or_default();
        let pool = |name: &ForeignName| {
            let row = listed.iter().find(|row| column(row, "name") == Some(name.as_str()))?;
            Some(pool_facts(row, pools, setting("pool_mode"), file.as_deref()))
        };
        Ok(PoolerFacts {
            version: version.first().and_then(|row| row.get(0)).unwrap_or("pgbouncer").to_owned(),
            writable: setting("admin_users").split([',', ' ']).any(|name| name == user),
            query_wait_timeout: seconds(setting("query_wait_timeout")),
            login_retry: seconds(setting("server_login_retry")),
            databases: databases.iter().map(|name| (name.clone(), pool(name))).collect(),
        })
    }

    fn place(target: &Target) -> Result<(&Host, &str), Unreachable> {
        match (&target.host, target.settings.text("databases")) {
            (Some(host), Some(path)) => Ok((host, path)),
            _ => Err(Unreachable::new("its configuration file cannot be reached", target.name())
                .advice("give the pooler a `host` and the setting `databases` in the topology")),
        }
    }

    /// Keeps others of this program from editing the configuration file meanwhile; holds its text as last seen.
    pub async fn alone_with_file(&self, target: &Target) -> tokio::sync::OwnedMutexGuard<Option<String>> {
        let file = {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(files.entry(target.id.to_string()).or_default())
        };
        file.lock_owned().await
    }

    /// Reads the file that holds the section `[databases]`.
    pub async fn read_file(&self, target: &Target, deadline: Instant) -> Result<String, Unreachable> {
        let (host, path) = Self::place(target)?;
        let command = Command::Script { text: READ, args: vec![path.to_owned()] };
        let output = self.transport.run(host, &command, None, deadline).await.map_err(|error| match error {
            TransportError::NotRun(why) | TransportError::Unknown(why) => why,
        })?;
        if output.status == 0 {
            Ok(output.stdout)
        } else {
            Err(Unreachable::new(output.stderr.trim(), format!("reading {path} on {}", host.name)))
        }
    }

    /// Replaces that file if it still holds `old`.
    ///
    /// # Errors
    /// With true where it is certainly unchanged.
    pub async fn write_file(
        &self,
        target: &Target,
        old: &str,
        new: &str,
        deadline: Instant,
    ) -> Result<(), (bool, Unreachable)> {
        let (host, path) = Self::place(target).map_err(|why| (true, why))?;
        let command = Command::Script { text: WRITE, args: vec![path.to_owned(), convert::digest(old)] };
        let output =
            self.transport.run(host, &command, Some(new.as_bytes()), deadline).await.map_err(|error| match error {
                TransportError::NotRun(why) => (true, why),
                TransportError::Unknown(why) => (false, why),
            })?;
        if output.status == 0 {
            return Ok(());
        }
        let why = Unreachable::new(output.stderr.trim(), format!("writing {path} on {}", host.name));
        Err((output.status == 3, why))
    }
}

/// A time that pgbouncer tells in seconds.
fn seconds(text: &str) -> Duration {
    Duration::try_from_secs_f64(text.parse().unwrap_or(0.0)).unwrap_or_default()
}

fn number(row: &SimpleQueryRow, name: &str) -> u64 {
    column(row, name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Where a row of SHOW DATABASES leads.
pub(super) fn route(row: &SimpleQueryRow) -> String {
    convert::address(column(row, "host").unwrap_or_default(), column(row, "port").unwrap_or_default())
}

fn pool_facts(row: &SimpleQueryRow, pools: &[SimpleQueryRow], default_mode: &str, file: Option<&str>) -> PoolFacts {
    let name = column(row, "name").unwrap_or_default();
    let sum = |what: &str| -> u64 {
        pools.iter().filter(|pool| column(pool, "database") == Some(name)).map(|pool| number(pool, what)).sum()
    };
    let active = sum("sv_active");
    let written = file.and_then(|text| convert::written_route(text, name).ok());
    PoolFacts {
        route: route(row),
        written_route: written,
        mode: convert::pool_mode(column(row, "pool_mode").unwrap_or_default(), default_mode),
        // The flag is set as soon as somebody asks; clients are held back for certain once no transaction is left.
        paused: number(row, "paused") == 1 && active == 0,
        pausing: number(row, "paused") == 1,
        active,
        waiting: sum("cl_waiting"),
    }
}

/// A failure in the operator's words, with what to do next.
pub(super) fn explain(target: &Target, error: &WireError) -> Unreachable {
    let unreachable = error.unreachable(format!("console of {} ({})", target.name(), target.address));
    let user = target.settings.text("admin").unwrap_or_default();
    match error {
        WireError::NoSession { code: Some(code), .. }
            if [SqlState::INVALID_PASSWORD, SqlState::PROTOCOL_VIOLATION].contains(code) =>
        {
            unreachable.advice(format!("check the user `{user}` and what the setting `password` refers to"))
        }
        WireError::NoSession { .. } => unreachable.advice("check that it runs and that its address can be reached"),
        WireError::Refused { message, .. } if message.contains("admin access") => {
            unreachable.advice(format!("`{user}` must be one of pgbouncer's `admin_users`"))
        }
        _ => unreachable,
    }
}
