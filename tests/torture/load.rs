//! Clients of a server that may end at any moment: they write, read, commit, and keep a history of what they
//! were told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use testing::{
    history::{History, Id},
    server::PATIENCE,
};

pub(crate) const TABLE: &str = "t";
pub(crate) const PARTITIONS: u64 = 4;
/// Consumers of the table's partitions, one a partition.
const GROUP: &str = "g";

/// What the clients share.
pub(crate) struct Load {
    pub history: Mutex<History>,
    client: Client,
    /// Where the server is, while it is anywhere.
    server: watch::Sender<Option<String>>,
    ids: AtomicU64,
    bulks: AtomicU64,
    /// Odd while the disk is being lost. An answer counts only if this was even all the time from its request
    /// on.
    losses: AtomicU64,
    /// The server that has said that it does not know what has become of a write: it may ack nothing more.
    failed: Mutex<Option<String>>,
    /// Whether there are readers.
    pub reads: AtomicBool,
    stopping: watch::Sender<bool>,
    clients: Mutex<JoinSet<()>>,
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Write one by one, with keys and in bulk, read, follow and commit.
    Mixed,
    /// Write one by one and with keys, and wait until it is cold: what is acked survives the volume too.
    Cold,
}

/// A status and a body, or nothing: then nobody knows what has become of the request.
type Answer = Option<(u16, Value)>;

