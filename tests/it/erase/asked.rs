//! What may be asked for, and what is answered.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{done, erase, event, expect_erased, expect_kept, ndjson, secret, write};
use crate::auth::secured::{Secured, binding, policy};
use testing::TestServer;

#[tokio::test]
async fn each_way_to_name_events_erases_them_and_no_others() {
    let z = TestServer::start().await;
    write(&z, 0..12).await;
    let same = json!({"payload": "x", "key": "twice", "headers": {"a": "1", "b": "2"}, "partition": 0});
    for _ in 0..2 {
        assert_eq!(z.post("/tables/t", &same).await.0, StatusCode::CREATED);
    }
    let ways = [
        (json!({"partition": 0, "offsets": [3, 1, 3], "reason": "a ticket"}), vec![1, 3]),
        (json!({"offsets": [4]}), vec![4]),
        (json!({"key": event(5)["key"]}), vec![5]),
        (json!({"header": event(7)["headers"]}), vec![7]),
        (json!({"idempotency_key": event(9)["idempotency_key"], "partition": 0}), vec![9]),
    ];
    let mut gone = Vec::new();
    for (asked, numbers) in ways {
        let shown = done(&z, &erase(&z, &asked).await).await;
        assert_eq!(shown["events"], numbers.len(), "{shown}");
        for member in ["id", "asked_ms", "hot_done_ms", "done_ms"] {
            assert!(!shown[member].is_null(), "{member} in {shown}");
        }
        assert_eq!(shown["reason"], asked["reason"]);
        gone.extend(numbers);
    }
    for number in 0..12 {
        match gone.contains(&number) {
            true => expect_erased(&z, number).await,
            false => expect_kept(&z, number).await,
        }
    }
    // All headers count, and a text that ends in a star is no prefix here.
    for nothing in [json!({"header": {"a": "1", "b": "3"}}), json!({"key": "tw*"}), json!({"key": "no"})] {
        let (status, shown) = z.post("/tables/t/erase", &nothing).await;
        assert_eq!((status, &shown["status"]), (StatusCode::ACCEPTED, &json!("done")), "{shown}");
        assert_eq!(shown["events"], 0);
    }
    assert_eq!(done(&z, &erase(&z, &json!({"header": {"a": "1"}})).await).await["events"], 2);
}

#[tokio::test]
async fn an_erased_event_is_found_by_nothing_it_had_and_its_retry_is_a_duplicate() {
    let mut z = TestServer::start().await;
    write(&z, 0..3).await;
    done(&z, &erase(&z, &json!({"offsets": [1]})).await).await;
    let (key, subject) = (event(1)["key"].clone(), event(1)["headers"]["subject"].clone());
    for query in [
        format!("key={}", key.as_str().unwrap()),
        "key=key-*".to_owned(),
        format!("subject={}", subject.as_str().unwrap()),
        "header.subject=*".to_owned(),
    ] {
        let found = ndjson(&z, &query).await;
        assert!(found.iter().all(|record| record["offset"] != 1), "{query}: {found:?}");
    }
    let all = ndjson(&z, "limit=10").await;
    assert_eq!(all.len(), 3);
    assert_eq!(all[1]["erased"], true);
    for restarts in [false, true] {
        if restarts {
            z.crash().await;
        }
        for payload in [event(1)["payload"].clone(), json!("another")] {
            let mut again = event(1);
            again["payload"] = payload;
            let (status, body) = z.post("/tables/t", &again).await;
            assert_eq!((status, &body["offset"]), (StatusCode::OK, &json!(1)), "{body}");
            assert_eq!(body["duplicate"], true);
        }
    }
    expect_erased(&z, 1).await;
    // The others are still compared.
    let mut reused = event(2);
    reused["payload"] = json!("another");
    assert_eq!(z.post("/tables/t", &reused).await.1["code"], "idempotency_key_reused");
    // Erased once more, it stays what it is.
    done(&z, &erase(&z, &json!({"offsets": [1]})).await).await;
    assert_eq!(z.post("/tables/t", &event(3)).await.1["offset"], 3);
    expect_kept(&z, 2).await;
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_said_and_nothing_is_erased() {
    let z = TestServer::start_with(&[("erase.offsets", "2")]).await;
    write(&z, 0..3).await;
    let long = "x".repeat(1025);
    for (asked, status, code) in [
        (json!({}), 400, "bad_erasure"),
        (json!({"reason": "none"}), 400, "bad_erasure"),
        (json!({"offsets": []}), 400, "bad_erasure"),
        (json!({"offsets": [0], "key": "k"}), 400, "bad_erasure"),
        (json!({"key": ""}), 400, "bad_erasure"),
        (json!({"header": {}}), 400, "bad_erasure"),
        (json!({"idempotency_key": ""}), 400, "bad_erasure"),
        (json!({"offsets": [0], "reason": long}), 400, "bad_erasure"),
        (json!({"offsets": [-1]}), 400, "bad_json"),
        (json!({"offsets": "0"}), 400, "bad_json"),
        (json!({"offset": [0]}), 400, "bad_json"),
        (json!([0]), 400, "bad_json"),
        (json!({"offsets": [0], "partition": 5000}), 422, "partition_out_of_range"),
        (json!({"offsets": [0], "partition": -1}), 422, "partition_out_of_range"),
        (json!({"offsets": [0], "partition": 4_294_967_296_u64}), 422, "partition_out_of_range"),
        (json!({"offsets": [0], "partition": 0.5}), 400, "bad_json"),
        (json!({"offsets": [3]}), 422, "erase_beyond_end"),
        (json!({"offsets": [0], "partition": 7}), 422, "erase_beyond_end"),
        (json!({"offsets": [0, 1, 2]}), 422, "too_many_offsets"),
    ] {
        let (found, problem) = z.post("/tables/t/erase", &asked).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &json!(code)), "{asked}: {problem}");
    }
    // Which of the two is meant nobody knows.
    let twice = r#"{"header": {"type": "order.made", "type": "order.paid"}}"#;
    let (status, problem) = z.post_bytes("/tables/t/erase", "application/json", twice).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("bad_json")), "{problem}");
    let (status, problem) = z.post("/tables/none/erase", &json!({"offsets": [0]})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("unknown_table")));
    let text = z.post_bytes("/tables/t/erase", "text/plain", "x").await;
    assert_eq!(text.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for id in ["00000000-0000-4000-8000-000000000000", "none"] {
        let (status, problem) = z.get(&format!("/tables/t/erase/{id}")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("unknown_erasure")), "{id}");
    }
    let id = erase(&z, &json!({"offsets": [0]})).await;
    assert_eq!(z.get(&format!("/tables/other/erase/{id}")).await.0, StatusCode::NOT_FOUND);
    done(&z, &id).await;
    expect_kept(&z, 1).await;
    expect_kept(&z, 2).await;
}

