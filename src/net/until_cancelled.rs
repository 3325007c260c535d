//! Waits for a token at little cost: a connection is polled for every piece of every request, and a token is
//! cancelled once.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Ready once the token is cancelled. It waits in the token's list only once for each waker, and otherwise
/// just looks.
pub(super) struct UntilCancelled<'a> {
    token: &'a CancellationToken,
    waiting: Pin<Box<WaitForCancellationFuture<'a>>>,
    waker: Option<Waker>,
}

impl<'a> UntilCancelled<'a> {
    pub(super) fn new(token: &'a CancellationToken) -> Self {
        Self { token, waiting: Box::pin(token.cancelled()), waker: None }
    }
}

impl Future for UntilCancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            return if self.token.is_cancelled() { Poll::Ready(()) } else { Poll::Pending };
        }
        self.waker = Some(context.waker().clone());
        self.waiting.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_ends_the_wait_however_often_it_was_polled() {
        let token = CancellationToken::new();
        let mut ended = UntilCancelled::new(&token);
        for _ in 0..3 {
            assert!(timeout(Duration::from_secs(1), &mut ended).await.is_err());
        }
        let waiting = async { timeout(Duration::from_secs(9), ended).await };
        let cancelling = async {
            sleep(Duration::from_secs(1)).await;
            token.cancel();
        };
        assert!(tokio::join!(waiting, cancelling).0.is_ok());
    }
}
