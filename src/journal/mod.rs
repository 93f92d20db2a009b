//! What was done, durably and before it is done; and the permits without which nothing can be done.
//!
//! May use `model` and `plan`. Must not know how records are stored: that is behind [`Store`].

mod lock;
mod past;
mod prune;
mod record;
mod sighting;

pub use lock::{Here, Holder, Life, Lock, Process};
pub use past::{Done, Open, Past, Stall};
pub use prune::{Pruned, Pruning};
pub use record::{Entry, Hold, How, Record, RunEnd, RunId, RunSummary};
pub use sighting::{MemberSighting, Sighting, Silence, known, returned, sightings};

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::lock::Mutex;

pub use crate::plan::HoldKind;
use crate::plan::StepId;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read or written.
    #[error("the run store at {place} failed while {doing}: {source}")]
    Failed {
        /// Where the store is.
        place: String,
        /// What was tried.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody else holds the lock.
    #[error("locked by {} since {}: run {}", .0.holder.name, .0.since, .0.run)]
    Locked(Box<Lock>),
    /// The lock was lost: expired or taken by somebody with a newer token.
    #[error("the lock of run {run} was lost: it expired or was taken over")]
    LeaseLost {
        /// The run that held it.
        run: RunId,
    },
    /// Its records are not there.
    #[error("there is no run {run}, or its records were pruned")]
    NoRun {
        /// The run.
        run: RunId,
    },
    /// The plan was applied before.
    #[error("this plan was used by run {run} already: a plan is applied once; make a new one with `handover plan`")]
    PlanUsed {
        /// The run that used it.
        run: RunId,
    },
}

/// A lease on a topology: one run at a time, with a token that rises with every holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The run that holds it.
    pub run: RunId,
    /// Larger than every token before it.
    pub token: u64,
}

/// Where runs, records, holds and the lock are kept.
#[async_trait]
pub trait Store: Send + Sync {
    /// Takes the lock for a new run and makes its first record, durably, in one transaction; the record's holds are made with it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another run holds a lease that has not expired; [`StoreError::PlanUsed`] if a run with the same
    /// plan digest exists.
    async fn begin(&self, run: &RunId, holder: &Holder, entry: &Entry) -> Result<Lease, StoreError>;

    /// Takes the lock for a run that died or stopped and makes its next record, which says so, durably, in one transaction; the record's
    /// holds are made with it. `dead` is the lock of a holder that is known to be dead: it is taken over though its lease is good.
    /// Returns the record's number.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while somebody else holds a lease that has not expired; [`StoreError::NoRun`] if there is no such run, or
    /// its records were pruned.
    async fn resume(
        &self,
        run: &RunId,
        holder: &Holder,
        dead: Option<&Lock>,
        now: Moment,
        record: &Record,
    ) -> Result<(Lease, u64), StoreError>;

    /// Who holds the lock, expired or not.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn lock(&self) -> Result<Option<Lock>, StoreError>;

    /// Gives somebody else's lock back, if that one still holds it, and records so in the run: from then on its holder gets no permit.
    /// False if the lock has changed hands meanwhile.
    ///
    /// # Errors
    /// If the store cannot be written.
    async fn unlock(&self, lock: &Lock, by: &Holder, now: jiff::Timestamp) -> Result<bool, StoreError>;

    /// Would a run of this plan begin now? Takes nothing: [`Store::begin`] asks again.
    ///
    /// # Errors
    /// Those that [`Store::begin`] would end with.
    async fn may_begin(&self, plan_digest: &str, now: jiff::Timestamp) -> Result<(), StoreError>;

    /// Appends a record, durably, if the lease still holds.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if it does not.
    async fn append(&self, lease: &Lease, entry: &Entry) -> Result<(), StoreError>;

    /// Prolongs the lease from `now` on. Every append does so too, from its entry's time on.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if it was taken over.
    async fn renew(&self, lease: &Lease, now: jiff::Timestamp) -> Result<(), StoreError>;

    /// Makes the run's last record, applies what it says of holds, and gives the lock back, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the lock was taken over.
    async fn end(&self, lease: &Lease, entry: &Entry) -> Result<(), StoreError>;

    /// The holds in force, oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn holds(&self) -> Result<Vec<Hold>, StoreError>;

    /// All runs, newest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn runs(&self) -> Result<Vec<RunSummary>, StoreError>;

    /// The records of a run in their order.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn records(&self, run: &RunId) -> Result<Vec<Entry>, StoreError>;

