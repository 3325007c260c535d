//! Half of a surrogate pair is no character, and what holds one is no JSON that other programs can read:
//! refused, wherever it stands.

use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use zombi::proto::v1::PayloadKind;

use super::{PROTOBUF, ask, bulk_of, event, expect_problem, post, post_json, refused_everywhere};
use testing::TestServer;

/// JSON values with half a pair.
const LONE: &[&str] = &[
    r#"{"a":"x\ud83d y"}"#,
    r#"{"a":"\ud83d"}"#,
    r#"{"a":"\udc00"}"#,
    r#"{"a":"\udc00\ud83d"}"#,
    r#"{"a":"\ud83d\ud83d"}"#,
    r#"{"a":"\ud83d\ud83d\ude00"}"#,
    r#"{"a":"\ud83d\ude00\ude00"}"#,
    r#"{"a":"\ud83dx\ude00"}"#,
    r#"{"a":"\ud83d\n\ude00"}"#,
    r#"{"a":"\ud83d\u0041"}"#,
    r#"{"a":"\ud83d\\ude00"}"#,
    r#"{"a":"\\\ud83d"}"#,
    r#"{"a":"\"\ud83d"}"#,
    r#"{"a":"\uD83D"}"#,
    r#"{"a":"\uDFFF"}"#,
    r#"{"a":"\uDbFf"}"#,
    r#"{"a":"\ud800"}"#,
    r#"{"\ud83dk":1}"#,
    r#"{"k\udc00":1}"#,
    r#"{"x\ud83d y":{"\udc00k":1}}"#,
    r#"[[{"a":["\ud83d"]}]]"#,
    r#"["good","\ud83d\ude00","\udc00"]"#,
    r#"[1, {"a": {"b": [null, "\ud83d"]}}]"#,
    r#"{"a":"\ud83d","b":"\ude00"}"#,
];

/// Strings with half a pair: as a payload they are text.
const LONE_TEXT: &[&str] = &[
    r#""x\ud83d y""#,
    r#""\udc00""#,
    r#""\uDC00\uD83D""#,
    r#""\ud83d\\ude00""#,
    r#""\ud83d""#,
    r#""\\\ud83d""#,
];

/// JSON values in which every pair is whole, or is no pair at all.
const WHOLE: &[&str] = &[
    r#"{"a":"\ud83d\ude00"}"#,
    r#"{"a":"\uD83D\uDE00"}"#,
    r#"{"a":"\uD83d\uDe00\ud83d\ude00"}"#,
    r#"{"\ud83d\ude00":1}"#,
    r#"{"a":"\\ud83d"}"#,
    r#"{"a":"\\\\ud83d"}"#,
    r#"{"a":"\\\ud83d\ude00"}"#,
    r#"{"\\udc00":"\\\\\\udc00"}"#,
    r#"{"a":"\ud7ff\ue000\ufffd"}"#,
    r#"{"a":"ud83d","b":"/ud83d"}"#,
    r#"["\"\\ud83d\""]"#,
    r#"{"a":"😀"}"#,
];

#[tokio::test]
async fn half_a_pair_is_refused_in_every_json_body() {
    let z = TestServer::start().await;
    for (number, payload) in LONE.iter().chain(LONE_TEXT).enumerate() {
        let record = format!("{{\"payload\":{payload},\"partition\":0}}");
        refused_everywhere(&z, &format!("t{number}"), &record, "bad_json").await;
        let answer = post_json(&z, "/tables/none", &record).await;
        let detail = answer.1["detail"].as_str().unwrap_or_default().to_lowercase();
        assert!(
            detail.contains("surrogate") || detail.contains("hex escape"),
            "it is not named: {}",
            answer.1
        );
    }
    for record in [
        r#"{"payload":1,"idempotency_key":"\ud83d"}"#,
        r#"{"payload":1,"headers":{"\ud83d":"v"}}"#,
        r#"{"payload":1,"headers":{"k":"\udc00"}}"#,
    ] {
        expect_problem(record, &post_json(&z, "/tables/none", record).await, 400, "bad_json");
    }
    assert_eq!(z.get("/tables/none").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn half_a_pair_is_refused_in_protobuf_that_says_it_is_json() {
    let z = TestServer::start().await;
    let headers = [("content-type", PROTOBUF)];
    for payload in LONE.iter().chain(LONE_TEXT) {
        let lone = event(*payload, PayloadKind::Json);
        let answer = ask(post(&z, "/tables/t", &headers, lone.encode_to_vec())).await;
        expect_problem(payload, &answer, 400, "bad_json");
        let bulk = bulk_of(vec![event("{}", PayloadKind::Json), event("{}", PayloadKind::Json), lone]);
        let answer = ask(post(&z, "/tables/t/bulk", &headers, bulk)).await;
        expect_problem(payload, &answer, 400, "bad_json").with("index", 2);
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "nothing was written");
    // Where nobody says that it is JSON it is text like any other.
    for kind in [PayloadKind::Text, PayloadKind::Bytes, PayloadKind::Unspecified] {
        let answer = ask(post(&z, "/tables/t", &headers, event(LONE[0], kind).encode_to_vec())).await;
        assert_eq!(answer.0, StatusCode::CREATED, "{}", answer.1);
    }
}

#[tokio::test]
async fn what_only_looks_like_half_a_pair_comes_back_byte_for_byte() {
    let z = TestServer::start_tiered(&[]).await;
    let headers = [("content-type", PROTOBUF)];
    for payload in WHOLE {
        let record = format!("{{\"payload\":{payload}}}");
        assert_eq!(post_json(&z, "/tables/t", &record).await.0, StatusCode::CREATED, "{payload}");
        let answer =
            ask(post(&z, "/tables/t", &headers, event(*payload, PayloadKind::Json).encode_to_vec())).await;
        assert_eq!(answer.0, StatusCode::CREATED, "{payload}: {}", answer.1);
    }
    for text in [r#""\ud83d\ude00""#, r#""\\ud83d""#] {
        assert_eq!(
            post_json(&z, "/tables/text", &format!("{{\"payload\":{text}}}")).await.0,
            StatusCode::CREATED,
            "{text}"
        );
    }
    for _ in 0..2 {
        let page = z.request(Method::GET, "/tables/t").send().await.unwrap().text().await.unwrap();
        for payload in WHOLE {
            assert_eq!(page.matches(&format!("\"payload\":{payload},")).count(), 2, "{payload} in {page}");
        }
        let texts: Vec<Value> =
            z.read_all("text", "").await.iter().map(|record| record["payload"].clone()).collect();
        assert_eq!(texts, [json!("😀"), json!(r"\ud83d")]);
        z.flush_and_evict().await;
    }
}
