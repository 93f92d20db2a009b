//! `lab load` and `lab lost`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::lost::{final_primary, lost, read_acknowledged};
use super::{Config, Load, Readers, Writers, ids_path};
use crate::app::Endpoint;

/// Drives load, and reports what clients saw. Ends at SIGINT, SIGTERM or what `--for`, `--until-file` and `--until-eof` say.
///
/// The report is one JSON object, the last line of the output. Exit status 1 if a request or a write failed.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// A service to read from; may be repeated.
    #[arg(long = "service", value_name = "NAME=URL")]
    pub services: Vec<Named>,
    /// A database to write to, and the service through which; may be repeated.
    #[arg(long = "writer", value_name = "DATABASE=URL")]
    pub writers: Vec<Named>,
    /// Requests per second and service.
    #[arg(long, default_value_t = 50.0)]
    pub rate: f64,
    /// Clients per service.
    #[arg(long, default_value_t = 8)]
    pub clients: u32,
    /// Milliseconds between two writes to one database.
    #[arg(long, default_value_t = 10)]
    pub write_interval: u64,
    /// Writing clients per database.
    #[arg(long, default_value_t = 4)]
    pub write_clients: u32,
    /// Seconds after which a request counts as failed.
    #[arg(long, default_value_t = 10)]
    pub timeout: u64,
    /// Seconds for which a client keeps a connection before it looks the name up again.
    #[arg(long, default_value_t = 10)]
    pub connection_lifetime: u64,
    /// First id to write; by default from the clock, above those of every earlier run.
    #[arg(long)]
    pub first_id: Option<i64>,
    /// Folder for the lists of acknowledged ids.
    #[arg(long, value_name = "DIR")]
    pub acknowledged: PathBuf,
    /// Also write the report to this file.
    #[arg(long, value_name = "PATH")]
    pub report: Option<PathBuf>,
    /// Print the account so far, one line of JSON, each so many milliseconds.
    #[arg(long, value_name = "MS")]
    pub every: Option<u64>,
    /// End after so many seconds.
    #[arg(long = "for", value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// End when this file exists.
    #[arg(long, value_name = "PATH")]
    pub until_file: Option<PathBuf>,
    /// End when the standard input does: also when whoever started this has died.
    #[arg(long)]
    pub until_eof: bool,
}

/// `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What stands before the first `=`.
    pub name: String,
    /// What stands after it.
    pub value: String,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err(format!("`{text}` is not NAME=VALUE")),
        }
    }
}

impl Args {
    fn config(&self) -> Result<Config> {
        ensure!(!self.services.is_empty() || !self.writers.is_empty(), "nothing to do: give --service or --writer");
        ensure!(self.rate.is_finite() && self.rate > 0.0, "--rate {} is not above 0", self.rate);
        ensure!(self.clients > 0 && self.write_clients > 0, "there must be at least one client");
        let readers = |named: &Named| {
            (named.name.clone(), Readers { url: named.value.clone(), rate: self.rate, clients: self.clients })
        };
        let interval = Duration::from_millis(self.write_interval);
        let writers = |named: &Named| {
            (named.name.clone(), Writers { url: named.value.clone(), interval, clients: self.write_clients })
        };
        Ok(Config {
            readers: self.services.iter().map(readers).collect(),
            writers: self.writers.iter().map(writers).collect(),
            acknowledged: self.acknowledged.clone(),
            // Microseconds: a run that writes fewer than a million rows a second never meets the ids of the next.
            first_id: self.first_id.unwrap_or_else(|| jiff::Timestamp::now().as_microsecond()),
            timeout: Duration::from_secs(self.timeout),
            connection_lifetime: Duration::from_secs(self.connection_lifetime),
        })
    }

    /// Returns when the load is to end.
    async fn ended(&self) -> Result<()> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let duration = async {
            match self.duration {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        let file = async {
            let Some(path) = &self.until_file else { return std::future::pending().await };
            while !tokio::fs::try_exists(path).await.unwrap_or(false) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let eof = async {
            if !self.until_eof {
                return std::future::pending().await;
            }
            // A thread of its own: the runtime would wait for a blocked read when it shuts down.
            let (gone, eof) = tokio::sync::oneshot::channel::<()>();
            std::thread::spawn(move || {
                _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                drop(gone);
            });
            _ = eof.await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = duration => {}
            () = file => {}
            () = eof => {}
        }
        Ok(())
    }
}

/// Runs `lab load`.
///
/// # Errors
/// If the arguments make no load, or the report cannot be written, or (after it was) something failed.
pub async fn run(args: Args) -> Result<()> {
    let load = Load::start(args.config()?)?;
    let ended = args.ended();
    tokio::pin!(ended);
    let mut every = tokio::time::interval(Duration::from_millis(args.every.unwrap_or(1000).max(10)));
    loop {
        tokio::select! {
            ended = &mut ended => break ended?,
            _ = every.tick(), if args.every.is_some() => print(&load.snapshot())?,
        }
    }
    let report = load.stop().await;
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report)?;
        tokio::fs::write(path, text + "\n").await.with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&report)?;
    if !report.is_clean() {
        let failed: u64 = report.databases.values().map(|database| database.failed).sum();
        bail!("requests failed: {}; writes failed: {failed}", report.http.failed);
    }
    Ok(())
}

