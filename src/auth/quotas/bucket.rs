//! A token bucket on tokio's clock, in whole numbers.

use std::time::Duration;

use tokio::time::Instant;

use contracts::clock::{Clock, SystemClock};

/// The longest wait that is asked of anyone.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A token bucket. Its level is counted in units times the nanoseconds of a period, so that nothing is
/// rounded: each nanosecond adds as many of these as a period adds units.
#[derive(Debug)]
pub(super) struct TokenBucket {
    period_ns: i128,
    /// The least that a full bucket holds, in units.
    least_burst: u64,
    /// Units in a period; `None` lets everything pass.
    rate: Option<u64>,
    /// Below zero while it is overdrawn.
    level: i128,
    filled: Instant,
    /// Only with a check switched off: the same by the time of day.
    filled_ms: i64,
}

impl TokenBucket {
    /// A bucket without a rate.
    pub(super) fn new(period: Duration, least_burst: u64, now: Instant) -> Self {
        let period_ns = i128::try_from(period.as_nanos()).unwrap_or(i128::MAX);
        let filled_ms = if contracts::mutant("quota_clock") { SystemClock.now_ms() } else { 0 };
        Self { period_ns, least_burst, rate: None, level: 0, filled: now, filled_ms }
    }

    /// Sets the rate, of at least 1. The level stays, but for what a full bucket does not hold. A bucket that
    /// had no rate is full.
    pub(super) fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        self.fill(now);
        self.filled = self.filled.max(now);
        let had_rate = self.rate.is_some();
        self.rate = rate.map(|rate| rate.max(1));
        let goes_on = had_rate && self.rate.is_some();
        self.level = if goes_on { self.level.min(self.full()) } else { self.full() };
    }

    fn full(&self) -> i128 {
        let times = if contracts::mutant("quota_burst") { 2 } else { 1 };
        self.rate.map_or(0, |rate| self.level_of(rate.saturating_mul(times).max(self.least_burst)))
    }

    fn level_of(&self, units: u64) -> i128 {
        i128::from(units).saturating_mul(self.period_ns)
    }

    /// Whether it lets everything pass.
    pub(super) fn has_no_rate(&self) -> bool {
        self.rate.is_none()
    }

    /// Adds what is due since the last call. A `now` before that adds nothing.
    fn fill(&mut self, now: Instant) {
        let Some(rate) = self.rate else { return };
        let mut elapsed = now.saturating_duration_since(self.filled).as_nanos();
        if contracts::mutant("quota_clock") {
            let now_ms = SystemClock.now_ms();
            elapsed = u128::from(now_ms.saturating_sub(self.filled_ms).max(0).unsigned_abs()) * 1_000_000;
            self.filled_ms = now_ms;
        }
        if contracts::mutant("quota_refilled") {
            elapsed = 0;
        }
        self.filled = self.filled.max(now);
        let due = i128::try_from(elapsed).unwrap_or(i128::MAX).saturating_mul(rate.into());
        self.level = self.level.saturating_add(due).min(self.full());
    }

    /// Whether it holds as much as it can.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level >= self.full()
    }

    /// Takes all of the units, or none.
    ///
    /// # Errors
    /// The time until there are enough of them.
    pub(super) fn take(&mut self, units: u64, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        let cost = self.level_of(units);
        if self.rate.is_some() {
            if self.level < cost {
                return Err(self.until(cost));
            }
            self.level -= cost;
        }
        Ok(())
    }

    /// Takes the units even if there are too few. Returns the time until the debt is paid.
    pub(super) fn overdraw(&mut self, units: u64, now: Instant) -> Duration {
        self.fill(now);
        if self.rate.is_some() {
            self.level = self.level.saturating_sub(self.level_of(units));
        }
        self.until(0)
    }

    /// How long it takes to rise to a level.
    fn until(&self, level: i128) -> Duration {
        let missing = level.saturating_sub(self.level);
        let Some(rate) = self.rate.filter(|_| missing > 0) else { return Duration::ZERO };
        // Rounded up, so that a retry after this time succeeds.
        let rate = i128::from(rate);
        let nanos = missing / rate + i128::from(missing % rate > 0);
        u64::try_from(nanos).map_or(MAX_WAIT, Duration::from_nanos).min(MAX_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const BURST: u64 = 1000;

    proptest! {
        #[test]
        fn a_bucket_gives_what_its_rate_does_and_tells_when_there_is_more(
            rate in 1u64..2000,
            least_burst in 0u64..3000,
            steps in prop::collection::vec((0u64..2_000_000_000, 0u64..4000), 1..40),
        ) {
            let began = Instant::now();
            let mut bucket = TokenBucket::new(SECOND, least_burst, began);
            bucket.set_rate(Some(rate), began);
            let (mut now, mut taken) = (began, 0);
            for (nanos, units) in steps {
                now += Duration::from_nanos(nanos);
                match bucket.take(units, now) {
                    Ok(()) => taken += units,
                    Err(wait) if units <= rate.max(least_burst) => {
                        prop_assert!(bucket.take(units, now + wait - Duration::from_nanos(1)).is_err());
                        now += wait;
                        prop_assert_eq!(bucket.take(units, now), Ok(()));
                        taken += units;
                    }
                    Err(_) => {}
                }
                let come = u128::from(rate) * (now - began).as_nanos() / SECOND.as_nanos();
                prop_assert!(u128::from(taken) <= u128::from(rate.max(least_burst)) + come);
            }
        }

        #[test]
        fn whoever_waits_as_told_keeps_to_the_rate(
            rate in 1u64..2000,
            pieces in prop::collection::vec(0u64..5000, 1..40),
        ) {
            let began = Instant::now();
            let mut bucket = TokenBucket::new(SECOND, BURST, began);
            bucket.set_rate(Some(rate), began);
            let (mut now, mut all) = (began, 0);
            for bytes in pieces {
                now += bucket.overdraw(bytes, now);
                prop_assert_eq!(bucket.overdraw(0, now), Duration::ZERO);
                all += bytes;
                let come = u128::from(rate) * (now - began).as_nanos() / SECOND.as_nanos();
                prop_assert!(u128::from(all) <= u128::from(rate.max(BURST)) + come + 1);
            }
        }

        #[test]
        fn levels_stay_between_debt_and_full_at_any_rates(
            steps in prop::collection::vec((any::<u64>(), any::<Option<u64>>(), any::<u64>()), 1..20),
        ) {
            let began = Instant::now();
            let mut bucket = TokenBucket::new(60 * SECOND, 1, began);
            let mut now = began;
            for (nanos, rate, units) in steps {
                now += Duration::from_nanos(nanos / 64);
                bucket.set_rate(rate, now);
                let wait = bucket.overdraw(units, now);
                prop_assert!(wait <= MAX_WAIT && bucket.level <= bucket.full());
                prop_assert!(bucket.take(0, now).is_ok() || bucket.level < 0);
            }
        }
    }
}
