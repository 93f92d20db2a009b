//! The operator's own OpenSSH client, one multiplexed connection per destination (ssh_config(5): ControlMaster, ControlPersist).
//!
//! Options here win over the operator's configuration, so they are few: what a program needs that cannot answer questions. Host keys
//! are checked as the operator's configuration says, which is strictly unless it says otherwise.

mod failure;
mod remote;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use self::failure::{failure, not_started};
use self::remote::{Answer, mark, remote_line, remote_time};
use super::{Command, Output, TransportError, process};
use crate::model::Unreachable;

/// How long an unused connection outlives a program that was killed, in seconds.
const PERSIST: u32 = 60;
/// How long closing a connection may take.
const CLOSING: Duration = Duration::from_secs(1);

/// Where a command goes, as `ssh` is told; as text it is what an operator would type after `ssh`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination<'a> {
    pub address: &'a str,
    pub user: Option<&'a str>,
    pub port: Option<u16>,
}

impl std::fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(port) = self.port {
            write!(f, "-p {port} ")?;
        }
        match self.user {
            Some(user) => write!(f, "{user}@{}", self.address),
            None => f.write_str(self.address),
        }
    }
}

impl Destination<'_> {
    /// The same as words of `ssh`: options, then the destination, which cannot be taken for one.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(user) = self.user {
            words.extend(["-l".to_owned(), user.to_owned()]);
        }
        if let Some(port) = self.port {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        words.extend(["--".to_owned(), self.address.to_owned()]);
        words
    }
}

/// The connection to one destination.
#[derive(Debug)]
pub(super) struct Connection {
    /// Where its master listens, while it does.
    socket: PathBuf,
    /// The words of the destination.
    words: Vec<String>,
    /// Held by the one who opens it.
    opening: tokio::sync::Mutex<()>,
}

/// Runs commands through `ssh`.
#[derive(Debug, Default)]
pub(super) struct Client {
    options: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    directory: Option<PathBuf>,
    connections: BTreeMap<Vec<String>, Arc<Connection>>,
}

impl Client {
    pub fn new(options: Vec<String>) -> Self {
        Self { options, state: Mutex::default() }
    }

    /// Runs a command remotely.
    pub async fn run(
        &self,
        destination: &Destination<'_>,
        command: &Command,
        input: process::Input<'_>,
        deadline: Instant,
    ) -> Result<Output, TransportError> {
        let connection = self.connect(destination, deadline).await?;
        let tried = || format!("`{}` through ssh {destination}", command.title());
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(TransportError::NotRun(Unreachable::new("connecting took all the time", tried())));
        }
        let mark = mark();
        let line = remote_line(&mark, left, &command.argv());
        let mut argv = self.argv(&connection, "no", left);
        argv.push(line);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let limits =
            process::Limits { terminate: deadline, kill: deadline, end_mark: Some(format!("\n{mark} ").into_bytes()) };
        let ran = process::run(&argv, input, &limits).await.map_err(|error| not_started(&error, tried()))?;
        let answer = Answer::read(&mark, ran.stdout.bytes(), ran.stderr.bytes());
        let unknown = |why: String| TransportError::Unknown(Unreachable::new(why, tried()));
        match answer.status {
            Some(_) if ran.stdout.overflowed() => Err(unknown(process::TOO_MUCH.to_owned())),
            Some(124 | 137 | 143) if now.elapsed() >= remote_time(left) => {
                Err(unknown(format!("ended at its deadline, after {:.1?}", now.elapsed())))
            }
            Some(status) => Ok(Output { status, stdout: answer.stdout, stderr: answer.stderr }),
            None => {
                if !answer.began {
                    // Whatever it is that does not answer: the next command shall not meet it.
                    self.control(&connection, "stop").await;
                }
                Err(match ran.end {
                    process::End::Deadline if answer.began => unknown(format!("no end within {left:.1?}"))
                        .with_advice("look on the host whether it still runs"),
                    process::End::Deadline => {
                        unknown(format!("no answer within {left:.1?}")).with_advice("look on the host whether it ran")
                    }
                    _ => failure(&process::text(ran.stderr.bytes()), answer.began, destination, tried()),
                })
            }
        }
    }

    /// The open connection to a destination.
    ///
    /// # Errors
    /// Always [`TransportError::NotRun`].
    pub async fn connect(
        &self,
        destination: &Destination<'_>,
        deadline: Instant,
    ) -> Result<Arc<Connection>, TransportError> {
        let tried = || format!("ssh {destination}");
        let not_run = |why: String| TransportError::NotRun(Unreachable::new(why, tried()));
        let connection = self.connection(destination).map_err(not_run)?;
        let began = Instant::now();
        let late = || {
            not_run(format!("no connection within {:.1?}", began.elapsed()))
                .with_advice(format!("check the host, its firewall, and that `ssh {destination}` connects from here"))
        };
        let _opening = timeout_at(deadline, connection.opening.lock()).await.map_err(|_| late())?;
        if tokio::net::UnixStream::connect(&connection.socket).await.is_ok() {
            return Ok(Arc::clone(&connection));
        }
        // A master that was killed leaves its socket, and the next one would not replace it.
        let _ = std::fs::remove_file(&connection.socket);
        let mut argv = self.argv(&connection, "yes", deadline.saturating_duration_since(began));
        let at = argv.len() - connection.words.len();
        // With ControlPersist it goes into the background once it is authenticated, and leaves our pipes.
        argv.insert(at, "-N".to_owned());
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let limits = process::Limits { terminate: deadline, kill: deadline, end_mark: None };
        let ran =
            process::run(&argv, process::Input::None, &limits).await.map_err(|error| not_started(&error, tried()))?;
        match ran.end {
            process::End::Status(0) => Ok(Arc::clone(&connection)),
            process::End::Deadline => Err(late()),
            _ => match failure(&ran.stderr.into_text(), false, destination, tried()) {
                TransportError::NotRun(why) | TransportError::Unknown(why) => Err(TransportError::NotRun(why)),
            },
        }
    }

    /// Closes all connections and removes their directory.
    pub async fn close(&self) {
        let state = std::mem::take(&mut *self.lock());
        for connection in state.connections.values() {
            self.control(connection, "exit").await;
        }
        if let Some(directory) = state.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere cannot leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to a destination, open or not.
    fn connection(&self, destination: &Destination<'_>) -> Result<Arc<Connection>, String> {
        if destination.address.is_empty() || destination.address.starts_with('-') {
            return Err(format!("`{}` is no address of a host", destination.address));
        }
        let words = destination.words();
        let mut state = self.lock();
        if let Some(connection) = state.connections.get(&words) {
            return Ok(Arc::clone(connection));
        }
        let directory = match &state.directory {
            Some(directory) => directory.clone(),
            None => private_directory().map_err(|error| format!("no directory for its connection: {error}"))?,
        };
        let socket = directory.join(state.connections.len().to_string());
        state.directory = Some(directory);
        let connection = Arc::new(Connection { socket, words: words.clone(), opening: tokio::sync::Mutex::default() });
        state.connections.insert(words, Arc::clone(&connection));
        Ok(connection)
    }

    /// `ssh` with all its options and the destination.
    fn argv(&self, connection: &Connection, master: &str, time: Duration) -> Vec<String> {
        let mut argv = vec!["ssh".to_owned()];
        argv.extend(self.options.iter().cloned());
        let options = [
            "BatchMode=yes".to_owned(),
            format!("ControlMaster={master}"),
            format!("ControlPath={}", connection.socket.display()),
            format!("ControlPersist={PERSIST}"),
            // Whole seconds: rounded up, so that none of the time is lost; our own deadline comes first.
            format!("ConnectTimeout={}", time.as_secs() + 1),
            // What the operator's configuration may want for people at a terminal.
            "ClearAllForwardings=yes".to_owned(),
            "RemoteCommand=none".to_owned(),
            "RequestTTY=no".to_owned(),
            // Errors only, and always: the reasons below come from them.
            "LogLevel=ERROR".to_owned(),
            // A peer that is gone is noticed within 6 s instead of at the next TCP timeout.
            "ServerAliveInterval=2".to_owned(),
            "ServerAliveCountMax=3".to_owned(),
        ];
        argv.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        argv.extend(connection.words.iter().cloned());
        argv
    }

    /// Tells a connection's master something; one that is not there has nothing to be told.
    async fn control(&self, connection: &Connection, order: &str) {
        if connection.socket.exists() {
            let argv = control_argv(&self.options, connection, order);
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            let deadline = Instant::now() + CLOSING;
            let limits = process::Limits { terminate: deadline, kill: deadline, end_mark: None };
            let _ = process::run(&argv, process::Input::None, &limits).await;
        }
    }
}

