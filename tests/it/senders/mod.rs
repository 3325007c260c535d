//! What people already run sends: raw bodies, CloudEvents, keyed records, streams with bad lines. Each is
//! stored whole, with its key and its time, or refused whole by an error that names the cure.

mod cloudevents;
mod keys;
mod raw;
mod read_back;
mod sent;
mod shapes;
mod skipped;
mod webhooks;

use reqwest::{
    Body, Method, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use testing::TestServer;

/// What came for a request.
#[derive(Debug)]
struct SenderAnswer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl SenderAnswer {
    /// A header; empty if it is not there.
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The answer is a problem.
    fn refused(&self, what: &str, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!((self.status, &problem["code"]), (status, &json!(code)), "{what}: {self:?}");
        assert_eq!(problem["outcome"], "not_written", "{what}: {self:?}");
        problem
    }

    /// The answer has these headers and no body.
    fn is_bare(&self, status: u16, headers: &[(&str, &str)]) {
        assert_eq!((self.status, self.body.as_str()), (status, ""), "{self:?}");
        for (name, value) in headers {
            assert_eq!(self.header(name), *value, "{name} in {self:?}");
        }
    }
}

/// Sends a request with headers, whose values may be any bytes, and names may stand twice.
async fn send(
    z: &TestServer,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> SenderAnswer {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let response = z.request(method, path).headers(map).body(body).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    SenderAnswer { status, headers, body: response.text().await.unwrap() }
}

async fn post(z: &TestServer, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> SenderAnswer {
    send(z, Method::POST, path, headers, body).await
}

/// The records of a table in the order of their offsets, without what they have of their place.
async fn records(z: &TestServer, table: &str) -> Vec<Value> {
    let mut records = z.read_all(table, "limit=1000").await;
    for record in &mut records {
        let record = record.as_object_mut().unwrap();
        record.remove("partition");
        record.remove("offset");
    }
    records
}

/// Whether a table is there.
async fn is_there(z: &TestServer, table: &str) -> bool {
    z.get(&format!("/tables/{table}")).await.0 != StatusCode::NOT_FOUND
}
