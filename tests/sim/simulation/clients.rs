//! Clients of the one store: each writes, erases, reads or commits, and tells the history.

use std::{rc::Rc, time::Duration};

use contracts::{
    append::Append,
    clock::Clock,
    erasure::{ErasedPart, Erasure, Erasures},
    error::StorageError,
    flusher::Flush,
    name::PartitionNumber,
    sequence::Offset,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use testing::history::Id;
use tokio::{task::JoinSet, time::sleep};

use super::{LossKind, Server, World};
use crate::{
    numbered::{PARTITIONS, commit_acked, committed_of, event, page, until},
    store::{group, table},
};

const WRITERS: usize = 6;

/// What writes, erases, reads and commits.
pub(super) fn clients(world: &Rc<World>, seed: u64) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..WRITERS {
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number as u64));
        clients.spawn_local(Rc::clone(world).write(rng));
    }
    if world.kind == LossKind::Process {
        for partition in 0..PARTITIONS {
            clients.spawn_local(Rc::clone(world).follow(partition));
            clients.spawn_local(Rc::clone(world).commit(partition));
        }
        clients.spawn_local(Rc::clone(world).erase(StdRng::seed_from_u64(seed.wrapping_mul(37))));
    }
    clients
}

impl World {
    /// The server, once there is one; nothing at the end.
    async fn server(&self) -> Option<Rc<Server>> {
        loop {
            if self.stopping.is_cancelled() {
                return None;
            }
            if let Some(server) = self.server.borrow().clone() {
                return Some(server);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn next_id(&self) -> Id {
        self.ids.replace(self.ids.get() + 1)
    }

    async fn write(self: Rc<Self>, mut rng: StdRng) {
        while let Some(server) = self.server().await {
            let partition = rng.random_range(0..PARTITIONS);
            match rng.random_range(0..10) {
                0..4 => {
                    self.append(&server, &[(self.next_id(), partition)], None, false).await;
                }
                4..8 => self.append_with_key(partition).await,
                _ if self.kind == LossKind::Process => {
                    let bulk: Vec<_> = (0..rng.random_range(2..12))
                        .map(|_| (self.next_id(), rng.random_range(0..PARTITIONS)))
                        .collect();
                    let number = self.bulks.replace(self.bulks.get() + 1);
                    self.append(&server, &bulk, Some(number), false).await;
                }
                _ => {}
            }
            sleep(Duration::from_millis(rng.random_range(0..60))).await;
        }
    }

    /// The same write with the same key until its fate is known.
    async fn append_with_key(&self, partition: u64) {
        let id = self.next_id();
        while let Some(server) = self.server().await {
            if self.append(&server, &[(id, partition)], None, true).await {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it is known what has become of it.
    async fn append(&self, server: &Server, events: &[(Id, u64)], bulk: Option<u64>, key: bool) -> bool {
        events.iter().for_each(|(id, partition)| self.history.borrow_mut().begins(*id, *partition, bulk));
        let now_ms = self.clock.now_ms();
        let sent = events
            .iter()
            .map(|(id, partition)| (*partition as PartitionNumber, event(*id, key, now_ms)))
            .collect();
        let appended = until(
            &server.gone,
            server.hot.append(Append { table: table(), events: sent, expected_offset: None, made_by: None }),
        )
        .await;
        let appended = match appended {
            Some(Ok(appended)) => appended,
            Some(Err(
                StorageError::OutcomeUnknown { .. } | StorageError::Closed | StorageError::Fenced(_),
            ))
            | None => return false,
            Some(Err(error)) => panic!("{error}"),
        };
        if self.kind == LossKind::Volume
            && !matches!(until(&server.gone, server.flush.flush_now(Some(table()))).await, Some(Ok(_)))
        {
            return false;
        }
        for ((id, partition), place) in events.iter().zip(appended) {
            self.history.borrow_mut().acked(*id, place.offset);
            self.placed.borrow_mut().push((*partition, place.offset, *id));
        }
        true
    }

    /// Erases one event after the other.
    async fn erase(self: Rc<Self>, mut rng: StdRng) {
        while let Some(server) = self.server().await {
            sleep(Duration::from_millis(rng.random_range(200..4000))).await;
            let Some((partition, offset, id)) = self.placed.borrow().choose(&mut rng).copied() else {
                continue;
            };
            // From here on it may read as erased.
            self.erased.borrow_mut().insert((partition, offset), id);
            let parts = vec![ErasedPart::of(partition as PartitionNumber, vec![offset])];
            let asked = server.erasures.ask(Erasure::asked(table(), parts, self.clock.now_ms()));
            match until(&server.gone, asked).await {
                Some(Ok(erasure)) => self.erasures.borrow_mut().push((erasure.id, partition, offset)),
                Some(Err(
                    StorageError::OutcomeUnknown { .. }
                    | StorageError::Closed
                    | StorageError::Fenced(_)
                    | StorageError::Overloaded { .. },
                ))
                | None => {}
                Some(Err(error)) => panic!("{error}"),
            }
        }
    }

    async fn follow(self: Rc<Self>, partition: u64) {
        let mut next: Offset = 0;
        while let Some(server) = self.server().await {
            let acked = self.history.borrow().acked_end(partition);
            match until(&server.gone, page(&server.reader, partition, next, 20, &self.erased)).await {
                Some(Ok((records, is_end))) => {
                    self.history.borrow_mut().read(partition, next, &records, is_end.then_some(acked));
                    next = records.last().map_or(next, |(offset, _)| offset + 1);
                }
                Some(Err(
                    StorageError::Unavailable { .. } | StorageError::UnknownTable(_) | StorageError::Closed,
                ))
                | None => {}
                Some(Err(error)) => panic!("{error}"),
            }
            sleep(Duration::from_millis(15)).await;
        }
    }

    async fn commit(self: Rc<Self>, partition: u64) {
        let mut next = 0;
        while let Some(server) = self.server().await {
            next = commit_acked(&self.history, &*server.hot, &server.gone, partition, next).await;
            if let Some(Ok(offsets)) = until(&server.gone, server.hot.offsets(&group())).await {
                self.history.borrow_mut().found_committed(partition, committed_of(partition, &offsets));
            }
            sleep(Duration::from_millis(40)).await;
        }
    }
}
