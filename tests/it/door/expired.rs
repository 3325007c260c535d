//! Who comes back with a place that is gone is told where to go on, and what is told leads on.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{EVENT_STREAM, JsonAnswer, NDJSON, PROTOBUF, ask, expect_problem};
use testing::{Sent, TestServer, server::eventually};

/// The cursor that an answer goes on with.
fn next_cursor(body: &Value) -> &str {
    body["next_cursor"].as_str().unwrap_or_else(|| panic!("no cursor in {body}"))
}

/// The payloads behind a cursor.
async fn behind(z: &TestServer, cursor: &str) -> Vec<Value> {
    let records = z.read_all("t", &format!("cursor={cursor}")).await;
    records.into_iter().map(|mut record| record["payload"].take()).collect()
}

async fn write(z: &TestServer, partition: u64, timestamp_ms: i64, payloads: &[&str]) {
    for payload in payloads {
        let record = json!({"payload": payload, "partition": partition, "timestamp_ms": timestamp_ms});
        let (status, body) = z.post("/tables/t", &record).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
}

/// Refused with a cursor that goes on with `payloads`.
async fn leads_on(z: &TestServer, what: &str, answer: &JsonAnswer, payloads: &[&str]) {
    expect_problem(what, answer, 410, "offset_expired");
    assert!(answer.1["earliest"].is_u64(), "{what}: {}", answer.1);
    assert_eq!(behind(z, next_cursor(&answer.1)).await, payloads, "{what}: {}", answer.1);
}

#[tokio::test]
async fn a_place_in_a_table_that_was_deleted_leads_to_what_was_written_since() {
    let z = TestServer::start_tiered(&[]).await;
    for (round, tier) in ["hot", "cold"].into_iter().enumerate() {
        let from = 12 * round as u64;
        write(&z, 0, 0, &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]).await;
        if tier == "cold" {
            z.flush_and_evict().await;
        }
        let (_, page) = z.get(&format!("/tables/t?partition=0&offset={from}&limit=4")).await;
        let cursor = next_cursor(&page).to_owned();
        let (_, end) = z.get(&format!("/tables/t?partition=0&offset={from}")).await;
        let end = next_cursor(&end).to_owned();
        let (_, all) = z.get("/tables/t?limit=3").await;
        let all = next_cursor(&all).to_owned();
        assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
        assert_eq!(
            z.get(&format!("/tables/t?cursor={all}")).await.0,
            StatusCode::NOT_FOUND,
            "nothing is there"
        );
        write(&z, 0, 0, &["k", "l"]).await;
        if tier == "cold" {
            z.flush_and_evict().await;
        }
        for path in ["cursor=CURSOR&limit=1", "cursor=CURSOR", "cursor=CURSOR&wait=30s"] {
            for cursor in [&cursor, &all] {
                let answer = z.get(&format!("/tables/t?{}", path.replace("CURSOR", cursor))).await;
                leads_on(&z, &format!("{tier} {path}"), &answer, &["k", "l"]).await;
            }
        }
        for offset in [0, from, from + 9] {
            let answer = z.get(&format!("/tables/t?partition=0&offset={offset}")).await;
            assert_eq!(answer.1["earliest"], from + 10, "{tier} offset {offset}");
            leads_on(&z, &format!("{tier} offset {offset}"), &answer, &["k", "l"]).await;
        }
        for accept in [NDJSON, PROTOBUF, EVENT_STREAM] {
            let request = z.request(Method::GET, &format!("/tables/t?cursor={all}")).header("accept", accept);
            leads_on(&z, &format!("{tier} {accept}"), &ask(request).await, &["k", "l"]).await;
        }
        let request = z
            .request(Method::GET, "/tables/t")
            .header("accept", EVENT_STREAM)
            .header("last-event-id", all.as_str());
        leads_on(&z, &format!("{tier} an event's id"), &ask(request).await, &["k", "l"]).await;
        // Who had read everything has missed nothing.
        assert_eq!(behind(&z, &end).await, ["k", "l"], "{tier}");
    }
}

