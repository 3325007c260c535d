//! What every engine must do, whatever it is made of: [`suite`].

mod erase;
mod makers;
mod reads;
mod segments;

use std::collections::BTreeMap;

use futures_util::FutureExt;

use contracts::{
    append::{Append, Appended},
    catalog::{Chosen, TableChange, TableSettings},
    consumers::Commit,
    engine::Engine,
    error::StorageError,
    event::{Event, EventKey, IdempotencyKey},
    filter::{ReadFilter, TimeFilter},
    flush_ledger::HotKeep,
    name::{GroupName, Partition, PartitionNumber, TableName},
    payload::Payload,
    read::{HotPage, ReadLimit, Wanted},
    retention::Trim,
    segment::{FlushIntent, FormatId},
    sequence::{Offset, OffsetRange, Watermarks},
};

use self::{
    erase::{
        an_erased_event_keeps_its_place_and_the_hash_of_its_key, erasures_are_noted,
        what_a_segment_being_written_holds_is_left,
    },
    makers::{
        groups_are_counted_by_who_made_them, partitions_are_counted_by_who_made_them,
        tables_are_counted_by_who_made_them, what_a_recovery_leaves_is_still_counted,
    },
    reads::{
        a_filter_looks_into_events, a_key_has_a_home_until_keys_are_elsewhere,
        a_read_goes_back_from_a_position,
    },
    segments::{a_segment_is_filled_within_its_bounds, bounds_that_were_fixed_stay},
};

/// A volume with an engine on it that can be crashed.
pub trait Volume {
    /// The engine.
    fn hot(&self) -> &dyn Engine;

    /// Ends the engine as a crash does, and opens the volume again.
    fn crash(&mut self) -> impl Future<Output = ()>;
}

/// Runs every case on an empty volume of its own.
pub async fn suite<V: Volume>(empty: impl Fn() -> V) {
    macro_rules! cases {
        ($($case:ident)*) => {
            $(println!(stringify!($case)); $case(VolumeCase(empty())).await;)*
        };
    }
    cases! {
        offsets_are_dense_and_keys_are_written_once
        a_key_means_one_payload
        a_table_is_made_by_its_settings
        what_is_refused_leaves_nothing
        a_page_ends_at_its_limits
        a_read_goes_back_from_a_position
        a_filter_looks_into_events
        a_key_has_a_home_until_keys_are_elsewhere
        a_segment_is_filled_within_its_bounds
        bounds_that_were_fixed_stay
        only_what_is_flushed_leaves
        an_erased_event_keeps_its_place_and_the_hash_of_its_key
        what_a_segment_being_written_holds_is_left
        erasures_are_noted
        earliest_only_moves_forward
        a_deleted_table_goes_on_with_its_offsets
        commits_are_all_or_nothing
        an_append_wakes_readers
        tables_are_counted_by_who_made_them
        partitions_are_counted_by_who_made_them
        groups_are_counted_by_who_made_them
        what_a_recovery_leaves_is_still_counted
    }
}

/// One case, on its volume.
struct VolumeCase<V>(V);

const ALL: ReadLimit = ReadLimit { records: 1000, bytes: 1 << 20 };
const NOW: HotKeep = HotKeep::NOTHING;
const FORMAT: FormatId = FormatId::new("jsonl.zst/2").unwrap();

fn table() -> TableName {
    TableName::parse("t").unwrap()
}

fn group() -> GroupName {
    GroupName::parse("g").unwrap()
}

impl<V: Volume> VolumeCase<V> {
    fn hot(&self) -> &dyn Engine {
        self.0.hot()
    }

    async fn crash(&mut self) {
        self.0.crash().await;
    }

    async fn append_events(
        &self,
        events: Vec<(PartitionNumber, Event)>,
    ) -> Result<Vec<Appended>, StorageError> {
        self.hot().append(Append { table: table(), events, expected_offset: None, made_by: None }).await
    }

    async fn try_append(
        &self,
        events: &[(PartitionNumber, Option<&str>)],
        expected: Option<Offset>,
    ) -> Result<Vec<Appended>, StorageError> {
        let events = events
            .iter()
            .enumerate()
            .map(|(n, (partition, key))| (*partition, event(n as i64, *key)))
            .collect();
        self.hot().append(Append { table: table(), events, expected_offset: expected, made_by: None }).await
    }

    async fn append(&self, partition: PartitionNumber, count: usize) {
        self.try_append(&vec![(partition, None); count], None).await.unwrap();
    }

