//! Many random cases of a property: how many and from which seed say environment variables (CONTRIBUTING.md), on as many threads as there
//! are processors. A case that fails is shrunk, printed, and found again by its own seed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// The sample of `make test`: all properties together.
const SAMPLE: u64 = 300;

/// Where the sample of `make test` begins: it is the same one every time.
const SEED: u64 = 20_261_123;

/// How long a failing case is made smaller, in milliseconds.
const SHRINKING: u32 = 60_000;

/// What a case is called that tests nothing; it does not count.
const EMPTY: &str = "without any plan";

/// The cases that all properties of this process have run.
static RUN: Mutex<u64> = Mutex::new(0);

/// What happened in the cases of a property, for those who wonder whether it tests anything.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    /// One more of these.
    pub fn count(&self, what: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what.into()).or_default() += 1;
    }

    /// The case tests nothing: there is no plan.
    pub fn empty(&self) {
        self.count(EMPTY);
    }

    fn of(&self, what: &str) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(what).copied().unwrap_or_default()
    }

    fn told(&self) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.trim().parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => otherwise,
    }
}

/// Tests a property with so many of each hundred cases.
pub fn check<S: Strategy>(
    property: &str,
    percent: u64,
    strategy: impl Fn() -> S + Sync,
    test: impl Fn(S::Value, &Tally) -> Result<(), String> + Sync,
) where
    S::Value: Debug,
{
    let (all, seed) = (number("SIMULATED_CASES", SAMPLE), number("SIMULATED_SEED", SEED));
    let cases = (all * percent).div_ceil(100).max(1);
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let (tally, failure) = (Tally::default(), Mutex::new(None));
    let began = std::time::Instant::now();
    let work = || {
        let strategy = strategy();
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= cases {
                return;
            }
            let own = seed.wrapping_add(index);
            if let Err(why) = one(property, own, &strategy, |value| test(value, &tally)) {
                failed.store(true, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((own, why));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let run = next.into_inner().min(cases);
    report(run.saturating_sub(tally.of(EMPTY)), seed);
    println!("{property}: {run} cases from seed {seed} in {:?}: {}", began.elapsed(), tally.told());
    if let Some((own, why)) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        panic!(
            "{property}: {why}\nagain: SIMULATED_CASES=1 SIMULATED_SEED={own} cargo test --test simulated {property}"
        );
    }
}

/// One case, and smaller ones if it fails.
fn one<S: Strategy>(
    property: &str,
    seed: u64,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), String>,
) -> Result<(), String>
where
    S::Value: Debug,
{
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    for (at, byte) in property.bytes().enumerate() {
        bytes[8 + at % 24] ^= byte;
    }
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: 1_000_000,
        max_shrink_time: SHRINKING,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    match runner.run(strategy, |value| test(value).map_err(TestCaseError::fail)) {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, value)) => Err(format!("{why}\n{value:#?}")),
        Err(TestError::Abort(why)) => Err(format!("aborted: {why}")),
    }
}

/// Writes how many cases this process has run so far to the file that `SIMULATED_REPORT` names.
fn report(cases: u64, seed: u64) {
    let mut run = RUN.lock().unwrap_or_else(PoisonError::into_inner);
    *run += cases;
    let Ok(path) = std::env::var("SIMULATED_REPORT") else { return };
    assert!(std::env::var("NEXTEST").is_err(), "nextest starts a process for each property: count with `cargo test`");
    let text = format!("{{\"cases\": {run}, \"seed\": {seed}}}\n");
    std::fs::write(&path, text).unwrap_or_else(|why| panic!("SIMULATED_REPORT {path}: {why}"));
}
