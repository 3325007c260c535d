//! A volume as one of several copies of a shard: what its writer changes becomes an entry of the shard's log
//! first, and what others have entered is applied.
//!
//! The order of a change is: decided by the owner's writer, in the log, on this volume, visible to readers,
//! answered. An answer that changes nothing and goes by what is stored waits for an entry too: a refusal, or
//! that all events of an append are known. Another copy may own the shard by then, and have stored something
//! else. The engine knows nothing of terms: [`BatchLog`] does, and says where each entry stands.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{clock::TimestampMs, error::StorageError, shared_log::LogSeq};

/// How far a volume has applied its shard's log, and who writes there. Stored with the changes of the entry
/// that it is about, so an entry is applied exactly once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// The cluster that the log belongs to.
    pub cluster: Uuid,
    /// How often the log was lost and begun anew before this one: places of different ones have nothing to do
    /// with each other.
    #[serde(default)]
    pub generation: u32,
    /// The last entry that was applied, or passed over because it is void.
    pub applied: u64,
    /// The CRC32C at the end of that entry.
    pub crc: u32,
    /// The term in force; 0 before the first.
    pub term: u64,
    /// What its owner drew for it.
    pub nonce: Uuid,
    /// The pod that owns the shard in it. `None` before the first term, and once the owner has yielded:
    /// then nothing but a new term continues the log.
    pub owner: Option<String>,
    /// The pod that the owner has yielded to, until the next term begins.
    pub yielded_to: Option<String>,
    /// Where the volume was recovered from S3: the last entry of which S3 may have had something by then. Up
    /// to it, entries may say what the volume knows already. 0 elsewhere.
    #[serde(default)]
    pub known_upto: u64,
    /// The logs before this one, in order. Empty if none was lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<EndedLog>,
}

/// Where a log ended that its servers have lost: the next one goes on with everything up to there, and with
/// nothing behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndedLog {
    /// How often a log was lost before it.
    pub generation: u32,
    /// The last entry that the copy had applied with which the next log was begun.
    pub seq: u64,
    /// The CRC32C at the end of that entry.
    pub crc: u32,
}

impl LogMark {
    /// Before the first entry of a log, which nobody has lost yet.
    pub fn beginning(cluster: Uuid) -> Self {
        Self {
            cluster,
            generation: 0,
            applied: 0,
            crc: 0,
            term: 0,
            nonce: Uuid::nil(),
            owner: None,
            yielded_to: None,
            known_upto: 0,
            ended: Vec::new(),
        }
    }

    /// Where the log would end if it were lost now, and begun anew with what this volume has.
    pub fn end(&self) -> EndedLog {
        EndedLog { generation: self.generation, seq: self.applied, crc: self.crc }
    }

    /// Whether the entry that it is about may say what the volume knows already.
    pub fn may_be_known(&self) -> bool {
        self.applied <= self.known_upto
    }

    /// The place of the last entry.
    pub fn seq(&self) -> LogSeq {
        LogSeq(self.applied)
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        match serde_json::to_vec(self) {
            Ok(bytes) => bytes,
            Err(error) => unreachable!("a mark has only string keys: {error}"),
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not it.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        serde_json::from_slice(bytes).map_err(|error| StorageError::corrupt(MARK, error))
    }
}

/// What errors call a [`LogMark`].
const MARK: &str = "the volume's mark of the shard's log";

/// An entry of the log that continues it, as an engine applies it.
#[derive(Debug, Clone)]
pub struct AppliedEntry {
    /// The owner's clock when it made the entry.
    pub now_ms: TimestampMs,
    /// What it changes, in the engine's own form; `None` if it is about ownership alone, or void.
    pub changes: Option<Bytes>,
    /// What the volume notes with it.
    pub mark: LogMark,
}

/// Makes the batches of a writer entries of the log, for as long as this copy owns the shard.
///
/// Only one batch is on its way at a time.
#[async_trait]
pub trait BatchLog: std::fmt::Debug + Send + Sync {
    /// Enters what a batch changes; without changes it enters that this copy still owns the shard. Returns
    /// what must be stored with the changes. May take as long as the log does not answer.
    ///
    /// # Errors
    /// `Demoted` and `Overloaded`: nothing was entered, and never will be. `LogUnavailable` with
    /// `may_be_written`: this copy has been overtaken, and the entry may have been entered.
    async fn enter(&self, now_ms: TimestampMs, changes: Option<Bytes>) -> Result<LogMark, StorageError>;

    /// Whether a client's write may be taken now.
    ///
    /// # Errors
    /// `Demoted`, `LogUnavailable` or `Overloaded`, with nothing written.
    fn check(&self) -> Result<(), StorageError>;

