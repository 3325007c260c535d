//! A request's body on its way to another pod: only once that pod wants it, at the pace of its caller's
//! quota, and held of that quota as it would be here.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::request::Parts,
};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::relayed::StopFuture;
use crate::{
    auth::{
        caller::{Caller, CallerEnd},
        quotas::{OverQuota, QuotaHold},
    },
    http::{
        body::STREAM_BYTES, callers_right::CallersRight, code::Code, error::Problem, frames, limits::Limits,
        media::MediaKind, pause::Pause, scope::RequestScope, shared_body::SharedBody,
    },
};

/// The body of a request that is passed on, and what it holds of its caller's quota until the last of what
/// this lends is gone.
pub(super) struct ClientsBody {
    body: SharedBody,
    caller: Caller,
    hold: Option<Arc<Mutex<BodyHold>>>,
    /// Whether the owner works on it while it comes.
    is_stream: bool,
    /// Why nothing more of it goes to a pod, if that is so.
    ended: Arc<OnceLock<BodyEnd>>,
    /// Held while some of it is taken for a pod.
    taking: Arc<Mutex<()>>,
}

/// Why nothing more of a body goes to any pod. The first reason counts.
#[derive(Debug, Clone, thiserror::Error)]
enum BodyEnd {
    /// It broke off.
    #[error("the body broke off: {0}")]
    Broken(String),
    /// Its caller's right has ended long before. The owner knows the right only, and not the credential.
    #[error(transparent)]
    Right(CallerEnd),
    /// It would hold more of its caller's quota than it may.
    #[error(transparent)]
    OverQuota(OverQuota),
}

/// What a body holds of its caller's quota.
struct BodyHold {
    held: QuotaHold,
    received: u64,
    /// Bytes that it holds at most.
    most: u64,
}

impl BodyHold {
    /// So many more bytes have come.
    fn received(&mut self, bytes: usize) -> Result<(), OverQuota> {
        self.received = self.received.saturating_add(bytes as u64);
        self.held.grow_to(self.received.min(self.most))
    }
}

/// Bytes that a body holds before the first of it is read, and at most. A stream is never here as a whole; of
/// another body that does not say its length nobody knows it before it has come. One that is too long is
/// refused by the owner.
fn bytes_to_hold(declared: Option<u64>, is_stream: bool, body_bytes: u64) -> (u64, u64) {
    let of_stream = STREAM_BYTES as u64;
    if is_stream {
        return (declared.unwrap_or(of_stream).min(of_stream), of_stream);
    }
    (declared.filter(|bytes| *bytes <= body_bytes).unwrap_or(of_stream), body_bytes)
}

impl ClientsBody {
    /// The body of a request, if it has one. The owner counts none of it.
    ///
    /// # Errors
    /// [`OverQuota`] before any of it is read.
    pub(super) fn of(
        parts: &Parts,
        scope: &RequestScope,
        limits: &Limits,
    ) -> Result<Option<Self>, OverQuota> {
        let Some(body) = scope.body.clone() else { return Ok(None) };
        let caller = scope.caller.clone();
        let is_stream = MediaKind::of_body(&parts.headers) == MediaKind::Lines;
        let declared = body.size_hint().exact();
        let (first, most) = bytes_to_hold(declared, is_stream, limits.body_bytes as u64);
        let held = caller.usage().map(|usage| usage.begin_body(first)).transpose()?;
        let hold = held.map(|held| Arc::new(Mutex::new(BodyHold { held, received: 0, most })));
        let (ended, taking) = (Arc::default(), Arc::default());
        Ok(Some(Self { body, caller, hold, is_stream, ended, taking }))
    }

    /// Whether nothing of it was read, nor is being read now. Once a pod's part in it was given up, that
    /// stays so.
    pub(super) fn is_untouched(&self) -> bool {
        let _taking = self.taking.lock();
        self.received() == 0
    }

    /// Bytes that were read of it.
    pub(super) fn received(&self) -> u64 {
        self.body.received()
    }

    /// Whether the client waits for a word before it sends it.
    pub(super) fn is_held_back(&self) -> bool {
        self.body.is_held_back()
    }

    /// Why the pod did not get all of it, if that is not the pod's doing.
    pub(super) fn problem(&self) -> Option<Problem> {
        let ended = self.ended.get()?;
        let problem = match ended {
            BodyEnd::OverQuota(over) => return Some((*over).into()),
            BodyEnd::Right(end) => Problem::from(end.clone()),
            BodyEnd::Broken(_) => Problem::new(Code::BodyBroken, ended),
        };
        // Only the owner knows how many lines of a stream it had stored by then.
        Some(if self.is_stream { problem.unknown_outcome() } else { problem.not_written() })
    }

