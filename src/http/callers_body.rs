//! The body of an answer that takes long: it ends when its caller's right ends, and keeps to its caller's
//! quota.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use super::{connection::Connection, frames, heads, pause::Pause};
use crate::auth::{
    caller::{Caller, CallerEnd},
    quotas::Usage,
};

/// Ends an answer with its caller's right, unless it has a known length: then it is made already. Server-sent
/// events end cleanly, as their client comes back; anything else is cut off, as a clean end would pass for
/// the whole. `ends_with` is the connection that has to end with an answer that is cut off: with HTTP/1 only.
pub(super) fn limit(response: Response, caller: &Caller, ends_with: Option<Arc<Connection>>) -> Response {
    let Some(usage) = caller.usage() else { return response };
    if let Some(length) = response.body().size_hint().exact() {
        usage.pace_read(length); // the next answers wait for it
        return response;
    }
    let is_events = heads::is_of_type(response.headers(), "text/event-stream");
    let ends_clean = is_events || contracts::mutant("cut_by_a_reset");
    let (usage, caller) = (Arc::clone(usage), caller.clone());
    let end: EndFuture = Box::pin(async move { caller.ended().await });
    response.map(|body| {
        Body::new(CallersBody { body, end: Some(end), ends_clean, ends_with, usage, pause: Pause::default() })
    })
}

/// Ready when a caller's right ends.
type EndFuture = Pin<Box<dyn Future<Output = CallerEnd> + Send>>;

struct CallersBody {
    body: Body,
    /// `None` once the right has ended.
    end: Option<EndFuture>,
    ends_clean: bool,
    ends_with: Option<Arc<Connection>>,
    usage: Arc<Usage>,
    /// Until more may be sent.
    pause: Pause,
}

impl CallersBody {
    /// The end of the answer, as its caller's right has ended.
    fn ended(&mut self, end: CallerEnd) -> Option<Result<Frame<Bytes>, axum::Error>> {
        self.end = None;
        if self.ends_clean {
            return None;
        }
        if let Some(connection) = &self.ends_with {
            connection.set_unfinished(true); // with a reset
        }
        Some(Err(axum::Error::new(end)))
    }
}

impl HttpBody for CallersBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        if !contracts::mutant("streams_end")
            && let Poll::Ready(end) = end.as_mut().poll(context)
        {
            return Poll::Ready(self.ended(end));
        }
        ready!(self.pause.poll_over(context));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frames::data_of(frame.as_ref()) {
            let wait = self.usage.pace_read(data.len() as u64);
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
