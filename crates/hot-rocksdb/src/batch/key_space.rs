//! The idempotency keys of a batch: their first writes, their number, and which are forgotten to make room.

use rocksdb::DBPinnableSlice;

use super::Batch;
use crate::{
    idempotency,
    keys::{self, cf, meta},
};
use contracts::{error::StorageError, idempotency::FirstWrite};

impl Batch<'_> {
    /// Forgets keys outside the window, and the oldest ones if there is no room for `new` more.
    pub(super) fn forget_keys(&mut self, new: usize) {
        let (options, family) = (self.volume.options.keys, self.volume.db.family(cf::META));
        let forgotten = self.ledger.forget(options, self.now_ms, new);
        for minute in &forgotten {
            self.writes.delete_cf(family, keys::minute(*minute));
        }
        if !forgotten.is_empty() {
            self.writes.put_cf(family, meta::KEYS_FLOOR, self.ledger.floor_ms().to_be_bytes());
        }
    }

    /// The first writes that the volume has for keys, inside the window.
    pub(super) fn stored_first_writes(
        &self,
        wanted: &[[u8; 24]],
    ) -> Result<Vec<Option<FirstWrite>>, StorageError> {
        let (window_ms, floor_ms) = (self.volume.options.keys.window_ms(), self.ledger.floor_ms());
        let stored = self.volume.db.get_many(cf::IDEMPOTENCY, wanted)?;
        let read = |value: Option<DBPinnableSlice<'_>>| {
            let Some(bytes) = value else { return Ok(None) };
            let damaged =
                || StorageError::corrupt("an idempotency key in RocksDB", format!("value {:?}", &bytes[..]));
            let first = idempotency::decode(&bytes).ok_or_else(damaged)?;
            Ok(Some(first)
                .filter(|first| first.is_within(window_ms, self.now_ms) && first.appended_ms >= floor_ms))
        };
        stored.into_iter().map(read).collect()
    }

    /// Stores a key, and counts it.
    pub(super) fn put_key(&mut self, key: [u8; 24], first: FirstWrite) {
        self.writes.put_cf(self.volume.db.family(cf::IDEMPOTENCY), key, idempotency::encode(first));
        self.first_writes.insert(key, first);
        let (minute, count) = self.ledger.add(first.appended_ms);
        self.counted_minutes.insert(minute, count);
    }

    /// Stages the counts that have changed.
    pub(super) fn stage_keys(&mut self) {
        let family = self.volume.db.family(cf::META);
        for (minute, count) in &self.counted_minutes {
            self.writes.put_cf(family, keys::minute(*minute), count.to_be_bytes());
        }
        self.change.keys = Some(self.ledger.held());
    }
}
