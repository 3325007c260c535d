//! Reads parts of objects with ranged GETs, and caches them as they are stored.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::s3::Objects;
use contracts::error::StorageError;

/// Neighbouring parts that one GET fetches at most; a larger read sends several GETs at once.
const GET_PARTS: usize = 4;
const PARALLEL_GETS: usize = 4;

/// Estimated memory of a cache entry beside its bytes and key: it would add up uncounted where parts are
/// small.
const ENTRY_BYTES: usize = 300;

/// A part of an object with a checksum of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPart {
    /// Its bytes in the object.
    pub range: Range<u64>,
    /// CRC32C of its bytes.
    pub crc32c: u32,
}

impl ObjectPart {
    /// Verifies the bytes that were read.
    ///
    /// # Errors
    /// `Corrupt`, naming `object`.
    pub fn check(&self, object: &str, found: &[u8]) -> Result<(), StorageError> {
        let actual = crc32c::crc32c(found);
        if actual == self.crc32c {
            return Ok(());
        }
        let why = format!(
            "the bytes from {} on have checksum {actual:08x}, expected {:08x}",
            self.range.start, self.crc32c
        );
        Err(StorageError::corrupt(object, why))
    }

    fn len(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX)
    }
}

/// An object's key, and the position of a part in it.
type PartKey = (Arc<str>, u64);

/// The parts of all objects: cached ones from memory, others from S3.
#[derive(Debug)]
pub struct PartCache {
    objects: Objects,
    /// Verified parts, as they are stored; `None` for no cache.
    kept: Option<moka::sync::Cache<PartKey, Bytes>>,
}

impl PartCache {
    /// Caches up to `cache_bytes`; 0 for no cache.
    pub fn new(objects: Objects, cache_bytes: u64) -> Self {
        let weigh = |(object, _): &PartKey, stored: &Bytes| {
            u32::try_from(stored.len() + object.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        let kept = (cache_bytes > 0)
            .then(|| moka::sync::Cache::builder().max_capacity(cache_bytes).weigher(weigh).build());
        Self { objects, kept }
    }

    /// The bytes of parts of one object, in the order of `parts`; neighbours are fetched together.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if a checksum does not match.
    pub async fn read(&self, object: &Arc<str>, parts: &[ObjectPart]) -> Result<Vec<Bytes>, StorageError> {
        let kept = |part: &ObjectPart| self.kept.as_ref()?.get(&(Arc::clone(object), part.range.start));
        let mut stored: Vec<Option<Bytes>> = parts.iter().map(kept).collect();
        let missing: Vec<usize> = (0..parts.len()).filter(|place| stored[*place].is_none()).collect();
        let are_neighbours = |one: &usize, next: &usize| parts[*one].range.end == parts[*next].range.start;
        let runs = missing.chunk_by(are_neighbours).flat_map(|neighbours| neighbours.chunks(GET_PARTS));
        let gets: Vec<_> =
            runs.map(|run| self.get(object, &parts[run[0]..=run[run.len() - 1]], run[0])).collect();
        let mut gets = stream::iter(gets).buffer_unordered(PARALLEL_GETS);
        while let Some((first, found)) = gets.try_next().await? {
            for (place, bytes) in (first..).zip(found) {
                stored[place] = Some(bytes);
            }
        }
        Ok(stored.into_iter().flatten().collect())
    }

    /// Fetches neighbouring parts with one GET; returns `first`, the index of the first of them, with their
    /// bytes.
    async fn get(
        &self,
        object: &Arc<str>,
        parts: &[ObjectPart],
        first: usize,
    ) -> Result<(usize, Vec<Bytes>), StorageError> {
        let (start, end) = (parts[0].range.start, parts[parts.len() - 1].range.end);
        let mut rest = self.objects.get_range(object, start..end).await?;
        let mut found = Vec::with_capacity(parts.len());
        for part in parts {
            let bytes = rest.split_to(part.len().min(rest.len()));
            part.check(object, &bytes)?;
            if let Some(kept) = &self.kept {
                // A copy: a slice would keep its neighbours in memory, too.
                kept.insert((Arc::clone(object), part.range.start), Bytes::copy_from_slice(&bytes));
            }
            found.push(bytes);
        }
        Ok((first, found))
    }
}
