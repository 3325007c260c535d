//! A volume of a test with its writer, as a copy of a shard, and a log of batches in memory.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::watch, task, time::sleep};
use uuid::Uuid;

use crate::{HotParts, RocksHot, request::WriterOptions};
use contracts::{
    append::{Append, Appended, Appender},
    catalog::{Catalog, TableStatus},
    clock::{SystemClock, TimestampMs},
    consumers::ConsumerStorage,
    engine::Engine,
    erasure::HotErase,
    error::StorageError,
    event::{Event, IdempotencyKey},
    maker::{Maker, MakerLimits},
    name::{GroupName, Partition, TableName},
    payload::Payload,
    read::{HotReader, ReadLimit, Wanted},
    recovery::{Recoverable, Recovered, RecoveredOffset, RecoveredPartition, RecoveredTable},
    replica::{AppliedEntry, BatchLog, LogMark, Replica, WriterRole},
    segment::{FlushIntent, FormatId},
    sequence::{OffsetRange, Watermarks},
};

/// How long keys are remembered.
const WINDOW_MS: i64 = 3_600_000;

/// How long a client waits for a log that says nothing.
const PATIENCE: Duration = Duration::from_millis(50);

/// A log of batches, which takes them or refuses them, or says nothing for a while.
#[derive(Debug, Default)]
pub(super) struct Entered {
    pub(super) entries: Mutex<Vec<AppliedEntry>>,
    pub(super) refuses: Mutex<Option<StorageError>>,
    pub(super) is_silent: watch::Sender<bool>,
}

#[async_trait]
impl BatchLog for Entered {
    async fn enter(&self, now_ms: TimestampMs, changes: Option<Bytes>) -> Result<LogMark, StorageError> {
        drop(self.is_silent.subscribe().wait_for(|is_silent| !is_silent).await);
        if let Some(refused) = self.refuses.lock().clone() {
            return Err(refused);
        }
        let mut entries = self.entries.lock();
        let mark = LogMark { applied: entries.len() as u64 + 1, ..LogMark::beginning(Uuid::from_u128(1)) };
        entries.push(AppliedEntry { now_ms, changes, mark: mark.clone() });
        Ok(mark)
    }

    fn check(&self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn out_of_patience(&self) {
        let is_silent = *self.is_silent.borrow();
        if is_silent { sleep(PATIENCE).await } else { pending().await }
    }
}

/// A volume with its writer.
pub(super) struct TestCopy {
    pub(super) hot: Arc<RocksHot>,
    writer: task::JoinHandle<Result<(), StorageError>>,
    directory: tempfile::TempDir,
}

impl TestCopy {
    pub(super) fn new(role: WriterRole) -> Self {
        Self::on(tempfile::tempdir().unwrap(), role)
    }

    /// On the volume in a directory, if there is one.
    fn on(directory: tempfile::TempDir, role: WriterRole) -> Self {
        let parts = HotParts::roomy(directory.path(), WINDOW_MS, SystemClock::shared()).unwrap();
        let (hot, writer) = RocksHot::new(parts, WriterOptions::roomy(WINDOW_MS)).unwrap();
        hot.set_role(role);
        Self { hot, writer: task::spawn(writer.run()), directory }
    }

    /// Appends an event for each key; those with long keys to partition 1.
    pub(super) async fn append(&self, table: &str, keys: &[&str]) -> Result<Vec<Appended>, StorageError> {
        let made_by = Some(Maker { principal: "token:ci".into(), limits: MakerLimits::default() });
        let events = keys.iter().map(|key| (u32::from(key.len() > 1), event(key))).collect();
        self.hot.append(Append { table: name(table), events, expected_offset: None, made_by }).await
    }

    /// All that the copies of a shard have alike.
    pub(super) async fn contents(&self) -> String {
        let (mut lines, tables) = (vec![self.recoverable().await], self.hot.tables());
        for (partition, status) in tables.partitions() {
            lines.push(format!("{partition} {:?} {}", status.intent, status.unflushed_bytes));
        }
        lines.push(format!("{} {:?}", self.hot.key_window().keys, self.hot.erasures().unwrap()));
        lines.join("\n")
    }

