//! Commands on hosts: on the operator's own machine, or through the operator's own OpenSSH client.
//!
//! May use `model`. Arguments are never interpreted by a shell unless a [`Command::Script`] says so, and then only as `$1`, `$2`, ….

mod process;
mod quote;
mod ssh;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::model::{Host, TransportKind, Unreachable};

/// What runs on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A program with its arguments, as they are.
    Argv(Vec<String>),
    /// A POSIX shell script with its positional parameters: several actions and waits in one round trip.
    Script {
        /// The script; it names its parameters `"$1"`, `"$2"`, ….
        text: &'static str,
        /// Its parameters: any bytes but NUL, never interpreted.
        args: Vec<String>,
    },
}

impl Command {
    /// The program and its arguments.
    fn argv(&self) -> Vec<&str> {
        match self {
            Self::Argv(argv) => argv.iter().map(String::as_str).collect(),
            Self::Script { text, args } => {
                ["sh", "-c", text, "sh"].into_iter().chain(args.iter().map(String::as_str)).collect()
            }
        }
    }

    /// The program, or "a script": arguments may be long, and are nobody's business in a message.
    fn title(&self) -> &str {
        match self {
            Self::Argv(argv) => argv.first().map_or("nothing", String::as_str),
            Self::Script { .. } => "a script",
        }
    }

    /// Why it cannot be run anywhere.
    fn check(&self) -> Result<(), &'static str> {
        let argv = self.argv();
        if argv.first().is_none_or(|program| program.is_empty()) {
            Err("the command is empty")
        } else if argv.iter().any(|word| word.contains('\0')) {
            Err("an argument holds a NUL, which no command can be given")
        } else {
            Ok(())
        }
    }
}

/// What a command left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 128 + N after signal N; 127 where a remote host has no such program.
    pub status: i32,
    /// Standard output, at most 1 MiB (more is an error); bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error without the client's own noise; the last 1 MiB of it.
    pub stderr: String,
}

/// Why there is no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The command certainly did not run.
    #[error("{0}")]
    NotRun(Unreachable),
    /// It may have run: the deadline passed or the connection broke.
    #[error("{0}")]
    Unknown(Unreachable),
}

/// Runs commands; keeps one connection per host open between them.
///
/// Connections are closed by [`close`](Self::close) or, at the latest, when it is dropped; those of a program that was killed close
/// themselves after a minute without use.
#[derive(Debug, Default)]
pub struct Transport {
    ssh: ssh::Client,
}

impl Transport {
    /// A transport that uses the operator's own `ssh` with the operator's own configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with more options for every call of `ssh`, such as `["-F", "ssh_config"]`.
    pub fn with_options(options: Vec<String>) -> Self {
        Self { ssh: ssh::Client::new(options) }
    }

    /// Runs `command` on `host` with `input` as its standard input.
    ///
    /// A command that has not ended shortly before the deadline gets SIGTERM and then SIGKILL, together with the processes that it
    /// started and did not put into a session or group of their own. Remotely that needs `timeout` (GNU, BusyBox, FreeBSD) there;
    /// without it the command goes on. What a command leaves running in the background does not keep it from having ended.
    ///
    /// # Errors
    /// If it could not be started, or its end is not known. A command that ran and failed is no error here.
    pub async fn run(
        &self,
        host: &Host,
        command: &Command,
        input: Option<&[u8]>,
        deadline: Instant,
    ) -> Result<Output, TransportError> {
        self.feed(host, command, input.map_or(process::Input::None, process::Input::Bytes), deadline).await
    }

    /// Starts `command` on `host`, which prints `mark` and then waits for its standard input: so it is there when it is needed. It has
    /// to end by itself when that input ends empty, which it does as soon as the [`Waiting`] is dropped; at the `deadline` it is ended
    /// as by [`run`](Self::run).
    pub fn start(self: &Arc<Self>, host: &Host, command: Command, mark: &'static [u8], deadline: Instant) -> Waiting {
        let (input, sent) = oneshot::channel();
        let (waits, waiting) = oneshot::channel();
        let later = process::Later { sent, mark, waits };
        let (transport, host) = (Arc::clone(self), host.clone());
        let tried = format!("`{}` on {}", command.title(), host.name);
        let ended =
            tokio::spawn(async move { transport.feed(&host, &command, process::Input::Later(later), deadline).await });
        Waiting { input, waiting, ended, tried }
    }

