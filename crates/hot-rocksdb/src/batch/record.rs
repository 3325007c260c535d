//! What a batch tells the shard's log: for each request that was staged, what it changes. Nothing where there
//! is no log.

use bytes::Bytes;
use uuid::Uuid;

use super::Batch;
use crate::{
    request::{EraseRequest, Request},
    stored::{self, change::What},
};
use contracts::{
    erasure::UsedKey,
    name::{Partition, PartitionNumber, TableName},
    segment::FlushIntent,
    sequence::Offset,
};

impl Batch<'_> {
    /// Adds a change to what the batch tells the log.
    pub(super) fn record(&mut self, change: impl FnOnce() -> What) {
        if self.is_entered {
            self.changes.push(stored::Change { what: Some(change()) });
        }
    }

    /// Adds what a request changes, where that follows from the request. An append, tables and groups are
    /// added where they are decided. If the request is refused, all of it is taken back.
    pub(super) fn record_request(&mut self, request: &Request) {
        self.request_began = self.changes.len();
        if !self.is_entered {
            return;
        }
        let what = match request {
            Request::Intend { intents, .. } => What::Intended(named_segments(intents)),
            Request::MarkFlushed { segments, .. } => What::Flushed(named_segments(segments)),
            Request::Trim { trims, .. } => {
                let trimmed = trims.iter().map(|trim| stored::TrimmedPartition {
                    table: trim.partition.table.to_string(),
                    partition: trim.partition.number,
                    earliest: trim.earliest,
                    unflushed_bytes: trim.unflushed_bytes,
                });
                What::Trimmed(stored::TrimmedPartitions { partitions: trimmed.collect() })
            }
            Request::Commit { commit, .. } => {
                let offset = |(partition, offset): &(Partition, Offset)| stored::CommittedOffset {
                    table: partition.table.to_string(),
                    partition: partition.number,
                    offset: *offset,
                };
                What::Committed(stored::CommittedOffsets {
                    group: commit.group.to_string(),
                    made_by: commit.made_by.as_ref().map(|maker| maker.principal.to_string()),
                    offsets: commit.offsets.iter().map(offset).collect(),
                })
            }
            Request::Erase(request) => match recorded_erasure(request) {
                Some(what) => what,
                None => return,
            },
            _ => return,
        };
        self.record(|| what);
    }

    /// Takes back what was added for the request that is being staged.
    pub(super) fn unrecord(&mut self) {
        self.changes.truncate(self.request_began);
        self.appended_runs.clear();
    }

    /// Adds a new event as it was stored to what the append changes.
    pub(super) fn record_event(&mut self, partition: PartitionNumber, offset: Offset, value: Vec<u8>) {
        if self.is_entered {
            let new = || stored::AppendedRun { partition, first_offset: offset, events: Vec::new() };
            self.appended_runs.entry(partition).or_insert_with(new).events.push(Bytes::from(value));
        }
    }

    /// Adds the events of an append, if any of them were new.
    pub(super) fn record_appended(&mut self, table: &TableName, made_by: Option<&str>) {
        let runs: Vec<_> = std::mem::take(&mut self.appended_runs).into_values().collect();
        if !runs.is_empty() {
            let (table, made_by) = (table.to_string(), made_by.map(str::to_owned));
            self.record(|| What::Appended(stored::AppendedEvents { table, made_by, runs }));
        }
    }
}

/// What an erasure's request changes on all copies, if anything.
fn recorded_erasure(request: &EraseRequest) -> Option<What> {
    let what = match request {
        EraseRequest::Note { noted, forgotten, .. } => {
            let note = |(id, stored): &(Uuid, Vec<u8>)| stored::NotedErasure {
                id: Bytes::copy_from_slice(id.as_bytes()),
                stored: Bytes::copy_from_slice(stored),
            };
            What::Erasures(stored::NotedErasures {
                noted: noted.iter().map(note).collect(),
                forgotten: forgotten.iter().map(|id| Bytes::copy_from_slice(id.as_bytes())).collect(),
            })
        }
        // What was asked for, not what was found: each copy has other events in hot.
        EraseRequest::Overwrite { partition, offsets, .. } => What::Erased(stored::ErasedEvents {
            table: partition.table.to_string(),
            partition: partition.number,
            offsets: offsets.clone(),
        }),
        EraseRequest::ForgetPayloads { partition, keys, .. } => {
            let key = |(hash, offset): &UsedKey| stored::ForgottenPayload {
                key: Bytes::copy_from_slice(hash),
                offset: *offset,
            };
            What::PayloadsForgotten(stored::ForgottenPayloads {
                table: partition.table.to_string(),
                partition: partition.number,
                keys: keys.iter().map(key).collect(),
            })
        }
        EraseRequest::Scrubbed { .. } => return None,
    };
    Some(what)
}

fn named_segments(segments: &[(Partition, FlushIntent)]) -> stored::NamedSegments {
    let named = |(partition, intent): &(Partition, FlushIntent)| stored::NamedSegment {
        table: partition.table.to_string(),
        partition: partition.number,
        bounds: Some((*intent).into()),
    };
    stored::NamedSegments { segments: segments.iter().map(named).collect() }
}
