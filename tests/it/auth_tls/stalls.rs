//! Clients that begin a handshake and say no more, that speak no TLS, and that take nothing of an answer.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Site, ask};
use testing::{raw, server::PATIENCE};

/// The beginning of a handshake: of a record, and of a greeting in it that never ends.
const BEGUN: [&[u8]; 3] = [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"];

#[tokio::test]
async fn a_handshake_that_stalls_is_ended_and_holds_up_no_stop() {
    let Some(site) = Site::new().await else { return };
    let mut z = site.serve(&[("limits.header_timeout_secs", "1")]).await;
    for begun in BEGUN {
        let began = Instant::now();
        let mut socket = raw::send(z.address(), begun).await;
        let answer = raw::read_to_end(&mut socket).await;
        assert_eq!(answer, "", "{begun:?}");
        let took = began.elapsed();
        assert!((900..30_000).contains(&took.as_millis()), "{begun:?}: {took:?}");
    }
    assert_eq!(z.terminate().await, Some(0));
    let mut z = site.serve(&[("limits.header_timeout_secs", "600"), ("shutdown.drain_secs", "60")]).await;
    let held = raw::send(z.address(), BEGUN[2]).await;
    assert_eq!(ask(&site.client(), z.address()).await.unwrap(), StatusCode::OK);
    let began = Instant::now();
    assert_eq!(z.terminate().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(30), "it waited for a handshake");
    drop(held);
}

#[tokio::test]
async fn handshakes_that_stall_make_room_for_others() {
    let Some(site) = Site::new().await else { return };
    let z = site.serve(&[("limits.header_timeout_secs", "600"), ("limits.connections", "8")]).await;
    let mut held = Vec::new();
    for begun in BEGUN.iter().cycle().take(30) {
        held.push(raw::send(z.address(), begun).await);
    }
    let asked = timeout(PATIENCE, ask(&site.client(), z.address())).await.expect("it finds room");
    assert_eq!(asked.unwrap(), StatusCode::OK);
    assert_eq!(held.len(), 30);
}

#[tokio::test]
async fn who_speaks_no_tls_gets_no_answer_of_ours() {
    let Some(site) = Site::new().await else { return };
    let z = site.serve(&[]).await;
    for said in
        ["GET /livez HTTP/1.1\r\nhost: z\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n\r\n\r\n\r\n"]
    {
        let mut socket = raw::send(z.address(), said).await;
        let answer = raw::read_to_end(&mut socket).await;
        assert!(!answer.contains("HTTP") && answer.len() < 100, "{said:?}: {answer}");
    }
    assert_eq!(ask(&site.client(), z.address()).await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_cut_and_not_ended() {
    let Some(site) = Site::new().await else { return };
    let z = site.serve(&[("limits.write_stall_secs", "1")]).await;
    let mut writer = site.client().open(z.address(), "h2").await.unwrap();
    for number in 0..24 {
        let record = json!({"payload": format!("{}{number}", "0".repeat(1_000_000))});
        assert_eq!(writer.post("/tables/large", &record).await.unwrap().status(), StatusCode::CREATED);
    }
    // In HTTP/1.0 an answer ends where the connection ends: a clean end would pass for its own.
    for version in ["1.0", "1.1"] {
        let mut stream = site.client().shake(raw::connect(z.address()).await, "http/1.1").await.unwrap();
        let request =
            format!("GET /tables/large HTTP/{version}\r\nhost: z\r\naccept: application/x-ndjson\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        sleep(Duration::from_secs(4)).await;
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
        assert!(ended.is_err(), "HTTP/{version}: a clean end after {} bytes", answer.len());
    }
    // What is taken comes whole.
    let socket = TcpStream::connect(z.address()).await.unwrap();
    let mut stream = site.client().shake(socket, "http/1.1").await.unwrap();
    let request = b"GET /tables/large?limit=24 HTTP/1.0\r\naccept: application/x-ndjson\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("the connection ends").unwrap();
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.lines().count(), 24);
}