    /// The body, for a pod. Nothing is read of it before `wanted` is cancelled, if there is that, and nothing
    /// after `given_up` is: others may read the rest then.
    pub(super) fn for_pod(
        &self,
        wanted: Option<CancellationToken>,
        given_up: CancellationToken,
    ) -> PassedBody {
        PassedBody {
            body: self.body.clone(),
            right: CallersRight::of(self.caller.clone()),
            hold: self.hold.clone(),
            ended: Arc::clone(&self.ended),
            taking: Arc::clone(&self.taking),
            pause: Pause::default(),
            wanted: wanted.map(|wanted| Box::pin(wanted.cancelled_owned()) as StopFuture),
            given_up: Box::pin(given_up.cancelled_owned()),
        }
    }
}

/// What a pod is sent as the body of a request.
pub(super) enum BodyForPod {
    /// With a connection to itself while it comes.
    Apart(Body),
    /// Small and whole, of a request that is soon answered: over the trunk to the pod.
    Small(Bytes),
}

impl From<Body> for BodyForPod {
    fn from(body: Body) -> Self {
        Self::Apart(body)
    }
}

/// The body of a request that is passed on.
#[derive(Clone, Copy)]
pub(super) enum BodyToPass<'a> {
    /// There is none.
    Absent,
    /// It goes on as it comes from the client.
    Comes(&'a ClientsBody),
    /// All of it is here.
    Whole(&'a Bytes),
    /// The same, of a small write.
    Small(&'a Bytes),
}

impl BodyToPass<'_> {
    /// What a pod is sent: see [`ClientsBody::for_pod`].
    pub(super) fn for_pod(
        self,
        wanted: Option<CancellationToken>,
        given_up: CancellationToken,
    ) -> BodyForPod {
        match self {
            Self::Absent => Body::empty().into(),
            Self::Comes(body) => Body::new(body.for_pod(wanted, given_up)).into(),
            Self::Whole(body) => Body::from(body.clone()).into(),
            Self::Small(body) => BodyForPod::Small(body.clone()),
        }
    }

    /// Bytes that have come since a pod was asked.
    pub(super) fn received(self) -> u64 {
        if let Self::Comes(body) = self { body.received() } else { 0 }
    }

    /// Why the pod did not get all of it, if that is not the pod's doing.
    pub(super) fn problem(self) -> Option<Problem> {
        if let Self::Comes(body) = self { body.problem() } else { None }
    }

    /// Whether another pod can be sent all of it, after one that was asked.
    pub(super) fn is_there_still(self) -> bool {
        if let Self::Comes(body) = self { body.is_untouched() } else { true }
    }
}

/// A request's body, as fast as its caller may send.
pub(super) struct PassedBody {
    body: SharedBody,
    /// By which it is sent.
    right: CallersRight,
    hold: Option<Arc<Mutex<BodyHold>>>,
    ended: Arc<OnceLock<BodyEnd>>,
    taking: Arc<Mutex<()>>,
    /// Until more is read.
    pause: Pause,
    /// Ready when the pod wants it; `None` from then on.
    wanted: Option<StopFuture>,
    /// Ready when nobody wants the rest of it any more.
    given_up: StopFuture,
}

/// The rest of a body goes to nobody: the request was answered before.
#[derive(Debug, thiserror::Error)]
#[error("the request was answered before its body had been sent")]
struct GivenUp;

impl PassedBody {
    /// Nothing more of it goes to any pod.
    fn end(&self, why: BodyEnd) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let why = self.ended.get_or_init(|| why).clone();
        Poll::Ready(Some(Err(axum::Error::new(why))))
    }
}

