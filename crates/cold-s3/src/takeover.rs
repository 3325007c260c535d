//! The manifest chain as recovery uses it: find it, follow another writer, take it over, read what it holds.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use tracing::warn;

use super::{
    S3Cold, backup,
    chain::{self, Chain, Found},
    draft,
    manifest::{ConsumerKey, NamedLog, TableEntry},
    place::ObjectPlace,
    probe,
    state::{ColdPartition, ColdState},
};
use contracts::{
    catalog::Tables,
    clock::TimestampMs,
    error::StorageError,
    journal::ChainRecord,
    manifests::{ColdBounds, FoundManifests, LastManifest, Manifests, Takeover},
    name::{GroupName, Partition, TableName},
    recovery::{RecoveredOffset, RecoveredTable},
    replica::LogMark,
    sequence::{OffsetRange, Watermarks},
    shards::CLUSTER,
};

/// The chain as it was found.
struct FoundChain<'a> {
    cold: &'a S3Cold,
    found: Found,
}

#[async_trait]
impl FoundManifests for FoundChain<'_> {
    fn last(&self) -> Option<LastManifest> {
        let last = self.found.last.as_ref()?;
        Some(LastManifest { number: last.number, nonce: last.nonce, store_id: last.store_id })
    }

    fn partitions(&self) -> BTreeMap<Partition, ColdBounds> {
        bounds(&self.found.state)
    }

    fn log(&self) -> Option<LogMark> {
        self.found.state.log.as_ref().map(NamedLog::mark)
    }

    async fn moved_since(
        &self,
        record: &ChainRecord,
    ) -> Result<Option<BTreeSet<(GroupName, Partition)>>, StorageError> {
        let Some(last) = self.found.last.as_ref().filter(|_| !record.is_empty()) else { return Ok(None) };
        chain::consumers_since(self.cold.objects(), last.number, record).await
    }

    fn read_only(&self) {
        self.cold.start_reading(&self.found);
    }

    async fn follow(&mut self) -> Result<(), StorageError> {
        let known = std::mem::take(&mut self.found);
        self.found = chain::follow(self.cold.objects(), known).await?;
        refuse_moved(self.cold, &self.found)?;
        refuse_strays(self.cold, &self.found)
    }

    async fn take_over(&self, by: Takeover) -> Result<(), StorageError> {
        let chain = Chain::take_over(self.cold.objects().clone(), self.found.clone(), by).await?;
        self.cold.start(chain);
        Ok(())
    }
}

/// Refuses a chain that has ended because its store has moved.
fn refuse_moved(cold: &S3Cold, found: &Found) -> Result<(), StorageError> {
    let Some(last) = found.last.as_ref().filter(|last| last.moved) else { return Ok(()) };
    let place = Manifests::place(cold);
    Err(StorageError::Refused(match cold.objects().shard() {
        None => format!(
            "{place} was adopted by a cluster: manifest {} says so. Start the pods of the cluster, or take \
             the store back with zombi cluster leave. Nothing was changed",
            last.number
        ),
        Some(_) => format!(
            "{place} has left its cluster: manifest {} says so. Run zombi cluster leave again if it was cut \
             off; then start the one Zombi that took over, or begin a cluster again with zombi cluster \
             adopt. Nothing was changed",
            last.number
        ),
    }))
}

/// Refuses the chain of a shard that names a table of another: the same table would be on two shards.
fn refuse_strays(cold: &S3Cold, found: &Found) -> Result<(), StorageError> {
    let objects = cold.objects();
    let mut tables = found.state.partitions.keys().map(|partition| &partition.table);
    let Some(stray) = tables.find(|table| !objects.owns(table)) else { return Ok(()) };
    Err(StorageError::Refused(format!(
        "{} names table {stray}, which belongs to another shard: the store was dealt out with another number \
         of shards than {CLUSTER} says. Nothing was changed",
        Manifests::place(cold)
    )))
}

