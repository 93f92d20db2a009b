//! What the journal and the lease cost a step: the time until a record is durable and the lease prolonged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use handover::journal::{Journal, Moment, Record, RunId};
use handover::plan::{Overrides, StepId};
use handover::store::SqliteStore;

use crate::numbers::median;

/// Records that are made; each waits for the disk.
const RECORDS: usize = 500;

/// Milliseconds for one record, the median, with the store where cargo builds: on a disk, not in memory.
///
/// # Errors
/// If the store fails.
pub async fn measure() -> Result<f64> {
    let folder = tempfile::tempdir_in("target")?;
    let store = Arc::new(SqliteStore::open(folder.path(), "bench")?);
    let first = Record::RunStarted {
        plan: "bench".to_owned(),
        plan_digest: "bench".to_owned(),
        operator: "bench".to_owned(),
        holds: Vec::new(),
        title: String::new(),
        document: None,
        overrides: Overrides::new(),
    };
    let now = || Moment { at: jiff::Timestamp::now(), elapsed: Duration::ZERO };
    let journal = Journal::begin(store, RunId("bench".to_owned()), &"bench".into(), first, now).await?;
    let mut times = Vec::with_capacity(RECORDS);
    for number in 0..RECORDS {
        let step = StepId(format!("step.{number}"));
        let record = Record::StepStarted { step: step.clone(), assumed: Vec::new(), intended: None };
        let began = Instant::now();
        journal.start(BTreeSet::from([step]), record).await?;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(median(times))
}
