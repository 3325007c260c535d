//! Idempotency keys of `zombi append`: the same input twice is stored once.

use serde_json::json;
use testing::{TestServer, command::CommandLine};

use super::{FAILED, one, payloads, says, zombi};

#[tokio::test]
async fn a_file_appended_twice_is_stored_once() {
    let z = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines.txt");
    std::fs::write(&file, "a\na\nb\n").unwrap();
    let name = file.display().to_string();
    for (table, more) in [
        ("by-default", &[][..]),
        ("by-line", &["--idempotency-key", "line"]),
        ("by-source", &["--source", "january"]),
        ("by-hash", &["--idempotency-key", "hash"]),
    ] {
        let words = [&["append", table, "-f", &name][..], more].concat();
        for duplicates in [0, 3] {
            let summary = one(&zombi(&z, &words).await);
            assert_eq!(summary["count"], 3, "{table}");
            assert_eq!(summary["duplicates"], duplicates, "{table}");
        }
        assert_eq!(payloads(&z, table).await, ["a", "a", "b"], "{table}");
    }
    let records = z.read_all("by-source", "").await;
    assert_eq!(records[2]["idempotency_key"], "january:3");
    let records = z.read_all("by-default", "").await;
    assert_eq!(records[2]["idempotency_key"], "lines.txt:3");

    // More behind what was there is all that is new.
    std::fs::write(&file, "a\na\nb\nc\n").unwrap();
    let summary = one(&zombi(&z, &["append", "by-line", "-f", &name]).await);
    assert_eq!((&summary["count"], &summary["duplicates"]), (&json!(4), &json!(3)));
    // Another file of this name is no retry.
    std::fs::write(&file, "x\n").unwrap();
    let ran = CommandLine::new(&["append", "by-line", "-f", &name]).at(&z).run().await;
    says("another file", &ran, FAILED, &["line 1: idempotency_key_reused", "--source"]);
    assert_eq!(payloads(&z, "by-line").await.len(), 4);
}

#[tokio::test]
async fn a_standard_input_is_another_each_time_unless_it_has_a_name() {
    let z = TestServer::start().await;
    for _ in 0..2 {
        let ran = CommandLine::new(&["append", "t"]).at(&z).input("a\n").run().await;
        assert_eq!(one(&ran)["duplicates"], 0);
        let ran = CommandLine::new(&["append", "named", "--source", "s"]).at(&z).input("a\n").run().await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
    }
    assert_eq!(payloads(&z, "t").await, ["a", "a"]);
    assert_eq!(payloads(&z, "named").await, ["a"]);
}

#[tokio::test]
async fn a_field_is_a_key_wherever_the_line_stands() {
    let z = TestServer::start().await;
    let words = ["append", "t", "--format", "json", "--idempotency-key", "id"];
    for (input, duplicates) in [("{\"id\":1}\n{\"id\":\"x\"}\n", 0), ("{\"id\":\"x\"}\n{\"id\":2}\n", 1)] {
        let ran = CommandLine::new(&words).at(&z).input(input).run().await;
        assert_eq!(one(&ran)["duplicates"], duplicates, "{}", ran.err);
    }
    let records = z.read_all("t", "").await;
    let keys: Vec<_> = records.iter().map(|record| record["idempotency_key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["1", "x", "2"]);
}
