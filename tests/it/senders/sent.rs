//! What others' programs sent when they ran by the recipes of `docs/clients`, byte for byte: `sent/README.md`
//! says which programs, and where they come from.

use serde_json::json;

use super::{is_there, records};
use testing::{TestServer, raw};

/// A request, the status of its answer, a part of the answer, the table that it names, and how many events
/// are in it afterwards.
type RecordedRequest = (&'static [u8], u16, &'static str, &'static str, usize);

const SENT: [RecordedRequest; 16] = [
    (include_bytes!("sent/alertmanager-0.25.0.http"), 201, "", "alerts", 1),
    (include_bytes!("sent/benthos-4.60.0.http"), 200, "\"rejected_count\":1", "orders", 8),
    // Both modes of an event are one event.
    (include_bytes!("sent/cloudevents-go-2.16.2-binary.http"), 204, "", "go", 1),
    (include_bytes!("sent/cloudevents-go-2.16.2-structured.http"), 204, "zombi-duplicate: true", "go", 1),
    (include_bytes!("sent/cloudevents-java-4.0.1-binary.http"), 204, "", "java", 1),
    (include_bytes!("sent/cloudevents-java-4.0.1-structured.http"), 204, "zombi-duplicate: true", "java", 1),
    (include_bytes!("sent/cloudevents-npm-10.0.0-binary.http"), 204, "", "npm", 1),
    (include_bytes!("sent/cloudevents-npm-10.0.0-structured.http"), 204, "zombi-duplicate: true", "npm", 1),
    (include_bytes!("sent/cloudevents-python-2.2.0-binary.http"), 204, "", "python", 1),
    (
        include_bytes!("sent/cloudevents-python-2.2.0-structured.http"),
        204,
        "zombi-duplicate: true",
        "python",
        1,
    ),
    (include_bytes!("sent/debezium-server-3.6.1-batch.http"), 204, "zombi-count: 21", "changes", 21),
    // The attribute `iodebeziumtxId` is none: their names have no capitals.
    (include_bytes!("sent/debezium-server-3.6.1-attributes.http"), 400, "iodebeziumtxId", "changes", 21),
    (include_bytes!("sent/otelcol-0.165.0-json.http"), 204, "", "otel-traces", 1),
    (include_bytes!("sent/otelcol-0.165.0-protobuf.http"), 400, "an export of OTLP", "otel", 0),
    (include_bytes!("sent/rotel-0.0.1a15.http"), 400, "an export of OTLP", "t", 0),
    (include_bytes!("sent/syslog-ng-3.38.1.http"), 200, "\"rejected_count\":0", "syslog", 3),
];

#[tokio::test]
async fn what_others_sent_is_stored_whole_or_refused_by_name() {
    let z = TestServer::start().await;
    for (request, status, said, table, events) in SENT {
        let mut socket = raw::send(z.address(), request).await;
        let answer = raw::read_until(&mut socket, if said.is_empty() { "\r\n\r\n" } else { said }).await;
        assert!(raw::status(&answer) == status && answer.contains(said), "{table}: {answer}");
        let stored = if is_there(&z, table).await { records(&z, table).await.len() } else { 0 };
        assert_eq!(stored, events, "{table}: {answer}");
    }
    // What is quoted or encoded in a head is an attribute like any other.
    for table in ["go", "java", "npm", "python"] {
        let events = records(&z, table).await;
        let found = (&events[0]["headers"]["myextension"], &events[0]["payload"]);
        let sent = (&json!("a \"quoted\" 100% value"), &json!({"list": [1, null, {"deep": {}}]}));
        assert_eq!(found, sent, "{table}: {events:?}");
    }
}
