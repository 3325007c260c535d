//! The settings of TLS.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::{BrokenRules, Section};

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for; a client may have none.
    Optional,
    /// A client without one is refused.
    Required,
}

/// TLS on the main port. The admin port is always plain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TlsSettings {
    /// A PEM file with the certificate of the main port, and behind it those that lead to its authority.
    /// Unset: no TLS. Read again while Zombi runs.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the private key of that certificate. Read again with it.
    pub key_file: Option<PathBuf>,
    /// A PEM file with the authorities whose client certificates are accepted. Read again with the others.
    pub client_ca_file: Option<PathBuf>,
    /// `none`: clients are asked for no certificate; `optional`: they may have none; `required`: without one
    /// they are refused.
    pub client_auth: ClientAuth,
}

impl Section for TlsSettings {
    const NAME: &'static str = "tls";

    fn check(&self, broken: &mut BrokenRules) {
        let asks = self.client_auth != ClientAuth::None;
        broken.unless(
            self.cert_file.is_some() == self.key_file.is_some(),
            "tls.cert_file and tls.key_file belong together: set both or neither",
        );
        broken.unless(
            !asks || self.client_ca_file.is_some(),
            "tls.client_auth asks for certificates: set tls.client_ca_file, whose authorities vouch for them",
        );
        broken.unless(
            !asks || self.cert_file.is_some(),
            "tls.client_auth asks for certificates, which takes TLS: set tls.cert_file and tls.key_file",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(settings: &TlsSettings) -> String {
        let mut broken = BrokenRules::default();
        settings.check(&mut broken);
        broken.into_lines().join("\n")
    }

    #[test]
    fn half_a_pair_is_refused_and_so_are_client_certificates_that_nobody_vouches_for() {
        let file = || Some(PathBuf::from("file.pem"));
        let none = TlsSettings::default();
        let pair = TlsSettings { cert_file: file(), key_file: file(), ..none.clone() };
        assert_eq!((broken(&none), broken(&pair)), (String::new(), String::new()));
        for half in [
            TlsSettings { cert_file: file(), ..none.clone() },
            TlsSettings { key_file: file(), ..none.clone() },
        ] {
            assert!(broken(&half).contains("tls.key_file"), "{half:?}");
        }
        for client_auth in [ClientAuth::Optional, ClientAuth::Required] {
            let without_ca = TlsSettings { client_auth, ..pair.clone() };
            assert!(broken(&without_ca).contains("tls.client_ca_file"), "{without_ca:?}");
            let plain = TlsSettings { client_auth, client_ca_file: file(), ..none.clone() };
            assert!(broken(&plain).contains("tls.cert_file"), "{plain:?}");
            assert_eq!(
                broken(&TlsSettings { client_auth, client_ca_file: file(), ..pair.clone() }),
                String::new()
            );
        }
    }
}
