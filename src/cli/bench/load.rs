//! The load: so many requests at once, each sent when it is due. A request that fails is not sent again;
//! what became of its events is open, and they are left out of the comparison.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use contracts::{name::TableName, payload::write_json_string};
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use reqwest::Method;
use tokio::time::{Instant, sleep_until};

use super::payload::{BenchRun, HashSum};
use crate::cli::{
    answer::Unanswered,
    client::{ClientError, ClientRequest, Repeat, ServerClient},
    output::{StatusLine, text},
};

/// The longest latency that is told apart, in microseconds.
const MAX_MICROS: u64 = 600_000_000;
/// Requests that may fail before a connection gives up.
const MAX_ERRORS: usize = 1000;

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) struct LoadPlan {
    pub(super) table: TableName,
    pub(super) partition: u32,
    /// Requests at once.
    pub(super) connections: u32,
    /// Events of a request.
    pub(super) batch: u32,
    /// Events a second, in all.
    pub(super) rate: Option<u32>,
    pub(super) duration: Duration,
}

/// What was done.
#[derive(Debug)]
pub(super) struct LoadResult {
    /// Events that were acknowledged.
    pub(super) events: u64,
    /// Bytes of their payloads.
    pub(super) bytes: u64,
    /// Requests that failed.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// How long each request that was acknowledged took, from when it was due.
    pub(super) micros: Histogram<u64>,
    pub(super) took: Duration,
    /// Of what was acknowledged.
    pub(super) sum: HashSum,
    /// Connection and first number of requests of which nobody knows what became.
    pub(super) open: HashSet<(u32, u64)>,
}

impl LoadResult {
    fn new() -> Result<Self, Unanswered> {
        let micros = Histogram::new_with_bounds(1, MAX_MICROS, 3);
        Ok(Self {
            events: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
            micros: micros.map_err(|error| Unanswered::Failed(error.to_string()))?,
            took: Duration::ZERO,
            sum: HashSum::default(),
            open: HashSet::new(),
        })
    }

    fn join(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        // Both have the same bounds.
        let _ = self.micros.add(other.micros);
        self.sum.join(other.sum);
        self.open.extend(other.open);
    }
}

/// Runs the load.
pub(super) async fn run(
    client: &ServerClient,
    plan: &LoadPlan,
    run: BenchRun,
    status: &StatusLine,
) -> Result<LoadResult, Unanswered> {
    let began = Instant::now();
    let events = AtomicU64::new(0);
    let worker = |number| Worker { client, plan, run, number, began, events: &events };
    let connections = (0..plan.connections).map(|number| Box::pin(worker(number).run(status)));
    let mut all = LoadResult::new()?;
    for one in join_all(connections).await {
        all.join(one?);
    }
    all.took = began.elapsed();
    Ok(all)
}

/// One of the connections.
#[derive(Clone, Copy)]
struct Worker<'a> {
    client: &'a ServerClient,
    plan: &'a LoadPlan,
    run: BenchRun,
    number: u32,
    began: Instant,
    /// Acknowledged on all connections.
    events: &'a AtomicU64,
}

impl Worker<'_> {
    async fn run(self, status: &StatusLine) -> Result<LoadResult, Unanswered> {
        let Self { plan, began, .. } = self;
        let mut result = LoadResult::new()?;
        let until = began + plan.duration;
        let batch = u64::from(plan.batch);
        for request in 0.. {
            let due = self.due(request);
            if due >= until || Instant::now() >= until {
                break;
            }
            sleep_until(due).await;
            // Without a rate a request is due when the one before has its answer.
            let due = if plan.rate.is_some() { due } else { Instant::now() };
            let first = request * batch;
            let payloads: Vec<String> =
                (first..first + batch).map(|number| self.run.payload(self.number, number)).collect();
            match self.client.once(&self.request(&payloads)).await {
                Ok(_) => {
                    let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    result.micros.saturating_record(micros.max(1));
                    result.events += batch;
                    let events = self.events.fetch_add(batch, Ordering::Relaxed) + batch;
                    status.say(&format!("appending: {} events", text::count(events)));
                    result.bytes += payloads.iter().map(|payload| payload.len() as u64).sum::<u64>();
                    payloads.iter().for_each(|payload| result.sum.add(payload.as_bytes()));
                }
                Err(error) => {
                    result.errors += 1;
                    if !is_certain(&error) {
                        result.open.insert((self.number, first));
                    }
                    result.first_error.get_or_insert_with(|| error.to_string());
                    if result.open.len() >= MAX_ERRORS || result.errors >= MAX_ERRORS as u64 {
                        break;
                    }
                }
            }
        }
        Ok(result)
    }

    /// When a request is due: the connections take turns.
    fn due(&self, request: u64) -> Instant {
        let Some(rate) = self.plan.rate else { return self.began };
        let turn = request * u64::from(self.plan.connections) + u64::from(self.number);
        let seconds = turn as f64 * f64::from(self.plan.batch) / f64::from(rate);
        self.began + Duration::from_secs_f64(seconds.min(1e9))
    }

    fn request(&self, payloads: &[String]) -> ClientRequest {
        let mut body =
            Vec::with_capacity(payloads.iter().map(|payload| payload.len() + 16).sum::<usize>() + 32);
        let is_single = payloads.len() == 1;
        if !is_single {
            body.extend_from_slice(b"{\"records\":[");
        }
        for (place, payload) in payloads.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            body.extend_from_slice(b"{\"payload\":");
            write_json_string(&mut body, payload);
            body.push(b'}');
        }
        if !is_single {
            body.extend_from_slice(b"]}");
        }
        let route = if is_single { "" } else { "/bulk" };
        let request =
            ClientRequest::new(Method::POST, format!("/tables/{}{route}", self.plan.table)).json(body);
        request.in_partition(Some(self.plan.partition)).repeat(Repeat::Never)
    }
}

/// Whether it is certain that nothing was written.
fn is_certain(error: &ClientError) -> bool {
    error.refusal().is_some_and(|refusal| refusal.is_not_done())
}
