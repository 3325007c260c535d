//! `zombi cluster leave` where shards have logs: closes and deletes them. No pod runs meanwhile; if one does,
//! the logs tell.

use std::sync::Arc;

use async_trait::async_trait;
use tiering::LogAtRest;

use crate::settings::Settings;
use cold_s3::cluster::{ClusterLogs, ClusterRecord};
use contracts::{
    clock::{Clock, SystemClock},
    error::StorageError,
    replica::LogMark,
};
use shared_log::nats::{NatsLog, OpenError, StreamName};

/// The logs of the cluster's shards, on the NATS servers of the settings.
pub(crate) struct LeftLogs<'a> {
    settings: &'a Settings,
}

impl<'a> LeftLogs<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self { settings }
    }

    /// Reads the newest log of a shard, of which the manifests say this.
    async fn read(&self, name: StreamName, named: Option<LogMark>) -> Result<LogAtRest, StorageError> {
        let named = named.unwrap_or_else(|| LogMark::beginning(name.cluster));
        if named.cluster != name.cluster {
            return refused(
                name,
                format!("its manifests are of the cluster {}. Nothing was changed", named.cluster),
            );
        }
        let newest = self.generations(name).await?.last().copied();
        if newest != Some(named.generation) {
            let there =
                newest.map_or_else(|| "there is none".to_owned(), |newest| format!("there is {newest}"));
            return refused(
                name,
                format!(
                    "the NATS servers should have generation {} of its log, and {there}. If they have lost \
                     it, begin it anew with zombi cluster reset-log; if no pod has run yet, start all of \
                     them once. Nothing was changed",
                    named.generation
                ),
            );
        }
        let name = StreamName { generation: named.generation, ..name };
        let Settings { nats, shared_log, .. } = self.settings;
        let log = NatsLog::open(nats, shared_log, name).await.or_else(|error| unanswered(name, &error))?;
        LogAtRest::read(Arc::new(log), named).await.map_err(|error| of_shard(name, error))
    }

    async fn generations(&self, name: StreamName) -> Result<Vec<u32>, StorageError> {
        NatsLog::generations(&self.settings.nats, name).await.or_else(|error| unanswered(name, &error))
    }

    /// The first log of each shard.
    fn names(&self, record: &ClusterRecord) -> Result<Vec<StreamName>, StorageError> {
        if self.settings.nats.urls.is_empty() {
            return Err(StorageError::Refused(
                "the cluster's shards have logs: set cluster.nats.urls, and what else the pods need to reach \
                 the NATS servers. Nothing was changed"
                    .to_owned(),
            ));
        }
        let ClusterRecord { cluster, shards, .. } = *record;
        Ok((0..shards).map(|shard| StreamName { cluster, shard, shards, generation: 0 }).collect())
    }
}

#[async_trait]
impl ClusterLogs for LeftLogs<'_> {
    async fn close(&self, record: &ClusterRecord, named: Vec<Option<LogMark>>) -> Result<(), StorageError> {
        // All are read before any is closed: pods can go on as long as none is.
        let mut at_rest = Vec::new();
        for (name, named) in self.names(record)?.into_iter().zip(named) {
            at_rest.push((name, self.read(name, named).await?));
        }
        for (name, log) in at_rest {
            log.close(SystemClock.now_ms()).await.map_err(|error| of_shard(name, error))?;
        }
        Ok(())
    }

    async fn delete(&self, record: &ClusterRecord) -> Result<(), StorageError> {
        for name in self.names(record)? {
            for generation in self.generations(name).await? {
                let name = StreamName { generation, ..name };
                let deleted = NatsLog::delete(&self.settings.nats, name).await;
                deleted.map(drop).or_else(|error| unanswered(name, &error))?;
            }
        }
        Ok(())
    }
}

fn refused<T>(name: StreamName, why: String) -> Result<T, StorageError> {
    Err(StorageError::Refused(format!("shard {}: {why}", name.shard)))
}

fn unanswered<T>(name: StreamName, error: &OpenError) -> Result<T, StorageError> {
    refused(name, format!("{error}. Run it again once the NATS servers answer"))
}

/// Says of which shard it is what an operator must decide.
fn of_shard(name: StreamName, error: StorageError) -> StorageError {
    match error {
        StorageError::Refused(why) => StorageError::Refused(format!("shard {}: {why}", name.shard)),
        error => error,
    }
}
