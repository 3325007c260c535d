//! Certificates that openssl makes for a test.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::process::Command;

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

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Certified {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Certified {
    fn named(directory: &Path, name: &str) -> Self {
        Self { cert: directory.join(format!("{name}.pem")), key: directory.join(format!("{name}.key")) }
    }

    /// The certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert).unwrap()
    }

    /// Its key.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
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
    pub async fn new(directory: &Path, name: &str) -> Self {
        std::fs::write(directory.join("openssl.conf"), CONFIG).unwrap();
        std::fs::write(directory.join("signed.txt"), "").unwrap();
        let itself = format!(
            "req -x509 {NEW_KEY} -subj /CN={name} -extensions authority {NOW} \
             -keyout {name}.key -out {name}.pem"
        );
        openssl(directory, &itself).await;
        Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
            own: Certified::named(directory, name),
        }
    }

    /// A new key and a certificate for it, in `{name}.key` and `{name}.pem`. `says` is a line of openssl's
    /// extensions, or empty.
    pub async fn sign(&self, name: &str, says: &str) -> Certified {
        self.sign_for(name, says, NOW).await
    }

    /// The same, but it has expired.
    pub async fn sign_expired(&self, name: &str, says: &str) -> Certified {
        self.sign_for(name, says, OVER).await
    }

    async fn sign_for(&self, name: &str, says: &str, dates: &str) -> Certified {
        let Self { directory, name: authority, .. } = self;
        let extensions = format!("[of_it]\nbasicConstraints = critical, CA:FALSE\n{says}\n");
        std::fs::write(directory.join(format!("{name}.conf")), extensions).unwrap();
        openssl(directory, &format!("req {NEW_KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"))
            .await;
        let signing = format!(
            "ca -batch -notext -config openssl.conf -cert {authority}.pem -keyfile {authority}.key \
             -in {name}.csr -out {name}.pem -extfile {name}.conf -extensions of_it {dates}"
        );
        openssl(directory, &signing).await;
        Certified::named(directory, name)
    }
}

/// Runs openssl in a directory.
async fn openssl(directory: &Path, arguments: &str) {
    let output =
        Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().await.unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
