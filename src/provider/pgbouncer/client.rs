//! All input and output of the adapter: console sessions, clients' sessions, and the configuration file on the pooler's machine.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};

use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::pause::Calm;
use super::processes::{Process, knock_name, merged};
use super::{convert, settings};
use crate::model::{ForeignName, Host, PoolFacts, PoolerFacts, Setting, SettingValue, Target, Unreachable};
use crate::provider::pgwire::{APPLICATION, Answer, Login, Session, Sessions, WireError, column};
use crate::secret::{Reference, Secret, SecretReader};
use crate::transport::{Command, Transport, TransportError};

/// Prints a file.
const READ: &str = r#"exec cat -- "$1""#;

/// Replaces the file `$1` by the standard input if its SHA-256 is still `$2`, in one step, with its owner and mode. The text itself is
/// no argument: it may hold passwords, and other users see arguments. Its SHA-256 is: `$3`, since a sender that dies leaves a part of it.
/// Exit status 3: certainly unchanged.
const WRITE: &str = r#"
set -u
file=$(readlink -f -- "$1") || exit 3
[ -O "$file" ] || [ "$(id -u)" = 0 ] || { echo "$file belongs to somebody else than $(id -un)" >&2; exit 3; }
now=$(sha256sum <"$file") || exit 3
[ "${now%% *}" = "$2" ] || { echo "$file changed meanwhile" >&2; exit 3; }
new=$(mktemp -- "$file.XXXXXX") || exit 3
cp -p -- "$file" "$new" && cat >"$new" && { sync "$new" 2>/dev/null || sync; } || { rm -f -- "$new"; exit 3; }
now=$(sha256sum <"$new")
[ "${now%% *}" = "$3" ] || { rm -f -- "$new"; echo "the new text did not arrive whole" >&2; exit 3; }
mv -f -- "$new" "$file"
"#;

/// How soon a session that broke is replaced.
const AGAIN: Duration = Duration::from_millis(5);

/// A configuration file's text as last seen.
type File = Arc<tokio::sync::Mutex<Option<String>>>;

/// The console of one process of a pooler.
#[derive(Clone, Debug)]
pub(super) struct Console<'a> {
    pub target: &'a Target,
    /// `host:port`, or `unix:/PATH` for a socket on this machine.
    pub address: String,
}

impl<'a> Console<'a> {
    /// The consoles of all processes of a pooler: the pooler's own address, where none are listed.
    pub fn all(target: &'a Target) -> Vec<Self> {
        let listed = settings::consoles(&target.settings);
        let addresses = if listed.is_empty() { vec![target.address.clone()] } else { listed };
        addresses.into_iter().map(|address| Self { target, address }).collect()
    }

    /// For messages.
    pub fn tried(&self) -> String {
        format!("console of {} ({})", self.target.name(), self.address)
    }
}

/// Speaks to poolers.
pub(super) struct Client {
    secrets: Arc<SecretReader>,
    transport: Arc<Transport>,
    consoles: Sessions,
    files: Mutex<BTreeMap<String, File>>,
    /// What processes had whose pools are kept from growing.
    calm: Mutex<BTreeMap<String, Calm>>,
    /// What sets our sessions apart from those of every other `handover`.
    nonce: u64,
}

impl Client {
    pub fn new(secrets: Arc<SecretReader>, transport: Arc<Transport>) -> Self {
        Self {
            secrets,
            transport,
            consoles: Sessions::default(),
            files: Mutex::default(),
            calm: Mutex::default(),
            nonce: RandomState::new().build_hasher().finish(),
        }
    }

    fn key(console: &Console<'_>) -> String {
        let target = console.target;
        format!("{} {} {}", target.id, console.address, target.settings.text("admin").unwrap_or_default())
    }

    /// What our sessions at this console call themselves: a process that lists the name of another console's is that one's too.
    fn application(&self, address: &str) -> String {
        format!("{APPLICATION} {address} {:x}", self.nonce)
    }

