//! Who owns each shard of a cluster whose shards have logs. A copy in step knows it from what it has read;
//! who has none asks the log, and remembers the answer. A pod that does not answer, or says that it does not
//! own the shard, is believed no more, whoever has named it: then the log is asked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::try_join;
use parking_lot::Mutex;
use tiering::{owner_by, term_by};
use tokio::{
    sync::Mutex as Turn,
    task,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    copies::{self, CopyOwner, LOOK_AGAIN, LogServers, OwnCopy},
    pods::pod_number,
};
use contracts::shared_log::{LogError, LogSeq, LogSize, SharedLog};

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
    asker: OwnerAsker,
    copies: BTreeMap<u32, Arc<OwnCopy>>,
    /// What the logs have said, by shard.
    told: Vec<Arc<ToldOwner>>,
    /// What asks while what is known is believed, by shard.
    beside: Mutex<BTreeMap<u32, AbortOnDropHandle<()>>>,
    /// What is known of the servers that keep the logs.
    pub(crate) servers: LogServers,
}

/// How a shard's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardLogStatus {
    /// The last term that has begun in it; 0 before the first.
    pub(crate) term: u64,
    /// How much it holds.
    pub(crate) size: LogSize,
}

/// Asks the logs.
#[derive(Clone)]
struct OwnerAsker {
    /// The number of this pod.
    own: u32,
    logs: Arc<dyn ShardLogs>,
    /// How long what a log has said is believed without asking it again.
    fresh_for: Duration,
    /// How long a log may take to say it.
    patience: Duration,
    /// How long the last entry about ownership stays the last one where its pod lives, or another follows it.
    silence: Duration,
}

/// What a shard's log has said of its owner.
#[derive(Default)]
struct ToldOwner {
    /// Held by the one who asks.
    turn: Turn<()>,
    last: Mutex<Option<LastWord>>,
    /// The last entry about ownership, and since when it is known to be the last. It stays where the word
    /// that it says is forgotten: a pod that is dead is asked in vain again and again.
    entry: Mutex<Option<(LogSeq, Instant)>>,
    /// When the pod that this pod's copy names did not answer, or said that it does not own the shard.
    doubted: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct LastWord {
    asked: Instant,
    owner: Result<Option<u32>, LogError>,
}

/// The last entry about ownership, and the other pod that owns the shard by it.
struct OwnerEntry {
    /// 0 if there is none.
    seq: LogSeq,
    owner: Option<u32>,
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
    /// How long what a log has said is believed without asking it again.
    pub(crate) fresh_for: Duration,
    /// How long a log may take to say it.
    pub(crate) patience: Duration,
    /// How long an owner that has ended says nothing in its log until another copy has taken the shard over.
    pub(crate) silence: Duration,
}

impl Owners {
    /// Nobody has been asked yet.
    pub(crate) fn new(parts: OwnersParts) -> Self {
        let OwnersParts { own, shards, logs, copies, fresh_for, patience, silence } = parts;
        let copies = copies.into_iter().map(|copy| (copy.shard, copy)).collect();
        let told = std::iter::repeat_with(Arc::default).take(shards as usize).collect();
        let asker = OwnerAsker { own, logs, fresh_for, patience, silence };
        Self { asker, copies, told, beside: Mutex::default(), servers: LogServers::default() }
    }

    /// The copies of this pod, in the order of their shards.
    pub(crate) fn copies(&self) -> impl Iterator<Item = &Arc<OwnCopy>> {
        self.copies.values()
    }

    /// The copies of this pod that follow their logs, or own their shards.
    fn following(&self) -> impl Iterator<Item = &Arc<OwnCopy>> {
        self.copies().filter(|copy| copy.stopped().is_none())
    }

    /// How far this pod has applied the logs of its shards, by their numbers; those that it follows no more
    /// are not among them.
    pub(crate) fn applied(&self) -> impl Iterator<Item = (u32, LogSeq)> {
        self.following().map(|copy| (copy.shard, copy.status().mark.seq()))
    }

