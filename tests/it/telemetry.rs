//! Logs, traces and metrics as others see them.

use axum::{Router, body::Bytes, extract::State, routing::post};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use testing::{
    TestServer,
    faults::{Fault, Operation},
    server::{answer, eventually},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A collector: what is posted to it.
pub(crate) async fn collector() -> (String, mpsc::Receiver<Bytes>) {
    async fn collect(State(sender): State<mpsc::Sender<Bytes>>, body: Bytes) -> StatusCode {
        sender.send(body).await.unwrap();
        StatusCode::OK
    }
    let (sender, receiver) = mpsc::channel(1000);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(collect)).with_state(sender);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (endpoint, receiver)
}

fn holds(bodies: &[Bytes], wanted: &[u8]) -> bool {
    bodies.iter().any(|body| body.windows(wanted.len()).any(|window| window == wanted))
}

#[tokio::test]
async fn a_trace_goes_on_through_append_flush_and_s3_and_into_the_event() {
    let (endpoint, mut collected) = collector().await;
    let mut z = TestServer::tiered(&[]).await;
    z.environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint));
    z.environment.push(("OTEL_SERVICE_NAME".to_owned(), "zombi-under-test".to_owned()));
    z.run().await;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    for (path, body) in
        [("/tables/t", json!({"payload": 1})), ("/tables/t/bulk", json!({"records": [{"payload": 2}]}))]
    {
        let request = z.request(Method::POST, path).header("traceparent", &parent).json(&body);
        assert_eq!(answer(request.send().await.unwrap()).await.0, StatusCode::CREATED);
    }
    let request = z
        .request(Method::POST, "/tables/t")
        .header("traceparent", &parent)
        .header("content-type", "application/x-ndjson");
    let body = format!(
        "{}\n{}\n",
        json!({"payload": 3}),
        json!({"payload": 4, "headers": {"traceparent": "the record's own"}})
    );
    assert_eq!(answer(request.body(body).send().await.unwrap()).await.0, StatusCode::CREATED);
    z.flush_and_evict().await;
    let stored: Vec<Value> = z
        .read_all("t", "")
        .await
        .into_iter()
        .map(|record| record["headers"]["traceparent"].clone())
        .collect();
    assert_eq!(stored, [json!(parent), json!(parent), json!(parent), json!("the record's own")]);

    assert_eq!(z.terminate().await, Some(0));
    let mut bodies = Vec::new();
    while let Ok(body) = collected.try_recv() {
        bodies.push(body);
    }
    let trace_id: Vec<u8> =
        (0..32).step_by(2).map(|at| u8::from_str_radix(&TRACE[at..at + 2], 16).unwrap()).collect();
    assert!(holds(&bodies, &trace_id), "the client's trace goes on");
    for name in ["POST /tables/{table}", "append", "flush_segment", "s3_put", "s3_create", "zombi-under-test"]
    {
        assert!(holds(&bodies, name.as_bytes()), "{name}");
    }
}

#[tokio::test]
async fn the_level_of_the_logs_can_be_changed_while_it_runs() {
    let z = TestServer::start().await;
    let url = z.admin_url("/log/level");
    let (status, body) = answer(z.client.get(&url).send().await.unwrap()).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"level": "info"})));
    let (status, body) =
        answer(z.client.put(&url).json(&json!({"level": "zombi=debug,info"})).send().await.unwrap()).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"level": "zombi=debug,info"})));
    assert_eq!(answer(z.client.get(&url).send().await.unwrap()).await.1["level"], "zombi=debug,info");
    let (status, problem) =
        answer(z.client.put(&url).json(&json!({"level": "zombi=loud"})).send().await.unwrap()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("bad_log_level")));
    let other = z.client.put(&url).header("content-type", "text/csv").body("{\"level\": \"debug\"}");
    let (status, problem) = answer(other.send().await.unwrap()).await;
    let expected = (StatusCode::UNSUPPORTED_MEDIA_TYPE, &json!("unsupported_media_type"));
    assert_eq!((status, &problem["code"]), expected, "{problem}");
}

#[tokio::test]
async fn json_log_lines_of_a_request_have_its_id_and_its_trace() {
    let mut z = TestServer::start_with(&[("log.format", "json"), ("log.level", "zombi=debug")]).await;
    let request = z.request(Method::GET, "/tables/t?limit=x").header("x-request-id", "mine");
    let request = request.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    let line: Value = serde_json::from_str(&z.log_line("request refused").await).unwrap();
    let found =
        [&line["level"], &line["request_id"], &line["code"], &line["path"], &line["span"]["trace_id"]];
    assert_eq!(found, ["DEBUG", "mine", "bad_query", "/tables/t", TRACE], "{line}");
}

#[tokio::test]
async fn lags_of_groups_that_are_gone_are_shown_no_more() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    let (commit, metrics) = (z.url("/consumers/g/commit"), z.url("/metrics"));
    let offsets = json!({"table": "t", "partition": 0, "offset": 0});
    let (status, body) = answer(z.client.post(&commit).json(&offsets).send().await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let lag = r#"zombi_consumer_lag_events{group="g",table="t"} 1"#;
    let shown = || async { z.client.get(&metrics).send().await.unwrap().text().await.unwrap() };
    assert!(shown().await.contains(lag));
    assert!(z.client.delete(z.url("/consumers/g")).send().await.unwrap().status().is_success());
    assert!(!shown().await.contains("zombi_consumer_lag_events{"));
}

#[tokio::test]
async fn a_long_recovery_says_how_far_it_is() {
    let first = TestServer::start_tiered(&[("s3.attempt_timeout_secs", "2")]).await;
    for partition in 0..3 {
        first.post("/tables/t", &json!({"payload": 1, "partition": partition, "idempotency_key": "k"})).await;
    }
    first.flush_and_evict().await;
    let mut second = first.beside();
    drop(first);
    second.store().faults.add(Operation::SegmentGet, Fault::Hang, 1000);
    second.begin("").await.unwrap();
    let (client, startup) = (second.client.clone(), second.admin_url("/startupz"));
    eventually("recovery is at the keys", || async {
        let (status, body) = answer(client.get(&startup).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        body["checks"][0]["detail"] == "reading idempotency keys from segments in S3: 0 of 3"
    })
    .await;
    second.store().faults.clear();
    second.until_ready().await.unwrap();
    assert_eq!(second.read_all("t", "").await.len(), 3);
}