/// One line of JSON. A reader that has gone away is an error, not a panic.
fn print(value: &impl Serialize) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    Ok(out.flush()?)
}

/// Checks that every acknowledged write is on the primary that there is now.
///
/// Prints `{DATABASE: {primary, acknowledged, lost, first_lost, last_lost_at_us, unreachable}}`; the time is that of the latest
/// acknowledgement of a write that is lost. Exit status 1 if a write is lost, if a database has no primary or more than one, or if
/// nothing was acknowledged.
#[derive(clap::Args, Clone, Debug)]
pub struct LostArgs {
    /// Folder with the lists of acknowledged ids.
    #[arg(long, value_name = "DIR")]
    pub acknowledged: PathBuf,
    /// A member of a database; to be repeated for every member.
    #[arg(long = "member", value_name = "DATABASE=HOST:PORT/DBNAME", required = true)]
    pub members: Vec<Endpoint>,
    /// Role to log in with.
    #[arg(long, default_value = "app")]
    pub user: String,
    /// File that holds the role's password.
    #[arg(long, value_name = "PATH")]
    pub password_file: PathBuf,
}

/// Runs `lab lost`.
///
/// # Errors
/// If a write is lost or cannot be checked.
pub async fn run_lost(args: LostArgs) -> Result<()> {
    let password = tokio::fs::read_to_string(&args.password_file)
        .await
        .with_context(|| format!("cannot read the password from {}", args.password_file.display()))?;
    let mut databases: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    for member in &args.members {
        databases.entry(&member.name).or_default().push(member.clone());
    }
    let mut answers = BTreeMap::new();
    let mut problems = Vec::new();
    for (database, members) in databases {
        match check(&args, database, &members, password.trim_end()).await {
            Ok((answer, 0)) => _ = answers.insert(database, answer),
            Ok((answer, count)) => {
                answers.insert(database, answer);
                problems.push(format!("{database}: acknowledged writes lost: {count}"));
            }
            Err(error) => {
                answers.insert(database, json!({ "error": format!("{error:#}") }));
                problems.push(format!("{database}: {error:#}"));
            }
        }
    }
    print(&answers)?;
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

async fn check(args: &LostArgs, database: &str, members: &[Endpoint], password: &str) -> Result<(Value, usize)> {
    let acknowledged = read_acknowledged(&ids_path(&args.acknowledged, database)).await?;
    let ids: Vec<i64> = acknowledged.iter().map(|write| write.id).collect();
    let primary = final_primary(members, &args.user, password).await?;
    let missing = lost(&primary.client, &ids).await?;
    let gone: BTreeSet<i64> = missing.iter().copied().collect();
    let last = acknowledged.iter().filter(|write| gone.contains(&write.id)).map(|write| write.at_us).max();
    let answer = json!({
        "primary": primary.address,
        "acknowledged": ids.len(),
        "lost": missing.len(),
        "first_lost": missing.iter().take(10).collect::<Vec<_>>(),
        "last_lost_at_us": last,
        "unreachable": primary.unreachable,
    });
    Ok((answer, missing.len()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_command_line_becomes_readers_and_writers() {
        let line =
            "load --service www=http://www.example/ --writer accounts=http://pay.example/?a=b --acknowledged /tmp/x";
        let args = Line::parse_from(line.split(' ')).args;
        let config = args.config().unwrap();
        assert_eq!(config.readers["www"], Readers { url: "http://www.example/".into(), rate: 50.0, clients: 8 });
        assert_eq!(config.writers["accounts"].url, "http://pay.example/?a=b");
        assert!(config.first_id > 1_000_000_000_000_000, "{}", config.first_id);
        assert!(Args { rate: 0.0, ..args.clone() }.config().is_err());
        assert!(Args { services: Vec::new(), writers: Vec::new(), ..args }.config().is_err());
        assert!("www=".parse::<Named>().is_err());
    }
}
