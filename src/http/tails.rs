//! Places for tails. When all are taken, a peer that has more than its percentage makes room for one that has
//! not: the oldest of its tails ends.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Peer};

/// A fixed number of places.
#[derive(Debug)]
pub struct Tails {
    most: usize,
    of_peer: usize,
    taken: Mutex<TakenPlaces>,
}

#[derive(Debug, Default)]
struct TakenPlaces {
    next: u64,
    /// By number, which is the order in which they began.
    all: BTreeMap<u64, (Peer, CancellationToken)>,
    peers: HashMap<Peer, usize>,
}

impl TakenPlaces {
    fn of(&self, peer: Peer) -> usize {
        self.peers.get(&peer).copied().unwrap_or(0)
    }

    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        let (peer, kill) = self.all.remove(&number)?;
        if let Entry::Occupied(mut count) = self.peers.entry(peer) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(kill)
    }
}

/// The place of a tail; dropping it frees the place.
#[derive(Debug)]
pub struct TailPlace {
    tails: Arc<Tails>,
    number: u64,
}

impl Tails {
    /// `most` places, of which one peer may have `peer_percent` hundredths while others want some.
    pub fn new(most: usize, peer_percent: u8) -> Arc<Self> {
        Arc::new(Self { most, of_peer: most * usize::from(peer_percent) / 100, taken: Mutex::default() })
    }

    /// Takes a place, if one is free or another peer must make room.
    pub fn take(self: &Arc<Self>, connection: &Connection) -> Option<TailPlace> {
        let peer = connection.peer;
        let mut taken = self.taken.lock();
        if taken.all.len() >= self.most {
            if taken.of(peer) >= self.of_peer {
                return None;
            }
            let is_over = |(_, (other, _)): &(&u64, &(Peer, CancellationToken))| {
                *other != peer && taken.of(*other) > self.of_peer
            };
            let (&goes, _) = taken.all.iter().find(is_over)?;
            taken.remove(goes)?.cancel();
        }
        let number = taken.next;
        taken.next += 1;
        taken.all.insert(number, (peer, connection.kill().clone()));
        *taken.peers.entry(peer).or_default() += 1;
        Some(TailPlace { tails: Arc::clone(self), number })
    }
}

impl Drop for TailPlace {
    fn drop(&mut self) {
        self.tails.taken.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> Connection {
        Connection::new([10, 0, 0, last].into())
    }

    #[test]
    fn alone_a_peer_may_have_all_and_makes_room_for_others() {
        let tails = Tails::new(4, 50);
        let greedy: Vec<_> = (0..4).map(|_| from(1)).collect();
        let places: Vec<_> = greedy.iter().map(|connection| tails.take(connection).unwrap()).collect();
        assert!(tails.take(&from(1)).is_none());
        let others = [tails.take(&from(2)).unwrap(), tails.take(&from(3)).unwrap()];
        let gone: Vec<_> = greedy.iter().map(|connection| connection.kill().is_cancelled()).collect();
        assert_eq!(gone, [true, true, false, false], "the first of them");
        assert!(tails.take(&from(4)).is_none(), "nobody has more than may be");
        drop((places, others));
        let taken = tails.taken.lock();
        assert!(taken.all.is_empty() && taken.peers.is_empty());
    }
}
