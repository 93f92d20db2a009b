//! One session of the runtime API in its interactive mode (Management Guide §9.3, `prompt`), where every reply ends with a prompt on
//! a line of its own: replies are counted, not guessed.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::settings::Control;
use crate::model::Unreachable;

/// What ends a reply.
const PROMPT: &[u8] = b"\n> ";
/// Largest sum of unread replies; the statistics of 10,000 servers take about 5 MB.
const LIMIT: usize = 64 << 20;
/// Commands that are sent before their replies are read: neither side's buffers fill up while both write.
const AT_ONCE: usize = 50;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A session.
pub(super) struct Session {
    control: Control,
    stream: Box<dyn Stream>,
    greeted: bool,
    unread: Vec<u8>,
}

impl Session {
    /// Connects. Nothing is sent.
    pub async fn open(control: Control, deadline: Instant) -> Result<Self, Unreachable> {
        let connect = async {
            Ok(match &control {
                Control::Tcp(address) => Box::new(TcpStream::connect(address).await?) as Box<dyn Stream>,
                Control::Unix(path) => Box::new(UnixStream::connect(path).await?),
            })
        };
        let result: std::io::Result<_> = match timeout_at(deadline, connect).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection before the deadline")),
        };
        match result {
            Ok(stream) => Ok(Self { control, stream, greeted: false, unread: Vec::new() }),
            Err(error) => Err(Unreachable::new(reason(&error), tried(&control)).advice(advice(&error, &control))),
        }
    }

    /// What is being tried, for messages.
    pub fn tried(&self) -> String {
        tried(&self.control)
    }

    /// Sends commands, one reply for each. After an error it is unknown which of them were carried out.
    pub async fn ask(&mut self, commands: &[String], deadline: Instant) -> Result<Vec<String>, Unreachable> {
        let mut replies = Vec::with_capacity(commands.len());
        for commands in commands.chunks(AT_ONCE) {
            let talk = self.talk(commands, &mut replies);
            let result = match timeout_at(deadline, talk).await {
                Ok(result) => result,
                Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer before the deadline")),
            };
            result.map_err(|error| {
                Unreachable::new(reason(&error), self.tried())
                    .advice("check that the proxy runs and that this is its `stats socket`")
            })?;
        }
        Ok(replies)
    }

    async fn talk(&mut self, commands: &[String], replies: &mut Vec<String>) -> std::io::Result<()> {
        let mut text = String::new();
        let mut greetings = 0;
        if !self.greeted {
            text.push_str("prompt\n");
            greetings = 1;
            self.greeted = true;
        }
        for command in commands {
            text.push_str(command);
            text.push('\n');
        }
        self.stream.write_all(text.as_bytes()).await?;
        for _ in 0..greetings {
            self.reply().await?;
        }
        for _ in commands {
            replies.push(self.reply().await?);
        }
        Ok(())
    }

    async fn reply(&mut self) -> std::io::Result<String> {
        let mut searched: usize = 0;
        loop {
            let from = searched.saturating_sub(PROMPT.len());
            if let Some(at) = self.unread[from..].windows(PROMPT.len()).position(|window| window == PROMPT) {
                let rest = self.unread.split_off(from + at + PROMPT.len());
                let reply = String::from_utf8_lossy(&self.unread[..from + at]).trim().to_owned();
                self.unread = rest;
                return Ok(reply);
            }
            searched = self.unread.len();
            if searched > LIMIT {
                return Err(std::io::Error::other("its answer is too long"));
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it closed the session"));
            }
        }
    }
}

fn tried(control: &Control) -> String {
    format!("runtime API at {control}")
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        std::io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn advice(error: &std::io::Error, control: &Control) -> String {
    match (error.kind(), control) {
        (std::io::ErrorKind::PermissionDenied, Control::Unix(_)) => {
            "add `user`, `group` or `mode` to the `stats socket` line so that you may write to it".to_owned()
        }
        (_, Control::Unix(path)) => {
            format!(
                "check that the proxy runs on this machine and has `stats socket {path} level admin` in `global`; from another \
                 machine it is reached by `tcp://` only"
            )
        }
        (_, Control::Tcp(address)) => {
            format!("check that the proxy runs and has `stats socket ipv4@{address} level admin` in `global`")
        }
    }
}