    /// Up to which entries of these logs nothing is left in this pod's volumes of what was erased.
    pub(crate) fn scrubbed(&self) -> impl Iterator<Item = (u32, LogSeq)> {
        self.following().map(|copy| (copy.shard, copy.copy().scrubbed()))
    }

    /// This pod's copy of a shard, if it has one.
    pub(crate) fn copy_of(&self, shard: u32) -> Option<&Arc<OwnCopy>> {
        self.copies.get(&shard)
    }

    /// How a shard's log is: as this pod's copy has found it, or as the log itself says where this pod does
    /// not follow it, or is behind. `None` if nobody says so in time.
    pub(crate) async fn log_of(&self, shard: u32) -> Option<ShardLogStatus> {
        match self.copy_of(shard).and_then(|copy| Some((copy, copy.last_term()?))) {
            Some((copy, term)) => Some(ShardLogStatus { term, size: copy.copy().log_size()? }),
            None => timeout(self.asker.patience, self.asker.log_of(shard)).await.ok()?.ok(),
        }
    }

    /// The pod that owns a shard; `None` if nobody does, by what its log says.
    ///
    /// # Errors
    /// `Unavailable` or `Damaged` if only the log knows, and does not say.
    pub(crate) async fn owner(&self, shard: u32) -> Result<Option<u32>, LogError> {
        let Some(told) = self.told.get(shard as usize) else { return Ok(None) };
        let fresh_for = self.asker.fresh_for;
        match self.owner_by_copy(shard) {
            Some(CopyOwner::This) => Ok(Some(self.asker.own)),
            Some(CopyOwner::Pod(pod)) if !told.is_doubted(fresh_for) => Ok(Some(pod)),
            // While the log is away nobody can take the shard over, and that is what is wrong then.
            Some(CopyOwner::Nobody) => {
                told.forget_old(fresh_for);
                self.asker.ask(shard, told).await
            }
            // Its last word may be from long ago: this pod had no need to ask.
            Some(CopyOwner::Pod(_) | CopyOwner::Unknown) => self.asker.ask(shard, told).await,
            None => match told.known() {
                Some(word) if word.asked.elapsed() < fresh_for => Ok(word.owner),
                Some(KnownOwner { owner: Some(pod), .. }) => {
                    self.ask_beside(shard, told);
                    Ok(Some(pod))
                }
                _ => self.asker.ask(shard, told).await,
            },
        }
    }

    /// The same for who only looks, or waits. What a log has said before is believed no longer than a tick:
    /// no pod corrects it, as one does that is asked for what it does not own.
    ///
    /// # Errors
    /// As [`Self::owner`].
    pub(crate) async fn owner_now(&self, shard: u32) -> Result<Option<u32>, LogError> {
        match self.told.get(shard as usize) {
            Some(told) if self.owner_by_copy(shard).is_none() => self.asker.ask(shard, told).await,
            _ => self.owner(shard).await,
        }
    }

    /// Asks a log while somebody goes by what it has said before, unless that is done already.
    fn ask_beside(&self, shard: u32, told: &Arc<ToldOwner>) {
        let mut beside = self.beside.lock();
        if beside.get(&shard).is_none_or(AbortOnDropHandle::is_finished) {
            let (asker, told) = (self.asker.clone(), Arc::clone(told));
            let asking = task::spawn(async move { drop(asker.ask(shard, &told).await) });
            beside.insert(shard, AbortOnDropHandle::new(asking));
        }
    }

    /// Who owns a shard, as this pod's copy knows it, if there is one.
    fn owner_by_copy(&self, shard: u32) -> Option<CopyOwner> {
        self.copies.get(&shard).map(|copy| copy.owner(self.asker.own))
    }