    /// A session of the console: a kept one, or a new one.
    pub async fn console(&self, console: &Console<'_>, deadline: Instant) -> Result<Session, WireError> {
        match self.consoles.take(&Self::key(console)) {
            Some(session) => Ok(session),
            None => self.open(console, deadline).await,
        }
    }

    async fn open(&self, console: &Console<'_>, deadline: Instant) -> Result<Session, WireError> {
        let application = self.application(&console.address);
        let login = self.login(console, "pgbouncer", application, None).await?;
        Session::open(&login, deadline).await
    }

    /// Keeps a session for the next question.
    pub fn keep(&self, console: &Console<'_>, session: Session) {
        self.consoles.keep(&Self::key(console), session);
    }

    /// What a process had before its pools were kept from growing. It is known until everything is as it was.
    pub fn calmed(&self, console: &Console<'_>) -> Option<Calm> {
        self.calm.lock().unwrap_or_else(PoisonError::into_inner).get(&Self::key(console)).cloned()
    }

    /// Remembers that.
    pub fn calm(&self, console: &Console<'_>, calm: Calm) {
        self.calm.lock().unwrap_or_else(PoisonError::into_inner).insert(Self::key(console), calm);
    }

    /// Everything is as it was there.
    pub fn uncalm(&self, console: &Console<'_>) {
        self.calm.lock().unwrap_or_else(PoisonError::into_inner).remove(&Self::key(console));
    }

