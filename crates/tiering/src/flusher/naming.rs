//! What manifests say of the shard's log: up to which entry everything is in the chain.
//!
//! A place of the log is noted, and the ends of all partitions there. Once every partition is flushed up to
//! its end, the next manifest names the place; the segments of that manifest count. Manifests carry all that
//! has changed in tables and groups since the last, so only erasures are looked for besides. What was named
//! is read back before anybody is told: the log forgets what S3 holds. A flush of everything is answered once
//! a manifest names all that was entered by then, if one may: then nothing is only in the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use super::{partition::WrittenSegment, plan, tiers::Tiers};
use crate::cover::LogCover;
use contracts::{
    cold::ColdTier, engine::Engine, error::StorageError, name::Partition, replica::LogMark, sequence::Offset,
    shared_log::LogSeq,
};

/// The wait before what was published is read back again, after that failed.
const READ_RETRY: Duration = Duration::from_secs(2);

/// Finds out up to which entry of the log everything is in the chain.
pub(super) struct LogNaming {
    cover: LogCover,
    noted: Option<NotedPlace>,
    /// When it is tried to read back what was published and names the log, if nobody has yet.
    reads_back: Option<Instant>,
}

/// A place of the log, and how far partitions must be flushed until everything up to it is in the chain.
#[derive(Debug)]
struct NotedPlace {
    mark: LogMark,
    ends: BTreeMap<Partition, Offset>,
}

impl NotedPlace {
    /// Whether everything up to it is in the chain, which has partitions up to these ends.
    fn is_in_chain(&self, flushed: &BTreeMap<Partition, Offset>) -> bool {
        self.ends.iter().all(|(partition, end)| flushed.get(partition).is_some_and(|flushed| flushed >= end))
    }
}

impl LogNaming {
    pub(super) fn new(cover: LogCover) -> Self {
        Self { cover, noted: None, reads_back: None }
    }

    /// The last entry so far that a manifest should say of.
    pub(super) fn owed(&self) -> LogSeq {
        self.cover.owed()
    }

    /// Whether a manifest can be published now that is to say of more of the log than any before it, as none
    /// says yet that everything up to this entry is in the chain.
    pub(super) fn owes(&self, tiers: &Tiers, upto: LogSeq) -> bool {
        let held = self.cover.held();
        upto > held
            && self.reads_back.is_none()
            && self.noted.as_ref().is_some_and(|noted| noted.mark.seq() > held)
            && self.named(tiers, &[]).is_some()
    }

    /// Whether a manifest should be published now only to name the log: because the log holds much, or one is
    /// `asked` for that names it up to an entry.
    pub(super) fn is_due(&self, tiers: &Tiers, asked: Option<LogSeq>) -> bool {
        let is_in_chain = |noted: &NotedPlace| noted.is_in_chain(&flushed(tiers, &[]));
        let is_full_enough = self.reads_back.is_none()
            && self.cover.is_crowded()
            && self.noted.as_ref().is_some_and(is_in_chain);
        is_full_enough || asked.is_some_and(|upto| self.owes(tiers, upto))
    }

    /// The place that the next manifest may name, which names these segments too. To be asked before anything
    /// else of that manifest is read: what counts as flushed because it was dropped must be in it.
    pub(super) fn named(&self, tiers: &Tiers, written: &[WrittenSegment]) -> Option<LogMark> {
        let noted = self.noted.as_ref().filter(|noted| noted.is_in_chain(&flushed(tiers, written)))?;
        match erasures_are_listed(tiers.hot.as_ref(), tiers.cold.as_ref()) {
            Ok(are_listed) => are_listed.then(|| noted.mark.clone()),
            Err(error) => {
                warn!(%error, "erasures cannot be read, so the next manifest does not name the shard's log");
                None
            }
        }
    }

    /// A manifest was published that says this of the log.
    pub(super) fn published(&mut self, said: &LogMark) {
        if said.applied > 0 {
            (self.noted, self.reads_back) = (None, Some(Instant::now()));
        }
    }

