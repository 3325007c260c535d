//! Receives request bodies within limits: on their size, on their pace, and on the memory that they take
//! together.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::FromRequest,
    http::{HeaderMap, Request, header},
};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::{
    task::coop,
    time::{Instant, sleep_until},
};

use super::{
    callers_right::CallersRight,
    code::Code,
    coding::{Coding, DecodeStep, Decoder},
    connection::{Connection, CountGuard},
    error::Problem,
    limits::Limits,
    memory::{Budget, Share},
    pace::Pace,
    scope::{RequestScope, RouteRequest},
    shared_body::SharedBody,
};
use crate::auth::{
    caller::{Caller, CallerEnd},
    quotas::QuotaHold,
};
use contracts::error::{Overload, StorageError};

/// The headers of a request, and its body, which is still to be received.
pub(crate) struct Incoming {
    /// The headers.
    pub headers: HeaderMap,
    /// Whether they are all among `heads::USUAL`.
    pub has_usual_head: bool,
    body: Option<SharedBody>,
    /// The length that the head declares.
    declared: Option<usize>,
    coding: Option<Coding>,
    connection: Arc<Connection>,
    /// Who sends it, and what it holds of the caller's quotas.
    caller: Caller,
    held: Option<QuotaHold>,
}

impl<S: Send + Sync> FromRequest<S> for Incoming {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, _state: &S) -> Result<Self, Problem> {
        Self::of(request.into())
    }
}

impl Incoming {
    /// Of a request that is to be received.
    ///
    /// # Errors
    /// 415 for a coding that is not known, 429 over the caller's quota.
    pub(super) fn of(RouteRequest { parts, scope }: RouteRequest) -> Result<Self, Problem> {
        let RequestScope { connection, caller, head, body, .. } = scope;
        let coding = if head.is_usual { None } else { Coding::of(&parts.headers)? };
        let declared = content_length(&parts.headers);
        let usage = caller.usage().filter(|_| body.is_some());
        let first = declared.unwrap_or(STREAM_BYTES).min(STREAM_BYTES);
        let held = usage.map(|usage| usage.begin_body(first as u64));
        let held = held.transpose()?;
        let headers = parts.headers;
        Ok(Self { headers, has_usual_head: head.is_usual, body, declared, coding, connection, caller, held })
    }

    /// The connection that it arrives on.
    pub(super) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    /// Bytes of the body if its head says that, and whether the client waits for a word before it sends them.
    pub(super) fn announced(&self) -> (Option<usize>, bool) {
        let bytes = self.declared.filter(|_| self.coding.is_none());
        (bytes, self.body.as_ref().is_some_and(SharedBody::is_held_back))
    }

    /// The body in pieces, for a stream. It may take any time, but must not be silent for
    /// `limits.body_idle_secs`.
    pub(super) fn pieces(self, limits: &Limits, budget: &Arc<Budget>) -> BodyPieces {
        let mut pieces = self.at_pace(Pace::of_stream(limits), budget, STREAM_BYTES);
        // At once: a stream that is never waited for is not for ever either.
        if !contracts::mutant("write_outlives_its_right") {
            pieces.right.watch();
        }
        pieces
    }

    /// The whole body, decoded, and its share of the memory for bodies.
    ///
    /// # Errors
    /// 413 over `limits.body_bytes` or `limits.decoded_body_bytes`, 429 over the caller's quota, 503 without
    /// memory, 408 or 400 if it does not arrive, and why the caller's request must end if its right has ended
    /// long before.
    pub(crate) async fn receive(
        mut self,
        limits: &Limits,
        budget: &Arc<Budget>,
    ) -> Result<(Bytes, Share), Problem> {
        let declared = self.declared;
        if declared.is_some_and(|declared| declared > limits.body_bytes) {
            return Err(too_large(limits.body_bytes));
        }
        // What is declared is refused before any of it is read; the rest is counted as it arrives.
        if let (Some(held), Some(declared)) = (&mut self.held, declared) {
            held.grow_to(declared as u64)?;
        }
        let sizes = Sizes {
            // Memory is taken as bytes arrive, whatever length was declared. Without a coding the declared
            // length is also the whole.
            declared: declared.filter(|_| self.coding.is_none()),
            sent: limits.body_bytes,
            decoded: if self.coding.is_some() { limits.decoded_body_bytes } else { limits.body_bytes },
        };
        self.at_pace(Pace::of_whole(limits), budget, usize::MAX).collect(sizes).await
    }

