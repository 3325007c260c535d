//! Requests of clients that are patient where shards get other owners and pods are killed: what cannot have
//! been done, or may be done twice, is asked again.

use std::{
    fmt::{Debug, Display},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use reqwest::{
    Body, Client, Error, IntoUrl, Method, RequestBuilder, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{PATIENCE, known};

/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a pod that begins, or owns a shard anew, may lack S3 or keys before that is the answer.
const OPENING: Duration = Duration::from_secs(20);
/// What it answers that lacks them.
const LACKING: [&str; 2] = ["cold_unavailable", "auth_unavailable"];
/// What is answered while a pod is away, or a shard between two owners.
const PASSING: [&str; 5] = ["no_owner", "log_unavailable", "forward_failed", "demoted", "starting"];
/// Begins what a test says that cannot go on; `tests/pods.py` begins it anew.
const UNDECIDED: &str = "UNDECIDED";

/// What may happen to a server that no test does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// Nothing: what it answers is the answer.
    Nothing,
    /// A shard gets another owner, on a slow machine at any time: some answers say that it has none now.
    Moves,
    /// Pods are killed: there may be no answer, or half of one.
    Kills,
}

/// A client of a server under test. Where something may happen to that, it sends a request again whose answer
/// says that nothing was done and that waiting heals it, or that met no pod; and one that has no such answer
/// if it is one of those that may be done twice. Of another, nobody knows what has become of it, and the test
/// ends undecided.
#[derive(Debug, Clone)]
pub struct TestClient {
    client: Client,
    disturbance: Arc<Mutex<Disturbance>>,
    /// What the server knows it by, where it asks.
    token: Arc<OnceLock<String>>,
}

/// A request of such a client.
#[derive(Debug)]
pub struct TestRequest {
    request: RequestBuilder,
    /// Whether it may be done twice.
    is_repeatable: bool,
    disturbance: Arc<Mutex<Disturbance>>,
    /// What says who sends it, unless the test has said that.
    token: Option<String>,
}

/// What has come of a request.
struct HeardAnswer {
    answer: Result<Response, Error>,
    /// The problem in an answer of 503; null of others.
    problem: Value,
}

/// What a client makes of it.
#[derive(Debug, PartialEq, Eq)]
enum AnswerFate {
    /// It is the answer.
    Settled,
    /// It is the answer if it lasts.
    Opening,
    /// Nothing was done, or it may be done twice.
    Again,
    /// Nobody knows whether it was done.
    Undecided,
}

impl TestClient {
    /// One of a server to which nothing happens.
    pub(super) fn new(client: Client) -> Self {
        Self { client, disturbance: Arc::new(Mutex::new(Disturbance::Nothing)), token: Arc::default() }
    }

    /// Another client of the same server, as patient as this one.
    #[must_use]
    pub fn beside(&self, client: Client) -> Self {
        Self { client, disturbance: Arc::clone(&self.disturbance), token: Arc::clone(&self.token) }
    }

    /// From now on the server asks, and knows it.
    pub(super) fn is_known(&self) {
        if let Some(token) = known::token() {
            self.token.get_or_init(|| token);
        }
    }

    /// Whether the server asks.
    pub(super) fn has_token(&self) -> bool {
        self.token.get().is_some()
    }

    /// Its server has the settings of another one's: it is known there by the same, if by anything.
    pub(super) fn is_known_as(&self, other: &Self) {
        if let Some(token) = other.token.get() {
            self.token.get_or_init(|| token.clone());
        }
    }

    /// From now on this may happen to the server.
    pub(super) fn expects(&self, disturbance: Disturbance) {
        *self.disturbance.lock() = disturbance;
    }

    /// One that is not patient.
    pub(super) fn plain(&self) -> &Client {
        &self.client
    }

    /// A request.
    pub fn request(&self, method: Method, url: impl IntoUrl) -> TestRequest {
        // Of these a second one changes nothing.
        let is_repeatable = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT].contains(&method);
        let request = self.client.request(method, url);
        let (disturbance, token) = (Arc::clone(&self.disturbance), self.token.get().cloned());
        TestRequest { request, is_repeatable, disturbance, token }
    }

    /// GET.
    pub fn get(&self, url: impl IntoUrl) -> TestRequest {
        self.request(Method::GET, url)
    }

    /// POST.
    pub fn post(&self, url: impl IntoUrl) -> TestRequest {
        self.request(Method::POST, url)
    }

    /// PUT.
    pub fn put(&self, url: impl IntoUrl) -> TestRequest {
        self.request(Method::PUT, url)
    }

    /// DELETE.
    pub fn delete(&self, url: impl IntoUrl) -> TestRequest {
        self.request(Method::DELETE, url)
    }
}

