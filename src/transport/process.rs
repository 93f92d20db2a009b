//! One child process: fed, read, and ended in time with all that belongs to it.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// Most bytes that are kept of each output.
pub(super) const LIMIT: usize = 1 << 20;
/// Said of a command whose standard output exceeds [`LIMIT`].
pub(super) const TOO_MUCH: &str = "it printed more than 1 MiB, which is cut off and cannot be trusted";
/// How long the rest of the output may take after the end: a child in the background may hold the pipes for ever.
const LINGER: Duration = Duration::from_millis(250);

/// Time between SIGTERM and SIGKILL for a command that may take `time`.
pub(super) fn grace(time: Duration) -> Duration {
    (time / 10).min(Duration::from_millis(200))
}

/// Why a process could not be started, for a message.
pub(super) fn cannot_start(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such program".to_owned(),
        std::io::ErrorKind::ArgumentListTooLong => "its arguments are too long".to_owned(),
        _ => format!("it cannot be started: {error}"),
    }
}

/// What a command finds on its standard input.
pub(super) enum Input<'a> {
    /// Nothing.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// What is sent, once it is; nothing if the sender is dropped.
    Later(Later),
}

/// Input that comes while the command waits for it.
pub(super) struct Later {
    /// The input.
    pub sent: oneshot::Receiver<Vec<u8>>,
    /// What the command prints once it waits.
    pub mark: &'static [u8],
    /// When that was seen.
    pub waits: oneshot::Sender<Instant>,
}

/// What is left to be fed.
enum Fed<'a> {
    Now(&'a [u8]),
    Later(oneshot::Receiver<Vec<u8>>),
}

/// When a process is ended, and what else tells its end.
pub(super) struct Limits {
    /// SIGTERM for its group.
    pub terminate: Instant,
    /// SIGKILL for its group.
    pub kill: Instant,
    /// Bytes on standard error after which it counts as ended.
    pub end_mark: Option<Vec<u8>>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with this status; 128 + N after signal N.
    Status(i32),
    /// The mark was seen.
    Mark,
    /// It was ended.
    Deadline,
}

/// What it left.
pub(super) struct Ran {
    pub end: End,
    pub stdout: Kept,
    pub stderr: Kept,
}

/// The part of an output that is kept.
#[derive(Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    cut: bool,
}

impl Kept {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn overflowed(&self) -> bool {
        self.cut
    }

    pub fn into_text(self) -> String {
        text(&self.bytes)
    }

    /// Keeps the beginning.
    fn keep_first(&mut self, more: &[u8]) {
        let room = LIMIT - self.bytes.len();
        self.cut |= more.len() > room;
        self.bytes.extend_from_slice(&more[..more.len().min(room)]);
    }

    /// Keeps the end.
    fn keep_last(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        if self.bytes.len() > 2 * LIMIT {
            self.bytes.drain(..self.bytes.len() - LIMIT);
            self.cut = true;
        }
    }
}

/// Bytes as text, without a panic.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The offset of `needle` in `hay`, the last one.
pub(super) fn rfind(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).rposition(|window| window == needle)
}

/// The process group of a child; it ends with this value unless the child has ended before.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw))
    }

    /// The child was waited for: its number may belong to somebody else now.
    fn ended(&mut self) {
        self.0 = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // A group that is gone already is what was wanted.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs `argv` in a process group of its own, so that it can be ended with its children and that Ctrl-C on the operator's terminal
/// does not reach it.
///
/// # Errors
/// Only if it could not be started.
#[expect(clippy::disallowed_methods, reason = "this is the place that runs commands")]
pub(super) async fn run(argv: &[&str], input: Input<'_>, limits: &Limits) -> std::io::Result<Ran> {
    let (program, arguments) = argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(if matches!(input, Input::None) { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let mut group = Group::of(&child);
    let (mut stdout, mut stderr) = (Kept::default(), Kept::default());
    let (pipe_in, pipe_out, pipe_err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let marked = Notify::new();
    let (input, mut waits) = match input {
        Input::Later(Later { sent, mark, waits }) => (Fed::Later(sent), Some((mark, waits))),
        Input::Bytes(bytes) => (Fed::Now(bytes), None),
        Input::None => (Fed::Now(&[]), None),
    };
    let end = {
        let feed = async {
            let Some(mut pipe) = pipe_in else { return };
            // A command that does not read all of it is free not to.
            let _ = match input {
                Fed::Now(bytes) => pipe.write_all(bytes).await,
                Fed::Later(sent) => pipe.write_all(&sent.await.unwrap_or_default()).await,
            };
        };
        let read_out = drain(pipe_out, |more| {
            stdout.keep_first(more);
            if let Some((_, waits)) = waits.take_if(|(mark, _)| rfind(stdout.bytes(), mark).is_some()) {
                // Whether anybody wants to know.
                let _ = waits.send(Instant::now());
            }
        });
        let mark = limits.end_mark.as_deref();
        let read_err = drain(pipe_err, |more| {
            stderr.keep_last(more);
            if let Some(mark) = mark {
                let from = stderr.bytes.len().saturating_sub(more.len() + mark.len());
                if rfind(&stderr.bytes[from..], mark).is_some() {
                    marked.notify_one();
                }
            }
        });
        let mut pipes = std::pin::pin!(async { tokio::join!(feed, read_out, read_err) });
        let ended = async {
            tokio::select! {
                status = child.wait() => End::Status(code(status)),
                () = marked.notified() => End::Mark,
            }
        };
        let mut ended = std::pin::pin!(ended);
        let mut open = true;
        let early = tokio::select! {
            end = &mut ended => Some(end),
            _ = &mut pipes => {
                open = false;
                timeout_at(limits.terminate, &mut ended).await.ok()
            }
            () = tokio::time::sleep_until(limits.terminate) => None,
        };
        if open && early.is_some() {
            let _ = timeout_at(limits.kill.min(Instant::now() + LINGER), &mut pipes).await;
        }
        early.unwrap_or(End::Deadline)
    };
    match end {
        End::Status(_) => group.ended(),
        End::Mark => {}
        End::Deadline => {
            group.signal(Signal::TERM);
            if timeout_at(limits.kill, child.wait()).await.is_err() {
                group.signal(Signal::KILL);
                // It is dead but for a process that the kernel holds; nobody waits for that.
                let _ = timeout_at(Instant::now() + LINGER, child.wait()).await;
            }
        }
    }
    Ok(Ran { end, stdout, stderr })
}

/// Reads a pipe to its end.
async fn drain(pipe: Option<impl AsyncRead + Unpin>, mut keep: impl FnMut(&[u8])) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; 16 << 10];
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        keep(&chunk[..count]);
    }
}

/// A shell's view of how a process ended.
fn code(status: std::io::Result<std::process::ExitStatus>) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        Err(_) => 255,
    }
}
