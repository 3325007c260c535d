//! `zombi append`: what a line becomes.

use serde_json::{Value, json};
use testing::{TestServer, command::CommandLine};

use super::{FAILED, USAGE, one, payloads, says, zombi};

async fn append(z: &TestServer, words: &[&str], input: &str) -> Value {
    let words = [&["append"][..], words].concat();
    let ran = CommandLine::new(&words).at(z).input(input).run().await;
    assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.err);
    one(&ran)
}

#[tokio::test]
async fn lines_are_text_json_or_whole_events() {
    let z = TestServer::start().await;
    let summary = append(&z, &["text"], "one\r\n\n{\"a\": 1}\nlast").await;
    assert_eq!((&summary["table"], &summary["count"]), (&json!("text"), &json!(4)));
    assert_eq!((&summary["duplicates"], &summary["bytes"]), (&json!(0), &json!(15)));
    assert_eq!(payloads(&z, "text").await, ["one", "", "{\"a\": 1}", "last"]);

    append(&z, &["json", "--format", "json"], "{\"a\": 1.50}\n\n \"text\" \nnull\n[1,2]\n").await;
    let records = z.request(reqwest::Method::GET, "/tables/json").header("accept", "application/x-ndjson");
    let text = records.send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#"{"payload":{"a": 1.50},"#), "JSON is kept byte for byte: {text}");
    assert_eq!(payloads(&z, "json").await, [json!({"a": 1.5}), json!("text"), json!(null), json!([1, 2])]);

    let mut event = json!({"payload": {"n": 1}, "timestamp_ms": 7, "partition": 2, "idempotency_key": "own",
        "headers": {"a": "b"}});
    append(&z, &["events", "--format", "records", "-f", "-"], &event.to_string()).await;
    event["offset"] = json!(0);
    assert_eq!(z.read_all("events", "").await, [event]);
}

#[tokio::test]
async fn bytes_that_are_no_text_come_back_as_they_were() {
    let z = TestServer::start().await;
    let ran = CommandLine::new(&["append", "t"]).at(&z).input(b"\xff\x00\nplain\n").run().await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let records = z.read_all("t", "").await;
    assert_eq!((&records[0]["payload_base64"], &records[1]["payload"]), (&json!("/wA="), &json!("plain")));
}

#[tokio::test]
async fn what_is_read_can_be_appended_again() {
    let z = TestServer::start().await;
    append(&z, &["a", "--partition", "3", "--header", "h=v=w", "--header", "g="], "one\ntwo\n").await;
    let read = zombi(&z, &["read", "a"]).await;
    append(&z, &["b", "--format", "records"], &read.out).await;
    assert_eq!(z.read_all("b", "").await, z.read_all("a", "").await);
    let record = &z.read_all("b", "").await[0];
    assert_eq!((&record["partition"], &record["headers"]), (&json!(3), &json!({"g": "", "h": "v=w"})));
}

#[tokio::test]
async fn a_line_that_is_wrong_is_named_and_nothing_of_its_batch_is_sent() {
    let z = TestServer::start().await;
    for (words, input, named) in [
        (&["--format", "json"][..], "1\n2\n{\n", "line 3: bad_json"),
        (&["--format", "json"], "1\n2}\n", "line 2: bad_json"),
        (&["--format", "records"], "{\"payload\":1}\n\n[1]\n", "line 3: bad_json"),
        (&["--format", "json", "--idempotency-key", "id"], "{\"id\":1}\n{\"n\":2}\n", "line 2: there is no"),
    ] {
        let words = [&["append", "t"][..], words].concat();
        let ran = CommandLine::new(&words).at(&z).input(input).run().await;
        says(named, &ran, FAILED, &[named]);
        assert_eq!(ran.out, "");
    }
    // What the server refuses is named by its line, too, with what the server says.
    let input = "{\"payload\":1}\n\n{\"payload\":2,\"partition\":5000}\n";
    let ran = CommandLine::new(&["append", "t", "--format", "records"]).at(&z).input(input).run().await;
    says("a partition out of range", &ran, FAILED, &["line 3: partition_out_of_range: ", "request_id"]);
    let json = CommandLine::new(&["append", "t", "--format", "json"]).at(&z);
    let ran = json.input("1\n\"\\ud800\"\n").run().await;
    says("half of a surrogate pair", &ran, FAILED, &["line 2: bad_json: ", "request_id"]);
    assert_eq!(z.get("/tables/t").await.0, 404, "nothing was written");
}