#[tokio::test]
async fn one_cursor_leads_on_in_all_partitions_at_once() {
    let z = TestServer::start().await;
    Sent::default().append(&z, "t", 5, 100).await;
    let middle = next_cursor(&z.get("/tables/t?limit=48").await.1).to_owned();
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    // Two of five partitions are written again, and one that was not there before.
    write(&z, 1, 1_800_000_000_000, &["one"]).await;
    write(&z, 3, 1_800_000_000_001, &["three"]).await;
    write(&z, 9, 1_800_000_000_002, &["nine"]).await;
    let answer = z.get(&format!("/tables/t?cursor={middle}")).await;
    leads_on(&z, "in the middle", &answer, &["one", "three", "nine"]).await;
    let cursor = next_cursor(&answer.1).to_owned();
    assert_eq!(behind(&z, &cursor).await, ["one", "three", "nine"], "a second time");
    // The others come later.
    write(&z, 0, 1_800_000_000_003, &["zero"]).await;
    write(&z, 4, 1_800_000_000_004, &["four"]).await;
    assert_eq!(behind(&z, &cursor).await, ["one", "three", "nine", "zero", "four"]);
    let mut path = format!("/tables/t?limit=1&cursor={cursor}");
    for wanted in ["one", "three", "nine", "zero", "four"] {
        let (_, page) = z.get(&path).await;
        assert_eq!(page["records"][0]["payload"], wanted, "{page}");
        path = format!("/tables/t?limit=1&cursor={}", next_cursor(&page));
    }
    // Deleted once more, every cursor leads on once more.
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    write(&z, 3, 1_800_000_000_005, &["again"]).await;
    for old in [&middle, &cursor] {
        let answer = z.get(&format!("/tables/t?cursor={old}")).await;
        leads_on(&z, "deleted twice", &answer, &["again"]).await;
    }
}

#[tokio::test]
async fn the_cursor_that_leads_on_keeps_the_filters_of_the_read() {
    let z = TestServer::start().await;
    for n in 0..10 {
        write(&z, n % 2, 1000, &["old"]).await;
    }
    let filtered =
        next_cursor(&z.get("/tables/t?limit=2&since=1000&until=1970-01-01T00:00:01.000500Z").await.1)
            .to_owned();
    let of_one = next_cursor(&z.get("/tables/t?limit=2&partition=1").await.1).to_owned();
    z.delete("/tables/t").await;
    for (partition, timestamp_ms, payload) in
        [(0, 999, "early"), (0, 1000, "in time"), (1, 1000, "in one"), (1, 1001, "late in one")]
    {
        write(&z, partition, timestamp_ms, &[payload]).await;
    }
    let answer = z.get(&format!("/tables/t?cursor={filtered}")).await;
    leads_on(&z, "bounds of time", &answer, &["in time", "in one"]).await;
    let answer = z.get(&format!("/tables/t?cursor={of_one}")).await;
    leads_on(&z, "one partition", &answer, &["in one", "late in one"]).await;
}

#[tokio::test]
async fn what_retention_took_leads_on_too() {
    let z = TestServer::start_with(&[("compaction.interval_secs", "1")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 5000).await;
    let cursor = next_cursor(&z.get("/tables/t?limit=10").await.1).to_owned();
    assert_eq!(z.put("/tables/t/config", &json!({"retention_secs": 0})).await.0, StatusCode::OK);
    eventually("it has expired", || async {
        z.get(&format!("/tables/t?cursor={cursor}")).await.0 == StatusCode::GONE
    })
    .await;
    let answer = z.get(&format!("/tables/t?cursor={cursor}")).await;
    let earliest = answer.1["earliest"].as_u64().unwrap();
    expect_problem("retention", &answer, 410, "offset_expired");
    let (status, page) = z.get(&format!("/tables/t?cursor={}", next_cursor(&answer.1))).await;
    // Retention may go on in between; it leads on all the same.
    assert!(
        status == StatusCode::OK || (status == StatusCode::GONE && page["next_cursor"].is_string()),
        "{page}"
    );
    let first = page["records"]
        .as_array()
        .and_then(|records| records.first())
        .map(|record| record["offset"].as_u64().unwrap());
    assert!(first.is_none_or(|first| first >= earliest), "{page}");
}
