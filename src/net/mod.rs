//! Serves a router on a listener, with limits that hold against slow, silent and greedy clients.
//!
//! `axum::serve` waits for a request's head without end and cannot give up an open stream; this loop can do both.

mod guard;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::guard::Guard;
use crate::{api::limits::Limits, metrics};

/// What connections may take.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Open connections; more wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// The time in which a request's head must be there, and a connection may wait for its next request.
    pub header_timeout: Duration,
    /// How long a client may take nothing of its answer.
    pub write_stall: Duration,
}

impl From<&Limits> for NetOptions {
    fn from(limits: &Limits) -> Self {
        Self {
            connections: limits.connections,
            header_bytes: limits.header_bytes,
            header_timeout: Duration::from_secs(limits.header_timeout_secs),
            write_stall: Duration::from_secs(limits.write_stall_secs),
        }
    }
}

/// Connections that the operating system holds until they are accepted.
const BACKLOG: u32 = 4096;

/// Binds a listener.
///
/// # Errors
/// What the operating system said.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until `stop`; then lets open requests end for at most `drain`, and drops the rest.
pub async fn serve(listener: TcpListener, router: Router, options: NetOptions, stop: CancellationToken, drain: Duration) {
    let slots = Arc::new(Semaphore::new(options.connections));
    let connections = TaskTracker::new();
    let give_up = CancellationToken::new();
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            stream = accept(&listener) => stream,
        };
        let (router, options, stop, give_up) = (router.clone(), options.clone(), stop.clone(), give_up.clone());
        let open = OpenConnection::new(slot);
        connections.spawn(async move {
            tokio::select! {
                () = give_up.cancelled() => {}
                () = connection(stream, router, &options, stop) => {}
            }
            drop(open);
        });
    }
    drop(listener);
    connections.close();
    if timeout(drain, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "some requests did not end in time, dropping them");
        give_up.cancel();
        connections.wait().await;
    }
}

/// Counts a connection while it is open.
struct OpenConnection {
    _slot: Result<OwnedSemaphorePermit, AcquireError>,
}

impl OpenConnection {
    fn new(slot: Result<OwnedSemaphorePermit, AcquireError>) -> Self {
        metrics::connection_opened();
        Self { _slot: slot }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        metrics::connection_closed();
    }
}

/// The next connection. A failure to accept, out of file descriptors say, passes.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections, will retry");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused)
}

async fn connection(stream: TcpStream, router: Router, options: &NetOptions, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    let io = TokioIo::new(Guard::new(stream, options.header_timeout, options.write_stall));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The router refuses a head over the limit with a problem; what is far over it never gets there.
    let head_bytes = options.header_bytes.saturating_mul(2);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.header_timeout).max_buf_size(head_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(options.header_timeout))
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(Some(256));
    let service = TowerToHyperService::new(router);
    let served = builder.serve_connection(io, service);
    tokio::pin!(served);
    let result: Result<(), _> = tokio::select! {
        result = served.as_mut() => result,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}
