//! Whom a client's certificate names.

use std::sync::Arc;

use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// The most that such a name may have, in bytes: what SPIFFE allows.
const MOST_BYTES: usize = 2048;

/// The URI that a certificate, as DER, has as its subject's other name. Exactly one, or it names nobody: the
/// common name does not count, and neither does a certificate of which anything cannot be read.
pub fn named_by(certificate: &[u8]) -> Option<Arc<str>> {
    let (rest, certificate) = parse_x509_certificate(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let names = certificate.subject_alternative_name().ok()??;
    let mut found = None;
    for name in &names.value.general_names {
        match name {
            GeneralName::Invalid(..) => return None,
            GeneralName::URI(_) if found.is_some() => return None,
            GeneralName::URI(uri) => found = Some(*uri),
            _ => {}
        }
    }
    // It is a name in policies and in the log: no white space, nothing that looks like something else.
    let is_plain = |uri: &&str| uri.len() <= MOST_BYTES && uri.bytes().all(|byte| byte.is_ascii_graphic());
    found.filter(|uri| !uri.is_empty()).filter(is_plain).map(Arc::from)
}
