//! `on_error=skip`: the good lines of a stream are stored, the bad ones are listed, and nothing is lost
//! without a word.

use serde_json::{Value, json};

use super::{SenderAnswer, is_there, post, records};
use testing::TestServer;

const NDJSON: &str = "application/x-ndjson";

async fn skip(z: &TestServer, table: &str, lines: &[String]) -> SenderAnswer {
    post(z, &format!("/tables/{table}?on_error=skip"), &[("content-type", NDJSON)], lines.join("\n")).await
}

fn owned(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// The number and code of each line that was left out.
fn rejected(answer: &SenderAnswer) -> Vec<(u64, String)> {
    let summary = answer.json();
    let of = |one: &Value| (one["line"].as_u64().unwrap(), one["code"].as_str().unwrap().to_owned());
    summary["rejected"].as_array().unwrap().iter().map(of).collect()
}

async fn payloads(z: &TestServer, table: &str) -> Vec<Value> {
    records(z, table).await.iter().map(|record| record["payload"].clone()).collect()
}

#[tokio::test]
async fn bad_lines_are_left_out_and_listed_with_their_reasons() {
    let z = TestServer::start().await;
    let long = format!("{{\"payload\":\"{}\"}}", "x".repeat((1 << 20) + 1));
    let lines = owned(&[
        r#"{"payload":"one"}"#,
        r#"{"payload":"#,
        "",
        r#"{"payload":"two","partition":5000}"#,
        r#"{"payload":"three","key":"","headers":{}}"#,
        &long,
        r#"{"payload":"four","colour":"red"}"#,
        "[1]",
        r#"{"payload":"five","timestamp_ms":1000}"#,
        r#"{"payload":"\ud83d"}"#,
    ]);
    let answer = skip(&z, "t", &lines).await;
    let summary = answer.json();
    assert_eq!(answer.status, 200, "{summary}");
    assert_eq!((&summary["count"], &summary["duplicates"]), (&json!(2), &json!(0)), "{summary}");
    assert_eq!(summary["partitions"], json!({"0": {"first": 0, "last": 1}}));
    assert_eq!(summary["rejected_count"], 7, "{summary}");
    let expected = [
        (2, "bad_json"),
        (4, "partition_out_of_range"),
        (5, "bad_key"),
        (6, "record_too_large"),
        (7, "bad_json"),
        (8, "bad_json"),
        (10, "bad_json"),
    ];
    assert_eq!(rejected(&answer), expected.map(|(line, code)| (line, code.to_owned())));
    assert!(summary["rejected"][4]["detail"].as_str().unwrap().contains("colour"), "{summary}");
    assert_eq!(payloads(&z, "t").await, ["one", "five"]);
    let metrics = z.metrics().await;
    assert!(metrics.contains("zombi_events_rejected_total{table=\"t\"} 7"), "{metrics}");

    // Without the word the first one ends the stream.
    let stopped = post(&z, "/tables/stopped", &[("content-type", NDJSON)], lines.join("\n")).await;
    let problem = stopped.refused("a bad line", 400, "bad_json");
    assert_eq!((&problem["line"], &problem["committed"]), (&json!(2), &json!(1)));

    // A stream of nothing but bad lines makes no table.
    let nothing = skip(&z, "never", &owned(&["x", "y"])).await;
    assert_eq!((nothing.status, &nothing.json()["count"]), (200, &json!(0)), "{nothing:?}");
    assert!(!is_there(&z, "never").await);
    for (query, body) in [("on_error=stop", "1"), ("on_error=", "1")] {
        let headers = [("content-type", NDJSON)];
        post(&z, &format!("/tables/t?{query}"), &headers, body).await.refused(query, 400, "bad_query");
    }
    let single = post(&z, "/tables/t?on_error=skip", &[], "{\"payload\":1}").await;
    single.refused("a single event", 400, "bad_query");
}

#[tokio::test]
async fn a_line_that_is_too_long_for_memory_is_left_out_and_the_next_is_read() {
    let z =
        TestServer::start_with(&[("limits.body_bytes", "2000000"), ("limits.record_bytes", "100000")]).await;
    let long = format!("{{\"payload\":\"{}\"}}", "x".repeat(5_000_000));
    let lines = [r#"{"payload":1}"#.to_owned(), long.clone(), r#"{"payload":2}"#.to_owned(), long];
    let answer = skip(&z, "t", &lines).await;
    let expected = [(2, "record_too_large"), (4, "record_too_large")];
    assert_eq!(rejected(&answer), expected.map(|(line, code)| (line, code.to_owned())), "{answer:?}");
    assert_eq!(payloads(&z, "t").await, [1, 2]);
}

#[tokio::test]
async fn a_reused_key_is_left_out_too_however_many_there_are() {
    let z = TestServer::start().await;
    let line = |key: usize, text: &str| format!("{{\"payload\":\"{text}\",\"idempotency_key\":\"{key}\"}}");
    let first: Vec<String> = (0..1000).map(|key| line(key, "first")).collect();
    assert_eq!(skip(&z, "t", &first).await.json()["count"], 1000);
    // Of these every third is another event under a known key, and the others are retries or new.
    let second: Vec<String> =
        (0..1500).map(|key| line(key, if key % 3 == 0 && key < 1000 { "other" } else { "first" })).collect();
    let answer = skip(&z, "t", &second).await;
    let summary = answer.json();
    assert_eq!((&summary["rejected_count"], &summary["count"]), (&json!(334), &json!(1166)), "{summary}");
    assert_eq!(summary["duplicates"], 666, "{summary}");
    let listed = rejected(&answer);
    assert_eq!(listed.len(), 100);
    assert!(
        listed.iter().enumerate().all(|(place, (line, code))| {
            *line == place as u64 * 3 + 1 && code == "idempotency_key_reused"
        })
    );
    let stored = z.read_all("t", "limit=10000").await;
    assert_eq!(stored.len(), 1500);
    assert!(stored.iter().all(|record| record["payload"] == "first"));

    // Twice in one stream, by themselves.
    let twice = [line(1, "a"), line(1, "b"), line(1, "a"), line(2, "c")];
    let answer = skip(&z, "twice", &twice).await;
    assert_eq!(rejected(&answer), [(2, "idempotency_key_reused".to_owned())], "{answer:?}");
    assert_eq!(payloads(&z, "twice").await, ["a", "c"]);
}

#[tokio::test]
async fn a_stream_that_was_mended_is_sent_again_with_its_places() {
    let z =
        TestServer::start_with(&[("limits.body_bytes", "1000000"), ("limits.record_bytes", "1000000")]).await;
    let headers = [("content-type", NDJSON), ("idempotency-key", "file")];
    let too_long = "x".repeat(2_000_000);
    for (table, bad) in
        [("broken", "{"), ("wide", too_long.as_str()), ("keyless", "{\"payload\":1,\"key\":\"\"}")]
    {
        let path = format!("/tables/{table}?on_error=skip");
        let send = async |second: &str| {
            let body = format!("{{\"payload\":0}}\n{second}\n{{\"payload\":2}}\n");
            post(&z, &path, &headers, body).await.json()
        };
        let broken = send(bad).await;
        assert_eq!(
            (&broken["count"], &broken["rejected_count"]),
            (&json!(2), &json!(1)),
            "{table}: {broken}"
        );
        let mended = send("{\"payload\":1}").await;
        assert_eq!(
            (&mended["count"], &mended["duplicates"], &mended["rejected_count"]),
            (&json!(3), &json!(2), &json!(0)),
            "{table}: {mended}"
        );
        assert_eq!(records(&z, table).await.len(), 3);
    }
}

#[tokio::test]
async fn lines_for_more_partitions_than_there_may_be_are_left_out() {
    let z = TestServer::start_with(&[("limits.partitions", "3")]).await;
    let lines: Vec<String> =
        (0..200).map(|number| json!({"payload": number, "partition": number % 5}).to_string()).collect();
    let answer = skip(&z, "t", &lines).await;
    let summary = answer.json();
    assert_eq!((answer.status, &summary["count"]), (200, &json!(120)), "{summary}");
    assert_eq!(summary["rejected_count"], 80, "{summary}");
    let expected = (0..200u64).filter(|number| number % 5 > 2);
    let expected = expected.map(|number| (number + 1, "too_many_partitions".to_owned()));
    assert_eq!(rejected(&answer), expected.collect::<Vec<_>>());
    assert_eq!(payloads(&z, "t").await.len(), 120);
    // Without the word they end the stream.
    let stopped = post(&z, "/tables/t", &[("content-type", NDJSON)], lines.join("\n")).await;
    let problem = stopped.refused("a partition too many", 422, "too_many_partitions");
    assert_eq!((&problem["line"], &problem["committed"]), (&json!(4), &json!(3)), "{problem}");
    assert_eq!(payloads(&z, "t").await.len(), 123);
}

#[tokio::test]
async fn a_stream_may_be_answered_by_headers() {
    let z = TestServer::start().await;
    let lines = (0..3).map(|number| format!("{{\"payload\":1,\"idempotency_key\":\"{}\"}}\n", number % 2));
    let lines = lines.collect::<String>();
    let minimal = [("content-type", NDJSON), ("prefer", "return=minimal")];
    for duplicates in ["1", "3"] {
        let answer = post(&z, "/tables/t", &minimal, lines.clone()).await;
        answer.is_bare(204, &[("zombi-count", "3"), ("zombi-duplicates", duplicates)]);
        assert_eq!(answer.header("preference-applied"), "return=minimal");
    }
    post(&z, "/tables/t/raw", &minimal, "1\n2\n").await.is_bare(204, &[("zombi-count", "2")]);
    // Whoever leaves lines out is told which.
    let answer = post(&z, "/tables/t/raw?on_error=skip", &minimal, "1\n{\n").await;
    assert_eq!((answer.status, &answer.json()["rejected_count"]), (200, &json!(1)), "{answer:?}");
    // A line that ends it is a problem all the same.
    let problem = post(&z, "/tables/t/raw", &minimal, "1\n{\n").await.refused("a bad line", 400, "bad_json");
    assert_eq!(problem["committed"], 1, "{problem}");
    let os = TestServer::start_with(&[("durability", "os")]).await;
    post(&os, "/tables/t", &minimal, lines).await.is_bare(202, &[("zombi-count", "3")]);
}
