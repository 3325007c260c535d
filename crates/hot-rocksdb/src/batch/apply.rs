//! What an entry of the shard's log changes on this volume: what the owner's writer has decided, staged once
//! more. What does not fit the volume is damage, and nothing of the entry is written.

use std::{collections::BTreeSet, sync::Arc};

use prost::Message;
use uuid::Uuid;

use super::{Ack, Batch};
use crate::{
    catalog::TableHead,
    codec,
    keys::{self, PartitionKey, cf, meta},
    request::{EncodedEvent, WriterReply},
    sequence::read_intent,
    stored::{self, change::What},
};
use contracts::{
    erasure::UsedKey,
    error::StorageError,
    idempotency::{Hash, KeyUse},
    name::{GroupName, Partition, PartitionNumber, TableName},
    replica::AppliedEntry,
    retention::Trim,
    segment::FlushIntent,
};

impl Batch<'_> {
    /// Stages an entry of the log. If it does not fit, nothing of the batch may be written.
    pub(super) fn stage_entry(&mut self, entry: AppliedEntry, reply: WriterReply<()>) {
        self.misfit = self.misfit.take().or(self.apply(entry).err());
        self.acks.push(Ack::Done(reply));
    }

    /// Stages an entry, with its mark.
    fn apply(&mut self, entry: AppliedEntry) -> Result<(), StorageError> {
        let AppliedEntry { now_ms, changes, mark } = entry;
        let own_ms = std::mem::replace(&mut self.now_ms, now_ms);
        let changes = changes.map(stored::BatchChanges::decode).transpose();
        let changes = changes.map_err(|error| StorageError::corrupt("an entry of the log", error))?;
        for change in changes.into_iter().flat_map(|batch| batch.changes) {
            // A newer program's change is one that this program cannot make.
            let what = change.what.ok_or_else(|| misfit("a change that this program does not know"))?;
            self.apply_change(what)?;
        }
        self.now_ms = own_ms;
        self.writes.put_cf(self.volume.db.family(cf::META), meta::LOG, mark.encode());
        Ok(())
    }

    fn apply_change(&mut self, what: What) -> Result<(), StorageError> {
        match what {
            What::Appended(appended) => self.apply_appended(appended),
            What::Intended(named) => {
                let intents = read_segments(named)?;
                for (partition, intent) in &intents {
                    self.check_next_segment(partition, intent)?;
                }
                self.record_intents(intents, u64::MAX)
            }
            What::Flushed(named) => {
                let segments = read_segments(named)?;
                for (partition, segment) in &segments {
                    let key = self.existing(partition)?;
                    if segment.range.end > self.peek(key).watermarks.flushed {
                        self.check_next_segment(partition, segment)?;
                    }
                }
                self.mark_flushed(segments)
            }
            What::Trimmed(trimmed) => self.apply_trims(trimmed),
            What::Table(named) => self.apply_table(named),
            What::Emptied(emptied) => self.apply_emptied(&emptied),
            What::Committed(committed) => self.apply_commit(committed),
            What::GroupForgotten(name) => {
                let group = GroupName::parse(&name).map_err(|_| misfit("a group's name"))?;
                self.forget_group(&group);
                Ok(())
            }
            What::Erasures(erasures) => self.apply_erasures(erasures),
            What::Erased(erased) => {
                let partition = read_partition(&erased.table, erased.partition)?;
                self.overwrite(&partition, erased.offsets).map(drop)
            }
            What::PayloadsForgotten(forgotten) => {
                let partition = read_partition(&forgotten.table, forgotten.partition)?;
                let keys = forgotten.keys.iter().map(read_key).collect::<Result<_, _>>()?;
                self.forget_payloads(&partition, keys)
            }
        }
    }

    fn apply_appended(&mut self, appended: stored::AppendedEvents) -> Result<(), StorageError> {
        let name = read_table(&appended.table)?;
        let table = self.visible(&name)?.id;
        self.make_room();
        let is_new =
            |partition: &PartitionNumber| !self.is_known(PartitionKey { table, partition: *partition });
        let new: BTreeSet<PartitionNumber> =
            appended.runs.iter().map(|run| run.partition).filter(is_new).collect();
        let made_by = appended.made_by.map(Arc::<str>::from);
        self.make_partitions(table, new, made_by.as_ref());
        for run in appended.runs {
            let key = PartitionKey { table, partition: run.partition };
            let next = self.peek(key).watermarks.next;
            if run.first_offset != next {
                let (partition, first) = (run.partition, run.first_offset);
                return Err(misfit(format!("{name}/{partition}: offset {first}, and the next is {next}")));
            }
            self.forget_keys(run.events.len());
            for value in run.events {
                let event = codec::decode(&value)?;
                let event = EncodedEvent {
                    partition: run.partition,
                    timestamp_ms: event.timestamp_ms,
                    appended_ms: event.appended_ms,
                    key: KeyUse::of(&event),
                    key_hash: None,
                    value: value.into(),
                };
                if self.append_one(table, event, None).duplicate {
                    return Err(misfit(format!("{name}/{}: a key twice in a batch", run.partition)));
                }
            }
        }
        Ok(())
    }

    /// Refuses a segment that does not follow the one before, or passes the end.
    fn check_next_segment(&self, partition: &Partition, segment: &FlushIntent) -> Result<(), StorageError> {
        let watermarks = self.peek(self.existing(partition)?).watermarks;
        if segment.range.start == watermarks.flushed && segment.range.end <= watermarks.next {
            return Ok(());
        }
        Err(misfit(format!("{partition}: segment {} does not fit {watermarks:?}", segment.range)))
    }

    fn apply_trims(&mut self, trimmed: stored::TrimmedPartitions) -> Result<(), StorageError> {
        let mut trims = Vec::with_capacity(trimmed.partitions.len());
        for stored::TrimmedPartition { table, partition, earliest, unflushed_bytes } in trimmed.partitions {
            let partition = read_partition(&table, partition)?;
            let next = self.peek(self.existing(&partition)?).watermarks.next;
            if earliest > next {
                return Err(misfit(format!("{partition}: earliest {earliest} passes next {next}")));
            }
            trims.push(Trim { partition, earliest, unflushed_bytes });
        }
        self.change.is_listed = true;
        self.trim(trims)
    }

    fn apply_emptied(&mut self, emptied: &stored::EmptiedTable) -> Result<(), StorageError> {
        let name = read_table(&emptied.table)?;
        let table = self.visible(&name)?.id;
        for end in &emptied.ends {
            let next = self.peek(PartitionKey { table, partition: end.partition }).watermarks.next;
            if end.next != next {
                return Err(misfit(format!(
                    "{name}/{}: it ends at {}, not at {next}",
                    end.partition, end.next
                )));
            }
        }
        self.empty_table(&name, table)
    }

    fn apply_table(&mut self, named: stored::NamedTable) -> Result<(), StorageError> {
        let name = read_table(&named.name)?;
        let head = named.table.map(TableHead::of_stored).ok_or_else(|| misfit(format!("table {name}")))?;
        let id = match self.head(&name) {
            Some(known) => known.id,
            None => self.new_id(),
        };
        self.put_table(&name, TableHead { id, ..head });
        self.change.is_listed = true;
        Ok(())
    }

    fn apply_commit(&mut self, committed: stored::CommittedOffsets) -> Result<(), StorageError> {
        let group = GroupName::parse(&committed.group).map_err(|_| misfit("a group's name"))?;
        let mut offsets = Vec::with_capacity(committed.offsets.len());
        for one in committed.offsets {
            let table = self.visible(&read_table(&one.table)?)?.id;
            offsets.push((PartitionKey { table, partition: one.partition }, one.offset));
        }
        self.put_commit(&group, offsets, committed.made_by.map(Arc::from));
        Ok(())
    }

    fn apply_erasures(&mut self, erasures: stored::NotedErasures) -> Result<(), StorageError> {
        let read = |id: &[u8]| Uuid::from_slice(id).map_err(|_| misfit("an erasure's id"));
        let family = self.volume.db.family(cf::META);
        for stored::NotedErasure { id, stored } in erasures.noted {
            self.writes.put_cf(family, keys::erasure(read(&id)?), stored);
        }
        for id in erasures.forgotten {
            self.writes.delete_cf(family, keys::erasure(read(&id)?));
        }
        Ok(())
    }
}

fn misfit(what: impl Into<String>) -> StorageError {
    let what: String = what.into();
    StorageError::corrupt("an entry of the log that does not fit this volume", what)
}

fn read_table(name: &str) -> Result<TableName, StorageError> {
    TableName::parse(name).map_err(|_| misfit("a table's name"))
}

fn read_partition(table: &str, number: PartitionNumber) -> Result<Partition, StorageError> {
    Ok(Partition::new(read_table(table)?, number))
}

fn read_key(stored: &stored::ForgottenPayload) -> Result<UsedKey, StorageError> {
    let key: Hash = stored.key[..].try_into().map_err(|_| misfit("the hash of a key"))?;
    Ok((key, stored.offset))
}

fn read_segments(named: stored::NamedSegments) -> Result<Vec<(Partition, FlushIntent)>, StorageError> {
    let read = |segment: stored::NamedSegment| {
        let partition = read_partition(&segment.table, segment.partition)?;
        let bounds = segment.bounds.as_ref().and_then(read_intent);
        Ok((partition, bounds.ok_or_else(|| misfit("the bounds of a segment"))?))
    };
    named.segments.into_iter().map(read).collect()
}
