//! The logs of a cluster's shards, in NATS: opened when they are first needed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::OnceCell, time::sleep};
use tracing::warn;

use super::ServerError;
use crate::{cluster::owners::ShardLogs, settings::Settings};
use cold_s3::cluster::ClusterRecord;
use contracts::{
    progress::Progress,
    shared_log::{LogError, SharedLog},
};
use shared_log::{
    nats::{NatsLog, OpenError, StreamName},
    settings::{NatsSettings, SharedLogSettings},
};

/// The wait before the servers are asked again for a log that could not be opened.
const OPEN_RETRY: Duration = Duration::from_secs(1);

/// The logs.
pub(super) struct NatsLogs {
    nats: NatsSettings,
    log: SharedLogSettings,
    record: ClusterRecord,
    opened: Vec<OnceCell<OpenLog>>,
}

/// A log, and how often it was begun anew.
#[derive(Clone)]
struct OpenLog {
    log: Arc<dyn SharedLog>,
    generation: u32,
}

fn not_there(why: String) -> OpenError {
    OpenError::Unavailable(LogError::Unavailable(why))
}

impl NatsLogs {
    /// None is open yet.
    pub(super) fn new(settings: &Settings, record: &ClusterRecord) -> Self {
        let opened = std::iter::repeat_with(OnceCell::new).take(record.shards as usize).collect();
        Self { nats: settings.nats.clone(), log: settings.shared_log, record: record.clone(), opened }
    }

    /// Opens a shard's log for a copy whose volume knows one of this generation, and waits for the servers
    /// for as long as that takes. Returns the generation too.
    ///
    /// # Errors
    /// [`ServerError::Setting`] if waiting does not help.
    pub(super) async fn open(
        &self,
        shard: u32,
        known: u32,
        progress: &Progress,
    ) -> Result<(Arc<dyn SharedLog>, u32), ServerError> {
        loop {
            match self.opened(shard, Some(known)).await {
                Ok(log) => return Ok((log.log, log.generation)),
                Err(OpenError::Unavailable(error)) => {
                    progress.set_trouble(&error);
                    warn!(shard, %error, "the shard's log cannot be opened, will retry");
                    sleep(OPEN_RETRY).await;
                }
                Err(error) => return Err(ServerError::Setting(error.to_string())),
            }
        }
    }

    /// A shard's log. Who has no copy of the shard, and knows of none, makes none.
    async fn opened(&self, shard: u32, known: Option<u32>) -> Result<OpenLog, OpenError> {
        let Some(cell) = self.opened.get(shard as usize) else {
            return Err(not_there(format!("there is no shard {shard}")));
        };
        cell.get_or_try_init(|| self.open_newest(shard, known)).await.cloned()
    }

    /// Opens the newest log that the servers or the volume know.
    async fn open_newest(&self, shard: u32, known: Option<u32>) -> Result<OpenLog, OpenError> {
        let ClusterRecord { cluster, shards, .. } = self.record;
        let name = StreamName { cluster, shard, shards, generation: 0 };
        let there = NatsLog::generations(&self.nats, name).await?;
        let Some(generation) = there.last().copied().max(known) else {
            return Err(not_there("no copy of the shard has made its log yet".to_owned()));
        };
        let log = NatsLog::open(&self.nats, &self.log, StreamName { generation, ..name }).await?;
        Ok(OpenLog { log: Arc::new(log), generation })
    }
}

#[async_trait]
impl ShardLogs for NatsLogs {
    async fn log(&self, shard: u32) -> Result<Arc<dyn SharedLog>, LogError> {
        match self.opened(shard, None).await {
            Ok(opened) => Ok(opened.log),
            Err(OpenError::Unavailable(error)) => Err(error),
            Err(error) => Err(LogError::Unavailable(error.to_string())),
        }
    }
}
