//! A small application server: really reads from and writes to its databases, through their poolers.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /health` | 200 while the process accepts and answers requests |
//! | `GET /` | 200 and `{service, facility, server, reads: {DATABASE: {latest, from}}}`, one read from each database |
//! | `POST /write?database=NAME&id=N` | 200 once the commit of row `N` was acknowledged |
//!
//! A database that refuses or does not answer makes 503, or 504 when the outcome of a write is unknown, with
//! `{error, outcome}`.
//!
//! **Health is about this process, not about its databases.** During a switchover the poolers hold every query back for a moment. A
//! health check that asked the database would then fail on *all* application servers at once, and the proxies would take the whole
//! service down for a pause that clients would otherwise have waited out. A database that is really gone shows in `GET /`, whose
//! errors the proxies count.
//!
//! **Connections.** Poolers in transaction mode keep no prepared statements (pgbouncer before 1.21), so every query is one simple
//! query message, made of integers only. A connection that is found closed before anything was sent on it is replaced; after that
//! nothing is ever sent twice, because only the client can know whether that is harmless.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// How long a request waits for its database: longer than any pause that a switchover may cause.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long running requests may take to finish after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(30);

/// Connections to the pooler of each database.
const CONNECTIONS: usize = 8;

/// How long opening them may take at the start.
const OPENING: Duration = Duration::from_secs(5);

/// Runs one application server of a service.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Address to listen on.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Name of the service that it is part of.
    #[arg(long)]
    pub service: String,
    /// Facility that it stands in.
    #[arg(long)]
    pub facility: String,
    /// Its own name.
    #[arg(long)]
    pub server: String,
    /// A database and the pooler that leads to it; may be repeated.
    #[arg(long = "database", value_name = "NAME=HOST:PORT/DBNAME")]
    pub databases: Vec<Endpoint>,
    /// Role to log in with.
    #[arg(long, default_value = "app")]
    pub user: String,
    /// File that holds the role's password.
    #[arg(long, value_name = "PATH")]
    pub password_file: PathBuf,
}

/// Where a database is reached: `NAME=HOST:PORT/DBNAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The database's name in the topology.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The database's name at that place.
    pub dbname: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (name, rest) = text.split_once('=')?;
            let (address, dbname) = rest.split_once('/')?;
            let (host, port) = address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let parts = [name, host, dbname];
            parts.iter().all(|part| !part.is_empty()).then_some(())?;
            let [name, host, dbname] = parts.map(str::to_owned);
            Some(Self { name, host, port: port.parse().ok()?, dbname })
        };
        parse().ok_or_else(|| format!("`{text}` is not NAME=HOST:PORT/DBNAME"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, host, port, dbname } = self;
        if host.contains(':') {
            write!(f, "{name}=[{host}]:{port}/{dbname}")
        } else {
            write!(f, "{name}={host}:{port}/{dbname}")
        }
    }
}

impl Endpoint {
    /// How to log in there.
    pub fn login(&self, user: &str, password: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).dbname(&self.dbname).user(user).password(password);
        config
    }
}

/// Runs the server until SIGTERM or SIGINT, then finishes the running requests.
///
/// # Errors
/// If the password cannot be read or the address cannot be listened on.
pub async fn run(args: Args) -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let password = tokio::fs::read_to_string(&args.password_file)
        .await
        .with_context(|| format!("cannot read the password from {}", args.password_file.display()))?;
    let app = App::new(&args, password.trim_end());
    join_all(app.pools.values().map(Pool::open)).await;
    let router = app.router();
    // Answers are small: without this each would wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| _ = stream.set_nodelay(true));

    let (stopping, mut stop) = tokio::sync::watch::channel(());
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { _ = stop.changed().await });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => return Ok(ended??),
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    drop(stopping);
    match timeout(FAREWELL, server).await {
        Ok(ended) => Ok(ended??),
        Err(_) => anyhow::bail!("requests were still running {} s after the signal to stop", FAREWELL.as_secs()),
    }
}

/// What every request needs.
struct App {
    service: String,
    facility: String,
    server: String,
    pools: BTreeMap<String, Pool>,
}

impl App {
    fn new(args: &Args, password: &str) -> Self {
        let pool = |endpoint: &Endpoint| (endpoint.name.clone(), Pool::new(endpoint.login(&args.user, password)));
        Self {
            service: args.service.clone(),
            facility: args.facility.clone(),
            server: args.server.clone(),
            pools: args.databases.iter().map(pool).collect(),
        }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/health", get(|| async { "ok\n" }))
            .route("/", get(read))
            .route("/write", post(write))
            .with_state(Arc::new(self))
    }

    /// The answer to a request, with who answered it.
    fn answer(&self, status: StatusCode, key: &str, value: Value) -> Response {
        let mut body = json!({ "service": self.service, "facility": self.facility, "server": self.server });
        body[key] = value;
        (status, Json(body)).into_response()
    }

    /// The answer to a request that failed.
    fn failure(&self, database: &str, failure: &Failure) -> Response {
        let (status, outcome) = match failure {
            Failure::Refused(_) => (StatusCode::SERVICE_UNAVAILABLE, "refused"),
            Failure::Unknown(_) => (StatusCode::GATEWAY_TIMEOUT, "unknown"),
        };
        let (Failure::Refused(why) | Failure::Unknown(why)) = failure;
        self.answer(status, "error", json!({ "database": database, "outcome": outcome, "why": why }))
    }
}

