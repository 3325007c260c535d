//! One copy of a shard that has a log: follows the shard's owner, and takes over when that one is silent.
//!
//! A copy that follows applies every entry, in order. It takes over by entering the next term behind all
//! that it has applied, so it is complete when it owns the shard; who comes second is refused by the log. An
//! owner that finds another's entry where its own was to be has been overtaken: it enters nothing more, and
//! follows. So safety does not go by time; only how long silence is waited for does, by the process's own.
//!
//! The engine stays open whoever owns the shard. A [`Store`](crate::Store) is opened on it for as long as
//! this copy does: [`Store::open_owned`](crate::Store::open_owned).

mod decide;
mod entry;
mod judge;
mod owned;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

pub use self::entry::owner_by;
use self::{
    decide::{FollowerView, takes_over},
    entry::{Entry, EntryBody},
    judge::judge,
    owned::OwnedTerm,
};
use crate::settings::{CopySettings, KeepSettings};
use contracts::{
    clock::Clock,
    engine::Engine,
    error::StorageError,
    replica::{AppliedEntry, LogMark, WriterRole},
    shared_log::{LogEntry, LogError, SharedLog},
};

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 4 << 20;
/// How long one look at the log waits for an entry at most.
const LOOK: Duration = Duration::from_millis(250);
/// How often a copy that follows evicts.
const EVICT_INTERVAL: Duration = Duration::from_secs(1);

/// What a copy is made of.
pub struct CopyParts {
    /// The open volume. Its writer runs, and belongs to nobody else.
    pub hot: Arc<dyn Engine>,
    /// The shard's log.
    pub log: Arc<dyn SharedLog>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Whose copy it is.
    pub names: CopyNames,
    /// How long it waits for what.
    pub settings: CopySettings,
    /// What hot keeps of events that are in S3.
    pub keep: KeepSettings,
}

/// Whose copy of which shard it is.
#[derive(Debug, Clone)]
pub struct CopyNames {
    /// The cluster.
    pub cluster: Uuid,
    /// This pod.
    pub pod: String,
    /// Where other pods reach it.
    pub address: String,
    /// The pods that have copies of the shard, by their rank; this pod is one of them.
    pub copies: Vec<String>,
}

/// How a copy stands.
#[derive(Debug, Clone)]
pub struct CopyStatus {
    /// Where the log stands, as far as it is applied here; which term is in force there, and who owns the
    /// shard in it.
    pub mark: LogMark,
    /// The term in which this copy owns the shard, if it does.
    pub owned_term: Option<u64>,
    /// Whether it has reached the end of the log once since it began.
    pub has_caught_up: bool,
}

/// A copy, as others see it.
pub struct ShardCopy {
    hot: Arc<dyn Engine>,
    names: CopyNames,
    read_timeout: Duration,
    status: watch::Receiver<CopyStatus>,
    orders: mpsc::Sender<String>,
}

impl ShardCopy {
    /// A copy, and what runs it.
    pub fn new(parts: CopyParts) -> (Self, CopyRunner) {
        let mark = LogMark::beginning(parts.names.cluster);
        let (shown, status) =
            watch::channel(CopyStatus { mark: mark.clone(), owned_term: None, has_caught_up: false });
        let (orders, received) = mpsc::channel(1);
        let copy = Self {
            hot: Arc::clone(&parts.hot),
            names: parts.names.clone(),
            read_timeout: parts.settings.read_timeout_secs.duration(),
            status,
            orders,
        };
        let runner = CopyRunner {
            parts,
            mark,
            shown,
            orders: received,
            heard: Instant::now(),
            evicted: Instant::now(),
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
        let late = StorageError::LogUnavailable { may_be_written: false };
        timeout(self.read_timeout, self.hot.confirm()).await.unwrap_or(Err(late))
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
}

/// Runs a copy.
pub struct CopyRunner {
    parts: CopyParts,
    /// Where the log stands, as far as it is applied here.
    mark: LogMark,
    shown: watch::Sender<CopyStatus>,
    /// To whom the shard is to be given up.
    orders: mpsc::Receiver<String>,
    /// Since when the log has been silent while it answered.
    heard: Instant,
    evicted: Instant,
}

impl CopyRunner {
    /// Follows and owns the shard until it is told to stop. Whoever stops it has handed over before, or lets
    /// the others wait.
    ///
    /// # Errors
    /// `Corrupt` or `Refused` if this copy can follow no more: it never owns the shard again.
    /// `OutcomeUnknown` or `Closed` if the volume cannot be written.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StorageError> {
        self.parts.hot.set_role(WriterRole::Follows);
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = self.take_part() => ended,
        };
        self.parts.hot.set_role(WriterRole::Follows);
        self.show(false);
        ended
    }