impl HttpBody for PassedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let taking = Arc::clone(&self.taking);
        let _taking = taking.lock();
        if self.given_up.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(GivenUp))));
        }
        if let Some(why) = self.ended.get() {
            return Poll::Ready(Some(Err(axum::Error::new(why.clone()))));
        }
        if let Poll::Ready(end) = self.right.poll_ended(context) {
            return self.end(BodyEnd::Right(end));
        }
        if let Some(wanted) = &mut self.wanted {
            ready!(wanted.as_mut().poll(context));
            self.wanted = None;
        }
        ready!(self.pause.poll_over(context));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Err(error)) = &frame {
            return self.end(BodyEnd::Broken(error.to_string()));
        }
        if let Some(data) = frames::data_of(frame.as_ref()) {
            if let Some(usage) = self.right.caller().usage() {
                let wait = usage.pace_write(data.len() as u64);
                self.pause.begin(wait);
            }
            let held = self.hold.as_ref().map_or(Ok(()), |hold| hold.lock().received(data.len()));
            if let Err(over) = held {
                return self.end(BodyEnd::OverQuota(over));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io, time::Duration};

    use axum::{extract::Request, http::header};
    use futures_util::stream;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;
    use crate::{
        auth::{
            gate::{Gate, tests::gate},
            policy::{Policy, Resource},
            principal::Principal,
            verb::Verb,
        },
        http::shared_body,
    };
    use contracts::name::TableName;

    /// The body of a request, which holds nothing of a quota.
    fn body_of(mut request: Request, caller: Caller, is_stream: bool) -> ClientsBody {
        let body = shared_body::share(&mut request).unwrap();
        let (ended, taking) = (Arc::default(), Arc::default());
        ClientsBody { body, caller, hold: None, is_stream, ended, taking }
    }

    const LONG: Duration = Duration::from_secs(600);
    const NOBODY: &str = "version: 1\nbindings: []\n";

    /// Whoever may append to a table, until another policy is adopted.
    fn producer() -> (Arc<Gate>, Caller) {
        let policy =
            "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: producer, tables: [orders]}\n";
        let gate = gate(policy);
        let caller = Caller::passed_on(&gate, Principal::Token("ci".to_owned()), Verb::Append);
        caller.allow(Resource::Table(&TableName::parse("orders").unwrap())).unwrap();
        (gate, caller)
    }

    #[test]
    fn a_body_holds_what_it_would_where_it_is_worked_on() {
        const STREAM: u64 = STREAM_BYTES as u64;
        for (declared, is_stream, holds) in [
            (Some(10), false, (10, 1 << 20)),
            (Some(500_000), false, (500_000, 1 << 20)),
            (Some(1 << 30), false, (STREAM, 1 << 20)),
            (None, false, (STREAM, 1 << 20)),
            (Some(10), true, (10, STREAM)),
            (Some(1 << 30), true, (STREAM, STREAM)),
            (None, true, (STREAM, STREAM)),
        ] {
            assert_eq!(bytes_to_hold(declared, is_stream, 1 << 20), holds, "{declared:?} {is_stream}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_held_back_is_read_when_it_is_wanted_and_never_when_it_is_not() {
        for is_wanted in [true, false] {
            let mut request = Request::new(Body::from("abc"));
            request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
            let body = body_of(request, Caller::anybody(), false);
            let (wanted, given_up) = (CancellationToken::new(), CancellationToken::new());
            let mut passed = body.for_pod(Some(wanted.clone()), given_up.clone());
            assert!(timeout(Duration::from_secs(60), passed.frame()).await.is_err(), "it was read at once");
            assert!(body.is_held_back() && body.is_untouched());
            if is_wanted {
                wanted.cancel();
                assert_eq!(passed.collect().await.unwrap().to_bytes(), "abc");
            } else {
                given_up.cancel();
                assert!(passed.frame().await.unwrap().is_err());
            }
            assert_eq!((body.is_held_back(), body.received()), (!is_wanted, if is_wanted { 3 } else { 0 }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_goes_on_for_five_minutes_after_its_callers_right_and_no_longer() {
        for (is_stream, outcome) in [(true, "unknown"), (false, "not_written")] {
            let (gate, caller) = producer();
            let comes = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
            let body = body_of(Request::new(comes), caller, is_stream);
            let mut passed = body.for_pod(None, CancellationToken::new());
            let waited = timeout(LONG, passed.frame()).await;
            assert!(waited.is_err() && body.problem().is_none(), "its caller may still append");
            gate.adopt_policy(Policy::parse(NOBODY).unwrap());
            let taken_back = Instant::now();
            assert!(timeout(LONG, passed.frame()).await.expect("it ends").unwrap().is_err());
            assert_eq!(taken_back.elapsed().as_secs(), 300);
            let after_it = timeout(LONG, passed.frame()).await.expect("it has ended");
            assert!(after_it.unwrap().is_err());
            let told = body.problem().unwrap().render("an-id", true).into_body().collect().await.unwrap();
            let told: Value = serde_json::from_slice(&told.to_bytes()).unwrap();
            assert_eq!(told["code"], "forbidden", "{told}");
            assert_eq!(told["outcome"], outcome, "{told}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_broke_off_never_ends_cleanly_and_says_nothing_else_later() {
        let (gate, caller) = producer();
        let breaks = stream::iter([Err::<Bytes, _>(io::Error::other("cut"))]);
        let body = body_of(Request::new(Body::from_stream(breaks)), caller, false);
        let mut passed = body.for_pod(None, CancellationToken::new());
        assert!(passed.frame().await.unwrap().is_err());
        gate.adopt_policy(Policy::parse(NOBODY).unwrap());
        sleep(LONG).await;
        for mut passed in [passed, body.for_pod(None, CancellationToken::new())] {
            assert!(passed.frame().await.unwrap().is_err());
        }
        assert_eq!(body.problem().unwrap().code(), Code::BodyBroken);
    }
}
