//! Erases events in the bucket, and finds those to erase that have expired.
//!
//! Segments that hold one are written anew, put, and published instead of the old ones. Then the partition's
//! objects are listed, and every one that holds an erased offset and is not the one that the state names is
//! deleted: replaced and expired ones, and those that no manifest names. A second list confirms that they are
//! gone. All of it may be repeated: a segment that holds nothing more of the events is left as it is, and is
//! not read again by the next attempt of this process.
//!
//! Rounds of upkeep wait while one segment is written anew, and have their turns between: a merge that has
//! read an old segment must not be published after. What they merge meanwhile is looked at, too.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use tracing::info;
use uuid::Uuid;

use super::{deleting, listing::each_page};
use crate::{
    S3Cold, fetch_named, fetch_whole,
    formats::{self, LocatedSegment, NamedSegment, SegmentObjects},
    manifest::{Changes, SegmentEntry, SegmentRef},
    names,
    state::{AtOffset, ColdState},
};
use contracts::{
    cold::SegmentStore,
    crash,
    erasure::{ColdErase, ColdErased, ErasedPart, Erasure, ExpiredSearch, tombstone},
    error::{StorageError, Tier},
    event::Record,
    idempotency::remembered,
    name::Partition,
    offload::offload_cold,
    segment::{Segment, SegmentBuilder, SegmentId, SegmentMeta},
    sequence::Offset,
};

/// Some objects that hold erased events are still there.
#[derive(Debug, thiserror::Error)]
#[error("{0} objects that hold erased events could not be deleted, such as {1}")]
struct StillThere(usize, String);

#[async_trait]
impl ColdErase for S3Cold {
    fn erasures(&self) -> Result<Vec<Erasure>, StorageError> {
        self.with_state(|state| state.erasures.values().cloned().collect())
    }

    async fn note_erasures(&self, noted: Vec<Erasure>, forgotten: Vec<Uuid>) -> Result<(), StorageError> {
        self.change(|state| {
            // Whoever notes late does not take back that it is done.
            let is_new = |erasure: &Erasure| match state.erasures.get(&erasure.id) {
                None => true,
                Some(listed) => listed != erasure && (listed.done_ms.is_none() || erasure.done_ms.is_some()),
            };
            let is_listed = |id: &Uuid| state.erasures.contains_key(id);
            Changes {
                erasures: noted.into_iter().filter(is_new).collect(),
                unlisted: forgotten.into_iter().filter(is_listed).collect(),
                ..Changes::default()
            }
        })
        .await
    }

    async fn erase(&self, erasure: &Erasure) -> Result<ColdErased, StorageError> {
        let mut so_far = self.erased_so_far.lock().remove(&erasure.id).unwrap_or_default();
        let erased = erase_on(self, erasure, &mut so_far).await;
        let Err(error) = erased else { return Ok(so_far.done) };
        let listed: HashSet<Uuid> = self.with_state(|state| state.erasures.keys().copied().collect())?;
        let mut kept = self.erased_so_far.lock();
        kept.retain(|id, _| listed.contains(id));
        kept.insert(erasure.id, so_far);
        Err(error)
    }

    async fn expired_offsets(
        &self,
        partition: &Partition,
        search: ExpiredSearch,
    ) -> Result<Vec<Offset>, StorageError> {
        let (mut found, mut seen) = (BTreeSet::new(), HashSet::new());
        loop {
            // Anew: what was named may have been merged or written anew since, and be gone by now.
            let segments = self.with_state(|state| beginning_below(state, partition, search.before))??;
            let unseen: Vec<_> =
                segments.into_iter().filter(|named| seen.insert(named.key.clone())).collect();
            if unseen.is_empty() {
                return Ok(found.into_iter().collect());
            }
            for named in unseen {
                found.extend(wanted_of(self, named, &search).await?);
                if found.len() > search.most {
                    return Ok(found.into_iter().collect());
                }
            }
        }
    }
}

/// The offsets of a segment's wanted events; none if its objects are not there any more.
async fn wanted_of(
    cold: &S3Cold,
    named: NamedSegment,
    search: &ExpiredSearch,
) -> Result<Vec<Offset>, StorageError> {
    // Nobody has paid for the memory of a whole object.
    let _one_at_a_time = cold.searching.lock().await;
    let Some(stored) = fetch_named(cold.objects(), &named).await? else { return Ok(Vec::new()) };
    let ExpiredSearch { before, is_wanted, .. } = search.clone();
    let decoded = offload_cold(move || {
        let mut offsets = Vec::new();
        let meta = Arc::new(formats::describe(&named, &stored)?);
        let segment = LocatedSegment { key: named.key, partition: named.partition, meta };
        let mut take = |record: Record| {
            if record.offset < before && is_wanted(&record) {
                offsets.push(record.offset);
            }
        };
        formats::of(&segment.meta)?.decode(&segment, &stored, &mut take)?;
        Ok(offsets)
    });
    decoded.await
}

