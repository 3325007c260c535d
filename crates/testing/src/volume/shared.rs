//! A volume in memory as one of several copies of a shard. An entry of the log names a change that is kept
//! beside the log, and every copy makes that change by itself: with the same outcome, as it looks at nothing
//! but the volume and what was fixed when it was entered. A volume that was recovered from S3 may know it
//! already: then an append goes by the outcome that it had elsewhere. Tables that are deleted are left out of
//! such tests: here they are emptied up to their ends, whatever came since.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use contracts::{
    error::StorageError,
    replica::{AppliedEntry, LogMark, Replica, WriterRole},
};
use tokio::sync::oneshot;

use super::{MemoryHot, VolumeState};

impl MemoryHot {
    /// The same as [`MemoryHot::share`] for a client, who with a log does not wait for as long as it takes.
    pub(super) async fn share_for_client<T: Send + 'static>(
        &self,
        change: impl Fn(&mut VolumeState) -> Result<T, StorageError> + Send + Sync + 'static,
    ) -> Result<T, StorageError> {
        let role = self.entering.role.get();
        role.check()?;
        role.within_patience(self.share(change)).await
    }

    /// Makes a change that all copies of a shard have alike: at once if the volume is alone.
    pub(super) async fn share<T: Send + 'static>(
        &self,
        change: impl Fn(&mut VolumeState) -> Result<T, StorageError> + Send + Sync + 'static,
    ) -> Result<T, StorageError> {
        if matches!(self.entering.role.get(), WriterRole::Alone) {
            return self.write(change).await;
        }
        self.pause().await;
        let change = Arc::new(change);
        let shared = Arc::clone(&change);
        let alike = move |volume: &mut VolumeState| drop(shared(volume));
        let named = self.options.entered.keep(Arc::new(alike));
        self.enter(named, move |volume| change(volume)).await
    }

    /// Enters what has this name in the log, then makes it: in a task of its own, as whoever asked may give
    /// up.
    async fn enter<T: Send + 'static>(
        &self,
        named: Bytes,
        make: impl FnOnce(&mut VolumeState) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (reply, answer) = oneshot::channel();
        let (role, turn) = (Arc::clone(&self.entering.role), Arc::clone(&self.entering.turn));
        let (volume, now_ms) = (self.volume.clone(), self.clock.now_ms());
        let entered = async move {
            let _turn = turn.lock().await;
            let WriterRole::Owns(log) = role.get() else { return Err(StorageError::Demoted) };
            let mark = log.enter(now_ms, Some(named)).await?;
            let mut volume = volume.lock();
            volume.log = Some(mark);
            make(&mut volume)
        };
        self.entering.spawn(async move { drop(reply.send(entered.await)) });
        answer.await.map_err(StorageError::outcome_unknown)?
    }

    /// Enters that this copy still owns the shard, once for all who wait for it by then.
    async fn enter_confirm(&self) -> Result<(), StorageError> {
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = self.entering.confirms.lock();
            waiting.push(reply);
            waiting.len() == 1
        };
        // Nobody has two turns in the queue: what moves events to S3 would wait behind all of them.
        if is_first {
            self.spawn_confirm();
        }
        answer.await.map_err(StorageError::outcome_unknown)?
    }

    /// Confirms for all who wait by its turn.
    fn spawn_confirm(&self) {
        let (role, turn) = (Arc::clone(&self.entering.role), Arc::clone(&self.entering.turn));
        let (volume, clock) = (self.volume.clone(), Arc::clone(&self.clock));
        let confirms = Arc::clone(&self.entering.confirms);
        self.entering.spawn(async move {
            let _turn = turn.lock().await;
            let waiting = std::mem::take(&mut *confirms.lock());
            let confirmed = match role.get() {
                WriterRole::Owns(log) => {
                    let mark = log.enter(clock.now_ms(), None).await;
                    mark.map(|mark| volume.lock().log = Some(mark))
                }
                WriterRole::Alone | WriterRole::Follows => Err(StorageError::Demoted),
            };
            for reply in waiting {
                drop(reply.send(confirmed.clone())); // who has given up does not listen
            }
        });
    }
}

#[async_trait]
impl Replica for MemoryHot {
    async fn log_mark(&self) -> Result<Option<LogMark>, StorageError> {
        let _turn = self.entering.turn.lock().await;
        Ok(self.volume.lock().log.clone())
    }

    fn role(&self) -> WriterRole {
        self.entering.role.get()
    }

    fn set_role(&self, role: WriterRole) {
        self.entering.role.set(role);
    }

    async fn apply(&self, entry: AppliedEntry) -> Result<(), StorageError> {
        let _turn = self.entering.turn.lock().await;
        if !matches!(self.entering.role.get(), WriterRole::Follows) {
            return Err(StorageError::Demoted);
        }
        let unknown = || StorageError::corrupt("an entry of the log", "it names no change");
        let change = entry.changes.map(|name| self.options.entered.named(&name).ok_or_else(unknown));
        let change = change.transpose()?;
        let mut volume = self.volume.lock();
        volume.may_be_known = entry.mark.may_be_known();
        volume.applies = true;
        volume.log = Some(entry.mark);
        if let Some(change) = change {
            change(&mut volume);
        }
        (volume.may_be_known, volume.applies) = (false, false);
        Ok(())
    }

    async fn confirm(&self) -> Result<(), StorageError> {
        match self.entering.role.get() {
            WriterRole::Alone => Ok(()),
            WriterRole::Follows => Err(StorageError::Demoted),
            WriterRole::Owns(_) => self.enter_confirm().await,
        }
    }
}
