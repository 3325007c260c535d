//! Memory that all requests share: taken as bytes arrive, given back when they are dropped.
//!
//! A slow client never holds up a budget. When a budget is used up, a request that needs some waits a moment,
//! and meanwhile the shares whose own clients have been silent longest are given up. While others wait, one
//! peer has at most its percentage; alone it may have everything. A sixteenth is kept for small shares, so
//! that a small write finds room beside large ones.

mod give_up;
mod share;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use slab::Slab;
use tokio::{sync::Notify, time::Instant};

pub use self::{give_up::GiveUp, share::Share};
use super::connection::{Connection, Peer};
use contracts::error::Overload;

/// A share of at most this many bytes is small.
const SMALL_BYTES: usize = 64 << 10;
/// One part in so many of a budget is kept for small shares.
const SMALL_PART: usize = 16;
/// How long a share is safe after its client has touched it.
const SAFE_TIME: Duration = Duration::from_secs(1);
/// Shares to give up are looked for at most this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Memory that requests share.
#[derive(Debug)]
pub struct Budget {
    bytes: usize,
    peer_bytes: usize,
    /// The reason that a request without room is refused with.
    reason: Overload,
    holdings: Mutex<Holdings>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Holdings {
    used: usize,
    all: Slab<Holding>,
    peers: HashMap<Peer, PeerHoldings, RandomState>,
    waiting: usize,
    looked: Option<Instant>,
}

/// What one peer's shares hold together, and how many of them wait for more.
#[derive(Debug, Default)]
struct PeerHoldings {
    used: usize,
    waiting: usize,
}

/// What one share holds.
#[derive(Debug)]
struct Holding {
    peer: Peer,
    bytes: usize,
    /// When its client last sent or read something.
    since: Instant,
    /// Makes the holder drop the share; `None` while the server works on it and waits for no client.
    give_up: Option<GiveUp>,
}

impl Budget {
    /// A budget of `bytes`, of which one peer has at most `peer_percent` hundredths while others wait.
    /// `reason` is the reason that a request without room is refused with.
    pub fn new(bytes: usize, peer_percent: u8, reason: Overload) -> Arc<Self> {
        let peer_bytes = bytes / 100 * usize::from(peer_percent);
        Arc::new(Self { bytes, peer_bytes, reason, holdings: Mutex::default(), freed: Notify::new() })
    }

    /// An empty share for a body that is being received. [`Share::given_up`] is cancelled when it must be
    /// dropped.
    pub fn receiving(self: &Arc<Self>, connection: &Connection) -> Share {
        self.share(connection.peer, GiveUp::by_word())
    }

    /// An empty share for an answer. If others need its memory, its connection is ended.
    pub fn sending(self: &Arc<Self>, connection: &Connection) -> Share {
        self.share(connection.peer, GiveUp::by_killing(connection.kill().clone()))
    }

    fn share(self: &Arc<Self>, peer: Peer, give_up: GiveUp) -> Share {
        let mut holdings = self.holdings.lock();
        let holding = Holding { peer, bytes: 0, since: Instant::now(), give_up: Some(give_up.clone()) };
        let id = holdings.all.insert(holding);
        Share::empty(Arc::clone(self), id, give_up)
    }

    /// Bytes that are taken now.
    pub fn used_bytes(&self) -> usize {
        self.holdings.lock().used
    }

    /// Requests that wait for a share of it now.
    pub fn waiting(&self) -> usize {
        self.holdings.lock().waiting
    }

    fn peer_of(&self, id: usize) -> Option<Peer> {
        self.holdings.lock().all.get(id).map(|holding| holding.peer)
    }

    /// Takes `more` for a share, if there is room for it.
    fn take(&self, id: usize, more: usize) -> bool {
        let mut holdings = self.holdings.lock();
        let Some(holding) = holdings.all.get(id) else { return false };
        let (peer, bytes) = (holding.peer, holding.bytes + more);
        let room = if bytes <= SMALL_BYTES { self.bytes } else { self.bytes - self.bytes / SMALL_PART };
        let of_peer = holdings.peers.get(&peer);
        let (peer_used, peer_waiting) = of_peer.map_or((0, 0), |of_peer| (of_peer.used, of_peer.waiting));
        let others_wait = holdings.waiting > peer_waiting;
        if holdings.used + more > room || (others_wait && peer_used + more > self.peer_bytes) {
            return false;
        }
        holdings.add(id, more);
        true
    }

