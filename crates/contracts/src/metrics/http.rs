//! Counts of HTTP requests, with handles that are looked up once for each route, method and status.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Histogram, counter, histogram};

use super::names::{HTTP_REQUESTS, HTTP_SECONDS};

/// Methods and statuses of one route whose handles are kept. Few have as many; the others are looked up.
const MOST_KEPT: usize = 16;

/// Counts the requests of one route.
pub struct HttpCounts {
    route: String,
    seconds: OnceLock<Histogram>,
    /// In the order in which they came first, so what comes often stands in front. Each place is filled once:
    /// a lock, for reading only too, would be one more place that all requests write to.
    answers: [OnceLock<AnswerCount>; MOST_KEPT],
}

/// The counter of one method and status.
struct AnswerCount {
    method: &'static str,
    status: u16,
    counter: Counter,
}

impl HttpCounts {
    /// For the route with this pattern, never a path.
    pub fn new(route: &str) -> Self {
        Self { route: route.to_owned(), seconds: OnceLock::new(), answers: Default::default() }
    }

    /// The route's pattern.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Counts one request, and how long it took. `method` is one of few: each is a label.
    pub fn count(&self, method: &'static str, status: u16, took: Duration) {
        let seconds = self.seconds.get_or_init(|| histogram!(HTTP_SECONDS, "route" => self.route.clone()));
        seconds.record(took);
        for place in &self.answers {
            // Another may have filled it meanwhile: then this one goes on to the next.
            let kept = place.get_or_init(|| {
                let counter = self.counter(method, status);
                AnswerCount { method, status, counter }
            });
            if kept.status == status && kept.method == method {
                return kept.counter.increment(1);
            }
        }
        self.counter(method, status).increment(1);
    }

    fn counter(&self, method: &'static str, status: u16) -> Counter {
        let labels =
            [("route", self.route.clone()), ("method", method.to_owned()), ("status", status.to_string())];
        counter!(HTTP_REQUESTS, &labels)
    }
}