    async fn read(
        &self,
        partition: PartitionNumber,
        from: Offset,
        filter: impl Into<ReadFilter>,
        limit: ReadLimit,
    ) -> HotPage {
        self.look(partition, from, Wanted::filtered(filter, limit)).await
    }

    async fn look(&self, partition: PartitionNumber, from: Offset, wanted: Wanted) -> HotPage {
        self.hot().read(&table(), vec![(partition, from)], wanted).await.unwrap().remove(0)
    }

    async fn flush(&self, partition: PartitionNumber, end: Offset) {
        let start = self.watermarks(partition).flushed;
        let stored_bytes = self
            .read(
                partition,
                start,
                TimeFilter::default(),
                ReadLimit { records: (end - start) as usize, ..ALL },
            )
            .await
            .stored_bytes;
        let intent = FlushIntent {
            range: OffsetRange::new(start, end),
            epoch: 1,
            format: FORMAT,
            bytes: stored_bytes,
        };
        let segment = vec![(Partition::new(table(), partition), intent)];
        self.hot().intend(segment.clone(), 0).await.unwrap();
        assert_eq!(self.hot().table(&table()).unwrap().partitions[0].intent, Some(intent));
        self.hot().mark_flushed(segment.clone()).await.unwrap();
        self.hot().mark_flushed(segment).await.unwrap(); // does no harm
    }

    fn watermarks(&self, partition: PartitionNumber) -> Watermarks {
        let table = self.hot().table(&table()).unwrap();
        table
            .partitions
            .iter()
            .find(|one| one.number == partition)
            .map(|one| one.watermarks)
            .unwrap_or_default()
    }

    async fn commit(
        &self,
        partition: PartitionNumber,
        offset: Offset,
        force: bool,
    ) -> Result<(), StorageError> {
        let offsets = vec![(Partition::new(table(), partition), offset)];
        self.hot().commit(Commit { group: group(), offsets, force, made_by: None }).await
    }
}

fn event(timestamp_ms: i64, key: Option<&str>) -> Event {
    let idempotency_key = key.map(|key| IdempotencyKey::parse(key, 100).unwrap());
    Event {
        payload: Payload::text("x"),
        timestamp_ms,
        appended_ms: timestamp_ms,
        key: None,
        idempotency_key,
        headers: BTreeMap::new(),
    }
}

fn places(appended: &[Appended]) -> Vec<(Offset, bool)> {
    appended.iter().map(|one| (one.offset, one.duplicate)).collect()
}

fn offsets(page: &HotPage) -> Vec<Offset> {
    page.page.records.iter().map(|record| record.offset).collect()
}

async fn offsets_are_dense_and_keys_are_written_once<V: Volume>(mut z: VolumeCase<V>) {
    let sent = [(0, None), (1, None), (0, Some("a")), (0, Some("a")), (1, Some("a"))];
    assert_eq!(
        places(&z.try_append(&sent, None).await.unwrap()),
        [(0, false), (0, false), (1, false), (1, true), (1, false)]
    );
    z.crash().await;
    assert_eq!(
        places(&z.try_append(&[(0, Some("a")), (0, None)], None).await.unwrap()),
        [(1, true), (2, false)]
    );
    assert_eq!(offsets(&z.read(0, 0, TimeFilter::default(), ALL).await), [0, 1, 2]);
}

async fn a_key_means_one_payload<V: Volume>(mut z: VolumeCase<V>) {
    let keyed = |text: &str| (0, Event { payload: Payload::text(text), ..event(0, Some("a")) });
    let append = async |z: &VolumeCase<V>, texts: &[&str]| {
        z.append_events(texts.iter().map(|text| keyed(text)).collect()).await
    };
    let within_one = append(&z, &["x", "y"]).await;
    assert!(matches!(within_one, Err(StorageError::KeyReused { index: 1, .. })), "{within_one:?}");
    assert_eq!(places(&append(&z, &["x", "x"]).await.unwrap()), [(0, false), (0, true)]);
    for _ in 0..2 {
        let again = append(&z, &["x", "y"]).await;
        assert!(matches!(again, Err(StorageError::KeyReused { offset: 0, index: 1, .. })), "{again:?}");
        assert_eq!(places(&append(&z, &["x"]).await.unwrap()), [(0, true)]);
        z.crash().await;
    }
    assert_eq!(z.watermarks(0).next, 1, "nothing of it was written");
    // The event's own key belongs to what is compared.
    let event = Event { key: Some(EventKey::stored("k")), ..keyed("x").1 };
    let other = z.append_events(vec![(0, event)]).await;
    assert!(matches!(other, Err(StorageError::KeyReused { offset: 0, index: 0, .. })), "{other:?}");
}

