//! Sessions by PostgreSQL's frontend/backend protocol, for the adapters whose targets speak it: only the simple query protocol
//! (PostgreSQL manual, "Message Flow"), which pgbouncer's console understands too.
//!
//! May use `model` and `secret`. Must not know what is asked.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::model::Unreachable;
use crate::secret::Secret;

/// What we call ourselves: operators see it in `pg_stat_activity`, and so does the preflight, which leaves us out.
pub const APPLICATION: &str = "handover";

/// Why there is no session, where its server is too slow.
const NO_TIME: &str = "no session before the deadline";

/// Idle sessions that are kept for one login.
const KEPT: usize = 8;

/// Where and as whom to log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// `host:port`, or `unix:/PATH` for a socket on this machine.
    pub address: String,
    /// What to call ourselves.
    pub application: String,
    /// Login name.
    pub user: String,
    /// Database.
    pub database: String,
    /// Password, where one is configured.
    pub password: Option<Secret>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No session: nothing was sent.
    #[error("{why}")]
    NoSession {
        /// The cause.
        why: String,
        /// The server's code, where it refused the login.
        code: Option<SqlState>,
    },
    /// The server answered with an error: it did not do what that statement says.
    #[error("{message}")]
    Refused {
        /// Its code.
        code: SqlState,
        /// Its words, with detail and hint.
        message: String,
    },
    /// The session broke after the question was sent.
    #[error("the session broke: {0}")]
    Broken(String),
    /// The deadline passed after the question was sent.
    #[error("no answer before the deadline")]
    Deadline,
}

impl WireError {
    /// True where the statement certainly had no effect.
    pub fn certain(&self) -> bool {
        matches!(self, Self::NoSession { .. } | Self::Refused { .. })
    }

    /// The server's code, where it gave one.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::NoSession { code, .. } => code.as_ref(),
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// As an observation.
    pub fn unreachable(&self, tried: impl Into<String>) -> Unreachable {
        Unreachable::new(self.to_string(), tried)
    }
}

/// A session and what carries it, or why there is none.
type Opened<S> = Result<(Client, Connection<S, NoTlsStream>), tokio_postgres::Error>;

/// The answer to one statement.
pub type Answer = Result<Vec<SimpleQueryRow>, WireError>;

/// An open session. One that is dropped in the middle of a question closes its connection at once.
pub struct Session {
    client: Client,
    io: JoinHandle<()>,
    /// Held while statements that belong together are queued, so that they leave together.
    gate: Arc<Mutex<()>>,
    asked: AtomicUsize,
    /// The server's version as it reports it: "15.18 (Debian …)" or "1.18.0/bouncer".
    pub version: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        // An idle session takes leave of the server by itself once its client is gone.
        if self.asked.load(Ordering::Relaxed) > 0 {
            self.io.abort();
        }
    }
}

impl Session {
    /// Opens a session.
    ///
    /// # Errors
    /// [`WireError::NoSession`], also at the deadline.
    pub async fn open(login: &Login, deadline: Instant) -> Result<Self, WireError> {
        let none = |why: String| WireError::NoSession { why, code: None };
        let mut config = Config::new();
        config.user(&login.user).dbname(&login.database).application_name(&login.application);
        if let Some(password) = &login.password {
            config.password(password.expose());
        }
        if let Some(path) = login.address.strip_prefix("unix:") {
            let stream = match timeout_at(deadline, UnixStream::connect(path)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(none(error.to_string())),
                Err(_) => return Err(none(NO_TIME.to_owned())),
            };
            return Self::start(timeout_at(deadline, config.connect_raw(stream, NoTls)).await);
        }
        let (host, port) = split_address(&login.address)
            .ok_or_else(|| none(format!("`{}` is not an address such as `10.10.0.100:5432`", login.address)))?;
        config.host(host).port(port);
        Self::start(timeout_at(deadline, config.connect(NoTls)).await)
    }