fn bounds(state: &ColdState) -> BTreeMap<Partition, ColdBounds> {
    let bounds =
        |cold: &ColdPartition| ColdBounds { earliest: cold.earliest, end: cold.end, lost: cold.lost.clone() };
    state.partitions.iter().map(|(partition, cold)| (partition.clone(), bounds(cold))).collect()
}

/// A name in a manifest. It was valid when the manifest was written, so anything else is damage.
fn parsed<T, E: std::fmt::Display>(name: Result<T, E>) -> Result<T, StorageError> {
    name.map_err(|error| StorageError::corrupt("the manifest chain", error.to_string()))
}

#[async_trait]
impl Manifests for S3Cold {
    fn place(&self) -> String {
        self.objects.chain_place()
    }

    async fn prepare(&self) -> Result<(), StorageError> {
        if self.create_bucket {
            self.objects.create_bucket().await?;
        }
        backup::must_be_a_store(&self.objects.of_all()).await?;
        if self.objects.is_fenced() {
            probe::probe(&self.objects).await
        } else {
            warn!(
                "s3.unfenced is set: a second Zombi that writes to this bucket and prefix will not be noticed"
            );
            probe::probe_unfenced(&self.objects).await
        }
    }

    async fn find(&self) -> Result<Box<dyn FoundManifests + '_>, StorageError> {
        let found = chain::load_last(&self.objects).await?;
        refuse_moved(self, &found)?;
        refuse_strays(self, &found)?;
        Ok(Box::new(FoundChain { cold: self, found }))
    }

    fn is_open(&self) -> bool {
        self.opened.read().is_some()
    }

    fn partitions(&self) -> Result<BTreeMap<Partition, ColdBounds>, StorageError> {
        self.with_state(bounds)
    }

    fn tables(&self) -> Result<Vec<RecoveredTable>, StorageError> {
        let entries = self.with_state(|state| state.tables.clone())?.into_values();
        let table = |entry: TableEntry| {
            Ok(RecoveredTable {
                name: parsed(TableName::parse(&entry.table))?,
                settings: entry.settings(),
                is_deleted: entry.deleted,
            })
        };
        entries.map(table).collect()
    }

    fn consumer_offsets(&self) -> Result<Vec<RecoveredOffset>, StorageError> {
        let entries = self.with_state(|state| state.consumers.clone())?.into_iter();
        let offset = |(key, offset): (ConsumerKey, _)| {
            let partition = Partition::new(parsed(TableName::parse(&key.table))?, key.partition);
            Ok(RecoveredOffset { group: parsed(GroupName::parse(&key.group))?, partition, offset })
        };
        entries.map(offset).collect()
    }

    fn segments_with_keys(
        &self,
        appended_after: TimestampMs,
    ) -> Result<Vec<(Partition, OffsetRange)>, StorageError> {
        self.with_state(|state| {
            let each = |(partition, cold): (&Partition, &ColdPartition)| {
                let wanted = cold
                    .segments
                    .iter()
                    .filter(|segment| segment.keys > 0 && segment.appended_ms > appended_after);
                wanted.map(|segment| (partition.clone(), segment.range)).collect::<Vec<_>>()
            };
            state.partitions.iter().flat_map(each).collect()
        })
    }

    async fn read_back(&self) -> Result<Option<LogMark>, StorageError> {
        let opened = self.opened()?;
        let mut chain = opened.chain().await?;
        // The chain's lock is held: no later manifest changes the state meanwhile.
        let named = opened.state.read().log.as_ref().map(NamedLog::mark);
        chain.read_back().await?;
        Ok(named)
    }

    async fn declare_lost(&self, known: &BTreeMap<Partition, Watermarks>) -> Result<(), StorageError> {
        self.change(|state| draft::lose(state, known)).await
    }

    async fn release(&self, tables: &Tables) -> Result<(), StorageError> {
        self.opened()?.chain().await?.release(|state| draft::release(state, tables)).await
    }
}