/// The segments of a partition that begin below an offset: those that the state names, and those whose objects
/// may still exist.
fn beginning_below(
    state: &ColdState,
    partition: &Partition,
    before: Offset,
) -> Result<Vec<NamedSegment>, StorageError> {
    let directory = names::directory(partition);
    let of_partition = state.retired.range(directory.clone()..).map(|(key, _)| key.clone());
    let retired = of_partition.take_while(|key| key.starts_with(&directory)).map(Ok);
    let named = state.partitions.get(partition).into_iter().flat_map(|cold| &cold.segments);
    let named = named.filter(|meta| meta.range.start < before).map(|meta| names::key(partition, meta));
    let keys: Vec<String> = retired.chain(named).collect::<Result<_, _>>()?;
    let begins_below = |key: String| names::parse(&key).filter(|found| found.range.start < before);
    Ok(keys.into_iter().filter_map(begins_below).collect())
}

/// What the attempts of an erasure have done.
#[derive(Debug, Default)]
pub(crate) struct ErasedSoFar {
    /// The keys of segments that hold nothing of its events any more.
    clean: HashSet<String>,
    done: ColdErased,
}

/// Goes on with an erasure from where the last attempt has come.
async fn erase_on(cold: &S3Cold, erasure: &Erasure, so_far: &mut ErasedSoFar) -> Result<(), StorageError> {
    for (partition, part) in erasure.partitions() {
        loop {
            let _no_other_round = cold.upkeep.lock().await;
            let Some(meta) = next_unclean(cold, &partition, part, &so_far.clean)? else {
                // No round was since the look: nothing that is named holds any of it.
                so_far.done.objects += delete_others(cold, &partition, part).await?;
                break;
            };
            let clean = rewrite(cold, &partition, &meta, part, &mut so_far.done).await?;
            so_far.clean.insert(clean);
        }
    }
    Ok(())
}

/// The next segment that may hold one of the offsets.
fn next_unclean(
    cold: &S3Cold,
    partition: &Partition,
    part: &ErasedPart,
    clean: &HashSet<String>,
) -> Result<Option<Arc<SegmentMeta>>, StorageError> {
    for meta in cold.with_state(|state| holding(state, partition, part))? {
        if !clean.contains(&names::key(partition, &meta)?) {
            return Ok(Some(meta));
        }
    }
    Ok(None)
}

/// The segments of a partition that hold one of the offsets.
fn holding(state: &ColdState, partition: &Partition, part: &ErasedPart) -> Vec<Arc<SegmentMeta>> {
    let segments = state.partitions.get(partition).into_iter().flat_map(|cold| &cold.segments);
    segments.filter(|segment| part.touches(segment.range)).cloned().collect()
}

/// A segment as it is read and written anew.
struct Rewriting {
    builder: Box<dyn SegmentBuilder>,
    /// Events that were not erased before.
    erased: u64,
    done: ColdErased,
}

impl Rewriting {
    fn push(&mut self, partition: &Partition, part: &ErasedPart, record: Record) {
        let record = match part.contains(record.offset) {
            false => record,
            true => {
                if let Some((hash, _)) = remembered(&record.event) {
                    self.done.keys.push((partition.clone(), (hash, record.offset)));
                }
                self.erased += u64::from(!record.event.is_erased());
                Record { event: tombstone(&record.event), ..record }
            }
        };
        self.builder.push(&record);
    }
}

/// Writes a segment anew without the events, unless it holds nothing of them; publishes it in place of the
/// old one. Returns the key of the one that is named then.
async fn rewrite(
    cold: &S3Cold,
    partition: &Partition,
    meta: &Arc<SegmentMeta>,
    part: &ErasedPart,
    done: &mut ColdErased,
) -> Result<String, StorageError> {
    let read = fetch_whole(cold.objects(), partition, Arc::clone(meta)).await?;
    let id = SegmentId { partition: partition.clone(), start: meta.range.start, epoch: cold.epoch()? };
    let builder = cold.segment(id, cold.format())?;
    let (of, part) = (partition.clone(), part.clone());
    let decoded = offload_cold(move || decode(builder, read, &of, &part)).await;
    let Rewriting { builder, erased, done: found } = decoded?;
    if erased == 0 {
        done.keys.extend(found.keys);
        return names::key(partition, meta);
    }
    let mut segment = offload_cold(|| builder.finish()).await?;
    segment.meta.rewrite = next_rewrite(cold, partition, &segment.meta).await?;
    cold.put(&segment).await?;
    crash::point("erase-put");
    let is_replaced = publish(cold, partition, meta, &segment).await?;
    crash::point("erase-published");
    if !is_replaced {
        // What it was made from is no longer there: the next attempt looks again.
        let gone = std::io::Error::other("a segment was replaced while it was written anew");
        return Err(StorageError::unavailable(Tier::Cold, gone));
    }
    done.keys.extend(found.keys);
    done.segments += 1;
    info!(%partition, range = %meta.range, events = erased, "segment written anew without erased events");
    names::key(partition, &segment.meta)
}

