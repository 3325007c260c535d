//! Reads pieces of objects by ranged GETs, and keeps them as they are stored for the next reads.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::s3::Objects;
use contracts::error::StorageError;

/// Neighbouring pieces that one GET fetches at most; a read that wants more makes several at once.
const GET_PIECES: usize = 4;
const PARALLEL_GETS: usize = 4;

/// What keeping a piece takes beside its bytes and its name, about: there may be many that are small.
const ENTRY_BYTES: usize = 300;

/// A part of an object that is checked by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it stands in the object.
    pub range: Range<u64>,
    /// CRC32C of its bytes.
    pub crc32c: u32,
}

impl Piece {
    /// Checks the bytes that were found in its place.
    ///
    /// # Errors
    /// `Corrupt`, naming `object`.
    pub fn check(&self, object: &str, found: &[u8]) -> Result<(), StorageError> {
        let actual = crc32c::crc32c(found);
        if actual == self.crc32c {
            return Ok(());
        }
        let why = format!("the bytes from {} on have checksum {actual:08x}, it should be {:08x}", self.range.start, self.crc32c);
        Err(StorageError::corrupt(object, why))
    }

    fn len(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX)
    }
}

/// An object's key and where a piece stands in it.
type PieceKey = (Arc<str>, u64);

/// The pieces of all objects.
#[derive(Debug)]
pub struct Pieces {
    objects: Objects,
    /// Those that are kept, if any are to be. They have been checked.
    kept: Option<moka::sync::Cache<PieceKey, Bytes>>,
}

impl Pieces {
    /// Keeps pieces of so many bytes for the next reads.
    pub fn new(objects: Objects, cache_bytes: u64) -> Self {
        let weigh = |(object, _): &PieceKey, stored: &Bytes| u32::try_from(stored.len() + object.len() + ENTRY_BYTES).unwrap_or(u32::MAX);
        let kept = (cache_bytes > 0).then(|| moka::sync::Cache::builder().max_capacity(cache_bytes).weigher(weigh).build());
        Self { objects, kept }
    }

    /// The bytes of pieces of one object, in their order; neighbours are fetched together.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if one of them is not what its checksum says.
    pub async fn read(&self, object: &Arc<str>, pieces: &[Piece]) -> Result<Vec<Bytes>, StorageError> {
        let kept = |piece: &Piece| self.kept.as_ref()?.get(&(Arc::clone(object), piece.range.start));
        let mut stored: Vec<Option<Bytes>> = pieces.iter().map(kept).collect();
        let missing: Vec<usize> = (0..pieces.len()).filter(|place| stored[*place].is_none()).collect();
        let are_neighbours = |one: &usize, next: &usize| pieces[*one].range.end == pieces[*next].range.start;
        let parts = missing.chunk_by(are_neighbours).flat_map(|run| run.chunks(GET_PIECES));
        let gets: Vec<_> = parts.map(|part| self.get(object, &pieces[part[0]..=part[part.len() - 1]], part[0])).collect();
        let mut gets = stream::iter(gets).buffer_unordered(PARALLEL_GETS);
        while let Some((first, found)) = gets.try_next().await? {
            for (place, bytes) in (first..).zip(found) {
                stored[place] = Some(bytes);
            }
        }
        Ok(stored.into_iter().flatten().collect())
    }

    /// Fetches neighbouring pieces by one GET; they begin at the place `first`.
    async fn get(&self, object: &Arc<str>, pieces: &[Piece], first: usize) -> Result<(usize, Vec<Bytes>), StorageError> {
        let (start, end) = (pieces[0].range.start, pieces[pieces.len() - 1].range.end);
        let mut rest = self.objects.get_range(object, start..end).await?;
        let mut found = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let bytes = rest.split_to(piece.len().min(rest.len()));
            piece.check(object, &bytes)?;
            if let Some(kept) = &self.kept {
                // A copy, which does not keep its neighbours.
                kept.insert((Arc::clone(object), piece.range.start), Bytes::copy_from_slice(&bytes));
            }
            found.push(bytes);
        }
        Ok((first, found))
    }
}
