//! All input and output of the adapter: SQL sessions and commands on the member's machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::convert;
use super::files::{self, HostState};
use super::settings::no_control;
use crate::journal::Permit;
use crate::model::{Host, Lineage, MemberFacts, Target, TargetId, Unreachable};
use crate::provider::Outcome;
use crate::provider::pgwire::{APPLICATION, Login, Session, Sessions, WireError};
use crate::secret::SecretReader;
use crate::transport::{Command, Output, Transport, TransportError, Waiting};

/// The verb of `rebuild.sh`.
pub(super) const REBUILD: &str = "rebuild";

const HOST_SCRIPT: &str = concat!(include_str!("member.sh"), include_str!("host.sh"));
const REBUILD_SCRIPT: &str = concat!(include_str!("member.sh"), include_str!("rebuild.sh"));

/// The verb of `host.sh` that stops a primary for good.
pub(super) const FENCE: &str = "fence";

/// The oldest major version that has what is asked (`has_parameter_privilege`, the role `pg_checkpoint`).
const OLDEST: u32 = 15;

/// Why an action did not end well.
#[derive(Debug)]
pub(super) struct Failure {
    /// True where certainly nothing was touched.
    pub certain: bool,
    /// What went wrong.
    pub why: Unreachable,
}

impl Failure {
    /// Certainly nothing was touched.
    pub fn untouched(why: Unreachable) -> Self {
        Self { certain: true, why }
    }

    /// Something may have been done.
    pub fn unknown(why: Unreachable) -> Self {
        Self { certain: false, why }
    }

    /// As an outcome.
    pub fn outcome(self) -> Outcome {
        if self.certain { Outcome::NotApplied(self.why) } else { Outcome::Unknown(self.why) }
    }
}

/// What `host.sh` needs beyond the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostArguments {
    /// How the member shall connect to its primary.
    pub connection: String,
    /// Its slot there.
    pub slot: String,
    /// Walsenders that a stop need not wait for.
    pub senders: Vec<String>,
    /// The run whose work it is.
    pub run: String,
    /// The number of the permit under which it is said.
    pub number: Option<u64>,
    /// The history that an unfence restores.
    pub lineage: Option<Lineage>,
    /// What only a rebuild needs.
    pub rebuild: Vec<String>,
}

impl HostArguments {
    /// What is said under a permit.
    pub fn under(permit: &Permit) -> Self {
        Self { run: permit.run().0.clone(), number: Some(permit.number()), ..Self::default() }
    }
}

/// Runs the script `"$1"` as the owner of the data directory `"$4"`: PostgreSQL refuses to run as root. A rebuild that was cut short may
/// have left it beside its place.
pub(super) const AS_OWNER: &str = r#"
data=$4
[ -d "$data" ] || data=$4.rebuilt
if [ ! -O "$data" ] && [ "$(id -u)" = 0 ] && [ -d "$data" ]; then
  owner=$(ls -ldn -- "$data" | { read -r _ _ user group _; echo "$user $group"; })
  exec setpriv --reuid "${owner% *}" --regid "${owner#* }" --clear-groups sh -c "$@"
fi
exec sh -c "$@"
"#;

/// Speaks to members.
pub(super) struct Client {
    secrets: Arc<SecretReader>,
    transport: Arc<Transport>,
    sessions: Sessions,
    armed: Mutex<BTreeMap<TargetId, Armed>>,
}

/// A fence that has looked whether it can be done, and waits on the member's machine for the word.
struct Armed {
    /// What it was started with.
    arguments: HostArguments,
    waiting: Waiting,
}

impl Client {
    pub fn new(secrets: Arc<SecretReader>, transport: Arc<Transport>) -> Self {
        Self { secrets, transport, sessions: Sessions::default(), armed: Mutex::default() }
    }

    fn key(target: &Target) -> String {
        let text = |key| target.settings.text(key).unwrap_or_default();
        format!("{} {} {} {}", target.id, target.address, text("user"), text("database"))
    }