/// `GET /`: reads from each database.
async fn read(State(app): State<Arc<App>>) -> Response {
    // The latest row by the primary key: the cost does not grow with the table.
    const SQL: &str = "SELECT coalesce(max(id), 0), host(inet_server_addr()) || ':' || inet_server_port() FROM writes";
    let reads = app.pools.iter().map(|(name, pool)| async move { (name, pool.query(SQL).await) });
    let mut answers = serde_json::Map::new();
    for (name, outcome) in join_all(reads).await {
        let messages = match outcome {
            Ok(messages) => messages,
            Err(failure) => return app.failure(name, &failure),
        };
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let latest = row.and_then(|row| row.get(0)?.parse::<i64>().ok());
        let from = row.and_then(|row| row.get(1));
        answers.insert(name.clone(), json!({ "latest": latest, "from": from }));
    }
    app.answer(StatusCode::OK, "reads", Value::Object(answers))
}

/// What `POST /write` writes, and where.
#[derive(Deserialize)]
struct Write {
    database: String,
    id: i64,
}

/// `POST /write`: inserts one row. A row that is there already is no error, so that a client may repeat a write of unknown outcome.
async fn write(State(app): State<Arc<App>>, Query(Write { database, id }): Query<Write>) -> Response {
    let Some(pool) = app.pools.get(&database) else {
        return app.answer(StatusCode::NOT_FOUND, "error", json!(format!("there is no database `{database}` here")));
    };
    match pool.query(&format!("INSERT INTO writes (id) VALUES ({id}) ON CONFLICT DO NOTHING")).await {
        Ok(_) => app.answer(StatusCode::OK, "written", json!({ "database": database, "id": id })),
        Err(failure) => app.failure(&database, &failure),
    }
}

/// Why a query failed.
#[derive(Clone, Debug)]
enum Failure {
    /// It was certainly not carried out.
    Refused(String),
    /// It was sent, and no answer came.
    Unknown(String),
}

/// A few connections to one pooler.
struct Pool {
    login: tokio_postgres::Config,
    idle: Mutex<Vec<Client>>,
    permits: Semaphore,
}

impl Pool {
    fn new(login: tokio_postgres::Config) -> Self {
        Self { login, idle: Mutex::default(), permits: Semaphore::new(CONNECTIONS) }
    }

    /// Opens all its connections, as pools of a fixed size do: nobody logs in while a pooler holds its clients back. What cannot be
    /// opened now is opened when it is needed.
    async fn open(&self) {
        let opened = join_all((0..CONNECTIONS).map(|_| timeout(OPENING, self.login.connect(NoTls)))).await;
        for (client, connection) in opened.into_iter().flatten().flatten() {
            tokio::spawn(connection);
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        }
    }

    /// Sends one query, at most once, and waits for its answer.
    async fn query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let refused = |what: &str| Failure::Refused(format!("{what} within {} s", PATIENCE.as_secs()));
        let _permit = timeout_at(deadline, self.permits.acquire())
            .await
            .map_err(|_| refused("no connection became free"))?
            .map_err(|e| Failure::Refused(e.to_string()))?;
        let client =
            timeout_at(deadline, self.client()).await.map_err(|_| refused("the pooler let nobody log in"))??;
        let outcome = timeout_at(deadline, client.simple_query(sql))
            .await
            .map_err(|_| Failure::Unknown(format!("no answer within {} s", PATIENCE.as_secs())))?;
        let failure = outcome.as_ref().err().map(|error| match error.as_db_error() {
            Some(refusal) => {
                let fatal = matches!(refusal.severity(), "FATAL" | "PANIC");
                // A session that ends while it commits may have committed.
                let why = format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code());
                if fatal { Failure::Unknown(why) } else { Failure::Refused(why) }
            }
            None => Failure::Unknown(chain(error)),
        });
        // A query that was cut off, by its client or the deadline, never comes here: its connection is closed, not used again.
        if !matches!(failure, Some(Failure::Unknown(_))) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        }
        match (outcome, failure) {
            (_, Some(failure)) => Err(failure),
            (Ok(messages), None) => Ok(messages),
            (Err(error), None) => Err(Failure::Unknown(chain(&error))),
        }
    }

    /// An open connection: one that is idle, or a new one.
    async fn client(&self) -> Result<Client, Failure> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(client) if client.is_closed() => {}
                Some(client) => return Ok(client),
                None => break,
            }
        }
        let (client, connection) = self.login.connect(NoTls).await.map_err(|error| Failure::Refused(chain(&error)))?;
        // Its end is seen by `is_closed` and by whoever waits for an answer.
        tokio::spawn(connection);
        Ok(client)
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_name_host_port_and_database() {
        let endpoint: Endpoint = "accounts=10.10.0.110:6432/accounts_rw".parse().unwrap();
        let expected =
            Endpoint { name: "accounts".into(), host: "10.10.0.110".into(), port: 6432, dbname: "accounts_rw".into() };
        assert_eq!(endpoint, expected);
        assert_eq!("a=[::1]:5/b".parse::<Endpoint>().unwrap().host, "::1");
        for text in ["a=[::1]:5/b", "accounts=10.10.0.110:6432/accounts_rw"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for wrong in ["", "accounts", "accounts=host/db", "accounts=host:port/db", "=host:1/db", "a=host:1/"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
