//! Who owns each shard of a cluster whose shards have logs. A copy knows it from what it has read; who has no
//! copy asks the log, and remembers the answer for a moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tiering::owner_by;
use tokio::{
    sync::Mutex as Turn,
    time::{Instant, sleep},
};

use super::{
    copies::{self, CopyOwner, LOOK_AGAIN, LogServers, OwnCopy},
    pod_number,
};
use contracts::shared_log::{LogError, LogSeq, SharedLog};

/// The logs of a cluster's shards.
#[async_trait]
pub(crate) trait ShardLogs: Send + Sync {
    /// The log of a shard.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be opened now.
    async fn log(&self, shard: u32) -> Result<Arc<dyn SharedLog>, LogError>;
}

/// Who owns each shard.
pub(crate) struct Owners {
    own: u32,
    logs: Arc<dyn ShardLogs>,
    copies: BTreeMap<u32, Arc<OwnCopy>>,
    /// What the logs have said, by shard.
    told: Vec<ToldOwner>,
    /// How long that is believed.
    fresh_for: Duration,
    /// What is known of the servers that keep the logs.
    pub(crate) servers: LogServers,
}

/// What a shard's log has said of its owner.
#[derive(Default)]
struct ToldOwner {
    /// Held by the one who asks.
    turn: Turn<()>,
    last: Mutex<Option<LastWord>>,
}

#[derive(Clone)]
struct LastWord {
    asked: Instant,
    owner: Result<Option<u32>, LogError>,
}

/// What the owners of shards are known by.
pub(crate) struct OwnersParts {
    /// The number of this pod.
    pub(crate) own: u32,
    /// How many shards there are.
    pub(crate) shards: u32,
    /// Their logs.
    pub(crate) logs: Arc<dyn ShardLogs>,
    /// The copies of this pod.
    pub(crate) copies: Vec<Arc<OwnCopy>>,
    /// How long what a log has said is believed.
    pub(crate) fresh_for: Duration,
}

impl Owners {
    /// Nobody has been asked yet.
    pub(crate) fn new(parts: OwnersParts) -> Self {
        let OwnersParts { own, shards, logs, copies, fresh_for } = parts;
        let copies = copies.into_iter().map(|copy| (copy.shard, copy)).collect();
        let told = std::iter::repeat_with(ToldOwner::default).take(shards as usize).collect();
        Self { own, logs, copies, told, fresh_for, servers: LogServers::default() }
    }

    /// The copies of this pod, in the order of their shards.
    pub(crate) fn copies(&self) -> impl Iterator<Item = &Arc<OwnCopy>> {
        self.copies.values()
    }

    /// How far this pod has applied the logs of its shards, by their numbers.
    pub(crate) fn applied(&self) -> impl Iterator<Item = (u32, LogSeq)> {
        self.copies().map(|copy| (copy.shard, copy.status().mark.seq()))
    }

    /// This pod's copy of a shard, if it has one.
    pub(crate) fn copy_of(&self, shard: u32) -> Option<&Arc<OwnCopy>> {
        self.copies.get(&shard)
    }

    /// The pod that owns a shard; `None` if nobody does.
    ///
    /// # Errors
    /// `Unavailable` or `Damaged` if only the log knows, and does not say.
    pub(crate) async fn owner(&self, shard: u32) -> Result<Option<u32>, LogError> {
        match self.copies.get(&shard).map_or(CopyOwner::Unknown, |copy| copy.owner(self.own)) {
            CopyOwner::This => Ok(Some(self.own)),
            CopyOwner::Pod(pod) => Ok(Some(pod)),
            CopyOwner::Nobody => Ok(None),
            CopyOwner::Unknown => self.told(shard).await,
        }
    }

    /// What the log says. All who want to know it at once ask once.
    async fn told(&self, shard: u32) -> Result<Option<u32>, LogError> {
        let Some(told) = self.told.get(shard as usize) else { return Ok(None) };
        if let Some(owner) = told.fresh(self.fresh_for) {
            return owner;
        }
        let _turn = told.turn.lock().await;
        if let Some(owner) = told.fresh(self.fresh_for) {
            return owner;
        }
        let asked = self.ask(shard).await;
        let mut last = told.last.lock();
        let owner = match (asked, last.take()) {
            // A log that says nothing has not taken the shard from its owner.
            (Err(_), Some(LastWord { owner: Ok(known), .. })) => Ok(known),
            (asked, _) => asked,
        };
        *last = Some(LastWord { asked: Instant::now(), owner: owner.clone() });
        owner
    }

