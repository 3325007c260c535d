//! Memory that all requests share: taken as bytes come, given back when they are gone.
//!
//! A budget is never held by those who are slow. Where it is used up, whoever needs some waits for a moment, and meanwhile the
//! shares of those go that have waited for their client the longest. While others wait, one peer has at most its percentage; alone it may
//! have all. A sixteenth is for small shares, so that a small write finds room beside large ones.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use futures_util::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, Peer},
    error::Problem,
};
use crate::contracts::error::{Overload, StorageError};

/// A share up to this is small.
const SMALL_BYTES: usize = 64 << 10;
/// What of a budget is for small shares: one part in so many.
const SMALL_PART: usize = 16;
/// How long a share is safe from those who need room.
const SAFE: Duration = Duration::from_secs(1);
/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked at who may be given up.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of an answer that are handed to the connection at once.
const PIECE_BYTES: usize = 64 << 10;

/// Memory that is shared.
#[derive(Debug)]
pub struct Budget {
    bytes: usize,
    peer_bytes: usize,
    /// What a request is told that finds no room.
    reason: Overload,
    shares: Mutex<Shares>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Shares {
    used: usize,
    next: u64,
    all: HashMap<u64, Share>,
    peers: HashMap<Peer, PeerShares>,
    waiting: usize,
    looked: Option<Instant>,
}

#[derive(Debug, Default)]
struct PeerShares {
    used: usize,
    waiting: usize,
}

#[derive(Debug)]
struct Share {
    peer: Peer,
    bytes: usize,
    /// When its client last did something for it.
    since: Instant,
    /// Ends who holds it; `None` while we, and not its client, are at work on it.
    give_up: Option<CancellationToken>,
}

impl Budget {
    /// A budget of so many bytes, of which one peer has at most so many hundredths while others wait.
    pub fn new(bytes: usize, peer_percent: u8, reason: Overload) -> Arc<Self> {
        let peer_bytes = bytes / 100 * usize::from(peer_percent);
        Arc::new(Self { bytes, peer_bytes, reason, shares: Mutex::default(), freed: Notify::new() })
    }

    /// A share of a body that is being received: empty, and told by [`Reserved::given_up`] if it must go.
    pub fn receiving(self: &Arc<Self>, connection: &Connection) -> Reserved {
        self.share(connection.peer, CancellationToken::new())
    }

    /// A share of an answer: empty; if it must go, its connection is ended.
    pub fn sending(self: &Arc<Self>, connection: &Connection) -> Reserved {
        self.share(connection.peer, connection.kill.clone())
    }

    fn share(self: &Arc<Self>, peer: Peer, give_up: CancellationToken) -> Reserved {
        let mut shares = self.shares.lock();
        let id = shares.next;
        shares.next += 1;
        shares.all.insert(id, Share { peer, bytes: 0, since: Instant::now(), give_up: Some(give_up.clone()) });
        Reserved { budget: Arc::clone(self), id, bytes: 0, give_up }
    }

    /// Bytes that are taken now.
    pub fn used_bytes(&self) -> usize {
        self.shares.lock().used
    }

    /// Takes `more` for a share, if there is room for it.
    fn take(&self, id: u64, more: usize) -> bool {
        let mut shares = self.shares.lock();
        let Some(share) = shares.all.get(&id) else { return false };
        let (peer, bytes) = (share.peer, share.bytes + more);
        let room = if bytes <= SMALL_BYTES { self.bytes } else { self.bytes - self.bytes / SMALL_PART };
        let of_peer = shares.peers.get(&peer);
        let (peer_used, peer_waiting) = of_peer.map_or((0, 0), |of_peer| (of_peer.used, of_peer.waiting));
        let others_wait = shares.waiting > peer_waiting;
        if shares.used + more > room || (others_wait && peer_used + more > self.peer_bytes) {
            return false;
        }
        shares.add(id, more);
        true
    }

