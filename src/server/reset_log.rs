//! `zombi cluster reset-log`: begins a shard's log anew, which its servers have lost, on the volume of the
//! copy that has most. No pod of the cluster runs meanwhile.

use std::{sync::Arc, time::Duration};

use tiering::{LogStanding, Parts, another_log, begin_log_anew, log_standing, prove_end};
use tokio::{task, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    engine::{EngineParts, OpenEngine, SharedMemory, open_disk, open_volume},
    error::ServerError,
    open::{cold_options, connect, store_options},
    shard_mark,
    shards::of_shard,
};
use crate::{cluster::volumes, settings::Settings};
use cold_s3::{
    S3Cold,
    cluster::{ClusterRecord, recorded},
    s3::Objects,
};
use contracts::{
    bucket::BucketState,
    clock::{Clock, SystemClock},
    engine::Engine,
    error::StorageError,
    fence::Fence,
    progress::Progress,
    replica::LogMark,
    shards::Shard,
    shared_log::{LogError, LogSeq},
};
use shared_log::nats::{NatsLog, StreamName};

/// Files that the volume may have open.
const OPEN_FILES: i32 = 256;
/// How long a quorum of the servers may take to say where the log ends.
const PROOF_TIMEOUT: Duration = Duration::from_secs(60);

/// What was done.
pub(crate) struct LogReset {
    /// The last entry of the lost log that the volume had applied.
    pub(crate) applied: u64,
    /// How often the shard's log has been begun anew by now.
    pub(crate) generation: u32,
}

/// A shard whose log is lost, and what its copy here stands on.
struct LostLog<'a> {
    settings: &'a Settings,
    /// The shard's part of them.
    part: Settings,
    name: StreamName,
    objects: Objects,
    hot: Arc<dyn Engine>,
    fence: Arc<Fence>,
}

/// Begins the log of a shard anew. Killed anywhere, it is run again.
///
/// # Errors
/// [`ServerError`]; `Refused` if the log is not lost, or this volume is not that of the copy that has most.
pub(crate) async fn reset_log(settings: &Settings, number: u32) -> Result<LogReset, ServerError> {
    if !settings.cluster.has_logs() {
        return Err(ServerError::Setting("cluster.copies is 1: shards have no logs".to_owned()));
    }
    let Some(objects) = connect(settings).await? else {
        return Err(ServerError::Setting("a cluster needs a bucket: set s3.bucket".to_owned()));
    };
    let record = recorded(&objects).await?;
    let record = record.ok_or_else(|| refused("the bucket holds no cluster".to_owned()))?;
    record.check(settings.cluster.shape())?;
    if number >= record.shards {
        return Err(refused(format!("there is no shard {number}: the cluster has {}", record.shards)));
    }
    let shard = Shard { number, of: record.shards };
    let mut part = of_shard(settings, shard, 1);
    part.process.durability = settings.process.durability; // there is no log now that has what is lost
    let path = &part.process.data_dir;
    if !volumes::mark(path).is_file() {
        return Err(refused(format!("{} is no volume of a shard", path.display())));
    }
    shard_mark::check(path, shard, &record)?;
    let found = open_volume(&part, SharedMemory::of_one(part.hot), OPEN_FILES).await?;
    let fence = Arc::new(Fence::default());
    let parts = EngineParts {
        disk: open_disk(&part)?,
        clock: SystemClock::shared(),
        fence: Arc::clone(&fence),
        heartbeat: Arc::default(),
    };
    let OpenEngine { hot, writer, volume } = found.serve(parts, &part)?;
    let writer = AbortOnDropHandle::new(task::spawn(writer));
    let objects = objects.of_shard(shard);
    let name = first_of(&record, number);
    let lost = LostLog { settings, part, name, objects, hot, fence };
    let reset = Box::pin(lost.reset()).await;
    writer.abort();
    drop(writer.await);
    volume.close().await;
    reset
}

/// The first log of a shard.
fn first_of(record: &ClusterRecord, shard: u32) -> StreamName {
    StreamName { cluster: record.cluster, shard, shards: record.shards, generation: 0 }
}

