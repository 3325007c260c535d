//! Clients that write and read at any pod, and remember what they were told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use reqwest::Client;
use serde_json::{Value, json};
use testing::history::{Counts, History, Id};
use testing::server::eventually;
use tokio::{task::JoinSet, time::sleep};

/// Tables, enough to be in several shards.
const TABLES: usize = 8;
/// How long a client waits for an answer before it asks another pod.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The wait before a request that failed is sent again.
const RETRY: Duration = Duration::from_millis(50);

/// The clients.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    pods: Vec<String>,
    client: Client,
    history: Mutex<History>,
    acked: [AtomicU64; TABLES],
    ids: AtomicU64,
    is_over: AtomicBool,
}

fn table(number: usize) -> String {
    format!("table-{number}")
}

impl Load {
    /// One writer and one reader for each table, at pods with these URLs.
    pub(crate) fn begin(pods: Vec<String>) -> Self {
        let client = Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_TIMEOUT).build().unwrap();
        let shared = Arc::new(Shared {
            pods,
            client,
            history: Mutex::default(),
            acked: Default::default(),
            ids: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for number in 0..TABLES {
            let (writing, reading) = (Arc::clone(&shared), Arc::clone(&shared));
            clients.spawn(async move { writing.write(number).await });
            clients.spawn(async move { reading.read(number).await });
        }
        Self { shared, clients }
    }

    /// How many writes each table has acked.
    pub(crate) fn acked(&self) -> Vec<u64> {
        self.shared.acked.iter().map(|acked| acked.load(Ordering::Relaxed)).collect()
    }

    /// Ends them; checks what they saw against all that every pod reads now.
    pub(crate) async fn end(mut self) -> Counts {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let mut ends = Vec::new();
        for pod in 0..self.shared.pods.len() {
            let mut end = BTreeMap::new();
            for number in 0..TABLES {
                let mut records = None;
                eventually("a table can be read", async || {
                    records = self.shared.read_all(pod, number).await;
                    records.is_some()
                })
                .await;
                end.insert(number as u64, records.unwrap_or_default());
            }
            ends.push(end);
        }
        assert!(ends.iter().all(|end| *end == ends[0]), "pods read different things");
        let (counts, violations) = std::mem::take(&mut *self.shared.history.lock()).check(&ends[0]);
        let said: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert!(said.is_empty(), "{}", said.join("\n"));
        counts
    }
}

impl Shared {
    /// Writes one event after the other, each until it is acked.
    async fn write(&self, number: usize) {
        let mut pod = number;
        while !self.is_over.load(Ordering::Relaxed) {
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            self.history.lock().begins(id, number as u64, None);
            let body = json!({"payload": {"id": id}, "idempotency_key": id.to_string()});
            loop {
                pod = (pod + 1) % self.pods.len();
                let url = format!("{}/tables/{}", self.pods[pod], table(number));
                if let Some((200 | 201, answer)) = self.answer(self.client.post(url).json(&body)).await {
                    self.history.lock().acked(id, answer["offset"].as_u64().unwrap());
                    self.acked[number].fetch_add(1, Ordering::Relaxed);
                    break;
                }
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                sleep(RETRY).await;
            }
        }
    }

    /// Reads the whole table over and over, each time at another pod.
    async fn read(&self, number: usize) {
        let mut pod = number;
        while !self.is_over.load(Ordering::Relaxed) {
            pod = (pod + 1) % self.pods.len();
            let before = self.history.lock().acked_end(number as u64);
            if let Some(records) = self.read_all(pod, number).await {
                self.history.lock().read(number as u64, 0, &records, Some(before));
            }
            sleep(RETRY).await;
        }
    }

    /// All events of a table, as a pod reads them; `None` if it does not answer, or with an error. A table
    /// that was never written to has none.
    async fn read_all(&self, pod: usize, number: usize) -> Option<Vec<(u64, Id)>> {
        let base = format!("{}/tables/{}?limit=1000", self.pods[pod], table(number));
        let (mut url, mut records) = (base.clone(), Vec::new());
        loop {
            let page = match self.answer(self.client.get(&url)).await? {
                (200, page) => page,
                (404, _) => return Some(records),
                _ => return None,
            };
            for record in page["records"].as_array()? {
                records.push((record["offset"].as_u64()?, record["payload"]["id"].as_u64()?));
            }
            if page["has_more"] == false {
                return Some(records);
            }
            url = format!("{base}&cursor={}", page["next_cursor"].as_str()?);
        }
    }

    /// A status and a body, or nothing: then nobody knows what has become of the request.
    async fn answer(&self, request: reqwest::RequestBuilder) -> Option<(u16, Value)> {
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }
}