fn decode(
    builder: Box<dyn SegmentBuilder>,
    (segment, stored): (LocatedSegment, SegmentObjects),
    partition: &Partition,
    part: &ErasedPart,
) -> Result<Rewriting, StorageError> {
    let mut rewriting = Rewriting { builder, erased: 0, done: ColdErased::default() };
    let take = &mut |record| rewriting.push(partition, part, record);
    formats::of(&segment.meta)?.decode(&segment, &stored, take)?;
    Ok(rewriting)
}

/// Names the new segment in place of the old one; returns whether the old one was still named.
async fn publish(
    cold: &S3Cold,
    partition: &Partition,
    old: &SegmentMeta,
    new: &Segment,
) -> Result<bool, StorageError> {
    let mut is_replaced = false;
    cold.change(|state| {
        let Some(AtOffset::Segment(now)) =
            state.partitions.get(partition).and_then(|found| found.at(old.range.start))
        else {
            return Changes::default();
        };
        is_replaced = (now.range, now.epoch, now.rewrite) == (old.range, old.epoch, old.rewrite);
        if !is_replaced {
            return Changes::default();
        }
        Changes {
            removed: vec![SegmentRef::new(partition, old.range)],
            added: vec![SegmentEntry::new(partition, &new.meta)],
            ..Changes::default()
        }
    })
    .await?;
    Ok(is_replaced)
}

/// A number that no object with this range and epoch has: an attempt that was cut off may have left some.
async fn next_rewrite(cold: &S3Cold, partition: &Partition, meta: &SegmentMeta) -> Result<u32, StorageError> {
    // Their keys alone: a partition may have a hundred thousand others.
    let keys = cold.objects().list(&names::stem(partition, meta.range, meta.epoch, 0), None).await?;
    let same = |key: &NamedSegment| (key.range, key.epoch) == (meta.range, meta.epoch);
    let taken = keys.iter().filter_map(|key| names::parse(key)).filter(same);
    Ok(taken.map(|key| key.rewrite).max().unwrap_or(0).saturating_add(1))
}

/// Deletes every object of a partition that holds one of the offsets and is not named, and confirms that none
/// is left; returns how many there were.
async fn delete_others(cold: &S3Cold, partition: &Partition, part: &ErasedPart) -> Result<u64, StorageError> {
    let others = others(cold, partition, part).await?;
    if others.is_empty() {
        return Ok(0);
    }
    // Another writer may have named one of them: this fails if one has taken over.
    cold.watch().await?;
    let deleted = deleting::delete(cold, others).await;
    crash::point("erase-deleted");
    let left = self::others(cold, partition, part).await?;
    if let Some(one) = left.first() {
        return Err(StorageError::unavailable(Tier::Cold, StillThere(left.len(), one.clone())));
    }
    let count = deleted.len() as u64;
    cold.change(|state| Changes {
        deleted: deleted.into_iter().filter(|key| state.retired.contains_key(key)).collect(),
        ..Changes::default()
    })
    .await?;
    Ok(count)
}

/// The objects of a partition that hold one of the offsets, but for the ones that the state names.
async fn others(
    cold: &S3Cold,
    partition: &Partition,
    part: &ErasedPart,
) -> Result<Vec<String>, StorageError> {
    let mut found = Vec::new();
    each_page(cold, &names::directory(partition), |page| {
        for key in page {
            if let Some(parsed) = names::parse(&key).filter(|parsed| part.touches(parsed.range)) {
                found.push((key, parsed.key));
            }
        }
        Ok(())
    })
    .await?;
    let named: Vec<Arc<SegmentMeta>> = cold.with_state(|state| holding(state, partition, part))?;
    let named: Result<HashSet<String>, _> = named.iter().map(|meta| names::key(partition, meta)).collect();
    let named = named?;
    Ok(found.into_iter().filter(|(_, segment)| !named.contains(&**segment)).map(|(key, _)| key).collect())
}
