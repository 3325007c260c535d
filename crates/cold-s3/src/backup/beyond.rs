//! What a volume has and the chain has not: to save the events of a volume that was refused or abandoned.

use std::{collections::BTreeMap, sync::Arc};

use uuid::Uuid;

use super::past::load_consistent;
use crate::{chain, fetch_whole, formats, place::ObjectPlace, state::AtOffset};
use contracts::{
    erasure::is_same_event, error::StorageError, event::Record, name::Partition, offload::offload_cold,
    segment::SegmentMeta, sequence::Offset,
};

/// The chain that a volume is compared with.
pub struct Beyond<'a> {
    place: &'a dyn ObjectPlace,
    found: chain::Found,
    /// The segment that was read last, and its events.
    read: Option<(Partition, Arc<SegmentMeta>, BTreeMap<Offset, Record>)>,
}

impl std::fmt::Debug for Beyond<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beyond").field("place", &self.place).finish_non_exhaustive()
    }
}

impl<'a> Beyond<'a> {
    /// Reads the chain of a store, or of a backup as far as it is consistent.
    ///
    /// # Errors
    /// Those of [`load_consistent`].
    pub async fn of(place: &'a dyn ObjectPlace) -> Result<Self, StorageError> {
        Ok(Self { place, found: load_consistent(place).await?, read: None })
    }

    /// The store that the chain is of, if there is one.
    pub fn store_id(&self) -> Option<Uuid> {
        self.found.last.as_ref().map(|last| last.store_id)
    }

    /// Whether the chain lists an erasure.
    pub fn lists(&self, erasure: Uuid) -> bool {
        self.found.state.erasures.contains_key(&erasure)
    }

    /// Those of a partition's records that no segment has. Below `known_upto` an offset that a segment holds
    /// is taken for the same event; from there on the events themselves are compared.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if a segment is damaged.
    pub async fn unknown(
        &mut self,
        partition: &Partition,
        records: Vec<Record>,
        known_upto: Offset,
    ) -> Result<Vec<Record>, StorageError> {
        let mut unknown = Vec::new();
        for record in records {
            let Some(cold) = self.found.state.partitions.get(partition) else {
                unknown.push(record);
                continue;
            };
            let is_known = match cold.at(record.offset) {
                // Retention or DELETE took it away.
                None => record.offset < cold.earliest,
                Some(AtOffset::Lost(_)) => false,
                Some(AtOffset::Segment(_)) if record.offset < known_upto => true,
                Some(AtOffset::Segment(meta)) => self.has(partition, &meta, &record).await?,
            };
            if !is_known {
                unknown.push(record);
            }
        }
        Ok(unknown)
    }

    /// Whether a segment has this very event, or what an erasure has left of it.
    async fn has(
        &mut self,
        partition: &Partition,
        meta: &Arc<SegmentMeta>,
        record: &Record,
    ) -> Result<bool, StorageError> {
        let is_read =
            self.read.as_ref().is_some_and(|(of, read, _)| of == partition && Arc::ptr_eq(read, meta));
        if !is_read {
            let (segment, stored) = fetch_whole(self.place, partition, Arc::clone(meta)).await?;
            let decoded = offload_cold(move || {
                let mut events = BTreeMap::new();
                let mut take = |record: Record| _ = events.insert(record.offset, record);
                formats::of(&segment.meta)?.decode(&segment, &stored, &mut take)?;
                Ok(events)
            });
            let events = decoded.await?;
            self.read = Some((partition.clone(), Arc::clone(meta), events));
        }
        let read = self.read.as_ref();
        let found = read.and_then(|(_, _, events)| events.get(&record.offset));
        Ok(found.is_some_and(|found| is_same_event(record, found)))
    }
}
