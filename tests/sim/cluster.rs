//! The store of one Zombi becomes a cluster's and back, cut off at any moment and done again: at the end both
//! read the same, and at no time may both of them write.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};

use async_trait::async_trait;
use cold_s3::{
    audit, chain,
    cluster::{ClusterLogs, ClusterRecord, ClusterShape, adopt, join, leave, resize},
    s3::Objects,
};
use contracts::{
    append::Append,
    clock::Clock,
    error::StorageError,
    flusher::Flush,
    name::{Partition, TableName},
    replica::LogMark,
    shards::{Shard, shard_of},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use testing::bucket::MemoryBucket;
use tokio::time::{sleep, timeout};

use crate::{
    ground::{SimClock, VolumeGround, objects},
    run,
    store::{self, SimStore, Tuning, event, retry},
};

const SHAPE: ClusterShape = ClusterShape { pods: 3, shards: 4, copies: 1 };
const TUNING: Tuning = Tuning { flush_interval: Duration::from_secs(1), seed: Some(5), ..store::TUNING };

/// The logs of shards that have none.
struct NoSharedLogs;

#[async_trait]
impl ClusterLogs for NoSharedLogs {
    async fn close(&self, _: &ClusterRecord, _: Vec<Option<LogMark>>) -> Result<(), StorageError> {
        panic!("each shard has one copy")
    }

    async fn delete(&self, _: &ClusterRecord) -> Result<(), StorageError> {
        panic!("each shard has one copy")
    }
}

/// What of a bucket everybody must read alike: the end of each partition, and its segments.
type BucketContents = BTreeMap<Partition, (u64, Vec<String>)>;

async fn contents_of(objects: &Objects) -> BucketContents {
    let found = chain::load(objects).await.unwrap();
    let of = |(partition, cold): (&Partition, &cold_s3::state::ColdPartition)| {
        let segments = cold.segments.iter().map(|segment| format!("{:?} {}", segment.range, segment.epoch));
        (partition.clone(), (cold.end, segments.collect()))
    };
    found.state.partitions.iter().map(of).collect()
}

async fn contents_of_shards(objects: &Objects) -> BucketContents {
    let mut all = BucketContents::new();
    for number in 0..SHAPE.shards {
        let shard = Shard { number, of: SHAPE.shards };
        for (partition, contents) in contents_of(&objects.of_shard(shard)).await {
            assert_eq!(shard_of(&partition.table, SHAPE.shards), number, "{partition}");
            assert!(all.insert(partition, contents).is_none(), "a table on two shards");
        }
    }
    all
}

async fn append(store: &SimStore, clock: &SimClock, table: &str) {
    let table = TableName::parse(table).unwrap();
    let append = Append { table, events: vec![(0, event(clock))], expected_offset: None, made_by: None };
    store.hot.append(append).await.unwrap();
}

/// One Zombi on an empty volume: writes to some tables, and stops cleanly.
async fn one_zombi(bucket: &Arc<MemoryBucket>, clock: &Arc<SimClock>, id: u128) -> Result<(), StorageError> {
    let store = SimStore::open(&VolumeGround::memory(id), bucket, clock, TUNING).await?;
    for number in 0..8 {
        append(&store, clock, &format!("table-{number}")).await;
    }
    retry(async || store.flush.flush_now(None).await).await?;
    store.stop().await;
    Ok(())
}

#[test]
fn what_is_adopted_and_left_again_reads_the_same_wherever_it_was_cut_off() {
    for seed in 0..40 {
        run(async {
            let (bucket, clock) = (MemoryBucket::new(seed), SimClock::new());
            let mut random = StdRng::seed_from_u64(seed);
            one_zombi(&bucket, &clock, 1).await.unwrap();
            let objects = objects(&bucket);
            let before = contents_of(&objects).await;
            assert_eq!(before.len(), 8);
            // Each attempt is cut off at some moment. They are given more and more time: whoever starts
            // between two of them makes the chain longer.
            let mut longest_ms = 1000;
            let adopted = loop {
                longest_ms += 500;
                let cut = Duration::from_millis(random.random_range(1..longest_ms));
                match timeout(cut, adopt(&objects, SHAPE, clock.now_ms())).await {
                    Ok(adopted) => break adopted.unwrap(),
                    Err(_) => {
                        // Whoever starts now: the one Zombi or the cluster, never both.
                        let cluster = join(&objects, SHAPE).await.is_ok();
                        let single = SimStore::open(&VolumeGround::memory(2), &bucket, &clock, TUNING).await;
                        assert!(!(cluster && single.is_ok()), "both may write");
                        if let Ok(store) = single {
                            retry(async || store.flush.flush_now(None).await).await.unwrap();
                            store.stop().await;
                        }
                    }
                }
            };
            assert_eq!(adopted.record.shards, SHAPE.shards);
            assert_eq!(contents_of_shards(&objects).await, before);
            join(&objects, SHAPE).await.unwrap();
            assert!(adopt(&objects, SHAPE, clock.now_ms()).await.unwrap().was_done);
            let refused = SimStore::open(&VolumeGround::memory(3), &bucket, &clock, TUNING).await;
            assert!(matches!(refused.map(drop), Err(StorageError::Refused(why)) if why.contains("adopted")));

            resize(&objects, 4, &[1, 2], clock.now_ms()).await.unwrap();
            assert!(join(&objects, SHAPE).await.is_err(), "it has four pods");
            resize(&objects, 3, &[1, 2], clock.now_ms()).await.unwrap();
            assert_eq!(contents_of_shards(&objects).await, before);

            loop {
                longest_ms += 500;
                let cut = Duration::from_millis(random.random_range(1..longest_ms));
                if let Ok(left) = timeout(cut, leave(&objects, &NoSharedLogs, clock.now_ms())).await {
                    left.unwrap();
                    break;
                }
                let found = chain::load(&objects).await.unwrap();
                if found.last.is_some_and(|last| !last.moved) {
                    assert!(join(&objects, SHAPE).await.is_err(), "the one Zombi may start");
                }
            }
            assert_eq!(contents_of(&objects).await, before);
            assert!(join(&objects, SHAPE).await.is_err(), "there is no cluster any more");
            one_zombi(&bucket, &clock, 4).await.unwrap();
            assert!(adopt(&objects, SHAPE, clock.now_ms()).await.unwrap().tables == 8, "and once more");
        });
    }
}

#[test]
fn what_was_not_stopped_cleanly_is_not_adopted() {
    run(async {
        let (bucket, clock) = (MemoryBucket::new(7), SimClock::new());
        let objects = objects(&bucket);
        assert!(adopt(&objects, SHAPE, clock.now_ms()).await.is_err(), "there is nothing");
        let store = SimStore::open(&VolumeGround::memory(1), &bucket, &clock, TUNING).await.unwrap();
        append(&store, &clock, "t").await;
        retry(async || store.flush.flush_now(None).await).await.unwrap();
        store.crash().await;
        let error = adopt(&objects, SHAPE, clock.now_ms()).await.unwrap_err();
        assert!(error.to_string().contains("not stopped cleanly"), "{error}");
        assert!(leave(&objects, &NoSharedLogs, clock.now_ms()).await.is_err(), "there is no cluster");
        assert!(join(&objects, SHAPE).await.is_err(), "the store of one Zombi is there");
    });
}

#[test]
fn a_cluster_is_begun_once_and_its_settings_are_for_ever() {
    run(async {
        let bucket = MemoryBucket::new(9);
        let (one, other) = (objects(&bucket), objects(&bucket));
        let (first, second) = tokio::join!(join(&one, SHAPE), join(&other, SHAPE));
        assert_eq!(first.unwrap(), second.unwrap());
        let error = join(&one, ClusterShape { shards: 5, ..SHAPE }).await.unwrap_err();
        assert!(error.to_string().contains("cluster.shards is 5, and the cluster has 4"), "{error}");
        let single = SimStore::open(&VolumeGround::memory(1), &bucket, &SimClock::new(), TUNING).await;
        assert!(matches!(single.map(drop), Err(StorageError::Refused(why)) if why.contains("cluster")));
    });
}

/// A pod of three: its shards, each with a volume that outlives it.
struct ShardedPod {
    shards: Vec<(Shard, VolumeGround, Option<SimStore>)>,
}

impl ShardedPod {
    fn new(number: u32) -> Self {
        let own = (0..SHAPE.shards).filter(|shard| shard % SHAPE.pods == number);
        let shard = |shard| {
            let ground = VolumeGround::memory(u128::from(shard) + 100);
            (Shard { number: shard, of: SHAPE.shards }, ground, None)
        };
        Self { shards: own.map(shard).collect() }
    }

    /// Opens all shards that are not open.
    async fn start(&mut self, all: &Objects, clock: &Arc<SimClock>) {
        for (shard, ground, store) in &mut self.shards {
            if store.is_none() {
                let own = all.of_shard(*shard);
                let opened =
                    retry(async || SimStore::open_over(ground, own.clone(), clock, TUNING).await).await;
                *store = Some(opened.unwrap());
            }
        }
    }

    async fn kill(&mut self) {
        for (.., store) in &mut self.shards {
            if let Some(store) = store.take() {
                store.crash().await;
            }
        }
    }

    /// The open store of a table, if this pod has its shard.
    fn store_of(&self, table: &TableName) -> Option<&SimStore> {
        let found = self.shards.iter().find(|(shard, ..)| shard.has(table));
        found.and_then(|(.., store)| store.as_ref())
    }
}

#[test]
fn three_pods_over_one_bucket_keep_apart_whatever_fails() {
    for seed in 0..10 {
        run(async {
            let (bucket, clock) = (MemoryBucket::new(seed), SimClock::new());
            let mut random = StdRng::seed_from_u64(seed);
            let all = objects(&bucket);
            join(&all, SHAPE).await.unwrap();
            let mut pods: Vec<ShardedPod> = (0..SHAPE.pods).map(ShardedPod::new).collect();
            let mut written: BTreeMap<String, u64> = BTreeMap::new();
            bucket.faults.store(20, SeqCst);
            for _ in 0..60 {
                for pod in &mut pods {
                    if random.random_range(0..10) == 0 {
                        pod.kill().await;
                    }
                    pod.start(&all, &clock).await;
                }
                let table = format!("table-{}", random.random_range(0..9));
                let name = TableName::parse(&table).unwrap();
                let owners: Vec<&SimStore> = pods.iter().filter_map(|pod| pod.store_of(&name)).collect();
                let [owner] = owners[..] else { panic!("{table} is on {} pods", owners.len()) };
                append(owner, &clock, &table).await;
                *written.entry(table).or_default() += 1;
                sleep(Duration::from_millis(random.random_range(0..3000))).await;
            }
            bucket.heal();
            for pod in &mut pods {
                pod.kill().await;
                pod.start(&all, &clock).await;
                for (.., store) in &mut pod.shards {
                    let store = store.take().unwrap();
                    retry(async || store.flush.flush_now(None).await).await.unwrap();
                    sleep(Duration::from_secs(60)).await; // rounds of upkeep, in all shards
                    store.stop().await;
                }
            }
            // Every event is in its shard's chain, and every object is there.
            let found = contents_of_shards(&all).await;
            let ends = found.iter().map(|(partition, (end, _))| (partition.table.to_string(), *end));
            assert_eq!(ends.collect::<BTreeMap<_, _>>(), written, "seed {seed}");
            for number in 0..SHAPE.shards {
                let audit = audit::audit(&all.of_shard(Shard { number, of: SHAPE.shards })).await.unwrap();
                assert_eq!(audit.findings, Vec::<String>::new(), "seed {seed}, shard {number}");
            }
        });
    }
}
