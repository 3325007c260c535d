//! Ports come first: who cannot have them takes nothing from anybody. By default both families are heard.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::StatusCode;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{FAILED, says, says_one_of};
use testing::{TestServer, process::Start};

#[tokio::test]
async fn who_finds_a_port_in_use_takes_the_bucket_from_nobody() {
    let first = TestServer::start_tiered(&[]).await;
    assert_eq!(first.post("/tables/t", &json!({"payload": "a"})).await.0, StatusCode::CREATED);
    first.flush_and_evict().await;
    let objects = first.objects("");
    let endpoint = first.s3.as_ref().unwrap().endpoint();
    let volume = TempDir::new().unwrap();
    for (name, port) in [("port", first.address().port()), ("admin_port", first.admin_address().port())] {
        // On an empty volume, which would take the bucket over to recover from it.
        let second = Start::serve(&volume.path().join("db")).set("host", "127.0.0.1").with_bucket(&endpoint);
        let ended = second.set(name, &port.to_string()).ended().await;
        says(name, &ended, FAILED, &[&format!("127.0.0.1:{port}"), "in use"]);
        let its_name = if name == "port" { "main" } else { "admin" };
        says_one_of(name, &ended.said, &[its_name, name]);
        assert_eq!(first.objects(""), objects, "{name}: the bucket was touched");
    }
    assert_eq!(first.post("/tables/t", &json!({"payload": "b"})).await.0, StatusCode::CREATED);
    first.flush_and_evict().await;
    assert_eq!(first.read_all("t", "").await.len(), 2);
    first.audit().await;
}

#[tokio::test]
async fn a_volume_that_is_in_use_takes_the_bucket_from_nobody_either() {
    let first = TestServer::start_tiered(&[]).await;
    assert_eq!(first.post("/tables/t", &json!({"payload": "a"})).await.0, StatusCode::CREATED);
    first.flush_and_evict().await;
    let objects = first.objects("");
    let second = Start::serve(&first.data_dir())
        .set("host", "127.0.0.1")
        .with_bucket(&first.s3.as_ref().unwrap().endpoint());
    let ended = second.ended().await;
    says("a volume in use", &ended, FAILED, &[&first.data_dir().display().to_string()]);
    assert_eq!(first.objects(""), objects);
    assert_eq!(first.post("/tables/t", &json!({"payload": "b"})).await.0, StatusCode::CREATED);
    first.flush_and_evict().await;
}

#[tokio::test]
async fn both_families_are_heard_by_default_where_there_are_both() {
    let volume = TempDir::new().unwrap();
    let process = Start::serve(&volume.path().join("db")).ready().await;
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok();
    for (name, bound) in [("main", process.main()), ("admin", process.admin())] {
        assert!(bound.ip().is_unspecified() && bound.is_ipv6() == has_ipv6, "the {name} port is at {bound}");
        assert_eq!(
            process.get(SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port())), "/livez").await.0,
            StatusCode::OK
        );
        if has_ipv6 {
            assert_eq!(
                process.get(SocketAddr::from((Ipv6Addr::LOCALHOST, bound.port())), "/livez").await.0,
                StatusCode::OK
            );
        } else {
            eprintln!("SKIPPED: this machine has no IPv6");
        }
    }
    // Two of them cannot have one port, on whichever family the second asks for it.
    for host in ["0.0.0.0", "127.0.0.1", "::"] {
        let other = TempDir::new().unwrap();
        let taken = Start::serve(&other.path().join("db"))
            .set("host", host)
            .set("port", &process.main().port().to_string());
        if host == "::" && !has_ipv6 {
            continue;
        }
        says(host, &taken.ended().await, FAILED, &["in use"]);
    }
    assert_eq!(process.terminate().await, Some(0));
}

#[tokio::test]
async fn one_family_is_heard_where_that_is_asked_for() {
    for (host, is_ipv6) in [("127.0.0.1", false), ("0.0.0.0", false), ("::1", true)] {
        if is_ipv6 && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_err() {
            eprintln!("SKIPPED: this machine has no IPv6");
            continue;
        }
        let volume = TempDir::new().unwrap();
        let process = Start::serve(&volume.path().join("db")).set("host", host).ready().await;
        assert_eq!(process.main().ip().to_string(), host);
        assert_eq!(process.get(process.main(), "/readyz").await.0, StatusCode::OK, "{host}");
    }
}