    /// Reads back what was published, and notes the next place.
    ///
    /// # Errors
    /// Those of the volume.
    pub(super) async fn step(&mut self, tiers: &Tiers) -> Result<(), StorageError> {
        if self.reads_back.is_some_and(|at| at <= Instant::now()) {
            self.reads_back = match tiers.cold.read_back().await {
                Ok(named) => {
                    named.iter().for_each(|named| self.cover.hold(named.seq()));
                    None
                }
                Err(error) => {
                    warn!(%error, "a manifest cannot be read back yet, so the shard's log is not trimmed");
                    Some(Instant::now() + READ_RETRY)
                }
            };
        }
        // A place that S3 holds already is noted anew once the log has more: where nothing is flushed, no
        // manifest would be owed otherwise that says of it.
        let held = self.cover.held();
        let says_no_more = |noted: &NotedPlace| noted.mark.seq() <= held && self.cover.owed() > held;
        if self.noted.as_ref().is_none_or(says_no_more) {
            // The mark first: its entries are among those that the ends belong to.
            let mark = mark(tiers).await?;
            self.noted = Some(NotedPlace { mark, ends: plan::ends(tiers.hot.pending()) });
        }
        Ok(())
    }
}

/// What a manifest says of the log that may name this place, if any; all else that it holds was read before.
///
/// # Errors
/// Those of the volume.
pub(super) async fn said(tiers: &Tiers, named: Option<LogMark>) -> Result<LogMark, StorageError> {
    let now = mark(tiers).await?;
    let begins = || LogMark {
        generation: now.generation,
        ended: now.ended.clone(),
        ..LogMark::beginning(now.cluster)
    };
    let named = named.unwrap_or_else(begins);
    Ok(LogMark { known_upto: now.applied, ..named })
}

/// How far the volume has applied the log.
async fn mark(tiers: &Tiers) -> Result<LogMark, StorageError> {
    tiers.hot.mark_of_copy().await
}

/// Up to where partitions are flushed, once these segments are.
fn flushed(tiers: &Tiers, written: &[WrittenSegment]) -> BTreeMap<Partition, Offset> {
    let marks = tiers.hot.tables().watermarks().into_iter();
    let mut flushed: BTreeMap<Partition, Offset> =
        marks.map(|(partition, marks)| (partition, marks.flushed)).collect();
    for segment in written {
        let end = flushed.entry(segment.partition.clone()).or_default();
        *end = segment.intent.range.end.max(*end);
    }
    flushed
}

/// Whether the manifests list every erasure that is under way: one that they do not list would be lost with
/// the entry that says of it.
///
/// # Errors
/// Those of the tiers.
pub(crate) fn erasures_are_listed(hot: &dyn Engine, cold: &dyn ColdTier) -> Result<bool, StorageError> {
    let under_way = hot.erasures()?.into_iter().filter(|erasure| !erasure.is_done());
    let under_way: Vec<_> = under_way.map(|erasure| erasure.id).collect();
    if under_way.is_empty() {
        return Ok(true);
    }
    let listed: BTreeSet<_> = cold.erasures()?.into_iter().map(|erasure| erasure.id).collect();
    Ok(under_way.iter().all(|id| listed.contains(id)))
}

#[cfg(test)]
mod tests {
    use contracts::name::TableName;
    use uuid::Uuid;

    use super::*;

    fn ends(ends: &[(u32, Offset)]) -> BTreeMap<Partition, Offset> {
        let table = TableName::parse("t").unwrap();
        ends.iter().map(|(number, end)| (Partition::new(table.clone(), *number), *end)).collect()
    }

    #[test]
    fn a_place_is_in_the_chain_once_every_partition_is() {
        let mark = LogMark { applied: 7, ..LogMark::beginning(Uuid::from_u128(1)) };
        let place = NotedPlace { mark, ends: ends(&[(0, 5), (1, 9)]) };
        for (flushed, expected) in [
            (&[(0, 5), (1, 9)][..], true),
            (&[(0, 5), (1, 20), (2, 0)], true),
            (&[(0, 5), (1, 8)], false),
            (&[(0, 4), (1, 9)], false),
            (&[(0, 5)], false),
        ] {
            assert_eq!(place.is_in_chain(&ends(flushed)), expected, "{flushed:?}");
        }
        let empty = NotedPlace { ends: BTreeMap::new(), ..place };
        assert!(empty.is_in_chain(&BTreeMap::new()), "nothing waited to be flushed");
    }
}
