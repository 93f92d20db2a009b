//! The lost check: is every acknowledged write on the final primary?

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

use crate::app::{Endpoint, chain};

/// How long one member may take to let us in.
const LOGIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long one question may take.
const QUERY_DEADLINE: Duration = Duration::from_secs(60);

/// Ids in one question.
const BATCH: usize = 50_000;

/// The one member of a database that takes writes.
pub struct Primary {
    /// A connection to it.
    pub client: Client,
    /// Its address, `host:port`.
    pub address: String,
    /// Members that could not be asked, with the reason.
    pub unreachable: Vec<String>,
}

/// Finds the primary among the members of one database by asking each.
///
/// # Errors
/// If none, or more than one, takes writes.
pub async fn final_primary(members: &[Endpoint], user: &str, password: &str) -> Result<Primary> {
    let mut primaries = Vec::new();
    let mut unreachable = Vec::new();
    for member in members {
        let address = format!("{}:{}", member.host, member.port);
        match timeout(LOGIN_DEADLINE, ask(member, user, password)).await {
            Ok(Ok((client, true))) => primaries.push((client, address)),
            Ok(Ok((_, false))) => {}
            Ok(Err(error)) => unreachable.push(format!("{address}: {}", chain(&error))),
            Err(_) => unreachable.push(format!("{address}: no answer within {} s", LOGIN_DEADLINE.as_secs())),
        }
    }
    if primaries.len() > 1 {
        let addresses: Vec<_> = primaries.iter().map(|(_, address)| address.as_str()).collect();
        bail!("more than one member takes writes: {}", addresses.join(", "));
    }
    let Some((client, address)) = primaries.pop() else {
        bail!("no member takes writes; not reached: [{}]", unreachable.join("; "));
    };
    Ok(Primary { client, address, unreachable })
}

/// Logs in, and asks whether this is a primary.
async fn ask(member: &Endpoint, user: &str, password: &str) -> Result<(Client, bool), tokio_postgres::Error> {
    let (client, connection) = member.login(user, password).connect(NoTls).await?;
    tokio::spawn(connection);
    let row = client.query_one("SELECT NOT pg_is_in_recovery()", &[]).await?;
    let primary = row.try_get(0)?;
    Ok((client, primary))
}

/// Those of `acknowledged` that are not in the table `writes`, in order.
///
/// # Errors
/// If the server does not answer.
pub async fn lost(client: &Client, acknowledged: &[i64]) -> Result<Vec<i64>> {
    const SQL: &str = "SELECT wanted.id FROM unnest($1::bigint[]) AS wanted (id) \
                       WHERE NOT EXISTS (SELECT FROM writes WHERE writes.id = wanted.id) ORDER BY 1";
    let mut missing = Vec::new();
    for batch in acknowledged.chunks(BATCH) {
        let rows = timeout(QUERY_DEADLINE, client.query(SQL, &[&batch]))
            .await
            .with_context(|| format!("no answer within {} s", QUERY_DEADLINE.as_secs()))??;
        for row in rows {
            missing.push(row.try_get(0)?);
        }
    }
    Ok(missing)
}

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// What was written.
    pub id: i64,
    /// When its client heard that it was, in microseconds since 1970.
    pub at_us: i64,
}

/// Reads a list of acknowledged ids. A last line without its end was not counted as acknowledged and is left out.
///
/// # Errors
/// If the file cannot be read, or a line is no id with its time.
pub async fn read_acknowledged(path: &Path) -> Result<Vec<Acknowledged>> {
    let text = tokio::fs::read_to_string(path).await.with_context(|| format!("cannot read {}", path.display()))?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let read = |line: &str| -> Option<Acknowledged> {
        let (id, at) = line.split_once(' ')?;
        Some(Acknowledged { id: id.parse().ok()?, at_us: at.parse().ok()? })
    };
    let all: Option<Vec<Acknowledged>> = complete.lines().map(read).collect();
    let all = all.with_context(|| format!("{} holds a line that is no id with its time", path.display()))?;
    ensure!(!all.is_empty(), "{} lists no acknowledged write: there is nothing to check", path.display());
    Ok(all)
}

/// The ids alone.
///
/// # Errors
/// As [`read_acknowledged`].
pub async fn read_ids(path: &Path) -> Result<Vec<i64>> {
    Ok(read_acknowledged(path).await?.iter().map(|write| write.id).collect())
}
