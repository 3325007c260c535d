//! What is looked up when metrics are asked for, as it is nobody's to count: sizes, ages, lags.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    contracts::{
        consumers::ConsumerStorage,
        name::{GroupName, Partition, TableName},
        sequence::{Offset, OffsetRange},
        storage::{HotStorage, TableStatus},
    },
    metrics::{self, Held},
    reader::TieredReader,
};

/// Consumer lags that are shown at most, the largest ones: names of groups are the clients' to choose.
const MAX_LAGS: usize = 200;

/// The open store.
pub struct Observed {
    /// Tables and sizes.
    pub hot: Arc<dyn HotStorage>,
    /// Committed offsets.
    pub consumers: Arc<dyn ConsumerStorage>,
    /// Lost ranges.
    pub reader: TieredReader,
}

impl Observed {
    /// Brings the metrics up to date; answers those that are made anew each time.
    pub async fn show(&self) -> String {
        let tables = self.hot.tables();
        metrics::held(self.held(&tables));
        metrics::engine(&self.hot.engine_numbers());
        let lags = self.lags(&tables).await;
        metrics::consumer_lags(lags.iter().map(|((group, table), lag)| (group.as_str(), table.as_str(), *lag)))
    }

    fn held(&self, tables: &[TableStatus]) -> Held {
        let mut held = Held { tables: tables.len() as u64, ..Held::default() };
        for (partition, status) in tables.iter().flat_map(TableStatus::named_partitions) {
            held.bytes += status.hot_bytes;
            held.unflushed_bytes += status.unflushed_bytes;
            held.unflushed_events += status.marks.unflushed().len();
            held.unflushed_for = held.unflushed_for.max(status.unflushed_for.unwrap_or(Duration::ZERO));
            let kept = OffsetRange::new(status.marks.start, status.marks.next);
            held.lost += kept.len() - self.reader.events_in(&partition, kept);
        }
        held
    }

    /// By group and table, the largest first; none if they cannot be read.
    async fn lags(&self, tables: &[TableStatus]) -> Vec<((GroupName, TableName), u64)> {
        let ends: BTreeMap<Partition, Offset> =
            tables.iter().flat_map(TableStatus::named_partitions).map(|(partition, status)| (partition, status.marks.next)).collect();
        let mut lags: BTreeMap<(GroupName, TableName), u64> = BTreeMap::new();
        for group in self.consumers.groups().await.unwrap_or_default() {
            for (partition, offset) in self.consumers.offsets(&group).await.unwrap_or_default() {
                let end = ends.get(&partition).copied().unwrap_or(offset).max(offset);
                let left = OffsetRange::new(offset, end);
                let lag = self.reader.events_in(&partition, left);
                *lags.entry((group.clone(), partition.table)).or_default() += lag;
            }
        }
        let mut lags: Vec<_> = lags.into_iter().collect();
        lags.sort_by_key(|(_, lag)| std::cmp::Reverse(*lag));
        lags.truncate(MAX_LAGS);
        lags
    }
}