    /// Ends the shares that hold up others the longest, so that `more` bytes come free for a peer.
    fn make_room(&self, peer: Peer, more: usize) {
        let mut shares = self.shares.lock();
        let now = Instant::now();
        if shares.looked.is_some_and(|looked| now < looked + LOOK) {
            return;
        }
        shares.looked = Some(now);
        let is_over = |peer: &Peer| shares.peers.get(peer).is_some_and(|of_peer| of_peer.used > self.peer_bytes);
        let may_have = !is_over(&peer);
        let mut coming = 0;
        let mut victims: Vec<_> = Vec::new();
        for share in shares.all.values().filter(|share| share.bytes > 0) {
            let Some(give_up) = &share.give_up else { continue };
            let is_greedy = may_have && share.peer != peer && is_over(&share.peer);
            if give_up.is_cancelled() {
                coming += share.bytes;
            } else if is_greedy || now >= share.since + SAFE {
                victims.push((!is_greedy, share.since, share.bytes, give_up));
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

    fn wait(&self, peer: Peer) -> Waiting<'_> {
        let mut shares = self.shares.lock();
        shares.waiting += 1;
        shares.peers.entry(peer).or_default().waiting += 1;
        Waiting { budget: self, peer }
    }
}

impl Shares {
    fn add(&mut self, id: u64, more: usize) {
        let Some(share) = self.all.get_mut(&id) else { return };
        share.bytes += more;
        self.used += more;
        self.peers.entry(share.peer).or_default().used += more;
    }

    fn remove(&mut self, id: u64, less: usize) {
        let Some(share) = self.all.get_mut(&id) else { return };
        share.bytes -= less;
        self.used -= less;
        let peer = share.peer;
        if let Some(of_peer) = self.peers.get_mut(&peer) {
            of_peer.used -= less;
        }
        self.forget(peer);
    }

    fn forget(&mut self, peer: Peer) {
        if self.peers.get(&peer).is_some_and(|of_peer| of_peer.used == 0 && of_peer.waiting == 0) {
            self.peers.remove(&peer);
        }
    }
}

/// Somebody who waits for room.
struct Waiting<'a> {
    budget: &'a Budget,
    peer: Peer,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut shares = self.budget.shares.lock();
        shares.waiting -= 1;
        if let Some(of_peer) = shares.peers.get_mut(&self.peer) {
            of_peer.waiting -= 1;
        }
        shares.forget(self.peer);
    }
}

/// A share of a budget.
#[derive(Debug)]
pub struct Reserved {
    budget: Arc<Budget>,
    id: u64,
    bytes: usize,
    give_up: CancellationToken,
}

impl Reserved {
    /// Takes what is missing to `bytes`; waits for a moment where others must make room.
    ///
    /// # Errors
    /// 503 if there is no room.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        if self.try_grow_to(bytes).is_ok() {
            return Ok(());
        }
        let more = bytes - self.bytes;
        let Some(peer) = self.budget.shares.lock().all.get(&self.id).map(|share| share.peer) else { return Err(self.no_room()) };
        let budget = Arc::clone(&self.budget);
        let _waiting = budget.wait(peer);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let mut freed = std::pin::pin!(budget.freed.notified());
            freed.as_mut().enable();
            if self.try_grow_to(bytes).is_ok() {
                return Ok(());
            }
            budget.make_room(peer, more);
            drop(timeout(2 * LOOK, freed).await); // what was safe when it was looked at may not be by now
        }
        Err(self.no_room())
    }

    /// Takes what is missing to `bytes`, now or not at all.
    ///
    /// # Errors
    /// 503 if there is no room.
    pub fn try_grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && !self.budget.take(self.id, more) {
            return Err(self.no_room());
        }
        self.bytes += more;
        Ok(())
    }

    /// Gives back what is over `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            self.budget.shares.lock().remove(self.id, less);
            self.bytes -= less;
            self.budget.freed.notify_waiters();
        }
    }

    /// The bytes that it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its client has done something for it.
    pub fn touch(&self) {
        if let Some(share) = self.budget.shares.lock().all.get_mut(&self.id) {
            share.since = Instant::now();
        }
    }

    /// From now on we, and not its client, are at work on it: it is not given up any more.
    pub fn settle(&self) {
        if let Some(share) = self.budget.shares.lock().all.get_mut(&self.id) {
            share.give_up = None;
        }
    }

    /// Ends when others need it more.
    pub fn given_up(&self) -> CancellationToken {
        self.give_up.clone()
    }

    /// A body of pieces that keeps the share until the last is sent.
    pub fn stream<E>(self, pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Body
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Body::from_stream(pieces.inspect(move |_| self.touch()))
    }

    /// A body that keeps the share until all but the last piece of it is sent.
    pub fn body(self, bytes: impl Into<Bytes>) -> Body {
        Body::new(Held { bytes: bytes.into(), reserved: self })
    }

    fn no_room(&self) -> Problem {
        StorageError::Overloaded { reason: self.budget.reason, retry_after: Duration::from_secs(1) }.into()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut shares = self.budget.shares.lock();
        shares.remove(self.id, self.bytes);
        shares.all.remove(&self.id);
        let is_awaited = shares.waiting > 0;
        drop(shares);
        if is_awaited {
            self.budget.freed.notify_waiters();
        }
    }
}

