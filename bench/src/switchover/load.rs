//! Clients that write, and what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::NoTls;

/// Connections, and the time between two rows of each: one row per 2 ms in total.
const CLIENTS: u64 = 4;
const EVERY: Duration = Duration::from_millis(8);

/// How long a client waits for an answer before it connects anew.
const PATIENCE: Duration = Duration::from_secs(30);

/// Numbers of rows are never used twice.
static NEXT: AtomicI64 = AtomicI64::new(0);

/// Clients that run on a thread of their own until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicI64>,
    thread: JoinHandle<Result<Vec<Write>>>,
}

/// One attempt to write.
struct Write {
    id: i64,
    ended: Instant,
    good: bool,
}

/// What clients saw.
pub struct Seen {
    /// Rows that the server acknowledged.
    pub acknowledged: Vec<i64>,
    /// Attempts that failed.
    pub failed: usize,
    /// The longest time between two acknowledgements.
    pub outage: Duration,
}

impl Load {
    /// Starts clients that log in as `login` says.
    pub fn start(login: &str) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let (login, told, count) = (login.to_owned(), Arc::clone(&stop), Arc::clone(&acknowledged));
        let thread = std::thread::spawn(move || -> Result<Vec<Write>> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let clients = (0..CLIENTS).map(|number| client(number, &login, &told, &count));
                let all = futures_util::future::join_all(clients).await;
                Ok(all.into_iter().flatten().collect())
            })
        });
        Self { stop, acknowledged, thread }
    }

    /// Waits until so many more rows are acknowledged.
    pub fn wait_for(&self, rows: i64, patience: Duration) -> Result<()> {
        let (began, goal) = (Instant::now(), self.acknowledged.load(Ordering::Relaxed) + rows);
        while self.acknowledged.load(Ordering::Relaxed) < goal {
            if began.elapsed() > patience {
                return Err(anyhow!("no {rows} rows were written within {} s", patience.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends the clients.
    pub fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut writes = self.thread.join().map_err(|_| anyhow!("the clients panicked"))??;
        writes.sort_by_key(|write| write.ended);
        let good: Vec<&Write> = writes.iter().filter(|write| write.good).collect();
        let gaps = good.windows(2).map(|pair| pair[1].ended - pair[0].ended);
        Ok(Seen {
            outage: gaps.max().unwrap_or_default(),
            failed: writes.len() - good.len(),
            acknowledged: good.iter().map(|write| write.id).collect(),
        })
    }
}

/// One client: it connects anew after every failure.
async fn client(number: u64, login: &str, stop: &AtomicBool, acknowledged: &AtomicI64) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::time::sleep(EVERY * u32::try_from(number).unwrap_or(0) / CLIENTS as u32).await;
    let mut session = None;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        if session.is_none() {
            session = connect(login).await;
        }
        let good = match &session {
            Some(client) => {
                let insert = format!("INSERT INTO ledger (id) VALUES ({id})");
                matches!(timeout(PATIENCE, client.simple_query(&insert)).await, Ok(Ok(_)))
            }
            None => false,
        };
        writes.push(Write { id, ended: Instant::now(), good });
        if good {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        } else {
            session = None;
        }
    }
    writes
}

async fn connect(login: &str) -> Option<tokio_postgres::Client> {
    let (client, connection) = timeout(PATIENCE, tokio_postgres::connect(login, NoTls)).await.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}
