//! Removes from the volume's files what was overwritten or dropped: nothing of it may be found in a table
//! file or in a log.
//!
//! The order is: flush all column families, so that no log is needed any more that was written before; wait
//! for readers whose snapshots still need the old values; compact, to the last level, the spans in which they
//! are; wait until RocksDB has deleted the old logs. Whatever is still held after a while is an error, and
//! the call is repeated.

use std::{path::PathBuf, thread, time::Duration};

use ::rocksdb::{BottommostLevelCompaction, CompactOptions};

use super::{handles::unavailable, rocksdb::Db, synced::failed, wal};
use contracts::error::{StorageError, Tier};

/// How often readers and logs are looked at, and how many times.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const LOOKS: usize = 400;

/// RocksDB's name for the sequence number of the oldest snapshot; 0 if there is none.
const OLDEST_SNAPSHOT: &str = "rocksdb.oldest-snapshot-sequence";

/// Keys of one column family, both ends included.
#[derive(Debug)]
pub(super) struct KeySpan {
    family: &'static str,
    /// `None` for all keys.
    ends: Option<(Vec<u8>, Vec<u8>)>,
}

impl KeySpan {
    /// All keys of a family.
    pub(super) fn all(family: &'static str) -> Self {
        Self { family, ends: None }
    }

    /// The keys from the first to the last.
    pub(super) fn of(family: &'static str, first: &[u8], last: &[u8]) -> Self {
        Self { family, ends: Some((first.to_vec(), last.to_vec())) }
    }
}

/// Something still needs what is to go.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StillHeld(&'static str);

impl Db {
    /// Removes what no longer counts from the spans, and from all logs; blocks for as long as it takes.
    ///
    /// # Errors
    /// `Unavailable`: readers or RocksDB still hold it; `Corrupt`.
    pub(super) fn scrub(&self, spans: &[KeySpan]) -> Result<(), StorageError> {
        let written = self.rocks().latest_sequence_number();
        let logs = self.filled_logs()?;
        self.flush()?;
        // An older snapshot makes compaction keep what it sees.
        wait("a read still holds an old snapshot of the volume", || {
            let oldest = self.rocks().property_int_value(OLDEST_SNAPSHOT).map_err(unavailable)?.unwrap_or(0);
            Ok(oldest == 0 || oldest >= written)
        })?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        // Otherwise a value that is in the last level already would stay there.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for KeySpan { family, ends } in spans {
            let (first, last) = ends.as_ref().map_or((None, None), |(first, last)| (Some(first), Some(last)));
            self.rocks().compact_range_cf_opt(self.family(family), first, last, &options);
        }
        wait("a log that was written before is still there", || Ok(!logs.iter().any(|log| log.exists())))
    }

    /// The logs with something in them.
    fn filled_logs(&self) -> Result<Vec<PathBuf>, StorageError> {
        let path = self.rocks().path();
        let logs = wal::logs(path).map_err(|error| failed(path, &error))?;
        Ok(logs.into_iter().filter(|log| log.metadata().is_ok_and(|found| found.len() > 0)).collect())
    }
}

/// Waits until something holds.
fn wait(what: &'static str, holds: impl Fn() -> Result<bool, StorageError>) -> Result<(), StorageError> {
    for _ in 0..LOOKS {
        if holds()? {
            return Ok(());
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Err(StorageError::unavailable(Tier::Hot, StillHeld(what)))
}
