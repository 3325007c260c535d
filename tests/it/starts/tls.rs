//! An S3 whose certificate only the operator's own authority vouches for: `AWS_CA_BUNDLE` is honoured, or
//! named.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{FAILED, USAGE, says};
use testing::{
    certificates::{Authority, THIS_MACHINE},
    process::{Start, has},
    s3::{ObjectStore, S3Server},
    server::{BUCKET, PATIENCE},
};

/// TLS before an S3 server; ends when dropped.
async fn terminate(directory: &Path, s3: &S3Server) -> (Child, String) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/starts/terminator.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .args(["server.pem", "server.key", &s3.address.port().to_string()])
        .current_dir(directory);
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port =
        timeout(PATIENCE, lines.next_line()).await.expect("it says its port").unwrap().expect("it runs");
    (child, format!("https://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_bundle_of_authorities_is_trusted_and_one_that_cannot_be_read_is_named() {
    if !has("openssl").await || !has("python3").await {
        return;
    }
    let directory = TempDir::new().unwrap();
    let authority = Authority::new(directory.path(), "authority");
    authority.sign("server", THIS_MACHINE);
    let s3 = S3Server::start(([127, 0, 0, 1], 0).into(), ObjectStore::default()).await.unwrap();
    s3.store.make_bucket(BUCKET);
    let (_terminator, endpoint) = terminate(directory.path(), &s3).await;
    let volume = TempDir::new().unwrap();
    let start = Start::serve(&volume.path().join("db")).set("host", "127.0.0.1").with_bucket(&endpoint);
    let bundle = |name: &str| directory.path().join(name).display().to_string();

    std::fs::write(bundle("text.pem"), "no certificate").unwrap();
    for wrong in ["missing.pem", "text.pem"] {
        let ended = start.clone().env("AWS_CA_BUNDLE", &bundle(wrong)).ended().await;
        assert!([Some(FAILED), Some(USAGE)].contains(&ended.code), "{wrong}: {}", ended.said);
        assert!(
            ended.said.contains("AWS_CA_BUNDLE") && ended.said.contains(wrong),
            "{wrong}: {}",
            ended.said
        );
    }
    // Nobody that this machine trusts vouches for it.
    says("no bundle", &start.ended().await, FAILED, &["AWS_CA_BUNDLE", "s3.endpoint"]);
    assert!(s3.store.keys(BUCKET, "").is_empty(), "it was trusted without its authority");

    let process = start.env("AWS_CA_BUNDLE", &bundle("authority.pem")).ready().await;
    assert_eq!(
        process.post(process.main(), "/tables/t?wait_for=cold", &json!({"payload": 1})).await.0,
        StatusCode::CREATED
    );
    assert_eq!(s3.store.keys(BUCKET, "segments/").len(), 1);
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_not_waited_for_to_learn_it() {
    let s3 = S3Server::start(([127, 0, 0, 1], 0).into(), ObjectStore::default()).await.unwrap();
    s3.store.make_bucket(BUCKET);
    let volume = TempDir::new().unwrap();
    let start = Start::serve(&volume.path().join("db"))
        .set("host", "127.0.0.1")
        .with_bucket(&format!("https://{}", s3.address));
    says("https to a server without", &start.ended().await, FAILED, &["TLS", "s3.endpoint", "http://"]);
}
