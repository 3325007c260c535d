//! What can go wrong below the API, by what a caller can do about it. Every error keeps its cause.

use std::{fmt, iter, sync::Arc, time::Duration};

use super::{
    name::{GroupName, Partition, TableName},
    sequence::Offset,
};

/// The cause of an error, shared so that every waiter of a batch can have it.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// An error's text with those of its causes, in one line. Some texts include their cause's already.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Where an event lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// RocksDB.
    Hot,
    /// S3.
    Cold,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Hot => "hot",
            Tier::Cold => "cold",
        })
    }
}

/// Why a request is turned away for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// More requests wait for the writer than `limits.write_queue`.
    QueueFull,
    /// Hot holds `hot.max_bytes` of events that are not yet cold.
    HotFull,
    /// Less of the volume is free than `limits.disk_reserve_bytes` and `limits.disk_reserve_percent` demand.
    DiskFull,
    /// In-flight request bodies use `limits.inflight_bytes`.
    Memory,
    /// Answers being sent use `limits.response_bytes`.
    Answers,
    /// There are `limits.tails` server-sent event streams.
    Tails,
    /// All of `limits.cold_reads` have been waiting for S3 for a while.
    ColdReads,
    /// Idempotency keys use `idempotency.max_bytes`, and all of them are younger than
    /// `idempotency.min_window_secs`.
    KeysFull,
    /// The body was slow, and other requests needed the memory that it held.
    Slow,
    /// There are `erase.pending` erasures that are not done.
    Erasures,
    /// The shard's log holds nearly as much as `cluster.log.max_bytes`: S3 has been away for long.
    LogFull,
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Overload::QueueFull => "too many writes are waiting",
            Overload::HotFull => "the hot tier is full of events that are not yet in S3",
            Overload::DiskFull => "the volume is nearly full",
            Overload::Memory => "the memory for request bodies is used up",
            Overload::Answers => "the memory for answers is used up",
            Overload::Tails => "all places for event streams are taken",
            Overload::ColdReads => "too many reads are waiting for S3",
            Overload::KeysFull => {
                "the space for idempotency keys is used up, and none is old enough to be forgotten"
            }
            Overload::Erasures => "too many erasures are under way",
            Overload::Slow => "the body arrived slowly, and other requests needed the memory that it held",
            Overload::LogFull => "the shard's log is full of entries whose events are not yet in S3",
        })
    }
}

/// What is limited in number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Tables: `limits.tables`.
    Tables,
    /// Partitions of all tables: `limits.partitions`.
    Partitions,
    /// Consumer groups: `limits.groups`.
    Groups,
    /// Offsets of all groups: `limits.group_offsets`.
    GroupOffsets,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counted::Tables => "tables (limits.tables)",
            Counted::Partitions => "partitions in all (limits.partitions)",
            Counted::Groups => "consumer groups (limits.groups)",
            Counted::GroupOffsets => "committed offsets in all (limits.group_offsets)",
        })
    }
}

