//! Several pods over one bucket: any of them takes any request, none has what is another's, and a pod that is
//! gone takes its own shards with it and no others.

mod care;
mod costs;
mod encrypted;
mod gauges;
mod identity;
mod lists;
mod moves;
mod places;
mod refused;
mod routed;
mod trunks;
mod unseen;
mod upkeep;
mod whole;

use serde_json::{Map, Value, json};
use testing::{TestServer, server::answer};

/// Appends events to a table by some pod.
async fn append(pod: &TestServer, table: &str, count: usize) {
    let records: Vec<Value> = (0..count).map(|number| json!({"payload": number.to_string()})).collect();
    let (status, body) = pod.post(&format!("/tables/{table}/bulk"), &json!({"records": records})).await;
    assert_eq!(status, 201, "{body}");
}

/// All that clients see of some tables and of the group `g`.
async fn seen(server: &TestServer, tables: &[String]) -> Value {
    let mut all = Map::new();
    for table in tables {
        let (_, config) = server.get(&format!("/tables/{table}/config")).await;
        let records = server.read_all(table, "limit=3").await;
        all.insert(table.clone(), json!({"records": records, "config": config}));
    }
    let (_, group) = server.get("/consumers/g").await;
    all.insert("group".to_owned(), group);
    Value::Object(all)
}

/// A GET with one more header: status, JSON and headers.
async fn get_with(
    pod: &TestServer,
    path: &str,
    (name, value): (&str, &str),
) -> (reqwest::StatusCode, Value, reqwest::header::HeaderMap) {
    let response = pod.request(reqwest::Method::GET, path).header(name, value).send().await.unwrap();
    let headers = response.headers().clone();
    let (status, body) = answer(response).await;
    (status, body, headers)
}
