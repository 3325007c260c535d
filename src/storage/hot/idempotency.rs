//! What RocksDB keeps of an idempotency key, and for how long. Expired keys leave with compaction, so nothing scans for them.

use std::sync::Arc;

use crate::contracts::{
    clock::{Clock, TimestampMs},
    sequence::Offset,
};

/// The first event with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstWrite {
    /// Its offset.
    pub offset: Offset,
    /// When it was appended.
    pub appended_ms: TimestampMs,
}

impl FirstWrite {
    /// The stored form.
    pub fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..].copy_from_slice(&self.appended_ms.to_be_bytes());
        bytes
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (offset, appended_ms) = bytes.split_at_checked(8)?;
        Some(Self { offset: u64::from_be_bytes(offset.try_into().ok()?), appended_ms: i64::from_be_bytes(appended_ms.try_into().ok()?) })
    }

    /// Whether it still makes a write at `now_ms` a duplicate. A clock that stepped back keeps it.
    pub fn is_within(self, window_ms: i64, now_ms: TimestampMs) -> bool {
        now_ms.saturating_sub(self.appended_ms) < window_ms
    }
}

/// A compaction filter that drops expired keys.
pub fn expiry_filter(
    window_ms: i64,
    clock: Arc<dyn Clock>,
) -> impl FnMut(u32, &[u8], &[u8]) -> rocksdb::CompactionDecision + Send + 'static {
    move |_level, _key, value| match FirstWrite::decode(value) {
        Some(first) if !first.is_within(window_ms, clock.now_ms()) => rocksdb::CompactionDecision::Remove,
        _ => rocksdb::CompactionDecision::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_half_open_and_a_clock_stepping_back_keeps_keys() {
        let first = FirstWrite { offset: 7, appended_ms: 1000 };
        assert_eq!(FirstWrite::decode(&first.encode()), Some(first));
        assert!(first.is_within(10, 1009));
        assert!(!first.is_within(10, 1010));
        assert!(first.is_within(10, i64::MIN));
    }
}
