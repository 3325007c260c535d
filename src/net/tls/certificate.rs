//! Whom a client's certificate names.

use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use crate::auth::principal::ShownCertificate;

/// The most that such a name may have, in bytes: what SPIFFE allows.
const MOST_BYTES: usize = 2048;

/// The URI that a certificate, as DER, has as its subject's other name, and when the certificate ends.
/// Exactly one, or it names nobody: the common name does not count, and neither does a certificate of which
/// anything cannot be read.
pub fn named_by(certificate: &[u8]) -> Option<ShownCertificate> {
    let (rest, certificate) = parse_x509_certificate(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let names = certificate.subject_alternative_name().ok()??;
    let mut found = None;
    for name in &names.value.general_names {
        match name {
            GeneralName::Invalid(..) => return None,
            GeneralName::URI(_) if found.is_some() && !contracts::mutant("certificate_of_two") => return None,
            GeneralName::DNSName(name) if found.is_none() && contracts::mutant("certificate_of_none") => {
                found = Some(*name);
            }
            GeneralName::URI(uri) => found = Some(*uri),
            _ => {}
        }
    }
    // It is a name in policies and in the log: no white space, nothing that looks like something else.
    let is_plain = |uri: &&str| uri.len() <= MOST_BYTES && uri.bytes().all(|byte| byte.is_ascii_graphic());
    let uri = found.filter(|uri| !uri.is_empty()).filter(is_plain)?.into();
    // It is good to the end of that second.
    let ends_ms = certificate.validity().not_after.timestamp().saturating_add(1).saturating_mul(1000);
    Some(ShownCertificate { uri, ends_ms })
}