    fn start<S>(opened: Result<Opened<S>, Elapsed>) -> Result<Self, WireError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (client, connection) = match opened {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => {
                let why = error.as_db_error().map_or_else(|| root(&error), |refusal| refusal.message().to_owned());
                return Err(WireError::NoSession { why, code: error.code().cloned() });
            }
            Err(_) => return Err(WireError::NoSession { why: NO_TIME.to_owned(), code: None }),
        };
        let version = connection.parameter("server_version").unwrap_or_default().to_owned();
        let gate = Arc::new(Mutex::new(()));
        let sending = Arc::clone(&gate);
        // Its end shows as a closed client.
        let io = tokio::spawn(async move {
            let mut connection = pin!(connection);
            let ended = poll_fn(|context| {
                let _open = sending.lock().unwrap_or_else(PoisonError::into_inner);
                Future::poll(Pin::as_mut(&mut connection), context)
            });
            drop(ended.await);
        });
        Ok(Self { client, io, gate, asked: AtomicUsize::new(0), version })
    }

    /// True once the connection has ended.
    pub fn closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Asks, in one round trip: one statement, or several that are one transaction.
    ///
    /// # Errors
    /// Any of [`WireError`] but `NoSession`.
    pub async fn query(&self, sql: &str, deadline: Instant) -> Result<Vec<SimpleQueryRow>, WireError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = timeout_at(deadline, self.client.simple_query(sql)).await.map_err(|_| WireError::Deadline)?;
        self.asked.fetch_sub(1, Ordering::Relaxed);
        rows(answer)
    }

    /// Sends several statements in one go, without anything in between, and returns their answers in order; a refused one does not
    /// keep the server from those behind it.
    ///
    /// # Errors
    /// [`WireError::Deadline`] and [`WireError::Broken`] if not all were answered.
    pub async fn together(&self, statements: &[&str], deadline: Instant) -> Result<Vec<Answer>, WireError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut all = join_all(statements.iter().map(|sql| self.client.simple_query(sql)));
        let answers = poll_fn(|context| {
            // The first poll queues all of them.
            let _closed = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            Future::poll(Pin::new(&mut all), context)
        });
        let answers = timeout_at(deadline, answers).await.map_err(|_| WireError::Deadline)?;
        self.asked.fetch_sub(1, Ordering::Relaxed);
        let unbroken = |answer| match rows(answer) {
            Err(error @ WireError::Broken(_)) => Err(error),
            answer => Ok(answer),
        };
        answers.into_iter().map(unbroken).collect()
    }

    /// Asks the same question again and again, a new one each `interval` without waiting for the answer to the one before (so
    /// that a long way costs no more than itself), until `done` says so of an answer. Returns false if the deadline came first.
    ///
    /// # Errors
    /// As [`query`](Self::query), without `Deadline`.
    pub async fn poll(
        &self,
        sql: &str,
        interval: Duration,
        deadline: Instant,
        done: impl Fn(&[SimpleQueryRow]) -> bool,
    ) -> Result<bool, WireError> {
        /// Questions on their way at one time.
        const MOST: usize = 64;
        let mut asked = FuturesUnordered::new();
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.asked.fetch_add(1, Ordering::Relaxed);
        loop {
            tokio::select! {
                biased;
                Some(answer) = asked.next(), if !asked.is_empty() => {
                    let answer = rows(answer)?;
                    if done(&answer) {
                        // Those still on their way are answered in order before anything that is asked next.
                        self.asked.fetch_sub(1, Ordering::Relaxed);
                        return Ok(true);
                    }
                }
                () = tokio::time::sleep_until(deadline) => return Ok(false),
                _ = ticks.tick(), if asked.len() < MOST => asked.push(self.client.simple_query(sql)),
            }
        }
    }
}

fn rows(answer: Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>) -> Result<Vec<SimpleQueryRow>, WireError> {
    let messages = answer.map_err(|error| match error.as_db_error() {
        Some(refusal) if !refusal.severity().eq("FATAL") => WireError::Refused {
            code: refusal.code().clone(),
            message: [Some(refusal.message()), refusal.detail(), refusal.hint()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("; "),
        },
        Some(refusal) => WireError::Broken(refusal.message().to_owned()),
        None => WireError::Broken(root(&error)),
    })?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// The innermost cause: "Connection refused" says more than "error connecting to server".
fn root(error: &tokio_postgres::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Host and port of `host:port` or `[v6]:port`.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').map_or(Some(host), |rest| rest.strip_suffix(']'))?;
    if host.is_empty() { None } else { Some((host, port.parse().ok()?)) }
}

/// A value of a row by its column's name.
pub fn column<'a>(row: &'a SimpleQueryRow, name: &str) -> Option<&'a str> {
    row.try_get(name).ok().flatten()
}

/// Sessions that are kept open between questions, by target and login.
#[derive(Default)]
pub struct Sessions {
    idle: Mutex<BTreeMap<String, Vec<Session>>>,
}

impl Sessions {
    /// Takes a kept session that is still open.
    pub fn take(&self, key: &str) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(key)?;
        while let Some(session) = kept.pop() {
            if !session.closed() {
                return Some(session);
            }
        }
        None
    }

    /// Closes all that are kept.
    pub fn forget(&self, key: &str) {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        kept.into_iter().flatten().for_each(|session| session.io.abort());
    }

    /// Keeps a session for the next question.
    pub fn keep(&self, key: &str, session: Session) {
        if session.closed() || session.asked.load(Ordering::Relaxed) > 0 {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(key.to_owned()).or_default();
        if kept.len() < KEPT {
            kept.push(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split_address;

    #[test]
    fn addresses_come_apart() {
        assert_eq!(split_address("10.10.0.100:5432"), Some(("10.10.0.100", 5432)));
        assert_eq!(split_address("[fd00::1]:5432"), Some(("fd00::1", 5432)));
        for wrong in ["", "10.10.0.100", ":5432", "host:port", "[fd00::1:5432", "host:70000"] {
            assert_eq!(split_address(wrong), None, "{wrong}");
        }
    }
}
