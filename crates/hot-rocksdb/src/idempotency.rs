//! What RocksDB keeps of an idempotency key, and for how long. Compaction drops expired keys, so nothing
//! scans for them.
//!
//! Keys are counted by the minute in which they arrived. When they exceed their space, the oldest minutes are
//! forgotten first: their keys stop counting at once, and compaction drops them later. No key younger than
//! the minimum window is forgotten.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use super::settings::KeySettings;
use contracts::{
    clock::{Clock, TimestampMs},
    idempotency::{FirstWrite, Hash, KeyWindow},
};

/// Bytes that a key takes on the volume, uncompressed; `make capacity` measures what is left of them in files.
pub const KEY_BYTES: u64 = 72;
/// Keys are counted together for this long.
const MINUTE_MS: i64 = 60_000;

/// The stored form: a version, the offset, the time, the hash if there is one.
pub fn encode(first: FirstWrite) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + 8 + 8 + size_of::<Hash>());
    bytes.push(1);
    bytes.extend_from_slice(&first.offset.to_be_bytes());
    bytes.extend_from_slice(&first.appended_ms.to_be_bytes());
    bytes.extend_from_slice(first.payload.as_ref().map_or(&[], Hash::as_slice));
    bytes
}

/// Reads the stored form.
pub fn decode(bytes: &[u8]) -> Option<FirstWrite> {
    let ([1], rest) = bytes.split_first_chunk::<1>()? else { return None };
    decode_fields(rest)
}

/// Reads the stored form of volume format 2, which had no version byte: see `upgrade`.
pub fn decode_unversioned(bytes: &[u8]) -> Option<FirstWrite> {
    decode_fields(bytes).filter(|first| first.payload.is_none())
}

fn decode_fields(bytes: &[u8]) -> Option<FirstWrite> {
    let (offset, rest) = bytes.split_first_chunk::<8>()?;
    let (appended_ms, rest) = rest.split_first_chunk::<8>()?;
    let payload = if rest.is_empty() { None } else { Some(Hash::try_from(rest).ok()?) };
    Some(FirstWrite {
        offset: u64::from_be_bytes(*offset),
        appended_ms: i64::from_be_bytes(*appended_ms),
        payload,
    })
}

/// The time before which keys are forgotten, shared with the compaction filter: milliseconds since 1970.
pub type Floor = Arc<AtomicI64>;

/// A compaction filter that drops keys that no longer count.
pub fn expiry_filter(
    window_ms: i64,
    floor: Floor,
    clock: Arc<dyn Clock>,
) -> impl FnMut(u32, &[u8], &[u8]) -> rocksdb::CompactionDecision + Send + 'static {
    move |_level, _key, value| match decode(value) {
        Some(first)
            if !first.is_within(window_ms, clock.now_ms()) || first.appended_ms < floor.load(Relaxed) =>
        {
            rocksdb::CompactionDecision::Remove
        }
        _ => rocksdb::CompactionDecision::Keep,
    }
}

/// How many keys arrived in each minute. Pure; the writer makes it durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyLedger {
    minutes: BTreeMap<i64, u64>,
    keys: u64,
    floor_ms: TimestampMs,
}

impl KeyLedger {
    /// A ledger of what was stored: the keys by minute, and the floor.
    pub fn new(minutes: BTreeMap<i64, u64>, floor_ms: TimestampMs) -> Self {
        let keys = minutes.values().sum();
        Self { minutes, keys, floor_ms }
    }

    /// The minute of a time.
    pub fn minute(ms: TimestampMs) -> i64 {
        ms.div_euclid(MINUTE_MS)
    }

    /// Counts a key; returns its minute, and how many keys that has now.
    pub fn add(&mut self, appended_ms: TimestampMs) -> (i64, u64) {
        let minute = Self::minute(appended_ms);
        let count = self.minutes.entry(minute).or_default();
        *count += 1;
        self.keys += 1;
        (minute, *count)
    }

    /// The time before which keys are forgotten.
    pub fn floor_ms(&self) -> TimestampMs {
        self.floor_ms
    }

