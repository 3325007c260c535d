//! A volume that is empty, or behind the beginning of the log: it is recovered from S3, and goes on with the
//! log behind what S3 has of it. The chain of manifests is read and not taken over: that is the owner's.
//!
//! It may be killed anywhere, and then begins again: that it has begun is noted on the volume before anything
//! is changed, and that it has ended last.

use std::{cmp::Ordering, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    CopyParts,
    standing::{another_log, may_be_of_one_log, other_log},
};
use crate::recovery::{KeysInSegments, empty_at, tables_in_manifests};
use contracts::{
    crash,
    erasure::Scrub,
    error::{StorageError, Tier},
    flush_ledger::HotKeep,
    journal::Journal,
    metrics,
    name::Partition,
    recovery::Recovered,
    replica::{AppliedEntry, LogMark},
    retry::RetryWait,
    sequence::Offset,
    shared_log::LogSeq,
};

/// The first wait before a recovery that failed begins again, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// The log has forgotten more than the manifests hold, as far as they can be seen now.
#[derive(Debug, thiserror::Error)]
#[error("the shard's log begins with entry {first}, and its manifests hold it up to {held} only")]
struct LogForgotten {
    first: LogSeq,
    held: u64,
}

/// The log was begun anew, and the manifests do not say so.
#[derive(Debug, thiserror::Error)]
#[error("the manifests that were read do not say that the shard's log was begun anew")]
struct LogNotNamed;

/// Recovers a copy's volume from S3.
pub(super) struct CopyRecovery<'a> {
    parts: &'a CopyParts,
    journal: Journal,
}

impl<'a> CopyRecovery<'a> {
    /// # Errors
    /// `Corrupt` or `Unavailable` if the volume's notes cannot be read.
    pub(super) fn new(parts: &'a CopyParts) -> Result<Self, StorageError> {
        Ok(Self { parts, journal: Journal::open(parts.hot.notes())? })
    }

    /// Whether a recovery has begun on this volume and not ended.
    pub(super) async fn has_begun(&self) -> bool {
        self.journal.record().await.is_catching_up()
    }

    /// Recovers the volume, however often that has to be tried: what is read may be deleted meanwhile, as the
    /// owner of the shard keeps the bucket small. Returns where the log goes on.
    ///
    /// # Errors
    /// `Refused` if the volume has what cannot be; `OutcomeUnknown` or `Closed`.
    pub(super) async fn run(&self) -> Result<LogMark, StorageError> {
        metrics::log_out_of_step(self.parts.names.shard);
        let mut retry = RetryWait::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            match self.once().await {
                Ok(mark) => return Ok(mark),
                Err(error) if error.ends_writing() || matches!(error, StorageError::Refused(_)) => {
                    return Err(error);
                }
                Err(error) => {
                    self.parts.progress.set_trouble(&error);
                    let shard = self.parts.names.shard;
                    warn!(shard, %error, "the copy cannot be recovered from S3 yet, will retry");
                }
            }
            sleep(retry.failed()).await;
        }
    }

    async fn once(&self) -> Result<LogMark, StorageError> {
        let CopyParts { hot, cold, log, clock, names, .. } = self.parts;
        self.parts.progress.begin("reading the manifests in S3");
        let found = cold.find().await?;
        let named = found.log().filter(|mark| mark.cluster == names.cluster);
        let mark = self.of_this_log(named.unwrap_or_else(|| LogMark::beginning(names.cluster)))?;
        if let Some(known) = hot.log_mark().await? {
            has_no_more(&known, &mark)?;
        }
        // After the manifests: what was trimmed before they were read is in them.
        let size = log.size().await.map_err(|error| StorageError::unavailable(Tier::Hot, error))?;
        if mark.seq().next() < size.first {
            let forgotten = LogForgotten { first: size.first, held: mark.applied };
            return Err(StorageError::unavailable(Tier::Cold, forgotten));
        }
        let Some(last) = found.last() else { return Ok(mark) };
        found.read_only();
        let recovered = self.in_manifests()?;
        let (shard, from) = (names.shard, mark.applied);
        info!(shard, from, "the volume is behind the shard's log: recovering from S3");
        self.journal.begin_catching_up(last.store_id).await?;
        crash::point("copy-recovery-begun");
        hot.recover(recovered).await?;
        let keys = KeysInSegments {
            cold: cold.as_ref(),
            hot: hot.as_ref(),
            clock: clock.as_ref(),
            progress: &self.parts.progress,
            key_window_ms: self.parts.key_window_ms,
        };
        keys.recover().await?;
        hot.apply(AppliedEntry { now_ms: clock.now_ms(), changes: None, mark: mark.clone() }).await?;
        crash::point("copy-recovery-marked");
        // Some of what the volume still has may have been erased in S3 since.
        while hot.evict(HotKeep::NOTHING).await? > 0 {}
        hot.scrub(Scrub::Everything).await?;
        self.journal.caught_up().await?;
        metrics::recovered();
        info!(shard, from, "recovered from S3; going on with the shard's log");
        Ok(mark)
    }

    /// What the manifests say of the log, if it is the one that was opened.
    ///
    /// # Errors
    /// `Refused` if it was begun anew since; `Unavailable` if the manifests do not know yet that it was.
    fn of_this_log(&self, named: LogMark) -> Result<LogMark, StorageError> {
        let opened = self.parts.generation;
        match named.generation.cmp(&opened) {
            Ordering::Equal => Ok(named),
            Ordering::Greater => Err(other_log(named.generation, opened)),
            Ordering::Less => Err(StorageError::unavailable(Tier::Cold, LogNotNamed)),
        }
    }

    /// What was found, as it must be on the volume. All that the volume has came from the log, before the
    /// place up to which S3 has everything or before the log's end: nothing has to be compared.
    ///
    /// # Errors
    /// `Refused` if the volume has more than S3.
    fn in_manifests(&self) -> Result<Recovered, StorageError> {
        let CopyParts { hot, cold, .. } = self.parts;
        let (known, bounds) = (hot.tables().watermarks(), cold.partitions()?);
        let end = |partition: &Partition| bounds.get(partition).map_or(0, |cold| cold.end);
        let mut beyond = known.iter().filter(|(partition, marks)| marks.next > end(partition));
        if let Some((partition, marks)) = beyond.next() {
            return Err(StorageError::Refused(format!(
                "the volume has {partition} up to {}, and S3 up to {}, though the shard's log has forgotten \
                 what the volume had applied: they do not belong together. Nothing was changed. Start with \
                 an empty volume to recover from S3",
                marks.next,
                end(partition)
            )));
        }
        let earliest = |partition: &Partition, cold: Offset| {
            known.get(partition).map_or(cold, |marks| marks.earliest.max(cold))
        };
        let partitions = bounds.iter().map(|(partition, cold)| {
            empty_at(partition.clone(), earliest(partition, cold.earliest), cold.end)
        });
        Ok(Recovered {
            partitions: partitions.collect(),
            tables: tables_in_manifests(cold.as_ref(), hot.as_ref())?,
            consumers: Some(cold.consumer_offsets()?),
        })
    }
}

