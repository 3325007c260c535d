//! Requests from pod to pod: HTTP/1.1 over connections that are kept, with TLS where the main port has it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    body::Body,
    http::{
        Request, Response, Uri, Version,
        uri::{self, PathAndQuery},
    },
};
use bytes::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use super::{
    settings::ClusterSettings,
    trunk::{Opener, TrunkError, Trunks},
};
use crate::{
    net::tls::settings::{ClientAuth, TlsSettings},
    pem,
};

/// How long a pod may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection without a request is kept: less than the other pod keeps it.
const IDLE: Duration = Duration::from_secs(20);
/// Connections without a request that are kept for each pod.
const IDLE_CONNECTIONS: usize = 128;
/// How often the system asks whether the other end of a connection is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Connections to other pods, with the certificates that were in force when they began.
type PodConnections = Client<HttpsConnector<HttpConnector>, Body>;

/// Sends requests to other pods.
pub(crate) struct PodClient {
    cluster: ClusterSettings,
    tls: TlsSettings,
    current: ArcSwap<PodConnections>,
    trunks: Arc<Trunks>,
    /// How often the certificates were read again.
    generation: AtomicU64,
    scheme: uri::Scheme,
}

/// Why a pod did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct SendError {
    why: String,
    /// Whether there was no connection, so that it cannot have had the request.
    pub(crate) is_unsent: bool,
}

impl SendError {
    /// The pod cannot have had the request.
    pub(crate) fn unsent(why: &str) -> Self {
        Self { why: why.to_owned(), is_unsent: true }
    }

    /// The pod may have had it.
    pub(crate) fn lost(why: &str) -> Self {
        Self { why: why.to_owned(), is_unsent: false }
    }
}

impl PodClient {
    /// Of the settings. Reads the certificates that they name.
    ///
    /// # Errors
    /// Why a file cannot be used.
    pub(crate) fn new(cluster: &ClusterSettings, tls: &TlsSettings) -> Result<Self, String> {
        let current = ArcSwap::from_pointee(connections(cluster, tls)?);
        let scheme = if tls.cert_file.is_some() { uri::Scheme::HTTPS } else { uri::Scheme::HTTP };
        let (trunks, generation) = (Arc::default(), AtomicU64::default());
        Ok(Self { cluster: cluster.clone(), tls: tls.clone(), current, trunks, generation, scheme })
    }

    /// Reads the certificates again, for the connections that begin from now on: those of before end when
    /// their answers have, and none of them is used again.
    ///
    /// # Errors
    /// Why a file cannot be used; what was loaded before stays in force.
    pub(crate) fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(connections(&self.cluster, &self.tls)?));
        self.generation.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Sends a small request, which is soon answered, over the trunk to the pod at an address. `begin` makes the
    /// head of the request that begins a trunk.
    ///
    /// # Errors
    /// [`TrunkError`].
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        address: &str,
        request: Request<Bytes>,
        begin: impl FnOnce() -> Request<()>,
    ) -> Result<Response<Bytes>, TrunkError> {
        let opener = || -> Opener {
            let (client, address, head) = (Arc::clone(self), address.to_owned(), begin());
            Box::new(move |requests| {
                Box::pin(async move { client.send(&address, head.map(|()| requests)).await })
            })
        };
        self.trunks.exchange((address, self.generation.load(Relaxed)), request, opener).await
    }

    /// Sends a request, whose URI is a path and a query, to the pod at an address; returns the answer's head,
    /// and its body as it comes. Dropping either closes the connection, and the other pod notices.
    ///
    /// # Errors
    /// [`SendError`].
    pub(crate) async fn send(
        &self,
        address: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(address).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|error| SendError::unsent(&error.to_string()))?;
        *request.version_mut() = Version::HTTP_11;
        let client = (**self.current.load()).clone();
        let answer = client.request(request).await.map_err(|error| {
            let mut why = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                why = format!("{why}: {error}");
                cause = error.source();
            }
            SendError { why, is_unsent: error.is_connect() }
        })?;
        Ok(answer.map(Body::new))
    }
}

/// No connection yet, with the certificates that are in the files now.
fn connections(cluster: &ClusterSettings, tls: &TlsSettings) -> Result<PodConnections, String> {
    let is_secure = tls.cert_file.is_some();
    let roots = if is_secure { roots(cluster.ca_file.as_deref())? } else { RootCertStore::empty() };
    // The provider is named, so that it does not matter which the process has installed.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match own_certificate(tls)? {
        None => config.with_no_client_auth(),
        Some((chain, key)) => config
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("tls.cert_file cannot be shown to other pods: {error}"))?,
    };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_keepalive(Some(KEEP_ALIVE));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build(connector))
}

/// The certificates that those of other pods must come from.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("the system has no certificates to trust: set cluster.ca_file".to_owned());
        }
        return Ok(roots);
    };
    let named = |why: String| format!("cluster.ca_file {}: {why}", path.display());
    for certificate in certificates(path).map_err(named)? {
        roots.add(certificate).map_err(|error| named(error.to_string()))?;
    }
    Ok(roots)
}

/// The certificate that this pod shows to the others, where they ask for one.
fn own_certificate(
    tls: &TlsSettings,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, String> {
    let (ClientAuth::Required, Some(chain), Some(key)) = (tls.client_auth, &tls.cert_file, &tls.key_file)
    else {
        return Ok(None);
    };
    let named = |path: &Path, why: String| format!("{}: {why}", path.display());
    let chain_of = certificates(chain).map_err(|why| named(chain, why))?;
    let key_of = pem::read(key).and_then(|bytes| Ok(pem::private_key(&bytes)?));
    Ok(Some((chain_of, key_of.map_err(|why| named(key, why))?)))
}

/// The certificates in a file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    Ok(pem::certificates(&pem::read(path)?)?)
}
