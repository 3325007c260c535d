//! What an entry of the shard's log changes on this volume: what the owner's writer has decided, staged once
//! more. What does not fit the volume is damage, and nothing of the entry is written.
//!
//! A volume that was recovered from S3 may know already what the next entries say, and what later ones do. Of
//! those the events, segments and ends that it knows are passed over, but for the keys of the events; all
//! else is made as the entry says, and is right again once the last of them is applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message;
use uuid::Uuid;

use super::{Ack, Batch};
use crate::{
    catalog::TableHead,
    codec,
    keys::{self, PartitionKey, TableId, cf, meta},
    request::{EncodedEvent, WriterReply},
    sequence::read_intent,
    stored::{self, change::What},
};
use contracts::{
    catalog::TableSettings,
    erasure::{Erasure, ErasureStatus, UsedKey},
    error::StorageError,
    idempotency::{FirstWrite, Hash, KeyUse},
    name::{GroupName, Partition, PartitionNumber, TableName},
    replica::AppliedEntry,
    retention::Trim,
    segment::FlushIntent,
    sequence::{Offset, OffsetRange},
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
        self.may_be_known = mark.may_be_known();
        self.was_recovered = mark.known_upto > 0;
        let own_ms = std::mem::replace(&mut self.now_ms, now_ms);
        let changes = changes.map(stored::BatchChanges::decode).transpose();
        let changes = changes.map_err(|error| StorageError::corrupt("an entry of the log", error))?;
        for change in changes.into_iter().flat_map(|batch| batch.changes) {
            // A newer program's change is one that this program cannot make.
            let what = change.what.ok_or_else(unknown_change)?;
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
                let intents = self.not_flushed(read_segments(named)?)?;
                self.mark_before(&intents)?;
                for (partition, intent) in &intents {
                    self.check_next_segment(partition, intent)?;
                }
                self.plan(intents)
            }
            What::Flushed(named) => {
                let segments = self.not_flushed(read_segments(named)?)?;
                self.mark_before(&segments)?;
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
        let table = self.named_table(&name)?;
        self.make_room();
        let is_new =
            |partition: &PartitionNumber| !self.is_known(PartitionKey { table, partition: *partition });
        let new: BTreeSet<PartitionNumber> =
            appended.runs.iter().map(|run| run.partition).filter(is_new).collect();
        let made_by = appended.made_by.map(Arc::<str>::from);
        self.make_partitions(table, new, made_by.as_ref());
        for run in appended.runs {
            self.apply_run(&name, table, run)?;
        }
        Ok(())
    }

    fn apply_run(
        &mut self,
        name: &TableName,
        table: TableId,
        run: stored::AppendedRun,
    ) -> Result<(), StorageError> {
        let stored::AppendedRun { partition, first_offset, events } = run;
        let key = PartitionKey { table, partition };
        let next = self.peek(key).watermarks.next;
        let known_upto = if self.may_be_known { next.max(first_offset) } else { first_offset };
        if known_upto != next {
            return Err(misfit(format!("{name}/{partition}: offset {first_offset}, and the next is {next}")));
        }
        self.forget_keys(events.len());
        for (offset, value) in (first_offset..).zip(events) {
            let event = codec::decode(&value)?;
            let event = EncodedEvent {
                partition,
                timestamp_ms: event.timestamp_ms,
                appended_ms: event.appended_ms,
                key: KeyUse::of(&event),
                key_hash: None,
                value: value.into(),
            };
            if offset < known_upto {
                self.put_known_key(key, offset, event.key)?;
            } else if self.append_one(table, event, None).duplicate {
                return Err(misfit(format!("{name}/{partition}: a key twice in a batch")));
            }
        }
        Ok(())
    }

    /// Stores the key of an event that this volume knows, unless it has that key, or has seen it used again:
    /// a key that is stored is counted once.
    fn put_known_key(
        &mut self,
        key: PartitionKey,
        offset: Offset,
        used: Option<KeyUse>,
    ) -> Result<(), StorageError> {
        let Some(used) = used else { return Ok(()) };
        let stored_key = keys::idempotency(key, used.key);
        let known = match self.first_writes.get(&stored_key) {
            Some(first) => Some(*first),
            None if self.forgotten.contains(&key.table) => None,
            None => self.stored_first_writes(&[stored_key])?.pop().flatten(),
        };
        if known.is_none_or(|first| first.offset < offset) {
            let first = FirstWrite { offset, appended_ms: self.now_ms, payload: Some(used.payload) };
            self.put_key(stored_key, first);
        }
        Ok(())
    }

    /// The id of a table that an entry names. While entries may be known it may have been deleted, by a later
    /// one. S3 does not name a table that has no events and no settings of its own: where the volume was
    /// recovered from there, it is made.
    fn named_table(&mut self, name: &TableName) -> Result<TableId, StorageError> {
        match self.head(name) {
            Some(head) if !head.is_deleted || self.may_be_known => Ok(head.id),
            None if self.was_recovered => {
                let (id, settings) = (self.new_id(), TableSettings::default());
                let head =
                    TableHead { id, settings, is_deleted: false, made_by: None, keys_elsewhere: false };
                self.put_table(name, head);
                Ok(id)
            }
            _ => Err(misfit(format!("there is no table {name}"))),
        }
    }

    /// The segments without those that this volume knows to be flushed, where it may.
    fn not_flushed(
        &self,
        mut segments: Vec<(Partition, FlushIntent)>,
    ) -> Result<Vec<(Partition, FlushIntent)>, StorageError> {
        if self.may_be_known {
            let mut flushed = Vec::with_capacity(segments.len());
            for (partition, _) in &segments {
                flushed.push(self.peek(self.existing(partition)?).watermarks.flushed);
            }
            let mut flushed = flushed.into_iter();
            segments
                .retain(|(_, segment)| flushed.next().is_some_and(|flushed| flushed <= segment.range.start));
        }
        Ok(segments)
    }

    /// Marks as flushed what lies before segments. An owner that was recovered from S3 knows segments that no
    /// entry has marked, as the owner that wrote them ended before it could: it goes on behind them.
    fn mark_before(&mut self, segments: &[(Partition, FlushIntent)]) -> Result<(), StorageError> {
        let mut before = Vec::new();
        for (partition, segment) in segments {
            let state = self.peek(self.existing(partition)?);
            let (watermarks, end) = (state.watermarks, segment.range.start);
            if end <= watermarks.flushed || end > watermarks.next {
                continue;
            }
            let range = OffsetRange::new(watermarks.flushed, end);
            let intent = state.intent.filter(|intent| intent.range == range);
            let bytes = intent.map_or(0, |intent| intent.bytes);
            before.push((partition.clone(), FlushIntent { range, bytes, ..*segment }));
        }
        self.mark_flushed(before)
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
        let table = self.named_table(&name)?;
        let (mut known, mut ends) = (self.ends(&name, table), BTreeMap::new());
        for stored::PartitionEnd { partition, next: end } in &emptied.ends {
            let key = PartitionKey { table, partition: *partition };
            let found = known.remove(&key);
            let next = found.unwrap_or_default();
            // What a later entry has brought stays.
            if *end != next && !(self.may_be_known && *end < next) {
                return Err(misfit(format!("{name}/{partition}: it ends at {end}, not at {next}")));
            }
            if found.is_some() {
                ends.insert(key, *end);
            }
        }
        // So does a partition that a later entry has begun.
        let unnamed = known.into_iter().find(|(_, next)| *next > 0);
        if let Some((PartitionKey { partition, .. }, next)) = unnamed.filter(|_| !self.may_be_known) {
            return Err(misfit(format!("{name}/{partition}: it ends at {next}, and is not named")));
        }
        self.empty_table(&name, table, ends)
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
            let table = self.named_table(&read_table(&one.table)?)?;
            offsets.push((PartitionKey { table, partition: one.partition }, one.offset));
        }
        self.put_commit(&group, offsets, committed.made_by.map(Arc::from));
        Ok(())
    }

    fn apply_erasures(&mut self, erasures: stored::NotedErasures) -> Result<(), StorageError> {
        let read = |id: &[u8]| Uuid::from_slice(id).map_err(|_| misfit("an erasure's id"));
        let family = self.volume.db.family(cf::META);
        for stored::NotedErasure { id, stored } in erasures.noted {
            self.note_what_is_erased(&Erasure::decode(&stored)?)?;
            self.writes.put_cf(family, keys::erasure(read(&id)?), stored);
        }
        for id in erasures.forgotten {
            self.writes.delete_cf(family, keys::erasure(read(&id)?));
        }
        Ok(())
    }

    /// Where an entry says that the owner's volume holds nothing of an erasure's events any more, all entries
    /// that overwrite them were before: what they have not overwritten here is, and what is left is in this
    /// volume's files.
    fn note_what_is_erased(&mut self, erasure: &Erasure) -> Result<(), StorageError> {
        if erasure.status() == ErasureStatus::HotDone {
            for (partition, part) in erasure.partitions() {
                if let Some(span) = part.span() {
                    self.overwrite_the_rest(&partition, part)?;
                    self.note_unscrubbed(&partition, span)?;
                }
            }
        }
        Ok(())
    }
}

fn unknown_change() -> StorageError {
    StorageError::Refused(
        "an entry of the shard's log has a change that this program does not know: a newer program is at \
         work. Nothing was changed. Start the newer program on this pod too"
            .to_owned(),
    )
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
