//! Certificates that change while the server runs.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use reqwest::StatusCode;
use serde_json::json;
use zombi::net::tls::{
    Tls, TlsError,
    settings::{ClientAuth, TlsSettings},
};

use super::{Site, serve};
use testing::{certificates::THIS_MACHINE, server::eventually};

/// Requests that are sent at least while a certificate changes, and by how many clients at once.
const REQUESTS: usize = 1000;
const WORKERS: usize = 4;

/// A directory as the kubelet mounts a Secret: all its files change at once, by a link above them.
struct SecretMount {
    directory: PathBuf,
    version: u32,
}

impl SecretMount {
    fn new(above: &Path, cert: &Path, key: &Path) -> Self {
        let directory = above.join("mounted");
        std::fs::create_dir(&directory).unwrap();
        for file in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(file), directory.join(file)).unwrap();
        }
        let mut mount = Self { directory, version: 0 };
        mount.put(cert, key);
        mount
    }

    fn put(&mut self, cert: &Path, key: &Path) {
        self.version += 1;
        let version = format!("..{}", self.version);
        let files = self.directory.join(&version);
        std::fs::create_dir(&files).unwrap();
        std::fs::copy(cert, files.join("tls.crt")).unwrap();
        std::fs::copy(key, files.join("tls.key")).unwrap();
        let link = self.directory.join("..next");
        symlink(&version, &link).unwrap();
        std::fs::rename(link, self.directory.join("..data")).unwrap();
    }

    fn cert(&self) -> PathBuf {
        self.directory.join("tls.crt")
    }

    fn key(&self) -> PathBuf {
        self.directory.join("tls.key")
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_for_new_connections_and_no_request_fails() {
    let Some(site) = Site::new().await else { return };
    let mut mount = SecretMount::new(site.directory.path(), &site.server.cert, &site.server.key);
    let z = serve(&mount.cert(), &mount.key(), &[]).await;
    let next = site.authority.sign("next", THIS_MACHINE);
    let (client, address, stop) = (site.client(), z.address(), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let record = json!({"payload": worker});
                let mut kept = client.open(address, "h2").await.unwrap();
                let mut sent = 0;
                while sent < REQUESTS / WORKERS || !stop.load(Relaxed) {
                    let mut fresh = client.open(address, "http/1.1").await.unwrap();
                    for connection in [&mut kept, &mut fresh] {
                        let answer = connection.post("/tables/t", &record).await.unwrap();
                        assert_eq!(answer.status(), StatusCode::CREATED, "{:?}", answer.body());
                        sent += 1;
                    }
                }
                sent
            })
        })
        .collect();
    let shown = async || client.open(address, "h2").await.unwrap().certificate;
    assert_eq!(shown().await, site.server.certificate());
    mount.put(&next.cert, &next.key);
    eventually("the new certificate is shown", async || shown().await == next.certificate()).await;
    stop.store(true, Relaxed);
    let mut sent = 0;
    for worker in workers {
        sent += worker.await.unwrap();
    }
    assert!(sent >= REQUESTS, "{sent} requests");
}

#[tokio::test]
async fn what_cannot_be_used_leaves_the_certificate_before_it_and_is_reported() {
    let Some(site) = Site::new().await else { return };
    let next = site.authority.sign("next", THIS_MACHINE);
    let mut mount = SecretMount::new(site.directory.path(), &site.server.cert, &site.server.key);
    let mut z = serve(&mount.cert(), &mount.key(), &[]).await;
    let empty = site.directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (cert, key) in [(&next.cert, &site.server.key), (&next.cert, &empty), (&empty, &next.key)] {
        mount.put(cert, key);
        let line = z.log_line("keeping those before").await;
        assert!(line.contains("tls.cert_file") || line.contains("tls.key_file"), "{line}");
        let mut connection = site.client().open(z.address(), "h2").await.unwrap();
        assert_eq!(connection.certificate, site.server.certificate());
        assert_eq!(connection.get("/livez").await.unwrap().status(), StatusCode::OK);
    }
    let metrics = z.admin_metrics().await;
    assert!(metrics.contains("\nzombi_auth_reload_failures_total 3\n"), "{metrics}");
    assert!(metrics.contains("\nzombi_auth_loaded_timestamp_seconds{what=\"tls\"} "), "{metrics}");
    mount.put(&next.cert, &next.key);
    z.log_line("certificate reloaded").await;
    let connection = site.client().open(z.address(), "h2").await.unwrap();
    assert_eq!(connection.certificate, next.certificate());
}

#[tokio::test]
async fn what_is_read_again_is_tried_and_reported_once() {
    let Some(site) = Site::new().await else { return };
    let next = site.authority.sign("next", THIS_MACHINE);
    let mut mount = SecretMount::new(site.directory.path(), &site.server.cert, &site.server.key);
    let settings = TlsSettings {
        cert_file: Some(mount.cert()),
        key_file: Some(mount.key()),
        ..site.asking(ClientAuth::Required)
    };
    let tls = Tls::load(&settings).unwrap().unwrap();
    assert!(!tls.reload().unwrap());
    mount.put(&site.server.cert, &site.server.key);
    assert!(!tls.reload().unwrap(), "they were exchanged for the same ones");
    mount.put(&next.cert, &site.server.key);
    assert!(matches!(tls.reload(), Err(TlsError::Strangers)));
    assert!(!tls.reload().unwrap());
    std::fs::remove_file(mount.key()).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::File { setting: "tls.key_file", .. })));
    assert!(!tls.reload().unwrap());
    symlink("..data/tls.key", mount.key()).unwrap();
    mount.put(&next.cert, &next.key);
    assert!(tls.reload().unwrap());
    assert!(!tls.reload().unwrap());
    std::fs::write(&site.authority.own.cert, "").unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::File { setting: "tls.client_ca_file", .. })));
    assert!(Tls::load(&TlsSettings::default()).unwrap().is_none());
}
