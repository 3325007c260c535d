//! What is known of a client's connection: whose it is, what it waits for, and how to end it. `net` keeps
//! this up to date, and requests carry it.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::{extract::FromRequestParts, http::request::Parts};
use futures_util::task::AtomicWaker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A client as budgets see it: its IPv4 address, or the /64 network of its IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(IpAddr);

impl Peer {
    /// The peer at an address.
    pub fn at(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::from((address.to_bits() >> 64 << 64).to_be_bytes()),
            address => address,
        })
    }
}

/// The state of a connection, as far as others need to know it.
#[derive(Debug)]
pub struct Connection {
    /// Whose it is.
    pub peer: Peer,
    /// Ends it, whatever it is doing.
    pub kill: CancellationToken,
    opened: Instant,
    /// Requests under way.
    requests: AtomicUsize,
    /// Requests that have begun since it was opened.
    begun: AtomicUsize,
    /// Wakes the task that waits for the last request to end.
    watcher: AtomicWaker,
    /// Requests under way whose bodies have not arrived whole.
    bodies: AtomicUsize,
    /// Requests under way that wait for an event or for S3.
    waits: AtomicUsize,
    /// Whether an answer is under way that ends where the connection ends (HTTP/1.0).
    is_unfinished: AtomicBool,
    /// Whether everything that arrived has been handled, and another request is awaited.
    is_listening: AtomicBool,
    /// Whether a write waits for the client.
    is_stalled: AtomicBool,
    /// When bytes last went either way or a request ended, in milliseconds since it was opened.
    progress_ms: AtomicU64,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new(Ipv4Addr::UNSPECIFIED.into())
    }
}

/// Why a connection may be ended to make room for another. Those with the first reason are ended first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Idleness {
    /// No request is under way, and none has arrived.
    NoRequest,
    /// It waits for its client to send or to read something.
    Client,
    /// It waits for an event or for S3, not for its client.
    Events,
}

impl Connection {
    /// A connection from an address.
    pub fn new(address: IpAddr) -> Self {
        Self {
            peer: Peer::at(address),
            kill: CancellationToken::new(),
            opened: Instant::now(),
            requests: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            watcher: AtomicWaker::new(),
            bodies: AtomicUsize::new(0),
            waits: AtomicUsize::new(0),
            is_unfinished: AtomicBool::new(false),
            is_listening: AtomicBool::new(false),
            is_stalled: AtomicBool::new(false),
            progress_ms: AtomicU64::new(0),
        }
    }

    /// Notes that bytes went either way.
    pub fn progressed(&self) {
        let ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress_ms.store(ms, Relaxed);
    }

    /// Milliseconds since the last progress: bytes in either direction, or the end of a request.
    pub fn still_for_ms(&self) -> u64 {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        now.saturating_sub(self.progress_ms.load(Relaxed))
    }

    /// Sets whether everything that arrived has been handled and another request is awaited.
    pub fn set_listening(&self, is_listening: bool) {
        self.is_listening.store(is_listening, Relaxed);
    }

    /// Sets whether a write waits for the client.
    pub fn set_stalled(&self, is_stalled: bool) {
        self.is_stalled.store(is_stalled, Relaxed);
    }

    /// Sets whether an answer is under way that ends where the connection ends (HTTP/1.0).
    pub fn set_unfinished(&self, is_unfinished: bool) {
        self.is_unfinished.store(is_unfinished, Relaxed);
    }

    /// Whether a request is under way.
    pub fn is_busy(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// Ready while no request is under way.
    pub fn poll_idle(&self, context: &mut Context<'_>) -> Poll<()> {
        self.watcher.register(context.waker()); // before the check, so that no end is missed
        if self.is_busy() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Whether closing the connection cleanly would make an unfinished answer look finished.
    pub fn must_not_end_cleanly(&self) -> bool {
        self.is_unfinished.load(Relaxed)
    }

    /// Why it may be ended to make room; `None` if it may not.
    pub fn idleness(&self) -> Option<Idleness> {
        if !self.is_busy() && self.is_listening.load(Relaxed) {
            return Some(Idleness::NoRequest);
        }
        if self.waits_for_client() && self.still_for_ms() >= 1000 {
            return Some(Idleness::Client);
        }
        (self.waits.load(Relaxed) > 0).then_some(Idleness::Events)
    }

    /// Whether something that it has sent is yet to be handled, so that it is not known whether it may be
    /// ended.
    pub fn is_undecided(&self) -> bool {
        !self.is_busy() && !self.is_listening.load(Relaxed) && self.idleness().is_none()
    }

    /// Whether it waits for its client, but not yet long enough to be ended for that.
    pub fn may_be_waiting(&self) -> bool {
        self.waits_for_client() && self.idleness().is_none()
    }

    fn waits_for_client(&self) -> bool {
        self.bodies.load(Relaxed) > 0 || self.is_stalled.load(Relaxed)
    }

    /// How many requests have begun.
    pub fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    /// A request begins; it is under way until the guard is dropped.
    pub fn request(self: &Arc<Self>) -> CountGuard {
        self.begun.fetch_add(1, Relaxed);
        CountGuard::new(self, |connection| &connection.requests)
    }

    /// A body begins to arrive; it counts as arriving until the guard is dropped.
    pub fn body(self: &Arc<Self>) -> CountGuard {
        CountGuard::new(self, |connection| &connection.bodies)
    }

    /// A request waits for an event or for S3 until the guard is dropped. Meanwhile its connection may be
    /// closed to make room for another.
    pub fn wait(self: &Arc<Self>) -> CountGuard {
        CountGuard::new(self, |connection| &connection.waits)
    }
}

/// Counts something of a connection while it is held.
#[derive(Debug)]
pub struct CountGuard {
    connection: Arc<Connection>,
    count: fn(&Connection) -> &AtomicUsize,
}

impl CountGuard {
    fn new(connection: &Arc<Connection>, count: fn(&Connection) -> &AtomicUsize) -> Self {
        count(connection).fetch_add(1, Relaxed);
        Self { connection: Arc::clone(connection), count }
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        (self.count)(&self.connection).fetch_sub(1, Relaxed);
        self.connection.progressed();
        self.connection.watcher.wake();
    }
}

/// The connection that a request arrived on; a new one if `net` gave none, as in tests.
#[derive(Debug, Clone)]
pub struct OnConnection(pub Arc<Connection>);

impl<S: Send + Sync> FromRequestParts<S> for OnConnection {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self(Arc::default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_address_or_a_network_of_64_bits() {
        let peer = |text: &str| Peer::at(text.parse().unwrap());
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:2"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_nobody_but_its_client_may_go() {
        let connection = Arc::new(Connection::default());
        assert_eq!(connection.idleness(), None, "what it may have sent was not looked at");
        assert!(connection.is_undecided());
        connection.set_listening(true);
        assert!(!connection.is_undecided());
        assert_eq!(connection.idleness(), Some(Idleness::NoRequest));
        let request = connection.request();
        assert_eq!(connection.idleness(), None, "we are at work");
        let body = connection.body();
        assert_eq!(connection.idleness(), None, "it has only begun");
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        assert_eq!(connection.idleness(), Some(Idleness::Client));
        drop(body);
        let wait = connection.wait();
        assert_eq!(connection.idleness(), Some(Idleness::Events));
        drop((wait, request));
        assert_eq!(connection.idleness(), Some(Idleness::NoRequest));
    }
}
