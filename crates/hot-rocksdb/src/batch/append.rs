//! Stages requests of producers: appends. New events get their offsets here; duplicates are found by
//! their idempotency keys.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::Batch;
use crate::{
    keys::{self, PartitionKey, SLICE, TableId, cf},
    request::EncodedEvent,
    sequence::TimeSlice,
};
use contracts::{
    append::Appended,
    error::{Counted, Overload, StorageError},
    idempotency::FirstWrite,
    maker::{Made, Maker},
    name::{Partition, PartitionNumber, TableName},
    sequence::Offset,
};

impl Batch<'_> {
    /// Stages all events of a request, or none of them.
    pub(super) fn append(
        &mut self,
        table: TableName,
        events: Vec<EncodedEvent>,
        expected_offset: Option<Offset>,
        made_by: Option<Maker>,
    ) -> Result<Vec<Appended>, StorageError> {
        // Decide first: until the last `?` no event is staged, so a refused request leaves none behind.
        let id = self.table_id(&table, made_by.as_ref())?;
        let known = match id {
            Some(id) => self.first_writes(id, &table, &events)?,
            None => vec![None; events.len()],
        };
        self.check_repeats(&table, &events, &known)?;
        let has_new = known.iter().any(Option::is_none);
        let new_partitions = if has_new {
            self.check_expected(&table, id, &events, expected_offset)?;
            self.check_room(id, &events, &known, made_by.as_ref())?
        } else {
            BTreeSet::new()
        };
        let made_by = made_by.map(|maker| maker.principal);
        let id = match id {
            Some(id) => id,
            None => self.add_table(&table, made_by.clone()),
        };
        self.revive(&table, made_by.as_ref());
        self.make_partitions(id, new_partitions, made_by.as_ref());
        self.note_keys_elsewhere(&table, &events);
        let appended =
            events.into_iter().zip(known).map(|(event, known)| self.append_one(id, event, known)).collect();
        self.record_appended(&table, made_by.as_deref());
        Ok(appended)
    }

    /// Stages an event, unless it is a duplicate.
    pub(super) fn append_one(
        &mut self,
        table: TableId,
        event: EncodedEvent,
        known: Option<FirstWrite>,
    ) -> Appended {
        let key = PartitionKey { table, partition: event.partition };
        let used = event.key.map(|used| (keys::idempotency(key, used.key), used.payload));
        // The key may also have come earlier in this very request, which `known` does not cover.
        let staged = used.as_ref().and_then(|(stored, _)| self.first_writes.get(stored).copied());
        if let Some(first) = known.or(staged) {
            return Appended { partition: event.partition, offset: first.offset, duplicate: true };
        }
        let bytes = event.value.len() as u64;
        let now = self.started;
        let (offset, full_slice) =
            self.state(key).give(TimeSlice::of(event.timestamp_ms, event.appended_ms, bytes), now);
        self.hot_bytes += bytes;
        self.appended.insert(key);
        self.writes.put_cf(self.events, keys::event(key, offset), &event.value);
        self.record_event(event.partition, offset, event.value);
        if let Some(slice) = full_slice {
            let family = self.volume.db.family(cf::TIME_SLICES);
            self.writes.put_cf(family, keys::time_slice(key, offset / SLICE), slice.encode());
        }
        if let Some((stored, payload)) = used {
            let first = FirstWrite { offset, appended_ms: self.now_ms, payload: Some(payload) };
            self.put_key(stored, first);
        }
        Appended { partition: event.partition, offset, duplicate: false }
    }

    /// For each event, the first write with its key inside the window, in this batch or before. Refuses a key
    /// that was used for another payload.
    fn first_writes(
        &self,
        table: TableId,
        name: &TableName,
        events: &[EncodedEvent],
    ) -> Result<Vec<Option<FirstWrite>>, StorageError> {
        let mut known = vec![None; events.len()];
        let (indices, wanted): (Vec<usize>, Vec<[u8; 24]>) = events
            .iter()
            .enumerate()
            .filter_map(|(index, event)| {
                let key = PartitionKey { table, partition: event.partition };
                Some((index, keys::idempotency(key, event.key?.key)))
            })
            .unzip();
        // This batch deletes the keys of a forgotten table, but the volume still has them.
        let stored = match self.forgotten.contains(&table) {
            true => vec![None; wanted.len()],
            false => self.stored_first_writes(&wanted)?,
        };
        for ((index, key), stored) in indices.into_iter().zip(&wanted).zip(stored) {
            let first = stored.or_else(|| self.first_writes.get(key).copied());
            let event = &events[index];
            if let (Some(first), Some(used)) = (first, event.key)
                && first.clashes(used.payload)
            {
                let partition = Partition::new(name.clone(), event.partition);
                return Err(StorageError::KeyReused { partition, offset: first.offset, index });
            }
            known[index] = first;
        }
        Ok(known)
    }

    /// Refuses a request that itself uses one key for two payloads.
    fn check_repeats(
        &self,
        table: &TableName,
        events: &[EncodedEvent],
        known: &[Option<FirstWrite>],
    ) -> Result<(), StorageError> {
        let mut seen: HashMap<(PartitionNumber, [u8; 16]), ([u8; 16], usize)> = HashMap::new();
        for (index, (event, _)) in
            events.iter().zip(known).enumerate().filter(|(_, (_, known))| known.is_none())
        {
            let Some(used) = event.key else { continue };
            let (payload, first) = *seen.entry((event.partition, used.key)).or_insert((used.payload, index));
            if payload != used.payload {
                let partition = Partition::new(table.clone(), event.partition);
                // The offset that the first one would have had.
                let before =
                    events[..first].iter().filter(|one| one.partition == event.partition).count() as u64;
                let next = self.head(table).map_or(0, |head| {
                    self.peek(PartitionKey { table: head.id, partition: event.partition }).watermarks.next
                });
                return Err(StorageError::KeyReused { partition, offset: next + before, index });
            }
        }
        Ok(())
    }

    /// Refuses new events for which there is no room: in hot, among idempotency keys, or among partitions.
    /// Returns the partitions that they make.
    fn check_room(
        &mut self,
        id: Option<TableId>,
        events: &[EncodedEvent],
        known: &[Option<FirstWrite>],
        maker: Option<&Maker>,
    ) -> Result<BTreeSet<PartitionNumber>, StorageError> {
        let overloaded =
            |reason, secs| Err(StorageError::Overloaded { reason, retry_after: Duration::from_secs(secs) });
        self.make_room();
        if self.hot_bytes >= self.volume.options.hot.max_bytes {
            return overloaded(Overload::HotFull, 5);
        }
        let new_keys =
            events.iter().zip(known).filter(|(event, known)| event.key.is_some() && known.is_none()).count();
        self.forget_keys(new_keys);
        if new_keys > 0 && !self.ledger.has_room(self.volume.options.keys, new_keys) {
            return overloaded(Overload::KeysFull, 60);
        }
        let limit = self.volume.options.limits.partitions;
        let is_new = |number: &PartitionNumber| {
            id.is_none_or(|table| !self.is_known(PartitionKey { table, partition: *number }))
        };
        let mut new: BTreeSet<_> = events.iter().map(|event| event.partition).collect();
        new.retain(is_new); // each is looked up once
        if !new.is_empty() && self.partitions + new.len() > limit {
            return Err(StorageError::TooMany { what: Counted::Partitions, limit });
        }
        self.check_maker(maker, Made::Partitions, new.len())?;
        Ok(new)
    }

    /// Refuses a request whose expected offset is not the next one of each of its partitions.
    fn check_expected(
        &self,
        table: &TableName,
        id: Option<TableId>,
        events: &[EncodedEvent],
        expected_offset: Option<Offset>,
    ) -> Result<(), StorageError> {
        let Some(expected) = expected_offset else { return Ok(()) };
        for event in events {
            let key = id.map(|table| PartitionKey { table, partition: event.partition });
            let next = key.map_or(0, |key| self.peek(key).watermarks.next);
            if next != expected {
                let partition = Partition::new(table.clone(), event.partition);
                return Err(StorageError::OffsetMismatch { partition, expected, next });
            }
        }
        Ok(())
    }
}
