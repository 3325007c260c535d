//! Trunks: a connection to a pod that small requests share. Each goes whole in a frame, and is answered when
//! it is done, in any order. What waits to be sent at once is one write, and so are answers that are ready at
//! once: a request that has a connection to itself costs both pods several times as much.
//!
//! To the other pod a trunk is one request, whose body is the requests and whose answer is the answers. The
//! other pod ends it by a frame that says so, and goes on to answer what it has been sent. One that takes no
//! trunks refuses it, and is sent each request by itself, as large ones are and those that wait.

mod frame;
mod requests;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response, StatusCode},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::debug;

pub(crate) use self::frame::TrunkFrame;
use self::requests::{Exchange, TrunkRequests, Waiting};
use super::send_error::SendError;

/// Bytes of a write: what more there is waits for the next one.
pub(crate) const WRITE_BYTES: usize = 64 << 10;
/// Bytes of an answer at most, with its head.
pub(crate) const ANSWER_BYTES: usize = 17 << 20;
/// Requests that wait to be sent over a trunk at most.
const QUEUE: usize = 1024;
/// How long a pod may take to accept a trunk.
const OPENING: Duration = Duration::from_secs(5);
/// A trunk over which nothing has come for so long, while something is waited for, gets no more requests.
const SILENT: Duration = Duration::from_secs(3);
/// A trunk over which nothing has come for so long, while nothing is waited for, ends.
const IDLE: Duration = Duration::from_secs(20);
/// For how long a pod that refuses a trunk is not asked for one.
const REFUSED: Duration = Duration::from_secs(30);

/// The answer to the request that begins a trunk.
pub(crate) type TrunkOpening = Pin<Box<dyn Future<Output = Result<Response<Body>, SendError>> + Send>>;
/// Sends the request that begins a trunk, with this body.
pub(crate) type Opener = Box<dyn FnOnce(Body) -> TrunkOpening + Send>;

/// Why a request over a trunk has no answer.
#[derive(Debug)]
pub(crate) enum TrunkError {
    /// The pod takes no trunks. It has not had the request.
    Refused,
    /// As with a request by itself.
    Send(SendError),
}

/// The trunks of a pod to the others.
#[derive(Default)]
pub(crate) struct Trunks {
    by_address: Mutex<BTreeMap<String, KnownTrunk>>,
    /// What runs them, and those that get no more requests.
    running: Mutex<JoinSet<()>>,
}

/// What is known of the trunk to a pod.
enum KnownTrunk {
    Open(Trunk),
    /// The pod took none then.
    Refused(Instant),
}

/// Where the requests for a trunk go. It ends when all have been sent and there is no more of this.
#[derive(Clone)]
struct Trunk {
    queue: mpsc::Sender<Exchange>,
    waiting: Arc<Waiting>,
    /// Of the certificates that it was opened with.
    generation: u64,
}

impl Trunks {
    /// Sends a request over the trunk to a pod, which is opened if there is none of this generation.
    ///
    /// # Errors
    /// [`TrunkError`].
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        (address, generation): (&str, u64),
        request: Request<Bytes>,
        opener: impl FnOnce() -> Opener,
    ) -> Result<Response<Bytes>, TrunkError> {
        let trunk = self.trunk(address, generation, opener).ok_or(TrunkError::Refused)?;
        let (exchange, told) = Exchange::new(request, &trunk.waiting);
        // One that cannot be sent any more says so as it is dropped.
        drop(trunk.queue.send(exchange).await);
        drop(trunk);
        told.await.unwrap_or_else(|_| Err(TrunkError::Send(SendError::lost("the trunk has ended"))))
    }

    /// The trunk to a pod; `None` if that takes none.
    fn trunk(
        self: &Arc<Self>,
        address: &str,
        generation: u64,
        opener: impl FnOnce() -> Opener,
    ) -> Option<Trunk> {
        let mut trunks = self.by_address.lock();
        match trunks.get(address) {
            Some(KnownTrunk::Refused(when)) if when.elapsed() < REFUSED => return None,
            Some(KnownTrunk::Open(trunk)) if trunk.generation == generation && trunk.is_good() => {
                return Some(trunk.clone());
            }
            _ => {}
        }
        let (queue, requests) = mpsc::channel(QUEUE);
        let trunk = Trunk { queue, waiting: Arc::default(), generation };
        trunks.insert(address.to_owned(), KnownTrunk::Open(trunk.clone()));
        let run = TrunkRun {
            trunks: Arc::downgrade(self),
            address: address.to_owned(),
            waiting: Arc::clone(&trunk.waiting),
        };
        let mut running = self.running.lock();
        while running.try_join_next().is_some() {}
        running.spawn(run.until_end(requests, opener()));
        Some(trunk)
    }
}

