//! How a log stands to what a volume has applied of it: whether it is the same log, and has all of that.
//!
//! A log that its servers have lost may be made again and written to by a copy whose volume was empty. The
//! places of its entries say nothing then: the entry at the volume's place is another one, which its CRC
//! tells. Up to there a log of the same name is compared with what the volume's mark says.

use bytes::Bytes;
use tokio::time::sleep;
use tracing::warn;
use uuid::Uuid;

use super::{
    CopyParts,
    entry::{Entry, EntryBody, crc_of},
};
use contracts::{
    clock::TimestampMs,
    error::StorageError,
    replica::LogMark,
    shared_log::{EntryKind, LogEntry, LogError, LogSeq, LogSize, SharedLog},
};

/// More places than the largest entry takes up.
const MOST_PLACES: u64 = 64;

/// How a log stands to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStanding {
    /// It is the same log, as far as that can be told, and has all that the volume has applied or knows of.
    Whole {
        /// Its last entry.
        last: LogSeq,
    },
    /// It ends before what the volume has applied or knows of: it is lost, or the server that has answered
    /// was cut off.
    Short {
        /// Its last entry.
        last: LogSeq,
        /// Whether nobody can have entered anything that the volume has not applied: nobody has owned the
        /// shard in it, or whoever did last is the one whom the volume knows.
        is_known: bool,
    },
    /// Another entry is in it than the one that the volume has applied.
    Another {
        /// The place of that entry.
        at: LogSeq,
    },
}

/// How a log stands to a volume with this mark. A server that was cut off answers for a while with what the
/// log was: [`prove_end`] tells.
///
/// # Errors
/// `Unavailable`, or `Damaged`.
pub async fn log_standing(log: &dyn SharedLog, mark: &LogMark) -> Result<LogStanding, LogError> {
    let LogSize { first, last, .. } = log.size().await?;
    let is_there = last >= mark.seq();
    if is_there && !has_entry_of(log, mark, first).await? {
        return Ok(LogStanding::Another { at: mark.seq() });
    }
    if is_there && last.0 >= mark.known_upto {
        return Ok(LogStanding::Whole { last });
    }
    Ok(short(mark, last, log.term().await?.as_ref()))
}

/// How a log stands that ends with `last`, and has this last entry about ownership.
fn short(mark: &LogMark, last: LogSeq, ownership: Option<&LogEntry>) -> LogStanding {
    // The last word about ownership is never trimmed, and nothing counts before the first.
    let Some(found) = ownership else { return LogStanding::Short { last, is_known: true } };
    let unknown = LogStanding::Short { last, is_known: false };
    let Ok((entry, _)) = Entry::decode(&found.bytes) else { return unknown };
    if found.seq > mark.seq() {
        return unknown; // another server has answered, or the volume knows of the place by the manifests
    }
    // Terms follow one another, and each has one owner.
    if entry.term > mark.term || (entry.term == mark.term && entry.nonce != mark.nonce) {
        return LogStanding::Another { at: found.seq };
    }
    LogStanding::Short { last, is_known: entry.term == mark.term && last <= mark.seq() }
}

/// Whether the entry at the mark's place is the mark's, in a log that reaches so far and begins with `first`.
/// True if that entry was trimmed, or is damaged: what follows it says what it was.
async fn has_entry_of(log: &dyn SharedLog, mark: &LogMark, first: LogSeq) -> Result<bool, LogError> {
    let at = mark.seq();
    if mark.applied == 0 || first > at {
        return Ok(true);
    }
    // An entry has the number of its last part, and is read from its first.
    for from in (first.0.max(at.0.saturating_sub(MOST_PLACES))..=at.0).rev() {
        let found = match log.look_at(LogSeq(from)).await {
            Ok(found) => found,
            Err(LogError::Damaged { .. }) => continue,
            Err(LogError::Trimmed(_)) => return Ok(true),
            Err(error) => return Err(error),
        };
        return match found {
            Some(found) if found.seq > at => Ok(false), // the place is within it
            Some(found) if found.seq == at => Ok(crc_of(&found.bytes).map_or(true, |crc| crc == mark.crc)),
            Some(_) => Ok(true),
            None => Err(LogError::Unavailable(format!("a server has entry {at}, and another has not"))),
        };
    }
    Ok(true)
}

