//! Retention of a table with a bucket: decides which segments have expired. Pure.

use super::state::ColdState;
use contracts::{
    catalog::TableStatus,
    clock::TimestampMs,
    retention::{ExpiryUnit, Trim, choose},
};

/// New earliest offsets for a table's partitions: drops whole segments whose last event was appended before
/// `appended_before`, then the oldest until at most `max_bytes` are left. Decides only; nothing is trimmed
/// here.
pub(crate) fn expired_segments(
    state: &ColdState,
    table: &TableStatus,
    appended_before: TimestampMs,
    max_bytes: Option<u64>,
) -> Vec<Trim> {
    let partitions: Vec<_> = table.named_partitions().collect();
    let mut units = Vec::new();
    for (place, (partition, status)) in partitions.iter().enumerate() {
        let segments = state.partitions.get(partition).into_iter().flat_map(|cold| &cold.segments);
        let kept = segments.filter(|segment| segment.range.end > status.watermarks.earliest);
        units.extend(kept.map(|segment| ExpiryUnit {
            partition: place,
            end: segment.range.end,
            appended_ms: segment.appended_ms,
            bytes: segment.bytes,
        }));
    }
    let total: u64 = units.iter().map(|unit| unit.bytes).sum();
    let excess = max_bytes.map_or(0, |most| total.saturating_sub(most));
    choose(units, appended_before, excess)
        .into_iter()
        .map(|expiry| Trim {
            partition: partitions[expiry.partition].0.clone(),
            earliest: expiry.earliest,
            unflushed_bytes: 0,
        })
        .collect()
}