    async fn take_part(&mut self) -> Result<(), StorageError> {
        self.begin().await?;
        loop {
            let owned = self.follow().await?;
            self.own(&owned).await?;
        }
    }

    /// Finds out how far the volume is, and waits until the log is at least as far.
    async fn begin(&mut self) -> Result<(), StorageError> {
        match self.parts.hot.log_mark().await? {
            Some(mark) if mark.cluster != self.mark.cluster => {
                return Err(StorageError::Refused(format!(
                    "the volume is a copy in the cluster {}, and this is the cluster {}. Nothing was changed",
                    mark.cluster, self.mark.cluster
                )));
            }
            Some(mark) => self.mark = mark,
            None if self.parts.hot.tables().is_empty() => {}
            None => {
                return Err(StorageError::Refused(
                    "the volume has events and was never a copy of a shard with a log. Nothing was changed"
                        .to_owned(),
                ));
            }
        }
        loop {
            match self.parts.log.size().await {
                Ok(size) if size.last >= self.mark.seq() => break,
                // It may be a server of the log that was cut off; if it is the log itself, waiting is all
                // that does no harm.
                Ok(size) => warn!(
                    applied = self.mark.applied,
                    last = size.last.0,
                    "the shard's log ends before what this volume has applied: waiting"
                ),
                Err(error) => warn!(%error, "the shard's log cannot be read, will retry"),
            }
            sleep(self.parts.settings.tick()).await;
        }
        self.heard = Instant::now();
        Ok(())
    }

    /// Follows until this copy owns the shard.
    async fn follow(&mut self) -> Result<Arc<OwnedTerm>, StorageError> {
        self.heard = Instant::now();
        loop {
            self.evict().await?;
            let is_next = self.mark.yielded_to.as_deref() == Some(self.parts.names.pod.as_str());
            let wait = if is_next { Duration::ZERO } else { LOOK.min(self.parts.settings.tick()) };
            match self.parts.log.read(self.mark.seq().next(), READ_BYTES, wait).await {
                Ok(entries) if entries.is_empty() => {
                    self.shown.send_if_modified(|status| !std::mem::replace(&mut status.has_caught_up, true));
                    if self.takes_over() {
                        if let Some(owned) = self.take_over().await? {
                            return Ok(owned);
                        }
                        self.heard = Instant::now();
                    }
                }
                Ok(entries) => {
                    for entry in &entries {
                        self.apply(entry).await?;
                    }
                    self.heard = Instant::now();
                    self.show(false);
                }
                // Its own silence says nothing of the owner's.
                Err(LogError::Unavailable(why)) => {
                    warn!(why, "the shard's log does not answer, will retry");
                    sleep(wait.max(LOOK)).await;
                    self.heard = Instant::now();
                }
                Err(LogError::Trimmed(first)) => {
                    return Err(StorageError::Refused(format!(
                        "the shard's log begins with entry {first}, and this volume has applied it up to {} \
                         only: it cannot follow any more. Nothing was changed",
                        self.mark.applied
                    )));
                }
                Err(error) => return Err(StorageError::corrupt("the shard's log", error)),
            }
        }
    }

    fn takes_over(&self) -> bool {
        let CopyNames { pod, copies, .. } = &self.parts.names;
        let rank = copies.iter().position(|copy| copy == pod).unwrap_or(copies.len());
        let view = FollowerView {
            pod,
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            silence: self.heard.elapsed(),
            yielded_to: self.mark.yielded_to.as_deref(),
        };
        takes_over(view, self.parts.settings)
    }

