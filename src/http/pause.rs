//! Waits between the pieces of a body that goes at the rate of its caller's quota.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// The wait until the next piece, if there is one.
#[derive(Default)]
pub(super) struct Pause(Option<Pin<Box<Sleep>>>);

impl Pause {
    /// Ready once it is over.
    pub(super) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(sleep) = &mut self.0 {
            ready!(sleep.as_mut().poll(context));
            self.0 = None;
        }
        Poll::Ready(())
    }

    /// Begins anew, for so long.
    pub(super) fn begin(&mut self, wait: Duration) {
        self.0 = (!wait.is_zero()).then(|| Box::pin(sleep(wait)));
    }
}
