//! The copies that this pod has of shards with a log, as others see them: who owns each, and whether requests
//! should come to a pod that has them.

use std::{sync::OnceLock, time::Duration};

use parking_lot::Mutex;
use tiering::{CopyStatus, ShardCopy};

use super::pods::pod_number;

/// A copy of a shard.
pub(crate) struct OwnCopy {
    /// The shard's number.
    pub(crate) shard: u32,
    copy: ShardCopy,
    /// Why it follows no more, and never owns again.
    stopped: OnceLock<String>,
}

/// Who owns a shard, as far as a copy of it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyOwner {
    /// This copy.
    This,
    /// Another pod.
    Pod(u32),
    /// Nobody, by all that the log says.
    Nobody,
    /// It has not applied what the log had a moment ago, or reads it no more.
    Unknown,
}

impl CopyOwner {
    /// Who owns the shard, as the status of a copy on `own_pod` says, which follows the log.
    fn by(status: &CopyStatus, own_pod: u32) -> Self {
        if status.owned_term.is_some() {
            return Self::This;
        }
        if !status.is_in_step {
            return Self::Unknown;
        }
        match status.mark.owner.as_deref().and_then(pod_number) {
            Some(pod) if pod != own_pod => Self::Pod(pod),
            _ => Self::Nobody,
        }
    }
}

/// The last term that has begun in the log, as the status of a copy says; `None` if it is behind, and the log
/// may be elsewhere by now.
fn last_term_by(status: &CopyStatus) -> Option<u64> {
    status.is_in_step.then_some(status.mark.term)
}

impl OwnCopy {
    /// Of a shard.
    pub(crate) fn new(shard: u32, copy: ShardCopy) -> Self {
        Self { shard, copy, stopped: OnceLock::new() }
    }

    /// The copy itself.
    pub(crate) fn copy(&self) -> &ShardCopy {
        &self.copy
    }

    /// How it stands now.
    pub(crate) fn status(&self) -> CopyStatus {
        self.copy.status().borrow().clone()
    }

    /// The term in which it owns the shard now, if it does.
    pub(crate) fn owned_term(&self) -> Option<u64> {
        self.copy.status().borrow().owned_term
    }

    /// Notes that it follows no more.
    pub(crate) fn stop(&self, why: String) {
        drop(self.stopped.set(why));
    }

    /// Why it follows no more, if it has stopped.
    pub(crate) fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// The last term that has begun in the shard's log; `None` if it follows no more, or is behind.
    pub(super) fn last_term(&self) -> Option<u64> {
        if self.stopped().is_some() { None } else { last_term_by(&self.status()) }
    }

    /// Who owns the shard.
    pub(crate) fn owner(&self, own_pod: u32) -> CopyOwner {
        if self.stopped().is_some() { CopyOwner::Unknown } else { CopyOwner::by(&self.status(), own_pod) }
    }

    /// Waits until it owns the shard no more.
    pub(crate) async fn is_given_up(&self) {
        // A copy that does not run any more owns nothing.
        drop(self.copy.status().wait_for(|status| status.owned_term.is_none()).await);
    }

    /// Why requests should not come yet, if so. A copy that stops later takes no pod out of its Service: its
    /// other shards can be served.
    fn unmet(&self) -> Option<String> {
        if self.status().has_caught_up {
            return None;
        }
        let behind = || format!("the copy of shard {:03} has not reached the end of its log", self.shard);
        Some(self.trouble().unwrap_or_else(behind))
    }

    /// What somebody should look at: that it follows no more, and why.
    pub(super) fn trouble(&self) -> Option<String> {
        self.stopped().map(|why| format!("the copy of shard {:03} follows no more: {why}", self.shard))
    }
}

/// Whether the servers that keep the logs keep what they acknowledge, as far as this pod was told.
#[derive(Debug, Default)]
pub(crate) struct LogServers {
    /// What must be otherwise; `None` once it was as it must be: that they are away later is no reason to
    /// take a pod out of its Service.
    unmet: Mutex<Option<Vec<String>>>,
    is_met: OnceLock<()>,
}

impl LogServers {
    /// Notes what must be otherwise: a line each, or none.
    pub(crate) fn note(&self, unmet: Vec<String>) {
        if unmet.is_empty() {
            self.is_met.get_or_init(|| ());
        }
        *self.unmet.lock() = Some(unmet);
    }

    /// Whether they were once as they must be.
    pub(crate) fn is_met(&self) -> bool {
        self.is_met.get().is_some()
    }

    /// Why requests should not come yet, if so.
    fn unmet(&self) -> Option<String> {
        if self.is_met() {
            return None;
        }
        let unmet = self.unmet.lock().clone();
        Some(unmet.map_or_else(
            || "the servers that keep the logs have not been asked yet".to_owned(),
            |lines| lines.join("; "),
        ))
    }
}

/// Why requests should not come to the pod yet; `None` once its copies are in step and the servers of the
/// logs are right.
pub(super) fn unmet<'a>(
    servers: &LogServers,
    copies: impl IntoIterator<Item = &'a OwnCopy>,
) -> Option<String> {
    servers.unmet().or_else(|| copies.into_iter().find_map(OwnCopy::unmet))
}

