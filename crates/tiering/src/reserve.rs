//! Reserves offsets in the chain before they are given, so that a volume that is lost never leads to an offset being given
//! twice: who recovers from S3 starts behind all that was reserved.
//!
//! A reservation is large, and every flush renews it; only the first write to a partition waits for one. While S3 does not
//! answer, writes go on without: then an offset could come again, if the volume were lost before S3 is back.

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

/// Writes that may wait for a reservation; more go on without.
const QUEUE_LEN: usize = 4096;
/// How long a write waits for its reservation.
const WAIT: Duration = Duration::from_secs(2);

type ReserveRequest = (BTreeMap<Partition, Watermarks>, oneshot::Sender<()>);

/// Asks for reservations.
#[derive(Debug)]
pub struct Reserver {
    log: Arc<dyn ReservationLog>,
    requests: mpsc::Sender<ReserveRequest>,
    /// Whether the last reservation failed: then nobody waits for the next.
    is_failing: Arc<AtomicBool>,
}

impl Reserver {
    /// A reserver, and the task that serves it until the reserver is dropped.
    pub fn new(log: Arc<dyn ReservationLog>) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (requests, receiver) = mpsc::channel(QUEUE_LEN);
        let is_failing = Arc::new(AtomicBool::new(false));
        let task = serve(Arc::clone(&log), receiver, Arc::clone(&is_failing));
        (Arc::new(Self { log, requests, is_failing }), task)
    }
}

#[async_trait]
impl Reservations for Reserver {
    async fn reserve(&self, next: BTreeMap<Partition, Watermarks>) {
        if next.iter().all(|(partition, marks)| marks.next <= self.log.reserved_upto(partition)) {
            return;
        }
        let (done, reserved) = oneshot::channel();
        let is_asked = self.requests.try_send((next, done)).is_ok();
        if is_asked && !self.is_failing.load(Relaxed) && timeout(WAIT, reserved).await.is_err() {
            self.is_failing.store(true, Relaxed);
            warn!("no offsets could be reserved in S3 in time; writes go on without");
        }
    }
}

/// Serves all that wait with one manifest.
async fn serve(log: Arc<dyn ReservationLog>, mut requests: mpsc::Receiver<ReserveRequest>, is_failing: Arc<AtomicBool>) {
    while let Some((mut partitions, done)) = requests.recv().await {
        let mut waiting = vec![done];
        while let Ok((more, done)) = requests.try_recv() {
            partitions.extend(more);
            waiting.push(done);
        }
        let reserved = log.reserve(&partitions).await;
        let was_failing = is_failing.swap(reserved.is_err(), Relaxed);
        if let (Err(error), false) = (&reserved, was_failing) {
            warn!(%error, "no offsets could be reserved in S3; writes go on without");
        }
        for done in waiting {
            let _ = done.send(()); // who waits no more does not mind
        }
    }
}
