//! Counts of HTTP requests, with handles that are looked up once for each route, method and status.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::RwLock;

use super::names::{HTTP_REQUESTS, HTTP_SECONDS};

/// Counts the requests of one route.
pub struct HttpCounts {
    route: String,
    seconds: OnceLock<Histogram>,
    requests: RwLock<Vec<AnswerCount>>,
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
        Self { route: route.to_owned(), seconds: OnceLock::new(), requests: RwLock::default() }
    }

    /// The route's pattern.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Counts one request, and how long it took. `method` is one of few: each is a label.
    pub fn count(&self, method: &'static str, status: u16, took: Duration) {
        let seconds = self.seconds.get_or_init(|| histogram!(HTTP_SECONDS, "route" => self.route.clone()));
        seconds.record(took);
        let is_it = |count: &&AnswerCount| count.status == status && count.method == method;
        if let Some(known) = self.requests.read().iter().find(is_it) {
            return known.counter.increment(1);
        }
        let labels =
            [("route", self.route.clone()), ("method", method.to_owned()), ("status", status.to_string())];
        let counter = counter!(HTTP_REQUESTS, &labels);
        counter.increment(1);
        // Two that come here at once both keep it: it is the same counter.
        self.requests.write().push(AnswerCount { method, status, counter });
    }
}
