//! Certificates that openssl makes for a test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;

/// What the server's certificate of every test is for: this machine.
pub const THIS_MACHINE: &str = "subjectAltName = IP:127.0.0.1, DNS:localhost";

/// What is said of an authority, and how it signs.
const CONFIG: &str = "
[req]
distinguished_name = name
prompt = no
[name]
CN = zombi tests
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[ca]
default_ca = signing
[signing]
database = signed.txt
rand_serial = yes
new_certs_dir = .
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
";
const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.conf";
/// Dates that include today.
const NOW: &str = "-days 2";
/// Dates that are over.
const OVER: &str = "-startdate 20200101000000Z -enddate 20200201000000Z";

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The file of the certificate, as PEM, for as long as its directory is there.
    pub cert: PathBuf,
    /// The file of the key, as PEM, likewise.
    pub key: PathBuf,
    /// The certificate as PEM.
    pub cert_pem: String,
    key_pem: String,
}

impl Certified {
    fn named(directory: &Path, name: &str) -> Self {
        let (cert, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let (cert_pem, key_pem) = (read(&cert), read(&key));
        Self { cert, key, cert_pem, key_pem }
    }

    /// The certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).unwrap()
    }

    /// Its key.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap()
    }
}

/// An authority that vouches for others.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    name: String,
    /// Its own certificate and key.
    pub own: Certified,
}

impl Authority {
    /// A new one. Its files are `{name}.pem` and `{name}.key` in the directory.
    pub fn new(directory: &Path, name: &str) -> Self {
        fs::write(directory.join("openssl.conf"), CONFIG).unwrap();
        fs::write(directory.join("signed.txt"), "").unwrap();
        let itself = format!(
            "req -x509 {NEW_KEY} -subj /CN={name} -extensions authority {NOW} \
             -keyout {name}.key -out {name}.pem"
        );
        openssl(directory, &itself);
        Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
            own: Certified::named(directory, name),
        }
    }

    /// A new key and a certificate for it, in `{name}.key` and `{name}.pem`. `says` is a line of openssl's
    /// extensions, or empty.
    pub fn sign(&self, name: &str, says: &str) -> Certified {
        self.sign_for(name, says, NOW)
    }

    /// The same, but it has expired.
    pub fn sign_expired(&self, name: &str, says: &str) -> Certified {
        self.sign_for(name, says, OVER)
    }

    fn sign_for(&self, name: &str, says: &str, dates: &str) -> Certified {
        let Self { directory, name: authority, .. } = self;
        let extensions = format!("[of_it]\nbasicConstraints = critical, CA:FALSE\n{says}\n");
        fs::write(directory.join(format!("{name}.conf")), extensions).unwrap();
        openssl(directory, &format!("req {NEW_KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let signing = format!(
            "ca -batch -notext -config openssl.conf -cert {authority}.pem -keyfile {authority}.key \
             -in {name}.csr -out {name}.pem -extfile {name}.conf -extensions of_it {dates}"
        );
        openssl(directory, &signing);
        Certified::named(directory, name)
    }
}

/// A server that is this machine, and its authority. Their files are gone.
#[derive(Debug)]
pub struct CertifiedServer {
    /// The authority's certificate.
    pub authority: Certified,
    /// The server's.
    pub server: Certified,
}

impl CertifiedServer {
    /// The one that the tests of a process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<CertifiedServer> = OnceLock::new();
        SHARED.get_or_init(Self::make)
    }

    /// Another one, of another authority that has the same name.
    pub fn make() -> Self {
        let directory = TempDir::new().unwrap();
        let authority = Authority::new(directory.path(), "authority");
        let server = authority.sign("server", THIS_MACHINE);
        Self { authority: authority.own, server }
    }
}

/// Runs openssl in a directory, with arguments that hold no spaces; what it prints.
pub fn openssl(directory: &Path, arguments: &str) -> Vec<u8> {
    let mut command = Command::new("openssl");
    let output = command.args(arguments.split_whitespace()).current_dir(directory).output();
    let output = output.expect("openssl is there: these tests need it");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
