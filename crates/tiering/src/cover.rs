//! How much of a shard's log S3 holds, and what the log may forget because of it. The store that publishes
//! manifests says the one, the copy that owns the shard trims the log by it.

use std::sync::Arc;

use parking_lot::Mutex;

use contracts::shared_log::{LogSeq, LogSize};

/// What is between the bytes that are always kept and a full log, in parts: with one of them full, a manifest
/// is published only to say how much of the log S3 holds.
const CROWDED_PART: u64 = 4;

/// How much of the log S3 holds. Its clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct LogCover {
    known: Arc<Mutex<KnownCover>>,
    /// Bytes at the end of the log that are kept for copies that are a little behind.
    keep_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct KnownCover {
    /// Everything up to here is in S3: a manifest that says so was read back.
    held: LogSeq,
    /// The last entry that may change anything.
    changed: LogSeq,
    /// Entries up to here are to be trimmed as soon as S3 holds what they say, however little the log holds.
    let_go: LogSeq,
    /// How much the log holds.
    size: LogSize,
}

impl LogCover {
    pub(crate) fn new(keep_bytes: u64) -> Self {
        Self { known: Arc::default(), keep_bytes }
    }

    /// A manifest was read back that says that everything up to here is in S3.
    pub(crate) fn hold(&self, upto: LogSeq) {
        let mut known = self.known.lock();
        known.held = known.held.max(upto);
    }

    /// Up to where everything is in S3, as far as a manifest says so that was read back.
    pub(crate) fn held(&self) -> LogSeq {
        self.known.lock().held
    }

    /// This entry may change something, beside who owns the shard.
    pub(crate) fn note_change(&self, at: LogSeq) {
        let mut known = self.known.lock();
        known.changed = known.changed.max(at);
    }

    /// The last entry so far that a manifest should say of: that may change something, or that is to be let
    /// go.
    pub(crate) fn owed(&self) -> LogSeq {
        let known = self.known.lock();
        known.changed.max(known.let_go)
    }

    /// Notes how much the log holds.
    pub(crate) fn note_size(&self, size: LogSize) {
        self.known.lock().size = size;
    }

    /// How much the log held when it was last asked; `None` before it has answered.
    pub(crate) fn size(&self) -> Option<LogSize> {
        Some(self.known.lock().size).filter(|size| size.max_bytes > 0)
    }

    /// Whether the log holds so much that a manifest should say how far S3 has got, if that is further than
    /// any has said.
    pub(crate) fn is_crowded(&self) -> bool {
        let LogSize { bytes, max_bytes, .. } = self.known.lock().size;
        bytes > self.keep_bytes + max_bytes.saturating_sub(self.keep_bytes) / CROWDED_PART
    }

    /// Has entries up to here trimmed as soon as S3 holds what they say, for copies that are behind too.
    /// Returns whether they are.
    pub(crate) fn let_go(&self, upto: LogSeq) -> bool {
        let mut known = self.known.lock();
        known.let_go = known.let_go.max(upto);
        known.size.max_bytes > 0 && known.size.first > upto
    }

    /// Up to which entry the log may be trimmed, if it may.
    pub(crate) fn trim_upto(&self) -> Option<LogSeq> {
        let KnownCover { held, size, let_go, .. } = *self.known.lock();
        let let_go = Some(let_go.min(held)).filter(|upto| *upto >= size.first && size.first <= size.last);
        trim_upto(size, held, self.keep_bytes).max(let_go)
    }
}

