//! Which events a table's retention keeps no longer. Decides only; see `upkeep` for how they go.
//!
//! Whole segments, or whole blocks where there is no bucket, go once their last event is older than the table's bound, or
//! the table is larger than its bound without them. An event is kept at least as long as the bound says.

use super::{
    cold::state::ColdState,
    hot::{
        catalog::Catalog,
        keys::{self, BLOCK, PartitionKey, cf},
        rocksdb::Db,
        sequence::Block,
    },
};
use crate::contracts::{
    clock::TimestampMs,
    error::StorageError,
    name::{Partition, TableName},
    sequence::Offset,
    storage::{TableStatus, Trim},
};

/// A run of one partition's events that goes as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    partition: usize,
    end: Offset,
    appended_ms: TimestampMs,
    bytes: u64,
}

/// Where the partitions of a table with a bucket are to start; only segments go.
pub fn expired_segments(state: &ColdState, table: &TableStatus, appended_before: TimestampMs, max_bytes: Option<u64>) -> Vec<Trim> {
    let partitions: Vec<_> = table.named_partitions().collect();
    let mut pieces = Vec::new();
    for (place, (partition, status)) in partitions.iter().enumerate() {
        let segments = state.partitions.get(partition).into_iter().flat_map(|cold| &cold.segments);
        let kept = segments.filter(|segment| segment.range.end > status.marks.start);
        pieces.extend(kept.map(|segment| Piece {
            partition: place,
            end: segment.range.end,
            appended_ms: segment.appended_ms,
            bytes: segment.bytes,
        }));
    }
    let total: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let excess = max_bytes.map_or(0, |most| total.saturating_sub(most));
    let ends = choose(pieces, appended_before, excess);
    ends.into_iter().map(|(place, start, _)| Trim { partition: partitions[place].0.clone(), start, unflushed_bytes: 0 }).collect()
}

/// Where the partitions of a table without a bucket are to start; whole blocks go, and the one that is not full if all of it may.
///
/// # Errors
/// `Corrupt` or `Unavailable`.
pub fn expired(
    db: &Db,
    catalog: &Catalog,
    name: &TableName,
    appended_before: TimestampMs,
    excess_bytes: u64,
) -> Result<Vec<Trim>, StorageError> {
    let Some(table) = catalog.read().get(name).cloned() else { return Err(StorageError::UnknownTable(name.clone())) };
    let partitions: Vec<_> = table.partitions.iter().collect();
    let mut pieces = Vec::new();
    for (place, &(&partition, state)) in partitions.iter().enumerate() {
        let prefix = keys::partition(PartitionKey { table: table.id, partition });
        for pair in db.scan(cf::TIME_BLOCKS, &prefix, &prefix) {
            let (key, value) = pair?;
            let damaged = || StorageError::corrupt("a time block in RocksDB", format!("key {key:?}"));
            let (_, block) = keys::decode_event(&key).ok_or_else(damaged)?;
            let Block { appended_ms, bytes, .. } = Block::decode(&value)?;
            let end = (block + 1) * BLOCK;
            if end > state.marks.start {
                pieces.push(Piece { partition: place, end, appended_ms, bytes });
            }
        }
        if let Some(Block { appended_ms, bytes, .. }) = state.open_block {
            pieces.push(Piece { partition: place, end: state.marks.next, appended_ms, bytes });
        }
    }
    let trim = |(place, start, unflushed_bytes): (usize, Offset, u64)| Trim {
        partition: Partition::new(name.clone(), *partitions[place].0),
        start,
        unflushed_bytes,
    };
    Ok(choose(pieces, appended_before, excess_bytes).into_iter().map(trim).collect())
}

/// For each partition that loses something, its new start and the bytes that go. The oldest go first, in each partition in
/// order.
fn choose(mut pieces: Vec<Piece>, appended_before: TimestampMs, mut excess: u64) -> Vec<(usize, Offset, u64)> {
    // Inside a partition offsets order the pieces, whatever the clock did: a piece is as old as the newest before it.
    pieces.sort_by_key(|piece| (piece.partition, piece.end));
    let mut newest: Option<(usize, TimestampMs)> = None;
    for piece in &mut pieces {
        if let Some((partition, appended_ms)) = newest.filter(|(partition, _)| *partition == piece.partition) {
            debug_assert_eq!(partition, piece.partition);
            piece.appended_ms = piece.appended_ms.max(appended_ms);
        }
        newest = Some((piece.partition, piece.appended_ms));
    }
    pieces.sort_by_key(|piece| (piece.appended_ms, piece.partition, piece.end));
    let mut gone: std::collections::BTreeMap<usize, (Offset, u64)> = std::collections::BTreeMap::new();
    for piece in pieces {
        let is_old = piece.appended_ms < appended_before;
        if !is_old && excess < piece.bytes {
            break; // without this one the table would be smaller than its bound
        }
        excess = excess.saturating_sub(piece.bytes);
        let (end, bytes) = gone.entry(piece.partition).or_default();
        *end = piece.end;
        *bytes += piece.bytes;
    }
    gone.into_iter().map(|(partition, (end, bytes))| (partition, end, bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(partition: usize, end: Offset, appended_ms: TimestampMs) -> Piece {
        Piece { partition, end, appended_ms, bytes: 10 }
    }

    #[test]
    fn what_is_old_goes_in_order_of_offsets() {
        let pieces = vec![piece(0, 5, 100), piece(0, 9, 200), piece(0, 12, 50), piece(1, 4, 199)];
        assert_eq!(choose(pieces.clone(), 200, 0), [(0, 5, 10), (1, 4, 10)]);
        assert_eq!(choose(pieces.clone(), 201, 0), [(0, 12, 30), (1, 4, 10)]);
        assert!(choose(pieces, 100, 0).is_empty());
    }

    #[test]
    fn at_least_as_many_bytes_are_kept_as_the_bound_says() {
        let pieces = vec![piece(0, 5, 100), piece(1, 4, 150), piece(0, 9, 200)];
        assert!(choose(pieces.clone(), 0, 9).is_empty());
        assert_eq!(choose(pieces.clone(), 0, 10), [(0, 5, 10)]);
        assert_eq!(choose(pieces, 0, 29), [(0, 5, 10), (1, 4, 10)]);
    }
}
