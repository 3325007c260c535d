//! Serves routes on a listener, with TLS or without, within limits that hold against slow, silent and greedy
//! clients.
//!
//! `axum::serve` waits for a request's head without end, and cannot give up an open stream; this loop bounds
//! the first and can do the second. At the limit of connections, the one that has been idle the longest makes
//! room for the next.

mod guard;
mod open;
pub mod settings;
mod stream;
pub mod tls;
mod until_cancelled;
mod watched;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

pub use self::watched::CurrentRoutes;
use self::{
    guard::{ClientTimeouts, Guard},
    open::OpenConnections,
    settings::NetSettings,
    stream::ClientStream,
    tls::Tls,
    until_cancelled::UntilCancelled,
    watched::Watched,
};
use crate::http::{connection::Connection, last_piece::without_last_wakes};

/// Connections that the operating system holds until they are accepted.
const BACKLOG: i32 = 4096;
/// Headers that a request may have: proxies and browsers send many.
const MAX_HEADERS: usize = 512;

/// What is served on a listener.
#[derive(Clone)]
pub struct ServedPort {
    /// The routes.
    pub routes: CurrentRoutes,
    /// What clients may take, and how long.
    pub settings: NetSettings,
    /// TLS, if only that is spoken.
    pub tls: Option<Arc<Tls>>,
}

/// Binds a listener. `::` also accepts IPv4, and means `0.0.0.0` where there is no IPv6.
///
/// # Errors
/// What the operating system said.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let is_any = address.ip().is_unspecified() && address.is_ipv6();
    match bind(address) {
        Err(error) if is_any && has_no_ipv6(&error) => {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
}

/// Accepts until `stop`, then lets open requests end within `drain`, then drops the rest.
pub async fn serve(listener: TcpListener, port: ServedPort, stop: CancellationToken, drain: Duration) {
    let open = OpenConnections::new(port.settings.connections);
    let connections = TaskTracker::new();
    let give_up = CancellationToken::new();
    loop {
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let connection = Arc::new(Connection::ended_by(address.ip(), give_up.child_token()));
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = open.enter(&connection) => slot,
        };
        let (port, stop) = (port.clone(), stop.clone());
        connections.spawn(without_last_wakes(async move {
            let kill = connection.kill().clone();
            tokio::select! {
                biased;
                () = UntilCancelled::new(&kill) => {}
                () = serve_one(stream, connection, port, stop) => {}
            }
            drop(slot);
        }));
    }
    drop(listener);
    connections.close();
    if timeout(drain, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "some requests did not end in time, dropping them");
        give_up.cancel();
        connections.wait().await;
    }
}

/// Accepts the next connection. Failures pass, such as a lack of file descriptors, so accepting is retried.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections, will retry");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn serve_one(
    stream: TcpStream,
    connection: Arc<Connection>,
    port: ServedPort,
    stop: CancellationToken,
) {
    let ServedPort { routes, settings, tls } = port;
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    let timeouts = ClientTimeouts {
        head: settings.header_timeout_secs.duration(),
        idle: settings.idle_secs.duration(),
        stall: settings.write_stall_secs.duration(),
    };
    let tls = if contracts::mutant("tls_only") && Box::pin(is_plain(&stream)).await { None } else { tls };
    let stream = match tls {
        None => ClientStream::Plain(stream),
        Some(tls) => {
            // Boxed: a handshake takes room that the connection does not need before or after.
            let handshake = Box::pin(tls.accept(stream, &connection, timeouts.head));
            let accepted = tokio::select! {
                () = stop.cancelled(), if !contracts::mutant("handshake_stops") => None,
                accepted = handshake => accepted,
            };
            let Some(stream) = accepted else { return };
            ClientStream::Tls(Box::new(stream))
        }
    };
    let io = TokioIo::new(Guard::new(stream, Arc::clone(&connection), timeouts));
    let builder = protocols(&settings);
    let served = builder.serve_connection(io, Watched::new(routes, connection));
    tokio::pin!(served);
    let result: Result<(), _> = tokio::select! {
        biased;
        result = served.as_mut() => result,
        () = UntilCancelled::new(&stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}

/// Only with a check switched off: whether a client does not begin as TLS does.
async fn is_plain(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)) && first[0] != 0x16
}

/// HTTP/1.1 and HTTP/2, told apart by what a client sends first.
fn protocols(settings: &NetSettings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The router answers a head over the limit with a problem. hyper only cuts off what is far over it.
    let head_bytes = settings.header_bytes.saturating_mul(2);
    // Half-close: a client that has ended its side may still want its answer (RFC 9112 9.6). No timeout for
    // the head: the guard has one, which covers idle connections too.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(head_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(settings.header_timeout_secs.duration()))
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(Some(256));
    builder
}
