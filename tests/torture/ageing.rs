//! A store that lives on: as many partitions as a table may have, a retention that is short, S3 at a
//! distance, and a gibibyte of memory. From the time on when as much goes as comes nothing grows: not the
//! process, not the volume, not the bucket, not what a start has to read. And what retention is to keep is
//! there, whichever tier has it.

mod clients;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use cold_s3::manifest::{self, CHECKPOINT_EVERY};
use futures_util::{StreamExt, TryStreamExt, future::ready, stream};
use reqwest::StatusCode;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use self::clients::Clients;
use crate::{
    distance::Distance,
    memory::{self, Group},
};
use testing::{TestServer, process::resident_bytes, server::BUCKET};

const MEMORY_BYTES: u64 = 1 << 30;
const S3_LATENCY: Duration = Duration::from_millis(30);
const TABLE: &str = "aged";
const PARTITIONS: usize = 1024;
/// Partitions that are read at once in the end.
const PARALLEL_READS: usize = 16;
/// How long it goes on if nobody says.
const SECONDS: u64 = 75;
/// In less, events would hardly be flushed before they expire.
const LEAST_SECONDS: u64 = 60;
/// Samples in which growth can be seen.
const LEAST_SAMPLES: usize = 8;

/// What must not grow, and how much of it may come and go: caches, write buffers, what waits for its turn.
const WATCHED: [(&str, f64); 6] = [
    ("bytes of memory", (128 << 20) as f64),
    ("bytes on the volume", (128 << 20) as f64),
    ("objects of segments", PARTITIONS as f64),
    ("manifests", (2 * CHECKPOINT_EVERY) as f64),
    ("bytes of the last checkpoint", (1 << 20) as f64),
    ("due of upkeep", PARTITIONS as f64),
];
/// Less than this is no growth. What grows from the first moment on, and always as fast, is half as much
/// again in the later half of the samples.
const FACTOR: f64 = 1.25;

/// One look at all that is watched.
type Sample = [f64; WATCHED.len()];

/// How long things take: as the retention goes, so does the rest.
#[derive(Debug, Clone, Copy)]
struct Times {
    all: Duration,
    /// As much goes as comes from then on.
    settled: Duration,
    retention: Duration,
    sample: Duration,
}

impl Times {
    fn of(seconds: u64) -> Self {
        let retention = Duration::from_secs(seconds.max(LEAST_SECONDS) / 5);
        Self { all: retention * 5, settled: retention * 2, retention, sample: retention / 12 }
    }

    /// Until when a read may take that begins now: what is still to be kept then is there.
    fn read_until(self) -> Instant {
        Instant::now() + self.retention / 8
    }
}

/// A server whose table is kept for a short while, a quarter of it in hot.
async fn start(group: &Group, times: Times) -> (TestServer, Distance) {
    let mut z = TestServer::tiered(&[("flush.interval_secs", "5"), ("manifests.keep_secs", "0")]).await;
    let distance = Distance::to(z.s3.as_ref().unwrap().address, S3_LATENCY).await;
    z.set("s3.endpoint", &distance.endpoint());
    for (key, time) in [
        ("hot.keep_secs", times.retention / 4),
        ("compaction.interval_secs", times.retention / 12),
        ("compaction.grace_secs", times.retention / 12),
    ] {
        z.set(key, &time.as_secs().to_string());
    }
    // A line for each partition that retention shortens would be all that there is to see.
    z.set("log.level", "info,zombi::storage::upkeep=warn");
    z.wrapper = group.wrapper();
    z.environment = memory::environment();
    z.run().await;
    let config = json!({"retention_secs": times.retention.as_secs()});
    let (status, body) = z.put(&format!("/tables/{TABLE}/config"), &config).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    (z, distance)
}

async fn look(z: &TestServer) -> Sample {
    let mut due = 0.0;
    for kind in ["merges", "deletes"] {
        due += z.metric(&format!("zombi_upkeep_due{{kind=\"{kind}\"}}")).await;
    }
    let manifests = z.store().keys(BUCKET, manifest::PREFIX);
    let is_checkpoint =
        |key: &&String| manifest::number(key).is_some_and(|number| number.is_multiple_of(CHECKPOINT_EVERY));
    let checkpoint = manifests.iter().rev().find(is_checkpoint).and_then(|key| z.store().get(BUCKET, key));
    // Files come and go while they are counted.
    let volume =
        std::fs::read_dir(z.data_dir()).unwrap().filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
    [
        resident_bytes(z.pid()) as f64,
        volume.sum::<u64>() as f64,
        z.store().keys(BUCKET, "segments/").len() as f64,
        manifests.len() as f64,
        checkpoint.map_or(0, |bytes| bytes.len()) as f64,
        due,
    ]
}