/// Up to which entry a log of this size may be trimmed, of which S3 holds everything up to `held`. The
/// entries that are to go are counted by their mean size: it takes a few rounds until no more is left than is
/// kept.
fn trim_upto(size: LogSize, held: LogSeq, keep_bytes: u64) -> Option<LogSeq> {
    let LogSize { first, last, bytes, .. } = size;
    let excess = bytes.checked_sub(keep_bytes).filter(|excess| *excess > 0)?;
    let entries = last.next().0.saturating_sub(first.0);
    let part = u128::from(entries) * u128::from(excess) / u128::from(bytes);
    let gone = u64::try_from(part).unwrap_or(entries).max(1);
    let upto = LogSeq(first.0 + gone - 1).min(held);
    (upto >= first && entries > 0).then_some(upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(first: u64, last: u64, bytes: u64) -> LogSize {
        LogSize { first: LogSeq(first), last: LogSeq(last), bytes, max_bytes: 1000 }
    }

    #[test]
    fn what_s3_does_not_hold_is_never_trimmed() {
        for (size, held, expected) in [
            (size(1, 100, 1000), 0, None),
            (size(1, 100, 1000), 30, Some(30)),
            (size(1, 100, 1000), 100, Some(60)),
            (size(41, 100, 1000), 40, None),
            (size(41, 100, 1000), 41, Some(41)),
            (size(1, 100, 400), 100, None),
            (size(1, 100, 401), 100, Some(1)),
            (size(101, 100, 0), 100, None),
        ] {
            let upto = trim_upto(size, LogSeq(held), 400);
            assert_eq!(upto, expected.map(LogSeq), "{size:?} {held}");
        }
    }

    #[test]
    fn few_large_entries_behind_many_small_ones_are_trimmed_too() {
        // 10,000 of one byte, then 100 of 1,000.
        let bytes_from = |first: u64| {
            10_100_u64.saturating_sub(first.max(10_001)).saturating_add(1) * 1000
                + 10_001_u64.saturating_sub(first)
        };
        let (mut first, mut rounds) = (1, 0);
        while let Some(upto) = trim_upto(size(first, 10_100, bytes_from(first)), LogSeq(10_100), 20_000) {
            (first, rounds) = (upto.0 + 1, rounds + 1);
        }
        assert!((10_001..=10_090).contains(&first), "{first}");
        assert!(rounds < 50, "{rounds}");
    }

    #[test]
    fn what_is_let_go_is_trimmed_once_s3_holds_it_however_much_is_kept() {
        let cover = LogCover::new(1000);
        assert!(!cover.let_go(LogSeq(7)), "nobody has asked what the log holds");
        for (size, held, expected) in [
            (size(1, 10, 100), 0, None),
            (size(1, 10, 100), 5, Some(5)),
            (size(6, 10, 50), 5, None),
            (size(6, 10, 50), 9, Some(7)),
            (size(8, 10, 20), 9, None),
            (size(8, 7, 0), 9, None),
        ] {
            cover.note_size(size);
            cover.hold(LogSeq(held));
            assert_eq!(cover.trim_upto(), expected.map(LogSeq), "{size:?} {held}");
            assert_eq!(cover.let_go(LogSeq(7)), size.first > LogSeq(7), "{size:?}");
        }
        let crowded = LogCover::new(400);
        crowded.let_go(LogSeq(7));
        crowded.note_size(size(1, 100, 1000));
        crowded.hold(LogSeq(100));
        assert_eq!(crowded.trim_upto(), Some(LogSeq(60)), "it holds too much besides");
    }

    #[test]
    fn a_manifest_is_owed_for_what_changes_something_and_for_what_is_to_go() {
        let cover = LogCover::new(1000);
        cover.note_change(LogSeq(5));
        assert_eq!(cover.owed(), LogSeq(5));
        cover.let_go(LogSeq(7));
        assert_eq!(cover.owed(), LogSeq(7), "two entries changed nothing, and go too");
        cover.note_change(LogSeq(9));
        assert_eq!(cover.owed(), LogSeq(9));
    }

    #[test]
    fn a_manifest_for_the_log_alone_is_published_once_a_part_of_it_is_full() {
        let cover = LogCover::new(400);
        assert_eq!(cover.size(), None, "nobody has asked");
        for (bytes, is_crowded) in [(0, false), (550, false), (551, true), (1000, true)] {
            cover.note_size(size(1, 10, bytes));
            assert_eq!(cover.is_crowded(), is_crowded, "{bytes}");
        }
        assert_eq!(cover.size(), Some(size(1, 10, 1000)));
        cover.hold(LogSeq(3));
        cover.hold(LogSeq(2));
        assert_eq!(cover.trim_upto(), Some(LogSeq(3)), "what S3 holds it goes on to hold");
    }
}
