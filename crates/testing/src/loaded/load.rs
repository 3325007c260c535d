//! Clients that write, read and commit at any pod, and remember what they were told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use contracts::sequence::Offset;
use parking_lot::Mutex;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    history::{Counts, History, Id},
    server::{TestServer, eventually_some},
};

/// Tables, enough to be in several shards.
const TABLES: usize = 8;
/// How long a client waits for an answer before it asks another pod.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The wait before a request that failed is sent again.
const RETRY: Duration = Duration::from_millis(50);
/// Events of a bulk write.
const BULK: u64 = 3;
/// Consumers of the tables, one each.
const GROUP: &str = "readers";

/// Tables by name, and all that each of them has.
pub type LoadedTables = BTreeMap<String, Vec<(Offset, Id)>>;

/// The clients.
pub struct ClusterLoad {
    shared: Arc<ClusterClients>,
    clients: JoinSet<()>,
}

/// What the clients have seen, and what is there.
pub struct LoadEnd {
    pub counts: Counts,
    pub tables: LoadedTables,
}

struct ClusterClients {
    /// The pods' URLs, and which of them are asked.
    pods: Vec<String>,
    asked: Mutex<Vec<usize>>,
    /// What the tables' names begin with.
    name: String,
    client: Client,
    history: Mutex<History>,
    acked: [AtomicU64; TABLES],
    ids: AtomicU64,
    is_over: AtomicBool,
}

/// A write as it is sent, each time the same.
struct SentWrite {
    ids: Vec<Id>,
    bulk: Option<u64>,
    path: &'static str,
    body: Value,
    /// How often it is sent until it is acked.
    times: usize,
    /// Whether it is given up where an answer says that nothing is written.
    is_optional: bool,
}

impl SentWrite {
    /// Of one event, or of several now and then, from an id on.
    fn of(first: Id) -> Self {
        let turn = first / BULK;
        let is_bulk = turn.is_multiple_of(5);
        let ids: Vec<Id> = (first..first + if is_bulk { BULK } else { 1 }).collect();
        let record = |id: &Id| json!({"payload": {"id": id}, "idempotency_key": id.to_string()});
        let mut records: Vec<Value> = ids.iter().map(record).collect();
        let (path, body) =
            if is_bulk { ("/bulk", json!({"records": records})) } else { ("", records.swap_remove(0)) };
        Self {
            ids,
            bulk: is_bulk.then_some(first),
            path,
            body,
            times: if turn.is_multiple_of(8) { 2 } else { 1 },
            is_optional: turn.is_multiple_of(3),
        }
    }
}