/// Looks again and again; those looks count in which as much goes as comes.
async fn watch(
    z: &mut TestServer,
    tasks: &mut JoinSet<Result<(), String>>,
    times: Times,
) -> Result<Vec<Sample>, String> {
    let (began, mut samples) = (Instant::now(), Vec::new());
    while began.elapsed() < times.all {
        sleep(times.sample).await;
        if z.has_ended() {
            return Err(format!("it has ended with {:?}", z.wait().await));
        }
        if let Some(ended) = tasks.try_join_next() {
            ended.unwrap()?;
        }
        let sample = look(z).await;
        eprintln!("after {:.1?}: {}", began.elapsed(), shown(&sample));
        if began.elapsed() > times.settled {
            samples.push(sample);
        }
    }
    Ok(samples)
}

fn shown(sample: &Sample) -> String {
    let each: Vec<String> =
        WATCHED.iter().zip(sample).map(|((name, _), value)| format!("{value:.0} {name}")).collect();
    each.join(", ")
}

fn mean(samples: &[Sample]) -> Sample {
    std::array::from_fn(|place| {
        samples.iter().map(|sample| sample[place]).sum::<f64>() / samples.len() as f64
    })
}

/// What there is in the later half of the samples; what it was in the earlier half, if it has grown since.
fn compare(samples: &[Sample]) -> Result<Sample, String> {
    if samples.len() < LEAST_SAMPLES {
        return Err(format!("there are {} samples: this run proves nothing", samples.len()));
    }
    let (earlier, later) = samples.split_at(samples.len() / 2);
    let (earlier, later) = (mean(earlier), mean(later));
    let has_grown = WATCHED
        .iter()
        .zip(earlier.iter().zip(&later))
        .any(|((_, slack), (before, after))| *after > before * FACTOR + slack);
    if has_grown {
        Err(format!("it grows: from {} to {}", shown(&earlier), shown(&later)))
    } else {
        Ok(later)
    }
}

/// Lets it live on, and compares in the end.
pub(crate) async fn run(seed: u64, seconds: Option<u64>) -> Result<String, String> {
    let group = match Group::make("ageing", MEMORY_BYTES) {
        Ok(group) => group,
        Err(why) => return Ok(format!("skipped: {why}")),
    };
    let times = Times::of(seconds.unwrap_or(SECONDS));
    let (mut z, _distance) = start(&group, times).await;
    let clients = Arc::new(Clients::new(&z, times));
    let mut tasks = clients.start(seed);
    let samples = watch(&mut z, &mut tasks, times).await?;
    clients.is_over.store(true, SeqCst);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap()?;
    }
    let checks = stream::iter(0..PARTITIONS)
        .map(|partition| clients.check(partition))
        .buffer_unordered(PARALLEL_READS);
    checks.try_for_each(|()| ready(Ok(()))).await?;
    if z.has_ended() || group.kills() > 0 {
        return Err(format!("it has ended, or a process was killed for its memory, {} times", group.kills()));
    }
    let settled = compare(&samples)?;
    let [written, read, put_off] =
        [&clients.written, &clients.read, &clients.put_off].map(|count| count.load(SeqCst));
    if written == 0 || read == 0 {
        return Err("nothing was written, or nothing read: this run proves nothing".to_owned());
    }
    let peak = group.peak_bytes() >> 20;
    z.kill().await;
    // Nobody is to wait for this, and it has its own memory.
    let near = z.s3.as_ref().unwrap().endpoint();
    z.set("s3.endpoint", &near);
    z.wrapper.clear();
    z.audit().await;
    let Times { all, retention, .. } = times;
    let shown = shown(&settled);
    Ok(format!(
        "{written} events kept for {retention:.0?} of {all:.0?}, {read} read, {put_off} put off; {shown}; \
         peak {peak} MiB with page cache"
    ))
}