    /// Applies an entry, if it continues the log.
    async fn apply(&mut self, found: &LogEntry) -> Result<(), StorageError> {
        let judged = judge(&self.mark, found);
        let entry = judged.map_err(|why| StorageError::corrupt("the shard's log", why))?;
        let mark = entry.mark.clone();
        self.parts.hot.apply(entry).await?;
        if mark.term != self.mark.term {
            info!(term = mark.term, owner = mark.owner, "a term of the shard has begun");
        }
        self.mark = mark;
        Ok(())
    }

    /// Begins the next term behind all that is applied here; `None` if another entry is there already.
    async fn take_over(&mut self) -> Result<Option<Arc<OwnedTerm>>, StorageError> {
        let CopyParts { hot, log, clock, names, settings, .. } = &self.parts;
        let (term, nonce, now_ms) = (self.mark.term + 1, Uuid::new_v4(), clock.now_ms());
        let body = EntryBody::Term { pod: names.pod.clone(), address: names.address.clone() };
        let kind = body.kind();
        let entry = Entry { term, nonce, prev: self.mark.applied, prev_crc: self.mark.crc, now_ms, body };
        let (bytes, crc) = entry.encode();
        let seq = match log.append(self.mark.seq(), kind, bytes).await {
            Ok(seq) => seq,
            Err(LogError::Taken(_)) => return Ok(None),
            Err(error @ LogError::Full) => {
                warn!(%error, "the shard cannot be taken over");
                return Ok(None);
            }
            Err(error) => return Err(StorageError::outcome_unknown(error)),
        };
        let owner = Some(names.pod.clone());
        let mark =
            LogMark { cluster: names.cluster, applied: seq.0, crc, term, nonce, owner, yielded_to: None };
        hot.apply(AppliedEntry { now_ms, changes: None, mark: mark.clone() }).await?;
        let owned = Arc::new(OwnedTerm::new(Arc::clone(log), *settings, mark.clone()));
        hot.set_role(WriterRole::Owns(owned.clone()));
        self.mark = mark;
        Ok(Some(owned))
    }

    /// Owns the shard until another copy has taken over, or it is given up.
    async fn own(&mut self, owned: &OwnedTerm) -> Result<(), StorageError> {
        info!(term = self.mark.term, "this copy owns the shard");
        while self.orders.try_recv().is_ok() {} // for a term that has ended
        self.show(true);
        let Self { parts, orders, .. } = self;
        let ended = tokio::select! {
            () = owned.lost() => Ok(()),
            ended = keep_ticking(parts, owned) => ended,
            Some(to) = orders.recv() => match owned.give_up(parts.clock.now_ms(), to).await {
                Err(error @ StorageError::OutcomeUnknown { .. }) => Err(error),
                _ => Ok(()),
            },
        };
        self.parts.hot.set_role(WriterRole::Follows);
        self.show(false);
        ended?;
        let missing = || StorageError::corrupt("the volume's mark of the shard's log", "it is missing");
        self.mark = self.parts.hot.log_mark().await?.ok_or_else(missing)?;
        info!(term = self.mark.term, "this copy no longer owns the shard");
        Ok(())
    }

    /// Drops from hot what is in S3 and need not be kept: each copy for itself, an owner's flusher does it.
    async fn evict(&mut self) -> Result<(), StorageError> {
        if self.evicted.elapsed() < EVICT_INTERVAL {
            return Ok(());
        }
        self.evicted = Instant::now();
        let keep = self.parts.keep.at(self.parts.clock.now_ms());
        while self.parts.hot.evict(keep).await? > 0 {}
        Ok(())
    }

    fn show(&self, owns: bool) {
        self.shown.send_modify(|status| {
            status.mark = self.mark.clone();
            status.owned_term = owns.then_some(status.mark.term);
            status.has_caught_up |= owns;
        });
    }
}

/// Shows that the owner is alive, and finds out whether it still is the owner.
///
/// # Errors
/// Why the volume cannot be written any more.
async fn keep_ticking(parts: &CopyParts, owned: &OwnedTerm) -> Result<(), StorageError> {
    loop {
        sleep(parts.settings.tick()).await;
        if let Ok(size) = parts.log.size().await {
            owned.note_size(size);
        }
        match parts.hot.confirm().await {
            Err(error) if error.ends_writing() => return Err(error),
            Err(error) => warn!(%error, "the owner of the shard cannot show that it is alive"),
            Ok(()) => {}
        }
    }
}
