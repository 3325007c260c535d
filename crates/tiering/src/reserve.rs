//! Reserves offsets in the manifest chain before they are given, so that a lost volume never leads to an
//! offset being given twice: a recovery from S3 continues after everything that was reserved.
//!
//! A reservation is large, and every flush renews it; only the first write to a partition waits for one.
//! While S3 does not answer, writes go on without one: if the volume were lost before S3 is back, an offset
//! could then be given twice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::warn;

use contracts::{
    name::Partition,
    reservation::{ReservationLog, Reservations},
    sequence::Watermarks,
};

/// Writes that may wait for a reservation; any beyond that go on without one.
const QUEUE_LEN: usize = 4096;
/// How long a write waits for its reservation, before it goes on without one.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The partitions whose offsets are to be reserved, and where to send the answer.
type ReserveRequest = (BTreeMap<Partition, Watermarks>, oneshot::Sender<()>);

/// Asks for reservations.
#[derive(Debug)]
pub(crate) struct Reserver {
    log: Arc<dyn ReservationLog>,
    requests: mpsc::Sender<ReserveRequest>,
    /// Whether the last reservation failed: then no write waits for the next one.
    is_failing: Arc<AtomicBool>,
}

impl Reserver {
    /// A reserver, and the task that serves it until the reserver is dropped.
    pub(crate) fn new(
        log: Arc<dyn ReservationLog>,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (requests, receiver) = mpsc::channel(QUEUE_LEN);
        let is_failing = Arc::new(AtomicBool::new(false));
        let task = serve(Arc::clone(&log), receiver, Arc::clone(&is_failing));
        (Arc::new(Self { log, requests, is_failing }), task)
    }
}

#[async_trait]
impl Reservations for Reserver {
    async fn reserve(&self, next: BTreeMap<Partition, Watermarks>) {
        if next.iter().all(|(partition, watermarks)| watermarks.next <= self.log.reserved_upto(partition)) {
            return;
        }
        let (done, reserved) = oneshot::channel();
        let is_asked = self.requests.try_send((next, done)).is_ok();
        if is_asked && !self.is_failing.load(Relaxed) && timeout(RESERVE_TIMEOUT, reserved).await.is_err() {
            self.is_failing.store(true, Relaxed);
            warn!("no offsets could be reserved in S3 in time; writes continue without a reservation");
        }
    }
}

/// Reserves for all waiting requests with one manifest, again and again.
async fn serve(
    log: Arc<dyn ReservationLog>,
    mut requests: mpsc::Receiver<ReserveRequest>,
    is_failing: Arc<AtomicBool>,
) {
    while let Some((mut partitions, done)) = requests.recv().await {
        let mut waiting = vec![done];
        while let Ok((more, done)) = requests.try_recv() {
            partitions.extend(more);
            waiting.push(done);
        }
        let reserved = log.reserve(&partitions).await;
        let was_failing = is_failing.swap(reserved.is_err(), Relaxed);
        if let (Err(error), false) = (&reserved, was_failing) {
            warn!(%error, "no offsets could be reserved in S3; writes continue without a reservation");
        }
        for done in waiting {
            let _ = done.send(()); // the write may have stopped waiting
        }
    }
}
