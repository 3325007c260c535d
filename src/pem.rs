//! Certificates and keys in files, as PEM.
//!
//! What the parser says of a file may quote it, and a key that is in the wrong one must not get into a log:
//! mistakes are told in words of our own.

use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::first_bytes::first_bytes;

/// The most that one file may have, in bytes: a bundle of every public authority has less.
const MOST_BYTES: usize = 1 << 20;

/// Reads a file, whatever links lead to it. Blocks on the disk.
///
/// # Errors
/// Why it cannot be read; its path is not said.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = first_bytes(path, MOST_BYTES + 1).map_err(|error| error.to_string())?;
    if bytes.len() > MOST_BYTES {
        return Err(format!("it has more than {MOST_BYTES} bytes"));
    }
    Ok(bytes)
}

/// The certificates of a file with these bytes; at least one.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in it, as PEM"),
        Ok(found) => Ok(found),
        Err(_) => Err("what is in it is not PEM throughout"),
    }
}

/// The private key of a file with these bytes.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    PrivateKeyDer::from_pem_slice(bytes)
        .map_err(|_| "there is no private key in it, as PEM and without a passphrase")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section that says that it is this, of bytes that nobody looks at here.
    fn section(of: &str) -> String {
        format!("-----BEGIN {of}-----\nAAAA\n-----END {of}-----\n")
    }

    #[test]
    fn what_is_asked_for_is_found_among_other_sections() {
        let both = section("CERTIFICATE") + &section("PRIVATE KEY") + &section("CERTIFICATE");
        assert_eq!(certificates(both.as_bytes()).unwrap().len(), 2);
        assert!(private_key(both.as_bytes()).is_ok());
    }

    #[test]
    fn a_file_without_it_is_refused() {
        let (certificate, key) = (section("CERTIFICATE"), section("PRIVATE KEY"));
        // The line breaks of the last were lost on the way.
        for other in ["", "no PEM", "-----BEGIN PRIVATE KEY-----SECRET"] {
            assert!(certificates(other.as_bytes()).is_err() && private_key(other.as_bytes()).is_err());
        }
        assert!(certificates(key.as_bytes()).unwrap_err().contains("no certificate"));
        assert!(private_key(certificate.as_bytes()).unwrap_err().contains("no private key"));
        let broken = certificate + "-----BEGIN CERTIFICATE-----\nSECRET";
        assert!(certificates(broken.as_bytes()).unwrap_err().contains("not PEM throughout"));
    }

    #[test]
    fn a_file_is_not_read_further_than_it_may_be_long() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.pem");
        assert!(!read(&path).unwrap_err().is_empty(), "it is not there");
        std::fs::write(&path, vec![b'a'; MOST_BYTES]).unwrap();
        assert_eq!(read(&path).unwrap().len(), MOST_BYTES);
        std::fs::write(&path, vec![b'a'; MOST_BYTES + 1]).unwrap();
        assert!(read(&path).unwrap_err().contains("more than 1048576 bytes"));
    }
}
