//! A connection that gives up on a client which sends no request, reads nothing of its answer, or stays idle
//! for too long. When it cuts an answer off, it resets the connection, so that the part never passes for the
//! whole.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::stream::ClientStream;
use crate::http::connection::Connection;

/// What an HTTP/2 connection begins with.
const HTTP2: &[u8] = b"PRI ";

/// How long a client may take for each thing that it is expected to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientTimeouts {
    /// To send a request's head, from its first byte, or from the beginning of the connection.
    pub(super) head: Duration,
    /// To begin another request.
    pub(super) idle: Duration,
    /// To read something of its answer.
    pub(super) stall: Duration,
}

/// What the client is expected to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// To begin its first request by then.
    First(Instant),
    /// To begin another request.
    Next,
    /// To end the head that it has begun by then.
    Head(Instant),
}

/// The guarded connection.
pub(super) struct Guard {
    stream: ClientStream,
    connection: Arc<Connection>,
    timeouts: ClientTimeouts,
    expected: Expected,
    /// How many requests had begun at the last look.
    begun: usize,
    is_http2: bool,
    timer: Pin<Box<Sleep>>,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    /// A write has failed or was given up: bytes that were handed over may not have been sent.
    is_broken: bool,
}

impl Guard {
    pub(super) fn new(stream: ClientStream, connection: Arc<Connection>, timeouts: ClientTimeouts) -> Self {
        Self {
            stream,
            connection,
            timeouts,
            expected: Expected::First(Instant::now() + timeouts.head),
            begun: 0,
            is_http2: false,
            timer: Box::pin(sleep(timeouts.head)),
            stalled: None,
            is_broken: false,
        }
    }

    /// Takes note of received bytes, and of what the client is expected to do next.
    fn heard(&mut self, bytes: &[u8]) {
        self.connection.set_listening(false);
        self.progressed();
        if matches!(self.expected, Expected::First(_)) && bytes.starts_with(HTTP2) {
            self.is_http2 = true;
        }
        self.look();
        if self.connection.is_busy() || self.is_http2 {
            // These bytes belong to requests in progress; the next head is only expected after them.
            self.expected = Expected::Next;
        } else if !matches!(self.expected, Expected::Head(_)) {
            self.expected = Expected::Head(Instant::now() + self.timeouts.head);
        }
    }

    /// Takes note of progress in either direction. On an HTTP/2 connection without a request nothing counts
    /// as progress: pings would keep it open for ever.
    fn progressed(&self) {
        if !self.is_http2 || self.connection.is_busy() {
            self.connection.progressed();
        }
    }

    /// Stops waiting for a head that has become a request.
    fn look(&mut self) {
        let begun = self.connection.begun();
        if begun != self.begun {
            self.begun = begun;
            self.expected = Expected::Next;
        }
    }

    /// Ready once the client has taken too long to send a request.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        self.look();
        if self.connection.poll_idle(context).is_pending() {
            return Poll::Pending;
        }
        self.connection.set_listening(true);
        let (now, still) = (Instant::now(), Duration::from_millis(self.connection.still_for_ms()));
        let until = match self.expected {
            Expected::First(until) | Expected::Head(until) => until,
            Expected::Next => now + self.timeouts.idle.saturating_sub(still),
        };
        // A timer that is reset to the current time on each poll would never fire, so a time that has passed
        // needs none. One that fires too early is set again: each request moves the time, and should not have
        // to move the timer.
        if until > now {
            if self.timer.deadline() > until {
                self.timer.as_mut().reset(until);
            }
            ready!(self.timer.as_mut().poll(context));
            if self.timer.deadline() != until {
                self.timer.as_mut().reset(until);
                ready!(self.timer.as_mut().poll(context));
            }
        }
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client sent no request in time"))
    }

    /// Notices whether a client that waits for an event has gone. hyper reads nothing meanwhile, as one that has
    /// said that it sends nothing more still gets its answer; but one that has reset its connection wants none,
    /// and must not keep a place that others need. One that has sent more may have gone, too: TLS says goodbye
    /// first. HTTP/2 is read all the time.
    fn notice_the_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.is_http2 || !self.connection.is_waiting() || contracts::mutant("gone_is_noticed") {
            return Ok(());
        }
        match self.stream.socket().poll_peek(context, &mut ReadBuf::new(&mut [0])) {
            Poll::Ready(Ok(_)) => self.connection.set_may_have_gone(),
            Poll::Ready(Err(error)) => {
                self.is_broken = true;
                return Err(error);
            }
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Passes on a write's progress; fails if there has been none for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(written) = progress {
            self.is_broken |= written.is_err();
            if self.stalled.take().is_some() {
                self.connection.set_stalled(false);
            }
            self.progressed();
            return Poll::Ready(written);
        }
        if self.stalled.is_none() {
            self.connection.set_stalled(true);
        }
        let stall = self.timeouts.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall)));
        ready!(timer.as_mut().poll(context));
        self.is_broken = true;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing of its answer")))
    }

    /// The same for a flush or a shutdown, which wait for the client where TLS holds bytes that were written.
    /// One that has nothing to wait for says nothing of the client.
    fn watch_rest(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        match progress {
            Poll::Ready(Ok(())) if self.stalled.is_none() => progress,
            progress => self.watch(context, progress),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // An HTTP/1.0 answer ends where its connection ends, so a connection with an incomplete one must end
        // with a reset: a clean end would pass for the end of the answer.
        let is_cut = self.connection.must_not_end_cleanly() || self.is_broken || self.stalled.is_some();
        if is_cut && let Err(error) = self.stream.socket().set_zero_linger() {
            tracing::debug!(%error, "a connection cannot be reset");
        }
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            if buffer.filled().len() > before {
                self.heard(&buffer.filled()[before..]);
            }
            return Poll::Ready(read);
        }
        let silence = ready!(self.poll_silence(context));
        Poll::Ready(Err(silence))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.notice_the_end(context)?;
        let progress = Pin::new(&mut self.stream).poll_flush(context);
        self.watch_rest(context, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.must_not_end_cleanly() {
            return Poll::Ready(Ok(())); // reset instead: see `drop`
        }
        let progress = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch_rest(context, progress)
    }
}