/// A failure of a tier, or a request that the stored state does not allow.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The tier cannot be reached now; the same call may work later. Nothing was changed, or repeating the
    /// change does no harm.
    #[error("the {tier} tier cannot be reached: {source}")]
    Unavailable {
        /// Which tier.
        tier: Tier,
        /// What the tier's client said.
        source: Cause,
    },
    /// The tier refuses what is asked of it: a wrong name, key or address. Waiting does not help. Nothing was
    /// changed.
    #[error("the {tier} tier refuses: {source}")]
    Denied {
        /// Which tier.
        tier: Tier,
        /// What the tier's client said, and which setting it is about.
        source: Cause,
    },
    /// Stored bytes are not what was stored.
    #[error("{object} is damaged: {source}")]
    Corrupt {
        /// The key or object.
        object: String,
        /// What does not fit.
        source: Cause,
    },
    /// Turned away before anything was written; try again after the delay.
    #[error("{reason}")]
    Overloaded {
        /// What is used up.
        reason: Overload,
        /// When to try again.
        retry_after: Duration,
    },
    /// The write may or may not be durable; this process acks nothing more and exits.
    #[error("the write's outcome is unknown: {source}")]
    OutcomeUnknown {
        /// What the engine said.
        source: Cause,
    },
    /// The writer has stopped; nothing was written.
    #[error("the store is closing")]
    Closed,
    /// Volume and bucket do not belong together, or the bucket cannot be trusted: an operator must decide.
    /// Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// Another writer has taken over the bucket; this one acks nothing more.
    #[error(
        "another writer has taken over the bucket: {0}. What only this volume has stays on it: `zombi \
         salvage` prints it"
    )]
    Fenced(String),
    /// This writer has not seen the manifests for as long as its lease lasts, or the writer before it may
    /// still be at work: another may write, so this one does not.
    #[error(
        "the manifests have not been seen for as long as s3.lease_secs allows, or the writer before this one \
         may still hold its lease: whether another writer has taken over the bucket is not known"
    )]
    FenceUnknown {
        /// Whether the write may be on the volume all the same.
        is_written: bool,
    },
    /// Another copy of the shard owns it now, or may: this one writes nothing. Whoever asks again finds the
    /// owner. Nothing was written.
    #[error("another copy owns the shard now")]
    Demoted,
    /// No copy of the shard owns it: none is alive, or none has taken over yet. Nothing was written.
    #[error("no copy of the shard owns it now")]
    NoOwner,
    /// The shard's log does not answer, has no quorum, or has forgotten what became of the write. Waiting may
    /// heal it.
    #[error("the shard's log has no answer")]
    LogUnavailable {
        /// Whether the write may have been entered all the same, or may be later.
        may_be_written: bool,
    },
    /// Optimistic concurrency: the partition has moved on.
    #[error("{partition}: expected offset {expected}, but the next offset is {next}")]
    OffsetMismatch {
        /// The partition.
        partition: Partition,
        /// What the caller expected.
        expected: Offset,
        /// The next offset.
        next: Offset,
    },
    /// No such table.
    #[error("table {0} does not exist")]
    UnknownTable(TableName),
    /// No such consumer group.
    #[error("consumer group {0} does not exist")]
    UnknownGroup(GroupName),
    /// Something new would exceed a limit.
    #[error("there may be no more than {limit} {what}")]
    TooMany {
        /// What there would be too many of.
        what: Counted,
        /// The setting's value.
        limit: usize,
    },
    /// The principal has made as many as it may. Waiting does not help. Nothing was changed.
    #[error("over the quota {quota}: the principal may have made at most {limit}")]
    OverQuota {
        /// The quota: `tables`, `partitions` or `groups`.
        quota: &'static str,
        /// The principal's limit.
        limit: u64,
    },
    /// A table would have fewer partitions than it has.
    #[error("table {table} has {partitions} partitions, and they cannot become {asked}")]
    PartitionsShrink {
        /// The table.
        table: TableName,
        /// How many it has.
        partitions: u32,
        /// How many were asked for.
        asked: u32,
    },
    /// An idempotency key was used before, for another payload or with another key of the event.
    #[error("{partition}: the idempotency key was used for another payload or key, at offset {offset}")]
    KeyReused {
        /// The partition.
        partition: Partition,
        /// The first write with the key.
        offset: Offset,
        /// The index of the event in its append.
        index: usize,
    },
    /// A read or commit beyond the end of the partition.
    #[error("{partition}: offset {offset} is beyond the next offset {next}")]
    BeyondEnd {
        /// The partition.
        partition: Partition,
        /// What was asked for.
        offset: Offset,
        /// The first offset not yet given.
        next: Offset,
    },
    /// A read below the first event that is kept.
    #[error("{partition}: offset {offset} is no longer kept, the earliest is {earliest}")]
    Expired {
        /// The partition.
        partition: Partition,
        /// What was asked for.
        offset: Offset,
        /// The first offset that can be read.
        earliest: Offset,
    },
    /// A consumer offset would step back.
    #[error("{partition}: the committed offset is {committed}, {offset} would step back")]
    CommitBackwards {
        /// The partition.
        partition: Partition,
        /// What was asked for.
        offset: Offset,
        /// What is committed.
        committed: Offset,
    },
}

impl StorageError {
    /// Whether what was to be written may have been written all the same.
    pub fn may_be_written(&self) -> bool {
        matches!(
            self,
            Self::OutcomeUnknown { .. }
                | Self::FenceUnknown { is_written: true }
                | Self::LogUnavailable { may_be_written: true }
        )
    }

    /// Whether nothing can be written any more, so that no retry helps.
    pub fn ends_writing(&self) -> bool {
        matches!(self, Self::Closed | Self::Fenced(_) | Self::OutcomeUnknown { .. })
    }

    /// A tier that cannot be reached, with its cause.
    pub fn unavailable(tier: Tier, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { tier, source: Arc::new(source) }
    }

    /// Damaged bytes, with what does not fit.
    pub fn corrupt(
        object: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Corrupt { object: object.to_string(), source: Arc::from(source.into()) }
    }

    /// A write of unknown outcome, with its cause.
    pub fn outcome_unknown(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::OutcomeUnknown { source: Arc::new(source) }
    }

    /// A tier that refuses a request until an operator changes something.
    pub fn denied(tier: Tier, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Denied { tier, source: Arc::new(source) }
    }

    /// Whether the bucket alone is the cause, and not how volume and bucket relate: the volume may then serve
    /// without it.
    pub fn may_be_the_buckets(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Overloaded { .. } | Self::Denied { .. })
    }

    /// Whether it refuses a request by what is stored. Of a shard with a log only its owner knows what that
    /// is.
    pub fn is_by_what_is_stored(&self) -> bool {
        match self {
            Self::OffsetMismatch { .. }
            | Self::UnknownTable(_)
            | Self::UnknownGroup(_)
            | Self::TooMany { .. }
            | Self::OverQuota { .. }
            | Self::PartitionsShrink { .. }
            | Self::KeyReused { .. }
            | Self::BeyondEnd { .. }
            | Self::Expired { .. }
            | Self::CommitBackwards { .. } => true,
            Self::Unavailable { .. }
            | Self::Denied { .. }
            | Self::Corrupt { .. }
            | Self::Overloaded { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Closed
            | Self::Refused(_)
            | Self::Fenced(_)
            | Self::FenceUnknown { .. }
            | Self::Demoted
            | Self::NoOwner
            | Self::LogUnavailable { .. } => false,
        }
    }

    /// Whether the same call may succeed later without anyone's help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Overloaded { .. } | Self::LogUnavailable { .. })
    }
}
