//! The wall clock, passed in where behaviour depends on it. No safety rule reads it.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch; negative before 1970.
pub type TimestampMs = i64;

/// 0001-01-01T00:00:00Z, the first timestamp an event may carry.
pub const MIN_TIMESTAMP_MS: TimestampMs = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z, the last timestamp an event may carry.
pub const MAX_TIMESTAMP_MS: TimestampMs = 253_402_300_799_999;

/// Tells the time of day.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now_ms(&self) -> TimestampMs;
}

impl std::fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock as a shared trait object.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that reads the machine's clock
    fn now_ms(&self) -> TimestampMs {
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(MAX_TIMESTAMP_MS),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(MIN_TIMESTAMP_MS, |ms| -ms),
        }
    }
}