    /// `most_held` is what the body holds of its caller's quota at most, in bytes.
    fn at_pace(self, pace: Pace, budget: &Arc<Budget>, most_held: usize) -> BodyPieces {
        let share = budget.receiving(&self.connection);
        BodyPieces {
            body: self.body,
            decoder: self.coding.map(Decoder::new),
            pace,
            share,
            kept: 0,
            ready: None,
            sent: 0,
            coming: Some(self.connection.body()),
            right: CallersRight::of(self.caller),
            held: self.held,
            most_held,
            not_before: None,
        }
    }
}

/// How large a body is and may be, in bytes.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// The declared length, unless the body is coded.
    declared: Option<usize>,
    /// The most that may be sent.
    sent: usize,
    /// The most that may come out of the decoder.
    decoded: usize,
}

/// What a stream holds of its caller's quota, whatever its length, and what any body holds at first that does
/// not say that it is smaller.
pub(super) const STREAM_BYTES: usize = 64 << 10;
/// The most that is allocated in advance for a body of known length.
const FIRST_BYTES: usize = 256 << 10;

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body is not taken any further. Whoever works on it knows what of it is written; the rest is not.
fn right_ended(end: CallerEnd) -> Problem {
    Problem::from(end).not_written()
}

/// Others need the memory more.
fn others_need_it() -> Problem {
    StorageError::Overloaded { reason: Overload::Slow, retry_after: Duration::from_secs(1) }.into()
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is over the limit of {limit} bytes"))
}

/// A body that arrives in pieces, decoded, and its share of the memory.
pub(super) struct BodyPieces {
    /// What is still to be received of it; `None` for no body.
    body: Option<SharedBody>,
    decoder: Option<Decoder>,
    pace: Pace,
    share: Share,
    /// Bytes of earlier pieces that the caller keeps.
    kept: usize,
    /// A decoded piece that waits for room.
    ready: Option<Bytes>,
    /// Bytes that have arrived, as they were sent.
    sent: usize,
    /// Marks the connection while the client has something to send.
    coming: Option<CountGuard>,
    /// By which it is sent.
    right: CallersRight,
    held: Option<QuotaHold>,
    most_held: usize,
    /// When more is read of a caller that is over its quota of bytes a second, and how long that was to wait.
    not_before: Option<(Instant, Duration)>,
}