/// Makes sure that a log ends with this entry, by a quorum of its servers: an entry goes behind it that
/// counts for nobody. May take as long as there is no quorum. For a log that is given up.
///
/// # Errors
/// `Taken` if the log goes on behind it; `Full` or `TooLarge`.
pub async fn prove_end(log: &dyn SharedLog, last: LogSeq, now_ms: TimestampMs) -> Result<(), LogError> {
    // Nobody owns a shard in term 0.
    let body = EntryBody::Changes(Bytes::new());
    let probe = Entry { term: 0, nonce: Uuid::nil(), prev: 0, prev_crc: 0, now_ms, body };
    log.append(last, EntryKind::Data, probe.encode().0).await.map(drop)
}

/// Waits until the log has all that a volume with this mark has applied, or knows of by the manifests.
///
/// # Errors
/// `Refused` if it is another log; `Corrupt` if it is damaged.
pub(super) async fn until_it_is_there(parts: &CopyParts, mark: &LogMark) -> Result<(), StorageError> {
    loop {
        match log_standing(parts.log.as_ref(), mark).await {
            Ok(LogStanding::Whole { .. }) => return Ok(()),
            Ok(LogStanding::Another { at }) => return Err(StorageError::Refused(another_log(at))),
            // It may be a server of the log that was cut off; if it is the log itself, waiting is all that
            // does no harm.
            Ok(LogStanding::Short { last, .. }) => warn!(
                shard = parts.names.shard,
                applied = mark.applied,
                known = mark.known_upto,
                last = last.0,
                "the shard's log ends before what this volume has applied: waiting. If the log is lost, \
                 zombi cluster reset-log begins it anew"
            ),
            Err(error @ LogError::Damaged { .. }) => {
                return Err(StorageError::corrupt("the shard's log", error));
            }
            Err(error) => {
                warn!(shard = parts.names.shard, %error, "the shard's log cannot be read, will retry");
            }
        }
        sleep(parts.settings.tick()).await;
    }
}

/// What to do where a log has another entry at a place than the one that a volume has applied.
pub fn another_log(at: LogSeq) -> String {
    format!(
        "entry {at} of the shard's log is not the one that this volume has applied: the log was lost, and \
         was written to anew without this volume, so each may have what the other lacks. Nothing was \
         changed. Keep the volume: `zombi salvage` prints what it has and S3 has not; send that again, then \
         start with an empty volume to go on with what the others have"
    )
}

/// Why a copy cannot follow a log that was begun anew since it was opened.
pub(super) fn other_log(found: u32, opened: u32) -> StorageError {
    StorageError::Refused(format!(
        "the shard's log was begun anew: it is generation {found}, and this pod has opened generation \
         {opened}. Start this pod anew. Nothing was changed"
    ))
}

