//! Engines that keep nothing, for the benchmark to compare with. `/bench` answers at once, which shows the
//! cost of writes without storage. `/bench/group` appends zeros to a plain file, with one sync for all
//! waiting writes: the least that a shared sync can cost. They exist only in builds with the feature `bench`.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    task,
};

use contracts::{
    append::{Append, Appended, Appender},
    catalog::{Catalog, Configured, TableChange, TableSettings, TableStatus, Tables},
    error::{Overload, StorageError},
    name::TableName,
    sequence::Offset,
    wakeups::Wakeups,
};

use crate::http::{
    self,
    state::{App, AppState},
};

/// Appends that may wait for the file.
const QUEUE_LEN: usize = 65_536;
/// About how many bytes an event takes.
const EVENT_BYTES: usize = 400;
/// The file, in the working directory.
const FILE: &str = "bench.group";

/// The routes of the main port, and the same routes below `/bench` and `/bench/group` over engines that keep
/// nothing.
pub(super) fn beside(state: AppState, more: http::RouteTable) -> http::Routes {
    let discarding = |batch| {
        let hot = Arc::new(Discard { next: AtomicU64::new(0), wakeups: Arc::default(), batch });
        Arc::new(App { appender: hot.clone(), catalog: hot, shards: None, ..App::clone(&state) })
    };
    let (batch, waiting) = mpsc::channel(QUEUE_LEN);
    task::spawn(async move {
        if let Err(error) = sync_batches(waiting).await {
            tracing::error!(%error, FILE, "the benchmark's file failed, /bench/group answers no more");
        }
    });
    let (batched, discarded) = (discarding(Some(batch)), discarding(None));
    http::routes_beside(state, more, [("/bench/group", batched), ("/bench", discarded)])
}

/// How many events an append has, and where to report that they are synced.
type WaitingAppend = (usize, oneshot::Sender<()>);

async fn sync_batches(mut waiting: mpsc::Receiver<WaitingAppend>) -> io::Result<()> {
    let Some(mut first) = waiting.recv().await else { return Ok(()) };
    let mut file = File::create(FILE)?;
    std::fs::remove_file(FILE)?;
    loop {
        task::yield_now().await;
        let mut batch = vec![first];
        while let Ok(more) = waiting.try_recv() {
            batch.push(more);
        }
        let events: usize = batch.iter().map(|(events, _)| events).sum();
        file = task::spawn_blocking(move || {
            file.write_all(&vec![0; events * EVENT_BYTES])?;
            file.sync_data().map(|()| file)
        })
        .await??;
        for (_, done) in batch {
            let _ = done.send(()); // the request may be gone
        }
        first = match waiting.recv().await {
            Some(next) => next,
            None => return Ok(()),
        };
    }
}

struct Discard {
    next: AtomicU64,
    wakeups: Arc<Wakeups>,
    /// Where appends wait for their sync; `None` if they do not.
    batch: Option<mpsc::Sender<WaitingAppend>>,
}

#[async_trait]
impl Appender for Discard {
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError> {
        if let Some(batch) = &self.batch {
            let (done, synced) = oneshot::channel();
            batch.try_send((append.events.len(), done)).map_err(|_| StorageError::Overloaded {
                reason: Overload::QueueFull,
                retry_after: Duration::from_secs(1),
            })?;
            synced.await.map_err(StorageError::outcome_unknown)?;
        }
        let first = self.next.fetch_add(append.events.len() as u64, Relaxed);
        let answer = |(offset, (partition, _)): (Offset, _)| Appended { partition, offset, duplicate: false };
        Ok((first..).zip(append.events).map(answer).collect())
    }

    fn wakeups(&self) -> &Arc<Wakeups> {
        &self.wakeups
    }
}

#[async_trait]
impl Catalog for Discard {
    fn table(&self, _name: &TableName) -> Option<Arc<TableStatus>> {
        None
    }

    fn tables(&self) -> Arc<Tables> {
        Arc::default()
    }

    fn settings(&self, _name: &TableName) -> TableSettings {
        TableSettings::default()
    }

    fn changes(&self) -> u64 {
        0
    }

    async fn configure_table(
        &self,
        _table: TableName,
        _change: TableChange,
    ) -> Result<Configured, StorageError> {
        Err(StorageError::Closed)
    }

    async fn delete_table(&self, _table: TableName) -> Result<(), StorageError> {
        Err(StorageError::Closed)
    }
}