impl Drop for Client {
    /// Closes what was not closed, without a runtime. It waits for no longer than a second.
    #[expect(clippy::disallowed_methods, reason = "this is the place that runs commands")]
    fn drop(&mut self) {
        let state = std::mem::take(&mut *self.lock());
        let closing = state.connections.values().filter(|connection| connection.socket.exists());
        let mut children: Vec<_> = closing
            .filter_map(|connection| {
                let argv = control_argv(&self.options, connection, "exit");
                let null = std::process::Stdio::null;
                let (program, arguments) = argv.split_first()?;
                std::process::Command::new(program)
                    .args(arguments)
                    .stdin(null())
                    .stdout(null())
                    .stderr(null())
                    .spawn()
                    .ok()
            })
            .collect();
        let deadline = std::time::Instant::now() + CLOSING;
        for child in &mut children {
            while matches!(child.try_wait(), Ok(None)) {
                if std::time::Instant::now() >= deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if let Some(directory) = state.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

fn control_argv(options: &[String], connection: &Connection, order: &str) -> Vec<String> {
    let mut argv = vec!["ssh".to_owned()];
    argv.extend(options.iter().cloned());
    argv.extend(["-O".to_owned(), order.to_owned(), "-o".to_owned(), "LogLevel=QUIET".to_owned()]);
    argv.extend(["-o".to_owned(), format!("ControlPath={}", connection.socket.display())]);
    argv.extend(connection.words.iter().cloned());
    argv
}

/// A new directory that only we can enter. Sockets in it must fit into 108 bytes together with the 17 that `ssh` puts behind their
/// names while it makes them (unix(7)), so it is short.
#[expect(clippy::disallowed_methods, reason = "where sockets go is the environment's business")]
fn private_directory() -> std::io::Result<PathBuf> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    const LONGEST_BASE: usize = 50;
    let runtime = std::env::var("XDG_RUNTIME_DIR").ok().map(PathBuf::from);
    let usable = |base: &PathBuf| base.as_os_str().len() <= LONGEST_BASE && base.is_dir();
    let base = runtime.filter(usable).or_else(|| Some(std::env::temp_dir()).filter(usable));
    let base = base.as_deref().unwrap_or(Path::new("/tmp"));
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("handover-{}-{number}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            // Left by a killed program that had our number.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Destination<'static> = Destination { address: "db1", user: Some("postgres"), port: Some(2222) };

    #[test]
    fn a_destination_is_never_an_option() {
        assert_eq!(HERE.words(), ["-l", "postgres", "-p", "2222", "--", "db1"]);
        let evil = Destination { address: "-oProxyCommand=id", user: None, port: None };
        assert!(Client::default().connection(&evil).is_err());
    }
}