/// Whether two places can be of one log: the later of them has no earlier term, a term has one owner, and a
/// place has one entry.
pub(super) fn may_be_of_one_log(one: &LogMark, other: &LogMark) -> bool {
    let (before, after) = if one.applied <= other.applied { (one, other) } else { (other, one) };
    let is_same_place = before.applied == after.applied;
    before.term <= after.term
        && (before.term != after.term || before.nonce == after.nonce)
        && (!is_same_place || (before.term, before.crc) == (after.term, after.crc))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;

    fn mark(applied: u64, term: u64, nonce: u128) -> LogMark {
        let nonce = Uuid::from_u128(nonce);
        LogMark { applied, crc: 5, term, nonce, ..LogMark::beginning(Uuid::from_u128(1)) }
    }

    fn tick(seq: u64, term: u64, nonce: u128) -> LogEntry {
        let body = EntryBody::Tick { pod: "zombi-0".to_owned() };
        LogEntry { seq: LogSeq(seq), bytes: Entry::behind(&mark(seq - 1, term, nonce), 1, body).encode().0 }
    }

    /// A log with these entries, which begins with the place `first`. Of what is before `whole_from` only the
    /// last parts of an entry are left, and the one at `lost` is not to be had.
    #[derive(Debug)]
    struct FixedLog {
        first: u64,
        whole_from: u64,
        lost: u64,
        entries: Vec<LogEntry>,
    }

    impl FixedLog {
        fn last(&self) -> LogSeq {
            self.entries.last().map_or(LogSeq(self.first - 1), |entry| entry.seq)
        }

        /// The first place of each entry, in order.
        fn places(&self) -> impl Iterator<Item = (u64, &LogEntry)> {
            let ends = self.entries.iter().map(|entry| entry.seq.0 + 1);
            std::iter::once(self.whole_from).chain(ends).zip(&self.entries)
        }
    }

    #[async_trait]
    impl SharedLog for FixedLog {
        async fn append(&self, last: LogSeq, _: EntryKind, _: Bytes) -> Result<LogSeq, LogError> {
            if last == self.last() { Ok(last.next()) } else { Err(LogError::Taken(last.next())) }
        }

        async fn read(&self, from: LogSeq, _: usize, _: Duration) -> Result<Vec<LogEntry>, LogError> {
            let found = self.places().find(|(_, entry)| entry.seq >= from);
            let is_within = found.as_ref().is_some_and(|(first, _)| *first < from.0);
            if is_within || from.0 < self.whole_from || from.0 == self.lost {
                return Err(LogError::Damaged { seq: from, what: "no entry begins here".to_owned() });
            }
            Ok(found.map(|(_, entry)| entry.clone()).into_iter().collect())
        }

        async fn term(&self) -> Result<Option<LogEntry>, LogError> {
            Ok(self.entries.last().cloned())
        }

        async fn trim(&self, _: LogSeq) -> Result<(), LogError> {
            Ok(())
        }

        async fn size(&self) -> Result<LogSize, LogError> {
            Ok(LogSize { first: LogSeq(self.first), last: self.last(), ..LogSize::default() })
        }
    }

    /// A log of ticks of one term at these places.
    fn log(first: u64, places: &[u64]) -> FixedLog {
        FixedLog {
            first,
            whole_from: first,
            lost: 0,
            entries: places.iter().map(|place| tick(*place, 3, 9)).collect(),
        }
    }

    /// The mark of a volume that has applied a log up to its entry at this place.
    fn applied(log: &FixedLog, at: u64) -> LogMark {
        let entry = log.entries.iter().find(|entry| entry.seq.0 == at).unwrap();
        LogMark { crc: crc_of(&entry.bytes).unwrap(), ..mark(at, 3, 9) }
    }

    #[tokio::test]
    async fn the_entry_at_the_volumes_place_tells_whether_it_is_the_same_log() {
        // Its third entry has four places.
        let log = log(1, &[1, 2, 6, 7]);
        for at in [1, 2, 6, 7] {
            let known = applied(&log, at);
            let whole = LogStanding::Whole { last: LogSeq(7) };
            assert_eq!(log_standing(&log, &known).await.unwrap(), whole, "{at}");
            let other = LogMark { crc: known.crc ^ 1, ..known };
            let another = LogStanding::Another { at: LogSeq(at) };
            assert_eq!(log_standing(&log, &other).await.unwrap(), another, "{at}");
        }
        let within = log_standing(&log, &mark(4, 3, 9)).await.unwrap();
        assert_eq!(within, LogStanding::Another { at: LogSeq(4) }, "no entry of it ends there");
        let nothing = log_standing(&log, &mark(0, 0, 0)).await.unwrap();
        assert_eq!(nothing, LogStanding::Whole { last: LogSeq(7) });
    }

    #[tokio::test]
    async fn of_an_entry_that_was_trimmed_nothing_is_said() {
        let whole = LogStanding::Whole { last: LogSeq(10) };
        assert_eq!(log_standing(&log(8, &[9, 10]), &mark(7, 3, 9)).await.unwrap(), whole);
        let cut = FixedLog { whole_from: 9, ..log(7, &[10]) };
        assert_eq!(log_standing(&cut, &mark(8, 3, 9)).await.unwrap(), whole);
    }

    #[tokio::test]
    async fn a_volume_does_not_need_the_entry_that_it_has_applied() {
        let whole = LogStanding::Whole { last: LogSeq(3) };
        let log = log(1, &[1, 2, 3]);
        let known = applied(&log, 2);
        let mut damaged = log.entries.clone();
        damaged[1].bytes = Bytes::from_static(b"what nobody has entered");
        let damaged = FixedLog { entries: damaged, ..log };
        assert_eq!(log_standing(&damaged, &known).await.unwrap(), whole);
        assert_eq!(log_standing(&FixedLog { lost: 2, ..damaged }, &known).await.unwrap(), whole);
    }

    #[tokio::test]
    async fn a_log_that_ends_before_what_the_manifests_know_is_short() {
        let known = LogMark { known_upto: 17, ..mark(0, 0, 0) };
        let empty = log_standing(&log(1, &[]), &known).await.unwrap();
        assert_eq!(empty, LogStanding::Short { last: LogSeq(0), is_known: true });
        let begun = log_standing(&log(1, &[1, 2]), &known).await.unwrap();
        assert_eq!(begun, LogStanding::Short { last: LogSeq(2), is_known: false });
    }

    #[test]
    fn a_shorter_log_is_known_or_not_or_another() {
        let known = mark(50, 3, 9);
        let standing = |ownership: Option<&LogEntry>| short(&known, LogSeq(40), ownership);
        let is_known = |is_known| LogStanding::Short { last: LogSeq(40), is_known };
        assert_eq!(standing(None), is_known(true), "nobody has owned the shard in it");
        assert_eq!(standing(Some(&tick(39, 3, 9))), is_known(true), "its owner is the one that is known");
        assert_eq!(standing(Some(&tick(39, 2, 7))), is_known(false), "it may be older, or another");
        assert_eq!(standing(Some(&tick(60, 4, 7))), is_known(false), "another server knows more");
        for other in [tick(39, 3, 8), tick(39, 4, 8)] {
            assert_eq!(standing(Some(&other)), LogStanding::Another { at: LogSeq(39) });
        }
        let newer = LogEntry { seq: LogSeq(39), bytes: Bytes::from_static(b"what nobody reads") };
        assert_eq!(standing(Some(&newer)), is_known(false));
    }

    #[test]
    fn a_log_that_goes_on_behind_what_is_applied_is_not_known() {
        let last = LogSeq(15);
        let standing = short(&mark(10, 3, 9), last, Some(&tick(9, 3, 9)));
        assert_eq!(standing, LogStanding::Short { last, is_known: false }, "its owner may have entered more");
    }

    #[tokio::test]
    async fn an_end_is_proved_by_an_entry_that_counts_for_nobody() {
        let log = log(1, &[1, 2]);
        prove_end(&log, LogSeq(2), 5).await.unwrap();
        assert!(matches!(prove_end(&log, LogSeq(1), 5).await, Err(LogError::Taken(_))));
    }

    #[test]
    fn places_of_one_log_agree_about_terms_and_entries() {
        let known = mark(50, 3, 9);
        for (other, expected) in [
            (mark(50, 3, 9), true),
            (mark(40, 3, 9), true),
            (mark(40, 1, 7), true),
            (mark(0, 0, 0), true),
            (mark(60, 4, 7), true),
            (mark(60, 3, 8), false),
            (mark(60, 2, 7), false),
            (mark(40, 4, 7), false),
            (mark(50, 4, 7), false),
            (LogMark { crc: 6, ..mark(50, 3, 9) }, false),
        ] {
            assert_eq!(may_be_of_one_log(&known, &other), expected, "{other:?}");
            assert_eq!(may_be_of_one_log(&other, &known), expected, "{other:?}");
        }
    }
}