    /// A session: a kept one, or a new one.
    pub async fn session(&self, target: &Target, deadline: Instant) -> Result<Session, WireError> {
        match self.sessions.take(&Self::key(target)) {
            Some(session) => Ok(session),
            None => self.open(target, deadline).await,
        }
    }

    async fn open(&self, target: &Target, deadline: Instant) -> Result<Session, WireError> {
        let none = |why: String| WireError::NoSession { why, code: None };
        let user = target.settings.text("user").ok_or_else(|| none("the setting `user` is missing".to_owned()))?;
        let password = match target.settings.get("password") {
            Some(_) => Some(self.secrets.setting(&target.settings, "password").await.map_err(|e| none(e.to_string()))?),
            None => None,
        };
        let login = Login {
            address: target.address.clone(),
            application: APPLICATION.to_owned(),
            user: user.to_owned(),
            database: target.settings.text("database").unwrap_or("postgres").to_owned(),
            password,
        };
        let session = Session::open(&login, deadline).await?;
        let major: u32 = session.version.split(['.', ' ', 'b', 'r']).next().and_then(|n| n.parse().ok()).unwrap_or(0);
        if major < OLDEST {
            return Err(none(format!("it is PostgreSQL {}; this provider needs {OLDEST} or newer", session.version)));
        }
        Ok(session)
    }

    /// Keeps a session for the next question.
    pub fn keep(&self, target: &Target, session: Session) {
        self.sessions.keep(&Self::key(target), session);
    }

    /// Asks what changes nothing; a kept session that turns out to be broken is replaced once.
    pub async fn ask(&self, target: &Target, sql: &str, deadline: Instant) -> Result<Vec<SimpleQueryRow>, WireError> {
        self.ask_beside(target, sql, None, deadline).await.map(|(rows, _)| rows)
    }

    /// The same, with another question in the same round trip that may go unanswered.
    async fn ask_beside(
        &self,
        target: &Target,
        sql: &str,
        beside: Option<&str>,
        deadline: Instant,
    ) -> Result<(Vec<SimpleQueryRow>, Vec<SimpleQueryRow>), WireError> {
        let both = async |session: &Session| {
            let other = async {
                match beside {
                    Some(sql) => session.query(sql, deadline).await.unwrap_or_default(),
                    None => Vec::new(),
                }
            };
            let (rows, other) = tokio::join!(session.query(sql, deadline), other);
            rows.map(|rows| (rows, other))
        };
        if let Some(session) = self.sessions.take(&Self::key(target)) {
            match both(&session).await {
                Err(WireError::Broken(_)) => {}
                answer => {
                    self.keep(target, session);
                    return answer;
                }
            }
        }
        let session = self.open(target, deadline).await?;
        let answer = both(&session).await;
        self.keep(target, session);
        answer
    }

    /// The member's facts by SQL.
    pub async fn facts(&self, target: &Target, deadline: Instant) -> Result<MemberFacts, Unreachable> {
        let (rows, history) = self.ask_facts(target, deadline).await.map_err(|error| explain(target, &error))?;
        Self::read(target, &rows, &history)
    }

    async fn ask_facts(
        &self,
        target: &Target,
        deadline: Instant,
    ) -> Result<(Vec<SimpleQueryRow>, Vec<SimpleQueryRow>), WireError> {
        self.ask_beside(target, convert::FACTS_SQL, Some(convert::HISTORY_SQL), deadline).await
    }

    /// What it is and how far it has come; everything else in these facts is empty. It costs clients that wait a tenth of all facts.
    pub async fn progress(&self, target: &Target, deadline: Instant) -> Result<MemberFacts, Unreachable> {
        let rows = self.ask(target, convert::PROGRESS_SQL, deadline).await.map_err(|error| explain(target, &error))?;
        Self::read(target, &rows, &[])
    }

