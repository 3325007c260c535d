//! How slowly a body may arrive, so that no client is waited for without end.

use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;

/// The least rate must be kept in each window of this length.
const WINDOW: Duration = Duration::from_secs(10);

/// The pace of one body.
#[derive(Debug)]
pub(super) struct Pace {
    idle: Duration,
    /// How long the whole body may take.
    whole: Duration,
    /// The bytes that must arrive in each window.
    least_bytes: u64,
    /// When something last arrived.
    last: Instant,
    /// What is asked of a body that is received whole.
    work: Option<WholeBodyPace>,
}

#[derive(Debug, Clone, Copy)]
struct WholeBodyPace {
    until: Instant,
    window_end: Instant,
    window_bytes: u64,
}

impl Pace {
    /// The pace of a body that is received whole.
    pub(super) fn of_whole(limits: &Limits) -> Self {
        let mut pace = Self::of_stream(limits);
        let now = pace.last;
        pace.work =
            Some(WholeBodyPace { until: now + pace.whole, window_end: now + WINDOW, window_bytes: 0 });
        pace
    }

    /// The pace of a stream. It may take any time, but must not be silent for too long.
    pub(super) fn of_stream(limits: &Limits) -> Self {
        Self {
            idle: limits.body_idle_secs.duration(),
            whole: limits.body_secs.duration(),
            least_bytes: limits.body_min_bytes_per_sec.saturating_mul(WINDOW.as_secs()),
            last: Instant::now(),
            work: None,
        }
    }

    /// The body is read again: until now its silence was not its client's fault.
    pub(super) fn resume(&mut self) {
        self.last = Instant::now();
    }

    /// Nothing was read for so long, which was not its client's fault.
    pub(super) fn paused(&mut self, pause: Duration) {
        self.resume();
        if let Some(work) = &mut self.work {
            work.until += pause;
            work.window_end += pause;
        }
    }

    /// So many bytes have arrived.
    pub(super) fn received(&mut self, bytes: usize) {
        self.last = Instant::now();
        if let Some(work) = &mut self.work {
            if self.last >= work.window_end && work.window_bytes >= self.least_bytes {
                work.window_end += WINDOW;
                work.window_bytes = 0;
            }
            work.window_bytes += bytes as u64;
        }
    }

    /// When it will be too slow if nothing arrives until then.
    pub(super) fn until(&self) -> Instant {
        let idle = self.last + self.idle;
        let Some(work) = self.work else { return idle };
        idle.min(work.until).min(self.window_limit(&work))
    }

    /// A window that has had enough ends with the next one.
    fn window_limit(&self, work: &WholeBodyPace) -> Instant {
        if work.window_bytes >= self.least_bytes { work.window_end + WINDOW } else { work.window_end }
    }

    /// Why it is too slow now.
    pub(super) fn too_slow(&self) -> String {
        match self.work {
            Some(work) if self.until() == work.until => {
                format!("the body took longer than {} s, limits.body_secs", self.whole.as_secs())
            }
            Some(work) if self.until() == self.window_limit(&work) => {
                let rate = self.least_bytes / WINDOW.as_secs();
                let secs = WINDOW.as_secs();
                format!(
                    "the body arrived slower than {rate} bytes a second, limits.body_min_bytes_per_sec, for \
                     {secs} s"
                )
            }
            _ => format!("nothing of the body arrived for {} s, limits.body_idle_secs", self.idle.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Sends so many bytes every so often. Returns when that was too slow, and why.
    async fn send(mut pace: Pace, bytes: usize, every: Duration) -> (u64, String) {
        let began = Instant::now();
        loop {
            let next = Instant::now() + every;
            if pace.until() <= next {
                return ((pace.until() - began).as_secs(), pace.too_slow());
            }
            advance(every).await;
            pace.received(bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_ends_soon_and_one_at_the_least_rate_when_its_time_is_up() {
        let limits = Limits::default();
        let secs = Duration::from_secs;
        let (after, why) = send(Pace::of_whole(&limits), 1, secs(25)).await;
        assert!(after == 10 && why.contains("body_min_bytes_per_sec"), "{after} {why}");
        let (after, why) = send(Pace::of_whole(&limits), 9000, secs(9)).await;
        assert!(after == 10 && why.contains("body_min_bytes_per_sec"), "{after} {why}");
        let (after, why) = send(Pace::of_whole(&limits), 1200, secs(1)).await;
        assert!(after == 300 && why.contains("body_secs"), "{after} {why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_we_have_made_does_not_count() {
        let mut pace = Pace::of_whole(&Limits::default());
        for _ in 0..10 {
            pace.received(20_000);
            advance(Duration::from_secs(100)).await;
            pace.paused(Duration::from_secs(100));
            assert!(pace.until() > Instant::now(), "{}", pace.too_slow());
        }
        assert!(pace.until() <= Instant::now() + Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_may_rest_but_not_be_silent() {
        let mut pace = Pace::of_stream(&Limits::default());
        for _ in 0..100 {
            advance(Duration::from_secs(29)).await;
            assert!(pace.until() > Instant::now());
            pace.received(1);
        }
        assert!(pace.too_slow().contains("body_idle_secs"));
        advance(Duration::from_secs(29)).await;
        pace.resume();
        assert_eq!(pace.until() - Instant::now(), Duration::from_secs(30));
    }
}
