//! What a volume has beyond the chain is printed, and posted again.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde_json::{Value, json};
use testing::{Sent, TestServer, command::CommandLine};

use super::{done, json_of, refused};

/// The lines that are events.
fn events(text: &str) -> Vec<Value> {
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn what_an_abandoned_volume_had_is_saved() {
    let mut first = TestServer::start_tiered(&[]).await;
    Sent::default().append(&first, "t", 2, 20).await;
    first.flush_and_evict().await;
    // Acked, and never in S3.
    let left = json!({
        "payload": {"order": 7}, "key": "customer", "idempotency_key": "order-7", "headers": {"a": "b"},
        "timestamp_ms": 1_700_000_000_000_i64, "partition": 1,
    });
    assert_eq!(first.post("/tables/t", &left).await.0, StatusCode::CREATED);
    first.kill().await;
    let mut second = first.beside();
    second.run().await;
    assert_eq!(second.post("/tables/t", &json!({"payload": "of the second"})).await.0, StatusCode::CREATED);
    second.flush_and_evict().await;

    let text = done(&first, &["salvage"]).await;
    let found = events(&text);
    assert_eq!(found.len(), 1, "{text}");
    for field in ["payload", "key", "idempotency_key", "headers", "timestamp_ms", "partition"] {
        assert_eq!(found[0][field], left[field], "{field}");
    }
    assert_eq!(found[0]["offset"], 10);
    let lines: String = found.iter().map(|event| format!("{event}\n")).collect();
    for count in ["first", "second"] {
        let (status, answer) = second.post_bytes("/tables/t", "application/x-ndjson", lines.clone()).await;
        assert_eq!((status, &answer["count"]), (StatusCode::CREATED, &json!(1)), "{count}: {answer}");
    }
    let records = second.read_all("t", "partition=1").await;
    assert_eq!(records.iter().filter(|record| record["payload"] == left["payload"]).count(), 1);
    second.flush_and_evict().await;
    second.audit().await;
}

#[tokio::test]
async fn one_table_is_printed_at_a_time() {
    let mut z = TestServer::start_tiered(&[]).await;
    for table in ["a", "b"] {
        Sent::default().append(&z, table, 1, 5).await;
    }
    z.flush_and_evict().await;
    z.kill().await;
    let text = done(&z, &["salvage"]).await;
    assert!(events(&text).is_empty() && text.contains("no event that is not in S3"), "{text}");
    z.run().await;
    for table in ["a", "b"] {
        assert_eq!(
            z.post(&format!("/tables/{table}"), &json!({"payload": table})).await.0,
            StatusCode::CREATED
        );
    }
    refused(&z, &["salvage"], &["db"]).await; // it is in use
    z.kill().await;
    refused(&z, &["salvage"], &["a, b", "--table"]).await;
    let directory = z.data_dir().display().to_string();
    let ran = CommandLine::new(&["salvage", "--data-dir", &directory]).run().await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "which one is asked for: {}", ran.err);
    let files = || {
        let files = std::fs::read_dir(z.data_dir()).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name(), std::fs::read(file.path()).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = files();
    let text = done(&z, &["salvage", "--table", "b"]).await;
    assert_eq!(events(&text)[0]["payload"], "b");
    assert!(files() == before, "nothing is written to it");
    refused(&z, &["salvage", "--table", "c"], &["table c"]).await;
    // Counted, each of them is, and none is printed.
    let counts = |tables: &[&str]| {
        let tables: Vec<_> = tables.iter().map(|table| json!({"table": table, "events": 1})).collect();
        json!({"tables": tables, "erasures": [], "has_bucket": true})
    };
    assert_eq!(json_of(&z, &["salvage", "--dry-run"]).await, counts(&["a", "b"]));
    assert_eq!(json_of(&z, &["salvage", "--dry-run", "--table", "b"]).await, counts(&["b"]));
    let text = done(&z, &["salvage", "--dry-run"]).await;
    for line in ["1 events of a that", "1 events of b that", "no event was printed"] {
        assert!(text.contains(line), "nothing of {line:?} in {text}");
    }
    assert!(events(&text).is_empty(), "{text}");
    refused(&z, &["salvage", "--dry-run", "--table", "c"], &["table c"]).await;
    assert!(files() == before, "nothing is written to it");
    // It was only read.
    z.run().await;
    assert_eq!(z.read_all("a", "").await.len(), 6);
}

/// What is to be posted has nothing else in it; what is said beside it, and how far it is, a person sees.
#[tokio::test]
async fn events_alone_are_printed_and_all_else_is_said_beside_them() {
    let mut z = TestServer::start().await;
    Sent::default().append(&z, "t", 2, 50).await;
    z.kill().await;
    let directory = z.data_dir().display().to_string();
    let words = ["salvage", "--data-dir", &directory];
    let ran = CommandLine::new(&[&words[..], &["--json"]].concat()).run().await;
    assert_eq!((ran.code, ran.out.lines().count(), events(&ran.out).len()), (Some(0), 50, 50), "{}", ran.out);
    let counts = json!({"tables": [{"table": "t", "events": 50}], "erasures": [], "has_bucket": false});
    assert_eq!(serde_json::from_str::<Value>(&ran.err).unwrap(), counts);
    for words in [&words[..], &[&words[..], &["--dry-run"]].concat()] {
        let ran = CommandLine::new(words).watched(120).await;
        assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.err);
        for word in ["%", " left"] {
            assert!(ran.err.contains(word), "{words:?}: {word:?} is not shown: {:?}", ran.err);
        }
    }
    // Where the events themselves are on the terminal, no bar stands between them.
    let ran = CommandLine::new(&words).on_terminal(120).await;
    assert_eq!((ran.code, events(&ran.out).len()), (Some(0), 50), "{}", ran.out);
    assert!(!ran.out.contains(" left"), "{}", ran.out);
}

#[tokio::test]
async fn no_volume_is_made_where_there_is_none() {
    let z = TestServer::hot(&[]);
    refused(&z, &["salvage"], &["holds no volume"]).await;
    assert!(!z.data_dir().exists());
}
