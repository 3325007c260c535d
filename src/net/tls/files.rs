//! The files of TLS: where they are, what they hold at one time, and the configuration that comes of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use sha2::{Digest, Sha256};

use super::{
    TlsError,
    settings::{ClientAuth, TlsSettings},
};
use crate::pem;

/// What is spoken over TLS, the preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the files are.
#[derive(Debug)]
pub(super) struct TlsPaths {
    cert: PathBuf,
    key: PathBuf,
    /// The authorities of clients, if certificates are asked for.
    client_ca: Option<PathBuf>,
    /// Whether a client may have no certificate.
    lets_in_without: bool,
}

impl TlsPaths {
    /// The files that the settings name; `None` without TLS.
    pub(super) fn of(settings: &TlsSettings) -> Option<Self> {
        let asks = settings.client_auth != ClientAuth::None;
        Some(Self {
            cert: settings.cert_file.clone()?,
            key: settings.key_file.clone()?,
            // Settings that ask and name no file were refused. If they get here all the same, the empty path
            // cannot be read, and nobody is let in without a certificate.
            client_ca: asks.then(|| settings.client_ca_file.clone().unwrap_or_default()),
            lets_in_without: settings.client_auth == ClientAuth::Optional,
        })
    }
}

/// What the files held when they were read.
pub(super) struct TlsFiles {
    cert: TlsFile,
    key: TlsFile,
    client_ca: Option<TlsFile>,
    lets_in_without: bool,
}

/// One file, and what it held or why it could not be read.
struct TlsFile {
    setting: &'static str,
    path: PathBuf,
    contents: Result<Vec<u8>, String>,
}

impl TlsFiles {
    /// Reads all of them. What cannot be read is kept as that: [`Self::config`] says so.
    pub(super) fn read(paths: &TlsPaths) -> Self {
        Self {
            cert: TlsFile::read("tls.cert_file", &paths.cert),
            key: TlsFile::read("tls.key_file", &paths.key),
            client_ca: paths.client_ca.as_ref().map(|path| TlsFile::read("tls.client_ca_file", path)),
            lets_in_without: paths.lets_in_without,
        }
    }

    /// A hash of all that was read, of what could not be read too.
    pub(super) fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for file in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            let (kind, bytes) = match &file.contents {
                Ok(contents) => (b'+', contents.as_slice()),
                Err(why) => (b'-', why.as_bytes()),
            };
            // With its length, so that bytes that move from one file to the next change it.
            hasher.update([kind]);
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        }
        hasher.finalize().into()
    }

    /// What connections are accepted with.
    ///
    /// # Errors
    /// [`TlsError`] for the first file that cannot be used.
    pub(super) fn config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (chain, key) = (self.cert.certificates()?, self.key.private_key()?);
        let verifier = self.verifier(&provider)?;
        let asks = verifier.is_some();
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Pair)?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = if contracts::mutant("tls_pair") {
            let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).map_err(TlsError::Pair)?;
            let pair = SingleCertAndKey::from(CertifiedKey::new(chain, key));
            builder.with_cert_resolver(Arc::new(pair))
        } else {
            builder.with_single_cert(chain, key).map_err(|error| match error {
                Error::InconsistentKeys(_) => TlsError::Strangers,
                error => TlsError::Pair(error),
            })?
        };
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        if asks {
            // A resumed session would skip the check of the client's certificate, which may have expired.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }

    /// All that is wrong with them. Whether they fit together is seen once each can be used.
    pub(super) fn faults(&self) -> Vec<TlsError> {
        let verifier = self.verifier(&Arc::new(aws_lc_rs::default_provider()));
        let of_each = [self.cert.certificates().err(), self.key.private_key().err(), verifier.err()];
        let faults: Vec<TlsError> = of_each.into_iter().flatten().collect();
        if faults.is_empty() { self.config().err().into_iter().collect() } else { faults }
    }

    /// What checks the certificates of clients, if they are asked for one.
    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let Some(file) = &self.client_ca else { return Ok(None) };
        let mut authorities = RootCertStore::empty();
        for authority in file.certificates()? {
            authorities.add(authority).map_err(|error| file.refused(error.to_string()))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider));
        let lets_in_without = self.lets_in_without || contracts::mutant("tls_client_required");
        let builder = if lets_in_without { builder.allow_unauthenticated() } else { builder };
        let verifier = builder.build().map_err(|error| file.refused(error.to_string()))?;
        if contracts::mutant("tls_client_expired") || contracts::mutant("tls_client_authority") {
            return Ok(Some(Arc::new(LenientVerifier(verifier))));
        }
        Ok(Some(verifier))
    }
}

/// Only with a check switched off: lets in whom the other does not.
#[derive(Debug)]
struct LenientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for LenientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let why = match self.0.verify_client_cert(end_entity, intermediates, now) {
            Err(Error::InvalidCertificate(why)) => why,
            verified => return verified,
        };
        let is_expired = matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. });
        let switch = if is_expired { "tls_client_expired" } else { "tls_client_authority" };
        if contracts::mutant(switch) {
            return Ok(ClientCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(why))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl TlsFile {
    fn read(setting: &'static str, path: &Path) -> Self {
        Self { setting, path: path.to_owned(), contents: pem::read(path) }
    }

    fn bytes(&self) -> Result<&[u8], TlsError> {
        self.contents.as_deref().map_err(|why| self.refused(why.clone()))
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        pem::certificates(self.bytes()?).map_err(|why| self.refused(why))
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        pem::private_key(self.bytes()?).map_err(|why| self.refused(why))
    }

    fn refused(&self, why: impl Into<String>) -> TlsError {
        TlsError::File { setting: self.setting, path: self.path.clone(), why: why.into() }
    }
}
