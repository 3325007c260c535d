//! The store of a copy: opened when the copy owns its shard, and ended as soon as another one does.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use tiering::{CopyStatus, Parts, Store, StoreError};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::open::{AppMaker, cold_options, store_options};
use crate::{
    http::{
        shards::OwnedStore,
        state::{App, Heartbeats},
    },
    settings::Settings,
};
use cold_s3::{S3Cold, s3::Objects};
use contracts::{
    bucket::BucketState, clock::SystemClock, engine::Engine, error::StorageError, fence::Fence, metrics,
    progress::Progress,
};

/// The wait before a store that has failed is opened anew, by a copy that still owns the shard.
const REOPEN: Duration = Duration::from_millis(500);
/// How often a store fails in one term before the shard is given to another copy, which may be able to.
const MOST_FAILURES: u32 = 10;

/// What the store of each term is made of.
pub(super) struct CopyTerms {
    /// The shard's part of what the pod may take.
    pub(super) settings: Settings,
    /// The open volume, whoever owns the shard.
    pub(super) hot: Arc<dyn Engine>,
    /// The shard's objects.
    pub(super) objects: Objects,
    /// The signs of life of its tasks.
    pub(super) heartbeats: Heartbeats,
    /// Shows what is wrong with the bucket.
    pub(super) bucket: Arc<BucketState>,
    /// Makes what handlers work with, over the store.
    pub(super) apps: AppMaker,
    /// Where handlers find the store.
    pub(super) store: Arc<OwnedStore<App>>,
}

impl CopyTerms {
    /// Opens a store in each term that the copy owns. Never ends.
    pub(super) async fn run(self) -> Infallible {
        let shard = self.store.copy.shard;
        let copy = self.store.copy.copy();
        let mut status = copy.status();
        let (mut failed_in, mut failures) = (0, 0);
        loop {
            if status.borrow().owned_term.is_none() {
                self.bucket.unneeded();
            }
            let Some(term) = owned(&mut status).await else { break };
            let ended = Box::pin(self.serve(term, &mut status)).await;
            metrics::shard_owned(shard, false);
            let Err(error) = ended else { continue };
            warn!(shard, term, %error, "the store of the shard has ended, opening it again");
            failures = if failed_in == term { failures + 1 } else { 1 };
            failed_in = term;
            if failures % MOST_FAILURES == 0
                && let Some(to) = copy.hand_over(None)
            {
                warn!(shard, term, to, "the shard is given to another copy: its store cannot be opened here");
            }
            sleep(REOPEN).await;
        }
        // The copy follows no more, and says so itself.
        pending().await
    }

    /// Opens a store and serves with it until the term ends.
    ///
    /// # Errors
    /// Why it could not be opened, or has ended before the term did.
    async fn serve(&self, term: u64, status: &mut watch::Receiver<CopyStatus>) -> Result<(), StoreError> {
        let mut ended = status.clone();
        let opened = tokio::select! {
            biased;
            () = ends(&mut ended, term) => return Ok(()),
            opened = self.open() => opened,
        };
        let mut store = opened?;
        let app = (self.apps)(&store);
        let stopping = app.stopping.child_token();
        self.store.serve(term, Arc::new(App { stopping: stopping.clone(), ..app }));
        metrics::shard_owned(self.store.copy.shard, true);
        info!(shard = self.store.copy.shard, term, "serving the shard");
        let result = tokio::select! {
            biased;
            () = ends(status, term) => Ok(()),
            failed = store.failed() => Err(failed),
        };
        self.store.rest();
        stopping.cancel();
        store.crash().await;
        // What it was at work on has no end of its own.
        self.heartbeats.flusher.waits();
        result
    }

    async fn open(&self) -> Result<Store, StorageError> {
        let cold = S3Cold::new(self.objects.clone(), cold_options(&self.settings));
        let parts = Parts {
            hot: Arc::clone(&self.hot),
            writer: None,
            cold: Some(Arc::new(cold)),
            clock: SystemClock::shared(),
            fence: Arc::new(Fence::default()),
            heartbeat: Arc::clone(&self.heartbeats.flusher),
            progress: Arc::new(Progress::default()),
            bucket: Arc::clone(&self.bucket),
        };
        Store::open_owned(parts, store_options(&self.settings), self.store.copy.copy()).await
    }
}

/// Waits until the copy owns the shard; in which term. `None` if the copy has ended.
async fn owned(status: &mut watch::Receiver<CopyStatus>) -> Option<u64> {
    status.wait_for(|status| status.owned_term.is_some()).await.ok()?.owned_term
}

/// Waits until the copy no longer owns the shard in this term.
async fn ends(status: &mut watch::Receiver<CopyStatus>, term: u64) {
    // A copy that does not run any more owns nothing.
    drop(status.wait_for(|status| status.owned_term != Some(term)).await);
}