impl TestRequest {
    fn with(self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        Self { request: change(self.request), ..self }
    }

    /// The test says who sends it.
    fn of_somebody(self) -> Self {
        Self { token: None, ..self }
    }

    /// With one more header.
    #[must_use]
    pub fn header<N, V>(self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: Debug>,
        V: TryInto<HeaderValue, Error: Debug>,
    {
        let (name, value) = (name.try_into().unwrap(), value.try_into().unwrap());
        let request = if known::names_the_sender(&name) { self.of_somebody() } else { self };
        request.with(|request| request.header(name, value))
    }

    /// With more headers.
    #[must_use]
    pub fn headers(self, headers: HeaderMap) -> Self {
        let request = if headers.keys().any(known::names_the_sender) { self.of_somebody() } else { self };
        request.with(|request| request.headers(headers))
    }

    /// With a token.
    #[must_use]
    pub fn bearer_auth(self, token: impl Display) -> Self {
        self.of_somebody().with(|request| request.bearer_auth(token))
    }

    /// With JSON.
    #[must_use]
    pub fn json(self, json: &Value) -> Self {
        self.with(|request| request.json(json))
    }

    /// With a body.
    #[must_use]
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.with(|request| request.body(body))
    }

    /// With less time than a test has.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|request| request.timeout(timeout))
    }

    /// Sends it, and sends it again as far as a client may where something happens to the server.
    ///
    /// # Errors
    /// As reqwest has them.
    pub async fn send(mut self) -> Result<Response, Error> {
        if let Some(token) = self.token.take() {
            self = self.with(|request| request.bearer_auth(token));
        }
        let expected = *self.disturbance.lock();
        match expected {
            Disturbance::Nothing => self.request.send().await,
            Disturbance::Moves | Disturbance::Kills => Box::pin(self.send_patiently(expected)).await,
        }
    }

    async fn send_patiently(self, expected: Disturbance) -> Result<Response, Error> {
        let Self { mut request, is_repeatable, disturbance, .. } = self;
        let began = Instant::now();
        loop {
            // There is none of a body that is made while it is sent.
            let again = request.try_clone();
            let heard = HeardAnswer::of(request.send().await, expected).await;
            // What is said once the test itself has ended the server is what it waits for.
            let is_over = *disturbance.lock() == Disturbance::Nothing || began.elapsed() > PATIENCE;
            match (heard.fate(is_repeatable, expected), again) {
                _ if is_over => return heard.answer,
                (AnswerFate::Settled, _) => return heard.answer,
                (AnswerFate::Opening, _) if began.elapsed() > OPENING => return heard.answer,
                (AnswerFate::Opening | AnswerFate::Again, Some(again)) => request = again,
                _ => panic!("{UNDECIDED}: nobody knows what was done: {:?} {}", heard.answer, heard.problem),
            }
            sleep(PAUSE).await;
        }
    }
}

