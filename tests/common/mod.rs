//! What several test programs share.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use handover::journal::{
    Entry, Hold, Holder, Journal, Lease, Lock, Moment, Permit, Record, RunId, RunSummary, Sighting, Store, StoreError,
};
use handover::plan::StepId;

/// An action that its target took.
#[allow(dead_code)]
#[track_caller]
pub fn taken(outcome: &handover::provider::Outcome) {
    assert!(outcome.taken(), "{outcome:?}");
}

/// A store that keeps the entries of one run in memory.
#[derive(Default)]
pub struct MemoryStore {
    entries: Mutex<Vec<Entry>>,
    sightings: Mutex<std::collections::BTreeMap<handover::model::TargetId, Sighting>>,
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin(&self, run: &RunId, _holder: &Holder, entry: &Entry) -> Result<Lease, StoreError> {
        self.entries.lock().unwrap().push(entry.clone());
        Ok(Lease { run: run.clone(), token: 1 })
    }

    async fn resume(
        &self,
        run: &RunId,
        _holder: &Holder,
        _dead: Option<&Lock>,
        now: Moment,
        record: &Record,
    ) -> Result<(Lease, u64), StoreError> {
        let mut entries = self.entries.lock().unwrap();
        let sequence = entries.len() as u64;
        entries.push(Entry::new(sequence, now, record.clone()));
        Ok((Lease { run: run.clone(), token: sequence + 1 }, sequence))
    }

    async fn lock(&self) -> Result<Option<Lock>, StoreError> {
        Ok(None)
    }

    async fn unlock(&self, _lock: &Lock, _by: &Holder, _now: jiff::Timestamp) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn may_begin(&self, _plan_digest: &str, _now: jiff::Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    async fn append(&self, _lease: &Lease, entry: &Entry) -> Result<(), StoreError> {
        self.entries.lock().unwrap().push(entry.clone());
        Ok(())
    }

    async fn renew(&self, _lease: &Lease, _now: jiff::Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    async fn end(&self, lease: &Lease, entry: &Entry) -> Result<(), StoreError> {
        self.append(lease, entry).await
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        Ok(Vec::new())
    }

    async fn runs(&self) -> Result<Vec<RunSummary>, StoreError> {
        Ok(Vec::new())
    }

    async fn records(&self, _run: &RunId) -> Result<Vec<Entry>, StoreError> {
        Ok(self.entries.lock().unwrap().clone())
    }

    async fn prune(&self, _runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        Ok(Vec::new())
    }

    async fn saw(&self, sightings: Vec<Sighting>) -> Result<(), StoreError> {
        let sightings = sightings.into_iter().map(|sighting| (sighting.target.clone(), sighting));
        self.sightings.lock().unwrap().extend(sightings);
        Ok(())
    }

    async fn sightings(&self) -> Result<Vec<Sighting>, StoreError> {
        Ok(self.sightings.lock().unwrap().values().cloned().collect())
    }
}

/// A permit, made the only way there is: by a journal.
pub async fn permit() -> Permit {
    Permits::new().await.next().await
}

/// Permits of one run, each with a higher number than the one before.
pub struct Permits(Journal);

impl Permits {
    pub async fn next(&self) -> Permit {
        let step = StepId("step".to_owned());
        let record = Record::StepStarted { step: step.clone(), assumed: Vec::new(), intended: None };
        self.0.start(BTreeSet::from([step]), record).await.unwrap()
    }

    pub async fn new() -> Self {
        let now = || Moment { at: jiff::Timestamp::UNIX_EPOCH, elapsed: Duration::ZERO };
        let first = Record::RunStarted {
            plan: "contract".to_owned(),
            plan_digest: String::new(),
            operator: "test".to_owned(),
            holds: Vec::new(),
            title: String::new(),
            document: None,
            overrides: handover::plan::Overrides::new(),
        };
        let store = Arc::new(MemoryStore::default());
        Self(Journal::begin(store, RunId("contract".to_owned()), &"test".into(), first, now).await.unwrap())
    }
}