    /// Has the logs asked anew for what a pod is said to own, unless they were since it was `asked`: it did
    /// not answer, or says that it does not own it.
    pub(crate) fn forget(&self, pod: u32, asked: Instant) {
        for (shard, told) in (0..).zip(&self.told) {
            if self.owner_by_copy(shard) == Some(CopyOwner::Pod(pod)) {
                told.doubt();
            }
            told.forget(pod, asked);
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

impl OwnerAsker {
    /// What a log says, unless it has just said it. All who want to know it at once ask once.
    async fn ask(&self, shard: u32, told: &ToldOwner) -> Result<Option<u32>, LogError> {
        if let Some(owner) = told.fresh(self.fresh_for) {
            return owner;
        }
        let _turn = told.turn.lock().await;
        if let Some(owner) = told.fresh(self.fresh_for) {
            return owner;
        }
        let late = || Err(LogError::Unavailable(format!("it has not said it within {:?}", self.patience)));
        let asked = timeout(self.patience, self.asked(shard)).await.unwrap_or_else(|_| late());
        // An owner ticks. If none has for so long, it is dead, and nobody has followed it.
        let silence = told.silence(asked.as_ref().ok().map(|entry| entry.seq));
        let asked = asked.map(|entry| entry.owner.filter(|_| silence <= self.silence));
        let mut last = told.last.lock();
        let owner = match (asked, last.take()) {
            // A log that says nothing has not taken the shard from its owner.
            (Err(_), Some(LastWord { owner: Ok(Some(known)), .. })) => Ok(Some(known)),
            (asked, _) => asked,
        };
        *last = Some(LastWord { asked: Instant::now(), owner: owner.clone() });
        owner
    }

    async fn log_of(&self, shard: u32) -> Result<ShardLogStatus, LogError> {
        let log = self.logs.log(shard).await?;
        let (size, last) = try_join(log.size(), log.term()).await?;
        Ok(ShardLogStatus { term: last.as_ref().map(term_by).transpose()?.unwrap_or_default(), size })
    }

    async fn asked(&self, shard: u32) -> Result<OwnerEntry, LogError> {
        let last = self.logs.log(shard).await?.term().await?;
        let owner = last.as_ref().map(owner_by).transpose()?.flatten();
        let seq = last.map(|entry| entry.seq).unwrap_or_default();
        // The log's last word may be of this pod's former life.
        let owner = owner.and_then(|pod| pod_number(&pod)).filter(|pod| *pod != self.own);
        Ok(OwnerEntry { seq, owner })
    }
}

/// What a log has said, and when.
struct KnownOwner {
    asked: Instant,
    owner: Option<u32>,
}

impl ToldOwner {
    /// What was said not longer ago than that.
    fn fresh(&self, fresh_for: Duration) -> Option<Result<Option<u32>, LogError>> {
        let last = self.last.lock();
        last.as_ref().filter(|last| last.asked.elapsed() < fresh_for).map(|last| last.owner.clone())
    }

    /// What was said, however long ago.
    fn known(&self) -> Option<KnownOwner> {
        let last = self.last.lock();
        let LastWord { asked, owner } = last.as_ref()?;
        owner.as_ref().ok().map(|owner| KnownOwner { asked: *asked, owner: *owner })
    }

    /// How long the log has said nothing about ownership behind this entry, as far as it was asked. A log
    /// that did not answer, `None`, has not been silent: nobody could have entered anything. That it was away
    /// while nobody asked is not known, and comes right with the owner's next tick.
    fn silence(&self, last: Option<LogSeq>) -> Duration {
        let mut entry = self.entry.lock();
        match (last, *entry) {
            (Some(last), Some((seq, since))) if last == seq => since.elapsed(),
            _ => {
                *entry = last.map(|seq| (seq, Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Forgets what was said before this, if it was this pod.
    fn forget(&self, pod: u32, before: Instant) {
        let is_of_pod = |last: &mut LastWord| {
            last.asked <= before && matches!(last.owner, Ok(Some(owner)) if owner == pod)
        };
        drop(self.last.lock().take_if(is_of_pod));
    }

    /// Forgets what was said longer ago than that: by what the copy of this pod has read it is over. It may have
    /// read less than the log said; then the log is asked in vain while it is away, and names the owner later.
    fn forget_old(&self, fresh_for: Duration) {
        drop(self.last.lock().take_if(|last| last.asked.elapsed() >= fresh_for));
    }

    /// The copy of this pod is not believed for a while.
    fn doubt(&self) {
        *self.doubted.lock() = Some(Instant::now());
    }

    /// Whether the copy of this pod is not believed.
    fn is_doubted(&self, doubted_for: Duration) -> bool {
        self.doubted.lock().is_some_and(|since| since.elapsed() < doubted_for)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use bytes::Bytes;
    use contracts::shared_log::{EntryKind, LogEntry};
    use testing::shared_log::MemoryLog;
    use tokio::time::advance;

    use super::*;
    use crate::cluster::copies::tests::OwnedCopy;

    /// Logs of which nobody can say who owns anything, and which count how often they are asked.
    #[derive(Debug, Default)]
    struct SilentLogs {
        asked: AtomicUsize,
        is_away: bool,
        never_answers: bool,
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
            if self.never_answers {
                pending::<()>().await;
            }
            if self.is_away { Err(LogError::Unavailable("away".to_owned())) } else { Ok(None) }
        }

        async fn trim(&self, _: LogSeq) -> Result<(), LogError> {
            Ok(())
        }

        async fn size(&self) -> Result<LogSize, LogError> {
            Ok(LogSize::default())
        }
    }

    const FRESH_FOR: Duration = Duration::from_secs(1);

    const PATIENCE: Duration = Duration::from_secs(2);

    /// Longer than an owner is silent.
    const SILENCE: Duration = Duration::from_secs(6);

    fn owners(logs: &Arc<SilentLogs>) -> Owners {
        owners_by(0, Arc::new(Arc::clone(logs)))
    }

    /// As a pod without a copy knows them.
    fn owners_by(own: u32, logs: Arc<dyn ShardLogs>) -> Owners {
        owners_with(own, logs, Vec::new())
    }

    /// As a pod with these copies knows them.
    fn owners_with(own: u32, logs: Arc<dyn ShardLogs>, copies: Vec<Arc<OwnCopy>>) -> Owners {
        let (fresh_for, patience, silence) = (FRESH_FOR, PATIENCE, SILENCE);
        Owners::new(OwnersParts { own, shards: 2, logs, copies, fresh_for, patience, silence })
    }

    /// The log of a copy, for every shard.
    pub(crate) struct LogOfCopy(pub(crate) MemoryLog);

    #[async_trait]
    impl ShardLogs for LogOfCopy {
        async fn log(&self, _: u32) -> Result<Arc<dyn SharedLog>, LogError> {
            let log: Arc<dyn SharedLog> = Arc::new(self.0.clone());
            Ok(log)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_ticks_no_more_while_the_log_answers_is_nobody_though_it_is_asked_in_vain() {
        let owned = OwnedCopy::new().await;
        let log = owned.log.handle();
        let owners = owners_by(1, Arc::new(LogOfCopy(log.clone())));
        let tick = Duration::from_secs(1);
        let word = async || {
            sleep(tick).await;
            let word = owners.owner(0).await;
            owners.forget(0, Instant::now());
            word.ok()
        };
        for _ in 0..20 {
            assert_eq!(word().await, Some(Some(0)), "it is alive");
        }
        drop(owned);
        let ended = Instant::now();
        while ended.elapsed() < SILENCE - 3 * tick {
            assert_eq!(word().await, Some(Some(0)), "another copy may still follow it");
        }
        log.cut_off(true);
        assert_eq!(word().await, None);
        log.cut_off(false);
        let back = Instant::now();
        while word().await == Some(Some(0)) {
            assert!(back.elapsed() < 2 * SILENCE, "nothing owns the shard");
        }
        assert!(back.elapsed() > SILENCE, "while the log was away nobody could have said anything");
        assert_eq!(word().await, Some(None));
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
        let known_at = Instant::now();
        let known = LastWord { asked: known_at, owner: Ok(Some(2)) };
        *owners.told[1].last.lock() = Some(known);
        advance(Duration::from_secs(5)).await;
        assert_eq!(owners.owner(1).await.unwrap(), Some(2));
        owners.forget(1, Instant::now());
        assert_eq!(owners.owner(1).await.unwrap(), Some(2));
        owners.forget(2, known_at - Duration::from_secs(1));
        assert_eq!(owners.owner(1).await.unwrap(), Some(2), "the log has named it since the pod was asked");
        owners.forget(2, Instant::now());
        assert!(owners.owner(1).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_a_log_that_never_answers_and_who_knows_an_owner_not_at_all() {
        let logs = Arc::new(SilentLogs { never_answers: true, ..SilentLogs::default() });
        let owners = owners(&logs);
        let began = Instant::now();
        let (one, two) = tokio::join!(owners.owner(1), owners.owner(1));
        assert!(matches!((one, two), (Err(LogError::Unavailable(_)), Err(LogError::Unavailable(_)))));
        assert!(began.elapsed() < 2 * PATIENCE);
        assert_eq!(logs.asked.load(Relaxed), 1, "both have asked once");
        *owners.told[1].last.lock() = Some(LastWord { asked: began, owner: Ok(Some(2)) });
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(owners.owner(1).await.unwrap(), Some(2));
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        advance(Duration::from_millis(1)).await;
        task::yield_now().await;
        assert_eq!(logs.asked.load(Relaxed), 2, "it is asked beside, once at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn that_nobody_owns_a_shard_is_believed_only_of_a_log_that_answers() {
        let owners = owners(&Arc::new(SilentLogs { is_away: true, ..SilentLogs::default() }));
        *owners.told[1].last.lock() = Some(LastWord { asked: Instant::now(), owner: Ok(None) });
        assert_eq!(owners.owner(1).await.unwrap(), None, "the log has just said it");
        advance(Duration::from_secs(1)).await;
        assert!(matches!(owners.owner(1).await, Err(LogError::Unavailable(_))));

        let idle = OwnedCopy::idle().await;
        let logs = Arc::new(LogOfCopy(idle.log.clone()));
        let owners = owners_with(2, logs, vec![Arc::clone(&idle.copy)]);
        assert_eq!(owners.owner(0).await.unwrap(), None);
        idle.log.cut_off(true);
        *owners.told[0].last.lock() = Some(LastWord { asked: Instant::now(), owner: Ok(Some(1)) });
        advance(FRESH_FOR).await;
        assert_eq!(idle.copy.owner(2), CopyOwner::Nobody, "the copy has not found out yet");
        assert!(matches!(owners.owner(0).await, Err(LogError::Unavailable(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_looks_is_told_of_no_former_owner() {
        let logs = Arc::new(SilentLogs::default());
        let owners = owners(&logs);
        *owners.told[1].last.lock() = Some(LastWord { asked: Instant::now(), owner: Ok(Some(2)) });
        assert_eq!(owners.owner_now(1).await.unwrap(), Some(2), "the log has just said it");
        advance(Duration::from_secs(1)).await;
        assert_eq!(owners.owner_now(1).await.unwrap(), None);
        assert_eq!(logs.asked.load(Relaxed), 1);
        assert_eq!(owners.owner_now(2).await.unwrap(), None, "there is no such shard");
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_shard_that_this_pod_does_not_follow_the_log_says_how_it_is() {
        let empty = ShardLogStatus { term: 0, size: LogSize::default() };
        assert_eq!(owners(&Arc::new(SilentLogs::default())).log_of(1).await, Some(empty));
        let away = SilentLogs { is_away: true, ..SilentLogs::default() };
        assert_eq!(owners(&Arc::new(away)).log_of(1).await, None);
        let never = SilentLogs { never_answers: true, ..SilentLogs::default() };
        let began = Instant::now();
        assert_eq!(owners(&Arc::new(never)).log_of(1).await, None);
        assert!((PATIENCE..2 * PATIENCE).contains(&began.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_whose_owner_does_not_answer_is_doubted_for_a_while() {
        let told = ToldOwner::default();
        let tick = Duration::from_secs(1);
        assert!(!told.is_doubted(tick));
        told.doubt();
        assert!(told.is_doubted(tick));
        advance(tick).await;
        assert!(!told.is_doubted(tick));
    }
}
