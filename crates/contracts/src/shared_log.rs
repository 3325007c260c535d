//! A log that several machines keep: the role of the replicated log under a shard's writer.
//!
//! Whoever appends says what the last entry is, so of two that append at the same place one is refused. The
//! engine behind it replicates, elects and orders; nothing here does. The log knows nothing of what an entry
//! says, only whether it is about ownership ([`EntryKind::Term`]).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// The number of an entry: dense, from 1 on. 0 is the place before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogSeq(pub u64);

impl LogSeq {
    /// The number of the entry that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for LogSeq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry is about, as far as the log must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Changes of the store.
    Data,
    /// Who owns the shard: a term, a tick, a yield. The last of these is kept at hand.
    Term,
}

/// An entry as it is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number. One that is stored in parts has the number of its last part, which the next one follows.
    pub seq: LogSeq,
    /// Its bytes, whole.
    pub bytes: Bytes,
}

/// How much a log holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    /// The number of the first entry that it still has; one more than `last` if it has none.
    pub first: LogSeq,
    /// The number of the last entry.
    pub last: LogSeq,
    /// Bytes that are kept.
    pub bytes: u64,
    /// Bytes that may be kept.
    pub max_bytes: u64,
}

/// Why a log did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The log goes on elsewhere: the entry at this number, the first after the place that was given, is
    /// another's. What was to be appended is not in the log and never will be.
    #[error("entry {0} of the log is another's")]
    Taken(LogSeq),
    /// The log may not grow; nothing was appended. Trimming heals it.
    #[error("the log is full")]
    Full,
    /// The entry is larger than a log takes, whatever its state; nothing was appended.
    #[error("an entry of {bytes} bytes is larger than the log takes ({max})")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The most that it may have.
        max: usize,
    },
    /// The entries from the given number on are gone; this is the first that is there.
    #[error("the log begins with entry {0}")]
    Trimmed(LogSeq),
    /// An entry is missing between others, or is not what was written. Waiting does not heal it.
    #[error("the log is damaged at entry {seq}: {what}")]
    Damaged {
        /// The first entry that cannot be had.
        seq: LogSeq,
        /// What is wrong with it.
        what: String,
    },
    /// The log does not answer, or has no quorum. Waiting may heal it. Of `append` this is never the answer.
    #[error("the log does not answer: {0}")]
    Unavailable(String),
}

/// A replicated log, one for each shard.
#[async_trait]
pub trait SharedLog: std::fmt::Debug + Send + Sync {
    /// Appends behind `last`, in one step: all of the entry or nothing. It is settled when this returns:
    /// after `Ok` the entry is there, synced by a quorum; after an error it is not there and never will be,
    /// but for `Trimmed`. It repeats the same bytes until it knows, so it may take as long as the log does
    /// not answer. Whoever stops waiting for it does not know.
    ///
    /// # Errors
    /// `Taken`, `Full` or `TooLarge`. `Trimmed`: its place is gone; whether the entry stood there nobody can
    /// tell, and another has appended behind it.
    async fn append(&self, last: LogSeq, kind: EntryKind, entry: Bytes) -> Result<LogSeq, LogError>;

    /// Entries from `from` on, in order and without a hole, until `max_bytes` are reached: at least one, if
    /// there is one. Waits for the first, at most for `wait`; an empty answer means that the log has answered
    /// and that nothing came meanwhile.
    ///
    /// # Errors
    /// `Trimmed`, `Damaged` or `Unavailable`.
    async fn read(&self, from: LogSeq, max_bytes: usize, wait: Duration) -> Result<Vec<LogEntry>, LogError>;

    /// The entry that begins at `from`, alone and without a wait; `None` if there is none yet. For whoever
    /// asks what stands at a place that it knows: what is to be applied is read with [`read`](Self::read).
    ///
    /// # Errors
    /// `Trimmed`, `Damaged` or `Unavailable`.
    async fn look_at(&self, from: LogSeq) -> Result<Option<LogEntry>, LogError> {
        Ok(self.read(from, 1, Duration::ZERO).await?.into_iter().next())
    }

    /// The last entry about ownership, if there was ever one.
    ///
    /// # Errors
    /// `Damaged` or `Unavailable`.
    async fn term(&self) -> Result<Option<LogEntry>, LogError>;

    /// Forgets entries up to and with `upto`, but never the last one about ownership nor what follows it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn trim(&self, upto: LogSeq) -> Result<(), LogError>;

    /// How much it holds.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn size(&self) -> Result<LogSize, LogError>;
}