    /// The records of a run from this sequence number on, in their order.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn records_from(&self, run: &RunId, sequence: u64) -> Result<Vec<Entry>, StoreError> {
        let mut records = self.records(run).await?;
        records.retain(|entry| entry.sequence >= sequence);
        Ok(records)
    }

    /// Forgets these runs and their records; returns those that it forgot. It keeps, whatever is asked: runs that have not ended
    /// well or been taken back, whoever holds the lock, and runs with a hold in force.
    ///
    /// # Errors
    /// If the store cannot be written; then nothing is forgotten.
    async fn prune(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError>;

    /// Keeps what was seen of each of these targets, unless somebody has looked at it later. Not worth waiting for: it gives up soon where
    /// somebody else is writing.
    ///
    /// # Errors
    /// If the store cannot be written at once; then nothing is kept.
    async fn saw(&self, sightings: Vec<Sighting>) -> Result<(), StoreError>;

    /// What was last seen of every target, in the order of their identities.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn sightings(&self) -> Result<Vec<Sighting>, StoreError>;
}

/// Leave to act for one step, or for the steps of one section. Only [`Journal::start`] makes one, after the intent was recorded
/// durably under a lease that still held: an action that is not journalled does not compile (`docs/safety.md` S4).
///
/// ```compile_fail,E0451
/// use handover::journal::{Permit, RunId};
/// let permit = Permit { run: RunId("none".into()), token: 1, number: 1, steps: Default::default() };
/// ```
#[derive(Debug)]
pub struct Permit {
    run: RunId,
    token: u64,
    number: u64,
    steps: BTreeSet<StepId>,
}

impl Permit {
    /// The run it belongs to.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The lease's token: providers that can, send it along.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// The position of its record in the run: it rises with every permit, whoever holds the lock. Targets that can refuse what somebody
    /// has said who was superseded meanwhile.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// True if it covers this step.
    pub fn covers(&self, step: &StepId) -> bool {
        self.steps.contains(step)
    }
}

/// A moment as the journal records it; the caller's clock makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Wall-clock time.
    pub at: jiff::Timestamp,
    /// Time since the run began, by the monotonic clock.
    pub elapsed: std::time::Duration,
}

/// The journal of one run.
pub struct Journal {
    store: Arc<dyn Store>,
    lease: Lease,
    /// Held while a record is made: whoever follows the run sees them in their order, without a gap.
    sequence: Mutex<u64>,
    now: Box<dyn Fn() -> Moment + Send + Sync>,
}

impl Journal {
    /// Begins a run: takes the lock and makes the first record.
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub async fn begin(
        store: Arc<dyn Store>,
        run: RunId,
        holder: &Holder,
        first: Record,
        now: impl Fn() -> Moment + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let lease = store.begin(&run, holder, &Entry::new(0, now(), first)).await?;
        Ok(Self { store, lease, sequence: Mutex::new(1), now: Box::new(now) })
    }

    /// Goes on with a run: takes the lock, over from a `dead` holder where there is one, makes the next record, and returns all of them.
    ///
    /// # Errors
    /// As [`Store::resume`].
    pub async fn resume(
        store: Arc<dyn Store>,
        run: &RunId,
        holder: &Holder,
        dead: Option<&Lock>,
        record: Record,
        now: impl Fn() -> Moment + Send + Sync + 'static,
    ) -> Result<(Self, Vec<Entry>), StoreError> {
        let (lease, sequence) = store.resume(run, holder, dead, now(), &record).await?;
        let entries = store.records(run).await?;
        Ok((Self { store, lease, sequence: Mutex::new(sequence + 1), now: Box::new(now) }, entries))
    }

    /// The run.
    pub fn run(&self) -> &RunId {
        &self.lease.run
    }

    /// Records that steps begin and gives leave to carry them out.
    ///
    /// # Errors
    /// As [`Store::append`]; nothing may be done then.
    pub async fn start(&self, steps: BTreeSet<StepId>, record: Record) -> Result<Permit, StoreError> {
        let number = self.append(record).await?;
        Ok(Permit { run: self.lease.run.clone(), token: self.lease.token, number, steps })
    }

    /// Records what happened.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub async fn record(&self, record: Record) -> Result<(), StoreError> {
        self.append(record).await.map(drop)
    }

    /// The record's position in the run.
    async fn append(&self, record: Record) -> Result<u64, StoreError> {
        let mut sequence = self.sequence.lock().await;
        let entry = Entry::new(*sequence, (self.now)(), record);
        *sequence += 1;
        self.store.append(&self.lease, &entry).await?;
        Ok(entry.sequence)
    }

    /// Prolongs the lease.
    ///
    /// # Errors
    /// As [`Store::renew`].
    pub async fn renew(&self) -> Result<(), StoreError> {
        self.store.renew(&self.lease, (self.now)().at).await
    }

    /// Ends the run and gives the lock back.
    ///
    /// # Errors
    /// As [`Store::end`].
    pub async fn end(&self, record: Record) -> Result<(), StoreError> {
        let mut sequence = self.sequence.lock().await;
        let entry = Entry::new(*sequence, (self.now)(), record);
        *sequence += 1;
        self.store.end(&self.lease, &entry).await
    }
}