    /// The member's facts; where nobody listens at its address, those of its files, as its machine tells them.
    pub async fn facts_or_files(&self, target: &Target, deadline: Instant) -> Result<MemberFacts, Unreachable> {
        let error = match self.ask_facts(target, deadline).await {
            Ok((rows, history)) => return Self::read(target, &rows, &history),
            Err(error) => error,
        };
        if matches!(error, WireError::NoSession { code: None, .. })
            && let Ok(state) = self.host(target, "state", HostArguments::default(), deadline).await
            && !state.alive
        {
            return Ok(state.facts(no_control(target)));
        }
        Err(explain(target, &error))
    }

    fn read(target: &Target, rows: &[SimpleQueryRow], history: &[SimpleQueryRow]) -> Result<MemberFacts, Unreachable> {
        let tried = || format!("reading the state of {} at {}", target.name(), target.address);
        let json =
            rows.first().and_then(|row| row.get(0)).ok_or_else(|| Unreachable::new("an empty answer", tried()))?;
        let reported = convert::reported(json)
            .map_err(|error| Unreachable::new(format!("an answer that was not understood: {error}"), tried()))?;
        let history = history.first().and_then(|row| row.get(0)).map(convert::history).unwrap_or_default();
        Ok(MemberFacts { history, ..convert::member(reported, no_control(target)) })
    }

    /// Runs `host.sh` or `rebuild.sh` on the member's machine.
    pub async fn host(
        &self,
        target: &Target,
        verb: &str,
        arguments: HostArguments,
        deadline: Instant,
    ) -> Result<HostState, Failure> {
        let (host, command) = script(target, verb, &arguments, deadline)?;
        let ended = self.transport.run(host, &command, None, deadline).await;
        state(target, verb, ended)
    }

    /// Starts a fence that waits for the word. What fails here fails again, and shows, where the fence is carried out.
    pub fn arm(&self, target: &Target, arguments: HostArguments, deadline: Instant) {
        let waiting = HostArguments { senders: Vec::new(), run: String::new(), number: None, ..arguments.clone() };
        let Ok((host, command)) = script(target, FENCE, &waiting, deadline) else { return };
        let waiting = self.transport.start(host, command, b"armed\n", deadline);
        self.armed().insert(target.id.clone(), Armed { arguments, waiting });
    }

    /// Gives a fence the word that waits for it, if there is one that would do the same but for the walsenders, which it knows.
    pub async fn give_the_word(
        &self,
        target: &Target,
        wanted: &HostArguments,
        deadline: Instant,
    ) -> Option<Result<HostState, Failure>> {
        let Armed { arguments, mut waiting } = self.armed().remove(&target.id)?;
        if *wanted != (HostArguments { senders: Vec::new(), ..arguments.clone() }) {
            return None;
        }
        // By its own clock it has waited for at least so long: what it is given ends before our deadline.
        let now = Instant::now();
        let soon = now + deadline.saturating_duration_since(now) / 4;
        let age = waiting.waits(soon).await?.as_millis() / 10;
        let (run, number) = (&arguments.run, arguments.number.unwrap_or_default());
        let word = format!("go {age} {} {run} {number} {}\n", limit(deadline), arguments.senders.join(" "));
        Some(state(target, FENCE, waiting.go(word.as_bytes(), deadline).await))
    }

    fn armed(&self) -> std::sync::MutexGuard<'_, BTreeMap<TargetId, Armed>> {
        // A panic elsewhere cannot leave it half changed.
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session and the way to the member's machine.
    pub async fn warm_up(&self, target: &Target, deadline: Instant) {
        let sql = async {
            if let Ok(session) = self.session(target, deadline).await {
                self.keep(target, session);
            }
        };
        // What fails here fails again, and shows, where it is needed.
        let host = async { drop(self.host(target, "state", HostArguments::default(), deadline).await) };
        tokio::join!(sql, host);
    }
}

fn tried(verb: &str, target: &Target) -> String {
    format!("{verb} of {} on its host", target.name())
}

/// How long the script may wait for anything, in hundredths of a second: it ends before the transport ends it, so that it can say what it
/// waited for.
fn limit(deadline: Instant) -> u128 {
    deadline.saturating_duration_since(Instant::now()).as_millis() / 10 * 3 / 4
}

