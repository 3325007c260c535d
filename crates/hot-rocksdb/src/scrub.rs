//! Removes from the volume's files what was overwritten or dropped: nothing of it may be found in a table
//! file or in a log.
//!
//! The order is: flush all column families, so that no log is needed any more that was written before; wait
//! for readers whose snapshots still need the old values; compact, to the last level, the spans in which they
//! are; wait until RocksDB has deleted the table files that it has replaced, and the old logs. Whatever is
//! still held after a while is an error, and the call is repeated.
//!
//! RocksDB does not say whether a compaction went well. If it did, no file is left in the span that was there
//! before, from the deepest level on that has one; files of the levels above may stay if they hold no key of
//! the span, and so may all if none holds one. A background error that it counts meanwhile is one, too.

use std::{
    collections::HashSet,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use ::rocksdb::{BottommostLevelCompaction, CompactOptions, Direction, IteratorMode, LiveFile};

use super::{handles::unavailable, rocksdb::Db, synced::failed, wal};
use contracts::error::{StorageError, Tier};

/// How often readers and files are looked at, and for how long.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes; no stored key has more.
const LONGEST_KEY: usize = 256;

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

    /// Whether a table file may hold one of the keys. One that does not say what it holds may.
    fn touches(&self, file: &LiveFile) -> bool {
        let Some((first, last)) = &self.ends else { return self.family == file.column_family_name };
        self.family == file.column_family_name
            && file.start_key.as_ref().is_none_or(|start| start <= last)
            && file.end_key.as_ref().is_none_or(|end| end >= first)
    }
}

