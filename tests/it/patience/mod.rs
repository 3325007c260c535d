//! Clients that wait, trickle, or never read, and an S3 that does not answer: nobody else is kept waiting, or
//! turned away, by them. Attackers and their victim have one address.

mod bodies;
mod cold;
mod connections;
mod descriptors;
mod log;
mod readers;
mod tails;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use testing::{
    TestServer,
    server::{PATIENCE, TestClient, TestRequest, answer},
};

/// How often the victim asks while an attack goes on.
const ROUNDS: usize = 20;

/// Somebody who wants nothing but small things: appends, reads of what was just written, probes. Every
/// request has a connection of its own, so that it must find room each time.
struct SmallClient {
    client: TestClient,
    written: u64,
}

impl SmallClient {
    fn of(z: &TestServer) -> Self {
        let client =
            Client::builder().pool_max_idle_per_host(0).timeout(PATIENCE).no_proxy().build().unwrap();
        Self { client: z.client.beside(client), written: 0 }
    }

    async fn ask(&self, during: &str, request: TestRequest) -> (StatusCode, Value) {
        let response = request.send().await;
        answer(response.unwrap_or_else(|error| panic!("{during}: not answered: {error:?}"))).await
    }

    /// Appends, reads that back and probes, again and again; nothing of it may be refused.
    async fn is_served(&mut self, z: &TestServer, during: &str) {
        for _ in 0..ROUNDS {
            let offset = self.append(z, during).await;
            let path = format!("/tables/victim?partition=0&offset={offset}&limit=10");
            let (status, page) = self.ask(during, self.client.request(Method::GET, z.url(&path))).await;
            assert_eq!(
                (status, &page["records"][0]["payload"]),
                (StatusCode::OK, &json!(offset)),
                "{during}: a read of it: {page}"
            );
            self.is_alive(z, during).await;
        }
    }

    /// Appends one event.
    async fn append(&mut self, z: &TestServer, during: &str) -> u64 {
        let (status, body) = self
            .ask(during, self.client.post(z.url("/tables/victim")).json(&json!({"payload": self.written})))
            .await;
        assert_eq!(
            (status, &body["offset"]),
            (StatusCode::CREATED, &json!(self.written)),
            "{during}: an append: {body}"
        );
        self.written += 1;
        self.written - 1
    }

    /// The probes of the admin port.
    async fn is_alive(&self, z: &TestServer, during: &str) {
        for probe in ["/livez", "/readyz"] {
            let (status, body) = self.ask(during, self.client.get(z.admin_url(probe))).await;
            assert_eq!(status, StatusCode::OK, "{during}: {probe}: {body}");
        }
    }

    /// All that it was told is written is there.
    async fn has_lost_nothing(&self, z: &TestServer) {
        let records = z.read_all("victim", "limit=1000").await;
        let payloads: Vec<_> = records.iter().map(|record| record["payload"].as_u64().unwrap()).collect();
        assert_eq!(payloads, (0..self.written).collect::<Vec<_>>());
    }
}
