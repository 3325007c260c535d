//! The body of another pod's answer on its way to the client, for as long as both ends want it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::Extensions,
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::counted::{EventCounter, StreamForm};
use crate::{
    auth::{
        caller::Caller,
        quotas::{QuotaHold, Usage},
    },
    http::{
        connection::{Connection, CountGuard},
        context::OwnBody,
        end_pings::EndPings,
        error::Problem,
        frames, heads,
    },
};

/// The pod that answers says nothing any more.
#[derive(Debug, thiserror::Error)]
#[error("the pod that answers says nothing any more")]
struct PodSilent;

/// Ready when something is to stop.
pub(super) type StopFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Begins a wait for a pod that has stopped to send.
pub(super) type SilenceMaker = Box<dyn Fn() -> StopFuture + Send>;

/// What a client that may have gone is sent between two events. Clients pass over it.
const PING: &[u8] = b": ping\n\n";

/// Pings between the events of another pod, which cannot know whether the client of this one has gone.
struct PingsBetween {
    due: Pin<Box<dyn Future<Output = EndPings> + Send>>,
    connection: Arc<Connection>,
    /// The last bytes that were sent.
    last: [u8; 2],
}

impl PingsBetween {
    /// At the beginning of a stream of events.
    fn new(connection: Arc<Connection>) -> Self {
        Self { due: next_ping(EndPings::default(), Arc::clone(&connection)), connection, last: *b"\n\n" }
    }

    /// Takes note of a piece of the stream.
    fn sent(&mut self, piece: &[u8]) {
        for byte in &piece[piece.len().saturating_sub(2)..] {
            self.last = [self.last[1], *byte];
        }
    }

    /// Ready when a ping is due, and no event is half sent.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.last != *b"\n\n" {
            return Poll::Pending; // the rest of the event wakes whoever waits
        }
        let pings = ready!(self.due.as_mut().poll(context));
        self.due = next_ping(pings, Arc::clone(&self.connection));
        Poll::Ready(())
    }
}

/// Ready when the next ping is due.
fn next_ping(
    mut pings: EndPings,
    connection: Arc<Connection>,
) -> Pin<Box<dyn Future<Output = EndPings> + Send>> {
    Box::pin(async move {
        pings.due(&connection).await;
        pings
    })
}

/// An answer's body, with what is held while it goes on.
struct RelayedBody {
    body: Body,
    /// Ready when this process stops: an answer without an end then ends cleanly, and its client comes back.
    stopping: Option<StopFuture>,
    /// Find out whether the client of a stream of events has gone.
    pings: Option<PingsBetween>,
    /// Begins what is ready when the pod has said nothing for too long, and that while it says nothing.
    begin_silence: SilenceMaker,
    silence: Option<StopFuture>,
    /// Whether the answer has no body: its length is what the pod says.
    is_head: bool,
    is_over: bool,
    /// Counts the events of a stream for whoever asked: the pod cannot say beforehand how many there will be.
    counted: Option<(EventCounter, Caller)>,
    _held: Option<QuotaHold>,
    _waits: Option<CountGuard>,
    /// Ends what is still being sent of the request's body.
    _given_up: DropGuard,
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
            let data = frames::data_of(frame.as_ref());
            if let (Some(pings), Some(data)) = (&mut self.pings, data) {
                pings.sent(data);
            }
            if let (Some((counter, caller)), Some(data)) = (&mut self.counted, data) {
                caller.counts(counter.count(data));
            }
            return Poll::Ready(frame);
        }
        if let Some(pings) = &mut self.pings
            && pings.poll_due(context).is_ready()
        {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PING)))));
        }
        // A frozen pod keeps its connections open, and never says anything on them again.
        let this = &mut *self;
        let silence = this.silence.get_or_insert_with(|| (this.begin_silence)());
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
    pub(super) connection: &'a Arc<Connection>,
    /// Begins what is ready when the pod has said nothing for too long.
    pub(super) silence: SilenceMaker,
    /// Marks the connection while a read waits.
    pub(super) waits: Option<CountGuard>,
    /// Ends what is still being sent of the request's body.
    pub(super) given_up: CancellationToken,
}

/// Another pod's answer as this one's. `stopping` ends one without an end.
///
/// # Errors
/// 429 if its caller has too many long answers.
pub(super) fn relayed(
    asked: RelayedFor<'_>,
    answer: Response,
    stopping: &CancellationToken,
) -> Result<Response, Problem> {
    let (mut of_answer, body) = answer.into_parts();
    let is_endless = heads::is_of_type(&of_answer.headers, "text/event-stream");
    let is_lines = heads::is_of_type(&of_answer.headers, "application/x-ndjson");
    let form = match (is_endless, asked.is_read && is_lines) {
        (true, _) => Some(StreamForm::Events),
        (_, true) => Some(StreamForm::Lines),
        _ => None,
    };
    let usage = asked.caller.usage().filter(|_| form.is_some());
    let held = usage.map(Usage::hold_stream).transpose()?;
    let counted = form.filter(|_| usage.is_some()).map(EventCounter::new);
    let stopping = stopping.clone();
    let body = RelayedBody {
        body,
        stopping: is_endless.then(|| Box::pin(stopping.cancelled_owned()) as StopFuture),
        begin_silence: asked.silence,
        silence: None,
        pings: is_endless.then(|| PingsBetween::new(Arc::clone(asked.connection))),
        is_head: asked.is_head,
        is_over: false,
        counted: counted.map(|counter| (counter, asked.caller.clone())),
        _held: held,
        _waits: asked.waits.filter(|_| is_endless),
        _given_up: asked.given_up.drop_guard(),
    };
    of_answer.extensions = Extensions::new();
    // It is rendered already, also if it is a problem.
    of_answer.extensions.insert(OwnBody);
    of_answer.version = axum::http::Version::default();
    Ok(Response::from_parts(of_answer, Body::new(body)))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;
    use tokio::time::sleep;

    use super::*;

    fn relayed_body(body: Body, is_head: bool) -> RelayedBody {
        RelayedBody {
            body,
            stopping: None,
            begin_silence: Box::new(|| Box::pin(sleep(Duration::from_secs(60)))),
            silence: None,
            pings: None,
            is_head,
            is_over: false,
            counted: None,
            _held: None,
            _waits: None,
            _given_up: CancellationToken::new().drop_guard(),
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_client_that_may_have_gone_is_pinged_between_two_events_only() {
        let connection = Arc::new(Connection::default());
        connection.set_may_have_gone();
        let said = stream::iter(["", "data: 1\n", "\n", "data"]).then(async |piece| {
            sleep(Duration::from_millis(500)).await;
            Ok::<_, Infallible>(Bytes::from(piece))
        });
        let mut body = relayed_body(Body::from_stream(said.chain(stream::pending())), false);
        body.pings = Some(PingsBetween::new(connection));
        let mut seen = String::new();
        while let Ok(piece) = body.frame().await.unwrap() {
            seen.push_str(str::from_utf8(&piece.into_data().unwrap()).unwrap());
        }
        assert_eq!(seen, ": ping\n\ndata: 1\n\n: ping\n\ndata");
    }

    #[test]
    fn of_an_answer_without_its_body_nobody_knows_the_length() {
        assert_eq!(relayed_body(Body::empty(), true).size_hint().exact(), None);
        assert_eq!(relayed_body(Body::from("abc"), false).size_hint().exact(), Some(3));
    }
}
