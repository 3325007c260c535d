//! The erasures that are under way, and the last ones that are done.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use uuid::Uuid;

use contracts::{
    erasure::{Erasure, ErasureProgress},
    error::StorageError,
    shared_log::LogSeq,
};

/// The erasures that are known.
#[derive(Debug)]
pub(super) struct ErasureList {
    known: Mutex<BTreeMap<Uuid, ErasureProgress>>,
    /// Those of whose events the volume and S3 hold nothing any more, where other copies may: the entry of
    /// the shard's log by which that was so.
    left_elsewhere: Mutex<BTreeMap<Uuid, LogSeq>>,
    /// How many of those that are done are kept.
    keep: usize,
}

impl ErasureList {
    pub(super) fn new(noted: Vec<Erasure>, keep: usize) -> Self {
        let progress = |erasure: Erasure| (erasure.id, ErasureProgress { erasure, trouble: None });
        let known = Mutex::new(noted.into_iter().map(progress).collect());
        Self { known, left_elsewhere: Mutex::default(), keep }
    }

    pub(super) fn get(&self, id: Uuid) -> Option<ErasureProgress> {
        self.known.lock().get(&id).cloned()
    }

    pub(super) fn set(&self, erasure: Erasure, trouble: Option<String>) {
        self.known.lock().insert(erasure.id, ErasureProgress { erasure, trouble });
    }

    /// Notes that neither the volume nor S3 holds anything any more of what was erased up to this entry of
    /// the shard's log.
    pub(super) fn leave_elsewhere(&self, erasure: Erasure, upto: LogSeq) {
        self.left_elsewhere.lock().insert(erasure.id, upto);
        self.set(erasure, None);
    }

    /// The entry by which that was so, if it is.
    pub(super) fn left_elsewhere(&self, id: Uuid) -> Option<LogSeq> {
        self.left_elsewhere.lock().get(&id).copied()
    }

    /// Notes why one could not be carried out; returns whether that is new.
    pub(super) fn fail(&self, id: Uuid, error: &StorageError) -> bool {
        let why = Some(error.to_string());
        let mut known = self.known.lock();
        let Some(progress) = known.get_mut(&id) else { return false };
        let is_new = progress.trouble != why;
        progress.trouble = why;
        is_new
    }

    pub(super) fn all(&self) -> Vec<Erasure> {
        self.known.lock().values().map(|progress| progress.erasure.clone()).collect()
    }

    /// How many are not done.
    pub(super) fn under_way(&self) -> usize {
        let is_open = |progress: &&ErasureProgress| !progress.erasure.is_done();
        self.known.lock().values().filter(is_open).count()
    }

    /// Those that are not done, the oldest first.
    pub(super) fn to_do(&self) -> Vec<Erasure> {
        let known = self.known.lock();
        let erasures = known.values().map(|progress| &progress.erasure);
        let mut open: Vec<Erasure> = erasures.filter(|erasure| !erasure.is_done()).cloned().collect();
        open.sort_by_key(|erasure| (erasure.asked_ms, erasure.id));
        open
    }

    /// Whether the manifests say of an erasure what is not known here: that it is there, or done.
    pub(super) fn is_news(&self, listed: &Erasure) -> bool {
        let known = self.known.lock();
        known.get(&listed.id).is_none_or(|known| !known.erasure.is_done() && listed.is_done())
    }

    /// Those that are done and too old to be kept. They are forgotten here once the volume has forgotten
    /// them.
    pub(super) fn to_forget(&self) -> Vec<Uuid> {
        let mut done: Vec<_> = self
            .known
            .lock()
            .values()
            .filter_map(|one| Some((one.erasure.done_ms?, one.erasure.id)))
            .collect();
        done.sort_unstable();
        let too_many = done.len().saturating_sub(self.keep);
        done.into_iter().take(too_many).map(|(_, id)| id).collect()
    }

    /// Forgets them.
    pub(super) fn forget(&self, ids: &[Uuid]) {
        let mut known = self.known.lock();
        let mut left_elsewhere = self.left_elsewhere.lock();
        for id in ids {
            known.remove(id);
            left_elsewhere.remove(id);
        }
    }

    /// Those that are listed as done and were forgotten here.
    pub(super) fn forgotten_of(&self, listed: &[Erasure]) -> Vec<Uuid> {
        let known = self.known.lock();
        let is_forgotten = |one: &&Erasure| one.is_done() && !known.contains_key(&one.id);
        listed.iter().filter(is_forgotten).map(|one| one.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::{erasure::ErasedPart, name::TableName};

    fn erasure(asked_ms: i64) -> Erasure {
        let parts = vec![ErasedPart::of(0, vec![1])];
        Erasure::asked(TableName::parse("t").unwrap(), parts, asked_ms)
    }

    #[test]
    fn the_oldest_comes_first_and_of_those_that_are_done_the_last_ones_are_kept() {
        let (old, young) = (erasure(1), erasure(2));
        let list = ErasureList::new(vec![young.clone(), old.clone()], 2);
        assert_eq!((list.to_do(), list.under_way()), (vec![old.clone(), young], 2));
        let done: Vec<_> = (10..14).map(|at| Erasure { done_ms: Some(at), ..erasure(at) }).collect();
        done.iter().for_each(|one| list.set(one.clone(), None));
        assert_eq!(list.to_forget(), [done[0].id, done[1].id]);
        list.forget(&list.to_forget());
        assert_eq!(list.forgotten_of(&done), [done[0].id, done[1].id]);
        assert!(list.forgotten_of(&[erasure(3)]).is_empty(), "it is under way");
        assert!(list.get(done[1].id).is_none() && list.get(done[2].id).is_some());
        assert_eq!(list.all().len(), 4);
        assert!(!list.is_news(&old) && list.is_news(&erasure(3)));
        assert!(list.is_news(&Erasure { done_ms: Some(9), ..old }));
    }

    #[test]
    fn a_failure_is_new_once() {
        let one = erasure(1);
        let list = ErasureList::new(vec![one.clone()], 2);
        assert!(list.fail(one.id, &StorageError::Closed) && !list.fail(one.id, &StorageError::Closed));
        assert!(list.get(one.id).unwrap().trouble.is_some());
        assert!(!list.fail(Uuid::nil(), &StorageError::Closed));
    }
}
