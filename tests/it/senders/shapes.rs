//! What well-known programs send: stored whole, or refused by an error that names the cure.

use serde_json::{Value, json};

use super::{is_there, post, records};
use testing::TestServer;

/// What Alertmanager posts to a webhook, shortened.
const ALERT: &str = r#"{"receiver":"zombi","status":"firing","version":"4",
"alerts":[{"status":"firing","labels":{"alertname":"Down"},"startsAt":"2018-04-05T17:31:00.123Z"}],
"groupKey":"{}:{alertname=\"Down\"}"}"#;

#[tokio::test]
async fn webhooks_are_raw_bodies_with_headers_of_their_own() {
    let settings = [("raw.keep_headers", "content-type,x-github-event,x-github-delivery")];
    let z = TestServer::start_with(&settings).await;
    let alertmanager = [("content-type", "application/json"), ("user-agent", "Alertmanager/0.27.0")];
    let answer = post(&z, "/tables/alerts/raw", &alertmanager, ALERT).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let github = [
        ("content-type", "application/json"),
        ("x-github-event", "push"),
        ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("x-hub-signature-256", "sha256=d57c68ca6f92289e6987922ff26938930f6e66a2d161ef06abdf1859230aa23c"),
    ];
    let answer =
        post(&z, "/tables/pushes/raw?key=octo%2Frepo", &github, "{\"ref\":\"refs/heads/main\"}").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let (alerts, pushes) = (records(&z, "alerts").await, records(&z, "pushes").await);
    assert_eq!(alerts[0]["payload"], serde_json::from_str::<Value>(ALERT).unwrap());
    assert_eq!(
        (&pushes[0]["key"], &pushes[0]["headers"]["x-github-event"]),
        (&json!("octo/repo"), &json!("push"))
    );
    assert_eq!(pushes[0]["headers"].as_object().unwrap().len(), 3, "{}", pushes[0]);
}

/// Vector and Fluent Bit send arrays of objects, or lines; Redpanda Connect sends bodies as they are.
#[tokio::test]
async fn log_shippers_send_arrays_and_lines() {
    let z = TestServer::start().await;
    let json = ("content-type", "application/json");
    let logs = r#"[{"date":1522949460.5,"log":"one"},{"date":1522949461.5,"log":"two"}]"#;
    let answer = post(&z, "/tables/logs/raw?split=array", &[json, ("user-agent", "Fluent-Bit")], logs).await;
    assert_eq!((answer.status, &answer.json()["count"]), (201, &json!(2)));
    let lines = "{\"message\":\"three\"}\n{\"message\":\"four\"}\n";
    let vector = [("content-type", "application/x-ndjson"), ("user-agent", "Vector/0.40.0")];
    let answer = post(&z, "/tables/logs/raw", &vector, lines).await;
    assert_eq!((answer.status, &answer.json()["count"]), (201, &json!(2)));
    assert_eq!(records(&z, "logs").await.len(), 4);
    // Sent to where records are due, they are refused whole, and the error says what is there instead.
    let refused = post(&z, "/tables/wrong", &[json], logs).await.refused("an array", 400, "bad_json");
    assert!(refused["detail"].as_str().unwrap().contains("object"), "{refused}");
    post(&z, "/tables/wrong", &vector, lines).await.refused("lines", 400, "bad_json");
    assert!(!is_there(&z, "wrong").await);
}

/// An export of OpenTelemetry is no event, in JSON or in protobuf, whatever its content type says.
#[tokio::test]
async fn opentelemetry_is_refused_by_name() {
    let z = TestServer::start().await;
    let scope = b"\x12\x09\x12\x07\x2a\x05\x0a\x03abc";
    let logs = [b"\x0a\x0b".as_slice(), scope].concat();
    let protobuf = [("content-type", "application/x-protobuf"), ("user-agent", "OpenTelemetry Collector")];
    post(&z, "/tables/t", &protobuf, [logs.clone(), logs].concat()).await.refused(
        "logs",
        400,
        "bad_protobuf",
    );
    post(&z, "/tables/u", &[("content-type", "application/json")], r#"{"resourceLogs":[]}"#)
        .await
        .refused("JSON", 400, "bad_json");
    for (parameter, status) in [
        ("messageType=\"zombi.v1.Event\"", 201),
        ("messagetype=zombi.v1.Event", 201),
        ("messageType=\"opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest\"", 415),
        ("proto=io.prometheus.write.v2.Request", 415),
    ] {
        let content_type = format!("application/x-protobuf; {parameter}");
        let answer = post(&z, "/tables/p", &[("content-type", &content_type)], b"\x0a\x01x".to_vec()).await;
        assert_eq!(answer.status, status, "{parameter}: {answer:?}");
    }
    let bulk = [("content-type", "application/x-protobuf; messageType=zombi.v1.Event")];
    post(&z, "/tables/p/bulk", &bulk, b"\x0a\x03\x0a\x01x".to_vec()).await.refused(
        "a single event's type",
        415,
        "unsupported_media_type",
    );
}
