//! Gauges computed at scrape time: sizes, ages, lags.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex, task::JoinError};

use contracts::{
    catalog::{PartitionStatus, TableStatus, Tables},
    consumers::OffsetsOfGroup,
    engine::Engine,
    erasure::Erasures,
    gauge::{self, Gauge},
    idempotency::KeyWindow,
    metrics::{self, AwaitedBudget, ConsumerLag, StoreGauges},
    name::{GroupName, Partition, TableName},
    offload::offload,
    sequence::{Offset, OffsetRange},
};
use tiering::TieredReader;

use super::memory::Budget;
use crate::prometheus;

/// At most this many consumer lags are shown, the largest: clients choose the names of groups, and each name
/// is a label.
const MAX_LAGS: usize = 200;

/// One of the open stores.
#[derive(Clone)]
pub struct SeenStore {
    /// Tables, sizes, committed offsets.
    pub engine: Arc<dyn Engine>,
    /// Lost ranges.
    pub reader: TieredReader,
    /// Erasures that are not done.
    pub erasures: Arc<dyn Erasures>,
}

/// The open stores: one, or the shards of a pod, whose numbers are added up.
pub struct ObservedStore {
    /// All that are open now.
    pub stores: Box<dyn Fn() -> Vec<SeenStore> + Send + Sync>,
    /// The volumes, those of copies too that own no shard now.
    pub volumes: Vec<Arc<dyn Engine>>,
    /// Stored bytes of events beyond which each store refuses writes.
    pub store_max_bytes: u64,
    /// For how long idempotency keys are to be remembered, in milliseconds.
    pub key_window_ms: u64,
    /// The memory that bodies being received may take.
    pub inflight: Arc<Budget>,
    /// The memory that answers being sent may take.
    pub responses: Arc<Budget>,
    /// Held by the scrape that is being served.
    pub turn: Mutex<()>,
}

/// What a group has read of a table.
#[derive(Default)]
struct ReadSoFar {
    /// Events before its committed offsets.
    events: u64,
    /// The sum of its committed offsets.
    committed: u64,
}

impl ObservedStore {
    /// Updates the gauges, and returns the consumer lags as text: their labels change, so they are rendered
    /// anew each time. Scrapes are served one at a time, on a thread where they delay no request.
    pub async fn show(self: &Arc<Self>) -> String {
        let _turn = self.turn.lock().await;
        let stores = (self.stores)();
        let mut offsets = Vec::with_capacity(stores.len());
        for store in &stores {
            offsets.push(store.engine.all_offsets().await.unwrap_or_default());
        }
        let this = Arc::clone(self);
        offload(move || this.look(&stores, offsets)).await.unwrap_or_default()
    }

    fn look(&self, stores: &[SeenStore], offsets: Vec<Vec<OffsetsOfGroup>>) -> String {
        let groups: BTreeSet<GroupName> = offsets.iter().flatten().map(|(group, _)| group.clone()).collect();
        let mut gauges = StoreGauges {
            groups: groups.len() as u64,
            max_bytes: self.store_max_bytes.saturating_mul(stores.len() as u64),
            // It shrinks to the shortest: what is remembered everywhere.
            keys: KeyWindow { window_ms: self.key_window_ms, ..KeyWindow::default() },
            key_window_setting_ms: self.key_window_ms,
            ..StoreGauges::default()
        };
        let mut of_volumes: Vec<Gauge> = Vec::new();
        self.volumes.iter().for_each(|volume| gauge::fold(&mut of_volumes, volume.gauges()));
        let mut lags = Vec::new();
        for (store, offsets) in stores.iter().zip(offsets) {
            let tables = store.engine.tables();
            store.add_to(&mut gauges, &tables);
            lags.extend(store.lags(&tables, offsets));
        }
        metrics::store(gauges);
        metrics::engine(&of_volumes);
        self.show_waiting(stores);
        lags.sort_by_key(|one| std::cmp::Reverse(one.lag));
        lags.truncate(MAX_LAGS);
        prometheus::consumer_lags(&lags)
    }