#[tokio::test]
async fn erased_events_are_left_out_with_a_word() {
    let z = TestServer::start().await;
    let input = "{\"payload\":null,\"erased\":true,\"timestamp_ms\":1}\n{\"payload\":2}\n";
    let ran = CommandLine::new(&["append", "t", "--format", "records"]).at(&z).input(input).run().await;
    assert_eq!((ran.code, &one(&ran)["count"]), (Some(0), &json!(1)), "{}", ran.err);
    assert!(ran.err.contains("were erased: 1"), "{}", ran.err);
    assert_eq!(payloads(&z, "t").await, [2]);
}

#[tokio::test]
async fn flags_that_make_no_sense_are_usage() {
    let z = TestServer::start().await;
    for (words, named) in [
        (&["append", "a b"][..], "table name"),
        (&["append", "t", "-f", "/nowhere/file"], "/nowhere/file"),
        (&["append", "t", "-f", "/tmp"], "directory"),
        (&["append", "t", "--header", "novalue"], "NAME=VALUE"),
        (&["append", "t", "--idempotency-key", "line"], "--source"),
        (&["append", "t", "-f", "/dev/stdin", "--idempotency-key", "line"], "--source"),
        (&["append", "t", "--idempotency-key", "hash", "--source", "s"], "--source"),
        (&["append", "t", "--format", "csv"], "csv"),
        (&["append", "t", "-o", "payload"], "payload"),
        (&["append"], "TABLE"),
    ] {
        says(named, &CommandLine::new(words).at(&z).run().await, USAGE, &[named]);
    }
}

#[tokio::test]
async fn an_expected_offset_goes_on_from_batch_to_batch_and_over_a_run_before() {
    let z = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("numbers.ndjson");
    let name = path.display().to_string();
    let text = |count: u32| (0..count).map(|number| format!("{number}\n")).collect::<String>();
    // More than one batch.
    std::fs::write(&path, text(7000)).unwrap();
    let words = ["append", "t", "--format", "json", "-f", &name, "--expected-offset", "0"];
    assert_eq!(one(&zombi(&z, &words).await)["duplicates"], 0);
    // The file has grown: what is there already is known, and the rest stands right behind it.
    std::fs::write(&path, text(7500)).unwrap();
    let summary = one(&zombi(&z, &words).await);
    assert_eq!((&summary["count"], &summary["duplicates"]), (&json!(7500), &json!(7000)));
    assert_eq!(payloads(&z, "t").await.len(), 7500);
    // Somebody else has written.
    let other = [&words[..], &["--source", "other"]].concat();
    let ran = CommandLine::new(&other).at(&z).run().await;
    says("an offset that is taken", &ran, FAILED, &["offset_mismatch"]);
    assert_eq!(payloads(&z, "t").await.len(), 7500);
}

#[tokio::test]
async fn a_batch_that_is_too_large_for_the_server_is_sent_in_parts() {
    let z = TestServer::start_with(&[("limits.bulk_records", "7")]).await;
    let input: String = (0..100).map(|number| format!("{number}\n")).collect();
    let summary = append(&z, &["t", "--format", "json"], &input).await;
    assert_eq!((&summary["count"], &summary["duplicates"]), (&json!(100), &json!(0)));
    assert_eq!(payloads(&z, "t").await, (0..100).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_line_that_no_request_can_hold_is_named() {
    let z = TestServer::start_with(&[("limits.record_bytes", "1000"), ("limits.body_bytes", "1500")]).await;
    let input = format!("ok\n{}\nafter\n", "x".repeat(2000));
    let ran = CommandLine::new(&["append", "t", "--format", "lines"]).at(&z).input(&input).run().await;
    says("the second line", &ran, FAILED, &["line 2: body_too_large"]);
}
