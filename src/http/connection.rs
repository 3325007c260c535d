//! What is known of a client's connection: whose it is, what it waits for, and how to end it. `net` keeps
//! this up to date, and requests carry it, each with the client that it comes from.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::{
    principal::{ShownCertificate, network_of},
    sender::LastSender,
};

/// A client as budgets see it: its principal, or without one its IPv4 address, or the /64 network of its IPv6
/// address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(PeerKind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PeerKind {
    Network(IpAddr),
    /// By the number of what it uses of its quotas.
    Principal(u64),
}

impl Peer {
    /// The peer at an address.
    pub fn at(address: IpAddr) -> Self {
        Self(PeerKind::Network(network_of(address)))
    }
}

/// A connection, as far as others need to know it. One of a trusted proxy carries the requests of many
/// clients.
#[derive(Debug)]
pub struct Connection {
    /// Where the client is: at the other end, or behind the proxy that speaks for it.
    pub address: IpAddr,
    /// Whose share is used: the principal's, once that is known.
    pub peer: Peer,
    state: Arc<ConnectionState>,
}

/// What is the same for all requests of a connection.
#[derive(Debug)]
struct ConnectionState {
    opened: Instant,
    kill: CancellationToken,
    /// Whom the client's certificate names.
    certificate: OnceLock<ShownCertificate>,
    /// Who sent its last request, as the gate knows it.
    last_sender: LastSender,
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
    /// Cancelled once the client may have gone.
    going: CancellationToken,
    /// When bytes last went either way or a request ended, in milliseconds since it was opened.
    progress_ms: AtomicU64,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new(Ipv4Addr::UNSPECIFIED.into())
    }
}

impl ConnectionState {
    fn age_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn progressed(&self) {
        self.progress_ms.store(self.age_ms(), Relaxed);
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
        Self::ended_by(address, CancellationToken::new())
    }

    /// A connection from an address, which `kill` ends.
    pub fn ended_by(address: IpAddr, kill: CancellationToken) -> Self {
        let state = ConnectionState {
            opened: Instant::now(),
            kill,
            certificate: OnceLock::new(),
            last_sender: LastSender::default(),
            requests: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            watcher: AtomicWaker::new(),
            bodies: AtomicUsize::new(0),
            waits: AtomicUsize::new(0),
            is_unfinished: AtomicBool::new(false),
            is_listening: AtomicBool::new(false),
            is_stalled: AtomicBool::new(false),
            going: CancellationToken::new(),
            progress_ms: AtomicU64::new(0),
        };
        Self { address, peer: Peer::at(address), state: Arc::new(state) }
    }

    /// The same connection, for a request that its other end passes on for a client at another address.
    pub fn for_client(&self, address: IpAddr) -> Self {
        Self { address, peer: Peer::at(address), state: Arc::clone(&self.state) }
    }

    /// The same connection, for a request of a principal: it takes of that one's share, wherever it comes
    /// from.
    pub fn for_principal(&self, number: u64) -> Self {
        let peer = Peer(PeerKind::Principal(number));
        Self { address: self.address, peer, state: Arc::clone(&self.state) }
    }

    /// Ends it, whatever it is doing.
    pub fn kill(&self) -> &CancellationToken {
        &self.state.kill
    }

    /// Whom the certificate names that the client has shown. `None` without TLS, without a certificate, and
    /// with one that names nobody.
    pub fn certificate(&self) -> Option<&ShownCertificate> {
        self.state.certificate.get()
    }

    /// The handshake is complete, and the client's certificate names somebody.
    pub fn set_certificate(&self, shown: ShownCertificate) {
        // There is one handshake.
        drop(self.state.certificate.set(shown));
    }

    /// What it remembers of who sent its last request.
    pub(crate) fn last_sender(&self) -> &LastSender {
        &self.state.last_sender
    }

    /// Notes that bytes went either way.
    pub fn progressed(&self) {
        self.state.progressed();
    }

    /// Milliseconds since the last progress: bytes in either direction, or the end of a request.
    pub fn still_for_ms(&self) -> u64 {
        self.state.age_ms().saturating_sub(self.state.progress_ms.load(Relaxed))
    }

    /// Sets whether everything that arrived has been handled and another request is awaited.
    pub fn set_listening(&self, is_listening: bool) {
        self.state.is_listening.store(is_listening, Relaxed);
    }

    /// Sets whether a write waits for the client.
    pub fn set_stalled(&self, is_stalled: bool) {
        self.state.is_stalled.store(is_stalled, Relaxed);
    }

    /// The client has said that it sends nothing more, or has sent more than what it waits for.
    pub fn set_may_have_gone(&self) {
        self.state.going.cancel();
    }

    /// Returns once the client may have gone, or still wants its answer: which of both, the next writes tell.
    /// It is noticed over HTTP/1 while a request waits.
    pub async fn may_have_gone(&self) {
        self.state.going.cancelled().await;
    }

    /// Whether a request waits for an event or for S3.
    pub fn is_waiting(&self) -> bool {
        self.state.waits.load(Relaxed) > 0
    }

    /// Sets whether an answer is under way that ends where the connection ends (HTTP/1.0).
    pub fn set_unfinished(&self, is_unfinished: bool) {
        self.state.is_unfinished.store(is_unfinished, Relaxed);
    }

