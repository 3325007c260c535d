//! A log in NATS JetStream: one stream on three servers, each of which syncs what it acknowledges.
//!
//! An entry is published with the number of the one that it follows, so that the stream's leader refuses it
//! anywhere else. An answer that does not come is not waited for: the same bytes are published again, and if
//! their place is taken the message there is compared with them. No reader asks a server that only follows.

mod api;
mod connect;
mod fetch;
mod guard;
mod name;
mod parts;
mod publish;
mod stream;

use std::{fmt, sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use contracts::shared_log::{EntryKind, LogEntry, LogError, LogSeq, LogSize, SharedLog};

use self::{
    api::StreamApi,
    connect::NatsConnection,
    fetch::AwaitedPlace,
    publish::{AppendCounters, Appending},
};
pub use self::{
    guard::{NatsGuard, ServerFacts, ServerReport, ServersReport},
    name::StreamName,
    stream::OpenError,
};
use crate::settings::{NatsSettings, SharedLogSettings};

/// A shard's log. It has a connection of its own, which ends when it is dropped.
pub struct NatsLog {
    api: StreamApi,
    max_bytes: u64,
    counters: AppendCounters,
    awaited: AwaitedPlace,
}

/// What a log has needed since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Entries that were published, each time counted.
    pub attempts: u64,
    /// Entries that were found in the log although no answer had said so.
    pub settled: u64,
    /// Connections that were given up because the server did not answer.
    pub silent: u64,
    /// Connections that were given up because the server knew of no leader.
    pub leaderless: u64,
}

impl NatsLog {
    /// Opens the log of a name; makes its stream if it is missing.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        nats: &NatsSettings,
        log: &SharedLogSettings,
        name: StreamName,
    ) -> Result<Self, OpenError> {
        let api = StreamApi { connection: NatsConnection::new(nats.clone()), name };
        stream::open(&api, log.max_bytes).await?;
        let (counters, awaited) = (AppendCounters::default(), AwaitedPlace::default());
        Ok(Self { api, max_bytes: log.max_bytes, counters, awaited })
    }

    /// The generations of a log that there are, in order; that of `name` itself does not count.
    ///
    /// # Errors
    /// [`OpenError::Unavailable`].
    pub async fn generations(nats: &NatsSettings, name: StreamName) -> Result<Vec<u32>, OpenError> {
        let api = StreamApi { connection: NatsConnection::new(nats.clone()), name };
        Ok(api.generations().await?)
    }

    /// Deletes a log, for good; whether there was one.
    ///
    /// # Errors
    /// [`OpenError::Unavailable`].
    pub async fn delete(nats: &NatsSettings, name: StreamName) -> Result<bool, OpenError> {
        let api = StreamApi { connection: NatsConnection::new(nats.clone()), name };
        Ok(api.delete().await?)
    }

    /// What it has needed until now.
    pub fn counts(&self) -> LogCounts {
        LogCounts {
            attempts: self.counters.attempts.load(Ordering::Relaxed),
            settled: self.counters.settled.load(Ordering::Relaxed),
            silent: self.api.connection.silent(),
            leaderless: self.api.connection.leaderless(),
        }
    }
}

impl fmt::Debug for NatsLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NatsLog").field(&self.api.name.stream()).finish()
    }
}

#[async_trait]
impl SharedLog for NatsLog {
    async fn append(&self, last: LogSeq, kind: EntryKind, entry: Bytes) -> Result<LogSeq, LogError> {
        let appending = Appending::new(&self.api, self.max_bytes, last, kind, &entry)?;
        appending.settle(&self.api, &self.counters).await
    }

    async fn read(&self, from: LogSeq, max_bytes: usize, wait: Duration) -> Result<Vec<LogEntry>, LogError> {
        fetch::read(&self.api, &self.awaited, (from, max_bytes), wait).await
    }

    async fn term(&self) -> Result<Option<LogEntry>, LogError> {
        fetch::term(&self.api).await
    }

    async fn trim(&self, upto: LogSeq) -> Result<(), LogError> {
        // A term that comes after this look is behind what is purged.
        let kept = match self.api.last_of(EntryKind::Term).await? {
            Some(term) => term.seq,
            // A purge beyond the end would use up numbers.
            None => self.api.info().await?.last().next(),
        };
        self.api.purge_before(upto.next().min(kept)).await?;
        Ok(())
    }

    async fn size(&self) -> Result<LogSize, LogError> {
        let info = self.api.info().await?;
        let (first, last) = (info.first(), info.last());
        self.awaited.compare(first, last);
        Ok(LogSize { first, last, bytes: info.bytes(), max_bytes: info.max_bytes() })
    }
}
