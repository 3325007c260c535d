//! The door: what clients, proxies and browsers really send, and what each of them is due. Never less than
//! was asked for, never something else: taken whole, or refused whole.

mod bodies;
mod browsers;
mod buckets;
mod connections;
mod consumers;
mod content;
mod cursors;
mod expect;
mod expired;
mod headers;
mod json;
mod key_header;
mod keys;
mod negotiate;
mod partitions;
mod protobuf;
mod stored_keys;
mod streams;
mod surrogates;
mod tails;
mod times;
mod waits;

use std::{fmt::Display, io, io::Write};

use prost::Message;
use reqwest::{Body, Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use zombi::proto::v1;

use testing::{
    TestServer, raw,
    server::{PATIENCE, TestRequest, answer},
};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const PROTOBUF: &str = "application/x-protobuf";
const EVENT_STREAM: &str = "text/event-stream";

/// What came for a request: its status and its JSON.
type JsonAnswer = (StatusCode, Value);

/// Sends a request.
async fn ask(request: TestRequest) -> JsonAnswer {
    answer(request.send().await.unwrap()).await
}

/// A POST with headers of its own; a name may stand twice.
fn post(z: &TestServer, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> TestRequest {
    headers
        .iter()
        .fold(z.request(Method::POST, path), |request, (name, value)| request.header(*name, *value))
        .body(body)
}

/// A POST of JSON text as it stands there.
async fn post_json(z: &TestServer, path: &str, text: &str) -> JsonAnswer {
    ask(post(z, path, &[("content-type", JSON)], text.to_owned())).await
}

/// A POST of lines as they stand there.
async fn post_lines(z: &TestServer, path: &str, lines: &[&str]) -> JsonAnswer {
    ask(post(z, path, &[("content-type", NDJSON)], lines.join("\n"))).await
}

/// The same record as a single write, as the second record of a bulk write and as the second line of a
/// stream, all of them refused with 400 and the same code. The line before it is all that is stored.
async fn refused_everywhere(z: &TestServer, table: &str, record: &str, code: &str) {
    let path = format!("/tables/{table}");
    expect_problem(record, &post_json(z, &path, record).await, 400, code);
    let bulk = format!("{{\"records\":[{{\"payload\":1}},{record}]}}");
    expect_problem(record, &post_json(z, &format!("{path}/bulk"), &bulk).await, 400, code).with("index", 1);
    assert_eq!(z.get(&path).await.0, StatusCode::NOT_FOUND, "{record}");
    let stream = post_lines(z, &path, &[r#"{"payload":"before"}"#, record, r#"{"payload":"behind"}"#]).await;
    expect_problem(record, &stream, 400, code).with("line", 2).with("committed", 1);
    assert_eq!(payloads(z, table).await, ["before"], "{record}");
}

/// The `payload` of every record of a table.
async fn payloads(z: &TestServer, table: &str) -> Vec<Value> {
    z.read_all(table, "limit=1000").await.iter().map(|record| record["payload"].clone()).collect()
}

/// The number of a table's events; 0 if it is not there.
async fn count(z: &TestServer, table: &str) -> usize {
    if z.get(&format!("/tables/{table}")).await.0 == StatusCode::NOT_FOUND {
        0
    } else {
        payloads(z, table).await.len()
    }
}

/// A problem as it should be.
struct DoorProblem<'a> {
    sent: String,
    body: &'a Value,
}

/// An answer that must be a problem, for what was `sent`.
fn expect_problem<'a>(
    sent: impl Display,
    (status, body): &'a JsonAnswer,
    wanted: u16,
    code: &str,
) -> DoorProblem<'a> {
    assert_eq!((status.as_u16(), &body["code"]), (wanted, &json!(code)), "{sent:.200}: {body}");
    DoorProblem { sent: sent.to_string(), body }
}

impl DoorProblem<'_> {
    /// And has a field.
    fn with(self, field: &str, value: impl Into<Value>) -> Self {
        let wanted: Value = value.into();
        assert_eq!(self.body[field], wanted, "{field} for {:.200}: {}", self.sent, self.body);
        self
    }

    /// And says something to people, in whatever case.
    fn saying(self, part: &str) -> Self {
        let detail = self.body["detail"].as_str().unwrap_or_default().to_lowercase();
        assert!(detail.contains(&part.to_lowercase()), "{part:?} for {:.200}: {}", self.sent, self.body);
        self
    }
}

/// A protobuf event.
fn event(payload: impl Into<Vec<u8>>, kind: v1::PayloadKind) -> v1::Event {
    let payload: Vec<u8> = payload.into();
    v1::Event { payload: payload.into(), payload_kind: kind.into(), ..Default::default() }
}

/// The bytes of a bulk write.
fn bulk_of(records: Vec<v1::Event>) -> Vec<u8> {
    v1::BulkWriteRequest { records }.encode_to_vec()
}

fn gzip_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn snappy_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.into_inner().unwrap()
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A connection that is spoken to byte by byte.
struct Wire {
    socket: TcpStream,
    /// What came and was not looked at yet.
    came: Vec<u8>,
}

impl Wire {
    async fn open(z: &TestServer) -> Self {
        Self { socket: z.connect().await, came: Vec::new() }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // It may be refused, and the connection closed, before all is sent.
        drop(self.socket.write_all(&raw::known(bytes.as_ref())).await);
    }

    /// Says that nothing more will be sent.
    async fn half_close(&mut self) {
        self.socket.shutdown().await.unwrap();
    }

    async fn more(&mut self) {
        let mut piece = [0; 1024];
        let length = timeout(PATIENCE, self.socket.read(&mut piece)).await.expect("an answer comes").unwrap();
        assert_ne!(length, 0, "the connection ended behind {:?}", String::from_utf8_lossy(&self.came));
        self.came.extend_from_slice(&piece[..length]);
    }

    /// The next head, `100 Continue` has one too.
    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.came.windows(4).position(|four| four == b"\r\n\r\n") {
                return String::from_utf8(self.came.drain(..end + 4).collect()).unwrap();
            }
            self.more().await;
        }
    }

    /// The JSON behind a head that says how long it is.
    async fn json(&mut self, head: &str) -> Value {
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length:").nth(1).unwrap_or_else(|| panic!("no length in {head}"));
        let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
        while self.came.len() < length {
            self.more().await;
        }
        serde_json::from_slice(&self.came.drain(..length).collect::<Vec<_>>()).unwrap()
    }

    /// All that comes until the server ends the connection; an error if it does so by a reset.
    async fn rest(mut self) -> io::Result<Vec<u8>> {
        timeout(PATIENCE, self.socket.read_to_end(&mut self.came)).await.expect("the connection ends")?;
        Ok(self.came)
    }
}

/// The status in a head or at the start of an answer.
fn status_of(head: impl AsRef<[u8]>) -> u16 {
    let head = String::from_utf8_lossy(head.as_ref()).into_owned();
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {head:.500}"))
}

/// A request as it goes over the wire, with the length of its body.
fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: z\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}
