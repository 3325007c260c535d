//! Fetches an issuer's JWKS: one GET over TLS, without redirects, proxies or anything kept between two.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::http::{HeaderValue, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{fs::File, io::AsyncReadExt, task, time::timeout};

use super::keys::{BadKeySet, MAX_SET_BYTES};
use crate::auth::settings::{OidcSettings, parse_jwks_url};
use contracts::error::with_causes;

/// How long a fetch may take, from reading its files to the last byte.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that the file of certificates may have: Kubernetes keeps no more in one object.
const MAX_CA_BYTES: usize = 1 << 20;
/// Bytes that the file of the token may have.
const MAX_TOKEN_FILE_BYTES: usize = 16 << 10;

/// Fetches a JWKS.
#[async_trait]
pub(super) trait FetchKeys: Send + Sync {
    /// The bytes of the JWKS, at most [`MAX_SET_BYTES`]; ends within [`FETCH_TIMEOUT`].
    ///
    /// # Errors
    /// What went wrong, for the log: it never holds the token.
    async fn fetch(&self) -> Result<Vec<u8>, String>;

    /// Only with a check switched off: what is behind another URL.
    async fn follow(&self, url: &str) -> Result<Vec<u8>, String> {
        Err(url.to_owned())
    }
}

/// The JWKS behind a URL.
pub(super) struct HttpsKeys {
    url: Uri,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl HttpsKeys {
    /// Of `auth.oidc.jwks_url`, with the files beside it.
    ///
    /// # Errors
    /// [`BadKeySet`] if the URL is none that keys may be fetched from.
    pub(super) fn new(url: &str, settings: &OidcSettings) -> Result<Self, BadKeySet> {
        let url = parse_jwks_url(url).map_err(BadKeySet::new)?;
        let (ca_file, token_file) = (settings.ca_file.clone(), settings.token_file.clone());
        Ok(Self { url, ca_file, token_file })
    }

    /// All that is wrong with the files beside the URL; nothing is fetched.
    pub(super) async fn faults(&self) -> Vec<String> {
        let of_token = self.authorization().await.err();
        of_token.into_iter().chain(self.roots().await.err()).collect()
    }

    async fn get(&self) -> Result<Vec<u8>, String> {
        let mut request = Request::get(self.url.clone());
        if let Some(authorization) = self.authorization().await? {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| with_causes(&error))?;
        // The provider is named, so that it does not matter which the process has installed. The client is
        // made for this one request, as the certificates may have changed since the last.
        let roots = self.roots().await?;
        let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| with_causes(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        if contracts::mutant("jwks_ca") {
            tls.dangerous().set_certificate_verifier(Arc::new(AnyServer));
        }
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let client: Client<_, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let response = client.request(request).await.map_err(|error| with_causes(&error))?;
        let location = response.headers().get(header::LOCATION).cloned();
        let response = match location.filter(|_| contracts::mutant("jwks_redirect")) {
            None => response,
            Some(location) => {
                let mut again = Request::get(location.to_str().unwrap_or_default());
                if let Some(authorization) = self.authorization().await? {
                    again = again.header(header::AUTHORIZATION, authorization);
                }
                let again = again.body(Empty::<Bytes>::new()).map_err(|error| with_causes(&error))?;
                client.request(again).await.map_err(|error| with_causes(&error))?
            }
        };
        // A redirect is an answer like any other that is not 200.
        if response.status() != StatusCode::OK && !contracts::mutant("jwks_status") {
            return Err(format!("the answer has the status {}, and must have 200", response.status()));
        }
        let most = if contracts::mutant("jwks_size") { 16 << 20 } else { MAX_SET_BYTES };
        let body = Limited::new(response.into_body(), most).collect().await;
        let body = body.map_err(|error| format!("reading the answer: {}", with_causes(error.as_ref())))?;
        Ok(body.to_bytes().to_vec())
    }

    /// The header with the token, if there is a file with one.
    async fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let bytes = read(path, MAX_TOKEN_FILE_BYTES).await?;
        let bytes = if contracts::mutant("jwks_token_once") {
            static FIRST: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            FIRST.get_or_init(|| bytes.clone()).clone()
        } else {
            bytes
        };
        let token = bytes.trim_ascii();
        match HeaderValue::from_bytes(&[&b"Bearer "[..], token].concat()) {
            Ok(mut value) if !token.is_empty() => {
                value.set_sensitive(true);
                Ok(Some(value))
            }
            _ => Err(format!("{}: it does not hold a token", path.display())),
        }
    }

    /// The certificates that the server's must come from.
    async fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.ca_file else {
            let found = task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            roots.add_parsable_certificates(found.map_err(|error| error.to_string())?.certs);
            if roots.is_empty() {
                return Err("the system has no certificates to trust: set auth.oidc.ca_file".to_owned());
            }
            return Ok(roots);
        };
        let pem = read(path, MAX_CA_BYTES).await?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let added = certificate
                .map_err(|error| with_causes(&error))
                .and_then(|certificate| roots.add(certificate).map_err(|error| with_causes(&error)));
            added.map_err(|why| format!("{}: {why}", path.display()))?;
        }
        if roots.is_empty() {
            return Err(format!("{}: it holds no certificate", path.display()));
        }
        Ok(roots)
    }
}

