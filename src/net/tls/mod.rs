//! TLS on a listener. Certificate, key and the authorities of clients are read again while the server runs,
//! all of them or none: what cannot be used leaves what was there before.
//!
//! Does not decide when the files are looked at again.

pub mod certificate;
mod files;
pub mod settings;

use std::{future::poll_fn, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use self::{
    files::{TlsFiles, TlsPaths},
    settings::TlsSettings,
};
use crate::http::connection::Connection;

/// How often files are read at most until two readings agree.
const READINGS: usize = 4;

/// Why TLS cannot be served with the files that are there.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of them cannot be read, or does not hold what it should.
    #[error("{setting} is {path:?}: {why}")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it. Never has anything of a key.
        why: String,
    },
    /// Certificate and key are not each other's.
    #[error("tls.cert_file and tls.key_file: the key is not that of the first certificate")]
    Strangers,
    /// Certificate and key cannot be used together.
    #[error("tls.cert_file and tls.key_file: {0}")]
    Pair(#[source] rustls::Error),
}

/// What connections are accepted with now.
pub struct Tls {
    paths: TlsPaths,
    /// With the check of clients' certificates, so that all of it changes at once.
    current: ArcSwap<ServerConfig>,
    /// The hash of the files that were looked at last, whether they could be used or not.
    seen: Mutex<[u8; 32]>,
}

impl Tls {
    /// Reads the files that the settings name. `None` if they ask for no TLS.
    ///
    /// # Errors
    /// [`TlsError`] if one cannot be used; it names the setting.
    pub fn load(settings: &TlsSettings) -> Result<Option<Self>, TlsError> {
        let Some(paths) = TlsPaths::of(settings) else { return Ok(None) };
        let files = TlsFiles::read(&paths);
        let current = ArcSwap::from_pointee(files.config()?);
        Ok(Some(Self { seen: Mutex::new(files.hash()), paths, current }))
    }

    /// All that is wrong with the files that the settings name: [`load`](Self::load) tells the first of it.
    pub(crate) fn faults(settings: &TlsSettings) -> Vec<TlsError> {
        TlsPaths::of(settings).map(|paths| TlsFiles::read(&paths).faults()).unwrap_or_default()
    }

    /// Reads the files again, and uses what they hold for the connections from now on. Returns whether that
    /// is anything new. Blocks on the disk. Files that could not be used are neither tried nor reported again
    /// before one of them changes.
    ///
    /// # Errors
    /// [`TlsError`] if the files are new and cannot be used: those before them stay.
    pub fn reload(&self) -> Result<bool, TlsError> {
        if contracts::mutant("tls_reload") {
            return Ok(false);
        }
        let mut seen = self.seen.lock();
        let mut files = TlsFiles::read(&self.paths);
        if files.hash() == *seen {
            return Ok(false);
        }
        // They are being exchanged: a reading in between has one file of before and one of after.
        for _ in 1..READINGS {
            let again = TlsFiles::read(&self.paths);
            let is_settled = again.hash() == files.hash();
            files = again;
            if is_settled {
                break;
            }
        }
        let is_new = files.hash() != *seen;
        if is_new {
            *seen = files.hash();
            self.current.store(Arc::new(files.config()?));
        }
        Ok(is_new)
    }

    /// Completes a handshake, and notes on the connection whom the client's certificate names. `None` if it
    /// fails or is not complete `within` that time.
    ///
    /// While it waits it waits for the client: it makes room for others as a silent connection does.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        connection: &Connection,
        within: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        let within = if contracts::mutant("handshake_in_time") { Duration::from_secs(86_400) } else { within };
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let mut handshake = pin!(acceptor.accept(stream));
        let handshake = poll_fn(|context| {
            let polled = handshake.as_mut().poll(context);
            connection.set_listening(polled.is_pending() && !contracts::mutant("handshake_makes_room"));
            polled
        });
        let stream = match timeout(within, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                debug!(%error, "TLS handshake failed");
                return None;
            }
            Err(_) => {
                debug!("TLS handshake not complete in time");
                return None;
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        if let Some(shown) = shown.and_then(|shown| certificate::named_by(shown)) {
            connection.set_certificate(shown);
        }
        Some(stream)
    }
}