    /// Whether a request is under way.
    pub fn is_busy(&self) -> bool {
        self.state.requests.load(Relaxed) > 0
    }

    /// Ready while no request is under way.
    pub fn poll_idle(&self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_busy() {
            return Poll::Ready(()); // nothing to wait for: the next request would wake whoever serves it
        }
        self.state.watcher.register(context.waker()); // before the check, so that no end is missed
        if self.is_busy() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Whether closing the connection cleanly would make an unfinished answer look finished.
    pub fn must_not_end_cleanly(&self) -> bool {
        self.state.is_unfinished.load(Relaxed)
    }

    /// Why it may be ended to make room; `None` if it may not.
    pub fn idleness(&self) -> Option<Idleness> {
        if !self.is_busy() && self.state.is_listening.load(Relaxed) {
            return Some(Idleness::NoRequest);
        }
        if self.waits_for_client() && self.still_for_ms() >= 1000 {
            return Some(Idleness::Client);
        }
        (self.state.waits.load(Relaxed) > 0).then_some(Idleness::Events)
    }

    /// Whether something that it has sent is yet to be handled, so that it is not known whether it may be
    /// ended.
    pub fn is_undecided(&self) -> bool {
        !self.is_busy() && !self.state.is_listening.load(Relaxed) && self.idleness().is_none()
    }

    /// Whether it waits for its client, but not yet long enough to be ended for that.
    pub fn may_be_waiting(&self) -> bool {
        self.waits_for_client() && self.idleness().is_none()
    }

    fn waits_for_client(&self) -> bool {
        self.state.bodies.load(Relaxed) > 0 || self.state.is_stalled.load(Relaxed)
    }

    /// How many requests have begun.
    pub fn begun(&self) -> usize {
        self.state.begun.load(Relaxed)
    }

    /// A request begins; it is under way until the guard is dropped.
    pub fn request(&self) -> CountGuard {
        self.state.begun.fetch_add(1, Relaxed);
        CountGuard::new(self, InUse::Requests)
    }

    /// A body begins to arrive; it counts as arriving until the guard is dropped.
    pub fn body(&self) -> CountGuard {
        CountGuard::new(self, InUse::Bodies)
    }

    /// A request waits for an event or for S3 until the guard is dropped. Meanwhile its connection may be
    /// closed to make room for another.
    pub fn wait(&self) -> CountGuard {
        CountGuard::new(self, InUse::Waits)
    }
}

/// What a guard counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InUse {
    Requests,
    Bodies,
    Waits,
}

/// Counts something of a connection while it is held.
#[derive(Debug)]
pub struct CountGuard {
    state: Arc<ConnectionState>,
    counted: InUse,
}

impl CountGuard {
    fn new(connection: &Connection, counted: InUse) -> Self {
        let guard = Self { state: Arc::clone(&connection.state), counted };
        guard.count().fetch_add(1, Relaxed);
        guard
    }

    fn count(&self) -> &AtomicUsize {
        match self.counted {
            InUse::Requests => &self.state.requests,
            InUse::Bodies => &self.state.bodies,
            InUse::Waits => &self.state.waits,
        }
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        let others = self.count().fetch_sub(1, Relaxed) - 1;
        // The end of a body is bytes that came, and behind the end of a wait bytes go.
        if self.counted == InUse::Requests {
            self.state.progressed();
            if others == 0 {
                self.state.watcher.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    #[test]
    fn a_peer_is_an_address_or_a_network_of_64_bits() {
        let peer = |text: &str| Peer::at(text.parse().unwrap());
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:2"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct WokenCount(AtomicUsize);

    impl Wake for WokenCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn only_the_end_of_the_last_request_wakes_and_only_who_waits_for_it() {
        let woken = Arc::<WokenCount>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let connection = Connection::default();
        assert!(connection.poll_idle(&mut context).is_ready());
        drop((connection.body(), connection.request()));
        assert_eq!(woken.0.load(Relaxed), 0, "nobody waits");
        let (one, body, wait, other) =
            (connection.request(), connection.body(), connection.wait(), connection.request());
        assert!(connection.poll_idle(&mut context).is_pending());
        drop((one, body, wait));
        assert_eq!(woken.0.load(Relaxed), 0, "one is under way");
        drop(other);
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(connection.poll_idle(&mut context).is_ready());
    }

    #[test]
    fn what_a_proxy_passes_on_is_its_clients_and_keeps_its_connection_busy() {
        let connection = Connection::new([10, 0, 0, 1].into());
        connection.set_certificate(ShownCertificate { uri: "spiffe://corp/proxy".into(), ends_ms: 0 });
        let passed_on = connection.for_client([192, 0, 2, 7].into());
        assert_eq!(passed_on.peer, Peer::at([192, 0, 2, 7].into()));
        assert_eq!(connection.peer, Peer::at([10, 0, 0, 1].into()));
        assert_eq!(passed_on.certificate(), connection.certificate());
        let of_principal = [7, 8].map(|number| passed_on.for_principal(number));
        assert_eq!(of_principal[0].peer, connection.for_principal(7).peer);
        assert_ne!(of_principal[0].peer, of_principal[1].peer);
        assert_eq!(of_principal[0].address, passed_on.address);
        let request = passed_on.request();
        assert!(connection.is_busy());
        drop(request);
        assert!(!connection.is_busy());
        passed_on.kill().cancel();
        assert!(connection.kill().is_cancelled());
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