    fn show_waiting(&self, stores: &[SeenStore]) {
        let reads = stores.iter().map(|store| store.reader.waiting());
        let (hot, cold) = reads.fold((0, 0), |sum, one| (sum.0 + one.hot, sum.1 + one.cold));
        metrics::budget_waiting(AwaitedBudget::Memory, self.inflight.waiting());
        metrics::budget_waiting(AwaitedBudget::Answers, self.responses.waiting());
        metrics::budget_waiting(AwaitedBudget::HotReads, hot);
        metrics::budget_waiting(AwaitedBudget::ColdReads, cold);
    }
}

impl SeenStore {
    /// What the store holds. Every partition is looked at, on a thread where that delays no request.
    ///
    /// # Errors
    /// The look has failed.
    pub async fn held(self) -> Result<StoreGauges, JoinError> {
        let keys = KeyWindow { window_ms: u64::MAX, ..KeyWindow::default() };
        let mut held = StoreGauges { keys, ..StoreGauges::default() };
        offload(move || {
            self.add_to(&mut held, &self.engine.tables());
            held
        })
        .await
    }

    /// Adds what the store holds.
    fn add_to(&self, gauges: &mut StoreGauges, tables: &Tables) {
        gauges.tables += tables.visible().count() as u64;
        let keys = self.engine.key_window();
        gauges.keys.keys += keys.keys;
        gauges.keys.bytes += keys.bytes;
        gauges.keys.window_ms = gauges.keys.window_ms.min(keys.window_ms);
        for (partition, status) in tables.visible().flat_map(|table| table.named_partitions()) {
            gauges.partitions += 1;
            gauges.bytes += status.hot_bytes;
            gauges.unflushed_bytes += status.unflushed_bytes;
            gauges.unflushed_events += status.watermarks.unflushed().len();
            gauges.unflushed_for = gauges
                .unflushed_for
                .max(status.unflushed_since.map_or(Duration::ZERO, |since| since.elapsed()));
            let kept = OffsetRange::new(status.watermarks.earliest, status.watermarks.next);
            gauges.lost += kept.len() - self.reader.events_in(&partition, kept);
        }
        let erasures = self.erasures.pending();
        gauges.erasures.count += erasures.count;
        gauges.erasures.oldest = gauges.erasures.oldest.max(erasures.oldest);
    }

    /// By group and table, the largest first. A group has not read the partitions that it has never
    /// committed, so its lag in a table is all of the table's events except those before its committed
    /// offsets.
    fn lags(&self, tables: &Tables, offsets: Vec<OffsetsOfGroup>) -> Vec<ConsumerLag> {
        let mut whole: BTreeMap<TableName, u64> = BTreeMap::new();
        let visible = |name: &TableName| tables.get(name).filter(|table| !table.is_deleted);
        let events_of = |table: &TableStatus| {
            table.named_partitions().map(|(partition, status)| self.events(&partition, status, None)).sum()
        };
        let mut lags: Vec<ConsumerLag> = Vec::new();
        for (group, offsets) in offsets {
            let mut of_tables: BTreeMap<TableName, ReadSoFar> = BTreeMap::new();
            for (partition, offset) in offsets {
                let table = visible(&partition.table);
                let status = table.and_then(|table| table.partition(partition.number));
                let events = status.map_or(0, |status| self.events(&partition, status, Some(offset)));
                let read = of_tables.entry(partition.table).or_default();
                read.events += events;
                read.committed += offset;
            }
            for (table, read) in of_tables {
                let events = *whole
                    .entry(table.clone())
                    .or_insert_with(|| visible(&table).map_or(0, |table| events_of(table)));
                let (group, lag) = (group.clone(), events.saturating_sub(read.events));
                lags.push(ConsumerLag { group, table, lag, committed: read.committed });
            }
        }
        lags.sort_by_key(|one| std::cmp::Reverse(one.lag));
        lags.truncate(MAX_LAGS);
        lags
    }

    /// How many events a partition has before an offset; without an offset, how many it has.
    fn events(&self, partition: &Partition, status: &PartitionStatus, before: Option<Offset>) -> u64 {
        let watermarks = status.watermarks;
        let end = before.unwrap_or(watermarks.next).clamp(watermarks.earliest, watermarks.next);
        self.reader.events_in(partition, OffsetRange::new(watermarks.earliest, end))
    }
}