    async fn feed(
        &self,
        host: &Host,
        command: &Command,
        input: process::Input<'_>,
        deadline: Instant,
    ) -> Result<Output, TransportError> {
        let in_time = if deadline > Instant::now() { Ok(()) } else { Err("no time was left for it") };
        if let Err(why) = command.check().and(in_time) {
            let tried = format!("`{}` on {}", command.title(), host.name);
            return Err(TransportError::NotRun(Unreachable::new(why, tried)));
        }
        match &host.transport {
            TransportKind::Local => local(host, command, input, deadline).await,
            TransportKind::Ssh { address, user, port } => {
                let destination = ssh::Destination { address, user: user.as_deref(), port: *port };
                self.ssh.run(&destination, command, input, deadline).await
            }
        }
    }

    /// Opens the connection that [`run`](Self::run) will use, so that a following critical section loses no time. Does nothing for
    /// the operator's own machine.
    ///
    /// # Errors
    /// As [`run`](Self::run), and always [`TransportError::NotRun`].
    pub async fn warm_up(&self, host: &Host, deadline: Instant) -> Result<(), TransportError> {
        match &host.transport {
            TransportKind::Local => Ok(()),
            TransportKind::Ssh { address, user, port } => {
                let destination = ssh::Destination { address, user: user.as_deref(), port: *port };
                self.ssh.connect(&destination, deadline).await.map(drop)
            }
        }
    }

    /// Closes every connection; a later [`run`](Self::run) opens new ones.
    pub async fn close(&self) {
        self.ssh.close().await;
    }
}

/// A command that waits for its standard input. Dropped, that input ends empty.
#[derive(Debug)]
pub struct Waiting {
    input: oneshot::Sender<Vec<u8>>,
    waiting: oneshot::Receiver<Instant>,
    ended: JoinHandle<Result<Output, TransportError>>,
    tried: String,
}

impl Waiting {
    /// For how long it has been waiting at least; none if it does not say so by the deadline.
    pub async fn waits(&mut self, deadline: Instant) -> Option<Duration> {
        let since = tokio::time::timeout_at(deadline, &mut self.waiting).await.ok()?.ok()?;
        Some(since.elapsed())
    }

    /// Sends the input and waits for the end.
    ///
    /// # Errors
    /// As [`Transport::run`]; after the `deadline`, which may be earlier than that of the start, its end is not known.
    pub async fn go(self, input: &[u8], deadline: Instant) -> Result<Output, TransportError> {
        let Self { input: sender, mut ended, tried, .. } = self;
        // One that has ended already tells why.
        let _ = sender.send(input.to_vec());
        match tokio::time::timeout_at(deadline, &mut ended).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(TransportError::Unknown(Unreachable::new("it was given up", tried))),
            Err(_) => {
                ended.abort();
                Err(TransportError::Unknown(Unreachable::new("no end by the deadline", tried)))
            }
        }
    }
}

/// Runs a command on the operator's own machine.
async fn local(
    host: &Host,
    command: &Command,
    input: process::Input<'_>,
    deadline: Instant,
) -> Result<Output, TransportError> {
    let tried = || format!("`{}` on {}, this machine", command.title(), host.name);
    let argv = command.argv();
    let now = Instant::now();
    let grace = process::grace(deadline.saturating_duration_since(now));
    let limits = process::Limits { terminate: deadline - grace, kill: deadline, end_mark: None };
    let ran = process::run(&argv, input, &limits).await.map_err(|error| {
        let advice = "check the command in the topology: its program must exist and be executable on this machine";
        TransportError::NotRun(Unreachable::new(process::cannot_start(&error), tried()).advice(advice))
    })?;
    let unknown = |why: String| TransportError::Unknown(Unreachable::new(why, tried()));
    match ran.end {
        process::End::Deadline => Err(unknown(format!("ended at its deadline, after {:.1?}", now.elapsed()))),
        _ if ran.stdout.overflowed() => Err(unknown(process::TOO_MUCH.to_owned())),
        process::End::Status(status) => {
            Ok(Output { status, stdout: ran.stdout.into_text(), stderr: ran.stderr.into_text() })
        }
        process::End::Mark => Err(unknown("its end was not seen".to_owned())),
    }
}
