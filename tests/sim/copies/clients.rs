//! Clients of the pods: each writes, reads or commits at whatever pod serves, and tells the history.

use std::{cell::RefCell, rc::Rc, time::Duration};

use contracts::{
    append::{Append, Appender},
    clock::Clock,
    consumers::ConsumerStorage,
    error::{Overload, StorageError},
    name::PartitionNumber,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use testing::history::Id;
use tokio::{task::JoinSet, time::sleep};

use super::{CopiesWorld, pod::Served};
use crate::{
    numbered::{ErasedEvents, PARTITIONS, commit_acked, committed_of, event, page, until},
    store::{group, table},
};

const WRITERS: usize = 4;

/// What writes, reads and commits.
pub(super) fn clients(world: &Rc<CopiesWorld>, seed: u64) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..WRITERS {
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number as u64));
        clients.spawn_local(Rc::clone(world).write(rng));
    }
    for partition in 0..PARTITIONS {
        let rng = || StdRng::seed_from_u64(seed.wrapping_mul(37).wrapping_add(partition));
        clients.spawn_local(Rc::clone(world).follow(partition, rng()));
        clients.spawn_local(Rc::clone(world).commit(partition, rng()));
    }
    clients
}

/// Whether an error says that nothing was written, and nothing will be.
fn is_unwritten(error: &StorageError) -> bool {
    match error {
        StorageError::Demoted
        | StorageError::LogUnavailable { may_be_written: false }
        | StorageError::Overloaded { .. } => true,
        StorageError::LogUnavailable { may_be_written: true }
        | StorageError::OutcomeUnknown { .. }
        | StorageError::Closed => false,
        error => panic!("{error}"),
    }
}

impl CopiesWorld {
    /// One of the pods that serve; nothing at the end.
    async fn server(&self, rng: &mut StdRng) -> Option<Rc<Served>> {
        while !self.stopping.is_cancelled() {
            let all: Vec<_> = self.served.borrow().values().cloned().collect();
            if let Some(served) = all.choose(rng) {
                return Some(Rc::clone(served));
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }

    async fn write(self: Rc<Self>, mut rng: StdRng) {
        while !self.stopping.is_cancelled() {
            let (partition, has_key) = (rng.random_range(0..PARTITIONS), rng.random_bool(0.5));
            let id = self.ids.replace(self.ids.get() + 1);
            // The same write with the same key, until its fate is known. Nobody keeps a pod that is gone
            // while he waits for another one.
            while let Some(served) = self.server(&mut rng).await {
                if self.append(&served, id, partition, has_key).await || !has_key {
                    break;
                }
                drop(served);
                sleep(Duration::from_millis(rng.random_range(0..200))).await;
            }
            sleep(Duration::from_millis(rng.random_range(0..100))).await;
        }
    }

    /// Whether it is known what has become of it.
    async fn append(&self, served: &Served, id: Id, partition: u64, has_key: bool) -> bool {
        self.history.borrow_mut().begins(id, partition, None);
        let events = vec![(partition as PartitionNumber, event(id, has_key, self.clock.now_ms()))];
        let append = Append { table: table(), events, expected_offset: None, made_by: None };
        match until(&served.gone, served.twin.append(append)).await {
            Some(Ok(appended)) => {
                self.history.borrow_mut().acked(id, appended[0].offset);
                true
            }
            Some(Err(StorageError::Overloaded { reason: Overload::LogFull, .. })) if has_key => {
                self.refused_as_full.set(self.refused_as_full.get() + 1);
                false
            }
            // With a key an earlier attempt may be there.
            Some(Err(error)) if is_unwritten(&error) && !has_key => {
                self.history.borrow_mut().refused(id);
                true
            }
            Some(Err(error)) => {
                let _ = is_unwritten(&error);
                false
            }
            None => false,
        }
    }

    async fn follow(self: Rc<Self>, partition: u64, mut rng: StdRng) {
        let (mut next, erased) = (0, RefCell::new(ErasedEvents::new()));
        while let Some(served) = self.server(&mut rng).await {
            let acked = self.history.borrow().acked_end(partition);
            let reading = async {
                tokio::join!(served.copy.confirm(), page(&served.reader, partition, next, 20, &erased))
            };
            match until(&served.gone, reading).await {
                Some((Ok(()), Ok((records, is_end)))) => {
                    self.history.borrow_mut().read(partition, next, &records, is_end.then_some(acked));
                    next = records.last().map_or(next, |(offset, _)| offset + 1);
                }
                Some((Ok(()), Err(StorageError::Unavailable { .. } | StorageError::UnknownTable(_)))) => {}
                Some((Ok(()), Err(error))) => panic!("{error}"),
                Some((Err(error), _)) => _ = is_unwritten(&error),
                None => {}
            }
            sleep(Duration::from_millis(40)).await;
        }
    }

    async fn commit(self: Rc<Self>, partition: u64, mut rng: StdRng) {
        let mut next = 0;
        while let Some(served) = self.server(&mut rng).await {
            next = commit_acked(&self.history, &*served.twin, &served.gone, partition, next).await;
            let name = group();
            let looking = async { tokio::join!(served.copy.confirm(), served.twin.offsets(&name)) };
            if let Some((Ok(()), Ok(offsets))) = until(&served.gone, looking).await {
                self.history.borrow_mut().found_committed(partition, committed_of(partition, &offsets));
            }
            sleep(Duration::from_millis(80)).await;
        }
    }
}