    /// Waits until a write that was taken now, and that has no end of its own, has waited for long enough.
    async fn out_of_patience(&self);
}

/// What a volume's writer does with requests.
#[derive(Debug, Clone, Default)]
pub enum WriterRole {
    /// The volume is the only one: its writer writes and syncs by itself.
    #[default]
    Alone,
    /// Another copy may own the shard: only its entries are applied, and what is the volume's own is kept.
    Follows,
    /// This copy owns the shard: what changes it is entered first.
    Owns(Arc<dyn BatchLog>),
}

impl WriterRole {
    /// Whether a client's write may be taken now.
    ///
    /// # Errors
    /// `Demoted`, `LogUnavailable` or `Overloaded`, with nothing written.
    pub fn check(&self) -> Result<(), StorageError> {
        match self {
            Self::Alone => Ok(()),
            Self::Follows => Err(StorageError::Demoted),
            Self::Owns(log) => log.check(),
        }
    }

    /// Waits for the answer to a write, but with a log no longer than a client's may take.
    ///
    /// # Errors
    /// Those of the answer; `LogUnavailable` if it did not come in time, and may be written later.
    pub async fn within_patience<T>(
        self,
        answer: impl Future<Output = Result<T, StorageError>> + Send,
    ) -> Result<T, StorageError> {
        let Self::Owns(log) = self else { return answer.await };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = log.out_of_patience() => Err(StorageError::LogUnavailable { may_be_written: true }),
        }
    }
}

/// The role of a volume's writer, shared with whoever changes it.
#[derive(Debug, Default)]
pub struct SharedRole(RwLock<WriterRole>);

impl SharedRole {
    /// The role now.
    pub fn get(&self) -> WriterRole {
        self.0.read().clone()
    }

    /// Changes it. The batch that is being written ends under the role that it began with.
    pub fn set(&self, role: WriterRole) {
        *self.0.write() = role;
    }
}

/// A volume that can be one of several copies.
#[async_trait]
pub trait Replica: Send + Sync {
    /// How far the log is applied, once nothing more is written that a former role has begun; `None` if the
    /// volume was never a copy.
    ///
    /// # Errors
    /// `Corrupt`, `Unavailable`, `OutcomeUnknown` or `Closed`.
    async fn log_mark(&self) -> Result<Option<LogMark>, StorageError>;

    /// The same of a volume that is a copy.
    ///
    /// # Errors
    /// Those of [`Replica::log_mark`]; `Corrupt` if it was never a copy.
    async fn mark_of_copy(&self) -> Result<LogMark, StorageError> {
        self.log_mark().await?.ok_or_else(|| StorageError::corrupt(MARK, "it is missing"))
    }

    /// What the writer does now.
    fn role(&self) -> WriterRole;

    /// What the writer does from its next batch on.
    fn set_role(&self, role: WriterRole);

    /// Applies an entry and stores its mark, in one step. Entries are applied in order, by a writer that
    /// follows. Where [`LogMark::may_be_known`] says so, what the volume knows already is passed over, but
    /// for the keys of events; the rest is made as the entry says, whatever was there.
    ///
    /// # Errors
    /// `Corrupt` if the entry does not fit the volume, `Refused` if it has a change of a newer program:
    /// nothing is changed, and no later one may be applied.
    /// `OutcomeUnknown`, `Demoted` or `Closed`.
    async fn apply(&self, entry: AppliedEntry) -> Result<(), StorageError>;

    /// Returns once it is known that this copy owned the shard at a moment after the call. All who wait
    /// share one entry. A volume that is alone knows it.
    ///
    /// # Errors
    /// `Demoted`, `Overloaded`, `OutcomeUnknown` or `Closed`; `LogUnavailable` with `may_be_written`: it has
    /// been overtaken.
    async fn confirm(&self) -> Result<(), StorageError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_is_stored_comes_back() {
        let mark = LogMark {
            applied: 7,
            crc: 0xdead_beef,
            term: 3,
            nonce: Uuid::from_u128(9),
            owner: Some("zombi-1".to_owned()),
            ..LogMark::beginning(Uuid::from_u128(1))
        };
        assert_eq!(LogMark::decode(&mark.encode()).unwrap(), mark);
        assert!(matches!(LogMark::decode(b"{}"), Err(StorageError::Corrupt { .. })));
        assert!(!mark.may_be_known());
        let anew = LogMark { generation: 1, ended: vec![mark.end()], ..mark.clone() };
        assert_eq!(LogMark::decode(&anew.encode()).unwrap(), anew);
        assert!(LogMark { known_upto: 7, ..mark }.may_be_known());
    }

    #[test]
    fn who_follows_takes_no_writes() {
        assert!(WriterRole::default().check().is_ok());
        assert!(matches!(WriterRole::Follows.check(), Err(StorageError::Demoted)));
    }
}
