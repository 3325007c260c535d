//! Three NATS servers, and a way to each of them for clients, on which answers may get lost.

use std::{sync::Arc, time::Duration};

use testing::{
    nats::{NatsTrio, SERVERS},
    server::PATIENCE,
};
use tokio::time::{Instant, sleep};
use zombi_shared_log::{
    nats::{NatsLog, OpenError, StreamName},
    settings::{NatsSettings, SharedLogSettings},
};

use crate::proxy::{LostAnswers, listen};

/// The servers, behind their ways.
pub(crate) struct NatsServers {
    pub(crate) trio: NatsTrio,
    /// The ports at which clients reach them.
    ways: Vec<u16>,
    /// Which answers get lost on the ways to them.
    pub(crate) answers: Arc<LostAnswers>,
}

/// A log's settings.
pub(crate) fn log_settings(max_bytes: u64) -> SharedLogSettings {
    SharedLogSettings { max_bytes, keep_bytes: 0 }
}

impl NatsServers {
    /// Three that have found each other, and the ways to them.
    pub(crate) async fn start() -> Self {
        Self::before(NatsTrio::start().await).await
    }

    /// The ways to these.
    pub(crate) async fn before(trio: NatsTrio) -> Self {
        let (answers, mut ways) = (Arc::<LostAnswers>::default(), Vec::new());
        for number in 0..SERVERS {
            ways.push(listen(trio.address(number), answers.clone()).await);
        }
        Self { trio, ways, answers }
    }

    /// What a client is told of them.
    pub(crate) fn settings(&self) -> NatsSettings {
        NatsSettings {
            urls: self.ways.iter().map(|way| format!("nats://127.0.0.1:{way}")).collect(),
            monitors: self.trio.monitors(),
            credentials_file: Some(self.trio.path("credentials")),
            ca_file: None,
            unsynced: false,
        }
    }

    /// Opens a log, as soon as the servers have found each other.
    pub(crate) async fn open(&self, name: StreamName, max_bytes: u64) -> NatsLog {
        let until = Instant::now() + PATIENCE;
        loop {
            match NatsLog::open(&self.settings(), &log_settings(max_bytes), name).await {
                Ok(log) => return log,
                Err(OpenError::Unavailable(error)) if Instant::now() < until => println!("{error}"),
                Err(error) => panic!("{error}:\n{}", self.trio.said(0)),
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}
