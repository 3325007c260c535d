//! Starts with settings of TLS that cannot be used, and where the plain port is.

use std::{net::SocketAddr, path::Path};

use reqwest::StatusCode;
use tempfile::TempDir;

use super::Site;
use testing::{certificates::THIS_MACHINE, process::Start};

/// What the process ends with if a setting is wrong.
const USAGE: i32 = 2;

#[tokio::test]
async fn a_start_that_cannot_serve_tls_names_the_setting() {
    let Some(site) = Site::new().await else { return };
    let volume = TempDir::new().unwrap();
    let other = site.authority.sign("other", THIS_MACHINE);
    let path = |path: &Path| path.display().to_string();
    let (cert, key, other) = (path(&site.server.cert), path(&site.server.key), path(&other.key));
    let missing = path(&site.directory.path().join("missing.pem"));
    for (settings, words) in [
        (vec![("tls.cert_file", &cert)], vec!["tls.key_file"]),
        (vec![("tls.key_file", &key)], vec!["tls.cert_file"]),
        (vec![("tls.cert_file", &missing), ("tls.key_file", &key)], vec!["tls.cert_file", "missing.pem"]),
        (vec![("tls.cert_file", &cert), ("tls.key_file", &missing)], vec!["tls.key_file", "missing.pem"]),
        (vec![("tls.cert_file", &key), ("tls.key_file", &key)], vec!["tls.cert_file", "no certificate"]),
        (vec![("tls.cert_file", &cert), ("tls.key_file", &cert)], vec!["tls.key_file", "no private key"]),
        (vec![("tls.cert_file", &cert), ("tls.key_file", &other)], vec!["tls.cert_file", "tls.key_file"]),
    ] {
        let start = Start::serve(&volume.path().join("db")).set("host", "127.0.0.1");
        let start = settings.iter().fold(start, |start, (name, value)| start.set(name, value));
        let ended = start.ended().await;
        assert_eq!(ended.code, Some(USAGE), "{settings:?}: {}", ended.said);
        for word in words {
            assert!(ended.said.contains(word), "{settings:?}: nothing of {word:?} in:\n{}", ended.said);
        }
        assert!(!volume.path().join("db").exists(), "{settings:?}: the volume was opened");
    }
}

#[tokio::test]
async fn the_admin_port_may_be_bound_elsewhere() {
    let volume = TempDir::new().unwrap();
    let start =
        Start::serve(&volume.path().join("db")).set("host", "127.0.0.1").set("admin_host", "127.0.0.2");
    let process = start.ready().await;
    let at = |address: SocketAddr| address.ip().to_string();
    assert_eq!((at(process.main()), at(process.admin())), ("127.0.0.1".into(), "127.0.0.2".into()));
    assert_eq!(process.get(process.admin(), "/readyz").await.0, StatusCode::OK);
    assert_eq!(process.terminate().await, Some(0));
}
