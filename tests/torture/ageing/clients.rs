//! Clients of a store that lives on: they write, read and page all the time, and know what is to be there.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::{PARTITIONS, TABLE, Times};
use testing::{
    TestServer,
    server::{PATIENCE, answer},
};

/// Each has some of the partitions for itself, and appends one event to each of them in this time.
const WRITERS: usize = 4;
const PERIOD: Duration = Duration::from_millis(500);
const READERS: usize = 4;

/// What was acked of one partition, as far as it may still be there. Its event `n` is at offset `n`.
#[derive(Debug, Default)]
struct Acked {
    first: u64,
    /// When each event was sent, from the first one on.
    sent: VecDeque<Instant>,
}

impl Acked {
    fn end(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    fn push(&mut self, sent: Instant, retention: Duration) {
        self.sent.push_back(sent);
        while self.sent.front().is_some_and(|first| first.elapsed() > retention) {
            self.sent.pop_front();
            self.first += 1;
        }
    }

    /// What is to be kept until then: an event is no older than the time since it was sent.
    fn kept(&self, until: Instant, retention: Duration) -> Range<u64> {
        let expired = self.sent.partition_point(|sent| *sent + retention <= until);
        self.first + expired as u64..self.end()
    }
}

/// What the clients share.
pub(super) struct Clients {
    client: Client,
    url: String,
    times: Times,
    acked: Vec<Mutex<Acked>>,
    pub(super) written: AtomicUsize,
    pub(super) read: AtomicUsize,
    /// Requests that were to come again later.
    pub(super) put_off: AtomicUsize,
    pub(super) is_over: AtomicBool,
}

impl Clients {
    pub(super) fn new(z: &TestServer, times: Times) -> Self {
        Self {
            client: Client::builder()
                .pool_idle_timeout(Duration::from_secs(5))
                .timeout(PATIENCE)
                .no_proxy()
                .build()
                .unwrap(),
            url: z.url(&format!("/tables/{TABLE}")),
            times,
            acked: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            written: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            put_off: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    pub(super) fn start(self: &Arc<Self>, seed: u64) -> JoinSet<Result<(), String>> {
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            tasks.spawn(Arc::clone(self).write(number));
        }
        for number in 0..READERS {
            tasks.spawn(Arc::clone(self).read(StdRng::seed_from_u64(seed.wrapping_add(number as u64))));
        }
        tasks.spawn(Arc::clone(self).page());
        tasks
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Asks, and again where it is to come later, as clients do.
    async fn ask(&self, request: RequestBuilder) -> Result<(StatusCode, Value), String> {
        let began = Instant::now();
        loop {
            let again = request.try_clone().expect("its body is no stream");
            let response =
                again.send().await.map_err(|error| format!("a request was not answered: {error:?}"))?;
            let (status, body) = answer(response).await;
            let is_later = status == StatusCode::SERVICE_UNAVAILABLE
                && body["outcome"] != "unknown"
                && began.elapsed() < PATIENCE;
            if !is_later {
                return Ok((status, body));
            }
            self.put_off.fetch_add(1, SeqCst);
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Appends to its own partitions, to all of them at once.
    async fn write(self: Arc<Self>, writer: usize) -> Result<(), String> {
        let mine: Vec<usize> = (writer..PARTITIONS).step_by(WRITERS).collect();
        while !self.is_over() {
            let sent = Instant::now();
            let record = |partition: &usize| {
                let payload = json!({"n": self.acked[*partition].lock().end(), "filling": "x".repeat(200)});
                json!({"payload": payload, "partition": partition})
            };
            let body = json!({"records": mine.iter().map(record).collect::<Vec<Value>>()});
            let (status, body) = self.ask(self.client.post(format!("{}/bulk", self.url)).json(&body)).await?;
            let Some(offsets) = body["offsets"]
                .as_array()
                .filter(|offsets| status == StatusCode::CREATED && offsets.len() == mine.len())
            else {
                return Err(format!("an append was refused: {status} {body}"));
            };
            for (&partition, offset) in mine.iter().zip(offsets) {
                let mut acked = self.acked[partition].lock();
                if *offset != acked.end() {
                    return Err(format!(
                        "{partition}/{} was to come next, and {offset} was given",
                        acked.end()
                    ));
                }
                acked.push(sent, self.times.retention);
            }
            self.written.fetch_add(mine.len(), SeqCst);
            sleep(PERIOD.saturating_sub(sent.elapsed())).await;
        }
        Ok(())
    }

    /// Reads one partition after the other, as they come.
    async fn read(self: Arc<Self>, mut rng: StdRng) -> Result<(), String> {
        while !self.is_over() {
            self.check(rng.random_range(0..PARTITIONS)).await?;
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Everything of a partition that was acked and is to be kept is there.
    pub(super) async fn check(&self, partition: usize) -> Result<(), String> {
        let until = self.times.read_until();
        let kept = self.acked[partition].lock().kept(until, self.times.retention);
        let mut next = kept.start;
        while next < kept.end {
            let url = format!("{}?partition={partition}&offset={next}&limit=1000", self.url);
            let (status, page) = self.ask(self.client.get(url)).await?;
            if status == StatusCode::GONE && Instant::now() > until {
                return Ok(()); // it took so long that this is kept no more
            }
            let Some(records) =
                page["records"].as_array().filter(|records| status == StatusCode::OK && !records.is_empty())
            else {
                return Err(format!(
                    "{partition}/{next} to {} was acked, is to be kept, and is not there: {status} {page}",
                    kept.end
                ));
            };
            for record in records {
                if record["offset"] != next || record["payload"]["n"] != next {
                    return Err(format!("something else is at {partition}/{next}: {record}"));
                }
                next += 1;
            }
            self.read.fetch_add(records.len(), SeqCst);
        }
        Ok(())
    }

    /// Pages over all partitions, from the oldest event on.
    async fn page(self: Arc<Self>) -> Result<(), String> {
        let mut cursor = String::new();
        while !self.is_over() {
            let (status, page) =
                self.ask(self.client.get(format!("{}?limit=1000{cursor}", self.url))).await?;
            let records = page["records"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_right = records.iter().all(|record| record["offset"] == record["payload"]["n"]);
            // Retention may be faster than the cursor.
            if !is_right || (status != StatusCode::OK && status != StatusCode::GONE) {
                return Err(format!("a page over all partitions is wrong: {status} {page}"));
            }
            self.read.fetch_add(records.len(), SeqCst);
            let next = page["next_cursor"].as_str().filter(|_| page["has_more"] == true);
            cursor = next.map_or_else(String::new, |next| format!("&cursor={next}"));
            sleep(PERIOD).await;
        }
        Ok(())
    }
}
