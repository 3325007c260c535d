//! As many connections as may be, all of them idle, silent, half a request, or never reading: the oldest of
//! them makes room.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::SmallClient;
use testing::{TestServer, raw, server::PATIENCE};

/// Nobody is given up for being slow, so that room must be made.
const PATIENT: [(&str, &str); 4] = [
    ("limits.header_timeout_secs", "600"),
    ("limits.idle_secs", "600"),
    ("limits.write_stall_secs", "600"),
    ("limits.body_idle_secs", "600"),
];

const ASK: &[u8] = b"GET /livez HTTP/1.1\r\nhost: z\r\n\r\n";

/// One whose answer has no body.
const HEAD: &[u8] = b"HEAD /livez HTTP/1.1\r\nhost: z\r\n\r\n";

/// The preface of HTTP/2 and empty settings, and no request.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Ways to take a connection and to want nothing more. The last asks for much, and takes nothing of it.
const IDLE: [&[u8]; 6] = [
    b"",
    b"G",
    b"POST /tables/t HTTP/1.1\r\nhost: z\r\nx-slow: ",
    ASK,
    HTTP2,
    b"GET /tables/large HTTP/1.1\r\nhost: z\r\naccept: application/x-ndjson\r\n\r\n",
];

async fn attackers(address: std::net::SocketAddr, kinds: &[&[u8]], count: usize) -> Vec<TcpStream> {
    let mut attackers = Vec::new();
    for said in kinds.iter().cycle().take(count) {
        let mut socket = raw::connect(address).await;
        // One that was shut out by those behind it needs no more.
        drop(socket.write_all(&raw::known(said)).await);
        attackers.push(socket);
    }
    attackers
}

async fn fill_large(z: &TestServer) {
    for number in 0..24 {
        let record = json!({"payload": format!("{}{number}", "0".repeat(1_000_000))});
        assert_eq!(z.post("/tables/large", &record).await.0, StatusCode::CREATED);
    }
}

/// A connection with a request that the server is at, for certain: it came with another one, which is
/// answered.
async fn at_work(z: &TestServer, request: Vec<u8>) -> TcpStream {
    let both = [raw::known(HEAD), raw::known(&request)].concat();
    let mut socket = raw::send(z.address(), both).await;
    let head = raw::read_until(&mut socket, "\r\n\r\n").await;
    assert_eq!(raw::status(&head), 200, "{head}");
    socket
}

#[tokio::test]
async fn idle_connections_make_room_for_others_and_connections_at_work_stay() {
    let z = TestServer::start_with(&[&PATIENT[..], &[("limits.connections", "64")]].concat()).await;
    fill_large(&z).await;
    z.post("/tables/t", &json!({"payload": "old"})).await;
    // Friends who came first, and who wait for something: they are not idle.
    let (_, page) = z.get("/tables/t").await;
    let end = page["next_cursor"].as_str().unwrap();
    let mut tail = raw::get(z.address(), &format!("/tables/t?cursor={end}"), "text/event-stream").await;
    assert_eq!(raw::status(&raw::read_until(&mut tail, "\r\n\r\n").await), 200);
    let started = Instant::now();
    let mut poll = at_work(
        &z,
        format!("GET /tables/t?wait=50s&cursor={end} HTTP/1.1\r\nhost: z\r\nconnection: close\r\n\r\n")
            .into_bytes(),
    )
    .await;
    let head = raw::post_head(
        "/tables/lines",
        "application/x-ndjson",
        "transfer-encoding: chunked\r\nconnection: close\r\n",
    );
    let mut lines = at_work(&z, [head.into_bytes(), raw::chunk(b"{\"payload\": 1}\n")].concat()).await;

    let mut victim = SmallClient::of(&z);
    let held = attackers(z.address(), &IDLE, 180).await;
    victim.is_served(&z, "180 idle connections where 64 may be").await;
    let news = victim.client.post(z.url("/tables/t")).json(&json!({"payload": "news"}));
    assert_eq!(victim.ask("180 idle connections", news).await.0, StatusCode::CREATED);
    let said = raw::read_until(&mut tail, "news").await;
    assert!(said.contains("news"), "a tail was shut out: {said}");
    let page = raw::read_to_end(&mut poll).await;
    assert_eq!(raw::status(&page), 200, "a long poll was shut out: {page}");
    assert!(page.contains("news") || started.elapsed() >= Duration::from_secs(50), "{page}");
    lines.write_all(&[raw::chunk(b"{\"payload\": 2}\n"), b"0\r\n\r\n".to_vec()].concat()).await.unwrap();
    let answer = raw::read_to_end(&mut lines).await;
    assert_eq!(
        (raw::status(&answer), &raw::json(&answer)["count"]),
        (201, &json!(2)),
        "a stream of lines was shut out: {answer}"
    );
    assert_eq!(held.len(), 180);
    victim.has_lost_nothing(&z).await;
}

#[tokio::test]
async fn the_admin_port_answers_however_many_connections_either_port_has() {
    let z = TestServer::start_with(
        &[&PATIENT[..], &[("limits.connections", "64"), ("limits.admin_connections", "16")]].concat(),
    )
    .await;
    let on_admin = attackers(z.admin_address(), &IDLE[..5], 60).await;
    let mut victim = SmallClient::of(&z);
    victim.is_served(&z, "60 idle connections on the admin port where 16 may be").await;
    let on_main = attackers(z.address(), &IDLE[..5], 180).await;
    victim.is_served(&z, "as many on the main port as well").await;
    for path in ["/metrics", "/log/level", "/startupz"] {
        assert_eq!(z.client.get(z.admin_url(path)).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    assert_eq!((on_admin.len(), on_main.len()), (60, 180));
}

/// A request over a connection that stays open.
async fn asks(socket: &mut TcpStream) -> u16 {
    if socket.write_all(HEAD).await.is_err() {
        return 0;
    }
    raw::status(&raw::read_until(socket, "\r\n\r\n").await)
}

#[tokio::test]
async fn it_is_the_connection_that_was_idle_longest_that_makes_room() {
    let z = TestServer::start_with(&[&PATIENT[..], &[("limits.connections", "4")]].concat()).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut socket = raw::connect(z.address()).await;
        assert_eq!(asks(&mut socket).await, 200);
        open.push(socket);
        sleep(Duration::from_millis(50)).await; // it goes by milliseconds
    }
    // The first one that came is not the one that was idle longest any more.
    assert_eq!(asks(&mut open[0]).await, 200);
    let mut newcomer = raw::connect(z.address()).await;
    assert_eq!(asks(&mut newcomer).await, 200);
    let left = timeout(PATIENCE, open[1].read(&mut [0])).await.expect("it is told to go");
    assert!(!matches!(left, Ok(1..)), "it was sent something");
    for number in [0, 2, 3] {
        assert_eq!(asks(&mut open[number]).await, 200, "connection {number} was shut out");
    }
}

#[tokio::test]
async fn where_all_take_nothing_of_their_answers_somebody_is_given_up() {
    // With the time that a client has by itself to take something of its answer.
    let z = TestServer::start_with(&[("limits.connections", "16")]).await;
    fill_large(&z).await;
    let held = attackers(z.address(), &IDLE[5..], 24).await;
    SmallClient::of(&z).append(&z, "24 readers that take nothing where 16 may be").await;
    assert_eq!(held.len(), 24);
}
