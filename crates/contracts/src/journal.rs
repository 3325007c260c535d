//! What the volume remembers of the manifest chain: which links it may have written. A link is noted durably
//! before it can exist. So if the chain's last link is not in the journal at the next start, another volume
//! wrote it, or a later copy of this one.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::error::StorageError;

/// Openings that are remembered besides the one that wrote the chain's last link. Failed ones count too: a
/// bucket that takes no link for long makes many. If the writer of the last link were forgotten, the volume
/// would pass for an older copy of itself, and catch up.
const REMEMBERED: usize = 16;

/// What the volume remembers of the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRecord {
    /// The nonces of its last openings, the newest last, each with the greatest link number that it may have
    /// written.
    openings: Vec<(Uuid, u64)>,
    /// Whether a recovery from S3 has begun and not ended.
    catching_up: bool,
}

impl ChainRecord {
    /// Whether this volume may have written the link with this nonce and number.
    pub fn knows(&self, nonce: Uuid, number: u64) -> bool {
        self.openings.iter().any(|&(known, last)| known == nonce && number <= last)
    }

    /// The record with one more link that may be written. Old openings are forgotten, but never the one that
    /// wrote the link before it.
    fn with(&self, nonce: Uuid, number: u64, follows: Option<Uuid>) -> Self {
        let mut next = self.clone();
        match next.openings.iter_mut().find(|(known, _)| *known == nonce) {
            Some((_, last)) => *last = number,
            None => next.openings.push((nonce, number)),
        }
        let mut old = next.openings.len().saturating_sub(REMEMBERED);
        next.openings.retain(|(known, _)| {
            let stays = old == 0 || Some(*known) == follows;
            old = old.saturating_sub(1);
            stays
        });
        next
    }

    /// Whether the volume was never used with a bucket.
    pub fn is_empty(&self) -> bool {
        self.openings.is_empty()
    }

    /// Whether a recovery from S3 has begun and not ended.
    pub fn is_catching_up(&self) -> bool {
        self.catching_up
    }
}

/// Keeps facts about a volume on the volume.
///
/// A note is durable before the step that it announces may be taken.
#[async_trait]
pub trait Notes: std::fmt::Debug + Send + Sync {
    /// The id of the store that the volume holds.
    fn store_id(&self) -> Uuid;

    /// The record of the chain in its stored form; `None` if there was never one.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    fn stored(&self) -> Result<Option<Vec<u8>>, StorageError>;

    /// Stores the record of the chain, in its stored form. If `store_id` is given, the volume holds that
    /// store from now on; both change in one step, which is durable when this returns.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn note(&self, chain: Vec<u8>, store_id: Option<Uuid>) -> Result<(), StorageError>;
}

/// The record of the chain, and where it is kept.
#[derive(Debug)]
pub struct Journal {
    notes: Arc<dyn Notes>,
    record: Mutex<ChainRecord>,
}

impl Journal {
    /// The journal that a volume keeps.
    ///
    /// # Errors
    /// `Corrupt` if what is kept is not one; `Unavailable`.
    pub fn open(notes: Arc<dyn Notes>) -> Result<Self, StorageError> {
        let record = match notes.stored()? {
            None => ChainRecord::default(),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| StorageError::corrupt("the volume's record of the chain", error))?,
        };
        Ok(Self { notes, record: Mutex::new(record) })
    }

    /// The record now.
    pub async fn record(&self) -> ChainRecord {
        self.record.lock().await.clone()
    }

    /// Notes that link `number` may be written with this nonce, after one with the nonce `follows`.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    pub async fn intend(&self, nonce: Uuid, number: u64, follows: Option<Uuid>) -> Result<(), StorageError> {
        let mut record = self.record.lock().await;
        if record.knows(nonce, number) {
            return Ok(());
        }
        let next = record.with(nonce, number, follows);
        self.write(&next, None).await?;
        *record = next;
        Ok(())
    }

    /// Notes that a recovery begins, after which the volume holds the store of that id.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    pub async fn begin_catching_up(&self, store_id: Uuid) -> Result<(), StorageError> {
        self.set_catching_up(true, Some(store_id)).await
    }

    /// Notes that the recovery has ended.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    pub async fn caught_up(&self) -> Result<(), StorageError> {
        self.set_catching_up(false, None).await
    }

    async fn set_catching_up(&self, catching_up: bool, store_id: Option<Uuid>) -> Result<(), StorageError> {
        let mut record = self.record.lock().await;
        let next = ChainRecord { catching_up, ..record.clone() };
        self.write(&next, store_id).await?;
        *record = next;
        Ok(())
    }

    async fn write(&self, record: &ChainRecord, store_id: Option<Uuid>) -> Result<(), StorageError> {
        let bytes = match serde_json::to_vec(record) {
            Ok(bytes) => bytes,
            Err(error) => unreachable!("a record has only string keys: {error}"),
        };
        self.notes.note(bytes, store_id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_links_and_other_writers_are_not_known() {
        let (ours, other, ours_too) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let record = ChainRecord { openings: vec![(ours, 7), (ours_too, 9)], catching_up: false };
        assert!(record.knows(ours, 7) && record.knows(ours, 3));
        assert!(
            !record.knows(ours, 8),
            "a link after a copy was made, though the copy has tried the number itself"
        );
        assert!(record.knows(ours_too, 8));
        assert!(!record.knows(other, 3));
        assert!(ChainRecord::default().is_empty());
    }

    #[test]
    fn however_often_an_opening_is_tried_who_wrote_the_last_link_stays_known() {
        let ours = Uuid::from_u128(7);
        let mut record = ChainRecord::default().with(ours, 3, None).with(ours, 5, Some(ours));
        for tried in 100..200 {
            record = record.with(Uuid::from_u128(tried), 6, Some(ours));
        }
        assert!(
            record.knows(ours, 5)
                && record.knows(Uuid::from_u128(199), 6)
                && record.knows(Uuid::from_u128(190), 6)
        );
        assert!(record.openings.len() <= REMEMBERED + 1);
        let last = Uuid::from_u128(199);
        for number in 7..50 {
            record = record.with(last, number, Some(last));
        }
        assert!(record.knows(last, 49));
    }
}