    async fn ask(&self, shard: u32) -> Result<Option<u32>, LogError> {
        let last = self.logs.log(shard).await?.term().await?;
        let owner = last.as_ref().map(owner_by).transpose()?.flatten();
        // The log's last word may be of this pod's former life.
        Ok(owner.and_then(|pod| pod_number(&pod)).filter(|pod| *pod != self.own))
    }

    /// Has the logs asked anew for what a pod is said to own: it did not answer, or says that it does not.
    pub(crate) fn forget(&self, pod: u32) {
        for told in &self.told {
            let mut last = told.last.lock();
            if matches!(&*last, Some(LastWord { owner: Ok(Some(owner)), .. }) if *owner == pod) {
                *last = None;
            }
        }
    }

    /// Why requests should not come to this pod yet; `None` if they may.
    pub(crate) fn unmet(&self) -> Option<String> {
        copies::unmet(&self.servers, self.copies().map(|copy| &**copy))
    }

    /// What is wrong with this pod's copies for which requests may come all the same.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.copies().find_map(|copy| copy.trouble())
    }

    /// Waits until requests may come to this pod.
    pub(crate) async fn are_in_step(&self) {
        while self.unmet().is_some() {
            sleep(LOOK_AGAIN).await;
        }
    }
}

impl ToldOwner {
    /// What was said not longer ago than that.
    fn fresh(&self, fresh_for: Duration) -> Option<Result<Option<u32>, LogError>> {
        let last = self.last.lock();
        last.as_ref().filter(|last| last.asked.elapsed() < fresh_for).map(|last| last.owner.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use bytes::Bytes;
    use contracts::shared_log::{EntryKind, LogEntry, LogSize};
    use tokio::time::advance;

    use super::*;

    /// Logs of which nobody can say who owns anything, and which count how often they are asked.
    #[derive(Debug, Default)]
    struct SilentLogs {
        asked: AtomicUsize,
        is_away: bool,
    }

    #[async_trait]
    impl ShardLogs for Arc<SilentLogs> {
        async fn log(&self, _: u32) -> Result<Arc<dyn SharedLog>, LogError> {
            Ok(Arc::clone(self) as Arc<dyn SharedLog>)
        }
    }

    #[async_trait]
    impl SharedLog for SilentLogs {
        async fn append(&self, last: LogSeq, _: EntryKind, _: Bytes) -> Result<LogSeq, LogError> {
            Ok(last.next())
        }

        async fn read(&self, _: LogSeq, _: usize, _: Duration) -> Result<Vec<LogEntry>, LogError> {
            Ok(Vec::new())
        }

        async fn term(&self) -> Result<Option<LogEntry>, LogError> {
            self.asked.fetch_add(1, Relaxed);
            if self.is_away { Err(LogError::Unavailable("away".to_owned())) } else { Ok(None) }
        }

        async fn trim(&self, _: LogSeq) -> Result<(), LogError> {
            Ok(())
        }

        async fn size(&self) -> Result<LogSize, LogError> {
            Ok(LogSize::default())
        }
    }

    fn owners(logs: &Arc<SilentLogs>) -> Owners {
        let logs: Arc<dyn ShardLogs> = Arc::new(Arc::clone(logs));
        let fresh_for = Duration::from_secs(1);
        Owners::new(OwnersParts { own: 0, shards: 2, logs, copies: Vec::new(), fresh_for })
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_is_asked_once_in_a_while() {
        let logs = Arc::new(SilentLogs::default());
        let owners = owners(&logs);
        for _ in 0..3 {
            assert_eq!(owners.owner(1).await.unwrap(), None);
        }
        assert_eq!(logs.asked.load(Relaxed), 1);
        advance(Duration::from_secs(1)).await;
        assert_eq!(owners.owner(1).await.unwrap(), None);
        assert_eq!(logs.asked.load(Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_known_is_believed_while_the_log_is_away_and_a_pod_that_is_gone_is_forgotten() {
        let owners = owners(&Arc::new(SilentLogs { is_away: true, ..SilentLogs::default() }));
        assert!(owners.owner(1).await.is_err());
        let known = LastWord { asked: Instant::now(), owner: Ok(Some(2)) };
        *owners.told[1].last.lock() = Some(known);
        advance(Duration::from_secs(5)).await;
        assert_eq!(owners.owner(1).await.unwrap(), Some(2));
        owners.forget(1);
        assert_eq!(owners.owner(1).await.unwrap(), Some(2));
        owners.forget(2);
        assert!(owners.owner(1).await.is_err());
    }
}
