//! Erased events: what is left of them in answers, and that nothing else is left in any file of the volume or
//! any object of the bucket.

mod asked;
mod found;
mod leases;
mod restarts;
mod tables;
mod tiers;

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use testing::{TestServer, server::eventually};

/// Objects stay for as long as they would in production, and nothing is merged by itself.
const KEEPING: [(&str, &str); 3] = [
    ("compaction.interval_secs", "3600"),
    ("compaction.grace_secs", "3600"),
    ("manifests.keep_secs", "1000000"),
];

/// A text like no other: no four bytes of it are in another one, as `found` checks.
fn text_like_no_other(number: usize) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(format!("secret 10 {number}"))[..20])
}

/// The part of such a text that is found as it is in RocksDB's table files, too. LZ4 takes four bytes and
/// more out that were there before; three at either end may go with what is around them.
fn secret(number: usize) -> String {
    let text = text_like_no_other(number);
    text[3..text.len() - 3].to_owned()
}

/// What tells the secrets of an event apart: payload, key, header and idempotency key.
const OF_PARTS: [usize; 4] = [0, 1000, 2000, 3000];

/// An event whose payload, key, header and idempotency key each hold a secret of their own.
fn event(number: usize) -> Value {
    let [payload, key, header, once] = OF_PARTS.map(|part| text_like_no_other(number + part));
    json!({
        "payload": format!("payload-{payload}"),
        "key": format!("key-{key}"),
        "headers": {"subject": format!("header-{header}")},
        "idempotency_key": format!("once-{once}"),
        "timestamp_ms": 1_700_000_000_000_i64 + number as i64,
        "partition": 0,
    })
}

/// What must not be found of it any more.
fn secrets(number: usize) -> [String; 4] {
    OF_PARTS.map(|part| secret(number + part))
}

async fn write(z: &TestServer, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let (status, body) = z.post("/tables/t", &event(number)).await;
        assert_eq!((status, &body["offset"]), (StatusCode::CREATED, &json!(number)), "{body}");
    }
}

/// Asks for an erasure, which must be taken; its id.
pub(crate) async fn erase(z: &TestServer, asked: &Value) -> String {
    let (status, body) = z.post("/tables/t/erase", asked).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    body["id"].as_str().unwrap().to_owned()
}

/// Waits until an erasure is done; what is shown of it.
pub(crate) async fn done(z: &TestServer, id: &str) -> Value {
    let mut shown = Value::Null;
    eventually("the erasure is done", async || {
        let (status, body) = z.get(&format!("/tables/t/erase/{id}")).await;
        // A volume that takes over has not heard of it at once.
        assert!(matches!(status, StatusCode::OK | StatusCode::NOT_FOUND), "{status} {body}");
        shown = body;
        shown["status"] == "done"
    })
    .await;
    shown
}

/// The files and objects that hold a text, as they are or decompressed.
fn holders(z: &TestServer, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    look_into(&z.data_dir(), text.as_bytes(), &mut found);
    if z.s3.is_some() {
        for (key, body) in z.objects("") {
            let decoded = zstd::decode_all(&body[..]).unwrap_or_default();
            if holds(&body, text.as_bytes()) || holds(&decoded, text.as_bytes()) {
                found.push(key);
            }
        }
    }
    found
}

fn look_into(directory: &Path, text: &[u8], found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look_into(&path, text, found);
        } else if let Ok(bytes) = fs::read(&path)
            && holds(&bytes, text)
        {
            found.push(path.display().to_string());
        }
    }
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Checks that nothing is left of an event, and that its place is.
async fn expect_erased(z: &TestServer, number: usize) {
    for secret in secrets(number) {
        assert_eq!(holders(z, &secret), [""; 0], "{secret} of event {number}");
    }
    let (status, page) = z.get(&format!("/tables/t?partition=0&offset={number}&limit=1")).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let timestamp_ms = 1_700_000_000_000_i64 + number as i64;
    let expected = json!({
        "payload": null, "erased": true, "timestamp_ms": timestamp_ms, "partition": 0, "offset": number,
    });
    assert_eq!(page["records"][0], expected);
}

/// Checks that an event is as it was sent.
async fn expect_kept(z: &TestServer, number: usize) {
    let (_, page) = z.get(&format!("/tables/t?partition=0&offset={number}&limit=1")).await;
    let (sent, found) = (event(number), &page["records"][0]);
    for name in ["payload", "key", "headers", "idempotency_key", "timestamp_ms"] {
        assert_eq!(found[name], sent[name], "{name} of event {number}");
    }
    assert!(found.get("erased").is_none());
}

/// The lines of the newest segments of a table, by offset.
fn lines(z: &TestServer) -> Vec<Value> {
    let objects = z.objects("segments/t/");
    let bodies = objects.iter().filter(|(key, _)| key.ends_with(".zst"));
    let texts = bodies.map(|(_, body)| String::from_utf8(zstd::decode_all(&body[..]).unwrap()).unwrap());
    let mut lines: Vec<Value> = texts
        .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
        .collect();
    lines.sort_by_key(|line| line["offset"].as_u64());
    lines
}

/// A read as NDJSON.
async fn ndjson(z: &TestServer, query: &str) -> Vec<Value> {
    let request = z.request(Method::GET, &format!("/tables/t?{query}&format=ndjson"));
    let text = request.send().await.unwrap().text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
