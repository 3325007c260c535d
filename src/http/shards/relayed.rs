//! Bodies on their way between a client and another pod: a request's at the pace of its caller's quota, an
//! answer's for as long as both ends want it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::Extensions,
    response::Response,
};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{
        caller::Caller,
        quotas::{QuotaHold, Usage},
    },
    http::{
        connection::CountGuard, context::OwnBody, error::Problem, heads, pause::Pause,
        shared_body::SharedBody,
    },
};

/// A request's body, as fast as its caller may send.
pub(super) struct PacedBody {
    body: SharedBody,
    usage: Option<Arc<Usage>>,
    /// Until more is read.
    pause: Pause,
    /// Ready when nobody wants the rest of it any more.
    given_up: StopFuture,
}

/// The rest of a body goes to nobody: the request was refused before.
#[derive(Debug, thiserror::Error)]
#[error("the request was refused before its body had been sent")]
struct GivenUp;

impl PacedBody {
    /// `usage` is what the caller uses of its quotas. From the moment at which `given_up` is cancelled others
    /// may read the rest of the body.
    pub(super) fn new(body: SharedBody, usage: Option<Arc<Usage>>, given_up: CancellationToken) -> Self {
        Self { body, usage, pause: Pause::default(), given_up: Box::pin(given_up.cancelled_owned()) }
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.given_up.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(GivenUp))));
        }
        ready!(self.pause.poll_over(context));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let (Some(usage), Some(Ok(frame))) = (&self.usage, &frame)
            && let Some(data) = frame.data_ref()
        {
            let wait = usage.pace_write(data.len() as u64);
            self.pause.begin(wait);
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

/// The pod that answers says nothing any more.
#[derive(Debug, thiserror::Error)]
#[error("the pod that answers says nothing any more")]
struct PodSilent;

/// Ready when this process stops.
type StopFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the body of an answer comes from.
pub(super) enum RelayedFrom {
    /// From the pod, piece by piece.
    Pod(Incoming),
    /// It is here already.
    Whole(Bytes),
}

/// An answer's body, with what is held while it goes on.
struct RelayedBody {
    body: Body,
    /// Ready when this process stops: an answer without an end then ends cleanly, and its client comes back.
    stopping: Option<StopFuture>,
    /// How long the pod may say nothing, and what is left of that while it does.
    patience: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    /// Whether the answer has no body: its length is what the pod says.
    is_head: bool,
    is_over: bool,
    _held: Option<QuotaHold>,
    _waits: Option<CountGuard>,
}

impl HttpBody for RelayedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(stopping) = &mut self.stopping
            && stopping.as_mut().poll(context).is_ready()
        {
            self.is_over = true;
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.silence = None;
            return Poll::Ready(frame);
        }
        // A frozen pod keeps its connections open, and never says anything on them again.
        let patience = self.patience;
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(silence.as_mut().poll(context));
        self.is_over = true;
        Poll::Ready(Some(Err(axum::Error::new(PodSilent))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_head { SizeHint::default() } else { self.body.size_hint() }
    }
}

/// Who asked for an answer, and how.
pub(super) struct RelayedFor<'a> {
    pub(super) caller: &'a Caller,
    pub(super) is_read: bool,
    pub(super) is_head: bool,
    /// How long the pod may say nothing.
    pub(super) patience: Duration,
    /// Marks the connection while a read waits.
    pub(super) waits: Option<CountGuard>,
}

/// Another pod's answer as this one's. `stopping` ends one without an end.
///
/// # Errors
/// 429 if its caller has too many long answers.
pub(super) fn relayed(
    asked: RelayedFor<'_>,
    answer: Response<RelayedFrom>,
    stopping: &CancellationToken,
) -> Result<Response, Problem> {
    let (mut of_answer, body) = answer.into_parts();
    let is_endless = heads::is_of_type(&of_answer.headers, "text/event-stream");
    let is_lines = heads::is_of_type(&of_answer.headers, "application/x-ndjson");
    let is_long = is_endless || (asked.is_read && is_lines);
    let usage = asked.caller.usage().filter(|_| is_long);
    let held = usage.map(Usage::hold_stream).transpose()?;
    let stopping = stopping.clone();
    let from = match body {
        RelayedFrom::Whole(bytes) => Body::from(bytes),
        RelayedFrom::Pod(body) => Body::new(body),
    };
    let body = RelayedBody {
        body: from,
        stopping: is_endless.then(|| Box::pin(stopping.cancelled_owned()) as StopFuture),
        patience: asked.patience,
        silence: None,
        is_head: asked.is_head,
        is_over: false,
        _held: held,
        _waits: asked.waits.filter(|_| is_endless),
    };
    of_answer.extensions = Extensions::new();
    // It is rendered already, also if it is a problem.
    of_answer.extensions.insert(OwnBody);
    of_answer.version = axum::http::Version::default();
    Ok(Response::from_parts(of_answer, Body::new(body)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    fn relayed_body(body: Body, is_head: bool) -> RelayedBody {
        let patience = Duration::from_secs(60);
        let (stopping, silence) = (None, None);
        RelayedBody { body, stopping, patience, silence, is_head, is_over: false, _held: None, _waits: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_says_nothing_any_more_is_not_waited_for_without_end() {
        let said = stream::iter([0, 1]).then(async |number| {
            sleep(Duration::from_secs(40)).await;
            Ok::<_, Infallible>(Bytes::from(vec![number]))
        });
        let mut body = relayed_body(Body::from_stream(said.chain(stream::pending())), false);
        for _ in 0..2 {
            assert!(body.frame().await.unwrap().is_ok(), "it is slow, and not silent");
        }
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn of_an_answer_without_its_body_nobody_knows_the_length() {
        assert_eq!(relayed_body(Body::empty(), true).size_hint().exact(), None);
        assert_eq!(relayed_body(Body::from("abc"), false).size_hint().exact(), Some(3));
    }
}
