//! One copy of a shard that has a log: follows the shard's owner, and takes over when that one is silent.
//!
//! A copy that follows applies every entry, in order. It takes over by entering the next term behind all
//! that it has applied, so it is complete when it owns the shard; who comes second is refused by the log. An
//! owner that finds another's entry where its own was to be has been overtaken: it enters nothing more, and
//! follows. So safety does not go by time; only how long silence is waited for does, by the process's own.
//!
//! A copy whose volume is empty, or lacks what the log has forgotten, is recovered from S3 first: `recover`.
//! What entries erase is scrubbed from the volume's files beside all of that: `scrub`.
//!
//! The engine stays open whoever owns the shard. A [`Store`](crate::Store) is opened on it for as long as
//! this copy does: [`Store::open_owned`](crate::Store::open_owned).

mod close;
mod decide;
mod entry;
mod handle;
mod judge;
mod owned;
mod owning;
mod recover;
mod scrub;
mod standing;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

pub use self::{
    close::LogAtRest,
    entry::{MAX_BODY_BYTES, owner_by, term_by},
    handle::{CopyNames, CopyStatus, ShardCopy},
    standing::{LogStanding, another_log, log_standing, prove_end},
};
use self::{
    close::closed,
    decide::{FollowerView, is_next, takes_over},
    entry::{Entry, EntryBody},
    judge::{LOG, judge},
    owned::OwnedTerm,
    owning::{keep_small, keep_ticking},
    recover::CopyRecovery,
    scrub::CopyScrub,
    standing::{other_log, until_it_is_there},
};
use crate::{
    cover::LogCover,
    settings::{CopySettings, KeepSettings},
    volumes::ScrubbedUpto,
};
use contracts::{
    clock::Clock,
    cold::ColdTier,
    engine::Engine,
    error::StorageError,
    metrics::{self, TakeoverReason},
    progress::Progress,
    replica::{AppliedEntry, LogMark, WriterRole},
    shared_log::{LogEntry, LogError, LogSeq, SharedLog},
};

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 4 << 20;
/// How long one look at the log waits for an entry at most.
const LOOK: Duration = Duration::from_millis(250);
/// How often a copy that follows evicts, and looks how far the log is.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What a copy is made of.
pub struct CopyParts {
    /// The open volume. Its writer runs, and belongs to nobody else.
    pub hot: Arc<dyn Engine>,
    /// The shard's log.
    pub log: Arc<dyn SharedLog>,
    /// How often the log was lost and begun anew before it.
    pub generation: u32,
    /// The shard's bucket, for this copy alone: it is read when the volume lacks what the log has forgotten,
    /// and never opened.
    pub cold: Arc<dyn ColdTier>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Whose copy it is.
    pub names: CopyNames,
    /// How long it waits for what.
    pub settings: CopySettings,
    /// What hot keeps of events that are in S3.
    pub keep: KeepSettings,
    /// Bytes of the log that are kept though S3 holds what they say, for copies that are a little behind.
    pub log_keep_bytes: u64,
    /// For how long idempotency keys are remembered, in milliseconds.
    pub key_window_ms: i64,
    /// Shows how far a recovery from S3 has come.
    pub progress: Arc<Progress>,
}

