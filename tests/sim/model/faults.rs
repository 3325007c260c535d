//! What a store must survive: crashes, a write that is its last, a lost volume.

use std::collections::BTreeMap;

use contracts::{
    append::{Append, Appender},
    error::StorageError,
    name::Partition,
    sequence::OffsetRange,
};

use super::ModelWorld;
use crate::{
    ground::VolumeGround,
    store::{group, table},
};

impl ModelWorld {
    pub(super) async fn crash(&mut self) {
        self.store.take().unwrap().crash().await;
        self.bucket.heal();
        self.open().await;
        self.check().await;
    }

    pub(super) async fn fail_write(&mut self, is_applied: bool) {
        let Some(twin) = self.store().twin.clone() else { return };
        twin.fail(is_applied);
        let events = [(0, None), (1, Some(5)), (0, Some(5))];
        let made = self.events(&events);
        let sent = made.iter().map(|(partition, event, _)| (*partition, event.clone())).collect();
        let append = Append { table: table(), events: sent, expected_offset: None, made_by: None };
        let answer = twin.append(append).await;
        // Somebody else's write may have been the last one.
        let is_ours = matches!(answer, Err(StorageError::OutcomeUnknown { .. }));
        assert!(answer.is_err());
        if is_applied && is_ours {
            self.note(&events, &made);
        }
        drop(twin);
        self.crash().await;
    }

    pub(super) async fn lose_volume(&mut self) {
        if self.had_trouble {
            return; // documented: S3 away, and then the volume lost before it is back
        }
        self.store.take().unwrap().crash().await;
        self.bucket.heal();
        self.volumes += 1;
        self.ground = match self.ground {
            VolumeGround::Memory(_) => VolumeGround::memory(self.volumes),
            VolumeGround::RocksDb(_) => VolumeGround::rocksdb(),
        };
        self.open().await;
        let store = self.store.as_ref().unwrap();
        let watermarks: BTreeMap<_, _> = store
            .hot
            .tables()
            .partitions()
            .map(|(partition, status)| (partition.number, status.watermarks))
            .collect();
        let committed: BTreeMap<_, _> = store.hot.offsets(&group()).await.unwrap().into_iter().collect();
        for (number, sheet) in &mut self.sheets {
            let (partition, watermarks) =
                (Partition::new(table(), *number), watermarks.get(number).copied().unwrap_or_default());
            assert!(
                watermarks.next >= sheet.next,
                "{partition}: {watermarks:?} gives offsets again, {} were given",
                sheet.next
            );
            let lost = store.reader.lost(&partition, OffsetRange::new(0, watermarks.next));
            let end = lost
                .iter()
                .map(|range| range.start)
                .filter(|start| *start >= sheet.cold)
                .min()
                .unwrap_or(watermarks.next);
            assert!(sheet.cold <= end, "{partition}: {} was cold, {lost:?} is lost", sheet.cold);
            sheet.events.split_off(&end);
            sheet.next = watermarks.next;
            sheet.keys.retain(|_, (offset, _)| *offset < end);
            let found = committed.get(&partition).copied();
            assert!(sheet.commits.contains(&found), "{partition}: {found:?} is committed, {sheet:?}");
            sheet.committed = found;
            sheet.earliest = watermarks.earliest;
        }
        // A table that was deleted, and not flushed since it was written again, is as it was.
        self.exists = store.hot.table(&table()).is_some();
        assert!(self.exists || self.sheets.values().all(|sheet| sheet.events.is_empty()));
        self.everything_is_cold();
        self.check().await;
    }
}