    /// Forgets minutes outside the window, and the oldest while there is no room for `new` more keys; returns
    /// those that it forgot.
    pub fn forget(&mut self, settings: KeySettings, now_ms: TimestampMs, new: usize) -> Vec<i64> {
        let mut forgotten = Vec::new();
        while let Some((&minute, &count)) = self.minutes.first_key_value() {
            let end = (minute + 1) * MINUTE_MS;
            let is_old = end <= now_ms.saturating_sub(settings.window_ms());
            let may_go = end <= now_ms.saturating_sub(settings.min_window_ms());
            if !is_old && (self.has_room(settings, new) || !may_go) {
                break;
            }
            self.minutes.remove(&minute);
            self.keys -= count;
            self.floor_ms = self.floor_ms.max(end);
            forgotten.push(minute);
        }
        forgotten
    }

    /// Whether there is room for `new` more keys.
    pub fn has_room(&self, settings: KeySettings, new: usize) -> bool {
        (self.keys + new as u64) * KEY_BYTES <= settings.max_bytes
    }

    /// What others see of it.
    pub fn held(&self) -> KeysHeld {
        KeysHeld { keys: self.keys, floor_ms: self.floor_ms }
    }
}

/// How many keys there are, and since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeysHeld {
    keys: u64,
    floor_ms: TimestampMs,
}

impl KeysHeld {
    /// The window that holds at `now_ms`.
    pub fn window(self, settings: KeySettings, now_ms: TimestampMs) -> KeyWindow {
        let since_floor = now_ms.saturating_sub(self.floor_ms).max(0);
        let window_ms = settings.window_ms().min(since_floor).max(0).cast_unsigned();
        KeyWindow { keys: self.keys, bytes: self.keys * KEY_BYTES, window_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::settings::Seconds;

    #[test]
    fn the_window_is_half_open_and_a_clock_stepping_back_keeps_keys() {
        for payload in [None, Some([7; 16])] {
            let first = FirstWrite { offset: 7, appended_ms: 1000, payload };
            assert_eq!(decode(&encode(first)), Some(first));
            assert!(first.is_within(10, 1009));
            assert!(!first.is_within(10, 1010));
            assert!(first.is_within(10, i64::MIN));
        }
        assert_eq!(decode(&[0; 16]), None);
        assert_eq!(
            decode_unversioned(&[0; 16]),
            Some(FirstWrite { offset: 0, appended_ms: 0, payload: None })
        );
        assert_eq!(decode_unversioned(&[1; 33]), None);
    }

    #[test]
    fn the_oldest_are_forgotten_first_and_the_young_never() {
        let options = KeySettings {
            window_secs: Seconds::new(100 * 60),
            min_window_secs: Seconds::new(10 * 60),
            max_bytes: 5 * KEY_BYTES,
        };
        let mut ledger = KeyLedger::default();
        for minute in 0..8 {
            assert_eq!(ledger.add(minute * MINUTE_MS + 5), (minute, 1));
        }
        assert!(!ledger.has_room(options, 0));
        assert!(ledger.forget(options, 8 * MINUTE_MS, 0).is_empty(), "all of them are young");
        assert_eq!(
            ledger.held().window(options, 8 * MINUTE_MS),
            KeyWindow { keys: 8, bytes: 8 * KEY_BYTES, window_ms: 480_000 }
        );
        assert_eq!(ledger.forget(options, 20 * MINUTE_MS, 0), [0, 1, 2], "no more than it takes");
        assert!(ledger.has_room(options, 0));
        assert_eq!(ledger.floor_ms(), 3 * MINUTE_MS);
        assert_eq!(ledger.held().window(options, 20 * MINUTE_MS).window_ms, 17 * 60_000);
        assert_eq!(ledger.forget(options, 106 * MINUTE_MS, 0), [3, 4, 5], "outside the window");
        let stored = ledger.minutes.clone();
        assert_eq!(KeyLedger::new(stored, 6 * MINUTE_MS), ledger);
    }
}