/// How often somebody who waits for the copies to be in step looks.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use cold_s3::{
        ColdOptions, S3Cold,
        formats::jsonl::{self, Framing},
        s3::Objects,
        settings::{CacheSettings, CompactionSettings, ManifestSettings},
    };
    use contracts::{clock::SystemClock, error::StorageError, replica::LogMark};
    use testing::{
        bucket::MemoryBucket,
        shared_log::{MemoryLog, MemoryLogOptions},
        volume::{MemoryHot, MemoryHotOptions, MemoryVolume},
    };
    use tiering::{
        CopyNames, CopyParts,
        settings::{CopySettings, KeepSettings},
    };
    use tokio::task;
    use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
    use uuid::Uuid;

    use super::*;

    /// A copy that owns shard 0, and its log. If that is cut off, the copy goes on to believe that it owns
    /// the shard.
    pub(crate) struct OwnedCopy {
        pub(crate) copy: Arc<OwnCopy>,
        pub(crate) log: MemoryLog,
        _running: AbortOnDropHandle<Result<(), StorageError>>,
    }

    impl OwnedCopy {
        /// One that owns the shard, on an empty volume in memory.
        pub(crate) async fn new() -> Self {
            Self::start(CopySettings::default(), |status| status.owned_term.is_some()).await
        }

        /// One that has read its log, which is empty, and does not take the shard over.
        pub(crate) async fn idle() -> Self {
            let settings = CopySettings { takeover_ms: u64::from(u32::MAX), ..CopySettings::default() };
            Self::start(settings, |status| status.is_in_step).await
        }

        async fn start(settings: CopySettings, is_ready: impl FnMut(&CopyStatus) -> bool) -> Self {
            let log = MemoryLog::new(1, MemoryLogOptions::default());
            let options = MemoryHotOptions::roomy(1000);
            let hot =
                MemoryHot::open(MemoryVolume::new(1), SystemClock::shared(), Arc::default(), options, None);
            let bucket = MemoryBucket::new(1);
            let objects = Objects::new(bucket.client(), MemoryBucket::NAME.to_owned(), String::new());
            let cold = ColdOptions {
                cache: CacheSettings::default(),
                format: jsonl::newest(Framing::Zstd),
                create_bucket: false,
                compaction: CompactionSettings::default(),
                manifests: ManifestSettings::default(),
                rounds: Duration::ZERO,
            };
            let (copy, runner) = ShardCopy::new(CopyParts {
                hot,
                log: Arc::new(log.clone()),
                generation: 0,
                cold: Arc::new(S3Cold::new(objects, cold)),
                clock: SystemClock::shared(),
                names: CopyNames {
                    cluster: Uuid::from_u128(1),
                    shard: 0,
                    pod: "zombi-0".to_owned(),
                    address: "zombi-0:8080".to_owned(),
                    copies: vec!["zombi-0".to_owned(), "zombi-1".to_owned()],
                },
                settings,
                keep: KeepSettings::default(),
                log_keep_bytes: 0,
                key_window_ms: 1000,
                progress: Arc::default(),
            });
            let running = AbortOnDropHandle::new(task::spawn(runner.run(CancellationToken::new())));
            drop(copy.status().wait_for(is_ready).await.expect("it runs"));
            Self { copy: Arc::new(OwnCopy::new(0, copy)), log, _running: running }
        }
    }

    #[test]
    fn a_copy_that_is_behind_does_not_say_who_owns_the_shard() {
        let mark = |owner: Option<&str>| LogMark {
            owner: owner.map(str::to_owned),
            ..LogMark::beginning(Uuid::from_u128(1))
        };
        let in_step = CopyStatus {
            mark: mark(Some("zombi-2")),
            owned_term: None,
            has_caught_up: true,
            is_in_step: true,
        };
        assert_eq!(CopyOwner::by(&in_step, 0), CopyOwner::Pod(2));
        assert_eq!(CopyOwner::by(&in_step, 2), CopyOwner::Nobody, "of this pod's former life");
        let nobody = CopyStatus { mark: mark(None), ..in_step.clone() };
        assert_eq!(CopyOwner::by(&nobody, 0), CopyOwner::Nobody);
        let behind = CopyStatus { is_in_step: false, ..in_step.clone() };
        assert_eq!(CopyOwner::by(&behind, 0), CopyOwner::Unknown, "though it was in step before");
        assert_eq!(last_term_by(&behind), None, "nor how its log is");
        assert_eq!(last_term_by(&in_step), Some(in_step.mark.term));
        let owner = CopyStatus { owned_term: Some(3), ..in_step };
        assert_eq!(CopyOwner::by(&owner, 0), CopyOwner::This);
    }

    #[test]
    fn servers_that_were_right_once_stay_so() {
        let servers = LogServers::default();
        assert!(servers.unmet().unwrap().contains("not been asked"));
        servers.note(vec!["n1 does not sync always".to_owned()]);
        assert!(servers.unmet().unwrap().contains("n1"));
        servers.note(Vec::new());
        servers.note(vec!["n1 says nothing".to_owned()]);
        assert_eq!((servers.unmet(), servers.is_met()), (None, true));
    }
}
