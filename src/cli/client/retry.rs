//! Whether a request is sent again, and when.

use std::time::Duration;

use tokio::time::Instant;

use super::{ClientError, request::Repeat};
use crate::cli::output::StatusLine;

/// The first pause before a request is sent again; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer, unless the server asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a request is sent that the server fails at with 500: a bug does not go away.
const INTERNAL_ERRORS: u32 = 3;

/// The pause after so many failures in a row.
pub(super) fn pause_after(failed: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failed.min(10)).min(LONGEST_PAUSE)
}

/// How long a command waits for a server that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Patience {
    /// How long one attempt may take.
    pub(in crate::cli) attempt: Duration,
    /// Until the server answers for the first time; with zero an address where nobody listens is an error at
    /// once.
    first: Duration,
    /// Until it answers again; for ever if there is none.
    later: Option<Duration>,
}

impl Patience {
    /// Of a command that asks something: the address may be wrong, so it is told at once.
    pub(in crate::cli) fn asking(timeout: Duration) -> Self {
        Self { attempt: timeout, first: Duration::ZERO, later: Some(timeout) }
    }

    /// Of a command whose work goes on once the server is back, for as long as `timeout` says.
    pub(in crate::cli) fn working(timeout: Option<Duration>, usual: Duration) -> Self {
        let attempt = timeout.unwrap_or(usual);
        Self { attempt, first: attempt, later: timeout }
    }

    /// How long it lasts.
    fn limit(self, has_answered: bool) -> Option<Duration> {
        if has_answered { self.later } else { Some(self.first) }
    }
}

/// What has become of a request so far.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Patience,
    repeat: Repeat,
    began: Instant,
    failed: u32,
    internal: u32,
}

impl Retry {
    pub(super) fn new(patience: Patience, repeat: Repeat) -> Self {
        Self { patience, repeat, began: Instant::now(), failed: 0, internal: 0 }
    }

    /// How long to wait after this failure before the request is sent again; none if it is not.
    pub(super) fn pause(&mut self, error: &ClientError, has_answered: bool) -> Option<Duration> {
        if !self.may_repeat(error) {
            return None;
        }
        let doubled = pause_after(self.failed);
        // So that many clients do not come back all at once.
        let pause = doubled.mul_f64(0.5 + 0.5 * fastrand::f64());
        let pause =
            error.refusal().and_then(|refusal| refusal.retry_after).map_or(pause, |after| after.max(pause));
        self.failed += 1;
        match self.patience.limit(has_answered) {
            Some(limit) if self.began.elapsed() + pause > limit => None,
            _ => Some(pause),
        }
    }

    fn may_repeat(&mut self, error: &ClientError) -> bool {
        match error {
            ClientError::Unreachable { .. } => self.repeat == Repeat::Always,
            ClientError::Refused(refusal) => {
                let is_internal = refusal.status.as_u16() == 500;
                self.internal += u32::from(is_internal);
                let may = match self.repeat {
                    Repeat::Always => true,
                    Repeat::IfNotDone => refusal.is_not_done(),
                    Repeat::Never => false,
                };
                may && refusal.is_passing() && self.internal < INTERNAL_ERRORS
            }
            ClientError::Strange { .. } | ClientError::Token(_) => false,
        }
    }

    /// Says that it is tried again, once for all failures of a request.
    pub(super) fn say(&self, status: &StatusLine, error: &ClientError) {
        if self.failed == 1 {
            status.note(&format!("{error}; trying again"));
        }
    }

    /// Says that it went well in the end.
    pub(super) fn succeeded(&self, status: &StatusLine) {
        if self.failed > 0 {
            status
                .note(&format!("the server answers again after {:.1} s", self.began.elapsed().as_secs_f64()));
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::{
        StatusCode,
        header::{HeaderMap, HeaderValue, RETRY_AFTER},
    };

    use super::{super::refusal::Refusal, *};

    fn unreachable() -> ClientError {
        ClientError::Unreachable { server: "z".to_owned(), why: "it broke off".to_owned() }
    }

    fn refused(status: u16, body: &str) -> ClientError {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        let status = StatusCode::from_u16(status).unwrap();
        ClientError::Refused(Box::new(Refusal::read(status, &headers, body.as_bytes())))
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_patience_ends() {
        let mut retry = Retry::new(Patience::asking(Duration::from_secs(60)), Repeat::Always);
        let mut longest = Duration::ZERO;
        let mut pauses = 0;
        while let Some(pause) = retry.pause(&unreachable(), true) {
            assert!(pause <= LONGEST_PAUSE && pause >= FIRST_PAUSE / 2);
            longest = longest.max(pause);
            pauses += 1;
            tokio::time::sleep(pause).await;
        }
        assert!((12..40).contains(&pauses) && longest > LONGEST_PAUSE / 2, "{pauses} {longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answered_is_given_up_at_once_by_who_only_asks() {
        let timeout = Duration::from_secs(30);
        for (patience, has_answered, goes_on) in [
            (Patience::asking(timeout), false, false),
            (Patience::asking(timeout), true, true),
            (Patience::working(None, timeout), false, true),
        ] {
            let mut retry = Retry::new(patience, Repeat::Always);
            assert_eq!(retry.pause(&unreachable(), has_answered).is_some(), goes_on, "{patience:?}");
        }
        // Work goes on for ever, unless somebody says how long.
        let day = Duration::from_secs(86_400);
        for (given, goes_on) in [(None, true), (Some(timeout), false)] {
            let mut retry = Retry::new(Patience::working(given, timeout), Repeat::Always);
            tokio::time::sleep(day).await;
            assert_eq!(retry.pause(&unreachable(), true).is_some(), goes_on, "{given:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_asks_for_is_waited() {
        let mut retry = Retry::new(Patience::asking(Duration::from_secs(10)), Repeat::Always);
        assert_eq!(retry.pause(&refused(503, "{}"), true), Some(Duration::from_secs(7)));
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(retry.pause(&refused(503, "{}"), true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_be_repeated_is_repeated() {
        let may = |repeat, error: &ClientError| {
            Retry::new(Patience::asking(Duration::from_secs(60)), repeat).pause(error, true).is_some()
        };
        let (done, not_done) = (r#"{"outcome":"unknown"}"#, r#"{"outcome":"not_written"}"#);
        for (repeat, of_unreachable, of_unknown, of_not_written) in [
            (Repeat::Always, true, true, true),
            (Repeat::IfNotDone, false, false, true),
            (Repeat::Never, false, false, false),
        ] {
            assert_eq!(may(repeat, &unreachable()), of_unreachable, "{repeat:?}");
            assert_eq!(may(repeat, &refused(503, done)), of_unknown, "{repeat:?}");
            assert_eq!(may(repeat, &refused(503, not_done)), of_not_written, "{repeat:?}");
            assert!(!may(repeat, &refused(422, not_done)));
        }
        let mut retry = Retry::new(Patience::asking(Duration::from_secs(600)), Repeat::Always);
        let times = (0..10).take_while(|_| retry.pause(&refused(500, "{}"), true).is_some()).count();
        assert_eq!(times, 2);
    }
}
