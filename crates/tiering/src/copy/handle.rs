//! A copy as others see it: how it stands, whether it owns the shard, and orders to give the shard up.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CopyParts, CopyRunner};
use crate::{
    cover::LogCover,
    volumes::{OtherVolumes, OwnedLog, ScrubbedUpto},
};
use contracts::{
    engine::Engine,
    error::StorageError,
    metrics,
    replica::LogMark,
    shared_log::{LogSeq, LogSize},
};

/// Whose copy of which shard it is.
#[derive(Debug, Clone)]
pub struct CopyNames {
    /// The cluster.
    pub cluster: Uuid,
    /// The shard's number.
    pub shard: u32,
    /// This pod.
    pub pod: String,
    /// Where other pods reach it.
    pub address: String,
    /// The pods that have copies of the shard, by their rank; this pod is one of them.
    pub copies: Vec<String>,
}

impl CopyNames {
    /// The first of the other pods that have copies.
    pub(super) fn first_other(&self) -> Option<&String> {
        self.copies.iter().find(|pod| **pod != self.pod)
    }
}

/// How a copy stands.
#[derive(Debug, Clone)]
pub struct CopyStatus {
    /// Where the log stands, as far as it is applied here; which term is in force there, and who owns the
    /// shard in it. Of an owner as it ticked last: another copy that has applied as much is within a tick of
    /// the end.
    pub mark: LogMark,
    /// The term in which this copy owns the shard, if it does.
    pub owned_term: Option<u64>,
    /// Whether it has reached the end of the log once since it began.
    pub has_caught_up: bool,
    /// Whether it has applied all that the log had a moment ago, as far as the log answers: otherwise it may
    /// not know who owns the shard now. Of what it lacks it learns within about two seconds.
    pub is_in_step: bool,
}

/// A copy, as others see it.
pub struct ShardCopy {
    hot: Arc<dyn Engine>,
    names: CopyNames,
    read_timeout: Duration,
    status: watch::Receiver<CopyStatus>,
    orders: mpsc::Sender<String>,
    retired: CancellationToken,
    cover: LogCover,
    scrubbed: ScrubbedUpto,
    volumes: OtherVolumes,
}

impl ShardCopy {
    /// A copy, and what runs it.
    pub fn new(parts: CopyParts) -> (Self, CopyRunner) {
        let mark = LogMark { generation: parts.generation, ..LogMark::beginning(parts.names.cluster) };
        let status =
            CopyStatus { mark: mark.clone(), owned_term: None, has_caught_up: false, is_in_step: false };
        let (shown, status) = watch::channel(status);
        let (orders, received) = mpsc::channel(1);
        let (cover, retired) = (LogCover::new(parts.log_keep_bytes), CancellationToken::new());
        let scrubbed = ScrubbedUpto::default();
        let others = parts.names.copies.iter().filter(|pod| **pod != parts.names.pod);
        let volumes = OtherVolumes::of(others.cloned());
        let copy = Self {
            hot: Arc::clone(&parts.hot),
            names: parts.names.clone(),
            read_timeout: parts.settings.read_timeout_secs.duration(),
            status,
            orders,
            retired: retired.clone(),
            cover: cover.clone(),
            scrubbed: scrubbed.clone(),
            volumes,
        };
        let runner = CopyRunner {
            parts,
            mark,
            shown,
            orders: received,
            retired,
            cover,
            scrubbed,
            heard: Instant::now(),
            housekept: Instant::now(),
        };
        (copy, runner)
    }

    /// How it stands, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<CopyStatus> {
        self.status.clone()
    }

    /// Returns once it is known that this copy owned the shard after the call: what a read finds meanwhile,
    /// or after it, was the present when it was found.
    ///
    /// # Errors
    /// `Demoted`; `LogUnavailable` if the log does not answer in time; `Overloaded`, `OutcomeUnknown` or
    /// `Closed`.
    pub async fn confirm(&self) -> Result<(), StorageError> {
        let began = Instant::now();
        let late = StorageError::LogUnavailable { may_be_written: false };
        let confirmed = timeout(self.read_timeout, self.hot.confirm()).await.unwrap_or(Err(late));
        metrics::confirmed(began.elapsed());
        match confirmed {
            // Overtaken; whether a tick was entered is nobody's concern.
            Err(StorageError::LogUnavailable { may_be_written: true }) => Err(StorageError::Demoted),
            confirmed => confirmed,
        }
    }

    /// Has the copy give up the shard as soon as the log takes that, if it owns it: to this pod, or to the
    /// first of the other copies. Returns to whom; `None` if there is no such copy.
    pub fn hand_over(&self, to: Option<&str>) -> Option<&str> {
        let mut others = self.names.copies.iter().filter(|pod| **pod != self.names.pod);
        let to = others.find(|pod| to.is_none_or(|to| to == pod.as_str()))?;
        // If one is under way already, that is enough.
        drop(self.orders.try_send(to.clone()));
        Some(to)
    }

    /// From now on this copy does not take the shard over, as no request can come to its pod any more. What
    /// it owns it goes on to own; if a takeover is under way, it gives the shard up to the first of the
    /// others.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    /// The copies that rank before this one while it owns the shard, the first of them first: if one of them
    /// keeps up, the shard is better there. None otherwise.
    pub fn better_copies(&self) -> &[String] {
        let CopyNames { copies, pod, .. } = &self.names;
        let rank = copies.iter().position(|copy| copy == pod).unwrap_or_default();
        if self.status.borrow().owned_term.is_some() { &copies[..rank] } else { &[] }
    }

    /// Gives up the shard to a copy that ranks before this one, which has applied the log up to here, if that
    /// is within a tick of the end. Whoever asks pods for [`CopyStatus::mark`] calls this, about once a
    /// minute. Returns whether it has.
    pub fn yield_to_better(&self, pod: &str, applied: LogSeq) -> bool {
        let keeps_up = applied >= self.status.borrow().mark.seq();
        let is_better = self.better_copies().iter().any(|better| better == pod);
        is_better && keeps_up && self.hand_over(Some(pod)).is_some()
    }

    /// How much the log held when it was last asked, about every second; `None` before it has answered.
    pub fn log_size(&self) -> Option<LogSize> {
        self.cover.size()
    }

    /// Up to which entry of the log nothing is left in the volume's files of what was erased.
    pub fn scrubbed(&self) -> LogSeq {
        self.scrubbed.seq()
    }

    /// The pods whose volumes may hold what was erased while this copy owns the shard, as far as they have
    /// said: an erasure waits for them. Whoever asks pods for [`ShardCopy::scrubbed`] asks them about every
    /// second, and calls [`ShardCopy::note_scrubbed`].
    pub fn pods_to_scrub(&self) -> Vec<String> {
        if self.status.borrow().owned_term.is_some() { self.volumes.to_ask() } else { Vec::new() }
    }

    /// A pod says up to which entry nothing is left in its volume's files of what was erased.
    pub fn note_scrubbed(&self, pod: &str, upto: LogSeq) {
        self.volumes.note(pod, upto);
    }

    /// The log and the other copies: for the store that is open while this copy owns the shard.
    pub(crate) fn log(&self) -> OwnedLog {
        OwnedLog { cover: self.cover.clone(), volumes: self.volumes.clone() }
    }
}
