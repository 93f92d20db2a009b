//! A store in memory whose users die at a chosen record.
#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Mutex;

use async_trait::async_trait;
use handover::journal::{
    Entry, Hold, HoldKind, Holder, Lease, Lock, Moment, Record, RunId, RunSummary, Sighting, Store, StoreError,
};
use tokio::sync::watch;

/// When whoever records dies: at this record, which is made first or not. Records count from 0 over all processes.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub number: usize,
    pub made: bool,
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    holds: Vec<Hold>,
    lock: Option<Lock>,
    sightings: std::collections::BTreeMap<handover::model::TargetId, Sighting>,
    token: u64,
    death: Option<Death>,
}

/// One run, its holds and its lock; nobody's lease ever runs out.
#[derive(Default)]
pub struct MortalStore {
    inner: Mutex<Inner>,
    dead: watch::Sender<bool>,
    made: watch::Sender<usize>,
    sections: watch::Sender<usize>,
}

impl Inner {
    /// Holds take the place of earlier ones about the same thing.
    fn hold(&mut self, holds: &[Hold]) {
        for hold in holds {
            self.holds.retain(|held| held.kind.subject() != hold.kind.subject());
            self.holds.push(hold.clone());
        }
    }
}

impl MortalStore {
    /// A store with holds of earlier runs.
    pub fn holding(holds: &[HoldKind]) -> Self {
        let hold = |kind: &HoldKind| Hold {
            kind: kind.clone(),
            by: "test".to_owned(),
            since: jiff::Timestamp::UNIX_EPOCH,
            reason: None,
            review_by: None,
            run: RunId("earlier".to_owned()),
        };
        let inner = Inner { holds: holds.iter().map(hold).collect(), ..Inner::default() };
        Self { inner: Mutex::new(inner), ..Self::default() }
    }

    /// Whoever records from now on dies then.
    pub fn die(&self, death: Option<Death>) {
        self.inner.lock().unwrap().death = death;
        self.dead.send_replace(false);
    }

    /// Ends when that has happened.
    pub async fn dead(&self) {
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap().entries.len()
    }

    /// Ends when there are so many.
    pub async fn reaches(&self, number: usize) {
        let _ = self.made.subscribe().wait_for(|made| *made >= number).await;
    }

    /// Ends when the next section is begun.
    pub async fn next_section(&self) {
        let begun = *self.sections.borrow();
        let _ = self.sections.subscribe().wait_for(|now| *now > begun).await;
    }

    /// Makes a record, unless its maker dies.
    async fn make(&self, lease: &Lease, entry: &Entry) -> Result<(), StoreError> {
        let dies = {
            let mut inner = self.inner.lock().unwrap();
            if inner.token != lease.token {
                return Err(StoreError::LeaseLost { run: lease.run.clone() });
            }
            let dies = inner.death.filter(|death| inner.entries.len() >= death.number);
            if dies.is_none_or(|death| death.made && inner.entries.len() == death.number) {
                inner.entries.push(entry.clone());
                self.made.send_replace(inner.entries.len());
                if matches!(entry.record, Record::SectionStarted { .. }) {
                    self.sections.send_modify(|begun| *begun += 1);
                }
            }
            dies.is_some()
        };
        if dies {
            self.dead.send_replace(true);
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn take(inner: &mut Inner, run: &RunId, holder: &Holder, at: jiff::Timestamp) -> Lease {
        inner.token += 1;
        let (run, holder, token) = (run.clone(), holder.clone(), inner.token);
        inner.lock = Some(Lock { run: run.clone(), holder, token, since: at, until: jiff::Timestamp::MAX });
        Lease { run, token }
    }
}

#[async_trait]
impl Store for MortalStore {
    async fn begin(&self, run: &RunId, holder: &Holder, entry: &Entry) -> Result<Lease, StoreError> {
        let mut inner = self.inner.lock().unwrap();
        assert!(inner.entries.is_empty() && inner.lock.is_none(), "it is for one run");
        let Record::RunStarted { holds, .. } = &entry.record else { panic!("{entry:?}") };
        inner.hold(holds);
        inner.entries.push(entry.clone());
        Ok(Self::take(&mut inner, run, holder, entry.at))
    }

    async fn resume(
        &self,
        run: &RunId,
        holder: &Holder,
        dead: Option<&Lock>,
        now: Moment,
        record: &Record,
    ) -> Result<(Lease, u64), StoreError> {
        let mut inner = self.inner.lock().unwrap();
        if let Some(lock) = inner.lock.as_ref().filter(|lock| dead.is_none_or(|dead| dead.token != lock.token)) {
            return Err(StoreError::Locked(Box::new(lock.clone())));
        }
        let Record::RunResumed { holds, .. } = record else { panic!("{record:?}") };
        inner.hold(holds);
        let sequence = inner.entries.len() as u64;
        inner.entries.push(Entry::new(sequence, now, record.clone()));
        Ok((Self::take(&mut inner, run, holder, now.at), sequence))
    }

    async fn lock(&self) -> Result<Option<Lock>, StoreError> {
        Ok(self.inner.lock().unwrap().lock.clone())
    }

    async fn unlock(&self, _lock: &Lock, _by: &Holder, _now: jiff::Timestamp) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn may_begin(&self, _plan_digest: &str, _now: jiff::Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    async fn append(&self, lease: &Lease, entry: &Entry) -> Result<(), StoreError> {
        self.make(lease, entry).await
    }

    async fn renew(&self, _lease: &Lease, _now: jiff::Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    async fn end(&self, lease: &Lease, entry: &Entry) -> Result<(), StoreError> {
        self.make(lease, entry).await?;
        let mut inner = self.inner.lock().unwrap();
        let Record::RunEnded { released, .. } = &entry.record else { panic!("{entry:?}") };
        inner.holds.retain(|hold| !released.contains(&hold.kind));
        inner.lock = None;
        Ok(())
    }

    async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        Ok(self.inner.lock().unwrap().holds.clone())
    }

    async fn runs(&self) -> Result<Vec<RunSummary>, StoreError> {
        Ok(Vec::new())
    }

    async fn records(&self, _run: &RunId) -> Result<Vec<Entry>, StoreError> {
        Ok(self.inner.lock().unwrap().entries.clone())
    }

    async fn prune(&self, _runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        Ok(Vec::new())
    }

    async fn saw(&self, sightings: Vec<Sighting>) -> Result<(), StoreError> {
        let mut inner = self.inner.lock().unwrap();
        inner.sightings.extend(sightings.into_iter().map(|sighting| (sighting.target.clone(), sighting)));
        Ok(())
    }

    async fn sightings(&self) -> Result<Vec<Sighting>, StoreError> {
        Ok(self.inner.lock().unwrap().sightings.values().cloned().collect())
    }
}