    /// Gives back `less` bytes of a share.
    fn give_back(&self, id: usize, less: usize) {
        self.holdings.lock().remove(id, less);
        self.freed.notify_waiters();
    }

    /// Ends a share that has `bytes`.
    fn forget(&self, id: usize, bytes: usize) {
        let mut holdings = self.holdings.lock();
        holdings.remove(id, bytes);
        drop(holdings.all.try_remove(id));
        let is_awaited = holdings.waiting > 0;
        drop(holdings);
        if is_awaited {
            self.freed.notify_waiters();
        }
    }

    fn touch(&self, id: usize) {
        if let Some(holding) = self.holdings.lock().all.get_mut(id) {
            holding.since = Instant::now();
        }
    }

    fn settle(&self, id: usize) {
        if let Some(holding) = self.holdings.lock().all.get_mut(id) {
            holding.give_up = None;
        }
    }

    /// Gives up shares, those that have held up others longest first, until `more` bytes come free for
    /// `peer`.
    fn make_room(&self, peer: Peer, more: usize) {
        let mut holdings = self.holdings.lock();
        let now = Instant::now();
        if holdings.looked.is_some_and(|looked| now < looked + LOOK_INTERVAL) {
            return;
        }
        holdings.looked = Some(now);
        let is_over =
            |peer: &Peer| holdings.peers.get(peer).is_some_and(|of_peer| of_peer.used > self.peer_bytes);
        let may_have = !is_over(&peer);
        let mut coming = 0;
        let mut victims: Vec<_> = Vec::new();
        for holding in holdings.all.iter().map(|(_, holding)| holding).filter(|holding| holding.bytes > 0) {
            let Some(give_up) = &holding.give_up else { continue };
            let is_greedy = may_have && holding.peer != peer && is_over(&holding.peer);
            if give_up.is_cancelled() {
                coming += holding.bytes;
            } else if is_greedy || now >= holding.since + SAFE_TIME {
                victims.push((!is_greedy, holding.since, holding.bytes, give_up));
            }
        }
        victims.sort_by_key(|(is_fair, since, ..)| (*is_fair, *since));
        for (_, _, bytes, give_up) in victims {
            if coming >= more {
                break;
            }
            give_up.cancel();
            coming += bytes;
        }
    }

    fn wait(&self, peer: Peer) -> WaitingPeer<'_> {
        let mut holdings = self.holdings.lock();
        holdings.waiting += 1;
        holdings.peers.entry(peer).or_default().waiting += 1;
        WaitingPeer { budget: self, peer }
    }
}

impl Holdings {
    fn add(&mut self, id: usize, more: usize) {
        let Some(holding) = self.all.get_mut(id) else { return };
        holding.bytes += more;
        self.used += more;
        self.peers.entry(holding.peer).or_default().used += more;
    }

    fn remove(&mut self, id: usize, less: usize) {
        let Some(holding) = self.all.get_mut(id) else { return };
        holding.bytes -= less;
        self.used -= less;
        let peer = holding.peer;
        if let Some(of_peer) = self.peers.get_mut(&peer) {
            of_peer.used -= less;
        }
        self.forget_idle(peer);
    }

    /// Forgets a peer that has nothing and waits for nothing.
    fn forget_idle(&mut self, peer: Peer) {
        if self.peers.get(&peer).is_some_and(|of_peer| of_peer.used == 0 && of_peer.waiting == 0) {
            self.peers.remove(&peer);
        }
    }
}

/// Counts a peer as waiting for room.
struct WaitingPeer<'a> {
    budget: &'a Budget,
    peer: Peer,
}

impl Drop for WaitingPeer<'_> {
    fn drop(&mut self) {
        let mut holdings = self.budget.holdings.lock();
        holdings.waiting -= 1;
        if let Some(of_peer) = holdings.peers.get_mut(&self.peer) {
            of_peer.waiting -= 1;
        }
        holdings.forget_idle(self.peer);
    }
}
