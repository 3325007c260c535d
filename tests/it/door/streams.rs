//! An answer that could not be sent whole never looks whole, over HTTP/1.0 neither, whose bodies may end
//! where the connection does.

use std::{io, sync::atomic::Ordering::SeqCst};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{NDJSON, Wire, status_of};
use testing::{
    TestServer, raw,
    server::{PATIENCE, eventually},
};

/// Events of a megabyte each: more than the sockets and the server between S3 and a client that does not read
/// can hold.
const EVENTS: usize = 40;
/// What a client here takes at once.
const RECEIVE_BUFFER: u32 = 64 << 10;

const LINES: &str = "GET /tables/t HTTP/1.0\r\nhost: z\r\naccept: application/x-ndjson\r\n\r\n";

async fn fill(z: &TestServer) {
    for n in 0..EVENTS {
        let (status, body) =
            z.post("/tables/t", &json!({"payload": format!("{}{n}", "0".repeat(1_000_000))})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
}

/// A server with its events in many segments in S3 and nowhere else.
async fn cold() -> TestServer {
    let settings = [
        ("flush.segment_bytes", "2000000"),
        ("cold.cache_bytes", "0"),
        ("s3.attempts", "1"),
        ("compaction.interval_secs", "3600"),
    ];
    let z = TestServer::start_tiered(&settings).await;
    fill(&z).await;
    z.flush_and_evict().await;
    assert!(z.objects("segments/").len() > 10);
    assert_eq!(z.partition("t", 0).await["low"], EVENTS);
    z
}

/// A stream over HTTP/1.0, of which the first bytes have come. The client takes little at once.
struct Stream {
    socket: TcpStream,
    came: Vec<u8>,
}

impl Stream {
    async fn begin(z: &TestServer) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
        let mut socket = socket.connect(z.address()).await.unwrap();
        socket.write_all(&raw::known(LINES.as_bytes())).await.unwrap();
        let mut came = vec![0; 2000];
        timeout(PATIENCE, socket.read_exact(&mut came)).await.expect("the stream begins").unwrap();
        assert_eq!(status_of(&came), 200);
        Self { socket, came }
    }

    /// Reads on to the end; how many whole lines came, if the connection ended as it does behind a whole
    /// answer.
    async fn end(mut self) -> io::Result<usize> {
        timeout(PATIENCE, self.socket.read_to_end(&mut self.came)).await.expect("the stream ends")?;
        Ok(whole_lines(&self.came))
    }
}

/// The lines behind a head; all of them must be whole.
fn whole_lines(answer: &[u8]) -> usize {
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer.last(), Some(&b'\n'), "the last line is whole");
    let lines = answer[body..answer.len() - 1].split(|byte| *byte == b'\n');
    let records: Vec<Value> =
        lines.map(|line| serde_json::from_slice(line).expect("a line is whole")).collect();
    records.len()
}

#[tokio::test]
async fn a_stream_over_http_1_0_that_s3_cuts_off_ends_by_a_reset() {
    let z = cold().await;
    assert_eq!(Stream::begin(&z).await.end().await.unwrap(), EVENTS, "nothing fails");

    let stream = Stream::begin(&z).await;
    z.store().is_down.store(true, SeqCst);
    let ended = stream.end().await;
    assert!(ended.is_err(), "a clean end behind {ended:?} of {EVENTS} lines");

    // An error that is known before the first byte is a status.
    let mut wire = Wire::open(&z).await;
    wire.send(LINES).await;
    let head = wire.head().await;
    assert_eq!(
        (status_of(&head), &wire.json(&head).await["code"]),
        (503, &json!("cold_unavailable")),
        "{head}"
    );
    z.store().is_down.store(false, SeqCst);

    let stream = Stream::begin(&z).await;
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    if let Ok(lines) = stream.end().await {
        assert_eq!(lines, EVENTS, "a clean end while the table was deleted");
    }
}

#[tokio::test]
async fn a_stream_over_http_1_1_that_s3_cuts_off_is_not_terminated() {
    let z = cold().await;
    let read = || z.request(Method::GET, "/tables/t").header("accept", NDJSON).send();
    let text = read().await.unwrap().text().await.unwrap();
    assert_eq!(text.lines().count(), EVENTS, "nothing fails");

    let mut response = read().await.unwrap();
    let first = response.chunk().await.unwrap().unwrap();
    z.store().is_down.store(true, SeqCst);
    let mut taken = first.len();
    let ended = loop {
        match response.chunk().await {
            Ok(Some(piece)) => taken += piece.len(),
            Ok(None) => break "as if it were whole",
            Err(_) => break "by an error",
        }
    };
    assert_eq!(ended, "by an error", "behind {taken} of {} bytes", text.len());
}

#[tokio::test]
async fn a_stream_that_the_server_gives_up_ends_by_a_reset_too() {
    let mut z =
        TestServer::start_with(&[("limits.write_stall_secs", "1"), ("shutdown.drain_secs", "1")]).await;
    fill(&z).await;
    let stream = Stream::begin(&z).await;
    // Two connections: this one, and the one that asks.
    eventually("a client that takes nothing is given up", || async {
        z.metric("zombi_http_connections").await < 2.0
    })
    .await;
    let ended = stream.end().await;
    assert!(ended.is_err(), "a clean end behind {ended:?} of {EVENTS} lines, where the client was slow");

    z.set("limits.write_stall_secs", "600");
    z.crash().await;
    let stream = Stream::begin(&z).await;
    assert_eq!(z.terminate().await, Some(0));
    let ended = stream.end().await;
    assert!(ended.is_err(), "a clean end behind {ended:?} of {EVENTS} lines, where the server stopped");
}

#[tokio::test]
async fn large_answers_are_whole_whatever_becomes_of_the_connection_behind_them() {
    let z = TestServer::start().await;
    for n in 0..7 {
        z.post("/tables/t", &json!({"payload": format!("{}{n}", "0".repeat(1_000_000))})).await;
    }
    for head in ["GET /tables/t HTTP/1.0\r\n", "GET /tables/t HTTP/1.1\r\nconnection: close\r\n"] {
        for half_closes in [false, true] {
            let mut wire = Wire::open(&z).await;
            wire.send(format!("{head}host: z\r\naccept: application/json\r\n\r\n")).await;
            if half_closes {
                wire.half_close().await;
            }
            let head = wire.head().await;
            let page = wire.json(&head).await;
            assert_eq!((status_of(&head), &page["count"]), (200, &json!(7)), "{head}");
            assert!(wire.rest().await.unwrap().is_empty(), "something behind the answer");
        }
    }
    let lines = |limit: &str| {
        format!("GET /tables/t?{limit} HTTP/1.0\r\nhost: z\r\naccept: application/x-ndjson\r\n\r\n")
    };
    for (query, count) in [("limit=10", 7), ("limit=3", 3), ("since=0", 7)] {
        let mut wire = Wire::open(&z).await;
        wire.send(lines(query)).await;
        assert_eq!(whole_lines(&wire.rest().await.unwrap()), count, "{query}");
    }
}