impl ClusterLoad {
    /// A writer, a reader and a committer for each table, at pods that run. Names of the tables begin with
    /// `name`.
    pub fn begin(pods: &[TestServer], name: &str) -> Self {
        let client = Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_TIMEOUT).build().unwrap();
        let shared = Arc::new(ClusterClients {
            pods: pods.iter().map(|pod| pod.url("")).collect(),
            asked: Mutex::new((0..pods.len()).collect()),
            name: name.to_owned(),
            client,
            history: Mutex::default(),
            acked: Default::default(),
            ids: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for number in 0..TABLES {
            let of_table = [(); 3].map(|()| Arc::clone(&shared));
            let [writing, reading, committing] = of_table;
            clients.spawn(async move { writing.write(number).await });
            clients.spawn(async move { reading.read(number).await });
            clients.spawn(async move { committing.commit(number).await });
        }
        Self { shared, clients }
    }

    /// How many writes each table has acked, each counted once.
    pub fn acked(&self) -> Vec<u64> {
        self.shared.acked.iter().map(|acked| acked.load(Ordering::Relaxed)).collect()
    }

    /// From now on only these pods are asked, until others are named.
    pub fn only_ask(&self, pods: impl IntoIterator<Item = usize>) {
        *self.shared.asked.lock() = pods.into_iter().collect();
    }

    /// All events of a table, as a pod reads them; `None` if it does not answer, or with an error. A table
    /// that was never written to has none.
    pub async fn read_all(&self, pod: usize, table: &str) -> Option<Vec<(Offset, Id)>> {
        self.shared.read_all(&self.shared.pods[pod], table).await
    }

    /// Ends them; checks what they saw against all that every pod reads now.
    pub async fn end(&mut self) -> LoadEnd {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let mut end: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for pod in 0..self.shared.pods.len() {
            for number in 0..TABLES {
                let (table, key) = (self.shared.table(number), number as u64);
                let seen =
                    end.get(&key).and_then(|records| records.last()).map_or(0, |(offset, _)| offset + 1);
                let read = async || self.read_all(pod, &table).await;
                let records = eventually_some("a table can be read", read).await;
                // Writes that nobody waits for any more may come in between: each pod has what those before
                // had.
                let mut history = self.shared.history.lock();
                let before = history.acked_end(key).max(seen);
                history.read(key, 0, &records, Some(before));
                end.insert(key, records);
            }
        }
        let (counts, violations) = std::mem::take(&mut *self.shared.history.lock()).check(&end);
        let said: Vec<String> = violations.iter().take(20).map(ToString::to_string).collect();
        assert!(said.is_empty(), "{} violations:\n{}", violations.len(), said.join("\n"));
        let tables = end.into_iter().map(|(number, records)| (self.shared.table(number as usize), records));
        LoadEnd { counts, tables: tables.collect() }
    }
}

impl ClusterClients {
    fn table(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The pod that is asked next.
    fn pod(&self, turn: &mut usize) -> &str {
        *turn += 1;
        let number = {
            let asked = self.asked.lock();
            asked[*turn % asked.len()]
        };
        &self.pods[number]
    }

    /// Writes one after the other, each until it is acked, or surely not there.
    async fn write(&self, number: usize) {
        let mut turn = number;
        while !self.is_over() {
            let write = SentWrite::of(self.ids.fetch_add(BULK, Ordering::Relaxed));
            for id in &write.ids {
                self.history.lock().begins(*id, number as u64, write.bulk);
            }
            // Some are sent once more when they are known to be there, which must change nothing.
            for sending in 0..write.times {
                let Some(offsets) = self.until_acked(&mut turn, number, &write).await else { break };
                assert_eq!(offsets.len(), write.ids.len(), "{offsets:?}");
                for (id, offset) in write.ids.iter().zip(offsets) {
                    self.history.lock().acked(*id, offset);
                }
                if sending == 0 {
                    self.acked[number].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Sends a write to one pod after the other until it is acked: where its events are. Nothing if it is
    /// given up.
    async fn until_acked(&self, turn: &mut usize, number: usize, write: &SentWrite) -> Option<Vec<Offset>> {
        let mut is_unknown = false;
        loop {
            let url = format!("{}/tables/{}{}", self.pod(turn), self.table(number), write.path);
            match self.answer(self.client.post(url).json(&write.body)).await {
                Some((200 | 201, answer)) => return Some(offsets(&answer)),
                Some((503, problem)) if problem["outcome"] == "not_written" => {}
                Some((503, _)) | None => is_unknown = true,
                Some((status, problem)) => panic!("a write was answered {status}: {problem}"),
            }
            sleep(RETRY).await;
            if self.is_over() || (write.is_optional && !is_unknown) {
                if !is_unknown {
                    let mut history = self.history.lock();
                    write.ids.iter().for_each(|id| history.refused(*id));
                }
                return None;
            }
        }
    }

    /// Reads the whole table over and over, each time at another pod.
    async fn read(&self, number: usize) {
        let (table, mut turn) = (self.table(number), number);
        while !self.is_over() {
            let before = self.history.lock().acked_end(number as u64);
            if let Some(records) = self.read_all(self.pod(&mut turn), &table).await {
                self.history.lock().read(number as u64, 0, &records, Some(before));
            }
            sleep(RETRY).await;
        }
    }

    /// Commits how far the table is acked, and looks at what is committed, each time at another pod.
    async fn commit(&self, number: usize) {
        let (table, key) = (self.table(number), number as u64);
        let (mut turn, mut committed) = (number, 0);
        while !self.is_over() {
            let end = self.history.lock().acked_end(key);
            if end > committed {
                committed = end;
                self.history.lock().commits(key, end);
                let url = format!("{}/consumers/{GROUP}/commit", self.pod(&mut turn));
                let commit = json!({"table": table, "partition": 0, "offset": end});
                if let Some((200, _)) = self.answer(self.client.post(url).json(&commit)).await {
                    self.history.lock().committed(key, end);
                }
            }
            let base = self.pod(&mut turn);
            let url = format!("{base}/consumers/{GROUP}/offset?table={table}&partition=0");
            if let Some((200, found)) = self.answer(self.client.get(url)).await {
                self.history.lock().found_committed(key, found["offset"].as_u64().unwrap_or(0));
            }
            sleep(RETRY).await;
        }
    }

    async fn read_all(&self, pod: &str, table: &str) -> Option<Vec<(Offset, Id)>> {
        let base = format!("{pod}/tables/{table}?limit=1000");
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

/// Where the events of a write are.
fn offsets(answer: &Value) -> Vec<Offset> {
    match answer["offset"].as_u64() {
        Some(offset) => vec![offset],
        None => answer["offsets"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect(),
    }
}