#[async_trait]
impl FetchKeys for HttpsKeys {
    async fn follow(&self, url: &str) -> Result<Vec<u8>, String> {
        let url = parse_jwks_url(url).map_err(str::to_owned)?;
        let (ca_file, token_file) = (self.ca_file.clone(), self.token_file.clone());
        Self { url, ca_file, token_file }.fetch().await
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        if contracts::mutant("jwks_timeout") {
            return self.get().await;
        }
        let fetched = timeout(FETCH_TIMEOUT, self.get()).await;
        fetched.unwrap_or_else(|_| Err(format!("it took longer than {} s", FETCH_TIMEOUT.as_secs())))
    }
}

/// Only with a check switched off: takes every server for the right one.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Reads a file, but not more of it than it may have.
async fn read(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let reading = async {
        let file = File::open(path).await?;
        file.take(most as u64 + 1).read_to_end(&mut bytes).await
    };
    reading.await.map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes.len() > most {
        return Err(format!("{}: it has more than {most} bytes", path.display()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(dir: &std::path::Path) -> HttpsKeys {
        HttpsKeys {
            url: Uri::from_static("https://127.0.0.1:1/keys"),
            ca_file: Some(dir.join("ca.crt")),
            token_file: Some(dir.join("token")),
        }
    }

    #[tokio::test]
    async fn the_token_is_read_anew_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(dir.path());
        assert!(keys.authorization().await.unwrap_err().contains("token: "));
        for token in ["one", "two"] {
            std::fs::write(dir.path().join("token"), format!("{token}\n")).unwrap();
            let value = keys.authorization().await.unwrap().unwrap();
            assert_eq!(value.as_bytes(), format!("Bearer {token}").as_bytes());
            assert!(!format!("{value:?}").contains(token));
        }
        for text in ["", "\n", "sec\nret"] {
            std::fs::write(dir.path().join("token"), text).unwrap();
            let error = keys.authorization().await.unwrap_err();
            assert!(error.contains("does not hold a token") && !error.contains("ret"), "{error}");
        }
        std::fs::write(dir.path().join("token"), "a".repeat(MAX_TOKEN_FILE_BYTES + 1)).unwrap();
        assert!(keys.authorization().await.unwrap_err().contains("more than 16384 bytes"));
    }

    #[tokio::test]
    async fn a_file_of_certificates_must_hold_one() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(dir.path());
        assert!(keys.roots().await.unwrap_err().contains("ca.crt: "));
        let faults = keys.faults().await;
        assert!(faults.len() == 2 && faults[0].contains("token: "), "{faults:?}");
        std::fs::write(dir.path().join("ca.crt"), "no certificate").unwrap();
        assert!(keys.roots().await.unwrap_err().contains("holds no certificate"));
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(dir.path().join("ca.crt"), pem).unwrap();
        assert!(keys.roots().await.unwrap_err().contains("ca.crt: "));
    }
}