/// RocksDB's name for the number of errors that it has met in the background.
const BACKGROUND_ERRORS: &str = "rocksdb.background-errors";
/// What is said of a compaction that went wrong.
const NOT_COMPACTED: &str =
    "RocksDB could not compact what holds it: its log (LOG in the data directory) says why";

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
        self.scrub_within(spans, PATIENCE)
    }

    /// The same, with the longest time for each wait.
    pub(super) fn scrub_within(&self, spans: &[KeySpan], patience: Duration) -> Result<(), StorageError> {
        let written = self.rocks().latest_sequence_number();
        let logs = self.filled_logs()?;
        self.flush()?;
        // An older snapshot makes compaction keep what it sees.
        wait(patience, "a read still holds an old snapshot of the volume", || {
            let oldest = self.rocks().property_int_value(OLDEST_SNAPSHOT).map_err(unavailable)?.unwrap_or(0);
            Ok(oldest == 0 || oldest >= written)
        })?;
        let old = self.rocks().live_files().map_err(unavailable)?;
        let errors = self.background_errors()?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        // Otherwise a value that is in the last level already would stay there.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for KeySpan { family, ends } in spans {
            // A file that ends with a dropped range names the end of that range as its last key, which it has
            // not; a compaction that begins with just that key would pass over it.
            let first = ends.as_ref().and_then(|(first, _)| just_before(first));
            let last = ends.as_ref().map(|(_, last)| last);
            self.rocks().compact_range_cf_opt(self.family(family), first, last, &options);
        }
        let live = self.rocks().live_files().map_err(unavailable)?;
        for span in spans {
            if is_left(span, &old, &live) && self.has_key_in(span)? {
                return Err(StorageError::unavailable(Tier::Hot, StillHeld(NOT_COMPACTED)));
            }
        }
        if self.background_errors()? > errors {
            return Err(StorageError::unavailable(Tier::Hot, StillHeld(NOT_COMPACTED)));
        }
        let live: HashSet<&str> = live.iter().map(|file| file.name.as_str()).collect();
        let in_spans = old.iter().filter(|file| spans.iter().any(|span| span.touches(file)));
        let replaced = in_spans.filter(|file| !live.contains(file.name.as_str()));
        // RocksDB's names begin with a slash.
        let path = |file: &LiveFile| self.rocks().path().join(file.name.trim_start_matches('/'));
        let replaced: Vec<PathBuf> = replaced.map(path).collect();
        let are_gone = |files: &[PathBuf]| Ok(!files.iter().any(|file| file.exists()));
        wait(patience, "a table file that was replaced is still there", || are_gone(&replaced))?;
        wait(patience, "a log that was written before is still there", || are_gone(&logs))
    }

    /// How many errors RocksDB has met in the background.
    fn background_errors(&self) -> Result<u64, StorageError> {
        Ok(self.rocks().property_int_value(BACKGROUND_ERRORS).map_err(unavailable)?.unwrap_or(0))
    }

    /// Whether a key can be read in a span.
    fn has_key_in(&self, span: &KeySpan) -> Result<bool, StorageError> {
        let (first, last) =
            span.ends.as_ref().map_or((None, None), |(first, last)| (Some(first), Some(last)));
        let from = first.map_or(IteratorMode::Start, |first| IteratorMode::From(first, Direction::Forward));
        match self.rocks().iterator_cf(self.family(span.family), from).next().transpose() {
            Ok(found) => Ok(found.is_some_and(|(key, _)| last.is_none_or(|last| key[..] <= last[..]))),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The logs with something in them.
    fn filled_logs(&self) -> Result<Vec<PathBuf>, StorageError> {
        let path = self.rocks().path();
        let logs = wal::logs(path).map_err(|error| failed(path, &error))?;
        Ok(logs.into_iter().filter(|log| log.metadata().is_ok_and(|found| found.len() > 0)).collect())
    }
}

/// A key just before the given one, with hardly any stored one between them. `None` if there is none before.
fn just_before(key: &[u8]) -> Option<Vec<u8>> {
    let end = key.iter().rposition(|byte| *byte > 0)?;
    let mut before = key[..=end].to_vec();
    before[end] -= 1;
    before.extend([u8::MAX; LONGEST_KEY]);
    Some(before)
}

/// Whether files are left in a span after a compaction that it should have replaced.
fn is_left(span: &KeySpan, old: &[LiveFile], live: &[LiveFile]) -> bool {
    let in_span: Vec<&LiveFile> = old.iter().filter(|file| span.touches(file)).collect();
    let Some(deepest) = in_span.iter().map(|file| file.level).max() else { return false };
    let names: HashSet<&str> = in_span.iter().map(|file| file.name.as_str()).collect();
    live.iter().any(|file| file.level >= deepest && names.contains(file.name.as_str()))
}

/// Waits until something holds.
fn wait(
    patience: Duration,
    what: &'static str,
    holds: impl Fn() -> Result<bool, StorageError>,
) -> Result<(), StorageError> {
    let until = Instant::now() + patience;
    while !holds()? {
        if Instant::now() >= until {
            return Err(StorageError::unavailable(Tier::Hot, StillHeld(what)));
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::cf;

    fn at(number: u32, level: i32, start: &[u8], end: &[u8]) -> LiveFile {
        LiveFile { name: format!("/{number:06}.sst"), level, ..file(cf::EVENTS, start, end) }
    }

    #[test]
    fn a_compaction_that_went_well_leaves_no_old_file_in_the_deepest_level() {
        let span = KeySpan::of(cf::EVENTS, b"c", b"f");
        let old = [at(1, 0, b"a", b"z"), at(2, 5, b"a", b"d"), at(3, 6, b"b", b"e"), at(4, 6, b"x", b"z")];
        assert!(is_left(&span, &old, &old));
        let well = [at(1, 0, b"a", b"z"), at(4, 6, b"x", b"z"), at(9, 6, b"a", b"e")];
        assert!(!is_left(&span, &old, &well), "what is above may hold no key of the span");
        let moved = [at(2, 6, b"a", b"d"), at(9, 6, b"d", b"e")];
        assert!(is_left(&span, &old, &moved), "it was moved down and not rewritten");
        assert!(!is_left(&span, &[at(4, 6, b"x", b"z")], &old));
    }

    fn file(family: &str, start: &[u8], end: &[u8]) -> LiveFile {
        LiveFile {
            column_family_name: family.to_owned(),
            name: "/000007.sst".to_owned(),
            size: 1,
            level: 6,
            start_key: Some(start.to_vec()),
            end_key: Some(end.to_vec()),
            num_entries: 1,
            num_deletions: 0,
        }
    }

    #[test]
    fn a_file_is_in_a_span_if_one_of_its_keys_may_be() {
        let span = KeySpan::of(cf::EVENTS, b"c", b"f");
        for (start, end, is_in) in [
            (b"a", b"b", false),
            (b"a", b"c", true),
            (b"d", b"e", true),
            (b"f", b"g", true),
            (b"g", b"h", false),
        ] {
            assert_eq!(span.touches(&file(cf::EVENTS, start, end)), is_in, "{start:?}");
        }
        assert!(!span.touches(&file(cf::IDEMPOTENCY, b"d", b"e")));
        let all = KeySpan::all(cf::EVENTS);
        assert!(all.touches(&file(cf::EVENTS, b"a", b"b")) && !all.touches(&file(cf::META, b"a", b"b")));
        assert!(span.touches(&LiveFile { start_key: None, end_key: None, ..file(cf::EVENTS, b"", b"") }));
    }

    #[test]
    fn nothing_lies_just_before_a_key() {
        for (key, below) in [
            (&b"c"[..], &b"b"[..]),
            (b"c\0\0", b"b\xff\xff"),
            (b"c\0\x01", b"c\0\0"),
            (b"\0\0\x0c", b"\0\0\x0b\xff"),
        ] {
            let before = just_before(key).unwrap();
            assert!(below < before.as_slice() && before.as_slice() < key, "{key:?}: {before:?}");
        }
        assert_eq!(just_before(b"\0\0"), None);
    }
}