#[tokio::test]
async fn only_the_last_erasures_are_remembered() {
    let z = TestServer::start_with(&[("erase.keep", "2")]).await;
    write(&z, 0..4).await;
    let mut ids = Vec::new();
    for number in 0..4 {
        let id = erase(&z, &json!({"offsets": [number]})).await;
        done(&z, &id).await;
        ids.push(id);
    }
    let known = async |id: &str| z.get(&format!("/tables/t/erase/{id}")).await.0 == StatusCode::OK;
    assert!(!known(&ids[0]).await && known(&ids[3]).await);
}

#[tokio::test]
async fn who_asked_is_shown_and_logged() {
    let owner = binding("owner", "owner", &["t"], &["g"]);
    let s = Secured::start(&policy(&[owner]), &["owner"], &[]).await;
    assert_eq!(s.post("owner", "/tables/t", &json!({"payload": secret(1)})).await.0, StatusCode::CREATED);
    let (status, shown): (StatusCode, Value) =
        s.post("owner", "/tables/t/erase", &json!({"offsets": [0]})).await;
    assert_eq!((status, &shown["asked_by"]), (StatusCode::ACCEPTED, &json!("token:owner")), "{shown}");
}

/// A table as lines.
async fn text(z: &TestServer, table: &str) -> String {
    let request = z.request(Method::GET, &format!("/tables/{table}?format=ndjson"));
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn lines_that_were_read_can_be_posted_back_and_erased_events_are_passed_over() {
    const NDJSON: &str = "application/x-ndjson";
    let z = TestServer::start().await;
    write(&z, 0..4).await;
    done(&z, &erase(&z, &json!({"offsets": [1, 3]})).await).await;
    let lines = text(&z, "t").await;
    for duplicates in [0, 2] {
        let (status, summary) = z.post_bytes("/tables/copy", NDJSON, lines.clone()).await;
        let partitions = json!({"0": {"first": 0, "last": 1}});
        let expected = json!({"count": 2, "duplicates": duplicates, "erased": 2, "partitions": partitions});
        assert_eq!((status, &summary), (StatusCode::CREATED, &expected));
    }
    let (status, summary) = z.post_bytes("/tables/copy?on_error=skip", NDJSON, lines.clone()).await;
    assert_eq!(
        (status, &summary["erased"], &summary["rejected_count"]),
        (StatusCode::OK, &json!(2), &json!(0))
    );
    let copied = z.read_all("copy", "").await;
    assert_eq!(copied.len(), 2, "{copied:?}");
    for (found, number) in copied.iter().zip([0, 2]) {
        let sent = event(number);
        for name in ["payload", "key", "headers", "idempotency_key", "timestamp_ms"] {
            assert_eq!(found[name], sent[name], "{name} of event {number}");
        }
    }
    // Where each record is answered for, it is named.
    let erased: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    let (status, problem) = z.post("/tables/copy", &erased).await;
    assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_payload")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("erased"), "{problem}");
    let (status, problem) = z.post("/tables/copy/bulk", &json!({"records": [event(5), erased]})).await;
    assert_eq!(
        (status.as_u16(), &problem["code"], &problem["index"]),
        (400, &json!("bad_payload"), &json!(1)),
        "{problem}"
    );
    assert_eq!(z.read_all("copy", "").await.len(), 2);
    assert!(z.post_bytes("/tables/whole", NDJSON, text(&z, "copy").await).await.1.get("erased").is_none());
}

#[tokio::test]
async fn a_line_that_is_passed_over_keeps_the_places_of_the_others() {
    let z = TestServer::start().await;
    let send = async |second: &str| {
        let request = z.request(Method::POST, "/tables/t");
        let request =
            request.header("content-type", "application/x-ndjson").header("idempotency-key", "file");
        let body = format!("{{\"payload\":0}}\n{second}\n{{\"payload\":2}}\n");
        let text = request.body(body).send().await.unwrap().text().await.unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(send("{\"payload\":1}").await["count"], 3);
    let again = send("{\"payload\":null,\"erased\":true}").await;
    assert_eq!((&again["count"], &again["duplicates"], &again["erased"]), (&json!(2), &json!(2), &json!(1)));
}