impl BodyPieces {
    /// The next piece; `None` at the end. Cancel safe: no piece is lost if the future is dropped.
    ///
    /// # Errors
    /// 408 if the body is too slow, 400 if it breaks off or is not coded as it says, 503 if others need its
    /// memory more, and why the caller's request must end if its right has ended long before.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            if self.decoder.is_some() {
                self.keep(self.kept).await?; // the decoder may have grown
            }
            if let Some(piece) = self.ready.take() {
                return Ok(Some(piece));
            }
            let Some(decoder) = &mut self.decoder else { return self.next_sent().await };
            coop::consume_budget().await; // a few bytes may decode to very many pieces
            let step = decoder.step().map_err(|error| {
                Problem::new(Code::BodyBroken, format!("the body cannot be decoded: {error}"))
            })?;
            match step {
                DecodeStep::Piece(piece) => self.ready = Some(piece),
                DecodeStep::End => return Ok(None),
                DecodeStep::Hungry => {
                    let coded = self.next_sent().await?;
                    if let Some(decoder) = &mut self.decoder {
                        match coded {
                            Some(coded) => decoder.feed(coded),
                            None => decoder.end(),
                        }
                    }
                }
            }
        }
    }

    /// The caller keeps so many bytes of the pieces: takes memory for them, and gives back what is more than
    /// that.
    ///
    /// # Errors
    /// 503 if there is none, 429 over the caller's quota.
    pub(super) async fn keep(&mut self, bytes: usize) -> Result<(), Problem> {
        self.kept = bytes;
        let needed = self.needed();
        if let Some(held) = &mut self.held {
            held.grow_to(needed.min(self.most_held) as u64)?;
        }
        self.share.shrink_to(needed);
        self.share.grow_to(needed).await
    }

    /// What had arrived has been dealt with, and the caller keeps so many bytes of the rest.
    pub(super) fn progressed(&mut self, kept: usize) {
        self.kept = kept;
        self.share.shrink_to(self.needed());
        self.share.touch();
        self.pace.resume(); // the body may have been left unread until now
    }

    fn needed(&self) -> usize {
        self.kept + self.decoder.as_ref().map_or(0, Decoder::held_bytes)
    }

    /// What has arrived so far is complete: a pause here is no fault of the client.
    pub(super) fn at_rest(&mut self) {
        self.share.touch();
    }

    /// The next piece as it was sent.
    async fn next_sent(&mut self) -> Result<Option<Bytes>, Problem> {
        if let Some((not_before, pause)) = self.not_before {
            tokio::select! {
                biased;
                () = sleep_until(not_before) => {}
                () = self.share.given_up().cancelled() => return Err(others_need_it()),
                end = self.right.ended() => return Err(right_ended(end)),
            }
            self.not_before = None;
            self.pace.paused(pause);
        }
        let Some(body) = &mut self.body else {
            self.coming = None;
            return Ok(None);
        };
        if let Some(end) = self.right.has_ended() {
            return Err(right_ended(end));
        }
        let piece = match body.next().now_or_never() {
            Some(piece) => piece,
            None => tokio::select! {
                biased;
                piece = body.next() => piece,
                () = self.share.given_up().cancelled() => return Err(others_need_it()),
                end = self.right.ended() => return Err(right_ended(end)),
                () = sleep_until(self.pace.until()) => {
                    return Err(Problem::new(Code::Timeout, self.pace.too_slow()));
                }
            },
        };
        let piece = piece
            .transpose()
            .map_err(|error| Problem::new(Code::BodyBroken, format!("the body broke off: {error}")))?;
        match &piece {
            Some(piece) => {
                self.pace.received(piece.len());
                self.sent += piece.len();
                let usage = self.right.caller().usage();
                let wait = usage.map(|usage| usage.pace_write(piece.len() as u64));
                let wait = wait.filter(|wait| !wait.is_zero());
                self.not_before = wait.map(|wait| (Instant::now() + wait, wait));
            }
            None => self.coming = None,
        }
        Ok(piece)
    }

    /// All pieces together.
    async fn collect(mut self, sizes: Sizes) -> Result<(Bytes, Share), Problem> {
        let Some(first) = self.next().await? else { return Ok(self.received(Bytes::new())) };
        if sizes.declared == Some(first.len()) {
            self.keep(first.len()).await?;
            return Ok(self.received(first)); // it came in one piece: no copy
        }
        let mut whole = BytesMut::with_capacity(
            sizes.declared.unwrap_or(0).clamp(first.len(), FIRST_BYTES.max(first.len())),
        );
        let mut piece = first;
        loop {
            let length = whole.len() + piece.len();
            if length > sizes.decoded || self.sent > sizes.sent {
                return Err(too_large(if length > sizes.decoded { sizes.decoded } else { sizes.sent }));
            }
            self.keep(length).await?;
            whole.extend_from_slice(&piece);
            match self.next().await? {
                Some(next) => piece = next,
                None => return Ok(self.received(whole.freeze())),
            }
        }
    }

    fn received(mut self, body: Bytes) -> (Bytes, Share) {
        self.share.shrink_to(body.len());
        self.share.settle();
        self.share.keep_until_dropped(self.held);
        (body, self.share)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::http::shared_body::share;

    #[tokio::test(start_paused = true)]
    async fn a_decoded_piece_that_waits_for_room_is_not_lost_with_the_wait() {
        let text = "a line\n".repeat(1000);
        let coded = zstd::encode_all(text.as_bytes(), 1).unwrap();
        let budget = Budget::new(1 << 20, 100, Overload::Memory);
        let connection = Arc::new(Connection::default());
        let incoming = Incoming {
            headers: HeaderMap::new(),
            has_usual_head: false,
            body: share(&mut Request::new(Body::from(coded))),
            declared: None,
            coding: Some(Coding::Zstd),
            connection,
            caller: Caller::anybody(),
            held: None,
        };
        let mut pieces = incoming.pieces(&Limits::default(), &budget);
        let mut other = budget.receiving(&Connection::default());
        // There is room for the decoder as it begins, but not for its window.
        let room = (1 << 20) / 16 * 15;
        other.grow_to(room - Decoder::new(Coding::Zstd).held_bytes()).await.unwrap();
        other.settle();
        for _ in 0..3 {
            assert!(timeout(Duration::from_millis(100), pieces.next()).await.is_err(), "it waits for room");
        }
        drop(other);
        assert_eq!(pieces.next().await.unwrap().unwrap(), text.as_bytes());
        assert!(pieces.next().await.unwrap().is_none());
    }
}