    /// Says at the console, in one go, what may be said twice. A session that turns out to be dead is replaced until the deadline; the
    /// answers are rows or refusals.
    pub async fn say(
        &self,
        console: &Console<'_>,
        statements: &[&str],
        deadline: Instant,
    ) -> Result<Vec<Answer>, WireError> {
        let mut lost = None;
        loop {
            let kept = self.consoles.take(&Self::key(console));
            let now = Instant::now();
            // Nobody tells us of a kept session whose way has vanished: it has only a part of the time.
            let limit = if kept.is_some() { now + deadline.saturating_duration_since(now) / 3 } else { deadline };
            let session = match kept {
                Some(session) => Ok(session),
                None => self.open(console, deadline).await,
            };
            let error = match session {
                Ok(session) => {
                    let answers = session.together(statements, limit).await;
                    self.keep(console, session);
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
                self.consoles.forget(&Self::key(console));
                lost = Some(error);
            }
            if Instant::now() + AGAIN >= deadline {
                return Err(lost.unwrap_or(WireError::Deadline));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// A client's session, through that process.
    pub async fn as_client(
        &self,
        console: &Console<'_>,
        database: &str,
        deadline: Instant,
    ) -> Result<Session, WireError> {
        let probe = console.target.settings.get("probe");
        let login = self.login(console, database, APPLICATION.to_owned(), probe).await?;
        Session::open(&login, deadline).await
    }

    /// As whom to log in: as `probe` says, or as the administrator.
    async fn login(
        &self,
        console: &Console<'_>,
        database: &str,
        application: String,
        probe: Option<&Setting>,
    ) -> Result<Login, WireError> {
        let none = |why: String| WireError::NoSession { why, code: None };
        let settings = &console.target.settings;
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
        Ok(Login {
            address: console.address.clone(),
            application,
            user: user.to_owned(),
            database: database.to_owned(),
            password,
        })
    }

    /// Asks every process, and, where everything is to be known, reads the configuration file beside it and looks for processes that
    /// are not listed.
    pub async fn facts(
        &self,
        target: &Target,
        databases: &BTreeSet<ForeignName>,
        all: bool,
        deadline: Instant,
    ) -> Result<PoolerFacts, Unreachable> {
        let consoles = Console::all(target);
        let listed = !settings::consoles(&target.settings).is_empty();
        let file = async { if all { self.read_file(target, deadline).await.ok() } else { None } };
        let processes = async {
            // Sessions that stay open while every process is asked whose it has.
            let knocking = if all && listed { self.knock(target, &consoles, deadline).await? } else { Vec::new() };
            let asked = consoles.iter().map(|console| self.process(console, databases, all && listed, deadline));
            let processes = try_join_all(asked).await?;
            Ok((processes, knocking.len()))
        };
        let (processes, file) = tokio::join!(processes, file);
        let (processes, knocks) = processes?;
        let mut facts =
            merged(processes, listed, knocks).ok_or_else(|| Unreachable::new("no console", target.name()))?;
        for (name, pool) in &mut facts.databases {
            if let (Some(pool), Some(text)) = (pool, &file) {
                pool.written_route = convert::written_route(text, name.as_str()).ok();
                pool.own_min_size = pool.own_min_size.max(convert::own_min_size(text, name.as_str()));
            }
        }
        Ok(facts)
    }

    /// Opens a session at every console, and some where clients connect: what answers there must be one of the listed processes.
    async fn knock(
        &self,
        target: &Target,
        consoles: &[Console<'_>],
        deadline: Instant,
    ) -> Result<Vec<Session>, Unreachable> {
        /// The kernel spreads connections over the processes: with half of them unlisted, one of 64 such looks sees none of those.
        const TRIES: usize = 6;
        let open = consoles.iter().map(|console| async move {
            let session = self.console(console, deadline).await.map_err(|error| explain(console, &error))?;
            self.keep(console, session);
            Ok(())
        });
        try_join_all(open).await?;
        let door = &Console { target, address: target.address.clone() };
        let knocks = (0..TRIES).map(|knock| async move {
            let application = self.application(&knock_name(knock));
            let login = self.login(door, "pgbouncer", application, None).await?;
            Session::open(&login, deadline).await
        });
        join_all(knocks).await.into_iter().collect::<Result<_, _>>().map_err(|error| explain(door, &error))
    }

    /// What one process says of itself and of some of its databases; with `clients`, also whose sessions it has.
    async fn process(
        &self,
        console: &Console<'_>,
        databases: &BTreeSet<ForeignName>,
        clients: bool,
        deadline: Instant,
    ) -> Result<Process, Unreachable> {
        // Sent together, answered in order: one round trip.
        let mut questions = vec!["SHOW VERSION", "SHOW CONFIG", "SHOW DATABASES", "SHOW POOLS", "SHOW SERVERS"];
        if clients {
            questions.push("SHOW CLIENTS");
        }
        let answers = self.say(console, &questions, deadline).await;
        let answers = answers.and_then(|answers| answers.into_iter().collect::<Result<Vec<_>, _>>());
        let answers = answers.map_err(|error| explain(console, &error))?;
        let [version, config, listed, pools, servers, clients @ ..] = answers.as_slice() else {
            return Err(Unreachable::new("an incomplete answer", console.tried()));
        };
        let config: BTreeMap<&str, &str> =
            config.iter().filter_map(|row| Some((column(row, "key")?, column(row, "value")?))).collect();
        let setting = |name: &str| config.get(name).copied().unwrap_or_default();
        let user = console.target.settings.text("admin").unwrap_or_default();
        let pool = |name: &ForeignName| {
            let row = listed.iter().find(|row| column(row, "name") == Some(name.as_str()))?;
            let mut facts = pool_facts(row, pools, setting("pool_mode"), setting("min_pool_size"));
            let servers = servers.iter().filter(|row| column(row, "database") == Some(name.as_str()));
            facts.servers =
                servers.map(|row| convert::address(text(row, "local_addr"), text(row, "local_port"))).collect();
            Some(facts)
        };
        let ours = format!("{:x}", self.nonce);
        let sessions = clients.iter().flatten().filter_map(|row| {
            let (name, nonce) =
                column(row, "application_name")?.strip_prefix(APPLICATION)?.trim_start().rsplit_once(' ')?;
            (nonce == ours).then(|| name.to_owned())
        });
        Ok(Process {
            console: console.address.clone(),
            sessions: sessions.collect(),
            shares_port: setting("so_reuseport") == "1",
            facts: PoolerFacts {
                version: version.first().and_then(|row| row.get(0)).unwrap_or("pgbouncer").to_owned(),
                writable: setting("admin_users").split([',', ' ']).any(|name| name == user),
                query_wait_timeout: seconds(setting("query_wait_timeout")),
                login_retry: seconds(setting("server_login_retry")),
                gaps: Vec::new(),
                databases: databases.iter().map(|name| (name.clone(), pool(name))).collect(),
            },
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
        let command =
            Command::Script { text: WRITE, args: vec![path.to_owned(), convert::digest(old), convert::digest(new)] };
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

pub(super) fn number(row: &SimpleQueryRow, name: &str) -> u64 {
    column(row, name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn text<'a>(row: &'a SimpleQueryRow, name: &str) -> &'a str {
    column(row, name).unwrap_or_default()
}

/// Where a row of SHOW DATABASES leads.
pub(super) fn route(row: &SimpleQueryRow) -> String {
    convert::address(column(row, "host").unwrap_or_default(), column(row, "port").unwrap_or_default())
}

fn pool_facts(row: &SimpleQueryRow, pools: &[SimpleQueryRow], default_mode: &str, default_floor: &str) -> PoolFacts {
    let name = column(row, "name").unwrap_or_default();
    let sum = |what: &str| -> u64 {
        pools.iter().filter(|pool| column(pool, "database") == Some(name)).map(|pool| number(pool, what)).sum()
    };
    let active = sum("sv_active");
    PoolFacts {
        route: route(row),
        written_route: None,
        mode: convert::pool_mode(column(row, "pool_mode").unwrap_or_default(), default_mode),
        // The flag is set as soon as somebody asks; clients are held back for certain once no transaction is left.
        paused: number(row, "paused") == 1 && active == 0,
        pausing: number(row, "paused") == 1,
        active,
        waiting: sum("cl_waiting"),
        own_min_size: if column(row, "min_pool_size") == Some(default_floor) {
            0
        } else {
            number(row, "min_pool_size")
        },
        servers: BTreeSet::new(),
    }
}

/// True where the console obeys somebody else only: nothing was done.
pub(super) fn no_rights(error: &WireError) -> bool {
    matches!(error, WireError::Refused { message, .. } if message.contains("admin access"))
}

/// A failure in the operator's words, with what to do next.
pub(super) fn explain(console: &Console<'_>, error: &WireError) -> Unreachable {
    let unreachable = error.unreachable(console.tried());
    let user = console.target.settings.text("admin").unwrap_or_default();
    match error {
        WireError::NoSession { code: Some(code), .. }
            if [SqlState::INVALID_PASSWORD, SqlState::PROTOCOL_VIOLATION].contains(code) =>
        {
            unreachable.advice(format!("check the user `{user}` and what the setting `password` refers to"))
        }
        WireError::NoSession { .. } => unreachable.advice("check that it runs and that its address can be reached"),
        error if no_rights(error) => unreachable.advice(format!("`{user}` must be one of pgbouncer's `admin_users`")),
        _ => unreachable,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests run commands")]

    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::{WRITE, convert};

    /// Whoever dies while it sends leaves a part of the text, which is no configuration.
    #[test]
    fn a_text_that_does_not_arrive_whole_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("databases.ini");
        let (old, new) = ("[databases]\naccounts = host=a\n", "[databases]\naccounts = host=b\n");
        std::fs::write(&file, old).unwrap();
        for (sent, status, left) in [("", 3, old), ("[databases]\n", 3, old), (new, 0, new)] {
            let mut script = Command::new("sh");
            script.args(["-c", WRITE, "sh"]).arg(&file).args([convert::digest(old), convert::digest(new)]);
            let mut script = script.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            script.stdin.take().unwrap().write_all(sent.as_bytes()).unwrap();
            assert_eq!(script.wait().unwrap().code(), Some(status), "{sent}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), left);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}