    /// What one has too that was recovered from S3.
    pub(super) async fn recoverable(&self) -> String {
        let mut lines = Vec::new();
        for table in self.hot.tables().all() {
            lines.push(format!("{} {:?} {}", table.name, table.settings, table.is_deleted));
            for (partition, status) in table.named_partitions() {
                let marks = status.watermarks;
                lines.push(format!("{partition} {:?}", (marks.earliest, marks.flushed, marks.next)));
            }
            if !table.is_deleted {
                let limit = ReadLimit { records: 100, bytes: 1 << 20 };
                let from = table.partitions.iter().map(|one| (one.number, one.watermarks.low)).collect();
                let pages = self.hot.read(&table.name, from, Wanted::all(limit)).await.unwrap();
                lines.extend(pages.iter().map(|hot| format!("{:?}", hot.page.records)));
            }
        }
        lines.push(format!("{:?}", self.hot.all_offsets().await.unwrap()));
        lines.join("\n")
    }

    /// What S3 would have of it now: all that is flushed.
    pub(super) async fn in_s3(&self) -> Recovered {
        let tables = self.hot.tables();
        let table = |table: &Arc<TableStatus>| RecoveredTable {
            name: table.name.clone(),
            settings: table.settings,
            is_deleted: table.is_deleted,
        };
        let flushed = |(partition, marks): (Partition, Watermarks)| {
            let Watermarks { earliest, flushed: end, .. } = marks;
            let watermarks = Watermarks { earliest, low: end, flushed: end, next: end };
            RecoveredPartition { partition, watermarks, hot_bytes: 0 }
        };
        let of_group = |(group, offsets): (GroupName, Vec<(Partition, u64)>)| {
            let offset =
                move |(partition, offset)| RecoveredOffset { group: group.clone(), partition, offset };
            offsets.into_iter().map(offset)
        };
        Recovered {
            tables: tables.all().map(table).collect(),
            partitions: tables.watermarks().into_iter().map(flushed).collect(),
            consumers: Some(self.hot.all_offsets().await.unwrap().into_iter().flat_map(of_group).collect()),
        }
    }

    /// Recovers it as a copy that has the log up to `from`, from S3 as it was when that had entries up to
    /// `upto`, and applies the rest.
    pub(super) async fn recover(&self, in_s3: Recovered, (from, upto): (usize, usize), log: &Entered) {
        self.hot.recover(in_s3).await.unwrap();
        let beginning = LogMark::beginning(Uuid::from_u128(1));
        let mark = LogMark { applied: from as u64, known_upto: upto as u64, ..beginning };
        self.hot.apply(AppliedEntry { now_ms: 0, changes: None, mark }).await.unwrap();
        let entries = log.entries.lock()[from..].to_vec();
        for entry in entries {
            let mark = LogMark { known_upto: upto as u64, ..entry.mark.clone() };
            self.hot.apply(AppliedEntry { mark, ..entry }).await.unwrap();
        }
    }

    pub(super) async fn apply_all(&self, log: &Entered) -> Result<(), StorageError> {
        self.apply_from(log, 0).await
    }

    pub(super) async fn apply_from(&self, log: &Entered, first: usize) -> Result<(), StorageError> {
        let entries = log.entries.lock()[first..].to_vec();
        for entry in entries {
            self.hot.apply(entry).await?;
        }
        Ok(())
    }

    /// Ends it, and begins again on its volume.
    pub(super) async fn reopen(self, role: WriterRole) -> Self {
        let Self { hot, writer, directory } = self;
        drop(hot);
        writer.await.unwrap().unwrap();
        Self::on(directory, role)
    }

    /// How many of the volume's files hold a text.
    pub(super) fn holders(&self, text: &str) -> usize {
        let files = std::fs::read_dir(self.directory.path().join("db")).unwrap();
        let holds = |path: &std::path::PathBuf| {
            let text = text.as_bytes();
            std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text))
        };
        files.map(|file| file.unwrap().path()).filter(holds).count()
    }

    pub(super) async fn close(self) {
        drop(self.hot);
        self.writer.await.unwrap().unwrap();
    }
}

pub(super) fn name(table: &str) -> TableName {
    TableName::parse(table).unwrap()
}

pub(super) fn partition() -> Partition {
    Partition::new(name("t"), 0)
}

/// An event with a key, which is its payload.
pub(super) fn event(key: &str) -> Event {
    Event {
        payload: Payload::text(key),
        timestamp_ms: 7,
        appended_ms: 9,
        key: None,
        idempotency_key: Some(IdempotencyKey::parse(key, 100).unwrap()),
        headers: BTreeMap::new(),
    }
}

pub(super) fn segment(start: u64, end: u64) -> (Partition, FlushIntent) {
    let format = FormatId::new("jsonl.zst/3").unwrap();
    (partition(), FlushIntent { range: OffsetRange::new(start, end), epoch: 1, format, bytes: 40 })
}