/// Whether a volume with this mark has nothing that was left behind when its log was begun anew, as the
/// manifests say it of the log that is followed now, and has applied no other log of its name.
///
/// # Errors
/// `Refused` if it may have.
fn has_no_more(known: &LogMark, named: &LogMark) -> Result<(), StorageError> {
    if known.generation == named.generation {
        let is_one = may_be_of_one_log(known, named);
        return if is_one { Ok(()) } else { Err(StorageError::Refused(another_log(known.seq()))) };
    }
    let end = named.ended.iter().find(|end| end.generation == known.generation);
    let LogMark { applied, crc, .. } = *known;
    match end {
        Some(end) if applied < end.seq || (applied, crc) == (end.seq, end.crc) => Ok(()),
        _ => {
            let behind = end
                .map_or_else(|| "a place that is not known".to_owned(), |end| format!("entry {}", end.seq));
            Err(StorageError::Refused(format!(
                "the shard's log was lost, and was begun anew behind {behind} with another copy, and this \
                 volume has applied the lost one up to entry {applied}: what it has beyond that would be \
                 lost. Nothing was changed. `zombi salvage` prints it; send that again, then start with an \
                 empty volume to go on with what the others have"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use contracts::replica::EndedLog;
    use uuid::Uuid;

    use super::*;

    /// A volume that has applied so much of a log, whose last entry has this CRC.
    fn volume(generation: u32, applied: u64, crc: u32) -> LogMark {
        LogMark { generation, applied, crc, ..LogMark::beginning(Uuid::from_u128(1)) }
    }

    #[test]
    fn a_copy_that_has_more_than_the_one_with_which_its_log_was_begun_anew_is_refused_by_name() {
        let end = |generation, seq| EndedLog { generation, seq, crc: 5 };
        let named = LogMark { ended: vec![end(0, 70), end(1, 7)], ..volume(2, 90, 1) };
        for known in [volume(0, 70, 5), volume(0, 69, 9), volume(0, 0, 0), volume(1, 7, 5), volume(2, 99, 3)]
        {
            assert!(has_no_more(&known, &named).is_ok(), "{known:?}");
        }
        for (known, behind) in [
            (volume(0, 71, 5), "behind entry 70"),
            (volume(0, 70, 6), "behind entry 70"),
            (volume(1, 8, 5), "behind entry 7 "),
        ] {
            let StorageError::Refused(why) = has_no_more(&known, &named).unwrap_err() else { panic!() };
            assert!(why.contains(behind) && why.contains("zombi salvage"), "{why}");
        }
        let other_owner = LogMark { nonce: Uuid::from_u128(7), ..volume(2, 80, 1) };
        let StorageError::Refused(why) = has_no_more(&other_owner, &named).unwrap_err() else { panic!() };
        assert!(why.contains("entry 80 of the shard's log"), "{why}");
        let untold = LogMark { ended: Vec::new(), ..named };
        assert!(has_no_more(&volume(0, 1, 5), &untold).is_err());
    }
}
