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
    opened: Vec<OnceCell<Arc<NatsLog>>>,
}

impl NatsLogs {
    /// None is open yet.
    pub(super) fn new(settings: &Settings, record: &ClusterRecord) -> Self {
        let opened = std::iter::repeat_with(OnceCell::new).take(record.shards as usize).collect();
        Self { nats: settings.nats.clone(), log: settings.shared_log, record: record.clone(), opened }
    }

    /// Opens a shard's log, and waits for the servers for as long as that takes.
    ///
    /// # Errors
    /// [`ServerError::Setting`] if waiting does not help.
    pub(super) async fn open(
        &self,
        shard: u32,
        progress: &Progress,
    ) -> Result<Arc<dyn SharedLog>, ServerError> {
        loop {
            match self.opened(shard).await {
                Ok(log) => return Ok(log),
                Err(OpenError::Unavailable(error)) => {
                    progress.set_trouble(&error);
                    warn!(shard, %error, "the shard's log cannot be opened, will retry");
                    sleep(OPEN_RETRY).await;
                }
                Err(error) => return Err(ServerError::Setting(error.to_string())),
            }
        }
    }

    async fn opened(&self, shard: u32) -> Result<Arc<dyn SharedLog>, OpenError> {
        let no_such = || OpenError::Unavailable(LogError::Unavailable(format!("there is no shard {shard}")));
        let cell = self.opened.get(shard as usize).ok_or_else(no_such)?;
        let ClusterRecord { cluster, shards, .. } = self.record;
        let name = StreamName { cluster, shard, shards, generation: 0 };
        let opening = || async { NatsLog::open(&self.nats, &self.log, name).await.map(Arc::new) };
        let log = cell.get_or_try_init(opening).await?;
        Ok(Arc::clone(log) as Arc<dyn SharedLog>)
    }
}

#[async_trait]
impl ShardLogs for NatsLogs {
    async fn log(&self, shard: u32) -> Result<Arc<dyn SharedLog>, LogError> {
        self.opened(shard).await.map_err(|error| match error {
            OpenError::Unavailable(error) => error,
            error => LogError::Unavailable(error.to_string()),
        })
    }
}
