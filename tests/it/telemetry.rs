//! Logs, traces and metrics as others see them.

use axum::{Router, body::Bytes, extract::State, routing::post};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use crate::support::{TestServer, server::answer};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A collector: what is posted to it.
async fn collector() -> (String, mpsc::Receiver<Bytes>) {
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
    for (path, body) in [("/tables/t", json!({"payload": 1})), ("/tables/t/bulk", json!({"records": [{"payload": 2}]}))] {
        let request = z.request(Method::POST, path).header("traceparent", &parent).json(&body);
        assert_eq!(answer(request.send().await.unwrap()).await.0, StatusCode::CREATED);
    }
    let request = z.request(Method::POST, "/tables/t").header("traceparent", &parent).header("content-type", "application/x-ndjson");
    let body = format!("{}\n{}\n", json!({"payload": 3}), json!({"payload": 4, "headers": {"traceparent": "the record's own"}}));
    assert_eq!(answer(request.body(body).send().await.unwrap()).await.0, StatusCode::CREATED);
    z.flush_and_evict().await;
    let stored: Vec<Value> = z.read_all("t", "").await.into_iter().map(|record| record["headers"]["traceparent"].clone()).collect();
    assert_eq!(stored, [json!(parent), json!(parent), json!(parent), json!("the record's own")]);

    assert_eq!(z.terminate().await, Some(0));
    let mut bodies = Vec::new();
    while let Ok(body) = collected.try_recv() {
        bodies.push(body);
    }
    let trace_id: Vec<u8> = (0..32).step_by(2).map(|at| u8::from_str_radix(&TRACE[at..at + 2], 16).unwrap()).collect();
    assert!(holds(&bodies, &trace_id), "the client's trace goes on");
    for name in ["POST /tables/{table}", "append", "flush_segment", "s3_put", "s3_create", "zombi-under-test"] {
        assert!(holds(&bodies, name.as_bytes()), "{name}");
    }
}

#[tokio::test]
async fn the_level_of_the_logs_can_be_changed_while_it_runs() {
    let z = TestServer::start().await;
    let url = z.admin_url("/log/level");
    let (status, body) = answer(z.client.get(&url).send().await.unwrap()).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"level": "info"})));
    let (status, body) = answer(z.client.put(&url).json(&json!({"level": "zombi=debug,info"})).send().await.unwrap()).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"level": "zombi=debug,info"})));
    assert_eq!(answer(z.client.get(&url).send().await.unwrap()).await.1["level"], "zombi=debug,info");
    let (status, problem) = answer(z.client.put(&url).json(&json!({"level": "zombi=loud"})).send().await.unwrap()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("bad_log_level")));
}