impl LostLog<'_> {
    async fn reset(self) -> Result<LogReset, ServerError> {
        let mark = self.hot.log_mark().await?;
        let mark = mark.ok_or_else(|| refused("the volume was never a copy of the shard".to_owned()))?;
        if mark.cluster != self.name.cluster {
            return Err(refused(format!("the volume is a copy in the cluster {}", mark.cluster)));
        }
        let nats = &self.settings.nats;
        let there = NatsLog::generations(nats, self.name).await.map_err(of_log)?;
        self.must_be_lost(&mark, &there).await?;
        // It has nothing that the volume lacks, and was made now if it was not there. What has proved its end
        // must not stand in it when this is run again, nor when a pod starts.
        let lost = there.into_iter().filter(|generation| *generation < mark.generation);
        for generation in lost.chain([mark.generation]) {
            NatsLog::delete(nats, StreamName { generation, ..self.name }).await.map_err(of_log)?;
        }
        let mark = self.begin_anew().await?;
        drop(self.open(mark.generation).await?);
        // Killed just before the log was made, it has begun one behind one that has no entry.
        let end = mark.ended.iter().rfind(|end| end.seq > 0);
        Ok(LogReset { applied: end.map_or(0, |end| end.seq), generation: mark.generation })
    }

    /// Makes sure that the servers have lost what the volume has, and have nothing that it lacks. One server
    /// alone may have been cut off, and knows then neither the log's end nor which logs there are: a quorum
    /// makes the log, if it is missing, and says where it ends.
    async fn must_be_lost(&self, mark: &LogMark, there: &[u32]) -> Result<(), ServerError> {
        let newest = there.last().copied();
        if newest > Some(mark.generation) {
            return Err(refused(
                "the log was begun anew with another copy: this one is recovered from S3 when its pod \
                 starts, and says so if it has more"
                    .to_owned(),
            ));
        }
        let log = self.open(mark.generation).await?;
        match log_standing(&log, mark).await.map_err(of_log)? {
            LogStanding::Short { last, is_known: true } => self.must_end(&log, last).await,
            // It was made just now: whether there ever was one before nobody knows.
            LogStanding::Whole { last: last @ LogSeq(0) } if newest < Some(mark.generation) => {
                self.must_end(&log, last).await
            }
            LogStanding::Short { last, is_known: false } => {
                let stream = StreamName { generation: mark.generation, ..self.name }.stream();
                Err(refused(format!(
                    "the log ends with entry {last}, before what this volume has applied, and it cannot be \
                     told whether it is an older state of this volume's log or was written to anew: in that \
                     case another copy has what this one lacks, and is the one to run this with. If it is an \
                     older state, delete the stream {stream} from the NATS servers, and run this again"
                )))
            }
            LogStanding::Another { at } => Err(ServerError::Storage(StorageError::Refused(another_log(at)))),
            LogStanding::Whole { last } => {
                let LogMark { applied, .. } = mark;
                Err(refused(format!(
                    "the log is not lost: it ends with entry {last}, and this volume has applied it up to \
                     {applied}"
                )))
            }
        }
    }

    /// Makes sure that a log which is to be given up ends with this entry.
    async fn must_end(&self, log: &NatsLog, last: LogSeq) -> Result<(), ServerError> {
        let proof = timeout(PROOF_TIMEOUT, prove_end(log, last, SystemClock.now_ms())).await;
        Err(refused(match proof {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(LogError::Taken(seq))) => format!(
                "the log is not lost: a server that was cut off has said that it ends with entry {last}, and \
                 it has entry {seq}"
            ),
            Ok(Err(error)) => format!("it cannot be told whether the log is lost: {error}"),
            Err(late) => format!(
                "it cannot be told whether the log is lost: no quorum of the NATS servers within \
                 {PROOF_TIMEOUT:?} ({late}). Run this again once they have one"
            ),
        }))
    }

    /// Opens the log of a generation; makes it if there is none.
    async fn open(&self, generation: u32) -> Result<NatsLog, ServerError> {
        let name = StreamName { generation, ..self.name };
        NatsLog::open(&self.settings.nats, &self.settings.shared_log, name).await.map_err(of_log)
    }

    /// Moves all that the volume has to S3, and marks both for the new log.
    async fn begin_anew(&self) -> Result<LogMark, StorageError> {
        let parts = Parts {
            hot: Arc::clone(&self.hot),
            writer: None,
            cold: Some(Arc::new(S3Cold::new(self.objects.clone(), cold_options(&self.part)))),
            clock: SystemClock::shared(),
            fence: Arc::clone(&self.fence),
            heartbeat: Arc::default(),
            progress: Arc::new(Progress::default()),
            bucket: Arc::new(BucketState::default()),
        };
        begin_log_anew(parts, store_options(&self.part)).await
    }
}

fn of_log(error: impl std::fmt::Display) -> ServerError {
    ServerError::Setting(error.to_string())
}

fn refused(why: String) -> ServerError {
    ServerError::Storage(StorageError::Refused(format!("{why}. Neither the volume nor S3 was changed")))
}
