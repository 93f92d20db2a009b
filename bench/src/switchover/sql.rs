//! A session that a script can use: one statement after the other.

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A session, with a runtime of its own.
pub struct Sql {
    runtime: Runtime,
    client: Client,
}

impl Sql {
    /// Logs in.
    pub fn open(login: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(login, NoTls))?;
        runtime.spawn(connection);
        Ok(Self { runtime, client })
    }

    /// Runs a statement; returns the first column of the first row, or nothing.
    pub fn ask(&self, statement: &str) -> Result<String> {
        let answer =
            self.runtime.block_on(self.client.simple_query(statement)).with_context(|| statement.to_owned())?;
        Ok(answer
            .iter()
            .find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_default())
    }
}
