//! Ends an upload when its caller's right ends: whoever receives the body, here or on the way to another pod,
//! looks here.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use crate::auth::caller::{Caller, CallerEnd};

/// The right by which a request was let in. It is watched from the first time on that somebody waits for its
/// end: that takes a timer, and most bodies are there. One that cannot end is never watched.
pub(super) struct CallersRight {
    caller: Caller,
    watch: RightWatch,
}

/// How its end is looked for.
enum RightWatch {
    /// Not yet.
    NotBegun,
    /// Ready when it has ended, and what has begun by it has taken as long as it may.
    Waits(Pin<Box<dyn Future<Output = CallerEnd> + Send>>),
    /// It has ended. Boxed, as all that take a body have room for it.
    Over(Box<CallerEnd>),
}

impl CallersRight {
    /// Of a caller.
    pub(super) fn of(caller: Caller) -> Self {
        Self { caller, watch: RightWatch::NotBegun }
    }

    /// Whose it is.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Watches it from now on.
    pub(super) fn watch(&mut self) {
        if matches!(self.watch, RightWatch::NotBegun) && self.caller.can_end() {
            let caller = self.caller.clone();
            self.watch = RightWatch::Waits(Box::pin(async move { caller.given_up().await }));
        }
    }

    /// Ready once what has begun by it is to be given up. Watches it.
    pub(super) fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<CallerEnd> {
        self.watch();
        self.poll_watched(context)
    }

    /// Waits until what has begun by it is to be given up. Watches it. Cancel safe.
    pub(super) async fn ended(&mut self) -> CallerEnd {
        poll_fn(|context| self.poll_ended(context)).await
    }

    /// Why what has begun by it is to be given up, if it is watched and has come to that.
    pub(super) fn has_ended(&mut self) -> Option<CallerEnd> {
        match self.poll_watched(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        }
    }

    fn poll_watched(&mut self, context: &mut Context<'_>) -> Poll<CallerEnd> {
        match &mut self.watch {
            RightWatch::NotBegun => Poll::Pending,
            RightWatch::Waits(ends) => {
                let end = ready!(ends.as_mut().poll(context));
                self.watch = RightWatch::Over(Box::new(end.clone()));
                Poll::Ready(end)
            }
            RightWatch::Over(end) => Poll::Ready(CallerEnd::clone(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::auth::{
        gate::tests::gate,
        policy::{Policy, Resource},
        principal::Principal,
        verb::Verb,
    };
    use contracts::name::TableName;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn a_right_that_cannot_end_is_never_watched() {
        for caller in [Caller::anybody(), Caller::default()] {
            let mut right = CallersRight::of(caller);
            right.watch();
            assert!(timeout(LONG, right.ended()).await.is_err());
            assert!(right.has_ended().is_none() && matches!(right.watch, RightWatch::NotBegun));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_is_watched_once_somebody_waits_and_its_end_stays() {
        let policy =
            "version: 1\nbindings:\n- {subjects: [\"token:ci\"], role: producer, tables: [orders]}\n";
        let gate = gate(policy);
        let caller = Caller::passed_on(&gate, Principal::Token("ci".to_owned()), Verb::Append);
        caller.allow(Resource::Table(&TableName::parse("orders").unwrap())).unwrap();
        let mut right = CallersRight::of(caller);
        assert!(right.has_ended().is_none() && matches!(right.watch, RightWatch::NotBegun));
        assert!(timeout(LONG, right.ended()).await.is_err(), "it has not ended");
        gate.adopt_policy(Policy::parse("version: 1\nbindings: []\n").unwrap());
        let taken_back = Instant::now();
        let end = right.ended().await;
        assert_eq!(taken_back.elapsed().as_secs(), 300, "what has begun may finish");
        assert_eq!(right.has_ended(), Some(end.clone()));
        assert_eq!(right.ended().await, end);
    }
}