impl Trunk {
    /// Whether it may have more requests.
    fn is_good(&self) -> bool {
        !self.queue.is_closed() && !self.waiting.is_silent(SILENT)
    }
}

/// A trunk while it runs.
struct TrunkRun {
    trunks: Weak<Trunks>,
    address: String,
    waiting: Arc<Waiting>,
}

impl TrunkRun {
    async fn until_end(self, queue: mpsc::Receiver<Exchange>, opener: Opener) {
        let why = self.run(queue, opener).await.err();
        self.leave(None);
        self.waiting.end(why.as_deref().unwrap_or("the trunk has ended"));
    }

    /// Opens it, and hands answers over as they come. The queue is taken by the request that is the trunk
    /// once the other pod has accepted it, and until then what it holds is dropped here, when the reason is
    /// known.
    async fn run(&self, queue: mpsc::Receiver<Exchange>, opener: Opener) -> Result<(), String> {
        let (accept, accepted) = oneshot::channel();
        let requests = TrunkRequests::new(accepted, Arc::clone(&self.waiting));
        let answer = match timeout(OPENING, opener(Body::new(requests))).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return self.unopened(queue, error.to_string()),
            Err(_) => {
                return self.unopened(queue, format!("the pod has not accepted a trunk within {OPENING:?}"));
            }
        };
        if answer.status() != StatusCode::OK {
            debug!(address = self.address, status = %answer.status(), "the pod takes no trunks");
            self.waiting.refuse();
            self.leave(Some(Instant::now()));
            return Err("the pod takes no trunks".to_owned());
        }
        let _ = accept.send(queue);
        let (mut answers, mut come) = (answer.into_body(), BytesMut::new());
        let mut has_left = false;
        loop {
            let Ok(next) = timeout(IDLE, answers.frame()).await else {
                if has_left && self.waiting.is_idle() {
                    return Ok(()); // the other pod is frozen, or gone
                }
                if self.waiting.is_idle() {
                    self.leave(None);
                    has_left = true;
                }
                continue;
            };
            let Some(next) = next else { return Ok(()) };
            let Ok(data) = next.map_err(|error| error.to_string())?.into_data() else { continue };
            come.extend_from_slice(&data);
            while let Some(frame) =
                TrunkFrame::take(&mut come, ANSWER_BYTES).map_err(|error| error.to_string())?
            {
                match frame {
                    TrunkFrame::Answer(number, answer) => self.waiting.tell(number, Some(answer)),
                    TrunkFrame::Broken(number) => self.waiting.tell(number, None),
                    TrunkFrame::Leaving => {
                        self.leave(None);
                        has_left = true;
                    }
                    TrunkFrame::Request(..) => return Err("the other pod sends requests".to_owned()),
                }
            }
        }
    }

    /// Nothing that waits in the queue was sent.
    fn unopened(&self, queue: mpsc::Receiver<Exchange>, why: String) -> Result<(), String> {
        self.waiting.end(&why);
        drop(queue);
        Err(why)
    }

    /// Has the next request to the pod open another trunk, unless it has `refused` this one.
    fn leave(&self, refused: Option<Instant>) {
        let Some(trunks) = self.trunks.upgrade() else { return };
        let mut by_address = trunks.by_address.lock();
        let Some(KnownTrunk::Open(trunk)) = by_address.get(&self.address) else { return };
        if Arc::ptr_eq(&trunk.waiting, &self.waiting) {
            match refused {
                Some(when) => by_address.insert(self.address.clone(), KnownTrunk::Refused(when)),
                None => by_address.remove(&self.address),
            };
        }
    }
}