async fn a_table_is_made_by_its_settings<V: Volume>(mut z: VolumeCase<V>) {
    let change = |partitions| TableChange { partitions: Some(partitions), ..TableChange::default() };
    assert!(z.hot().configure_table(table(), change(Some(3))).await.unwrap().before.is_none());
    z.crash().await;
    let configured = z
        .hot()
        .configure_table(table(), TableChange { retention_bytes: Some(Some(5)), ..TableChange::default() })
        .await
        .unwrap();
    assert_eq!(configured.before.map(|before| before.partitions), Some(Chosen::own(3)));
    assert_eq!(
        (configured.settings.partitions, configured.settings.retention_bytes),
        (Chosen::own(3), Chosen::own(Some(5)))
    );
    assert_eq!(z.hot().table(&table()).unwrap().settings, configured.settings);
    assert_eq!(z.hot().settings(&table()), configured.settings);
    let other = z.hot().settings(&TableName::parse("other").unwrap());
    assert_eq!(other.partitions, Chosen::default_of(1), "those of a new table");
}

async fn what_is_refused_leaves_nothing<V: Volume>(mut z: VolumeCase<V>) {
    z.append(0, 3).await;
    let refused = z.try_append(&[(0, Some("b")), (1, None)], Some(3)).await;
    assert!(matches!(refused, Err(StorageError::OffsetMismatch { expected: 3, next: 0, .. })), "{refused:?}");
    assert_eq!((z.watermarks(0).next, z.watermarks(1).next), (3, 0));
    assert_eq!(
        places(&z.try_append(&[(0, Some("b"))], Some(3)).await.unwrap()),
        [(3, false)],
        "its key was not taken"
    );
    // The retry of a write that succeeded must not fail.
    assert_eq!(places(&z.try_append(&[(0, Some("b"))], Some(3)).await.unwrap()), [(3, true)]);
    z.crash().await;
    assert_eq!(z.watermarks(0).next, 4);
}

async fn a_page_ends_at_its_limits<V: Volume>(z: VolumeCase<V>) {
    z.append(0, 10).await;
    let page = z.read(0, 2, TimeFilter::default(), ReadLimit { records: 3, ..ALL }).await;
    assert_eq!((offsets(&page), page.page.next), (vec![2, 3, 4], 5));
    let page = z.read(0, 0, TimeFilter::default(), ReadLimit { bytes: 1, ..ALL }).await;
    assert_eq!((offsets(&page), page.page.next), (vec![0], 1), "the first whatever its size");
    let page = z.read(0, 0, TimeFilter { since: Some(4), until: Some(6) }, ALL).await;
    assert_eq!((offsets(&page), page.page.next), (vec![4, 5], 10));
    assert!(offsets(&z.read(0, 10, TimeFilter::default(), ALL).await).is_empty());
    let unknown = z.hot().read(&TableName::parse("other").unwrap(), vec![(0, 0)], Wanted::all(ALL)).await;
    assert!(matches!(unknown, Err(StorageError::UnknownTable(_))));
}

async fn only_what_is_flushed_leaves<V: Volume>(mut z: VolumeCase<V>) {
    z.append(0, 5).await;
    assert_eq!(z.hot().evict(NOW).await.unwrap(), 0);
    z.flush(0, 2).await;
    z.crash().await;
    let roomy = HotKeep { flushed_upto: 0, flushed_after: i64::MAX, max_bytes: u64::MAX };
    assert_eq!(z.hot().evict(roomy).await.unwrap(), 0, "kept for fast reads");
    let long_ago = HotKeep { flushed_after: 1, ..roomy };
    assert_eq!(
        z.hot().evict(long_ago).await.unwrap(),
        2,
        "flushed when the clock was ahead: it holds up nothing"
    );
    assert_eq!(z.hot().evict(NOW).await.unwrap(), 0);
    z.flush(0, 3).await;
    assert_eq!(z.hot().evict(NOW).await.unwrap(), 1);
    z.crash().await;
    assert_eq!(z.watermarks(0), Watermarks { earliest: 0, low: 3, flushed: 3, next: 5 });
    assert!(offsets(&z.read(0, 1, TimeFilter::default(), ALL).await).is_empty());
    assert_eq!(offsets(&z.read(0, 3, TimeFilter::default(), ALL).await), [3, 4]);
    assert!(z.hot().table(&table()).unwrap().partitions[0].unflushed_bytes > 0);
}

