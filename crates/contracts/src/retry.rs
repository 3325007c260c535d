//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// Waits that double from the first to the longest.
#[derive(Debug, Clone, Copy)]
pub struct RetryWait {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl RetryWait {
    /// The next wait is the first one.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The wait that is due, before which something has failed once more.
    pub fn failed(&mut self) -> Duration {
        let wait = self.next;
        self.next = self.longest.min(wait * 2);
        wait
    }

    /// Begins again with the first wait.
    pub fn succeeded(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let mut wait = RetryWait::new(Duration::from_millis(200), Duration::from_millis(500));
        assert_eq!(
            [wait.failed(), wait.failed(), wait.failed()].map(|wait| wait.as_millis()),
            [200, 400, 500]
        );
        wait.succeeded();
        assert_eq!(wait.failed().as_millis(), 200);
    }
}
