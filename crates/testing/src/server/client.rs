//! Requests to a server under test, and what its tables and metrics say.

use std::net::SocketAddr;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{TestServer, patient::TestRequest};

impl TestServer {
    /// What a setting was last set to.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A URL on the main port.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running().main)
    }

    /// A URL on the admin port.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running().admin)
    }

    /// Where the main port is.
    pub fn address(&self) -> SocketAddr {
        self.running().main
    }

    /// Where the admin port is.
    pub fn admin_address(&self) -> SocketAddr {
        self.running().admin
    }

    /// A socket on the main port, for bytes that no client library would send.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.running().main).await.unwrap()
    }

    /// A request on the main port.
    pub fn request(&self, method: Method, path: &str) -> TestRequest {
        self.client.request(method, self.url(path))
    }

    /// GET: status and JSON.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path).send().await.unwrap()).await
    }

    /// POST of JSON: status and JSON.
    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body).send().await.unwrap()).await
    }

    /// PUT of JSON: status and JSON.
    pub async fn put(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::PUT, path).json(body).send().await.unwrap()).await
    }

    /// DELETE: status and JSON.
    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::DELETE, path).send().await.unwrap()).await
    }

    /// POST of any bytes: status and JSON.
    pub async fn post_bytes(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> (StatusCode, Value) {
        let request = self.request(Method::POST, path).header("content-type", content_type).body(body);
        answer(request.send().await.unwrap()).await
    }

    /// Moves everything to cold and out of hot.
    pub async fn flush_and_evict(&self) -> Value {
        let (status, report) = self.post("/flush", &json!(null)).await;
        assert_eq!(status, StatusCode::OK, "{report}");
        report
    }

    /// All records of a table, page by page.
    pub async fn read_all(&self, table: &str, parameters: &str) -> Vec<Value> {
        let mut records = Vec::new();
        let mut path = format!("/tables/{table}?{parameters}");
        loop {
            let (status, mut page) = self.get(&path).await;
            assert_eq!(status, StatusCode::OK, "{page}");
            let Value::Array(found) = page["records"].take() else { panic!("no records in {page}") };
            assert_eq!(page["count"], found.len());
            records.extend(found);
            if page["has_more"] == false {
                return records;
            }
            let limit = parameters.split('&').find(|one| one.starts_with("limit=")).unwrap_or("");
            path = format!("/tables/{table}?cursor={}&{limit}", page["next_cursor"].as_str().unwrap());
        }
    }

    /// A metric without labels; 0 if it is not there yet. Where it is several pods, the sum over them: what a
    /// test counts is done by the pod that owns its table.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for pod in self.counted(name) {
            let text = pod.own_metrics().await;
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            sum += line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        }
        sum
    }

    /// All metrics of the main port; where it is several pods, those of one behind those of another.
    pub async fn metrics(&self) -> String {
        let mut all = String::new();
        for pod in self.each() {
            all += &pod.own_metrics().await;
        }
        all
    }

    async fn own_metrics(&self) -> String {
        self.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()
    }

    /// The pods whose numbers count: of the process, of its connections, and of what is or is not so, the one
    /// that is asked.
    fn counted(&self, name: &str) -> impl Iterator<Item = &Self> {
        let is_its_own =
            name.starts_with("process_") || ["zombi_http_connections", "zombi_auth_enabled"].contains(&name);
        self.each().take(if is_its_own { 1 } else { usize::MAX })
    }

    /// All metrics, as the admin port shows them to everybody.
    pub async fn admin_metrics(&self) -> String {
        self.client.get(self.admin_url("/metrics")).send().await.unwrap().text().await.unwrap()
    }

    /// One of them, the sum over its labels.
    pub async fn admin_metric(&self, name: &str) -> f64 {
        let is_its = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        let mut sum = 0.0;
        for pod in self.counted(name) {
            sum += pod.admin_metrics().await.lines().filter(is_its).map(value).sum::<f64>();
        }
        sum
    }

    /// One partition of a table as `GET /tables` shows it.
    pub async fn partition(&self, table: &str, number: u64) -> Value {
        let (_, body) = self.get(&format!("/tables/{table}/partitions")).await;
        body["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["partition"] == number)
            .cloned()
            .unwrap_or(Value::Null)
    }
}

/// Status and JSON of an answer; an empty body is null.
pub async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    let value = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    (status, value)
}