async fn earliest_only_moves_forward<V: Volume>(mut z: VolumeCase<V>) {
    z.append(0, 6).await;
    z.flush(0, 4).await;
    let trim = |earliest| vec![Trim { partition: Partition::new(table(), 0), earliest, unflushed_bytes: 0 }];
    z.hot().trim(trim(3)).await.unwrap();
    z.hot().trim(trim(1)).await.unwrap();
    z.crash().await;
    assert_eq!(z.watermarks(0), Watermarks { earliest: 3, low: 3, flushed: 4, next: 6 });
    z.hot().trim(trim(5)).await.unwrap();
    assert_eq!(z.watermarks(0), Watermarks { earliest: 5, low: 5, flushed: 5, next: 6 });
    assert_eq!(z.hot().evict(NOW).await.unwrap(), 0);
    assert_eq!(offsets(&z.read(0, 5, TimeFilter::default(), ALL).await), [5]);
    let unknown = vec![Trim {
        partition: Partition::new(TableName::parse("other").unwrap(), 0),
        earliest: 0,
        unflushed_bytes: 0,
    }];
    assert!(matches!(z.hot().trim(unknown).await, Err(StorageError::UnknownTable(_))));
}

async fn a_deleted_table_goes_on_with_its_offsets<V: Volume>(mut z: VolumeCase<V>) {
    z.try_append(&[(0, Some("a")), (0, None)], None).await.unwrap();
    let change = TableChange { retention_secs: Some(Some(7)), ..TableChange::default() };
    assert_eq!(
        z.hot().configure_table(table(), change).await.unwrap().settings.retention_secs,
        Chosen::own(Some(7))
    );
    z.commit(0, 1, false).await.unwrap();
    let changes = z.hot().changes();
    z.hot().delete_table(table()).await.unwrap();
    assert_ne!(z.hot().changes(), changes);
    assert!(z.hot().table(&table()).is_none() && z.hot().tables().visible().count() == 0);
    assert!(z.hot().tables().all().all(|table| table.is_deleted));
    assert!(matches!(z.hot().delete_table(table()).await, Err(StorageError::UnknownTable(_))));
    z.crash().await;
    assert!(z.hot().groups().await.unwrap().is_empty());
    assert_eq!(places(&z.try_append(&[(0, Some("a"))], None).await.unwrap()), [(2, false)]);
    assert_eq!(z.watermarks(0), Watermarks { earliest: 2, low: 2, flushed: 2, next: 3 });
    assert_eq!(z.hot().table(&table()).unwrap().settings, TableSettings::default());
}

async fn commits_are_all_or_nothing<V: Volume>(mut z: VolumeCase<V>) {
    z.append(0, 3).await;
    z.append(1, 1).await;
    assert!(matches!(z.commit(0, 4, false).await, Err(StorageError::BeyondEnd { next: 3, .. })));
    z.commit(0, 2, false).await.unwrap();
    let both = vec![(Partition::new(table(), 1), 1), (Partition::new(table(), 0), 1)];
    let back = z.hot().commit(Commit { group: group(), offsets: both, force: false, made_by: None }).await;
    assert!(matches!(back, Err(StorageError::CommitBackwards { committed: 2, .. })), "{back:?}");
    z.crash().await;
    assert_eq!(z.hot().offsets(&group()).await.unwrap(), [(Partition::new(table(), 0), 2)]);
    z.commit(0, 1, true).await.unwrap();
    assert_eq!(z.hot().offsets(&group()).await.unwrap(), [(Partition::new(table(), 0), 1)]);
    z.hot().delete(group()).await.unwrap();
    assert!(matches!(z.hot().delete(group()).await, Err(StorageError::UnknownGroup(_))));
    assert!(z.hot().groups().await.unwrap().is_empty());
}

async fn an_append_wakes_readers<V: Volume>(z: VolumeCase<V>) {
    let mut here = z.hot().wakeups().wait_for(&table(), Some(0));
    let mut elsewhere = z.hot().wakeups().wait_for(&table(), Some(1));
    z.append(0, 1).await;
    assert!(here.appended().now_or_never().is_some());
    assert!(elsewhere.appended().now_or_never().is_none());
    assert_eq!(offsets(&z.read(0, 0, TimeFilter::default(), ALL).await), [0]);
}
