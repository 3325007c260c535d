//! What the volume and the bucket mean together at the start. Pure: says which segments to mark, or why not to start.

use std::collections::BTreeMap;

use crate::contracts::{
    error::StorageError,
    name::Partition,
    sequence::Offset,
    storage::{FlushIntent, TableStatus},
};

/// The segments that a manifest names and the volume does not know of yet: the process ended between the two.
///
/// # Errors
/// `Corrupt` if volume and bucket cannot both be right: an older copy of the volume, or a bucket that lost manifests.
pub fn unmarked(ends: &[(Partition, Offset)], tables: &[TableStatus]) -> Result<Vec<(Partition, FlushIntent)>, StorageError> {
    let cold: BTreeMap<&Partition, Offset> = ends.iter().map(|(partition, end)| (partition, *end)).collect();
    let mut hot = BTreeMap::new();
    for table in tables {
        for status in &table.partitions {
            hot.insert(Partition::new(table.name.clone(), status.number), status);
        }
    }
    let mut unmarked = Vec::new();
    for (partition, status) in &hot {
        let flushed = status.marks.flushed;
        match cold.get(partition).copied().unwrap_or(0) {
            end if end == flushed => {}
            end if end < flushed => {
                let why = format!("the volume says S3 has {partition} up to {flushed}, its manifests say up to {end}");
                return Err(StorageError::corrupt("the bucket", why));
            }
            end => match status.intent.filter(|intent| intent.range.end == end) {
                Some(intent) => unmarked.push((partition.clone(), intent)),
                None => return Err(behind(partition, end, flushed)),
            },
        }
    }
    match cold.into_iter().find(|(partition, end)| *end > 0 && !hot.contains_key(partition)) {
        Some((partition, end)) => Err(behind(partition, end, 0)),
        None => Ok(unmarked),
    }
}

fn behind(partition: &Partition, end: Offset, flushed: Offset) -> StorageError {
    let why = format!("S3 has {partition} up to {end}, the volume knows of {flushed}: it is an older copy");
    StorageError::corrupt("the volume", why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::{
        name::TableName,
        sequence::{OffsetRange, Watermarks},
        storage::PartitionStatus,
    };

    fn partition() -> Partition {
        Partition::new(TableName::parse("t").unwrap(), 0)
    }

    fn volume(flushed: Offset, intent: Option<(Offset, Offset)>) -> Vec<TableStatus> {
        let intent = intent.map(|(start, end)| FlushIntent { range: OffsetRange::new(start, end), epoch: 1, zstd: true, bytes: 1 });
        let status = PartitionStatus {
            number: 0,
            marks: Watermarks { low: 0, flushed, next: 10 },
            hot_bytes: 0,
            unflushed_bytes: 0,
            unflushed_for: None,
            intent,
        };
        vec![TableStatus { name: partition().table, partitions: vec![status] }]
    }

    #[test]
    fn in_step_needs_nothing() {
        assert!(unmarked(&[(partition(), 5)], &volume(5, Some((5, 9)))).unwrap().is_empty());
        assert!(unmarked(&[], &volume(0, None)).unwrap().is_empty());
    }

    #[test]
    fn a_crash_between_manifest_and_mark_is_made_good() {
        let found = unmarked(&[(partition(), 9)], &volume(5, Some((5, 9)))).unwrap();
        assert_eq!(found[0].1.range, OffsetRange::new(5, 9));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(unmarked(&[(partition(), 9)], &volume(5, None)).is_err());
        assert!(unmarked(&[(partition(), 4)], &volume(5, None)).is_err());
        assert!(unmarked(&[(partition(), 4)], &[]).is_err());
    }
}
