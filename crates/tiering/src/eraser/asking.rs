//! Takes erasures: notes them on the volume and lists them in the manifests, before they are answered.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, Notify, OwnedMutexGuard},
    task,
    time::timeout,
};
use tracing::warn;
use uuid::Uuid;

use super::{Eraser, EraserParts, list::ErasureList};
use contracts::{
    crash,
    erasure::{Erasure, ErasureProgress, ErasureStatus, Erasures, ExpiredSearch, PendingErasures},
    error::{Overload, StorageError},
    name::{Partition, TableName},
    sequence::Offset,
};

/// How long an answer waits for S3 to list the erasure.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes erasures.
pub struct EraserHandle {
    parts: EraserParts,
    list: Arc<ErasureList>,
    /// Locked while one is taken, so that they are counted one by one.
    asking: Arc<Mutex<()>>,
    wake: Arc<Notify>,
}

impl EraserHandle {
    /// A handle, and the eraser that carries out what it takes and what the volume has noted.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` if the notes cannot be read.
    pub(crate) fn new(parts: EraserParts) -> Result<(Arc<Self>, Eraser), StorageError> {
        let list = Arc::new(ErasureList::new(parts.hot.erasures()?, parts.settings.keep));
        let wake = Arc::new(Notify::new());
        let eraser = Eraser {
            parts: parts.clone(),
            list: Arc::clone(&list),
            wake: Arc::clone(&wake),
            is_adopted: false,
        };
        Ok((Arc::new(Self { parts, list, asking: Arc::default(), wake }), eraser))
    }

    /// Notes an erasure on the volume, and then in the list, also if whoever asks goes away meanwhile: nobody
    /// reads the volume's notes again before it is opened again. The eraser begins with it once what is
    /// returned beside it is dropped.
    ///
    /// # Errors
    /// `Overloaded` if too many are under way; else those of [`HotErase::note_erasures`].
    ///
    /// [`HotErase::note_erasures`]: contracts::erasure::HotErase::note_erasures
    async fn note(
        &self,
        mut erasure: Erasure,
        one_by_one: OwnedMutexGuard<()>,
    ) -> Result<(Erasure, WakeAtEnd), StorageError> {
        self.parts.fence.check_lease()?;
        if self.list.under_way() >= self.parts.settings.pending {
            let retry_after = Duration::from_secs(5);
            return Err(StorageError::Overloaded { reason: Overload::Erasures, retry_after });
        }
        if erasure.parts.is_empty() {
            // There is nothing to erase, and a note of that.
            (erasure.hot_done_ms, erasure.done_ms) = (Some(erasure.asked_ms), Some(erasure.asked_ms));
        }
        let (hot, list, wake) = (Arc::clone(&self.parts.hot), Arc::clone(&self.list), Arc::clone(&self.wake));
        let noting = async move {
            let forgotten = list.to_forget();
            hot.note_erasures(vec![erasure.clone()], forgotten.clone()).await?;
            crash::point("erase-noted");
            list.set(erasure.clone(), None);
            list.forget(&forgotten);
            // It is counted. Others need not wait for S3.
            drop(one_by_one);
            Ok((erasure, WakeAtEnd(wake)))
        };
        task::spawn(noting).await.map_err(StorageError::outcome_unknown)?
    }

    /// Lists an erasure in the manifests, so that it outlives the volume. While S3 is away the volume alone
    /// has it, and the eraser lists it later.
    ///
    /// # Errors
    /// `Fenced`: another writer has the bucket, and will not hear of it.
    async fn list_in_manifests(&self, erasure: &Erasure) -> Result<(), StorageError> {
        let Some((cold, _)) = self.parts.cold.as_ref().filter(|(cold, _)| cold.is_open()) else {
            return Ok(());
        };
        if erasure.status() == ErasureStatus::Done {
            return Ok(());
        }
        let listed = timeout(LIST_TIMEOUT, cold.note_erasures(vec![erasure.clone()], Vec::new())).await;
        let id = erasure.id;
        match listed {
            Ok(Ok(())) => crash::point("erase-listed"),
            Ok(Err(fenced @ StorageError::Fenced(_))) => return Err(fenced),
            Ok(Err(error)) => warn!(%id, %error, "an erasure is on the volume only until S3 takes it"),
            Err(_) => warn!(%id, "an erasure is on the volume only until S3 takes it: no answer in time"),
        }
        Ok(())
    }
}

/// Wakes the eraser when it is dropped.
struct WakeAtEnd(Arc<Notify>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Erasures for EraserHandle {
    async fn ask(&self, erasure: Erasure) -> Result<Erasure, StorageError> {
        let role = self.parts.hot.role();
        role.check()?;
        let turn = async { Ok(Arc::clone(&self.asking).lock_owned().await) };
        // Nothing has been asked of the volume by then.
        let late = |_| StorageError::LogUnavailable { may_be_written: false };
        let one_by_one = role.clone().within_patience(turn).await.map_err(late)?;
        let (erasure, _begins) = role.within_patience(self.note(erasure, one_by_one)).await?;
        self.list_in_manifests(&erasure).await?;
        Ok(erasure)
    }

    fn find(&self, table: &TableName, id: Uuid) -> Option<ErasureProgress> {
        self.list.get(id).filter(|found| found.erasure.table == *table)
    }

    async fn expired_offsets(
        &self,
        partition: &Partition,
        search: ExpiredSearch,
    ) -> Result<Vec<Offset>, StorageError> {
        match &self.parts.cold {
            Some((cold, _)) => cold.expired_offsets(partition, search).await,
            None => Ok(Vec::new()),
        }
    }

    fn pending(&self) -> PendingErasures {
        let to_do = self.list.to_do();
        let age = |erasure: &Erasure| self.parts.clock.now_ms().saturating_sub(erasure.asked_ms).max(0);
        let oldest_ms = to_do.first().map_or(0, age).unsigned_abs();
        PendingErasures { count: to_do.len() as u64, oldest: Duration::from_millis(oldest_ms) }
    }
}
