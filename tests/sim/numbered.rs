//! Numbered events: what clients of a store write and read, and how they commit what is acked. By its number
//! the checker of histories knows each of them.

use std::{cell::RefCell, collections::BTreeMap};

use contracts::{
    consumers::{Commit, ConsumerStorage},
    error::StorageError,
    event::{Event, Record},
    filter::ReadFilter,
    name::{Partition, PartitionNumber},
    payload::Payload,
    read::{ReadLimit, ReadOrder},
    sequence::Offset,
};
use testing::history::{History, Id};
use tiering::{ReadQuery, TieredReader};
use tokio_util::sync::CancellationToken;

use crate::store::{group, key_of, retry, table};

/// They go to so many partitions.
pub(crate) const PARTITIONS: u64 = 3;

/// Which events were where that somebody has asked to erase.
pub(crate) type ErasedEvents = BTreeMap<(u64, Offset), Id>;

/// Which event it is. Of an erased one only its place tells, and that somebody has asked for it.
pub(crate) fn id_of(record: &Record, erased: &ErasedEvents) -> Id {
    if record.event.is_erased() {
        let place = (u64::from(record.partition), record.offset);
        return *erased.get(&place).unwrap_or_else(|| panic!("nobody has asked to erase {place:?}"));
    }
    String::from_utf8_lossy(record.event.payload.bytes()).split(' ').next().unwrap().parse().unwrap()
}

/// The event of a number.
pub(crate) fn event(id: Id, key: bool, appended_ms: i64) -> Event {
    Event {
        payload: Payload::text(format!("{id} {}", "x".repeat(id as usize * 37 % 200))),
        timestamp_ms: (id as i64) * 7919 % 100_000,
        appended_ms,
        key: None,
        idempotency_key: key.then(|| key_of(id)),
        headers: BTreeMap::new(),
    }
}

/// What comes of it, unless the server goes before.
pub(crate) async fn until<T>(gone: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = gone.cancelled() => None,
        done = work => Some(done),
    }
}

/// One partition from an offset on.
pub(crate) fn query_from(partition: u64, from: Offset) -> ReadQuery {
    let number = partition as PartitionNumber;
    ReadQuery {
        table: table(),
        partition: Some(number),
        filter: ReadFilter::default(),
        order: ReadOrder::Oldest,
        from: [(number, from)].into(),
    }
}

/// A page of one partition, and whether it reaches the end.
pub(crate) async fn page(
    reader: &TieredReader,
    partition: u64,
    from: Offset,
    records: usize,
    erased: &RefCell<ErasedEvents>,
) -> Result<(Vec<(Offset, Id)>, bool), StorageError> {
    let page = reader.page(query_from(partition, from), ReadLimit { records, bytes: 1 << 20 }).await?;
    let erased = erased.borrow();
    let found = page.records.iter().map(|record| (record.offset, id_of(record, &erased))).collect();
    Ok((found, !page.has_more))
}

/// All that is there, by partitions.
pub(crate) async fn read_everything(
    reader: &TieredReader,
    erased: &RefCell<ErasedEvents>,
) -> BTreeMap<u64, Vec<(Offset, Id)>> {
    let mut found = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let all: &mut Vec<(Offset, Id)> = found.entry(partition).or_default();
        loop {
            let next = all.last().map_or(0, |(offset, _)| offset + 1);
            let read = retry(async || page(reader, partition, next, 1000, erased).await).await;
            let (records, is_end) = read.unwrap();
            all.extend(records);
            if is_end {
                break;
            }
        }
    }
    found
}

/// A partition of the one table.
fn place_of(partition: u64) -> Partition {
    Partition::new(table(), partition as PartitionNumber)
}

/// Commits what is acked of a partition, if that is more than `next`. Answers how far it has been committed,
/// or tried.
pub(crate) async fn commit_acked(
    history: &RefCell<History>,
    hot: &(impl ConsumerStorage + ?Sized),
    gone: &CancellationToken,
    partition: u64,
    next: Offset,
) -> Offset {
    let end = history.borrow().acked_end(partition);
    if end <= next {
        return next;
    }
    history.borrow_mut().commits(partition, end);
    let offsets = vec![(place_of(partition), end)];
    let commit = Commit { group: group(), offsets, force: false, made_by: None };
    if let Some(Ok(())) = until(gone, hot.commit(commit)).await {
        history.borrow_mut().committed(partition, end);
    }
    end
}

/// What of a partition is committed, by the offsets of the group.
pub(crate) fn committed_of(partition: u64, offsets: &[(Partition, Offset)]) -> Offset {
    let place = place_of(partition);
    offsets.iter().find(|(one, _)| *one == place).map_or(0, |(_, offset)| *offset)
}