/// A body and the share of the budget that it takes.
struct Held {
    bytes: Bytes,
    reserved: Reserved,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        self.reserved.touch();
        let length = self.bytes.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn from(last: u8) -> Connection {
        Connection::new([10, 0, 0, last].into())
    }

    fn budget() -> Arc<Budget> {
        Budget::new(16 * MIB, 50, Overload::Memory)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_makes_room_the_slowest_first() {
        let (budget, client) = (budget(), from(1));
        let mut slow = budget.receiving(&client);
        slow.grow_to(8 * MIB).await.unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        let mut slower = budget.receiving(&client);
        slower.grow_to(7 * MIB).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        slow.touch();
        tokio::time::advance(Duration::from_secs(2)).await;
        let slower_goes = tokio::spawn(async move {
            slower.given_up().cancelled().await;
            slower.bytes()
        });
        let mut third = budget.receiving(&client);
        third.grow_to(5 * MIB).await.unwrap();
        assert_eq!(slower_goes.await.unwrap(), 7 * MIB);
        assert!(!slow.given_up().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_worked_on_is_not_given_up_and_who_waits_for_it_is_told() {
        let (budget, client) = (budget(), from(1));
        let mut working = budget.receiving(&client);
        working.grow_to(15 * MIB).await.unwrap();
        working.settle();
        tokio::time::advance(Duration::from_secs(60)).await;
        let mut other = budget.receiving(&client);
        assert!(other.grow_to(2 * MIB).await.is_err());
        assert!(other.grow_to(1000).await.is_ok(), "a little is kept for small ones");
        assert!(!working.given_up().is_cancelled());
        drop(working);
        other.grow_to(15 * MIB).await.unwrap();
        drop(other);
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.shares.lock().peers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn alone_a_peer_may_have_all_and_with_others_its_percentage() {
        let budget = budget();
        let mut greedy: Vec<_> = (0..7).map(|_| budget.receiving(&from(1))).collect();
        for share in &mut greedy {
            share.grow_to(2 * MIB).await.unwrap();
        }
        let gone: Vec<_> = greedy
            .into_iter()
            .map(|share| tokio::spawn(async move { timeout(Duration::from_secs(9), share.given_up().cancelled()).await.is_ok() }))
            .collect();
        let mut other = budget.receiving(&from(2));
        other.grow_to(6 * MIB).await.unwrap();
        let mut count = 0;
        for one in gone {
            count += usize::from(one.await.unwrap());
        }
        assert_eq!(count, 3, "no more than needed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_handed_out_in_pieces_and_holds_its_share_meanwhile() {
        use http_body_util::BodyExt;
        let budget = budget();
        let mut reserved = budget.sending(&from(1));
        reserved.grow_to(MIB).await.unwrap();
        let mut body = reserved.body(vec![1; MIB]);
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((piece.len(), budget.used_bytes()), (PIECE_BYTES, MIB));
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), MIB - PIECE_BYTES);
        assert_eq!(budget.used_bytes(), 0);
    }
}