/// The script for a member, and the host on which it runs.
fn script<'a>(
    target: &'a Target,
    verb: &str,
    arguments: &HostArguments,
    deadline: Instant,
) -> Result<(&'a Host, Command), Failure> {
    let untouched = |why: String| Unreachable::new(why, tried(verb, target));
    if let Some(why) = no_control(target) {
        let advice = "give the member a `host` and its `data_directory` in the topology";
        return Err(Failure::untouched(untouched(why).advice(advice)));
    }
    let (Some(host), Some(data)) = (&target.host, target.settings.text("data_directory")) else {
        return Err(Failure::untouched(untouched("no host or data directory is configured".to_owned())));
    };
    let text = |key| target.settings.text(key).map(str::to_owned);
    let text_of_script = if verb == REBUILD { REBUILD_SCRIPT } else { HOST_SCRIPT };
    let mut args = vec![text_of_script.to_owned(), "handover".to_owned(), verb.to_owned(), data.to_owned()];
    args.push(text("bin_directory").unwrap_or_default());
    args.push(text("log").unwrap_or_else(|| format!("{data}/startup.log")));
    args.push(limit(deadline).to_string());
    args.extend([arguments.connection.clone(), arguments.slot.clone(), arguments.senders.join(" ")]);
    args.extend([arguments.run.clone(), arguments.number.map(|number| number.to_string()).unwrap_or_default()]);
    let lineage = arguments.lineage.as_ref().map(|it| (it.system.clone(), it.timeline.to_string()));
    let (system, timeline) = lineage.unwrap_or_default();
    args.extend([system, timeline]);
    let port = target.address.rsplit(':').next().unwrap_or_default();
    for name in ["inhibit", "stop", "start", "allow", "control_data"] {
        let command = host.commands.get(name).map_or(&[][..], Vec::as_slice);
        args.push(command.len().to_string());
        let filled = |word: &String| {
            word.replace("{data_directory}", data).replace("{port}", port).replace("{member}", target.name())
        };
        args.extend(command.iter().map(filled));
    }
    args.push(arguments.rebuild.len().to_string());
    args.extend(arguments.rebuild.iter().cloned());
    Ok((host, Command::Script { text: AS_OWNER, args }))
}

/// What the script left.
fn state(target: &Target, verb: &str, ended: Result<Output, TransportError>) -> Result<HostState, Failure> {
    let output = match ended {
        Ok(output) => output,
        Err(TransportError::NotRun(why)) => return Err(Failure::untouched(why)),
        Err(TransportError::Unknown(why)) => return Err(Failure::unknown(why)),
    };
    let told = |why: String| Unreachable::new(why, tried(verb, target));
    match output.status {
        0 => files::host_state(&output.stdout)
            .map_err(|why| Failure::unknown(told(format!("its answer is incomplete: {why}")))),
        3 => Err(Failure::untouched(told(output.stderr.trim().to_owned()))),
        status => Err(Failure::unknown(told(format!("exit status {status}: {}", output.stderr.trim())))),
    }
}

/// A failure of SQL in the operator's words, with what to do next.
pub(super) fn explain(target: &Target, error: &WireError) -> Unreachable {
    let unreachable = error.unreachable(format!("SQL at {} ({})", target.name(), target.address));
    let user = target.settings.text("user").unwrap_or_default();
    match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => {
            unreachable.advice(format!("check the role `{user}` and what the setting `password` refers to"))
        }
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            unreachable.advice(format!("pg_hba.conf must let `{user}` in from here"))
        }
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            unreachable.advice(format!("give `{user}` the rights that docs/providers.md lists under postgresql"))
        }
        Some(code) if *code == SqlState::CANNOT_CONNECT_NOW => unreachable.advice(
            "wait until it has started; a replica with hot_standby = off never answers: set it to on, and restart it",
        ),
        _ => match error {
            WireError::NoSession { .. } => unreachable.advice("check that it runs and that its address can be reached"),
            _ => unreachable,
        },
    }
}
