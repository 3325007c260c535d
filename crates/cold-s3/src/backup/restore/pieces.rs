//! Puts the segments of a restored store: as they are, or cut.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    super::{copying::Copier, cover::Piece, plan::WantedObject},
    store::Restored,
};
use crate::{
    fetch_if_there, fetch_whole,
    formats::{self, LocatedSegment, SegmentObjects},
    names,
    place::{ObjectPlace, create_same},
    upkeep::delete_one,
};
use contracts::{
    erasure::{ErasedPart, tombstone},
    error::StorageError,
    event::Record,
    name::Partition,
    offload::offload_cold,
    segment::{Segment, SegmentId, SegmentMeta},
    sequence::OffsetRange,
};

/// Segments that are copied or cut at once.
const PARALLEL_PIECES: usize = 4;

/// Puts all segments of the new store; what they are, or the key of one that is gone at the source.
pub(super) async fn copy_pieces(
    copier: &Copier<'_>,
    restored: &Restored,
) -> Result<Result<Vec<(Partition, Arc<SegmentMeta>)>, String>, StorageError> {
    let bytes = restored.pieces.iter().map(|(_, piece)| piece.meta.bytes).sum();
    copier.watcher.begins("copying segments", bytes);
    let epoch = restored.epoch();
    let work = stream::iter(restored.pieces.clone()).map(|(partition, piece)| async move {
        let bytes = piece.meta.bytes;
        let put = if restored.is_taken_whole(&partition, &piece) {
            copy_whole(copier, &partition, piece).await?
        } else {
            let erased = restored.erased.get(&partition).cloned();
            copy_part(copier, &partition, piece, (epoch, erased)).await?
        };
        copier.watcher.did(bytes);
        Ok::<_, StorageError>(put.map(|meta| (partition, meta)))
    });
    let mut work = std::pin::pin!(work.buffered(PARALLEL_PIECES));
    let mut segments = Vec::with_capacity(restored.pieces.len());
    while let Some(put) = work.try_next().await? {
        match put {
            Ok(segment) => segments.push(segment),
            Err(gone) => return Ok(Err(gone)),
        }
    }
    Ok(Ok(segments))
}

/// Copies a segment as it is, with the object beside it.
async fn copy_whole(
    copier: &Copier<'_>,
    partition: &Partition,
    piece: Piece,
) -> Result<Result<Arc<SegmentMeta>, String>, StorageError> {
    let meta = piece.meta;
    let key = names::key(partition, &meta)?;
    let beside = formats::of(&meta)?.beside_key(&key);
    let objects = beside.map(|key| (key, None)).into_iter().chain([(key, Some(meta.sha256.clone()))]);
    for (key, sha256) in objects {
        let object = WantedObject { key, bytes: meta.bytes, sha256, is_needed: true };
        if copier.check(&object).await?.is_none() {
            return Ok(Err(object.key));
        }
    }
    Ok(Ok(meta))
}

/// Writes a part of a segment as a segment of its own, of an epoch and without the events that were erased.
async fn copy_part(
    copier: &Copier<'_>,
    partition: &Partition,
    piece: Piece,
    (epoch, erased): (u64, Option<ErasedPart>),
) -> Result<Result<Arc<SegmentMeta>, String>, StorageError> {
    let Piece { meta, range } = piece;
    let segment = match fetch_if_there(copier.from, partition, meta).await? {
        Ok(fetched) => part_of(fetched, range, epoch, erased).await?,
        Err(gone) => return Ok(Err(gone)),
    };
    put_anew(copier.to, &segment).await?;
    Ok(Ok(Arc::new(segment.meta)))
}

/// Cuts a part out of a segment, in the same format.
pub(in crate::backup) async fn cut(
    from: &dyn ObjectPlace,
    partition: &Partition,
    piece: Piece,
    epoch: u64,
) -> Result<Segment, StorageError> {
    let Piece { meta, range } = piece;
    part_of(fetch_whole(from, partition, meta).await?, range, epoch, None).await
}

/// The segment that a part of another one makes.
async fn part_of(
    (segment, stored): (LocatedSegment, SegmentObjects),
    range: OffsetRange,
    epoch: u64,
    erased: Option<ErasedPart>,
) -> Result<Segment, StorageError> {
    offload_cold(move || {
        let is_erased = |offset| erased.as_ref().is_some_and(|part| part.contains(offset));
        let format = formats::of(&segment.meta)?;
        let partition = segment.partition.clone();
        let mut builder = format.builder(SegmentId { partition, start: range.start, epoch });
        format.decode(&segment, &stored, &mut |record| {
            if range.contains(record.offset) {
                let event = if is_erased(record.offset) { tombstone(&record.event) } else { record.event };
                builder.push(&Record { event, ..record });
            }
        })?;
        builder.finish()
    })
    .await
}

/// Puts the objects of a segment, the one beside it first.
pub(in crate::backup) async fn put(to: &dyn ObjectPlace, segment: &Segment) -> Result<(), StorageError> {
    let key = names::key(&segment.partition, &segment.meta)?;
    if let (Some(beside), Some(body)) = (formats::of(&segment.meta)?.beside_key(&key), &segment.beside) {
        create_same(to, &beside, body.clone()).await?;
    }
    create_same(to, &key, segment.body.clone()).await.map(drop)
}

/// The same, whatever an earlier run of the same restore has put there: events may have been erased since.
async fn put_anew(to: &dyn ObjectPlace, segment: &Segment) -> Result<(), StorageError> {
    match put(to, segment).await {
        Err(StorageError::Corrupt { .. }) => {
            delete_one(to, &names::key(&segment.partition, &segment.meta)?).await?;
            put(to, segment).await
        }
        done => done,
    }
}