impl Load {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            history: Mutex::default(),
            client: Client::builder().timeout(PATIENCE).pool_max_idle_per_host(64).build().unwrap(),
            server: watch::Sender::new(None),
            ids: AtomicU64::new(0),
            bulks: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            failed: Mutex::new(None),
            reads: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
            clients: Mutex::default(),
        })
    }

    /// Starts the clients; they wait for a server.
    pub(crate) fn start(self: &Arc<Self>, style: Style, seed: u64, writers: u64) {
        let mut clients = self.clients.lock();
        for number in 0..writers {
            clients.spawn(Arc::clone(self).write(style, StdRng::seed_from_u64(seed.wrapping_add(number))));
        }
        if style == Style::Cold {
            return; // what was seen or committed may go with a volume
        }
        self.reads.store(true, SeqCst);
        for partition in 0..PARTITIONS {
            clients.spawn(Arc::clone(self).follow(partition));
            clients.spawn(Arc::clone(self).commit(partition));
        }
    }

    /// Writes to another table, too, whose events are in no history: numbers, each of them until it is acked.
    pub(crate) fn count_in(self: &Arc<Self>, table: &'static str) {
        self.clients.lock().spawn(Arc::clone(self).count(table));
    }

    /// Tells the clients where the server is.
    pub(crate) fn point_at(&self, url: Option<String>) {
        self.server.send_replace(url);
    }

    /// The server is about to lose its disk: from now on nobody can know what became of what was asked of it.
    pub(crate) fn disk_goes(&self) {
        self.point_at(None);
        self.losses.fetch_add(1, SeqCst);
    }

    /// The server has ended, and the disk is back.
    pub(crate) fn disk_is_back(&self) {
        self.losses.fetch_add(1, SeqCst);
    }

    /// Stops the clients; what they are about to be told they are told.
    pub(crate) async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut clients = std::mem::take(&mut *self.clients.lock());
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    }

    /// How many events were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.ids.load(SeqCst)
    }

    /// Where the server is; nothing once the clients are to stop.
    async fn server(&self) -> Option<String> {
        let (mut server, mut stopping) = (self.server.subscribe(), self.stopping.subscribe());
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => None,
            url = server.wait_for(Option::is_some) => url.ok()?.clone(),
        }
    }

    async fn post(&self, url: &str, body: &Value) -> Answer {
        self.answer(self.client.post(url).json(body)).await
    }

    async fn get(&self, url: &str) -> Answer {
        self.answer(self.client.get(url)).await
    }

    async fn answer(&self, request: RequestBuilder) -> Answer {
        let losses = self.losses.load(SeqCst);
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let body = response.json().await.ok()?;
        (losses.is_multiple_of(2) && self.losses.load(SeqCst) == losses).then_some((status, body))
    }

    async fn write(self: Arc<Self>, style: Style, mut rng: StdRng) {
        let (choices, path) = match style {
            Style::Mixed => (10, format!("/tables/{TABLE}")),
            Style::Cold => (8, format!("/tables/{TABLE}?wait_for=cold")),
        };
        while let Some(url) = self.server().await {
            match rng.random_range(0..choices) {
                0..5 => self.write_one(&format!("{url}{path}"), rng.random_range(0..PARTITIONS)).await,
                5..8 => self.write_with_key(&path, rng.random_range(0..PARTITIONS)).await,
                _ => {
                    let partitions: Vec<u64> =
                        (0..rng.random_range(2..50)).map(|_| rng.random_range(0..PARTITIONS)).collect();
                    self.write_bulk(&url, &partitions).await;
                }
            }
        }
    }

    async fn count(self: Arc<Self>, table: &'static str) {
        let mut number = 0_u64;
        while let Some(url) = self.server().await {
            let answer = self.post(&format!("{url}/tables/{table}"), &json!({"payload": number})).await;
            number += u64::from(answer.is_some_and(|(status, _)| status == 201));
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn next_id(&self) -> Id {
        self.ids.fetch_add(1, SeqCst)
    }

    async fn write_one(&self, url: &str, partition: u64) {
        let id = self.next_id();
        self.history.lock().begins(id, partition, None);
        let answer = self.write_to(url, &record(id, partition, false)).await;
        self.settle(&[id], answer, true).await;
    }

    /// The same write with the same key until somebody says what has become of it.
    async fn write_with_key(&self, path: &str, partition: u64) {
        let id = self.next_id();
        while let Some(url) = self.server().await {
            self.history.lock().begins(id, partition, None);
            let answer = self.write_to(&format!("{url}{path}"), &record(id, partition, true)).await;
            if self.settle(&[id], answer, false).await {
                return;
            }
        }
    }

    async fn write_bulk(&self, url: &str, partitions: &[u64]) {
        let (bulk, ids): (u64, Vec<Id>) =
            (self.bulks.fetch_add(1, SeqCst), partitions.iter().map(|_| self.next_id()).collect());
        for (id, partition) in ids.iter().zip(partitions) {
            self.history.lock().begins(*id, *partition, Some(bulk));
        }
        let records: Vec<_> =
            ids.iter().zip(partitions).map(|(id, partition)| record(*id, *partition, false)).collect();
        let answer = self.write_to(&format!("{url}/tables/{TABLE}/bulk"), &json!({"records": records})).await;
        self.settle(&ids, answer, true).await;
    }

    /// Writes; a server that has once not known what has become of a write must not ack another.
    async fn write_to(&self, url: &str, body: &Value) -> Answer {
        let server = url.split("/tables").next().map(str::to_owned);
        let has_failed = *self.failed.lock() == server;
        let (status, body) = self.post(url, body).await?;
        assert!(!has_failed || status >= 500, "acked after a write of unknown outcome: {body}");
        if status == 503 && body["outcome"] == "unknown" && body["code"] != "cold_unavailable" {
            *self.failed.lock() = server;
        }
        Some((status, body))
    }

    /// Notes an answer, to a write that `is_last` or will be tried again; whether it says what has become of
    /// it.
    async fn settle(&self, ids: &[Id], answer: Answer, is_last: bool) -> bool {
        let Some((status, body)) = answer else {
            sleep(Duration::from_millis(20)).await; // the server is away
            return false;
        };
        if status == 200 || status == 201 {
            let one = body["offset"].as_u64().map(|offset| vec![offset]);
            let offsets = one
                .or_else(|| {
                    body["offsets"].as_array().map(|all| all.iter().filter_map(Value::as_u64).collect())
                })
                .unwrap();
            assert_eq!(offsets.len(), ids.len(), "{body}");
            let mut history = self.history.lock();
            ids.iter().zip(offsets).for_each(|(id, offset)| history.acked(*id, offset));
            return true;
        }
        let outcome = body["outcome"]
            .as_str()
            .unwrap_or_else(|| panic!("a refused write says no outcome: {status} {body}"));
        let is_refused = outcome == "not_written" && is_last;
        if is_refused {
            ids.iter().for_each(|id| self.history.lock().refused(*id));
        }
        if status == 503 {
            sleep(Duration::from_millis(20)).await;
        }
        is_refused
    }

    /// Reads a partition from its beginning on, for as long as there are servers.
    async fn follow(self: Arc<Self>, partition: u64) {
        let mut next = 0;
        while let Some(url) = self.server().await {
            let acked = self.history.lock().acked_end(partition);
            let path = format!("{url}/tables/{TABLE}?partition={partition}&offset={next}&limit=500");
            let Some((200, page)) = self.get(&path).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let records: Vec<_> = page["records"].as_array().unwrap().iter().map(place).collect();
            let is_end = page["has_more"] == false;
            self.history.lock().read(partition, next, &records, is_end.then_some(acked));
            next = records.last().map_or(next, |(offset, _)| offset + 1);
            if is_end {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    async fn commit(self: Arc<Self>, partition: u64) {
        let mut next = 0;
        while let Some(url) = self.server().await {
            let end = self.history.lock().acked_end(partition);
            if end > next {
                next = end;
                self.history.lock().commits(partition, next);
                let commit = json!({"table": TABLE, "partition": partition, "offset": next});
                if let Some((200, _)) = self.post(&format!("{url}/consumers/{GROUP}/commit"), &commit).await {
                    self.history.lock().committed(partition, next);
                }
            }
            let path = format!("{url}/consumers/{GROUP}/offset?table={TABLE}&partition={partition}");
            if let Some((200, body)) = self.get(&path).await {
                self.history.lock().found_committed(partition, body["offset"].as_u64().unwrap_or(0));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everything that a quiet server has.
    pub(crate) async fn read_everything(&self, url: &str) -> BTreeMap<u64, Vec<(u64, Id)>> {
        let mut found = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let (records, mut next): (&mut Vec<_>, u64) = (found.entry(partition).or_default(), 0);
            loop {
                let path = format!("{url}/tables/{TABLE}?partition={partition}&offset={next}&limit=10000");
                let Some((200, page)) = self.get(&path).await else { panic!("{path} cannot be read") };
                records.extend(page["records"].as_array().unwrap().iter().map(place));
                next = records.last().map_or(next, |(offset, _)| offset + 1);
                if page["has_more"] == false {
                    break;
                }
            }
        }
        found
    }
}

fn record(id: Id, partition: u64, has_key: bool) -> Value {
    let mut record =
        json!({"payload": {"id": id, "filling": "x".repeat(id as usize % 300)}, "partition": partition});
    if has_key {
        record["idempotency_key"] = json!(format!("key {id}"));
    }
    record
}

fn place(record: &Value) -> (u64, Id) {
    (record["offset"].as_u64().unwrap(), record["payload"]["id"].as_u64().unwrap())
}
