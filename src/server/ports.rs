//! The two ports. Both are bound before RocksDB opens, so that a long recovery can be watched, and before the
//! bucket is opened: a process that cannot serve must not take the bucket from one that does.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    task::{self, JoinHandle},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{descriptors::Descriptors, error::ServerError};
use crate::{
    http::{self, state::OpsState},
    net::{self, CurrentRoutes, ServedPort, settings::NetSettings, tls::Tls},
    settings::Settings,
};
use contracts::{
    clock::{Clock, SystemClock},
    metrics,
};

/// How long open requests on the admin port get at the end.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// A port that is being served.
pub(super) struct Port {
    serving: JoinHandle<()>,
    /// Ends it: no more connections are accepted, and open requests are drained.
    pub(super) stop: CancellationToken,
}

impl Port {
    fn serve(listener: TcpListener, served: ServedPort, drain: Duration) -> Self {
        let stop = CancellationToken::new();
        let serving = task::spawn(net::serve(listener, served, stop.clone(), drain));
        Self { serving, stop }
    }

    /// Accepts no more, and waits until open requests have ended or were dropped.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        drop(self.serving.await);
    }
}

/// Both ports.
pub(super) struct Ports {
    /// Probes, metrics, flush, log level.
    pub(super) admin: Port,
    /// The API; until the store is open, all but probes and metrics is answered 503 `starting`.
    pub(super) main: Port,
    /// Where the main port is.
    pub(super) address: SocketAddr,
    /// The main port's routes, to be set once the store is open.
    pub(super) ready: Arc<OnceLock<Arc<http::Routes>>>,
    /// TLS on the main port. The admin port is plain: the kubelet asks it.
    pub(super) tls: Option<Arc<Tls>>,
}

impl Ports {
    /// Binds both, then serves both.
    ///
    /// # Errors
    /// [`ServerError::Tls`] if a file of TLS cannot be used, [`ServerError::Io`] if a port cannot be bound.
    pub(super) async fn open(
        settings: &Settings,
        descriptors: Descriptors,
        ops: &OpsState,
    ) -> Result<Self, ServerError> {
        let header_bytes = settings.net.header_bytes;
        let tls = Tls::load(&settings.tls)?.map(Arc::new);
        if tls.is_some() {
            metrics::auth_loaded("tls", SystemClock.now_ms());
        }
        let net = NetSettings { connections: descriptors.connections, ..settings.net };
        let process = &settings.process;
        let admin = bind(process.admin_host.unwrap_or(process.host), process.admin_port, "admin").await?;
        let main = bind(process.host, process.port, "main").await?;
        let address = main.local_addr().map_err(|source| ServerError::Io {
            what: "cannot look up the address of the main port".to_owned(),
            source,
        })?;
        let door =
            http::AdminDoor { header_bytes, asks_who: settings.auth.admin, has_tls_beside_it: tls.is_some() };
        let admin_routes = Arc::new(http::admin_routes(ops.clone(), door));
        let admin_net = NetSettings { connections: net.admin_connections, ..net };
        let admin_routes: CurrentRoutes = Arc::new(move || Arc::clone(&admin_routes));
        let served = ServedPort { routes: admin_routes, settings: admin_net, tls: None };
        let admin = Port::serve(admin, served, ADMIN_DRAIN);
        let ready: Arc<OnceLock<Arc<http::Routes>>> = Arc::default();
        let starting = Arc::new(http::starting_routes(ops.clone(), header_bytes, settings.http.clone()));
        let routes: CurrentRoutes = {
            let ready = Arc::clone(&ready);
            Arc::new(move || Arc::clone(ready.get().unwrap_or(&starting)))
        };
        let served = ServedPort { routes, settings: net, tls: tls.clone() };
        let main = Port::serve(main, served, settings.shutdown.drain_secs.duration());
        Ok(Self { admin, main, address, ready, tls })
    }
}

async fn bind(host: IpAddr, port: u16, name: &str) -> Result<TcpListener, ServerError> {
    let address = SocketAddr::new(host, port);
    let failed =
        |source| ServerError::Io { what: format!("cannot listen on {address}, the {name} port"), source };
    let listener = net::listen(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    info!(address = %bound, "listening on the {name} port");
    Ok(listener)
}
