//! The logs of a cluster's shards, in NATS: opened when they are first needed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::OnceCell, time::sleep};
use tracing::warn;

use super::error::ServerError;
use crate::{cluster::owners::ShardLogs, settings::Settings};
use cold_s3::cluster::ClusterRecord;
use contracts::{
    cold::ColdTier,
    error::StorageError,
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

/// What a copy knows of its shard's logs before it opens one.
#[derive(Clone, Copy)]
pub(super) enum KnownLog<'a> {
    /// Its volume follows the log of this generation.
    Generation(u32),
    /// Its volume is empty: where the servers know of no log these manifests say which there was.
    Manifests(&'a dyn ColdTier),
}

/// Why a log is not open.
#[derive(Debug, thiserror::Error)]
enum LogUnopened {
    /// The servers.
    #[error("{0}")]
    Servers(#[from] OpenError),
    /// The manifests, which alone know which log it is.
    #[error("the manifests do not say which log the shard has: {0}")]
    Manifests(#[source] StorageError),
}

fn not_there(why: String) -> LogUnopened {
    LogUnopened::Servers(OpenError::Unavailable(LogError::Unavailable(why)))
}

impl NatsLogs {
    /// None is open yet.
    pub(super) fn new(settings: &Settings, record: &ClusterRecord) -> Self {
        let opened = std::iter::repeat_with(OnceCell::new).take(record.shards as usize).collect();
        Self { nats: settings.nats.clone(), log: settings.shared_log, record: record.clone(), opened }
    }

    /// Opens a shard's log for a copy, and waits for the servers for as long as that takes. Returns the
    /// generation too.
    ///
    /// # Errors
    /// [`ServerError`] if waiting does not help.
    pub(super) async fn open(
        &self,
        shard: u32,
        known: KnownLog<'_>,
        progress: &Progress,
    ) -> Result<(Arc<dyn SharedLog>, u32), ServerError> {
        loop {
            let error = match self.opened(shard, Some(known)).await {
                Ok(log) => return Ok((log.log, log.generation)),
                Err(LogUnopened::Manifests(error)) if !error.is_retryable() => return Err(error.into()),
                Err(LogUnopened::Servers(
                    error @ (OpenError::Different { .. } | OpenError::SmallMessages { .. }),
                )) => return Err(ServerError::Setting(error.to_string())),
                Err(error) => error,
            };
            progress.set_trouble(&error);
            warn!(shard, %error, "the shard's log cannot be opened, will retry");
            sleep(OPEN_RETRY).await;
        }
    }

    /// A shard's log. Who has no copy of the shard, and knows of none, makes none.
    async fn opened(&self, shard: u32, known: Option<KnownLog<'_>>) -> Result<OpenLog, LogUnopened> {
        let Some(cell) = self.opened.get(shard as usize) else {
            return Err(not_there(format!("there is no shard {shard}")));
        };
        cell.get_or_try_init(|| self.open_newest(shard, known)).await.cloned()
    }

    /// Opens the newest log that the servers or the volume know. An empty volume knows of none, and must not
    /// make the first one where another was lost.
    async fn open_newest(&self, shard: u32, known: Option<KnownLog<'_>>) -> Result<OpenLog, LogUnopened> {
        let ClusterRecord { cluster, shards, .. } = self.record;
        let name = StreamName { cluster, shard, shards, generation: 0 };
        let there = NatsLog::generations(&self.nats, name).await?.last().copied();
        let generation = match (there, known) {
            (there, Some(KnownLog::Generation(known))) => there.unwrap_or_default().max(known),
            (Some(there), _) => there,
            (None, Some(KnownLog::Manifests(cold))) => {
                let found = cold.find().await.map_err(LogUnopened::Manifests)?;
                found.log().filter(|named| named.cluster == cluster).map_or(0, |named| named.generation)
            }
            (None, None) => {
                return Err(not_there("no copy of the shard has made its log yet".to_owned()));
            }
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
            Err(LogUnopened::Servers(OpenError::Unavailable(error))) => Err(error),
            Err(error) => Err(LogError::Unavailable(error.to_string())),
        }
    }
}