/// Runs a copy.
pub struct CopyRunner {
    parts: CopyParts,
    /// Where the log stands, as far as it is applied here.
    mark: LogMark,
    shown: watch::Sender<CopyStatus>,
    /// To whom the shard is to be given up.
    orders: mpsc::Receiver<String>,
    /// Cancelled once this copy takes the shard over no more.
    retired: CancellationToken,
    /// How much of the log S3 holds.
    cover: LogCover,
    /// Up to where nothing is left in the volume's files of what was erased.
    scrubbed: ScrubbedUpto,
    /// Since when the log has been silent while it answered.
    heard: Instant,
    housekept: Instant,
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
        let scrub = CopyScrub {
            shard: self.parts.names.shard,
            hot: Arc::clone(&self.parts.hot),
            status: self.shown.subscribe(),
            scrubbed: self.scrubbed.clone(),
        };
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = self.take_part() => ended,
            never = scrub.run() => match never {},
        };
        self.parts.hot.set_role(WriterRole::Follows);
        self.show(false);
        if matches!(ended, Err(StorageError::Corrupt { .. })) {
            metrics::log_damaged();
        }
        ended
    }

    async fn take_part(&mut self) -> Result<(), StorageError> {
        self.begin().await?;
        loop {
            let owned = self.follow().await?;
            self.own(&owned).await?;
        }
    }

    /// Finds out how far the volume is, recovers it if it is empty, and waits until the log is at least as
    /// far. A log that was lost is short of what the manifests know of it: nobody begins it anew but
    /// `begin_log_anew`.
    async fn begin(&mut self) -> Result<(), StorageError> {
        let recovery = CopyRecovery::new(&self.parts)?;
        let has_begun = recovery.has_begun().await;
        self.mark = match self.parts.hot.log_mark().await? {
            Some(mark) if mark.cluster != self.mark.cluster => {
                return Err(StorageError::Refused(format!(
                    "the volume is a copy in the cluster {}, and this is the cluster {}. Nothing was changed",
                    mark.cluster, self.mark.cluster
                )));
            }
            Some(mark) if mark.generation > self.parts.generation => {
                return Err(other_log(mark.generation, self.parts.generation));
            }
            Some(mark) if !has_begun && mark.generation == self.parts.generation => mark,
            // Of a log that was begun anew S3 holds all that went before it.
            Some(_) => recovery.run().await?,
            None if has_begun || self.parts.hot.tables().is_empty() => recovery.run().await?,
            None => {
                return Err(StorageError::Refused(
                    "the volume has events and was never a copy of a shard with a log. Nothing was changed"
                        .to_owned(),
                ));
            }
        };
        self.show(false);
        until_it_is_there(&self.parts, &self.mark).await?;
        self.heard = Instant::now();
        Ok(())
    }

    /// Follows until this copy owns the shard.
    async fn follow(&mut self) -> Result<Arc<OwnedTerm>, StorageError> {
        self.heard = Instant::now();
        loop {
            self.keep_house().await?;
            let look = LOOK.min(self.parts.settings.tick());
            let wait = if is_next(self.view()) { Duration::ZERO } else { look };
            let end = self.end_to_reach().await;
            match self.parts.log.read(self.mark.seq().next(), READ_BYTES, wait).await {
                Ok(entries) if entries.is_empty() => {
                    self.note_step(end.is_none_or(|end| self.mark.seq() >= end));
                    if takes_over(self.view(), self.parts.settings) {
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
                    if end.is_some_and(|end| self.mark.seq() >= end) {
                        self.note_step(true);
                    }
                }
                // Its own silence says nothing of the owner's.
                Err(LogError::Unavailable(why)) => {
                    warn!(shard = self.parts.names.shard, why, "the shard's log does not answer, will retry");
                    sleep(wait.max(LOOK)).await;
                    self.heard = Instant::now();
                }
                Err(LogError::Trimmed(first)) => {
                    info!(
                        shard = self.parts.names.shard,
                        first = first.0,
                        applied = self.mark.applied,
                        "the shard's log no longer has what this copy needs next: recovering from S3"
                    );
                    self.note_step(false);
                    self.mark = CopyRecovery::new(&self.parts)?.run().await?;
                    self.heard = Instant::now();
                    self.show(false);
                }
                Err(error) => return Err(StorageError::corrupt(LOG, error)),
            }
        }
    }

    /// Where the log ends now, as long as this copy is not in step: one that is written to without a pause is
    /// never read to where nothing comes.
    async fn end_to_reach(&self) -> Option<LogSeq> {
        let is_in_step = self.shown.borrow().is_in_step;
        if is_in_step { None } else { self.parts.log.size().await.ok().map(|size| size.last) }
    }

    /// Notes whether all is applied that the log had a moment ago.
    fn note_step(&self, is_in_step: bool) {
        self.shown.send_if_modified(|status| {
            let has_caught_up = status.has_caught_up || is_in_step;
            let is_changed = (status.is_in_step, status.has_caught_up) != (is_in_step, has_caught_up);
            (status.is_in_step, status.has_caught_up) = (is_in_step, has_caught_up);
            is_changed
        });
    }

    /// What it goes by to take over.
    fn view(&self) -> FollowerView<'_> {
        let CopyNames { pod, copies, .. } = &self.parts.names;
        let rank = copies.iter().position(|copy| copy == pod).unwrap_or(copies.len());
        FollowerView {
            pod,
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            silence: self.heard.elapsed(),
            yielded_to: self.mark.yielded_to.as_deref(),
            is_retired: self.retired.is_cancelled(),
        }
    }

    /// Applies an entry, if it continues the log.
    async fn apply(&mut self, found: &LogEntry) -> Result<(), StorageError> {
        let entry = judge(&self.mark, found)?.ok_or_else(closed)?;
        let mark = entry.mark.clone();
        self.parts.hot.apply(entry).await?;
        if mark.term != self.mark.term {
            let shard = self.parts.names.shard;
            info!(shard, term = mark.term, owner = mark.owner, "a new term of the shard has begun");
        }
        self.mark = mark;
        Ok(())
    }

    /// Begins the next term behind all that is applied here; `None` if another entry is there already.
    async fn take_over(&mut self) -> Result<Option<Arc<OwnedTerm>>, StorageError> {
        let CopyParts { hot, log, clock, names, settings, .. } = &self.parts;
        let (term, nonce, now_ms) = (self.mark.term + 1, Uuid::new_v4(), clock.now_ms());
        let behind = self.mark.ended.last().copied();
        let body = EntryBody::Term { pod: names.pod.clone(), address: names.address.clone(), behind };
        let kind = body.kind();
        let entry = Entry { term, nonce, ..Entry::behind(&self.mark, now_ms, body) };
        let (bytes, crc) = entry.encode();
        let seq = match log.append(self.mark.seq(), kind, bytes).await {
            Ok(seq) => seq,
            Err(LogError::Taken(_)) => return Ok(None),
            Err(error @ LogError::Full) => {
                warn!(shard = names.shard, %error, "the shard cannot be taken over, will retry");
                return Ok(None);
            }
            // Whether this term had begun or not.
            Err(LogError::Trimmed(first)) => {
                info!(
                    shard = names.shard,
                    first = first.0,
                    "the shard's log was trimmed behind this copy: another has owned the shard"
                );
                return Ok(None);
            }
            Err(error) => return Err(StorageError::outcome_unknown(error)),
        };
        let owner = Some(names.pod.clone());
        let LogMark { generation, ended, known_upto, .. } = self.mark.clone();
        let begins = LogMark { generation, ended, known_upto, ..LogMark::beginning(names.cluster) };
        let mark = LogMark { applied: seq.0, crc, term, nonce, owner, ..begins };
        hot.apply(AppliedEntry { now_ms, changes: None, mark: mark.clone() }).await?;
        let was_yielded = self.mark.yielded_to.as_deref() == Some(names.pod.as_str());
        metrics::taken_over(if was_yielded { TakeoverReason::Yield } else { TakeoverReason::Silence });
        self.cover.note_change(seq); // what was entered before may be in S3 or not
        let cover = self.cover.clone();
        let owned = Arc::new(OwnedTerm::new(Arc::clone(log), *settings, mark.clone(), cover));
        hot.set_role(WriterRole::Owns(owned.clone()));
        self.mark = mark;
        Ok(Some(owned))
    }

    /// Owns the shard until another copy has taken over, or it is given up.
    async fn own(&mut self, owned: &OwnedTerm) -> Result<(), StorageError> {
        let shard = self.parts.names.shard;
        info!(shard, term = self.mark.term, "this copy owns the shard");
        while self.orders.try_recv().is_ok() {} // for a term that has ended
        self.show(true);
        // Taken over while it was retired: nobody else tells it any more.
        let at_once = if self.retired.is_cancelled() { self.parts.names.first_other() } else { None };
        let at_once = at_once.cloned();
        let Self { parts, orders, cover, shown, .. } = self;
        let ended = tokio::select! {
            () = owned.lost() => Ok(()),
            ended = keep_ticking(parts, owned, shown) => ended,
            never = keep_small(parts, owned, cover) => match never {},
            Some(to) = next_order(at_once, orders) => match owned.give_up(parts.clock.now_ms(), to).await {
                Err(error @ StorageError::OutcomeUnknown { .. }) => Err(error),
                _ => Ok(()),
            },
        };
        self.parts.hot.set_role(WriterRole::Follows);
        self.note_step(false); // whoever owns it now is behind what is applied
        self.show(false);
        ended?;
        self.mark = self.parts.hot.mark_of_copy().await?;
        self.show(false);
        info!(shard, term = self.mark.term, "this copy no longer owns the shard");
        Ok(())
    }

    /// Drops from hot what is in S3 and need not be kept: each copy for itself, an owner's flusher does it.
    /// And shows how far the log is.
    async fn keep_house(&mut self) -> Result<(), StorageError> {
        if self.housekept.elapsed() < HOUSEKEEPING {
            return Ok(());
        }
        self.housekept = Instant::now();
        let keep = self.parts.keep.at(self.parts.clock.now_ms());
        while self.parts.hot.evict(keep).await? > 0 {}
        // What the log had when it was asked last.
        if self.cover.size().is_some_and(|size| self.mark.seq() < size.last) {
            self.note_step(false);
        }
        match self.parts.log.size().await {
            Ok(size) => {
                self.cover.note_size(size);
                let lag = size.last.0.saturating_sub(self.mark.applied);
                metrics::log_held(self.parts.names.shard, size.bytes, lag);
            }
            // It has not answered: that was not the owner's silence.
            Err(_) => self.heard = Instant::now(),
        }
        Ok(())
    }

    fn show(&self, owns: bool) {
        metrics::log_applied(self.parts.names.shard, self.mark.applied, self.mark.term);
        self.shown.send_modify(|status| {
            status.mark = self.mark.clone();
            status.owned_term = owns.then_some(status.mark.term);
            status.has_caught_up |= owns;
            status.is_in_step |= owns;
        });
    }
}

/// The pod that the shard is to be given up to: this one at once, or as somebody orders.
async fn next_order(at_once: Option<String>, orders: &mut mpsc::Receiver<String>) -> Option<String> {
    if at_once.is_some() { at_once } else { orders.recv().await }
}
