//! JSON by its names, never by places: an array is no record, no commit, no setting, and no member stands
//! twice.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{JSON, JsonAnswer, ask, expect_problem, payloads, post_json, refused_everywhere};
use testing::TestServer;

/// PUT of JSON text as it stands there.
async fn put(z: &TestServer, url: String, text: &str) -> JsonAnswer {
    ask(z.client.request(Method::PUT, url).header("content-type", JSON).body(text.to_owned())).await
}

#[tokio::test]
async fn a_record_is_an_object_and_nothing_else() {
    let z = TestServer::start().await;
    let records = [
        r#"["hello",null,3,1000,"key",{"a":"b"}]"#,
        r#"["hello"]"#,
        "[]",
        r#"[{"payload":1}]"#,
        r#""hello""#,
        "1",
        "null",
        "true",
        r#"{"payload":1,"headers":[["a","b"]]}"#,
        r#"{"payload":1,"headers":["a","b"]}"#,
        r#"{"payload":1,"headers":"a"}"#,
        r#"{"payload":1,"headers":{"a":["b"]}}"#,
        r#"{"payload":1,"headers":{"a":1}}"#,
        r#"{"payload":1,"partition":[0]}"#,
        r#"{"payload":1,"idempotency_key":["k"]}"#,
        r#"{"payload_base64":["AA=="]}"#,
    ];
    for (number, record) in records.into_iter().enumerate() {
        refused_everywhere(&z, &format!("t{number}"), record, "bad_json").await;
    }
}

#[tokio::test]
async fn a_bulk_write_is_an_object_with_an_array() {
    let z = TestServer::start().await;
    for body in [
        r#"[[{"payload":1}]]"#,
        r#"[{"payload":1}]"#,
        "[]",
        "null",
        "7",
        r#""records""#,
        r#"{"records":{"payload":1}}"#,
        r#"{"records":{"0":{"payload":1}}}"#,
        r#"{"records":null}"#,
        r#"{"records":"x"}"#,
        r#"{"records":[{"payload":1}],"records":[{"payload":2}]}"#,
        r#"{"records":[{"payload":1}],"records":[]}"#,
        r#"{"records":[{"payload":1}],"more":1}"#,
        r#"{"records":[{"payload":1}]}[]"#,
        r#"{"records":[{"payload":1},]}"#,
    ] {
        expect_problem(body, &post_json(&z, "/tables/t/bulk", body).await, 400, "bad_json")
            .with("outcome", "not_written");
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "nothing was written");
}

#[tokio::test]
async fn no_member_of_a_record_stands_twice() {
    let z = TestServer::start().await;
    let records = [
        r#"{"payload":1,"payload":1}"#,
        r#"{"payload":1,"p\u0061yload":2}"#,
        r#"{"payload":null,"payload":2}"#,
        r#"{"payload_base64":"AA==","payload_base64":"AA=="}"#,
        r#"{"payload":1,"partition":0,"partition":0}"#,
        r#"{"payload":1,"partition":null,"partition":3}"#,
        r#"{"payload":1,"timestamp_ms":1,"timestamp_ms":2}"#,
        r#"{"payload":1,"idempotency_key":"a","idempotency_key":"b"}"#,
        r#"{"payload":1,"key":"a","key":"b"}"#,
        r#"{"payload":1,"headers":{"a":"1"},"headers":{"b":"2"}}"#,
        r#"{"payload":1,"headers":{"a":"1","a":"2"}}"#,
        r#"{"payload":1,"headers":{"a":"1","a":"1"}}"#,
        r#"{"payload":1,"headers":{"a":"1","b":"2","a":"3"}}"#,
        r#"{"payload":1,"headers":{"a":"1","\u0061":"2"}}"#,
        r#"{"payload":1,"headers":{"":"1","":"2"}}"#,
        r#"{"headers":{"\ud83d\ude00":"1","😀":"2"},"payload":1}"#,
    ];
    for (number, record) in records.into_iter().enumerate() {
        refused_everywhere(&z, &format!("t{number}"), record, "bad_json").await;
    }
    // Names that differ in case are two, and a payload's members are the client's own.
    let record = r#"{"payload":{"a":1,"a":2},"headers":{"a":"1","A":"2"}}"#;
    assert_eq!(post_json(&z, "/tables/good", record).await.0, StatusCode::CREATED);
    let text = z.request(Method::GET, "/tables/good").send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#"{"a":1,"a":2}"#), "{text}");
}

