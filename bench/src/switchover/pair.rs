//! A primary, its replica and the pooler in front of them: the servers of the ways that hold clients back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::parse_rows;
use crate::servers::{Member, Pooler, Site};

/// Two members, `a` and `b`, behind a pooler.
pub struct Pair {
    members: [Member; 2],
    /// The pooler.
    pub pooler: Pooler,
    /// Which of the members is primary.
    primary: usize,
    /// Last, so that the directory outlives its servers.
    pub site: Site,
}

impl Pair {
    /// Starts them; `a` is primary.
    pub fn start() -> Self {
        let site = Site::new();
        let primary = Member::primary(&site, "a");
        let replica = Member::replica(&site, "b", &primary);
        let pooler = Pooler::start(&site, &primary.address());
        Self { members: [primary, replica], pooler, primary: 0, site }
    }

    /// The member that is primary.
    pub fn primary(&self) -> &Member {
        &self.members[self.primary]
    }

    /// The other one.
    pub fn replica(&self) -> &Member {
        &self.members[1 - self.primary]
    }

    /// Both, `a` first.
    pub fn members(&self) -> &[Member; 2] {
        &self.members
    }

    /// The primary has moved.
    pub fn moved(&mut self) {
        self.primary = 1 - self.primary;
    }

    /// How clients log in.
    pub fn login(&self) -> String {
        format!("host=127.0.0.1 port={} user=app password=app-secret dbname=accounts", self.pooler.port)
    }

    /// How the pooler's console is opened.
    pub fn console(&self) -> String {
        format!("host=127.0.0.1 port={} user=handover password=pool-secret dbname=pgbouncer", self.pooler.port)
    }

    /// Leads the pooler's clients to another member at its next RELOAD.
    pub fn write_route(&self, to: &Member) -> Result<()> {
        let entry = format!("[databases]\naccounts = host=127.0.0.1 port={} dbname=postgres\n", to.port);
        Ok(std::fs::write(&self.pooler.databases, entry)?)
    }

    /// Waits until the replica streams from the primary and has everything.
    pub fn settle(&self) -> Result<()> {
        let began = Instant::now();
        let streams =
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn = pg_current_wal_lsn()";
        while self.primary().sql(streams) != "1" {
            ensure!(began.elapsed() < Duration::from_secs(60), "{} does not follow", self.replica().name);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Every row that the primary has.
    pub fn rows(&self) -> Result<BTreeSet<i64>> {
        parse_rows(&self.primary().sql("SELECT id FROM ledger"))
    }
}