impl HeardAnswer {
    /// Reads an answer to its end, if it may break off and has an end, or may say that a shard has no owner.
    async fn of(answer: Result<Response, Error>, expected: Disturbance) -> Self {
        match Self::whole(answer, expected).await {
            Ok(heard) => heard,
            Err(error) => Self { answer: Err(error), problem: Value::Null },
        }
    }

    async fn whole(answer: Result<Response, Error>, expected: Disturbance) -> Result<Self, Error> {
        let answer = answer?;
        let is_away = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
        let content_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_endless = content_type.is_some_and(|value| value.starts_with("text/event-stream"));
        if !is_away && (is_endless || expected != Disturbance::Kills) {
            return Ok(Self { answer: Ok(answer), problem: Value::Null });
        }
        let (parts, body) = hyper::Response::<Body>::from(answer).into_parts();
        let body: Bytes = body.collect().await?.to_bytes();
        let problem = if is_away { problem_in(&body) } else { Value::Null };
        Ok(Self { answer: Ok(hyper::Response::from_parts(parts, body).into()), problem })
    }

    fn fate(&self, is_repeatable: bool, expected: Disturbance) -> AnswerFate {
        match &self.answer {
            Ok(_) => problem_fate(&self.problem, is_repeatable),
            Err(_) if expected != Disturbance::Kills => AnswerFate::Settled,
            // The test's own time is over, or its request is none.
            Err(error) if error.is_timeout() || error.is_builder() => AnswerFate::Settled,
            Err(error) if is_repeatable || error.is_connect() => AnswerFate::Again,
            Err(_) => AnswerFate::Undecided,
        }
    }
}

/// The problem that an answer is. Pages name its code only.
fn problem_in(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let page = String::from_utf8_lossy(body);
        let code = page.split_once("<code>").and_then(|(_, rest)| rest.split_once("</code>"));
        code.map_or(Value::Null, |(code, _)| json!({ "code": code }))
    })
}

/// What a client makes of a problem that a request met which may be done twice, or not.
fn problem_fate(problem: &Value, is_repeatable: bool) -> AnswerFate {
    let code = problem["code"].as_str().unwrap_or_default();
    let may_be_sent = is_repeatable || problem["outcome"] == "not_written";
    if LACKING.contains(&code) && may_be_sent {
        AnswerFate::Opening
    } else if !PASSING.contains(&code) {
        AnswerFate::Settled
    } else if may_be_sent {
        AnswerFate::Again
    } else {
        AnswerFate::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_its_problem_too() {
        let page =
            b"<p>no copy owns it</p><p>Code <a href=\"/docs/errors#no_owner\"><code>no_owner</code></a></p>";
        assert_eq!(problem_in(page), json!({"code": "no_owner"}));
        assert_eq!(problem_in(b"{\"code\": \"x\"}")["code"], "x");
        assert_eq!(problem_in(b"<html>"), Value::Null);
    }

    #[test]
    fn what_may_have_been_done_is_asked_again_only_if_it_may_be_done_twice() {
        for (code, outcome, if_repeatable, if_not) in [
            ("no_owner", "not_written", AnswerFate::Again, AnswerFate::Again),
            ("demoted", "unknown", AnswerFate::Again, AnswerFate::Undecided),
            ("forward_failed", "", AnswerFate::Again, AnswerFate::Undecided),
            ("cold_unavailable", "not_written", AnswerFate::Opening, AnswerFate::Opening),
            ("cold_unavailable", "unknown", AnswerFate::Opening, AnswerFate::Settled),
            ("overloaded", "not_written", AnswerFate::Settled, AnswerFate::Settled),
            ("write_failed", "unknown", AnswerFate::Settled, AnswerFate::Settled),
            ("", "", AnswerFate::Settled, AnswerFate::Settled),
        ] {
            let problem = json!({"code": code, "outcome": outcome});
            assert_eq!(problem_fate(&problem, true), if_repeatable, "{problem}");
            assert_eq!(problem_fate(&problem, false), if_not, "{problem}");
        }
    }
}