#[tokio::test]
async fn a_commit_is_an_object_and_so_is_each_of_several() {
    let z = TestServer::start().await;
    for _ in 0..3 {
        z.post("/tables/t", &json!({"payload": 1})).await;
    }
    for body in [
        r#"["t",0,1,null,false]"#,
        r#"["t",0,1]"#,
        "[]",
        r#"[{"table":"t","offset":1}]"#,
        "null",
        r#""t""#,
        "1",
        r#"{"commits":[["t",0,1]]}"#,
        r#"{"commits":[["t"]]}"#,
        r#"{"commits":[[]]}"#,
        r#"{"commits":["t"]}"#,
        r#"{"commits":[null]}"#,
        r#"{"commits":[{"table":"t","offset":1},["t",0,2]]}"#,
        r#"{"commits":{"table":"t","offset":1}}"#,
        r#"{"table":["t"],"offset":1}"#,
        r#"{"table":"t","offset":[1]}"#,
        r#"{"table":"t","table":"t","offset":1}"#,
        r#"{"table":"t","topic":"t","offset":1}"#,
        r#"{"table":"t","offset":1,"offset":2}"#,
        r#"{"table":"t","offset":1,"partition":0,"partition":0}"#,
        r#"{"table":"t","offset":1,"force":false,"force":true}"#,
        r#"{"commits":[{"table":"t","offset":1,"offset":2}]}"#,
        r#"{"commits":[{"table":"t","topic":"u","offset":1}]}"#,
        r#"{"commits":[{"table":"t","offset":1}],"commits":[{"table":"t","offset":2}]}"#,
    ] {
        expect_problem(body, &post_json(&z, "/consumers/g/commit", body).await, 400, "bad_json");
    }
    assert_eq!(z.get("/consumers/g/offset?table=t").await.1["offset"], Value::Null, "nothing was committed");
}

#[tokio::test]
async fn settings_are_an_object_and_what_was_set_stays() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    let (status, body) =
        z.put("/tables/t/config", &json!({"retention_secs": 1000, "retention_bytes": 1_000_000})).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let before = z.get("/tables/t/config").await.1;
    for body in [
        "[60]",
        "[]",
        "[60,null]",
        "[null,null]",
        "null",
        "60",
        r#""60""#,
        r#"{"retention_secs":[60]}"#,
        r#"{"retention_secs":"60"}"#,
        r#"{"retention_secs":60,"retention_secs":70}"#,
        r#"{"retention_secs":null,"retention_secs":70}"#,
        r#"{"retention_bytes":1,"retention_secs":70,"retention_bytes":1}"#,
    ] {
        expect_problem(body, &put(&z, z.url("/tables/t/config"), body).await, 400, "bad_json");
        expect_problem(body, &put(&z, z.url("/tables/new/config"), body).await, 400, "bad_json");
    }
    assert_eq!(z.get("/tables/t/config").await.1, before);
    assert_eq!(z.get("/tables/new/config").await.0, StatusCode::NOT_FOUND, "no table was made");
    assert_eq!(payloads(&z, "t").await, [1]);
}

#[tokio::test]
async fn a_log_level_is_an_object_and_what_was_set_stays() {
    let z = TestServer::start().await;
    for body in [
        r#"["debug"]"#,
        "[]",
        r#"[{"level":"debug"}]"#,
        r#""debug""#,
        "null",
        r#"{"level":["debug"]}"#,
        r#"{"level":"debug","level":"debug"}"#,
        r#"{"level":"debug","more":1}"#,
    ] {
        expect_problem(body, &put(&z, z.admin_url("/log/level"), body).await, 400, "bad_json");
    }
    let (status, body) = ask(z.client.get(z.admin_url("/log/level"))).await;
    assert_eq!((status, &body["level"]), (StatusCode::OK, &json!("info")));
}
