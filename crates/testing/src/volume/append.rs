//! An append to a volume in memory: checked as a whole, then written as a whole.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use contracts::{
    append::{Append, Appended},
    clock::TimestampMs,
    error::{Counted, Overload, StorageError},
    event::Event,
    idempotency::{FirstWrite, Hash, KeyUse},
    maker::Made,
    name::{Partition, PartitionNumber},
    partitioner::partition_of,
    sequence::Offset,
};
use tokio::time::Instant;

use super::{MemoryHotOptions, Sheet, VolumeState};

impl VolumeState {
    /// Writes what an append has to write; nothing if it is refused.
    pub(super) fn append(
        &mut self,
        append: Append,
        options: &MemoryHotOptions,
        now_ms: TimestampMs,
    ) -> Result<Vec<Appended>, StorageError> {
        self.check(&append, options, now_ms)?;
        let is_new = self.known(&append.table).is_none();
        let Append { table, events, made_by, .. } = append;
        let made_by = made_by.map(|maker| maker.principal);
        let table = self.tables.entry(table).or_default();
        table.is_deleted = false;
        if is_new {
            table.made_by = made_by.clone();
        }
        let partitions = table.settings.partitions.value;
        table.keys_elsewhere |= events.iter().any(|(number, event)| {
            event.key.as_ref().is_some_and(|key| partition_of(key, partitions) != *number)
        });
        let append = |(number, event): (PartitionNumber, Event)| {
            let new = || Sheet { made_by: made_by.clone(), ..Sheet::default() };
            let sheet = table.partitions.entry(number).or_insert_with(new);
            sheet.append(number, event, options.key_window_ms, now_ms)
        };
        Ok(events.into_iter().map(append).collect())
    }

    /// Writes what an append has written elsewhere, with this outcome, and what is not known yet. Of events
    /// that are known their keys are put.
    pub(super) fn append_unknown(&mut self, append: Append, outcome: &[Appended], now_ms: TimestampMs) {
        let table = self.tables.entry(append.table).or_default();
        for ((number, event), appended) in append.events.into_iter().zip(outcome) {
            let sheet = table.partitions.entry(number).or_default();
            if appended.duplicate {
                continue;
            }
            if appended.offset >= sheet.watermarks.next {
                assert_eq!(appended.offset, sheet.watermarks.next, "events before it are missing");
                sheet.put(appended.offset, event, now_ms);
            } else if let Some(used) = KeyUse::of(&event) {
                sheet.put_key(used, appended.offset, now_ms);
            }
        }
    }

    fn check(
        &self,
        append: &Append,
        options: &MemoryHotOptions,
        now_ms: TimestampMs,
    ) -> Result<(), StorageError> {
        let live = self.tables.values().filter(|table| !table.is_deleted).count();
        if self.known(&append.table).is_none() {
            if live >= options.max_tables {
                return Err(StorageError::TooMany { what: Counted::Tables, limit: options.max_tables });
            }
            self.check_maker(append.made_by.as_ref(), Made::Tables, 1)?;
        }
        if !self.has_new(append, options.key_window_ms, now_ms)? {
            return Ok(());
        }
        let next = |number: &PartitionNumber| self.next(&append.table, *number);
        if let Some(expected) = append.expected_offset
            && let Some((number, _)) = append.events.iter().find(|(number, _)| next(number) != expected)
        {
            let partition = Partition::new(append.table.clone(), *number);
            return Err(StorageError::OffsetMismatch { partition, expected, next: next(number) });
        }
        if self.hot_bytes() >= options.hot_max_bytes {
            return Err(StorageError::Overloaded {
                reason: Overload::HotFull,
                retry_after: Duration::from_secs(5),
            });
        }
        let known = self.tables.get(&append.table).map(|table| &table.partitions);
        let is_new = |number: &PartitionNumber| known.is_none_or(|known| !known.contains_key(number));
        let new: BTreeSet<_> = append.events.iter().map(|(number, _)| *number).filter(is_new).collect();
        self.check_maker(append.made_by.as_ref(), Made::Partitions, new.len())
    }

    /// Whether an event is to be written: not all of them are there already, under their keys.
    fn has_new(&self, append: &Append, window_ms: i64, now_ms: TimestampMs) -> Result<bool, StorageError> {
        let known = self.known(&append.table);
        let first = |number: &PartitionNumber, used: &KeyUse| {
            known.and_then(|table| table.partitions.get(number))?.first(used, window_ms, now_ms)
        };
        // What this very request has of a key counts too.
        let mut uses: HashMap<(PartitionNumber, Hash), Hash> = HashMap::new();
        let mut has_new = false;
        for (index, (number, event)) in append.events.iter().enumerate() {
            let Some(used) = KeyUse::of(event) else {
                has_new = true;
                continue;
            };
            let reused = |offset: Offset| {
                let partition = Partition::new(append.table.clone(), *number);
                StorageError::KeyReused { partition, offset, index }
            };
            match first(number, &used) {
                Some(first) if first.clashes(used.payload) => return Err(reused(first.offset)),
                Some(_) => {}
                None => {
                    has_new = true;
                    if *uses.entry((*number, used.key)).or_insert(used.payload) != used.payload {
                        return Err(reused(self.next(&append.table, *number)));
                    }
                }
            }
        }
        Ok(has_new)
    }
}

impl Sheet {
    /// The first event with a key, if that is still remembered.
    fn first(&self, used: &KeyUse, window_ms: i64, now_ms: TimestampMs) -> Option<FirstWrite> {
        self.keys.get(&used.key).copied().filter(|first| first.is_within(window_ms, now_ms))
    }

    fn append(
        &mut self,
        number: PartitionNumber,
        event: Event,
        window_ms: i64,
        now_ms: TimestampMs,
    ) -> Appended {
        let used = KeyUse::of(&event);
        let first = used.as_ref().and_then(|used| self.first(used, window_ms, now_ms));
        if let Some(first) = first {
            return Appended { partition: number, offset: first.offset, duplicate: true };
        }
        let offset = self.watermarks.next;
        self.put(offset, event, now_ms);
        Appended { partition: number, offset, duplicate: false }
    }

    /// Puts the next event, and its key.
    fn put(&mut self, offset: Offset, event: Event, now_ms: TimestampMs) {
        if let Some(used) = KeyUse::of(&event) {
            self.put_key(used, offset, now_ms);
        }
        self.events.insert(offset, event);
        self.in_files.insert(offset);
        self.watermarks.next = offset + 1;
        self.unflushed_since.get_or_insert_with(Instant::now);
    }

    fn put_key(&mut self, used: KeyUse, offset: Offset, now_ms: TimestampMs) {
        let first = FirstWrite { offset, appended_ms: now_ms, payload: Some(used.payload) };
        self.keys.insert(used.key, first);
    }
}
