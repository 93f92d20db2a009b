//! Writers through a pooler, for tests that must lose nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::servers::{Member, Pooler};

/// Clients that write through the pooler, one row each 2 ms in total, until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Write>>>,
}

/// A row's number, when the answer came, and the error if it was one.
type Write = (i64, Instant, Option<String>);

/// What writers saw.
pub struct Seen {
    acknowledged: Vec<i64>,
    failed: Vec<String>,
    /// The longest time between two answers.
    pub stall: Duration,
}

impl Load {
    /// Begins to write.
    pub fn start(pooler: &Pooler) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        static NEXT: AtomicI64 = AtomicI64::new(0);
        let client = |_| {
            let (stop, port) = (Arc::clone(&stop), pooler.port);
            tokio::spawn(async move {
                let login = format!("host=127.0.0.1 port={port} user=app password=app-secret dbname=accounts");
                let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                let mut seen = Vec::new();
                let mut ticks = tokio::time::interval(Duration::from_millis(8));
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let id = NEXT.fetch_add(1, Ordering::Relaxed);
                    let written = client.simple_query(&format!("INSERT INTO ledger (id) VALUES ({id})")).await;
                    seen.push((id, Instant::now(), written.err().map(|error| format!("{error:?}"))));
                }
                seen
            })
        };
        Self { clients: (0..4).map(client).collect(), stop }
    }

    /// Ends it; what was seen.
    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in self.clients {
            all.extend(tokio::time::timeout(Duration::from_secs(10), client).await.expect("clients hang").unwrap());
        }
        all.sort_by_key(|(_, at, _)| *at);
        let good: Vec<Instant> = all.iter().filter(|(_, _, error)| error.is_none()).map(|(_, at, _)| *at).collect();
        let stall = good.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let acknowledged = all.iter().filter(|(_, _, error)| error.is_none()).map(|(id, _, _)| *id).collect();
        Seen { acknowledged, failed: all.into_iter().filter_map(|(_, _, error)| error).collect(), stall }
    }
}

impl Seen {
    /// Every write succeeded, and is at `primary`.
    #[track_caller]
    pub fn nothing_failed_or_lost(&self, primary: &Member) {
        assert!(self.failed.is_empty(), "{} failed: {:?}", self.failed.len(), self.failed.first());
        assert!(self.acknowledged.len() > 50, "too little was written: {}", self.acknowledged.len());
        let there: BTreeSet<i64> = primary.sql("SELECT id FROM ledger").lines().map(|id| id.parse().unwrap()).collect();
        let lost: Vec<_> = self.acknowledged.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
        println!("{} writes, 0 failed, 0 lost, longest stall {:?}", self.acknowledged.len(), self.stall);
    }
}
