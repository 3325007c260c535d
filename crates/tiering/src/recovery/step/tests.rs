//! The decision tables of a recovery.

use super::*;
use contracts::{name::TableName, segment::FormatId};

const OURS: Uuid = Uuid::from_u128(1);

fn last(store_id: Uuid, nonce: u128, number: u64) -> LastManifest {
    LastManifest { number, nonce: Uuid::from_u128(nonce), store_id }
}

fn record(json: &str) -> ChainRecord {
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_last_manifest_tells_how_the_volume_stands() {
    let nothing = ChainRecord::default();
    let known =
        record(r#"{"openings": [["00000000-0000-0000-0000-000000000007", 9]], "catching_up": false}"#);
    let catching_up =
        record(r#"{"openings": [["00000000-0000-0000-0000-000000000007", 9]], "catching_up": true}"#);
    let other = Uuid::from_u128(2);
    let of =
        |record: &ChainRecord, is_empty, last: LastManifest| relation(OURS, record, is_empty, &last).ok();
    assert_eq!(of(&known, false, last(OURS, 7, 9)), Some(Relation::InStep));
    assert_eq!(of(&known, true, last(OURS, 7, 3)), Some(Relation::InStep), "opened, and nothing written yet");
    assert_eq!(
        of(&known, false, last(OURS, 7, 10)),
        Some(Relation::Behind),
        "a copy from before the last manifest"
    );
    assert_eq!(of(&known, false, last(OURS, 8, 9)), Some(Relation::Behind), "opened since by another");
    assert_eq!(
        of(&catching_up, false, last(OURS, 7, 9)),
        Some(Relation::Behind),
        "a recovery that was killed"
    );
    assert_eq!(of(&nothing, true, last(other, 7, 9)), Some(Relation::Behind), "an empty volume");
    assert_eq!(
        of(&known, true, last(other, 7, 9)),
        Some(Relation::Behind),
        "an empty one that has tried to begin the bucket itself"
    );
    assert_eq!(of(&nothing, false, last(other, 7, 9)), None, "hot only until now, another's bucket");
    assert_eq!(of(&known, false, last(other, 7, 9)), None, "another's bucket");
}

/// A partition with so many offsets, of which these are lost.
fn cold(end: Offset, lost: &[(Offset, Offset)]) -> ColdBounds {
    ColdBounds {
        earliest: 0,
        end,
        lost: lost.iter().map(|&(start, end)| OffsetRange::new(start, end)).collect(),
    }
}

fn volume(flushed: Offset, next: Offset, intent: Option<(Offset, Offset)>) -> PartitionStatus {
    let intent = intent.map(|(start, end)| FlushIntent {
        range: OffsetRange::new(start, end),
        epoch: 1,
        format: FormatId::new("jsonl.zst/2").unwrap(),
        bytes: 1,
    });
    let watermarks = Watermarks { earliest: 0, low: 0, flushed, next };
    PartitionStatus { number: 0, watermarks, hot_bytes: 0, unflushed_bytes: 0, unflushed_since: None, intent }
}

#[test]
fn a_partition_is_marked_replaced_or_compared() {
    let partition = Partition::new(TableName::parse("t").unwrap(), 0);
    let of = |volume: Option<PartitionStatus>, cold: &ColdBounds, relation| {
        step(&partition, volume.as_ref(), cold, relation)
    };
    let (in_step, behind) = (Relation::InStep, Relation::Behind);
    let flushed = cold(9, &[]);
    assert_eq!(of(Some(volume(9, 12, None)), &flushed, in_step).unwrap(), RecoveryStep::Leave);
    assert!(matches!(
        of(Some(volume(5, 12, Some((5, 9)))), &flushed, in_step).unwrap(),
        RecoveryStep::MarkFlushed(_)
    ));
    assert!(of(Some(volume(5, 12, None)), &flushed, in_step).is_err(), "in step, and yet not");
    assert!(
        matches!(
            of(Some(volume(5, 12, Some((5, 9)))), &flushed, behind).unwrap(),
            RecoveryStep::Compare { .. }
        ),
        "perhaps another's segment"
    );
    assert_eq!(of(None, &flushed, behind).unwrap(), RecoveryStep::Replace { earliest: 0, end: 9 });
    assert_eq!(
        of(Some(volume(5, 5, None)), &flushed, behind).unwrap(),
        RecoveryStep::Replace { earliest: 0, end: 9 }
    );
    let both = OffsetRange::new(5, 9);
    let compare = |lost| RecoveryStep::Compare { both, earliest: 0, flushed: 9, next: 12, lost };
    assert_eq!(of(Some(volume(5, 12, None)), &flushed, behind).unwrap(), compare(None));
    let expired = ColdBounds { earliest: 50, ..cold(60, &[]) };
    assert_eq!(
        of(Some(volume(5, 12, None)), &expired, behind).unwrap(),
        RecoveryStep::Replace { earliest: 50, end: 60 },
        "gone in S3 meanwhile"
    );
    let lost = cold(9, &[(5, 9)]);
    assert_eq!(
        of(Some(volume(5, 12, None)), &lost, behind).unwrap(),
        compare(Some(both)),
        "declared lost, and there again"
    );
}
