//! What a key stood for is remembered as long as the key: over restarts, flushes, evictions and a volume that
//! was lost.

use reqwest::StatusCode;
use serde_json::json;

use super::{NDJSON, ask, expect_problem, post, post_json};
use testing::TestServer;

/// Payloads of each kind: the member as it is sent first, the same in other words, and another one.
const PAYLOADS: &[(&str, &str, &str)] = &[
    (r#""payload":"a text""#, r#""payload":"a t\u0065xt""#, r#""payload":"another text""#),
    (r#""payload":"""#, r#""payload":"""#, r#""payload":" ""#),
    (r#""payload":"two\nlines""#, r#""payload":"two\nlines""#, r#""payload":"two lines""#),
    (r#""payload":{"a":[1,2]}"#, r#""payload": {"a": [1, 2]} "#, r#""payload":{"a":[1,3]}"#),
    ("\"payload\":{ \"a\" :\n\t[ 1 ] }", r#""payload":{"a":[1]}"#, r#""payload":{"a":["1"]}"#),
    (r#""payload":{"a":"x \"  y"}"#, r#""payload":{"a" : "x \"  y"}"#, r#""payload":{"a":"x \" y"}"#),
    (r#""payload":7"#, r#""payload": 7 "#, r#""payload":"7""#),
    (r#""payload":null"#, r#""payload":null"#, r#""payload":false"#),
    (r#""payload_base64":"AP+A""#, r#""payload_base64":"AP+A""#, r#""payload_base64":"AP+B""#),
    (r#""payload_base64":"aGVsbG8=""#, r#""payload_base64":"aGVsbG8=""#, r#""payload":"hello""#),
];

fn record(number: usize, payload: &str) -> String {
    format!("{{{payload},\"idempotency_key\":\"k{number}\",\"partition\":{}}}", number % 2)
}

/// Every key is known for what it was first used for, and for nothing else.
async fn expect_known(z: &TestServer, offsets: &[u64], when: &str) {
    for (number, ((first, same, other), offset)) in PAYLOADS.iter().zip(offsets).enumerate() {
        for payload in [first, same] {
            let (status, body) = post_json(z, "/tables/t", &record(number, payload)).await;
            assert_eq!(
                (status, &body["offset"], &body["duplicate"]),
                (StatusCode::OK, &json!(offset), &json!(true)),
                "{when}: {payload}: {body}"
            );
        }
        let what = format!("{when}: {other}");
        let answer = post_json(z, "/tables/t", &record(number, other)).await;
        expect_problem(&what, &answer, 422, "idempotency_key_reused")
            .with("index", 0)
            .with("offset", *offset);
        let bulk = format!("{{\"records\":[{{\"payload\":1}},{}]}}", record(number, other));
        let answer = post_json(z, "/tables/t/bulk", &bulk).await;
        expect_problem(&what, &answer, 422, "idempotency_key_reused")
            .with("index", 1)
            .with("offset", *offset);
        let lines = format!("{}\n{}", record(number, same), record(number, other));
        let answer = ask(post(z, "/tables/t", &[("content-type", NDJSON)], lines)).await;
        expect_problem(&what, &answer, 422, "idempotency_key_reused")
            .with("line", 2)
            .with("committed", 1)
            .with("offset", *offset);
    }
    assert_eq!(z.read_all("t", "").await.len(), PAYLOADS.len(), "{when}: nothing more was written");
}

#[tokio::test]
async fn what_a_key_stood_for_is_known_as_long_as_the_key() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut offsets = Vec::new();
    for (number, (first, ..)) in PAYLOADS.iter().enumerate() {
        let (status, body) = post_json(&z, "/tables/t", &record(number, first)).await;
        assert_eq!(status, StatusCode::CREATED, "{first}: {body}");
        offsets.push(body["offset"].as_u64().unwrap());
    }
    expect_known(&z, &offsets, "at once").await;
    z.crash().await;
    expect_known(&z, &offsets, "over a crash").await;
    z.flush_and_evict().await;
    assert_eq!(z.partition("t", 0).await["low"], z.partition("t", 0).await["next"]);
    expect_known(&z, &offsets, "evicted").await;
    z.crash().await;
    expect_known(&z, &offsets, "evicted and over a crash").await;
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    expect_known(&z, &offsets, "with the volume lost").await;
    assert_eq!(z.terminate().await, Some(0));
    z.run().await;
    expect_known(&z, &offsets, "rebuilt and stopped").await;
}
