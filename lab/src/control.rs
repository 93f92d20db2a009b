//! What `lab` commands ask of a running lab: one JSON line there, one back, over a UNIX socket in the lab's directory.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// What runs, and how the places are linked.
    Status,
    /// End everything.
    Down,
    /// SIGKILL.
    Kill(Selection),
    /// Start what does not run.
    Start(Selection),
    /// Keep the files of all servers as they are now, under a name. The servers rest for that time.
    Snapshot {
        /// Its name.
        name: String,
    },
    /// Kill everything, put the files of a snapshot back, and start what ran then.
    Restore {
        /// Its name.
        name: String,
    },
    /// Change the links between two places; `all` means every other place.
    Link {
        /// One place.
        a: String,
        /// The other one.
        b: String,
        /// Only packets from `a` to `b`.
        one_way: bool,
        /// What changes.
        change: LinkChange,
    },
    /// What a power controller or a firewall does.
    Power {
        /// A facility, or a machine.
        what: String,
        /// What to do with it.
        order: PowerOrder,
    },
}

/// What a power controller or a firewall can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerOrder {
    /// Everything ends at once, and nothing starts until power returns.
    Off,
    /// Power returns.
    On {
        /// Servers start by themselves; else only the machines.
        servers: bool,
    },
    /// Is it off?
    Check,
    /// Nothing passes between a facility and any other place, or again what its links let through.
    Isolate(bool),
    /// Is it isolated?
    CheckIsolated,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// A server's name, or a target's identity as in plans.
    Target(String),
    /// Everything in a facility.
    Facility(String),
}

/// A change of a link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkChange {
    /// Nothing passes, or everything again.
    Cut(bool),
    /// Round trip in milliseconds, half of it per direction; of one direction alone: that direction's time.
    DelayMs(f64),
    /// The percentage of packets that get lost.
    LossPercent(f64),
}

impl LinkChange {
    /// What holds from now on, in words.
    pub fn text(self, one_way: bool) -> String {
        match self {
            Self::Cut(true) => "nothing passes".to_owned(),
            Self::Cut(false) => "everything passes again".to_owned(),
            Self::DelayMs(ms) if one_way => format!("each packet takes {ms} ms"),
            Self::DelayMs(ms) => format!("round trip {ms} ms"),
            Self::LossPercent(0.0) => "no packet is lost".to_owned(),
            Self::LossPercent(percent) => format!("{percent}% of the packets are lost"),
        }
    }
}

/// What a lab looks like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The servers.
    pub servers: Vec<ServerStatus>,
    /// The links.
    pub links: Vec<LinkStatus>,
    /// Facilities and machines whose power is off.
    pub off: Vec<String>,
    /// Facilities that are isolated.
    pub isolated: Vec<String>,
    /// How long it took from the first server's start until all were ready, in seconds.
    pub ready_after_s: f64,
    /// Memory of all processes (proportional set size), in MiB.
    pub memory_mib: u64,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// The targets that it is.
    pub targets: Vec<String>,
    /// Where it runs.
    pub place: String,
    /// Its pid inside the lab; none if it does not run.
    pub pid: Option<i32>,
}

/// One direction between two places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// From.
    pub from: String,
    /// To.
    pub to: String,
    /// How long a packet takes, in milliseconds.
    pub delay_ms: f64,
    /// The percentage that gets lost.
    pub loss_percent: f64,
    /// Nothing passes.
    pub cut: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// What was asked for.
    Status(Status),
    /// What was done, in one line.
    Done(String),
    /// The answer to a question about one thing.
    Checked {
        /// Yes or no.
        holds: bool,
        /// The same in words.
        text: String,
    },
    /// Why it could not be done.
    Failed(String),
}

/// Sends a request to the lab in `directory`.
pub fn ask(directory: &Path, request: &Request) -> Result<Reply> {
    let mut stream = UnixStream::connect(directory.join("control"))
        .with_context(|| format!("no lab answers in {}", directory.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(180)))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match serde_json::from_str(&answer).context("the lab's answer cannot be read")? {
        Reply::Failed(why) => Err(anyhow!(why)),
        reply => Ok(reply),
    }
}
