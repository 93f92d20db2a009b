//! Asking again until a condition holds: what every provider's `verify` does where its protocol cannot wait by itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Condition, Facts, Observed, Unreachable};

/// Reads until `condition` holds or the deadline passes, with `pause` between two readings, and returns the last facts.
pub(crate) async fn until<Reading: Future<Output = Result<Facts, Unreachable>>>(
    condition: &Condition,
    pause: Duration,
    deadline: Instant,
    read: impl Fn() -> Reading,
) -> Observed<Facts> {
    let mut last = None;
    loop {
        let began = Instant::now();
        let result = read().await;
        let now = Instant::now();
        let observed = match result {
            Ok(value) => {
                let holds = condition.holds(&value).is_ok();
                let known = Observed::Known { value, took: now - began };
                if holds {
                    return known;
                }
                known
            }
            // A reading that was under way at the deadline does not make the one before it void.
            Err(why) if now >= deadline => return last.unwrap_or(Observed::Unreachable(why)),
            Err(why) => Observed::Unreachable(why),
        };
        if now + pause >= deadline {
            return observed;
        }
        last = Some(observed);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::model::JobFacts;

    const RUNS: Condition = Condition::Running { running: true };

    fn job(running: bool) -> Result<Facts, Unreachable> {
        Ok(Facts::Job(JobFacts { running }))
    }

    /// Verifies with readings that are told their number.
    async fn verify(millis: u64, read: impl AsyncFn(u32) -> Result<Facts, Unreachable>) -> Observed<Facts> {
        let deadline = Instant::now() + Duration::from_millis(millis);
        let (count, read) = (AtomicU32::new(0), &read);
        let reading = || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            async move { read(number).await }
        };
        until(&RUNS, Duration::from_millis(20), deadline, reading).await
    }

    #[tokio::test]
    async fn it_ends_when_the_condition_holds_and_survives_failures_before() {
        let observed = verify(10_000, async |count| match count {
            0 => Err(Unreachable::new("connection refused", "test")),
            count => job(count == 3),
        });
        assert!(RUNS.holds(observed.await.known().unwrap()).is_ok());
    }

    #[tokio::test]
    async fn at_the_deadline_it_returns_what_was_read_last() {
        let began = Instant::now();
        let observed = verify(100, async |_| job(false)).await;
        assert_eq!(observed.known(), job(false).ok().as_ref());
        assert!(began.elapsed() < Duration::from_secs(1));

        let hangs_later = verify(100, async |count| match count {
            0 => job(false),
            _ => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err(Unreachable::new("no answer before the deadline", "test"))
            }
        });
        assert_eq!(hangs_later.await.known(), job(false).ok().as_ref());

        let gone_later = verify(100, async |count| match count {
            0 => job(false),
            _ => Err(Unreachable::new("connection refused", "test")),
        });
        assert_eq!(gone_later.await.known(), None, "an answer of long ago is not the state now");
    }
}
