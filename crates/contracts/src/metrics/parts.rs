//! Gauges to which every open store of the process contributes: one, or the shards of a pod. Most show the
//! sum; those that are times show the latest.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metrics::{Gauge, gauge};
use parking_lot::Mutex;

use super::names::{APPEND_QUEUE, UPKEEP_DUE};

/// A gauge to which each open store adds its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SummedGauge {
    /// Partitions that still have segments to merge after a round of upkeep.
    Merges,
    /// Objects that are no longer needed and could not be deleted.
    Deletes,
    /// Requests that wait for the writer.
    AppendQueue,
}

impl SummedGauge {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Merges, Self::Deletes, Self::AppendQueue];

    /// The gauge of the installed recorder.
    pub(super) fn gauge(self) -> Gauge {
        match self {
            Self::Merges => gauge!(UPKEEP_DUE, "kind" => "merges"),
            Self::Deletes => gauge!(UPKEEP_DUE, "kind" => "deletes"),
            Self::AppendQueue => gauge!(APPEND_QUEUE),
        }
    }
}

/// What one store adds to a gauge. Dropping it takes that back.
pub struct GaugePart {
    gauge: Gauge,
    part: AtomicU64,
}

impl GaugePart {
    /// Of a store that has just opened: nothing yet.
    pub fn new(of: SummedGauge) -> Self {
        Self { gauge: of.gauge(), part: AtomicU64::new(0) }
    }

    /// Adds this number from now on, instead of the one before.
    pub fn show(&self, number: u64) {
        let before = self.part.swap(number, Relaxed);
        if before != number {
            self.gauge.increment(number as f64 - before as f64);
        }
    }
}

impl Drop for GaugePart {
    fn drop(&mut self) {
        self.show(0);
    }
}

/// When something happened last in any of the stores, in milliseconds since 1970.
pub(super) struct LastTime(Mutex<i64>);

impl LastTime {
    /// Not yet.
    pub(super) const fn never() -> Self {
        Self(Mutex::new(i64::MIN))
    }

    /// It happens now, whatever the clock said before.
    pub(super) fn now(&self, ms: i64, show: impl FnOnce(i64)) {
        let mut last = self.0.lock();
        *last = ms;
        show(ms);
    }

    /// It has happened then, as one of the stores has found out.
    pub(super) fn before(&self, ms: i64, show: impl FnOnce(i64)) {
        let mut last = self.0.lock();
        if ms > *last {
            *last = ms;
            show(ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn stores_add_up_and_one_that_closes_takes_its_part_back() {
        let shown = Arc::new(AtomicU64::new(0)); // the bits of a float, as the recorder has them
        let part = || GaugePart { gauge: Gauge::from_arc(Arc::clone(&shown)), part: AtomicU64::new(0) };
        let sum = || f64::from_bits(shown.load(Relaxed)) as u64;
        let (one, other) = (part(), part());
        for (of_one, of_other) in [(3, 2), (3, 0), (0, 7), (1, 1)] {
            one.show(of_one);
            other.show(of_other);
            assert_eq!(sum(), of_one + of_other);
        }
        drop(one);
        assert_eq!(sum(), 1);
    }

    #[test]
    fn what_a_store_finds_hides_no_later_time_of_another() {
        let last = LastTime::never();
        let mut shown = Vec::new();
        for found in [5, 9, 7] {
            last.before(found, |ms| shown.push(ms));
        }
        // The clock was set back.
        last.now(6, |ms| shown.push(ms));
        for found in [6, 3, 8] {
            last.before(found, |ms| shown.push(ms));
        }
        assert_eq!(shown, [5, 9, 6, 8]);
    }
}
