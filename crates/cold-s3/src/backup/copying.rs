//! Copies objects from one place to another: by the store itself where both are in it, else through this
//! process. Each object is there whole or not at all.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    plan::{CopyPlan, WantedObject},
    records::BackupEntry,
};
use crate::{
    byte_budget::ByteBudget,
    formats::sha256,
    names::SEGMENTS,
    place::{ObjectPlace, create_same},
    watcher::Watcher,
};
use contracts::{crash, error::StorageError, offload::offload_cold};

/// Objects that are copied at once.
const PARALLEL_COPIES: usize = 8;

/// What was copied.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// The objects that are at the target now.
    pub(super) entries: BTreeMap<String, BackupEntry>,
    /// How many of them were not there before.
    pub(super) copied: u64,
    /// Their bytes.
    pub(super) copied_bytes: u64,
    /// A needed object that is not at the source any more.
    pub(super) gone: Option<String>,
}

/// Copies from one place to another.
pub(super) struct Copier<'a> {
    pub(super) from: &'a dyn ObjectPlace,
    pub(super) to: &'a dyn ObjectPlace,
    pub(super) watcher: &'a dyn Watcher,
    /// Whether the store has refused to copy by itself.
    refuses: AtomicBool,
    /// For objects that pass through this process.
    budget: ByteBudget,
}

impl<'a> Copier<'a> {
    pub(super) fn new(from: &'a dyn ObjectPlace, to: &'a dyn ObjectPlace, watcher: &'a dyn Watcher) -> Self {
        Self { from, to, watcher, refuses: AtomicBool::new(false), budget: ByteBudget::new() }
    }

    /// Copies and compares as planned. Ends early if a needed object is gone.
    ///
    /// # Errors
    /// Those of both places; `Corrupt` if an object is not what a manifest says, or the target has another.
    pub(super) async fn all(&self, plan: CopyPlan) -> Result<Copies, StorageError> {
        let CopyPlan { copy, check, held } = plan;
        let held = held.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let mut copies = Copies { entries: held, ..Copies::default() };
        let todo =
            check.into_iter().map(|object| (object, true)).chain(copy.into_iter().map(|one| (one, false)));
        let work = stream::iter(todo).map(|(object, is_there)| async move {
            let done = if is_there { self.check(&object).await } else { self.copy(&object).await };
            (object, is_there, done)
        });
        let mut work = std::pin::pin!(work.buffer_unordered(PARALLEL_COPIES));
        while let Some((object, is_there, done)) = work.next().await {
            match done? {
                Some(entry) => {
                    self.watcher.did(object.bytes);
                    if !is_there {
                        copies.copied += 1;
                        copies.copied_bytes += entry.bytes;
                    }
                    copies.entries.insert(entry.key.clone(), entry);
                }
                None if object.is_needed => {
                    copies.gone = Some(object.key);
                    break;
                }
                // Retention took it away long enough ago.
                None => {}
            }
        }
        Ok(copies)
    }

    /// Copies one object; `None` if the source does not have it.
    async fn copy(&self, object: &WantedObject) -> Result<Option<BackupEntry>, StorageError> {
        let entry = match self.copy_by_store(object).await? {
            Some(entry) => entry,
            None => self.copy_by_hand(object).await?,
        };
        crash::point("backup-copied");
        Ok(entry)
    }

    /// Has the store copy an object whose SHA-256 is known; `None` if it cannot.
    async fn copy_by_store(
        &self,
        object: &WantedObject,
    ) -> Result<Option<Option<BackupEntry>>, StorageError> {
        let (Some(sha256), Some(from), Some(to)) =
            (&object.sha256, self.from.in_bucket(), self.to.in_bucket())
        else {
            return Ok(None);
        };
        if self.refuses.load(Relaxed) {
            return Ok(None);
        }
        let (key, bytes) = (object.key.clone(), object.bytes);
        match to.copy_from(from, &key, key.starts_with(SEGMENTS)).await {
            Ok(true) => Ok(Some(Some(BackupEntry { key, bytes, sha256: sha256.clone() }))),
            Ok(false) => Ok(Some(None)),
            // It has no such request, or no right for it: reading and writing may be allowed all the same.
            Err(StorageError::Denied { .. }) => {
                self.refuses.store(true, Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn copy_by_hand(&self, object: &WantedObject) -> Result<Option<BackupEntry>, StorageError> {
        let _held = self.budget.take(object.bytes).await;
        let Some(body) = self.from.get(&object.key).await? else { return Ok(None) };
        let entry = entry_of(&object.key, body.clone()).await?;
        if object.sha256.as_ref().is_some_and(|sha256| *sha256 != entry.sha256) {
            let found = self.from.named(&object.key);
            return Err(StorageError::corrupt(found, "its SHA-256 is not the one that its manifest holds"));
        }
        create_same(self.to, &object.key, body).await?;
        Ok(Some(entry))
    }

    /// Compares an object that is there with the one that is wanted; `None` if the source does not have it.
    pub(super) async fn check(&self, object: &WantedObject) -> Result<Option<BackupEntry>, StorageError> {
        let held = self.budget.take(object.bytes).await;
        let Some(body) = self.to.get(&object.key).await? else {
            drop(held);
            return self.copy(object).await;
        };
        let entry = entry_of(&object.key, body).await?;
        let wanted = match &object.sha256 {
            Some(sha256) => sha256.clone(),
            None => match self.from.get(&object.key).await? {
                Some(body) => entry_of(&object.key, body).await?.sha256,
                None => return Ok(None),
            },
        };
        if wanted == entry.sha256 {
            return Ok(Some(entry));
        }
        let found = self.to.named(&object.key);
        Err(StorageError::corrupt(found, "it exists with other bytes; nothing was overwritten"))
    }
}

/// What a list says of an object.
async fn entry_of(key: &str, body: Bytes) -> Result<BackupEntry, StorageError> {
    let bytes = body.len() as u64;
    let sha256 = offload_cold(move || Ok(sha256(&body))).await?;
    Ok(BackupEntry { key: key.to_owned(), bytes, sha256 })
}
